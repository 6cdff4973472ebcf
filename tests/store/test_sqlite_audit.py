"""The audit log on SQLite: what the file itself refuses, what a check finds in it, and files from before there was one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from gateway.store.protocol import StoreError
from gateway.store.rows import Entry, Stage
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite.file import MIGRATIONS, SCHEMA
from tests.store.building import NOW, happening, put, read, row

ENTRY = Entry("tenant", "acme", "", "1", "api")
LENGTH = 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file."""
    return tmp_path / "gateway.db"


@pytest.fixture
async def store(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteStore]:
    """Open a store with a log that is checked in several pages, of which the last one is full."""
    monkeypatch.setattr("gateway.store.audit.PAGE", 5)
    async with SqliteStore(path) as store:
        await store.change_directory(0, [], [], [happening(object=str(at)) for at in range(LENGTH)], NOW)
        await store.change_directory(1, [], [], [happening("other")] * 3, NOW)
        yield store


def unguarded(store: SqliteStore) -> apsw.Connection:
    """Take away what guards the log, as somebody with the file in their hands can."""
    for trigger in ("update", "delete"):
        store._db.execute(f"DROP TRIGGER audit_no_{trigger}")
    store._db.execute("DROP TRIGGER audit_only_next")
    return store._db


# Refused.


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit SET actor='nobody'",
        "UPDATE audit SET number=11 WHERE number=10 AND tenant='acme'",
        "UPDATE OR REPLACE audit SET number=1 WHERE number=2",
        "UPDATE OR IGNORE audit SET hash=zeroblob(32)",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE tenant='acme' AND number=10",
        "INSERT INTO audit VALUES ('acme',12,0,'','','','','',zeroblob(32))",
        "INSERT INTO audit VALUES ('acme',0,0,'','','','','',zeroblob(32))",
        "INSERT INTO audit VALUES ('new',2,0,'','','','','',zeroblob(32))",
        "INSERT INTO audit VALUES ('acme',11,0,'','','','','',zeroblob(31))",
        "INSERT OR REPLACE INTO audit VALUES ('acme',10,0,'','','','','',zeroblob(32))",
        "REPLACE INTO audit SELECT tenant, number, at, '', '', '', '', '', hash FROM audit",
        "INSERT INTO audit SELECT * FROM audit WHERE true ON CONFLICT DO UPDATE SET actor=''",
    ],
)
async def test_database_only_appends(store: SqliteStore, path: Path, sql: str) -> None:
    """Whoever writes to the database without taking it apart can but add the next row."""
    with closing(apsw.Connection(str(path))) as db:
        before = db.execute("SELECT * FROM audit").fetchall()
        with pytest.raises(apsw.ConstraintError):
            db.execute(sql)
        assert db.execute("SELECT * FROM audit").fetchall() == before
    assert await store.audit_broken("acme") is None


def _drop_log(db: apsw.Connection) -> None:
    db.execute("DROP TABLE audit")


def _refuse_third(db: apsw.Connection) -> None:
    db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON audit WHEN NEW.object='third' BEGIN SELECT RAISE(ABORT, 'no'); END"
    )


@pytest.mark.parametrize("spoil", [_drop_log, _refuse_third])
async def test_change_that_the_log_refuses_does_not_happen(
    store: SqliteStore, path: Path, spoil: Callable[[apsw.Connection], None]
) -> None:
    """A change whose rows cannot be written is undone alone: what shares its commit is written, the store goes on."""
    await store.change_directory(2, [ENTRY], [])
    spoil(store._db)
    told = [happening(object=name) for name in ("first", "second", "third")]
    new = row()
    with closing(apsw.Connection(str(path))) as blocker:  # so that the writer waits with its first job
        blocker.execute("BEGIN IMMEDIATE")
        first = asyncio.ensure_future(store.check())
        await asyncio.sleep(0)
        changing = asyncio.ensure_future(
            store.change_directory(3, [ENTRY._replace(body="2"), ENTRY._replace(tenant="b")], [ENTRY], told, NOW)
        )
        await asyncio.sleep(0)
        accepting = store.accept([new], NOW)
        blocker.execute("COMMIT")
        await asyncio.gather(first, accepting)
    with pytest.raises(StoreError, match="audit log"):
        await changing
    assert await store.directory() == (3, [ENTRY])
    assert (await read(store, new.id)).id == new.id
    assert not store.writer.broken
    assert await store.change_directory(3, [], [ENTRY]) == 4


# Found.


@pytest.mark.parametrize(
    ("sql", "number"),
    [
        ("UPDATE audit SET actor='nobody' WHERE number=1", 1),
        ("UPDATE audit SET at=at+1 WHERE number=5", 5),
        ("UPDATE audit SET changes='{}' WHERE number=6", 6),
        ("UPDATE audit SET hash=zeroblob(32) WHERE number=10", 10),
        ("UPDATE audit SET tenant='third' WHERE tenant='acme' AND number=4", 4),
        ("UPDATE audit SET number=20 WHERE number=10", 10),
        ("UPDATE audit SET number=-7 WHERE number=7 AND tenant='acme'", 1),
        ("DELETE FROM audit WHERE number=1", 1),
        ("DELETE FROM audit WHERE number IN (5, 6)", 5),
        ("DELETE FROM audit WHERE number BETWEEN 1 AND 5", 1),
        ("INSERT INTO audit VALUES ('acme',11,0,'','','','','',zeroblob(32))", 11),
    ],
)
async def test_check_finds_what_was_done_to_the_file(store: SqliteStore, sql: str, number: int) -> None:
    """The check names the first number that is wrong, on whichever page it is."""
    assert await store.audit_broken("acme") is None
    unguarded(store).execute(sql)
    assert await store.audit_broken("acme") == number


async def test_fault_is_of_its_tenant_alone(store: SqliteStore) -> None:
    """A broken log says nothing against another one, and still goes on."""
    unguarded(store).execute("UPDATE audit SET actor='nobody' WHERE tenant='other' AND number=2")
    await store.change_directory(2, [], [], [happening("other")], NOW)
    assert [await store.audit_broken(tenant) for tenant in ("acme", "other")] == [None, 2]
    assert await store.audit_length("other") == 4


# Files from before.


async def test_file_without_a_log_is_migrated(path: Path) -> None:
    """A file of schema 1 keeps its rows, gets a log when it is opened, and is opened like any other afterwards."""
    with closing(apsw.Connection(str(path))) as db:
        db.execute((MIGRATIONS / "sqlite-0001.sql").read_text())
        db.execute("INSERT INTO directory VALUES (?,?,?,?,?)", ENTRY)
        db.execute("INSERT INTO meta VALUES ('directory_revision', '4')")
        db.execute(
            "INSERT INTO notification VALUES (1,'a1','acme','main','x','k1',1,0,'queued',?,?,?,NULL,NULL,NULL,0,0,"
            "'[]','','[]')",
            (NOW, NOW + 1, NOW),
        )
        db.execute("INSERT INTO content VALUES (1,'body')")
        db.execute("PRAGMA user_version=1")
    for life in range(2):
        async with SqliteStore(path) as store:
            assert store._db.pragma("user_version") == SCHEMA
            assert await store.directory() == (4 + life, [ENTRY])
            old = await read(store, "a1")
            assert (old.stage, old.due_at, old.content) == (Stage.READY, NOW, "body")
            await put(store, row())
            await store.change_directory(4 + life, [], [], [happening()], NOW)
            assert (await store.audit_length("acme"), await store.audit_broken("acme")) == (1 + life, None)
