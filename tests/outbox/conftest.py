"""An outbox for each test, on a clock that stands until it is moved."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.outbox.building import Bench, Clock, bench


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands until it is moved."""
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name the store's file."""
    return tmp_path / "gateway.db"


@pytest.fixture
async def b(path: Path, clock: Clock) -> AsyncIterator[Bench]:
    """Open an outbox."""
    async with bench(path, clock) as made:
        yield made
