"""A profile that cannot send has its mail carried by another of its list, and takes it back by itself."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.directory.shapes import Link, Pause, Tenant
from gateway.message.address import Mailbox
from gateway.outbox.states import State
from gateway.relay import limits, routes
from tests.peers.smtp_server import Hold, ScriptedRelay
from tests.relay.test_sending import Told
from tests.relay.world import SEAL, password, profile, world

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from gateway.directory.shapes import Profile
    from tests.relay.world import World

PLACE = ("acme", "main")
STORED = {"username": "app", "credential": {"source": "stored", "key": "relay-a"}}


def backup(port: int, name: str = "backup", **more: object) -> Profile:
    """A profile that is nobody's default."""
    return profile(port, name=name, is_default=False, **more)


async def history(at: World, mail: str) -> list[tuple[str, str]]:
    """What came of a notification's attempts, as (event, detail)."""
    row = await at.store.get(mail)
    assert row is not None
    told = [tuple(json.loads(line)[1:3]) for line in row.events.splitlines()]
    return [(event, detail) for event, detail in told if event != "claimed"]


async def finished(at: World, mail: str) -> None:
    """Wait until a notification is final."""
    told, others = Told(at.outbox), 0
    while [one.state for one in await at.recipients(mail)] != [State.RELAYED]:
        others += 1  # it was another mail so far
        await told.wait("relayed", others)


def away(**more: object) -> Profile:
    """The default profile, without a password: it parks as soon as there is mail."""
    return profile(25, auth=STORED, **more)


async def closed_port() -> int:
    """A port at which nobody listens."""
    async with ScriptedRelay() as relay:
        return relay.port


async def test_a_parked_profile_is_stood_in_for(tmp_path: Path) -> None:
    """Its password is wrong, the backup's is right: all mail goes, each with the reason in its history, none blamed."""
    async with ScriptedRelay(users={"app": "right"}) as relay:
        main = profile(relay.port, auth=password(SEAL, "acme", "main", "wrong"), failover=["backup"])
        other = backup(relay.port, auth=password(SEAL, "acme", "backup", "right"))
        async with world(tmp_path, main, other) as at:
            mails = [await at.post("acme") for _ in range(20)]
            await relay.wait_messages(20)
            for mail in mails:
                await finished(at, mail)
            told = [await history(at, mail) for mail in mails]
            states = at.dispatcher.states()

    assert states == {PLACE: "parked:auth_failed", ("acme", "backup"): "active"}
    assert {tuple(event for event, _ in one) for one in told} == {("failover", "relayed")}
    assert {one[0][1] for one in told} == {"backup instead of main"}


async def test_an_open_breaker_is_reason_enough(tmp_path: Path) -> None:
    """Nobody answers at the relay: the mail that waits goes by the backup, without an attempt on its account."""
    port = await closed_port()
    async with ScriptedRelay() as relay, world(tmp_path, profile(port, failover=["backup"]), backup(relay.port)) as at:
        mail = await at.post("acme")
        await relay.wait_messages(1)
        await finished(at, mail)
        [recipient] = await at.recipients(mail)

    assert (recipient.state, recipient.attempts, recipient.by) == (State.RELAYED, 1, "acme/backup")


async def test_a_backup_that_comes_later_stands_in_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mail waits for nobody to look again."""
    monkeypatch.setattr(routes, "LEND_AGAIN", 3600.0)
    async with ScriptedRelay() as relay, world(tmp_path, away(failover=["backup"])) as at:
        await at.post("acme")
        await at.until(PLACE, "parked:secret_missing")
        await at.carried()
        await at.put(backup(relay.port))
        await relay.wait_messages(1)


async def test_it_returns_by_itself_once_the_secret_is_another(tmp_path: Path) -> None:
    """With the right password stored the profile carries its own mail again, and nothing says otherwise."""
    async with ScriptedRelay(users={"app": "right"}) as own, ScriptedRelay() as other:
        main = profile(own.port, auth=STORED, failover=["backup"])
        async with world(tmp_path, main, backup(other.port)) as at:
            await at.post("acme")
            await other.wait_messages(1)
            await at.directory.put_secret(OPERATOR, "acme", "relay-a", Secret("right"))
            mail = await at.post("acme")
            await own.wait_messages(1)
            await finished(at, mail)
            told = await history(at, mail)

    assert [event for event, _ in told] == ["relayed"]
    assert len(other.messages) == 1


async def test_it_returns_by_itself_once_the_relay_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the breaker's rest one message tries the way; the others do not wait for it."""
    monkeypatch.setattr(limits, "FIRST_REST", 0.2)
    monkeypatch.setattr(limits, "LONGEST_REST", 0.2)
    async with ScriptedRelay() as own, ScriptedRelay() as other:
        await own.stop()
        async with world(tmp_path, profile(own.port, failover=["backup"]), backup(other.port)) as at:
            await at.post("acme")
            await other.wait_messages(1)
            await own.start()
            while not own.messages:
                await finished(at, await at.post("acme"))
            carried = len(other.messages)
            for _ in range(10):
                await at.post("acme")
            await own.wait_messages(11)
            states = at.dispatcher.states()

    assert len(other.messages) == carried
    assert states[PLACE] == "active"


async def test_only_one_message_is_risked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the message that proves the way hangs, all others go by the backup."""
    monkeypatch.setattr(limits, "FIRST_REST", 0.2)
    never = asyncio.Event()
    async with ScriptedRelay() as own, ScriptedRelay() as other:
        await own.stop()
        own.on("mail", Hold(never))
        async with world(tmp_path, profile(own.port, failover=["backup"]), backup(other.port)) as at:
            await at.post("acme")
            await other.wait_messages(1)
            await own.start()
            risked = asyncio.ensure_future(own.wait(lambda: own.sessions))
            while not risked.done():
                sent = asyncio.ensure_future(other.wait_messages(len(other.messages) + 1))
                await at.post("acme")
                await asyncio.wait((risked, sent), return_when=asyncio.FIRST_COMPLETED)
                sent.cancel()
            await other.wait_messages(len(other.messages))
            carried = len(other.messages)
            for _ in range(20):
                await at.post("acme")
            await other.wait_messages(carried + 20)
            never.set()

    assert len(own.sessions) == 1


async def test_the_list_is_gone_through_in_order(tmp_path: Path) -> None:
    """The first that is in order carries: not one that is parked, paused, disabled, or unknown."""
    async with ScriptedRelay(users={"app": "right"}) as relay:
        main = away(failover=["gone", "off", "paused", "parked", "good"])
        items = (
            main,
            backup(relay.port, "off", enabled=False, **{"from": "off@acme.example"}),
            backup(relay.port, "paused", **{"from": "paused@acme.example"}),
            Pause(tenant="acme", profile="paused"),
            backup(relay.port, "parked", auth=password(SEAL, "acme", "parked", "wrong")),
            backup(relay.port, "good", **{"from": "good@acme.example"}),
        )
        async with world(tmp_path, *items) as at:
            await at.post("acme", profile="parked")
            await at.until(("acme", "parked"), "parked:auth_failed")
            await at.post("acme")
            [caught] = await relay.wait_messages(1)

    assert caught.mail_from == "good@acme.example"


async def test_a_paused_profile_lends_nothing(tmp_path: Path) -> None:
    """A person has stopped it: its mail waits for that person, whatever stands in its list."""
    async with ScriptedRelay() as relay:
        main, other = away(failover=["backup"]), backup(relay.port)
        async with world(tmp_path, main, other, Pause(tenant="acme", profile="main")) as at:
            waiting = await at.post("acme")
            await at.post("acme", profile="backup")
            await relay.wait_messages(1)
            [recipient] = await at.recipients(waiting)

    assert recipient.state is State.QUEUED
    assert len(relay.messages) == 1


async def test_without_anybody_the_mail_waits(tmp_path: Path) -> None:
    """All of the list are away as well: nothing is lost or blamed, and it goes once one of them is back."""
    port = await closed_port()
    async with (
        ScriptedRelay(users={"app": "right"}) as relay,
        world(tmp_path, profile(port, failover=["backup"]), backup(relay.port, auth=STORED)) as at,
    ):
        mail = await at.post("acme")
        await at.post("acme", profile="backup")
        await at.until(("acme", "backup"), "parked:secret_missing")
        await at.until(PLACE, "open")
        [recipient] = await at.recipients(mail)
        await at.directory.put_secret(OPERATOR, "acme", "relay-a", Secret("right"))
        await relay.wait_messages(2)

    assert (recipient.state, recipient.attempts) == (State.QUEUED, 0)


async def test_each_profile_stands_for_its_own_senders(tmp_path: Path) -> None:
    """A sender that the backup does not let through is not sent by it under another name: the message waits."""
    async with ScriptedRelay() as relay:
        main = away(failover=["backup"], allowed_senders=["*@acme.example"])
        async with world(tmp_path, main, backup(relay.port)) as at:
            held = Told(at.outbox)
            await at.post("acme", sender=Mailbox("boss@acme.example"))
            await held.wait("held")

    assert relay.messages == []


async def test_a_childs_mail_takes_the_owners_way_out(tmp_path: Path) -> None:
    """An inherited profile fails over to its owner's other one, which the child neither has nor sees."""
    async with ScriptedRelay() as relay:
        main = away(failover=["backup"])
        child = Tenant(id="kid", parent="acme")
        link = Link(tenant="acme", profile="main", child="kid", is_default=True)
        async with world(tmp_path, main, backup(relay.port), child, link) as at:
            mail = await at.post("kid")
            await relay.wait_messages(1)
            await finished(at, mail)
            [recipient] = await at.recipients(mail)

    assert recipient.by == "acme/backup"


async def test_what_is_lent_is_not_lent_on(tmp_path: Path) -> None:
    """A backup that the owner itself inherits carries the owner's mail, and not that of the owner's children."""
    async with ScriptedRelay() as relay:
        items = (
            away(failover=["spare"]),
            profile(relay.port, "zoo", name="spare", is_default=False),
            Tenant(id="acme", parent="zoo"),
            Link(tenant="zoo", profile="spare", child="acme"),
            Tenant(id="kid", parent="acme"),
            Link(tenant="acme", profile="main", child="kid", is_default=True),
        )
        async with world(tmp_path, *items) as at:
            waiting = await at.post("kid")
            await at.until(PLACE, "parked:secret_missing")
            mail = await at.post("acme")
            await relay.wait_messages(1)
            await finished(at, mail)
            [recipient] = await at.recipients(waiting)

    assert len(relay.messages) == 1
    assert recipient.state is State.QUEUED


async def test_a_change_of_the_list_is_heeded_at_once(tmp_path: Path) -> None:
    """Mail that waits without a way out leaves when the profile gets one."""
    async with ScriptedRelay() as relay, world(tmp_path, away(), backup(relay.port)) as at:
        await at.post("acme")
        await at.until(PLACE, "parked:secret_missing")
        await at.put(away(failover=["backup"]))
        await relay.wait_messages(1)
