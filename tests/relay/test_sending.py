"""What the dispatcher sends and what it does not: pace, turns, people who change their minds, and sessions that end."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from gateway.directory.shapes import Template, Tenant
from gateway.message.address import Mailbox
from gateway.message.template.allowance import Allowance
from gateway.outbox.outbox import Outbox, Submission
from gateway.outbox.states import State
from gateway.relay import dispatcher
from gateway.store.clock import wall_clock
from gateway.store.rows import Flow
from tests.outbox.building import DAY, HOUR, notification
from tests.peers.smtp_server import Features, Hold, ScriptedRelay
from tests.relay.world import SEAL, World, password, profile, world

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

LOCK_STEP = Features(pipelining=False)
ACME = Flow("acme", "")


class Told:
    """What the outbox tells about recipients, to be waited for."""

    def __init__(self, outbox: Outbox) -> None:
        """Listen from now on."""
        self.events: Counter[str] = Counter()
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        outbox.on_event = self._hear

    def _hear(self, event: str, number: int, _tenant: str) -> None:
        self.events[event] += number
        self._tasks.append(asyncio.ensure_future(self._notify()))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, event: str, number: int = 1) -> None:
        """Wait until it was told so often."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.events[event] >= number)


async def enable(at: World, *, yes: bool) -> None:
    """Let acme send, or not."""
    await at.put(Tenant(id="acme", enabled=yes))


async def state(at: World, mail: str) -> tuple[State, int]:
    """How the only recipient stands, and how often it was tried."""
    [recipient] = await at.recipients(mail)
    return recipient.state, recipient.attempts


async def test_a_session_carries_no_more_messages_than_it_may(tmp_path: Path) -> None:
    """`messages_per_connection` 2: five messages take three sessions, none with more than two."""
    async with (
        ScriptedRelay() as relay,
        world(tmp_path, profile(relay.port, limits={"connections": 1, "messages_per_connection": 2})) as at,
    ):
        await enable(at, yes=False)
        for _ in range(5):
            await at.post("acme")
        await enable(at, yes=True)
        caught = await relay.wait_messages(5)

    assert Counter(one.session_index for one in caught) == {0: 2, 1: 2, 2: 1}


async def test_a_rate_lets_a_burst_go_and_then_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve a minute: ten seconds' worth at once, the next one five seconds later, and nobody else waits for it."""
    async with (
        ScriptedRelay() as relay,
        world(tmp_path, profile(relay.port, limits={"per_minute": 12}), profile(relay.port, "zoo")) as at,
    ):
        for _ in range(3):
            await at.post("acme")
        await relay.wait_messages(2)
        await at.post("zoo")
        before = [caught.mail_from for caught in await relay.wait_messages(3)]
        loop = asyncio.get_running_loop()
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + 5.0)
        after = [caught.mail_from for caught in await relay.wait_messages(4)]
        monkeypatch.undo()

    assert Counter(before) == {"noreply@acme.example": 2, "noreply@zoo.example": 1}
    assert after[3] == "noreply@acme.example"


async def test_tenants_of_one_profile_take_turns_on_the_wire(tmp_path: Path) -> None:
    """One message of zoo is second at the latest, though acme has forty before it."""
    async with ScriptedRelay() as relay:
        shared = profile(relay.port, "system", limits={"connections": 1})
        async with world(tmp_path, shared, Tenant(id="system", enabled=False)) as at:
            for number in range(40):
                await at.post("acme", f"acme{number}@example.test")
            await at.post("zoo", "zoo@example.test")
            await at.put(Tenant(id="system"))
            caught = await relay.wait_messages(41)

    assert ("zoo@example.test",) in [one.rcpt_tos for one in caught[:2]]


async def test_mail_of_a_profile_that_is_gone_is_held(tmp_path: Path) -> None:
    """A named profile is a demand: without it nothing leaves, though there is a default; with it again it goes."""
    async with ScriptedRelay() as relay:
        named, other = profile(relay.port, name="named", is_default=False), profile(relay.port)
        async with world(tmp_path, named, other) as at:
            await at.drop(named)
            mail = await at.post("acme", "named@example.test", profile="named")
            await at.post("acme", "other@example.test")
            await relay.wait_messages(1)
            held, waiting = at.dispatcher.holds(Flow("acme", "named")), await state(at, mail)
            await at.put(named)
            caught = await relay.wait_messages(2)

    assert (held, waiting) == (True, (State.QUEUED, 0))
    assert [one.rcpt_tos for one in caught] == [("other@example.test",), ("named@example.test",)]


async def test_claimed_mail_of_a_tenant_that_is_disabled_meanwhile_stays(tmp_path: Path) -> None:
    """What was claimed and not begun goes back when the tenant is disabled."""
    go = asyncio.Event()
    async with ScriptedRelay(features=LOCK_STEP) as relay:
        holding = relay.on("final", Hold(go), once=True)
        limits = {"connections": 1}
        async with world(tmp_path, profile(relay.port, limits=limits), profile(relay.port, "zoo")) as at:
            told = Told(at.outbox)
            await enable(at, yes=False)
            first, second = await at.post("acme"), await at.post("acme")
            await enable(at, yes=True)
            await relay.wait(lambda: holding.hits)
            await enable(at, yes=False)
            go.set()
            await told.wait("relayed")
            await at.post("zoo")
            await relay.wait_messages(2)
            states = [await state(at, first), await state(at, second)]

    assert states == [(State.RELAYED, 1), (State.QUEUED, 0)]


async def test_a_sender_that_is_not_allowed_any_more_is_held(tmp_path: Path) -> None:
    """Rights are asked again at sending: the mail is kept, and its history says why."""
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port)) as at:
        told = Told(at.outbox)
        made = notification(accepted_at=wall_clock(), profile=None)
        made = replace(made, content=replace(made.content, sender=Mailbox("boss@acme.example")))
        await at.outbox.accept([Submission(made, "{}")])
        await told.wait("held")
        row = await at.store.get(made.id)

    assert row is not None
    assert (row.status, relay.messages) == ("held", [])
    assert "sender_not_allowed" in row.events


async def test_templates_that_take_too_long_wait(tmp_path: Path) -> None:
    """What an organisation's templates may take is used up: its mail by them is held, and all other mail goes."""
    template = Template(tenant="acme", name="t", subject="by template", text="t")
    slow = Allowance(used=count(step=60.0).__next__)  # each takes a minute
    by_template = {"template": "t", "subject": None, "text": None, "data": {}}
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port), template) as at:
        at.directory.allowance = slow
        told = Told(at.outbox)
        posted = [await at.post("acme", content=by_template) for _ in range(2)]
        await told.wait("held")
        await at.post("acme")
        await told.wait("relayed", 2)
        rows = [await at.store.get(one) for one in posted]

    assert sorted(str(row.status) for row in rows if row is not None) == ["held", "relayed"]
    assert sum("template_time" in row.events for row in rows if row is not None) == 1


async def test_content_that_cannot_be_read_is_held(tmp_path: Path) -> None:
    """Newer code wrote it: it is kept, its history says why, and other mail of the profile goes."""
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port)) as at:
        told = Told(at.outbox)
        await enable(at, yes=False)
        newer = await at.post("acme")
        await at.post("acme")
        with closing(sqlite3.connect(tmp_path / "gateway.db")) as database, database:
            written = '{"subject": "s", "attachments": [["a.pdf", "application/pdf", "", false, null, "newer"]]}'
            database.execute(
                "UPDATE content SET body=? WHERE seq=(SELECT seq FROM notification WHERE id=?)", (written, newer)
            )
        await enable(at, yes=True)
        await told.wait("relayed")
        await told.wait("held")
        row = await at.store.get(newer)

    assert row is not None
    assert (row.status, len(relay.messages)) == ("held", 1)
    assert "unreadable" in row.events


async def test_mail_is_due_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by how long it was waited for: the machine may have slept, or its clock been set."""
    monkeypatch.setattr(dispatcher, "LONGEST_SLEEP", 0.05)
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port)) as at:
        told = Told(at.outbox)
        await at.post("acme", send_at=wall_clock() + HOUR, expires_at=wall_clock() + DAY)
        monkeypatch.setattr(at.outbox, "clock", lambda: wall_clock() + HOUR)
        await told.wait("relayed")


async def test_expired_mail_is_not_sent(tmp_path: Path) -> None:
    """Its time ended while it waited, claimed, for a session."""
    go = asyncio.Event()
    async with ScriptedRelay(features=LOCK_STEP) as relay:
        holding = relay.on("final", Hold(go), once=True)
        async with world(tmp_path, profile(relay.port, limits={"connections": 1})) as at:
            told = Told(at.outbox)
            await enable(at, yes=False)
            await at.post("acme", expires_at=wall_clock() + DAY)
            late = await at.post("acme", expires_at=wall_clock() + HOUR)
            await enable(at, yes=True)
            await relay.wait(lambda: holding.hits)
            at.outbox.clock = lambda: wall_clock() + 2 * HOUR
            go.set()
            await told.wait("expired")
            ended = await state(at, late)

    assert (ended, len(relay.messages)) == ((State.EXPIRED, 0), 1)


async def test_mail_that_is_cancelled_before_it_began_is_not_sent(tmp_path: Path) -> None:
    """It was claimed and waited for its turn."""
    assert await _cancelled_behind_another(tmp_path, LOCK_STEP) == ((State.CANCELLED, 0), 1)


async def test_mail_that_is_cancelled_after_its_envelope_left_is_not_sent(tmp_path: Path) -> None:
    """Its envelope travelled behind another message; its body never does."""
    assert await _cancelled_behind_another(tmp_path, Features()) == ((State.CANCELLED, 0), 1)


async def _cancelled_behind_another(tmp_path: Path, features: Features) -> tuple[tuple[State, int], int]:
    """Cancel the second of two while the first waits for its final reply."""
    go = asyncio.Event()
    async with ScriptedRelay(features=features) as relay:
        holding = relay.on("final", Hold(go), once=True)
        async with world(tmp_path, profile(relay.port, limits={"connections": 1})) as at:
            told = Told(at.outbox)
            await enable(at, yes=False)
            await at.post("acme")
            second = await at.post("acme")
            await enable(at, yes=True)
            await relay.wait(lambda: holding.hits)
            assert await at.outbox.cancel(second) is None
            go.set()
            await told.wait("cancelled")
            return await state(at, second), len(relay.messages)


async def test_a_reply_that_does_not_come_while_draining_is_unknown(tmp_path: Path) -> None:
    """Draining ends in time, and says honestly that nobody knows."""
    async with ScriptedRelay() as relay:
        holding = relay.on("final", Hold(asyncio.Event()))
        async with world(tmp_path, profile(relay.port)) as at:
            mail = await at.post("acme")
            await relay.wait(lambda: holding.hits)
            await at.dispatcher.drain(0.0)
            assert await state(at, mail) == (State.UNCERTAIN, 1)


async def test_a_drained_dispatcher_takes_no_new_mail(tmp_path: Path) -> None:
    """What is accepted while it drains stays in the outbox, unclaimed."""
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port)) as at:
        await at.dispatcher.drain(0.0)
        mail = await at.post("acme")

        assert (await state(at, mail), at.outbox.in_hand) == ((State.QUEUED, 0), 0)
    assert relay.sessions == []


async def test_a_profile_without_any_password_opens_no_session(tmp_path: Path) -> None:
    """Its reference leads nowhere yet: parked, and the relay is not even dialled."""
    missing = {"username": "app", "credential": {"source": "stored", "key": "relay-a"}}
    async with ScriptedRelay(users={"app": "right"}) as relay, world(tmp_path, profile(relay.port, auth=missing)) as at:
        mail = await at.post("acme")
        await at.until(("acme", "main"), "parked:secret_missing")
        waiting = await state(at, mail)

    assert (relay.sessions, waiting) == ([], (State.QUEUED, 0))


async def test_a_session_from_before_does_not_unpark_a_wrong_password(tmp_path: Path) -> None:
    """The password was changed at the relay: what an older session still gets through proves nothing about it."""
    go = asyncio.Event()
    async with ScriptedRelay(users={"app": "right"}) as relay:
        holding = relay.on("final", Hold(go), once=True)
        ours = profile(relay.port, auth=password(SEAL, "acme", "main", "right"))
        async with world(tmp_path, ours, profile(relay.port, "zoo")) as at:
            told = Told(at.outbox)
            await at.post("acme")
            await relay.wait(lambda: holding.hits)
            relay.users = {"app": "changed"}
            mail = await at.post("acme")
            await at.until(("acme", "main"), "parked:auth_failed")
            go.set()
            await told.wait("relayed")
            await at.post("zoo")
            await relay.wait_messages(2)
            parked, waiting = at.dispatcher.states()["acme", "main"], await state(at, mail)
        refused = [login for session in relay.sessions for login in session.logins if not login.accepted]

    assert (parked, waiting, len(refused)) == ("parked:auth_failed", (State.QUEUED, 0), 1)
