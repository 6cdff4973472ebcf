"""What people do to a notification, at every stage of its life."""

from collections.abc import AsyncIterator

import pytest

from gateway.message.notification import OnAmbiguous
from gateway.outbox.outbox import Cancellation
from gateway.smtp.outcome import RecipientOutcome, Transaction
from gateway.store.rows import Stage
from tests.outbox.building import (
    DAY,
    FLOW,
    HOUR,
    LATER,
    MINUTE,
    NO,
    NOW,
    OK,
    SECOND,
    SILENCE,
    Bench,
    after_crash,
    names,
)

TTL = HOUR


# Cancel.


async def test_cancel_of_waiting_mail(b: Bench) -> None:
    """Mail that waits is cancelled at once, with an event, and is counted no more."""
    posted = await b.post()
    assert await b.outbox.cancel(posted) is None
    row = await b.row(posted)
    assert (row.stage, row.status, await b.states(posted)) == (Stage.FINAL, "cancelled", ["cancelled"])
    assert '"cancelled"' in row.events
    assert await b.outbox.claim(FLOW, 1) == ([], None)
    assert await b.counted()


async def test_cancel_of_deferred_mail_keeps_what_was_relayed(b: Bench) -> None:
    """Copies that the relay took stay relayed."""
    posted = await b.post("a@x.test", "b@x.test")
    await b.deliver(OK, LATER)
    await b.outbox.cancel(posted)
    assert (await b.states(posted), (await b.row(posted)).status) == (["relayed", "cancelled"], "partially_relayed")
    assert await b.counted()
    assert b.events == [("relayed", 1), ("deferred", 1), ("cancelled", 1)]


async def test_cancel_of_claimed_mail_stops_it(b: Bench) -> None:
    """Mail in our hands that has not begun may not begin, and ends as cancelled when it is given back."""
    posted = await b.post()
    delivery = await b.take()
    assert await b.outbox.cancel(posted) is None
    assert not delivery.live(NOW)
    await b.outbox.release(delivery)
    assert await b.states(posted) == ["cancelled"]
    assert await b.counted()


@pytest.mark.parametrize(("outcome", "told"), [(LATER, None), (OK, Cancellation.FINISHED)])
async def test_cancel_says_what_came_of_it_when_a_worker_is_faster(
    b: Bench, outcome: RecipientOutcome, told: str | None
) -> None:
    """A worker that stops at the word writes the end before the canceller does: that mail is cancelled all the same."""
    posted = await b.post()
    delivery = await b.take()
    revoke, ends = b.outbox.revoke, []

    def revoke_and_end(notification_id: str) -> bool:
        known = revoke(notification_id)
        if not ends:
            ends.append(b.outbox.settle(delivery, [0], Transaction((outcome,))))
        return known

    b.outbox.revoke = revoke_and_end
    assert await b.outbox.cancel(posted) is told
    assert await b.states(posted) == ["relayed" if told else "cancelled"]
    assert await b.counted()


async def test_cancel_of_mail_on_the_wire_comes_too_late(b: Bench) -> None:
    """What the relay took meanwhile is relayed; what it did not take is not tried again."""
    posted = await b.post("a@x.test", "b@x.test")
    delivery = await b.take()
    assert await b.outbox.cancel(posted) is None
    await b.settle(delivery, OK, LATER)
    assert (await b.states(posted), (await b.row(posted)).stage) == (["relayed", "cancelled"], Stage.FINAL)
    assert await b.counted()


async def test_cancel_of_resting_mail(b: Bench) -> None:
    """A person who decides against sending again ends it."""
    posted = await b.post(on_ambiguous=OnAmbiguous.HOLD)
    await b.deliver(SILENCE)
    assert await b.outbox.cancel(posted) is None
    assert (await b.states(posted), (await b.row(posted)).stage) == (["cancelled"], Stage.FINAL)
    assert await b.counted()


async def test_cancel_of_final_mail_is_refused(b: Bench) -> None:
    """What has ended cannot be cancelled."""
    posted = await b.post()
    await b.deliver(OK)
    assert await b.outbox.cancel(posted) == Cancellation.FINISHED
    assert await b.states(posted) == ["relayed"]


async def test_cancel_of_what_is_gone_is_refused(b: Bench) -> None:
    """What retention forgot cannot be cancelled."""
    assert await b.outbox.cancel("f" * 32) == Cancellation.GONE


async def test_cancelled_mail_that_expires_in_our_hands_is_cancelled(b: Bench) -> None:
    """A promise to cancel is kept also if the time runs out before the delivery comes back."""
    posted = await b.post(ttl=MINUTE)
    delivery = await b.take()
    await b.outbox.cancel(posted)
    b.clock.now += MINUTE
    await b.outbox.expire(delivery)
    assert await b.states(posted) == ["cancelled"]


@pytest.fixture
async def orphan(b: Bench) -> AsyncIterator[tuple[Bench, str]]:
    """Cancel deferred mail in our hands, and die before it is given back."""
    posted = await b.post()
    await b.deliver(LATER)
    b.clock.now += MINUTE
    await b.take()
    assert await b.outbox.cancel(posted) is None
    async with after_crash(b) as after:
        yield after, posted


async def test_cancellation_survives_a_crash(orphan: tuple[Bench, str]) -> None:
    """The next daemon claims cancelled mail only to end it."""
    after, posted = orphan
    delivery = await after.take()
    assert not delivery.live(after.clock())
    await after.outbox.release(delivery)
    assert await after.states(posted) == ["cancelled"]
    assert await after.counted()


async def test_cancelled_mail_that_nobody_claims_ends_as_cancelled(orphan: tuple[Bench, str]) -> None:
    """If its profile is never used again, cancelled mail is cancelled by the sweep and not expired."""
    after, posted = orphan
    after.clock.now += DAY
    await after.outbox.sweep()
    assert await after.states(posted) == ["cancelled"]
    assert (await after.row(posted)).content is None
    assert names(after.events) == ["cancelled"]
    assert await after.counted()


async def test_cancel_again_ends_cancelled_mail_that_waits(orphan: tuple[Bench, str]) -> None:
    """A second cancellation of mail that a crash left waiting ends it at once."""
    after, posted = orphan
    assert await after.outbox.cancel(posted) is None
    assert await after.states(posted) == ["cancelled"]
    assert await after.counted()


async def test_retry_does_not_revive_cancelled_mail(orphan: tuple[Bench, str]) -> None:
    """What was promised to be cancelled is not made due again before it has ended."""
    after, posted = orphan
    assert await after.outbox.retry(posted, TTL) is not None
    assert (await after.take()).revoked


# Retry.


async def test_retry_of_deferred_mail_makes_it_due(b: Bench) -> None:
    """Deferred mail is due and announced at once, with a clean account."""
    posted = await b.post("a@x.test", "b@x.test")
    await b.deliver(OK, LATER)
    b.clock.now += SECOND
    assert await b.outbox.retry(posted, TTL) is None
    assert b.ready[-1] == (FLOW, b.clock())
    assert (await b.take()).due(b.clock(), 10) == [1]
    assert await b.counted()


async def test_retry_of_failed_mail_begins_anew(b: Bench) -> None:
    """Failed copies are sent again and counted again; relayed ones are not."""
    posted = await b.post("a@x.test", "b@x.test")
    await b.deliver(OK, NO)
    assert await b.outbox.retry(posted, TTL) is None
    row = await b.row(posted)
    assert (row.stage, row.finished_at, await b.states(posted)) == (Stage.READY, None, ["relayed", "queued"])
    assert b.outbox.queued == {"acme": 1}
    await b.deliver(OK)
    assert await b.states(posted) == ["relayed", "relayed"]
    assert await b.counted()


async def test_retry_of_expired_mail_gives_it_time(b: Bench) -> None:
    """Expired mail gets a new time to live, counted from now."""
    posted = await b.post(ttl=MINUTE)
    b.clock.now += HOUR
    await b.outbox.sweep()
    assert await b.outbox.retry(posted, TTL) is None
    assert (await b.row(posted)).expires_at == b.clock() + TTL
    assert (await b.take()).live(b.clock())


async def test_retry_leaves_time_that_is_left(b: Bench) -> None:
    """Mail whose time is not over keeps its end."""
    posted = await b.post()
    await b.deliver(NO)
    await b.outbox.retry(posted, TTL)
    assert (await b.row(posted)).expires_at == NOW + DAY


async def test_retry_of_resting_mail_sends_it(b: Bench) -> None:
    """A person who decides for sending again makes it due, and its silences are forgotten."""
    posted = await b.post(on_ambiguous=OnAmbiguous.HOLD)
    await b.deliver(SILENCE)
    assert await b.outbox.retry(posted, TTL) is None
    (recipient,) = await b.recipients(posted)
    assert (recipient.state, recipient.unanswered) == ("queued", 0)
    assert await b.deliver(OK) == posted
    assert await b.counted()


async def test_retry_of_mail_in_our_hands_is_refused(b: Bench) -> None:
    """What is being sent cannot be made due."""
    posted = await b.post()
    await b.take()
    assert await b.outbox.retry(posted, TTL) == Cancellation.MOVED


@pytest.mark.parametrize("outcome", [OK, None], ids=["relayed", "queued"])
async def test_retry_needs_something_to_retry(b: Bench, outcome: object) -> None:
    """There is nothing to do for mail that was relayed, or that is due anyway."""
    posted = await b.post()
    if outcome:
        await b.deliver(OK)
    assert await b.outbox.retry(posted, TTL) == Cancellation.FINISHED


async def test_retry_without_content_is_refused(b: Bench) -> None:
    """What retention erased cannot be sent again."""
    posted = await b.post()
    await b.deliver(NO)
    await b.ground.erase()  # as a shorter retention would
    assert await b.outbox.retry(posted, TTL) == Cancellation.GONE
    assert await b.counted()


async def test_retry_of_what_is_gone_is_refused(b: Bench) -> None:
    """What retention forgot cannot be made due."""
    assert await b.outbox.retry("f" * 32, TTL) == Cancellation.GONE


async def test_retry_after_a_cancellation_sends_what_had_failed(b: Bench) -> None:
    """A person may retry the failed copies of cancelled mail; the cancelled ones stay as promised."""
    posted = await b.post("a@x.test", "b@x.test")
    delivery = await b.take()
    await b.outbox.cancel(posted)
    await b.settle(delivery, NO, LATER)
    assert await b.outbox.retry(posted, TTL) is None
    again = await b.take()
    assert again.live(b.clock())
    assert again.due(b.clock(), 10) == [0]
