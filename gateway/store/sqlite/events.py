"""Webhook events on SQLite: what the writer and the reader run.

An event is leased by moving `due_at` to where the lease ends, so nothing has to be taken back from who died at it. The
file is one daemon's alone: what a dead one held is due at once when it is opened.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import apsw

from gateway.store.rows import EventBacklog, EventResult, EventsDue, EventWish, LeasedEvent, WebhookEvent
from gateway.store.sqlite.group import new_token

COLUMNS: Final = "id, tenant, webhook, due_at, expires_at, body, traceparent"
DROPPED_AT_ONCE: Final = 250  # rows a transaction; others get their turn in between

_CLAIM: Final = (
    "UPDATE webhook_event SET due_at=?1, lease_token=?2 WHERE id IN (SELECT id FROM webhook_event"
    " WHERE tenant=?3 AND webhook=?4 AND due_at<=?5 ORDER BY due_at LIMIT ?6)"
    " RETURNING id, tenant, webhook, expires_at, attempts, lease_token, body, traceparent"
)
# By hopping from webhook to webhook along the index, to the event of each that falls due first.
_DUE: Final = """
WITH RECURSIVE first(place) AS (
  SELECT (SELECT rowid FROM webhook_event ORDER BY tenant, webhook, due_at LIMIT 1)
  UNION ALL
  SELECT coalesce(
           (SELECT a.rowid FROM webhook_event a WHERE a.tenant = e.tenant AND a.webhook > e.webhook
             ORDER BY a.webhook, a.due_at LIMIT 1),
           (SELECT a.rowid FROM webhook_event a WHERE a.tenant > e.tenant
             ORDER BY a.tenant, a.webhook, a.due_at LIMIT 1))
    FROM first f JOIN webhook_event e ON e.rowid = f.place
)
SELECT e.tenant, e.webhook, e.due_at FROM first f CROSS JOIN webhook_event e ON e.rowid = f.place"""
_PENDING: Final = """
SELECT tenant, webhook, count(*), min(due_at), min(expires_at), sum(octets) FROM (
  SELECT tenant, webhook, due_at, expires_at, octet_length(body) AS octets FROM webhook_event WHERE tenant = ? LIMIT ?
) GROUP BY tenant, webhook"""


def add(db: apsw.Connection, events: Iterable[WebhookEvent]) -> None:
    """Insert events; one that is there already stays as it is."""
    db.executemany(f"INSERT OR IGNORE INTO webhook_event ({COLUMNS}) VALUES (?,?,?,?,?,?,?)", events)


def claim(db: apsw.Connection, wishes: Iterable[EventWish], now: int, lease_until: int) -> list[LeasedEvent]:
    """Take due events, those first that fell due first."""
    token = new_token()
    rows: list[tuple[Any, ...]] = []
    for tenant, webhook, most in wishes:
        rows += db.execute(_CLAIM, (lease_until, token, tenant, webhook, now, most))
    return [LeasedEvent._make(row) for row in rows]


def settle(db: apsw.Connection, results: Sequence[EventResult]) -> None:
    """Write what becomes of events that are still under their leases."""
    over = ((one.id, one.lease_token) for one in results if one.due_at is None)
    again = ((one.due_at, one.attempts, one.id, one.lease_token) for one in results if one.due_at is not None)
    db.executemany("DELETE FROM webhook_event WHERE id=? AND lease_token=?", over)
    db.executemany(
        "UPDATE webhook_event SET due_at=?, attempts=?, lease_token=NULL WHERE id=? AND lease_token=?", again
    )


def drop(db: apsw.Connection, tenant: str, webhook: str) -> int:
    """Delete some events of a webhook; answers how many."""
    db.execute(
        "DELETE FROM webhook_event WHERE id IN (SELECT id FROM webhook_event WHERE tenant=? AND webhook=? LIMIT ?)",
        (tenant, webhook, DROPPED_AT_ONCE),
    )
    return db.changes()


def forget(db: apsw.Connection, tenant: str, limit: int) -> int:
    """Delete up to `limit` events of a tenant; answers how many."""
    db.execute(
        "DELETE FROM webhook_event WHERE id IN (SELECT id FROM webhook_event WHERE tenant=? LIMIT ?)", (tenant, limit)
    )
    return db.changes()


def due(db: apsw.Connection) -> list[EventsDue]:
    """Find which webhooks have events, and when the first of each falls due."""
    rows: Iterable[tuple[Any, ...]] = db.execute(_DUE)
    return [EventsDue._make(row) for row in rows]


def pending(db: apsw.Connection, tenant: str, most: int) -> list[EventBacklog]:
    """Count the events of each of a tenant's webhooks, up to so many together."""
    rows: Iterable[tuple[Any, ...]] = db.execute(_PENDING, (tenant, most))
    return [EventBacklog._make(row) for row in rows]


def recover(db: apsw.Connection) -> None:
    """Give back what a dead daemon held."""
    db.execute("UPDATE webhook_event SET due_at=0, lease_token=NULL WHERE lease_token IS NOT NULL")
