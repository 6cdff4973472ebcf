"""What is read of notifications on SQLite: one, a page, what waits, and how much of it."""

import itertools
import json
from collections.abc import Iterable
from typing import Any, Final

import apsw

from gateway.store.rows import Flow, FlowBacklog, FlowCensus, FlowDepth, Listing, StoredRow, Wait, first_id, stored
from gateway.store.sqlite.group import PRIORITIES, Value

FEW: Final = 20  # tenants whose mail is looked up tenant by tenant and then sorted

_STORED: Final = (
    "n.seq, n.id, n.tenant, n.profile, n.category, n.key_id, n.priority, n.stage, n.status, n.due_at, n.expires_at,"
    " n.accepted_at, n.finished_at, n.lease_token, n.cancelled, n.recipients, n.events, n.envelope"
)
_NEXT_DUE_OF_PRIORITY: Final = (
    "SELECT * FROM (SELECT due_at FROM notification WHERE stage=0 AND tenant=? AND profile=? AND priority=?"
    " ORDER BY due_at LIMIT 1)"
)
_NEXT_DUE: Final = "SELECT min(due_at) FROM (" + " UNION ALL ".join([_NEXT_DUE_OF_PRIORITY] * len(PRIORITIES)) + ")"


def get(db: apsw.Connection, notification_id: str, *, content: bool) -> StoredRow | None:
    """Read one notification."""
    body = "c.body" if content else "c.seq IS NOT NULL"
    for row in db.execute(
        f"SELECT {_STORED}, {body} FROM notification n LEFT JOIN content c USING (seq) WHERE n.id=?",
        (notification_id,),
    ):
        return stored(row)
    return None


def recall(db: apsw.Connection, tenant: str, key: str, now: int) -> tuple[bytes, str] | None:
    """Read what an idempotency key stands for."""
    sql = "SELECT sha256, answer FROM idempotency WHERE tenant=? AND key=? AND forget_at>?"
    for sha256, answer in db.execute(sql, (tenant, key, now)):
        return (sha256 if isinstance(sha256, bytes) else b""), str(answer)
    return None


def page(db: apsw.Connection, listing: Listing) -> list[StoredRow]:
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
        ("id>=?", None if listing.since is None else first_id(listing.since)),  # along the ids
        ("id<?", None if listing.until is None else first_id(listing.until)),
    ):
        if value is not None:
            sql.append(f"AND {condition}")
            values.append(value)
    sql.append("ORDER BY id DESC LIMIT ?")
    values.append(listing.limit)
    return [stored(row) for row in db.execute(" ".join(sql), values)]


# What is not final, however much is kept that is: left to itself the planner reads all of it, by tenant.
_UNFINISHED: Final = "notification n INDEXED BY notification_expiring WHERE stage<3"


def expired(db: apsw.Connection, now: int, limit: int, after: StoredRow | None = None) -> list[StoredRow]:
    """Read ready rows whose time is over, in the order of that; go on behind `after`."""
    behind = (0, 0) if after is None else (after.expires_at, after.seq)
    sql = (
        f"SELECT {_STORED}, NULL FROM {_UNFINISHED} AND stage=0 AND expires_at<=? AND (expires_at, seq) > (?, ?)"
        " ORDER BY expires_at, seq LIMIT ?"
    )
    return [stored(row) for row in db.execute(sql, (now, *behind, limit))]


def backlog(db: apsw.Connection) -> list[FlowBacklog]:
    """Read which flows have ready rows, by hopping from flow to flow along the index."""
    found: list[FlowBacklog] = []
    flow = Flow("", "")
    while row := db.execute(
        "SELECT tenant, profile FROM notification WHERE stage=0 AND (tenant, profile) > (?,?)"
        " ORDER BY tenant, profile LIMIT 1",
        flow,
    ).fetchall():
        flow = Flow(str(row[0][0]), str(row[0][1]))
        found.append(FlowBacklog(flow, _next_due(db, flow) or 0))
    return found


def depths(db: apsw.Connection) -> list[FlowDepth]:
    """Count what each flow has that is not final."""
    sql = (
        "SELECT tenant, profile, count(*), sum(status='deferred'), sum(stage=2), min(accepted_at)"
        f" FROM {_UNFINISHED} GROUP BY tenant, profile"
    )
    return [FlowDepth(Flow(tenant, profile), *counts) for tenant, profile, *counts in _rows(db, sql)]


def census(db: apsw.Connection, now: int) -> list[FlowCensus]:
    """Count what is not final by flow and by how it waits."""
    sql = (
        "SELECT tenant, profile, CASE WHEN stage=1 THEN 'leased' WHEN stage=2 THEN 'resting'"
        " WHEN status='deferred' THEN 'deferred' WHEN due_at>? THEN 'scheduled' ELSE 'ready' END wait,"
        f" count(*), min(accepted_at), min(due_at) FROM {_UNFINISHED} GROUP BY tenant, profile, wait"
    )
    return [
        FlowCensus(Flow(tenant, profile), Wait(wait), *counts) for tenant, profile, wait, *counts in _rows(db, sql, now)
    ]


def unfinished(db: apsw.Connection) -> dict[str, int]:
    """Count the rows that are not final, by tenant."""
    sql = f"SELECT tenant, count(*) FROM {_UNFINISHED} GROUP BY tenant"
    return {str(tenant): int(str(n)) for tenant, n in db.execute(sql)}


def _next_due(db: apsw.Connection, flow: Flow) -> int | None:
    bounds = tuple((*flow, priority) for priority in PRIORITIES)
    ((due_at,),) = db.execute(_NEXT_DUE, tuple(itertools.chain.from_iterable(bounds))).fetchall()
    return due_at if isinstance(due_at, int) else None


def _rows(db: apsw.Connection, sql: str, *values: Value) -> Iterable[tuple[Any, ...]]:
    return db.execute(sql, values)
