"""Logins that relays refused, counted for all daemons together.

A login is counted before it is tried, account by account one after the other: of two daemons that ask at once the
second sees what the first was told. Who waits for a relay's answer is written down; a daemon that died gets none.
"""

from typing import Final

from gateway.observe import facts
from gateway.store.postgresql.server import Connection, Server
from gateway.store.rows import Ending, Permission, SignIn

# A statement of its own: the next one sees what was committed while this one waited.
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' ' || $2::text, 0))"
_COUNT: Final = """
WITH over AS (
  DELETE FROM refused_login r WHERE r.host = $1 AND r.user_hash = $2 AND r.forget_at <= $5 AND r.ticket <> $4
), others AS MATERIALIZED (
  SELECT count(*) AS counted,
         count(*) FILTER (WHERE NOT EXISTS (SELECT FROM daemon d WHERE d.id = r.daemon)) AS refused
    FROM refused_login r
   WHERE r.host = $1 AND r.user_hash = $2 AND r.forget_at > $5 AND r.ticket <> $4
     AND (r.tenant = $3
          OR NOT EXISTS (SELECT FROM signed_in s WHERE s.host = $1 AND s.user_hash = $2 AND s.tenant = $3))
), tried AS (
  INSERT INTO refused_login (host, user_hash, tenant, ticket, forget_at, daemon)
  SELECT $1, $2, $3, $4, $6, $8 FROM others WHERE counted < $7 OR $7 IS NULL
  ON CONFLICT (ticket) DO UPDATE SET forget_at = EXCLUDED.forget_at, daemon = EXCLUDED.daemon
)
SELECT counted < $7 OR $7 IS NULL, refused < $7 FROM others"""
_REFUSED: Final = """
INSERT INTO refused_login (host, user_hash, tenant, ticket, forget_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (ticket) DO UPDATE SET forget_at = EXCLUDED.forget_at, daemon = NULL"""
_ACCEPTED: Final = """
WITH back AS (DELETE FROM refused_login WHERE ticket = $4)
INSERT INTO signed_in VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"""


async def attempt(
    server: Server, sign_in: SignIn, ticket: int, now: int, *, forget_at: int, most: int | None, me: int
) -> Permission:
    """Count a login that the daemon `me` is about to try, unless `most` are counted already; times are ms."""

    async def work(connection: Connection) -> Permission:
        async with connection.transaction():
            await connection.execute(_LOCK, sign_in.host, sign_in.user_hash)
            given, later = await connection.fetchrow(_COUNT, *sign_in, ticket, now, forget_at, most, me)
        return Permission.GIVEN if given else Permission.LATER if later else Permission.REFUSED

    facts.statements(2)
    return await server.run(work)


async def end(server: Server, sign_in: SignIn, ticket: int, ending: Ending, *, forget_at: int) -> None:
    """Write down what came of a login."""
    match ending:
        case Ending.REFUSED:
            await server.fetch(_REFUSED, *sign_in, ticket, forget_at)
        case Ending.ACCEPTED:
            await server.fetch(_ACCEPTED, *sign_in, ticket)
        case Ending.UNTRIED:
            await server.fetch("DELETE FROM refused_login WHERE ticket = $1", ticket)


async def prune(server: Server, now: int) -> None:
    """Delete what is forgotten by `now` (ms); others may be at it, and nobody waits for anybody."""
    await server.fetch(
        "WITH over AS (SELECT ticket FROM refused_login WHERE forget_at <= $1 FOR UPDATE SKIP LOCKED)"
        " DELETE FROM refused_login r USING over WHERE r.ticket = over.ticket",
        now,
    )
