"""The OpenID provider: what it publishes, its keys, and the exchange of a code for an id token.

Promises: an exchange takes at most ten seconds and reads at most a mebibyte; no redirect is followed; TLS is verified,
and missing for nobody but a provider on this machine. What it publishes is kept for an hour, and so are its keys: one
that is withdrawn is good no longer. They are fetched anew when a token names one that is not among them, or was not what its
key signs, once a minute at most. One that failed is left alone for five seconds,
however many ask.

Errors are sentences of ours for the log; nothing that the provider wrote is in them.
"""

import asyncio
import ipaddress
import json
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

import aiohttp
from yarl import URL

from gateway.credentials.identity import read_identity
from gateway.credentials.provider import CredentialError
from gateway.credentials.secret import Secret
from gateway.credentials.tls import client_context
from gateway.http.admission import Buckets
from gateway.settings import Oidc, SecretSource

T = TypeVar("T")

SECONDS: Final = 10.0
MAX_OCTETS: Final = 1 << 20
METADATA_SECONDS: Final = 3600.0
KEYS_SECONDS: Final = 60.0  # between two fetches of the keys
PAUSE_SECONDS: Final = 5.0
MOST_KEYS: Final = 100
WELL_KNOWN: Final = "/.well-known/openid-configuration"
ERROR: Final = re.compile(r"[a-z_]{1,40}")  # as RFC 6749 §5.2 and its neighbours spell them


class Reason(StrEnum):
    """Why nobody was signed in. STATE: the answer belongs to no sign-in that this browser began."""

    UNREACHABLE = "unreachable"
    MALFORMED = "malformed"
    REFUSED = "refused"
    STATE = "state"
    TOKEN = "token"  # noqa: S105 - the id token is not what it should be
    CLIENT_SECRET = "client_secret"  # noqa: S105 - ours cannot be read
    NO_RIGHT = "no_right"


class OidcError(Exception):
    """Nobody was signed in."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the provider publishes about itself (Discovery §3), as far as it is used."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    end_session_endpoint: str | None
    takes_basic: bool
    names_itself: bool  # in answers to the browser (RFC 9207)


@dataclass(slots=True)
class Provider:
    """The one that the settings name; `now` counts seconds, `tries` how often each client was sent there."""

    settings: Oidc
    now: Callable[[], float] = time.monotonic
    tries: Buckets = field(default_factory=Buckets)
    _metadata: Metadata | None = None
    _metadata_at: float = 0.0
    _keys: list[dict[str, Any]] = field(default_factory=list)
    _keys_at: float | None = None
    _doubted: bool = False
    _failure: tuple[float, OidcError] | None = None
    _trust: ssl.SSLContext | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def known(self) -> Metadata | None:
        """What it published when it was last asked."""
        return self._metadata

    async def metadata(self) -> Metadata:
        """Find out where its endpoints are. Raises `OidcError`."""
        async with self._turn:
            if self._metadata is None or self.now() - self._metadata_at >= METADATA_SECONDS:
                url = self.settings.issuer + WELL_KNOWN
                self._metadata = await self._patiently(lambda: self._read_metadata(url))
                self._metadata_at = self.now()
            return self._metadata

    async def keys(self, *, missing: bool = False) -> list[dict[str, Any]]:
        """Give its keys; with `missing` they are fetched anew, unless that was done within a minute. Raises `OidcError`."""
        where = (await self.metadata()).jwks_uri
        async with self._turn:
            good_for = KEYS_SECONDS if missing or self._doubted else METADATA_SECONDS
            if self._keys_at is None or self.now() - self._keys_at >= good_for:
                self._keys = await self._patiently(lambda: self._read_keys(where))
                self._keys_at, self._doubted = self.now(), False
            return self._keys

    def doubt_keys(self) -> None:
        """Have the keys fetched anew for the next token: one of them may be another by now, under the same name."""
        self._doubted = True

    async def exchange(self, code: str, verifier: str, redirect_uri: str) -> str:
        """Exchange a code for an id token (RFC 6749 §4.1.3, RFC 7636 §4.5). Raises `OidcError`."""
        told = await self.metadata()
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier,
        }  # fmt: skip
        secret = await asyncio.to_thread(_read_secret, self.settings.client_secret_file)
        headers = {}
        if told.takes_basic:
            pair = f"{quote_plus(self.settings.client_id)}:{quote_plus(secret.reveal())}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self.settings.client_id, "client_secret": secret.reveal()}
        status, found = await self._ask(told.token_endpoint, form, headers)
        if status != 200:
            error = found.get("error")
            known = f" ({error})" if isinstance(error, str) and ERROR.fullmatch(error) else ""
            raise OidcError(Reason.REFUSED, f"the provider's token endpoint answered with status {status}{known}")
        token = found.get("id_token")
        if not isinstance(token, str):
            raise OidcError(Reason.MALFORMED, "the provider's token endpoint gave no id token")
        return token

    async def _patiently(self, fetch: Callable[[], Awaitable[T]]) -> T:
        if self._failure is not None and self.now() - self._failure[0] < PAUSE_SECONDS:
            raise OidcError(self._failure[1].reason, self._failure[1].detail)
        try:
            return await fetch()
        except OidcError as error:
            self._failure = self.now(), error
            raise

    async def _read_metadata(self, url: str) -> Metadata:
        status, found = await self._ask(url)
        if status != 200:
            raise OidcError(Reason.MALFORMED, f"the provider's configuration was answered with status {status}")
        issuer = found.get("issuer")
        if not isinstance(issuer, str) or issuer.rstrip("/") != self.settings.issuer:
            raise OidcError(Reason.MALFORMED, "the provider's configuration is another issuer's")
        ways = found.get("token_endpoint_auth_methods_supported")
        return Metadata(
            issuer=issuer,
            authorization_endpoint=self._endpoint(found, "authorization_endpoint"),
            token_endpoint=self._endpoint(found, "token_endpoint"),
            jwks_uri=self._endpoint(found, "jwks_uri"),
            end_session_endpoint=(
                self._endpoint(found, "end_session_endpoint") if found.get("end_session_endpoint") else None
            ),
            takes_basic=not isinstance(ways, list) or "client_secret_basic" in ways,
            names_itself=found.get("authorization_response_iss_parameter_supported") is True,
        )

    def _endpoint(self, found: Mapping[str, Any], name: str) -> str:
        url = found.get(name)
        if not isinstance(url, str) or not _is_safe(url):
            raise OidcError(Reason.MALFORMED, f"the provider's {name} is no https address")
        return url

    async def _read_keys(self, url: str) -> list[dict[str, Any]]:
        status, found = await self._ask(url)
        keys = found.get("keys")
        if status != 200 or not isinstance(keys, list):
            raise OidcError(Reason.MALFORMED, "the provider's keys cannot be read")
        return [key for key in keys[:MOST_KEYS] if isinstance(key, dict)]

    async def _ask(
        self, url: str, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Get a document, or post a form; what is no JSON object is an empty one."""
        try:
            async with asyncio.timeout(SECONDS), await self._session() as session:
                body = None if form is None else urlencode(form).encode()
                kind = {} if form is None else {"Content-Type": "application/x-www-form-urlencoded"}
                async with session.request(
                    "GET" if form is None else "POST", URL(url, encoded=True), data=body, allow_redirects=False,
                    headers={"Accept": "application/json", "Accept-Encoding": "identity", **kind, **(headers or {})},
                ) as response:  # fmt: skip
                    return response.status, _object(await _read(response))
        except (aiohttp.ClientSSLError, ssl.SSLError):
            detail = "TLS with the provider failed"
        except (aiohttp.ClientError, OSError, ValueError):
            detail = "the provider cannot be reached, or does not answer in time"
        raise OidcError(Reason.UNREACHABLE, detail)

    async def _session(self) -> aiohttp.ClientSession:
        if self._trust is None:
            self._trust = await asyncio.to_thread(client_context, cafile=self.settings.ca_certificates)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trust), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
            auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None),
        )  # fmt: skip


async def _read(response: aiohttp.ClientResponse) -> bytes:
    told = bytearray()
    async for piece in response.content.iter_any():
        told += piece
        if len(told) > MAX_OCTETS:
            response.close()
            raise OidcError(Reason.MALFORMED, "the provider's answer is too long")
    return bytes(told)


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_safe(url: str) -> bool:
    """Does a secret go there over TLS, or within this machine?"""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or not url.isascii() or not url.isprintable() or " " in url or "@" in parts.netloc or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_secret(file: Path) -> Secret:
    try:
        return read_identity(SecretSource(file=file), {})
    except CredentialError:
        pass
    raise OidcError(Reason.CLIENT_SECRET, f"{file} cannot be read")
