"""Outcomes that nobody knows, and what a crash leaves to the next daemon."""

import pytest

from gateway.message.notification import OnAmbiguous
from gateway.outbox.outbox import LEASE
from gateway.store.rows import Stage
from tests.outbox.building import FLOW, HOUR, MINUTE, NOW, SILENCE, Bench, after_crash, names


async def test_silence_is_sent_again_twice_and_then_rests(b: Bench) -> None:
    """Without a reply to the final dot mail is sent again ten minutes later, twice at most, then a person decides."""
    posted = await b.post()
    for _ in range(2):
        await b.deliver(SILENCE)
        assert (await b.row(posted)).status == "deferred"
        b.clock.now += 10 * MINUTE
    await b.deliver(SILENCE)
    row = await b.row(posted)
    assert (row.stage, row.status, await b.states(posted)) == (Stage.RESTING, "held", ["uncertain"])
    assert await b.outbox.claim(FLOW, 1) == ([], None)
    assert await b.counted()


async def test_silence_with_hold_rests_at_once(b: Bench) -> None:
    """`hold` waits for a person after the first dot without a reply."""
    posted = await b.post(on_ambiguous=OnAmbiguous.HOLD)
    await b.deliver(SILENCE)
    assert ((await b.row(posted)).stage, await b.states(posted)) == (Stage.RESTING, ["uncertain"])
    assert await b.counted()


async def test_silence_with_fail_ends_visibly(b: Bench) -> None:
    """`fail` never sends twice: it ends as failed, with an event that says what is not known."""
    posted = await b.post(on_ambiguous=OnAmbiguous.FAIL)
    await b.deliver(SILENCE)
    row = await b.row(posted)
    assert (row.stage, row.status, await b.states(posted)) == (Stage.FINAL, "failed", ["failed"])
    assert '"outcome_unknown"' in row.events
    assert names(b.events) == ["outcome_unknown"]


@pytest.mark.parametrize("mode", [OnAmbiguous.HOLD, OnAmbiguous.FAIL])
async def test_dot_is_committed_for_the_strict(b: Bench, mode: OnAmbiguous) -> None:
    """`hold` and `fail` ask for the commit before the dot, and get it once under a live lease."""
    await b.post(on_ambiguous=mode)
    delivery = await b.take()
    assert delivery.strict
    assert await b.outbox.dot(delivery, [0])


async def test_dot_is_refused_without_time(b: Bench) -> None:
    """No dot is committed when the lease is short."""
    await b.post(on_ambiguous=OnAmbiguous.FAIL)
    delivery = await b.take()
    b.clock.now += MINUTE
    assert not await b.outbox.dot(delivery, [0])


async def test_dot_is_refused_after_a_cancellation(b: Bench) -> None:
    """What was cancelled before its dot is not sent."""
    posted = await b.post(on_ambiguous=OnAmbiguous.FAIL)
    delivery = await b.take()
    await b.outbox.cancel(posted)
    assert not await b.outbox.dot(delivery, [0])


# Crashes.


async def test_crash_gives_held_mail_back_at_once(b: Bench) -> None:
    """Mail in the hands of a dead daemon is ready for the next one without waiting for its lease."""
    posted = await b.post()
    await b.take()
    async with after_crash(b) as after:
        assert (FLOW, NOW) in after.ready
        assert (await after.take()).row.id == posted
        assert await after.states(posted) == ["queued"]


@pytest.mark.parametrize(
    ("mode", "stage", "state", "event"),
    [
        (OnAmbiguous.HOLD, Stage.RESTING, "uncertain", "uncertain"),
        (OnAmbiguous.FAIL, Stage.FINAL, "failed", "outcome_unknown"),
    ],
)
async def test_crash_after_the_dot_is_an_unknown_outcome(
    b: Bench, mode: OnAmbiguous, stage: Stage, state: str, event: str
) -> None:
    """A daemon that died after announcing its dot may have sent the mail: it is not sent again by itself."""
    posted = await b.post(on_ambiguous=mode)
    assert await b.outbox.dot(await b.take(), [0])
    async with after_crash(b) as after:
        row = await after.row(posted)
        assert (row.stage, await after.states(posted)) == (stage, [state])
        assert f'"{event}"' in row.events
        assert names(after.events) == [event]
        assert await after.counted()


async def test_a_dot_concerns_its_own_transaction_only(b: Bench) -> None:
    """Recipients for whom there was to be another transaction are not lost with the first: they are still to come."""
    posted = await b.post("ann@example.test", "bob@example.test", on_ambiguous=OnAmbiguous.FAIL)
    assert await b.outbox.dot(await b.take(), [0])
    async with after_crash(b) as after:
        assert await after.states(posted) == ["failed", "queued"]
        assert (await after.take()).due(after.clock(), 9) == [1]


async def test_crash_before_the_dot_sends_the_strict_again(b: Bench) -> None:
    """Strict mail whose dot was not announced certainly did not leave: it is ready at once."""
    posted = await b.post(on_ambiguous=OnAmbiguous.FAIL)
    await b.take()
    async with after_crash(b) as after:
        assert (await after.take()).row.id == posted


async def test_clock_set_back_after_the_dot_sends_nothing_twice(b: Bench) -> None:
    """Mail whose dot was announced is of unknown outcome also when the clock went back before the restart."""
    posted = await b.post(on_ambiguous=OnAmbiguous.FAIL)
    assert await b.outbox.dot(await b.take(), [0])
    b.clock.now -= HOUR
    async with after_crash(b) as after:
        assert await after.states(posted) == ["failed"]


async def test_lost_lease_after_the_dot_is_an_unknown_outcome(b: Bench) -> None:
    """A dot whose result did not come before the lease ran out is judged by the sweep."""
    posted = await b.post(on_ambiguous=OnAmbiguous.HOLD)
    assert await b.outbox.dot(await b.take(), [0])
    b.clock.now += LEASE
    await b.outbox.sweep()
    assert await b.states(posted) == ["uncertain"]


async def test_restart_counts_and_announces_what_waits(b: Bench) -> None:
    """The next daemon knows how much is unfinished, and when each flow is due."""
    await b.post()
    await b.post(send_at=NOW + HOUR, profile=None)
    async with after_crash(b) as after:
        assert after.outbox.queued == {"acme": 2}
        assert sorted(after.ready) == [(FLOW._replace(profile=""), NOW + HOUR), (FLOW, NOW)]
