"""The world in which the tests of the HTTP layer ask."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.http.world import World, running


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made
