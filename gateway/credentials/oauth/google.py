"""Google: a service account that acts for a mailbox of its Workspace, or a mailbox's own refresh token.

The secret of `service_account` is the JSON key file's text. An assertion signed with its key (RFC 7523 §2.1) names the
mailbox as `sub`; the Workspace's administrator has to allow that ("domain-wide delegation", for the scope below). The
file is a tenant's: of its addresses none is used, and the assertion is made out to the token endpoint that we know.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

from gateway.credentials.oauth.answer import STANDARD, Meanings, error_of, issued, members, refusal
from gateway.credentials.oauth.endpoint import Endpoint
from gateway.credentials.oauth.source import Grant, is_pem, needed, needed_secret
from gateway.credentials.oauth.standard import StandardSource
from gateway.credentials.provider import CredentialError, Fetched, Kind
from gateway.credentials.providers.rest import read_object
from gateway.credentials.secret import Secret

TOKEN_URL: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
SCOPE: Final = "https://mail.google.com/"
"""The only one that is good for SMTP."""

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_SECONDS: Final = 3600  # the most that Google takes

_NO_KEY_FILE: Final = "the secret is not the JSON key file of a service account, with its RSA key"
_MEANINGS: Final[Meanings] = {
    **STANDARD,
    "unauthorized_client": (
        Kind.DENIED,
        f"the service account may not act for mailboxes: it lacks domain-wide delegation for the scope {SCOPE}",
    ),
    "invalid_grant": (
        Kind.DENIED,
        "Google does not take the assertion: the key was deleted, there is no such mailbox, or this machine's clock is wrong",
    ),
    "invalid_client": (Kind.DENIED, "Google does not know the service account"),
    "access_denied": (Kind.DENIED, "the Workspace's policy does not let the service account act for the mailbox"),
    "admin_policy_enforced": (Kind.DENIED, "the Workspace's policy does not allow the scope"),
    "org_internal": (Kind.DENIED, "the client is for its own Workspace only"),
}


class GoogleSource:
    """Tokens of Google."""

    def __init__(
        self, endpoint: Endpoint, token_url: str = TOKEN_URL, scope: str = SCOPE, *, basic: bool = True
    ) -> None:
        self._endpoint = endpoint
        self._token_url = token_url
        self._scope = scope
        # With a refresh token, what was granted need not be asked for again.
        self._standard = StandardSource(endpoint, token_url, None, basic=basic)

    async def fetch(self, grant: Grant, secret: Secret | None) -> Fetched:
        """Get a token. Raises `CredentialError`."""
        if grant.type != "service_account":
            return await self._standard.fetch(grant, secret)
        mailbox = needed(grant.mailbox, "oauth.mailbox")
        assertion = await asyncio.to_thread(self._assertion, needed_secret(secret), mailbox)
        form = {"grant_type": JWT_BEARER, "assertion": assertion.reveal()}
        answer = await self._endpoint.post(self._token_url, form, {})
        if answer.status != 200:
            raise refusal(answer, [error_of(answer)], _MEANINGS)
        return issued(members(answer))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._endpoint.close()

    def _assertion(self, secret: Secret, mailbox: str) -> Secret:
        """Sign for the mailbox; off the loop, because the key is checked first."""
        import jwt

        file = read_object(secret.reveal()) or {}
        account, key, key_id = (file.get(name) for name in ("client_email", "private_key", "private_key_id"))
        if not isinstance(account, str) or not isinstance(key, str) or not is_pem(key):
            raise CredentialError(Kind.MALFORMED, _NO_KEY_FILE)
        now = int(time.time())
        claims = {
            "iss": account, "sub": mailbox, "scope": self._scope, "aud": self._token_url,
            "iat": now, "exp": now + ASSERTION_SECONDS,
        }  # fmt: skip
        with suppress(Exception):  # the library's are not ours to list, and they may quote the key
            return Secret(jwt.encode(claims, key, "RS256", {"kid": key_id} if isinstance(key_id, str) else None))
        raise CredentialError(Kind.MALFORMED, _NO_KEY_FILE)
