"""The writer thread: one commit for everything that arrived during the previous one.

Every write is a job in a queue. The writer takes all the jobs there are and commits them together with
`synchronous=FULL` (results first, claims last, so that a claim sees what was just accepted); only then are the
callers woken.

Errors: a full disk rolls back and is `StoreFull`, and results are tried again until there is room, or for a few seconds
after the close. A value that no column can hold fails its own job. Anything else wrong latches `broken`: every later job
is `StoreBroken`, `failed` is set, and the daemon is expected to end.
"""

import asyncio
import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, assert_never

import apsw

from gateway.observe.failpoint import failpoint
from gateway.store.protocol import Committing, StoreBroken, StoreError, StoreFull
from gateway.store.rows import Acceptance, Claim, Inserted, Mismatched, NewRow, Replayed, Settlement
from gateway.store.sqlite import group

VALUE_ERRORS: Final = (ValueError, TypeError, OverflowError)  # what binding a value raises
CHECKPOINT_PAGES_IDLE: Final = 1_000  # 4 MiB of log are folded back when nobody waits …
CHECKPOINT_PAGES_BUSY: Final = 16_000  # … and 64 MiB even when somebody does
MOST_CLAIMS: Final = 8  # in one commit: all that they bring is one text, for which SQLite has a limit of 1e9 octets
SPACE_CHECK_SECONDS: Final = 1.0
FULL_AGAIN_SECONDS: Final = 1.0  # until results are tried again on a full disk
GIVE_UP_SECONDS: Final = 5.0  # after the close, in which results are tried on a full disk

_INSERTED: Final = Inserted()
_KNOWN_KEYS: Final = (
    "SELECT json_group_array(json_array(i.tenant, i.key, hex(i.sha256), i.answer)) FROM json_each(?) asked"
    " CROSS JOIN idempotency i ON i.tenant=asked.value->>0 AND i.key=asked.value->>1 AND i.forget_at>asked.value->>2"
)


@dataclass(slots=True)
class Accept:
    """New rows, under idempotency keys that are looked up as of `now`."""

    rows: Sequence[NewRow]
    now: int


@dataclass(slots=True)
class Run:
    """Any other write: runs inside the shared transaction, under a savepoint of its own."""

    work: Callable[[apsw.Connection], object]


Job = Accept | Settlement | Claim | Run
_Key = tuple[str, str]  # tenant, idempotency key
_Queued = tuple[Job, "asyncio.Future[Any]"]


def free_bytes(folder: Path) -> int:
    """Tell how much room there is on a folder's disk for others than root."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


class Writer:
    """Writes to one database file; `start` it once that is open."""

    def __init__(self, folder: Path, disk_floor_bytes: int) -> None:
        """Below `disk_floor_bytes` free in the folder, accepting is `StoreFull`."""
        self.failed = asyncio.Event()
        self.broken: StoreBroken | None = None
        self.space_low = False
        self.commits = 0
        self.committed_jobs = 0
        self.on_commit: Callable[[float, int], None] = lambda _seconds, _jobs: None
        self._folder = folder
        self._disk_floor = disk_floor_bytes
        self._space_checked = -SPACE_CHECK_SECONDS
        self._queue: SimpleQueue[_Queued | None] = SimpleQueue()
        self._next: _Queued | None = None  # taken out of the queue, and left for the next commit
        self._postponed: list[_Queued] = []  # results that found no room
        self._again_at = 0.0  # when these are tried again
        self._give_up_at = math.inf  # when they are postponed no more: some time after the close
        self._wal_pages = 0
        self._closing = False

    def start(self, db: apsw.Connection, next_seq: int) -> None:
        """Begin to work on an open connection, which from now on is the thread's alone."""
        self._loop = asyncio.get_running_loop()
        self._db = db
        self._next_seq = next_seq
        group.prepare(db)
        db.set_wal_hook(self._note_wal)
        self._thread = threading.Thread(target=self._write_forever, name="store-writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what was asked for, and end; called from another thread than the event loop's."""
        self._closing = True
        self._queue.put(None)
        self._thread.join()

    def submit(self, job: Job) -> "asyncio.Future[Any]":
        """Have a job done in the next commit."""
        future = Committing(loop=self._loop)
        if self.broken or self._closing:
            future.set_exception(self.broken or StoreError("the store is closed"))
        else:
            self._queue.put((job, future))
        return future

    def fail(self, broken: StoreBroken) -> None:
        """Refuse everything from now on: the file cannot be trusted any more."""
        self.broken = broken
        self.failed.set()

    def _note_wal(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    # On the thread.

    def _write_forever(self) -> None:
        while not self._ended():
            if batch := self._next_batch():
                self._commit(batch)
            if self._wal_pages >= (CHECKPOINT_PAGES_IDLE if self._queue.empty() else CHECKPOINT_PAGES_BUSY):
                self._checkpoint()

    def _ended(self) -> bool:
        return self._give_up_at < math.inf and not self._postponed

    def _next_batch(self) -> list[_Queued]:
        """Everything that arrived during the previous commit, and results whose turn it is again; waits for either."""
        batch: list[_Queued] = []
        claims = 0
        pause = max(self._again_at - time.monotonic(), 0) if self._postponed else None
        with suppress(Empty):
            queued, self._next = self._next or self._queue.get(timeout=pause), None
            while queued is not None:
                claims += isinstance(queued[0], Claim)
                if claims > MOST_CLAIMS:
                    self._next = queued
                    break
                batch.append(queued)
                queued = self._queue.get_nowait()
            else:
                self._give_up_at = time.monotonic() + GIVE_UP_SECONDS
        if time.monotonic() >= self._again_at:
            batch += self._postponed
            self._postponed.clear()
        return batch

    def _commit(self, batch: list[_Queued]) -> None:
        began = time.perf_counter()
        try:
            if self.broken:
                raise self.broken
            outcomes = self._transact(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            failure = self._classify(error)
            if isinstance(error, VALUE_ERRORS) and len(batch) > 1:
                for queued in batch:  # one of them is to blame: each alone
                    self._commit([queued])
                return
            if isinstance(failure, StoreFull) and time.monotonic() < self._give_up_at:
                batch = self._postpone(batch)
            outcomes = [(future, failure) for _, future in batch]
        else:
            self.commits += 1
            self.committed_jobs += len(batch)
        with suppress(RuntimeError):  # the loop is gone: nobody waits any more
            self._loop.call_soon_threadsafe(self._wake, outcomes, time.perf_counter() - began, len(batch))

    def _postpone(self, batch: list[_Queued]) -> list[_Queued]:
        """Keep results for when there may be room; answers the rest of the batch."""
        if not self._postponed:
            self._again_at = time.monotonic() + FULL_AGAIN_SECONDS
        self._postponed += (queued for queued in batch if isinstance(queued[0], Settlement))
        return [queued for queued in batch if not isinstance(queued[0], Settlement)]

    def _wake(self, outcomes: list[tuple["asyncio.Future[Any]", object]], seconds: float, jobs: int) -> None:
        for future, outcome in outcomes:
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if self.broken:
            self.failed.set()
        self.on_commit(seconds, jobs)

    def _classify(self, error: Exception) -> StoreError:
        """Undo the transaction and say what its failure means for those who wait."""
        with suppress(apsw.Error):
            self._db.execute("ROLLBACK")
        if isinstance(error, StoreError):
            return error
        if isinstance(error, VALUE_ERRORS):
            return StoreError(f"refused a value that cannot be stored: {type(error).__name__}")
        if isinstance(error, apsw.FullError):
            self.space_low = True
            return StoreFull("the disk is full")
        self.broken = StoreBroken(f"the database could not be written: {type(error).__name__}: {error}")
        return self.broken

    def _transact(self, batch: list[_Queued]) -> list[tuple["asyncio.Future[Any]", object]]:
        self._look_at_space()
        settles, runs, accepts, claims = _sorted_by_kind(batch)
        outcomes, fresh = self._judged(accepts)
        results = [group.settling(place, job) for place, (job, _) in enumerate(settles)]
        results += [group.telling(place, job.told) for place, (job, _) in enumerate(settles) if job.told is not None]
        tokens = [group.new_token() for _ in claims]
        rest = [group.accepting(seq, row) for seq, row in enumerate(fresh, self._next_seq)]
        self._next_seq += len(fresh)
        rest += [group.telling(None, row.told) for row in fresh if row.told is not None]
        rest += [group.claiming(token, claim) for token, (claim, _) in zip(tokens, claims, strict=True)]
        if accepts:
            failpoint("accept.before_commit")
        if runs or len(results) + len(rest) >= group.LARGEST:
            self._db.execute("BEGIN IMMEDIATE")
            group.write(self._db, results)
            outcomes += [(future, self._run(run)) for run, future in runs]
            group.write(self._db, rest, first=False)
            self._db.execute("COMMIT")
        else:
            group.write(self._db, [*results, *rest])
        if accepts:
            failpoint("accept.after_commit")
        if claims:
            failpoint("claim.after_commit")
        if settles:
            failpoint("result.after_commit")
        if settles or claims:
            report = group.report(self._db)
            outcomes += [(future, place not in report.lost) for place, (_, future) in enumerate(settles)]
            outcomes += [(future, report.claimed[token]) for token, (_, future) in zip(tokens, claims, strict=True)]
        return outcomes

    def _run(self, run: Run) -> object:
        outcome: object
        self._db.execute("SAVEPOINT run")
        try:
            outcome = run.work(self._db)
        except StoreError as error:
            self._db.execute("ROLLBACK TO run")
            outcome = error
        self._db.execute("RELEASE run")  # after any other error the engine may have ended the transaction already
        return outcome

    def _checkpoint(self) -> None:
        failpoint("maint.checkpoint")
        try:
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            self._classify(error)
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake, [], 0.0, 0)
        self._wal_pages = 0

    # Accept.

    def _judged(
        self, jobs: list[tuple[Accept, "asyncio.Future[Any]"]]
    ) -> tuple[list[tuple["asyncio.Future[Any]", object]], list[NewRow]]:
        """Decide what each row is, given the idempotency keys; answers that, and the rows that are new."""
        if self.space_low:
            full = StoreFull("free disk space is below the floor")
            return [(future, full) for _, future in jobs], []
        known = self._known_keys(jobs)
        fresh: list[NewRow] = []
        return [(future, [_judge(row, known, fresh) for row in job.rows]) for job, future in jobs], fresh

    def _known_keys(self, jobs: list[tuple[Accept, "asyncio.Future[Any]"]]) -> dict[_Key, tuple[bytes, str]]:
        asked = [
            (row.flow.tenant, row.idempotency.key, job.now)
            for job, _ in jobs
            for row in job.rows
            if row.idempotency is not None
        ]
        if not asked:
            return {}
        ((found,),) = self._db.execute(_KNOWN_KEYS, (json.dumps(asked),)).fetchall()
        return {
            (tenant, key): (bytes.fromhex(sha256), answer) for tenant, key, sha256, answer in json.loads(str(found))
        }

    def _look_at_space(self) -> None:
        """Look at the file system at most once a second, also when nothing is accepted: readiness depends on it."""
        now = time.monotonic()
        if now - self._space_checked >= SPACE_CHECK_SECONDS:
            self._space_checked = now
            self.space_low = free_bytes(self._folder) < self._disk_floor


def _sorted_by_kind(
    batch: list[_Queued],
) -> tuple[
    list[tuple[Settlement, "asyncio.Future[Any]"]],
    list[tuple[Run, "asyncio.Future[Any]"]],
    list[tuple[Accept, "asyncio.Future[Any]"]],
    list[tuple[Claim, "asyncio.Future[Any]"]],
]:
    settles: list[tuple[Settlement, asyncio.Future[Any]]] = []
    runs: list[tuple[Run, asyncio.Future[Any]]] = []
    accepts: list[tuple[Accept, asyncio.Future[Any]]] = []
    claims: list[tuple[Claim, asyncio.Future[Any]]] = []
    for job, future in batch:
        match job:
            case Settlement():
                settles.append((job, future))
            case Run():
                runs.append((job, future))
            case Accept():
                accepts.append((job, future))
            case Claim():
                claims.append((job, future))
            case _:
                assert_never(job)
    return settles, runs, accepts, claims


def _judge(row: NewRow, known: dict[_Key, tuple[bytes, str]], fresh: list[NewRow]) -> Acceptance:
    if row.idempotency is not None:
        key = (row.flow.tenant, row.idempotency.key)
        if key in known:
            sha256, answer = known[key]
            return Replayed(answer) if sha256 == row.idempotency.sha256 else Mismatched()
        known[key] = (row.idempotency.sha256, row.answer)
    fresh.append(row)
    return _INSERTED
