"""An outbox for each test and each engine, on a clock that stands until it is moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.outbox.building import Bench, Clock, bench
from tests.outbox.grounds import File, Ground, Schema
from tests.peers.postgresql import VERSIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.peers.postgresql import Postgresql, Servers


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands until it is moved."""
    return Clock()


@pytest.fixture(params=["sqlite", *(f"postgresql-{version}" for version in VERSIONS)])
def engine(request: pytest.FixtureRequest, postgresql_servers: Servers) -> Postgresql | None:
    """Start what keeps the rows; None is SQLite."""
    name, _, version = request.param.partition("-")
    return postgresql_servers[version] if name == "postgresql" else None


@pytest.fixture
async def ground(engine: Postgresql | None, tmp_path: Path) -> AsyncIterator[Ground]:
    """Make room for the rows."""
    if engine is None:
        yield File(tmp_path / "gateway.db")
        return
    schema = await engine.make_schema()
    yield Schema(engine.url, schema)
    await engine.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
async def b(ground: Ground, clock: Clock) -> AsyncIterator[Bench]:
    """Open an outbox."""
    async with bench(ground, clock) as made:
        yield made
