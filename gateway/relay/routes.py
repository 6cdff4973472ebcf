"""Which lane carries whose mail: that of the flow's profile, or one that stands in for it.

Routes are looked up when mail falls due and anew at every change of the directory, so queued mail follows its profile:
so many flows at a time, and those that stay where they are keep their turn. A flow without a usable profile is in no
lane; it waits here for the next change.

A lane that is parked, or whose relay's breaker is open, lends what is due to the first of its profile's failover list
that is in order itself. What is lent is returned whenever that one comes to stand, and after each claim, so that a lane
has its own mail again as soon as it may go.

Of the lanes that other daemons have this one knows only what it was told; it passes on what mail it hears of. Where it
can make nothing of a word it keeps it in mind for a moment: whoever told it may know the directory better already.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from gateway.credentials.provider import Why
from gateway.directory.directory import Directory
from gateway.directory.shapes import Profile
from gateway.observe import facts
from gateway.relay.holding import Holding
from gateway.relay.lane import Lane
from gateway.relay.limits import Breaker, Rate
from gateway.smtp.outcome import Trouble
from gateway.smtp.session import Relay
from gateway.store.rows import Flow, Place

AT_ONCE: Final = 1_000  # flows that are routed anew in one go, which takes milliseconds
MINDED: Final = 2.0  # seconds that a word of others is kept in mind at least: by then we know what they knew
MOST_MINDED: Final = 1_000  # words; whoever may connect to the database can send them, and mail is found by looking
LEND_AGAIN: Final = 5.0  # seconds after which somebody who can carry a standing lane's mail is looked for again
SECRET_REASONS: Final = frozenset(
    {Trouble.AUTH_FAILED, Trouble.SECRET_MISSING, Trouble.SECRET_DENIED, Trouble.SECRET_UNAVAILABLE}
)


@dataclass(slots=True, eq=False)
class Feeding:
    """A lane with the task that feeds it, and what its workers have met."""

    lane: Lane
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    feeder: "asyncio.Task[None] | None" = None
    refused: list[Relay] = field(default_factory=list)
    why: Why = Why.USE  # what the secret is fetched for next
    tls_failures: int = 0
    leaving: "set[asyncio.Task[None] | None]" = field(default_factory=set)  # workers that spare the relay a session
    porter: "asyncio.Task[None] | None" = None  # who fetches the next heavy message
    looking: bool = False  # is its secret looked for?
    deputy: Place | None = None  # who carries its mail at the moment
    borrowed: bool = False  # does it have flows of other lanes?
    closed: bool = False

    @property
    def waits_for_secret(self) -> bool:
        """Does the lane stand still for a secret that is missing or refused, or cannot be fetched?"""
        standstill = self.lane.standstill
        return standstill is not None and standstill.reason in SECRET_REASONS

    def close(self) -> None:
        """Let the feeder end after what it is at, so that no claim is lost half-way."""
        self.closed = True
        self.wake.set()


class Counts(NamedTuple):
    """How many lanes stand how, and are parked for what reason; how many breakers are open, one of them so long (s)."""

    states: Counter[str]
    parked: Counter[str]
    breakers: int
    longest: float
    busy: int = 0
    idle: int = 0


class Routes:
    """From flows to lanes. `opened` is told of each lane that is opened."""

    def __init__(self, directory: Directory, opened: Callable[[Feeding], None], holding: Holding | None = None) -> None:
        """Begin without lanes; without a `holding` all of them will be ours."""
        self.lanes: dict[Place, Feeding] = {}
        self._holding = holding or Holding()
        self._directory = directory
        self._opened = opened
        # As long as a lane has it: hosts and ports are for people to choose, and to choose anew.
        self._breakers: WeakValueDictionary[tuple[str, str, int], Breaker] = WeakValueDictionary()
        self._rates: dict[Place, Rate] = {}
        self._routes: dict[Flow, Feeding] = {}
        self._unrouted: dict[Flow, int] = {}
        # By lane, None for the unrouted: which flows have not been routed anew since the directory changed.
        self._unsettled: OrderedDict[Feeding | None, dict[Flow, int]] = OrderedDict()
        self._minded: dict[tuple[Flow, Place | None], int] = {}
        self._minded_before: dict[tuple[Flow, Place | None], int] = {}
        self._minded_since = 0.0

    def ready(self, flow: Flow, due_at: int) -> None:
        """A flow has mail that falls due at this time (ms); whoever has its lane is told."""
        feeding = self.found(flow, due_at)
        if feeding is not None and feeding.lane.elsewhere:
            self._holding.tell(flow, due_at)

    def found(self, flow: Flow, due_at: int) -> Feeding | None:
        """A flow has mail that falls due at this time (ms), and everybody finds it who looks; answers its own lane."""
        feeding = self.of(flow)
        if feeding is None:
            self._unrouted[flow] = min(due_at, self._unrouted.get(flow, due_at))
        else:
            self._note(feeding, flow, due_at)
        return feeding

    def heard(self, flow: Flow, due_at: int, place: Place | None, now: float) -> None:
        """Another daemon says that a flow has mail (ms), for the flow's own lane or for one that stands in for it."""
        if self._heed(flow, place, due_at):
            return
        if now - self._minded_since > MINDED:
            self._minded_before, self._minded, self._minded_since = self._minded, {}, now
        if len(self._minded) < MOST_MINDED:
            self._minded[flow, place] = due_at

    def hear_again(self) -> None:
        """Heed what was kept in mind: the directory has changed, or lanes were taken."""
        for words in (self._minded_before, self._minded):
            for word in [word for word, due_at in words.items() if self._heed(*word, due_at)]:
                del words[word]

    def _heed(self, flow: Flow, place: Place | None, due_at: int) -> bool:
        """Note what a word says, if it is for a lane of ours."""
        own = self.of(flow)
        feeding = own if place is None else self._lane_at(place)
        if feeding is None or not self.carries(feeding, flow) or not self._note(feeding, flow, due_at):
            return False
        feeding.borrowed = feeding.borrowed or own is not feeding
        return True

    def _note(self, feeding: Feeding, flow: Flow, due_at: int) -> bool:
        if feeding.lane.elsewhere:
            self._holding.want(feeding.lane.place)  # whoever takes a lane looks
            return False
        feeding.lane.note(flow, due_at)
        feeding.wake.set()
        return True

    def _lane_at(self, place: Place) -> Feeding | None:
        profile = self._directory.snapshot.profiles.get(place)
        return None if profile is None else self._lane(profile)

    def of(self, flow: Flow) -> Feeding | None:
        """The flow's own lane; None without a usable profile."""
        feeding = self._routes.get(flow)
        if feeding is None and (profile := self.profile_of(flow)) is not None:
            feeding = self._routes[flow] = self._lane(profile)
        return feeding

    def profile_of(self, flow: Flow) -> Profile | None:
        """The profile that a flow goes by, if it may go at all."""
        snapshot = self._directory.snapshot
        tenant = snapshot.tenant(flow.tenant)
        if tenant is None or not tenant.enabled:
            return None
        return snapshot.route(flow.tenant, flow.profile or None).profile

    def _lane(self, profile: Profile) -> Feeding:
        place = profile.tenant, profile.name
        if (feeding := self.lanes.get(place)) is not None:
            return feeding
        # Per owner: one tenant's failing handshakes keep no other tenant away from the same relay.
        breaker = self._breakers.setdefault((profile.tenant, profile.host, profile.port), Breaker())
        feeding = self.lanes[place] = Feeding(Lane(profile, breaker))
        feeding.lane.rate = self.rate(place)
        feeding.lane.rate.per_minute = profile.limits.per_minute  # an edit does not begin the minute anew
        feeding.lane.paused = self._directory.snapshot.is_paused(*place)
        feeding.lane.elsewhere = not self._holding.holds(place)
        self._opened(feeding)
        return feeding

    def rate(self, place: Place) -> Rate:
        """How far a profile's rate is spent, whether or not there is a lane for it at the moment."""
        if (rate := self._rates.get(place)) is None:
            profile = self._directory.snapshot.profiles.get(place)
            if profile is None:
                return Rate(None)
            rate = self._rates[place] = Rate(profile.limits.per_minute)
        return rate

    def renew(self) -> list[Feeding]:
        """Begin to route everything anew; answers the lanes that are no more, because their profile is not what it was.

        What of this is not done in one go `settle_some` does.
        """
        profiles = self._directory.snapshot.profiles
        gone = [feeding for place, feeding in self.lanes.items() if profiles.get(place) != feeding.lane.profile]
        self._unsettled.setdefault(None, {}).update(self._unrouted)
        for feeding in self.lanes.values():
            if feeding.lane.elsewhere:
                feeding.lane.forget_flows()  # of when it was ours: whoever has it by now has found them
            elif flows := feeding.lane.flows:
                self._unsettled.setdefault(feeding, {}).update(flows)
        for feeding in gone:
            del self.lanes[feeding.lane.place]
            if feeding.lane.place not in profiles:
                self._rates.pop(feeding.lane.place, None)
        self._routes.clear()
        self.hear_again()
        self.settle_some()
        return gone

    def settle_some(self) -> bool:
        """Bring some flows from the lanes that were theirs to those that are; is there more to do?"""
        left = AT_ONCE
        while self._unsettled and left:
            feeding, flows = self._unsettled.popitem(last=False)
            some = list(islice(flows, left))
            left -= len(some)
            for flow in some:
                del flows[flow]
                if self.of(flow) is not feeding:
                    self._settle(flow, feeding)
            if flows:
                self._unsettled[feeding] = flows
        return bool(self._unsettled)

    def _settle(self, flow: Flow, feeding: Feeding | None) -> None:
        due_at = self._unrouted.pop(flow, None) if feeding is None else feeding.lane.forget(flow)
        if due_at is not None:  # else it has been claimed since
            self.ready(flow, due_at)

    # Looking.

    def counts(self, now: float) -> Counts:
        """How our lanes stand, and the breakers."""
        ours = [feeding.lane for feeding in self.lanes.values() if not feeding.lane.elsewhere]
        since = [breaker.since for breaker in self._breakers.values() if breaker.half_open]
        return Counts(
            Counter(lane.state(now).partition(":")[0] for lane in ours),
            Counter(lane.standstill.reason for lane in ours if lane.standstill is not None),
            len(since),
            now - min(since, default=now),
        )

    def may_send(self, flow: Flow, now: float) -> bool:
        """May a flow's mail go at once, as far as anybody here knows? No lane is opened to find out."""
        profile = self.profile_of(flow)
        if profile is None or self._directory.snapshot.is_paused(profile.tenant, profile.name):
            return False
        place = profile.tenant, profile.name
        feeding = self.lanes.get(place)
        if feeding is None or feeding.lane.elsewhere:
            return place not in self._holding.elsewhere()
        return feeding.lane.free(now) and not feeding.lane.proving

    # Standing in for one another.

    def carries(self, feeding: Feeding, flow: Flow) -> bool:
        """Is the lane the flow's, or may it stand in for that?"""
        own = self.of(flow)
        if own is feeding or own is None:
            return own is feeding
        deputies = self._failover(own.lane.profile, own_mail=flow.tenant == own.lane.profile.tenant)
        return any((one.tenant, one.name) == feeding.lane.place for one in deputies)

    def instead_of(self, feeding: Feeding, flow: Flow) -> str:
        """For which lane this one carries a flow; "" if that is its own."""
        own = self.of(flow)
        return "" if own is None or own is feeding else own.lane.name

    def lend(self, feeding: Feeding, now: float, clock: int) -> float:
        """Let another lane carry what is due by the `clock` (ms); answers in how many seconds to look again."""
        lane = feeding.lane
        if feeding.closed:  # what is left here is on its way to other lanes
            return LEND_AGAIN
        owners, others = (self._deputy(lane, now, own_mail=own_mail) for own_mail in (True, False))
        due = lane.due_flows(clock) if owners or others else {}
        for flow, due_at in due.items():
            deputy = owners if flow.tenant == lane.profile.tenant else others
            if deputy is None:
                lane.note(flow, due_at)
                continue
            if deputy.lane.elsewhere:
                self._holding.tell(flow, due_at, deputy.lane.place)
            else:
                deputy.lane.note(flow, due_at)
                deputy.borrowed = True
                deputy.wake.set()
            if feeding.deputy is None:
                feeding.deputy = deputy.lane.place
                facts.failover_began(lane.place, deputy.lane.place)
        next_due = lane.next_due()
        wait = LEND_AGAIN if next_due is None else (next_due - clock) / 1000
        return wait if 0.0 < wait < LEND_AGAIN else LEND_AGAIN

    def _deputy(self, lane: Lane, now: float, *, own_mail: bool) -> Feeding | None:
        """The first of a profile's failover list that is in order itself."""
        for profile in self._failover(lane.profile, own_mail=own_mail):
            feeding = self._lane(profile)
            if feeding.lane is lane or feeding.lane.paused:
                continue
            if feeding.lane.elsewhere:
                self._holding.want(feeding.lane.place)
                if self._holding.stands(feeding.lane.place):
                    return feeding
            elif feeding.lane.wait(now) == 0.0 and not feeding.lane.proving:
                return feeding
        return None

    def _failover(self, profile: Profile, *, own_mail: bool) -> Iterator[Profile]:
        """The profiles of the list, by their names in the owner's.

        What was lent to the owner is for its own mail, not for that of those whom it lends the profile to.
        """
        for name in profile.failover:
            found = self._directory.snapshot.route(profile.tenant, name).profile
            if found is not None and (own_mail or found.tenant == profile.tenant):
                yield found

    def return_lent(self, feeding: Feeding) -> None:
        """Give the flows of other lanes back to those, if there are any: with many flows to look takes its time."""
        if not feeding.borrowed:
            return
        feeding.borrowed = False
        for flow, due_at in feeding.lane.forget_flows().items():
            if self.of(flow) is feeding:
                feeding.lane.note(flow, due_at)
            else:
                self.ready(flow, due_at)

    @staticmethod
    def lends_no_more(feeding: Feeding) -> None:
        """A lane carries its own mail again, if it did not."""
        if feeding.deputy is not None:
            feeding.deputy = None
            facts.failover_ended(feeding.lane.place)
