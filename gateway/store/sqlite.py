"""The store on SQLite: one file, one writer thread, one commit for everything that arrived during the previous one.

Owns the database file. One connection, in one thread, does all writing and all checkpointing; reading has a
connection and a thread of its own. An exclusive lock beside the file keeps a second process out.

Every write call is a job in a queue. The writer takes all the jobs there are, runs them in one transaction (results
first, claims last, so that a claim sees what was just accepted) and commits with `synchronous=FULL`; only then are
the callers woken. Rows of a kind go in one multi-row statement: a statement hands the interpreter lock over once, and
under a busy event loop each hand-over costs more than the row.

Errors: a full disk rolls back and is `StoreFull`. A value that no column can hold fails its own call. Anything else
wrong latches `broken`: every later call is `StoreBroken`, `failed` is set, and the daemon is expected to end; the log
is then left beside the file, so that the next opening checks both.
"""

import asyncio
import fcntl
import itertools
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, Self, TypeVar, assert_never

import apsw
import apsw.bestpractice

from gateway.observe.failpoint import failpoint
from gateway.store.protocol import RevisionConflict, StoreBroken, StoreBusy, StoreError, StoreFull
from gateway.store.rows import (
    Acceptance,
    Change,
    Claim,
    Claimed,
    Entry,
    Flow,
    FlowBacklog,
    Inserted,
    LeasedRow,
    Listing,
    Mismatched,
    NewRow,
    Replayed,
    Settlement,
    Stage,
    StoredRow,
)

T = TypeVar("T")
Value = str | int | float | bytes | None

SQLITE_VERSION: Final = apsw.sqlite_lib_version()
SCHEMA: Final = 1
PRIORITIES: Final = (0, 1, 2)
VALUE_ERRORS: Final = (ValueError, TypeError, OverflowError)  # what binding a value raises
CHUNK: Final = 32  # rows a statement: enough to amortise it, few enough texts to keep prepared
CHECKPOINT_PAGES_IDLE: Final = 1_000  # 4 MiB of log are folded back when nobody waits …
CHECKPOINT_PAGES_BUSY: Final = 16_000  # … and 64 MiB even when somebody does
SPACE_CHECK_SECONDS: Final = 1.0
FULL_AGAIN_SECONDS: Final = 1.0  # until a result is written again on a full disk
MIGRATIONS: Final = Path(__file__).with_name("migrations")

_NEW: Final = (
    "seq, id, tenant, profile, category, key_id, priority, stage, status, due_at, expires_at, accepted_at,"
    " finished_at, recipients, envelope"
)
_LEASED: Final = (
    "n.seq, n.id, n.tenant, n.profile, n.category, n.priority, n.due_at, n.expires_at, n.accepted_at, n.recipients,"
    " n.envelope, c.body, n.lease_token, n.cancelled, n.status"
)
_STORED: Final = (
    "n.seq, n.id, n.tenant, n.profile, n.category, n.key_id, n.priority, n.stage, n.status, n.due_at, n.expires_at,"
    " n.accepted_at, n.finished_at, n.lease_token, n.cancelled, n.recipients, n.events, n.envelope"
)


# A statement hands the interpreter lock over at every step, so what is read often comes as one JSON value.
_DUE_OF_PRIORITY: Final = (
    "SELECT * FROM (SELECT n.seq, coalesce(octet_length(c.body), 0) AS size FROM notification n"
    " LEFT JOIN content c USING (seq) WHERE n.stage=0 AND n.tenant=? AND n.profile=? AND n.priority=? AND n.due_at<=?"
    " ORDER BY n.due_at LIMIT ?)"
)
_DUE: Final = (
    "SELECT json_group_array(json_array(seq, size)) FROM ("
    + " UNION ALL ".join([_DUE_OF_PRIORITY] * len(PRIORITIES))
    + ")"
)
_READ_LEASED: Final = (
    f"SELECT json_group_array(json_array({_LEASED})) FROM json_each(?) chosen"
    " JOIN notification n ON n.seq=chosen.value LEFT JOIN content c USING (seq)"
)
_NEXT_DUE_OF_PRIORITY: Final = (
    "SELECT * FROM (SELECT due_at FROM notification WHERE stage=0 AND tenant=? AND profile=? AND priority=?"
    " ORDER BY due_at LIMIT 1)"
)
_NEXT_DUE: Final = "SELECT min(due_at) FROM (" + " UNION ALL ".join([_NEXT_DUE_OF_PRIORITY] * len(PRIORITIES)) + ")"


@dataclass(slots=True)
class _Accept:
    rows: Sequence[NewRow]
    now: int


@dataclass(slots=True)
class _Run:
    """Any other write: runs inside the shared transaction, under a savepoint of its own."""

    work: Callable[[apsw.Connection], object]


_Job = _Accept | Settlement | Claim | _Run
_Queued = tuple[_Job, "asyncio.Future[Any]"]


class SqliteStore:
    """`Store` on one SQLite file; open it with `async with SqliteStore(path)`."""

    def __init__(self, path: Path, *, disk_floor_bytes: int = 0, vfs: str | None = None) -> None:
        """Name the file; nothing is opened yet. Below `disk_floor_bytes` free, `accept` is `StoreFull`.

        `vfs` names another file system layer than the operating system's, which SQLite must know already.
        """
        self.path = path
        self._vfs = vfs
        self.failed = asyncio.Event()
        self.space_low = False
        self.commits = 0
        self.committed_jobs = 0
        self.observe_commit: Callable[[float, int], None] = lambda _seconds, _jobs: None
        self._disk_floor = disk_floor_bytes
        self._space_checked = -SPACE_CHECK_SECONDS
        self._broken: StoreBroken | None = None
        self._queue: SimpleQueue[_Queued | None] = SimpleQueue()
        self._wal_pages = 0
        self._next_seq = 1
        self._closing = False

    async def __aenter__(self) -> Self:
        """Lock, open, check and migrate the file, and start the threads."""
        self._loop = asyncio.get_running_loop()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        try:
            await self._loop.run_in_executor(self._reader, self._open)
        except BaseException:
            self._reader.shutdown(wait=False)
            raise
        self._thread = threading.Thread(target=self._write_forever, name="store-writer", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what was asked for, fold the log back into the file and unlock it."""
        self._closing = True
        self._queue.put(None)
        await self._loop.run_in_executor(self._reader, self._thread.join)
        await self._loop.run_in_executor(self._reader, self._close)
        self._reader.shutdown()

    # Opening and closing, on the reader's thread.

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StoreBusy(f"another daemon holds {self.path}") from error
        try:
            self._open_files()
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, apsw.CorruptError | apsw.NotADBError):
                raise self._damaged(str(error)) from error
            raise

    def _open_files(self) -> None:
        wal = Path(f"{self.path}-wal")
        crashed = wal.exists() and wal.stat().st_size > 0
        with ExitStack() as undo:
            self._db = apsw.Connection(str(self.path), vfs=self._vfs, statementcachesize=500)
            undo.callback(self._close_files, keep_log=True)
            self.path.chmod(0o600)
            self._configure(self._db)
            if crashed and (faults := self._db.execute("PRAGMA quick_check(5)").fetchall()) != [("ok",)]:
                raise self._damaged(" ".join(str(faults[0][0]).split()))
            self._migrate()
            self._recover()
            self._read_db = apsw.Connection(str(self.path), vfs=self._vfs, statementcachesize=100)
            self._read_db.execute("PRAGMA query_only=ON; PRAGMA cache_size=-4096")
            undo.pop_all()

    def _damaged(self, fault: str) -> StoreBroken:
        return StoreBroken(f"{self.path} is damaged: {fault}; restore it from a backup")

    def _configure(self, db: apsw.Connection) -> None:
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
        db.set_wal_hook(self._note_wal)

    def _note_wal(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _migrate(self) -> None:
        version = int(str(self._scalar("PRAGMA user_version")))
        if version > SCHEMA:
            raise StoreBroken(f"{self.path} was written by a newer version (schema {version}, here {SCHEMA})")
        for number in range(version + 1, SCHEMA + 1):
            with self._db:
                self._db.execute((MIGRATIONS / f"sqlite-{number:04}.sql").read_text())
                self._db.execute(f"PRAGMA user_version={number}")
        self._next_seq = int(str(self._scalar("SELECT coalesce(max(seq), 0) + 1 FROM notification")))

    def _recover(self) -> None:
        """Give back what a dead daemon held: the file's lock proves that it is dead. Unknown outcomes stay leased."""
        self._db.execute(
            "UPDATE notification SET stage=0, lease_token=NULL, lease_until=NULL WHERE stage=1 AND dotted=0"
        )
        self._db.execute("UPDATE notification SET lease_until=0 WHERE stage=1")

    def _scalar(self, sql: str) -> Value:
        return self._db.execute(sql).fetchall()[0][0]

    def _close(self) -> None:
        self._read_db.close()
        self._close_files(keep_log=self._broken is not None)
        os.close(self._lock)

    def _close_files(self, *, keep_log: bool) -> None:
        """Close the last connection; a log that is kept tells the next opening to check the file."""
        with suppress(apsw.Error):
            if keep_log:
                self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            else:
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._db.close()

    # The writer thread.

    def _write_forever(self) -> None:
        while (batch := self._next_batch()) is not None:
            if batch:
                self._commit(batch)
            if self._wal_pages >= (CHECKPOINT_PAGES_IDLE if self._queue.empty() else CHECKPOINT_PAGES_BUSY):
                self._checkpoint()

    def _next_batch(self) -> list[_Queued] | None:
        """Everything that arrived during the previous commit, at least one job; None when it is time to end."""
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        with suppress(Empty):
            while True:
                job = self._queue.get_nowait()
                if job is None:
                    self._queue.put(None)
                    break
                batch.append(job)
        return batch

    def _commit(self, batch: list[_Queued]) -> None:
        began = time.perf_counter()
        try:
            if self._broken:
                raise self._broken
            outcomes = self._transact(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            failure = self._classify(error)
            if isinstance(error, VALUE_ERRORS) and len(batch) > 1:
                for queued in batch:  # one of them is to blame: each alone
                    self._commit([queued])
                return
            if isinstance(failure, StoreFull):
                batch = self._postponed(batch)
            outcomes = [(future, failure) for _, future in batch]
        else:
            self.commits += 1
            self.committed_jobs += len(batch)
        with suppress(RuntimeError):  # the loop is gone: nobody waits any more
            self._loop.call_soon_threadsafe(self._wake, outcomes, time.perf_counter() - began, len(batch))

    def _postponed(self, batch: list[_Queued]) -> list[_Queued]:
        """Put results back into the queue for when there may be room; answers the rest of the batch."""
        results = [queued for queued in batch if isinstance(queued[0], Settlement)]
        with suppress(RuntimeError):
            for queued in results:
                self._loop.call_soon_threadsafe(self._put_later, queued)
        return [queued for queued in batch if not isinstance(queued[0], Settlement)]

    def _put_later(self, queued: _Queued) -> None:
        self._loop.call_later(FULL_AGAIN_SECONDS, self._queue.put, queued)

    def _wake(self, outcomes: list[tuple["asyncio.Future[Any]", object]], seconds: float, jobs: int) -> None:
        for future, outcome in outcomes:
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if self._broken:
            self.failed.set()
        self.observe_commit(seconds, jobs)

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
        self._broken = StoreBroken(f"the database could not be written: {type(error).__name__}")
        return self._broken

    def _transact(self, batch: list[_Queued]) -> list[tuple["asyncio.Future[Any]", object]]:
        self._look_at_space()
        settles, runs, accepts, claims = _sorted_by_kind(batch)
        outcomes: list[tuple[asyncio.Future[Any], object]] = []
        self._db.execute("BEGIN IMMEDIATE")
        if settles:
            outcomes += self._settle(settles)
        for run, future in runs:
            outcomes.append((future, self._run(run)))
        if accepts:
            outcomes += self._accept(accepts)
            failpoint("accept.before_commit")
        for claim, future in claims:
            outcomes.append((future, self._claim(claim)))
        self._db.execute("COMMIT")
        if accepts:
            failpoint("accept.after_commit")
        if claims:
            failpoint("claim.after_commit")
        if settles:
            failpoint("result.after_commit")
        return outcomes

    def _run(self, run: _Run) -> object:
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

    def _accept(self, jobs: list[tuple[_Accept, "asyncio.Future[Any]"]]) -> list[tuple["asyncio.Future[Any]", object]]:
        if self.space_low:
            full = StoreFull("free disk space is below the floor")
            return [(future, full) for _, future in jobs]
        known = self._known_keys(jobs)
        outcomes: list[tuple[asyncio.Future[Any], object]] = []
        fresh: list[NewRow] = []
        for job, future in jobs:
            outcomes.append((future, [self._judge(row, known, fresh) for row in job.rows]))
        first = self._next_seq
        self._next_seq += len(fresh)
        self._insert(
            "INSERT INTO notification (" + _NEW + ") VALUES ",
            [
                (
                    first + index, row.id, row.flow.tenant, row.flow.profile, row.category, row.key_id, row.priority,
                    int(row.stage), row.status, row.due_at, row.expires_at, row.accepted_at,
                    row.accepted_at if row.stage is Stage.FINAL else None, row.recipients, row.envelope,
                )
                for index, row in enumerate(fresh)
            ],
        )  # fmt: skip
        self._insert(
            "INSERT INTO content VALUES ",
            [(first + index, row.content) for index, row in enumerate(fresh) if row.content is not None],
        )
        return outcomes

    def _judge(self, row: NewRow, known: dict[tuple[str, str], tuple[bytes, str]], fresh: list[NewRow]) -> Acceptance:
        if row.idempotency is not None:
            key = (row.flow.tenant, row.idempotency.key)
            if key in known:
                sha256, answer = known[key]
                return Replayed(answer) if sha256 == row.idempotency.sha256 else Mismatched()
            known[key] = (row.idempotency.sha256, row.answer)
            self._db.execute(
                "INSERT OR REPLACE INTO idempotency VALUES (?,?,?,?,?)",
                (*key, row.idempotency.sha256, row.answer, row.idempotency.forget_at),
            )
        fresh.append(row)
        return Inserted()

    def _known_keys(
        self, jobs: list[tuple[_Accept, "asyncio.Future[Any]"]]
    ) -> dict[tuple[str, str], tuple[bytes, str]]:
        known: dict[tuple[str, str], tuple[bytes, str]] = {}
        for job, _ in jobs:
            for row in job.rows:
                if row.idempotency is None:
                    continue
                for sha256, answer in self._db.execute(
                    "SELECT sha256, answer FROM idempotency WHERE tenant=? AND key=? AND forget_at>?",
                    (row.flow.tenant, row.idempotency.key, job.now),
                ):
                    known[row.flow.tenant, row.idempotency.key] = (bytes(_bytes(sha256)), str(answer))
        return known

    def _look_at_space(self) -> None:
        """Look at the file system at most once a second, also when nothing is accepted: readiness depends on it."""
        now = time.monotonic()
        if now - self._space_checked >= SPACE_CHECK_SECONDS:
            self._space_checked = now
            space = os.statvfs(self.path.parent)
            self.space_low = space.f_bavail * space.f_frsize < self._disk_floor

    def _insert(self, head: str, rows: Sequence[tuple[Value, ...]]) -> None:
        for chunk in _chunks(rows):
            self._db.execute(head + _values(len(chunk), len(chunk[0])), tuple(itertools.chain.from_iterable(chunk)))

    # Claim and settle.

    def _claim(self, claim: Claim) -> Claimed:
        chosen = self._choose(claim)
        if not chosen:
            return Claimed([], self._next_due(self._db, claim.flow))
        token = secrets.randbits(62)
        rows = [_leased(row, token) for row in self._json(_READ_LEASED, (json.dumps(chosen),))]
        self._db.execute(
            "UPDATE notification SET stage=1, lease_token=?, lease_until=?"
            " WHERE seq IN (SELECT value FROM json_each(?))",
            (token, claim.lease_until, json.dumps(chosen)),
        )
        return Claimed(rows, self._next_due(self._db, claim.flow))

    def _choose(self, claim: Claim) -> list[int]:
        """Pick the rows to claim: most urgent first, up to the limit, until there is content enough."""
        bounds = tuple((*claim.flow, priority, claim.now, claim.limit) for priority in PRIORITIES)
        due = self._json(_DUE, tuple(itertools.chain.from_iterable(bounds)))
        chosen: list[int] = []
        size = 0
        for seq, octets in due[: claim.limit]:
            chosen.append(seq)
            size += octets
            if size >= claim.max_bytes:
                break
        return chosen

    def _json(self, sql: str, values: tuple[Value, ...]) -> list[Any]:
        """Read rows as one JSON array: one step of one statement, however many rows there are."""
        found: list[Any] = json.loads(str(self._db.execute(sql, values).fetchall()[0][0]))
        return found

    @staticmethod
    def _next_due(db: apsw.Connection, flow: Flow) -> int | None:
        bounds = tuple((*flow, priority) for priority in PRIORITIES)
        ((due_at,),) = db.execute(_NEXT_DUE, tuple(itertools.chain.from_iterable(bounds))).fetchall()
        return due_at if isinstance(due_at, int) else None

    def _settle(
        self, jobs: list[tuple[Settlement, "asyncio.Future[Any]"]]
    ) -> list[tuple["asyncio.Future[Any]", object]]:
        outcomes: list[tuple[asyncio.Future[Any], object]] = []
        for chunk in _chunks(jobs):
            self._db.execute("SAVEPOINT settle")
            written = [True] * len(chunk)
            if self._write_results([job for job, _ in chunk]) != len(chunk):
                # A lease was lost, or a row has two results: each alone, to know which were written.
                self._db.execute("ROLLBACK TO settle")
                written = [self._write_results([job]) == 1 for job, _ in chunk]
            self._db.execute("RELEASE settle")
            self._erase([job.seq for (job, _), done in zip(chunk, written, strict=True) if job.erase and done])
            outcomes += [(future, done) for (_, future), done in zip(chunk, written, strict=True)]
        return outcomes

    def _write_results(self, chunk: Sequence[Settlement]) -> int:
        """Write results whose leases are still held; answers how many."""
        values: list[Value] = []
        for job in chunk:
            values += (
                job.seq, job.lease_token, int(job.stage), job.status, job.due_at, job.finished_at,
                job.recipients, job.events,
            )  # fmt: skip
        self._db.execute(
            "WITH v(seq, token, stage, status, due_at, finished_at, recipients, events) AS (VALUES "
            + _values(len(chunk), 8)
            + ") UPDATE notification SET stage=v.stage, status=v.status, due_at=v.due_at,"
            " finished_at=v.finished_at, recipients=v.recipients, events=notification.events || v.events,"
            " lease_token=NULL, lease_until=NULL, dotted=0 FROM v"
            " WHERE notification.seq=v.seq AND notification.stage=1 AND notification.lease_token=v.token",
            values,
        )
        return self._db.changes()

    def _erase(self, chosen: Sequence[int]) -> None:
        if chosen:
            self._db.execute("DELETE FROM content WHERE seq IN (SELECT value FROM json_each(?))", (json.dumps(chosen),))

    # Calls, on the event loop.

    def _submit(self, job: _Job) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._broken or self._closing:
            future.set_exception(self._broken or StoreError("the store is closed"))
        else:
            self._queue.put((job, future))
        return future

    async def _write(self, work: Callable[[apsw.Connection], T]) -> T:
        result: T = await self._submit(_Run(work))
        return result

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        if self._broken:
            raise self._broken
        try:
            return await self._loop.run_in_executor(self._reader, work, self._read_db)
        except apsw.Error as error:
            self._broken = StoreBroken(f"the database could not be read: {type(error).__name__}")
            self.failed.set()
            raise self._broken from error

    def accept(self, rows: Sequence[NewRow], now: int) -> "asyncio.Future[list[Acceptance]]":
        """Insert the rows under their idempotency keys, all in one commit; it happens whether or not anybody waits."""
        return self._submit(_Accept(rows, now))

    async def recall(self, tenant: str, key: str, now: int) -> tuple[bytes, str] | None:
        """Read what an idempotency key stands for: the request's SHA-256 and the answer it got."""
        sql = "SELECT sha256, answer FROM idempotency WHERE tenant=? AND key=? AND forget_at>?"

        def work(db: apsw.Connection) -> tuple[bytes, str] | None:
            for sha256, answer in db.execute(sql, (tenant, key, now)):
                return _bytes(sha256), str(answer)
            return None

        return await self._read(work)

    async def claim(self, claim: Claim) -> Claimed:
        """Take due rows of one flow under a new lease, most urgent first."""
        result: Claimed = await self._submit(claim)
        return result

    def settle(self, settlement: Settlement) -> "asyncio.Future[bool]":
        """Write a delivery's result; False if the lease was lost meanwhile. It happens whether or not anybody waits.

        On a full disk it waits for room: a result is true, and known nowhere else.
        """
        return self._submit(settlement)

    async def dot(self, seq: int, lease_token: int) -> bool:
        """Commit that the final dot is about to be sent; False if the lease was lost or the row cancelled."""

        def work(db: apsw.Connection) -> bool:
            db.execute(
                "UPDATE notification SET dotted=1 WHERE seq=? AND stage=1 AND lease_token=? AND cancelled=0",
                (seq, lease_token),
            )
            return db.changes() == 1

        return await self._write(work)

    async def renew(self, lease_tokens: Sequence[int], lease_until: int) -> set[int]:
        """Prolong leases that are still held; answers which."""

        def work(db: apsw.Connection) -> set[int]:
            held: set[int] = set()
            for chunk in _chunks(lease_tokens):
                sql = "UPDATE notification SET lease_until=? WHERE stage=1 AND lease_token IN ("
                sql += ",".join("?" * len(chunk)) + ") RETURNING lease_token"
                held.update(int(str(token)) for (token,) in db.execute(sql, (lease_until, *chunk)))
            return held

        return await self._write(work)

    async def release_expired(self, now: int) -> tuple[list[tuple[Flow, int]], list[LeasedRow]]:
        """End leases that ran out; answers the flows that are ready again, and the rows whose outcome is unknown."""

        def work(db: apsw.Connection) -> tuple[list[tuple[Flow, int]], list[LeasedRow]]:
            released = [
                (Flow(str(tenant), str(profile)), int(str(due_at)))
                for tenant, profile, due_at in db.execute(
                    "UPDATE notification SET stage=0, lease_token=NULL, lease_until=NULL"
                    " WHERE stage=1 AND lease_until<=? AND dotted=0 RETURNING tenant, profile, due_at",
                    (now,),
                )
            ]
            unknown = [
                _leased(row, int(str(row[12])))
                for row in db.execute(
                    f"SELECT {_LEASED} FROM notification n LEFT JOIN content c USING (seq)"
                    " WHERE n.stage=1 AND n.lease_until<=? AND n.dotted=1",
                    (now,),
                )
            ]
            return released, unknown

        return await self._write(work)

    async def change(self, change: Change) -> bool:
        """Write the row if it is still as `change.before` says; False if it moved."""

        def work(db: apsw.Connection) -> bool:
            before = change.before
            db.execute(
                "UPDATE notification SET stage=?, status=?, due_at=?, expires_at=?, finished_at=?, recipients=?,"
                " events=events || ?, cancelled=? WHERE seq=? AND stage=? AND recipients=? AND lease_token IS ?",
                (
                    int(change.stage), change.status, change.due_at, change.expires_at, change.finished_at,
                    change.recipients, change.events, int(change.cancelled),
                    before.seq, int(before.stage), before.recipients, before.lease_token,
                ),
            )  # fmt: skip
            changed = db.changes() == 1
            if changed and change.erase:
                db.execute("DELETE FROM content WHERE seq=?", (before.seq,))
            return changed

        return await self._write(work)

    async def get(self, notification_id: str, *, content: bool = False) -> StoredRow | None:
        """Read one notification."""
        body = "c.body" if content else "c.seq IS NOT NULL"

        def work(db: apsw.Connection) -> StoredRow | None:
            for row in db.execute(
                f"SELECT {_STORED}, {body} FROM notification n LEFT JOIN content c USING (seq) WHERE n.id=?",
                (notification_id,),
            ):
                return _stored(row)
            return None

        return await self._read(work)

    async def page(self, listing: Listing) -> list[StoredRow]:
        """Read notifications, newest first, without content."""
        sql = [f"SELECT {_STORED}, NULL FROM notification n WHERE tenant IN ({','.join('?' * len(listing.tenants))})"]
        values: list[Value] = list(listing.tenants)
        for condition, value in (
            ("id<?", listing.before_id),
            ("key_id=?", listing.key_id),
            ("category=?", listing.category),
            ("accepted_at>=?", listing.since),
            ("accepted_at<?", listing.until),
        ):
            if value is not None:
                sql.append(f"AND {condition}")
                values.append(value)
        sql.append("ORDER BY id DESC LIMIT ?")
        values.append(listing.limit)
        return await self._read(lambda db: [_stored(row) for row in db.execute(" ".join(sql), values)])

    async def expired(self, now: int, limit: int) -> list[StoredRow]:
        """Read ready rows whose time is over."""
        sql = f"SELECT {_STORED}, NULL FROM notification n WHERE stage=0 AND expires_at<=? LIMIT ?"
        return await self._read(lambda db: [_stored(row) for row in db.execute(sql, (now, limit))])

    async def backlog(self) -> list[FlowBacklog]:
        """Read which flows have ready rows, by hopping from flow to flow along the index."""

        def work(db: apsw.Connection) -> list[FlowBacklog]:
            found: list[FlowBacklog] = []
            flow = Flow("", "")
            while row := db.execute(
                "SELECT tenant, profile FROM notification WHERE stage=0 AND (tenant, profile) > (?,?)"
                " ORDER BY tenant, profile LIMIT 1",
                flow,
            ).fetchall():
                flow = Flow(str(row[0][0]), str(row[0][1]))
                (ready,) = db.execute(
                    "SELECT count(*) FROM notification WHERE stage=0 AND tenant=? AND profile=?", flow
                ).fetchall()[0]
                found.append(FlowBacklog(flow, int(str(ready)), self._next_due(db, flow) or 0))
            return found

        return await self._read(work)

    async def unfinished(self) -> dict[str, int]:
        """Count the rows that are not final, by tenant."""
        sql = "SELECT tenant, count(*) FROM notification WHERE stage<3 GROUP BY tenant"
        return await self._read(lambda db: {str(tenant): int(str(n)) for tenant, n in db.execute(sql)})

    async def prune(self, now: int, finished_before: int, limit: int) -> int:
        """Delete up to `limit` final rows that ended before, and as many idempotency keys past their time.

        Rows are looked at in the order of their acceptance, so no index on the end has to be kept; `limit` rows that
        are too young to have ended before, in that order, mean that no more will come.
        """

        def old_rows(db: apsw.Connection) -> list[int]:
            old: list[int] = []
            young = 0
            for seq, stage, accepted_at, finished_at in db.execute(
                "SELECT seq, stage, accepted_at, finished_at FROM notification ORDER BY seq"
            ):
                if stage == Stage.FINAL and int(str(finished_at)) < finished_before:
                    old.append(int(str(seq)))
                young += int(str(accepted_at)) >= finished_before
                if limit in (len(old), young):
                    break
            return old

        def work(db: apsw.Connection) -> int:
            old = old_rows(db)
            for table in ("content", "notification"):
                for chunk in _chunks(old):
                    db.execute(f"DELETE FROM {table} WHERE seq IN ({','.join('?' * len(chunk))})", chunk)
            db.execute(
                "DELETE FROM idempotency WHERE (tenant, key) IN"
                " (SELECT tenant, key FROM idempotency WHERE forget_at<=? LIMIT ?)",
                (now, limit),
            )
            return max(len(old), db.changes())

        return await self._write(work)

    async def directory(self) -> tuple[int, list[Entry]]:
        """Read the directory's revision and all of its entries."""

        def work(db: apsw.Connection) -> tuple[int, list[Entry]]:
            entries = [
                Entry(*map(str, row))
                for row in db.execute("SELECT kind, tenant, name, body, origin FROM directory ORDER BY 1, 2, 3")
            ]
            return _revision(db), entries

        return await self._write(work)

    async def change_directory(self, revision: int, put: Sequence[Entry], drop: Sequence[Entry]) -> int:
        """Replace and delete entries if the revision still stands; answers the new one."""

        def work(db: apsw.Connection) -> int:
            if _revision(db) != revision:
                raise RevisionConflict
            for entry in drop:
                db.execute("DELETE FROM directory WHERE kind=? AND tenant=? AND name=?", entry[:3])
            for entry in put:
                db.execute("INSERT OR REPLACE INTO directory VALUES (?,?,?,?,?)", entry)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('directory_revision', ?)", (str(revision + 1),))
            return revision + 1

        return await self._write(work)

    async def check(self) -> None:
        """Prove that the store can write, by writing."""
        await self._write(
            lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES ('checked_at', ?)", (str(time.time()),)) and None
        )


def _revision(db: apsw.Connection) -> int:
    rows = db.execute("SELECT value FROM meta WHERE name='directory_revision'").fetchall()
    return int(str(rows[0][0])) if rows else 0


def _sorted_by_kind(
    batch: list[_Queued],
) -> tuple[
    list[tuple[Settlement, "asyncio.Future[Any]"]],
    list[tuple[_Run, "asyncio.Future[Any]"]],
    list[tuple[_Accept, "asyncio.Future[Any]"]],
    list[tuple[Claim, "asyncio.Future[Any]"]],
]:
    settles: list[tuple[Settlement, asyncio.Future[Any]]] = []
    runs: list[tuple[_Run, asyncio.Future[Any]]] = []
    accepts: list[tuple[_Accept, asyncio.Future[Any]]] = []
    claims: list[tuple[Claim, asyncio.Future[Any]]] = []
    for job, future in batch:
        match job:
            case Settlement():
                settles.append((job, future))
            case _Run():
                runs.append((job, future))
            case _Accept():
                accepts.append((job, future))
            case Claim():
                claims.append((job, future))
            case _:
                assert_never(job)
    return settles, runs, accepts, claims


def _chunks(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


@lru_cache(256)
def _values(rows: int, columns: int) -> str:
    return ",".join(("(" + ",".join("?" * columns) + ")",) * rows)


def _bytes(value: Value) -> bytes:
    return value if isinstance(value, bytes) else b""


def _leased(row: tuple[Any, ...], token: int) -> LeasedRow:
    (
        seq, id_, tenant, profile, category, priority, due_at, expires_at, accepted_at, recipients, envelope, body, _,
        cancelled, status,
    ) = row  # fmt: skip
    return LeasedRow(
        seq, id_, Flow(tenant, profile), category, priority, due_at, expires_at, accepted_at, recipients, envelope,
        body, token, bool(cancelled), status,
    )  # fmt: skip


def _stored(row: tuple[Any, ...]) -> StoredRow:
    (
        seq, id_, tenant, profile, category, key_id, priority, stage, status, due_at, expires_at, accepted_at,
        finished_at, lease_token, cancelled, recipients, events, envelope, body,
    ) = row  # fmt: skip
    return StoredRow(
        seq, id_, Flow(tenant, profile), category, key_id, priority, Stage(stage), status, due_at, expires_at,
        accepted_at, finished_at, lease_token, bool(cancelled), recipients, events, envelope,
        body if isinstance(body, str) else ("" if body else None),
    )  # fmt: skip
