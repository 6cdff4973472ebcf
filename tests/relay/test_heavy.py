"""Heavy mail, whose content stays in the store until it is its turn, and how much of all content is in memory at once."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from email import message_from_bytes, policy
from typing import TYPE_CHECKING

from gateway.directory.shapes import Pause, Tenant
from gateway.outbox.states import State
from gateway.relay import dispatcher
from gateway.store.rows import LIGHT
from tests.peers.smtp_server import Features, Hold, ScriptedRelay
from tests.relay.world import profile, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import pytest

    from tests.peers.smtp_server import Caught
    from tests.relay.world import World

LOCK_STEP = Features(pipelining=False)
LARGE = "Grüße, und mehr davon.\n" * (3 * LIGHT // 20)
ROOM_FOR_ONE = 5 * LIGHT  # LARGE is between three and four


def text(caught: Caught) -> str:
    """What a message says."""
    body = message_from_bytes(caught.data, policy=policy.default).get_body()
    assert body is not None
    content: str = body.get_content()
    return content.replace("\r\n", "\n")


async def until(so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not so():
            await asyncio.sleep(0.01)


def bodies(relay: ScriptedRelay) -> int:
    """How many sessions have begun a body."""
    return sum("DATA" in session.verbs for session in relay.sessions)


@asynccontextmanager
async def one_on_the_wire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[World, ScriptedRelay, asyncio.Event, list[str]]]:
    """Two heavy messages and room for one: the first waits for its final reply until the event is set."""
    monkeypatch.setattr(dispatcher, "ROOM", ROOM_FOR_ONE)
    go = asyncio.Event()
    async with (
        ScriptedRelay() as relay,
        world(tmp_path, profile(relay.port, limits={"connections": 2}), profile(relay.port, "zoo")) as at,
    ):
        holding = relay.on("final", Hold(go), once=True)
        mails = [await at.post("acme", content={"text": LARGE}) for _ in range(2)]
        await relay.wait(lambda: holding.hits)
        await until(lambda: at.outbox.in_hand == 2)
        try:
            yield at, relay, go, mails
        finally:
            go.set()


async def test_heavy_mail_arrives_whole_and_in_its_order(tmp_path: Path) -> None:
    """Among light mail on one session."""
    texts = ["small", LARGE, "small as well", LARGE + "another", LARGE + "and another", "the end"]
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port, limits={"connections": 1})) as at:
        await at.put(Tenant(id="acme", enabled=False))
        for one in texts:
            await at.post("acme", content={"text": one})
        await at.put(Tenant(id="acme"))
        await relay.wait_messages(len(texts))
        await at.carried()
        left = at.outbox.content_in_hand

    assert [text(caught).rstrip() for caught in relay.messages] == [one.rstrip() for one in texts]
    assert (len(relay.sessions), relay.violations, left) == (1, [], 0)


async def test_no_more_heavy_mail_at_once_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the first; what other lanes have goes."""
    async with one_on_the_wire(tmp_path, monkeypatch) as (at, relay, go, _):
        await at.post("zoo")
        await relay.wait_messages(1)
        before = [caught.mail_from for caught in relay.messages], bodies(relay)
        go.set()
        await relay.wait_messages(3)
        await at.carried()
        free = at.dispatcher._room._free

    assert before == (["noreply@zoo.example"], 2)
    assert [text(caught) for caught in relay.messages[1:]] == [LARGE] * 2
    assert free == ROOM_FOR_ONE


async def test_light_mail_of_other_tenants_passes_what_waits_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the very profile, which its tenant has lent."""
    async with one_on_the_wire(tmp_path, monkeypatch) as (at, relay, _, mails):
        await at.put(Tenant(id="child", parent="acme"))
        await at.post("child")
        [caught] = await relay.wait_messages(1)
        states = [(await at.recipients(mail))[0].state for mail in mails]

    assert caught.mail_from == "noreply@acme.example"
    assert states == [State.QUEUED, State.QUEUED]


async def test_a_paused_profile_leaves_the_room_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched for it is given back; resumed, it goes."""
    async with one_on_the_wire(tmp_path, monkeypatch) as (at, relay, go, _):
        await at.put(Pause(tenant="acme", profile="main"))
        go.set()
        await relay.wait_messages(1)
        await at.carried()
        free = at.dispatcher._room._free
        await at.drop(Pause(tenant="acme", profile="main"))
        await relay.wait_messages(2)

    assert free == ROOM_FOR_ONE


async def test_what_waits_for_room_is_given_back_when_draining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is on the wire gets its reply."""
    async with one_on_the_wire(tmp_path, monkeypatch) as (at, _, go, mails):
        draining = asyncio.ensure_future(at.dispatcher.drain(10))
        go.set()
        await draining
        states = [(await at.recipients(mail))[0].state for mail in mails]

    assert sorted(states) == [State.QUEUED, State.RELAYED]


async def test_what_waits_for_room_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not sent, and leaves the room to what comes."""
    async with one_on_the_wire(tmp_path, monkeypatch) as (at, relay, go, mails):
        assert await at.outbox.cancel(mails[1]) is None
        go.set()
        await at.carried()
        states = [(await at.recipients(mail))[0].state for mail in mails]
        await at.post("acme", content={"text": LARGE})
        await relay.wait_messages(2)

    assert states == [State.RELAYED, State.CANCELLED]


async def test_heavy_mail_whose_profile_changes_while_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves as the profile is then."""
    async with one_on_the_wire(tmp_path, monkeypatch) as (at, relay, go, _):
        await at.put(profile(relay.port, footnote={"text": "edited"}))
        go.set()
        await relay.wait_messages(2)

    assert ["edited" in text(caught) for caught in relay.messages] == [False, True]


def remove_content(folder: Path, mail: str) -> None:
    """Take what a notification says out of the database, behind the daemon's back."""
    with closing(sqlite3.connect(folder / "gateway.db")) as database, database:
        database.execute("DELETE FROM content WHERE seq=(SELECT seq FROM notification WHERE id=?)", (mail,))


async def test_mail_without_content_is_held(tmp_path: Path) -> None:
    """No empty message is sent for it: its history says why, and other mail goes."""
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port)) as at:
        await at.put(Tenant(id="acme", enabled=False))
        gone = await at.post("acme")
        await at.post("acme")
        remove_content(tmp_path, gone)
        await at.put(Tenant(id="acme"))
        await relay.wait_messages(1)
        await at.carried()
        row = await at.store.get(gone)

    assert row is not None
    assert (row.status, "unreadable" in row.events, len(relay.messages)) == ("held", True, 1)


async def test_content_that_goes_while_its_mail_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That mail is held, and leaves the room to others."""
    async with one_on_the_wire(tmp_path, monkeypatch) as (at, relay, go, mails):
        remove_content(tmp_path, mails[1])
        go.set()
        await at.carried()
        row = await at.store.get(mails[1])
        await at.post("acme", content={"text": LARGE})
        await relay.wait_messages(2)

    assert row is not None
    assert (row.status, "unreadable" in row.events) == ("held", True)


async def test_where_much_is_in_hand_a_lane_claims_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another lane holds more than plenty: this one has one message on the wire, one ready, and goes on."""
    monkeypatch.setattr(dispatcher, "PLENTY", 1000)
    go, one_each = asyncio.Event(), {"connections": 1}
    async with ScriptedRelay(features=LOCK_STEP) as stuck, ScriptedRelay(features=LOCK_STEP) as relay:
        stuck.on("final", Hold(go))
        relay.on("final", Hold(go), once=True)
        profiles = profile(stuck.port, limits=one_each), profile(relay.port, "zoo", limits=one_each)
        async with world(tmp_path, *profiles) as at:
            for tenant, in_hand in (("acme", 10), ("zoo", 12)):
                await at.put(Tenant(id=tenant, enabled=False))
                for _ in range(10):
                    await at.post(tenant, content={"text": "much" * 100})
                await at.put(Tenant(id=tenant))
                await until(lambda in_hand=in_hand: at.outbox.in_hand >= in_hand)
            most = at.outbox.in_hand
            go.set()
            await relay.wait_messages(10)
            await stuck.wait_messages(10)

    assert most == 12
