"""Clients that ask and do not read: how long an answer waits for them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme
from aiohttp import web

from gateway.http.protocol import Server
from tests.http.world import World
from tests.store.building import put, row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATIENCE = 0.2
PATIENT = 0.5
LITTLE = 30_000  # stays below what makes a writer wait
MUCH = 3_000_000
TCP = socket.AF_INET, ("127.0.0.1", 0)
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ASK_ONCE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.protocol.PATIENCE_SECONDS", PATIENCE)


class Answering:
    """Answers every request with so many octets, from sockets that keep little."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.server = Server(self._answer, access_log=None, keepalive_timeout=0.1)

    async def _answer(self, _request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=bytes(self.size))

    async def hangs_up(self) -> None:
        """Return when somebody has asked, and there are no connections any more."""
        async with asyncio.timeout(10):
            while not self.server.requests_count or self.server.connections:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def answering(
    family: socket.AddressFamily, address: object, size: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Answering, socket.socket]]:
    """An answering server, and a client's socket that is connected to it."""
    peer = Answering(size)
    runner = web.ServerRunner(peer.server, shutdown_timeout=0)
    await runner.setup()
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.setblocking(False)
        listener.bind(address)
        listener.listen()
        await web.SockSite(runner, listener, ssl_context=tls).start()
        await asyncio.get_running_loop().sock_connect(client, listener.getsockname())
        try:
            yield peer, client
        finally:
            client.close()
            await runner.cleanup()


@pytest.fixture(params=["tcp", "unix"])
def listened(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[socket.AddressFamily, object]:
    """A kind of socket, and an address to listen at."""
    if request.param == "unix":
        return socket.AF_UNIX, str(tmp_path / "http.sock")
    return TCP


async def test_a_client_that_takes_nothing_is_hung_up_on(listened: tuple[socket.AddressFamily, object]) -> None:
    """Its answer does not wait for ever."""
    async with answering(*listened, MUCH) as (peer, client):
        await asyncio.get_running_loop().sock_sendall(client, ASK)
        await peer.hangs_up()


async def test_what_is_left_when_a_connection_closes_does_not_stay() -> None:
    """Be it so little that nobody waits for it."""
    async with answering(*TCP, LITTLE) as (peer, client):
        await asyncio.get_running_loop().sock_sendall(client, ASK_ONCE)
        await peer.hangs_up()


async def test_a_kept_connection_with_an_unread_answer_is_closed() -> None:
    """When it has been idle for its time, and then not at the client's leisure."""
    async with answering(*TCP, LITTLE) as (peer, client):
        await asyncio.get_running_loop().sock_sendall(client, ASK)
        await peer.hangs_up()


async def test_a_slow_client_gets_all_of_its_answer(
    monkeypatch: pytest.MonkeyPatch, listened: tuple[socket.AddressFamily, object]
) -> None:
    """It takes several times longer than one that takes nothing is borne with, and takes a little all the while."""
    monkeypatch.setattr("gateway.http.protocol.PATIENCE_SECONDS", PATIENT)
    loop, taken = asyncio.get_running_loop(), 0
    async with answering(*listened, MUCH) as (_, client):
        await loop.sock_sendall(client, ASK_ONCE)
        until = loop.time() + 4 * PATIENT
        while octets := await loop.sock_recv(client, 4_096 if loop.time() < until else 1 << 20):
            taken += len(octets)
            await asyncio.sleep(PATIENT / 20 if loop.time() < until else 0)
    assert taken > MUCH


async def test_who_writes_piece_by_piece_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the answer did not arrive: not that it is done."""
    told: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    async def answer(_peer: Answering, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(bytes(MUCH))
        except ConnectionError as error:
            told.set_result(error)
            raise
        told.set_result(None)
        return response

    monkeypatch.setattr(Answering, "_answer", answer)
    async with answering(*TCP, 0) as (_, client):
        await asyncio.get_running_loop().sock_sendall(client, ASK)
        async with asyncio.timeout(10):
            assert isinstance(await told, ConnectionError)


async def test_requests_whose_answers_nobody_reads_over_tls() -> None:
    """They are answered up to a point, and then the client is hung up on."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with answering(*TCP, MUCH, tls) as (peer, client):
        _, writer = await asyncio.open_connection(sock=client, ssl=trust, server_hostname="127.0.0.1", limit=1)
        writer.write(ASK * 3)
        await peer.hangs_up()
        writer.transport.abort()


async def test_a_backup_that_nobody_takes(world: World) -> None:
    """Its client is hung up on; it counts as none, and the next one may be fetched."""
    await put(world.store, *(row(content=f'{{"text":"{"x" * 100_000}"}}') for _ in range(300)))
    key = await world.key_for("system")
    reader, writer = await asyncio.open_connection("127.0.0.1", world.server.port, limit=100)
    writer.write(f"GET /v1/backup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    await reader.readline()
    async with asyncio.timeout(10):
        while world.server.connections:
            await asyncio.sleep(0.01)
    noted = (await world.call("GET", "/v1/doctor", "system")).json["store"]["last_backup_at"]
    async with world.store.copier.copy():
        pass
    writer.close()

    assert noted is None
