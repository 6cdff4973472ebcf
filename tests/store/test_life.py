"""The life of a database: what was copied by other means than a backup shows, and a crash never looks like a copy."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from gateway.store.protocol import Copied
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite.life import Life
from tests.process.daemon import ROOT
from tests.store.contract_sessions import session, token

if TYPE_CHECKING:
    from pathlib import Path


KILLED_AT = """
import asyncio, os, signal, sys
from pathlib import Path
from gateway.store.sqlite import SqliteStore
steps = None
def step(event, _):
    global steps
    if steps is not None and event in ("os.rename", "os.remove"):
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
async def live():
    global steps
    async with SqliteStore(Path(sys.argv[1])) as store:
        steps = int(sys.argv[2])
        await store.settle_in()
        await store.settle_in()
asyncio.run(live())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a database."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder / "gateway.db"


async def lived(path: Path) -> Copied | None:
    """Let a daemon open the database and settle in; answers whether it was a copy."""
    async with SqliteStore(path) as store:
        copied = await store.copied()
        await store.settle_in()
    return copied


async def looked(path: Path) -> Copied | None:
    """Say whether it is a copy, and leave it so."""
    async with SqliteStore(path) as store:
        return await store.copied()


async def test_an_installation_that_stays_is_none(path: Path) -> None:
    """Neither a new one is a copy, nor one that was stopped and started again, three times."""
    assert [await lived(path) for _ in range(4)] == [None] * 4


async def test_an_older_state_of_the_same_file_is(path: Path) -> None:
    """What was copied after one life and put back after another shows."""
    await lived(path)
    older = path.read_bytes()
    await lived(path)
    path.write_bytes(older)
    assert await looked(path) is Copied.CLONED


async def test_a_state_of_the_last_life_is(path: Path) -> None:
    """What was copied while the daemon ran shows, although it was the daemon's last life: that had an end."""
    async with SqliteStore(path) as store:
        await store.settle_in()
        async with store.copier.copy() as copy:
            older = path.with_name("older.db")
            older.write_bytes(copy.file.read())
    async with SqliteStore(older) as unmarked:
        await unmarked._write(lambda db: db.execute("DELETE FROM meta WHERE name='copied_at'") and None)
    path.write_bytes(older.read_bytes())
    assert await looked(path) is Copied.CLONED


async def test_a_copy_in_another_place_is(path: Path, tmp_path: Path) -> None:
    """The folder was copied whole, the file with the ids included."""
    await lived(path)
    there = shutil.copytree(path.parent, tmp_path / "there")
    assert await looked(there / path.name) is Copied.CLONED
    assert await looked(path) is None


async def test_a_moved_folder_is_none(path: Path, tmp_path: Path) -> None:
    """The very same file under another name is no copy."""
    await lived(path)
    there = path.parent.rename(tmp_path / "there")
    assert await looked(there / path.name) is None


async def test_without_its_file_it_is(path: Path) -> None:
    """A database that has lived somewhere is a copy where nobody knows of that; so is one with an unreadable file."""
    await lived(path)
    beside = path.with_name("gateway.db.life")
    told = beside.read_bytes()
    beside.unlink()
    without = await looked(path)
    beside.write_bytes(told[:20])
    assert (without, await looked(path)) == (Copied.CLONED, Copied.CLONED)


async def test_it_is_told_once(path: Path) -> None:
    """Whoever settles in makes the copy the original of its place."""
    await lived(path)
    path.with_name("gateway.db.life").unlink()
    assert (await lived(path), await lived(path)) == (Copied.CLONED, None)


# Who is signed in.


async def signed_in(path: Path) -> bool:
    """Let a daemon open the database and settle in; answers whether the session is there then, and an hour later."""
    async with SqliteStore(path) as store:
        await store.settle_in()
        found = await store.session(token("a"))
        await store.settle_in()
        assert await store.session(token("a")) == found
    return found is not None


async def sign_in(path: Path) -> None:
    """Let a daemon live here with somebody who signs in."""
    async with SqliteStore(path) as store:
        await store.settle_in()
        await store.begin_session(session("a"))


async def test_who_is_signed_in_stays_so(path: Path) -> None:
    """Over restarts, however many."""
    await sign_in(path)
    assert [await signed_in(path) for _ in range(3)] == [True] * 3


@pytest.mark.parametrize("marked", [False, True], ids=["cloned", "restored"])
async def test_nobody_is_signed_in_to_a_copy(path: Path, tmp_path: Path, *, marked: bool) -> None:
    """Sessions end where a copy is settled in; where it came from they stay."""
    await sign_in(path)
    there = shutil.copytree(path.parent, tmp_path / "there") / path.name
    if marked:
        with closing(sqlite3.connect(there)) as db:
            db.execute("INSERT INTO meta VALUES ('copied_at', '1')")
            db.commit()
    assert [await signed_in(there), await signed_in(path)] == [False, True]


async def test_whenever_a_copy_is_killed_nobody_is_signed_in(path: Path, tmp_path: Path) -> None:
    """Before each deletion and each renaming while it settles in: the next start brings no session back."""
    await sign_in(path)
    codes: list[int] = []
    while 0 not in codes:
        there = shutil.copytree(path.parent, tmp_path / str(len(codes))) / path.name
        given = [str(there), str(len(codes))]
        codes.append(subprocess.run([sys.executable, "-c", KILLED_AT, *given], check=False, cwd=ROOT).returncode)
        assert not await signed_in(there)
    assert len(codes) > 4


class Held:
    """A write that keeps the writer, and what stands behind it, until it is let go."""

    def __init__(self, store: SqliteStore) -> None:
        """Queue it."""
        self._entered, self._go_on = threading.Event(), threading.Event()
        self._written = asyncio.ensure_future(store._write(self._work))

    def _work(self, _db: object) -> None:
        self._entered.set()
        assert self._go_on.wait(10)

    async def entered(self) -> None:
        """Wait until the writer is there."""
        assert await asyncio.to_thread(self._entered.wait, 10)

    def release(self) -> None:
        """Let the writer go on."""
        self._go_on.set()


async def held(store: SqliteStore) -> Held:
    """Queue a write that keeps the writer."""
    made = Held(store)
    await asyncio.sleep(0)
    return made


async def read_often(store: SqliteStore) -> None:
    """Wait until whatever was begun before has read, written beside, and gone on to the writer."""
    for _ in range(4):
        await store.unfinished()


def ids(path: Path) -> list[str]:
    """Read which ids the database may have, by the file beside it."""
    told: list[str] = json.loads(path.with_name("gateway.db.life").read_text())["ids"]
    return told


async def test_whenever_it_is_killed_it_is_no_copy(path: Path) -> None:
    """Before each deletion and each renaming while it settles in, twice, and ends: the next start is an ordinary one."""
    await lived(path)
    codes: list[int] = []
    while 0 not in codes:
        given = [str(path), str(len(codes))]
        codes.append(subprocess.run([sys.executable, "-c", KILLED_AT, *given], check=False, cwd=ROOT).returncode)
        assert await looked(path) is None
    assert codes == [-9] * 12 + [0]


async def test_a_life_that_is_not_committed_yet_stays_announced(path: Path) -> None:
    """Begun, cancelled while it is committed, and begun again meanwhile: at no moment is the database unknown."""
    async with SqliteStore(path) as store:
        await store.settle_in()
        first = await held(store)
        await first.entered()
        begun = asyncio.create_task(store.settle_in())
        await read_often(store)
        announced = ids(path)
        second = await held(store)
        first.release()
        await second.entered()
        begun.cancel()
        third = await held(store)
        again = asyncio.create_task(store.settle_in())
        await read_often(store)
        second.release()
        await third.entered()
        with closing(sqlite3.connect(path)) as db:
            ((life,),) = db.execute("SELECT value FROM meta WHERE name='life'").fetchall()
        known = Life(path).knows(life)
        third.release()
        await asyncio.wait([begun, again])

    assert (len(announced), life in announced, known, begun.cancelled()) == (2, True, True, True)
    assert await lived(path) is None


def test_another_machine_does_not_know_it(path: Path, tmp_path: Path) -> None:
    """The file counts on its own machine only, and does not show which that is."""
    path.touch()
    here, there = tmp_path / "here-id", tmp_path / "there-id"
    here.write_text("0123456789abcdef0123456789abcdef\n")
    there.write_text("fedcba9876543210fedcba9876543210\n")
    Life(path, here).write("one", "two")

    assert [Life(path, here).knows(id_) for id_ in ("one", "two", "three")] == [True, True, False]
    assert not Life(path, there).knows("one")
    assert "0123456789abcdef" not in path.with_name("gateway.db.life").read_text()


def test_a_machine_without_an_id_knows_its_own(path: Path, tmp_path: Path) -> None:
    """Containers may have none."""
    path.touch()
    Life(path, tmp_path / "nothing").write("one")
    assert Life(path, tmp_path / "nothing").knows("one")


def test_the_file_is_private(path: Path) -> None:
    """Nobody else reads it, and nothing is left beside it."""
    path.touch()
    Life(path).write("one")
    beside = path.with_name("gateway.db.life")
    assert (beside.stat().st_mode & 0o777, sorted(json.loads(beside.read_text()))) == (0o600, ["ids", "place"])
    assert sorted(one.name for one in path.parent.iterdir()) == ["gateway.db", "gateway.db.life"]


def test_no_link_is_followed(path: Path, tmp_path: Path) -> None:
    """What somebody put where the new file is made is taken away, and what it leads to is left alone."""
    path.touch()
    other = tmp_path / "other"
    other.write_text("another's")
    path.with_name("gateway.db.life.new").symlink_to(other)
    Life(path).write("one")
    assert (other.read_text(), Life(path).knows("one")) == ("another's", True)
