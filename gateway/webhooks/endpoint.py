"""One request to a tenant's endpoint, which may be anybody's: judged address, limited time, nothing believed but a status.

The name is resolved here, what egress refuses is left out, and one of the rest is dialled: nothing looks the name up a
second time. No proxy, no redirect, no cookie. So much of an answer is parsed and no more, since interim answers (RFC 9110
§15.2) have no end of their own; of its body a little is read and thrown away.

A connection whose answer came to its end is kept for a moment, for more that the same tenant is to be told there. Nobody
else's requests go over it.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import partial
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, Final, Self, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from gateway import __version__
from gateway.credentials.sealed import Seal, SealError
from gateway.credentials.secret import Secret
from gateway.credentials.tls import client_context
from gateway.directory.kinds import WebPlace
from gateway.directory.shapes import Webhook
from gateway.smtp.egress import EgressPolicy
from gateway.webhooks.names import Names
from gateway.webhooks.signing import headers

REQUEST_SECONDS: Final = 15.0
TAIL_SECONDS: Final = 1.0
TAIL_OCTETS: Final = 4 << 10
ANSWER_OCTETS: Final = 32 << 10  # with all that comes before it
KEEP_SECONDS: Final = 5.0  # a connection that nobody uses
KEPT: Final = 64  # lines, each with as many connections as an endpoint has requests at once
SHORTEST_PAUSE: Final = 5  # seconds, whatever an endpoint says
LONGEST_PAUSE: Final = 3_600


class Result(StrEnum):
    """What came of an attempt. REFUSED: a status that is neither good nor the server's fault; UNTRUSTED: no TLS."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    UNTRUSTED = "untrusted"
    TIMEOUT = "timeout"
    EGRESS_REFUSED = "egress_refused"
    UNSIGNED = "unsigned"  # the secret does not open


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an endpoint did; `pause` is how long (seconds) it asks to be left alone."""

    result: Result
    milliseconds: int
    status: int | None = None
    pause: int | None = None

    @property
    def ok(self) -> bool:
        """Did it take it?"""
        return self.result is Result.OK

    @property
    def gone(self) -> bool:
        """Does it want to hear nothing any more?"""
        return self.status == 410


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: the same id at every attempt."""

    id: str
    body: str
    traceparent: str | None = None


class _Refused(Exception):
    """The operator's policy permits none of the addresses."""


class _Resolver(AbstractResolver):
    """Answers the permitted addresses of a tenant's name, and no others."""

    def __init__(self, policy: EgressPolicy, names: Names, tenant: str) -> None:
        self._policy = policy
        self._names = names
        self._tenant = tenant

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._names.look_up(self._tenant, host, port, family)
        permitted = [
            ResolveResult(
                hostname=host, host=one.ip, port=port, family=one.family, proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for one in found
            if self._policy.permits(ip_address(one.ip.partition("%")[0]), port)
        ]  # fmt: skip
        if not permitted:
            raise _Refused
        return permitted

    async def close(self) -> None:
        """The names are others' too."""


class _Answer(ResponseHandler):
    """A connection that is cut off once so much has come in answer to one request."""

    _left = ANSWER_OCTETS

    def set_response_params(self, **given: Any) -> None:
        """Begin with another request."""
        self._left = ANSWER_OCTETS
        super().set_response_params(**given)

    def data_received(self, data: bytes) -> None:
        taken, self._left = data[: self._left], self._left - len(data)
        super().data_received(taken)
        if self._left < 0:
            self._left = 0
            self.abort()


class _Connector(aiohttp.TCPConnector):
    """Makes a tenant's connections to a place, and keeps them for a moment."""

    def __init__(self, resolver: _Resolver, tls: ssl.SSLContext | None) -> None:
        # True where there is no TLS: the library wants something
        super().__init__(
            resolver=resolver, use_dns_cache=False, ssl=tls or True, keepalive_timeout=KEEP_SECONDS, limit=0
        )
        answers = partial(_Answer, **self._factory.keywords)  # aiohttp has no public way
        self._factory = cast("partial[ResponseHandler]", answers)


@dataclass
class _Line:
    """A tenant's connections to a place, and how many requests are under way there."""

    session: aiohttp.ClientSession
    busy: int = 0


@dataclass
class _Way:
    """How one request goes: over a connection that has carried others?"""

    kept: bool = False


class Poster:
    """Posts to endpoints under one egress policy; open it with `async with`."""

    def __init__(
        self, policy: EgressPolicy, seal: Seal, clock: Callable[[], int], tls: ssl.SSLContext | None = None
    ) -> None:
        """Nothing is opened yet. Without `tls` the machine's certificates are trusted."""
        self._policy = policy
        self._seal = seal
        self._clock = clock
        self._tls = tls
        self._lines: dict[tuple[str, WebPlace], _Line] = {}  # that which was used last at the end

    async def __aenter__(self) -> Self:
        self._names = Names()
        return self

    async def __aexit__(self, *_: object) -> None:
        for line in self._lines.values():
            await line.session.close()
        self._names.close()

    @asynccontextmanager
    async def _session(self, webhook: Webhook) -> AsyncIterator[aiohttp.ClientSession]:
        """Lend the tenant's session for the place."""
        key = tenant, place = webhook.tenant, webhook.place
        line = self._lines.pop(key, None) or _Line(self._open(tenant, place.scheme))
        self._lines[key] = line
        line.busy += 1
        try:
            yield line.session
        finally:
            line.busy -= 1
            await self._close_some()

    async def _close_some(self) -> None:
        """Close what nobody uses and was not used for longest, until few enough are left."""
        while len(self._lines) > KEPT:
            idle = next((key for key, line in self._lines.items() if not line.busy), None)
            if idle is None:
                return
            await self._lines.pop(idle).session.close()

    def _open(self, tenant: str, scheme: str) -> aiohttp.ClientSession:
        resolver = _Resolver(self._policy.over(scheme), self._names, tenant)
        tls = self._trusting() if scheme == "https" else None
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_over_a_kept_one)
        return aiohttp.ClientSession(
            connector=_Connector(resolver, tls), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
            auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None), read_bufsize=TAIL_OCTETS,
            skip_auto_headers=("Accept", "Accept-Encoding"), trace_configs=[trace],
        )  # fmt: skip

    def _trusting(self) -> ssl.SSLContext:
        """Give the TLS settings; to read the machine's certificates takes 25 ms, and many have no use for them."""
        if self._tls is None:
            self._tls = client_context()
            self._tls.set_alpn_protocols(("http/1.1",))
        return self._tls

    async def post(self, webhook: Webhook, message: Message) -> Attempt:
        """Make one attempt; what came of it is the answer, never an exception."""
        began = time.monotonic()

        def attempt(result: Result, status: int | None = None, pause: int | None = None) -> Attempt:
            return Attempt(result, round((time.monotonic() - began) * 1000), status, pause)

        try:
            signed = self._headers(webhook, message)
        except SealError:
            return attempt(Result.UNSIGNED)
        try:
            async with self._session(webhook) as session:
                async with asyncio.timeout(REQUEST_SECONDS):
                    response = await self._response(session, webhook, message, signed)
                answered = attempt(_meaning(response.status), response.status, _pause(response))
                await _throw_away(response)
                return answered
        except _Refused:
            return attempt(Result.EGRESS_REFUSED)
        except TimeoutError:
            return attempt(Result.TIMEOUT)
        except (aiohttp.ClientSSLError, ssl.SSLError):
            return attempt(Result.UNTRUSTED)
        except (aiohttp.ClientError, OSError, ValueError):
            return attempt(Result.UNREACHABLE)

    async def _response(
        self, session: aiohttp.ClientSession, webhook: Webhook, message: Message, signed: dict[str, str]
    ) -> aiohttp.ClientResponse:
        scheme, host, port = webhook.place
        with suppress(ValueError):  # a name, which is judged once it is resolved
            address = ip_address(host)
            if not self._policy.over(scheme).permits(address, port):
                raise _Refused
        while True:
            way = _Way()
            try:
                return await session.post(
                    URL(webhook.url, encoded=True), data=message.body.encode(), headers=signed, allow_redirects=False,
                    trace_request_ctx=way,
                )  # fmt: skip
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not way.kept:  # which it may hang up on at any moment (RFC 9112 §9.5)
                    raise

    def _headers(self, webhook: Webhook, message: Message) -> dict[str, str]:
        now = self._clock()
        signed = headers(self._secrets(webhook, now), message.id, now // 1000, message.body.encode())
        traced = {} if message.traceparent is None else {"traceparent": message.traceparent}
        agent = f"notification-gateway/{__version__}"
        return {**signed, **traced, "content-type": "application/json", "user-agent": agent}

    def _secrets(self, webhook: Webhook, now: int) -> Iterator[Secret]:
        yield self._seal.open(webhook.sealed, webhook.sealed_for)
        if webhook.previous is not None and webhook.signs_with_both(now):
            with suppress(SealError):  # its master key is gone, and so it signs no more
                yield self._seal.open(webhook.previous, webhook.sealed_for)


def _meaning(status: int) -> Result:
    if 200 <= status < 300:
        return Result.OK
    return Result.FAILED if status >= 500 else Result.REFUSED


def _pause(response: aiohttp.ClientResponse) -> int | None:
    """Read how long an endpoint asks to be left alone, in seconds or as a date (RFC 9110 §10.2.3)."""
    told = response.headers.get("Retry-After")
    if response.status not in (429, 503) or told is None:
        return None
    try:
        seconds = int(told) if told.isdecimal() else parsedate_to_datetime(told).timestamp() - time.time()
    except (ValueError, OverflowError, TypeError):
        return None
    return round(min(max(seconds, SHORTEST_PAUSE), LONGEST_PAUSE))


async def _over_a_kept_one(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.kept = True


async def _throw_away(response: aiohttp.ClientResponse) -> None:
    """Let a short answer come to its end; hang up on any other."""
    left = TAIL_OCTETS
    with suppress(aiohttp.ClientError, OSError, ValueError, TimeoutError):
        async with asyncio.timeout(TAIL_SECONDS):
            while left > 0 and (part := await response.content.read(left)):
                left -= len(part)
    response.close()
