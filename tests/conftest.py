"""Servers that tests of several folders share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.peers.postgresql import VERSIONS, Servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.peers.postgresql import Postgresql


@pytest.fixture(scope="session")
def postgresql_servers() -> Iterator[Servers]:
    """Start a PostgreSQL of a version when it is first asked for, and keep it for all tests of this process."""
    with Servers() as servers:
        yield servers


@pytest.fixture(params=VERSIONS)
def postgresql(request: pytest.FixtureRequest, postgresql_servers: Servers) -> Postgresql:
    """Give a running PostgreSQL, of one version after the other."""
    return postgresql_servers[request.param]


@pytest.fixture
async def schema(postgresql: Postgresql) -> AsyncIterator[str]:
    """Make a schema of the test's own."""
    name = await postgresql.make_schema()
    yield name
    await postgresql.execute(f"DROP SCHEMA {name} CASCADE")
