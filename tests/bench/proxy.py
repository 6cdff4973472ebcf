"""A TCP proxy in front of a relay: it delays what passes (a distant relay), or ends TLS (a relay that asks for it).

Run as `python -m tests.bench.proxy PORT RELAY_PORT (--delay MILLISECONDS | --tls PEM)`. The delay is each way; PEM
holds key and certificates.
"""

import argparse
import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop

from tests.bench.loadgen import precise_loop


class Side(asyncio.Protocol):
    """One end of a passage: what it receives goes out at the other end, `delay` seconds later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._early: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.other: Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        for data in self._early:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._later(lambda side: side.write(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._later(Side.close)

    def _later(self, act: "Callable[[Side], None]") -> None:
        assert self.other is not None
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, act, self.other)
        else:
            act(self.other)

    def write(self, data: bytes) -> None:
        """Send, or keep until the connection is there."""
        if self._transport is None:
            self._early.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close once everything is sent."""
        if self._transport is not None:
            self._transport.close()


class Passages:
    """Opens the far side of every connection."""

    def __init__(self, relay_port: int, delay: float) -> None:
        self._relay_port, self._delay = relay_port, delay
        self._dials: set[asyncio.Task[object]] = set()

    def __call__(self) -> Side:
        """Make the near side, and dial the far one."""
        near, far = Side(self._delay), Side(self._delay)
        near.other, far.other = far, near
        loop = asyncio.get_running_loop()
        dial = loop.create_task(loop.create_connection(lambda: far, "127.0.0.1", self._relay_port))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)
        return near


async def serve(port: int, passages: Passages, tls: ssl.SSLContext | None) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(passages, "127.0.0.1", port, ssl=tls, backlog=1000)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("relay_port", type=int)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--tls", type=Path)
    given = parser.parse_args()
    tls = None
    if given.tls is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(given.tls)
    with asyncio.Runner(loop_factory=precise_loop if given.delay else uvloop.new_event_loop) as runner:
        runner.run(serve(given.port, Passages(given.relay_port, given.delay / 1000), tls))


if __name__ == "__main__":
    main()
