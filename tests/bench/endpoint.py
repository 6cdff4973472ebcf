"""An endpoint that webhooks are posted to: it takes every event, and ends when it has got so many.

Run as `python -m tests.bench.endpoint PORT EVENTS`.
"""

import asyncio
import sys
from typing import cast

import uvloop

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"
TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


class Taking(asyncio.Protocol):
    """Answers whatever has come whole."""

    left = 0
    enough: asyncio.Event

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._whole()) is not None:
            self._data = self._data[end:]
            self._transport.write(TAKEN)
            Taking.left -= 1
            if Taking.left == 0:
                Taking.enough.set()

    def _whole(self) -> int | None:
        head, found, body = self._data.partition(HEAD_END)
        if not found:
            return None
        octets = int(head.lower().partition(LENGTH)[2].partition(b"\r\n")[0])
        return None if len(body) < octets else len(head) + len(HEAD_END) + octets


async def serve(port: int, events: int) -> None:
    """Take so many events."""
    Taking.left, Taking.enough = events, asyncio.Event()
    async with await asyncio.get_running_loop().create_server(Taking, "127.0.0.1", port):
        await Taking.enough.wait()


if __name__ == "__main__":
    uvloop.run(serve(*map(int, sys.argv[1:])))
