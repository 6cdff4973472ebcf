"""What is told reaches its webhook: signed, at least once, in order of pauses, and nobody else's is kept waiting."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from gateway.credentials.secret import Secret
from gateway.directory import changes
from gateway.directory.changes import OPERATOR, Change
from gateway.observe import metrics
from gateway.outbox.states import State
from gateway.store.protocol import StoreUnavailable
from gateway.store.rows import WebhookEvent
from gateway.store.sqlite import SqliteStore
from gateway.webhooks import backlog, sender, turns
from gateway.webhooks.endpoint import Result
from tests.outbox.building import NO, OK, notification, submission
from tests.peers.webhook_endpoint import Reply, WebhookEndpoint
from tests.webhooks.world import HOOK, OTHER_SECRET, SEAL, SECRET, World, running, webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.store.rows import EventBacklog, EventsDue

DAY = 86_400
GONE = Reply(410)
REFUSING = "CREATE TRIGGER refusing BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END"
DOWN = Reply(503)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
async def endpoint() -> AsyncIterator[WebhookEndpoint]:
    async with WebhookEndpoint() as made:
        yield made


def event(number: int, world: World, *, webhook: str = HOOK, tenant: str = "acme", age: float = 0) -> WebhookEvent:
    """Make an event that is due; `age` in seconds."""
    now = world.clock() - round(age * 1000)
    return WebhookEvent(f"msg_{number:05}", tenant, webhook, now, now + sender.LIFE, json.dumps({"n": number}))


async def audit(world: World) -> list[tuple[str, str, list[dict[str, Any]]]]:
    rows = await world.store.audit("acme", before=None, limit=50)
    return [(row.actor, row.action, json.loads(row.changes)) for row in rows]


# What arrives.


async def test_a_relayed_notification_is_told(world: World, endpoint: WebhookEndpoint) -> None:
    """Headers and signature are as the reference implementation wants them; the payload says what the API would."""
    await world.put(webhook(endpoint.url))
    world.start()
    id_ = await world.relayed(OK)
    [told] = await endpoint.received(1)
    payload = told.verify(SECRET)
    await world.emptied()

    assert (told.path, told.headers["content-type"]) == ("/hook?token=t0ken", "application/json")
    assert told.headers["user-agent"].startswith("notification-gateway/")
    assert payload["type"] == "notification.relayed"
    assert payload["data"] | {"accepted_at": "…"} == {
        "id": id_, "tenant": "acme", "category": "general", "severity": "info", "profile": "main",
        "status": "relayed", "simulated": False, "metadata": {}, "accepted_at": "…", "href": f"/v1/notifications/{id_}",
        "recipients": [{
            "address": "ann@example.test", "role": "to", "state": "relayed", "attempts": 1,
            "reply": {"code": 250, "enhanced": "2.0.0", "text": "queued as 1"},
        }],
    }  # fmt: skip


async def test_a_failed_attempt_comes_again_under_its_id(world: World, endpoint: WebhookEndpoint) -> None:
    """After the pauses that Standard Webhooks recommends, with a new time and a new signature."""
    endpoint.answers += [DOWN, DOWN]
    await world.put(webhook(endpoint.url))
    world.start()
    await world.relayed(OK)
    await endpoint.received(1)
    assert 3.5 < await world.due_in() <= 5
    world.pass_time(4.9)
    await endpoint.received(2)
    assert 298 < await world.due_in() <= 300
    world.pass_time(301)
    first, second, third = await endpoint.received(3)
    await world.emptied()

    assert first.id == second.id == third.id
    assert first.body == second.body == third.body
    assert int(third.headers["webhook-timestamp"]) >= int(first.headers["webhook-timestamp"]) + 300
    assert first.headers["webhook-signature"] != third.headers["webhook-signature"]


async def test_retry_after_is_honoured(world: World, endpoint: WebhookEndpoint) -> None:
    """An endpoint that asks for a pause gets it, and no longer one than an hour."""
    endpoint.answers += [Reply(429, {"Retry-After": "120"}), Reply(503, {"Retry-After": "999999"})]
    await world.put(webhook(endpoint.url))
    world.start()
    await world.relayed(OK)
    await endpoint.received(1)
    assert 118 < await world.due_in() <= 120
    world.pass_time(121)
    await endpoint.received(2)
    assert 3_598 < await world.due_in() <= 3_600


async def test_while_a_secret_rotates_both_sign(world: World, endpoint: WebhookEndpoint) -> None:
    """For a day; after that the new one alone."""
    rotated = webhook(endpoint.url).model_copy(
        update={
            "previous": webhook(endpoint.url).sealed,
            "sealed": SEAL.close(Secret(OTHER_SECRET), ("webhook", "acme", HOOK)),
            "rotated_at": world.clock(),
        }
    )
    await world.put(rotated)
    world.start()
    await world.relayed(OK)
    [both] = await endpoint.received(1)
    both.verify(OTHER_SECRET, SECRET)
    world.pass_time(DAY + 1)
    await world.relayed(OK)
    _, one = await endpoint.received(2)

    assert len(both.headers["webhook-signature"].split()) == 2
    assert len(one.headers["webhook-signature"].split()) == 1


async def test_the_trace_is_passed_on(world: World, endpoint: WebhookEndpoint) -> None:
    """What an event says of its trace goes out as a header."""
    await world.put(webhook(endpoint.url))
    world.start()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await world.store.add_events([event(1, world)._replace(traceparent=trace), event(2, world)])
    world.sender.noted("acme")
    told = sorted(await endpoint.received(2), key=lambda one: one.id)
    assert [one.headers.get("traceparent") for one in told] == [trace, None]


# Who is told no more.


async def test_who_is_gone_is_told_no_more(world: World, endpoint: WebhookEndpoint) -> None:
    """410 disables the webhook, which the log tells of, and what was still to be told is dropped."""
    await world.put(webhook(endpoint.url))
    await world.store.add_events([event(number, world) for number in range(20)])
    endpoint.usual = GONE
    world.start()
    world.sender.noted("acme")
    await world.emptied()
    found = world.found()

    assert (found.enabled, found.disabled_reason) == (False, "gone")
    assert len(endpoint.requests) <= turns.OF_ENDPOINT
    actor, action, changed = (await audit(world))[0]
    assert (actor, action) == ("gateway", "webhook.update")
    assert {"field": "disabled_reason", "after": "gone"} in changed
    await world.relayed(OK)
    assert await world.backlog() == []


async def test_who_fails_for_days_is_told_no_more(world: World, endpoint: WebhookEndpoint) -> None:
    """Three days without one good answer."""
    endpoint.usual = DOWN
    await world.put(webhook(endpoint.url))
    world.start()
    await world.relayed(OK)
    await endpoint.received(1)
    await world.idle()
    world.pass_time(2 * DAY)
    await endpoint.received(2)
    await world.idle()
    await world.relayed(OK)
    assert world.found().enabled
    world.pass_time(1.1 * DAY)
    await endpoint.received(3)
    await world.emptied()
    assert (world.found().enabled, world.found().disabled_reason) == (False, "failing")


async def test_one_good_answer_is_enough(world: World, endpoint: WebhookEndpoint) -> None:
    """An endpoint that takes something in between is not given up, though an event is."""
    await world.put(webhook(endpoint.url))
    world.start()
    endpoint.answers.append(DOWN)
    await world.relayed(OK)
    await endpoint.received(1)
    await world.idle()
    world.pass_time(2 * DAY)
    await endpoint.received(2)
    await world.emptied()
    endpoint.answers.append(DOWN)
    await world.relayed(OK)
    await endpoint.received(3)
    await world.idle()
    world.pass_time(2 * DAY)
    await world.emptied()
    assert world.found().enabled


async def test_what_failed_a_week_ago_says_nothing_any_more(world: World, endpoint: WebhookEndpoint) -> None:
    """Another daemon may have told the endpoint much meanwhile: it is not given up at once, nor spared for hours."""
    endpoint.answers += [DOWN] * 5
    await world.put(webhook(endpoint.url))
    world.start()
    await world.relayed(OK)
    for number, seconds in enumerate((6, 400, 2_000, 8_000), start=1):
        await endpoint.received(number)
        await world.idle()
        world.pass_time(seconds)
    await endpoint.received(5)
    await world.idle()
    await world.store.drop_events("acme", HOOK)  # as if another had told it
    world.pass_time(7 * DAY)
    endpoint.answers.append(DOWN)
    await world.relayed(OK)
    await endpoint.received(6)
    assert 3.5 < await world.due_in() <= 5
    assert world.found().enabled
    world.pass_time(6)
    await endpoint.received(7)


async def test_a_clock_that_is_set_back_keeps_nobody_waiting(world: World, endpoint: WebhookEndpoint) -> None:
    """Neither for the end of a pause, nor for the next look at what somebody else has brought."""
    endpoint.answers.append(DOWN)
    await world.put(webhook(endpoint.url))
    world.start()
    await world.relayed(OK)
    await endpoint.received(1)
    await world.idle()
    world.clock.ahead -= DAY * 1000
    await world.store.add_events([event(2, world)])
    world.sender._wake.set()
    [stands] = world.sender._endpoints.values()
    await world.until(lambda _backlog: stands.rest_until <= world.clock() + 5_000)
    world.pass_time(6)
    _, told = await endpoint.received(2)
    assert told.id == "msg_00002"


async def test_one_event_that_is_never_taken_says_little(world: World, endpoint: WebhookEndpoint) -> None:
    """An endpoint that takes all but one was not silent since that one was made."""
    await world.put(webhook(endpoint.url))
    world.start()
    endpoint.answers += [Reply(400), Reply(400), Reply(), Reply(400), DOWN]
    await world.store.add_events([event(1, world)])
    world.sender.noted("acme")
    await endpoint.received(1)
    await world.idle()
    world.pass_time(1.5 * DAY)
    await endpoint.received(2)
    await world.idle()
    await world.store.add_events([event(2, world)])
    world.pass_time(400)
    await endpoint.received(4)
    await world.idle()
    await world.store.add_events([event(3, world)])
    world.pass_time(1.6 * DAY)
    told = await endpoint.received(5)
    await world.idle()

    assert [one.id[-1] for one in told] == ["1", "1", "2", "1", "3"]
    assert world.found().enabled


async def test_an_event_is_given_up_after_three_days(world: World, endpoint: WebhookEndpoint) -> None:
    """Whoever asks for it then is told nothing of it any more."""
    await world.put(webhook(endpoint.url))
    await world.store.add_events([event(1, world, age=3 * DAY), event(2, world)])
    world.start()
    world.sender.noted("acme")
    await world.emptied()
    assert [one.id for one in endpoint.requests] == ["msg_00002"]


async def test_who_lets_too_much_pile_up_is_told_no_more(
    world: World, endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More events than a tenant may have disable the webhook that has most of them, and no other."""
    monkeypatch.setattr(backlog, "MOST_EVENTS", 100)
    await world.put(webhook(endpoint.url), webhook(endpoint.url, id_="b1b2c3d4"))
    endpoint.usual = DOWN
    await world.store.add_events([event(number, world) for number in range(51)])
    await world.store.add_events([event(1000 + number, world, webhook="b1b2c3d4") for number in range(50)])
    world.start()
    await world.until(lambda backlog: [one.webhook for one in backlog] == ["b1b2c3d4"])
    assert world.found().disabled_reason == "overflow"
    assert world.found(id_="b1b2c3d4").enabled


async def test_what_a_tenant_has_waiting_is_bounded(
    world: World, endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends as it comes is told while there is room, twice as much before a count; then not to who has its share."""
    monkeypatch.setattr(backlog, "MOST_OCTETS", 20_000)
    hooks = [webhook(endpoint.url, id_=f"full{number:04}") for number in range(4)]
    await world.put(*hooks, webhook(endpoint.url, "notification.failed", tenant="globex"))
    made = [
        notification("a@b.example", tenant=tenant, accepted_at=world.clock(), simulated=True)
        for tenant in ("acme",) * 60 + ("globex",)
    ]
    await world.outbox.accept([submission(one) for one in made])
    waiting = await world.backlog()
    endpoint.usual = DOWN
    world.start()
    await world.until(lambda _backlog: not any(world.found(id_=hook.id).enabled for hook in hooks))

    assert 39_000 < sum(one.octets for one in waiting) < 43_000
    assert {world.found(id_=hook.id).disabled_reason for hook in hooks} == {"overflow"}
    assert world.found("globex").enabled
    await world.emptied()


async def test_what_is_told_is_waiting_no_more(
    world: World, endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much an endpoint takes in the course of time, it is never too much."""
    monkeypatch.setattr(backlog, "MOST_EVENTS", 3)
    await world.put(webhook(endpoint.url))
    world.start()
    for number in range(1, 7):
        await world.relayed(OK)
        await endpoint.received(number)
        await world.idle()
    assert world.found().enabled


async def test_what_another_daemon_told_is_waiting_no_more(
    world: World, endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this one knows of may be over: nobody is disabled before it was counted again, and nothing is left out."""
    monkeypatch.setattr(backlog, "MOST_EVENTS", 10)
    await world.put(webhook(endpoint.url))
    for _ in range(8):
        await world.relayed(OK)
    await world.store.drop_events("acme", HOOK)  # as if another had told them
    told = {await world.relayed(OK) for _ in range(8)}
    world.start()
    await endpoint.received(8)
    await world.emptied()

    assert {json.loads(one.body)["data"]["id"] for one in endpoint.requests} == told
    assert world.found().enabled


async def test_who_cannot_be_disabled_is_asked_again_later(world: World, endpoint: WebhookEndpoint) -> None:
    """While the audit log takes nothing an endpoint that is gone stays enabled, and everybody else is told."""
    assert isinstance(world.store, SqliteStore)
    await world.put(webhook(endpoint.url), webhook(endpoint.url, id_="b1b2c3d4"))
    await world.store._write(lambda db: list(db.execute(REFUSING)))
    endpoint.answers.append(GONE)
    await world.store.add_events([event(1, world)])
    world.start()
    world.sender.noted("acme")
    await endpoint.received(1)
    assert await world.due_in() > 0
    await world.store.add_events([event(2, world, webhook="b1b2c3d4")])
    world.sender.noted("acme")
    await endpoint.received(2)

    assert world.found().enabled


class Blind(SqliteStore):
    """A store in which nothing is found, as when looking for it takes longer than a statement may."""

    async def due_events(self) -> list[EventsDue]:
        raise StoreUnavailable("canceling statement due to statement timeout")


async def test_what_is_known_is_told_though_nothing_is_found(tmp_path: Path, endpoint: WebhookEndpoint) -> None:
    """Whose look or count takes too long keeps nobody's events from being sent."""
    async with Blind(tmp_path / "gateway.db") as store, running(tmp_path, on=store) as world:
        await world.put(webhook(endpoint.url))
        world.start()
        await world.relayed(OK)
        await endpoint.received(1, seconds=5)


class Uncountable(SqliteStore):
    """A store in which counting never ends."""

    async def pending_events(self, tenant: str, most: int) -> list[EventBacklog]:
        await asyncio.Event().wait()
        return []


async def test_nobody_waits_for_a_count(tmp_path: Path, endpoint: WebhookEndpoint) -> None:
    """What waits is counted beside the sending."""
    async with Uncountable(tmp_path / "gateway.db") as store, running(tmp_path, on=store) as world:
        await world.put(webhook(endpoint.url))
        await world.store.add_events([event(1, world)])
        world.start()
        await endpoint.received(1, seconds=5)


async def test_whoever_is_enabled_again_is_told_again(world: World, endpoint: WebhookEndpoint) -> None:
    """What happened meanwhile is not told; what happens from now on is."""
    endpoint.answers.append(GONE)
    await world.put(webhook(endpoint.url))
    world.start()
    await world.relayed(OK)
    await world.emptied()
    await world.relayed(OK)
    await world.put(world.found().model_copy(update={"enabled": True, "disabled_reason": None}))
    third = await world.relayed(OK)
    _, told = await endpoint.received(2)
    assert json.loads(told.body)["data"]["id"] == third


@pytest.mark.parametrize("status", [410, 503])
async def test_an_address_answers_for_itself(status: int, world: World, endpoint: WebhookEndpoint) -> None:
    """What the one before it said, which was asked when it still was the address, ends nothing and keeps nothing waiting."""
    held = asyncio.Event()
    endpoint.usual = Reply(status, held=held)
    await world.put(webhook(endpoint.url))
    world.start()
    await world.store.add_events([event(1, world)])
    world.sender.noted("acme")
    await endpoint.received(1)
    async with WebhookEndpoint() as other:
        await world.put(world.found().model_copy(update={"url": other.url}))
        held.set()
        [told] = await other.received(1, seconds=4)
        await world.emptied()

    assert told.id == "msg_00001"
    assert world.found().enabled


@pytest.mark.parametrize(
    "edits",
    [
        pytest.param(({"enabled": False}, {}), id="enabled again"),
        pytest.param(({"url": "/another"},), id="another path"),
    ],
)
async def test_what_was_said_before_an_edit_is_over(
    edits: tuple[dict[str, Any], ...], world: World, endpoint: WebhookEndpoint
) -> None:
    """A person may have been quicker than the answer, and mended what it is about; the event comes again after its pause."""
    held = asyncio.Event()
    endpoint.answers.append(Reply(410, held=held))
    await world.put(webhook(endpoint.url))
    world.start()
    await world.store.add_events([event(1, world)])
    world.sender.noted("acme")
    await endpoint.received(1)
    asked = world.found()
    for edit in edits:
        url = {"url": f"http://127.0.0.1:{endpoint.port}{edit['url']}"} if "url" in edit else {}
        await world.put(asked.model_copy(update={**edit, **url}))
    held.set()
    await world.idle()
    enabled = world.found().enabled
    world.pass_time(6)
    await endpoint.received(2)
    await world.emptied()

    assert enabled
    assert world.found().enabled


# Whose turn it is.


async def test_a_failing_endpoint_is_asked_with_one_event_at_a_time(world: World, endpoint: WebhookEndpoint) -> None:
    """Its others wait for the pause; once it takes one, all go."""
    endpoint.usual = DOWN
    await world.put(webhook(endpoint.url))
    await world.store.add_events([event(number, world) for number in range(30)])
    world.start()
    world.sender.noted("acme")
    await endpoint.received(turns.OF_ENDPOINT)
    await world.idle()
    before = len(endpoint.requests)
    world.pass_time(6)
    await endpoint.received(before + 1)
    await world.idle()
    after = len(endpoint.requests)
    endpoint.usual = Reply()
    world.pass_time(400)
    await world.emptied()

    assert (before, after) == (turns.OF_ENDPOINT, turns.OF_ENDPOINT + 1)
    assert len({one.id for one in endpoint.requests}) == 30


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param({"url": "/hook?another"}, id="path and query"),
        pytest.param({"events": ("profile.parked",)}, id="events"),
    ],
)
async def test_an_edit_does_not_end_the_pause(edit: dict[str, Any], world: World, endpoint: WebhookEndpoint) -> None:
    """A server that fails is spared until its pause is over, whatever else about it is asked for."""
    endpoint.usual = DOWN
    await world.put(webhook(endpoint.url))
    await world.store.add_events([event(1, world)])
    world.start()
    world.sender.noted("acme")
    await endpoint.received(1)
    await world.idle()
    if "url" in edit:
        edit = {"url": f"http://127.0.0.1:{endpoint.port}{edit['url']}"}
    await world.put(world.found().model_copy(update=edit))
    async with WebhookEndpoint() as other:  # once this is told, the first would have been
        await world.put(webhook(other.url, id_="b1b2c3d4"))
        await world.store.add_events([event(2, world), event(3, world, webhook="b1b2c3d4")])
        world.sender.noted("acme")
        await other.received(1)
        await world.idle()
    asked = len(endpoint.requests)
    endpoint.usual = Reply()
    world.pass_time(6)
    await world.emptied()
    assert asked == 1
    assert endpoint.requests[-1].path == world.found().url.removeprefix(f"http://127.0.0.1:{endpoint.port}")


async def test_another_server_is_asked_at_once(world: World, endpoint: WebhookEndpoint) -> None:
    """How the one before it stood is forgotten with it."""
    endpoint.usual = DOWN
    await world.put(webhook(endpoint.url))
    await world.store.add_events([event(1, world)])
    world.start()
    world.sender.noted("acme")
    await endpoint.received(1)
    await world.idle()
    async with WebhookEndpoint() as other:
        await world.put(world.found().model_copy(update={"url": other.url}))
        await world.store.add_events([event(2, world)])
        world.sender.noted("acme")
        [told] = await other.received(1, seconds=4)
    assert told.id == "msg_00002"


async def test_a_slow_tenant_keeps_nobody_waiting(world: World, endpoint: WebhookEndpoint) -> None:
    """However many endpoints it has that never answer, others' are told at once; and no endpoint has more than its share."""
    held = asyncio.Event()
    async with WebhookEndpoint() as slow:
        slow.usual = Reply(held=held)
        hooks = [webhook(slow.url, id_=f"slow{number:04}") for number in range(12)]
        await world.put(*hooks, webhook(endpoint.url, tenant="globex"))
        await world.store.add_events(
            [event(100 * number + n, world, webhook=hook.id) for number, hook in enumerate(hooks) for n in range(20)]
        )
        world.start()
        world.sender.noted("acme")
        await slow.received(turns.OF_TENANT)
        await world.store.add_events([event(5000, world, tenant="globex")])
        world.sender.noted("globex")
        [told] = await endpoint.received(1, seconds=5)
        most = slow.most_at_once
        held.set()
        await world.emptied()

    assert told.id == "msg_05000"
    assert most == turns.OF_TENANT


async def test_an_endpoint_has_few_requests_at_once(world: World, endpoint: WebhookEndpoint) -> None:
    """Four, however much there is to tell."""
    held = asyncio.Event()
    endpoint.usual = Reply(held=held)
    await world.put(webhook(endpoint.url))
    await world.store.add_events([event(number, world) for number in range(40)])
    world.start()
    world.sender.noted("acme")
    await endpoint.received(turns.OF_ENDPOINT)
    held.set()
    await world.emptied()
    assert endpoint.most_at_once == turns.OF_ENDPOINT
    assert len(endpoint.requests) == 40


# What goes away, and what stays.


async def test_what_nobody_wants_any_more_is_dropped(world: World, endpoint: WebhookEndpoint) -> None:
    """Events of a webhook that is gone, or disabled by a person, go after a while; what others have stays."""
    await world.put(webhook(endpoint.url), webhook(endpoint.url, id_="b1b2c3d4", enabled=False))
    await world.store.add_events([event(1, world, webhook="gone"), event(2, world, webhook="b1b2c3d4")])
    world.start()
    await world.until(lambda _backlog: len(world.sender._orphans) == 2)
    assert len(await world.backlog()) == 2
    world.pass_time(sender.ORPHANED / 1000)
    await world.emptied()
    assert endpoint.requests == []


async def test_a_tenants_events_go_with_it(world: World, endpoint: WebhookEndpoint) -> None:
    """Whoever gets its name is told nothing of them."""
    await world.put(webhook(endpoint.url, tenant="globex"))
    await world.store.add_events([event(1, world, tenant="globex")])

    def gone(snapshot: Any) -> Change:
        return changes.delete_tenant(snapshot, OPERATOR, snapshot.tenants["globex"], 0)

    await world.directory.change(OPERATOR, gone)
    assert await world.backlog() == []
    assert world.directory.snapshot.webhooks_of("globex") == []


async def test_while_all_sending_is_paused_nothing_is_told(world: World, endpoint: WebhookEndpoint) -> None:
    """A copy of a database tells nobody a second time before a person has looked."""
    await world.put(webhook(endpoint.url))
    await world.directory.change(OPERATOR, lambda snapshot: changes.pause_all(snapshot, 1, "cloned"))
    await world.store.add_events([event(1, world)])
    world.start()
    world.sender.noted("acme")
    await world.until(lambda _backlog: world.sender._look_at > 0)
    world.pass_time(60)
    await world.until(lambda _backlog: world.sender._look_at > world.clock())
    assert endpoint.requests == []
    await world.directory.change(OPERATOR, changes.resume_all)
    await endpoint.received(1)


async def test_what_was_under_way_at_the_end_comes_again(tmp_path: Path, endpoint: WebhookEndpoint) -> None:
    """A daemon that ends aborts what is not answered; the next one tells it under the same id, at once."""
    endpoint.answers.append(Reply(held=asyncio.Event()))
    async with running(tmp_path) as world:
        await world.put(webhook(endpoint.url))
        world.start()
        await world.relayed(OK)
        await endpoint.received(1)
        await world.sender.drain()
        [left] = await world.backlog()
        assert left.due_at <= world.clock()
    async with running(tmp_path) as world:
        world.start()
        first, second = await endpoint.received(2)
        await world.emptied()
    assert first.id == second.id


async def test_an_event_that_nobody_settled_comes_again(tmp_path: Path, endpoint: WebhookEndpoint) -> None:
    """What a daemon held that died is due at once in the next life of the file."""
    async with running(tmp_path) as world:
        await world.put(webhook(endpoint.url))
        await world.relayed(OK)
        await world.store.claim_events([sender.EventWish("acme", HOOK, 1)], world.clock(), world.clock() + 60_000)
    async with running(tmp_path) as world:
        world.start()
        await endpoint.received(1)


# A test.


async def test_a_test_is_told_at_once(world: World, endpoint: WebhookEndpoint) -> None:
    """Also to a webhook that is disabled; and an endpoint that takes it need not be spared any more."""
    await world.put(webhook(endpoint.url))
    endpoint.usual = DOWN
    await world.store.add_events([event(number, world) for number in range(9)])
    world.start()
    world.sender.noted("acme")
    await endpoint.received(turns.OF_ENDPOINT)
    await world.idle()
    refused = await world.sender.test(world.found())
    endpoint.usual = Reply()
    taken = await world.sender.test(world.found())
    await world.until(lambda backlog: backlog[0].waiting <= 4)

    assert (refused.ok, refused.status, refused.result) == (False, 503, Result.FAILED)
    assert (taken.ok, taken.status) == (True, 200)
    assert sum(one.verify(SECRET).get("type") == "webhook.test" for one in endpoint.requests) == 2


def test_results_are_those_that_are_counted() -> None:
    """What can come of an attempt is a closed set, and all of it is shown from the beginning."""
    assert set(metrics.WEBHOOK_RESULTS) == set(Result)
    registry = CollectorRegistry()
    registry.register(metrics.WEBHOOK_ATTEMPTS)
    [family] = registry.collect()
    assert {sample.labels["result"] for sample in family.samples} >= set(Result)


async def test_several_kinds_are_told_apart(world: World, endpoint: WebhookEndpoint) -> None:
    """One commit with two ends is two events, each with its own recipients; who asked for one hears of one."""
    await world.put(
        webhook(endpoint.url, "notification.relayed", "notification.failed"),
        webhook(endpoint.url + "&only=failed", "notification.failed", id_="b1b2c3d4"),
    )
    world.start()
    await world.relayed(OK, NO, addresses=("ann@example.test", "bob@example.test"))
    told = await endpoint.received(3)
    await world.emptied()
    payloads = sorted((one.path[-6:], one.verify(SECRET)["type"], json.loads(one.body)["data"]) for one in told)
    assert len(endpoint.requests) == 3
    assert [(path, kind, [r["address"] for r in data["recipients"]]) for path, kind, data in payloads] == [
        ("=t0ken", "notification.failed", ["bob@example.test"]),
        ("=t0ken", "notification.relayed", ["ann@example.test"]),
        ("failed", "notification.failed", ["bob@example.test"]),
    ]
    assert {data["status"] for _, _, data in payloads} == {"partially_relayed"}
    assert State.FAILED in {r["state"] for _, _, data in payloads for r in data["recipients"]}
