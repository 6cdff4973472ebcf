"""A lane: all the mail of one profile, whoever sends it.

Within a lane tenants take turns, one message each, however much each has waiting: mail is claimed for each of them
in small helpings, so that somebody's hundred thousand never stand before another's first. A lane keeps within its
profile's connections and rate, and stands still while its relay's breaker is open or the profile is parked.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from gateway.directory.shapes import Profile, Template
from gateway.outbox.delivery import Delivery
from gateway.relay.limits import Breaker, Rate, Standstill
from gateway.relay.render import Held, Prepared, render
from gateway.smtp.outcome import Rejected
from gateway.store.rows import Flow, Place

HELPING: Final = 256  # messages that a lane keeps claimed, shared by its tenants
SMALLEST_HELPING: Final = 8


@dataclass(slots=True, eq=False)
class Share:
    """One tenant's part of a lane: claimed mail, and its flows with the time each next falls due (ms)."""

    tenant: str
    ready: deque[Delivery] = field(default_factory=deque)
    flows: dict[Flow, int] = field(default_factory=dict)

    def due_flow(self, now: int) -> Flow | None:
        """A flow with mail that is due and not claimed."""
        return next((flow for flow, due_at in self.flows.items() if due_at <= now), None)


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
        self.ready = 0  # claimed messages that wait for a session
        self._shares: dict[str, Share] = {}
        self._ring: deque[Share] = deque()

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
        share = self._share(flow.tenant)
        share.flows[flow] = min(due_at, share.flows.get(flow, due_at))

    def _share(self, tenant: str) -> Share:
        share = self._shares.get(tenant)
        if share is None:
            share = self._shares[tenant] = Share(tenant)
            self._ring.append(share)
        return share

    def claimed(self, flow: Flow, deliveries: list[Delivery]) -> None:
        """Take what a claim brought."""
        if deliveries:
            self._share(flow.tenant).ready.extend(deliveries)
            self.ready += len(deliveries)

    def wishes(self, now: int) -> list[tuple[Flow, int]]:
        """Which flows to claim from, and how much: helpings are equal, and refilled when half is eaten."""
        hungry = [(share, flow) for share in self._ring if (flow := share.due_flow(now)) is not None]
        if not hungry:
            return []
        helping = max(SMALLEST_HELPING, HELPING // len(hungry))
        if self.lends:
            hungry, helping = hungry[: 0 if self.ready or self.working else 1], 1  # the others may go another way
        elif self.profile.limits.per_minute is not None:
            helping = max(1, min(helping, self.profile.limits.per_minute // 6))
        wishes = [(flow, helping - len(share.ready)) for share, flow in hungry if len(share.ready) <= helping // 2]
        for flow, _ in wishes:
            self._shares[flow.tenant].flows.pop(flow, None)
        return wishes

    def next_due(self) -> int | None:
        """When the next unclaimed mail falls due (ms)."""
        return min((due_at for share in self._ring for due_at in share.flows.values()), default=None)

    def due_flows(self, now: int) -> dict[Flow, int]:
        """Give up the flows with unclaimed mail that is due."""
        due = {flow: due_at for share in self._ring for flow, due_at in share.flows.items() if due_at <= now}
        for flow in due:
            del self._shares[flow.tenant].flows[flow]
        return due

    def forget_flows(self) -> dict[Flow, int]:
        """Give up every flow with unclaimed mail, with when it falls due."""
        flows = {flow: due_at for share in self._ring for flow, due_at in share.flows.items()}
        for share in self._ring:
            share.flows.clear()
        return flows

    def empty(self) -> list[Delivery]:
        """Give up all claimed mail."""
        given_up = [delivery for share in self._ring for delivery in share.ready]
        for share in self._ring:
            share.ready.clear()
        self.ready = 0
        return given_up

    # Whose turn it is.

    def take(self, *, pipelined: bool) -> Delivery | None:
        """The next delivery, tenants in turn; a strict one is never given to ride behind another."""
        for _ in range(len(self._ring)):
            share = self._ring[0]
            self._ring.rotate(-1)
            if not share.ready:
                if not share.flows:
                    self._ring.remove(share)
                    del self._shares[share.tenant]
                continue
            if pipelined and share.ready[0].strict:
                self._ring.rotate(1)
                return None
            self.ready -= 1
            return share.ready.popleft()
        return None

    def prepare(self, delivery: Delivery, template: Template | None, now: int) -> Prepared | Rejected | Held:
        """Render a delivery under the profile, and the template if it names one, as they are now."""
        try:
            return render(delivery, self.profile, template, now)
        except Held as held:
            return held

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
