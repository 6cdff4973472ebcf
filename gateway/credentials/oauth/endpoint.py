"""The way to one provider's token endpoint: an HTTP session, and exchanges within limits.

Promises: no exchange lasts longer than `Deadlines.total`; of an answer, no more than `MAX_OCTETS` is read, however it
was compressed. `ca_certificates`, if given, are the only ones trusted. No redirect is followed, no proxy, cookie or
password of the environment is used. Once closed, nothing goes out any more.
"""

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from gateway.credentials.provider import CredentialError, Deadlines, Kind
from gateway.credentials.providers.rest import Answer, BoundedResponse
from gateway.credentials.tls import client_context

USUAL: Final = Deadlines()


class Endpoint:
    """One provider's; `ca_certificates` None: the system's authorities."""

    def __init__(self, ca_certificates: Path | None = None, deadlines: Deadlines = USUAL) -> None:
        self.deadlines = deadlines
        self._ca_certificates = ca_certificates
        self._opening = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def session(self) -> aiohttp.ClientSession:
        """Give the session, for a client library. Raises `CredentialError`."""
        async with self._opening:
            if self._closed:
                raise CredentialError(Kind.UNREACHABLE, "the daemon is stopping")
            if self._session is None:
                self._session = self._opened(await asyncio.to_thread(self._trust))
            return self._session

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """Post a form. Raises `CredentialError`: `unreachable` if there is no answer, `malformed` if it is too long."""
        try:
            session = await self.session()
            async with (
                asyncio.timeout(self.deadlines.total),
                session.post(
                    URL(url, encoded=True),
                    data=urlencode(form).encode(),
                    headers={
                        "Content-Type": "application/x-www-form-urlencoded",
                        "Accept": "application/json",
                        **headers,
                    },
                    allow_redirects=False,
                ) as response,
            ):
                lower = {name.lower(): text for name, text in response.headers.items()}
                return Answer(response.status, lower, await response.read())
        except CredentialError as error:
            failure = CredentialError(error.kind, error.detail, error.retry_after)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = unreached(error)
        raise failure

    async def close(self) -> None:
        """Let go of the connections."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _trust(self) -> ssl.SSLContext:
        try:
            return client_context(cafile=self._ca_certificates)
        except OSError:
            pass
        # Which file, `check` tells the operator: this is told to the owners of profiles.
        raise CredentialError(Kind.UNREACHABLE, "a certificate file of the token endpoint cannot be read")

    def _opened(self, trust: ssl.SSLContext) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust),
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=BoundedResponse,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.deadlines.connect),
            trust_env=False,
        )


def unreached(error: BaseException | None) -> CredentialError:
    """Say why there is no answer."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return CredentialError(Kind.UNREACHABLE, "the certificate of the token endpoint is not trusted")
    return CredentialError(Kind.UNREACHABLE, "the token endpoint cannot be reached, or does not answer in time")
