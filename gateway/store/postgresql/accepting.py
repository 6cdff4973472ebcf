"""New rows on PostgreSQL, and what their idempotency keys stand for.

An answer may get lost on its way from the server. A statement that is repeated for that reason finds the rows that its
first run has made.
"""

from collections.abc import Sequence
from typing import Any, Final

from gateway.store.postgresql import statements as sql
from gateway.store.postgresql.server import Server, columns
from gateway.store.protocol import StoreError
from gateway.store.rows import Acceptance, Inserted, Limited, Mismatched, NewRow, Replayed, Withdrawn

_INSERTED: Final = Inserted()


async def insert(server: Server, rows: Sequence[NewRow], now: int, *, again: bool) -> list[Acceptance]:
    """Insert rows under their idempotency keys; `again` if an earlier attempt may have got through."""
    first = _first(rows)
    new = [row for row in rows if first[row.id] == row.id]
    there = await _there(server, new) if again else set[str]()
    new = [row for row in new if row.id not in there]
    made = await _made(server, new, now) if new else []
    fresh = there | {id_ for id_, fresh, _, _ in made if fresh}
    if again:  # or it got through only now, and its keys were in the way
        fresh |= await _there(server, [row for row in new if row.id not in fresh])
    refused = {id_: refusal for id_, _, *why in made if id_ not in fresh and (refusal := _refusal(*why))}
    keyed = [row for row in rows if row.id not in fresh and first[row.id] not in refused]
    known = await _known(server, keyed)
    return [_INSERTED if row.id in fresh else refused.get(first[row.id]) or _repeated(row, known) for row in rows]


async def _made(server: Server, new: Sequence[NewRow], now: int) -> Sequence[Sequence[Any]]:
    given = columns(map(_new, new), 19)
    if any(row.told is not None for row in new):
        return await server.fetch(sql.ACCEPT_AND_TELL, *given, now, [row.told for row in new])
    return await server.fetch(sql.ACCEPT, *given, now)


async def _there(server: Server, rows: Sequence[NewRow]) -> set[str]:
    """Read which of these rows were made by an attempt of ours whose answer was lost, once it is over."""
    if not rows:
        return set()
    if limited := sorted({row.flow.tenant for row in rows if row.per_minute is not None}):
        await server.fetch(sql.SPENDING, limited)
    return {record[0] for record in await server.fetch(sql.KNOWN_IDS, [row.id for row in rows])}


async def _known(server: Server, rows: Sequence[NewRow]) -> dict[tuple[str, str], tuple[bytes, str]]:
    """Read what the keys of these rows stand for by now."""
    asked = {(row.flow.tenant, row.idempotency.key) for row in rows if row.idempotency is not None}
    if not asked:
        return {}
    found = await server.fetch(sql.KNOWN_KEYS, *columns(asked, 2))
    return {(tenant, key): (sha256, answer) for tenant, key, sha256, answer in found}


def _first(rows: Sequence[NewRow]) -> dict[str, str]:
    """Tell of each row which goes in for it: of those with the same key in one statement only the first does."""
    keys: dict[tuple[str, str], str] = {}
    return {
        row.id: row.id if row.idempotency is None else keys.setdefault((row.flow.tenant, row.idempotency.key), row.id)
        for row in rows
    }


def _refusal(withdrawn: str | None, wait: int | None) -> Withdrawn | Limited | None:
    if withdrawn is not None:
        return Withdrawn(withdrawn)
    return None if wait is None else Limited(wait)


def _new(row: NewRow) -> tuple[object, ...]:
    key, sha256, forget_at = row.idempotency or (None, None, None)
    return (
        row.id, row.flow.tenant, row.flow.profile, row.category, row.key_id, row.priority, int(row.stage), row.status,
        row.due_at, row.expires_at, row.accepted_at, row.recipients, row.envelope, row.content, key, sha256, row.answer,
        forget_at, row.per_minute,
    )  # fmt: skip


def _repeated(row: NewRow, known: dict[tuple[str, str], tuple[bytes, str]]) -> Acceptance:
    """Judge a row whose key was used before."""
    if row.idempotency is None:
        raise StoreError("a row was neither made nor refused")
    sha256, answer = known.get((row.flow.tenant, row.idempotency.key), (b"", ""))
    return Replayed(answer) if sha256 == row.idempotency.sha256 else Mismatched()
