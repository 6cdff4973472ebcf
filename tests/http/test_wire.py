"""The listener on the wire: slowness, garbage, sockets, TLS, and how it ends."""

import asyncio
import os
import socket
import ssl
import stat
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from gateway.http.listeners import sockets_for, tls_context
from gateway.http.metrics import MetricsServer
from gateway.http.server import HttpServer
from gateway.settings import SystemdSocket, TcpAddress, UnixAddress
from tests.http.world import World, running
from tests.peers.requirements import require

HEAD = b"POST /v1/notifications HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def connect(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", world.server.port)


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send an octet at a time, for as long as the peer lets us."""
    for octet in data:
        writer.write(bytes((octet,)))
        await writer.drain()
        await asyncio.sleep(0.05)


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> float:
    """Drip a head that never ends, and tell after how many seconds the server hung up."""
    began = time.monotonic()
    dripping = asyncio.create_task(drip(writer, head + b"X-Slow: " + b"x" * 10_000))
    try:
        async with asyncio.timeout(10):
            assert await reader.read() == b""
    except ConnectionResetError:
        pass
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)
    writer.close()
    return time.monotonic() - began


async def test_slow_head_on_a_fresh_connection(world: World) -> None:
    """A head that dribbles in is cut off after header_timeout_seconds."""
    assert 0.5 < await closes(*await connect(world), HEAD) < 3


async def test_slow_head_on_a_kept_connection(world: World) -> None:
    """The same holds for the second request of a connection."""
    reader, writer = await connect(world)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b'"reasons":[]}')).startswith(b"HTTP/1.1 200")
    assert 0.5 < await closes(reader, writer, HEAD) < 3


async def test_silent_connection(world: World) -> None:
    """A connection that says nothing is closed as well."""
    reader, writer = await connect(world)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_slow_body(world: World) -> None:
    """A body that dribbles in is 408 after body_timeout_seconds for all of it, and the connection ends."""
    reader, writer = await connect(world)
    key = (await world.key_for("acme")).encode()
    writer.write(HEAD + b"Authorization: Bearer " + key + b"\r\nContent-Length: 1000\r\n\r\n")
    began = time.monotonic()
    dripping = asyncio.create_task(drip(writer, b" " * 1000))
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert b"Connection: close" in head
    assert 0.5 < time.monotonic() - began < 3
    dripping.cancel()
    writer.close()


async def test_hanging_up_in_the_body_is_no_failure_of_ours(tmp_path: Path) -> None:
    """A client that goes away before its body is whole is answered as a bad request, which nobody reads."""
    answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with running(tmp_path, on_answer=lambda _route, status, *_: answered.set_result(status)) as world:
        reader, writer = await connect(world)
        key = (await world.key_for("acme")).encode()
        writer.write(HEAD + b"Authorization: Bearer " + key + b"\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        async with asyncio.timeout(5):
            assert await answered == 400


async def test_expect_continue(world: World) -> None:
    """A client that asks before it sends its body is told to go on, or why not."""
    key = (await world.key_for("acme")).encode()
    expecting = HEAD + b"Authorization: Bearer " + key + b"\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    reader, writer = await connect(world)
    writer.write(expecting % 2)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert (await reader.readuntil(b"}]}")).startswith(b"HTTP/1.1 422")
    writer.write(expecting % 100_000)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
    ],
)
async def test_garbage(world: World, garbage: bytes) -> None:
    """What is no HTTP is a problem document and the end of the connection; nothing of it comes back."""
    reader, writer = await connect(world)
    writer.write(garbage)
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b'"code": "bad_request"' in answer
    assert b"aaaa" not in answer
    writer.close()


async def test_pipelined_requests(world: World) -> None:
    """Requests that follow each other without waiting are answered in their order."""
    reader, writer = await connect(world)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answers = await reader.read()
    assert answers.index(b"HTTP/1.1 200") < answers.index(b"HTTP/1.1 404")
    writer.close()


# Sockets.


async def ask_socket(path: Path, url: str, key: str | None = None) -> tuple[int, object]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get(f"http://gateway{url}", headers=headers) as response,
    ):
        return response.status, await response.json(content_type=None)


async def test_admin_socket(world: World) -> None:
    """At the admin socket the daemon's own user is an administrator of everything; its file is 0600."""
    async with HttpServer.for_administrators(world.services):
        path = world.settings.admin.socket
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await ask_socket(path, "/v1/tenants/globex/keys"))[0] == 200
        key = await world.key_for("acme")
        assert (await ask_socket(path, "/v1/tenants/globex/keys", key))[0] == 404
    assert not path.exists()


async def test_callers_sockets_are_open_to_other_users(world: World, tmp_path: Path) -> None:
    """Whatever the umask of the daemon: a proxy has a user of its own, and so has Prometheus."""
    paths = tmp_path / "http.sock", tmp_path / "metrics.sock"
    listener = MetricsServer(world.services)
    before = os.umask(0o077)
    try:
        async with HttpServer(world.services, [UnixAddress(paths[0])]):
            await listener.start([UnixAddress(paths[1])])
            modes = [stat.S_IMODE(path.stat().st_mode) for path in paths]
            statuses = [(await ask_socket(path, "/livez"))[0] for path in paths]
            await listener.stop()
    finally:
        os.umask(before)
    assert (modes, statuses) == ([0o666, 0o666], [200, 200])
    assert not any(path.exists() for path in paths)


async def test_admin_socket_and_other_users(world: World) -> None:
    """Another user is nobody at the admin socket, even if the file lets them connect."""
    require("root, who can be somebody else", os.geteuid() == 0)
    async with HttpServer.for_administrators(world.services):
        path = world.settings.admin.socket
        for folder in (path, *path.parents[:-1]):
            folder.chmod(0o777)
        pid = os.fork()
        if pid == 0:  # nothing of the event loop may run here
            try:
                os.setuid(65_534)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                    client.sendall(b"GET /v1/notifications HTTP/1.1\r\nHost: x\r\n\r\n")
                    os._exit(0 if b" 401 " in client.recv(100) else 1)
            finally:
                os._exit(2)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


async def test_stale_and_live_sockets(world: World, tmp_path: Path) -> None:
    """A dead daemon's socket is taken over; a live one's is left alone."""
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with HttpServer(world.services, [UnixAddress(path)]):
        assert (await ask_socket(path, "/livez"))[0] == 200
        with pytest.raises(OSError, match="another process"):
            await HttpServer(world.services, [UnixAddress(path)]).start()
        assert (await ask_socket(path, "/livez"))[0] == 200


async def test_port_in_use(world: World) -> None:
    """A server that cannot have all its addresses has none."""
    taken = TcpAddress("127.0.0.1", world.server.port)
    server = HttpServer(world.services, [TcpAddress("127.0.0.1", 0), taken])
    with pytest.raises(OSError, match="in use"):
        await server.start()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


def test_socket_from_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets that systemd passed to another process are not ours."""
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    with pytest.raises(OSError, match="no socket"):
        sockets_for(SystemdSocket())


def test_host_with_several_addresses() -> None:
    """A host name is listened on at all its addresses, with port 0 at the same port."""
    bound = sockets_for(TcpAddress("localhost", 0))
    assert len({listener.getsockname()[1] for listener in bound}) == 1
    for listener in bound:
        listener.close()


async def test_tls(tmp_path: Path) -> None:
    """With a certificate the listener speaks TLS, 1.2 or better."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    extra = f'tls_certificate = "{tmp_path}/server.pem"\ntls_key = "{tmp_path}/server.pem"\n'
    async with running(tmp_path, extra) as world:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        url = f"https://127.0.0.1:{world.server.port}/livez"
        async with world.session.get(url, ssl=context) as response:
            assert response.status == 200


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
async def test_another_certificate(tmp_path: Path, named: bool) -> None:
    """A renewed certificate is shown to whoever connects next, whether or not the server is named; before it the old one."""
    old, new = trustme.CA(), trustme.CA()
    old.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    extra = f'tls_certificate = "{tmp_path}/server.pem"\ntls_key = "{tmp_path}/server.pem"\n'
    async with running(tmp_path, extra) as world:
        host = "localhost" if named else "127.0.0.1"  # an address is not named (RFC 6066 §3)
        assert await _trusts(world, old, host)
        new.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
        assert await _trusts(world, old, host)
        world.server.renew_certificate(tls_context(world.settings.http))
        assert await _trusts(world, new, host)
        assert not await _trusts(world, old, host)


async def _trusts(world: World, authority: trustme.CA, host: str) -> bool:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", world.server.port, ssl=context, server_hostname=host)
    except ssl.SSLCertVerificationError:
        return False
    writer.close()
    return True


async def test_stop_lets_answers_finish(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is being answered when the server stops gets its answer; new connections are refused."""
    await world.key_for("acme")
    arrived, leave = asyncio.Event(), asyncio.Event()
    accept = world.store.accept

    async def slow(rows: Any, now: int) -> object:
        arrived.set()
        await leave.wait()
        return await accept(rows, now)

    monkeypatch.setattr(world.store, "accept", lambda rows, now: asyncio.ensure_future(slow(rows, now)))
    posting = asyncio.create_task(world.post())
    await arrived.wait()
    stopping = asyncio.create_task(world.server.stop())
    while True:
        try:
            _, writer = await connect(world)
        except ConnectionError:
            break
        writer.close()
    leave.set()
    assert (await posting).status == 202
    await stopping
