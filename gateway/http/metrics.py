"""The metrics listener: /metrics in Prometheus' text form or OpenMetrics, and the two health answers."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from aiohttp import web
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder

from gateway.http.call import Services
from gateway.http.listeners import remove_socket, sockets_for
from gateway.http.operations import health
from gateway.observe.metrics import Everything
from gateway.settings import ListenAddress, UnixAddress


class _Collected(NamedTuple):
    """Metrics as they were at one moment, for the library's encoders."""

    metrics: list[Metric]

    def collect(self) -> list[Metric]:
        return self.metrics


class MetricsServer:
    """Serves what Prometheus scrapes; takes no key, so it belongs on a loopback or management address."""

    def __init__(self, services: Services) -> None:
        """Prepare; nothing listens before `start`."""
        self._services = services
        self._everything = Everything(services.credentials.cache.looks)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="metrics")  # of its own: the other may wait for names
        application = web.Application()
        application.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/livez", self._live),
                web.get("/readyz", self._ready),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        self._files: list[Path] = []

    async def start(self, listen: Sequence[ListenAddress]) -> None:
        """Listen on every address. OSError, which names it, if one cannot be had."""
        await self._runner.setup()
        for address in listen:
            for listener in sockets_for(address):
                if isinstance(address, UnixAddress):
                    self._files.append(address.path)
                await web.SockSite(self._runner, listener).start()

    @property
    def port(self) -> int:
        """The first TCP port."""
        return next(int(address[1]) for address in self._runner.addresses if isinstance(address, tuple))

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()
        for file in self._files:
            remove_socket(file)
        self._writer.shutdown(wait=False)

    async def _metrics(self, request: web.Request) -> web.Response:
        """Read everything at one moment, and write it elsewhere: that takes longer than callers should wait for."""
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        collected = _Collected(list(self._everything.collect()))
        body = await asyncio.get_running_loop().run_in_executor(self._writer, encoder, collected)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response(health([]))

    async def _ready(self, _: web.Request) -> web.Response:
        reasons = self._services.reasons()
        return web.json_response(health(reasons), status=503 if reasons else 200)
