"""Copies of an SQLite database in use, and putting one in its place.

A copy is made through a connection of its own, which sees the database as it was at one moment. It is made in steps,
each of them synced, so that the writer's own syncs wait for a step at most. Before anybody gets a byte of it, it is
checked and marked: wherever it is opened, sending is paused. By then it has no name any more, so that it is gone with
whoever reads it; what a crash leaves behind is cleared away at the next opening.

Putting a database in the place of another begins when it has its name, `.restored`. Whoever opens the database next
goes on from there if that was broken off, so that there is never none, nor one with another's log.
"""

import asyncio
import errno
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import apsw

from gateway.observe.failpoint import failpoint
from gateway.store.clock import wall_clock
from gateway.store.protocol import Copy, CopyRunning, StoreError, StoreFull, StoreUnavailable
from gateway.store.sqlite.life import sync_folder
from gateway.store.sqlite.writer import free_bytes

COPIED_AT: Final = "copied_at"  # in `meta`: it is a copy that no daemon has opened yet, as it was then (ms)
BACKED_UP_AT: Final = "backed_up_at"  # in `meta`: when the last copy was made that somebody has whole (ms)
PAGES: Final = 512  # a step: 2 MiB
SPARE: Final = 64 << 20  # bytes that stay free besides: the log grows while a copy is made
STOPPING: Final = "the daemon is stopping"
LOOK_EVERY: Final = 100_000  # instructions of SQLite's between two looks whether to stop
PARTS: Final = ("", "-wal", "-shm", "-journal")
"""What SQLite may leave beside a database, and itself."""


class Copier:
    """Makes copies of one database, one at a time."""

    def __init__(self, database: Path, disk_floor_bytes: int, vfs: str | None = None) -> None:
        """Name the database. While there are fewer bytes free than the floor and some to spare, no copy is made."""
        self._database = database
        self._floor = disk_floor_bytes + SPARE
        self._vfs = vfs
        self._busy = False
        self._stopped = False
        self._limit = asyncio.timeout_at(None)

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[Copy]:
        """Make a copy for the time of the block. Raises `CopyRunning`, `StoreFull`, and `StoreError` if it is not whole.

        The block is cancelled when copying stops; what comes out of it is `StoreUnavailable`.
        """
        if self._stopped:
            raise StoreUnavailable(STOPPING)
        if self._busy:
            raise CopyRunning("a copy is being made, or read, at the moment")
        self._busy, self._limit = True, asyncio.timeout_at(None)
        try:
            async with self._limit:
                copy = await self._made()
                try:
                    yield copy
                finally:  # the system takes its time to give the room back
                    await asyncio.shield(asyncio.to_thread(copy.file.close))
        except TimeoutError:
            if self._limit.expired():
                raise StoreUnavailable(STOPPING) from None
            raise
        finally:
            self._busy = False

    def stop(self) -> None:
        """Break off the copy that is being made or read, and make none any more."""
        if self._busy and not self._stopped:
            self._limit.reschedule(asyncio.get_running_loop().time())
        self._stopped = True

    async def _made(self) -> Copy:
        stop = threading.Event()
        making = asyncio.ensure_future(asyncio.to_thread(self._make, stop))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([making])
            if making.exception() is None:
                await asyncio.shield(asyncio.to_thread(making.result().file.close))
            raise

    # In a thread.

    def _make(self, stop: threading.Event) -> Copy:
        path = copy_of(self._database)
        clear(path)
        try:
            with _full_disk_told():
                file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "rb")
                try:
                    taken_at = self._fill(path, file.fileno(), stop)
                    failpoint("backup.filled")
                    _finish(path, taken_at, stop)
                except BaseException:
                    file.close()
                    raise
            return Copy(taken_at, os.fstat(file.fileno()).st_size, file)
        finally:
            clear(path)

    def _fill(self, path: Path, descriptor: int, stop: threading.Event) -> int:
        """Copy page by page; answers as of when (ms)."""
        with (
            closing(apsw.Connection(str(self._database), flags=apsw.SQLITE_OPEN_READONLY, vfs=self._vfs)) as source,
            closing(apsw.Connection(str(path))) as target,
        ):
            taken_at = wall_clock()
            source.execute("BEGIN")
            ((size,),) = source.execute(  # from here on it looks as it does now
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size, (SELECT count(*) FROM meta)"
            ).fetchall()
            self._look_for_room(int(str(size)))
            target.execute("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-2048").fetchall()
            with target.backup("main", source, "main") as backup:
                while not backup.done:
                    _go_on(stop)
                    self._look_for_room()
                    backup.step(PAGES)
                    os.fdatasync(descriptor)
        return taken_at

    def _look_for_room(self, needed: int = 0) -> None:
        """Leave the disk to the mail: nobody shall be refused because of a copy."""
        if free_bytes(self._database.parent) < self._floor + needed:
            raise StoreFull("there is too little room on the disk for a copy")


def _finish(path: Path, taken_at: int, stop: threading.Event) -> None:
    """Mark a copy, make it one file, and check it."""
    with closing(apsw.Connection(str(path))) as copy:
        copy.set_progress_handler(stop.is_set, LOOK_EVERY)
        copy.execute("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=DELETE; PRAGMA synchronous=OFF").fetchall()
        copy.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (COPIED_AT, str(taken_at)))
        copy.execute("DELETE FROM sessions")  # who is signed in here is so nowhere else
        if (faults := copy.execute("PRAGMA quick_check(5)").fetchall()) != [("ok",)]:
            raise StoreError(f"the copy is damaged, and most likely the database is: {told(faults)}")
    _go_on(stop)


def told(faults: list[tuple[object, ...]]) -> str:
    """Tell the first of the faults that SQLite found on one line."""
    return " ".join(str(faults[0][0]).split())


def _go_on(stop: threading.Event) -> None:
    if stop.is_set():
        raise StoreError("nobody wants the copy any more")


@contextmanager
def _full_disk_told() -> Iterator[None]:
    """Tell whatever goes wrong with a file as a store does."""
    try:
        yield
    except apsw.FullError:
        raise StoreFull("the disk is full") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull("the disk is full") from None
        raise StoreError(f"the copy could not be made: {error.strerror}") from error
    except apsw.Error as error:
        raise StoreError(f"the copy could not be made: {type(error).__name__}: {error}") from error


def copy_of(database: Path) -> Path:
    """Where a copy is made."""
    return Path(f"{database}.copy")


def clear(database: Path) -> None:
    """Delete a database that nobody uses, with all that SQLite put beside it."""
    for part in PARTS:
        Path(f"{database}{part}").unlink(missing_ok=True)


# In the place of another.


def restoring_as(database: Path) -> Path:
    """Where a database is made ready that is to come in the place of this one."""
    return Path(f"{database}.restoring")


def restored_as(database: Path) -> Path:
    """How a database is called that is to come in the place of this one."""
    return Path(f"{database}.restored")


def install(database: Path) -> Path | None:
    """Put a database in its place that waits for that; whoever calls it has the lock.

    Answers where the one that was there before is kept now, None if there was none.
    """
    restored = restored_as(database)
    if not restored.exists():
        return None
    seconds, rest = divmod(restored.stat().st_mtime_ns, 1_000_000_000)
    began = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{rest // 1_000_000:03}Z"
    kept = Path(f"{database}.before-restore-{began}")
    for part in ("-wal", "-journal", ""):  # the logs first: they belong to no other database
        with suppress(FileNotFoundError):
            Path(f"{database}{part}").rename(f"{kept}{part}")
    Path(f"{database}-shm").unlink(missing_ok=True)
    failpoint("restore.cleared")
    restored.rename(database)
    sync_folder(database.parent)
    return kept if kept.exists() else None
