"""Rows that newer code wrote: they wait, and nobody waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from gateway.message.notification import OnAmbiguous
from gateway.outbox import outbox
from gateway.outbox.outbox import LEASE, SWEEP_ROWS
from gateway.store.rows import Stage
from tests.outbox.building import FLOW, HOUR, MINUTE, NOW, OK, after_crash, names, notification, submission

if TYPE_CHECKING:
    from tests.outbox.building import Bench

RECIPIENTS: Final = ("recipients", '[["ann@example.test", "archive", 1]]')
UNREADABLE: Final = (
    RECIPIENTS,
    ("recipients", '[["ann@example.test", "to", null, "travelling", 1, 0, 0]]'),
    ("recipients", '[["ann@example.test"]]'),
    ("recipients", '{"to": ["ann@example.test"]}'),
    ("recipients", "2"),
    ("recipients", "?"),
    ("envelope", '["<1@example.test>", "info", "ask"]'),
    ("envelope", '["<1@example.test>"'),
    ("envelope", '["<1@example.test>", "info", "retry", null, null, false, {}, null, "more"]'),
    ("envelope", "{}"),
    ("envelope", "null"),
)


@pytest.mark.parametrize(("column", "value"), UNREADABLE)
async def test_a_claim_leaves_what_cannot_be_read_and_brings_the_others(b: Bench, column: str, value: str) -> None:
    """It stays under the claim's lease, unsent and as it is; nobody renews that, and the others settle."""
    posted = [await b.post() for _ in range(3)]
    await b.ground.write(posted[1], column, value)
    deliveries, _ = await b.outbox.claim(FLOW, 10)
    assert [delivery.row.id for delivery in deliveries] == [posted[0], posted[2]]
    assert b.outbox.in_hand == 2
    for delivery in deliveries:
        await b.settle(delivery, OK)
    row = await b.row(posted[1])
    assert (row.stage, getattr(row, column)) == (Stage.LEASED, value)
    assert b.outbox.in_hand == len(b.outbox._leases) == 0


async def test_mail_that_cannot_be_read_is_looked_at_once_a_lease(b: Bench) -> None:
    """Alone in its flow it gives nothing to claim until its lease is over, and then once more; when it can be read it goes."""
    posted = await b.post()
    readable = (await b.row(posted)).recipients
    await b.ground.write(posted, *RECIPIENTS)
    for _ in range(3):
        assert await b.outbox.claim(FLOW, 10) == ([], None)
        assert (await b.row(posted)).stage is Stage.LEASED
        await b.outbox.renew()
        b.clock.now += LEASE
        await b.outbox.sweep()
        assert (await b.row(posted)).stage is Stage.READY
        assert b.ready[-1] == (FLOW, NOW)
    await b.ground.write(posted, "recipients", readable)
    assert await b.deliver(OK) == posted


async def test_expiry_leaves_what_cannot_be_read_and_ends_the_others(b: Bench) -> None:
    """Those whose time was over before it and after it are ended, told of and counted; and the sweep comes to its end."""
    posted = [await b.post(ttl=MINUTE + each) for each in range(3)]
    await b.ground.write(posted[1], *RECIPIENTS)
    b.clock.now += HOUR
    for _ in range(2):
        await b.outbox.sweep()
        rows = [await b.row(each) for each in posted]
        assert [row.stage for row in rows] == [Stage.FINAL, Stage.READY, Stage.FINAL]
    assert names(b.events) == ["expired"] * 2
    assert rows[1].recipients == RECIPIENTS[1]
    assert await b.counted()


async def test_expiry_goes_on_over_pages_with_what_cannot_be_read(b: Bench) -> None:
    """One unreadable row at the front of each page delays none of more than two pages."""
    posted = [notification(ttl=MINUTE + (each > 0)) for each in range(2 * SWEEP_ROWS + 2)]
    await b.outbox.accept([submission(each) for each in posted])
    await b.ground.write(posted[0].id, *RECIPIENTS)
    b.clock.now += HOUR
    await b.outbox.sweep()
    assert await b.store.unfinished() == +b.outbox.queued == {"acme": 1}
    assert (await b.row(posted[0].id)).stage is Stage.READY


async def test_expiry_goes_on_behind_pages_of_what_cannot_be_read(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many unreadable rows are out of time before it, mail that can be read expires with the same sweep."""
    monkeypatch.setattr(outbox, "SWEEP_ROWS", 2)
    posted = [await b.post(ttl=MINUTE + each) for each in range(6)]
    for each in posted[:5]:
        await b.ground.write(each, *RECIPIENTS)
    b.clock.now += HOUR
    await b.outbox.sweep()
    assert await b.states(posted[5]) == ["expired"]


async def test_mail_whose_envelope_cannot_be_read_expires(b: Bench) -> None:
    """Its recipients can be told what became of it, and nothing more is needed for that."""
    posted = await b.post(ttl=MINUTE)
    await b.ground.write(posted, "envelope", "{}")
    b.clock.now += HOUR
    await b.outbox.sweep()
    assert await b.states(posted) == ["expired"]
    assert await b.counted()


@pytest.mark.parametrize(("column", "value"), [RECIPIENTS, ("envelope", "{}")])
async def test_a_dead_daemons_mail_that_cannot_be_read_rests_as_it_is(b: Bench, column: str, value: str) -> None:
    """Both were at the final dot: the one that can be read is judged, the other stays, for nobody knows whether it went."""
    posted = [await b.post(on_ambiguous=OnAmbiguous.HOLD) for _ in range(2)]
    for delivery in (await b.outbox.claim(FLOW, 10))[0]:
        assert await b.outbox.dot(delivery, [0])
    await b.ground.write(posted[0], column, value)
    async with after_crash(b) as after:
        after.clock.now += LEASE
        for _ in range(2):
            await after.outbox.sweep()
            row = await after.row(posted[0])
            assert (row.stage, getattr(row, column)) == (Stage.LEASED, value)
        assert await after.states(posted[1]) == ["uncertain"]
        assert await after.outbox.claim(FLOW, 10) == ([], None)


@pytest.mark.parametrize("dotted_for", ["?", "0", "[]", "[1]", "[-1]", '["0"]', "[true]", '{"to": [0]}'])
async def test_a_dead_daemons_final_dot_that_cannot_be_read_rests_as_it_is(b: Bench, dotted_for: str) -> None:
    """Whom the dot concerned is noted in another form: nobody ends for that, and the mail is neither judged nor sent."""
    posted = await b.post(on_ambiguous=OnAmbiguous.HOLD)
    delivery = await b.take()
    assert await b.store.dot(delivery.row.seq, delivery.lease.token, dotted_for)
    async with after_crash(b) as after:
        after.clock.now += LEASE
        await after.outbox.sweep()
        assert (await after.row(posted)).stage is Stage.LEASED
        assert await after.states(posted) == ["queued"]
        assert await after.outbox.claim(FLOW, 10) == ([], None)
