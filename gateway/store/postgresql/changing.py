"""What is written to notifications on PostgreSQL: results, the final dot, leases that go on or end, what people change.

Statements take many of a kind. One that is repeated because its answer got lost (`again`) finds what its first run has
written.
"""

from collections.abc import Sequence

from gateway.observe.failpoint import failpoint
from gateway.store.postgresql import statements as sql
from gateway.store.postgresql.server import Server, columns
from gateway.store.protocol import KeyWithdrawn
from gateway.store.rows import Change, Flow, LeasedRow, Settlement, leased

Dot = tuple[int, int, str]
"""A row's `seq`, its lease's token, and for which recipients the final dot is about to be sent."""


async def settle(server: Server, settlements: Sequence[Settlement], *, again: bool) -> list[bool]:
    """Write deliveries' results; False where the lease was lost."""
    given = {(one.seq, one.lease_token): one for one in reversed(settlements)}  # the first result ends the lease
    # Whoever tells nothing pays nothing for it.
    tells = any(one.told is not None for one in settlements)
    statement, width = (sql.SETTLE_AND_TELL, 10) if tells else (sql.SETTLE, 9)
    results = columns((one[:width] for one in given.values()), width)
    written = {tuple(record) for record in await server.fetch(statement, *results)}
    failpoint("result.after_commit")
    if again and (late := given.keys() - written):
        written |= {tuple(record) for record in await server.fetch(sql.SETTLED, *columns(late, 2))}
    return [given[one.seq, one.lease_token] is one and (one.seq, one.lease_token) in written for one in settlements]


async def dot(server: Server, dots: Sequence[Dot]) -> list[bool]:
    """Write that final dots are about to be sent; False where the lease was lost or the row cancelled."""
    held = {(seq, token) for seq, token in await server.fetch(sql.DOT, *columns(dots, 3))}
    return [(seq, token) in held for seq, token, _ in dots]


async def renew(server: Server, lease_tokens: Sequence[int], lease_until: int) -> set[int]:
    """Prolong leases that are still held; answers which."""
    return {record[0] for record in await server.fetch(sql.RENEW, list(lease_tokens), lease_until)}


async def release_expired(server: Server, now: int) -> tuple[list[tuple[Flow, int]], list[LeasedRow]]:
    """End leases that ran out; answers the flows that are ready again, and the rows whose outcome is unknown."""
    released = await server.fetch(sql.RELEASE, now)
    unknown = await server.fetch(sql.UNKNOWN, now)
    return [(Flow(tenant, profile), due_at) for tenant, profile, due_at in released], [
        leased(record) for record in unknown
    ]


async def change(server: Server, changes: Sequence[Change], *, again: bool) -> list[bool | KeyWithdrawn]:
    """Write rows that are still as `before` says; False where one moved."""
    given = {change.before.seq: change for change in reversed(changes)}  # after the first the row is another
    told = await server.fetch(sql.CHANGE, *columns(map(_changed, given.values()), 15))
    made = {seq for seq, withdrawn in told if not withdrawn}
    refused = {seq for seq, withdrawn in told if withdrawn}
    if again and (left := [change for seq, change in given.items() if seq not in made]):
        made |= {record[0] for record in await server.fetch(sql.CHANGED, *columns(map(_wanted, left), 8))}
    return [
        KeyWithdrawn("the key is revoked")
        if given[change.before.seq] is change and change.before.seq in refused
        else given[change.before.seq] is change and change.before.seq in made
        for change in changes
    ]


def _changed(change: Change) -> tuple[object, ...]:
    before = change.before
    return (
        before.seq, int(before.stage), before.recipients, before.lease_token, int(change.stage), change.status,
        change.due_at, change.expires_at, change.finished_at, change.recipients, change.events, change.cancelled,
        change.erase, change.key_id, change.told,
    )  # fmt: skip


def _wanted(change: Change) -> tuple[object, ...]:
    return (
        change.before.seq, change.status, change.due_at, change.expires_at, change.finished_at, change.recipients,
        change.events, change.cancelled,
    )  # fmt: skip
