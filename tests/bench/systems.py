"""The systems under test, each in processes of its own and on the disk of the checkout."""

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.bench.figures import Skipped
from tests.bench.loadgen import Load
from tests.bench.process import PATIENCE, Child, Watch, await_port, module
from tests.peers.postfix import PostfixRelay, free_port, postfix_available

PATH = "/v1/notifications"

SETTINGS = """\
[http]
listen = "127.0.0.1:{port}"
[metrics]
listen = "127.0.0.1:{metrics_port}"
[admin]
socket = "admin.sock"
[store]
url = "{store}"
[master_key]
file = "master.key"
[egress]
allow = ["127.0.0.1/32:{relay_port}"]
webhooks = {{allow = ["127.0.0.1/32"]}}
[provision]
files = ["tenants.toml"]
"""

TENANTS = """\
[[tenants]]
id = "acme"
parent = "system"

[[profiles]]
tenant = "acme"
name = "main"
is_default = true
host = "127.0.0.1"
port = {relay_port}
security = "{security}"
from = {{address = "noreply@example.test", name = "Example"}}
limits = {{connections = {connections}, messages_per_connection = 1000}}
{tls}
[[keys]]
tenant = "acme"
name = "bench"
scopes = ["send", "read"]
file = "acme.key"
"""


@dataclass(frozen=True, slots=True)
class Route:
    """How the daemon reaches its relay."""

    relay_port: int
    connections: int = 8
    ca_pem: str = ""  # with it the relay speaks TLS from the first byte

    def tenants(self) -> str:
        """The provisioning file."""
        tls = f'tls = {{ca_certificates = """{self.ca_pem}"""}}\n' if self.ca_pem else ""
        security = "implicit_tls" if self.ca_pem else "none"
        return TENANTS.format(relay_port=self.relay_port, connections=self.connections, security=security, tls=tls)


class Gateway:
    """Our daemon as in production: full sync, a key for every request, metrics, its default log in a file."""

    def __init__(
        self, home: Path, route: Route, tracer: Sequence[str] = (), store: str = "sqlite:///gateway.db"
    ) -> None:
        self._home, self._tracer = home, tracer
        self.port = free_port(route.relay_port)
        self.metrics_port = free_port(route.relay_port, self.port)
        (home / "gateway.toml").write_text(
            SETTINGS.format(port=self.port, metrics_port=self.metrics_port, relay_port=route.relay_port, store=store)
        )
        (home / "tenants.toml").write_text(route.tenants())
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and wait until it is ready."""
        command = [*self._tracer, *module("gateway", "serve", "-c", self._home / "gateway.toml")]
        self._child = Child(command, self._home / "gateway.log")
        try:
            self._await_ready(self._child)
        except BaseException:
            self.kill()
            raise

    def _await_ready(self, child: Child) -> None:
        deadline = time.monotonic() + 6 * PATIENCE
        while child.running and time.monotonic() < deadline:
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.01)
        raise RuntimeError(f"the daemon does not become ready: {child.tail()}")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._child is not None:
            self._child.kill()

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._child is not None
        return self._child.pid

    def ask_as_operator(self, path: str, document: object) -> Any:
        """POST over the daemon's socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
            opened.connect(str(self._home / "admin.sock"))
            connection = http.client.HTTPConnection("daemon")
            connection.sock = opened
            connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            told = json.loads(answer.read())
        if answer.status >= 300:
            raise RuntimeError(f"{path} was answered with {answer.status}: {told}")
        return told

    def watch(self) -> Watch:
        """Watch the daemon's process; a tracer is not its child, so it counts for nothing."""
        pid = self.pid
        return Watch(lambda: [pid])

    def load(self, requests: int, connections: int, *, key: str = "", **more: Any) -> Load:
        """A load for this daemon."""
        key = key or (self._home / "acme.key").read_text().strip()
        path = f"{PATH}/batch" if "batch" in more else PATH
        return Load(self.port, path, requests, connections, headers={"Authorization": f"Bearer {key}"}, **more)


class Naive:
    """The naive service, see `tests.bench.naive`."""

    def __init__(self, home: Path, relay_port: int) -> None:
        self.port = free_port(relay_port)
        self._child = Child(module("tests.bench.naive", self.port, relay_port), home / "naive.log")

    def __enter__(self) -> Self:
        try:
            await_port(self.port, self._child)
        except BaseException:
            self._child.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()

    def watch(self) -> Watch:
        """Watch its process."""
        return Watch(lambda: [self._child.pid])

    def load(self, requests: int, connections: int) -> Load:
        """A load for this service."""
        return Load(self.port, PATH, requests, connections)


def postfix(relay_port: int) -> PostfixRelay:
    """A Postfix with its defaults and no TLS or AUTH, whose relayhost is a port of this machine."""
    if not postfix_available():
        raise Skipped("needs Postfix and root")
    settings = {
        "smtpd_tls_security_level": "none",
        "smtpd_sasl_auth_enable": "no",
        "mynetworks": "127.0.0.0/8",
        "smtpd_relay_restrictions": "permit_mynetworks, reject",
        "smtpd_recipient_restrictions": "permit_mynetworks, reject",
    }
    return PostfixRelay(relay_port, users={}, settings=settings)


def slow_disk(milliseconds: float) -> list[str]:
    """The tracer that makes every sync take longer; it hangs on as a grandchild, so the daemon's pid is the child's."""
    delay = round(milliseconds * 1000)
    tracer = [
        "strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", os.devnull, "-e", "trace=fdatasync,fsync",
        "-e", f"inject=fdatasync,fsync:delay_exit={delay}",
    ]  # fmt: skip
    try:
        tried = subprocess.run(
            [*tracer, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        )
    except FileNotFoundError:
        raise Skipped("needs strace") from None
    if tried.returncode:
        raise Skipped("strace may not trace here")
    return tracer
