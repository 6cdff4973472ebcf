"""How long the outbox keeps what a message says."""

import pytest

from gateway.outbox.outbox import Retention
from gateway.smtp.outcome import RecipientOutcome
from tests.outbox.building import LATER, NO, OK, SILENCE, Bench, Clock, bench
from tests.outbox.grounds import Ground


@pytest.mark.parametrize(
    ("outcomes", "until_final", "kept"),
    [
        ((OK, OK), True, False),
        ((OK, OK), False, True),
        ((OK, LATER), True, True),
        ((OK, NO), True, True),
        ((NO, NO), True, True),
        ((OK, SILENCE), True, True),
    ],
)
async def test_content_goes_when_every_copy_was_relayed(
    ground: Ground, clock: Clock, outcomes: tuple[RecipientOutcome, ...], until_final: bool, kept: bool
) -> None:
    """Content is erased exactly when nothing can need it any more and retention wants it so."""
    async with bench(ground, clock, Retention(content_until_final=until_final)) as b:
        posted = await b.post("a@x.test", "b@x.test")
        await b.deliver(*outcomes)
        assert ((await b.row(posted)).content is not None) == kept


@pytest.mark.parametrize("until_final", [True, False])
async def test_content_of_simulated_mail_follows_retention(ground: Ground, clock: Clock, until_final: bool) -> None:
    """Simulated mail is relayed when it comes, so its content is kept only if retention keeps finished content."""
    async with bench(ground, clock, Retention(content_until_final=until_final)) as b:
        assert ((await b.row(await b.post(simulated=True))).content is None) == until_final


async def test_content_goes_with_a_cancellation(b: Bench) -> None:
    """Content of cancelled mail is erased, also if some copies had been relayed."""
    posted = await b.post("a@x.test", "b@x.test")
    await b.deliver(OK, LATER)
    await b.outbox.cancel(posted)
    assert (await b.row(posted)).content is None


async def test_content_stays_when_a_copy_failed_before_the_cancellation(b: Bench) -> None:
    """A failed copy can be retried by a person, so its content is kept."""
    posted = await b.post("a@x.test", "b@x.test")
    await b.deliver(NO, LATER)
    await b.outbox.cancel(posted)
    assert (await b.row(posted)).content is not None
