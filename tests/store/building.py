"""Rows as the store's tests write them."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import count

from gateway.store.protocol import Store
from gateway.store.rows import (
    Change,
    Claim,
    EventBacklog,
    Flow,
    Happening,
    Idempotency,
    Inserted,
    LeasedRow,
    NewRow,
    Settlement,
    Stage,
    StoredRow,
)

Reopen = Callable[[], AbstractAsyncContextManager[Store]]
"""Closes the store under test and opens the same rows again; each call gives the next life."""

NOW = 1_767_225_600_000
HOUR = 3_600_000
FLOW = Flow("acme", "main")
OTHER = Flow("acme", "")
_numbers = count(1)


def row(
    *,
    flow: Flow = FLOW,
    due_at: int = NOW,
    expires_at: int = NOW + 24 * HOUR,
    accepted_at: int = NOW,
    priority: int = 1,
    category: str = "general",
    key_id: str = "k1",
    content: str | None = '{"subject":"Hello"}',
    idempotency: Idempotency | None = None,
    stage: Stage = Stage.READY,
    status: str = "queued",
    per_minute: int | None = None,
) -> NewRow:
    """Make a row with an id of its own; ids sort by acceptance, and then by the order of making."""
    number = next(_numbers)
    id_ = f"{accepted_at:012x}{number:020x}"
    return NewRow(
        id=id_,
        flow=flow,
        category=category,
        key_id=key_id,
        priority=priority,
        due_at=due_at,
        expires_at=expires_at,
        accepted_at=accepted_at,
        recipients=f'[["ann{number}@example.test","to",{due_at}]]',
        envelope=f'["<{number}@example.test>","info","retry"]',
        content=content,
        answer=f'{{"id":"{id_}"}}',
        stage=stage,
        status=status,
        idempotency=idempotency,
        per_minute=per_minute,
    )


def key(name: str, body: bytes = b"a", *, forget_at: int = NOW + 72 * HOUR) -> Idempotency:
    """Make an idempotency key for a request whose digest is told apart by `body`."""
    return Idempotency(name, body.ljust(32, b"\0"), forget_at)


def happening(tenant: str = "acme", *, object: str = "main") -> Happening:
    """Make something to be told in a tenant's log."""
    return Happening(tenant, "key:abc", "acme", "profile.update", object, '{"host":["a","b"]}')


async def put(store: Store, *rows: NewRow) -> None:
    """Accept rows of which each is new."""
    assert await store.accept(rows, NOW) == [Inserted()] * len(rows)


def claim(flow: Flow = FLOW, limit: int = 100, *, now: int = NOW, max_bytes: int = 4 << 20) -> Claim:
    """Wish for rows under a lease of two minutes."""
    return Claim(flow, limit, now, now + 120_000, max_bytes)


async def take(store: Store, flow: Flow = FLOW, *, now: int = NOW) -> LeasedRow:
    """Claim exactly one row."""
    (taken,) = (await store.claim(claim(flow, 1, now=now))).rows
    return taken


def result(
    of: LeasedRow,
    stage: Stage = Stage.FINAL,
    *,
    token: int | None = None,
    due_at: int | None = None,
    recipients: str = "[]",
    events: str = "",
    erase: bool = False,
    at: int = NOW,
) -> Settlement:
    """Make the result of a delivery."""
    return Settlement(
        seq=of.seq,
        lease_token=of.lease_token if token is None else token,
        stage=stage,
        status="relayed" if stage is Stage.FINAL else "deferred",
        due_at=of.due_at if due_at is None else due_at,
        finished_at=at if stage is Stage.FINAL else None,
        recipients=recipients,
        events=events,
        erase=erase,
    )


def changed(
    before: StoredRow,
    stage: Stage,
    *,
    recipients: str | None = None,
    events: str = "",
    cancelled: bool = False,
    erase: bool = False,
    due_at: int | None = None,
) -> Change:
    """Make a change of a row as it was read."""
    return Change(
        before=before,
        stage=stage,
        status="changed",
        due_at=before.due_at if due_at is None else due_at,
        expires_at=before.expires_at + 1,
        finished_at=NOW if stage is Stage.FINAL else None,
        recipients=before.recipients if recipients is None else recipients,
        events=events,
        cancelled=cancelled,
        erase=erase,
    )


async def read(store: Store, notification_id: str) -> StoredRow:
    """Read a row that is there, with its content."""
    found = await store.get(notification_id, content=True)
    assert found is not None
    return found


async def pending(store: Store) -> list[EventBacklog]:
    """Count all events, of all tenants."""
    tenants = sorted({one.tenant for one in await store.due_events()})
    return [one for tenant in tenants for one in await store.pending_events(tenant, 1_000_000)]
