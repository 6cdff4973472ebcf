"""An endpoint of somebody's that webhooks are posted to: it remembers what came, and answers as it is told.

async with WebhookEndpoint() as endpoint:
    endpoint.answers.append(Reply(503, {"Retry-After": "7"}))      # then 200 again
    ...
    [first] = await endpoint.received(1)
    first.verify(secret)                                           # by the reference implementation
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web
from standardwebhooks.webhooks import Webhook

from tests.peers.web_peer import WebPeer

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 30


@dataclass(frozen=True)
class Reply:
    """What is answered to a request; `held`: only once that is set."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"thanks"
    held: asyncio.Event | None = None


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: str

    def verify(self, *secrets: str) -> Any:
        """Check the signature with each of the secrets, as a tenant would; gives the payload."""
        told = [Webhook(secret).verify(self.body, dict(self.headers)) for secret in secrets]
        return told[0]

    @property
    def id(self) -> str:
        """The event's id."""
        return self.headers["webhook-id"]


class WebhookEndpoint(WebPeer):
    """`usual` is what is answered when no other answer is waiting."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self.requests: list[Received] = []
        self.answers: deque[Reply] = deque()
        self.usual = Reply()
        self.at_once = self.most_at_once = 0
        self._tls = tls
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self.port = await self._listen(app, tls=self._tls)
        return self

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/hook?token=t0ken"

    async def _answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(request.path_qs, headers, (await request.read()).decode())
        reply = self.answers.popleft() if self.answers else self.usual
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        async with self._news:
            self.requests.append(received)
            self._news.notify_all()
        try:
            if reply.held is not None:
                waits = [asyncio.ensure_future(one.wait()) for one in (reply.held, self._stopping)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for one in waits:
                    one.cancel()
        finally:
            self.at_once -= 1
        return web.Response(status=reply.status, headers=reply.headers, body=reply.body)

    async def received(self, count: int, seconds: float = SECONDS) -> list[Received]:
        """Wait until so many requests have come; gives all that have."""
        async with asyncio.timeout(seconds), self._news:
            await self._news.wait_for(lambda: len(self.requests) >= count)
        return list(self.requests)
