"""The sender: takes events from the store and posts them to their webhooks until they are taken, or three days are over.

Promises: an event is sent at least once while its webhook is enabled, always under the same id; so many requests run at
once and no more, fewer to one endpoint and for one tenant, and those who wait take turns. While an endpoint fails, it is
asked with one event at a time, at the pauses that Standard Webhooks recommends, and all its others wait. An endpoint that
says it is gone, fails for days, or lets too much pile up is told nothing any more, until a person enables it again.
What waits is counted apart from the sending, which therefore never waits for the count.

Nothing here stands in the way of mail: what cannot be sent, or written because the store is away, waits.

How an endpoint stands is this daemon's own knowledge. Several daemons on one database share the events by leases.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from gateway.directory import changes
from gateway.directory.changes import GATEWAY
from gateway.directory.directory import Directory
from gateway.directory.kinds import DisabledReason
from gateway.directory.shapes import Webhook
from gateway.message.notification import new_id
from gateway.message.times import time_text
from gateway.observe import facts, tracing
from gateway.problems import Problem
from gateway.store.protocol import Store, StoreError, StoreUnavailable
from gateway.store.rows import EventResult, EventWish, LeasedEvent, Place, WebhookEvent
from gateway.webhooks.backlog import MOST_EVENTS, Backlog
from gateway.webhooks.endpoint import Attempt, Message, Poster
from gateway.webhooks.events import LIFE, TEST, body
from gateway.webhooks.turns import Endpoint, Turns

AT_ONCE: Final = 32  # requests
# Seconds by number of attempts; the last repeats.
PAUSES: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000)
JITTER: Final = 0.1
LEASE: Final = 60_000  # ms; a request is over after a quarter of it
LOOK: Final = 5_000  # ms between two looks at what there is, whoever brought it
STORE_AGAIN: Final = 1.0  # seconds
COUNT: Final = 60.0  # seconds between two counts of what waits, unless one is wanted at once
ORPHANED: Final = 15_000  # ms before events of a webhook that is not there go: another daemon may just have made it
FAILING: Final = LIFE  # ms without one good answer
DRAIN_SECONDS: Final = 2.0


class Sender:
    """Sends events to webhooks."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        poster: Poster,
        *,
        clock: Callable[[], int] | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is sent before `run`. The clock is the store's unless another is given."""
        self._store = store
        self._directory = directory
        self._poster = poster
        self._clock = clock or store.clock
        self._dice = dice
        self.backlog = Backlog()
        self._endpoints: dict[Place, Endpoint] = {}
        self._webhooks = directory.snapshot.webhooks
        self._turns = Turns()
        self._told: list[WebhookEvent] = []
        self._orphans: dict[Place, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._look_at = 0
        self._draining = False
        directory.on_change.append(self._refresh)

    # What happens elsewhere.

    def noted(self, tenant: str) -> None:
        """Events of a tenant are on stable storage."""
        now = self._clock()
        for webhook in self._directory.snapshot.webhooks_of(tenant):
            if webhook.enabled:
                self._endpoint(webhook).note(now)
        self._wake.set()

    def tell(self, events: Iterable[WebhookEvent]) -> None:
        """Keep events that belong to no commit, and send them."""
        self._told += events
        self._wake.set()

    def _endpoint(self, webhook: Webhook) -> Endpoint:
        place = webhook.tenant, webhook.id
        if (endpoint := self._endpoints.get(place)) is None:
            endpoint = self._endpoints[place] = Endpoint(webhook)
        return endpoint

    def _refresh(self) -> None:
        """The directory changed: forget the webhooks that are gone; of those that lead elsewhere now, how they stood."""
        self._wake.set()  # all sending may have been paused, or go on
        webhooks = self._directory.snapshot.webhooks
        if webhooks is self._webhooks:
            return
        self._webhooks, self._look_at = webhooks, 0
        for place, endpoint in list(self._endpoints.items()):
            now = webhooks.get(place)
            if now is None or not now.enabled:
                del self._endpoints[place]
                continue
            if now.place != endpoint.webhook.place:
                endpoint.works(self._clock())
            endpoint.webhook = now

    # The loop.

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                while True:
                    self._wake.clear()
                    wait = await self._turn(tasks)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await self._wake.wait()
        finally:
            self._draining = True

    async def _turn(self, tasks: asyncio.TaskGroup) -> float:
        """Do what is to be done now; answers how long (seconds) there will be nothing, unless somebody wakes the loop."""
        done = [await _tried(work) for work in (self._keep_told, self._look, partial(self._claim, tasks))]
        if not all(done):
            return STORE_AGAIN
        now = self._clock()
        free = len(self._tasks) < AT_ONCE
        due = [max(one.due_at, one.rest_until) for one in self._endpoints.values() if free and one.due_at is not None]
        later = [self._look_at, *(at for at in due if at > now)]
        return max(0.0, (min(later) - now) / 1000)

    async def _keep_told(self) -> None:
        if not self._told:
            return
        told, self._told = self._told, []
        try:
            await self._store.add_events(told)
        except StoreUnavailable:
            self._told = told + self._told
            raise
        for tenant in {one.tenant for one in told}:
            self.noted(tenant)

    async def _look(self) -> None:
        """Find what there is, whoever brought it, if it is time to."""
        now = self._clock()
        if now < self._look_at <= now + LOOK:  # it is later only if the clock was set back
            return
        self._look_at = now + LOOK
        found = await self._store.due_events()
        webhooks = self._directory.snapshot.webhooks
        orphans: dict[Place, int] = {}
        for one in found:
            webhook = webhooks.get((one.tenant, one.webhook))
            if webhook is None or not webhook.enabled:
                place = one.tenant, one.webhook
                orphans[place] = self._orphans.get(place, now)
            else:
                self._endpoint(webhook).note(one.due_at)
        self._orphans = orphans
        self.backlog.found({(one.tenant, one.webhook) for one in found})
        await self._drop_orphans(now)
        self._tell_how_many()

    async def _drop_orphans(self, now: int) -> None:
        """Delete the events of webhooks that are no more, or tell nobody any more."""
        if self._directory.snapshot.unreadable:  # newer code may know more of them
            return
        for (tenant, webhook), since in self._orphans.items():
            if now - since >= ORPHANED:
                await self._store.drop_events(tenant, webhook)

    # How much waits.

    async def _watch(self) -> None:
        """Count what waits, and disable the webhooks for which too much does, for ever."""
        while True:
            self.backlog.wanted.clear()
            counted = await _tried(self._disable_crowded) and await _tried(self._count)
            await asyncio.sleep(STORE_AGAIN)  # however fast it grows
            with suppress(TimeoutError):
                async with asyncio.timeout(COUNT if counted else STORE_AGAIN):
                    await self.backlog.wanted.wait()

    async def _count(self) -> None:
        """Count tenant by tenant: what a count cannot be had of keeps nobody else's from being one."""
        tenants = {one.tenant for one in await self._store.due_events()}
        for tenant in tenants:
            with suppress(StoreUnavailable):
                counted = self.backlog.begin(tenant)
                counted(await self._store.pending_events(tenant, MOST_EVENTS + 1))
        self._tell_how_many()
        await self._disable_crowded()

    async def _disable_crowded(self) -> None:
        for place in list(self.backlog.crowded):
            webhook = self._directory.snapshot.webhooks.get(place)
            if webhook is None:
                self.backlog.drop(place)
            else:
                await self._disable(webhook, "overflow")

    def _tell_how_many(self) -> None:
        events, first_end = self.backlog.events, self.backlog.first_end
        waits = 0 if first_end is None or not events else self._clock() - (first_end - LIFE)
        facts.webhook_events(events, max(0.0, waits / 1000))

    # Beginning.

    async def _claim(self, tasks: asyncio.TaskGroup) -> None:
        """Begin as many requests as may be."""
        now = self._clock()
        shares = self._turns.shares(self._waiting(now), AT_ONCE - len(self._tasks))
        if not shares:
            return
        for place in shares:
            self._endpoints[place].due_at = None  # unless one is noted meanwhile
        wishes = [EventWish(tenant, webhook, most) for (tenant, webhook), most in shares.items()]
        try:
            claimed = await self._store.claim_events(wishes, now, now + LEASE)
        except BaseException:
            for place in shares:
                self._note(place, now)
            raise
        brought = Counter((event.tenant, event.webhook) for event in claimed)
        for place, most in shares.items():
            if brought[place] == most:  # there may be more
                self._note(place, now)
        for event in claimed:
            self._begin(tasks, event)

    def _waiting(self, now: int) -> dict[str, deque[tuple[Endpoint, int]]]:
        """Find by tenant which endpoints may be asked, and for how much each has room."""
        waiting: dict[str, deque[tuple[Endpoint, int]]] = {}
        if self._draining or self._directory.snapshot.all_paused is not None:
            return waiting
        for (tenant, _), endpoint in self._endpoints.items():
            endpoint.forget(now)
            if (room := endpoint.room(now)) > 0:
                waiting.setdefault(tenant, deque()).append((endpoint, room))
        return waiting

    def _note(self, place: Place, due_at: int) -> None:
        if (endpoint := self._endpoints.get(place)) is not None:
            endpoint.note(due_at)

    def _begin(self, tasks: asyncio.TaskGroup, event: LeasedEvent) -> None:
        endpoint = self._endpoints.get((event.tenant, event.webhook))
        task = tasks.create_task(self._release(event) if endpoint is None else self._send(endpoint, event))
        self._tasks.add(task)
        self._turns.begins(event.tenant)
        if endpoint is not None:
            endpoint.at_work += 1
        task.add_done_callback(lambda done: self._over(done, endpoint, event.tenant))

    def _over(self, task: asyncio.Task[None], endpoint: Endpoint | None, tenant: str) -> None:
        self._tasks.discard(task)
        self._turns.ends(tenant)
        if endpoint is not None:
            endpoint.at_work -= 1
        self._wake.set()

    # Sending.

    async def _send(self, endpoint: Endpoint, event: LeasedEvent) -> None:
        """Make one attempt, and write what came of it."""
        if self._clock() >= event.expires_at:
            await self._settle(event, None)
            return
        asked = endpoint.webhook
        try:
            attempt = await self._attempt(asked, Message(event.id, event.body, event.traceparent))
        except asyncio.CancelledError:
            await self._release(event)
            raise
        await self._judge(endpoint, asked, event, attempt)

    async def _attempt(self, webhook: Webhook, message: Message) -> Attempt:
        attempt = await self._recorded(webhook, message)
        facts.webhook_attempt(attempt.result, attempt.milliseconds / 1000)
        if not attempt.ok:
            place = webhook.tenant, webhook.id
            first = (endpoint := self._endpoints.get(place)) is None or not endpoint.failures
            facts.webhook_failed(place, webhook.place.host, attempt.result, attempt.status, first=first)
        return attempt

    async def _recorded(self, webhook: Webhook, message: Message) -> Attempt:
        """Post, and hand the span of it on where spans are recorded."""
        span = tracing.webhook(message.traceparent, message.id, webhook.tenant)
        if span is None:
            return await self._poster.post(webhook, message)
        came, failed = "cut", True
        try:
            attempt = await self._poster.post(webhook, replace(message, traceparent=span.traceparent))
            came, failed = attempt.result.value, not attempt.ok
        finally:
            span.end(came, failed=failed)
        return attempt

    async def _judge(self, endpoint: Endpoint, asked: Webhook, event: LeasedEvent, attempt: Attempt) -> None:
        """Write what came of an attempt; `asked` is the webhook as it was when the endpoint was asked."""
        now = self._clock()
        if attempt.ok:
            endpoint.works(now)
            await self._settle(event, None)
            return
        if endpoint.webhook.place != asked.place:  # the one that leads elsewhere now has not been asked
            await self._release(event)
            endpoint.note(now)
            return
        since = event.expires_at - LIFE if event.attempts else now
        endpoint.fails(now, attempt.pause or self._pause(endpoint.failures + 1), since)
        reason = _reason(endpoint, attempt, now)
        if reason is not None and await self._disable(asked, reason):
            await self._settle(event, None)
            return
        due_at = now + round(1000 * (attempt.pause or self._pause(event.attempts + 1)))
        if due_at >= event.expires_at:
            await self._settle(event, None)
            facts.webhook_gave_up((event.tenant, event.webhook), event.id)
            return
        await self._settle(event, due_at)
        endpoint.note(due_at)

    def _pause(self, attempts: int) -> float:
        """Seconds to wait after so many attempts."""
        seconds = PAUSES[min(attempts, len(PAUSES)) - 1]
        return seconds * (1 - JITTER + 2 * JITTER * self._dice())

    async def _settle(self, event: LeasedEvent, due_at: int | None) -> None:
        await self._write(EventResult(event.id, event.lease_token, due_at, event.attempts + 1))
        if due_at is None:
            self.backlog.over((event.tenant, event.webhook), len(event.body.encode()))

    async def _release(self, event: LeasedEvent) -> None:
        """Give an event back as it was."""
        await self._write(EventResult(event.id, event.lease_token, self._clock(), event.attempts))

    async def _write(self, result: EventResult) -> None:
        """Write what became of an event, however long the store is away; one that is not written comes again."""
        while not self._draining:
            try:
                await self._store.settle_events([result])
            except StoreUnavailable:
                await asyncio.sleep(STORE_AGAIN)
            else:
                return
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._store.settle_events([result])

    async def _disable(self, webhook: Webhook, reason: DisabledReason) -> bool:
        """Tell a webhook nothing any more, and drop what it was to be told.

        False if that cannot be done at the moment, or it has been written anew: it may have been enabled again since.
        """
        place = webhook.tenant, webhook.id
        try:
            change = await self._directory.change(
                GATEWAY, lambda snapshot: changes.disable_webhook(snapshot, place, reason, webhook)
            )
        except (StoreError, Problem) as error:
            facts.webhook_not_disabled(place, webhook.place.host, reason, error)
            return False
        if change.put:
            facts.webhook_disabled(place, webhook.place.host, reason)
        elif (now := self._directory.snapshot.webhooks.get(place)) is not None and now.enabled:
            return False
        self.backlog.drop(place)
        with suppress(StoreUnavailable):  # what stays is found to be nobody's
            await self._store.drop_events(*place)
        return True

    async def test(self, webhook: Webhook) -> Attempt:
        """Send a test event at once; an endpoint that takes it is known to work again."""
        now = self._clock()
        data = {"tenant": webhook.tenant, "webhook": webhook.id, "at": time_text(now)}
        attempt = await self._attempt(webhook, Message(f"msg_{new_id(now)}", body(TEST, now, data)))
        endpoint = self._endpoints.get((webhook.tenant, webhook.id))
        if attempt.ok and endpoint is not None:
            endpoint.works(now)
            self._wake.set()
        return attempt

    async def drain(self) -> None:
        """Begin nothing more; what is under way gets a moment, and is then given back."""
        self._draining = True
        await _tried(self._keep_told)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=DRAIN_SECONDS)


async def _tried(work: Callable[[], Awaitable[None]]) -> bool:
    """Do it if the store can; False if it cannot at the moment."""
    try:
        await work()
    except StoreUnavailable:
        return False
    return True


def _reason(endpoint: Endpoint, attempt: Attempt, now: int) -> DisabledReason | None:
    """Find why a webhook is to be told nothing any more."""
    if attempt.gone:
        return "gone"
    since = endpoint.failing_since
    return "failing" if since is not None and now - since >= FAILING else None
