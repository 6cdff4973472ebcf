"""The store on SQLite: one file, one thread that writes (`writer`), one that reads.

Owns the database file. One connection does all writing and all checkpointing; reading has a connection and a thread
of its own. An exclusive lock beside the file keeps a second process out. After an error that leaves the file's state
unknown the log is left beside it, so that the next opening checks both.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

import apsw

from gateway.observe.failpoint import failpoint
from gateway.store import audit
from gateway.store.clock import wall_clock
from gateway.store.protocol import Copied, Roster, StoreBroken, StoreError, StoreUnavailable
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
    EventsDue,
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
    SessionKind,
    SessionRow,
    Settlement,
    SignIn,
    StoredRow,
    StoreHealth,
    WebhookEvent,
)
from gateway.store.sqlite import changing, directory, events, forgetting, logins, reading, sessions
from gateway.store.sqlite.copying import BACKED_UP_AT, COPIED_AT, Copier
from gateway.store.sqlite.file import SCHEMA, close_file, next_seq, open_file
from gateway.store.sqlite.life import Life
from gateway.store.sqlite.writer import Accept, Run, Writer, free_bytes

T = TypeVar("T")

SQLITE_VERSION: Final = apsw.sqlite_lib_version()
LIFE: Final = "life"  # in `meta`: the id that the file beside the database knows


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
        self._settling_in = asyncio.Lock()
        self._settled_in = False
        self._pruned = 0  # the last row that this round has looked at

    async def __aenter__(self) -> Self:
        """Lock, open, check and migrate the file, and start the threads."""
        self._loop = asyncio.get_running_loop()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        try:
            await self._loop.run_in_executor(self._reader, self._open)
        except BaseException:
            self._reader.shutdown(wait=False)
            raise
        self.writer.start(self._db, next_seq(self._db))
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
        self._file = open_file(self.path, self._vfs, for_move=self._for_move)
        self._db = self._file.db

    def _close(self) -> None:
        close_file(self._file, keep_log=self.writer.broken is not None)

    # Calls, on the event loop.

    async def _write(self, work: Callable[[apsw.Connection], T]) -> T:
        result: T = await self.writer.submit(Run(work))
        return result

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        if self.writer.broken:
            raise self.writer.broken
        try:
            return await self._loop.run_in_executor(self._reader, work, self._file.read_db)
        except apsw.Error as error:
            broken = StoreBroken(f"the database could not be read: {type(error).__name__}: {error}")
            self.writer.fail(broken)
            raise broken from error

    async def _read_apart(self, work: Callable[[apsw.Connection], T]) -> T:
        """Read on a connection and a thread of its own, so that nobody else's reading waits for it."""

        def read() -> T:
            with closing(apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY, vfs=self._vfs)) as db:
                return work(db)

        try:
            return await asyncio.to_thread(read)
        except apsw.Error as error:  # those who read what matters find out whether the file is to blame
            raise StoreUnavailable(f"the database could not be read: {type(error).__name__}") from error

    def accept(self, rows: Sequence[NewRow], now: int) -> "asyncio.Future[list[Acceptance]]":
        """Insert the rows under their idempotency keys, all in one commit; it happens whether or not anybody waits."""
        committed: asyncio.Future[list[Acceptance]] = self.writer.submit(Accept(rows, now))
        return committed

    async def recall(self, tenant: str, key: str, now: int) -> tuple[bytes, str] | None:
        """Read what an idempotency key stands for: the request's SHA-256 and the answer it got."""
        return await self._read(lambda db: reading.recall(db, tenant, key, now))

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
        return await self._write(lambda db: changing.dot(db, seq, lease_token, dotted_for))

    async def renew(self, lease_tokens: Sequence[int], lease_until: int) -> set[int]:
        """Prolong leases that are still held; answers which."""
        return await self._write(lambda db: changing.renew(db, lease_tokens, lease_until))

    async def release_expired(self, now: int) -> tuple[list[tuple[Flow, int]], list[LeasedRow]]:
        """End leases that ran out; answers the flows that are ready again, and the rows whose outcome is unknown."""
        return await self._write(lambda db: changing.release_expired(db, now))

    async def change(self, change: Change) -> bool:
        """Write the row if it is still as `change.before` says; False if it moved."""
        return await self._write(lambda db: changing.change(db, change))

    # Reading.

    async def get(self, notification_id: str, *, content: bool = False) -> StoredRow | None:
        """Read one notification."""
        return await self._read(lambda db: reading.get(db, notification_id, content=content))

    async def page(self, listing: Listing) -> list[StoredRow]:
        """Read notifications, newest first, without content."""
        return await self._read(lambda db: reading.page(db, listing))

    async def expired(self, now: int, limit: int, after: StoredRow | None = None) -> list[StoredRow]:
        """Read ready rows whose time is over, those first that were the first to expire; go on behind `after`."""
        return await self._read(lambda db: reading.expired(db, now, limit, after))

    async def backlog(self) -> list[FlowBacklog]:
        """Read which flows have ready rows."""
        return await self._read(reading.backlog)

    async def depths(self) -> list[FlowDepth]:
        """Count what each flow has that is not final."""
        return await self._read(reading.depths)

    async def census(self, now: int) -> list[FlowCensus]:
        """Count what is not final by flow and by how it waits; reads all of it, so ask rarely."""
        return await self._read_apart(lambda db: reading.census(db, now))

    async def unfinished(self) -> dict[str, int]:
        """Count the rows that are not final, by tenant."""
        return await self._read(reading.unfinished)

    # Forgetting.

    async def forget(self, tenant: str, limit: int) -> int:
        """Delete up to `limit` of all that a tenant has: notifications, idempotency keys, webhook events.

        Answers how many: while it is `limit` there may be more. Where it signed in goes at once.
        """
        return await self._write(lambda db: forgetting.forget(db, tenant, limit))

    async def prune(self, now: int, finished_before: int, limit: int) -> int:
        """Delete up to `limit` final rows that ended before, and as many idempotency keys past their time.

        Rows are looked at in the order of their acceptance, so no index on the end has to be kept; `limit` rows that
        are too young to have ended before, in that order, mean that no more will come. Where many rows stay,
        one call looks at a part of them, and the next goes on behind it.
        """
        after = self._pruned
        count, self._pruned = await self._write(lambda db: forgetting.prune(db, now, finished_before, limit, after))
        return count

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

    async def due_events(self) -> list[EventsDue]:
        """Find the webhooks that have events, leased ones included, and when the first of each falls due."""
        return await self._read(events.due)

    async def pending_events(self, tenant: str, most: int) -> list[EventBacklog]:
        """Count the events of each of a tenant's webhooks, up to so many together; reads them all, so ask rarely."""
        return await self._read_apart(lambda db: events.pending(db, tenant, most))

    # The directory and its log.

    async def directory(self) -> tuple[int, list[Entry]]:
        """Read the directory's revision and all of its entries."""
        return await self._write(directory.read)

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
        return await self._write(lambda db: directory.change(db, revision, put, drop, happened, now))

    def log(self, happened: Sequence[Happening], now: int) -> "asyncio.Future[None]":
        """Log what happened where nothing was changed; it is written whether or not anybody waits."""
        written: asyncio.Future[None] = self.writer.submit(Run(lambda db: directory.log(db, happened, now)))
        return written

    async def audit(self, tenant: str, *, before: int | None, limit: int) -> list[AuditRow]:
        """Read a tenant's audit log, newest first, from below the number `before` (None: from its end)."""
        below = audit.AFTER_ALL if before is None else before
        return await self._read(lambda db: directory.newest(db, tenant, below, limit))

    async def audit_origin(self, tenant: str) -> int:
        """Read the number under which the tenant itself was made last; 0 if its log does not say."""
        return await self._read(lambda db: directory.origin(db, tenant))

    async def audit_length(self, tenant: str) -> int:
        """Read the number of a tenant's newest audit row; 0 if there is none."""
        newest = await self.audit(tenant, before=None, limit=1)
        return newest[0].number if newest else 0

    async def audit_broken(self, tenant: str) -> int | None:
        """Check a tenant's whole audit log; answers the first number that is missing or wrong, None if all is well."""
        return await audit.fault(lambda after: self._read(partial(directory.audited, tenant=tenant, after=after)))

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
        """Begin a new life in this place; a copy is none from now on, and whoever was signed in to it is no more."""
        async with self._settling_in:  # what one announces has to stand beside it until that is committed
            if not self._settled_in and await self.copied() is not None:
                await self._write(sessions.end_all)  # first: once a life is announced nothing tells it for a copy
            await self._begin_life()

    async def _begin_life(self) -> None:
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
            log = Path(f"{self.path}-wal")
            return StoreHealth(
                SCHEMA, self.path.stat().st_size, log.stat().st_size if log.exists() else 0,
                free_bytes(self.path.parent), self._floor, None if backed_up_at is None else int(backed_up_at),
            )  # fmt: skip

        return await self._loop.run_in_executor(self._reader, work)

    # Logins.

    async def try_login(
        self, sign_in: SignIn, ticket: int, now: int, *, forget_at: int, most: int | None
    ) -> Permission:
        """Count a login as refused until `forget_at`, unless `most` of that account are already (None: whatever is)."""
        return await self._write(lambda db: logins.attempt(db, sign_in, ticket, now, forget_at=forget_at, most=most))

    async def end_login(self, sign_in: SignIn, ticket: int, ending: Ending, *, forget_at: int) -> None:
        """Take a login's count back, or let it stand until `forget_at` if the relay refused it, counted before or not."""
        await self._write(lambda db: logins.end(db, sign_in, ticket, ending, forget_at=forget_at))

    # Sessions of the pages.

    async def begin_session(self, row: SessionRow) -> None:
        """Insert a session, or a link; one that is there already stays as it is."""
        await self._write(lambda db: sessions.begin(db, row))

    async def session(self, token_sha256: bytes) -> SessionRow | None:
        """Read the session, or the link, of a token, be it over or not."""
        return await self._read(lambda db: sessions.find(db, token_sha256))

    async def use_session(self, token_sha256: bytes, used_at: int) -> None:
        """Note when a session was used; never earlier than it says already."""
        await self._write(lambda db: sessions.use(db, token_sha256, used_at))

    async def end_session(self, token_sha256: bytes, kind: SessionKind) -> SessionRow | None:
        """Take a session or a link away and give it back: of several who ask at once one gets it, the others None."""
        return await self._write(lambda db: sessions.end(db, token_sha256, kind))

    async def end_sessions(self, who: str) -> int:
        """End all sessions and links of a person; answers how many."""
        return await self._write(lambda db: sessions.end_all_of(db, who))

    async def prune_sessions(self, now: int, unused_since: int, limit: int) -> int:
        """Delete up to `limit` sessions and links that are over, and sessions last used before; answers how many."""
        return await self._write(lambda db: sessions.prune(db, now, unused_since, limit))

    async def check(self) -> None:
        """Prove that the store can write, by writing."""
        await self._write(
            lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES ('checked_at', ?)", (str(time.time()),)) and None
        )
