"""The store: its commits, its room, its copies, and the other daemons on it."""

import logging
from typing import Any

import structlog

from gateway.observe import metrics

_log: Any = structlog.get_logger()


def commit(seconds: float, jobs: int) -> None:
    """A commit reached stable storage."""
    metrics.COMMIT_SECONDS.observe(seconds)
    metrics.COMMIT_JOBS.observe(jobs)


def statements(count: int) -> None:
    """The database server was asked so often."""
    metrics.STATEMENTS.add(count=count)


def store_away(*, away: bool) -> None:
    """The database server cannot be reached, and what waits for it goes on when it is back; or it answers again."""
    metrics.STORE_AWAY.set(away)
    _log.log(logging.ERROR if away else logging.WARNING, "store_away" if away else "store_back")


def store_broken(detail: str) -> None:
    """The database cannot be trusted to write; the daemon ends."""
    _log.error("store_broken", detail=detail)


def store_stuck(seconds: float) -> None:
    """The store did not write for so long that the service manager is not told that all is well."""
    _log.error("store_stuck", seconds=round(seconds, 1))


def store_size(database: int | None, log: int | None) -> None:
    """The database and its log have so many octets; None: that is its server's affair."""
    for file, size in (("database", database), ("log", log)):
        if size is not None:
            metrics.STORE_SIZE.labels(file).set(size)


def disk(free: int | None, floor: int | None) -> None:
    """So many octets are free on the database's disk, and so many have to be; None: that is its server's affair."""
    if free is not None and floor is not None:
        metrics.DISK_FREE.set(free)
        metrics.DISK_FLOOR.set(floor)


def daemons(alive: int) -> None:
    """So many daemons live on the database."""
    metrics.DAEMONS.set(alive)
    _log.info("daemons", alive=alive)


def beat_missed(error: BaseException) -> None:
    """This daemon could not tell the others that it lives."""
    _log.warning("beat_missed", error=f"{type(error).__name__}: {error}")


def words_missed(error: BaseException) -> None:
    """This daemon does not hear what the others tell it at once; it finds out a little later."""
    _log.warning("words_missed", error=f"{type(error).__name__}: {error}")


def entry_unreadable(kind: str, tenant: str, name: str, error: Exception) -> None:
    """An object of the directory cannot be read: newer code wrote it. It counts as not there."""
    _log.error("entry_unreadable", kind=kind, tenant=tenant, name=name, error=type(error).__name__)


def last_backup(taken_at: int) -> None:
    """The last copy of the database that somebody has whole is as of then (ms)."""
    metrics.BACKED_UP.set(taken_at / 1000)


def backup_made(taken_at: int, size: int, seconds: float) -> None:
    """Somebody has a whole copy of the database, as of then (ms): its bytes, and how long it took."""
    last_backup(taken_at)
    _log.info("backup_made", bytes=size, seconds=round(seconds, 1))


def backup_failed(detail: str) -> None:
    """A copy of the database could not be made, or was not whole, or nobody took it to its end."""
    _log.error("backup_failed", detail=detail)


def life_unwritten(detail: str) -> None:
    """What is copied from now on looks like what was copied before."""
    _log.warning("life_unwritten", detail=detail)
