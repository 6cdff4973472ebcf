"""The dispatcher: takes mail from the outbox into lanes, and lets workers carry it to the relays.

Owns the lanes, the pool of idle sessions and the workers. Routes are looked up when mail is taken and again at every
change of the directory, so queued mail follows its profile. Mail without a usable profile stays in the outbox.

Promises: one delivery has one worker; a worker has at most one message whose final dot has left, and `UNCOMMITTED`
whose results are being committed, which bounds what a crash can send twice; a fault of a profile blames no message.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from gateway.credentials.provider import Why
from gateway.directory.directory import Directory
from gateway.directory.shapes import Profile, Template
from gateway.observe import facts
from gateway.outbox.delivery import Delivery
from gateway.outbox.outbox import Outbox
from gateway.outbox.verdict import TEN_MINUTES, Consequence, Halve, Park, Rest, Trip, beyond_the_message, consequence
from gateway.relay.lane import HELPING, Lane, Place
from gateway.relay.limits import Breaker, Rate
from gateway.relay.render import Held, Prepared
from gateway.relay.sign_in import Opened, SignIns
from gateway.smtp.outcome import Fault, Phase, Refused, Rejected, Relayed, Transaction, Trouble
from gateway.smtp.pool import Pool, Session
from gateway.smtp.sasl import Login
from gateway.smtp.session import Relay, Security
from gateway.smtp.transaction import Engine, Envelope
from gateway.store.protocol import StoreFull
from gateway.store.rows import Flow

TLS_PATIENCE: Final = 10  # failed handshakes in a row that park a profile
IDLE: Final = 5.0
LOOK_AGAIN_LAPS: Final = 6  # of IDLE seconds, after which new secrets are looked for
LEND_AGAIN: Final = 5.0  # seconds after which a profile that can carry a parked one's mail is looked for again
SECRET_REASONS: Final = frozenset({Trouble.AUTH_FAILED, Trouble.SECRET_MISSING, Trouble.SECRET_DENIED})
UNCOMMITTED: Final = 16  # results a session may run ahead of the disk; less starves it when a sync takes 10 ms
FULL_AGAIN: Final = 1_000  # ms after which claiming is tried again on a full disk
HELD_AGAIN: Final = 60_000  # ms after which mail with a sender that is not allowed is looked at again


@dataclass(slots=True)
class _Feeding:
    """A lane with the task that feeds it and its workers."""

    lane: Lane
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    feeder: "asyncio.Task[None] | None" = None
    refused: Login | None = None
    why: Why = Why.USE  # what the secret is fetched for next
    tls_failures: int = 0
    leaving: "set[asyncio.Task[None] | None]" = field(default_factory=set)  # workers that spare the relay a session
    deputy: Place | None = None  # who carries its mail at the moment
    closed: bool = False

    @property
    def waits_for_secret(self) -> bool:
        """Does the lane stand still for a secret that is missing or refused?"""
        standstill = self.lane.standstill
        return standstill is not None and standstill.reason in SECRET_REASONS

    def close(self) -> None:
        """Let the feeder end after what it is at, so that no claim is lost half-way."""
        self.closed = True
        self.wake.set()


class Dispatcher:
    """Mail from the outbox to the relays."""

    def __init__(self, outbox: Outbox, directory: Directory, sign_ins: SignIns, connections: int) -> None:
        """Listen to the outbox and the directory; nothing moves before `run`."""
        self._sign_ins = sign_ins
        self._outbox = outbox
        self._directory = directory
        self._slots = asyncio.Semaphore(connections)
        self._pool = Pool()
        self._lanes: dict[Place, _Feeding] = {}
        self._breakers: dict[tuple[str, str, int], Breaker] = {}
        self._rates: dict[Place, Rate] = {}
        self._unrouted: dict[Flow, int] = {}
        self._routes: dict[Flow, _Feeding] = {}
        self._workers: dict[asyncio.Task[None], Engine | None] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._draining = False
        outbox.on_ready = self.ready
        directory.on_change.append(self.refresh)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for feeding in self._lanes.values():
                self._start(feeding)
            for lap in itertools.count(1):
                await asyncio.sleep(IDLE)
                self._pool.sweep()
                if lap % LOOK_AGAIN_LAPS == 0:
                    await self._look_for_new_secrets()

    def _spawn(self, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        if self._tasks is None:
            message = "the dispatcher does not run"
            raise RuntimeError(message)
        return self._tasks.create_task(work)

    async def drain(self, seconds: float) -> None:
        """Stop taking mail, give back what has not begun, wait for final replies, then hang up."""
        self._draining = True
        for feeding in self._lanes.values():
            feeding.close()
        for worker, engine in self._workers.items():
            if engine is None:
                worker.cancel()
        if feeders := [feeding.feeder for feeding in self._lanes.values() if feeding.feeder is not None]:
            await asyncio.wait(feeders)
        if self._workers:
            _, late = await asyncio.wait(self._workers, timeout=seconds)
            for worker in late:
                if (engine := self._workers.get(worker)) is not None:
                    engine.abort()
            if late:
                await asyncio.wait(late, timeout=5)
        await self._pool.close()

    async def _give_back(self, deliveries: list[Delivery]) -> None:
        await asyncio.gather(*(self._outbox.release(delivery) for delivery in deliveries))

    # Routing.

    def ready(self, flow: Flow, due_at: int) -> None:
        """A flow has mail that falls due at this time (ms)."""
        lane = self._lane_of(flow)
        if lane is None:
            self._unrouted[flow] = min(due_at, self._unrouted.get(flow, due_at))
            return
        lane.lane.note(flow, due_at)
        lane.wake.set()

    def _lane_of(self, flow: Flow) -> _Feeding | None:
        feeding = self._routes.get(flow)
        if feeding is None and (profile := self._profile_of(flow)) is not None:
            feeding = self._lanes.get((profile.tenant, profile.name)) or self._open_lane(profile)
            self._routes[flow] = feeding
        return feeding

    def _profile_of(self, flow: Flow) -> Profile | None:
        snapshot = self._directory.snapshot
        tenant = snapshot.tenant(flow.tenant)
        if tenant is None or not tenant.enabled:
            return None
        return snapshot.route(flow.tenant, flow.profile or None).profile

    def _open_lane(self, profile: Profile) -> _Feeding:
        # Per owner: one tenant's failing handshakes keep no other tenant away from the same relay.
        breaker = self._breakers.setdefault((profile.tenant, profile.host, profile.port), Breaker())
        feeding = self._lanes[profile.tenant, profile.name] = _Feeding(Lane(profile, breaker))
        feeding.lane.rate = self._rates.setdefault(feeding.lane.place, feeding.lane.rate)
        feeding.lane.rate.per_minute = profile.limits.per_minute  # an edit does not begin the minute anew
        feeding.lane.paused = (profile.tenant, profile.name) in self._directory.snapshot.paused
        if self._tasks is not None:
            self._start(feeding)
        return feeding

    def _start(self, feeding: _Feeding) -> None:
        if feeding.feeder is None and not self._draining:
            feeding.feeder = self._spawn(self._feed(feeding))

    def refresh(self) -> None:
        """The directory changed: close the lanes whose profile is not what it was, and route everything anew."""
        profiles, paused = self._directory.snapshot.profiles, self._directory.snapshot.paused
        waiting = self._unrouted
        self._unrouted = {}
        self._routes.clear()
        for place, feeding in list(self._lanes.items()):
            waiting.update(feeding.lane.forget_flows())
            if profiles.get(place) != feeding.lane.profile:
                self._close_lane(place, feeding)
            else:
                self._pause(feeding, paused=place in paused)
        for flow, due_at in waiting.items():
            self.ready(flow, due_at)
        if self._tasks is not None and any(feeding.waits_for_secret for feeding in self._lanes.values()):
            self._spawn(self._look_for_new_secrets())

    async def _look_for_new_secrets(self) -> None:
        """Let go on what stood still for a secret that is another one now."""
        for feeding in list(self._lanes.values()):
            if not feeding.waits_for_secret:
                continue
            relays = await self._sign_ins.relays(feeding.lane.profile)
            if not isinstance(relays, Fault) and relays[0].login != feeding.refused:
                feeding.lane.resume()
                feeding.wake.set()

    def _pause(self, feeding: _Feeding, *, paused: bool) -> None:
        """A paused lane gives back what it has not begun."""
        if feeding.lane.paused != paused:
            feeding.lane.paused = paused
            feeding.wake.set()
            if paused and self._tasks is not None and (given_up := feeding.lane.empty()):
                self._spawn(self._give_back(given_up))

    def _close_lane(self, place: Place, feeding: _Feeding) -> None:
        del self._lanes[place]
        feeding.close()
        self._pool.drop(place)

    def resume(self, place: Place) -> None:
        """Let a lane go on that stood still or kept away from its relay; a person says that it may."""
        feeding = self._lanes.get(place)
        if feeding is not None:
            feeding.lane.resume()
            self._sign_ins.forgive(feeding.lane.profile, feeding.refused)
            feeding.why = Why.PERSON
            feeding.wake.set()

    def holds(self, flow: Flow) -> bool:
        """Does this flow's mail wait for a person: no usable profile, a disabled tenant, a paused profile?"""
        profile = self._profile_of(flow)
        if profile is None:
            return True
        return (profile.tenant, profile.name) in self._directory.snapshot.paused

    def states(self) -> dict[Place, str]:
        """Every lane's state."""
        now = self._now()
        return {place: feeding.lane.state(now) for place, feeding in self._lanes.items()}

    # Feeding.

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _feed(self, feeding: _Feeding) -> None:
        """Claim mail for a lane whenever it may go and somebody has some."""
        lane = feeding.lane
        while not feeding.closed:
            feeding.wake.clear()
            wait = lane.wait(self._now())
            if wait != 0.0 and lane.ready:  # claimed while it came to stand still
                await self._give_back(lane.empty())
            if wait != 0.0 or lane.proving:
                self._return_lent(feeding)
            if wait == 0.0:
                await self._claim(feeding)
                self._hire(feeding)
                wait = self._until_next(lane)
            if lane.lends:
                wait = min(LEND_AGAIN if wait is None else wait, self._lend(feeding))
            elif feeding.deputy is not None:
                feeding.deputy = None
                facts.failover_ended(lane.place)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await feeding.wake.wait()
        await self._give_back(lane.empty())

    async def _claim(self, feeding: _Feeding) -> None:
        lane = feeding.lane
        wishes = lane.wishes(self._outbox.clock())
        if not wishes:
            return
        claims = await asyncio.gather(
            *(self._outbox.claim(flow, limit) for flow, limit in wishes), return_exceptions=True
        )
        for (flow, _), claim in zip(wishes, claims, strict=True):
            if isinstance(claim, StoreFull):
                self.ready(flow, self._outbox.clock() + FULL_AGAIN)
            elif isinstance(claim, BaseException):
                raise claim
            else:
                deliveries, next_due_at = claim
                lane.claimed(flow, deliveries)
                if next_due_at is not None:
                    self.ready(flow, next_due_at)  # which may be another lane's by now

    def _until_next(self, lane: Lane) -> float | None:
        """Seconds until there may be something to do; None: until somebody wakes the lane."""
        if lane.ready:
            rate = lane.rate.wait(self._now())
            if rate > 0:
                return rate
            return None if lane.working else 0.0  # workers say when they are done; none, if the rate allows it only now
        due_at = None if lane.lends else lane.next_due()
        return None if due_at is None else max((due_at - self._outbox.clock()) / 1000, 0.0)

    # Standing in for one another.

    def _lend(self, feeding: _Feeding) -> float:
        """Let another profile carry what is due; answers in how many seconds to look again."""
        lane = feeding.lane
        if (deputy := self._deputy(lane)) is not None and (due := lane.due_flows(self._outbox.clock())):
            for flow, due_at in due.items():
                deputy.lane.note(flow, due_at)
            deputy.wake.set()
            if feeding.deputy != deputy.lane.place:
                feeding.deputy = deputy.lane.place
                facts.failover_began(lane.place, deputy.lane.place)
        next_due = lane.next_due()
        wait = LEND_AGAIN if next_due is None else (next_due - self._outbox.clock()) / 1000
        return wait if 0.0 < wait < LEND_AGAIN else LEND_AGAIN

    def _deputy(self, lane: Lane) -> _Feeding | None:
        """The first of a profile's failover list that is in order itself."""
        for profile in self._failover(lane.profile):
            feeding = self._lanes.get((profile.tenant, profile.name)) or self._open_lane(profile)
            if feeding.lane is not lane and feeding.lane.wait(self._now()) == 0.0 and not feeding.lane.proving:
                return feeding
        return None

    def _failover(self, profile: Profile) -> Iterator[Profile]:
        """The profiles of the list, by their names in the owner's."""
        for name in profile.failover:
            if (found := self._directory.snapshot.route(profile.tenant, name).profile) is not None:
                yield found

    def _return_lent(self, feeding: _Feeding) -> None:
        """Give back the flows of other lanes."""
        for flow, due_at in feeding.lane.forget_flows().items():
            if self._lane_of(flow) is feeding:
                feeding.lane.note(flow, due_at)
            else:
                self.ready(flow, due_at)

    def _carries(self, feeding: _Feeding, flow: Flow) -> bool:
        """Is the lane the flow's, or may it stand in for that?"""
        route = self._lane_of(flow)
        if route is feeding or route is None:
            return route is feeding
        return any((one.tenant, one.name) == feeding.lane.place for one in self._failover(route.lane.profile))

    def _instead_of(self, feeding: _Feeding, flow: Flow) -> str:
        route = self._lane_of(flow)
        return "" if route is None or route is feeding else route.lane.name

    def _hire(self, feeding: _Feeding) -> None:
        """Put as many workers on a lane as it has messages ready, within its connections."""
        lane = feeding.lane
        if lane.rate.wait(self._now()) > 0:
            return
        wanted = min(lane.connections(self._now()), lane.working + lane.ready)
        while lane.working < wanted and not self._draining and not feeding.closed:
            lane.working += 1
            worker = self._spawn(self._work(feeding))
            self._workers[worker] = None
            worker.add_done_callback(lambda done: self._dismiss(done, feeding))

    def _dismiss(self, worker: "asyncio.Task[None]", feeding: _Feeding) -> None:
        self._workers.pop(worker, None)
        feeding.lane.working -= 1
        feeding.leaving.discard(worker)
        feeding.wake.set()

    # Working.

    async def _work(self, feeding: _Feeding) -> None:
        """Carry messages of one lane over one session, until it has none or the session has done enough."""
        lane = feeding.lane
        async with AsyncExitStack() as slot:
            # A lane waits for a slot in one place, so that none is taken by workers who only wait for each other.
            async with feeding.opening:
                await slot.enter_async_context(self._slots)
                session = await self._session(feeding)
            if session is None:
                return
            task = asyncio.current_task()
            if task is not None:
                self._workers[task] = session.engine
            try:
                await self._converse(feeding, session)
            except BaseException:
                session.engine.abort()
                raise
            finally:
                fits = self._lanes.get(lane.place) is feeding
                enough = session.engine.messages >= lane.profile.limits.messages_per_connection
                self._pool.give(session, keep=fits and not (enough or self._draining or lane.halved(self._now())))

    async def _session(self, feeding: _Feeding) -> Session | None:
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
            opened = await self._opened(lane.profile, relays)
        if isinstance(opened, Fault):
            if opened.trouble is Trouble.AUTH_FAILED and not isinstance(relays, Fault):
                feeding.refused = relays[0].login
            facts.session_failed(lane.place, opened)
            self._heed(feeding, self._consequence(feeding, opened), opened.detail)
            return None
        feeding.tls_failures = 0
        facts.session_opened(lane.place, verified=opened.relay.security is Security.NONE or opened.relay.tls.verify)
        return Session(opened.engine, (lane.place, opened.relay), self._now())

    async def _opened(self, profile: Profile, relays: list[Relay]) -> Opened | Fault:
        """Open a session; what nobody foresaw in one relay's octets must not stop everybody's mail."""
        try:
            return await self._sign_ins.open(profile, relays)
        except Exception as error:  # noqa: BLE001
            facts.opening_failed((profile.tenant, profile.name), error)
            return Fault(Phase.GREETING, Trouble.PROTOCOL, "the relay said something that we did not foresee")

    def _consequence(self, feeding: _Feeding, fault: Fault) -> Consequence:
        """What a fault means for this lane, with what it has met before and how many sessions it has."""
        feeding.tls_failures = feeding.tls_failures + 1 if fault.trouble is Trouble.TLS_FAILED else 0
        if feeding.tls_failures >= TLS_PATIENCE:
            return Park(Trouble.TLS_FAILED, TEN_MINUTES)
        told = consequence(fault)
        if isinstance(told, Halve) and feeding.lane.working <= 1:
            return Trip()  # there is no fewer than one: others have the connections
        return told

    async def _converse(self, feeding: _Feeding, session: Session) -> None:
        lane, engine = feeding.lane, session.engine
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
                if (signed := await self._signed(feeding, current)) is None:
                    break
                transaction = await self._transact(engine, signed, follow)
                if len(settling) == UNCOMMITTED:
                    await settling.popleft()
                settling.append(self._settle(feeding, current, transaction))
                self._learn(feeding, transaction, session.born)
                if upcoming is None and self._did_enough(feeding, engine):
                    break
                if lane.ready in (0, HELPING // 2):
                    feeding.wake.set()
        finally:
            if upcoming is not None:
                settling.append(self._outbox.release(upcoming.delivery))
            for result in settling:
                await result

    def _settle(self, feeding: _Feeding, carried: Prepared, transaction: Transaction) -> "asyncio.Future[bool]":
        """Commit what came of a message, and who carried it for whom."""
        if instead_of := self._instead_of(feeding, carried.delivery.row.flow):
            facts.stood_in()
        return self._outbox.settle(
            carried.delivery, carried.indexes, transaction, feeding.lane.name, instead_of=instead_of
        )

    def _may_follow(self, feeding: _Feeding, engine: Engine) -> bool:
        lane = feeding.lane
        more = engine.messages + 1 < lane.profile.limits.messages_per_connection
        return more and not (self._draining or lane.proving or lane.profile.dkim or self._crowded(feeding))

    def _did_enough(self, feeding: _Feeding, engine: Engine) -> bool:
        """Has the session carried as many messages as it may, or is it one too many for the relay?"""
        if engine.messages >= feeding.lane.profile.limits.messages_per_connection:
            return True
        if not self._crowded(feeding):
            return False
        feeding.leaving.add(asyncio.current_task())
        return True

    def _crowded(self, feeding: _Feeding) -> bool:
        """Does the lane have more sessions at work than it may, since its relay has too many?"""
        return feeding.lane.working - len(feeding.leaving) > feeding.lane.connections(self._now())

    async def _signed(self, feeding: _Feeding, prepared: Prepared) -> Prepared | None:
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
        self, engine: Engine, prepared: Prepared, follow: Callable[[], Envelope | None]
    ) -> Coroutine[object, object, Transaction]:
        delivery = prepared.delivery

        def fence() -> bool:
            return delivery.live(self._outbox.clock())

        async def dot() -> bool:
            return await self._outbox.dot(delivery, prepared.indexes)

        return engine.transact(
            prepared.envelope, fence=fence, before_dot=dot if delivery.strict else None, follow=follow
        )

    def _next(self, feeding: _Feeding, *, pipelined: bool) -> Prepared | None:
        """Take the next message and render it; what cannot be sent is settled on the side."""
        lane = feeding.lane
        while not self._draining and lane.free(self._now()):
            delivery = lane.take(pipelined=pipelined)
            if delivery is None:
                return None
            if not self._carries(feeding, delivery.row.flow):  # routed elsewhere since it was claimed
                self._spawn(self._give_back([delivery]))
                continue
            now = self._outbox.clock()
            if not delivery.live(now) or not delivery.due(now, 1):  # a clock may have been set back
                self._spawn(self._overdue(delivery, now))
                continue
            prepared = lane.prepare(delivery, self._template_of(delivery), now)
            if isinstance(prepared, Prepared):
                lane.rate.spend(self._now())
                return prepared
            self._spawn(self._unsendable(delivery, prepared, now))
        return None

    def _template_of(self, delivery: Delivery) -> Template | None:
        name = delivery.content.template
        if name is None:
            return None
        return self._directory.snapshot.templates.get((delivery.row.flow.tenant, name))

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

    def _learn(self, feeding: _Feeding, transaction: Transaction, born: float) -> None:
        """Heed what a transaction says about the profile."""
        outcomes = transaction.outcomes
        beyond = beyond_the_message(outcomes)
        if beyond is not None:
            self._heed(feeding, beyond, "the relay put a message off")
        elif any(isinstance(outcome, (Relayed, Refused)) for outcome in outcomes):
            stood = feeding.lane.answered(born)
            if stood is not None:
                facts.unparked(feeding.lane.place, stood)

    def _heed(self, feeding: _Feeding, told: Consequence, detail: str) -> None:
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
            case Rest(steps):
                lane.stand("auth_deferred", steps, now)
                facts.parked(lane.place, "auth_deferred", detail)
            case Halve(seconds):
                lane.halved_until = now + seconds
                self._pool.drop(lane.place)
                facts.halved(lane.place, detail)
            case _:
                assert_never(told)
        if lane.wait(now) != 0.0 and self._tasks is not None and (given_up := lane.empty()):
            self._spawn(self._give_back(given_up))
