"""Marks a database that its server has restored, so that the daemon which opens it keeps its mail until a person has looked.

Nobody is signed in to it any more.
"""

from typing import Final

from gateway.store.postgresql.migrations import SCHEMA
from gateway.store.postgresql.server import Connection, Server
from gateway.store.protocol import StoreError

COPIED_AT: Final = "copied_at"  # in `meta`: it is a copy that no daemon has opened yet; since when (ms)
SESSIONS_SINCE: Final = 4  # the first schema that has them

_ALIVE: Final = "SELECT count(*) FROM daemon WHERE lease_until > extract(epoch FROM clock_timestamp()) * 1000"
_MARK: Final = """
INSERT INTO meta SELECT $1::text, (extract(epoch FROM clock_timestamp()) * 1000)::bigint::text
ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value"""


async def refuse_daemons(connection: Connection) -> None:
    """Raise `StoreError` if a daemon works on the database; who comes later waits for the end of the transaction."""
    await connection.execute("LOCK TABLE daemon IN SHARE MODE")
    if alive := await connection.fetchval(_ALIVE):
        raise StoreError(
            f"{alive} daemon{'s work' if alive > 1 else ' works'} on the database: stop them (one that was killed counts for half a minute)"
        )


async def mark_restored(server: Server) -> int:
    """Mark the database as a copy, and end all sessions; answers how much of its mail is not final.

    Raises `StoreError` if a daemon works on it, or if it is none of ours.
    """

    async def work(connection: Connection) -> int:
        async with connection.transaction():
            if await connection.fetchval("SELECT to_regclass('meta') IS NULL OR to_regclass('schema_version') IS NULL"):
                raise StoreError("the database is none of a notification gateway: restore it first")
            schema, least = await connection.fetchrow("SELECT max(number), max(least) FROM schema_version")
            if least > SCHEMA:
                raise StoreError(f"the database was written by a newer version (schema {schema}, here {SCHEMA})")
            await refuse_daemons(connection)
            await connection.execute(_MARK, COPIED_AT)
            if schema >= SESSIONS_SINCE:
                await connection.execute("DELETE FROM sessions")
            return int(await connection.fetchval("SELECT count(*) FROM queue"))

    await server.open()
    try:
        return await server.run(work)
    finally:
        await server.close()
