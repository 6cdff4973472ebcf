r"""A peer that plays a fixed list of moves, whatever it is told, and keeps every byte that it hears.

Owns one listening socket on 127.0.0.1. It parses nothing: what a move says leaves as it stands, in a segment of its
own. TLS is done by hand over memory buffers, so that what came in clear and what came under TLS are both known.

Promises: when the moves are over, it goes on listening until the client hangs up; `Heard.closed` says that it did.
Under TLS it answers the client's close_notify with its own end, unless it `clings`.

    async with ListeningSink(Say(b"220 hi\r\n"), Hear(), Say(b"250 AUTH PLAIN\r\n")) as sink:
        ...                                       # connect to sink.host, sink.port
        await sink.wait_closed()
        assert not sink.heard[0].anywhere(b"s3cret")
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import Self, assert_never

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


@dataclass(frozen=True, slots=True)
class Say:
    """Write exactly these bytes, at once."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Hear:
    """Wait until the client has said this many whole lines more."""

    lines: int = 1


@dataclass(frozen=True, slots=True)
class HearHello:
    """Wait for the first bytes of the client's handshake, and leave them unanswered."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Let the event loop turn: what is said next comes in another segment."""

    turns: int = 5


@dataclass(frozen=True, slots=True)
class Shake:
    """Shake hands as a TLS server."""

    context: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class Leave:
    """Close with FIN, or with RST."""

    reset: bool = False


Move = Say | Hear | HearHello | Pass | Shake | Leave


@dataclass(slots=True)
class Heard:
    """One connection: the bytes as they came, those before the handshake, and those under TLS, decrypted."""

    raw: bytearray = field(default_factory=bytearray)
    in_clear: bytearray = field(default_factory=bytearray)
    under_tls: bytearray = field(default_factory=bytearray)
    tls: bool = False
    tls_error: str | None = None
    closed: bool = False

    def anywhere(self, needle: bytes) -> bool:
        """Did the client say this, in whatever way?"""
        return any(needle in said for said in (self.raw, self.in_clear, self.under_tls))

    @property
    def lines(self) -> list[bytes]:
        """The lines in clear, then those under TLS."""
        return [*bytes(self.in_clear).splitlines(), *bytes(self.under_tls).splitlines()]


class ListeningSink:
    """The peer: `async with ListeningSink(*moves) as sink`; each connection is led through all the moves."""

    def __init__(self, *moves: Move, clings: bool = False) -> None:
        self.host, self.port = "127.0.0.1", 0
        self.heard: list[Heard] = []
        self._moves, self._clings = moves, clings
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(5):  # the clients hear of it
            await asyncio.sleep(0)

    async def wait_closed(self, count: int = 1, timeout: float = 10.0) -> None:
        """Wait until this many connections came and the clients hung up on all of them."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: len(self.heard) >= count and all(one.closed for one in self.heard))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        heard = Heard()
        self.heard.append(heard)
        conversation = _Conversation(reader, writer, heard, clings=self._clings)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):  # cancelled by `__aexit__` alone
                await conversation.play(self._moves)
                while True:
                    await conversation.listen()
        finally:
            writer.transport.abort()
            heard.closed = True
            async with self._changed:
                self._changed.notify_all()


class _Conversation:
    """One connection under way."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Heard, *, clings: bool
    ) -> None:
        self._reader, self._writer, self._heard, self._clings = reader, writer, heard, clings
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._lines = 0

    async def play(self, moves: tuple[Move, ...]) -> None:
        for move in moves:
            match move:
                case Say(data):
                    await self._say(data)
                case Hear(lines):
                    self._lines += lines
                    while len(self._said.split(b"\n")) <= self._lines:
                        await self.listen()
                case HearHello():
                    while b"\x16\x03" not in self._heard.in_clear:
                        await self.listen()
                case Pass(turns):
                    for _ in range(turns):
                        await asyncio.sleep(0)
                case Shake(context):
                    await self._shake(context)
                case Leave(reset):
                    if reset:
                        linger = (socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        self._writer.get_extra_info("socket").setsockopt(*linger)
                    self._writer.transport.abort()
                    raise EOFError
                case _:
                    assert_never(move)

    @property
    def _said(self) -> bytes:
        return bytes(self._heard.in_clear if self._tls is None else self._heard.under_tls)

    async def listen(self) -> None:
        """Take what came, and write it down; EOFError when the client hung up."""
        data = await self._reader.read(_CHUNK)
        if not data:
            raise EOFError
        self._heard.raw += data
        if self._tls is None:
            self._heard.in_clear += data
            return
        self._incoming.write(data)
        self._decrypt()

    def _decrypt(self) -> None:
        assert self._tls is not None
        try:
            while plain := self._tls.read(_CHUNK):
                self._heard.under_tls += plain
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:  # an alert, most likely: what is not TLS any more stays in `raw`
            self._heard.tls_error = self._heard.tls_error or error.reason
            return
        if not self._clings:  # the client took its leave
            raise EOFError

    async def _say(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.write(data)
            data = self._outgoing.read()
        self._writer.write(data)
        await self._writer.drain()

    async def _shake(self, context: ssl.SSLContext) -> None:
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._lines = 0
        while not self._heard.tls:
            try:
                self._tls.do_handshake()
                self._heard.tls = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self._heard.tls_error = error.reason
                self._writer.write(self._outgoing.read())
                raise EOFError from None
            self._writer.write(self._outgoing.read())
            if not self._heard.tls:
                data = await self._reader.read(_CHUNK)
                if not data:
                    raise EOFError
                self._heard.raw += data
                self._incoming.write(data)
        self._decrypt()
