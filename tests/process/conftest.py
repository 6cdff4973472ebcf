"""Daemons that are gone when the test is, and what they work with."""

from __future__ import annotations

import subprocess
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import pytest

from tests.peers.postgresql import of_our_own
from tests.peers.requirements import require
from tests.peers.smtp_server import ScriptedRelay
from tests.process.daemon import Daemon
from tests.process.engines import NEWEST, SQLITE, own_schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.peers.postgresql import Postgresql, Servers

STRACE: Final = ("strace", "-D", "-f", "--seccomp-bpf")


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Postgresql | None:
    """Give the PostgreSQL that the daemons of this test work on; None, and SQLite, unless the test says otherwise."""
    version = getattr(request, "param", SQLITE)
    return None if version == SQLITE else request.getfixturevalue("postgresql_servers")[version]


@pytest.fixture(scope="session")
def newest(postgresql_servers: Servers) -> Postgresql:
    """Give a running PostgreSQL of the newest version."""
    return postgresql_servers[NEWEST]


@pytest.fixture(scope="module")
def mortal() -> Iterator[Postgresql]:
    """Run a server that may be killed, or part of it."""
    with of_our_own(NEWEST) as server:
        yield server


def _ptrace_allowed() -> bool:
    """May this machine trace processes?"""
    try:
        done = subprocess.run([*STRACE, "-e", "trace=fsync", "true"], capture_output=True, timeout=20, check=False)
    except OSError:
        return False
    return done.returncode == 0


@pytest.fixture
def strace() -> tuple[str, ...]:
    """Trace, or skip visibly."""
    require("strace with ptrace allowed", _ptrace_allowed())
    return STRACE


@pytest.fixture
async def install(tmp_path: Path, engine: Postgresql | None) -> AsyncIterator[Callable[..., Daemon]]:
    """Make installations; whatever still runs at the end is killed."""
    made: list[Daemon] = []
    async with AsyncExitStack() as stack:
        if engine is not None:
            url = await stack.enter_async_context(own_schema(engine))

        def make(profile: str, **more: str) -> Daemon:
            store = {} if engine is None else {"store": url}
            made.append(Daemon(tmp_path / f"gateway-{len(made)}", profile, **store, **more))
            return made[-1]

        yield make
        for daemon in made:
            if daemon.process is not None:
                await daemon.kill()


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[ScriptedRelay]:
    """A scriptable relay whose ledger is on disk before it answers."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(ScriptedRelay(ledger_path=tmp_path / "ledger", users={"app": "s3cret"}))
