"""Azure Key Vault: a secret by its name, through Microsoft's own client, as one named identity.

Owns one HTTP session, over which both the vault and the sign-in service are asked. The credential type is the one of
`auth.method`, made anew for each sign-in, so that a rotated client secret, certificate or federated token is used at
once; the client keeps the token until it runs out or is refused. A refused token is replaced once per fetch. After a
sign-in that failed there is a pause (see `login`).

Promises: no exchange lasts longer than `Deadlines.total`, no fetch longer than `total + login` (the first one also
imports the SDK); of an answer, no more than `MAX_OCTETS` is read; a status that is no answer is judged here, before
the SDK reads its body. `ca_certificates`, if given, are the only ones trusted, at the vault and at the sign-in.

A value that is a JSON object gives its members that are strings as fields; `password` is the whole value, unless the
object has a member of that name. An expiry date of a secret is told and changes nothing: Azure still hands
it out.

Never follows a redirect, retries, uses a proxy or an AZURE_* variable of an identity, or logs what a server answered.
Only a managed identity is found by variables, those that its platform sets (IDENTITY_ENDPOINT and its like).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, cast

import aiohttp

from gateway.credentials.identity import read_identity
from gateway.credentials.login import Logins
from gateway.credentials.provider import (
    PASSWORD,
    CredentialError,
    Deadlines,
    Fetched,
    Kind,
    NoIdentity,
    read_retry_after,
)
from gateway.credentials.providers.rest import BoundedResponse
from gateway.credentials.secret import Secret
from gateway.credentials.tls import client_context
from gateway.settings.connections import AzureKeyVaultConnection

if TYPE_CHECKING:
    from azure.core.credentials import AccessTokenInfo, TokenRequestOptions
    from azure.core.credentials_async import AsyncSupportsTokenInfo, AsyncTokenCredential
    from azure.core.pipeline.transport import AioHttpTransport
    from azure.keyvault.secrets import KeyVaultSecret
    from azure.keyvault.secrets.aio import SecretClient

_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,127}")
_USUAL: Final = Deadlines()
_ONE_ATTEMPT: Final[Mapping[str, Any]] = {"retry_total": 0, "permit_redirects": False, "user_agent_use_env": False}


class _Server(NamedTuple):
    """What a server is called in our sentences, and what it means by statuses of its own."""

    name: str
    meanings: Mapping[int, tuple[Kind, str]]


_VAULT: Final = _Server(
    "the vault",
    {
        401: (Kind.DENIED, "the vault refuses the token, also a new one"),
        403: (Kind.DENIED, "the vault does not let this identity read the secret, or the secret is disabled"),
        404: (Kind.NOT_FOUND, "the vault has no such secret or version"),
    },
)
_REFUSED: Final = (Kind.DENIED, "the sign-in is refused: the identity is not as configured, or of another tenant")
_UPDATING: Final = (Kind.UNREACHABLE, "the machine's identity endpoint is being updated")
_SIGN_IN: Final = _Server("the sign-in service", {400: _REFUSED, 403: _REFUSED, 404: _UPDATING, 410: _UPDATING})


class AzureKeyVaultProvider:
    """Fetches from the vault of one connection; `environ` is where an identity's own secret may lie."""

    def __init__(
        self,
        connection: AzureKeyVaultConnection,
        environ: Mapping[str, str],
        deadlines: Deadlines = _USUAL,
        *,
        logins: Logins | None = None,
    ) -> None:
        self._connection = connection
        self._environ = environ
        self._deadlines = deadlines
        self._logins = logins or Logins(time.monotonic)
        self._opening = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._client: SecretClient | None = None

    async def fetch(self, key: str, version: str | None) -> Fetched:
        """Fetch the newest version of a secret, or the one that is pinned. Raises `CredentialError`."""
        outcome = await self._attempt(key, version)
        if isinstance(outcome, CredentialError):
            raise outcome
        return outcome

    async def close(self) -> None:
        """Let go of the connections."""
        session, self._session, self._client = self._session, None, None
        if session is not None:
            await session.close()

    # A failure is returned, not raised, so that no exception of the SDK, with what it holds, hangs behind ours.
    async def _attempt(self, key: str, version: str | None) -> Fetched | CredentialError:
        if not _NAME.fullmatch(key) or not _NAME.fullmatch(version or "newest"):
            return CredentialError(Kind.MALFORMED, "the key or version has more than letters, digits and dashes")
        try:
            client = await self._opened()
            async with asyncio.timeout(self._deadlines.total + self._deadlines.login):
                return _fetched(await client.get_secret(key, version))
        except Exception as error:  # noqa: BLE001 - a library's exceptions are not ours to list, and none may get out
            return _of_vault(error)

    async def _opened(self) -> SecretClient:
        async with self._opening:
            if self._client is None:
                trust = await asyncio.to_thread(_prepare, self._connection.ca_certificates)
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=trust),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    response_class=BoundedResponse,
                    trust_env=False,
                )
                self._client = self._connected(self._session)
            return self._client

    def _connected(self, session: aiohttp.ClientSession) -> SecretClient:
        from azure.core.pipeline.transport import AioHttpTransport
        from azure.keyvault.secrets.aio import SecretClient

        limits = {"connection_timeout": self._deadlines.connect, "read_timeout": self._deadlines.total}
        transport = AioHttpTransport(session=session, session_owner=False, **limits)
        options = dict(_ONE_ATTEMPT)
        if self._connection.api_version is not None:
            options["api_version"] = self._connection.api_version
        return SecretClient(
            self._connection.url,
            cast(
                "AsyncTokenCredential",
                _Identity(self._connection, self._environ, self._deadlines, transport, self._logins),
            ),
            transport=_Wire(transport, self._deadlines.total, _VAULT),
            verify_challenge_resource=self._connection.verify_challenge_resource,
            **options,
        )


@dataclass(frozen=True, slots=True)
class _Identity:
    """The credential whom the client asks for tokens: it signs in each time, with what the identity holds now.

    The SDK's own credentials remember tokens, and would give the one that the vault has just refused.
    """

    connection: AzureKeyVaultConnection
    environ: Mapping[str, str]
    deadlines: Deadlines
    transport: AioHttpTransport
    logins: Logins

    async def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """Sign in, for a token of these scopes. Raises `CredentialError`."""
        if (pause := self.logins.trouble()) is not None:
            raise pause
        wire, begun = _Wire(self.transport, self.deadlines.total, _SIGN_IN), self.logins.counted
        try:
            async with asyncio.timeout(self.deadlines.login):
                # Off the loop: files are read, and a certificate's key is checked.
                credential = await asyncio.to_thread(self._credential, wire)
                token = await credential.get_token_info(*scopes, options=options)
        except Exception as error:  # noqa: BLE001 - as above
            failure = _of_sign_in(error, wire.status)
        else:
            self.logins.succeeded(token.expires_on - time.time())
            return token
        self.logins.failed(failure, begun)
        raise failure

    def _credential(self, wire: _Wire) -> AsyncSupportsTokenInfo:
        from azure.identity import aio

        auth = self.connection.auth
        options: dict[str, Any] = {**_ONE_ATTEMPT, "transport": wire}
        if auth.method == "managed_identity":
            # Without the exclusion, AZURE_* variables of a pod would turn it into a workload identity.
            return aio.ManagedIdentityCredential(
                client_id=auth.client_id, _exclude_workload_identity_credential=True, **options
            )
        options["authority"] = auth.authority
        if auth.method == "workload_identity":
            options |= {"tenant_id": auth.tenant_id, "client_id": auth.client_id}
            return aio.WorkloadIdentityCredential(token_file_path=str(auth.token_file), **options)
        if auth.method == "client_secret":
            secret = read_identity(auth.client_secret, self.environ)
            return aio.ClientSecretCredential(auth.tenant_id, auth.client_id, secret.reveal(), **options)
        if auth.password is not None:
            options["password"] = read_identity(auth.password, self.environ).reveal()
        return aio.CertificateCredential(auth.tenant_id, auth.client_id, str(auth.certificate), **options)


@dataclass(slots=True)
class _Wire:
    """A transport of the SDK: one exchange within its time, and our word for a status that is no answer."""

    inner: AioHttpTransport
    seconds: float
    server: _Server
    status: int | None = None

    async def send(self, request: Any, **options: Any) -> Any:
        """Exchange a request for an answer, read to its end. Raises `CredentialError`, `TimeoutError`, and the SDK's."""
        async with asyncio.timeout(self.seconds):
            response = await self.inner.send(request, **options)
        self.status = response.status_code
        # To 401, the SDK has an answer of its own: a challenge of the vault, or of a machine's endpoint.
        if response.status_code not in {200, 401}:
            raise _judged(self.server, response.status_code, response.headers)
        return response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass  # the session is the provider's


def _prepare(bundle: Path | None) -> ssl.SSLContext:
    """Import the SDK, which takes the better part of a second, and load the trusted certificates."""
    try:
        import azure.identity.aio
        import azure.keyvault.secrets.aio  # noqa: F401
    except ImportError:
        raise CredentialError(Kind.UNREACHABLE, "Azure's SDK is missing: install notification-gateway[azure]") from None
    # At WARNING the SDK logs what the sign-in service answered; all of its failures come to us as exceptions.
    logging.getLogger("azure").setLevel(logging.ERROR)
    try:
        return client_context(cafile=bundle)
    except OSError:
        # Which file, `check` tells the operator: this is told to the owners of profiles.
        raise CredentialError(Kind.UNREACHABLE, "a certificate file of the connection cannot be read") from None


def _fetched(secret: KeyVaultSecret) -> Fetched:
    if not isinstance(secret.value, str):
        raise CredentialError(Kind.MALFORMED, "the vault's answer has no value")
    fields = {PASSWORD: Secret(secret.value)}
    try:
        members = json.loads(secret.value)
    except (ValueError, RecursionError):
        members = None
    if isinstance(members, dict):
        fields |= {name: Secret(member) for name, member in members.items() if isinstance(member, str)}
    ends = secret.properties.expires_on
    return Fetched(fields, secret.properties.version or "", expires_at=None if ends is None else ends.timestamp())


def _judged(server: _Server, status: int, headers: Mapping[str, str]) -> CredentialError:
    said = f"{server.name} answered with status {status}"
    pause = read_retry_after(headers.get("Retry-After", ""))
    if status == 429:
        return CredentialError(Kind.THROTTLED, said, pause)
    if status >= 500 or status == 408:
        return CredentialError(Kind.UNREACHABLE, said, pause)
    return CredentialError(*server.meanings.get(status, (Kind.MALFORMED, said)))


def _of_vault(error: Exception) -> CredentialError:
    if isinstance(error, CredentialError):
        return CredentialError(error.kind, error.detail, error.retry_after)
    from azure.core.exceptions import ClientAuthenticationError

    if isinstance(error, ClientAuthenticationError):
        return CredentialError(*_VAULT.meanings[401])
    return _unreached(error, _VAULT) or CredentialError(
        Kind.MALFORMED, "the vault's answer is not readable, or its challenge names another resource than itself"
    )


def _of_sign_in(error: Exception, status: int | None) -> CredentialError:
    # A managed identity's credential raises its own, from whatever happened.
    for one in (error, error.__cause__):
        if isinstance(one, CredentialError):
            return one
        if (known := _unreached(one, _SIGN_IN)) is not None:
            return known
    if status == 200:
        return CredentialError(Kind.MALFORMED, "the sign-in service's answer is not readable")
    if isinstance(error, OSError | ValueError | TypeError):
        return NoIdentity("the identity's token file or certificate cannot be read")
    return CredentialError(*_REFUSED)


def _unreached(error: BaseException | None, server: _Server) -> CredentialError | None:
    from azure.core.exceptions import AzureError, IncompleteReadError, ServiceRequestError, ServiceResponseError

    if not isinstance(error, TimeoutError | IncompleteReadError | ServiceRequestError | ServiceResponseError):
        return None
    inner = error.inner_exception if isinstance(error, AzureError) else None
    if isinstance(inner, aiohttp.ClientConnectorCertificateError):
        return CredentialError(Kind.UNREACHABLE, f"the certificate of {server.name} is not trusted")
    return CredentialError(Kind.UNREACHABLE, f"{server.name} cannot be reached, or does not answer in time")
