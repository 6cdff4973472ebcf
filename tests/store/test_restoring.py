"""Putting a copy in the place of a database: only what is ours and whole, and never without the old one kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from gateway.store.protocol import Copied, StoreBusy, StoreError
from gateway.store.rows import Happening
from gateway.store.sqlite import SqliteStore, copying
from gateway.store.sqlite.file import SCHEMA
from gateway.store.sqlite.restoring import restore
from tests.peers.requirements import require
from tests.store.building import NOW, put, row

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = f'{{"text":"{"x" * 20_000}"}}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a database in a folder of its own."""
    folder = tmp_path / "var"
    folder.mkdir()
    return folder / "gateway.db"


@pytest.fixture
async def backup(tmp_path: Path, path: Path) -> Path:
    """Give a copy with twenty rows and an audit log; the database itself has another row since."""
    made = tmp_path / "backup.db"
    async with SqliteStore(path) as store:
        await put(store, *(row(content=LARGE) for _ in range(20)))
        await store.log([Happening("acme", "key:1", "acme", "profile.update", f"p{n}", "[]") for n in range(5)], NOW)
        async with store.copier.copy() as copy:
            made.write_bytes(copy.file.read())
        await put(store, row())
    return made


async def rows(path: Path) -> int:
    """Count the rows of a database as its next daemon finds them."""
    async with SqliteStore(path) as store:
        return sum((await store.unfinished()).values())


def state(folder: Path) -> dict[str, str]:
    """Tell names and contents of a folder, the lock aside."""
    return {
        one.name: hashlib.sha256(one.read_bytes()).hexdigest()
        for one in folder.iterdir()
        if one.is_file() and not one.name.endswith(".lock")
    }


# What is put in place.


async def test_a_copy_takes_the_place_and_the_old_one_is_kept(path: Path, backup: Path) -> None:
    """The restored rows are there, marked as a copy, in a private file; the old database opens under its new name."""
    before = backup.read_bytes()
    done = restore(path, backup, force=True)
    assert done.kept is not None
    mode = path.stat().st_mode & 0o777
    async with SqliteStore(path) as store:
        copied, restored = await store.copied(), sum((await store.unfinished()).values())

    assert (restored, done.unfinished, done.schema, copied, mode) == (20, 20, SCHEMA, Copied.RESTORED, 0o600)
    assert done.kept.name.startswith("gateway.db.before-restore-")
    assert await rows(done.kept) == 21
    assert backup.read_bytes() == before


async def test_where_there_is_none_it_is_made(backup: Path, tmp_path: Path) -> None:
    """A machine that never had a database gets one, folder and all, without a word of force."""
    path = tmp_path / "new" / "var" / "gateway.db"
    assert restore(path, backup).kept is None
    assert await rows(path) == 20


async def test_what_is_there_is_replaced_by_force_only(path: Path, backup: Path) -> None:
    """Without it nothing happens."""
    before = state(path.parent)
    with pytest.raises(StoreError, match="--force"):
        restore(path, backup)
    assert state(path.parent) == before


async def test_the_log_of_the_old_database_goes_with_it(path: Path, backup: Path, tmp_path: Path) -> None:
    """A daemon that was killed has left a log: it belongs to the old database, and never to the new one."""
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    async with SqliteStore(path) as store:
        await put(store, row(), row())
        for part in ("", "-wal"):
            shutil.copyfile(f"{path}{part}", crashed / f"gateway.db{part}")
    assert (crashed / "gateway.db-wal").stat().st_size > 0
    done = restore(crashed / "gateway.db", backup, force=True)
    assert done.kept is not None

    assert await rows(crashed / "gateway.db") == 20
    assert await rows(done.kept) == 23


async def test_a_database_with_its_log_is_restored_whole(path: Path, backup: Path, tmp_path: Path) -> None:
    """What stands in the log beside the given file is not lost."""
    given = tmp_path / "given.db"
    async with SqliteStore(path) as store:
        await put(store, row(), row())
        for part in ("", "-wal"):
            shutil.copyfile(f"{path}{part}", f"{given}{part}")
    restore(path, given, force=True)
    assert await rows(path) == 23


async def test_it_goes_on_where_it_was_broken_off(path: Path, backup: Path) -> None:
    """From the moment that the new database has its name, whoever opens the old one puts it in place."""
    shutil.copyfile(backup, copying.restored_as(path))
    path.unlink()
    assert await rows(path) == 20
    assert not copying.restored_as(path).exists()


async def test_an_older_schema_is_brought_up_to_date(path: Path, backup: Path) -> None:
    """A copy that older code made is one of ours."""
    with closing(apsw.Connection(str(backup))) as db:
        db.execute("DROP TABLE webhook_event; PRAGMA user_version=3")
    assert restore(path, backup, force=True).schema == 3
    assert await rows(path) == 20


async def test_the_daemon_can_read_what_another_user_restored(path: Path, backup: Path) -> None:
    """The file belongs to whom the old one did, and so do lock and the kept one."""
    require("root, who may give files away", os.geteuid() == 0)
    path.with_name("gateway.db.lock").unlink()
    os.chown(path, 4321, 1234)
    done = restore(path, backup, force=True)
    assert done.kept is not None
    whose = [(one.stat().st_uid, one.stat().st_gid) for one in (path, path.with_name("gateway.db.lock"), done.kept)]
    assert whose == [(4321, 1234)] * 3


async def test_where_there_was_none_it_is_the_folders(backup: Path, tmp_path: Path) -> None:
    """A new machine's folder says who the daemon is."""
    require("root, who may give files away", os.geteuid() == 0)
    folder = tmp_path / "new"
    folder.mkdir()
    os.chown(folder, 4321, 1234)
    restore(folder / "gateway.db", backup)
    assert {one.stat().st_uid for one in folder.iterdir()} == {4321}


# What is refused.


def _truncated(backup: Path) -> None:
    os.truncate(backup, backup.stat().st_size // 2)


def _overwritten(backup: Path) -> None:
    with backup.open("r+b") as file:
        file.seek(-3 * 4096, os.SEEK_END)
        file.write(os.urandom(4096))


def _altered(backup: Path) -> None:
    with closing(apsw.Connection(str(backup))) as db:
        ((sql,),) = db.execute("SELECT sql FROM sqlite_schema WHERE name='audit_no_update'").fetchall()
        db.execute("DROP TRIGGER audit_no_update; UPDATE audit SET actor='nobody' WHERE number=3")
        db.execute(str(sql))


def _foreign(backup: Path) -> None:
    backup.unlink()
    with closing(apsw.Connection(str(backup))) as db:
        db.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT); PRAGMA user_version=1")


def _trapped(backup: Path) -> None:
    with closing(apsw.Connection(str(backup))) as db:
        db.execute("CREATE TRIGGER trap AFTER INSERT ON meta BEGIN DELETE FROM notification; END")


def _newer(backup: Path) -> None:
    with closing(apsw.Connection(str(backup))) as db:
        db.execute(f"PRAGMA user_version={SCHEMA + 1}")


def _text(backup: Path) -> None:
    backup.write_text("-- PostgreSQL database dump\n")


def _nothing(backup: Path) -> None:
    backup.write_bytes(b"")


def _gone(backup: Path) -> None:
    backup.unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_truncated, "is damaged"),
        (_overwritten, "is damaged"),
        (_altered, "tampered with: the audit log of tenant acme is not whole at 3"),
        (_foreign, "no database of a notification gateway"),
        (_trapped, "no database of a notification gateway"),
        (_newer, f"newer version \\(schema {SCHEMA + 1}, here {SCHEMA}\\)"),
        (_text, "no SQLite database"),
        (_nothing, "no SQLite database"),
        (_gone, "there is no file"),
    ],
)
async def test_what_will_not_do_changes_nothing(
    path: Path, backup: Path, spoil: Callable[[Path], None], why: str
) -> None:
    """A file that is damaged, of others, or too new is refused; the database stays as it was, and nothing is left."""
    spoil(backup)
    before = state(path.parent)
    with pytest.raises(StoreError, match=why):
        restore(path, backup, force=True)
    assert state(path.parent) == before
    assert await rows(path) == 21


async def test_a_database_is_not_restored_from_itself(path: Path, backup: Path) -> None:
    """The very file, by whatever name."""
    other = path.with_name("other.db")
    os.link(path, other)
    with pytest.raises(StoreError, match="the database itself"):
        restore(path, other, force=True)


async def test_nothing_is_restored_beside_a_daemon(path: Path, backup: Path) -> None:
    """While somebody holds the database it is theirs."""
    async with SqliteStore(path) as store:
        before = state(path.parent)
        with pytest.raises(StoreBusy):
            restore(path, backup, force=True)
        assert state(path.parent) == before
        await put(store, row())
