"""A peer on a free loopback port that talks over asyncio's streams, and leaves nothing open behind it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Self


class StreamPeer:
    """Subclasses say in `talk` what they do with a connection; it is closed when that returns."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.host, self.port, self.tls = "127.0.0.1", 0, tls
        self._talks: set[asyncio.Future[None]] = set()
        self._server: asyncio.Server | None = None

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self.host, 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._talks.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self.talk(reader, writer)
        finally:
            await shut(writer)


async def shut(writer: asyncio.StreamWriter) -> None:
    """Close a stream and wait until it is."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
