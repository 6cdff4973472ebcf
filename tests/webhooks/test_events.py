"""What a tenant is told is what it may know: of its own relay all, of another's the codes, and nothing of anybody else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gateway.message.notification import OnAmbiguous
from gateway.smtp.outcome import Transaction
from gateway.store.rows import EventWish, Flow
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite.writer import Run
from tests.outbox.building import NO, OK, SILENCE, notification, submission
from tests.webhooks.world import HOOK, World, running, webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

URL = "http://127.0.0.1:9/"
ALL = ("notification.relayed", "notification.failed", "notification.expired", "profile.parked", "profile.unparked")
EMEA = Flow("acme-emea", "")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        for tenant in ("acme", "acme-emea", "globex"):
            await made.put(webhook(URL, *ALL, tenant=tenant))
        yield made


async def told(world: World, tenant: str = "acme") -> list[dict[str, Any]]:
    """What the tenant's webhook is to be told, by kind and notification."""
    now = world.clock()
    events = await world.store.claim_events([EventWish(tenant, HOOK, 100)], now, now)
    bodies = [json.loads(event.body) for event in events]
    return sorted(bodies, key=lambda body: (body["type"], body["data"].get("id", "")))


async def test_ones_own_relay_is_quoted(world: World) -> None:
    """Code, enhanced code and words."""
    await world.relayed(NO)
    [one] = await told(world)
    assert (one["type"], one["data"]["profile"], one["data"]["status"]) == ("notification.failed", "main", "failed")
    assert one["data"]["recipients"][0]["reply"] == {"code": 550, "enhanced": "5.1.1", "text": "no such user"}


@pytest.mark.parametrize(("by", "profile"), [("acme/main", None), ("acme/lent", "lent")])
async def test_anothers_relay_is_not_quoted(world: World, by: str, profile: str | None) -> None:
    """Mail that went by the parent's default, or by what it lent: codes alone, and no name but the one that was lent."""
    await world.accept(tenant="acme-emea", profile=None)
    await world.settle(NO, flow=EMEA, by=by)
    [one] = await told(world, "acme-emea")
    assert (one["data"]["profile"], one["data"]["tenant"]) == (profile, "acme-emea")
    assert one["data"]["recipients"][0]["reply"] == {"code": 550, "enhanced": "5.1.1"}
    assert "no such user" not in json.dumps(one)


async def test_nobody_else_is_told(world: World) -> None:
    """Neither the parent whose profile carried it, nor a stranger."""
    await world.accept(tenant="acme-emea", profile=None)
    await world.settle(OK, flow=EMEA, by="acme/main")
    assert [len(await told(world, tenant)) for tenant in ("acme-emea", "acme", "globex")] == [1, 0, 0]


async def test_what_expires_is_told(world: World) -> None:
    """Whether somebody has it in hand or the sweeper finds it; of a notification with one end behind it, the rest."""
    first = await world.accept("ann@example.test", ttl=60_000)
    second = await world.accept("bob@example.test", ttl=60_000)
    [delivery], _ = await world.outbox.claim(Flow("acme", "main"), 1)
    world.clock.ahead += 61_000
    await world.outbox.expire(delivery)
    await world.outbox.sweep()
    assert [(one["type"], one["data"]["id"], one["data"]["status"]) for one in await told(world)] == [
        ("notification.expired", id_, "expired") for id_ in sorted((first, second))
    ]


async def test_what_nobody_knows_the_end_of_is_told_when_it_ends(tmp_path: Path) -> None:
    """A dot without an answer is no end; that the daemon's successor calls it one is."""
    async with running(tmp_path) as world:
        await world.put(webhook(URL, *ALL))
        await world.accept(on_ambiguous=OnAmbiguous.FAIL)
        await world.accept()
        deliveries, _ = await world.outbox.claim(Flow("acme", "main"), 2)
        strict = next(one for one in deliveries if one.strict)
        [other] = [one for one in deliveries if one is not strict]
        assert await world.outbox.dot(strict, [0])
        await world.outbox.settle(other, [0], Transaction((SILENCE,)), "acme/main")
        assert await told(world) == []
    async with running(tmp_path) as world:
        await world.outbox.recount()
        await world.outbox.start()
        [one] = await told(world)
        assert (one["type"], one["data"]["id"]) == ("notification.failed", strict.row.id)


async def test_what_is_cancelled_is_not_told(world: World) -> None:
    """Who cancels knows."""
    await world.outbox.cancel(await world.accept())
    assert await told(world) == []


async def test_what_is_retried_is_not_told_before_it_ends(world: World) -> None:
    """A failure that a person puts back is told once when it failed, and once when it went."""
    id_ = await world.relayed(NO)
    assert await world.outbox.retry(id_, 60_000) is None
    await world.settle(OK)
    assert [one["type"] for one in await told(world)] == ["notification.failed", "notification.relayed"]


async def test_what_a_test_key_sends_is_told_as_such(world: World) -> None:
    """At once, and with its mark."""
    await world.accept(simulated=True)
    [one] = await told(world)
    assert (one["type"], one["data"]["simulated"], one["data"]["status"]) == ("notification.relayed", True, "relayed")


async def test_an_event_belongs_to_the_trace_of_its_notification(world: World) -> None:
    """What came with the request goes out with what is told of it."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    made = replace(notification(accepted_at=world.clock()), traceparent=trace)
    await world.outbox.accept([submission(made)])
    await world.settle(OK)
    now = world.clock()
    [event] = await world.store.claim_events([EventWish("acme", HOOK, 9)], now, now)
    assert event.traceparent == trace


async def test_a_repeated_request_is_told_once(world: World) -> None:
    """What an idempotency key replays is nothing new."""
    for _ in range(2):
        made = notification(accepted_at=world.clock(), simulated=True)
        await world.outbox.accept([submission(made, key="again")])
    assert len(await told(world)) == 1


async def test_whoever_has_no_webhook_costs_nothing(world: World) -> None:
    """Nothing is written for a tenant without one, nor for one that listens to something else."""
    await world.put(webhook(URL, "profile.parked", tenant="acme"))
    await world.relayed(OK)
    await world.put(world.found().model_copy(update={"events": ALL, "enabled": False}))
    await world.relayed(OK)
    assert await world.backlog() == []


async def test_a_row_that_cannot_be_read_ends_all_the_same(world: World) -> None:
    """Newer code wrote its envelope: it expires, and nobody is told what it said."""
    id_ = await world.accept(ttl=60_000)

    def newer(db: Any) -> None:
        db.execute("UPDATE notification SET envelope='[\"x\"' WHERE id=?", (id_,))

    assert isinstance(world.store, SqliteStore)
    await world.store.writer.submit(Run(newer))
    world.clock.ahead += 61_000
    await world.outbox.sweep()
    found = await world.store.get(id_)
    assert found is not None
    assert (found.status, await told(world)) == ("expired", [])


async def test_parking_is_told_to_the_owner(world: World) -> None:
    """The reason, and nothing of what the relay said; whoever was lent the profile hears nothing."""
    for event in (
        *world.composer.parked(("acme", "lent"), "auth_failed"), *world.composer.unparked(("acme", "lent"), "auth_failed"),
    ):  # fmt: skip
        await world.store.add_events([event])
    parked, unparked = await told(world)
    assert (parked["type"], unparked["type"]) == ("profile.parked", "profile.unparked")
    assert parked["data"] == {
        "tenant": "acme", "profile": "lent", "reason": "auth_failed", "at": parked["timestamp"],
    }  # fmt: skip
    assert await told(world, "acme-emea") == []
