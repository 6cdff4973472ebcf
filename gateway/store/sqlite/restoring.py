"""Puts a copy back: in the place of an embedded database on which no daemon works, or as one that was.

The copy is copied once more, and only that is opened: what was given stays as it is. It has to be one of ours, of a
schema that this code knows, and whole, with its audit log; else nothing is changed. Wherever it came from it is marked,
so that the daemon which opens it keeps its mail until a person has looked.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import apsw

from gateway.store.clock import wall_clock
from gateway.store.protocol import StoreError
from gateway.store.sqlite import copying
from gateway.store.sqlite.copying import COPIED_AT
from gateway.store.sqlite.directory import audit_fault
from gateway.store.sqlite.file import MIGRATIONS, SCHEMA, held_file

MAGIC: Final = b"SQLite format 3\0"
_THINGS: Final = "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back: as of when (ms), its bytes, its schema, how much of it is not final.

    `kept` is where the database is that was there before.
    """

    copied_at: int
    size: int
    schema: int
    unfinished: int
    kept: Path | None


def restore(database: Path, copy: Path, *, force: bool = False) -> Restored:
    """Put a copy in the place of the database; one that is there is replaced with `force` only, and kept beside it.

    Raises `StoreBusy` if a daemon works on it, and `StoreError` if the copy will not do: then nothing was changed.
    """
    if not copy.is_file():
        raise StoreError(f"there is no file {copy}")
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with held_file(database) as lock:
            copying.install(database)  # what an earlier run left undone
            if database.exists() and database.samefile(copy):
                raise StoreError(f"{copy} is the database itself")
            if database.exists() and not force:
                raise StoreError(f"there is a database at {database}: --force replaces it, and keeps it beside")
            made = Path(f"{database}.restoring")
            try:
                whose = _whose(database)
                os.fchown(lock, *whose)
                restored = _prepare(made, copy, whose)
                made.rename(copying.restored_as(database))
            finally:
                copying.clear(made)
            return Restored(*restored, copying.install(database))
    except OSError as error:
        raise StoreError(f"{error.filename or database}: {error.strerror}") from error


def _whose(database: Path) -> tuple[int, int]:
    """Whose a new file is to be: the daemon, which has to open it, may not be who restores it."""
    looked = (database if database.exists() else database.parent).stat()
    return looked.st_uid, looked.st_gid


def _prepare(made: Path, copy: Path, whose: tuple[int, int]) -> tuple[int, int, int, int]:
    """Copy the copy, check and mark it; answers as of when it is, its bytes, its schema, and what is not final."""
    copying.clear(made)
    for part in ("", "-wal"):  # a database that was not closed in order has a log
        if Path(f"{copy}{part}").exists():
            _copy_file(Path(f"{copy}{part}"), Path(f"{made}{part}"), whose)
    with made.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise StoreError(f"{copy} is no SQLite database")
    with _refused(copy), closing(apsw.Connection(str(made), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        db.execute("PRAGMA trusted_schema=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=FULL").fetchall()
        schema = _check(db, copy)
        db.execute("PRAGMA journal_mode=DELETE").fetchall()
        db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (COPIED_AT, str(wall_clock())))
        ((copied_at,),) = db.execute("SELECT value FROM meta WHERE name=?", (COPIED_AT,)).fetchall()
        ((unfinished,),) = db.execute("SELECT count(*) FROM notification WHERE stage<3").fetchall()
    with made.open("rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    return int(str(copied_at)), size, schema, int(str(unfinished))


def _copy_file(source: Path, target: Path, whose: tuple[int, int]) -> None:
    with source.open("rb") as read, _new(target) as written:
        if not stat.S_ISREG(os.fstat(read.fileno()).st_mode):
            raise StoreError(f"{source} is no file")
        os.fchown(written.fileno(), *whose)
        shutil.copyfileobj(read, written, 1 << 20)


def _new(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


@contextmanager
def _refused(copy: Path) -> Iterator[None]:
    """Say of whatever SQLite cannot read that the copy is damaged."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError, apsw.IOError, apsw.SQLError) as error:
        raise StoreError(f"{copy} is damaged: {error}") from error


def _check(db: apsw.Connection, copy: Path) -> int:
    """Refuse what is not ours, too new, or not whole; answers its schema."""
    ((version,),) = db.execute("PRAGMA user_version").fetchall()
    schema = int(str(version))
    if schema > SCHEMA:
        raise StoreError(f"{copy} was written by a newer version (schema {schema}, here {SCHEMA})")
    if schema < 1 or set(db.execute(_THINGS)) != _things_of(schema):
        raise StoreError(f"{copy} is no database of a notification gateway")
    if (faults := db.execute("PRAGMA integrity_check(5)").fetchall()) != [("ok",)]:
        raise StoreError(f"{copy} is damaged: {copying.told(faults)}")
    logs = ("table", "audit") in _things_of(schema)
    for (tenant,) in db.execute("SELECT DISTINCT tenant FROM audit").fetchall() if logs else ():
        if (number := audit_fault(db, str(tenant))) is not None:
            raise StoreError(f"{copy} was tampered with: the audit log of tenant {tenant} is not whole at {number}")
    return schema


def _things_of(schema: int) -> set[tuple[object, ...]]:
    """Name the tables, indexes and triggers that a database of this schema has; another has more, or fewer."""
    with closing(apsw.Connection(":memory:")) as db:
        for number in range(1, schema + 1):
            db.execute((MIGRATIONS / f"sqlite-{number:04}.sql").read_text())
        return set(db.execute(_THINGS))
