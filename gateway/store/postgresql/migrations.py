"""The schema, brought up to date by whichever daemon comes first.

Each migration is a file, applied whole in one transaction under a lock that all daemons share. A migration only adds to
what the one before made, so that daemons of the version before go on working beside new ones: `LEAST` says which code a
schema is still good for, and code that is older than that refuses to start.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

from asyncpg.exceptions import LockNotAvailableError

from gateway.store.postgresql.server import Connection, Server
from gateway.store.protocol import StoreBroken, StoreUnavailable

SCHEMA: Final = 4
LEAST: Final = {1: 1, 2: 1, 3: 1, 4: 1}  # for each schema, the oldest code that works on it
MIGRATIONS: Final = Path(__file__).parents[1] / "migrations"
LOCK: Final = 0x6E6777  # any number, the same for all daemons
SECONDS: Final = 3_600.0  # for others' migrations, and for our own
LOCK_PATIENCE: Final = "2s"  # for a table that somebody reads, a dump say: all daemons wait behind who waits for it
LOCK_AGAIN: Final = 5.0  # seconds
VERSION: Final = """
CREATE TABLE IF NOT EXISTS schema_version (number integer PRIMARY KEY, least integer NOT NULL,
                                           applied_at timestamptz NOT NULL DEFAULT now())"""


async def migrate(server: Server) -> None:
    """Apply what is missing; waits for others who do. Raises `StoreBroken` if the schema is too new for this code."""

    async def work(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute(
                "SELECT pg_advisory_xact_lock($1, hashtext(current_schema()))", LOCK, timeout=SECONDS
            )
            await connection.execute("SELECT set_config('lock_timeout', $1, true)", LOCK_PATIENCE)
            await connection.execute(VERSION)
            row = await connection.fetchrow(
                "SELECT coalesce(max(number), 0), coalesce(max(least), 0) FROM schema_version"
            )
            number, least = row
            if least > SCHEMA:
                raise StoreBroken(f"the database was changed by a newer version (schema {number}, here {SCHEMA})")
            for missing in range(number + 1, SCHEMA + 1):
                script = (MIGRATIONS / f"postgresql-{missing:04}.sql").read_text()
                await connection.execute(script, timeout=SECONDS)
                await connection.execute("INSERT INTO schema_version VALUES ($1, $2)", missing, LEAST[missing])

    deadline = time.monotonic() + SECONDS
    while True:
        try:
            await server.run(work)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, LockNotAvailableError) or time.monotonic() > deadline:
                raise
            await asyncio.sleep(LOCK_AGAIN)
        else:
            return
