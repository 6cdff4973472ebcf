"""What is read of notifications on PostgreSQL: one, a page, what waits, and how much of it."""

from typing import Final

from gateway.store.postgresql import statements as sql
from gateway.store.postgresql.server import Server
from gateway.store.rows import Flow, FlowBacklog, FlowCensus, FlowDepth, Listing, StoredRow, Wait, first_id, stored

FEW: Final = 20  # tenants whose mail is looked up tenant by tenant and then sorted


async def recall(server: Server, tenant: str, key: str, now: int) -> tuple[bytes, str] | None:
    """Read what an idempotency key stands for."""
    rows = await server.fetch(
        "SELECT sha256, answer FROM idempotency WHERE tenant = $1 AND key = $2 AND forget_at > $3", tenant, key, now
    )
    return (rows[0][0], rows[0][1]) if rows else None


async def get(server: Server, notification_id: str, *, content: bool) -> StoredRow | None:
    """Read one notification."""
    if "\0" in notification_id:  # which no column holds
        return None
    body = "c.body" if content else "CASE WHEN c.seq IS NOT NULL THEN '' END"
    rows = await server.fetch(
        f"SELECT {sql.STORED}, {body} FROM notification n LEFT JOIN queue q ON q.seq = n.seq"
        " LEFT JOIN content c ON c.seq = n.seq WHERE n.id = $1",
        notification_id,
    )
    return stored(rows[0]) if rows else None


async def page(server: Server, listing: Listing) -> list[StoredRow]:
    """Read notifications, newest first, without content."""
    statement, values = listed(listing)
    return [stored(row) for row in await server.fetch(statement, *values)]


def listed(listing: Listing) -> tuple[str, list[object]]:
    """Say how a page is read: the statement and its values."""
    conditions, values = ["true"], list[object]([listing.limit])
    for condition, value in (
        ("n.id < ${}", listing.before_id),
        ("n.key_id = ${}", listing.key_id),
        ("n.category = ${}", listing.category),
        ("n.id >= ${}", None if listing.since is None else first_id(listing.since)),  # along the ids
        ("n.id < ${}", None if listing.until is None else first_id(listing.until)),
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
    statement = (
        f"SELECT {sql.STORED}, NULL FROM ({found}) n LEFT JOIN queue q ON q.seq = n.seq ORDER BY n.id DESC LIMIT $1"
    )
    return statement, values


async def expired(server: Server, now: int, limit: int, after: StoredRow | None = None) -> list[StoredRow]:
    """Read ready rows whose time is over, in the order of that; go on behind `after`."""
    behind = (0, 0) if after is None else (after.expires_at, after.seq)
    rows = await server.fetch(
        f"SELECT {sql.STORED}, NULL FROM queue q JOIN notification n ON n.seq = q.seq WHERE q.stage = 0"
        " AND q.expires_at <= $1 AND q.expires_at >= $3 AND (q.expires_at, q.seq) > ($3, $4)"
        " ORDER BY q.expires_at, q.seq LIMIT $2",
        now, limit, *behind,
    )  # fmt: skip
    return [stored(row) for row in rows]


async def census(server: Server, now: int) -> list[FlowCensus]:
    """Count what is not final by flow and by how it waits."""
    rows = await server.fetch(
        "SELECT tenant, profile, CASE WHEN stage = 1 THEN 'leased' WHEN stage = 2 THEN 'resting'"
        " WHEN deferred THEN 'deferred' WHEN due_at > $1 THEN 'scheduled' ELSE 'ready' END,"
        " count(*), min(accepted_at), min(due_at) FROM queue GROUP BY 1, 2, 3",
        now,
    )
    return [FlowCensus(Flow(tenant, profile), Wait(wait), *counts) for tenant, profile, wait, *counts in rows]


async def backlog(server: Server) -> list[FlowBacklog]:
    """Read which flows have ready rows."""
    rows = await server.fetch(sql.BACKLOG)
    return [FlowBacklog(Flow(tenant, profile), due_at) for tenant, profile, due_at in rows if due_at is not None]


async def depths(server: Server) -> list[FlowDepth]:
    """Count what each flow has that is not final."""
    rows = await server.fetch(
        "SELECT tenant, profile, count(*), count(*) FILTER (WHERE deferred), count(*) FILTER (WHERE stage = 2),"
        " min(accepted_at) FROM queue GROUP BY 1, 2"
    )
    return [FlowDepth(Flow(tenant, profile), *counts) for tenant, profile, *counts in rows]


async def unfinished(server: Server) -> dict[str, int]:
    """Count the rows that are not final, by tenant."""
    return dict(await server.fetch("SELECT tenant, count(*) FROM queue GROUP BY 1"))
