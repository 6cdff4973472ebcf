"""The store on SQLite: one file, one thread that writes (`writer`), one that reads.

Owns the database file. One connection does all writing and all checkpointing; reading has a connection and a thread
of its own. An exclusive lock beside the file keeps a second process out. After an error that leaves the file's state
unknown the log is left beside it, so that the next opening checks both.
"""

import asyncio
import fcntl
import itertools
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import apsw
import apsw.bestpractice

from gateway.observe.failpoint import failpoint
from gateway.store import audit, copying, events, group
from gateway.store.clock import wall_clock
from gateway.store.copying import BACKED_UP_AT, COPIED_AT, Copier
from gateway.store.group import Value
from gateway.store.life import Life
from gateway.store.protocol import (
    Copied,
    RevisionConflict,
    Roster,
    StoreBroken,
    StoreBusy,
    StoreError,
    StoreUnavailable,
)
from gateway.store.rows import (
    Acceptance,
    AuditRow,
    Change,
    Claim,
    Claimed,
    Ending,
    Entry,
    EventBacklog,
    EventResult,
    EventWish,
    Flow,
    FlowBacklog,
    FlowCensus,
    FlowDepth,
    Happening,
    LeasedEvent,
    LeasedRow,
    Listing,
    NewRow,
    News,
    Permission,
    Settlement,
    SignIn,
    Stage,
    StoredRow,
    StoreHealth,
    Wait,
    WebhookEvent,
    leased,
    stored,
)
from gateway.store.writer import Accept, Run, Writer

T = TypeVar("T")

SQLITE_VERSION: Final = apsw.sqlite_lib_version()
SCHEMA: Final = 4
CHUNK: Final = 32  # rows a statement: enough to amortise it, few enough texts to keep prepared
AUDIT_PAGE: Final = 256  # rows of the audit log that are checked at once: other readers get their turn in between
FEW: Final = 20  # tenants whose mail is looked up tenant by tenant and then sorted
MIGRATIONS: Final = Path(__file__).with_name("migrations")
MOVING: Final = "moving"  # in `meta`: a move to another store was begun, and no daemon worked here since
LIFE: Final = "life"  # in `meta`: the id that the file beside the database knows
MOVED_TO: Final = "moved_to"  # in `meta`: the id of the database that has everything now, and how people call it

_STORED: Final = (
    "n.seq, n.id, n.tenant, n.profile, n.category, n.key_id, n.priority, n.stage, n.status, n.due_at, n.expires_at,"
    " n.accepted_at, n.finished_at, n.lease_token, n.cancelled, n.recipients, n.events, n.envelope"
)
_NEXT_DUE_OF_PRIORITY: Final = (
    "SELECT * FROM (SELECT due_at FROM notification WHERE stage=0 AND tenant=? AND profile=? AND priority=?"
    " ORDER BY due_at LIMIT 1)"
)
_NEXT_DUE: Final = (
    "SELECT min(due_at) FROM (" + " UNION ALL ".join([_NEXT_DUE_OF_PRIORITY] * len(group.PRIORITIES)) + ")"
)
_AUDITED: Final = "SELECT tenant, number, at, actor, actor_tenant, action, object, changes, hash FROM audit"
_BEFORE_ALL: Final = -1 << 63  # a row that somebody smuggled in below number 1 is looked at, too
_AFTER_ALL: Final = (1 << 63) - 1


class SqliteStore:
    """`Store` on one SQLite file; open it with `async with SqliteStore(path)`."""

    engine = f"SQLite {SQLITE_VERSION}"

    def __init__(
        self, path: Path, *, disk_floor_bytes: int = 0, vfs: str | None = None, for_move: bool = False
    ) -> None:
        """Name the file; nothing is opened yet. Below `disk_floor_bytes` free, `accept` is `StoreFull`.

        `vfs` names another file system layer than the operating system's, which SQLite must know already. Only
        `for_move` a file is opened that was moved to another store.
        """
        self.path = path
        self._for_move = for_move
        self._vfs = vfs
        self.writer = Writer(path.parent, disk_floor_bytes)
        self.failed = self.writer.failed
        self.roster: Roster | None = None  # the file's lock keeps everybody else out
        self.copier = Copier(path, disk_floor_bytes, vfs)
        self._floor = disk_floor_bytes
        self._life = Life(path)
        self._settled_in = False

    async def __aenter__(self) -> Self:
        """Lock, open, check and migrate the file, and start the threads."""
        self._loop = asyncio.get_running_loop()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        try:
            await self._loop.run_in_executor(self._reader, self._open)
        except BaseException:
            self._reader.shutdown(wait=False)
            raise
        self.writer.start(self._db, int(str(self._scalar("SELECT coalesce(max(seq), 0) + 1 FROM notification"))))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what was asked for, fold the log back into the file and unlock it."""
        if self._settled_in:  # what was copied until now is of an older life
            with suppress(StoreError):
                await self.settle_in()
        await self._loop.run_in_executor(self._reader, self.writer.stop)
        await self._loop.run_in_executor(self._reader, self._close)
        self._reader.shutdown()

    @property
    def on_commit(self) -> Callable[[float, int], None]:
        """Told of each commit: its seconds, and how many writes shared it."""
        return self.writer.on_commit

    @on_commit.setter
    def on_commit(self, told: Callable[[float, int], None]) -> None:
        self.writer.on_commit = told

    def clock(self) -> int:
        """Tell the machine's time."""
        return wall_clock()

    def reasons(self) -> list[str]:
        """Say why it cannot be written at the moment; empty if it can."""
        reasons = ["store_broken"] if self.failed.is_set() else []
        return [*reasons, "storage_full"] if self.writer.space_low else reasons

    # Opening and closing, on the reader's thread.

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.path)
        try:
            copying.install(self.path)
            copying.clear(copying.copy_of(self.path))
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
            if not self._for_move:
                self._refuse_moved()
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

    def _migrate(self) -> None:
        version = int(str(self._scalar("PRAGMA user_version")))
        if version > SCHEMA:
            raise StoreBroken(f"{self.path} was written by a newer version (schema {version}, here {SCHEMA})")
        for number in range(version + 1, SCHEMA + 1):
            with self._db:
                self._db.execute((MIGRATIONS / f"sqlite-{number:04}.sql").read_text())
                self._db.execute(f"PRAGMA user_version={number}")

    def _refuse_moved(self) -> None:
        """Refuse to work on what another store has by now. A move that is not finished has to begin anew after us."""
        for (moved_to,) in self._db.execute("SELECT value FROM meta WHERE name=?", (MOVED_TO,)):
            raise StoreBroken(
                f"{self.path} was moved to {str(moved_to).partition(' ')[2]}: from here its mail would be sent twice;"
                f" only once that database is dropped: sqlite3 {self.path} \"DELETE FROM meta WHERE name='{MOVED_TO}'\""
            )
        self._db.execute("DELETE FROM meta WHERE name=?", (MOVING,))

    def _recover(self) -> None:
        """Give back what a dead daemon held: the file's lock proves that it is dead. Unknown outcomes stay leased."""
        self._db.execute(
            "UPDATE notification SET stage=0, lease_token=NULL, lease_until=NULL WHERE stage=1 AND dotted=0"
        )
        self._db.execute("UPDATE notification SET lease_until=0 WHERE stage=1")
        self._db.execute("UPDATE refused_login SET trying=0 WHERE trying=1")
        events.recover(self._db)

    def _scalar(self, sql: str) -> Value:
        return self._db.execute(sql).fetchall()[0][0]

    def _close(self) -> None:
        self._read_db.close()
        self._close_files(keep_log=self.writer.broken is not None)
        os.close(self._lock)

    def _close_files(self, *, keep_log: bool) -> None:
        """Close the last connection; a log that is kept tells the next opening to check the file."""
        with suppress(apsw.Error):
            if keep_log:
                self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            else:
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._db.close()

    # Calls, on the event loop.

    @staticmethod
    def _next_due(db: apsw.Connection, flow: Flow) -> int | None:
        bounds = tuple((*flow, priority) for priority in group.PRIORITIES)
        ((due_at,),) = db.execute(_NEXT_DUE, tuple(itertools.chain.from_iterable(bounds))).fetchall()
        return due_at if isinstance(due_at, int) else None

    async def _write(self, work: Callable[[apsw.Connection], T]) -> T:
        result: T = await self.writer.submit(Run(work))
        return result

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        if self.writer.broken:
            raise self.writer.broken
        try:
            return await self._loop.run_in_executor(self._reader, work, self._read_db)
        except apsw.Error as error:
            broken = StoreBroken(f"the database could not be read: {type(error).__name__}")
            self.writer.fail(broken)
            raise broken from error

    def accept(self, rows: Sequence[NewRow], now: int) -> "asyncio.Future[list[Acceptance]]":
        """Insert the rows under their idempotency keys, all in one commit; it happens whether or not anybody waits."""
        committed: asyncio.Future[list[Acceptance]] = self.writer.submit(Accept(rows, now))
        return committed

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
        result: Claimed = await self.writer.submit(claim)
        return result

    def settle(self, settlement: Settlement) -> "asyncio.Future[bool]":
        """Write a delivery's result; False if the lease was lost meanwhile. It happens whether or not anybody waits.

        On a full disk it waits for room: a result is true, and known nowhere else.
        """
        written: asyncio.Future[bool] = self.writer.submit(settlement)
        return written

    async def dot(self, seq: int, lease_token: int, dotted_for: str) -> bool:
        """Commit that the final dot is about to be sent; False if the lease was lost or the row cancelled."""

        def work(db: apsw.Connection) -> bool:
            db.execute(
                "UPDATE notification SET dotted=1, dotted_for=?"
                " WHERE seq=? AND stage=1 AND lease_token=? AND cancelled=0",
                (dotted_for, seq, lease_token),
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
                leased(row)
                for row in db.execute(
                    f"SELECT {group.LEASED} FROM notification n LEFT JOIN content c USING (seq)"
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
            if changed and change.told is not None:
                group.tell(db, change.told)
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
                return stored(row)
            return None

        return await self._read(work)

    async def page(self, listing: Listing) -> list[StoredRow]:
        """Read notifications, newest first, without content."""
        sql, values = [f"SELECT {_STORED}, NULL FROM notification n WHERE"], list[Value]()
        if listing.tenants is None:
            sql.append("1")
        elif len(listing.tenants) <= FEW:
            sql.append(f"tenant IN ({','.join('?' * len(listing.tenants))})")
            values += listing.tenants
        else:
            sql.append("+tenant IN (SELECT value FROM json_each(?))")  # +: along the ids, newest first
            values.append(json.dumps(listing.tenants))
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
        return await self._read(lambda db: [stored(row) for row in db.execute(" ".join(sql), values)])

    async def expired(self, now: int, limit: int) -> list[StoredRow]:
        """Read ready rows whose time is over."""
        sql = f"SELECT {_STORED}, NULL FROM notification n WHERE stage=0 AND expires_at<=? LIMIT ?"
        return await self._read(lambda db: [stored(row) for row in db.execute(sql, (now, limit))])

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
                found.append(FlowBacklog(flow, self._next_due(db, flow) or 0))
            return found

        return await self._read(work)

    async def depths(self) -> list[FlowDepth]:
        """Count what each flow has that is not final."""
        sql = (
            "SELECT tenant, profile, count(*), sum(status='deferred'), min(accepted_at) FROM notification"
            " WHERE stage<3 GROUP BY tenant, profile"
        )
        return await self._read(
            lambda db: [FlowDepth(Flow(tenant, profile), *counts) for tenant, profile, *counts in _rows(db, sql)]
        )

    async def census(self, now: int) -> list[FlowCensus]:
        """Count what is not final by flow and by how it waits; reads all of it, so ask rarely.

        It has a connection and a thread of its own, so that nobody else's reading waits for it.
        """
        sql = (
            "SELECT tenant, profile, CASE WHEN stage=1 THEN 'leased' WHEN stage=2 THEN 'resting'"
            " WHEN status='deferred' THEN 'deferred' WHEN due_at>? THEN 'scheduled' ELSE 'ready' END wait,"
            " count(*), min(accepted_at), min(due_at) FROM notification WHERE stage<3 GROUP BY tenant, profile, wait"
        )

        def work() -> list[FlowCensus]:
            with closing(apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY, vfs=self._vfs)) as db:
                return [
                    FlowCensus(Flow(tenant, profile), Wait(wait), *counts)
                    for tenant, profile, wait, *counts in _rows(db, sql, now)
                ]

        try:
            return await asyncio.to_thread(work)
        except apsw.Error as error:  # those who read what matters find out whether the file is to blame
            raise StoreUnavailable(f"the database could not be read: {type(error).__name__}") from error

    async def forget(self, tenant: str, limit: int) -> int:
        """Delete up to `limit` rows of a tenant, its idempotency keys, its webhook events, and where it signed in.

        Answers how many rows.
        """

        def work(db: apsw.Connection) -> int:
            sql = "SELECT seq FROM notification WHERE tenant=? LIMIT ?"
            gone = [seq for (seq,) in db.execute(sql, (tenant, limit))]
            for table in ("content", "notification"):
                for chunk in _chunks(gone):
                    db.execute(f"DELETE FROM {table} WHERE seq IN ({','.join('?' * len(chunk))})", chunk)
            db.execute("DELETE FROM idempotency WHERE tenant=?", (tenant,))
            db.execute("DELETE FROM signed_in WHERE tenant=?", (tenant,))
            events.forget(db, tenant)
            return len(gone)

        return await self._write(work)

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
            db.execute("DELETE FROM refused_login WHERE forget_at<=?", (now,))
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

    # Webhook events.

    async def add_events(self, told: Sequence[WebhookEvent]) -> None:
        """Insert events for webhooks; one that is there already stays as it is."""
        await self._write(lambda db: events.add(db, told))

    async def claim_events(self, wishes: Sequence[EventWish], now: int, lease_until: int) -> list[LeasedEvent]:
        """Take due events of these webhooks, those first that fell due first, each under a lease."""
        return await self._write(lambda db: events.claim(db, wishes, now, lease_until))

    async def settle_events(self, results: Sequence[EventResult]) -> None:
        """Write what becomes of events; where a lease is lost, nothing is written."""
        await self._write(lambda db: events.settle(db, results))

    async def drop_events(self, tenant: str, webhook: str) -> None:
        """Delete the events of a webhook."""
        while await self._write(lambda db: events.drop(db, tenant, webhook)) == events.DROPPED_AT_ONCE:
            pass

    async def pending_events(self) -> list[EventBacklog]:
        """Count the events of each webhook that has some, leased ones included."""
        return await self._read(events.pending)

    async def directory(self) -> tuple[int, list[Entry]]:
        """Read the directory's revision and all of its entries."""

        def work(db: apsw.Connection) -> tuple[int, list[Entry]]:
            entries = [
                Entry(*map(str, row))
                for row in db.execute("SELECT kind, tenant, name, body, origin FROM directory ORDER BY 1, 2, 3")
            ]
            return _revision(db), entries

        return await self._write(work)

    async def directory_since(self, revision: int) -> News:
        """Read what became of the directory since that revision; all of it, for nobody else can have changed it."""
        now, entries = await self.directory()
        return News(now, [], []) if now == revision != 0 else News(now, entries, [], whole=True)

    async def change_directory(
        self,
        revision: int,
        put: Sequence[Entry],
        drop: Sequence[Entry],
        happened: Sequence[Happening] = (),
        now: int = 0,
    ) -> int:
        """Replace and delete entries if the revision still stands, and log what happened; answers the new revision.

        `RevisionConflict` if somebody else was first. `StoreError` if the log does not take what happened: then
        nothing did.
        """

        def work(db: apsw.Connection) -> int:
            if _revision(db) != revision:
                raise RevisionConflict
            db.executemany("DELETE FROM directory WHERE kind=? AND tenant=? AND name=?", (entry[:3] for entry in drop))
            db.executemany("INSERT OR REPLACE INTO directory VALUES (?,?,?,?,?)", put)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('directory_revision', ?)", (str(revision + 1),))
            _log(db, happened, now)
            return revision + 1

        return await self._write(work)

    def log(self, happened: Sequence[Happening], now: int) -> "asyncio.Future[None]":
        """Log what happened where nothing was changed; it is written whether or not anybody waits."""
        written: asyncio.Future[None] = self.writer.submit(Run(lambda db: _log(db, happened, now)))
        return written

    async def audit(self, tenant: str, *, before: int | None, limit: int) -> list[AuditRow]:
        """Read a tenant's audit log, newest first, from below the number `before` (None: from its end)."""
        below = _AFTER_ALL if before is None else before
        return await self._read(lambda db: _newest(db, tenant, below, limit))

    async def audit_origin(self, tenant: str) -> int:
        """Read the number under which the tenant itself was made last; 0 if its log does not say."""
        sql = "SELECT coalesce(max(number), 0) FROM audit WHERE tenant=? AND action='tenant.create' AND object=?"
        return await self._read(lambda db: int(str(db.execute(sql, (tenant, tenant)).fetchall()[0][0])))

    async def audit_length(self, tenant: str) -> int:
        """Read the number of a tenant's newest audit row; 0 if there is none."""
        newest = await self.audit(tenant, before=None, limit=1)
        return newest[0].number if newest else 0

    async def audit_broken(self, tenant: str) -> int | None:
        """Check a tenant's whole audit log; answers the first number that is missing or wrong, None if all is well."""
        last: AuditRow | None = None
        while True:
            fault, last = await self._read(partial(_check_page, tenant=tenant, last=last))
            if fault is not None or last is None:
                return fault

    # Copies.

    async def copied(self) -> Copied | None:
        """Is it a copy that no daemon has opened yet, put back by `restore` or in another way?"""
        marks = await self._marks()
        if COPIED_AT in marks:
            return Copied.RESTORED
        life = marks.get(LIFE)
        known = life is None or await self._loop.run_in_executor(self._reader, self._life.knows, life)
        return None if known else Copied.CLONED

    async def settle_in(self) -> None:
        """Begin a new life in this place; a copy is none from now on."""
        before, life = (await self._marks()).get(LIFE), secrets.token_hex(16)

        def work(db: apsw.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (LIFE, life))
            db.execute("DELETE FROM meta WHERE name=?", (COPIED_AT,))

        await self._write_life(*([] if before is None else [before]), life)
        failpoint("life.announced")
        await self._write(work)
        failpoint("life.committed")
        await self._write_life(life)
        self._settled_in = True

    async def _write_life(self, *ids: str) -> None:
        try:
            await self._loop.run_in_executor(self._reader, self._life.write, *ids)
        except OSError as error:
            raise StoreUnavailable(f"{error.filename or self.path}: {error.strerror}") from error

    async def _marks(self) -> dict[str, str]:
        return await self._read(lambda db: {str(name): str(value) for name, value in db.execute("SELECT * FROM meta")})

    async def backed_up(self, taken_at: int) -> None:
        """Note that somebody has a whole copy, as of then."""
        sql = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
        await self._write(lambda db: db.execute(sql, (BACKED_UP_AT, str(taken_at))) and None)

    async def health(self) -> StoreHealth:
        """Tell how large it is, how much room there is, and when it was backed up last."""
        marks = await self._marks()
        backed_up_at = marks.get(BACKED_UP_AT)

        def work() -> StoreHealth:
            space, log = os.statvfs(self.path.parent), Path(f"{self.path}-wal")
            return StoreHealth(
                SCHEMA, self.path.stat().st_size, log.stat().st_size if log.exists() else 0,
                space.f_bavail * space.f_frsize, self._floor, None if backed_up_at is None else int(backed_up_at),
            )  # fmt: skip

        return await self._loop.run_in_executor(self._reader, work)

    # Logins.

    async def try_login(
        self, sign_in: SignIn, ticket: int, now: int, *, forget_at: int, most: int | None
    ) -> Permission:
        """Count a login as refused until `forget_at`, unless `most` of that account are already (None: whatever is)."""

        def work(db: apsw.Connection) -> Permission:
            db.execute("DELETE FROM refused_login WHERE forget_at<=?", (now,))
            ((counted, refused),) = db.execute(
                "SELECT count(*), count(*) FILTER (WHERE trying=0) FROM refused_login"
                " WHERE host=?1 AND user_hash=?2 AND ticket<>?4"
                " AND (tenant=?3 OR (?1, ?2, ?3) NOT IN (SELECT host, user_hash, tenant FROM signed_in))",
                (*sign_in, ticket),
            ).fetchall()
            if most is not None and int(str(counted)) >= most:
                return Permission.REFUSED if int(str(refused)) >= most else Permission.LATER
            db.execute("INSERT OR REPLACE INTO refused_login VALUES (?,?,?,?,?,1)", (ticket, *sign_in, forget_at))
            return Permission.GIVEN

        return await self._write(work)

    async def end_login(self, sign_in: SignIn, ticket: int, ending: Ending, *, forget_at: int) -> None:
        """Take a login's count back, or let it stand until `forget_at` if the relay refused it, counted before or not."""

        def work(db: apsw.Connection) -> None:
            if ending is Ending.REFUSED:
                db.execute("INSERT OR REPLACE INTO refused_login VALUES (?,?,?,?,?,0)", (ticket, *sign_in, forget_at))
                return
            db.execute("DELETE FROM refused_login WHERE ticket=?", (ticket,))
            if ending is Ending.ACCEPTED:
                db.execute("INSERT OR IGNORE INTO signed_in VALUES (?,?,?)", sign_in)

        await self._write(work)

    async def check(self) -> None:
        """Prove that the store can write, by writing."""
        await self._write(
            lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES ('checked_at', ?)", (str(time.time()),)) and None
        )


def _locked(path: Path) -> int:
    """Lock the database for this process, which also says that no other works on it; answers the lock's descriptor."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StoreBusy(f"another daemon holds {path}") from error
    return lock


@contextmanager
def held_file(path: Path) -> Iterator[int]:
    """Keep all daemons from a database for the time of the block; gives the lock's descriptor. Raises `StoreBusy`."""
    lock = _locked(path)
    try:
        yield lock
    finally:
        os.close(lock)


def audit_fault(db: apsw.Connection, tenant: str) -> int | None:
    """Check a tenant's whole audit log; answers the first number that is missing or wrong, None if all is well."""
    last: AuditRow | None = None
    while True:
        fault, last = _check_page(db, tenant, last)
        if fault is not None or last is None:
            return fault


def _rows(db: apsw.Connection, sql: str, *values: Value) -> Iterable[tuple[Any, ...]]:
    return db.execute(sql, values)


def _revision(db: apsw.Connection) -> int:
    rows = db.execute("SELECT value FROM meta WHERE name='directory_revision'").fetchall()
    return int(str(rows[0][0])) if rows else 0


def _log(db: apsw.Connection, happened: Sequence[Happening], now: int) -> None:
    """Continue the chain of each tenant to which something happened.

    What the log refuses takes only its own change along: neither error ends the engine's transaction.
    """
    last: dict[str, AuditRow | None] = {}
    rows: list[AuditRow] = []
    try:
        for one in happened:
            if one.tenant not in last:
                last[one.tenant] = next(iter(_newest(db, one.tenant, _AFTER_ALL, 1)), None)
            rows.append(audit.following(last[one.tenant], one, now))
            last[one.tenant] = rows[-1]
        # Few statements, as one with triggers walks the whole undo journal; tenant by tenant, as pages are then near.
        for chunk in _chunks(sorted(rows)):
            values = ",".join(("(?,?,?,?,?,?,?,?,?)",) * len(chunk))
            db.execute(f"INSERT INTO audit VALUES {values}", tuple(itertools.chain.from_iterable(chunk)))
    except (apsw.SQLError, apsw.ConstraintError) as error:
        raise StoreError(f"the audit log cannot be written: {error}") from error


def _newest(db: apsw.Connection, tenant: str, below: int, limit: int) -> list[AuditRow]:
    sql = f"{_AUDITED} WHERE tenant=? AND number<? ORDER BY number DESC LIMIT ?"
    return [AuditRow._make(row) for row in db.execute(sql, (tenant, below, limit))]


def _check_page(db: apsw.Connection, tenant: str, last: AuditRow | None) -> tuple[int | None, AuditRow | None]:
    """Check the rows that come after `last`; answers the first fault, and the last of the rows (None: no more)."""
    previous, number, after = (last.hash, last.number, last.number) if last else (audit.GENESIS, 0, _BEFORE_ALL)
    sql = f"{_AUDITED} WHERE tenant=? AND number>? ORDER BY number LIMIT ?"
    rows = [AuditRow._make(row) for row in db.execute(sql, (tenant, after, AUDIT_PAGE))]
    return audit.broken(rows, previous, number), rows[-1] if rows else None


def _chunks(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _bytes(value: Value) -> bytes:
    return value if isinstance(value, bytes) else b""
