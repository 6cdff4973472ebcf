"""A lane: all the mail of one profile, whoever sends it.

Within a lane tenants take turns, one message each, however much each has waiting: mail is claimed for each of them
in small helpings, so that somebody's hundred thousand never stand before another's first. Where more have mail than can
be helped at once they are helped in turn. A lane keeps within its profile's connections and rate, and stands still while
its relay's breaker is open or the profile is parked.

What a look at it costs does not depend on how many tenants have mail for later.
"""

from collections import deque
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from gateway.directory.shapes import Profile
from gateway.outbox.delivery import Delivery
from gateway.relay.limits import Breaker, Rate, Standstill
from gateway.store.rows import Flow, Place

HELPING: Final = 256  # messages that a lane keeps claimed, shared by its tenants
SMALLEST_HELPING: Final = 4
MOST_SERVED: Final = HELPING // SMALLEST_HELPING  # tenants whose turn comes at once
MOUTHFUL: Final = HELPING // 8  # messages after which it is seen whom to help again


class Lane:
    """What one profile has to send, and whether it may."""

    def __init__(self, profile: Profile, breaker: Breaker) -> None:
        """Begin with nothing to send."""
        self.profile = profile
        self.name = f"{profile.tenant}/{profile.name}"
        self.breaker = breaker
        self.rate = Rate(profile.limits.per_minute)
        self.standstill: Standstill | None = None
        self.halved_until = 0.0
        self.working = 0
        self.paused = False
        self.elsewhere = False  # another daemon has it
        self.proven_at: float | None = None  # when its relay last let us in, or took a message
        self.in_hand = 0  # claimed messages
        self.ready = 0  # of them those that want nothing but a session, as far as can be seen
        self._claimed: dict[str, deque[Delivery]] = {}  # by tenant
        self._turns: deque[str] = deque()  # of those tenants …
        self._to_fetch: dict[str, None] = {}  # … whose next message is not to be fetched first, as theirs is
        self._at_hand: Delivery | None = None  # a heavy message that was fetched
        self._unclaimed: dict[Flow, int] = {}  # when each flow's next mail falls due (ms)
        self._later: list[tuple[int, Flow]] = []  # the same as a heap, with what is not so any more
        self._due: dict[str, dict[Flow, None]] = {}  # whose time has come, by tenant, who is next first

    @property
    def place(self) -> Place:
        """Whose profile it is, and its name."""
        return self.profile.tenant, self.profile.name

    def state(self, now: float) -> str:
        """The lane's state as the queue shows it."""
        if self.paused:
            return "paused"
        if self.standstill is not None:
            return f"parked:{self.standstill.reason}"
        return "open" if self.breaker.half_open or self.breaker.wait(now) > 0 else "active"

    # Who waits.

    def note(self, flow: Flow, due_at: int) -> None:
        """Remember that a flow has mail that falls due then."""
        known = self._unclaimed.get(flow)
        if known is not None and known <= due_at:
            return
        self._unclaimed[flow] = due_at
        heappush(self._later, (due_at, flow))
        if len(self._later) > 2 * len(self._unclaimed) + HELPING:
            self._later = [(due_at, flow) for flow, due_at in self._unclaimed.items()]
            heapify(self._later)

    def _look(self, now: int) -> None:
        """See whose time has come."""
        while self._later and self._later[0][0] <= now:
            due_at, flow = heappop(self._later)
            if self._unclaimed.get(flow) == due_at:
                self._due.setdefault(flow.tenant, {})[flow] = None

    def claimed(self, flow: Flow, deliveries: list[Delivery]) -> None:
        """Take what a claim brought."""
        if not deliveries:
            return
        self.in_hand += len(deliveries)
        if (mail := self._claimed.get(flow.tenant)) is None:
            self._claimed[flow.tenant] = deque(deliveries)
            self._line_up(flow.tenant)
        else:
            mail.extend(deliveries)
            self.ready += 0 if mail[0].heavy else len(deliveries)

    def _line_up(self, tenant: str) -> None:
        """Place a tenant with its next message: behind those whose turn comes, or behind what is to be fetched."""
        mail = self._claimed[tenant]
        if mail[0].heavy:
            self._to_fetch[tenant] = None
        else:
            self._turns.append(tenant)
            self.ready += _going(mail)

    @property
    def heavy(self) -> Delivery | None:
        """The message to fetch now: none while one that was fetched waits for its session."""
        if self._at_hand is not None or not self._to_fetch:
            return None
        return self._claimed[next(iter(self._to_fetch))][0]

    def fetched(self, delivery: Delivery) -> bool:
        """A heavy message was fetched, and is the next to go; False if the lane has given it up."""
        tenant = delivery.row.flow.tenant
        if tenant not in self._to_fetch or self._claimed[tenant][0] is not delivery:
            return False
        del self._to_fetch[tenant]
        self._turns.appendleft(tenant)
        self.ready += 1
        self._at_hand = delivery
        return True

    def wishes(self, now: int, *, scarce: bool = False) -> list[tuple[Flow, int]]:
        """Which flows to claim from, and how much: helpings are equal, and refilled when half is eaten.

        Where memory is `scarce` one message is claimed, and the next when that is gone.
        """
        self._look(now)
        if not self._due:
            return []
        helping = self._helping()
        guests = min(MOST_SERVED - len(self._turns), 4 * MOST_SERVED - len(self._claimed))
        if scarce or self.lends:  # then the others may go another way
            helping, guests = 1, 0 if self.in_hand or (self.lends and self.working) else 1
        wishes = []
        for tenant, flows in self._due.items():
            eating = len(self._claimed.get(tenant, ()))
            if eating > helping // 2:
                continue
            if not eating:
                if guests < 1:
                    break
                guests -= 1
            wishes.append((next(iter(flows)), helping - eating))
        for flow, _ in wishes:
            self._take_out(flow)
        return wishes

    def _helping(self) -> int:
        """How many messages of each tenant to keep claimed."""
        eaters = len(self._due) + sum(tenant not in self._due for tenant in self._claimed)
        helping = max(SMALLEST_HELPING, HELPING // eaters)
        per_minute = self.profile.limits.per_minute
        return helping if per_minute is None else max(1, min(helping, per_minute // 6))

    def _take_out(self, flow: Flow) -> None:
        """A flow is claimed from: what it has after that is noted again, and its tenant's other flows come after others'."""
        del self._unclaimed[flow]
        flows = self._due.pop(flow.tenant)
        del flows[flow]
        if flows:
            self._due[flow.tenant] = flows

    def next_due(self) -> int | None:
        """When the next unclaimed mail falls due (ms)."""
        if self._due:
            return self._unclaimed[next(iter(next(iter(self._due.values()))))]
        while self._later and self._unclaimed.get(self._later[0][1]) != self._later[0][0]:
            heappop(self._later)
        return self._later[0][0] if self._later else None

    def due_flows(self, now: int) -> dict[Flow, int]:
        """Give up the flows with unclaimed mail that is due."""
        self._look(now)
        due = {flow: self._unclaimed.pop(flow) for flows in self._due.values() for flow in flows}
        self._due.clear()
        return due

    @property
    def flows(self) -> Mapping[Flow, int]:
        """The flows with unclaimed mail, each with when it falls due (ms)."""
        return self._unclaimed

    def forget(self, flow: Flow) -> int | None:
        """Give up a flow; answers when its unclaimed mail falls due (ms), if it has some."""
        flows = self._due.get(flow.tenant, {})
        if flow in flows:
            del flows[flow]
            if not flows:
                del self._due[flow.tenant]
        return self._unclaimed.pop(flow, None)

    def forget_flows(self) -> dict[Flow, int]:
        """Give up every flow with unclaimed mail, with when it falls due."""
        flows, self._unclaimed = self._unclaimed, {}
        self._later.clear()
        self._due.clear()
        return flows

    def empty(self) -> list[Delivery]:
        """Give up all claimed mail."""
        given_up = [delivery for mail in self._claimed.values() for delivery in mail]
        self._claimed.clear()
        self._turns.clear()
        self._to_fetch.clear()
        self._at_hand = None
        self.in_hand = self.ready = 0
        return given_up

    # Whose turn it is.

    def take(self, *, pipelined: bool) -> Delivery | None:
        """The next delivery, tenants in turn; a strict one is never given to ride behind another."""
        if not self._turns:
            return None
        tenant = self._turns[0]
        mail = self._claimed[tenant]
        if pipelined and mail[0].strict:
            return None
        del self._turns[0]
        self.in_hand -= 1
        self.ready -= _going(mail)
        delivery = mail.popleft()
        if mail:
            self._line_up(tenant)
        else:
            del self._claimed[tenant]
        if delivery is self._at_hand:
            self._at_hand = None
        return delivery

    # Whether it may go.

    @property
    def lends(self) -> bool:
        """Is there reason to let others carry its mail: parked, or its relay's breaker open, and others named?"""
        return self.proving and bool(self.profile.failover) and not (self.paused or self.elsewhere)

    @property
    def proving(self) -> bool:
        """Is something to be proven first: that the relay is back, or that it takes the sign-in?"""
        return self.breaker.half_open or self.standstill is not None

    def connections(self, now: float) -> int:
        """How many sessions may work: one while something is to be proven, half after the relay had too many."""
        if self.proving:
            return 1
        if self.halved(now):
            return max(1, self.profile.limits.connections // 2)
        return self.profile.limits.connections

    def halved(self, now: float) -> bool:
        """Did the relay have too many of our sessions, a moment ago?"""
        return now < self.halved_until

    def wait(self, now: float) -> float | None:
        """Seconds until the lane may go; None: not before something changes."""
        if self.paused or self.elsewhere:
            return None
        standing = 0.0 if self.standstill is None else max(0.0, self.standstill.until - now)
        return max(standing, self.breaker.wait(now))

    def free(self, now: float) -> bool:
        """May the next message go at once?"""
        return self.wait(now) == 0.0 and self.rate.wait(now) == 0.0

    def stand(self, reason: str, steps: tuple[float, ...], now: float) -> None:
        """Stand still for this reason; for the same one again, longer."""
        if self.standstill is None or self.standstill.reason != reason:
            self.standstill = Standstill(reason, steps)
        elif self.standstill.until > now:
            return
        self.standstill.begin(now)

    def resume(self) -> None:
        """Forget what kept the lane from going."""
        self.breaker.reset()
        self.standstill = None

    def answered(self, born: float) -> str | None:
        """The relay works: all may go again. Answers the reason the lane stood still for, if it did.

        A session that was `born` before the standstill began proves nothing about what is wrong since: were it to end
        the standstill, each message it still carries would let a wrong password be tried once more.
        """
        self.breaker.reset()
        if self.standstill is not None and born < self.standstill.since:
            return None
        stood, self.standstill = self.standstill, None
        return None if stood is None else stood.reason


def _going(mail: deque[Delivery]) -> int:
    """Tell how many of a tenant's messages may go: behind a heavy one the next may have to be fetched first."""
    return 1 if mail[0].heavy else len(mail)
