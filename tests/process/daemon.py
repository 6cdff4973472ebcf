"""The real daemon as a process of its own, for tests that start it, talk to it as a caller would, and kill it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from tests.peers.postfix import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

ROOT = Path(__file__).parents[2]
START_SECONDS = 30

SETTINGS = """\
[http]
listen = "127.0.0.1:{http}"
[metrics]
listen = "127.0.0.1:{metrics}"
[admin]
socket = "admin.sock"
[store]
url = "{store}"
disk_floor_bytes = 0
[master_key]
file = "master.key"
[relay]
retry_seconds = {retry}
greylist_seconds = 1
ehlo_name = "{name}.example.test"
drain_seconds = 20
[egress]
allow = ["127.0.0.0/8"]
plaintext_auth = ["127.0.0.1"]
webhooks = {{ports = [443], allow = {webhooks}}}
[provision]
files = ["tenants.toml"]
[log]
format = "json"
level = "info"
"""

TENANTS = """\
[[tenants]]
id = "acme"
[[profiles]]
tenant = "acme"
name = "main"
is_default = true
{profile}
from = {{address = "noreply@acme.example.test", name = "Acme"}}
[[keys]]
tenant = "acme"
name = "app"
scopes = ["send", "read"]
file = "app.key"
[[keys]]
tenant = "system"
name = "admin"
scopes = ["admin"]
file = "admin.key"
"""


@dataclass
class Daemon:
    """One installation in a folder: the files stay, the process comes and goes."""

    folder: Path
    profile: str
    retry: str = "[1]"
    more_tenants: str = ""
    more_settings: str = ""
    store: str = "sqlite:///gateway.db"
    name: str = "gateway"
    webhooks: str = "[]"  # where they may go besides
    http: int = field(default_factory=free_port)
    metrics: int = 0
    process: asyncio.subprocess.Process | None = None
    started: bool = False

    def __post_init__(self) -> None:
        """Write the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics = self.metrics or free_port(self.http)
        settings = SETTINGS.format(
            http=self.http,
            metrics=self.metrics,
            store=self.store,
            retry=self.retry,
            name=self.name,
            webhooks=self.webhooks,
        )
        (self.folder / "gateway.toml").write_text(settings + self.more_settings)
        (self.folder / "tenants.toml").write_text(TENANTS.format(profile=self.profile) + self.more_tenants)

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.http}"

    @property
    def key(self) -> str:
        """The tenant's key."""
        return (self.folder / "app.key").read_text().strip()

    @property
    def admin_key(self) -> str:
        """The operator's key."""
        return (self.folder / "admin.key").read_text().strip()

    @property
    def log(self) -> str:
        """What the daemon wrote to standard error, all its lives together."""
        return (self.folder / "log").read_text()

    @property
    def up(self) -> bool:
        """Was it ready, and has it not ended since?"""
        return self.started and self.process is not None and self.process.returncode is None

    async def start(self, *, environ: Mapping[str, str] | None = None, wrapper: tuple[str, ...] = ()) -> Self:
        """Start the process and wait until it says READY=1."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            address = self.folder / "notify.sock"
            address.unlink(missing_ok=True)
            notices.bind(str(address))
            notices.setblocking(False)
            self.started = False
            with (self.folder / "log").open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *wrapper, sys.executable, "-m", "gateway", "serve", "-c", str(self.folder / "gateway.toml"),
                    cwd=ROOT, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL,
                    env={**os.environ, "NOTIFY_SOCKET": str(address), **(environ or {})},
                )  # fmt: skip
            await self._ready(notices)
        self.started = True
        return self

    async def _ready(self, notices: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.ensure_future(self._process.wait())
        try:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    notice = asyncio.ensure_future(loop.sock_recv(notices, 4096))
                    await asyncio.wait({notice, ended}, return_when=asyncio.FIRST_COMPLETED)
                    if ended.done():
                        notice.cancel()
                        raise DaemonDiedError(ended.result(), self.log[-2000:])
                    if b"READY=1" in notice.result().split(b"\n"):
                        return
        finally:
            ended.cancel()

    @property
    def _process(self) -> asyncio.subprocess.Process:
        if self.process is None:
            message = "the daemon was not started"
            raise RuntimeError(message)
        return self.process

    async def wait(self) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        return await self._process.wait()

    async def kill(self) -> None:
        """End it by SIGKILL, as a power cut for the process would."""
        self.signal(signal.SIGKILL)
        await self._process.wait()

    def signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self) -> int:
        """End it by SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return await self._process.wait()

    @asynccontextmanager
    async def client(self, key: str | None = None) -> AsyncIterator[Client]:
        """Talk to the API."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(self.url, headers=headers, connector=connector) as session:
            yield Client(session)

    async def ask(self, method: str, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
        """Ask the API, as the operator unless another key is given: status and answer."""
        async with (
            self.client(key or self.admin_key) as client,
            client.session.request(method, path, json=body) as answer,
        ):
            return answer.status, (await answer.json()) if answer.content_length else None


class DaemonDiedError(Exception):
    """The daemon ended before it was ready."""


@dataclass
class Client:
    """A caller of the API."""

    session: aiohttp.ClientSession

    async def post(self, body: Mapping[str, Any], key: str | None = None) -> tuple[int, dict[str, Any], bool]:
        """Post a notification: status, answer, and whether it was replayed."""
        headers = {"Idempotency-Key": key} if key else {}
        async with self.session.post("/v1/notifications", json=body, headers=headers) as response:
            return response.status, await response.json(), "Idempotency-Replayed" in response.headers

    async def show(self, notification_id: str) -> dict[str, Any]:
        """Read a notification."""
        async with self.session.get(f"/v1/notifications/{notification_id}") as response:
            told: dict[str, Any] = await response.json()
            return told

    async def until(self, notification_id: str, *statuses: str, seconds: float = 30) -> dict[str, Any]:
        """Read a notification until it has one of these statuses."""
        async with asyncio.timeout(seconds):
            while (told := await self.show(notification_id))["status"] not in statuses:
                await asyncio.sleep(0.02)
        return told


def mail(subject: str = "hello", *, to: tuple[str, ...] = ("ann@example.test",), **more: Any) -> dict[str, Any]:
    """Make a request body."""
    return {"to": list(to), "subject": subject, "text": f"{subject}\n", **more}


def plain(port: int, host: str = "127.0.0.1", **limits: int) -> str:
    """Give the profile's fields for a relay in clear text on this machine."""
    told = f'host = "{host}"\nport = {port}\nsecurity = "none"'
    return told + (f"\nlimits = {json.dumps(limits).replace(':', ' =')}" if limits else "")
