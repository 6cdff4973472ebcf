"""Putting a copy in the place of a database: only what is ours and whole, and never without the old one kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import apsw
import pytest

from gateway.store.protocol import Copied, StoreBusy, StoreError
from gateway.store.rows import Happening
from gateway.store.sqlite import SqliteStore, copying
from gateway.store.sqlite.file import SCHEMA
from gateway.store.sqlite.restoring import restore
from tests.peers.requirements import require
from tests.process.daemon import ROOT
from tests.store.building import NOW, put, row
from tests.store.contract_sessions import session, token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGE = f'{{"text":"{"x" * 20_000}"}}'
THEY = 4321  # a user who has no name
KILLED_AT = """
import os, signal, sys
from pathlib import Path
from gateway.store.sqlite.restoring import restore
steps = int(sys.argv[3])
def step(event, _):
    global steps
    steps -= event in ("os.rename", "os.remove")
    if steps < 0:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
restore(Path(sys.argv[1]), Path(sys.argv[2]), force=True)
"""


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
    """Without it nothing happens, and whoever asked is told what would."""
    before = state(path.parent)
    with pytest.raises(StoreError) as refused:
        restore(path, backup)
    assert state(path.parent) == before
    told = "--force replaces it; the old one is kept beside, as gateway.db.before-restore-<time>"
    assert str(refused.value) == f"there is a database at {path}: {told}"


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


async def test_nobody_is_signed_in_to_what_was_restored(path: Path, tmp_path: Path) -> None:
    """Whoever was signed in to the database of a stopped daemon is not to the one that it is put back as."""
    async with SqliteStore(path) as store:
        await store.begin_session(session("a"))
    restore(tmp_path / "other.db", path)
    async with SqliteStore(tmp_path / "other.db") as store:
        assert await store.session(token("a")) is None
    async with SqliteStore(path) as store:
        assert await store.session(token("a")) == session("a")


async def test_it_goes_on_where_it_was_broken_off(path: Path, backup: Path) -> None:
    """From the moment that the new database has its name, whoever opens the old one puts it in place."""
    shutil.copyfile(backup, copying.restored_as(path))
    path.unlink()
    assert await rows(path) == 20
    assert not copying.restored_as(path).exists()


async def test_whenever_it_is_killed_there_is_one_of_them(path: Path, backup: Path, tmp_path: Path) -> None:
    """Before each renaming and each deletion: the next daemon has the old database or the new one, whole, and no litter."""
    found: list[int] = []
    for steps in range(100):
        folder = shutil.copytree(path.parent, tmp_path / str(steps))
        given = [str(folder / path.name), str(backup), str(steps)]
        code = subprocess.run([sys.executable, "-c", KILLED_AT, *given], check=False, cwd=ROOT).returncode
        found.append(await rows(folder / path.name))
        left = {one.name.partition("before-restore")[1] or one.name for one in folder.iterdir()}
        assert left <= {"gateway.db", "gateway.db.lock", "before-restore"}
        if code == 0:
            break
    assert found[-1] == 20
    assert found == sorted(found, reverse=True)
    assert len(found) > 10
    assert set(found) == {21, 20}


async def test_no_journal_of_the_old_database_is_left_to_the_new_one(path: Path, backup: Path) -> None:
    """A rollback journal goes with its database too: SQLite would roll it back into whatever has the name."""
    journal = path.with_name("gateway.db-journal")
    journal.write_bytes(b"of the old one")
    kept = restore(path, backup, force=True).kept
    assert not journal.exists()
    assert Path(f"{kept}-journal").read_bytes() == b"of the old one"


async def test_an_older_schema_is_brought_up_to_date(path: Path, backup: Path) -> None:
    """A copy that older code made is one of ours."""
    with closing(apsw.Connection(str(backup))) as db:
        db.execute("DROP TABLE webhook_event; DROP TABLE sessions; PRAGMA user_version=3")
    assert restore(path, backup, force=True).schema == 3
    assert await rows(path) == 20


# Root, in the directory of the daemon's user.


@pytest.fixture
def theirs() -> Iterator[Path]:
    """Make a folder of another user, who can go there."""
    require("root, who may act as others", os.geteuid() == 0)
    with TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as made:
        os.chown(made, THEY, 1234)
        yield Path(made)


def owners(folder: Path) -> set[tuple[int, int]]:
    """Tell whose the files in a folder are."""
    return {(one.lstat().st_uid, one.lstat().st_gid) for one in folder.iterdir()}


async def test_the_daemon_can_read_what_root_restored(theirs: Path, path: Path, backup: Path) -> None:
    """All of it is the daemon's: a new database, one that replaces another, the lock, the kept one."""
    restore(theirs / "gateway.db", backup)
    alone = owners(theirs)
    kept = restore(theirs / "gateway.db", backup, force=True).kept
    assert kept is not None
    assert (alone, owners(theirs), kept.stat().st_uid) == ({(THEY, 1234)}, {(THEY, 1234)}, THEY)
    assert (os.geteuid(), os.getegid(), 1234 in os.getgroups()) == (0, 0, False)


async def test_root_goes_where_systemd_hides_a_folder(theirs: Path, backup: Path) -> None:
    """Below a folder of root's alone, as those of dynamic users are, it restores all the same, and as the owner."""
    hidden = theirs / "private"
    hidden.mkdir(mode=0o700)
    own = hidden / "own"
    own.mkdir()
    os.chown(own, THEY, 1234)
    restore(own / "gateway.db", backup)
    restore(own / "gateway.db", backup, force=True)
    assert owners(own) == {(THEY, 1234)}
    assert os.geteuid() == 0


@pytest.mark.parametrize("name", ["gateway.db.lock", "gateway.db.restoring", "gateway.db.restored", "gateway.db"])
@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
async def test_root_is_not_led_to_its_own_files(
    theirs: Path, backup: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    """Whatever name of ours its owner gives to a file of root's, that stays root's, as it is."""
    with TemporaryDirectory(dir="/tmp") as made:
        own = Path(made) / "own"
        own.write_text("root's own")
        own.chmod(0o600)
        plant(theirs / name, own)
        with suppress(StoreError):
            restore(theirs / "gateway.db", backup, force=True)
        looked = own.stat()
        assert (own.read_text(), looked.st_uid, looked.st_mode & 0o777) == ("root's own", 0, 0o600)


async def test_root_is_not_led_elsewhere(theirs: Path, backup: Path, tmp_path: Path) -> None:
    """A folder that is a link of theirs leads where they may go themselves, and no further."""
    (theirs / "var").symlink_to(tmp_path)
    os.lchown(theirs / "var", THEY, THEY)
    before = state(tmp_path)
    with pytest.raises(StoreError, match="as whom root restores"):
        restore(theirs / "var" / "gateway.db", backup)
    assert state(tmp_path) == before


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


def _moved(backup: Path) -> None:
    with closing(apsw.Connection(str(backup))) as db:
        db.execute("INSERT INTO meta VALUES ('moved_to', '1 postgresql://db/mail')")


def _dated(mark: str) -> Callable[[Path], None]:
    def date(backup: Path) -> None:
        with closing(apsw.Connection(str(backup))) as db:
            db.execute("UPDATE meta SET value=? WHERE name='copied_at'", (mark,))

    return date


def _linked(backup: Path) -> None:
    backup.symlink_to(backup.rename(backup.with_name("other.db")))


def _linked_log(backup: Path) -> None:
    other = backup.with_name("other")
    other.write_text("for root's eyes only")
    backup.with_name("backup.db-wal").symlink_to(other)


def _folder(backup: Path) -> None:
    backup.unlink()
    backup.mkdir()


def _pipe(backup: Path) -> None:
    backup.unlink()
    os.mkfifo(backup)


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
        (_moved, "was moved to postgresql://db/mail: from here its mail would be sent twice"),
        (_dated("yesterday"), "copied_at is no time"),
        (_dated("999999999999999"), "copied_at is no time"),
        (_dated("9" * 5000), "copied_at is no time"),
        (_linked, "is a symbolic link: name the file itself"),
        (_linked_log, "backup.db-wal is a symbolic link"),
        (_folder, "is no file"),
        (_pipe, "is no file"),
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


@pytest.mark.parametrize(
    ("plant", "why"),
    [(Path.symlink_to, "is a symbolic link: delete it"), (Path.hardlink_to, "is no file with one name: delete it")],
)
async def test_a_lock_that_leads_elsewhere_is_none(
    path: Path, backup: Path, plant: Callable[[Path, Path], None], why: str
) -> None:
    """Neither `restore` nor a daemon opens it; what it leads to is left alone."""
    lock, other = path.with_name("gateway.db.lock"), path.with_name("other")
    other.touch()
    lock.unlink()
    plant(lock, other)
    with pytest.raises(StoreError, match=why):
        restore(path, backup, force=True)
    with pytest.raises(StoreError, match=why):
        await rows(path)
    lock.unlink()
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
