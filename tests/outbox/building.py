"""Notifications, outcomes and a clock as the outbox's tests use them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256

from gateway.message.notification import Content, Notification, OnAmbiguous, Priority, Role, Severity, new_id
from gateway.outbox.delivery import Delivery
from gateway.outbox.outbox import Outbox, Retention, Submission
from gateway.outbox.states import Recipient, decode
from gateway.outbox.verdict import Schedule
from gateway.smtp.outcome import Phase, RecipientOutcome, Refused, Relayed, Transaction, Unknown, Untaken
from gateway.smtp.reply import Reply
from gateway.store.rows import Flow, Idempotency, Inserted, StoredRow
from tests.outbox.grounds import Ground, OpenStore

NOW = 1_767_225_600_000
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
FLOW = Flow("acme", "main")
SCHEDULE = Schedule((30, 60, 120, 300, 600, 1200, 1800, 3600), 300)

OK = Relayed(Reply(250, "2.0.0", "queued as 1"))
LATER = Refused(Phase.RECIPIENT, Reply(451, "4.7.0", "busy"))
NO = Refused(Phase.RECIPIENT, Reply(550, "5.1.1", "no such user"))
CUT = Untaken("the relay hung up")
SILENCE = Unknown("no reply to the final dot")
SIGN_IN_FIRST = Refused(Phase.SENDER, Reply(530, "5.7.0", "authentication required"))


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: int = NOW) -> None:
        """Start somewhere."""
        self.now = now

    def __call__(self) -> int:
        """Tell the time in milliseconds."""
        return self.now


def notification(
    *addresses: str,
    accepted_at: int = NOW,
    ttl: int = DAY,
    send_at: int | None = None,
    on_ambiguous: OnAmbiguous = OnAmbiguous.RETRY,
    simulated: bool = False,
    tenant: str = "acme",
    profile: str | None = "main",
    priority: Priority = Priority.NORMAL,
) -> Notification:
    """Make a notification to these addresses, or to Ann."""
    made = new_id(accepted_at)
    recipients = tuple((address, Role.TO) for address in addresses or ("ann@example.test",))
    return Notification(
        id=made,
        tenant=tenant,
        profile=profile,
        key_id="k1",
        category="general",
        severity=Severity.INFO,
        priority=priority,
        on_ambiguous=on_ambiguous,
        message_id=f"<{made}@example.test>",
        accepted_at=accepted_at,
        send_at=send_at,
        expires_at=(send_at or accepted_at) + ttl,
        simulated=simulated,
        metadata={},
        recipients=recipients,
        content=Content(None, (), (), (), "Hello", "Hi\n", None, (), (), None, None, False),
    )


def submission(of: Notification, key: str | None = None, body: str = "a") -> Submission:
    """Wrap a notification for acceptance."""
    forget_at = max(of.accepted_at + 3 * DAY, of.expires_at + DAY)
    idempotency = None if key is None else Idempotency(key, sha256(body.encode()).digest(), forget_at)
    return Submission(of, f'{{"id":"{of.id}"}}', idempotency)


class Bench:
    """An outbox on a real store, with a clock to move and a record of what it told."""

    def __init__(self, ground: Ground, store: OpenStore, clock: Clock, retention: Retention | None = None) -> None:
        """Work on an open store; `start` is the caller's."""
        self.ground = ground
        self.store = store
        self.clock = clock
        self.outbox = Outbox(store, SCHEDULE, retention=retention, clock=clock, dice=lambda: 0.5)
        self.ready: list[tuple[Flow, int]] = []
        self.events: list[tuple[str, int]] = []
        self.outbox.on_ready = lambda flow, due_at: self.ready.append((flow, due_at))
        self.outbox.on_found = self.outbox.on_ready
        self.outbox.on_event = lambda event, count, _tenant: self.events.append((event, count))

    async def post(self, *addresses: str, **others: object) -> str:
        """Accept a notification; answers its id."""
        made = notification(*addresses, accepted_at=self.clock(), **others)  # type: ignore[arg-type]
        assert await self.outbox.accept([submission(made)]) == [Inserted()]
        return made.id

    async def take(self, flow: Flow = FLOW) -> Delivery:
        """Claim exactly one notification."""
        (delivery,), _ = await self.outbox.claim(flow, 1)
        return delivery

    async def settle(self, delivery: Delivery, *outcomes: RecipientOutcome) -> None:
        """Settle the recipients that are due with these outcomes."""
        indexes = delivery.due(self.clock(), len(outcomes))
        await self.outbox.settle(delivery, indexes, Transaction(outcomes))

    async def deliver(self, *outcomes: RecipientOutcome) -> str:
        """Claim and settle one notification; answers its id."""
        delivery = await self.take()
        await self.settle(delivery, *outcomes)
        return delivery.row.id

    async def row(self, notification_id: str) -> StoredRow:
        """Read a row that is there, with its content."""
        found = await self.store.get(notification_id, content=True)
        assert found is not None
        return found

    async def recipients(self, notification_id: str) -> list[Recipient]:
        """Read a row's recipients."""
        return decode((await self.row(notification_id)).recipients)

    async def states(self, notification_id: str) -> list[str]:
        """Read the states of a row's recipients."""
        return [recipient.state.value for recipient in await self.recipients(notification_id)]

    async def counted(self) -> bool:
        """Is the counter of unfinished notifications what the store says?"""
        return +self.outbox.queued == await self.store.unfinished()


@asynccontextmanager
async def bench(ground: Ground, clock: Clock, retention: Retention | None = None) -> AsyncIterator[Bench]:
    """Open a store and start an outbox on it."""
    async with ground.store() as store:
        made = Bench(ground, store, clock, retention)
        await made.outbox.recount()
        await made.outbox.start()
        yield made


@asynccontextmanager
async def after_crash(b: Bench) -> AsyncIterator[Bench]:
    """Start the next daemon on what a power cut at this moment leaves."""
    async with bench(b.ground.after_power_cut(b.store), b.clock) as after:
        yield after


def names(events: Sequence[tuple[str, int]]) -> list[str]:
    """Tell the events without their numbers."""
    return [event for event, _ in events]
