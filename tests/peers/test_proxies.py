"""The private SOCKS and HTTP proxies do what they promise, byte by byte."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.peers.postfix import free_port
from tests.peers.proxies import HttpProxy, SocksProxy, http_proxy_available, socks_available
from tests.peers.requirements import require


@pytest.fixture(autouse=True)
def programs() -> None:
    """Both have been fetched."""
    require("microsocks and squid (tests/peers/fetch.sh)", socks_available() and http_proxy_available())


@pytest.fixture
def target() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def talk(proxy: SocksProxy | HttpProxy) -> Iterator[socket.socket]:
    """Open a connection to the proxy."""
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as connection:
        yield connection


def socks_connect(connection: socket.socket, port: int) -> bytes:
    """Ask for loopback, and give the reply's first octets."""
    connection.sendall(b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + port.to_bytes(2, "big"))
    return connection.recv(64)[:2]


def test_socks_for_everybody(target: int) -> None:
    """It connects, and tells what it cannot reach (RFC 1928 §6: 5 is a refused connection)."""
    with SocksProxy() as proxy:
        for port, reply in ((target, b"\5\0"), (free_port(target), b"\5\5")):
            with talk(proxy) as connection:
                connection.sendall(b"\5\1\0")
                assert connection.recv(2) == b"\5\0"
                assert socks_connect(connection, port) == reply


def test_socks_with_an_account(target: int) -> None:
    """Only user name and password open it (RFC 1929)."""
    with SocksProxy(("app", "s3cret")) as proxy:
        with talk(proxy) as connection:
            connection.sendall(b"\5\1\0")
            assert connection.recv(2) == b"\5\xff"
        for password, status in ((b"s3cret", 0), (b"wrong!", 1)):
            with talk(proxy) as connection:
                connection.sendall(b"\5\1\2")
                assert connection.recv(2) == b"\5\2"
                connection.sendall(b"\1\3app\6" + password)
                assert (connection.recv(2)[1] != 0) is bool(status)
                assert status or socks_connect(connection, target) == b"\5\0"


@pytest.mark.parametrize(
    ("account", "said", "status"),
    [
        (None, None, b"200"),
        (("app", "s3cret"), "app:s3cret", b"200"),
        (("app", "s3cret"), "app:wrong", b"407"),
        (("app", "s3cret"), None, b"407"),
    ],
)
def test_http(account: tuple[str, str] | None, said: str | None, status: bytes, target: int) -> None:
    """CONNECT opens with the right account, or for everybody where there is none."""
    header = "" if said is None else f"Proxy-Authorization: Basic {base64.b64encode(said.encode()).decode()}\r\n"
    with HttpProxy(account) as proxy, talk(proxy) as connection:
        connection.sendall(f"CONNECT 127.0.0.1:{target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\n".encode())
        assert connection.recv(64).split(b" ")[1] == status
    assert not proxy.processes()
