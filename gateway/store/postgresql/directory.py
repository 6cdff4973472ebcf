"""The directory and its audit log on PostgreSQL, shared by all daemons: who holds the revision's row changes both.

What was dropped stays as an entry without a body, so that the other daemons hear of it.
"""

from collections.abc import Sequence
from typing import Final

from asyncpg import exceptions as pg

from gateway.observe import facts
from gateway.store import audit
from gateway.store.postgresql.server import Connection, Server, columns
from gateway.store.protocol import RevisionConflict, StoreError
from gateway.store.rows import AuditRow, Entry, Happening, News

Log = tuple[Sequence[Happening], int]
"""What happened, and when (ms)."""

_AUDITED: Final = "tenant, number, at, actor, actor_tenant, action, object, changes, hash"
_NEWEST: Final = f"SELECT {_AUDITED} FROM audit WHERE tenant = $1 AND number < $2 ORDER BY number DESC LIMIT $3"


async def since(server: Server, revision: int) -> News:
    """Read what became of the directory since that revision."""
    rows = await server.fetch(
        "SELECT m.value::bigint, d.kind, d.tenant, d.name, d.body, d.origin FROM meta m"
        " LEFT JOIN directory d ON d.revision > $1 AND (d.body IS NOT NULL OR $1 > 0)"
        " WHERE m.name = 'directory_revision' ORDER BY 2, 3, 4",
        revision,
    )
    entries = [Entry._make(row[1:6]) for row in rows if row[1] is not None]
    put = [entry for entry in entries if entry.body is not None]
    drop = [entry for entry in entries if entry.body is None]
    return News(rows[0][0], put, drop, whole=revision == 0)


async def change(
    server: Server,
    revision: int,
    put: Sequence[Entry],
    drop: Sequence[Entry],
    happened: Sequence[Happening],
    now: int,
) -> int:
    """Replace and delete entries if the revision still stands, and log what happened; answers the new revision."""
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
                    *columns((entry[:3] for entry in drop), 3), after,
                )  # fmt: skip
            if put:
                await connection.execute(
                    "INSERT INTO directory SELECT g.*, $6 FROM"
                    " unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS g"
                    " ON CONFLICT (kind, tenant, name)"
                    " DO UPDATE SET body = EXCLUDED.body, origin = EXCLUDED.origin, revision = EXCLUDED.revision",
                    *columns({entry[:3]: entry for entry in put}.values(), 5), after,
                )  # fmt: skip
            await connection.execute("UPDATE meta SET value = $1 WHERE name = 'directory_revision'", str(after))
            await _log(connection, happened, now)
        return after

    facts.statements(7)  # the transaction's two included
    return await server.run(work)


async def log(server: Server, logs: Sequence[Log]) -> None:
    """Continue the chains."""

    async def work(connection: Connection) -> None:
        async with connection.transaction():
            await _locked_revision(connection)
            for happened, now in logs:
                await _log(connection, happened, now)

    facts.statements(3 + 2 * len(logs))
    await server.run(work)


async def newest(server: Server, tenant: str, below: int, limit: int) -> list[AuditRow]:
    """Read a tenant's audit rows below a number, newest first."""
    return [AuditRow._make(row) for row in await server.fetch(_NEWEST, tenant, below, limit)]


async def origin(server: Server, tenant: str) -> int:
    """Read the number under which the tenant itself was made last; 0 if its log does not say."""
    return int(
        await server.fetchval(
            "SELECT coalesce(max(number), 0) FROM audit WHERE tenant = $1 AND action = 'tenant.create' AND object = $1",
            tenant,
        )
    )


async def audited(server: Server, tenant: str, after: int) -> list[AuditRow]:
    """Read the page of a tenant's audit rows that comes after a number."""
    rows = await server.fetch(
        f"SELECT {_AUDITED} FROM audit WHERE tenant = $1 AND number > $2 ORDER BY number LIMIT $3",
        tenant, after, audit.PAGE,
    )  # fmt: skip
    return [AuditRow._make(row) for row in rows]


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
            *columns(rows, 9),
        )
    except pg.IntegrityConstraintViolationError as error:
        raise StoreError(f"the audit log cannot be written: {error}") from error
