"""A proxy that does as it is told: SOCKS5 or HTTP CONNECT, with a relay behind it, in the segments the test wants.

The real proxies are in `proxies`; this one answers what no well-behaved one would, and keeps what it was asked.

    async with ScriptedProxy("http_connect", glued=True) as proxy:
        ...                                   # dial proxy.host, proxy.port
        assert proxy.asked == ["127.0.0.1:2525"]
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import struct

from tests.peers.stream_peer import StreamPeer, shut


class ScriptedProxy(StreamPeer):
    """`answer` replaces what is said to a request; `glued` sends the relay's greeting in the segment of the answer.

    `leads_to` is the port on loopback where every way ends, whatever was asked for.
    """

    def __init__(
        self, kind: str, *, answer: bytes | None = None, glued: bool = False, login: tuple[str, str] | None = None,
        names: dict[str, str] | None = None, leads_to: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kind, self.answer, self.glued, self.login, self.names = kind, answer, glued, login, names or {}
        self.leads_to = leads_to
        self.asked: list[str] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (self._http(reader, writer) if self.kind == "http_connect" else self._socks(reader, writer))

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.asked.append(target := request.split(" ")[1])
        if self.login is not None:
            basic = "Basic " + base64.b64encode(":".join(self.login).encode()).decode()
            if f"Proxy-Authorization: {basic}" not in fields:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
        host, _, port = target.rpartition(":")
        await self._tunnel(reader, writer, host.strip("[]"), int(port), b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n")

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        offered = await reader.readexactly(count)
        if self.login is not None and 2 not in offered:
            writer.write(b"\x05\xff")
            return
        writer.write(b"\x05\x02" if self.login is not None else b"\x05\x00")
        if self.login is not None and not await self._socks_login(reader, writer):
            return
        _, _, _, kind = await reader.readexactly(4)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        (port,) = struct.unpack(">H", await reader.readexactly(2))
        self.asked.append(f"{host}:{port}")
        await self._tunnel(reader, writer, host, port, b"\x05\x00\x00\x01" + bytes(6))

    async def _socks_login(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readexactly(1)
        user = await reader.readexactly((await reader.readexactly(1))[0])
        password = await reader.readexactly((await reader.readexactly(1))[0])
        right = (user.decode(), password.decode()) == self.login
        writer.write(b"\x01\x00" if right else b"\x01\x01")
        return right

    async def _tunnel(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, yes: bytes
    ) -> None:
        if self.answer is not None:
            writer.write(self.answer)
            return
        target = (self.names.get(host, host), port) if self.leads_to is None else ("127.0.0.1", self.leads_to)
        far_reader, far_writer = await asyncio.open_connection(*target)
        greeting = await far_reader.readline() if self.glued else b""
        writer.write(yes + greeting)
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            await shut(far_writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
