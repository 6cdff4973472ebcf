"""`Store` on PostgreSQL 15 or newer: what the outbox and the directory ask for, for any number of daemons.

Owns a schema in the operator's database. Each kind of write has a pump, so that whatever arrives while a statement runs
shares the next; reading goes straight to the pool. Rows are leased to this daemon, which is a row of its own that has
to be kept alive (`roster`): if it is not, the others take over what it held.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

from asyncpg import exceptions as pg

from gateway.observe import facts
from gateway.observe.failpoint import failpoint
from gateway.store import audit
from gateway.store.clock import ServerClock
from gateway.store.postgresql import events, logins
from gateway.store.postgresql import statements as sql
from gateway.store.postgresql.migrations import SCHEMA, migrate
from gateway.store.postgresql.pump import PATIENCE, Pump
from gateway.store.postgresql.restoring import COPIED_AT
from gateway.store.postgresql.roster import PostgresqlRoster
from gateway.store.postgresql.server import Connection, Server
from gateway.store.protocol import (
    Copied,
    Copier,
    KeyWithdrawn,
    RevisionConflict,
    StoreBroken,
    StoreError,
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
    EventWish,
    Flow,
    FlowBacklog,
    FlowCensus,
    FlowDepth,
    Happening,
    Inserted,
    LeasedEvent,
    LeasedRow,
    Limited,
    Listing,
    Mismatched,
    NewRow,
    News,
    Permission,
    Replayed,
    Settlement,
    SignIn,
    StoredRow,
    StoreHealth,
    Wait,
    WebhookEvent,
    Withdrawn,
    leased,
    stored,
)

MOVING_FROM: Final = "moving_from"  # in `meta`: rows are still being moved here from another store
BREATH: Final = 0.02  # seconds between two claims, or results, under load: nobody waits, and more share a round trip
FEW: Final = 20  # tenants whose mail is looked up tenant by tenant and then sorted
PRUNE_PAGE: Final = 1_000
MOST_UNHEARD: Final = 10_000  # the rest waits for the end of its lease
AUDIT_PAGE: Final = 256
_AFTER_ALL: Final = (1 << 63) - 1
_BEFORE_ALL: Final = -1 << 63
_INSERTED: Final = Inserted()

_Accept = tuple[Sequence[NewRow], int]
_Dot = tuple[int, int, str]
_Log = tuple[Sequence[Happening], int]


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
        self._results: Pump[Settlement | _Dot] = Pump(
            self._write_results,
            patience=patience,
            breath=breath,
            lasting=lambda job: isinstance(job, Settlement),
            on_commit=told,
        )
        self._changes: Pump[Change] = Pump(self._change, patience=patience, on_commit=told)
        self._logs: Pump[_Log] = Pump(self._write_log, patience=patience, on_commit=told)
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
        verdicts = await self._insert(rows, now, again=again)
        failpoint("accept.after_commit")
        answers = iter(verdicts)
        return [[next(answers) for _ in given] for given, _ in jobs]

    async def _insert(self, rows: Sequence[NewRow], now: int, *, again: bool) -> list[Acceptance]:
        first = _first(rows)
        new = [row for row in rows if first[row.id] == row.id]
        there = await self._there(new) if again else set[str]()  # an earlier attempt may have got through
        new = [row for row in new if row.id not in there]
        made = await self._made(new, now) if new else []
        fresh = there | {id_ for id_, fresh, _, _ in made if fresh}
        if again:  # or it got through only now, and its keys were in the way
            fresh |= await self._there([row for row in new if row.id not in fresh])
        refused = {id_: refusal for id_, _, *why in made if id_ not in fresh and (refusal := _refusal(*why))}
        keyed = [row for row in rows if row.id not in fresh and first[row.id] not in refused]
        known = await self._known(keyed)
        return [_INSERTED if row.id in fresh else refused.get(first[row.id]) or _repeated(row, known) for row in rows]

    async def _made(self, new: Sequence[NewRow], now: int) -> Sequence[Sequence[Any]]:
        columns = _columns(map(_new, new), 19)
        if any(row.told is not None for row in new):
            return await self.server.fetch(sql.ACCEPT_AND_TELL, *columns, now, [row.told for row in new])
        return await self.server.fetch(sql.ACCEPT, *columns, now)

    async def _there(self, rows: Sequence[NewRow]) -> set[str]:
        """Read which of these rows were made by an attempt of ours whose answer was lost, once it is over."""
        if not rows:
            return set()
        if limited := sorted({row.flow.tenant for row in rows if row.per_minute is not None}):
            await self.server.fetch(sql.SPENDING, limited)
        return {record[0] for record in await self.server.fetch(sql.KNOWN_IDS, [row.id for row in rows])}

    async def _known(self, rows: Sequence[NewRow]) -> dict[tuple[str, str], tuple[bytes, str]]:
        """Read what the keys of these rows stand for by now."""
        asked = {(row.flow.tenant, row.idempotency.key) for row in rows if row.idempotency is not None}
        if not asked:
            return {}
        found = await self.server.fetch(sql.KNOWN_KEYS, *_columns(asked, 2))
        return {(tenant, key): (sha256, answer) for tenant, key, sha256, answer in found}

    async def recall(self, tenant: str, key: str, now: int) -> tuple[bytes, str] | None:
        """Read what an idempotency key stands for: the request's SHA-256 and the answer it got."""
        rows = await self.server.fetch(
            "SELECT sha256, answer FROM idempotency WHERE tenant = $1 AND key = $2 AND forget_at > $3", tenant, key, now
        )
        return (rows[0][0], rows[0][1]) if rows else None

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
        records = await self.server.fetch(sql.CLAIM, *_columns(wishes, 7), self.roster.me)
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

    async def _write_results(self, jobs: Sequence[Settlement | _Dot], *, again: bool) -> list[bool]:
        """Results first: whose dot is committed has no earlier one of its session left that nobody knows of."""
        settlements = [job for job in jobs if isinstance(job, Settlement)]
        dots = [job for job in jobs if not isinstance(job, Settlement)]
        settled = iter(await self._settle(settlements, again=again) if settlements else ())
        dotted = iter(await self._dot(dots) if dots else ())
        return [next(settled if isinstance(job, Settlement) else dotted) for job in jobs]

    async def _settle(self, settlements: Sequence[Settlement], *, again: bool) -> list[bool]:
        given = {(one.seq, one.lease_token): one for one in reversed(settlements)}  # the first result ends the lease
        # Whoever tells nothing pays nothing for it.
        tells = any(one.told is not None for one in settlements)
        statement, width = (sql.SETTLE_AND_TELL, 10) if tells else (sql.SETTLE, 9)
        columns = _columns((one[:width] for one in given.values()), width)
        written = {tuple(record) for record in await self.server.fetch(statement, *columns)}
        failpoint("result.after_commit")
        if again and (late := given.keys() - written):
            written |= {tuple(record) for record in await self.server.fetch(sql.SETTLED, *_columns(late, 2))}
        return [given[one.seq, one.lease_token] is one and (one.seq, one.lease_token) in written for one in settlements]

    async def dot(self, seq: int, lease_token: int, dotted_for: str) -> bool:
        """Commit that the final dot is about to be sent; False if the lease was lost or the row cancelled."""
        committed: bool = await self._results.submit((seq, lease_token, dotted_for))
        return committed

    async def _dot(self, dots: Sequence[_Dot]) -> list[bool]:
        held = {(seq, token) for seq, token in await self.server.fetch(sql.DOT, *_columns(dots, 3))}
        return [(seq, token) in held for seq, token, _ in dots]

    async def renew(self, lease_tokens: Sequence[int], lease_until: int) -> set[int]:
        """Prolong leases that are still held; answers which."""
        return {record[0] for record in await self.server.fetch(sql.RENEW, list(lease_tokens), lease_until)}

    async def release_expired(self, now: int) -> tuple[list[tuple[Flow, int]], list[LeasedRow]]:
        """End leases that ran out; answers the flows that are ready again, and the rows whose outcome is unknown."""
        released = await self.server.fetch(sql.RELEASE, now)
        unknown = await self.server.fetch(sql.UNKNOWN, now)
        return [(Flow(tenant, profile), due_at) for tenant, profile, due_at in released], [
            leased(record) for record in unknown
        ]

    async def change(self, change: Change) -> bool:
        """Write the row if it is still as `change.before` says; False if it moved."""
        changed: bool = await self._changes.submit(change)
        return changed

    async def _change(self, changes: Sequence[Change], *, again: bool) -> list[bool | KeyWithdrawn]:
        given = {change.before.seq: change for change in reversed(changes)}  # after the first the row is another
        told = await self.server.fetch(sql.CHANGE, *_columns(map(_changed, given.values()), 15))
        made = {seq for seq, withdrawn in told if not withdrawn}
        refused = {seq for seq, withdrawn in told if withdrawn}
        if again and (left := [change for seq, change in given.items() if seq not in made]):
            made |= {record[0] for record in await self.server.fetch(sql.CHANGED, *_columns(map(_wanted, left), 8))}
        return [
            KeyWithdrawn("the key is revoked")
            if given[change.before.seq] is change and change.before.seq in refused
            else given[change.before.seq] is change and change.before.seq in made
            for change in changes
        ]

    # Reading.

    async def get(self, notification_id: str, *, content: bool = False) -> StoredRow | None:
        """Read one notification."""
        if "\0" in notification_id:  # which no column holds
            return None
        body = "c.body" if content else "CASE WHEN c.seq IS NOT NULL THEN '' END"
        rows = await self.server.fetch(
            f"SELECT {sql.STORED}, {body} FROM notification n LEFT JOIN queue q ON q.seq = n.seq"
            " LEFT JOIN content c ON c.seq = n.seq WHERE n.id = $1",
            notification_id,
        )
        return stored(rows[0]) if rows else None

    async def page(self, listing: Listing) -> list[StoredRow]:
        """Read notifications, newest first, without content."""
        conditions, values = ["true"], list[object]([listing.limit])
        for condition, value in (
            ("n.id < ${}", listing.before_id),
            ("n.key_id = ${}", listing.key_id),
            ("n.category = ${}", listing.category),
            ("n.accepted_at >= ${}", listing.since),
            ("n.accepted_at < ${}", listing.until),
        ):
            if value is not None:
                values.append(value)
                conditions.append(condition.format(len(values)))
        found = "SELECT n.* FROM notification n WHERE {} ORDER BY n.id DESC LIMIT $1"
        if listing.tenants is not None:
            values.append(list(listing.tenants))
            if len(listing.tenants) <= FEW:
                of_one = found.format(" AND ".join(["n.tenant = t.tenant", *conditions]))
                found = f"SELECT n.* FROM unnest(${len(values)}::text[]) t(tenant) CROSS JOIN LATERAL ({of_one}) n"
            else:
                found = found.format(" AND ".join([*conditions, f"n.tenant = ANY(${len(values)})"]))
        else:
            found = found.format(" AND ".join(conditions))
        rows = await self.server.fetch(
            f"SELECT {sql.STORED}, NULL FROM ({found}) n LEFT JOIN queue q ON q.seq = n.seq ORDER BY n.id DESC LIMIT $1",
            *values,
        )
        return [stored(row) for row in rows]

    async def expired(self, now: int, limit: int) -> list[StoredRow]:
        """Read ready rows whose time is over."""
        rows = await self.server.fetch(
            f"SELECT {sql.STORED}, NULL FROM queue q JOIN notification n ON n.seq = q.seq"
            " WHERE q.stage = 0 AND q.expires_at <= $1 ORDER BY q.expires_at LIMIT $2",
            now, limit,
        )  # fmt: skip
        return [stored(row) for row in rows]

    async def census(self, now: int) -> list[FlowCensus]:
        """Count what is not final by flow and by how it waits; reads all of it, so ask rarely."""
        rows = await self.server.fetch(
            "SELECT tenant, profile, CASE WHEN stage = 1 THEN 'leased' WHEN stage = 2 THEN 'resting'"
            " WHEN deferred THEN 'deferred' WHEN due_at > $1 THEN 'scheduled' ELSE 'ready' END,"
            " count(*), min(accepted_at), min(due_at) FROM queue GROUP BY 1, 2, 3",
            now,
        )
        return [FlowCensus(Flow(tenant, profile), Wait(wait), *counts) for tenant, profile, wait, *counts in rows]

    async def backlog(self) -> list[FlowBacklog]:
        """Read which flows have ready rows."""
        rows = await self.server.fetch(sql.BACKLOG)
        return [FlowBacklog(Flow(tenant, profile), due_at) for tenant, profile, due_at in rows if due_at is not None]

    async def depths(self) -> list[FlowDepth]:
        """Count what each flow has that is not final."""
        rows = await self.server.fetch(
            "SELECT tenant, profile, count(*), count(*) FILTER (WHERE deferred), min(accepted_at) FROM queue GROUP BY 1, 2"
        )
        return [FlowDepth(Flow(tenant, profile), *counts) for tenant, profile, *counts in rows]

    async def unfinished(self) -> dict[str, int]:
        """Count the rows that are not final, by tenant."""
        return dict(await self.server.fetch("SELECT tenant, count(*) FROM queue GROUP BY 1"))

    # Forgetting.

    async def forget(self, tenant: str, limit: int) -> int:
        """Delete up to `limit` rows of a tenant, its idempotency keys, its webhook events, and where it signed in.

        Answers how many rows.
        """
        gone = await self._delete("SELECT seq FROM notification WHERE tenant = $1 LIMIT $2", tenant, limit)
        await self.server.fetch("DELETE FROM idempotency WHERE tenant = $1", tenant)
        await self.server.fetch("DELETE FROM tenant_rate WHERE tenant = $1", tenant)
        await self.server.fetch("DELETE FROM signed_in WHERE tenant = $1", tenant)
        await events.forget(self.server, tenant)
        return gone

    async def _delete(self, chosen: str, *values: object) -> int:
        count = await self.server.fetchval(
            f"WITH chosen AS MATERIALIZED ({chosen}),"
            " queued AS MATERIALIZED (SELECT q.seq FROM queue q JOIN chosen USING (seq) ORDER BY q.seq FOR UPDATE OF q),"
            " dequeued AS (DELETE FROM queue USING queued WHERE queue.seq = queued.seq),"
            " erased AS (DELETE FROM content USING chosen WHERE content.seq = chosen.seq),"
            " gone AS (DELETE FROM notification USING chosen WHERE notification.seq = chosen.seq)"
            " SELECT count(*) FROM chosen",
            *values,
        )
        return int(count)

    async def prune(self, now: int, finished_before: int, limit: int) -> int:
        """Delete up to `limit` final rows that ended before, and as many idempotency keys past their time.

        Rows are looked at in the order of their acceptance, so no index on the end has to be kept; `limit` rows that
        are too young to have ended before, in that order, mean that no more will come.
        """
        await logins.prune(self.server, now)
        await self.roster.prune(now)
        old: list[int] = []
        last, young = self._pruned, 0
        while len(old) < limit and young < limit:
            page = await self.server.fetch(
                "SELECT seq, accepted_at >= $2, finished_at < $2 FROM notification WHERE seq > $1 ORDER BY seq LIMIT $3",
                last, finished_before, PRUNE_PAGE,
            )  # fmt: skip
            young += sum(row[1] for row in page)
            old += [row[0] for row in page if row[2]]
            if len(page) < PRUNE_PAGE:
                break
            last = page[-1][0]
        self._pruned = old[limit - 1] if len(old) >= limit else 0
        chosen = "SELECT seq FROM notification WHERE seq = ANY($1) AND finished_at IS NOT NULL ORDER BY seq FOR UPDATE SKIP LOCKED"
        rows = await self._delete(chosen, old[:limit]) if old else 0
        keys = await self.server.fetchval(
            "WITH old AS (SELECT tenant, key FROM idempotency WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED),"
            " gone AS (DELETE FROM idempotency i USING old WHERE i.tenant = old.tenant AND i.key = old.key)"
            " SELECT count(*) FROM old",
            now, limit,
        )  # fmt: skip
        return max(rows, int(keys))

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

    async def pending_events(self) -> list[EventBacklog]:
        """Count the events of each webhook that has some, leased ones included."""
        return await events.pending(self.server)

    # The directory and its log.

    async def directory(self) -> tuple[int, list[Entry]]:
        """Read the directory's revision and all of its entries."""
        news = await self.directory_since(0)
        return news.revision, news.put

    async def directory_since(self, revision: int) -> News:
        """Read what became of the directory since that revision."""
        rows = await self.server.fetch(
            "SELECT m.value::bigint, d.kind, d.tenant, d.name, d.body, d.origin FROM meta m"
            " LEFT JOIN directory d ON d.revision > $1 AND (d.body IS NOT NULL OR $1 > 0)"
            " WHERE m.name = 'directory_revision' ORDER BY 2, 3, 4",
            revision,
        )
        entries = [Entry._make(row[1:6]) for row in rows if row[1] is not None]
        put = [entry for entry in entries if entry.body is not None]
        drop = [entry for entry in entries if entry.body is None]
        return News(rows[0][0], put, drop, whole=revision == 0)

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
        after = revision + 1

        async def work(connection: Connection) -> int:
            async with connection.transaction():
                if await _locked_revision(connection) != revision:
                    raise RevisionConflict
                if drop:
                    await connection.execute(
                        "UPDATE directory d SET body = NULL, revision = $4"
                        " FROM unnest($1::text[], $2::text[], $3::text[]) AS g(kind, tenant, name)"
                        " WHERE d.kind = g.kind AND d.tenant = g.tenant AND d.name = g.name",
                        *_columns((entry[:3] for entry in drop), 3), after,
                    )  # fmt: skip
                if put:
                    await connection.execute(
                        "INSERT INTO directory SELECT g.*, $6 FROM"
                        " unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS g"
                        " ON CONFLICT (kind, tenant, name)"
                        " DO UPDATE SET body = EXCLUDED.body, origin = EXCLUDED.origin, revision = EXCLUDED.revision",
                        *_columns({entry[:3]: entry for entry in put}.values(), 5), after,
                    )  # fmt: skip
                await connection.execute("UPDATE meta SET value = $1 WHERE name = 'directory_revision'", str(after))
                await _log(connection, happened, now)
            return after

        facts.statements(7)  # the transaction's two included
        return await self.server.run(work)

    def log(self, happened: Sequence[Happening], now: int) -> "asyncio.Future[None]":
        """Log what happened where nothing was changed; it is written whether or not anybody waits."""
        return self._logs.submit((happened, now))

    async def _write_log(self, jobs: Sequence[_Log], *, again: bool) -> list[None]:
        """Continue the chains; where an answer was lost something may be told twice, but never not at all."""
        del again

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await _locked_revision(connection)
                for happened, now in jobs:
                    await _log(connection, happened, now)

        facts.statements(3 + 2 * len(jobs))
        await self.server.run(work)
        return [None for _ in jobs]

    async def audit(self, tenant: str, *, before: int | None, limit: int) -> list[AuditRow]:
        """Read a tenant's audit log, newest first, from below the number `before` (None: from its end)."""
        rows = await self.server.fetch(_NEWEST, tenant, _AFTER_ALL if before is None else before, limit)
        return [AuditRow._make(row) for row in rows]

    async def audit_origin(self, tenant: str) -> int:
        """Read the number under which the tenant itself was made last; 0 if its log does not say."""
        return int(
            await self.server.fetchval(
                "SELECT coalesce(max(number), 0) FROM audit WHERE tenant = $1 AND action = 'tenant.create' AND object = $1",
                tenant,
            )
        )

    async def audit_length(self, tenant: str) -> int:
        """Read the number of a tenant's newest audit row; 0 if there is none."""
        newest = await self.audit(tenant, before=None, limit=1)
        return newest[0].number if newest else 0

    async def audit_broken(self, tenant: str) -> int | None:
        """Check a tenant's whole audit log; answers the first number that is missing or wrong, None if all is well."""
        previous, number, after = audit.GENESIS, 0, _BEFORE_ALL
        while True:
            page = await self.server.fetch(
                f"SELECT {_AUDITED} FROM audit WHERE tenant = $1 AND number > $2 ORDER BY number LIMIT $3",
                tenant, after, AUDIT_PAGE,
            )  # fmt: skip
            rows = [AuditRow._make(row) for row in page]
            fault = audit.broken(rows, previous, number)
            if fault is not None or not rows:
                return fault
            previous, number, after = rows[-1].hash, rows[-1].number, rows[-1].number

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

    async def check(self) -> None:
        """Prove that the store can write, by writing."""
        await self.server.fetch(
            "INSERT INTO meta VALUES ('checked_at', now()::text) ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value"
        )


_SIZE: Final = (
    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
    " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'"
)
_AUDITED: Final = "tenant, number, at, actor, actor_tenant, action, object, changes, hash"
_NEWEST: Final = f"SELECT {_AUDITED} FROM audit WHERE tenant = $1 AND number < $2 ORDER BY number DESC LIMIT $3"


async def _locked_revision(connection: Connection) -> int:
    """Read the directory's revision, and keep everybody else from changing it, and from the audit log."""
    return int(await connection.fetchval("SELECT value FROM meta WHERE name = 'directory_revision' FOR UPDATE"))


async def _log(connection: Connection, happened: Sequence[Happening], now: int) -> None:
    """Continue the chain of each tenant to which something happened."""
    if not happened:
        return
    last: dict[str, AuditRow | None] = dict.fromkeys(one.tenant for one in happened)
    for record in await connection.fetch(
        f"SELECT n.* FROM unnest($1::text[]) t(tenant) CROSS JOIN LATERAL"
        f" (SELECT {_AUDITED} FROM audit a WHERE a.tenant = t.tenant ORDER BY number DESC LIMIT 1) n",
        list(last),
    ):
        last[record[0]] = AuditRow._make(record)
    rows: list[AuditRow] = []
    for one in happened:
        rows.append(audit.following(last[one.tenant], one, now))
        last[one.tenant] = rows[-1]
    try:
        await connection.execute(
            "INSERT INTO audit SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[],"
            " $6::text[], $7::text[], $8::text[], $9::bytea[]) AS g(tenant, number) ORDER BY tenant, number",
            *_columns(rows, 9),
        )
    except pg.IntegrityConstraintViolationError as error:
        raise StoreError(f"the audit log cannot be written: {error}") from error


def _columns(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Turn rows into arrays, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def _first(rows: Sequence[NewRow]) -> dict[str, str]:
    """Tell of each row which goes in for it: of those with the same key in one statement only the first does."""
    keys: dict[tuple[str, str], str] = {}
    return {
        row.id: row.id if row.idempotency is None else keys.setdefault((row.flow.tenant, row.idempotency.key), row.id)
        for row in rows
    }


def _refusal(withdrawn: str | None, wait: int | None) -> Withdrawn | Limited | None:
    if withdrawn is not None:
        return Withdrawn(withdrawn)
    return None if wait is None else Limited(wait)


def _new(row: NewRow) -> tuple[object, ...]:
    key, sha256, forget_at = row.idempotency or (None, None, None)
    return (
        row.id, row.flow.tenant, row.flow.profile, row.category, row.key_id, row.priority, int(row.stage), row.status,
        row.due_at, row.expires_at, row.accepted_at, row.recipients, row.envelope, row.content, key, sha256, row.answer,
        forget_at, row.per_minute,
    )  # fmt: skip


def _changed(change: Change) -> tuple[object, ...]:
    before = change.before
    return (
        before.seq, int(before.stage), before.recipients, before.lease_token, int(change.stage), change.status,
        change.due_at, change.expires_at, change.finished_at, change.recipients, change.events, change.cancelled,
        change.erase, change.key_id, change.told,
    )  # fmt: skip


def _wanted(change: Change) -> tuple[object, ...]:
    return (
        change.before.seq, change.status, change.due_at, change.expires_at, change.finished_at, change.recipients,
        change.events, change.cancelled,
    )  # fmt: skip


def _repeated(row: NewRow, known: dict[tuple[str, str], tuple[bytes, str]]) -> Acceptance:
    """Judge a row whose key was used before."""
    if row.idempotency is None:
        raise StoreError("a row was neither made nor refused")
    sha256, answer = known.get((row.flow.tenant, row.idempotency.key), (b"", ""))
    return Replayed(answer) if sha256 == row.idempotency.sha256 else Mismatched()


def _urgency(row: LeasedRow) -> tuple[int, int, int]:
    return row.priority, row.due_at, row.seq
