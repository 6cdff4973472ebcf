r"""A relay that takes other bytes than CRLF.CRLF for the end of a message, as some of the real world did (and do).

Owns one listening socket on 127.0.0.1. Accepts everything, answers at once, and keeps a ledger: each message with its
envelope as this relay understood it, and every command that it heard.

    async with LenientSink(b"\n.\n") as sink:      # and CRLF.CRLF, always
        ...
        assert [one.mail_from for one in sink.messages] == ["a@example.test"]
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self

STRICT = b"\r\n.\r\n"


@dataclass(frozen=True, slots=True)
class Taken:
    """One accepted message; `data` is as it came, dots still doubled, without the line ends that close it."""

    mail_from: str
    rcpt_tos: tuple[str, ...]
    data: bytes


class LenientSink:
    """The relay: `endings` end a message besides CRLF.CRLF; with `nul_blind` NULs are dropped before anything is read."""

    def __init__(self, *endings: bytes, nul_blind: bool = False) -> None:
        self.host, self.port = "127.0.0.1", 0
        self.endings, self.nul_blind = (STRICT, *endings), nul_blind
        self.messages: list[Taken] = []
        self.commands: list[str] = []
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for transport in tuple(self._connections):
            transport.abort()
        for _turn in range(5):  # both ends hear of it
            await asyncio.sleep(0)

    def attach(self, transport: asyncio.Transport) -> None:
        """A connection is there."""
        self._connections.add(transport)

    def detach(self, transport: asyncio.Transport) -> None:
        """A connection is gone."""
        self._connections.discard(transport)


class _Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, sink: LenientSink) -> None:
        self._sink = sink
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._body: bytearray | None = None
        self._mail_from, self._rcpt_tos = "", list[str]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sink.attach(transport)
        transport.write(b"220 sink.test ESMTP\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._sink.detach(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data.replace(b"\0", b"") if self._sink.nul_blind else data
        while self._take_line() if self._body is None else self._take_body():
            pass

    def _take_line(self) -> bool:
        line, end, rest = self._buffer.partition(b"\n")
        if not end:
            return False
        self._buffer = rest
        if command := line.rstrip(b"\r").decode("latin-1"):
            self._sink.commands.append(command)
            self._transport.write(self._answer(command))
        return True

    def _answer(self, command: str) -> bytes:
        verb, path = command[:4].upper(), command.partition("<")[2].partition(">")[0]
        match verb:
            case "EHLO":
                return b"250-sink.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
            case "MAIL":
                self._mail_from, self._rcpt_tos = path, []
            case "RCPT":
                self._rcpt_tos.append(path)
            case "DATA":
                self._body = bytearray(b"\r\n")  # the line before the body ended so
                return b"354 go on\r\n"
            case "QUIT":
                return b"221 bye\r\n"
            case _:
                pass
        return b"250 ok\r\n"

    def _take_body(self) -> bool:
        assert self._body is not None
        seen = max(len(self._body) - len(STRICT), 0)
        self._body += self._buffer
        self._buffer.clear()
        found = [(at + len(ending), at) for ending in self._sink.endings if (at := self._body.find(ending, seen)) >= 0]
        if not found:
            return False
        end, at = min(found)
        self._buffer += self._body[end:]
        data = bytes(self._body[2:at]).rstrip(b"\r\n")
        self._body = None
        self._sink.messages.append(Taken(self._mail_from, tuple(self._rcpt_tos), data))
        self._transport.write(b"250 queued\r\n")
        return True
