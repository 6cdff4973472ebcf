"""What is deleted of notifications on PostgreSQL: what is old, and all that a tenant had."""

from typing import Final

from gateway.store.postgresql import events
from gateway.store.postgresql.server import Server

PRUNE_PAGE: Final = 1_000
MOST_KEPT: Final = 10_000  # rows that stay, looked at in one call


async def forget(server: Server, tenant: str, limit: int) -> int:
    """Delete up to `limit` notifications, idempotency keys and webhook events of a tenant; answers how many.

    Its rate, and where it signed in, go at once.
    """
    gone = await _delete(server, "SELECT seq FROM notification WHERE tenant = $1 LIMIT $2", tenant, limit)
    gone += int(
        await server.fetchval(
            "WITH gone AS (DELETE FROM idempotency WHERE (tenant, key) IN"
            " (SELECT tenant, key FROM idempotency WHERE tenant = $1 LIMIT $2) RETURNING 1) SELECT count(*) FROM gone",
            tenant, limit - gone,
        )
    )  # fmt: skip
    await server.fetch("DELETE FROM tenant_rate WHERE tenant = $1", tenant)
    await server.fetch("DELETE FROM signed_in WHERE tenant = $1", tenant)
    return gone + await events.forget(server, tenant, limit - gone)


async def old(server: Server, now: int, finished_before: int, limit: int, after: int) -> tuple[list[int], int]:
    """Find up to `limit` final rows that ended before, among those that come `after` one.

    Answers them, and after which row to go on: 0 if all were seen. Rows of a clock that was ahead of `now` say nothing of
    those that follow.
    """
    found: list[int] = []
    last, young, kept = after, 0, 0
    while len(found) < limit and young < limit and kept < MOST_KEPT:
        page = await server.fetch(
            "SELECT seq, accepted_at BETWEEN $2 AND $4, finished_at < $2 FROM notification"
            " WHERE seq > $1 ORDER BY seq LIMIT $3",
            last, finished_before, PRUNE_PAGE, now,
        )  # fmt: skip
        young += sum(row[1] for row in page)
        found += [row[0] for row in page if row[2]]
        kept += sum(not row[2] for row in page)
        if len(page) < PRUNE_PAGE:
            last = 0
            break
        last = page[-1][0]
    if len(found) >= limit:
        return found[:limit], found[limit - 1]
    return found, 0 if young >= limit else last


async def prune(server: Server, rows: list[int], now: int, limit: int) -> int:
    """Delete these rows if they are final still, and up to `limit` idempotency keys past their time.

    Answers how many of what it deleted more of.
    """
    chosen = "SELECT seq FROM notification WHERE seq = ANY($1) AND finished_at IS NOT NULL ORDER BY seq FOR UPDATE SKIP LOCKED"
    gone = await _delete(server, chosen, rows) if rows else 0
    keys = await server.fetchval(
        "WITH old AS (SELECT tenant, key FROM idempotency WHERE forget_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED),"
        " gone AS (DELETE FROM idempotency i USING old WHERE i.tenant = old.tenant AND i.key = old.key)"
        " SELECT count(*) FROM old",
        now, limit,
    )  # fmt: skip
    return max(gone, int(keys))


async def _delete(server: Server, chosen: str, *values: object) -> int:
    count = await server.fetchval(
        f"WITH chosen AS MATERIALIZED ({chosen}),"
        " queued AS MATERIALIZED (SELECT q.seq FROM queue q JOIN chosen USING (seq) ORDER BY q.seq FOR UPDATE OF q),"
        " dequeued AS (DELETE FROM queue USING queued WHERE queue.seq = queued.seq),"
        " erased AS (DELETE FROM content USING chosen WHERE content.seq = chosen.seq),"
        " gone AS (DELETE FROM notification USING chosen WHERE notification.seq = chosen.seq)"
        " SELECT count(*) FROM chosen",
        *values,
    )
    return int(count)
