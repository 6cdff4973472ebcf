"""Sockets to listen on: TCP, Unix, and what systemd passed.

A Unix socket has its mode before anybody can connect: it is bound, then chmod, then listened on. A file that a dead
daemon left is taken away; one behind which somebody answers is not.
"""

import errno
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final, assert_never

from gateway.credentials.tls import NO_PASSPHRASE
from gateway.settings import Http, ListenAddress, SystemdSocket, TcpAddress, UnixAddress

FIRST_PASSED: Final = 3  # sd_listen_fds(3)
OWNER_ONLY: Final = 0o600
EVERYBODY: Final = 0o666  # a proxy has a user of its own; whom the folder lets in there is the operator's to say


def sockets_for(address: ListenAddress, *, mode: int | None = None) -> list[socket.socket]:
    """Bind an address; `mode` is for the file of a Unix socket. Nothing listens yet. OSError, which names it, if it cannot be."""
    try:
        match address:
            case TcpAddress(host, port):
                return _tcp(host, port)
            case UnixAddress(path):
                return [_unix(path, EVERYBODY if mode is None else mode)]
            case SystemdSocket():
                return _passed()
            case _:
                assert_never(address)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error


def _tcp(host: str, port: int) -> list[socket.socket]:
    """Bind every address that the host has; with port 0 all get the one that the first got."""
    bound: list[socket.socket] = []
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            bound.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = port or (bound[0].getsockname()[1] if len(bound) > 1 else 0)
            listener.bind((where[0], chosen, *where[2:]))
    except OSError:
        for listener in bound:
            listener.close()
        raise
    return bound


def _unix(path: Path, mode: int) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(mode)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return  # not there, or not ours to remove: bind will say so
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.settimeout(1.0)
        try:
            knock.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            return
    raise OSError(errno.EADDRINUSE, "another process listens on this socket", str(path))


def _passed() -> list[socket.socket]:
    """Take the sockets that systemd opened for us."""
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit() or int(count) == 0:
        raise OSError(errno.ENOENT, "systemd passed no socket to this process")
    passed = [socket.socket(fileno=FIRST_PASSED + index) for index in range(int(count))]
    for listener in passed:
        listener.setblocking(False)
        os.set_inheritable(listener.fileno(), False)
    return passed


def remove_socket(path: Path) -> None:
    """Take a Unix socket's file away when nobody listens any more."""
    with suppress(OSError):
        path.unlink()


def tls_context(http: Http) -> ssl.SSLContext | None:
    """Make the listener's TLS context; None if it speaks plain HTTP. OSError if the files cannot be used."""
    if http.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(http.tls_certificate, http.tls_key, NO_PASSPHRASE)
    return context
