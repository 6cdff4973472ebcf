"""A name server on loopback that knows what a test tells it: TXT records, asked for by UDP or TCP.

Owns one port of 127.0.0.1, for both. A name without a record does not exist (NXDOMAIN). An answer of more than 512
octets is truncated over UDP, whatever the client would take, and the whole is had by TCP (RFC 1035 §4.2.1).

    async with NameServer({"key._domainkey.example.test": "v=DKIM1; p=..."}) as names:
        ...                                       # ask names.host, names.port
        assert "key._domainkey.example.test" in names.asked
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Self, cast

from dnslib import QTYPE, RCODE, RR, TXT, DNSError, DNSRecord  # type: ignore[import-untyped]

_UDP_OCTETS = 512
_STRING_OCTETS = 255  # of a TXT record, which may have several strings


class NameServer:
    """The server: `async with NameServer(texts) as names`; `texts` may be changed at any time."""

    def __init__(self, texts: Mapping[str, str] = {}) -> None:
        self.host, self.port = "127.0.0.1", 0
        self.texts = dict(texts)
        self.asked: list[str] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._converse, self.host, 0)
        self.port = self._tcp.sockets[0].getsockname()[1]
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), (self.host, self.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._udp.close()
        self._tcp.close()

    def reply(self, query: bytes) -> DNSRecord:
        """Answer one question."""
        asked = DNSRecord.parse(query)
        name = str(asked.q.qname).rstrip(".").lower()
        self.asked.append(name)
        answer = asked.reply()
        if name not in self.texts:
            answer.header.rcode = RCODE.NXDOMAIN
        elif asked.q.qtype == QTYPE.TXT:
            answer.add_answer(RR(asked.q.qname, QTYPE.TXT, rdata=_txt(self.texts[name]), ttl=60))
        return answer

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes over one connection, each with its length in front."""
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(2))
                reply = self.reply(await reader.readexactly(length)).pack()
                writer.write(len(reply).to_bytes(2) + reply)
        except (asyncio.IncompleteReadError, ConnectionError, DNSError):
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    """The UDP side; what is no question is dropped."""

    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        try:
            reply = self._server.reply(data)
        except DNSError:
            return
        packed = reply.pack()
        self._transport.sendto(packed if len(packed) <= _UDP_OCTETS else reply.truncate().pack(), addr)


def _txt(text: str) -> TXT:
    octets = text.encode()
    return TXT([octets[at : at + _STRING_OCTETS] for at in range(0, len(octets), _STRING_OCTETS)])
