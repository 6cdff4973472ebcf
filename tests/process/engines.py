"""On which engines a test of the daemon runs; `pytestmark = on_every_engine` or the mark at one test says so."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

from tests.peers.postgresql import VERSIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.peers.postgresql import Postgresql

SQLITE: Final = "sqlite"
NEWEST: Final = VERSIONS[-1]
on_every_engine = pytest.mark.parametrize("engine", [SQLITE, *VERSIONS], indirect=True)
on_both_engines = pytest.mark.parametrize("engine", [SQLITE, NEWEST], indirect=True)


@asynccontextmanager
async def own_schema(postgresql: Postgresql) -> AsyncIterator[str]:
    """Make a schema for the time of the block; answers the URL that leads there."""
    name = await postgresql.make_schema()
    yield f"{postgresql.url}{'&' if '?' in postgresql.url else '?'}search_path={name}"
    await postgresql.execute(f"DROP SCHEMA {name} CASCADE")
