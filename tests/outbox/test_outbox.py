"""The outbox on a real store: what becomes of a notification between its 202 and its end."""

import asyncio
import json
from itertools import chain, repeat

import pytest
from structlog.testing import capture_logs

from gateway.message.notification import Priority
from gateway.outbox import outbox
from gateway.outbox.delivery import FENCE_MILLISECONDS
from gateway.outbox.outbox import LEASE
from gateway.smtp.outcome import RecipientOutcome, Transaction
from gateway.store.protocol import StoreError
from gateway.store.rows import Flow, Inserted, Mismatched, Replayed, Stage
from tests.outbox.building import (
    CUT,
    DAY,
    FLOW,
    HOUR,
    LATER,
    MINUTE,
    NO,
    NOW,
    OK,
    SECOND,
    SIGN_IN_FIRST,
    Bench,
    names,
    notification,
    submission,
)

# Accept.


async def test_accepted_mail_is_announced_and_counted(b: Bench) -> None:
    """Whoever waits for mail hears of it only when it is committed, with the time at which it is due."""
    posted = await b.post()
    assert (await b.row(posted)).stage is Stage.READY
    assert b.ready == [(FLOW, NOW)]
    assert b.outbox.queued == {"acme": 1}


async def test_scheduled_mail_is_due_at_its_time(b: Bench) -> None:
    """Mail with a time to be sent at is announced for that time."""
    await b.post(send_at=NOW + HOUR)
    assert b.ready == [(FLOW, NOW + HOUR)]


async def test_mail_without_a_profile_flows_by_the_default(b: Bench) -> None:
    """The flow of mail that names no profile has an empty name."""
    await b.post(profile=None)
    assert b.ready == [(Flow("acme", ""), NOW)]


async def test_repeats_are_answered_and_not_counted(b: Bench) -> None:
    """A replay and a mismatch add nothing to the queue and wake nobody."""
    first, again, other = (submission(notification(), "key", body) for body in "aab")
    results = await b.outbox.accept([first]) + await b.outbox.accept([again]) + await b.outbox.accept([other])
    assert results == [Inserted(), Replayed(first.answer), Mismatched()]
    assert b.outbox.queued == {"acme": 1}
    assert len(b.ready) == 1


async def test_simulated_mail_is_relayed_and_never_leaves(b: Bench) -> None:
    """What a test key sends is final at once: shown as relayed, claimed by nobody, counted by nobody."""
    posted = await b.post(simulated=True)
    row = await b.row(posted)
    assert (row.stage, row.status, row.finished_at) == (Stage.FINAL, "relayed", NOW)
    assert await b.states(posted) == ["relayed"]
    assert (b.ready, +b.outbox.queued) == ([], {})
    assert await b.outbox.claim(FLOW, 10) == ([], None)


async def test_caller_that_goes_away_leaves_the_count_right(b: Bench) -> None:
    """Mail whose caller was cancelled during the commit is counted and announced all the same."""
    async with b.ground.busy():
        posting = asyncio.ensure_future(b.post())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    await b.store.check()
    await asyncio.sleep(0)
    assert await b.counted()
    assert b.outbox.queued == {"acme": 1}
    assert b.ready == [(FLOW, NOW)]


# Settle.


async def test_relayed_mail_is_final(b: Bench) -> None:
    """The relay's yes ends it: reply, history, end and count."""
    posted = await b.post()
    delivery = await b.take()
    b.clock.now += 5
    await b.settle(delivery, OK)
    row = await b.row(posted)
    assert (row.stage, row.status, row.finished_at, row.lease_token) == (Stage.FINAL, "relayed", NOW + 5, None)
    (recipient,) = await b.recipients(posted)
    assert (recipient.state, recipient.attempts, recipient.reply) == ("relayed", 1, OK.reply)
    assert [json.loads(line) for line in row.events.splitlines()] == [
        [NOW, "claimed", ""],
        [NOW + 5, "relayed", "250 2.0.0 queued as 1"],
    ]
    assert +b.outbox.queued == {}
    assert b.outbox.in_hand == 0


async def test_outcomes_are_kept_recipient_by_recipient(b: Bench) -> None:
    """One transaction may relay, defer and fail; only the deferred copy is tried again."""
    posted = await b.post("a@x.test", "b@x.test", "c@x.test")
    await b.deliver(OK, LATER, NO)
    row = await b.row(posted)
    assert await b.states(posted) == ["relayed", "deferred", "failed"]
    assert (row.stage, row.status, row.due_at) == (Stage.READY, "deferred", NOW + 30 * SECOND)
    b.clock.now = row.due_at
    assert (await b.take()).due(b.clock(), 10) == [1]


async def test_mixed_end_is_partially_relayed(b: Bench) -> None:
    """When some copies went and others failed the whole says so."""
    posted = await b.post("a@x.test", "b@x.test")
    await b.deliver(OK, NO)
    assert (await b.row(posted)).status == "partially_relayed"


async def test_history_names_the_recipients_of_an_event(b: Bench) -> None:
    """With several recipients an event tells whom it concerns, those with the same reply together."""
    posted = await b.post("a@x.test", "b@x.test", "c@x.test")
    await b.deliver(OK, NO, OK)
    _, *details = [json.loads(line)[2] for line in (await b.row(posted)).events.splitlines()]
    assert details[0] == "a@x.test, c@x.test: 250 2.0.0 queued as 1"
    assert details[1].startswith("b@x.test: ")


async def test_deferrals_follow_the_schedule(b: Bench) -> None:
    """Each time the relay says later, the next of the schedule's waits is announced; the last repeats."""
    await b.post(ttl=5 * DAY)
    waits = []
    for _ in range(10):
        await b.deliver(LATER)
        waits.append((b.ready[-1][1] - b.clock()) // SECOND)
        b.clock.now = b.ready[-1][1]
    assert waits == [30, 60, 120, 300, 600, 1200, 1800, 3600, 3600, 3600]


async def test_earliest_recipient_decides_when_the_row_is_due(b: Bench) -> None:
    """A row with several deferred copies is due with the first of them."""
    posted = await b.post("a@x.test", "b@x.test")
    await b.deliver(LATER, LATER)
    b.clock.now += 30 * SECOND
    delivery = await b.take()
    await b.outbox.settle(delivery, [0], _transaction(LATER))
    assert [r.next_attempt_at for r in await b.recipients(posted)] == [b.clock() + 60 * SECOND, b.clock()]
    assert (await b.row(posted)).due_at == b.clock()


async def test_cut_conversation_burns_no_attempt(b: Bench) -> None:
    """What certainly did not arrive is tried again soon, without an attempt on the account."""
    posted = await b.post()
    await b.deliver(CUT)
    (recipient,) = await b.recipients(posted)
    assert (recipient.state, recipient.attempts, recipient.next_attempt_at) == ("deferred", 0, NOW + SECOND)


async def test_profile_trouble_leaves_the_mail_untouched(b: Bench) -> None:
    """A relay that wants us to sign in first says nothing about the message: it goes back as it was."""
    posted = await b.post()
    before = await b.row(posted)
    await b.deliver(SIGN_IN_FIRST)
    assert await b.row(posted) == before


async def test_release_burns_nothing(b: Bench) -> None:
    """A released notification is exactly as it was before it was claimed, and is announced again."""
    posted = await b.post("a@x.test", "b@x.test")
    await b.deliver(LATER, OK)
    b.clock.now += MINUTE
    before = await b.row(posted)
    await b.outbox.release(await b.take())
    assert await b.row(posted) == before
    assert b.ready[-1] == (FLOW, before.due_at)
    assert await b.counted()


async def test_held_mail_is_looked_at_again(b: Bench) -> None:
    """Mail that a person has to help is due again at the time told, with the reason in its history."""
    posted = await b.post()
    await b.outbox.hold(await b.take(), NOW + MINUTE, "sender_not_allowed")
    row = await b.row(posted)
    assert (row.stage, row.due_at) == (Stage.READY, NOW + MINUTE)
    assert "sender_not_allowed" in row.events
    assert b.ready[-1] == (FLOW, NOW + MINUTE)


async def test_urgent_mail_goes_first(b: Bench) -> None:
    """Within a flow priority decides, then age."""
    low, high = await b.post(priority=Priority.LOW), await b.post(priority=Priority.HIGH)
    deliveries, _ = await b.outbox.claim(FLOW, 10)
    assert [delivery.row.id for delivery in deliveries] == [high, low]


async def test_caller_cancelled_while_settling_leaves_all_right(b: Bench) -> None:
    """A worker that is cancelled during the commit of a result does not keep it from being written and counted."""
    posted = await b.post()
    delivery = await b.take()
    async with b.ground.busy():
        settling = asyncio.ensure_future(b.settle(delivery, OK))
        await asyncio.sleep(0)
        settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await b.store.check()
    await asyncio.sleep(0)
    assert await b.states(posted) == ["relayed"]
    assert await b.counted()


async def test_result_that_the_store_refuses_is_told(b: Bench) -> None:
    """One line says which mail it was: that is sent again once its lease is over."""
    posted = await b.post()
    delivery = await b.take()
    with capture_logs() as log, pytest.raises(StoreError):
        await b.outbox.hold(delivery, 1 << 70, "no column holds such a time")
    assert [(line["event"], line["id"], line["tenant"]) for line in log] == [("result_unwritten", posted, "acme")]
    assert b.outbox.in_hand == 0


# Leases.


async def test_result_after_a_lost_lease_is_not_written(b: Bench) -> None:
    """Once its lease was taken back, a delivery's result goes nowhere but into the events."""
    posted = await b.post()
    late = await b.take()
    b.clock.now += LEASE
    await b.outbox.sweep()
    before = await b.row(posted)
    await b.settle(late, OK)
    assert await b.row(posted) == before
    assert b.events == [("lease_lost", 1)]
    assert await b.counted()


async def test_lost_lease_does_not_disturb_the_next_one(b: Bench) -> None:
    """A late result leaves the delivery that followed it in our hands, so that it can still be called back."""
    posted = await b.post()
    late = await b.take()
    b.clock.now += LEASE
    await b.outbox.sweep()
    current = await b.take()
    await b.settle(late, OK)
    assert await b.outbox.cancel(posted) is None
    assert current.revoked


async def test_renewed_lease_is_kept(b: Bench) -> None:
    """A delivery whose lease is renewed in time is not taken back, and may begin a body."""
    posted = await b.post()
    delivery = await b.take()
    for _ in range(10):
        b.clock.now += MINUTE
        await b.outbox.renew()
        await b.outbox.sweep()
    assert delivery.live(b.clock())
    await b.settle(delivery, OK)
    assert await b.states(posted) == ["relayed"]


async def test_lost_lease_begins_no_body(b: Bench) -> None:
    """Renewing does not make a delivery believe in a lease that was taken back meanwhile."""
    await b.post()
    delivery = await b.take()
    await b.store.release_expired(NOW + LEASE)
    await b.outbox.renew()
    assert not delivery.live(b.clock())


async def test_short_lease_begins_no_body(b: Bench) -> None:
    """With less of its lease left than a body may take none is begun."""
    await b.post()
    delivery = await b.take()
    last = NOW + LEASE - FENCE_MILLISECONDS
    assert delivery.live(last - 1)
    assert not delivery.live(last)


async def test_every_result_ends_its_share_of_the_lease(b: Bench) -> None:
    """A lease of several deliveries is renewed until the last of them is settled."""
    await b.post()
    await b.post()
    first, second = (await b.outbox.claim(FLOW, 2))[0]
    await b.settle(first, OK)
    b.clock.now += MINUTE
    await b.outbox.renew()
    assert second.lease.until == b.clock() + LEASE


async def test_clock_that_was_set_ends_no_lease(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time jumps when a lease was just renewed: nothing is swept before it could be renewed for the new time."""
    monkeypatch.setattr(outbox, "RENEW", 1)
    posted = await b.post()
    delivery = await b.take()
    await b.post(ttl=MINUTE)
    swept = asyncio.Event()
    b.outbox.on_event = lambda _event, _count, _tenant: swept.set()
    times = chain([NOW, NOW], repeat(NOW + HOUR))  # the first look, the renewal, and all later ones
    b.outbox.clock = lambda: next(times)
    keeping = asyncio.ensure_future(b.outbox.keep())
    async with asyncio.timeout(20):
        await swept.wait()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await b.settle(delivery, OK)
    assert await b.states(posted) == ["relayed"]


async def test_a_long_sweep_keeps_no_lease_from_being_renewed(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store takes its time to forget what is old, what is in hand stays in hand."""
    monkeypatch.setattr(outbox, "RENEW", 1)
    await b.post()
    delivery = await b.take()
    sweeping = asyncio.Event()

    async def forget(*_: int) -> int:
        sweeping.set()
        await asyncio.Event().wait()  # as long as anybody likes
        return 0

    monkeypatch.setattr(b.store, "prune", forget)
    keeping = asyncio.ensure_future(b.outbox.keep())
    async with asyncio.timeout(20):
        await sweeping.wait()
        b.clock.now += LEASE
        while delivery.lease.until < b.clock() + LEASE:
            await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_sweep_has_its_time(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not come to is for the next one: leases that ran out are taken back in between."""
    monkeypatch.setattr(outbox, "SWEEP_ROWS", 1)
    monkeypatch.setattr(outbox, "SWEEP_SECONDS", 0.0)
    old = [await b.post() for _ in range(2)]
    for _ in old:
        await b.deliver(OK)
    b.clock.now += 8 * DAY
    late = [await b.post(ttl=MINUTE) for _ in range(2)]
    b.clock.now += HOUR
    for done in (1, 2):
        await b.outbox.sweep()
        kept = [await b.store.get(one) for one in old]
        assert sum(row is None for row in kept) == done
        assert sorted([await b.states(one) for one in late]) == sorted([["expired"]] * done + [["queued"]] * (2 - done))


# Time.


async def test_sweep_expires_what_is_out_of_time(b: Bench) -> None:
    """Waiting mail whose time is over ends as expired; what was relayed before stays relayed."""
    posted = await b.post("a@x.test", "b@x.test", ttl=HOUR)
    await b.deliver(OK, LATER)
    b.clock.now += HOUR
    await b.outbox.sweep()
    assert await b.states(posted) == ["relayed", "expired"]
    assert (await b.row(posted)).stage is Stage.FINAL
    assert b.events[-1] == ("expired", 1)
    assert await b.counted()


async def test_sweep_leaves_what_has_time(b: Bench) -> None:
    """A millisecond before its end nothing expires."""
    posted = await b.post(ttl=HOUR)
    b.clock.now += HOUR - 1
    await b.outbox.sweep()
    assert await b.states(posted) == ["queued"]


async def test_sweep_expires_more_than_one_page(b: Bench) -> None:
    """However much is out of time, one sweep ends it all."""
    await b.outbox.accept([submission(notification(ttl=MINUTE)) for _ in range(1_100)])
    b.clock.now += HOUR
    await b.outbox.sweep()
    assert +b.outbox.queued == {}
    assert sum(count for event, count in b.events if event == "expired") == 1_100


async def test_claimed_mail_out_of_time_expires(b: Bench) -> None:
    """A delivery whose time ran out in our hands ends as expired and not as an attempt."""
    posted = await b.post(ttl=MINUTE)
    delivery = await b.take()
    b.clock.now += MINUTE
    assert not delivery.live(b.clock())
    await b.outbox.expire(delivery)
    (recipient,) = await b.recipients(posted)
    assert (recipient.state, recipient.attempts) == ("expired", 0)
    assert names(b.events) == ["expired"]
    assert await b.counted()


async def test_sweep_forgets_what_is_old(b: Bench) -> None:
    """Finished mail is kept as long as retention says, and then gone."""
    posted = await b.post()
    await b.deliver(OK)
    b.clock.now += 7 * DAY
    await b.outbox.sweep()
    assert await b.store.get(posted) is not None
    b.clock.now += 1
    await b.outbox.sweep()
    assert await b.store.get(posted) is None


def _transaction(*outcomes: RecipientOutcome) -> Transaction:
    return Transaction(outcomes)
