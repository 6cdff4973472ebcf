"""What every engine behind `Store` must do with webhook events: in with what they tell of, out once.

An engine's test module subclasses these cases as it does those of `contract`.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

from gateway.store.protocol import Store
from gateway.store.rows import EventBacklog, EventResult, EventsDue, EventWish, LeasedEvent, Stage, WebhookEvent
from tests.store.building import HOUR, NOW, Reopen, changed, pending, put, read, result, row, take

LEASED_UNTIL = NOW + 60_000
HOOK = "hook"


def event(name: str, *, tenant: str = "acme", webhook: str = HOOK, due_at: int = NOW, body: str = "{}") -> WebhookEvent:
    """Make an event of this id."""
    return WebhookEvent(name, tenant, webhook, due_at, NOW + HOUR, body)


def told(*events: WebhookEvent) -> str:
    """Write events as a result brings them."""
    return json.dumps(events)


async def claimed(
    store: Store, most: int = 100, *, tenant: str = "acme", webhook: str = HOOK, now: int = NOW
) -> list[LeasedEvent]:
    """Take events of a webhook."""
    return await store.claim_events([EventWish(tenant, webhook, most)], now, now + 60_000)


def names(events: Sequence[LeasedEvent]) -> list[str]:
    """Name events, in order."""
    return sorted(one.id for one in events)


async def waiting(store: Store) -> int:
    """Count all events."""
    return sum(one.waiting for one in await pending(store))


class EventContract:
    """Events are told of what was written, to one who claims them."""

    async def test_result_brings_its_events(self, store: Store) -> None:
        """What a result tells is there with it, octet by octet."""
        body = '{"text":"Grüße 🎉 \\u0000 \\" \\\\ \n"}'
        await put(store, row())
        sent = WebhookEvent("e1", "acme", HOOK, NOW, NOW + HOUR, body, "00-abc-def-01")
        assert await store.settle(result(await take(store))._replace(told=told(sent, event("e2"))))
        [one, other] = sorted(await claimed(store), key=lambda one: one.id)
        assert one[:5] == ("e1", "acme", HOOK, NOW + HOUR, 0)
        assert one[6:] == (body, "00-abc-def-01")
        assert (other.id, other.body, other.traceparent) == ("e2", "{}", None)

    async def test_result_that_comes_too_late_tells_nothing(self, store: Store) -> None:
        """Without its lease a result is not written, and neither is what it tells; beside one that is."""
        await put(store, row(), row())
        first, second = await take(store), await take(store)
        late = first._replace(lease_token=first.lease_token + 1)
        await asyncio.gather(
            store.settle(result(late)._replace(told=told(event("late")))),
            store.settle(result(second)._replace(told=told(event("good")))),
            store.settle(result(first)),
        )
        assert names(await claimed(store)) == ["good"]

    async def test_result_that_is_repeated_tells_once(self, store: Store) -> None:
        """The second of two same results finds no lease, and tells nothing."""
        await put(store, row())
        taken = await take(store)
        await asyncio.gather(
            store.settle(result(taken)._replace(told=told(event("first")))),
            store.settle(result(taken)._replace(told=told(event("second")))),
        )
        assert names(await claimed(store)) == ["first"]

    async def test_many_results_bring_their_events(self, store: Store) -> None:
        """Results that share commits tell all that they have to tell."""
        await put(store, *(row() for _ in range(300)))
        taken = [await take(store) for _ in range(300)]
        settled = [
            store.settle(result(one)._replace(told=told(event(f"e{number:03}")) if number % 2 else None))
            for number, one in enumerate(taken)
        ]
        assert all(await asyncio.gather(*settled))
        assert names(await claimed(store, 300)) == [f"e{number:03}" for number in range(1, 300, 2)]

    async def test_change_brings_its_events(self, store: Store) -> None:
        """What a change tells is there with it, and not if the row had moved."""
        await put(store, first := row(), second := row())
        before = await read(store, first.id)
        moved = await read(store, second.id)
        await take(store)
        await take(store)
        again = await read(store, first.id)
        assert await store.change(replace(changed(again, Stage.LEASED), told=told(event("made"))))
        assert not await store.change(replace(changed(moved, Stage.FINAL), told=told(event("moved"))))
        assert not await store.change(replace(changed(before, Stage.FINAL), told=told(event("stale"))))
        assert names(await claimed(store)) == ["made"]

    async def test_new_row_brings_its_events(self, store: Store) -> None:
        """A row that is final when it comes tells at once; what an idempotency key replays tells nothing."""
        new = row(stage=Stage.FINAL, status="relayed")._replace(told=told(event("new")))
        await put(store, new, row())
        assert names(await claimed(store)) == ["new"]

    async def test_claimed_event_is_nobody_elses(self, store: Store) -> None:
        """Two claims at once share what is due; a third finds nothing until the leases end."""
        await store.add_events([event(f"e{number}") for number in range(6)])
        one, other = await asyncio.gather(claimed(store, 3), claimed(store, 3))
        assert names([*one, *other]) == [f"e{number}" for number in range(6)]
        assert await claimed(store) == []
        assert len(await claimed(store, now=LEASED_UNTIL)) == 6

    async def test_claim_takes_what_was_wished_for(self, store: Store) -> None:
        """Of each webhook as many as it may have, those first that fell due first, and nothing that is not due."""
        await store.add_events([
            event("late", due_at=NOW - 1), event("later", due_at=NOW), event("future", due_at=NOW + 1),
            event("latest", due_at=NOW), event("other", webhook="other"), event("foreign", tenant="globex"),
        ])  # fmt: skip
        wishes = [EventWish("acme", HOOK, 1), EventWish("acme", "other", 5), EventWish("globex", "other", 5)]
        assert names(await store.claim_events(wishes, NOW, LEASED_UNTIL)) == ["late", "other"]
        assert await store.claim_events([], NOW, LEASED_UNTIL) == []

    async def test_event_is_over_or_comes_again(self, store: Store) -> None:
        """What is over is gone; what failed is due again at its time, with its attempts."""
        await store.add_events([event("done"), event("failed")])
        by_id = {one.id: one for one in await claimed(store)}
        done, failed = by_id["done"], by_id["failed"]
        await store.settle_events([
            EventResult("done", done.lease_token, None, 1),
            EventResult("failed", failed.lease_token, NOW + 5_000, 1),
        ])  # fmt: skip
        assert await claimed(store, now=NOW + 4_999) == []
        assert [(one.id, one.attempts) for one in await claimed(store, now=NOW + 5_000)] == [("failed", 1)]
        assert await waiting(store) == 1

    async def test_result_under_a_lost_lease_changes_nothing(self, store: Store) -> None:
        """Whoever was too slow neither ends the event nor puts it off: somebody else is at it."""
        await store.add_events([event("e")])
        [slow] = await claimed(store)
        [quick] = await claimed(store, now=LEASED_UNTIL)
        await store.settle_events([EventResult("e", slow.lease_token, None, 1)])
        await store.settle_events([EventResult("e", slow.lease_token, NOW, 1)])
        assert await waiting(store) == 1
        await store.settle_events([EventResult("e", quick.lease_token, None, 2)])
        assert await waiting(store) == 0

    async def test_events_are_counted(self, store: Store) -> None:
        """How many each webhook has, when the first falls due, and which ends first."""
        await store.add_events([event("a", due_at=NOW + 5), event("b", due_at=NOW + 2), event("c", webhook="other")])
        await store.add_events([event("d", tenant="globex", body='"Grüße"')])
        assert sorted(await pending(store)) == [
            EventBacklog("acme", HOOK, 2, NOW + 2, NOW + HOUR, 4),
            EventBacklog("acme", "other", 1, NOW, NOW + HOUR, 2),
            EventBacklog("globex", HOOK, 1, NOW, NOW + HOUR, 9),
        ]

    async def test_events_are_counted_up_to_a_limit(self, store: Store) -> None:
        """Whoever has ever so many: no more of them are looked at than was said."""
        await store.add_events([event(f"e{number}") for number in range(20)])
        assert [one.waiting for one in await store.pending_events("acme", 7)] == [7]
        assert await store.pending_events("globex", 7) == []

    async def test_webhooks_that_have_events_are_found(self, store: Store) -> None:
        """Each once, with the time at which the first of its events falls due, leased ones included."""
        assert await store.due_events() == []
        await store.add_events([event("a", due_at=NOW + 5), event("b", due_at=NOW + 2), event("c", webhook="other")])
        await store.add_events([event("d", tenant="globex"), event("e", tenant="globex", due_at=NOW - 1)])
        await claimed(store, webhook="other")
        assert sorted(await store.due_events()) == [
            EventsDue("acme", HOOK, NOW + 2),
            EventsDue("acme", "other", LEASED_UNTIL),
            EventsDue("globex", HOOK, NOW - 1),
        ]

    async def test_event_is_added_once(self, store: Store) -> None:
        """Asked again, because an answer was lost, the same event stays one, as it was."""
        await store.add_events([event("e", body="first")])
        await store.add_events([event("e", body="second"), event("f")])
        assert sorted(one.body for one in await claimed(store)) == ["first", "{}"]
        await store.add_events([])

    async def test_events_of_a_webhook_are_dropped(self, store: Store) -> None:
        """All of them, however many, leased ones too, and no other's."""
        await store.add_events([event(f"e{number}") for number in range(2_500)])
        await store.add_events([event("other", webhook="other"), event("foreign", tenant="globex")])
        await claimed(store, 3)
        await store.drop_events("acme", HOOK)
        assert sorted(one[:3] for one in await pending(store)) == [("acme", "other", 1), ("globex", HOOK, 1)]

    async def test_events_go_with_their_tenant(self, store: Store) -> None:
        """Whoever gets the name next is told nothing of the one before."""
        await store.add_events([event("e"), event("foreign", tenant="globex")])
        await store.forget("acme", 10)
        assert [one.tenant for one in await store.due_events()] == ["globex"]

    async def test_no_more_is_forgotten_at_once_than_was_said(self, store: Store) -> None:
        """Notifications, keys and events count alike, and as long as the answer is the limit there may be more."""
        await put(store, row(), row())
        await store.add_events([event(f"e{number}") for number in range(20)])
        left, answers = [], []
        while not answers or answers[-1] == 8:
            answers.append(await store.forget("acme", 8))
            left.append(await waiting(store))
        assert answers == [8, 8, 6]
        assert left == [14, 6, 0]

    async def test_events_survive(self, store: Store, reopen: Reopen) -> None:
        """What nobody held is as it was in the next life."""
        await store.add_events([event("e", due_at=NOW + 7)])
        async with reopen() as again:
            assert await pending(again) == [EventBacklog("acme", HOOK, 1, NOW + 7, NOW + HOUR, 2)]
