"""One machine for a whole file, with the daemon installed; one clean unit for each test."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.peers.smtp_server import ScriptedRelay
from tests.process.daemon import ROOT
from tests.process.engines import NEWEST
from tests.systemd.machine import Machine, Unit, booted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.peers.postgresql import Postgresql, Servers


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of what lies here."""
    folder = tmp_path_factory.mktemp("wheels") / "present"
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[Machine]:
    """Boot a machine and install the daemon on it."""
    console = tmp_path_factory.mktemp("machine") / "console"
    with booted(console, wheel) as made:
        asyncio.run(made.make("install", wheel))
        yield made


@pytest.fixture(scope="session")
def newest(postgresql_servers: Servers) -> Postgresql:
    """Give a running PostgreSQL of the newest version."""
    return postgresql_servers[NEWEST]


@pytest.fixture
async def unit(machine: Machine) -> AsyncIterator[Unit]:
    """Give the installed service, stopped and new."""
    made = Unit(machine)
    await made.mark()
    yield made
    await made.forget()


@pytest.fixture
async def relay() -> AsyncIterator[ScriptedRelay]:
    """A relay that asks for a password."""
    async with ScriptedRelay(users={"app": "s3cret"}) as made:
        yield made
