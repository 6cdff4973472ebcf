"""How the server carries out the store's statements when much is queued: along indexes, whatever it knows of the tables."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import pytest

from gateway.store.postgresql import PostgresqlStore, events
from gateway.store.postgresql import statements as sql
from gateway.store.postgresql.server import SESSION, Server
from tests.peers.postgresql import VERSIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.peers.postgresql import Postgresql, Servers

ROWS: Final = 100_000
LARGE: Final = {"queue", "notification", "content", "idempotency", "webhook_event"}
READS: Final = {"Seq Scan", "Index Scan", "Index Only Scan"}
SMALL: Final = {"queue_leased", "daemon_pkey"}  # indexes of what is in somebody's hands, and of who works here
STATEMENTS: Final = {
    name: getattr(sql, name)
    for name in (
        "ACCEPT", "KNOWN_IDS", "KNOWN_KEYS", "CLAIM", "UNCLAIM", "SETTLE", "SETTLED", "DOT", "CHANGE", "CHANGED", "RENEW",
        "RELEASE", "UNKNOWN", "BACKLOG", "SPENDING", "ACCEPT_AND_TELL", "SETTLE_AND_TELL",
    )
} | {f"EVENTS_{name}": getattr(events, name) for name in ("ADD", "CLAIM", "SETTLE", "DROP", "DUE", "PENDING")}  # fmt: skip

FILL: Final = """
INSERT INTO notification SELECT n, lpad(n::text, 32, '0'), 't' || n % {flows}, 'main', 'general', 'k', 1, 'queued', n, 9e12, n,
                                NULL, false, NULL, '[]', '', '[]' FROM generate_series(1, {rows}) n;
INSERT INTO queue SELECT seq, tenant, profile, priority, 0, false, due_at, expires_at, accepted_at FROM notification;
INSERT INTO content SELECT seq, 'x' FROM notification;
INSERT INTO idempotency SELECT tenant, id, ''::bytea, '', 9e12 FROM notification;
INSERT INTO webhook_event SELECT id, tenant, 'hook', due_at, expires_at, 0, NULL, '{{}}', NULL FROM notification"""


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest, postgresql_servers: Servers) -> Postgresql:
    """Give a running PostgreSQL; what is in it stays for all tests of this module."""
    return postgresql_servers[request.param]


@pytest.fixture(params=[1, 1_000], ids="{} flows".format)
async def full(request: pytest.FixtureRequest, server: Postgresql) -> AsyncIterator[asyncpg.Connection]:
    """Fill a schema with mail of so many flows; gives a session like the store's."""
    schema = await server.make_schema()
    async with PostgresqlStore(Server(server.url, schema=schema)):
        pass
    connection = await asyncpg.connect(server.url, server_settings={**SESSION, "search_path": schema})
    await connection.execute(FILL.format(flows=request.param, rows=ROWS))
    yield connection
    await connection.close()
    await server.execute(f"DROP SCHEMA {schema} CASCADE")


def scanned(plan: dict[str, Any]) -> Iterator[str]:
    """Name the large tables that a plan reads from one end to the other, be it along an index."""
    kind, table, index = (plan.get(name) for name in ("Node Type", "Relation Name", "Index Name"))
    reads = kind == "Bitmap Index Scan" or (kind in READS and table in LARGE)
    if reads and "Index Cond" not in plan and index not in SMALL:
        yield f"{kind} of {table or index}"
    for part in plan.get("Plans", ()):
        if kind != "Limit" or "Index Name" not in part:  # the first along an index is no scan of it
            yield from scanned(part)


async def plan(connection: asyncpg.Connection, name: str, statement: str) -> dict[str, Any]:
    """Have a statement planned as the store's is: prepared once, for any values."""
    await connection.execute(f"PREPARE {name} AS {statement}")
    count = await connection.fetchval(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1", name
    )
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {name}{values}")
    await connection.execute(f"DEALLOCATE {name}")
    return json.loads(explained)[0]["Plan"]


@pytest.mark.parametrize("analysed", [False, True], ids=["unknown", "analysed"])
async def test_no_statement_reads_a_whole_table(full: asyncpg.Connection, *, analysed: bool) -> None:
    """With much queued in one flow or in many no statement of the hot path reads a large table through."""
    if analysed:
        await full.execute("ANALYZE")
    found = {name: list(scanned(await plan(full, name.lower(), text))) for name, text in STATEMENTS.items()}
    assert {name: tables for name, tables in found.items() if tables} == {}
