"""What the watchdog is told of a store: that it writes, and within its limit that it hangs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gateway import lifecycle
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite.writer import Run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

LIMIT = 0.1  # seconds


async def test_a_store_that_hangs_is_told_while_it_hangs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though a write cannot be called off; once the disk answers, all is well again."""
    answers = threading.Event()
    async with SqliteStore(tmp_path / "gateway.db") as store:
        store.writer.submit(Run(lambda _db: answers.wait(60)))
        told = [await lifecycle._writes(store, LIMIT)]
        hung, said = not answers.is_set(), capsys.readouterr().out
        answers.set()
        told.append(await lifecycle._writes(store, 60))
    assert (told, hung, "store_stuck" in said) == ([False, True], True, True)
