"""Webhook events on PostgreSQL, shared by all daemons: whoever claims one has it until its lease ends.

An event is leased by moving `due_at` to where the lease ends, so nothing has to be taken back from who died at it.
"""

from collections.abc import Sequence
from typing import Final

from gateway.store.postgresql.server import Server
from gateway.store.rows import EventBacklog, EventResult, EventsDue, EventWish, LeasedEvent, WebhookEvent

DROPPED_AT_ONCE: Final = 1_000  # rows a statement

ADD: Final = """
INSERT INTO webhook_event (id, tenant, webhook, due_at, expires_at, body, traceparent)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[])
ON CONFLICT (id) DO NOTHING"""
CLAIM: Final = """
WITH wish AS MATERIALIZED (
  SELECT * FROM unnest($1::text[], $2::text[], $3::integer[]) AS w(tenant, webhook, most)
), locked AS MATERIALIZED (
  SELECT d.id FROM wish w CROSS JOIN LATERAL (
    SELECT e.id FROM webhook_event e WHERE e.tenant = w.tenant AND e.webhook = w.webhook AND e.due_at <= $4
     ORDER BY e.due_at LIMIT w.most FOR UPDATE SKIP LOCKED
  ) d
)
UPDATE webhook_event e SET due_at = $5, lease_token = (random() * 4611686018427387904)::bigint
  FROM locked l WHERE e.id = l.id
RETURNING e.id, e.tenant, e.webhook, e.expires_at, e.attempts, e.lease_token, e.body, e.traceparent"""
SETTLE: Final = """
WITH given AS MATERIALIZED (
  SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::integer[]) AS g(id, token, due_at, attempts)
), held AS MATERIALIZED (
  SELECT g.* FROM given g JOIN webhook_event e ON e.id = g.id AND e.lease_token = g.token ORDER BY e.id FOR UPDATE OF e
), over AS (
  DELETE FROM webhook_event e USING held h WHERE e.id = h.id AND h.due_at IS NULL
)
UPDATE webhook_event e SET due_at = h.due_at, attempts = h.attempts, lease_token = NULL
  FROM held h WHERE e.id = h.id AND h.due_at IS NOT NULL"""
DROP: Final = """
WITH gone AS (
  SELECT e.id FROM webhook_event e WHERE e.tenant = $1 AND e.webhook = $2 LIMIT $3 FOR UPDATE SKIP LOCKED
), dropped AS (
  DELETE FROM webhook_event e USING gone g WHERE e.id = g.id RETURNING 1
)
SELECT count(*) FROM dropped"""
FORGET: Final = """
WITH gone AS (
  DELETE FROM webhook_event WHERE id IN (SELECT id FROM webhook_event WHERE tenant = $1 LIMIT $2) RETURNING 1
)
SELECT count(*) FROM gone"""
# By hopping from webhook to webhook along the index, to the event of each that falls due first.
DUE: Final = """
WITH RECURSIVE first(tenant, webhook, due_at) AS (
  (SELECT tenant, webhook, due_at FROM webhook_event ORDER BY tenant, webhook, due_at LIMIT 1)
  UNION ALL
  SELECT after.* FROM first f CROSS JOIN LATERAL (
    SELECT e.tenant, e.webhook, e.due_at FROM webhook_event e WHERE (e.tenant, e.webhook) > (f.tenant, f.webhook)
     ORDER BY e.tenant, e.webhook, e.due_at LIMIT 1) after
)
SELECT tenant, webhook, due_at FROM first"""
PENDING: Final = """
SELECT tenant, webhook, count(*), min(due_at), min(expires_at), sum(octets)::bigint FROM (
  SELECT tenant, webhook, due_at, expires_at, octet_length(body) AS octets FROM webhook_event WHERE tenant = $1 LIMIT $2
) e GROUP BY tenant, webhook"""


async def add(server: Server, events: Sequence[WebhookEvent]) -> None:
    """Insert events; one that is there already stays as it is."""
    if events:
        await server.fetch(ADD, *map(list, zip(*events, strict=True)))


async def claim(server: Server, wishes: Sequence[EventWish], now: int, lease_until: int) -> list[LeasedEvent]:
    """Take due events that nobody else is just taking."""
    if not wishes:
        return []
    columns = map(list, zip(*wishes, strict=True))
    return [LeasedEvent._make(row) for row in await server.fetch(CLAIM, *columns, now, lease_until)]


async def settle(server: Server, results: Sequence[EventResult]) -> None:
    """Write what becomes of events that are still under their leases."""
    if results:
        await server.fetch(SETTLE, *map(list, zip(*results, strict=True)))


async def drop(server: Server, tenant: str, webhook: str) -> None:
    """Delete the events of a webhook, but those that somebody is just writing."""
    while await server.fetchval(DROP, tenant, webhook, DROPPED_AT_ONCE) == DROPPED_AT_ONCE:
        pass


async def forget(server: Server, tenant: str, limit: int) -> int:
    """Delete up to `limit` events of a tenant; answers how many."""
    return int(await server.fetchval(FORGET, tenant, limit))


async def due(server: Server) -> list[EventsDue]:
    """Find which webhooks have events, and when the first of each falls due."""
    return [EventsDue._make(row) for row in await server.fetch(DUE)]


async def pending(server: Server, tenant: str, most: int) -> list[EventBacklog]:
    """Count the events of each of a tenant's webhooks, up to so many together."""
    return [EventBacklog._make(row) for row in await server.fetch(PENDING, tenant, most)]
