"""Servers that tests of several folders share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.peers.postgresql import VERSIONS, Servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.peers.postgresql import Postgresql

LONG = (
    "process/test_cluster.py", "http/test_schemathesis.py", "soak/", "ui/test_flows.py", "process/test_webhooks.py",
    "process/test_crash.py", "observe/test_prometheus.py", "process/test_moving.py", "ui/test_reach.py", "systemd/",
    "outbox/test_machine.py", "process/", "ui/", "directory/test_machine.py", "smtp/test_cancel_anywhere.py", "cli/",
)  # fmt: skip
"""Files that take longest, the longest first; those that mostly wait between those that mostly reckon."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: several workers then have always something to do, and end at about the same time."""
    here = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(here).as_posix()
        return next((number for number, beginning in enumerate(LONG) if path.startswith(beginning)), len(LONG))

    items.sort(key=rank)


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
