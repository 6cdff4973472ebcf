"""Microsoft 365: an application's token for Exchange Online, through Microsoft's own client (azure-identity).

The secret of `client_secret` is the client secret's value; that of `certificate` is PEM text with the certificate and
its RSA key, without a passphrase. `managed_identity` is the machine's own, without a secret: `client_id` picks one of
several. Such a machine's endpoint keeps its tokens itself, so that asking anew may bring the same one.

A credential object of the SDK remembers its token, and would give the one that a relay has just refused; so a new one
is made for each token, over a session that stays. An answer is judged here, before the SDK reads it.

Never retries, uses a proxy or an AZURE_* variable of an identity, or logs what the service answered. Only a managed
identity is found by variables, those that its platform sets (IDENTITY_ENDPOINT and its like).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from gateway.credentials.oauth.answer import STANDARD, Meanings, error_of, issued, members, refusal
from gateway.credentials.oauth.endpoint import Endpoint, unreached
from gateway.credentials.oauth.source import MACHINE, Grant, is_directory, is_pem, needed, needed_secret, unknown_grant
from gateway.credentials.provider import CredentialError, Fetched, Kind
from gateway.credentials.providers.rest import Answer, read_object
from gateway.credentials.secret import Secret

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncSupportsTokenInfo
    from azure.core.pipeline.transport import AioHttpTransport

AUTHORITY: Final = "https://login.microsoftonline.com"
SCOPE: Final = "https://outlook.office365.com/.default"
MAIL_HOSTS: Final = (".office365.com", ".outlook.com", ".office365.us", ".outlook.cn")
"""How the names of Microsoft's own relays end."""

_APPLICATION: Final = frozenset({"client_secret", "certificate"})
_NO_CERTIFICATE: Final = "the secret is not PEM with a certificate and its RSA key, without a passphrase"
_ONE_ATTEMPT: Final[Mapping[str, Any]] = {"retry_total": 0, "user_agent_use_env": False}
_CODE: Final = re.compile(r"AADSTS[0-9]{4,9}")

_MEANINGS: Final[Meanings] = {
    **STANDARD,
    "AADSTS7000215": (Kind.DENIED, "the client secret is wrong; it is the secret's value that counts, not its id"),
    "AADSTS7000222": (Kind.DENIED, "the client secret has expired: make a new one"),
    "AADSTS700016": (Kind.DENIED, "the directory has no application of this client_id"),
    "AADSTS7000112": (Kind.DENIED, "the application is disabled in the directory"),
    "AADSTS7000229": (Kind.DENIED, "the application has no service principal in the directory"),
    "AADSTS90002": (Kind.DENIED, "the directory does not exist"),
    "AADSTS900021": (Kind.DENIED, "the directory does not exist"),
    "AADSTS900023": (Kind.DENIED, "the directory is neither an id nor a domain that is known"),
    "AADSTS700027": (Kind.DENIED, "the certificate is not registered with the application, or has expired"),
    "AADSTS700024": (Kind.DENIED, "the assertion is not valid at this time: this machine's clock is wrong"),
    "AADSTS65001": (Kind.DENIED, "nobody has consented: an administrator of the directory has to"),
    "AADSTS500011": (Kind.DENIED, "the directory has no Exchange Online, or the scope is of another cloud"),
    "AADSTS1002012": (Kind.DENIED, "the scope is not one that an application can ask for"),
    "AADSTS70011": (Kind.DENIED, "the scope is not one that an application can ask for"),
    "AADSTS50034": (Kind.DENIED, "the directory has no such account"),
    "AADSTS50057": (Kind.DENIED, "the account is disabled"),
    "AADSTS53003": (Kind.DENIED, "a Conditional Access policy of the directory keeps the application out"),
    "AADSTS90033": (Kind.UNREACHABLE, "the sign-in service has trouble of its own"),
}
_UNKNOWN: Final = (Kind.DENIED, "Microsoft refuses the sign-in; what the code means stands in its documentation")
_REFUSED: Final = (Kind.DENIED, "the machine has no identity, or not this one")
_UPDATING: Final = (Kind.UNREACHABLE, "the machine's identity endpoint is being updated")
_OF_MACHINE: Final = {400: _REFUSED, 401: _REFUSED, 403: _REFUSED, 404: _UPDATING, 410: _UPDATING}


class MicrosoftSource:
    """Tokens of one cloud's authority, an https address."""

    def __init__(self, endpoint: Endpoint, authority: str = AUTHORITY, scope: str = SCOPE) -> None:
        self._endpoint = endpoint
        self._authority = authority
        self._scope = scope

    async def fetch(self, grant: Grant, secret: Secret | None) -> Fetched:
        """Get a token. Raises `CredentialError`."""
        outcome = await self._attempt(grant, secret)
        if isinstance(outcome, CredentialError):
            raise outcome
        return outcome

    async def close(self) -> None:
        """Let go of the connections."""
        await self._endpoint.close()

    # A failure is returned, not raised, so that no exception of the SDK, with what it holds, hangs behind ours.
    async def _attempt(self, grant: Grant, secret: Secret | None) -> Fetched | CredentialError:
        try:
            # Off the loop: the SDK takes the better part of a second to import, and a certificate's key is checked.
            await asyncio.to_thread(_prepare)
            wire = await self._wire(machine=grant.type == MACHINE)
            credential = await asyncio.to_thread(self._credential, grant, secret, wire)
        except CredentialError as error:
            return CredentialError(error.kind, error.detail, error.retry_after)
        try:
            async with asyncio.timeout(self._endpoint.deadlines.login):
                await credential.get_token_info(self._scope)
        except Exception as error:  # noqa: BLE001 - a library's exceptions are not ours to list, and none may get out
            return _of_sign_in(error, wire)
        # What the SDK gives is the same token; here it was also looked at.
        return wire.fetched or CredentialError(Kind.MALFORMED, "the sign-in service was not asked")

    async def _wire(self, *, machine: bool) -> _Wire:
        from azure.core.pipeline.transport import AioHttpTransport

        session, deadlines = await self._endpoint.session(), self._endpoint.deadlines
        limits = {"connection_timeout": deadlines.connect, "read_timeout": deadlines.total}
        return _Wire(AioHttpTransport(session=session, session_owner=False, **limits), deadlines.total, machine=machine)

    def _credential(self, grant: Grant, secret: Secret | None, wire: _Wire) -> AsyncSupportsTokenInfo:
        from azure.identity import aio

        options: dict[str, Any] = {**_ONE_ATTEMPT, "transport": wire}
        if grant.type == MACHINE:
            # Without the exclusion, AZURE_* variables of a pod would turn it into a workload identity.
            options |= {"client_id": grant.client_id, "_exclude_workload_identity_credential": True}
            return _made(lambda: aio.ManagedIdentityCredential(**options), "this platform has no such identity")
        if grant.type not in _APPLICATION:
            raise unknown_grant()
        directory = _checked(needed(grant.directory, "oauth.directory"))
        client_id = needed(grant.client_id, "oauth.client_id")
        text = needed_secret(secret).reveal()
        options["authority"] = self._authority
        if grant.type == "client_secret":
            return _made(
                lambda: aio.ClientSecretCredential(directory, client_id, text, **options), "the secret is empty"
            )
        if not is_pem(text):
            raise CredentialError(Kind.MALFORMED, _NO_CERTIFICATE)
        options["certificate_data"] = text.encode()
        return _made(lambda: aio.CertificateCredential(directory, client_id, **options), _NO_CERTIFICATE)


def _made(make: Callable[[], AsyncSupportsTokenInfo], otherwise: str) -> AsyncSupportsTokenInfo:
    """Make a credential of the SDK, which looks at what it is given. Raises `CredentialError` with the sentence."""
    with suppress(Exception):  # they are not ours to list, and may quote what they were given
        return make()
    raise CredentialError(Kind.MALFORMED, otherwise)


def _checked(directory: str) -> str:
    if not is_directory(directory):
        raise CredentialError(Kind.MALFORMED, "oauth.directory is neither a directory's id nor a domain name")
    return directory


@dataclass(slots=True)
class _Wire:
    """A transport of the SDK: one exchange within its time, and our word for what its answer means."""

    inner: AioHttpTransport
    seconds: float
    machine: bool
    fetched: Fetched | None = None
    status: int | None = None

    async def send(self, request: Any, **options: Any) -> Any:
        """Exchange a request for an answer, read to its end. Raises `CredentialError`, `TimeoutError`, and the SDK's."""
        async with asyncio.timeout(self.seconds):
            response = await self.inner.send(request, **options)
            body = await response.read()
        self.status = response.status_code
        answer = Answer(response.status_code, {name.lower(): text for name, text in response.headers.items()}, body)
        if answer.status == 200:
            self.fetched = issued(members(answer), dated=self.machine)
        elif not self.machine:
            raise _refused(answer)
        elif answer.status in _OF_MACHINE and answer.status != 401:  # of Azure Arc, 401 is a challenge
            raise CredentialError(*_OF_MACHINE[answer.status])
        elif answer.status != 401:
            raise refusal(answer, (), {})
        return response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass  # the session is the endpoint's


def _prepare() -> None:
    try:
        import azure.identity.aio  # noqa: F401
    except ImportError:
        raise CredentialError(Kind.UNREACHABLE, "Azure's SDK is missing: install notification-gateway[azure]") from None
    # At WARNING the SDK logs what went wrong, with a server's words; all of that comes to us as exceptions.
    logging.getLogger("azure").setLevel(logging.ERROR)


def _refused(answer: Answer) -> CredentialError:
    found = read_object(answer.body) or {}
    numbers, description = found.get("error_codes"), found.get("error_description")
    codes = [f"AADSTS{one}" for one in numbers if type(one) is int] if isinstance(numbers, list) else []
    if isinstance(description, str):
        codes.append(description.partition(":")[0])
    codes = [code for code in codes if _CODE.fullmatch(code)]
    return refusal(answer, [*codes, error_of(answer)], {**dict.fromkeys(codes, _UNKNOWN), **_MEANINGS})


def _of_sign_in(error: Exception, wire: _Wire) -> CredentialError:
    # A managed identity's credential raises its own, from whatever happened.
    for one in (error, error.__cause__):
        if isinstance(one, CredentialError):
            return CredentialError(one.kind, one.detail, one.retry_after)
        if (known := _no_answer(one)) is not None:
            return known
    if wire.status == 200:
        return CredentialError(Kind.MALFORMED, "the sign-in service's answer is not readable")
    return CredentialError(*_REFUSED) if wire.machine else CredentialError(Kind.DENIED, "the sign-in is refused")


def _no_answer(error: BaseException | None) -> CredentialError | None:
    from azure.core.exceptions import AzureError, IncompleteReadError, ServiceRequestError, ServiceResponseError

    if not isinstance(error, TimeoutError | IncompleteReadError | ServiceRequestError | ServiceResponseError):
        return None
    return unreached(error.inner_exception if isinstance(error, AzureError) else error)
