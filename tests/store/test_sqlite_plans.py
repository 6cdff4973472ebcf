"""How SQLite carries out what is asked of all mail that is not final: by the index of that, however much is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from gateway.store.sqlite import SqliteStore, reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAITING: Final = "USING INDEX notification_expiring"  # all that is not final
ASKED: Final[dict[str, tuple[Callable[[apsw.Connection], Any], str]]] = {
    "expired": (lambda db: reading.expired(db, 0, 10), f"SEARCH n {WAITING} (expires_at<?)"),
    "depths": (reading.depths, f"SCAN n {WAITING}"),
    "census": (lambda db: reading.census(db, 0), f"SCAN n {WAITING}"),
    "unfinished": (reading.unfinished, f"SCAN n {WAITING}"),
}


@pytest.mark.parametrize("name", ASKED)
async def test_what_is_final_is_not_read(tmp_path: Path, name: str) -> None:
    """Each statement goes along the index that final rows are not in."""
    ask, plan = ASKED[name]
    async with SqliteStore(tmp_path / "gateway.db"):
        pass
    db, said = apsw.Connection(str(tmp_path / "gateway.db")), []

    def note(_cursor: apsw.Cursor, sql: str, values: Any) -> bool:
        said.append((sql, values))
        return True

    db.exec_trace = note
    ask(db)
    db.exec_trace = None
    [(sql, values)] = said
    steps = [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]

    assert [step for step in steps if not step.startswith("USE TEMP B-TREE")] == [plan]
