"""How SQLite carries out what is asked of all mail that is not final, and of a time: along indexes, however much is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from gateway.store.rows import Listing
from gateway.store.sqlite import SqliteStore, reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAITING: Final = "USING INDEX notification_expiring"  # all that is not final
ASKED: Final[dict[str, tuple[Callable[[apsw.Connection], Any], str]]] = {
    "expired": (lambda db: reading.expired(db, 0, 10), f"SEARCH n {WAITING} (expires_at>? AND expires_at<?)"),
    "depths": (reading.depths, f"SCAN n {WAITING}"),
    "census": (lambda db: reading.census(db, 0), f"SCAN n {WAITING}"),
    "unfinished": (reading.unfinished, f"SCAN n {WAITING}"),
}
OF_TIME: Final = {
    ("acme",): "SEARCH n USING INDEX notification_listing (tenant=? AND id>? AND id<?)",
    None: "SEARCH n USING INDEX sqlite_autoindex_notification_1 (id>? AND id<?)",
}


async def steps(path: Path, ask: Callable[[apsw.Connection], Any]) -> list[str]:
    """Ask, and have SQLite say how it finds the answer; sorting aside."""
    async with SqliteStore(path):
        pass
    db, said = apsw.Connection(str(path)), []

    def note(_cursor: apsw.Cursor, sql: str, values: Any) -> bool:
        said.append((sql, values))
        return True

    db.exec_trace = note
    ask(db)
    db.exec_trace = None
    [(sql, values)] = said
    found = [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    return [step for step in found if not step.startswith("USE TEMP B-TREE")]


@pytest.mark.parametrize("name", ASKED)
async def test_what_is_final_is_not_read(tmp_path: Path, name: str) -> None:
    """Each statement goes along the index that final rows are not in."""
    ask, plan = ASKED[name]
    assert await steps(tmp_path / "gateway.db", ask) == [plan]


@pytest.mark.parametrize("tenants", OF_TIME)
async def test_lists_of_a_time_begin_and_end_there(tmp_path: Path, tenants: tuple[str, ...] | None) -> None:
    """What was accepted before or after is not read, however much there is of it."""
    wanted = Listing(tenants, 9, since=1, until=2)
    assert await steps(tmp_path / "gateway.db", lambda db: reading.page(db, wanted)) == [OF_TIME[tenants]]
