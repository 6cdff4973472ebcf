"""What the outbox and the directory ask of a store, whichever engine it is.

A method that writes returns only after its commit is on stable storage. Calls made while a commit runs share the next
one. `StoreFull` leaves everything as it was and may be tried again; after `StoreBroken` the process must end, because
a disk that refused one sync may have dropped pages that a later sync would claim to have kept.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from gateway.store.rows import (
    Acceptance,
    AuditRow,
    Change,
    Claim,
    Claimed,
    Entry,
    Flow,
    FlowBacklog,
    FlowDepth,
    Happening,
    LeasedRow,
    Listing,
    NewRow,
    Settlement,
    StoredRow,
)


class StoreError(Exception):
    """The store did not do what was asked; nothing of it was written."""


class StoreFull(StoreError):
    """There is no room on the disk, or too little to go on safely."""


class StoreBroken(StoreError):
    """Writing failed in a way that leaves the file's state unknown until it is opened and checked again."""


class StoreBusy(StoreError):
    """Another process holds the database."""


class RevisionConflict(StoreError):
    """The directory was changed by somebody else since it was read."""


class Store(Protocol):
    """Durable rows. Times are milliseconds since the epoch."""

    @property
    def engine(self) -> str:
        """What keeps them, with its version."""

    def accept(self, rows: Sequence[NewRow], now: int) -> "asyncio.Future[list[Acceptance]]":
        """Insert the rows under their idempotency keys, all in one commit; it happens whether or not anybody waits."""

    async def recall(self, tenant: str, key: str, now: int) -> tuple[bytes, str] | None:
        """Read what an idempotency key stands for: the request's SHA-256 and the answer it got."""

    async def claim(self, claim: Claim) -> Claimed:
        """Take due rows of one flow under a new lease, most urgent first."""

    def settle(self, settlement: Settlement) -> "asyncio.Future[bool]":
        """Write a delivery's result; False if the lease was lost meanwhile. It happens whether or not anybody waits.

        On a full disk it waits for room: a result is true, and known nowhere else.
        """

    async def dot(self, seq: int, lease_token: int, dotted_for: str) -> bool:
        """Commit that the final dot is about to be sent; False if the lease was lost or the row cancelled.

        `dotted_for` comes back with the row if nobody settles it: the outbox' own note of whom it concerns.
        """

    async def renew(self, lease_tokens: Sequence[int], lease_until: int) -> set[int]:
        """Prolong leases that are still held; answers which."""

    async def release_expired(self, now: int) -> tuple[list[tuple[Flow, int]], list[LeasedRow]]:
        """End leases that ran out; answers the flows that are ready again, and the rows whose outcome is unknown."""

    async def change(self, change: Change) -> bool:
        """Write the row if it is still as `change.before` says; False if it moved."""

    async def get(self, notification_id: str, *, content: bool = False) -> StoredRow | None:
        """Read one notification."""

    async def page(self, listing: Listing) -> list[StoredRow]:
        """Read notifications, newest first, without content."""

    async def expired(self, now: int, limit: int) -> list[StoredRow]:
        """Read ready rows whose time is over."""

    async def backlog(self) -> list[FlowBacklog]:
        """Read which flows have ready rows."""

    async def depths(self) -> list[FlowDepth]:
        """Count what each flow has that is not final."""

    async def forget(self, tenant: str, limit: int) -> int:
        """Delete up to `limit` rows of a tenant, and all of its idempotency keys; answers how many rows."""

    async def unfinished(self) -> dict[str, int]:
        """Count the rows that are not final, by tenant."""

    async def prune(self, now: int, finished_before: int, limit: int) -> int:
        """Delete up to `limit` final rows that ended before, and as many idempotency keys past their time.

        Answers the larger of both numbers: while it is `limit` there may be more.
        """

    async def directory(self) -> tuple[int, list[Entry]]:
        """Read the directory's revision and all of its entries."""

    async def change_directory(
        self,
        revision: int,
        put: Sequence[Entry],
        drop: Sequence[Entry],
        happened: Sequence[Happening] = (),
        now: int = 0,
    ) -> int:
        """Replace and delete entries if the revision still stands, and log what happened; answers the new revision.

        `RevisionConflict` if somebody else was first. `StoreError` if the log does not take what happened: then
        nothing did.
        """

    def log(self, happened: Sequence[Happening], now: int) -> "asyncio.Future[None]":
        """Log what happened where nothing was changed; it is written whether or not anybody waits."""

    async def audit(self, tenant: str, *, before: int | None, limit: int) -> list[AuditRow]:
        """Read a tenant's audit log, newest first, from below the number `before` (None: from its end)."""

    async def audit_origin(self, tenant: str) -> int:
        """Read the number under which the tenant itself was made last; 0 if its log does not say."""

    async def audit_length(self, tenant: str) -> int:
        """Read the number of a tenant's newest audit row; 0 if there is none."""

    async def audit_broken(self, tenant: str) -> int | None:
        """Check a tenant's whole audit log; answers the first number that is missing or wrong, None if all is well."""

    async def check(self) -> None:
        """Prove that the store can write, by writing."""
