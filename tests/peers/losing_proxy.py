"""A proxy before a PostgreSQL server that loses answers, and that can be away: `async with LosingProxy(port) as proxy`.

With a certificate it takes TLS only, as a pooler before the server does.

What is lost is chosen by words in the request: the server carries it out and answers, and instead of the answer the
client sees its connection end. So it is certain that the request was committed, and that the client cannot know.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

CHUNK: Final = 1 << 20
TLS_PLEASE: Final = struct.pack("!ii", 8, 80877103)
READY: Final = b"Z\0\0\0\x05I"  # the server is done with a request, and not in a transaction


@dataclass(slots=True)
class _Passage:
    """One connection; `losing` from the request on whose answer is to be lost."""

    losing: bool = False


class LosingProxy:
    """The proxy; `url` leads through it to the server that `to` names."""

    def __init__(self, to: str, tls: ssl.SSLContext | None = None) -> None:
        self.lost = 0
        self._tls = tls
        self._parts = urlsplit(to)
        self._port = 0
        self._server: asyncio.Server | None = None
        self._words = b""
        self._times = 0
        self._held = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()

    @property
    def url(self) -> str:
        """Where the database is, through the proxy."""
        user, _, _ = self._parts.netloc.rpartition("@")
        return urlunsplit(self._parts._replace(netloc=f"{user}@127.0.0.1:{self._port}"))

    async def __aenter__(self) -> Self:
        await self.come()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    def lose(self, words: str, times: int = 1) -> None:
        """Lose the answers to the next requests that contain these words."""
        self._words, self._times = words.encode(), times

    def hold(self) -> None:
        """Pass nothing on any more, and keep every connection open."""
        self._held = True

    async def come(self) -> None:
        """Be there: again under the same port."""
        self._held = False
        if self._server is not None and self._server.is_serving():
            return
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def leave(self) -> None:
        """End all connections, and refuse new ones."""
        if self._server is not None:
            self._server.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, predicate: Callable[[], object]) -> None:
        """Wait until this holds; it is asked again after every loss."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(predicate)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._parts.hostname is not None
        passage = _Passage()
        ends = [writer]
        try:
            if self._tls is not None:
                assert await reader.readexactly(len(TLS_PLEASE)) == TLS_PLEASE
                writer.write(b"S")
                await writer.start_tls(self._tls)
            from_server, to_server = await asyncio.open_connection(self._parts.hostname, self._parts.port or 5432)
            ends.append(to_server)
            ways = [
                asyncio.ensure_future(self._forth(reader, to_server, passage)),
                asyncio.ensure_future(self._back(from_server, writer, passage)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass
        finally:
            for end in ends:
                end.transport.abort()

    async def _forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: _Passage) -> None:
        while data := await self._read(reader.read):
            if self._times and self._words in data:
                self._times -= 1
                passage.losing = True
            writer.write(data)
            await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: _Passage) -> None:
        while data := await self._read(reader.read):
            if not passage.losing:
                writer.write(data)
                await writer.drain()
            elif data.endswith(READY):
                async with self._changed:
                    self.lost += 1
                    self._changed.notify_all()
                return

    async def _read(self, read: Callable[[int], Awaitable[bytes]]) -> bytes:
        data = await read(CHUNK)
        if self._held:
            await asyncio.Event().wait()
        return data
