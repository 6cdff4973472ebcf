"""Who has which lane, as one daemon sees it: a real roster, answers that get lost, and lanes that only take note."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.holding import Pace, SharedHolding, chosen
from gateway.relay.lane import Lane
from gateway.relay.limits import Breaker, Rate
from gateway.store.postgresql.roster import PostgresqlRoster
from gateway.store.protocol import StoreUnavailable
from gateway.store.rows import Flow
from tests.peers.losing_proxy import LosingProxy
from tests.peers.postgresql import VERSIONS
from tests.relay.members import QUICK, shared_store, until
from tests.relay.world import profile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from gateway.store.postgresql import PostgresqlStore
    from gateway.store.rows import Place, Pulse
    from tests.peers.postgresql import Postgresql, Servers

LANE = ("acme", "main")
BEFORE = Flow("acme", "before"), 1, None
SLOW = Pace(beat=3600.0, breath=0.05, patience=2.0, tenure=25.0, lag=5.0, look=3600.0, gather=0.005)


@dataclass
class Noted:
    """Lanes that do nothing: what they were told, and what still holds them."""

    mine: set[Place] = field(default_factory=set)
    gone: list[Place] = field(default_factory=list)
    busy: set[Place] = field(default_factory=set)
    spent: dict[Place, float | None] = field(default_factory=dict)
    words: list[tuple[Flow, int, Place | None]] = field(default_factory=list)
    revocations: list[str] = field(default_factory=list)
    parked: set[Place] = field(default_factory=set)
    deleted: set[Place] = field(default_factory=set)
    looks: int = 0

    def taken(self, lanes: Mapping[Place, float | None]) -> None:
        self.mine |= lanes.keys()
        self.spent.update(lanes)

    def leave(self, lane: Place) -> None:
        self.mine.discard(lane)

    def left(self, lane: Place) -> float | None:
        return None if lane in self.busy else 7.0

    def lost(self, lanes: Collection[Place]) -> None:
        self.mine -= set(lanes)
        self.gone.extend(lanes)

    def heard(self, flow: Flow, due_at: int, lane: Place | None) -> None:
        self.words.append((flow, due_at, lane))

    def revoked(self, notification_id: str) -> None:
        self.revocations.append(notification_id)

    def exists(self, lane: Place) -> bool:
        return lane not in self.deleted

    def states(self) -> dict[Place, str]:
        return dict.fromkeys(self.parked, "parked:auth_failed")

    def let_go_on(self, lane: Place) -> None:
        self.gone.append(lane)

    async def look(self) -> None:
        self.looks += 1


class Counting(PostgresqlRoster):
    """A roster that counts its beats."""

    beats = 0

    async def beat(self, *, retiring: bool = False) -> Pulse:
        """Beat once more."""
        self.beats += 1
        return await super().beat(retiring=retiring)


@dataclass
class Daemon:
    """One daemon's holding, and what it decides about."""

    store: PostgresqlStore
    holding: SharedHolding
    lanes: Noted
    proxy: LosingProxy

    @property
    def me(self) -> int:
        """Its id."""
        return self.store.roster.me


class Ground:
    """A schema, on which daemons can start."""

    def __init__(self, postgresql: Postgresql, schema: str, stack: AsyncExitStack) -> None:
        self._postgresql, self._schema, self._stack = postgresql, schema, stack

    async def execute(self, sql: str) -> None:
        """Run a statement in the schema."""
        await self._postgresql.execute(f"SET search_path = {self._schema}", sql)

    async def say(self, to: Daemon, words: str) -> None:
        """Send words, as anybody may."""
        await self._postgresql.execute(f"SELECT pg_notify('{to.store.roster.channel}', '{words}')")

    async def until_heard(self, to: Daemon) -> None:
        """Say `BEFORE` until it is heard: whoever does not listen yet hears nothing of what is said."""
        while BEFORE not in to.lanes.words:
            await self.say(to, '[0, [["acme", "before", 1]]]')
            await asyncio.sleep(0.01)

    async def join(self, pace: Pace = QUICK) -> Daemon:
        """Start one daemon more."""
        return await self._stack.enter_async_context(self._daemon(pace))

    @asynccontextmanager
    async def _daemon(self, pace: Pace) -> AsyncIterator[Daemon]:
        async with LosingProxy(self._postgresql.url) as proxy:
            store = shared_store(proxy.url, self._schema)
            store.roster = Counting(store.server, store.clock, f"{id(store)}")
            async with store:
                holding, lanes = SharedHolding(store.roster, _nothing_new, store.clock, pace), Noted()
                running = asyncio.ensure_future(holding.run(lanes))
                yield Daemon(store, holding, lanes, proxy)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


async def _nothing_new(_revision: int) -> None:
    pass


@pytest.fixture
def postgresql(postgresql_servers: Servers) -> Postgresql:
    """Give a running PostgreSQL of the newest version; what differs between versions is the store's to test."""
    return postgresql_servers[VERSIONS[-1]]


@pytest.fixture
async def ground(postgresql: Postgresql, schema: str) -> AsyncIterator[Ground]:
    """Give a schema on which daemons can start."""
    async with AsyncExitStack() as stack:
        yield Ground(postgresql, schema, stack)


def lanes_for(me: int, *alive: int, count: int = 1) -> list[Place]:
    """Think of lanes that go to `me` among these."""
    found = (("acme", f"p{number}") for number in range(100_000))
    mine = (lane for lane in found if chosen(alive, lane) == me)
    return [next(mine) for _ in range(count)]


# Whose lane it is.


def test_lanes_are_spread_evenly() -> None:
    """Ten thousand lanes over three daemons: each has about a third."""
    shares = Counter(chosen((3, 17, 171), ("acme", f"p{number}")) for number in range(10_000))

    assert set(shares) == {3, 17, 171}
    assert all(2_800 <= share <= 3_900 for share in shares.values())


def test_only_the_lanes_of_who_went_move() -> None:
    """Those of the others stay where they are; and so it is when somebody comes."""
    lanes = [("acme", f"p{number}") for number in range(3_000)]
    moved = [lane for lane in lanes if chosen((1, 2, 3), lane) != chosen((3, 1), lane)]

    assert moved == [lane for lane in lanes if chosen((1, 2, 3), lane) == 2]
    assert chosen((), LANE) is None


# Taking and leaving.


async def test_a_lane_goes_to_whoever_joins_once_it_is_over(ground: Ground) -> None:
    """Until then it stays; the word how far its rate is spent goes with it."""
    one = await ground.join()
    await until(lambda: one.holding.alive == (one.me,))
    [lane] = lanes_for(one.me + 1, one.me, one.me + 1)
    one.holding.want(lane)
    await until(lambda: one.holding.holds(lane))
    one.lanes.busy.add(lane)
    other = await ground.join()
    await until(lambda: lane not in one.lanes.mine and len(other.holding.alive) == 2)
    other.holding.want(lane)
    beats = other.store.roster.beats
    await until(lambda: other.store.roster.beats > beats + 3)
    kept = await one.store.roster.held()
    one.lanes.busy.clear()
    await until(lambda: other.holding.holds(lane))

    assert other.me == one.me + 1
    assert kept == [lane]
    assert 5 < (other.lanes.spent[lane] or 0) <= 7.5


async def test_a_lane_whose_taking_nobody_heard_of_is_given_up(ground: Ground) -> None:
    """The row says it is ours, the answer was lost, and by now it is for another: that one gets it."""
    one = await ground.join()
    await until(lambda: one.holding.alive == (one.me,))
    [lane] = lanes_for(one.me + 1, one.me, one.me + 1)
    one.proxy.lose("UPDATE lane l SET daemon")
    one.proxy.lose("COMMIT")
    one.holding.want(lane)
    await until(lambda: one.proxy.lost == 1)
    other = await ground.join()
    other_sees = until(lambda: len(other.holding.alive) == 2)
    await other_sees
    await until(lambda: other.holding.want(lane) or other.holding.holds(lane))

    assert not one.holding.holds(lane)


async def test_what_the_store_gave_us_in_vain_is_given_up(ground: Ground) -> None:
    """A row says that we have a lane of which we know nothing, and that is for another: it is free soon."""
    one, other = await ground.join(), await ground.join()
    await until(lambda: len(one.holding.alive) == len(other.holding.alive) == 2)
    [lane] = lanes_for(other.me, one.me, other.me)
    await one.store.roster.take([lane])
    await until(lambda: other.holding.want(lane) or other.holding.holds(lane))

    assert other.lanes.spent[lane] is None


async def with_two_lanes(ground: Ground) -> Daemon:
    """Let somebody join who has LANE and another lane."""
    one = await ground.join()
    await until(lambda: one.holding.alive == (one.me,))
    for lane in (LANE, ("zoo", "main")):
        one.holding.want(lane)
    await until(lambda: len(one.lanes.mine) == 2)
    return one


async def test_what_the_store_gave_to_others_is_lost(ground: Ground) -> None:
    """A row does not say any more that a lane is ours: we hang up on its relay, and keep the rest."""
    one = await with_two_lanes(ground)
    await ground.execute("UPDATE lane SET daemon = NULL WHERE tenant = 'acme'")
    await until(lambda: one.lanes.gone == [LANE])

    assert one.holding.holds(("zoo", "main"))
    assert not one.holding.holds(LANE)


async def test_leaving_whose_answer_was_lost_is_done_again(ground: Ground) -> None:
    """The other one has the lane by then, and keeps it."""
    one = await ground.join()
    await until(lambda: one.holding.alive == (one.me,))
    [lane] = lanes_for(one.me + 1, one.me, one.me + 1)
    one.holding.want(lane)
    await until(lambda: one.holding.holds(lane))
    one.proxy.lose("UPDATE lane l SET daemon = NULL")
    other = await ground.join()
    await until(lambda: len(other.holding.alive) == 2)
    await until(lambda: other.holding.want(lane) or other.holding.holds(lane))
    await until(lambda: one.proxy.lost == 1)
    beats = one.store.roster.beats
    await until(lambda: one.store.roster.beats > beats + 3)

    assert await other.store.roster.held() == [lane]
    assert other.lanes.gone == []


async def test_the_lane_of_a_deleted_profile_is_left(ground: Ground) -> None:
    """As soon as all is over there, and for good; the others stay."""
    one = await with_two_lanes(ground)
    one.lanes.busy.add(LANE)
    one.lanes.deleted.add(LANE)
    await until(lambda: not one.holding.holds(LANE))
    kept = set(await one.store.roster.held())
    one.lanes.busy.clear()
    await until(lambda: LANE not in one.holding._held)
    beats = one.store.roster.beats
    await until(lambda: one.store.roster.beats > beats + 3)

    assert kept == {LANE, ("zoo", "main")}
    assert await one.store.roster.held() == [("zoo", "main")]


async def test_who_retires_takes_nothing_and_leaves_everything(ground: Ground) -> None:
    """Also what is wanted after that."""
    one = await ground.join()
    await until(lambda: one.holding.alive == (one.me,))
    one.holding.want(LANE)
    await until(lambda: one.holding.holds(LANE))
    one.holding.retire()
    one.holding.want(("zoo", "main"))
    await until(lambda: one.holding.alive == ())
    await one.holding.end(one.lanes)

    assert await one.store.roster.held() == []
    assert not one.holding.holds(LANE)


# Being alive.


async def test_who_was_given_up_hangs_up_whoever_finds_out(ground: Ground) -> None:
    """A request that catches up learns that this daemon was dead to the others: its lanes are lost with no beat of ours."""
    one = await ground.join(SLOW)
    await until(lambda: one.holding.alive == (one.me,))
    one.holding.want(LANE)
    await until(lambda: one.holding.holds(LANE))
    await ground.execute("DELETE FROM daemon")
    one.holding._beat_at -= 3600
    await one.holding.catch_up()
    await until(lambda: one.lanes.gone == [LANE])

    assert not one.holding.holds(LANE)


async def test_wishes_do_not_make_it_beat_without_a_breath(ground: Ground) -> None:
    """New lanes all the time: between two turns passes the time that the pace says."""
    one = await ground.join(SLOW)
    await until(lambda: one.holding.alive == (one.me,))
    began, before = time.monotonic(), one.store.roster.beats
    for number in range(400):
        one.holding.want(("acme", f"p{number}"))
        await asyncio.sleep(0.001)
    beats, seconds = one.store.roster.beats - before, time.monotonic() - began
    await until(lambda: len(one.lanes.mine) == 400)

    assert beats <= seconds / SLOW.breath + 1


async def test_many_requests_share_a_beat(ground: Ground) -> None:
    """Two hundred that lag at once ask once."""
    one = await ground.join(SLOW)
    await until(lambda: one.holding.alive == (one.me,))
    before = one.store.roster.beats
    one.holding._beat_at -= 3600
    assert one.holding.lags()
    await asyncio.gather(*(one.holding.catch_up() for _ in range(200)))

    assert one.store.roster.beats == before + 1
    assert not one.holding.lags()


async def test_requests_do_not_wait_for_a_server_that_is_silent(ground: Ground) -> None:
    """They are refused, and later let in again."""
    one = await ground.join(Pace(beat=0.05, patience=0.2, lag=0.3))
    await until(lambda: one.holding.alive == (one.me,))
    one.proxy.hold()
    await until(one.holding.lags)
    with pytest.raises(StoreUnavailable):
        await one.holding.catch_up()
    await one.proxy.leave()
    await one.proxy.come()
    await until(lambda: not one.holding.lags())


# Words.


@pytest.mark.parametrize("count", [1, 24, 25, 240, 500])
async def test_words_of_what_is_lent_reach_the_others_however_many(ground: Ground, count: int) -> None:
    """Each flow of the longest names, with the lane that stands in for its own."""
    one, other = await ground.join(), await ground.join()
    await until(lambda: len(one.holding.alive) == len(other.holding.alive) == 2)
    await ground.until_heard(one)
    await ground.until_heard(other)
    words = [(Flow(f"{n:03}".ljust(63, "t"), "p" * 63), 1_800_000_000_000, ("o" * 63, "q" * 63)) for n in range(count)]
    for word in words:
        one.holding.tell(*word)
    await until(lambda: {*words} <= {*other.lanes.words})

    assert [word for word in other.lanes.words if word != BEFORE] == words
    assert {*one.lanes.words} == {BEFORE}


async def test_too_many_words_are_a_look(ground: Ground) -> None:
    """Whoever has more to tell than is worth saying lets the others look for themselves."""
    one, other = await ground.join(SLOW), await ground.join(SLOW)
    one.holding._hurry.set()
    await until(lambda: len(one.holding.alive) == len(other.holding.alive) == 2)
    await until(lambda: other.lanes.looks >= 1)
    await asyncio.sleep(SLOW.breath * 2)
    looks = other.lanes.looks
    for number in range(241):
        one.holding.tell(Flow("acme", f"p{number}"), 1)
    await until(lambda: other.lanes.looks > looks)

    assert other.lanes.words == []


async def test_cancellations_are_told_however_much_there_is_to_say(ground: Ground) -> None:
    """Nobody finds them by looking: they are all heard, in turn, where flows with mail become a look."""
    one, other = await ground.join(), await ground.join()
    await until(lambda: len(one.holding.alive) == len(other.holding.alive) == 2)
    await ground.until_heard(other)
    cancelled = [f"{number:036}" for number in range(300)]
    for number in range(241):
        one.holding.tell(Flow("acme", f"p{number}"), 1)
    for each in cancelled:
        one.holding.revoke(each)
    await until(lambda: len(other.lanes.revocations) >= len(cancelled))

    assert other.lanes.revocations == cancelled
    assert {*other.lanes.words} == {BEFORE}


async def test_words_make_nobody_look_all_the_time(ground: Ground) -> None:
    """Somebody asks for looks without end: so many are heeded as the pace says, and the last time that it is asked too."""
    pace = replace(SLOW, asked=0.5)
    began = time.monotonic()
    one = await ground.join(pace)
    await ground.until_heard(one)
    before = one.lanes.looks
    while (seconds := time.monotonic() - began) < 1.5:
        looks = one.lanes.looks
        await ground.say(one, "[0, []]")
    await until(lambda: one.lanes.looks > looks)

    assert 0 < looks - before <= seconds / pace.asked + 2


@pytest.mark.parametrize(
    "words",
    [
        "look", "", "5", "null", "{}", "[]", "[0]", '["0", []]', "[true, []]", "[0.0, []]", "[null, []]", "[0, null]",
        "[0, 5]", "[0, {}]", '[0, "id"]', "[0, [null]]", "[0, [true]]", "[0, [7]]", "[0, [{}]]", "[0, [[]]]",
        '[0, [["acme"]]]', '[0, [["acme", "main"]]]', '[0, [["acme", "main", 1, "acme"]]]',
        '[0, [["acme", "main", 1, "acme", "main", 1]]]', '[0, [["acme", ["main"], 1]]]', '[0, [[null, "main", 1]]]',
        '[0, [["acme", "main", 1, "acme", null]]]', '[0, [["acme", "main", "1"]]]', '[0, [["acme", "main", null]]]',
        '[0, [["acme", "main", true]]]', '[0, [["acme", "main", 1.0]]]', '[0, [["acme", "main", -1]]]',
        '[0, [["acme", "main", 1e300]]]', '[0, [["acme", "main", NaN]]]', '[0, [["acme", "main", Infinity]]]',
        '[0, [["acme", "main", 9007199254740993]]]', f'[0, [["acme", "main", {"9" * 5_000}]]]', "[" * 5_000,
        '[0, [["acme", "main", 1], null]]', "[0, [], []]",
    ],
    ids=lambda words: words[:40],
)  # fmt: skip
async def test_words_that_nobody_of_us_says_are_not_heeded(ground: Ground, words: str) -> None:
    """Somebody else may send them, who may connect to the database: nothing of them counts, and the next words do."""
    one = await ground.join(SLOW)
    after = Flow("acme", "after"), 1, None
    await ground.until_heard(one)
    await ground.say(one, words)
    await ground.say(one, '[0, [["acme", "after", 1]]]')
    await until(lambda: after in one.lanes.words)

    assert {*one.lanes.words} == {BEFORE, after}
    assert one.lanes.revocations == []


# What is told of a lane.


async def test_a_lane_that_nobody_knows_to_stand_is_in_order(ground: Ground) -> None:
    """It was parked, and has had no mail since its profile was changed: so the others learn that it is not parked."""
    one, other = await ground.join(), await ground.join()
    await until(lambda: len(one.holding.alive) == len(other.holding.alive) == 2)
    [lane] = lanes_for(one.me, one.me, other.me)
    one.holding.want(lane)
    await until(lambda: one.holding.holds(lane))
    one.lanes.parked.add(lane)
    await until(lambda: other.holding.elsewhere() == {lane: "parked:auth_failed"})
    one.lanes.parked.clear()
    await until(lambda: other.holding.elsewhere() == {})

    assert other.holding.stands(lane)


def test_a_lane_that_has_to_prove_itself_is_not_in_order() -> None:
    """Its breaker's time is over and nothing has gone since: others must not send it what it would give back."""
    lane = Lane(profile(25), Breaker())
    lane.breaker.trip(0.0)

    assert [lane.state(now) for now in (1.0, 31.0)] == ["open", "open"]
    lane.breaker.reset()
    assert lane.state(31.0) == "active"


# The rate, over all daemons.


@dataclass(frozen=True)
class Step:
    """Time passes, mail is sent for as long as it may, and perhaps the lane moves."""

    seconds: float
    sends: int
    to: int | None
    known: bool


steps = st.lists(
    st.builds(
        Step,
        st.floats(0, 30, allow_nan=False),
        st.integers(0, 40),
        st.none() | st.integers(0, 2),
        st.booleans(),
    ),
    max_size=40,
)


@given(steps, st.integers(1, 1200))
def test_a_rate_is_never_exceeded_over_moves(steps: list[Step], per_minute: int) -> None:
    """In any window at most the burst and the rate, wherever the lane was; a move adds half a millisecond of rounding."""
    rates, at, now = [Rate(per_minute) for _ in range(3)], 0, 1_000.0
    sent: list[float] = []
    for step in steps:
        now += step.seconds
        for _ in range(step.sends):
            if rates[at].wait(now) == 0.0:
                rates[at].spend(now)
                sent.append(now)
        if step.to is not None:
            word = round(rates[at].spent(now) * 1000) / 1000 if step.known else None
            at = step.to
            rates[at].take_over(now, word)
    interval = 60.0 / per_minute
    burst = max(0.0, 10.0 - interval) + interval
    slack = 0.0005 * len(steps) + 1e-6

    for first in range(len(sent)):
        for last in range(first, len(sent)):
            assert (last - first) * interval <= burst - interval + (sent[last] - sent[first]) + slack
