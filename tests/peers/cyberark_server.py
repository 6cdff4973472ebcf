"""CyberArk's Central Credential Provider on the real wire format, and what any fake secret store does on cue.

Owns two sockets on 127.0.0.1: the store, with TLS if it is given a context, and the host that its redirects lead to,
which only counts. The answers are those of AIMWebService: properties beside Content, errors as ErrorCode and ErrorMsg.

    async with CyberArkServer() as server:
        await server.put("relay-a", {"password": "s3cret", "UserName": "gateway"})
        server.misbehave(How.BROKEN)
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Self

from aiohttp import web

from tests.credentials.contract import BODY_CANARY, RETRY_AFTER, How

CHUNK = BODY_CANARY.encode() * 500
PAUSE = 0.05  # seconds between two octets of an answer that never ends
PAGE = f"<html><body>{BODY_CANARY}</body></html>"


class FakeStore:
    """A server that misbehaves on cue; what it is when it behaves, a subclass says in `answer`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.elsewhere = 0
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.how: How | None = None
        self.url = ""
        self._tls = tls
        self._runners: list[web.AppRunner] = []
        self._other = ""

    async def __aenter__(self) -> Self:
        self._other = f"http://127.0.0.1:{await self._listen(self._count, None)}/"
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{await self._listen(self._take, self._tls)}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for runner in self._runners:
            await runner.cleanup()

    def misbehave(self, how: How | None) -> None:
        """Do so from now on; None: behave."""
        self.how = how

    async def answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Answer as the product does."""
        raise NotImplementedError

    async def _listen(self, handler: object, tls: ssl.SSLContext | None) -> int:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)  # type: ignore[arg-type]
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self._runners.append(runner)
        port: int = runner.addresses[0][1]
        return port

    async def _count(self, request: web.Request) -> web.StreamResponse:
        self.elsewhere += 1
        return web.Response(text=BODY_CANARY)

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(request)
        self.bodies.append(body)
        return await self.answer(request, body)

    async def trouble(self, request: web.Request) -> web.StreamResponse | None:
        """What any server can do wrong; None: nothing of this."""
        match self.how:
            case How.THROTTLE:
                return web.Response(status=429, text=BODY_CANARY, headers={"Retry-After": f"{RETRY_AFTER:.0f}"})
            case How.BROKEN:
                return web.Response(status=503, text=BODY_CANARY)
            case How.HTML:
                return web.Response(text=PAGE, content_type="text/html")
            case How.REDIRECT:
                return web.Response(status=307, text=BODY_CANARY, headers={"Location": self._other})
            case How.OVERSIZE:
                return await _pour(request, CHUNK, pause=0)
            case How.DRIP:
                return await _pour(request, b" ", PAUSE)
        return None


async def _pour(request: web.Request, chunk: bytes, pause: float) -> web.StreamResponse:
    """Answer without an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(chunk)
        await asyncio.sleep(pause)


def failure(status: int, code: str) -> web.Response:
    """An error as CyberArk writes it; its message names users and safes."""
    return web.json_response({"ErrorCode": code, "ErrorMsg": f"{code} {BODY_CANARY}"}, status=status)


class CyberArkServer(FakeStore):
    """One safe, SMTP; an application, `gateway`, that may read it."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, certificate: bool = False) -> None:
        super().__init__(tls)
        self.accounts: dict[str, dict[str, object]] = {}
        self.failing: tuple[int, str] | None = None  # status and code that are answered, whatever is asked
        self.saying: dict[str, object] = {}  # said beside each password
        self.certificates: list[str | None] = []  # serial numbers of those that were shown, a request each
        self._wants_certificate = certificate

    async def put(self, key: str, fields: Mapping[str, str]) -> None:
        """Keep an account under the object's name."""
        properties = {name: value for name, value in fields.items() if name != "password"}
        self.accounts[key] = {"Content": fields["password"], "Safe": "SMTP", "Name": key, **properties}

    async def delete(self, key: str) -> None:
        """Delete an account."""
        del self.accounts[key]

    async def answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Find an account, as GET /AIMWebService/api/Accounts does."""
        shown = request.get_extra_info("peercert") or {}
        self.certificates.append(shown.get("serialNumber"))
        if self.failing is not None:
            return failure(*self.failing)
        if self._wants_certificate and not shown:
            return web.Response(status=403, text=f"<h2>403.7 {BODY_CANARY}</h2>", content_type="text/html")  # IIS
        if self.how is How.DENY:
            return failure(403, "APPAP306E")
        if self.how is How.BROKEN:
            return failure(400, "APPAP007E")
        if trouble := await self.trouble(request):
            return trouble
        if request.method != "GET" or request.path != "/AIMWebService/api/Accounts":
            return web.Response(status=404, text=PAGE, content_type="text/html")
        return self._find({name.lower(): value for name, value in request.query.items()})

    def _find(self, query: Mapping[str, str]) -> web.Response:
        if not query.get("appid"):
            return failure(400, "AIMWS031E")
        if query["appid"] != "gateway":
            return failure(403, "APPAP008E")
        criteria = {"safe": "Safe", "object": "Name", "username": "UserName"}
        wanted = {criterion: query[name] for name, criterion in criteria.items() if name in query}
        found = [one for one in self.accounts.values() if wanted.items() <= one.items()]
        if len(found) > 1:
            return failure(400, "APPAP227E")
        if not found:
            return failure(404, "APPAP004E")
        return web.json_response({"PasswordChangeInProcess": "False", "Folder": "Root", **found[0], **self.saying})
