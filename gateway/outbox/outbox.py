"""Accept, claim, settle, sweep: the one place where HTTP and SMTP meet.

Owns every notification between its 202 and its end. Promises: what `accept` returned survives any crash; a result is
written only under the lease that claimed the row; nothing that is not final lacks a time at which something happens
to it, unless a person was asked to decide. Retries live here and nowhere else.

The clock gives milliseconds since the epoch; clock and dice are passed in.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

from pydantic_core import from_json

from gateway.message.notification import Notification, compact, encode_content
from gateway.observe import facts
from gateway.outbox.delivery import Delivery, Lease, decode_envelope, encode_envelope
from gateway.outbox.judgements import cancelled, change_of, due_now, expired, history, named, stage_of
from gateway.outbox.states import RETRYABLE, Recipient, State, Status, decode, encode, status_of
from gateway.outbox.traffic import Traffic
from gateway.outbox.verdict import Circumstances, Judgement, Schedule, burns_no_attempt, judge
from gateway.smtp.outcome import RecipientOutcome, Relayed, Transaction, Unknown
from gateway.smtp.reply import Reply
from gateway.store.protocol import Store, StoreBroken, StoreUnavailable
from gateway.store.rows import (
    BROUGHT,
    LIGHT,
    Acceptance,
    Change,
    Claim,
    Flow,
    Idempotency,
    Inserted,
    LeasedRow,
    Mismatched,
    NewRow,
    Replayed,
    Settlement,
    Stage,
    StoredRow,
)

LEASE: Final = 40_000  # ms; renewed every RENEW while a delivery is in our hands
RENEW: Final = 10_000
RECOUNT: Final = 5.0  # seconds after which what several daemons accept is counted anew
SWEEP_ROWS: Final = 500
SWEEP_SECONDS: Final = 5.0  # for each of the two things that a sweep may find a lot of: the next one goes on
SIMULATED: Final = Reply(250, "2.0.0", "simulated")

Clock = Callable[[], int]


class Row(Protocol):
    """What tells a notification apart, new or known."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def flow(self) -> Flow:
        """Whose it is, and the profile that it names."""

    @property
    def category(self) -> str:
        """What it is about."""

    @property
    def accepted_at(self) -> int:
        """When it came."""

    @property
    def envelope(self) -> str:
        """The rest, as the store keeps it."""


Tell = Callable[[Row, Sequence[tuple[int, Judgement]], Status], str | None]
"""Writes what webhooks shall be told of judgements that are about to be committed; None: nothing."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A notification to accept, the answer its idempotency key shall repeat, that key, and its tenant's rate."""

    notification: Notification
    answer: str
    idempotency: Idempotency | None = None
    per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """How long finished notifications stay, and whether content goes as soon as nobody can need it."""

    finished_days: int = 7
    content_until_final: bool = True


class Cancellation:
    """Why something could not be done to a notification."""

    FINISHED: Final = "already_final"
    GONE: Final = "content_gone"
    MOVED: Final = "in_flight"


class Outbox:
    """The durable queue."""

    def __init__(
        self,
        store: Store,
        schedule: Schedule,
        *,
        retention: Retention | None = None,
        clock: Clock | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """Work on an open store."""
        self.clock = clock or store.clock
        self.queued: Counter[str] = Counter()
        self.traffic = Traffic(self.clock)
        self.on_ready: Callable[[Flow, int], None] = lambda _flow, _due_at: None  # news
        self.on_found: Callable[[Flow, int], object] = lambda _flow, _due_at: None  # everybody finds it who looks
        self.on_revoked: Callable[[str], None] = lambda _id: None  # of mail that is not in our hands
        self.on_accepted: Callable[[str, int, int], None] = lambda _tenant, _recipients, _octets: None
        self.on_event: Callable[[str, int, str], None] = lambda _event, _count, _tenant: None
        self.tell: Tell = lambda _row, _judgements, _status: None
        self.on_told: Callable[[str], None] = lambda _tenant: None
        self._store = store
        self._schedule = schedule
        self._retention = retention or Retention()
        self._dice = dice
        self._leases: dict[int, Lease] = {}
        self._held: dict[str, Delivery] = {}
        self.content_in_hand = 0  # characters that came along with claims

    @property
    def in_hand(self) -> int:
        """How many notifications are claimed and not settled yet."""
        return len(self._held)

    def adopt(self, schedule: Schedule, retention: Retention) -> None:
        """Judge by another schedule, and keep by another retention, from now on."""
        self._schedule = schedule
        self._retention = retention

    async def start(self) -> None:
        """Settle what a dead daemon left unknown, and tell what is ready; what is there was counted (`recount`) before."""
        await self._end()
        await self.look()

    async def look(self) -> None:
        """Take back what dead daemons held, and tell of every flow that has mail, whoever accepted it."""
        await self._release(0)  # who is only late, as all are when the store was away, has results to bring
        for flow, next_due_at in await self._store.backlog():
            self.on_found(flow, next_due_at)

    async def recount(self) -> None:
        """Count what is not final, whoever accepted it."""
        counted = await self._store.unfinished()
        self.queued.clear()
        self.queued.update(counted)

    # Accept.

    def accept(self, submissions: Sequence[Submission]) -> "asyncio.Future[list[Acceptance]]":
        """Commit notifications to stable storage, all in one transaction; it is done once they are there.

        A caller that goes away meanwhile changes nothing: what is committed is counted and sent all the same.
        """
        rows = [self._telling(_new_row(submission, self._retention)) for submission in submissions]
        committed = self._store.accept(rows, self.clock())
        committed.add_done_callback(partial(self._accepted, submissions, rows))
        return committed

    def _telling(self, row: NewRow) -> NewRow:
        """Give a row with what is told of it, if it comes to its end as it comes."""
        if row.stage is not Stage.FINAL:
            return row
        ended = [(index, Judgement(one, "", "")) for index, one in enumerate(decode(row.recipients))]
        return row._replace(told=self.tell(row, ended, Status(row.status)))

    def _accepted(
        self, submissions: Sequence[Submission], rows: list[NewRow], committed: "asyncio.Future[list[Acceptance]]"
    ) -> None:
        if committed.cancelled() or committed.exception() is not None:
            return
        for submission, row, result in zip(submissions, rows, committed.result(), strict=True):
            if not isinstance(result, Inserted):
                continue
            self.on_accepted(row.flow.tenant, len(submission.notification.recipients), _octets(row.content or ""))
            if row.told is not None:
                self.on_told(row.flow.tenant)
            if row.stage is Stage.READY:
                self.queued[row.flow.tenant] += 1
                self.on_ready(row.flow, row.due_at)

    async def recall(self, tenant: str, key: str, sha256: bytes) -> Acceptance | None:
        """Find what was answered under an idempotency key, for a request that would not be accepted any more."""
        known = await self._store.recall(tenant, key, self.clock())
        if known is None:
            return None
        return Replayed(known[1]) if known[0] == sha256 else Mismatched()

    # Claim.

    def claim(self, flow: Flow, limit: int) -> Coroutine[Any, Any, tuple[list[Delivery], int | None]]:
        """Take due mail of a flow under a lease; answers it and when the flow's next falls due (None: never).

        As much content as it may bring counts as in hand at once, so that many claims at a time know of each other.
        """
        most = min(limit * LIGHT, BROUGHT)
        self.content_in_hand += most
        return self._claim(flow, limit, most)

    async def _claim(self, flow: Flow, limit: int, most: int) -> tuple[list[Delivery], int | None]:
        now = self.clock()
        try:
            claimed = await self._store.claim(Claim(flow, limit, now, now + LEASE))
        finally:
            self.content_in_hand -= most
        if not claimed.rows:
            return [], claimed.next_due_at
        lease = Lease(claimed.rows[0].lease_token, now, now + LEASE, 0)
        deliveries = [delivery for row in claimed.rows if (delivery := _readable(row, lease)) is not None]
        lease.held = len(deliveries)
        if deliveries:
            self._leases[lease.token] = lease
        self._held.update((delivery.row.id, delivery) for delivery in deliveries)
        self.content_in_hand += sum(len(delivery.row.content or "") for delivery in deliveries)
        return deliveries, claimed.next_due_at

    async def fetch(self, delivery: Delivery) -> None:
        """Read what a heavy delivery says, if it is still there. Raises `StoreError`."""
        row = await self._store.get(delivery.row.id, content=True)
        delivery.body = None if row is None else row.content

    async def renew(self) -> None:
        """Prolong every lease whose deliveries are still in our hands; what was lost may begin no body any more."""
        if not self._leases:
            return
        until = self.clock() + LEASE
        leases = list(self._leases.values())
        held = await self._store.renew([lease.token for lease in leases], until)
        for lease in leases:
            lease.until = until if lease.token in held else 0

    async def dot(self, delivery: Delivery, indexes: Sequence[int]) -> bool:
        """Commit that the final dot for the recipients at `indexes` is about to leave; False: it must not."""
        told = compact(list(indexes))
        try:
            return delivery.live(self.clock()) and await self._store.dot(delivery.row.seq, delivery.lease.token, told)
        except StoreUnavailable:  # if it is committed after all, the result that it was not sent undoes it
            return False

    # Settle. Each of these commits in any case; what it answers need not be waited for.

    def settle(
        self,
        delivery: Delivery,
        indexes: Sequence[int],
        transaction: Transaction,
        by: str = "",
        *,
        instead_of: str = "",
    ) -> "asyncio.Future[bool]":
        """Judge a transaction over the recipients at `indexes` and commit the result.

        `by` names the profile that carried it ("owner/name"): who may read the relay's words depends on that. It may
        have done so `instead_of` another, which the history then tells.
        """
        if burns_no_attempt(transaction.outcomes):
            return self.release(delivery)
        judgements = self._judge(delivery, indexes, transaction.outcomes, by)
        if instead_of:
            told = f"{by.partition('/')[2]} instead of {instead_of.partition('/')[2]}"
            judgements = [
                (index, replace(one, event="failover", detail=told)) for index, one in judgements
            ] + judgements
        return self._finish(delivery, judgements, by=by, claimed_at=delivery.lease.since)

    def release(self, delivery: Delivery) -> "asyncio.Future[bool]":
        """Give a notification back untouched: what went wrong was not its fault."""
        return self._finish(delivery, [])

    def hold(self, delivery: Delivery, until: int, reason: str) -> "asyncio.Future[bool]":
        """Give a notification back and look at it again then (ms): a person has to change something first."""
        now = self.clock()
        event = "" if delivery.row.status == Status.HELD else "held"  # told once
        judgements = [
            (index, Judgement(replace(delivery.recipients[index], next_attempt_at=until), event, reason))
            for index in delivery.due(now, len(delivery.recipients))
        ]
        return self._finish(delivery, judgements, held=True)

    def expire(self, delivery: Delivery) -> "asyncio.Future[bool]":
        """End a claimed notification whose time is over."""
        return self._finish(delivery, [] if delivery.revoked else expired(delivery.recipients))

    def _judge(
        self, delivery: Delivery, indexes: Sequence[int], outcomes: Sequence[RecipientOutcome], by: str
    ) -> list[tuple[int, Judgement]]:
        given = Circumstances(
            self.clock(),
            self._schedule,
            delivery.envelope.on_ambiguous,
            self._dice,
            siblings_taken=any(isinstance(outcome, Relayed) for outcome in outcomes),
            by=by,
        )
        return [
            (index, named(judge(delivery.recipients[index], outcome, given), by))
            for index, outcome in zip(indexes, outcomes, strict=True)
        ]

    def _finish(
        self,
        delivery: Delivery,
        judgements: list[tuple[int, Judgement]],
        *,
        held: bool = False,
        by: str = "",
        claimed_at: int = 0,
    ) -> "asyncio.Future[bool]":
        """Write a result under its lease; answers whether the lease still held."""
        for index, judgement in judgements:
            delivery.recipients[index] = judgement.recipient
        if delivery.revoked:
            judgements += cancelled(delivery.recipients)
        settlement = self._settlement(delivery, judgements, held=held, by=by, claimed_at=claimed_at)
        written = self._store.settle(settlement)
        written.add_done_callback(partial(self._finished, delivery, judgements, settlement, by))
        return written

    def _finished(
        self,
        delivery: Delivery,
        judgements: list[tuple[int, Judgement]],
        settlement: Settlement,
        by: str,
        written: "asyncio.Future[bool]",
    ) -> None:
        self._let_go(delivery)
        if written.cancelled():
            return
        if (error := written.exception()) is not None:
            if not isinstance(error, StoreBroken):  # which tells of itself, once for all
                facts.result_unwritten(delivery.row.id, delivery.row.flow.tenant, error, delivery.envelope.traceparent)
            return
        if not written.result():
            self.on_event("lease_lost", 1, delivery.row.flow.tenant)
            facts.lease_lost(delivery.row.id, delivery.row.flow.tenant, delivery.envelope.traceparent)
            return
        for _, judgement in judgements:
            if judgement.event:
                self._count(judgement.event, 1, delivery.row.flow.tenant)
        _tell(delivery.row, judgements, by, delivery.envelope.traceparent)
        if settlement.told is not None:
            self.on_told(delivery.row.flow.tenant)
        if settlement.stage is Stage.FINAL:
            self.queued[delivery.row.flow.tenant] -= 1
        elif settlement.stage is Stage.READY:
            self.on_ready(delivery.row.flow, settlement.due_at)

    def _count(self, event: str, count: int, tenant: str) -> None:
        self.traffic.count(event, count, tenant)
        self.on_event(event, count, tenant)

    def _settlement(
        self, delivery: Delivery, judgements: list[tuple[int, Judgement]], *, held: bool, by: str, claimed_at: int
    ) -> Settlement:
        now = self.clock()
        row = delivery.row
        stage, due_at = stage_of(delivery.recipients, row.due_at)
        status = status_of(delivery.recipients, sending=False, scheduled=False, held=held)
        return Settlement(
            seq=row.seq,
            lease_token=delivery.lease.token,
            stage=stage,
            status=status,
            due_at=due_at,
            finished_at=now if stage is Stage.FINAL else None,
            recipients=encode(delivery.recipients),
            events=history(now, delivery.recipients, judgements, by, claimed_at),
            erase=stage is Stage.FINAL and self._erasable(delivery.recipients),
            told=self.tell(row, judgements, status),
        )

    def _erasable(self, recipients: Sequence[Recipient]) -> bool:
        done = all(recipient.state in (State.RELAYED, State.CANCELLED) for recipient in recipients)
        return done and self._retention.content_until_final

    def _let_go(self, delivery: Delivery) -> None:
        if self._held.get(delivery.row.id) is delivery:  # not one that was claimed anew after our lease was lost
            del self._held[delivery.row.id]
        self.content_in_hand -= len(delivery.row.content or "")
        delivery.lease.held -= 1
        if delivery.lease.held == 0:
            self._leases.pop(delivery.lease.token, None)

    # What people do.

    async def cancel(self, notification_id: str, key_id: str | None = None) -> str | None:
        """Cancel what is not final; None, or why it could not be done.

        `key_id` is the API key that asks for it: if another daemon revoked it meanwhile, this raises `KeyWithdrawn`.

        Mail that is already on the wire cannot be called back: what of it is not accepted is then not tried again.
        """
        revoked = False
        while (row := await self._store.get(notification_id)) is not None:
            if row.stage is Stage.LEASED:
                revoked = self.revoke(notification_id) or revoked
            if row.stage is Stage.FINAL or (row.stage is Stage.LEASED and row.cancelled):
                # What we revoked is ended by whoever has it in hand, who may be faster than we.
                return None if row.cancelled or (revoked and _stopped(row)) else Cancellation.FINISHED
            if await self._store.change(replace(self._cancellation(row), key_id=key_id)):
                if row.stage is Stage.LEASED:
                    if not self.revoke(notification_id):  # the claim may have reached us only now
                        self.on_revoked(notification_id)
                else:
                    self.queued[row.flow.tenant] -= 1
                    self._count(State.CANCELLED, _unfinished(row), row.flow.tenant)
                return None
        return Cancellation.GONE

    def revoke(self, notification_id: str) -> bool:
        """Begin no more with a delivery that was cancelled; is it in our hands?"""
        held = self._held.get(notification_id)
        if held is not None:
            held.revoked = True
        return held is not None

    async def heed(self, notification_id: str) -> None:
        """Begin no more with a delivery of which somebody says that it was cancelled, if it was."""
        if notification_id in self._held:
            with suppress(StoreUnavailable):
                row = await self._store.get(notification_id)
                if row is not None and row.cancelled:
                    self.revoke(notification_id)

    def _cancellation(self, row: StoredRow) -> Change:
        now = self.clock()
        if row.stage is Stage.LEASED:
            return change_of(row, decode(row.recipients), now, [], cancelled=True)
        recipients = decode(row.recipients)
        judgements = cancelled(recipients)
        for index, judgement in judgements:
            recipients[index] = judgement.recipient
        change = change_of(row, recipients, now, judgements)
        return replace(change, erase=self._erasable(recipients))

    async def retry(self, notification_id: str, ttl: int, key_id: str | None = None) -> str | None:
        """Make deferred, failed, expired and uncertain recipients due now; None, or why it could not be done.

        A notification whose time was over gets `ttl` more milliseconds. `key_id` is as in `cancel`.
        """
        while (row := await self._store.get(notification_id)) is not None:
            recipients = decode(row.recipients)
            chosen = [i for i, recipient in enumerate(recipients) if recipient.state in RETRYABLE]
            if row.stage is Stage.LEASED:
                return Cancellation.MOVED
            if not chosen or (row.cancelled and row.stage is not Stage.FINAL):
                return Cancellation.FINISHED
            if row.content is None:
                return Cancellation.GONE
            now = self.clock()
            judgements = [(i, due_now(recipients[i], now)) for i in chosen]
            for index, judgement in judgements:
                recipients[index] = judgement.recipient
            change = change_of(row, recipients, now, judgements)
            expires_at = row.expires_at if row.expires_at > now else now + ttl
            change = replace(change, expires_at=expires_at, key_id=key_id)
            if await self._store.change(change):
                self.queued[row.flow.tenant] += row.stage is Stage.FINAL
                self.on_ready(row.flow, change.due_at)
                return None
        return Cancellation.GONE

    async def forget(self, tenant: str) -> None:
        """Delete all that a tenant has sent, finished or not: who gets its name next shall neither read nor send it."""
        while await self._store.forget(tenant, SWEEP_ROWS) == SWEEP_ROWS:
            pass
        self.queued.pop(tenant, None)
        self.traffic.forget(tenant)

    # Sweep.

    async def sweep(self) -> None:
        """Take back leases that ran out, expire what is out of time, forget what is old: as much as there is time for."""
        await self._release(self.clock())
        await self._end()
        await self._forget_old()

    async def _end(self) -> None:
        """Expire what is out of time; what could not be is found, and not sent, by whoever claims it."""
        now, enough = self.clock(), time.monotonic() + SWEEP_SECONDS
        last: StoredRow | None = None
        while rows := await self._store.expired(now, SWEEP_ROWS, last):
            await asyncio.gather(*(self._expire(row) for row in rows))  # they share commits
            last = rows[-1]
            if time.monotonic() >= enough:
                break

    async def _forget_old(self) -> None:
        now, enough = self.clock(), time.monotonic() + SWEEP_SECONDS
        before = now - self._retention.finished_days * 86_400_000
        while await self._store.prune(now, before, SWEEP_ROWS) == SWEEP_ROWS and time.monotonic() < enough:
            pass

    async def _release(self, until: int) -> None:
        """Take back leases that ran out by then (ms), and those of dead daemons."""
        released, unknown = await self._store.release_expired(until)
        for flow, due_at in released:
            self.on_ready(flow, due_at)
        for left in unknown:
            await self._settle_unknown(left)

    async def _settle_unknown(self, row: LeasedRow) -> None:
        """Judge a delivery whose daemon died after it had announced the final dot."""
        delivery = _readable(row._replace(content=None), Lease(row.lease_token, 0, 0, 1))  # it is not sent again here
        if delivery is None:
            return
        try:
            indexes = self._dotted(row, delivery)
        except (ValueError, TypeError) as error:
            facts.row_unreadable(row.id, error)
            return
        lost = Transaction(tuple(Unknown("the daemon ended before the relay answered") for _ in indexes))
        await self.settle(delivery, indexes, lost)

    def _dotted(self, row: LeasedRow, delivery: Delivery) -> list[int]:
        """Tell for which recipients the final dot was announced: those that were noted, else all that were due."""
        everybody = range(len(delivery.recipients))
        if not row.dotted_for:
            began = max(self.clock(), row.due_at)  # a clock that was set back must not make it look unsent
            return delivery.due(began, len(everybody))
        indexes: list[int] = from_json(row.dotted_for)
        if type(indexes) is not list or not indexes:
            raise ValueError("names nobody")
        if any(type(index) is not int or index not in everybody for index in indexes):
            raise ValueError("names others than recipients")
        return indexes

    async def _expire(self, row: StoredRow) -> None:
        """End a row whose time is over, if it can be read."""
        try:
            change, event = self._ending(row)
        except (ValueError, TypeError) as error:
            facts.row_unreadable(row.id, error)
            return
        if not await self._store.change(change):
            return
        self.queued[row.flow.tenant] -= change.stage is Stage.FINAL
        self._count(event, _unfinished(row), row.flow.tenant)
        if event is State.EXPIRED:
            _tell(row, expired(decode(row.recipients)), "", _traceparent(row))
        if change.told is not None:
            self.on_told(row.flow.tenant)

    def _ending(self, row: StoredRow) -> tuple[Change, State]:
        if row.cancelled:  # while it was leased, and nobody came to give it back
            return self._cancellation(row), State.CANCELLED
        recipients = decode(row.recipients)
        judgements = expired(recipients)
        for index, judgement in judgements:
            recipients[index] = judgement.recipient
        change = change_of(row, recipients, self.clock(), judgements)
        return replace(change, told=self.tell(row, judgements, Status(change.status))), State.EXPIRED

    async def keep(self) -> None:
        """Renew leases and sweep, for ever; no sweep, however long it takes, keeps leases from being renewed.

        After a time in which the store could not be reached nobody's lease is ended before its holder, who could not
        reach it either, has had the time to renew it.
        """
        reached, looked = True, self.clock()
        sweeping: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(RENEW / 1000)
                try:
                    await self.renew()
                    steady = reached and self.clock() - looked < 2 * RENEW  # the clock may have been set, for all
                    if steady and (sweeping is None or sweeping.done()):
                        sweeping = tasks.create_task(self._sweep_if_reached())
                    reached = True
                except StoreUnavailable:
                    reached = False
                looked = self.clock()

    async def _sweep_if_reached(self) -> None:
        with suppress(StoreUnavailable):  # the next renewal meets it too
            await self.sweep()

    async def keep_count(self) -> None:
        """Count anew what several daemons accept and finish, for ever."""
        while True:
            await asyncio.sleep(RECOUNT)
            with suppress(StoreUnavailable):
                await self.recount()


def _readable(row: LeasedRow, lease: Lease) -> Delivery | None:
    """Read a row; None if it cannot be: it stays leased, and is looked at again by whoever claims it after that."""
    try:
        return Delivery(row, lease)
    except (ValueError, TypeError) as error:
        facts.row_unreadable(row.id, error)
        return None


def _tell(
    row: LeasedRow | StoredRow, judgements: list[tuple[int, Judgement]], by: str, traceparent: str | None
) -> None:
    """Tell operators what came of recipients."""
    for index, judgement in judgements:
        if judgement.event:
            reply = judgement.recipient.reply
            said = None if reply is None else (reply.code, reply.enhanced)
            facts.outcome(judgement.event, row.id, row.flow.tenant, by, index, said, traceparent)


def _traceparent(row: StoredRow) -> str | None:
    """The trace of a row that is ended, whether or not the rest of it can be read."""
    try:
        return decode_envelope(row.envelope).traceparent
    except (ValueError, TypeError):
        return None


def _new_row(submission: Submission, retention: Retention) -> NewRow:
    notification = submission.notification
    due_at = notification.send_at or notification.accepted_at
    state, reply = (State.RELAYED, SIMULATED) if notification.simulated else (State.QUEUED, None)
    next_attempt_at = None if notification.simulated else due_at
    kept = not (notification.simulated and retention.content_until_final)
    recipients = [
        Recipient(address, role, state, next_attempt_at=next_attempt_at, reply=reply)
        for address, role in notification.recipients
    ]
    return NewRow(
        id=notification.id,
        flow=Flow(notification.tenant, notification.profile or ""),
        category=notification.category,
        key_id=notification.key_id,
        priority=int(notification.priority),
        due_at=due_at,
        expires_at=notification.expires_at,
        accepted_at=notification.accepted_at,
        recipients=encode(recipients),
        envelope=encode_envelope(notification),
        content=encode_content(notification.content) if kept else None,
        answer=submission.answer,
        stage=Stage.FINAL if notification.simulated else Stage.READY,
        status="relayed" if notification.simulated else "queued",
        idempotency=submission.idempotency,
        per_minute=submission.per_minute,
    )


def _unfinished(row: StoredRow) -> int:
    """How many recipients were not final."""
    return sum(not recipient.final for recipient in decode(row.recipients))


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _stopped(row: StoredRow) -> bool:
    return any(recipient.state is State.CANCELLED for recipient in decode(row.recipients))
