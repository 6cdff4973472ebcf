"""`Store` on PostgreSQL 15 or newer: what the outbox and the directory ask for, for any number of daemons.

Owns a schema in the operator's database. Each kind of write has a pump, so that whatever arrives while a statement runs
shares the next; reading goes straight to the pool. Rows are leased to this daemon, which is a row of its own that has
to be kept alive (`roster`): if it is not, the others take over what it held.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Self

from gateway.observe.failpoint import failpoint
from gateway.store import audit
from gateway.store.clock import ServerClock
from gateway.store.postgresql import accepting, changing, directory, events, forgetting, logins, reading, sessions
from gateway.store.postgresql import statements as sql
from gateway.store.postgresql.changing import Dot
from gateway.store.postgresql.directory import Log
from gateway.store.postgresql.migrations import SCHEMA, migrate
from gateway.store.postgresql.pump import PATIENCE, Pump
from gateway.store.postgresql.restoring import COPIED_AT
from gateway.store.postgresql.roster import PostgresqlRoster
from gateway.store.postgresql.server import Server, columns
from gateway.store.protocol import (
    Copied,
    Copier,
    KeyWithdrawn,
    StoreBroken,
    StoreFull,
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
    leased,
)

MOVING_FROM: Final = "moving_from"  # in `meta`: rows are still being moved here from another store
BREATH: Final = 0.02  # seconds between two claims, or results, under load: nobody waits, and more share a round trip
MOST_UNHEARD: Final = 10_000  # the rest waits for the end of its lease

_Accept = tuple[Sequence[NewRow], int]


class PostgresqlStore:
    """`Store` on one schema of a database; open it with `async with PostgresqlStore(url)`."""

    def __init__(self, server: Server, name: str = "", *, patience: float = PATIENCE, breath: float = BREATH) -> None:
        """Name the server; nothing is opened yet.

        Of all daemons that live at a time only one has this `name`: it takes over at once what the one before held.
        `patience` is how many seconds a write waits for a server that is away; results wait for ever. Claims, and
        results, begin a `breath` (seconds) apart.
        """
        self.server = server
        self.failed = server.failed
        self.on_commit: Callable[[float, int], None] = lambda _seconds, _jobs: None
        self.clock = ServerClock()
        self.roster = PostgresqlRoster(server, self.clock, name or secrets.token_hex(16))
        told = self._committed
        self._accepts: Pump[_Accept] = Pump(
            self._accept, patience=patience, size=lambda job: len(job[0]), on_commit=told
        )
        self._claims: Pump[Claim] = Pump(self._claim, patience=patience, breath=breath, on_commit=told)
        self._results: Pump[Settlement | Dot] = Pump(
            self._write_results,
            patience=patience,
            breath=breath,
            lasting=lambda job: isinstance(job, Settlement),
            on_commit=told,
        )
        self._changes: Pump[Change] = Pump(self._change, patience=patience, on_commit=told)
        self._logs: Pump[Log] = Pump(self._write_log, patience=patience, on_commit=told)
        self.copier: Copier | None = None  # its server makes copies
        self._pruned = 0  # the last row that this round has looked at
        self._unheard: list[int] = []  # tokens of claims whose answer did not come

    async def __aenter__(self) -> Self:
        """Connect, check the server, migrate, and take the daemon's place among the others."""
        await self.server.open()
        try:
            await migrate(self.server)
            await self._refuse_unfinished()
            await self.roster.enter()
            await self._recover()
        except BaseException:
            await self.server.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what was asked for, leave the others, and hang up."""
        try:
            pumps: tuple[Pump[Any], ...] = (
                self._accepts, self._claims, self._results, self._changes, self._logs,
            )  # fmt: skip
            await asyncio.gather(*(pump.close() for pump in pumps))
            await self.roster.exit()
        finally:
            await self.server.close()

    @property
    def engine(self) -> str:
        """What keeps the rows, with its version."""
        return f"PostgreSQL {self.server.version}"

    def reasons(self) -> list[str]:
        """Say why it cannot be written at the moment; empty if it can."""
        if self.failed.is_set():
            return ["store_broken"]
        if isinstance(self.server.trouble, StoreFull):
            return ["storage_full"]
        return ["store_away"] if self.server.trouble is not None else []

    def _committed(self, seconds: float, jobs: int) -> None:
        self.on_commit(seconds, jobs)

    async def _refuse_unfinished(self) -> None:
        """Refuse to work on a part of what is being moved here."""
        for (moving_from,) in await self.server.fetch("SELECT value FROM meta WHERE name = $1", MOVING_FROM):
            raise StoreBroken(
                f"the move of the SQLite database {moving_from} to here is not finished: run `store migrate-from` again"
            )

    async def _recover(self) -> None:
        """Give back what dead daemons held. Unknown outcomes stay leased."""
        await self.server.fetch(sql.RELEASE, 0)
        await self.server.fetch(
            "UPDATE queue q SET lease_until = 0 WHERE q.stage = 1 AND q.lease_until > 0"
            " AND NOT EXISTS (SELECT FROM daemon d WHERE d.id = q.daemon)"
        )

    # Accept.

    def accept(self, rows: Sequence[NewRow], now: int) -> "asyncio.Future[list[Acceptance]]":
        """Insert the rows under their idempotency keys, all in one commit; it happens whether or not anybody waits."""
        return self._accepts.submit((rows, now))

    async def _accept(self, jobs: Sequence[_Accept], *, again: bool) -> list[list[Acceptance]]:
        rows = [row for given, _ in jobs for row in given]
        if not rows:
            return [[] for _ in jobs]
        now = max(now for _, now in jobs)
        failpoint("accept.before_commit")
        verdicts = await accepting.insert(self.server, rows, now, again=again)
        failpoint("accept.after_commit")
        answers = iter(verdicts)
        return [[next(answers) for _ in given] for given, _ in jobs]

    async def recall(self, tenant: str, key: str, now: int) -> tuple[bytes, str] | None:
        """Read what an idempotency key stands for: the request's SHA-256 and the answer it got."""
        return await reading.recall(self.server, tenant, key, now)

    # Claim.

    async def claim(self, claim: Claim) -> Claimed:
        """Take due rows of one flow under a new lease, most urgent first."""
        result: Claimed = await self._claims.submit(claim)
        return result

    async def _claim(self, claims: Sequence[Claim], *, again: bool) -> list[Claimed]:
        del again
        if self._unheard:  # what these took is under tokens that nobody knows
            await self.server.fetch(sql.UNCLAIM, self._unheard)
        tokens = [secrets.randbits(62) for _ in claims]
        self._unheard = [*self._unheard, *tokens][-MOST_UNHEARD:]
        wishes = [
            (claim.flow.tenant, claim.flow.profile, claim.limit, claim.now, claim.lease_until, claim.max_bytes, token)
            for claim, token in zip(claims, tokens, strict=True)
        ]
        records = await self.server.fetch(sql.CLAIM, *columns(wishes, 7), self.roster.me)
        self._unheard = []
        failpoint("claim.after_commit")
        rows: dict[int, list[LeasedRow]] = {token: [] for token in tokens}
        upcoming: dict[int, int | None] = {}
        for record in records:
            if record[0] is None:
                upcoming[record[12]] = record[6]
            else:
                rows[record[12]].append(leased(record))
        return [Claimed(sorted(rows[token], key=_urgency), upcoming.get(token)) for token in tokens]

    # Settle.

    def settle(self, settlement: Settlement) -> "asyncio.Future[bool]":
        """Write a delivery's result; False if the lease was lost meanwhile. It happens whether or not anybody waits.

        While the server is away or full it waits: a result is true, and known nowhere else.
        """
        return self._results.submit(settlement)

    async def _write_results(self, jobs: Sequence[Settlement | Dot], *, again: bool) -> list[bool]:
        """Results first: whose dot is committed has no earlier one of its session left that nobody knows of."""
        settlements = [job for job in jobs if isinstance(job, Settlement)]
        dots = [job for job in jobs if not isinstance(job, Settlement)]
        settled = iter(await changing.settle(self.server, settlements, again=again) if settlements else ())
        dotted = iter(await changing.dot(self.server, dots) if dots else ())
        return [next(settled if isinstance(job, Settlement) else dotted) for job in jobs]

    async def dot(self, seq: int, lease_token: int, dotted_for: str) -> bool:
        """Commit that the final dot is about to be sent; False if the lease was lost or the row cancelled."""
        committed: bool = await self._results.submit((seq, lease_token, dotted_for))
        return committed

    async def renew(self, lease_tokens: Sequence[int], lease_until: int) -> set[int]:
        """Prolong leases that are still held; answers which."""
        return await changing.renew(self.server, lease_tokens, lease_until)

    async def release_expired(self, now: int) -> tuple[list[tuple[Flow, int]], list[LeasedRow]]:
        """End leases that ran out; answers the flows that are ready again, and the rows whose outcome is unknown."""
        return await changing.release_expired(self.server, now)

    async def change(self, change: Change) -> bool:
        """Write the row if it is still as `change.before` says; False if it moved."""
        changed: bool = await self._changes.submit(change)
        return changed

    async def _change(self, changes: Sequence[Change], *, again: bool) -> list[bool | KeyWithdrawn]:
        return await changing.change(self.server, changes, again=again)

    # Reading.

    async def get(self, notification_id: str, *, content: bool = False) -> StoredRow | None:
        """Read one notification."""
        return await reading.get(self.server, notification_id, content=content)

    async def page(self, listing: Listing) -> list[StoredRow]:
        """Read notifications, newest first, without content."""
        return await reading.page(self.server, listing)

    async def expired(self, now: int, limit: int, after: StoredRow | None = None) -> list[StoredRow]:
        """Read ready rows whose time is over, those first that were the first to expire; go on behind `after`."""
        return await reading.expired(self.server, now, limit, after)

    async def census(self, now: int) -> list[FlowCensus]:
        """Count what is not final by flow and by how it waits; reads all of it, so ask rarely."""
        return await reading.census(self.server, now)

    async def backlog(self) -> list[FlowBacklog]:
        """Read which flows have ready rows."""
        return await reading.backlog(self.server)

    async def depths(self) -> list[FlowDepth]:
        """Count what each flow has that is not final."""
        return await reading.depths(self.server)

    async def unfinished(self) -> dict[str, int]:
        """Count the rows that are not final, by tenant."""
        return await reading.unfinished(self.server)

    # Forgetting.

    async def forget(self, tenant: str, limit: int) -> int:
        """Delete up to `limit` of all that a tenant has: notifications, idempotency keys, webhook events.

        Answers how many: while it is `limit` there may be more. Where it signed in goes at once.
        """
        return await forgetting.forget(self.server, tenant, limit)

    async def prune(self, now: int, finished_before: int, limit: int) -> int:
        """Delete up to `limit` final rows that ended before, and as many idempotency keys past their time.

        Rows are looked at in the order of their acceptance, so no index on the end has to be kept; `limit` rows that
        are too young to have ended before, in that order, mean that no more will come. Where many rows stay,
        one call looks at a part of them, and the next goes on behind it.
        """
        await logins.prune(self.server, now)
        await self.roster.prune(now)
        old, self._pruned = await forgetting.old(self.server, now, finished_before, limit, self._pruned)
        return await forgetting.prune(self.server, old, now, limit)

    # Webhook events.

    async def add_events(self, told: Sequence[WebhookEvent]) -> None:
        """Insert events for webhooks; one that is there already stays as it is."""
        await events.add(self.server, told)

    async def claim_events(self, wishes: Sequence[EventWish], now: int, lease_until: int) -> list[LeasedEvent]:
        """Take due events of these webhooks, those first that fell due first, each under a lease."""
        return await events.claim(self.server, wishes, now, lease_until)

    async def settle_events(self, results: Sequence[EventResult]) -> None:
        """Write what becomes of events; where a lease is lost, nothing is written."""
        await events.settle(self.server, results)

    async def drop_events(self, tenant: str, webhook: str) -> None:
        """Delete the events of a webhook."""
        await events.drop(self.server, tenant, webhook)

    async def due_events(self) -> list[EventsDue]:
        """Find the webhooks that have events, leased ones included, and when the first of each falls due."""
        return await events.due(self.server)

    async def pending_events(self, tenant: str, most: int) -> list[EventBacklog]:
        """Count the events of each of a tenant's webhooks, up to so many together; reads them all, so ask rarely."""
        return await events.pending(self.server, tenant, most)

    # The directory and its log.

    async def directory(self) -> tuple[int, list[Entry]]:
        """Read the directory's revision and all of its entries."""
        news = await self.directory_since(0)
        return news.revision, news.put

    async def directory_since(self, revision: int) -> News:
        """Read what became of the directory since that revision."""
        return await directory.since(self.server, revision)

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
        return await directory.change(self.server, revision, put, drop, happened, now)

    def log(self, happened: Sequence[Happening], now: int) -> "asyncio.Future[None]":
        """Log what happened where nothing was changed; it is written whether or not anybody waits."""
        return self._logs.submit((happened, now))

    async def _write_log(self, jobs: Sequence[Log], *, again: bool) -> list[None]:
        """Continue the chains; where an answer was lost something may be told twice, but never not at all."""
        del again
        await directory.log(self.server, jobs)
        return [None for _ in jobs]

    async def audit(self, tenant: str, *, before: int | None, limit: int) -> list[AuditRow]:
        """Read a tenant's audit log, newest first, from below the number `before` (None: from its end)."""
        return await directory.newest(self.server, tenant, audit.AFTER_ALL if before is None else before, limit)

    async def audit_origin(self, tenant: str) -> int:
        """Read the number under which the tenant itself was made last; 0 if its log does not say."""
        return await directory.origin(self.server, tenant)

    async def audit_length(self, tenant: str) -> int:
        """Read the number of a tenant's newest audit row; 0 if there is none."""
        newest = await self.audit(tenant, before=None, limit=1)
        return newest[0].number if newest else 0

    async def audit_broken(self, tenant: str) -> int | None:
        """Check a tenant's whole audit log; answers the first number that is missing or wrong, None if all is well."""
        return await audit.fault(partial(directory.audited, self.server, tenant))

    # Copies.

    async def copied(self) -> Copied | None:
        """Is it a copy that no daemon has opened yet? Only `restore` says so: several daemons may come and go here."""
        marked = await self.server.fetch("SELECT FROM meta WHERE name = $1", COPIED_AT)
        return Copied.RESTORED if marked else None

    async def settle_in(self) -> None:
        """A copy is none from now on."""
        await self.server.fetch("DELETE FROM meta WHERE name = $1", COPIED_AT)

    async def backed_up(self, taken_at: int) -> None:
        """Nobody has a copy from here."""

    async def health(self) -> StoreHealth:
        """Tell how large it is; what else there is to know its server knows."""
        return StoreHealth(SCHEMA, await self.server.fetchval(_SIZE))

    # Logins.

    async def try_login(
        self, sign_in: SignIn, ticket: int, now: int, *, forget_at: int, most: int | None
    ) -> Permission:
        """Count a login as refused until `forget_at`, unless `most` of that account are already (None: whatever is)."""
        return await logins.attempt(
            self.server, sign_in, ticket, now, forget_at=forget_at, most=most, me=self.roster.me
        )

    async def end_login(self, sign_in: SignIn, ticket: int, ending: Ending, *, forget_at: int) -> None:
        """Take a login's count back, or let it stand until `forget_at` if the relay refused it, counted before or not."""
        await logins.end(self.server, sign_in, ticket, ending, forget_at=forget_at)

    # Sessions of the pages.

    async def begin_session(self, row: SessionRow) -> None:
        """Insert a session, or a link; one that is there already stays as it is."""
        await sessions.begin(self.server, row)

    async def session(self, token_sha256: bytes) -> SessionRow | None:
        """Read the session, or the link, of a token, be it over or not."""
        return await sessions.find(self.server, token_sha256)

    async def use_session(self, token_sha256: bytes, used_at: int) -> None:
        """Note when a session was used; never earlier than it says already."""
        await sessions.use(self.server, token_sha256, used_at)

    async def end_session(self, token_sha256: bytes, kind: SessionKind) -> SessionRow | None:
        """Take a session or a link away and give it back: of several who ask at once one gets it, the others None."""
        return await sessions.end(self.server, token_sha256, kind)

    async def end_sessions(self, who: str) -> int:
        """End all sessions and links of a person; answers how many."""
        return await sessions.end_all_of(self.server, who)

    async def prune_sessions(self, now: int, unused_since: int, limit: int) -> int:
        """Delete up to `limit` sessions and links that are over, and sessions last used before; answers how many."""
        return await sessions.prune(self.server, now, unused_since, limit)

    async def check(self) -> None:
        """Prove that the store can write, by writing."""
        await self.server.fetch(
            "INSERT INTO meta VALUES ('checked_at', now()::text) ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value"
        )


_SIZE: Final = (
    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
    " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'"
)


def _urgency(row: LeasedRow) -> tuple[int, int, int]:
    return row.priority, row.due_at, row.seq
