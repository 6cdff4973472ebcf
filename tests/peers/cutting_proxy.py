"""A TCP proxy on loopback that breaks the connection after an exact number of bytes.

Owns the listening socket and a pair of streams per connection. Counts bytes as they are on the wire, TLS included,
so a reference dialogue tells where there is something to cut (over TLS the totals vary by a few bytes).

The side towards which byte N travelled has received exactly N bytes when it sees the end. With "stall" both
directions stop for good, nothing is read any more, and the ends stay open until `drop` or the end of the block.

    async with CuttingProxy(relay.host, relay.port) as proxy:
        ...                                       # one whole dialogue through proxy.port
        total = proxy.passages[-1].to_server
        for after in range(total):
            proxy.cut("to_server", after, "rst")  # from the next connection on
            ...
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, assert_never

Direction = Literal["to_server", "to_client"]
How = Literal["fin", "rst", "stall"]

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


@dataclass(frozen=True, slots=True)
class Cut:
    """Where and how to break a connection."""

    direction: Direction
    after: int
    how: How


@dataclass(slots=True)
class Passage:
    """One connection through the proxy: the bytes it forwarded each way, and how it ended."""

    plan: Cut | None
    to_server: int = 0
    to_client: int = 0
    cut: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class _End:
    """One side of a passage."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """Close with RST, unread bytes or not."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()

    async def finish(self) -> None:
        """Send FIN, then read to the end: closing over unread bytes would send RST instead."""
        if not self.writer.is_closing():
            self.writer.write_eof()
        while await self.reader.read(_CHUNK):
            pass


class CuttingProxy:
    """The proxy: `async with CuttingProxy(host, port) as proxy`, then connect to `proxy.host`, `proxy.port`."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.host, self.port = "127.0.0.1", 0
        self.passages: list[Passage] = []
        self._plan: Cut | None = None
        self._times: int | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.drop()

    def cut(self, direction: Direction, after: int, how: How, *, times: int | None = None) -> None:
        """Break the next connections (the next `times`, or all) when `after` bytes went in that direction."""
        self._plan, self._times = Cut(direction, after, how), times

    def uncut(self) -> None:
        """Let the next connections pass."""
        self._plan, self._times = None, None

    async def drop(self) -> None:
        """Cut every open connection now, with FIN or RST as the kernel likes."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait(self, predicate: Callable[[], object], timeout: float = 10.0) -> None:
        """Wait until `predicate` holds; it is asked again when a connection opens, is cut, or is closed."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(predicate)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _take_plan(self) -> Cut | None:
        if self._times is not None:
            if self._times == 0:
                return None
            self._times -= 1
        return self._plan

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passage = Passage(self._take_plan())
        self.passages.append(passage)
        task = asyncio.get_running_loop().create_task(self._serve(_End(reader, writer), passage))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: _End, passage: Passage) -> None:
        await self._tell()
        try:
            server = _End(*await asyncio.open_connection(*self.target))
        except OSError:
            client.reset()
        else:
            try:
                await self._carry(client, server, passage)
            except OSError:  # one end reset: so does the other see it
                client.reset()
                server.reset()
            finally:
                server.writer.transport.abort()
        finally:
            client.writer.transport.abort()
            passage.closed = True
        await self._tell()

    async def _carry(self, client: _End, server: _End, passage: Passage) -> None:
        """Forward both ways until both ends are done, or the cut is due."""
        open_pumps = {
            asyncio.ensure_future(self._pump("to_server", client.reader, server.writer, passage)),
            asyncio.ensure_future(self._pump("to_client", server.reader, client.writer, passage)),
        }
        try:
            while open_pumps and not passage.cut:
                done, open_pumps = await asyncio.wait(open_pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in done:
                    pump.result()
        finally:
            for pump in open_pumps:
                pump.cancel()
            await asyncio.gather(*open_pumps, return_exceptions=True)
        if passage.cut and passage.plan is not None:
            await self._tell()
            await self._end(client, server, passage.plan.how)

    async def _pump(
        self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: Passage
    ) -> None:
        """Forward one direction up to its end or to the cut."""
        plan = passage.plan if passage.plan is not None and passage.plan.direction == direction else None
        writer.transport.set_write_buffer_limits(high=0)  # drained means handed to the kernel
        passed = 0
        while plan is None or passed < plan.after:
            data = await reader.read(_CHUNK if plan is None else min(_CHUNK, plan.after - passed))
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            passed += len(data)
            setattr(passage, direction, passed)
            await writer.drain()
        passage.cut = True

    async def _end(self, client: _End, server: _End, how: How) -> None:
        match how:
            case "fin":
                await asyncio.gather(client.finish(), server.finish())
            case "rst":
                client.reset()
                server.reset()
            case "stall":
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a StreamWriter's transport reads too
                server.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.Event().wait()
            case _:
                assert_never(how)
