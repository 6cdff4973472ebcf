"""A fake of somebody's web service on loopback: as many addresses as it needs, all closed at the end."""

from __future__ import annotations

import asyncio

from aiohttp import web

from tests.peers.smtp_server import IssuedTls, issue_tls


class WebPeer:
    """Subclasses listen in `__aenter__`; an answer that takes its time ends when `_stopping` is set."""

    def __init__(self) -> None:
        self.tls: IssuedTls = issue_tls()
        self._stopping = asyncio.Event()
        self._runners: list[web.AppRunner] = []

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        for runner in self._runners:
            await runner.cleanup()

    async def _listen(self, app: web.Application, *, tls: bool) -> int:
        runner = web.AppRunner(app, shutdown_timeout=1)
        self._runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self.tls.context if tls else None)
        await site.start()
        return int(runner.addresses[0][1])
