"""Sessions of the pages on PostgreSQL: whichever daemon somebody signed in at, all know it."""

from collections.abc import Sequence
from typing import Any, Final

from gateway.store.postgresql.server import Server
from gateway.store.rows import SessionKind, SessionRow, session

_COLUMNS: Final = "token_sha256, kind, who, name, began_at, used_at, ends_at"
_BEGIN: Final = f"""
INSERT INTO sessions ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (token_sha256) DO NOTHING"""
_FIND: Final = f"SELECT {_COLUMNS} FROM sessions WHERE token_sha256 = $1"
_USE: Final = "UPDATE sessions SET used_at = $2 WHERE token_sha256 = $1 AND used_at < $2"
_END: Final = f"DELETE FROM sessions WHERE token_sha256 = $1 AND kind = $2 RETURNING {_COLUMNS}"
_END_ALL_OF: Final = "WITH gone AS (DELETE FROM sessions WHERE who = $1 RETURNING 1) SELECT count(*) FROM gone"
_PRUNE: Final = """
WITH over AS (
  SELECT token_sha256 FROM sessions WHERE ends_at <= $1 OR kind = $2 AND used_at < $3 LIMIT $4 FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM sessions s USING over WHERE s.token_sha256 = over.token_sha256 RETURNING 1
)
SELECT count(*) FROM gone"""


async def begin(server: Server, row: SessionRow) -> None:
    """Insert a session or a link; one that is there already stays as it is."""
    await server.fetch(_BEGIN, *row)


async def find(server: Server, token_sha256: bytes) -> SessionRow | None:
    """Read the session or the link of a token."""
    return _one(await server.fetch(_FIND, token_sha256))


async def use(server: Server, token_sha256: bytes, used_at: int) -> None:
    """Note that it was used then, unless it was later."""
    await server.fetch(_USE, token_sha256, used_at)


async def end(server: Server, token_sha256: bytes, kind: SessionKind) -> SessionRow | None:
    """Take it away if it is of this kind, and give it back; who comes second waits, and finds none."""
    return _one(await server.fetch(_END, token_sha256, kind))


async def end_all_of(server: Server, who: str) -> int:
    """Delete all of a person's; answers how many."""
    return int(await server.fetchval(_END_ALL_OF, who))


async def prune(server: Server, now: int, unused_since: int, limit: int) -> int:
    """Delete up to `limit` that are over, or sessions last used before; what is being used just then is left."""
    return int(await server.fetchval(_PRUNE, now, SessionKind.SESSION, unused_since, limit))


def _one(rows: Sequence[Sequence[Any]]) -> SessionRow | None:
    return next(map(session, rows), None)
