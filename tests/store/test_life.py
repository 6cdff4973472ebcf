"""The life of a database: what was copied by other means than a backup shows, and a crash never looks like a copy."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from gateway.store.protocol import Copied
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite.life import Life

if TYPE_CHECKING:
    from pathlib import Path


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
