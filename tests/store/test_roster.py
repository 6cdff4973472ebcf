"""Who works on the database, and who has which lane: several rosters on one PostgreSQL."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import asyncpg
import pytest
from structlog.testing import capture_logs

from gateway.credentials.provider import NoIdentity
from gateway.store.clock import ServerClock, wall_clock
from gateway.store.postgresql import roster as module
from gateway.store.postgresql.migrations import migrate
from gateway.store.postgresql.roster import LANE_REMEMBERED, PostgresqlRoster
from gateway.store.postgresql.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.peers.postgresql import Postgresql

LANE, OTHER = ("acme", "main"), ("zoo", "main")
LONG = 60_000  # ms
HOUR = 3_600_000
SHORT = 50


class Ground:
    """A schema, and the rosters that the test opens on it."""

    def __init__(self, postgresql: Postgresql, schema: str, stack: AsyncExitStack) -> None:
        self.server = Server(postgresql.url, schema=schema)
        self.seconds = 1_000.0  # by the clock of those who beat
        self._stack = stack

    async def open(self) -> None:
        """Make the tables."""
        await self.server.open()
        self._stack.push_async_callback(self.server.close)
        await migrate(self.server)

    def clock(self) -> ServerClock:
        """Make a clock to beat by."""
        return ServerClock(lambda: self.seconds)

    async def enter(self, name: str, *, lease: int = LONG, clock: ServerClock | None = None) -> PostgresqlRoster:
        """Let a daemon in."""
        roster = PostgresqlRoster(self.server, clock or self.clock(), name, lease=lease)
        await roster.enter()
        self._stack.push_async_callback(roster.exit)
        return roster

    async def expire(self, roster: PostgresqlRoster) -> None:
        """Let a daemon's lease be over."""
        await self.server.fetch("UPDATE daemon SET lease_until = 0 WHERE id = $1", roster.me)

    async def regular(self, roster: PostgresqlRoster, seconds: int) -> None:
        """Beat once a second."""
        for _ in range(seconds):
            self.seconds += 1
            await roster.beat()


@pytest.fixture
async def ground(postgresql: Postgresql, schema: str) -> AsyncIterator[Ground]:
    """Give a schema with its tables."""
    async with AsyncExitStack() as stack:
        ground = Ground(postgresql, schema, stack)
        await ground.open()
        yield ground


# Who lives.


async def test_all_that_beat_live_and_see_each_other(ground: Ground) -> None:
    """Both see both, in the same order; one that retires is seen by nobody, itself included."""
    one, other = await ground.enter("one"), await ground.enter("other")
    both = (await one.beat()).alive, (await other.beat()).alive
    retiring = await other.beat(retiring=True)

    assert both == ((one.me, other.me),) * 2
    assert (retiring.alive, (await one.beat()).alive) == ((one.me,), (one.me,))


async def test_a_daemon_whose_lease_is_over_lives_no_more(ground: Ground) -> None:
    """The others leave it out, and its lanes are its own until it is given up for dead."""
    one, other = await ground.enter("one"), await ground.enter("other")
    await other.take([LANE])
    await ground.expire(other)

    assert (await one.beat()).alive == (one.me,)
    assert await one.take([LANE]) == {}


async def test_the_dead_are_given_up_after_ten_seconds_of_regular_beats(ground: Ground) -> None:
    """Not before, however many beats there are, and not after a pause: who was away cannot know who is dead."""
    one, other = await ground.enter("one"), await ground.enter("other")
    await other.take([LANE])
    await ground.expire(other)
    for _ in range(50):
        await one.beat()
    await ground.regular(one, 9)
    ground.seconds += 6
    await ground.regular(one, 9)
    early = await one.take([LANE])
    await ground.regular(one, 3)

    assert (early, await one.take([LANE])) == ({}, {LANE: None})


@pytest.mark.parametrize("away", [-HOUR, HOUR], ids=["forward", "back"])
async def test_a_server_whose_clock_was_set_makes_nobody_dead(ground: Ground, away: int) -> None:
    """The beat that sees the time jump begins the ten seconds anew: all have them to renew their leases."""
    one, other = await ground.enter("one", clock=(clock := ground.clock())), await ground.enter("other")
    await other.take([LANE])
    await ground.regular(one, 12)
    clock.told(ground.seconds, wall_clock() + away)  # the time as it was before
    await ground.expire(other)
    await ground.regular(one, 10)
    early = await one.take([LANE])
    await ground.regular(one, 2)

    assert (early, await one.take([LANE])) == ({}, {LANE: None})


async def test_a_daemon_that_was_slow_is_another_when_it_is_back(ground: Ground) -> None:
    """It was given up: it has a new id and none of its lanes, and is told so once."""
    one, other = await ground.enter("one"), await ground.enter("other")
    before = other.me
    await other.take([LANE])
    await ground.expire(other)
    await ground.regular(one, 12)
    taken = await one.take([LANE])
    pulse, after = await other.beat(), await other.beat()

    assert taken == {LANE: None}
    assert (pulse.reborn, after.reborn) == (True, False)
    assert pulse.me == other.me != before
    assert pulse.alive == (one.me, other.me)
    assert await other.held() == []


async def test_rebirth_is_told_also_if_the_first_beat_fails(ground: Ground) -> None:
    """A beat that ends in an error after the new id was given: the next one says that it is one."""
    one = await ground.enter("one")
    await ground.server.fetch("DELETE FROM daemon")
    await ground.server.fetch("ALTER TABLE lane RENAME TO away")
    with pytest.raises(Exception, match="lane"):
        await one.beat()
    ground.server.broken = None
    await ground.server.fetch("ALTER TABLE away RENAME TO lane")

    assert (await one.beat()).reborn


async def test_the_same_name_takes_over_at_once(ground: Ground) -> None:
    """A daemon that starts again: what the one before held is free."""
    one = await ground.enter("one")
    await one.take([LANE])
    again = await ground.enter("one")

    assert again.me != one.me
    assert (await again.beat()).alive == (again.me,)
    assert await again.take([LANE]) == {LANE: None}


async def test_two_under_one_name_are_never_the_same(ground: Ground) -> None:
    """A copied machine: each beat makes it another daemon, and none holds what the other has."""
    one = await ground.enter("name")
    copy = await ground.enter("name")
    await copy.take([LANE])
    pulse = await one.beat()

    assert pulse.reborn
    assert one.me != copy.me
    assert (await copy.beat()).reborn
    assert await copy.held() == []


async def test_a_crowd_does_not_keep_a_daemon_from_beating(ground: Ground) -> None:
    """Every connection of the pool is taken, and many wait for one: the beat goes past them."""
    one = await ground.enter("one")
    connection = await asyncpg.connect(ground.server.url)
    await connection.execute("SELECT pg_advisory_lock(1)")
    crowd = [asyncio.ensure_future(ground.server.fetch("SELECT pg_advisory_xact_lock(1)")) for _ in range(50)]
    async with asyncio.timeout(20):
        while (
            await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'") < 8
        ):
            await asyncio.sleep(0.01)
        pulse = await one.beat()
        waiting = sum(not task.done() for task in crowd)
    await connection.close()
    await asyncio.gather(*crowd, return_exceptions=True)

    assert pulse.alive == (one.me,)
    assert waiting == 50


# Lanes.


async def test_a_lane_is_one_daemons(ground: Ground) -> None:
    """Who has it has it, asking again included; a new one was never spent, one asked for twice may be."""
    one, other = await ground.enter("one"), await ground.enter("other")

    assert await one.take([LANE]) == {LANE: 0}
    assert await other.take([LANE, OTHER]) == {OTHER: 0}
    assert await one.take([LANE, OTHER]) == {LANE: None}
    assert (await one.held(), await other.held()) == ([LANE], [OTHER])


async def test_many_who_ask_at_once_get_each_lane_once(ground: Ground) -> None:
    """Five daemons ask for the same hundred lanes, each in an order of its own."""
    rosters = [await ground.enter(f"d{number}") for number in range(5)]
    lanes = [("acme", f"p{number:03}") for number in range(100)]
    taken = await asyncio.gather(
        *(roster.take(lanes[::step]) for roster, step in zip(rosters, (1, -1, 3, -7, 1), strict=True))
    )

    assert sorted(lane for one in taken for lane in one) == lanes


async def test_a_daemon_that_came_while_lanes_were_taken_keeps_its_own(ground: Ground) -> None:
    """It entered and took a lane after another's request had begun and waited: to that one it must not look dead."""
    one = await ground.enter("one")
    await one.take([LANE, OTHER])
    await one.leave([(LANE, 0), (OTHER, 0)])
    connection = await asyncpg.connect(ground.server.url, server_settings={"search_path": ground.server.schema})
    async with connection.transaction():
        await connection.execute("SELECT FROM lane WHERE tenant = $1 FOR UPDATE", LANE[0])
        asking = asyncio.ensure_future(one.take([LANE, OTHER]))
        async with asyncio.timeout(10):
            while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                await asyncio.sleep(0.01)
        other = await ground.enter("other")
        await other.take([OTHER])
    await connection.close()

    assert await asking == {LANE: 0}
    assert await other.held() == [OTHER]


async def test_who_leaves_a_lane_leaves_word(ground: Ground) -> None:
    """How far its rate is spent is passed on; that nobody knows it, too; whoever has not the lane says nothing."""
    one, other = await ground.enter("one"), await ground.enter("other")
    await one.take([LANE, OTHER])
    await other.leave([(LANE, 1)])
    kept = await one.held()
    await one.leave([(LANE, 12_345), (OTHER, None)])

    assert sorted(kept) == [LANE, OTHER]
    assert await other.take([LANE, OTHER]) == {LANE: 12_345, OTHER: None}


async def test_of_a_lane_whose_daemon_died_nobody_knows_the_rate(ground: Ground) -> None:
    """The word that was left before the daemon had it is old."""
    one, other = await ground.enter("one"), await ground.enter("other")
    await one.take([LANE])
    await one.leave([(LANE, 12_345)])
    await other.take([LANE])
    await other.exit()

    assert await one.take([LANE]) == {LANE: None}


async def test_lanes_that_nobody_needs_are_forgotten(ground: Ground) -> None:
    """Those that were given up and whose rate is not spent for long; not if somebody has it, or nobody knows."""
    one = await ground.enter("one")
    now = wall_clock()
    spent: dict[str, int | None] = {
        "long ago": now - LANE_REMEMBERED - 1, "lately": now - LANE_REMEMBERED, "unknown": None, "held": 0
    }  # fmt: skip
    await one.take([("acme", name) for name in spent])
    await one.leave([(("acme", name), until) for name, until in spent.items()])
    await one.take([("acme", "held")])
    await one.prune(now)

    left = await ground.server.fetch("SELECT profile FROM lane ORDER BY 1")
    assert [name for (name,) in left] == ["held", "lately", "unknown"]
    assert await one.take([("acme", "long ago")]) == {("acme", "long ago"): 0}


async def test_forgetting_waits_for_nobody_who_takes_a_lane(ground: Ground) -> None:
    """Lanes that somebody is taking are passed over: two who waited for each other's would end one another."""
    one = await ground.enter("one")
    await one.take([LANE, OTHER])
    await one.leave([(LANE, 0), (OTHER, 0)])
    taking = await asyncpg.connect(ground.server.url, server_settings={"search_path": ground.server.schema})
    async with asyncio.timeout(10), taking.transaction():
        await taking.execute("SELECT FROM lane WHERE tenant = $1 FOR UPDATE", LANE[0])
        await one.prune(wall_clock())
    await taking.close()

    left = await ground.server.fetch("SELECT tenant, profile FROM lane")
    assert [tuple(lane) for lane in left] == [LANE]


# What they tell.


async def test_all_know_how_lanes_of_others_stand(ground: Ground) -> None:
    """As far as they are not in order; whoever takes a lane begins in order, and others' lanes are theirs to tell of."""
    one, other = await ground.enter("one"), await ground.enter("other")
    await one.take([LANE])
    await one.tell([(LANE, "open")])
    await other.tell([(LANE, "paused")])
    told = (await one.beat()).others, (await other.beat()).others
    await one.leave([(LANE, 0)])
    await other.take([LANE])

    assert told == ({}, {LANE: "open"})
    assert (await one.beat()).others == {}


async def test_a_person_is_heard_by_all_as_often_as_he_speaks(ground: Ground) -> None:
    """How often a lane was let go on is counted, and survives its moves."""
    one, other = await ground.enter("one"), await ground.enter("other")
    await one.take([LANE])
    for _ in range(2):
        await other.resume(LANE)
    await one.leave([(LANE, 0)])
    await other.take([LANE])

    assert (await one.beat()).resumes == (await other.beat()).resumes == {LANE: 2}


async def test_words_reach_everybody(ground: Ground) -> None:
    """Also those who say them; too many are none."""
    one, other = await ground.enter("one"), await ground.enter("other")
    heard: asyncio.Queue[str | None] = asyncio.Queue()
    for roster in (one, other):
        roster.listen(heard.put_nowait)
    async with asyncio.timeout(10):
        ready = [await heard.get() for _ in range(2)]
        await one.notify("x" * 7_001)
        await one.notify("hello")
        words = [await heard.get() for _ in range(2)]

    assert (ready, words) == ([None, None], ["hello", "hello"])


async def test_who_was_cut_off_hears_that_words_may_be_missing(ground: Ground) -> None:
    """The connection that listens ends: another one listens soon, and says that something may have been missed."""
    one = await ground.enter("one")
    heard: asyncio.Queue[str | None] = asyncio.Queue()
    one.listen(heard.put_nowait)
    async with asyncio.timeout(20):
        first = await heard.get()
        await ground.server.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND query LIKE $1",
            f"%{one.channel}%",
        )
        again = await heard.get()
        await one.notify("hello")
        word = await heard.get()

    assert (first, again, word) == (None, None, "hello")


async def test_who_cannot_listen_for_whatever_reason_listens_soon(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All hosts of a switch-over are standbys, a password file is gone: it is told once, and another connection listens."""
    monkeypatch.setattr(module, "LISTEN_AGAIN", 0.01)
    failures: list[Exception] = []

    def password() -> str:
        if failures:
            raise failures.pop()
        return ""

    ground.server = Server(ground.server.url, password=password, schema=ground.server.schema)
    await ground.open()
    one = await ground.enter("one")
    heard: asyncio.Queue[str | None] = asyncio.Queue()
    failures += [NoIdentity("the file does not exist"), asyncpg.TargetServerAttributeNotMatched("read-write")]
    with capture_logs() as log:
        one.listen(heard.put_nowait)
        async with asyncio.timeout(10):
            assert await heard.get() is None
    assert failures == []
    assert [(line["event"], line["error"]) for line in log] == [
        ("words_missed", "TargetServerAttributeNotMatched: read-write")
    ]
