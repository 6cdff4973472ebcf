"""One store, one daemon after another on it, a relay that keeps a ledger, and what must be true of them.

Owns the model that the state machine compares with: who was told what, which copies the relay took, which leases
there are. `check` holds after every step.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final, TypeVar

from gateway.message.notification import Notification, OnAmbiguous
from gateway.outbox.delivery import Delivery
from gateway.outbox.outbox import LEASE, Cancellation, Outbox, Submission
from gateway.outbox.states import State, decode, encode, status_of
from gateway.smtp.outcome import RecipientOutcome, Relayed, Transaction, Unknown
from gateway.store.rows import Acceptance, Flow, Inserted, Listing, Mismatched, Replayed, Stage, StoredRow
from tests.outbox.building import DAY, HOUR, NOW, OK, SCHEDULE, SILENCE, Clock
from tests.outbox.grounds import Ground

T = TypeVar("T")
TENANTS: Final = ("a", "b")
FLOWS: Final = tuple(Flow(tenant, profile) for tenant in TENANTS for profile in ("", "main"))
RETENTION: Final = 7 * DAY
LONGEST_WAIT: Final = round(1.2 * HOUR)
TAKEN_IN_SILENCE: Final = Unknown("the relay took it, and its answer was lost")


@dataclass(slots=True)
class Posted:
    """An acknowledged notification, as its sender and the relay know it."""

    notification: Notification
    row: StoredRow
    content: bool = True
    cancelled: bool = False
    told: set[str] = field(default_factory=set)  # to whom the relay said that it took the copy
    copies: Counter[str] = field(default_factory=Counter)  # what the relay has, by recipient
    excuses: Counter[str] = field(default_factory=Counter)  # how often a second copy was to be expected

    @property
    def strict(self) -> bool:
        """Was it promised that no copy is sent again by itself?"""
        return self.notification.on_ambiguous is not OnAmbiguous.RETRY


class World:
    """Everything that a step may touch."""

    def __init__(self, ground: Ground) -> None:
        """Start the first daemon on an empty ground."""
        self.runner = asyncio.Runner()
        self.ground = ground
        self.clock = Clock(NOW)
        self.posted: dict[str, Posted] = {}
        self.keys: dict[tuple[str, str], tuple[bytes, str, int]] = {}
        self.hands: list[Delivery] = []
        self.ghosts: list[Delivery] = []
        self.sent: dict[tuple[str, int], list[int]] = {}
        self.leases: dict[int, int] = {}
        self.wake: dict[Flow, int] = {}
        self._dice = cycle((0.5, 0.0, 0.999))
        self.run(self._open())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a step to its end."""
        return self.runner.run(coroutine)

    async def _open(self) -> None:
        self.store = await self.ground.store().__aenter__()
        self.outbox = Outbox(self.store, SCHEDULE, clock=self.clock, dice=lambda: next(self._dice))
        self.outbox.on_ready = self.outbox.on_found = self._ready
        self.wake.clear()
        await self.outbox.recount()
        await self.outbox.start()

    def _ready(self, flow: Flow, due_at: int) -> None:
        self.wake[flow] = min(due_at, self.wake.get(flow, due_at))

    def close(self) -> None:
        """End the last daemon; what was left comes to its end by time alone, or rests because nobody knows its fate."""
        try:
            self.clock.now += 3 * DAY
            self.run(self.outbox.sweep())
            left = [row for row in self.run(self.rows()).values() if row.stage is not Stage.FINAL]
            assert {row.stage for row in left} <= {Stage.RESTING}
            assert self.run(self.store.unfinished()) == +self.outbox.queued == Counter(row.flow.tenant for row in left)
        finally:
            self.run(self.store.__aexit__())
            self.runner.close()

    # Steps.

    async def crash(self) -> None:
        """Cut the power, and start the next daemon on what is left."""
        self.ground = self.ground.after_power_cut(self.store)
        await self.store.__aexit__()
        self.ghosts += self.hands
        self.hands = []
        self.sent.clear()
        await self._open()
        rows = await self.rows()
        assert Stage.LEASED not in {row.stage for row in rows.values()}, "a dead daemon's mail waits for its lease"

    async def accept(self, submissions: Sequence[Submission]) -> None:
        """Post, and compare the answers with what the keys promise."""
        results = await self.outbox.accept(submissions)
        assert results == [self._expected(submission) for submission in submissions]
        for submission, result in zip(submissions, results, strict=True):
            row = await self.store.get(submission.notification.id)
            assert (row is not None) == isinstance(result, Inserted)
            if row is not None:
                self.posted[row.id] = Posted(submission.notification, row, content=row.content is not None)

    def _expected(self, submission: Submission) -> Acceptance:
        if (promise := submission.idempotency) is None:
            return Inserted()
        key = (submission.notification.tenant, promise.key)
        digest, answer, forget_at = self.keys.get(key, (b"", "", 0))
        if forget_at > self.clock():
            return Replayed(answer) if digest == promise.sha256 else Mismatched()
        self.keys[key] = (promise.sha256, submission.answer, promise.forget_at)
        return Inserted()

    async def claim(self, flow: Flow, limit: int) -> None:
        """Claim, and see that nothing that is due was left behind."""
        due = [
            row
            for row in (await self.rows()).values()
            if (row.stage, row.flow) == (Stage.READY, flow) and row.due_at <= self.clock()
        ]
        deliveries, next_due_at = await self.outbox.claim(flow, limit)
        assert len(deliveries) == min(limit, len(due))
        order = [(delivery.row.priority, delivery.row.due_at) for delivery in deliveries]
        assert order == sorted((row.priority, row.due_at) for row in due)[:limit]
        for delivery in deliveries:
            self.leases[delivery.lease.token] = self.clock() + LEASE
        self.hands += deliveries
        self.wake.pop(flow, None)
        if next_due_at is not None:
            self.wake[flow] = next_due_at

    async def attempt(self, delivery: Delivery, limit: int, outcomes: Sequence[RecipientOutcome]) -> list[int] | None:
        """Send a delivery to the relay as far as its answers; None if it may not be sent."""
        now = self.clock()
        indexes = [] if _key(delivery) in self.sent else delivery.due(now, limit)
        if not indexes or not delivery.live(now) or (delivery.strict and not await self.outbox.dot(delivery, indexes)):
            return None
        assert await self._current(delivery), "a body was begun under a lost lease"
        posted = self.posted[delivery.row.id]
        assert not posted.cancelled, "cancelled mail was sent"
        assert now < (await self.row(delivery.row.id)).expires_at, "mail was sent after its time"
        for index, outcome in zip(indexes, outcomes, strict=False):
            address = delivery.recipients[index].address
            assert address not in posted.told, "a copy that the relay had taken was sent again"
            posted.copies[address] += outcome is TAKEN_IN_SILENCE or isinstance(outcome, Relayed)
            posted.excuses[address] += isinstance(outcome, Unknown) and not posted.strict
        return indexes

    async def send(self, delivery: Delivery, limit: int) -> None:
        """Send a delivery of which the relay takes every copy, and wait for its answer."""
        if (indexes := await self.attempt(delivery, limit, [TAKEN_IN_SILENCE] * limit)) is not None:
            self.sent[_key(delivery)] = indexes

    async def hear(self, delivery: Delivery) -> bool:
        """Hear the answer to what was sent, if it was; perhaps it comes too late."""
        if (indexes := self.sent.pop(_key(delivery), None)) is None:
            return False
        if await self._current(delivery):
            await self._settle(delivery, indexes, [OK] * len(indexes))
        else:
            await self.too_late(delivery)
        return True

    async def deliver(self, delivery: Delivery, limit: int, outcomes: Sequence[RecipientOutcome]) -> None:
        """Do with a delivery what a worker does."""
        if await self.hear(delivery):
            return
        indexes = await self.attempt(delivery, limit, outcomes)
        if indexes is None:
            await self.give_back(delivery)
            return
        await self._settle(delivery, indexes, outcomes[: len(indexes)])

    async def _settle(self, delivery: Delivery, indexes: Sequence[int], outcomes: Sequence[RecipientOutcome]) -> None:
        transaction = Transaction(tuple(outcomes))
        addresses = [delivery.recipients[index].address for index in indexes]
        await self.outbox.settle(delivery, indexes, transaction)
        assert not await self._current(delivery)
        taken = {a for a, o in zip(addresses, transaction.outcomes, strict=True) if isinstance(o, Relayed)}
        self.posted[delivery.row.id].told |= taken

    async def give_back(self, delivery: Delivery) -> None:
        """Return a delivery unsent; without a reason it must be as it was."""
        now = self.clock()
        if await self.hear(delivery):
            return
        if not await self._current(delivery):
            await self.too_late(delivery)
        elif now >= delivery.row.expires_at:
            await self.outbox.expire(delivery)
        else:
            await self.outbox.release(delivery)
            row = await self.row(delivery.row.id)
            if not delivery.revoked:
                assert (row.stage, row.recipients) == (Stage.READY, delivery.row.recipients)
                assert row.due_at == delivery.row.due_at

    async def hold(self, delivery: Delivery, until: int) -> None:
        """Put a delivery off until a person helps, if it could be sent at all."""
        if _key(delivery) in self.sent or not delivery.live(self.clock()) or not delivery.due(self.clock(), 1):
            await self.give_back(delivery)
            return
        await self.outbox.hold(delivery, until, "sender_not_allowed")
        row = await self.row(delivery.row.id)
        assert row.stage is Stage.READY
        assert row.due_at == min(one.next_attempt_at or 0 for one in decode(row.recipients) if one.due)

    async def too_late(self, delivery: Delivery) -> None:
        """Settle under a lost lease: nothing of it may be written."""
        before = await self.store.get(delivery.row.id, content=True)
        queued = dict(self.outbox.queued)
        indexes = delivery.due(self.clock(), 9)
        await self.outbox.settle(delivery, indexes, Transaction((SILENCE,) * len(indexes)))
        assert await self.store.get(delivery.row.id, content=True) == before
        assert dict(self.outbox.queued) == queued

    async def _current(self, delivery: Delivery) -> bool:
        row = await self.store.get(delivery.row.id)
        return row is not None and row.lease_token == delivery.lease.token

    async def renew(self) -> None:
        """Renew, and note which leases were still there."""
        await self.outbox.renew()
        for row in (await self.rows()).values():
            if row.lease_token is not None and row.lease_token in {one.lease.token for one in self.hands}:
                self.leases[row.lease_token] = self.clock() + LEASE

    async def sweep(self) -> None:
        """Sweep, and see that nothing was forgotten by it."""
        await self.outbox.sweep()
        now = self.clock()
        for row in (await self.rows()).values():
            if row.lease_token is not None:
                assert self.leases[row.lease_token] > now, "a lease outlived its time"
            elif row.stage is Stage.READY:
                assert row.expires_at > now, "mail outlived its time"
            elif row.stage is Stage.FINAL:
                assert row.finished_at is not None
                assert row.finished_at >= now - RETENTION, "mail outlived its retention"

    async def cancel(self, notification_id: str) -> None:
        """Cancel, and remember the promise."""
        posted = self.posted.get(notification_id)
        if posted is None:  # somebody still held it when it was forgotten
            assert await self.outbox.cancel(notification_id) == Cancellation.GONE
            return
        before = await self.store.get(notification_id)
        refused = await self.outbox.cancel(notification_id)
        assert (refused is None) == (before is not None and (before.stage is not Stage.FINAL or before.cancelled))
        posted.cancelled |= refused is None

    async def retry(self, notification_id: str) -> None:
        """Retry, which excuses one more copy to everyone concerned."""
        posted = self.posted.get(notification_id)
        if posted is None:  # somebody still held it when it was forgotten
            assert await self.outbox.retry(notification_id, HOUR) == Cancellation.GONE
            return
        before = await self.store.get(notification_id)
        if await self.outbox.retry(notification_id, HOUR) is None:
            assert before is not None
            assert before.stage is not Stage.LEASED
            assert before.stage is Stage.FINAL or not posted.cancelled, "cancelled mail was revived"
            posted.cancelled = False
            posted.excuses.update(one.address for one in decode(before.recipients) if one.state is not State.RELAYED)
            assert (await self.row(notification_id)).expires_at > self.clock()

    # Invariants.

    async def rows(self) -> dict[str, StoredRow]:
        """Read all rows."""
        return {row.id: row for row in await self.store.page(Listing(TENANTS, 10_000))}

    async def row(self, notification_id: str) -> StoredRow:
        """Read a row that is there."""
        row = await self.store.get(notification_id)
        assert row is not None
        return row

    async def check(self) -> None:
        """See that what must always be true is true now."""
        rows = await self.rows()
        assert +self.outbox.queued == await self.store.unfinished()
        assert +self.outbox.queued == Counter(row.flow.tenant for row in rows.values() if row.stage is not Stage.FINAL)
        assert self.outbox.in_hand <= len(self.hands)
        assert rows.keys() <= self.posted.keys(), "there is mail that nobody posted"
        for notification_id, posted in list(self.posted.items()):
            if notification_id not in rows:
                self._pruned(posted)
                del self.posted[notification_id]
                continue
            row = rows[notification_id]
            self._stage(row)
            self._history(posted, row)
            if row != posted.row:
                await self._content(posted, row)
            posted.row = row

    def _pruned(self, posted: Posted) -> None:
        last = posted.row
        assert last.stage is Stage.FINAL, "acknowledged mail was lost"
        assert last.finished_at is not None
        assert last.finished_at < self.clock() - RETENTION

    def _stage(self, row: StoredRow) -> None:
        """Everything that is not final has something that will happen to it."""
        recipients = decode(row.recipients)
        assert encode(recipients) == row.recipients
        assert row.status in {
            status_of(recipients, sending=False, scheduled=False, held=held) for held in (False, True)
        }
        due = [one.next_attempt_at or 0 for one in recipients if one.due]
        match row.stage:
            case Stage.READY:
                assert row.due_at == min(due)
                assert max(due) <= max(self.clock() + LONGEST_WAIT, row.accepted_at + HOUR)
                assert self.wake.get(row.flow, row.due_at + 1) <= row.due_at, "nobody will claim it"
            case Stage.LEASED:
                assert row.lease_token in self.leases
                assert row.lease_token in {one.lease.token for one in self.hands}, "nobody holds it"
            case Stage.RESTING:
                assert not due
                assert State.UNCERTAIN in {one.state for one in recipients}
            case Stage.FINAL:
                assert all(one.final for one in recipients)
                assert row.finished_at is not None
        assert (row.lease_token is not None) == (row.stage is Stage.LEASED)
        assert (row.finished_at is not None) == (row.stage is Stage.FINAL)
        assert all(len(json.loads(line)) == 3 for line in row.events.splitlines())

    def _history(self, posted: Posted, row: StoredRow) -> None:
        """No copy too many, none relayed that was not taken, none un-relayed, none revived."""
        assert row.events.startswith(posted.row.events)
        before = {one.address: one for one in decode(posted.row.recipients)}
        now = {one.address: one for one in decode(row.recipients)}
        assert list(now) == list(before)
        relayed = {address for address, one in now.items() if one.state is State.RELAYED}
        assert relayed == (set(now) if posted.notification.simulated else posted.told)
        for address, one in before.items():
            if one.state in (State.RELAYED, State.CANCELLED):
                assert now[address] == one
            assert now[address].unanswered <= (1 if posted.strict else 3), "silence was taken for consent"
            if posted.cancelled and now[address].state is State.EXPIRED:
                assert one.state is State.EXPIRED, "cancelled mail expired"
            if row.stage is Stage.READY and now[address].due:
                assert posted.copies[address] <= posted.excuses[address], "a copy too many will be sent"
            assert posted.copies[address] <= 1 + posted.excuses[address], "a copy too many"

    async def _content(self, posted: Posted, row: StoredRow) -> None:
        done = all(one.state in (State.RELAYED, State.CANCELLED) for one in decode(row.recipients))
        found = await self.store.get(row.id)
        assert found is not None
        assert (found.content is None) == done, "content was erased too early or too late"


def _key(delivery: Delivery) -> tuple[str, int]:
    return delivery.row.id, delivery.lease.token
