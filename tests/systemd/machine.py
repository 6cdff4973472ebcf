"""A machine with systemd as its first process: Debian in a container, booted from memory, without a network of its own.

tests/systemd/fetch.sh makes the file system; everything written to it is forgotten with the machine. It shares the
loopback interface, so that a relay of the test's is a relay for the daemon, and the test a caller.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from tests.peers.fetched import peers
from tests.peers.postfix import free_port
from tests.peers.requirements import require
from tests.process.daemon import ROOT, TENANTS, Client

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS: Final = ("systemd-nspawn", "nsenter", "make")
BOOT_SECONDS: Final = 60
SECONDS: Final = 30.0  # for what happens by itself
LOOK: Final = 0.02
ENVIRON: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
OFFLINE: Final = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/mnt/wheels"}
JOIN: Final = 'for group in $0; do echo $$ >"$group/cgroup.procs"; done; exec "$@"'
SETTINGS: Final = "/etc/notification-gateway"
STATE: Final = "/var/lib/notification-gateway"

Json = dict[str, Any]


def built() -> Path:
    """Where tests/systemd/fetch.sh put the machine's files, or would have."""
    return peers().with_name(peers().name + "-machine")


def bootable() -> bool:
    """Can such a machine be booted here, and be given what is locked now?"""
    fetched = built() / "requirements.txt"
    present = fetched.exists() and fetched.read_bytes() == (ROOT / "requirements-daemon.txt").read_bytes()
    return present and os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


@dataclass
class Machine:
    """A machine that runs; `pid` is its first process's on this one."""

    pid: int

    def path(self, where: str) -> Path:
        """Where a file of the machine's is, seen from here."""
        return Path(f"/proc/{self.pid}/root") / where.lstrip("/")

    async def run(self, *command: str, environ: Json | None = None, check: bool = True) -> str:
        """Run a command in the machine as root; what it printed, and everything if it failed."""
        process = await asyncio.create_subprocess_exec(
            "nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd", "--", *command,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**ENVIRON, **(environ or {})},
        )  # fmt: skip
        output = (await process.communicate())[0].decode()
        assert not check or process.returncode == 0, f"{' '.join(command)}: {process.returncode}\n{output}"
        return output.strip()

    async def make(self, target: str, wheel: Path | None = None, prefix: str = "/usr/local") -> str:
        """Do what the README says for installing, with the wheels that lie in the machine."""
        given = [] if wheel is None else [f"WHEEL=/mnt/wheel/{wheel.parent.name}/{wheel.name}"]
        return await self.run("make", "-C", "/mnt/source", target, f"PREFIX={prefix}", *given, environ=OFFLINE)


@contextmanager
def _own_groups() -> Iterator[list[Path]]:
    """Make control groups that no other machine is in, below those of this process, for systemd to work with."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    points = {"": [one[1] for one in mounts if one[2] == "cgroup2"]}
    points["name=systemd"] = [one[1] for one in mounts if one[2] == "cgroup" and "name=systemd" in one[3].split(",")]
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for point in points.get(controllers, ())[:1]:
            groups.append(Path(point) / path.lstrip("/") / f"notification-gateway-test-{os.getpid()}")
            groups[-1].mkdir()
    try:
        yield groups
    finally:
        for group in groups:
            for below in (*sorted(group.rglob("*/"), reverse=True), group):
                _remove(below)


def _remove(group: Path) -> None:
    """Remove a control group as soon as the last of its processes is gone."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(LOOK)


@contextmanager
def booted(console: Path, wheel: Path) -> Iterator[Machine]:
    """Boot a machine; into it are mounted the source and the folder above the one in which a wheel lies."""
    require("root, systemd-nspawn, and the machine of tests/systemd/fetch.sh", bootable())
    mounts = {"/mnt/source": ROOT, "/mnt/wheels": built() / "wheels", "/mnt/wheel": wheel.parents[1]}
    with _own_groups() as groups, console.open("wb") as said:
        process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig=TERM", "sh", "-c", JOIN, " ".join(map(str, groups)),
                "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe", "--volatile=overlay",
                f"--directory={built() / 'root'}", *(f"--bind-ro={here}:{there}" for there, here in mounts.items()),
                "systemd.unit=multi-user.target",
            ],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
        try:
            yield Machine(_leader(process, console))
        finally:
            for pid in _children(process):  # nothing in it is worth an orderly end
                os.kill(pid, signal.SIGKILL)
            process.wait(SECONDS)


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    """The first process of the machine, as soon as there is one."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in children.read_text().split()] if process.poll() is None else []


def _leader(process: subprocess.Popen[bytes], console: Path) -> int:
    """Wait for the first process, until it has booted."""
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, console.read_text()
        for pid in _children(process):
            asked = ("nsenter", f"--target={pid}", "--all", "systemctl", "is-system-running")
            told = subprocess.run(asked, capture_output=True, text=True, env=ENVIRON).stdout.strip()
            if told in {"running", "degraded"}:
                return pid
        time.sleep(LOOK)
    raise TimeoutError(console.read_text())


@dataclass
class Unit:
    """One installed service on the machine: its settings, its life, what it says."""

    machine: Machine
    name: str = "notification-gateway"
    http: int = 0
    metrics: int = 0
    cursor: str = ""

    def __post_init__(self) -> None:
        self.http = free_port()
        self.metrics = free_port(self.http)

    @property
    def instance(self) -> str:
        """The name of the settings file."""
        return self.name.partition("@")[2] or "gateway"

    # What it is given.

    def write(self, where: str, text: str) -> None:
        """Write a file of the machine's."""
        path = self.machine.path(where)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def settings(self, profile: str, **changed: str) -> str:
        """Make the settings file that is installed fit this test; `changed` replaces values. Answers its text."""
        text = (ROOT / "systemd" / "gateway.toml").read_text()
        changed = {
            '"127.0.0.1:8025"': f'"127.0.0.1:{self.http}"', '"127.0.0.1:9025"': f'"127.0.0.1:{self.metrics}"',
            "files = []": f'files = ["{SETTINGS}/{self.instance}-tenants.toml"]', **changed,
        }  # fmt: skip
        for old, new in changed.items():
            assert old in text
            text = text.replace(old, new)
        text += '\n[egress]\nallow = ["127.0.0.0/8"]\nplaintext_auth = ["127.0.0.1"]\n[relay]\nretry_seconds = [1]\ndrain_seconds = 20\n'
        tenants = TENANTS.format(profile=profile).replace('file = "', f'file = "{STATE}/')
        self.write(f"{SETTINGS}/{self.instance}-tenants.toml", tenants)
        self.write(f"{SETTINGS}/{self.instance}.toml", text)
        return text

    async def drop_in(self, text: str, name: str = "test", unit: str | None = None) -> None:
        """Change the unit until the test is over."""
        self.write(f"/run/systemd/system/{unit or self.name + '.service'}.d/{name}.conf", text)
        await self.machine.run("systemctl", "daemon-reload")

    # Its life.

    async def start(self) -> None:
        """Start it; returns when systemd says that it is up."""
        await self.machine.run("systemctl", "start", self.name)

    async def stop(self) -> None:
        """Stop it; returns when it has ended."""
        await self.machine.run("systemctl", "stop", self.name)

    async def show(self, *properties: str) -> list[str]:
        """Ask systemd for properties of the unit."""
        told = await self.machine.run("systemctl", "show", f"--property={','.join(properties)}", self.name)
        values = dict(line.split("=", 1) for line in told.splitlines())
        return [values[name] for name in properties]

    async def until(self, fits: Callable[..., bool], *properties: str, seconds: float = SECONDS) -> list[str]:
        """Wait until the properties fit."""
        async with asyncio.timeout(seconds):
            while not fits(*(told := await self.show(*properties))):
                await asyncio.sleep(LOOK)
        return told

    async def pid(self) -> int:
        """Its main process, by the machine's own counting."""
        return int((await self.show("MainPID"))[0])

    # What it says.

    async def mark(self) -> None:
        """From now on the journal counts."""
        told = await self.machine.run("journalctl", "--sync", "--lines=0", "--show-cursor", "--quiet", check=False)
        told = told or await self.machine.run("journalctl", "--lines=1", "--show-cursor", "--quiet")
        self.cursor = told.rpartition("-- cursor: ")[2].strip()

    async def journal(self, event: str = "") -> list[Json]:
        """Read the unit's entries since `mark`, or those of one event."""
        await self.machine.run("journalctl", "--sync")
        told = await self.machine.run(
            "journalctl", "--output=json", "--quiet", f"--unit={self.name}", *([f"--after-cursor={self.cursor}"] if self.cursor else []),
        )  # fmt: skip
        entries = [json.loads(line) for line in told.splitlines()]
        return [entry for entry in entries if not event or entry.get("EVENT") == event]

    async def said(self, event: str, count: int = 1) -> list[Json]:
        """Wait until it has said something so often."""
        async with asyncio.timeout(SECONDS):
            while len(told := await self.journal(event)) < count:
                await asyncio.sleep(LOOK)
        return told

    # What callers see.

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.http}"

    def client(self) -> Client:
        """Talk to the API as the tenant; to be closed."""
        key = self.machine.path(f"{STATE}/app.key").read_text().strip()
        return Client(aiohttp.ClientSession(self.url, headers={"Authorization": f"Bearer {key}"}))

    async def ready(self) -> bool:
        """Does it answer that it is ready?"""
        async with aiohttp.ClientSession() as session, session.get(self.url + "/readyz") as answer:
            return answer.status == 200

    async def forget(self) -> None:
        """Take away what a test left."""
        await self.machine.run("systemctl", "stop", "notification-gateway.socket", f"{self.name}.service", check=False)
        await self.machine.run(
            "sh",
            "-c",
            f"rm -rf /run/systemd/system/notification-gateway* /var/lib/private/notification-gateway {STATE}",
        )
        await self.machine.run("systemctl", "daemon-reload")
        await self.machine.run("systemctl", "reset-failed")
