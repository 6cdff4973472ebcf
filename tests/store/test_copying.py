"""Copies of an SQLite database in use: whole, of one moment, marked, and gone afterwards."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from gateway.store.protocol import Copied, CopyRunning, StoreError, StoreFull
from gateway.store.sqlite import SqliteStore, copying
from gateway.store.sqlite.copying import Copier
from tests.store.building import key, put, row
from tests.store.contract_sessions import session, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.store.protocol import Copy

AT_ONCE = 0.5  # seconds; the ten thousand pages take several
LARGE = f'{{"text":"{"x" * 20_000}"}}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a database."""
    return tmp_path / "gateway.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """Open a store that no daemon has settled in."""
    async with SqliteStore(path) as opened:
        yield opened


def beside(path: Path) -> set[str]:
    """Name what lies beside a database and is no part of it."""
    return {name.name for name in path.parent.iterdir()} - {
        f"{path.name}{part}" for part in ("", "-wal", "-shm", ".lock")
    }


def kept(copy: Copy, path: Path) -> Path:
    """Keep a copy under a name of its own."""
    made = path.with_name("kept.db")
    made.write_bytes(copy.file.read())
    return made


async def test_a_copy_is_of_one_moment(store: SqliteStore, path: Path) -> None:
    """Rows that are committed while a copy is made are in it in the order of their commits, up to one of them."""
    await put(store, *(row(content=LARGE) for _ in range(1_500)))
    made: list[str] = []
    copied = asyncio.Event()

    async def post() -> None:
        while not copied.is_set():
            new = row(idempotency=key(f"k{len(made)}"), content=LARGE)
            await put(store, new)
            made.append(new.id)

    posting = [asyncio.ensure_future(post())]
    async with store.copier.copy() as copy:
        copied.set()
        await asyncio.gather(*posting)
        file = kept(copy, path)
    with closing(sqlite3.connect(file)) as db:
        rows = [id_ for (id_,) in db.execute("SELECT id FROM notification ORDER BY seq")]
        keys = {name for (name,) in db.execute("SELECT key FROM idempotency")}
        contents = db.execute("SELECT count(*) FROM content").fetchone()[0]
    late = rows[1_500:]

    assert late == made[: len(late)]
    assert len(made) > 0
    assert keys == {f"k{number}" for number in range(len(late))}
    assert contents == len(rows)


async def test_a_copy_is_one_private_file_without_a_name(store: SqliteStore, path: Path) -> None:
    """It is the whole database in one file, opens without a log beside it, and nobody else can reach it."""
    await put(store, row())
    async with store.copier.copy() as copy:
        told = os.fstat(copy.file.fileno())
        names = beside(path)
        file = kept(copy, path)

    assert (told.st_nlink, told.st_mode & 0o777, told.st_size) == (0, 0o600, copy.size)
    assert names == set()
    assert file.stat().st_size == copy.size
    with closing(apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        assert db.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
        assert db.execute("SELECT value FROM meta WHERE name='copied_at'").fetchall() == [(str(copy.taken_at),)]


async def test_a_copy_is_known_wherever_it_is_opened_and_the_original_is_none(store: SqliteStore, path: Path) -> None:
    """What opens a copy is told that it is one, until it settles in."""
    async with store.copier.copy() as copy:
        file = kept(copy, path)
    async with SqliteStore(file) as other:
        before = await other.copied()
        await other.settle_in()
        after = await other.copied()

    assert (before, after) == (Copied.RESTORED, None)
    assert await store.copied() is None


async def test_nobody_is_signed_in_to_a_copy(store: SqliteStore, path: Path) -> None:
    """Sessions stay where they are, and are not written into the copy."""
    await store.begin_session(session("a"))
    async with store.copier.copy() as copy:
        file = kept(copy, path)
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
    assert await store.session(token("a")) == session("a")


async def test_one_copy_at_a_time(store: SqliteStore) -> None:
    """While one is read there is no other; then there is."""
    async with store.copier.copy():
        with pytest.raises(CopyRunning):
            async with store.copier.copy():
                pass
    async with store.copier.copy() as copy:
        assert copy.size > 0


async def test_no_copy_takes_the_room_that_mail_needs(store: SqliteStore, path: Path) -> None:
    """Below the floor and what is to spare nothing is written."""
    space = os.statvfs(path.parent)
    with pytest.raises(StoreFull):
        async with Copier(path, space.f_bavail * space.f_frsize).copy():
            pass
    assert beside(path) == set()


async def test_a_damaged_copy_is_not_given_away(tmp_path: Path) -> None:
    """A page that is not one is found before anybody gets a byte, and nothing is left behind."""
    path = tmp_path / "damaged.db"
    async with SqliteStore(path) as store:
        await put(store, *(row(content=LARGE) for _ in range(50)))
    with path.open("r+b") as file:
        file.seek(-4096 * 3, os.SEEK_END)
        file.write(os.urandom(4096 * 2))
    with pytest.raises(StoreError, match="damaged"):
        async with Copier(path, 0).copy():
            pass
    assert beside(path) == set()


async def test_whoever_stops_waiting_leaves_nothing_behind(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is given up half-way ends there, long before its last page, and the next one begins at once."""
    monkeypatch.setattr(copying, "PAGES", 1)
    await put(store, *(row(content=LARGE) for _ in range(2_000)))

    async def fetch() -> None:
        async with store.copier.copy():
            pass

    fetching = asyncio.ensure_future(fetch())
    async with asyncio.timeout(10):
        while not copying.copy_of(path).exists():
            await asyncio.sleep(0)
    half = copying.copy_of(path).stat().st_size
    fetching.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    took = time.monotonic() - began
    names = beside(path)
    monkeypatch.undo()
    async with store.copier.copy() as copy:
        assert copy.size > 0
    assert half < copy.size / 2
    assert took < AT_ONCE
    assert names == set()


async def test_what_a_crash_left_is_cleared_away(path: Path) -> None:
    """The next opening deletes a copy that nobody can have had."""
    left = [Path(f"{copying.copy_of(path)}{part}") for part in copying.PARTS]
    for one in left:
        one.write_bytes(b"half a copy")
    async with SqliteStore(path):
        assert [one.exists() for one in left] == [False] * len(left)
