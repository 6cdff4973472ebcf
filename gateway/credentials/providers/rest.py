"""Asking a secret store over HTTP: one exchange, and what its answer means; for the stores without a client library.

Owns one session of its own: no proxies or passwords from the environment, no cookies, no redirects, and no answer
longer than a secret may be. An exchange ends within its deadline, however slowly the server drips. The certificate
files are looked at before every exchange, so that they may be renewed while the daemon runs.

Errors are sentences of ours, raised where no other exception is being handled: nothing of an answer hangs behind them.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
from yarl import URL

from gateway.credentials.provider import MAX_OCTETS, CredentialError, Kind, read_retry_after
from gateway.credentials.secret import Secret
from gateway.credentials.tls import NO_PASSPHRASE, client_context

_FINGERPRINT_KEY: Final = secrets.token_bytes(32)

_MEANINGS: Final = {
    401: (Kind.DENIED, "the secret store does not know us"),
    403: (Kind.DENIED, "the secret store does not let us have this secret"),
    404: (Kind.NOT_FOUND, "the secret store has no such secret, or hides it from us"),
    429: (Kind.THROTTLED, "the secret store asks us to slow down"),
}


class Answer(NamedTuple):
    """What a server said; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: whom to trust (None: the system's authorities), and what to show."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when a file does. Raises OSError."""
        told = [path.stat() for path in (self.authorities, self.certificate, self.key) if path is not None]
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in told)

    def context(self) -> ssl.SSLContext:
        """Load the files. Raises OSError, of which ssl.SSLError is one."""
        context = client_context(cafile=self.authorities)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key, NO_PASSPHRASE)
        return context


@dataclass(slots=True)
class Rest:
    """One server. `url` is where paths are appended to, without a slash at its end."""

    url: str
    connect: float
    certificates: Certificates = field(default_factory=Certificates)
    _session: aiohttp.ClientSession | None = None
    _tls: ssl.SSLContext | None = None
    _stamp: tuple[tuple[int, int, int], ...] = ()
    _closed: bool = False

    async def ask(
        self,
        method: str,
        path: str,
        *,
        within: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Make one exchange within so many seconds; `path` is encoded already.

        Raises `CredentialError`: `unreachable` if there is no answer, `malformed` if it is too long.
        """
        if self._closed:
            raise CredentialError(Kind.UNREACHABLE, "the connection to the secret store is closed")
        try:
            async with asyncio.timeout(within):
                answer = await self._exchange(method, path, headers or {}, body)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            trouble = _trouble(error)
        else:
            if len(answer.body) > MAX_OCTETS:
                raise CredentialError(Kind.MALFORMED, f"the secret store's answer has more than {MAX_OCTETS} octets")
            return answer
        raise CredentialError(Kind.UNREACHABLE, trouble)

    async def close(self) -> None:
        """Close the connections; nothing can be asked any more."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        if self._session is None:
            self._session = _session(self.connect)
        async with self._session.request(
            method,
            URL(self.url + path, encoded=True),
            data=body,
            # What is compressed can be any length once it is opened.
            headers={"Accept": "*/*", "Accept-Encoding": "identity", **headers},
            allow_redirects=False,
            ssl=self._trust(),
        ) as response:
            told = bytearray()
            async for chunk in response.content.iter_chunked(8192):
                told += chunk
                if len(told) > MAX_OCTETS:
                    break
            return Answer(response.status, {name.lower(): text for name, text in response.headers.items()}, bytes(told))

    def _trust(self) -> ssl.SSLContext | bool:
        if self.url.startswith("http://"):
            return True
        stamp = self.certificates.stamp()
        if self._tls is None or stamp != self._stamp:
            self._tls, self._stamp = self.certificates.context(), stamp
        return self._tls


def _session(connect: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect),
    )


def _trouble(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "TLS with the secret store failed"  # a person has to look, so it is told apart
    if isinstance(error, FileNotFoundError | PermissionError):
        return "a certificate file of the connection cannot be read"
    if isinstance(error, TimeoutError):
        return "the secret store did not answer in time"
    return "the secret store cannot be reached"


def refusal(answer: Answer) -> CredentialError:
    """Say what a status other than 200 means."""
    kind, detail = _MEANINGS.get(answer.status, (Kind.MALFORMED, f"the secret store answered with {answer.status}"))
    if answer.status >= 500:
        kind = Kind.UNREACHABLE
    pause = read_retry_after(answer.headers.get("retry-after", "")) if kind is Kind.THROTTLED else None
    return CredentialError(kind, detail, pause)


def read_object(text: str | bytes) -> dict[str, object] | None:
    """Read a JSON object; None if it is none."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def wrapped(fields: Mapping[str, object]) -> dict[str, Secret]:
    """Wrap the members that are text. Raises `CredentialError` if one of them cannot be encoded."""
    texts = {name: text for name, text in fields.items() if isinstance(text, str)}
    # JSON can spell half of a surrogate pair, which no encoding has.
    if any("\ud800" <= character <= "\udfff" for text in texts.values() for character in text):
        raise CredentialError(Kind.MALFORMED, "the secret is no text")
    return {name: Secret(text) for name, text in texts.items()}


def fingerprint(*texts: str) -> str:
    """Name a version of a source that has no names for them: other texts, another name, for this process's life.

    Callers see it, so its key is nobody's: it confirms no guess.
    """
    told = "\0".join(f"{len(text)}:{text}" for text in texts)
    return hmac.new(_FINGERPRINT_KEY, told.encode(), hashlib.sha256).hexdigest()[:8]


class BoundedResponse(aiohttp.ClientResponse):
    """A client library's answer of which no more is read than a secret may have, decompressed."""

    async def read(self) -> bytes:
        """Read to the end. Raises `CredentialError` if that is too far."""
        octets = bytearray()
        async for chunk in self.content.iter_any():
            octets += chunk
            if len(octets) > MAX_OCTETS:
                self.close()
                raise CredentialError(Kind.MALFORMED, "the answer is longer than any secret's")
        return bytes(octets)
