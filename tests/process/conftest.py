"""Daemons that are gone when the test is."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.peers.smtp_server import ScriptedRelay
from tests.process.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture
async def install(tmp_path: Path) -> AsyncIterator[Callable[..., Daemon]]:
    """Make installations; whatever still runs at the end is killed."""
    made: list[Daemon] = []

    def make(profile: str, **more: str) -> Daemon:
        made.append(Daemon(tmp_path / f"gateway-{len(made)}", profile, **more))
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
