"""Several daemons on one PostgreSQL: each lane is one daemon's, and what is promised of a lane holds over all of them."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from gateway.directory.changes import OPERATOR, Change
from gateway.directory.directory import Directory
from gateway.directory.entries import API, entry
from gateway.directory.rules import Policy
from gateway.directory.shapes import Pause, Tenant
from gateway.relay.holding import chosen
from gateway.store.protocol import RevisionConflict
from gateway.store.rows import Entry, Flow
from tests.peers.postgresql import VERSIONS
from tests.peers.smtp_server import Features, Hold
from tests.relay.members import MORTAL, Cluster, Watched, names_at, until
from tests.relay.world import EGRESS, SEAL, password, profile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.directory.shapes import Profile
    from tests.peers.postgresql import Postgresql, Servers
    from tests.relay.members import Member


@pytest.fixture
def postgresql(postgresql_servers: Servers) -> Postgresql:
    """Give a running PostgreSQL of the newest version; what differs between versions is the store's to test."""
    return postgresql_servers[VERSIONS[-1]]


@pytest.fixture
async def cluster(postgresql: Postgresql, schema: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Give a schema on which daemons can start; those that did end with the test."""
    async with AsyncExitStack() as stack:
        yield Cluster(postgresql, schema, tmp_path, stack)


async def pair(cluster: Cluster) -> tuple[Member, Member]:
    """Start two daemons that know each other."""
    one, other = await cluster.join(), await cluster.join()
    await one.put(Tenant(id="acme"), Tenant(id="zoo"))
    await one.sees(other)
    await other.sees(one)
    return one, other


async def mortals(cluster: Cluster) -> tuple[Member, Member]:
    """Start two daemons that know each other, and die soon if they do not beat."""
    one, other = await cluster.join(pace=MORTAL), await cluster.join(pace=MORTAL)
    await one.put(Tenant(id="acme"), Tenant(id="zoo"))
    await one.sees(other)
    await other.sees(one)
    return one, other


def addresses(relay: Watched) -> list[str]:
    """Whom the relay took mail for, in order."""
    return [to for caught in relay.messages for to in caught.rcpt_tos]


def numbered(count: int) -> list[str]:
    """Give so many addresses."""
    return [f"{number:04}@example.test" for number in range(count)]


def named(port: int, name: str, **more: object) -> Profile:
    """Give a profile that mail has to name."""
    return profile(port, name=name, is_default=False, **more)


# Whose lane it is.


async def test_only_the_daemon_that_has_the_lane_sends(cluster: Cluster) -> None:
    """Whichever accepts the mail: the lane's daemon carries it, and opens the only connection."""
    one, other = await pair(cluster)
    async with Watched() as relay:
        name = next(names_at(other, one))
        await one.put(named(relay.port, name, limits={"connections": 1}))
        for number, to in enumerate(numbered(20)):
            await (one, other)[number % 2].post("acme", to, profile=name)
        await relay.wait_messages(20)
        rows = await cluster.rows()

    assert rows["acme", name] == other.me
    assert (one.sent(relay), sorted(other.sent(relay))) == ([], numbered(20))
    assert relay.most == 1


async def test_connections_stay_within_the_limit_while_daemons_come_and_go(cluster: Cluster) -> None:
    """Three daemons join and three leave under load: every relay has at most its profile's connections, mail goes once."""
    async with AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(Watched()) for _ in range(6)]
        one, other = await pair(cluster)
        await one.put(*(named(relay.port, f"p{n}", limits={"connections": 2}) for n, relay in enumerate(relays)))
        living, posted = [one, other], list[str]()

        async def post() -> None:
            while True:
                for n in range(len(relays)):
                    posted.append(f"{len(posted):05}@example.test")
                    await living[len(posted) % len(living)].post("acme", posted[-1], profile=f"p{n}")

        posting = asyncio.ensure_future(post())
        for _ in range(3):
            joined = await cluster.join()
            await joined.sees(*living)
            living.append(joined)
            seen = len(posted)
            await until(lambda seen=seen: len(posted) > seen + 60)
            await living.pop(0).go()
            await living[0].sees(*living[1:])
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
        async with asyncio.timeout(15):
            while await living[0].store.unfinished():  # whoever has it
                await asyncio.sleep(0.01)
        arrived = sorted(to for relay in relays for to in addresses(relay))

    assert arrived in (posted, posted[:-1])  # the last may not have been accepted
    assert [relay.most for relay in relays] == [2] * 6
    assert [relay.violations for relay in relays] == [[]] * 6


async def test_a_busy_lane_moves_once_its_session_is_over(cluster: Cluster) -> None:
    """What has begun is ended where it began, what has not is given back, and only then does the other one connect."""
    one, other = await pair(cluster)
    over = asyncio.Event()
    async with Watched() as relay:
        relay.on("final", Hold(over), once=True)
        ids = [one.me, other.me, max(one.me, other.me) + 1]
        mine = names_at(one, other)
        name = next(name for name in mine if chosen(ids, ("acme", name)) == ids[-1])
        await one.put(named(relay.port, name, limits={"connections": 1}))
        for to in numbered(6):
            await one.post("acme", to, profile=name)
        await relay.wait(lambda: len(relay.sessions) == 1 and "DATA" in relay.sessions[0].verbs)
        third = await cluster.join()
        await third.sees(one, other)
        await one.sees(other, third)
        await until(lambda: one.outbox.in_hand <= 2)  # the second may travel behind the first
        before = (await cluster.rows())["acme", name], len(relay.sessions)
        over.set()
        await relay.wait_messages(6)
        after = (await cluster.rows())["acme", name]

    assert third.me == ids[-1]
    assert (before, after) == ((one.me, 1), third.me)
    assert sorted(addresses(relay)) == numbered(6)
    assert len(third.sent(relay)) >= 4
    assert relay.most == 1


async def test_a_lane_moves_with_its_idle_sessions_closed(cluster: Cluster) -> None:
    """A session waits for the next mail: it takes its leave, and the other connects once it is gone."""
    one, other = await pair(cluster)
    gone = asyncio.Event()
    async with Watched() as relay:
        leaving = relay.on("quit", Hold(gone))
        ids = [one.me, other.me, max(one.me, other.me) + 1]
        name = next(name for name in names_at(one, other) if chosen(ids, ("acme", name)) == ids[-1])
        await one.put(named(relay.port, name, limits={"connections": 1}))
        await one.post("acme", profile=name)
        await relay.wait_messages(1)
        await one.carried()
        third = await cluster.join()
        await one.sees(other, third)
        await third.post("acme", profile=name)
        await relay.wait(lambda: leaving.hits == 1)
        for number in range(3):  # it beats, again and again
            await third.put(Tenant(id=f"t{number}"))
            await until(lambda: one.directory.snapshot.revision == third.directory.snapshot.revision)
        before = (await cluster.rows())["acme", name], len(relay.sessions)
        gone.set()
        await relay.wait_messages(2)

    assert third.me == ids[-1]
    assert before == (one.me, 1)
    assert relay.most == 1
    assert len(third.sent(relay)) == 1


async def test_mail_claimed_by_another_daemon_is_cancelled(cluster: Cluster) -> None:
    """What waits behind another mail, in the hands of the daemon that has the lane, is called back at any daemon."""
    one, other = await pair(cluster)
    over = asyncio.Event()
    async with Watched(features=Features(pipelining=False)) as relay:
        holding = relay.on("final", Hold(over), once=True)
        name = next(names_at(one, other))
        await one.put(named(relay.port, name, limits={"connections": 1}))
        await one.post("acme", "first@example.test", profile=name)
        await relay.wait(lambda: holding.hits)
        cancelled = await one.post("acme", "cancelled@example.test", profile=name)
        await until(lambda: one.outbox.in_hand == 2)
        await one.sees(other)
        assert await other.outbox.cancel(cancelled) is None
        await until(lambda: one.outbox._held[cancelled].revoked)
        over.set()
        await one.carried()

    assert addresses(relay) == ["first@example.test"]
    stored = await other.store.get(cancelled)
    assert stored is not None
    assert (stored.status, stored.cancelled) == ("cancelled", True)


async def test_mail_that_was_accepted_without_a_profile_goes_once_it_has_one(cluster: Cluster) -> None:
    """Whichever daemon accepted it, and whichever has the lane."""
    one, other = await pair(cluster)
    async with Watched() as relay:
        names = next(names_at(one, other)), next(names_at(other, one))
        for member in (one, other):
            for name in names:
                await member.post("acme", f"{member.greeting}.{name}@example.test", profile=name)
        await one.put(*(named(relay.port, name) for name in names))
        await relay.wait_messages(4)

    assert (len(one.sent(relay)), len(other.sent(relay))) == (2, 2)


async def test_the_lane_of_a_deleted_profile_is_nobodys(cluster: Cluster) -> None:
    """It was carried by one of them, and is given up once its session is closed."""
    one, _ = await pair(cluster)
    async with Watched() as relay:
        await one.put(named(relay.port, "gone"), named(relay.port, "kept"))
        for name in ("gone", "kept"):
            await one.post("acme", profile=name)
        await relay.wait_messages(2)
        await one.directory.change(OPERATOR, lambda _snapshot: Change(drop=[("profile", "acme", "gone")]))
        async with asyncio.timeout(15):
            while (rows := await cluster.rows())["acme", "gone"] is not None:
                await asyncio.sleep(0.01)

    assert rows["acme", "kept"] is not None


# Words, of whomever.

STRANGE = (
    "look",
    "5",
    "null",
    "[0]",
    "[0, 5]",
    "[true, []]",
    "[0, [null]]",
    '[0, [["acme"]]]',
    '[0, [["acme", "NAME", "soon"]]]',
    '[0, [["acme", "NAME", null]]]',
    '[0, [["acme", "NAME", true]]]',
    '[0, [["acme", "NAME", 1.5]]]',
    '[0, [["acme", "NAME", NaN]]]',
    '[0, [["acme", "NAME", 1e300]]]',
    f'[0, [["acme", "NAME", {"9" * 5_000}]]]',
    '[0, [["acme", "NAME", 1, "acme", ["NAME"]]]]',
    # Well-formed, of what there is not, or not there.
    "[0, []]",
    '[0, [["acme", "NAME", 0]]]',
    '[0, [["acme", "NAME", 9007199254740992]]]',
    '[0, [["acme", "NAME\\u0000", 0], ["acme\\u0000", "NAME", 0, "acme", "NAME"]]]',
    '[0, [["zoo", "NAME", 0, "acme", "NAME"], ["acme", "NAME", 0, "zoo", "NAME"]]]',
    '[0, ["nobody", "nobody\\u0000", ""]]',
)


async def test_words_of_strangers_harm_nobody(cluster: Cluster) -> None:
    """Whoever may connect to the database may send them: both daemons live, and their mail goes on."""
    one, other = await pair(cluster)
    async with Watched() as relay:
        names = next(names_at(one, other)), next(names_at(other, one))
        await one.put(*(named(relay.port, name) for name in names))
        for words in STRANGE:
            for name in names:
                said = words.replace("NAME", name)
                await cluster.execute(f"SELECT pg_notify('{one.store.roster.channel}', '{said}')")
        for to in numbered(10):
            for name in names:
                await other.post("acme", to, profile=name)
        await relay.wait_messages(20)

    assert sorted(one.sent(relay)) == sorted(other.sent(relay)) == numbered(10)
    assert not one.running.done()
    assert not other.running.done()


async def test_mail_of_which_a_stranger_says_that_it_was_cancelled_is_sent(cluster: Cluster) -> None:
    """It was not: of two that wait behind another mail only the one goes back that somebody cancelled."""
    one, other = await pair(cluster)
    over = asyncio.Event()
    async with Watched(features=Features(pipelining=False)) as relay:
        holding = relay.on("final", Hold(over), once=True)
        name = next(names_at(one, other))
        await one.put(named(relay.port, name, limits={"connections": 1}))
        first = await one.post("acme", "first@example.test", profile=name)
        await relay.wait(lambda: holding.hits)
        second, cancelled = [await one.post("acme", f"{n}@example.test", profile=name) for n in (2, 3)]
        await until(lambda: one.outbox.in_hand == 3)
        await cluster.execute(f"""SELECT pg_notify('{one.store.roster.channel}', '[0, ["{first}", "{second}"]]')""")
        assert await other.outbox.cancel(cancelled) is None
        await until(lambda: one.outbox._held[cancelled].revoked)
        revoked = [one.outbox._held[each].revoked for each in (first, second)]
        over.set()
        await one.carried()
        rows = [await other.store.get(each) for each in (first, second)]

    assert revoked == [False, False]
    assert addresses(relay) == ["first@example.test", "2@example.test"]
    assert [(row.status, row.cancelled) for row in rows if row is not None] == [("relayed", False)] * 2


# Daemons that die, and such as seem to.


async def test_the_mail_of_a_daemon_that_died_is_sent_by_another(cluster: Cluster) -> None:
    """What it had claimed and what waited goes on from the other, over no more connections than the profile has."""
    one, other = await mortals(cluster)
    async with Watched() as relay:
        relay.on("final", Hold(asyncio.Event()), once=True)
        name = next(names_at(one, other))
        await one.put(named(relay.port, name, limits={"connections": 1}))
        for to in numbered(20):
            await one.post("acme", to, profile=name)
        await relay.wait(lambda: len(relay.sessions) == 1 and "DATA" in relay.sessions[0].verbs)
        await one.die()
        await relay.wait_messages(20)

    assert one.sent(relay) == []
    assert sorted(other.sent(relay)) == numbered(20)
    assert relay.most == 1


async def test_a_daemon_that_cannot_reach_the_store_hangs_up_before_others_connect(cluster: Cluster) -> None:
    """Its server does not answer any more: its session ends, then the other sends; back again it sends as before."""
    one, other = await mortals(cluster)
    async with Watched() as relay:
        relay.on("final", Hold(asyncio.Event()), once=True)
        name = next(names_at(one, other))
        await one.put(named(relay.port, name, limits={"connections": 1}))
        for to in numbered(10):
            await one.post("acme", to, profile=name)
        await relay.wait(lambda: len(relay.sessions) == 1 and "DATA" in relay.sessions[0].verbs)
        one.proxy.freeze()
        await relay.wait_messages(10)
        ended = relay.sessions[0].closed
        one.proxy.thaw()
        await other.sees(one)
        back = next(names_at(one, other))
        await other.put(named(relay.port, back, limits={"connections": 1}))
        await other.post("acme", "back@example.test", profile=back)
        await relay.wait(lambda: "back@example.test" in one.sent(relay))

    assert ended
    assert sorted(other.sent(relay)) == numbered(10)
    assert relay.most == 1


async def test_an_idle_session_is_cut_with_its_lane(cluster: Cluster) -> None:
    """The relay does not answer QUIT, and there is no time for it: the session is gone before the other connects."""
    one, other = await mortals(cluster)
    go = asyncio.Event()
    async with Watched() as relay:
        relay.on("quit", Hold(go))
        name = next(names_at(one, other))
        await one.put(named(relay.port, name, limits={"connections": 1}))
        await one.post("acme", profile=name)
        await relay.wait_messages(1)
        await one.carried()
        one.proxy.freeze()
        await other.post("acme", profile=name)
        await relay.wait_messages(2)
        go.set()
        await other.carried()

    assert (len(one.sent(relay)), len(other.sent(relay))) == (1, 1)
    assert relay.most == 1


async def test_mail_goes_on_after_nobody_could_reach_the_store(cluster: Cluster) -> None:
    """The server stands still for all: everybody hangs up, and when it answers again mail goes, within the limits."""
    one, other = await mortals(cluster)
    async with Watched() as relay, Watched() as another:
        relay.on("final", Hold(asyncio.Event()), once=True)
        another.on("final", Hold(asyncio.Event()), once=True)
        first, second = next(names_at(one, other)), next(names_at(other, one))
        limits = {"connections": 1}
        await one.put(named(relay.port, first, limits=limits), named(another.port, second, limits=limits))
        for to in numbered(5):
            await one.post("acme", to, profile=first)
            await one.post("acme", to, profile=second)
        await relay.wait(lambda: "DATA" in relay.sessions[0].verbs if relay.sessions else False)
        await another.wait(lambda: "DATA" in another.sessions[0].verbs if another.sessions else False)
        for member in (one, other):
            member.proxy.freeze()
        await relay.wait(lambda: relay.sessions[0].closed)
        await another.wait(lambda: another.sessions[0].closed)
        begun = len(relay.sessions), len(another.sessions)
        for member in (one, other):
            member.proxy.thaw()
        await relay.wait(lambda: set(addresses(relay)) >= set(numbered(5)[1:]), 30)
        await another.wait(lambda: set(addresses(another)) >= set(numbered(5)[1:]), 30)

    assert begun == (1, 1)
    assert (relay.most, another.most) == (1, 1)


async def test_a_daemon_ends_while_the_store_is_away(cluster: Cluster) -> None:
    """It has mail to give back and a session to end, and nothing answers: it ends all the same, and hangs up."""
    one, other = await mortals(cluster)
    async with Watched() as relay:
        relay.on("final", Hold(asyncio.Event()), once=True)
        name = next(names_at(one, other))
        await one.put(named(relay.port, name, limits={"connections": 1}))
        for to in numbered(10):
            await one.post("acme", to, profile=name)
        await relay.wait(lambda: len(relay.sessions) == 1 and "DATA" in relay.sessions[0].verbs)
        one.proxy.freeze()
        async with asyncio.timeout(20):
            await one.dispatcher.drain(0.1)
        await relay.wait(lambda: relay.sessions[0].closed)

    assert relay.most == 1


# The rate.


@pytest.mark.parametrize("dying", [False, True], ids=["leaves", "dies"])
async def test_a_rate_holds_over_a_move(cluster: Cluster, dying: bool) -> None:
    """One a minute: who has the lane next knows that this minute's is spent, or takes it to be."""
    one, other = await mortals(cluster)
    async with Watched() as relay:
        name = next(names_at(one, other))
        place = ("acme", name)
        await one.put(named(relay.port, name, limits={"per_minute": 1}))
        await one.post("acme", profile=name)
        await relay.wait_messages(1)
        await one.carried()
        await (one.die() if dying else one.go())
        await other.post("acme", profile=name)
        await until(lambda: other.holding.holds(place))
        spent = other.dispatcher.left(place)

    assert spent is not None
    assert 30 < spent <= 60
    assert len(relay.messages) == 1


async def test_a_rate_holds_over_an_edit_and_a_move_at_once(cluster: Cluster) -> None:
    """A profile that was just changed has no lane here for the moment; how far its rate is spent is known all the same."""
    one, other = await pair(cluster)
    async with Watched() as relay:
        await one.put(named(relay.port, "main", limits={"per_minute": 1}))
        one.dispatcher.taken({("acme", "main"): 45.0})
        await other.directory.load()
        other.dispatcher.taken({("acme", "main"): None})

        spent = [member.dispatcher.left(("acme", "main")) or 0.0 for member in (one, other)]

    assert 30 < spent[0] <= 45 < spent[1] <= 60


# Fairness.


async def test_a_backlog_at_one_daemon_delays_nobody_at_the_other(cluster: Cluster) -> None:
    """One tenant has 2,000 waiting; another's first, accepted by the daemon without the lane, is among the next to go."""
    one, other = await pair(cluster)
    go = asyncio.Event()
    async with Watched() as relay:
        relay.on("final", Hold(go), nth=50)
        name = next(names_at(one, other, tenant="system"))
        shared = profile(relay.port, "system", name, limits={"connections": 1})
        await one.put(shared)
        await other.directory.load()
        await asyncio.gather(*(one.post("acme", to) for to in numbered(2000)))
        await relay.wait(lambda: relay.rules[0].hits == 1)
        await other.post("zoo", "first@zoo.example")
        await until(lambda: "zoo" in claimed(one))
        go.set()
        await relay.wait(lambda: "first@zoo.example" in addresses(relay))
        at = addresses(relay).index("first@zoo.example")
        for member in (one, other):
            await member.dispatcher.drain(5)

    assert 49 <= at <= 55


def claimed(member: Member) -> set[str]:
    """Whose mail a daemon has in its hands."""
    return {delivery.row.flow.tenant for delivery in member.outbox._held.values()}


# Failover.


async def test_a_lane_of_another_daemon_stands_in(cluster: Cluster) -> None:
    """The main profile has no password and its lane is here, the backup's is there: mail goes there, and later here."""
    one, other = await pair(cluster)
    async with Watched() as relay, Watched() as backup:
        main, second = next(names_at(one, other)), next(names_at(other, one))
        missing = {"username": "app", "credential": {"source": "stored", "key": "relay-a"}}
        await one.put(
            named(relay.port, main, auth=missing, failover=[second]),
            named(backup.port, second, limits={"connections": 1}),
        )
        for number, to in enumerate(numbered(10)):
            await (one, other)[number % 2].post("acme", to, profile=main)
        await backup.wait_messages(10)
        lent = sorted(other.sent(backup)), one.sent(backup), len(relay.messages)
        await other.put(named(relay.port, main, limits={"connections": 1}))
        for number, to in enumerate(numbered(10)):
            await (one, other)[number % 2].post("acme", to, profile=main)
        await relay.wait_messages(10)
        for member in (one, other):
            await member.carried()

    assert lent == (numbered(10), [], 0)
    assert sorted(one.sent(relay)) == numbered(10)
    assert len(backup.messages) == 10
    assert backup.most == 1


# What persons do, and see.


async def test_a_person_resumes_a_lane_wherever_it_is(cluster: Cluster) -> None:
    """Parked at one daemon, known at both, let go on at the other: it is tried once more."""
    one, other = await pair(cluster)
    async with Watched(users={"app": "right"}) as relay:
        name = next(names_at(other, one))
        place = ("acme", name)
        await one.put(named(relay.port, name, auth=password(SEAL, "acme", name, "wrong")))
        await one.post("acme", profile=name)
        for member in (one, other):
            await until(lambda at=member: at.dispatcher.all_states().get(place) == "parked:auth_failed")
        await one.dispatcher.resume(place)
        await relay.wait(lambda: len(refused(relay)) == 2)
        await until(lambda: other.dispatcher.states().get(place) == "parked:auth_failed")
        await one.dispatcher.resume(place)
        await relay.wait(lambda: len(refused(relay)) == 3)

    assert relay.messages == []


def refused(relay: Watched) -> list[str]:
    """Who was refused, each time."""
    return [login.username for session in relay.sessions for login in session.logins if not login.accepted]


async def test_a_pause_and_its_end_hold_everywhere(cluster: Cluster) -> None:
    """Paused at one daemon: nothing leaves from the other, both say so, and it goes on when that is over."""
    one, other = await pair(cluster)
    async with Watched() as relay:
        name = next(names_at(other, one))
        place = ("acme", name)
        await one.put(named(relay.port, name), Pause(tenant="acme", profile=name))
        await until(lambda: place in other.directory.snapshot.paused)
        await other.post("acme", profile=name)
        for member in (one, other):
            await until(lambda at=member: at.dispatcher.holds(Flow("acme", name)))
        await until(lambda: other.dispatcher.all_states().get(place) == "paused")
        before = len(relay.sessions)
        await one.directory.change(OPERATOR, lambda _snapshot: Change(drop=[("pause", "acme", name)]))
        await relay.wait_messages(1)

    assert before == 0


async def test_a_profile_that_is_changed_anywhere_is_another_at_once(cluster: Cluster) -> None:
    """The daemon that has the lane drops its session with the old relay, and goes to the new one."""
    one, other = await pair(cluster)
    async with Watched() as old, Watched() as new:
        name = next(names_at(other, one))
        await one.put(named(old.port, name))
        await one.post("acme", "old@example.test", profile=name)
        await old.wait_messages(1)
        await one.put(named(new.port, name))
        await old.wait(lambda: old.open == 0)
        await one.post("acme", "new@example.test", profile=name)
        await new.wait_messages(1)

    assert (other.sent(old), other.sent(new)) == (["old@example.test"], ["new@example.test"])


async def test_a_lane_that_stood_still_elsewhere_begins_anew(cluster: Cluster) -> None:
    """A lane comes back whose profile was parked here, long ago: what it stood still for is over."""
    one, other = await pair(cluster)
    async with Watched(users={"app": "right"}) as relay:
        name = next(names_at(one, other))
        place = ("acme", name)
        await one.put(named(relay.port, name, auth=password(SEAL, "acme", name, "wrong")))
        await one.post("acme", profile=name)
        await until(lambda: one.dispatcher.states().get(place) == "parked:auth_failed")
        one.dispatcher.leave(place)
        one.dispatcher.taken({place: None})

        assert one.dispatcher.states()[place] == "active"


# What the directory says.


async def test_changes_of_one_are_learned_by_the_other(cluster: Cluster) -> None:
    """Made, replaced and dropped at one daemon, also what the other never saw; it reads only what is new."""
    one, other = await pair(cluster)
    await one.put(*(Tenant(id=f"t{number}") for number in range(300)))
    await until(lambda: other.directory.snapshot.revision == one.directory.snapshot.revision)
    known = other.directory.snapshot.revision
    await one.put(named(25, "kept"), named(25, "gone"))
    await until(lambda: ("acme", "gone") in other.directory.snapshot.profiles)
    await one.directory.change(OPERATOR, lambda _snapshot: Change(drop=[("profile", "acme", "gone")]))
    await until(lambda: ("acme", "gone") not in other.directory.snapshot.profiles)
    news = await other.store.directory_since(known)

    assert not news.whole
    assert [entry[:3] for entry in news.put] == [("profile", "acme", "kept")]
    assert [entry[:3] for entry in news.drop] == [("profile", "acme", "gone")]
    assert differing(other, one) == []


async def test_what_came_and_went_unseen_is_learned_too(cluster: Cluster) -> None:
    """Made and dropped between two looks, and made again: the other ends with the same directory."""
    one, _ = await pair(cluster)
    late = Directory(one.store, Policy(EGRESS), SEAL)
    await late.load()
    for name in ("never", "again"):
        await one.put(named(25, name))
        await one.directory.change(OPERATOR, lambda _snapshot, name=name: Change(drop=[("profile", "acme", name)]))
    await one.put(named(26, "again"))
    await late.learn(one.directory.snapshot.revision)

    assert late.snapshot.profiles == one.directory.snapshot.profiles
    assert late.snapshot.profiles["acme", "again"].port == 26


async def test_changes_at_both_at_once_all_hold(cluster: Cluster) -> None:
    """Twenty at each daemon at the same time: none is lost, and both know the same in the end."""
    one, other = await pair(cluster)

    async def make(member: Member, name: str) -> None:
        while True:
            with suppress(RevisionConflict):
                await member.directory.change(OPERATOR, lambda _snapshot: Change([Tenant(id=name)]))
                return

    await asyncio.gather(*(make(member, f"t{member.me}-{n}") for n in range(20) for member in (one, other)))
    await until(lambda: one.directory.snapshot.revision == other.directory.snapshot.revision)

    assert differing(one, other) == []
    assert sum(tenant.startswith("t") for tenant in one.directory.snapshot.tenants) == 40


async def test_what_newer_code_writes_into_the_directory_harms_nobody(cluster: Cluster) -> None:
    """Daemons of the next version are at work too: these two do without what they cannot read, and mail goes on."""
    one, other = await pair(cluster)
    async with Watched() as relay:
        names = next(names_at(one, other)), next(names_at(other, one))
        await one.put(*(named(relay.port, name) for name in names), named(relay.port, "theirs"))
        revision, _ = await one.store.directory()
        await one.store.change_directory(revision, [*NEWER, entry(Tenant(id="after"), API)], [])
        for member in (one, other):
            await until(lambda member=member: "after" in member.directory.snapshot.tenants)
        for name in names:
            await one.post("acme", profile=name)
        await relay.wait_messages(2)
        revision, _ = await one.store.directory()
        await one.store.change_directory(revision, [], [*NEWER, entry(Tenant(id="after"), API)])
        for member in (one, other):
            await until(lambda member=member: "after" not in member.directory.snapshot.tenants)
        for name in names:
            await one.post("acme", profile=name)
        await relay.wait_messages(4)

    assert {name for _, name in one.directory.snapshot.profiles} == {*names}
    assert (len(one.sent(relay)), len(other.sent(relay))) == (2, 2)
    assert not one.running.done()
    assert not other.running.done()


NEWER = (
    Entry(
        "profile", "acme", "theirs", '{"tenant": "acme", "name": "theirs", "host": "h", "from": "a@b.c", "x": 1}', API
    ),
    Entry("template", "acme", "theirs", "[]", API),
    Entry("queue", "acme", "theirs", '{"tenant": "acme"}', API),
)


def differing(one: Member, other: Member) -> list[str]:
    """Name what two daemons' directories do not say alike."""
    snapshots = one.directory.snapshot, other.directory.snapshot
    fields = dataclasses.fields(snapshots[0])
    return [each.name for each in fields if getattr(snapshots[0], each.name) != getattr(snapshots[1], each.name)]
