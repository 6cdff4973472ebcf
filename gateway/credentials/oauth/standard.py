"""A provider that follows RFC 6749: client credentials (§4.4) and refresh tokens (§6), for any that the operator names.

The secret of `client_secret` is just that. The secret of `refresh_token` is the refresh token as plain text, or, for a
client that has a secret too, a JSON object `{"refresh_token": …, "client_secret": …}`.

A provider may answer with another refresh token (§6). It is kept in memory under the one it stands for, and used next;
nobody else is told it. After a restart the one of the profile is used again: where the provider took it back meanwhile,
a person has to sign in anew and save the new one, so such a provider had better not rotate them. One that is refused
is forgotten, so that the next attempt is made with the profile's own.
"""

from base64 import b64encode
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote_plus

from gateway.credentials.oauth.answer import STANDARD, Meanings, error_of, issued, members, refusal
from gateway.credentials.oauth.endpoint import Endpoint
from gateway.credentials.oauth.source import Grant, needed, needed_secret, unknown_grant
from gateway.credentials.provider import CredentialError, Fetched, Kind
from gateway.credentials.providers.rest import read_object, wrapped
from gateway.credentials.secret import Secret

MOST_ROTATED: Final = 10_000

_CLIENT_CREDENTIALS: Final = {"grant_type": "client_credentials"}
_REFRESHING: Final[Meanings] = {
    **STANDARD,
    "invalid_grant": (Kind.DENIED, "the refresh token has expired or was taken back: somebody has to sign in anew"),
}


class _Held(NamedTuple):
    """What the secret of a refresh token grant says."""

    refresh_token: Secret
    client_secret: Secret | None


class StandardSource:
    """Tokens of one `token_url`. With `basic`, the client's secret travels in a header (§2.3.1), else in the form."""

    def __init__(self, endpoint: Endpoint, token_url: str, scope: str | None, *, basic: bool = True) -> None:
        self._endpoint = endpoint
        self._token_url = token_url
        self._scope = scope
        self._basic = basic
        self._rotated: OrderedDict[tuple[str, str], Secret] = OrderedDict()

    async def fetch(self, grant: Grant, secret: Secret | None) -> Fetched:
        """Get a token. Raises `CredentialError`."""
        match grant.type:
            case "client_secret":
                return issued(await self._ask(_CLIENT_CREDENTIALS, *_client(grant, secret), STANDARD))
            case "refresh_token":
                return await self._refreshed(*_client(grant, secret))
            case _:
                raise unknown_grant()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._endpoint.close()

    async def _refreshed(self, client_id: str, secret: Secret) -> Fetched:
        held = _held(secret)
        place = client_id, secret.fingerprint
        token = self._rotated.get(place, held.refresh_token)
        form = {"grant_type": "refresh_token", "refresh_token": token.reveal()}
        try:
            found = await self._ask(form, client_id, held.client_secret, _REFRESHING)
        except CredentialError as error:
            if error.kind is Kind.DENIED:
                self._rotated.pop(place, None)
            raise
        fetched = issued(found)
        if isinstance(rotated := found.get("refresh_token"), str) and rotated and rotated.isascii():
            self._rotated[place] = Secret(rotated)
            self._rotated.move_to_end(place)
            if len(self._rotated) > MOST_ROTATED:
                self._rotated.popitem(last=False)
        return fetched

    async def _ask(
        self, grant: Mapping[str, str], client_id: str, client_secret: Secret | None, meanings: Meanings
    ) -> dict[str, object]:
        form, headers = dict(grant), {}
        if self._scope is not None:
            form["scope"] = self._scope
        if client_secret is not None and self._basic:
            pair = f"{quote_plus(client_id)}:{quote_plus(client_secret.reveal())}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = client_id
            if client_secret is not None:
                form["client_secret"] = client_secret.reveal()
        answer = await self._endpoint.post(self._token_url, form, headers)
        if answer.status != 200:
            raise refusal(answer, [error_of(answer)], meanings)
        return members(answer)


def _client(grant: Grant, secret: Secret | None) -> tuple[str, Secret]:
    return needed(grant.client_id, "oauth.client_id"), needed_secret(secret)


def _held(secret: Secret) -> _Held:
    text = secret.reveal()
    if not text.lstrip().startswith("{"):
        return _Held(secret, None)
    fields = wrapped(read_object(text) or {})
    if "refresh_token" not in fields:
        raise CredentialError(Kind.MALFORMED, "the secret is no JSON object with refresh_token and client_secret")
    return _Held(fields["refresh_token"], fields.get("client_secret"))
