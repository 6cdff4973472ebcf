"""Several daemons on one PostgreSQL, which die, are stopped, and lose it: no 202 is lost, and no limit exceeded."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.lifecycle import EXIT_FAILED
from tests.process.cluster import PER_CONNECTION, Cluster, Lane, Stuck, cluster, until
from tests.process.daemon import DaemonDiedError, mail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.peers.postgresql import Postgresql
    from tests.process.crash import Load
    from tests.process.daemon import Daemon

PROOF = "GATEWAY_PROOF" in os.environ
TAKEN_OVER = 60  # seconds, by which the mail of a daemon that died has to go on
PACE = 600
LANES = (
    Lane("main", {"connections": 3}),
    Lane("single", {"connections": 1}),
    Lane("signed", {"connections": 2, "messages_per_connection": 20}, password=True),
    Lane("paced", {"connections": 2, "per_minute": PACE}),
)
AHEAD = {"main": 400, "single": 100, "signed": 200, "paced": 200}


@pytest.fixture
async def three(tmp_path: Path, mortal: Postgresql) -> AsyncIterator[Cluster]:
    """Make three daemons on one database, not started yet."""
    async with cluster(tmp_path, mortal, LANES) as made:
        yield made


@asynccontextmanager
async def loaded(made: Cluster, *strict: Load) -> AsyncIterator[list[Load]]:
    """Post for every profile for as long as the block lasts; then everything has to end."""
    loads = [*(made.load(name, ahead=ahead) for name, ahead in AHEAD.items()), *strict]
    stuck = Stuck(made)
    watching = asyncio.ensure_future(stuck.run())
    posting = [asyncio.ensure_future(load.run()) for load in loads]
    try:
        yield loads
        for load in loads:
            load.stop()
        await asyncio.gather(*posting)
        await made.emptied()
    finally:
        for task in (watching, *posting):
            task.cancel()
        await asyncio.gather(watching, *posting, return_exceptions=True)
    assert stuck.looks > 0
    assert stuck.found == []


def acknowledged(loads: list[Load]) -> set[str]:
    return {id_ for load in loads for id_ in load.acknowledged}


def check_limits(made: Cluster) -> None:
    """No profile ever had more connections than it may, over all daemons, nor more messages in any time."""
    most = {lane.name: made.relays[lane.name].most_open for lane in LANES}
    assert most == {lane.name: min(lane.limits["connections"], most[lane.name]) for lane in LANES}
    assert made.relays["paced"].overspent(PACE) <= 0


async def test_kills_of_daemons_and_database_lose_nothing(three: Cluster, mortal: Postgresql) -> None:
    """Any daemon at any moment, and the database: every 202 arrives, copies stay in the window, limits hold."""
    kills, outages = (200, 20) if PROOF else (10, 2)
    dice = random.Random(os.environ.get("GATEWAY_SEED", "7"))
    await three.start()
    returning: set[asyncio.Task[None]] = set()
    began = time.monotonic()
    async with loaded(three) as loads:
        for kill in range(1, kills + 1):
            goal = three.relayed + dice.randint(1, 200)
            await until(lambda goal=goal: three.relayed >= goal, 90)
            victim = dice.choice([daemon for daemon in three.daemons if daemon.up])
            await three.kill(victim)
            away = dice.uniform(31, 40) if PROOF and kill % 20 == 0 else dice.uniform(0, 1)
            returning.add(asyncio.ensure_future(_return(victim, away)))
            if kill % (kills // outages) == 0:
                mortal.kill()
                mortal.start()
                await mortal.wait()
            await until(lambda: any(daemon.up for daemon in three.daemons), 90)
        await asyncio.gather(*returning)
    account, posted = three.account(), acknowledged(loads)
    print(
        f"\n{kills} kills of daemons, {outages} of the database, {time.monotonic() - began:.0f} s: {len(posted)} "
        f"acknowledged, {account.duplicates} copies too many of at most {three.exposed * PER_CONNECTION}"
        f" ({three.exposed} connections were open), refused {[dict(load.refused) for load in loads]}"
    )

    assert account.missing(posted) == set()
    assert account.duplicates <= three.exposed * PER_CONNECTION
    check_limits(three)


async def _return(daemon: Daemon, seconds: float) -> None:
    """Start a daemon again, a while after its death, and as often as it finds the database away."""
    await asyncio.sleep(seconds)
    while not daemon.up:
        try:
            await daemon.start()
        except DaemonDiedError as died:
            if died.args[0] != EXIT_FAILED:
                raise


async def test_the_mail_of_a_daemon_that_died_goes_on(three: Cluster) -> None:
    """Killed for good under load, with mail claimed and lanes its own: others have both within the minute."""
    await three.start()
    async with loaded(three) as loads:
        await until(lambda: all(len(relay.messages) > 50 for relay in three.relays.values()), 30)
        victim = await three.held("main")
        await three.kill(victim)
        before, killed = acknowledged(loads), time.monotonic()
        seen = len(three.relays["main"].messages)
        async with asyncio.timeout(TAKEN_OVER):
            await until(lambda: len(three.relays["main"].messages) > seen, TAKEN_OVER)
            first = time.monotonic() - killed
            await until(lambda: not three.account().missing(before), TAKEN_OVER)
        last = time.monotonic() - killed
    account = three.account()
    print(
        f"\nanother daemon went on after {first:.1f} s, and all of its mail was relayed after {last:.1f} s; "
        f"{account.duplicates} copies too many of at most {three.exposed * PER_CONNECTION}"
    )

    assert victim.name not in three.relays["main"].carriers(since=seen)
    assert account.missing(acknowledged(loads)) == set()
    assert account.duplicates <= three.exposed * PER_CONNECTION
    check_limits(three)


async def test_a_rolling_restart_is_not_noticed(three: Cluster) -> None:
    """Each daemon is stopped and started under load: nothing is lost, nothing goes twice, nobody is told to wait."""
    await three.start()
    async with loaded(three) as loads:
        codes = []
        for daemon in three.daemons * (3 if PROOF else 1):
            goal = three.relayed + 100
            await until(lambda goal=goal: three.relayed >= goal, 30)
            codes.append(await daemon.stop())
            await daemon.start()
    account = three.account()

    assert set(codes) == {0}
    assert account.missing(acknowledged(loads)) == set()
    assert account.duplicates == 0
    assert not any(load.refused for load in loads)
    check_limits(three)


async def test_the_database_goes_away_and_comes_back(three: Cluster, mortal: Postgresql) -> None:
    """Meanwhile posts are told to wait, and why; nobody dies, and what was accepted is relayed, once.

    Mail that must not go twice too: where its final dot could not be committed it was not sent.
    """
    await three.start()
    strict = three.load("paced", ahead=AHEAD["paced"], on_ambiguous="fail")  # where some always waits
    strict.name = "strict"
    async with loaded(three, strict) as loads:
        await until(lambda: all(len(relay.messages) > 20 for relay in three.relays.values()), 30)
        mortal.kill()
        gone = time.monotonic()
        for daemon in three.daemons:
            await until(lambda daemon=daemon: _not_ready(daemon), 20)
            assert await _refused(daemon) == (503, "unavailable", "5")
        await asyncio.sleep(max(0.0, (40 if PROOF else 12) - (time.monotonic() - gone)))
        alive = [daemon.up for daemon in three.daemons]
        mortal.start()
        await mortal.wait()
        back = time.monotonic()
        goal = three.relayed + 50
        await until(lambda: three.relayed >= goal, 60)
        print(f"\naway for {back - gone:.1f} s; {time.monotonic() - back:.1f} s later mail went on")
    account = three.account()
    unknown = await three.ids("SELECT id FROM notification WHERE events LIKE '%outcome_unknown%'")

    assert alive == [True, True, True]
    assert account.missing(acknowledged(loads)) <= unknown <= strict.acknowledged
    assert len(unknown) <= LANES[3].limits["connections"]
    assert account.duplicates == 0
    check_limits(three)


async def _not_ready(daemon: Daemon) -> bool:
    async with daemon.client() as client, client.session.get("/readyz") as answer:
        return answer.status == 503 and (await answer.json())["reasons"] == ["store_away"]


async def _refused(daemon: Daemon) -> tuple[int, str, str]:
    async with daemon.client() as client, client.session.post("/v1/notifications", json=mail()) as answer:
        return answer.status, (await answer.json())["code"], answer.headers.get("Retry-After", "")


@pytest.mark.skipif(not PROOF, reason="takes minutes: `make proof` runs it")
@pytest.mark.parametrize("seconds", [33, 45])
async def test_a_daemon_that_was_suspended_finds_its_lanes_gone(three: Cluster, seconds: int) -> None:
    """Others have taken them; what it had on the wire may go twice, and it begins nothing under what it lost.

    Of its open connections the others cannot know: until it is back, or its relays close them, they come on top.
    """
    await three.start()
    async with loaded(three) as loads:
        await until(lambda: all(len(relay.messages) > 50 for relay in three.relays.values()), 30)
        asleep = await three.held("main")
        exposed = sum(relay.exposed(asleep) for relay in three.relays.values())
        asleep.signal(signal.SIGSTOP)
        before, seen = acknowledged(loads), len(three.relays["main"].messages)
        await asyncio.sleep(seconds)
        taken_over = len(three.relays["main"].messages)
        asleep.signal(signal.SIGCONT)
        back = time.monotonic()
        await until(lambda: not three.account().missing(before), TAKEN_OVER)
    account = three.account()
    again = three.relays["main"].carriers(since=taken_over)
    print(
        f"\nsuspended for {seconds} s with {exposed} connections open; the others relayed {taken_over - seen} meanwhile; "
        f"{account.duplicates} copies too many, {again.count(asleep.name)} messages by it after {time.monotonic() - back:.1f} s, "
        f"most connections { ({name: relay.most_open for name, relay in three.relays.items()}) }"
    )

    assert taken_over > seen
    assert account.missing(acknowledged(loads)) == set()
    assert account.duplicates <= exposed * PER_CONNECTION
    assert "lanes_lost" in asleep.log
