"""The database file: locked for one process, checked after a crash, migrated, opened and closed.

A file whose daemon died gives back here what it held: the lock proves that it is dead. What cannot be read, is newer
than this code, or was moved to another store, is `StoreBroken`.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from gateway.store.protocol import StoreBroken, StoreBusy, StoreFull
from gateway.store.sqlite import copying, events
from gateway.store.sqlite.group import Value

SCHEMA: Final = 5
MIGRATIONS: Final = Path(__file__).parents[1] / "migrations"
MOVING: Final = "moving"  # in `meta`: a move to another store was begun, and no daemon worked here since
MOVED_TO: Final = "moved_to"  # in `meta`: the id of the database that has everything now, and how people call it


class Opened(NamedTuple):
    """An open database: the lock's descriptor, the connection that writes, and one that reads."""

    lock: int
    db: apsw.Connection
    read_db: apsw.Connection


def open_file(path: Path, vfs: str | None, *, for_move: bool) -> Opened:
    """Lock, open, check and migrate the file; `for_move` also one that was moved.

    `StoreBusy` if another process has it, `StoreFull` if there is no room to begin in, `StoreBroken` if nobody may work
    on it or it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _locked(path)
    try:
        copying.install(path)
        copying.clear(copying.copy_of(path))
        copying.clear(copying.restoring_as(path))
        return Opened(lock, *_connected(path, vfs, for_move=for_move))
    except BaseException as error:
        os.close(lock)
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            raise _damaged(path, str(error)) from error
        if isinstance(error, apsw.FullError):
            raise StoreFull(f"the disk is full: {path} cannot be opened") from error
        if isinstance(error, apsw.Error):
            raise StoreBroken(f"{path} cannot be opened: {type(error).__name__}: {error}") from error
        raise


def close_file(opened: Opened, *, keep_log: bool) -> None:
    """Close and unlock it; a log that is kept tells the next opening to check the file."""
    opened.read_db.close()
    _disconnect(opened.db, keep_log=keep_log)
    os.close(opened.lock)


def next_seq(db: apsw.Connection) -> int:
    """Read the number that the next notification gets."""
    return int(str(_scalar(db, "SELECT coalesce(max(seq), 0) + 1 FROM notification")))


@contextmanager
def held_file(path: Path) -> Iterator[None]:
    """Keep all daemons from a database for the time of the block. Raises `StoreBusy`."""
    lock = _locked(path)
    try:
        yield
    finally:
        os.close(lock)


def _locked(path: Path) -> int:
    """Lock the database for this process, which also says that no other works on it; answers the lock's descriptor."""
    lock = _lock_file(Path(f"{path}.lock"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StoreBusy(f"another daemon holds {path}") from error
    return lock


def _lock_file(path: Path) -> int:
    """Open it, or make it. It is ours alone: what a link leads to is somebody else's, and is left alone."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StoreBroken(f"{path} is a symbolic link: delete it") from None
    looked = os.fstat(lock)
    if not stat.S_ISREG(looked.st_mode) or looked.st_nlink != 1:
        os.close(lock)
        raise StoreBroken(f"{path} is no file with one name: delete it")
    return lock


def _connected(path: Path, vfs: str | None, *, for_move: bool) -> tuple[apsw.Connection, apsw.Connection]:
    wal = Path(f"{path}-wal")
    crashed = wal.exists() and wal.stat().st_size > 0
    with ExitStack() as undo:
        db = apsw.Connection(str(path), vfs=vfs, statementcachesize=500)
        undo.callback(_disconnect, db, keep_log=True)
        path.chmod(0o600)
        _configure(db)
        if crashed and (faults := db.execute("PRAGMA quick_check(5)").fetchall()) != [("ok",)]:
            raise _damaged(path, copying.told(faults))
        _migrate(db, path)
        if not for_move:
            refuse_moved(db, path)
        _recover(db)
        read_db = apsw.Connection(str(path), vfs=vfs, statementcachesize=100)
        read_db.execute("PRAGMA query_only=ON; PRAGMA cache_size=-4096")
        undo.pop_all()
    return db, read_db


def _disconnect(db: apsw.Connection, *, keep_log: bool) -> None:
    """Close the last connection; a log that is kept tells the next opening to check the file."""
    with suppress(apsw.Error):
        if keep_log:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        else:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()


def _damaged(path: Path, fault: str) -> StoreBroken:
    return StoreBroken(f"{path} is damaged: {fault}; restore it from a backup")


def _configure(db: apsw.Connection) -> None:
    db.set_busy_timeout(5_000)
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "cache_size=-16384",
        "secure_delete=FAST",
        "foreign_keys=OFF",
        "temp_store=MEMORY",
        "journal_size_limit=67108864",
    ):
        db.execute(f"PRAGMA {pragma}").fetchall()


def _migrate(db: apsw.Connection, path: Path) -> None:
    version = int(str(_scalar(db, "PRAGMA user_version")))
    if version > SCHEMA:
        raise StoreBroken(f"{path} was written by a newer version (schema {version}, here {SCHEMA})")
    for number in range(version + 1, SCHEMA + 1):
        with db:
            db.execute((MIGRATIONS / f"sqlite-{number:04}.sql").read_text())
            db.execute(f"PRAGMA user_version={number}")


def refuse_moved(db: apsw.Connection, path: Path) -> None:
    """Refuse to work on what another store has by now. A move that is not finished has to begin anew after us."""
    for (moved_to,) in db.execute("SELECT value FROM meta WHERE name=?", (MOVED_TO,)):
        raise StoreBroken(
            f"{path} was moved to {str(moved_to).partition(' ')[2]}: from here its mail would be sent twice;"
            f" only once that database is dropped: sqlite3 {path} \"DELETE FROM meta WHERE name='{MOVED_TO}'\""
        )
    db.execute("DELETE FROM meta WHERE name=?", (MOVING,))


def _recover(db: apsw.Connection) -> None:
    """Give back what a dead daemon held. Unknown outcomes stay leased."""
    db.execute("UPDATE notification SET stage=0, lease_token=NULL, lease_until=NULL WHERE stage=1 AND dotted=0")
    db.execute("UPDATE notification SET lease_until=0 WHERE stage=1")
    db.execute("UPDATE refused_login SET trying=0 WHERE trying=1")
    events.recover(db)


def _scalar(db: apsw.Connection, sql: str) -> Value:
    return db.execute(sql).fetchall()[0][0]
