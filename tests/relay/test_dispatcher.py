"""The dispatcher with scripted relays: who is sent to, how often somebody knocks, and what waits for whom."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.directory.shapes import Tenant
from gateway.outbox.states import State
from gateway.store.rows import Flow
from tests.peers.smtp_server import Hold, ScriptedRelay
from tests.relay.members import Watched, until
from tests.relay.world import SEAL, password, profile, world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.relay.world import World


async def test_a_wrong_password_is_tried_once_and_blames_no_mail(tmp_path: Path) -> None:
    """535: one login, the profile is parked, its mail waits without an attempt; another profile there goes on."""
    async with ScriptedRelay(users={"app": "right"}) as relay:
        wrong = profile(relay.port, auth=password(SEAL, "acme", "main", "wrong"))
        right = profile(relay.port, "zoo", auth=password(SEAL, "zoo", "main", "right"))
        async with world(tmp_path, wrong, right) as at:
            waiting = [await at.post("acme") for _ in range(20)]
            await at.until(("acme", "main"), "parked:auth_failed")
            await at.post("zoo")
            await relay.wait_messages(1)
            states = [(one.state, one.attempts) for mail in waiting for one in await at.recipients(mail)]
        refused = [login for session in relay.sessions for login in session.logins if not login.accepted]

    assert len(refused) == 1
    assert set(states) == {(State.QUEUED, 0)}
    assert [caught.mail_from for caught in relay.messages] == ["noreply@zoo.example"]


async def test_a_profile_without_its_password_opens_no_session(tmp_path: Path) -> None:
    """A sealed password that does not open is a reason to stand still, never one to go on without."""
    async with ScriptedRelay(users={"app": "right"}) as relay:
        moved = profile(relay.port, auth=password(SEAL, "zoo", "main", "right"))
        async with world(tmp_path, moved) as at:
            await at.post("acme")
            await at.until(("acme", "main"), "parked:secret_denied")

    assert relay.sessions == []


async def test_a_relay_without_starttls_sees_no_mail(tmp_path: Path) -> None:
    """STARTTLS is required and not offered: parked, and not a word about mail on the wire."""
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port, security="starttls")) as at:
        await at.post("acme")
        await at.until(("acme", "main"), "parked:tls_required")

    assert {verb for session in relay.sessions for verb in session.verbs} <= {"EHLO", "QUIT"}


async def test_no_more_sessions_than_the_profile_allows(tmp_path: Path) -> None:
    """However much waits, the relay sees at most `connections` sessions at once."""
    go = asyncio.Event()
    async with ScriptedRelay() as relay:
        relay.on("final", Hold(go))
        async with world(tmp_path, profile(relay.port, limits={"connections": 3})) as at:
            for _ in range(50):
                await at.post("acme")
            await relay.wait(lambda: sum("DATA" in session.verbs for session in relay.sessions) == 3)
            open_at_once = len(relay.sessions)
            go.set()
            await relay.wait_messages(50)

    assert open_at_once == 3


async def test_a_relay_that_never_greets_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    """One profile waits for a mute relay with all its workers; another's mail finds a connection all the same."""
    never = asyncio.Event()
    async with ScriptedRelay() as mute, ScriptedRelay() as relay:
        mute.on("connect", Hold(never))
        async with world(tmp_path, profile(mute.port), profile(relay.port, "zoo"), connections=2) as at:
            for _ in range(8):
                await at.post("acme")
            await mute.wait(lambda: len(mute.sessions) == 1)
            await at.post("zoo")
            await relay.wait_messages(1)
            never.set()

    assert len(mute.sessions) >= 1


async def test_a_relay_that_never_answers_leaves_slots_to_others(tmp_path: Path) -> None:
    """One tenant's profile may have a thousand connections, and its relay keeps all it gets: another's mail goes."""
    never = asyncio.Event()
    async with ScriptedRelay() as mute, ScriptedRelay() as relay:
        mute.on("final", Hold(never))
        greedy = profile(mute.port, limits={"connections": 1000})
        async with world(tmp_path, greedy, profile(relay.port, "zoo"), connections=8) as at:
            for _ in range(40):
                await at.post("acme")
            await mute.wait(lambda: sum("DATA" in session.verbs for session in mute.sessions) == 6)
            await at.post("zoo")
            await relay.wait_messages(1)
            never.set()

    assert len(relay.messages) == 1


async def test_many_recipients_are_several_transactions(tmp_path: Path) -> None:
    """More recipients than the profile takes in one transaction: all get it, in as many as are needed."""
    addresses = tuple(f"r{n}@example.test" for n in range(7))
    async with (
        ScriptedRelay() as relay,
        world(tmp_path, profile(relay.port, limits={"recipients": 3})) as at,
    ):
        await at.post("acme", *addresses)
        caught = await relay.wait_messages(3)

    assert sorted(len(one.rcpt_tos) for one in caught) == [1, 3, 3]
    assert {address for one in caught for address in one.rcpt_tos} == set(addresses)


async def test_queued_mail_follows_its_changed_profile(tmp_path: Path) -> None:
    """Mail that waits for a relay that is gone leaves through the profile's new host."""
    async with ScriptedRelay() as relay:
        gone = ScriptedRelay()
        async with gone:
            port = gone.port
        async with world(tmp_path, profile(port)) as at:
            await at.post("acme")
            await at.until(("acme", "main"), "open")
            await at.put(profile(relay.port))
            await relay.wait_messages(1)


async def test_mail_of_a_disabled_tenant_is_held_until_it_is_enabled(tmp_path: Path) -> None:
    """Nothing leaves while the tenant is disabled, and it is told; then it goes by itself."""
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port)) as at:
        await at.put(Tenant(id="acme", enabled=False))
        await at.post("acme")
        held = at.dispatcher.holds(Flow("acme", ""))
        seen = len(relay.sessions)
        await at.put(Tenant(id="acme", enabled=True))
        await relay.wait_messages(1)

    assert (held, seen) == (True, 0)


async def test_a_session_serves_the_next_message_and_no_other_profile(tmp_path: Path) -> None:
    """Two messages of one profile share a session; another tenant's profile for the same relay has its own."""
    async with (
        ScriptedRelay() as relay,
        world(tmp_path, profile(relay.port), profile(relay.port, "zoo")) as at,
    ):
        for expected, tenant in enumerate(("acme", "acme", "zoo"), 1):
            await at.post(tenant)
            await relay.wait_messages(expected)
            async with asyncio.timeout(5):
                while at.outbox.in_hand:
                    await asyncio.sleep(0.01)

    assert [(caught.mail_from, caught.session_index) for caught in relay.messages] == [
        ("noreply@acme.example", 0),
        ("noreply@acme.example", 0),
        ("noreply@zoo.example", 1),
    ]


async def test_a_final_reply_is_waited_for_when_draining(tmp_path: Path) -> None:
    """Draining gives back what has not begun, and lets the reply that is awaited come."""
    go = asyncio.Event()
    async with ScriptedRelay() as relay:
        relay.on("final", Hold(go), once=True)
        async with world(tmp_path, profile(relay.port, limits={"connections": 1})) as at:
            first = await at.post("acme")
            await relay.wait(lambda: any("DATA" in session.verbs for session in relay.sessions))
            later = await at.post("acme")
            draining = asyncio.ensure_future(at.dispatcher.drain(10))
            go.set()
            await draining
            states = [(await at.recipients(mail))[0].state for mail in (first, later)]

    assert states == [State.RELAYED, State.QUEUED]


async def test_an_edit_does_not_begin_the_minute_anew(tmp_path: Path) -> None:
    """A profile's rate holds however often the profile is changed."""
    async with (
        ScriptedRelay() as relay,
        world(tmp_path, profile(relay.port, limits={"per_minute": 6})) as at,
    ):
        await at.post("acme")
        await relay.wait_messages(1)
        await at.put(profile(relay.port, limits={"per_minute": 6}, footnote={"text": "edited"}))
        await at.post("acme")
        lane = at.dispatcher._routes.lanes["acme", "main"].lane
        waits = lane.rate.wait(asyncio.get_running_loop().time())

    assert waits > 5
    assert len(relay.messages) == 1


async def test_a_profile_that_is_edited_in_between_keeps_its_connections(tmp_path: Path) -> None:
    """Three edits while the only connection waits for the final reply open none more; then mail goes by the last one."""
    over = asyncio.Event()
    async with Watched() as relay:
        holding = relay.on("final", Hold(over), once=True)
        edits = [profile(relay.port, limits={"connections": 1}, footnote={"text": f"edit {n}"}) for n in range(4)]
        async with world(tmp_path, edits[0]) as at:
            await at.post("acme", "0@example.test")
            await relay.wait(lambda: holding.hits)
            for number, edited in enumerate(edits[1:], 1):
                await at.put(edited)
                await at.post("acme", f"{number}@example.test")
                await until(lambda number=number: claimed(at) == number)
            before = len(relay.sessions)
            over.set()
            await relay.wait_messages(4)

    assert (before, relay.most) == (1, 1)
    assert sorted(to for caught in relay.messages for to in caught.rcpt_tos) == [f"{n}@example.test" for n in range(4)]
    assert [b"edit 3" in caught.data for caught in relay.messages] == [False, True, True, True]


def claimed(at: World) -> int:
    """Count what the profile's lane, as it is now, has in hand and would send."""
    return at.dispatcher._routes.lanes["acme", "main"].lane.ready
