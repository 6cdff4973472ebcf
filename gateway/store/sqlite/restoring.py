"""Puts a copy back: in the place of an embedded database on which no daemon works, or as one that was.

The copy is copied once more, and only that is opened: what was given stays as it is. It has to be one of ours, of a
schema that this code knows, and whole, with its audit log; else nothing is changed. Wherever it came from it is marked,
so that the daemon which opens it keeps its mail until a person has looked; nobody is signed in to it any more.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import apsw

from gateway.store.clock import wall_clock
from gateway.store.protocol import StoreError
from gateway.store.sqlite import copying
from gateway.store.sqlite.copying import COPIED_AT
from gateway.store.sqlite.directory import audit_fault
from gateway.store.sqlite.file import MIGRATIONS, SCHEMA, held_file, refuse_moved
from gateway.store.sqlite.owner import acting_as_owner

MAGIC: Final = b"SQLite format 3\0"
LATEST: Final = 253_402_300_799_999  # ms: the end of the year 9999
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

    Root acts as the database's owner, and reads the copy as itself. Raises `StoreBusy` if a daemon works on it, and
    `StoreError` if the copy will not do: then nothing was changed.
    """
    try:
        with _given(copy) as parts, acting_as_owner(database):
            database.parent.mkdir(parents=True, exist_ok=True)
            with held_file(database):
                copying.install(database)  # what an earlier run left undone
                _look(database, copy, parts, force=force)
                made = copying.restoring_as(database)
                try:
                    restored = _prepare(made, copy, parts)
                    made.rename(copying.restored_as(database))
                finally:
                    copying.clear(made)
                return Restored(*restored, copying.install(database))
    except OSError as error:
        raise StoreError(f"{error.filename or database}: {error.strerror}{_as_whom(error, database)}") from error


@contextmanager
def _given(copy: Path) -> Iterator[Mapping[str, BinaryIO]]:
    """Open what is to be put back; a database that was not closed in order has a log."""
    log = Path(f"{copy}-wal")
    with ExitStack() as stack:
        parts = {"": stack.enter_context(_opened(copy))}
        if os.path.lexists(log):
            parts["-wal"] = stack.enter_context(_opened(log))
        if parts[""].read(len(MAGIC)) != MAGIC:
            raise StoreError(f"{copy} is no SQLite database")
        parts[""].seek(0)
        yield parts


def _opened(path: Path) -> BinaryIO:
    """Open a file for reading, and no link: in the daemon's directory it may lead to what only root should read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StoreError(f"there is no file {path}") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StoreError(f"{path} is a symbolic link: name the file itself") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise StoreError(f"{path} is no file")
    return os.fdopen(file, "rb")


def _as_whom(error: OSError, database: Path) -> str:
    """Say as whom root was refused, since root itself never is."""
    if os.geteuid() != 0 or not isinstance(error, PermissionError):
        return ""
    return f" to the owner of {database.parent}, as whom root restores; run it as the daemon's user"


def _look(database: Path, copy: Path, parts: Mapping[str, BinaryIO], *, force: bool) -> None:
    """Refuse to replace a database by itself, or unasked."""
    if not database.exists():
        return
    if os.path.samestat(database.stat(), os.fstat(parts[""].fileno())):
        raise StoreError(f"{copy} is the database itself")
    if not force:
        kept = f"{database.name}.before-restore-<time>"
        raise StoreError(
            f"there is a database at {database}: --force replaces it; the old one is kept beside, as {kept}"
        )


def _prepare(made: Path, copy: Path, parts: Mapping[str, BinaryIO]) -> tuple[int, int, int, int]:
    """Copy the copy, check and mark it; answers as of when it is, its bytes, its schema, and what is not final."""
    copying.clear(made)
    for part, file in parts.items():
        with _new(Path(f"{made}{part}")) as written:
            shutil.copyfileobj(file, written, 1 << 20)
    with _refused(copy), closing(apsw.Connection(str(made), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        db.execute("PRAGMA trusted_schema=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=FULL").fetchall()
        schema = _check(db, copy)
        refuse_moved(db, copy)
        db.execute("PRAGMA journal_mode=DELETE").fetchall()
        copied_at = _marked(db, copy)
        if ("table", "sessions") in _things_of(schema):
            db.execute("DELETE FROM sessions")
        ((unfinished,),) = db.execute("SELECT count(*) FROM notification WHERE stage<3").fetchall()
    with made.open("rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    return copied_at, size, schema, int(str(unfinished))


def _new(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


@contextmanager
def _refused(copy: Path) -> Iterator[None]:
    """Say of whatever SQLite cannot read that the copy is damaged."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError, apsw.IOError, apsw.SQLError) as error:
        raise StoreError(f"{copy} is damaged: {error}") from error


def _marked(db: apsw.Connection, copy: Path) -> int:
    """Mark a database as a copy if it is not yet; answers as of when (ms)."""
    db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (COPIED_AT, str(wall_clock())))
    ((mark,),) = db.execute("SELECT value FROM meta WHERE name=?", (COPIED_AT,)).fetchall()
    told = str(mark)
    if not (told.isascii() and told.isdigit() and len(told) <= len(str(LATEST)) and int(told) <= LATEST):
        raise StoreError(f"{copy} is damaged: {COPIED_AT} is no time")
    return int(told)


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
