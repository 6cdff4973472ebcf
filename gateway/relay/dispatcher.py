"""The dispatcher: takes mail from the outbox into lanes, and lets workers carry it to the relays.

Owns the pool of idle sessions and the workers; which lane carries whose mail is `Routes`' to say. Mail without a usable
profile stays in the outbox.

Promises: one delivery has one worker; a worker has at most one message whose final dot has left, and `UNCOMMITTED`
whose results are being committed, which bounds what a crash can send twice; a fault of a profile blames no message.
"""

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Final, assert_never

from gateway.credentials.provider import Why
from gateway.directory.directory import Directory
from gateway.directory.shapes import PauseReason
from gateway.message.template import Rendered
from gateway.message.template.allowance import AllowanceSpent
from gateway.observe import facts, tracing
from gateway.outbox.delivery import Delivery
from gateway.outbox.outbox import Outbox
from gateway.outbox.verdict import TEN_MINUTES, Consequence, Halve, Park, Rest, Trip, beyond_the_message, consequence
from gateway.relay.guard import TOO_OFTEN
from gateway.relay.holding import Holding
from gateway.relay.lane import MOUTHFUL, Lane
from gateway.relay.render import Held, Prepared, render
from gateway.relay.routes import Counts, Feeding, Routes
from gateway.relay.sign_in import Opened, SignIns
from gateway.relay.slots import Slots
from gateway.smtp.outcome import Fault, Refused, Rejected, Relayed, Transaction, Trouble, answer_class
from gateway.smtp.pool import Pool, Session
from gateway.smtp.session import Security
from gateway.smtp.transaction import Engine, Envelope
from gateway.store.protocol import StoreUnavailable
from gateway.store.rows import Flow, Place

TLS_PATIENCE: Final = 10  # failed handshakes in a row that park a profile
IDLE: Final = 5.0
LOOK_AGAIN_LAPS: Final = 6  # of IDLE seconds, after which secrets are looked for that lanes stand still for
UNCOMMITTED: Final = 16  # results a session may run ahead of the disk; less starves it when a sync takes 10 ms
STORE_AGAIN: Final = 1_000  # ms after which claiming is tried again on a full disk, or at a server that is away
PLENTY: Final = 128 << 20  # characters of content in hand from which on each lane claims one message at a time
ROOM: Final = 128 << 20  # octets of heavy messages' content that are in memory at once
LONGEST_SLEEP: Final = 60.0  # seconds a lane sleeps at most: clocks are set, and a machine that sleeps counts none
PASSING: Final = (Trouble.AUTH_HELD_BACK, Trouble.SECRET_UNAVAILABLE)  # maybe over in a moment, so not told at once
HELD_AGAIN: Final = 60_000  # ms after which mail with a sender that is not allowed is looked at again


@dataclass(slots=True)
class _Working:
    """What a worker is at: whose lane, and over which engine, once it has one."""

    place: Place
    engine: Engine | None = None

    def hang_up(self) -> None:
        """End the session at once, whatever is on the wire."""
        if self.engine is not None:
            self.engine.abort()


class Dispatcher:
    """Mail from the outbox to the relays."""

    def __init__(
        self,
        outbox: Outbox,
        directory: Directory,
        sign_ins: SignIns,
        connections: int,
        holding: Holding | None = None,
    ) -> None:
        """Listen to the outbox and the directory; nothing moves before `run`. Without a `holding` all lanes are ours."""
        self._sign_ins = sign_ins
        self._outbox = outbox
        self._directory = directory
        self._slots = Slots(connections)
        self._room = Slots(ROOM)
        self._pool = Pool()
        self._holding = holding or Holding()
        self._routes = Routes(directory, self._opened_lane, self._holding)
        self._workers: dict[asyncio.Task[None], _Working] = {}
        self._at: Counter[Place] = Counter()  # workers by profile
        self._tasks: asyncio.TaskGroup | None = None
        self._draining = False
        outbox.on_ready = self._routes.ready
        outbox.on_found = self._routes.found
        outbox.on_revoked = self._holding.revoke
        self.on_parked: Callable[[Place, str], None] = lambda _place, _reason: None
        self.on_unparked: Callable[[Place, str], None] = lambda _place, _reason: None
        self._parked: dict[Place, str] = {}  # of our lanes, for what was told of them
        self._changed = asyncio.Event()  # the directory, and not all mail may be in its lane yet
        self._all_paused: PauseReason | None = None
        self._tell_pause()
        directory.on_change.append(self.refresh)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for feeding in self._routes.lanes.values():
                self._start(feeding)
            tasks.create_task(self._holding.run(self))
            tasks.create_task(self._settle_forever())
            for lap in itertools.count(1):
                await asyncio.sleep(IDLE)
                self._pool.sweep()
                if lap % LOOK_AGAIN_LAPS == 0:
                    self._look_for_secrets()

    def _spawn(self, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        if self._tasks is None:
            message = "the dispatcher does not run"
            raise RuntimeError(message)
        return self._tasks.create_task(work, context=Context())  # not that of the request which set it going

    async def drain(self, seconds: float) -> None:
        """Stop taking mail, give back what has not begun, wait for final replies, then hang up."""
        self._draining = True
        self._holding.retire()
        for feeding in self._routes.lanes.values():
            feeding.close()
        for worker, working in self._workers.items():
            if working.engine is None:
                worker.cancel()
        feeders = {feeding.feeder for feeding in self._routes.lanes.values() if feeding.feeder is not None}
        if feeders or self._workers:  # to give mail back takes a store that answers
            _, late = await asyncio.wait({*feeders, *self._workers}, timeout=seconds)
            for worker in late & self._workers.keys():
                self._workers[worker].hang_up()
            if late:
                await asyncio.wait(late, timeout=5)
        await self._pool.close()
        await self._holding.end(self)

    async def _give_back(self, feeding: Feeding, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._put_down(feeding, delivery)
        await asyncio.gather(*(self._outbox.release(delivery) for delivery in deliveries))

    # Routing.

    def _opened_lane(self, feeding: Feeding) -> None:
        if self._tasks is not None:
            self._start(feeding)

    def _start(self, feeding: Feeding) -> None:
        if feeding.feeder is None and not self._draining:
            feeding.feeder = self._spawn(self._feed(feeding))

    def refresh(self) -> None:
        """The directory changed: close the lanes whose profile is not what it was, and begin to route everything anew."""
        for gone in self._routes.renew():
            gone.close()
            self._pool.drop(gone.lane.place)
            if gone.lane.place not in self._directory.snapshot.profiles:
                self._parked.pop(gone.lane.place, None)
        self._changed.set()
        self._tell_pause()
        snapshot = self._directory.snapshot
        for place, feeding in self._routes.lanes.items():
            self._pause(feeding, paused=snapshot.is_paused(*place))
            if feeding.lane.lends:
                feeding.wake.set()  # there may be somebody to lend to
        self._look_for_secrets()

    async def _settle_forever(self) -> None:
        while True:
            await self._changed.wait()
            if not self._routes.settle_some():
                self._changed.clear()
            await asyncio.sleep(0)

    def _tell_pause(self) -> None:
        pause = self._directory.snapshot.all_paused
        before, self._all_paused = self._all_paused, None if pause is None else pause.reason
        if self._all_paused is not None and before is None:
            facts.sending_paused(self._all_paused)
        elif self._all_paused is None and before is not None:
            facts.sending_resumed()

    def _look_for_secrets(self) -> None:
        """See whether what lanes stand still for can be had now, or is another one; sources may take their time."""
        if self._tasks is None:
            return
        for feeding in self._routes.lanes.values():
            if feeding.waits_for_secret and not feeding.looking:
                feeding.looking = True
                self._spawn(self._look_for_secret(feeding))

    async def _look_for_secret(self, feeding: Feeding) -> None:
        try:
            relays = await self._sign_ins.relays(feeding.lane.profile)
        finally:
            feeding.looking = False
        standstill = feeding.lane.standstill
        if standstill is None or not feeding.waits_for_secret or feeding.closed or feeding.lane.elsewhere:  # by now
            return
        if isinstance(relays, Fault):
            self._tell_parked(feeding.lane.place, standstill.reason)
            return
        refused = [relay.login for relay in feeding.refused]
        if standstill.reason != Trouble.AUTH_FAILED or any(relay.login not in refused for relay in relays):
            feeding.lane.standstill = None  # but not what keeps away from the relay
            feeding.wake.set()

    def _pause(self, feeding: Feeding, *, paused: bool) -> None:
        """A paused lane gives back what it has not begun."""
        if feeding.lane.paused != paused:
            feeding.lane.paused = paused
            feeding.wake.set()
            if paused and self._tasks is not None and (given_up := feeding.lane.empty()):
                self._spawn(self._give_back(feeding, given_up))

    async def resume(self, place: Place) -> None:
        """Let a lane go on that stood still or kept away from its relay, whoever has it; a person says that it may.

        Without a lane here it is a test, made here, that may sign in once more.
        """
        profile, feeding = self._directory.snapshot.profiles.get(place), self._routes.lanes.get(place)
        if profile is not None and (feeding is None or feeding.lane.elsewhere):
            relays = await self._sign_ins.relays(profile)
            for login in [None] if isinstance(relays, Fault) else [relay.login for relay in relays]:
                self._sign_ins.forgive(profile, login)
        await self._holding.resume(self, place)

    def let_go_on(self, place: Place) -> None:
        """A person says that a lane of ours may go on."""
        feeding = self._routes.lanes.get(place)
        if feeding is not None:
            feeding.lane.resume()
            self._sign_ins.forgive(feeding.lane.profile, feeding.refused[0].login if feeding.refused else None)
            feeding.why = Why.PERSON
            feeding.wake.set()

    def holds(self, flow: Flow) -> bool:
        """Does this flow's mail wait for a person: no usable profile, a disabled tenant, a pause?"""
        profile = self._routes.profile_of(flow)
        if profile is None:
            return True
        return self._directory.snapshot.is_paused(profile.tenant, profile.name)

    def counts(self) -> Counts:
        """How our lanes stand, the breakers, and the connections."""
        busy = sum(working.engine is not None for working in self._workers.values())
        return self._routes.counts(self._now())._replace(busy=busy, idle=len(self._pool))

    def may_send(self, flow: Flow) -> bool:
        """May this flow's mail go at once, as far as anybody here knows?"""
        return self._routes.may_send(flow, self._now())

    def states(self) -> dict[Place, str]:
        """How each lane of ours stands."""
        now = self._now()
        lanes = self._routes.lanes.items()
        return {place: feeding.lane.state(now) for place, feeding in lanes if not feeding.lane.elsewhere}

    def all_states(self) -> dict[Place, str]:
        """How each lane stands; of those that others have, what is not in order. A pause stands in the directory."""
        others = self._holding.elsewhere().items()
        return {**{place: state for place, state in others if state != "paused"}, **self.states()}

    def relays(self) -> list[tuple[str, int, str, float | None]]:
        """How the relay of each lane of ours stands: host, port, the lane's state, and since how long it is proven (s)."""
        now = self._now()
        lanes = [feeding.lane for feeding in self._routes.lanes.values() if not feeding.lane.elsewhere]
        return [
            (
                lane.profile.host,
                lane.profile.port,
                lane.state(now),
                None if lane.proven_at is None else now - lane.proven_at,
            )
            for lane in lanes
        ]

    # Lanes that come and go.

    def taken(self, lanes: Mapping[Place, float | None]) -> None:
        """They are ours now; how far the rate of each was spent is in seconds, None if nobody knows."""
        for place, spent in lanes.items():
            self._routes.rate(place).take_over(self._now(), spent)
            state, _, reason = self._holding.elsewhere().get(place, "").partition(":")
            if state == "parked":  # whoever had it has told so
                self._parked[place] = reason
            if (feeding := self._routes.lanes.get(place)) is not None:
                feeding.lane.standstill = None  # what it stood still for is what somebody else knows by now
                feeding.lane.elsewhere = False
                feeding.wake.set()
        self._routes.hear_again()

    def leave(self, place: Place) -> None:
        """Somebody else shall have a lane: begin nothing more, and give back what has not begun."""
        if (feeding := self._routes.lanes.get(place)) is not None:
            feeding.lane.elsewhere = True
            feeding.wake.set()
        self._parked.pop(place, None)
        self._pool.drop(place)

    def left(self, place: Place) -> float | None:
        """Is all of a lane over, and every connection closed? Then how far its rate is spent, in seconds from now."""
        if self._at_work(place) or self._pool.leaving(place):
            return None
        return self._routes.rate(place).spent(self._now())

    def lost(self, places: Collection[Place]) -> None:
        """These lanes may be others' by now: hang up."""
        facts.lanes_lost(len(places))
        for place in places:
            if (feeding := self._routes.lanes.get(place)) is not None:
                feeding.lane.elsewhere = True
                feeding.wake.set()
            self._parked.pop(place, None)
            self._pool.hang_up(place)
        for worker, working in self._workers.items():
            if working.place in places:
                working.hang_up()
                if working.engine is None:
                    worker.cancel()

    def exists(self, place: Place) -> bool:
        """Is there such a profile?"""
        return place in self._directory.snapshot.profiles

    def heard(self, flow: Flow, due_at: int, place: Place | None) -> None:
        """Another daemon says that a flow has mail (ms), for its own lane or for this one."""
        self._routes.heard(flow, due_at, place, self._now())

    def revoked(self, notification_id: str) -> None:
        """Another daemon cancelled a notification that may be in our hands."""
        self._spawn(self._outbox.heed(notification_id))

    async def look(self) -> None:
        """Find the mail that there is."""
        await self._outbox.look()

    # Feeding.

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _feed(self, feeding: Feeding) -> None:
        """Claim mail for a lane whenever it may go and somebody has some."""
        lane = feeding.lane
        while not feeding.closed:
            feeding.wake.clear()
            wait = lane.wait(self._now())
            if wait != 0.0 and lane.in_hand:  # claimed while it came to stand still
                await self._give_back(feeding, lane.empty())
            if wait != 0.0 or lane.proving:
                self._routes.return_lent(feeding)
            if wait == 0.0:
                await self._claim(feeding)
                self._fetch(feeding)
                self._hire(feeding)
                wait = self._until_next(feeding)
            if lane.lends:
                again = self._routes.lend(feeding, self._now(), self._outbox.clock())
                wait = again if wait is None else min(wait, again)
            else:
                self._routes.lends_no_more(feeding)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await feeding.wake.wait()
        await self._give_back(feeding, lane.empty())

    async def _claim(self, feeding: Feeding) -> None:
        lane = feeding.lane
        wishes = lane.wishes(self._outbox.clock(), scarce=self._outbox.content_in_hand > PLENTY)
        if not wishes:
            return
        claims = await asyncio.gather(
            *(self._outbox.claim(flow, limit) for flow, limit in wishes), return_exceptions=True
        )
        for (flow, _), claim in zip(wishes, claims, strict=True):
            if isinstance(claim, StoreUnavailable):
                self._routes.found(flow, self._outbox.clock() + STORE_AGAIN)
            elif isinstance(claim, BaseException):
                raise claim
            else:
                deliveries, next_due_at = claim
                lane.claimed(flow, deliveries)
                if next_due_at is not None:
                    self._routes.ready(flow, next_due_at)  # which may be another lane's by now

    def _fetch(self, feeding: Feeding) -> None:
        """Have the next heavy message of a lane fetched, no sooner than it may go, and one at a time."""
        delivery = feeding.lane.heavy
        if delivery is not None and feeding.porter is None and feeding.lane.rate.wait(self._now()) == 0.0:
            feeding.porter = self._spawn(self._bring(feeding, delivery))

    async def _bring(self, feeding: Feeding, delivery: Delivery) -> None:
        """Read a heavy message once there is room for it; by then the lane may have given it up."""
        try:
            await self._room.take(feeding.lane.profile.tenant, delivery.row.size)
            try:
                if feeding.lane.heavy is delivery:
                    await self._outbox.fetch(delivery)
                    delivery.roomy = feeding.lane.fetched(delivery)
            finally:
                if not delivery.roomy:
                    self._make_room(feeding, delivery)
        except StoreUnavailable:
            await asyncio.sleep(STORE_AGAIN / 1000)
        finally:
            feeding.porter = None
            feeding.wake.set()

    def _put_down(self, feeding: Feeding, delivery: Delivery) -> None:
        """Give the room of a heavy message to others, if it has some."""
        if delivery.roomy:
            delivery.roomy = False
            self._make_room(feeding, delivery)

    def _make_room(self, feeding: Feeding, delivery: Delivery) -> None:
        delivery.drop()
        self._room.give(feeding.lane.profile.tenant, delivery.row.size)

    def _until_next(self, feeding: Feeding) -> float | None:
        """Seconds until there may be something to do; None: until somebody wakes the lane."""
        lane = feeding.lane
        if lane.ready:
            rate = lane.rate.wait(self._now())
            if rate > 0:
                return rate
            # Workers say when they are done; there are none if the rate allows it only now.
            return None if self._at_work(lane.place) else 0.0
        if lane.heavy is not None and feeding.porter is None:  # a porter says when it is done
            return lane.rate.wait(self._now())
        due_at = None if lane.lends else lane.next_due()
        return None if due_at is None else min(max((due_at - self._outbox.clock()) / 1000, 0.0), LONGEST_SLEEP)

    def _at_work(self, place: Place) -> int:
        """How many workers a profile has, those of before its last change included."""
        return self._at[place]

    def _hire(self, feeding: Feeding) -> None:
        """Put as many workers on a lane as it has messages ready, within its connections."""
        lane = feeding.lane
        if lane.rate.wait(self._now()) > 0:
            return
        before = self._at_work(lane.place) - lane.working  # of the profile as it was: an edit waits for what it ends
        wanted = min(lane.connections(self._now()) - before, lane.working + lane.ready)
        while lane.working < wanted and not self._draining and not feeding.closed:
            lane.working += 1
            worker = self._spawn(self._work(feeding))
            self._workers[worker] = _Working(lane.place)
            self._at[lane.place] += 1
            worker.add_done_callback(lambda done: self._dismiss(done, feeding))

    def _dismiss(self, worker: "asyncio.Task[None]", feeding: Feeding) -> None:
        place = self._workers.pop(worker).place
        self._at[place] -= 1
        if not self._at[place]:
            del self._at[place]
        feeding.lane.working -= 1
        feeding.leaving.discard(worker)
        feeding.wake.set()
        if (after := self._routes.lanes.get(feeding.lane.place)) is not None:
            after.wake.set()

    # Working.

    async def _work(self, feeding: Feeding) -> None:
        """Carry messages of one lane over one session, until it has none or the session has done enough."""
        lane = feeding.lane
        async with AsyncExitStack() as slot:
            # A lane waits for a slot in one place, so that none is taken by workers who only wait for each other.
            async with feeding.opening:
                await slot.enter_async_context(self._slots.one(lane.profile.tenant))
                session = await self._session(feeding)
            if session is None:
                return
            task = asyncio.current_task()
            if task is not None and (working := self._workers.get(task)) is not None:
                working.engine = session.engine
            try:
                await self._converse(feeding, session)
            except BaseException:
                session.engine.abort()
                raise
            finally:
                fits = self._routes.lanes.get(lane.place) is feeding and not lane.elsewhere
                enough = session.engine.messages >= lane.profile.limits.messages_per_connection
                self._pool.give(session, keep=fits and not (enough or self._draining or lane.halved(self._now())))

    async def _session(self, feeding: Feeding) -> Session | None:
        """Take an idle session or open one, under the lane's lock: so a wrong password is tried once."""
        lane = feeding.lane
        if self._draining or lane.wait(self._now()) != 0.0:
            return None
        why, feeding.why = feeding.why, Why.USE
        relays = await self._sign_ins.relays(lane.profile, why=why)
        opened: Opened | Fault
        if isinstance(relays, Fault):
            opened = relays
        else:
            if (session := self._pool.take((lane.place, relays[0]))) is not None:
                return session
            opened = await self._sign_ins.open(lane.profile, relays)
        if isinstance(opened, Fault):
            if opened.trouble is Trouble.AUTH_FAILED and opened is not TOO_OFTEN and not isinstance(relays, Fault):
                feeding.refused = relays
            facts.session_failed(lane.place, opened)
            self._heed(feeding, self._consequence(feeding, opened), opened.detail)
            return None
        feeding.tls_failures = 0
        lane.proven_at = self._now()
        facts.session_opened(lane.place, verified=opened.relay.security is Security.NONE or opened.relay.tls.verify)
        return Session(opened.engine, (lane.place, opened.relay), self._now())

    def _consequence(self, feeding: Feeding, fault: Fault) -> Consequence:
        """What a fault means for this lane, with what it has met before and how many sessions it has."""
        feeding.tls_failures = feeding.tls_failures + 1 if fault.trouble is Trouble.TLS_FAILED else 0
        if feeding.tls_failures >= TLS_PATIENCE:
            return Park(Trouble.TLS_FAILED, TEN_MINUTES)
        told = consequence(fault)
        if isinstance(told, Halve) and feeding.lane.working <= 1:
            return Trip()  # there is no fewer than one: others have the connections
        return told

    async def _converse(self, feeding: Feeding, session: Session) -> None:
        engine = session.engine
        upcoming: Prepared | None = None
        settling: deque[asyncio.Future[bool]] = deque()

        def follow() -> Envelope | None:
            nonlocal upcoming
            if not self._may_follow(feeding, engine):
                return None
            upcoming = self._next(feeding, pipelined=True)
            return None if upcoming is None else upcoming.envelope

        try:
            while engine.usable and (current := upcoming or self._next(feeding, pipelined=False)) is not None:
                upcoming = None
                transaction = await self._carry(feeding, engine, current, follow)
                if transaction is None:
                    break
                if len(settling) == UNCOMMITTED:
                    await settling.popleft()
                settling.append(self._settle(feeding, current, transaction))
                self._learn(feeding, transaction, session.born)
                if upcoming is None and self._did_enough(feeding, engine):
                    break
        finally:
            if upcoming is not None:
                self._put_down(feeding, upcoming.delivery)
                settling.append(self._outbox.release(upcoming.delivery))
            for result in settling:
                await result

    async def _carry(
        self, feeding: Feeding, engine: Engine, prepared: Prepared, follow: Callable[[], Envelope | None]
    ) -> Transaction | None:
        """Sign and send a message; None if it cannot be signed now, and was given back."""
        try:
            if (signed := await self._signed(feeding, prepared)) is None:
                return None
            began = time.perf_counter()
            transaction = await self._transact(feeding.lane, engine, signed, follow)
            facts.carried(time.perf_counter() - began, map(answer_class, transaction.outcomes))
            return transaction
        finally:
            self._put_down(feeding, prepared.delivery)

    def _settle(self, feeding: Feeding, carried: Prepared, transaction: Transaction) -> "asyncio.Future[bool]":
        """Commit what came of a message, and who carried it for whom."""
        if instead_of := self._routes.instead_of(feeding, carried.delivery.row.flow):
            facts.stood_in()
        return self._outbox.settle(
            carried.delivery, carried.indexes, transaction, feeding.lane.name, instead_of=instead_of
        )

    def _may_follow(self, feeding: Feeding, engine: Engine) -> bool:
        lane = feeding.lane
        more = engine.messages + 1 < lane.profile.limits.messages_per_connection
        if not more or self._draining or lane.proving or lane.profile.dkim is not None:
            return False
        return lane.halved_until == 0.0 or not self._crowded(feeding)

    def _did_enough(self, feeding: Feeding, engine: Engine) -> bool:
        """Has the session carried as many messages as it may, or is it one too many for the relay?"""
        if engine.messages >= feeding.lane.profile.limits.messages_per_connection:
            return True
        if not self._crowded(feeding):
            return False
        feeding.leaving.add(asyncio.current_task())
        return True

    def _crowded(self, feeding: Feeding) -> bool:
        """Does the lane have more sessions at work than it may, since its relay has too many?"""
        if feeding.lane.halved_until == 0.0 and not feeding.lane.proving:
            return False
        return feeding.lane.working - len(feeding.leaving) > feeding.lane.connections(self._now())

    async def _signed(self, feeding: Feeding, prepared: Prepared) -> Prepared | None:
        """Sign a message as its profile wants it; None if that cannot be done now, and the mail is given back."""
        if feeding.lane.profile.dkim is None:
            return prepared
        signed = await self._sign_ins.signed(feeding.lane.profile, prepared.envelope)
        if isinstance(signed, Fault):
            self._outbox.release(prepared.delivery)
            self._heed(feeding, consequence(signed), signed.detail)
            return None
        return replace(prepared, envelope=signed)

    def _transact(
        self, lane: Lane, engine: Engine, prepared: Prepared, follow: Callable[[], Envelope | None]
    ) -> Coroutine[object, object, Transaction]:
        delivery = prepared.delivery

        def fence() -> bool:
            return delivery.live(self._outbox.clock())

        async def dot() -> bool:
            return await self._outbox.dot(delivery, prepared.indexes)

        carrying = engine.transact(
            prepared.envelope, fence=fence, before_dot=dot if delivery.strict else None, follow=follow
        )
        span = tracing.relay(delivery.envelope.traceparent, delivery.row.id, *lane.place)
        return carrying if span is None else _recorded(carrying, span)

    def _next(self, feeding: Feeding, *, pipelined: bool) -> Prepared | None:
        """Take the next message and render it; what cannot be sent is settled on the side."""
        lane = feeding.lane
        while not self._draining and lane.free(self._now()):
            delivery = lane.take(pipelined=pipelined)
            if delivery is None:
                return None
            if lane.in_hand % MOUTHFUL == 0 or (lane.heavy is not None and feeding.porter is None):
                feeding.wake.set()
            if not self._routes.carries(feeding, delivery.row.flow):  # routed elsewhere since it was claimed
                self._spawn(self._give_back(feeding, [delivery]))
                continue
            now = self._outbox.clock()
            if not delivery.live(now) or not delivery.due(now, 1):  # a clock may have been set back
                self._put_down(feeding, delivery)
                self._spawn(self._overdue(delivery, now))
                continue
            prepared = self._prepared(lane, delivery, now)
            if isinstance(prepared, Prepared):
                lane.rate.spend(self._now())
                return prepared
            self._put_down(feeding, delivery)
            self._spawn(self._unsendable(delivery, prepared, now))
        return None

    def _prepared(self, lane: Lane, delivery: Delivery, now: int) -> Prepared | Rejected | Held:
        """Render a message; one that newer code wrote, and whatever else is odd about one, stops nobody else's."""
        try:
            prepared = render(delivery, lane.profile, self._fill, now)
            if delivery.heavy:
                delivery.drop()
            return prepared
        except Held as held:
            return held
        except Exception as error:  # noqa: BLE001 - a worker that dies takes the daemon along, at each start anew
            facts.row_unreadable(delivery.row.id, error)
            return Held("unreadable")

    def _fill(self, tenant: str, name: str, data: Mapping[str, object]) -> Rendered:
        """Fill a template as it is now. Raises `TemplateError`, or `Held` if it is gone or has to wait."""
        template = self._directory.snapshot.templates.get((tenant, name))
        if template is None:
            raise Held("unknown_template")
        try:
            return self._directory.render(template, data)
        except AllowanceSpent:
            raise Held("template_time") from None

    async def _overdue(self, delivery: Delivery, now: int) -> None:
        if now >= delivery.row.expires_at:
            await self._outbox.expire(delivery)
        else:
            await self._outbox.release(delivery)

    async def _unsendable(self, delivery: Delivery, why: Rejected | Held, now: int) -> None:
        if isinstance(why, Held):
            await self._outbox.hold(delivery, now + HELD_AGAIN, str(why))
            return
        indexes = delivery.due(now, len(delivery.recipients))
        await self._outbox.settle(delivery, indexes, Transaction(tuple(why for _ in indexes)))

    def _learn(self, feeding: Feeding, transaction: Transaction, born: float) -> None:
        """Heed what a transaction says about the profile."""
        outcomes = transaction.outcomes
        beyond = beyond_the_message(outcomes)
        if beyond is not None:
            self._heed(feeding, beyond, "the relay put a message off")
        elif any(isinstance(outcome, (Relayed, Refused)) for outcome in outcomes):
            feeding.lane.proven_at = self._now()
            stood = feeding.lane.answered(born)
            if stood is not None:
                facts.unparked(feeding.lane.place, stood)
            if self._parked and feeding.lane.standstill is None:
                self._tell_unparked(feeding.lane.place)

    def _heed(self, feeding: Feeding, told: Consequence, detail: str) -> None:
        """Do with the lane what a verdict asks for."""
        lane, now = feeding.lane, self._now()
        match told:
            case Trip(after, seconds, pause):
                if lane.breaker.trip(now, after=after, seconds=seconds, pause=pause):
                    facts.breaker_opened(lane.place, lane.breaker.wait(now), detail)
            case Park(reason, steps):
                lane.stand(reason, steps, now)
                self._pool.drop(lane.place)
                facts.parked(lane.place, reason, detail)
                self._tell_parked(lane.place, reason)
            case Rest(steps, reason):
                lane.stand(reason, steps, now)
                facts.parked(lane.place, reason, detail)
                if reason not in PASSING:
                    self._tell_parked(lane.place, reason)
            case Halve(seconds):
                if not lane.halved(now):  # every message that is put off says so again
                    facts.halved(lane.place, detail)
                lane.halved_until = now + seconds
                self._pool.drop(lane.place)
            case _:
                assert_never(told)
        if lane.wait(now) != 0.0 and self._tasks is not None and (given_up := lane.empty()):
            self._spawn(self._give_back(feeding, given_up))

    def _tell_parked(self, place: Place, reason: str) -> None:
        """Tell once that a profile is parked, however often that shows, and for whatever reason after the first."""
        if place not in self._parked:
            self._parked[place] = reason
            self.on_parked(place, reason)

    def _tell_unparked(self, place: Place) -> None:
        """Tell that a profile works again of which was told that it does not."""
        if (reason := self._parked.pop(place, None)) is not None:
            self.on_unparked(place, reason)


async def _recorded(carrying: Coroutine[object, object, Transaction], span: tracing.Span) -> Transaction:
    """Record an attempt, and what came of its recipients: no more than the words for it."""
    came = "cut"
    try:
        transaction = await carrying
        came = ",".join(sorted({type(outcome).__name__.lower() for outcome in transaction.outcomes}))
    finally:
        span.end(came, failed=came != "relayed")
    return transaction
