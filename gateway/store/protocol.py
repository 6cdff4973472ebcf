"""What the outbox and the directory ask of a store, whichever engine it is.

A method that writes returns only after its commit is on stable storage. Calls made while a commit runs share the next
one. `StoreUnavailable` may be tried again: the disk is full, or the server away; what was asked may have been done
after all, and asking again does it once. After `StoreBroken` the process must end, because a disk that refused one
sync may have dropped pages that a later sync would claim to have kept.

A store that several daemons share has a `roster` besides: who of them lives, and which of them carries whose mail.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, BinaryIO, Protocol

from gateway.store.rows import (
    Acceptance,
    AuditRow,
    Change,
    Claim,
    Claimed,
    DaemonRow,
    Ending,
    Entry,
    EventBacklog,
    EventResult,
    EventsDue,
    EventWish,
    Flow,
    FlowBacklog,
    FlowCensus,
    FlowDepth,
    Happening,
    LeasedEvent,
    LeasedRow,
    Listing,
    NewRow,
    News,
    Permission,
    Place,
    Pulse,
    SessionKind,
    SessionRow,
    Settlement,
    SignIn,
    StoredRow,
    StoreHealth,
    WebhookEvent,
)


class StoreError(Exception):
    """The store did not do what was asked; nothing of it was written."""


class StoreUnavailable(StoreError):
    """It cannot be done at the moment; later it can."""


class StoreFull(StoreUnavailable):
    """There is no room on the disk, or too little to go on safely."""


class StoreBroken(StoreError):
    """Writing failed in a way that leaves the file's state unknown until it is opened and checked again."""


class StoreBusy(StoreError):
    """Another process holds the database."""


class CopyRunning(StoreError):
    """A copy is being made, or read, already."""


class Copied(StrEnum):
    """How a database came here that no daemon has opened since: by `restore`, or by other means."""

    RESTORED = "restored"
    CLONED = "cloned"


@dataclass(frozen=True, slots=True)
class Copy:
    """A whole copy of a store in one file, as of then (ms). The file is open for reading, and has no name."""

    taken_at: int
    size: int
    file: BinaryIO


class KeyWithdrawn(StoreError):
    """The API key with which it was asked for is revoked, which this daemon may not know yet."""


class RevisionConflict(StoreError):
    """The directory was changed by somebody else since it was read."""


class Committing(asyncio.Future[Any]):
    """A write that happens whether or not anybody waits: whoever is cancelled meanwhile ends after the commit."""

    def cancel(self, msg: object = None) -> bool:
        """Stay: there is no way back from here."""
        del msg
        return False


class Roster(Protocol):
    """The daemons that share a store, and the lanes that each of them carries.

    A daemon lives for as long as it beats; its lanes are its own until then, and nobody else's. All of this is by the
    store's clock.
    """

    async def beat(self, *, retiring: bool = False) -> Pulse:
        """Say that this daemon lives, and learn what the others do; one that is retiring gets no lanes any more."""

    async def take(self, lanes: Sequence[Place]) -> dict[Place, int | None]:
        """Take those of the lanes that no living daemon has; answers which are ours now.

        With each comes the time until which its rate is spent; None if nobody knows.
        """

    async def held(self) -> list[Place]:
        """Read which lanes are ours: an answer may have been lost."""

    async def leave(self, lanes: Sequence[tuple[Place, int | None]]) -> None:
        """Give lanes of ours up, with the time until which the rate of each is spent; None: nobody knows."""

    async def tell(self, states: Sequence[tuple[Place, str]]) -> None:
        """Tell how lanes of ours stand."""

    async def resume(self, lane: Place) -> None:
        """Let whoever has the lane know that a person lets it go on."""

    async def daemons(self) -> list[DaemonRow]:
        """Read who lives, the longest first."""

    async def notify(self, news: str) -> None:
        """Send a few words to all daemons; they may be lost."""

    def listen(self, heard: Callable[[str | None], None]) -> None:
        """Hear what is sent, ourselves included; None: something may have been missed."""


class Copier(Protocol):
    """Makes copies of a store while it is in use."""

    def copy(self) -> AbstractAsyncContextManager[Copy]:
        """Make a copy for the time of the block. Raises `CopyRunning`, `StoreFull`, and `StoreError` if it is not whole.

        The block is cancelled when copying stops; what comes out of it is `StoreUnavailable`.
        """

    def stop(self) -> None:
        """Break off the copy that is being made or read, and make none any more."""


class Store(Protocol):
    """Durable rows. Times are milliseconds since the epoch."""

    failed: asyncio.Event
    """Set once the store cannot be trusted any more, and the process must end."""

    on_commit: Callable[[float, int], None]
    """Told of each commit: its seconds, and how many writes shared it."""

    @property
    def engine(self) -> str:
        """What keeps them, with its version."""

    @property
    def roster(self) -> Roster | None:
        """Who else works here; None if nobody else can."""

    @property
    def copier(self) -> Copier | None:
        """What makes copies of it; None if that is its server's affair."""

    async def copied(self) -> Copied | None:
        """Is it a copy that no daemon has opened yet? Then nothing is to be sent before a person has looked."""

    async def settle_in(self) -> None:
        """Begin a new life in this place; a copy is none from now on, and whoever was signed in to it is no more."""

    async def backed_up(self, taken_at: int) -> None:
        """Note that somebody has a whole copy, as of then."""

    async def health(self) -> StoreHealth:
        """Tell how large it is, how much room there is, and when it was backed up last."""

    def clock(self) -> int:
        """Tell the time by which rows fall due and leases end."""

    def reasons(self) -> list[str]:
        """Say why it cannot be written at the moment; empty if it can."""

    def accept(self, rows: Sequence[NewRow], now: int) -> "asyncio.Future[list[Acceptance]]":
        """Insert the rows under their idempotency keys, all in one commit; it happens whether or not anybody waits.

        With a roster, no more of a tenant than its rate allows: of those that are too many the first go in.
        """

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
        """Write the row if it is still as `change.before` says; False if it moved. Raises `KeyWithdrawn`."""

    async def get(self, notification_id: str, *, content: bool = False) -> StoredRow | None:
        """Read one notification."""

    async def page(self, listing: Listing) -> list[StoredRow]:
        """Read notifications, newest first, without content."""

    async def expired(self, now: int, limit: int, after: StoredRow | None = None) -> list[StoredRow]:
        """Read ready rows whose time is over, those first that were the first to expire; go on behind `after`."""

    async def backlog(self) -> list[FlowBacklog]:
        """Read which flows have ready rows."""

    async def depths(self) -> list[FlowDepth]:
        """Count what each flow has that is not final."""

    async def census(self, now: int) -> list[FlowCensus]:
        """Count what is not final by flow and by how it waits; reads all of it, so ask rarely."""

    async def forget(self, tenant: str, limit: int) -> int:
        """Delete up to `limit` of all that a tenant has: notifications, idempotency keys, webhook events.

        Answers how many: while it is `limit` there may be more. Where it signed in goes at once.
        """

    async def unfinished(self) -> dict[str, int]:
        """Count the rows that are not final, by tenant."""

    async def prune(self, now: int, finished_before: int, limit: int) -> int:
        """Delete up to `limit` final rows that ended before, and as many idempotency keys past their time.

        Answers the larger of both numbers: while it is `limit` there may be more. Where many rows stay, one
        call looks at a part of them, and the next goes on behind it.
        """

    async def add_events(self, events: Sequence[WebhookEvent]) -> None:
        """Insert events for webhooks; one that is there already stays as it is."""

    async def claim_events(self, wishes: Sequence[EventWish], now: int, lease_until: int) -> list[LeasedEvent]:
        """Take due events of these webhooks, those first that fell due first, each under a lease."""

    async def settle_events(self, results: Sequence[EventResult]) -> None:
        """Write what becomes of events; where a lease is lost, nothing is written."""

    async def drop_events(self, tenant: str, webhook: str) -> None:
        """Delete the events of a webhook."""

    async def due_events(self) -> list[EventsDue]:
        """Find the webhooks that have events, leased ones included, and when the first of each falls due."""

    async def pending_events(self, tenant: str, most: int) -> list[EventBacklog]:
        """Count the events of each of a tenant's webhooks, up to so many together; reads them all, so ask rarely."""

    async def directory(self) -> tuple[int, list[Entry]]:
        """Read the directory's revision and all of its entries."""

    async def directory_since(self, revision: int) -> News:
        """Read what became of the directory since that revision."""

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

    async def try_login(
        self, sign_in: SignIn, ticket: int, now: int, *, forget_at: int, most: int | None
    ) -> Permission:
        """Count a login as refused until `forget_at`, unless `most` of that account are already (None: whatever is).

        For a tenant that has signed in there before only its own count. The `ticket` is the caller's, to say by it what
        came of the login; asking again with the same one counts it once.
        """

    async def end_login(self, sign_in: SignIn, ticket: int, ending: Ending, *, forget_at: int) -> None:
        """Take a login's count back, or let it stand until `forget_at` if the relay refused it, counted before or not."""

    async def begin_session(self, row: SessionRow) -> None:
        """Insert a session, or a link; one that is there already stays as it is."""

    async def session(self, token_sha256: bytes) -> SessionRow | None:
        """Read the session, or the link, of a token, be it over or not."""

    async def use_session(self, token_sha256: bytes, used_at: int) -> None:
        """Note when a session was used; never earlier than it says already."""

    async def end_session(self, token_sha256: bytes, kind: SessionKind) -> SessionRow | None:
        """Take a session or a link away and give it back: of several who ask at once one gets it, the others None.

        Where the answer is lost nobody gets it.
        """

    async def end_sessions(self, who: str) -> int:
        """End all sessions and links of a person; answers how many."""

    async def prune_sessions(self, now: int, unused_since: int, limit: int) -> int:
        """Delete up to `limit` sessions and links that are over at `now`, and sessions last used before `unused_since`.

        Answers how many: while it is `limit` there may be more.
        """

    async def check(self) -> None:
        """Prove that the store can write, by writing."""
