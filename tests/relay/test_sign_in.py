"""Signing in with secrets that change: fetched anew when refused, looked for again, and never tried too often."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from gateway.credentials.connections import made
from gateway.credentials.provider import Why
from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.outbox.states import State
from gateway.relay import dispatcher, tester
from gateway.relay.guard import MOST_REFUSALS, WITHIN, _sign_in
from gateway.settings import CyberArkConnection
from gateway.smtp.outcome import Fault, Phase
from gateway.smtp.probe import Trial
from gateway.store.rows import Ending
from tests.credentials.contract import How
from tests.peers.cyberark_server import CyberArkServer
from tests.peers.smtp_server import ScriptedRelay
from tests.relay.world import profile, world

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.relay.world import World

STORED = {"username": "app", "credential": {"source": "stored", "key": "relay-a"}}
BROUGHT = {"source": "cyberark", "connection": "ccp", "key": "Safe=SMTP;Object=relay-a"}
PLACE = ("acme", "main")


def connect(at: World, store: CyberArkServer) -> None:
    """Let acme use a store."""
    settings = {"kind": "cyberark", "url": store.url, "app_id": "gateway", "allow": {"acme": ["Safe=SMTP"]}}
    connection = CyberArkConnection.model_validate(settings)
    at.sign_ins.credentials.connections = made({"ccp": connection}, {}, time.monotonic)


async def keep(at: World, value: str) -> None:
    """Put a version of the tenant's secret into the built-in store."""
    await at.directory.put_secret(OPERATOR, "acme", "relay-a", Secret(value))


async def test_a_stored_secret_signs_in(tmp_path: Path) -> None:
    """By its name, as the version that is there when the session is opened."""
    async with ScriptedRelay(users={"app": "right"}) as relay, world(tmp_path, profile(relay.port, auth=STORED)) as at:
        await keep(at, "right")
        await at.post("acme")
        await relay.wait_messages(1)


async def test_a_profile_goes_on_once_its_secret_is_there(tmp_path: Path) -> None:
    """Parked without it; the mail waits unblamed and leaves by itself."""
    async with ScriptedRelay(users={"app": "right"}) as relay, world(tmp_path, profile(relay.port, auth=STORED)) as at:
        mail = await at.post("acme")
        await at.until(PLACE, "parked:secret_missing")
        states = {(one.state, one.attempts) for one in await at.recipients(mail)}
        await keep(at, "right")
        await relay.wait_messages(1)

    assert states == {(State.QUEUED, 0)}


async def test_a_refused_secret_is_tried_again_when_it_is_another(tmp_path: Path) -> None:
    """One wrong login, none while nothing changes, and one right one with the next version."""
    async with ScriptedRelay(users={"app": "right"}) as relay, world(tmp_path, profile(relay.port, auth=STORED)) as at:
        await keep(at, "wrong")
        for _ in range(5):
            await at.post("acme")
        await at.until(PLACE, "parked:auth_failed")
        await keep(at, "right")
        await relay.wait_messages(5)
    logins = [login.accepted for session in relay.sessions for login in session.logins]

    assert (logins.count(False), logins[-1]) == (1, True)


async def test_the_same_secret_again_wakes_nobody(tmp_path: Path) -> None:
    """A new version with the old value is not tried."""
    async with ScriptedRelay(users={"app": "right"}) as relay, world(tmp_path, profile(relay.port, auth=STORED)) as at:
        await keep(at, "wrong")
        await at.post("acme")
        await at.until(PLACE, "parked:auth_failed")
        await keep(at, "wrong")
        await keep(at, "right")
        await relay.wait_messages(1)
    refused = [login for session in relay.sessions for login in session.logins if not login.accepted]

    assert len(refused) == 1


async def test_a_person_lets_a_profile_be_tested_again_that_has_sent_nothing(tmp_path: Path) -> None:
    """Three tests were refused, no fourth is made; after a word from a person one is, and the next is not."""
    async with ScriptedRelay(users={"app": "right"}) as relay, world(tmp_path, profile(relay.port, auth=STORED)) as at:
        await keep(at, "wrong")
        kept = at.directory.snapshot.profiles[PLACE]

        async def tried() -> int:
            relays = await at.sign_ins.relays(kept)
            assert not isinstance(relays, Fault)
            assert isinstance(await at.sign_ins.open(kept, relays), Fault)
            return sum(len(session.logins) for session in relay.sessions)

        before = [await tried() for _ in range(4)]
        await at.dispatcher.resume(PLACE)
        after = [await tried() for _ in range(2)]

    assert (before, after) == ([1, 2, 3, 3], [4, 4])


async def test_a_store_that_is_away_keeps_nobody_else_from_the_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its profile stands, and is told to stand when that lasts; another of the owner's sends; once it is back mail goes."""
    monkeypatch.setattr(dispatcher, "IDLE", 0.2)
    monkeypatch.setattr(dispatcher, "LOOK_AGAIN_LAPS", 1)
    async with (
        CyberArkServer() as store,
        ScriptedRelay(users={"app": "right"}) as relay,
        world(
            tmp_path,
            profile(relay.port, auth={"username": "app", "credential": BROUGHT}),
            profile(relay.port, name="alerts", is_default=False),
        ) as at,
    ):
        told: list[tuple[str, str]] = []
        at.dispatcher.on_parked = lambda _, reason: told.append(("parked", reason))
        at.dispatcher.on_unparked = lambda _, reason: told.append(("unparked", reason))
        connect(at, store)
        store.misbehave(How.BROKEN)
        await at.post("acme")
        await at.until(PLACE, "parked:secret_unavailable")
        await at.post("acme", profile="alerts")
        await relay.wait_messages(1)
        states = at.dispatcher.states()
        async with asyncio.timeout(10):
            while not told:
                await asyncio.sleep(0.01)
        await store.put("relay-a", {"password": "right"})
        store.misbehave(None)
        await relay.wait_messages(2, timeout=30)
        await at.carried()
        await at.sign_ins.credentials.connections.close()

    assert states == {PLACE: "parked:secret_unavailable", ("acme", "alerts"): "active"}
    assert told == [("parked", "secret_unavailable"), ("unparked", "secret_unavailable")]


async def use_up(at: World) -> None:
    """Have somebody else's logins refused until nobody may try the account."""
    theirs = _sign_in("zoo", "127.0.0.1", "app")
    for ticket in range(MOST_REFUSALS):
        await at.store.end_login(theirs, ticket, Ending.REFUSED, forget_at=at.store.clock() + WITHIN)


async def forget(at: World) -> None:
    """Let it be half an hour later."""
    theirs = _sign_in("zoo", "127.0.0.1", "app")
    for ticket in range(MOST_REFUSALS):
        await at.store.end_login(theirs, ticket, Ending.UNTRIED, forget_at=0)


async def test_a_password_that_was_not_tried_is_not_taken_for_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held back for what others got wrong, the mail leaves as soon as the account may be tried again."""
    monkeypatch.setattr(dispatcher, "IDLE", 0.2)
    monkeypatch.setattr(dispatcher, "LOOK_AGAIN_LAPS", 1)
    async with ScriptedRelay(users={"app": "right"}) as relay, world(tmp_path, profile(relay.port, auth=STORED)) as at:
        await keep(at, "right")
        await use_up(at)
        await at.post("acme")
        await at.until(PLACE, "parked:auth_failed")
        before = len(relay.sessions)
        await forget(at)
        await relay.wait_messages(1)

    assert before == 0


async def test_a_person_lets_a_profile_go_on_that_was_held_back(tmp_path: Path) -> None:
    """Also where nobody knows who would have signed in but its secret, and it never came to that."""
    auth = {"credential": {**BROUGHT, "username_property": "UserName"}}
    async with (
        CyberArkServer() as store,
        ScriptedRelay(users={"app": "right"}) as relay,
        world(tmp_path, profile(relay.port, auth=auth)) as at,
    ):
        connect(at, store)
        await store.put("relay-a", {"password": "right", "UserName": "app"})
        await use_up(at)
        await at.post("acme")
        await at.until(PLACE, "parked:auth_failed")
        before = len(relay.sessions)
        await at.dispatcher.resume(PLACE)
        await relay.wait_messages(1)
        await at.sign_ins.credentials.connections.close()

    assert before == 0


async def test_a_test_that_meets_what_nobody_foresaw_is_told_all_the_same(tmp_path: Path) -> None:
    """The second look at the relay meets it too, and then there is none."""
    async with ScriptedRelay() as relay, world(tmp_path) as at:
        at.sign_ins.opener = replace(
            at.sign_ins.opener, ehlo_name=cast("str", 7)
        )  # no name, and no fault that is known
        report = await tester.Tester(at.sign_ins).test(
            profile(relay.port), Trial("ann@example.test"), lambda _step: None
        )

    assert (report.failed, report.advice and report.advice.code) == (Phase.GREETING, "protocol")


async def test_the_password_before_goes_with_its_own_user_name(tmp_path: Path) -> None:
    """The store has a new account, the relay still the old one: its name and its password sign in together."""
    auth = {"credential": {**BROUGHT, "username_property": "UserName"}}
    async with (
        CyberArkServer() as store,
        ScriptedRelay(users={"old": "pw-old"}) as relay,
        world(tmp_path, profile(relay.port, auth=auth)) as at,
    ):
        connect(at, store)
        kept = at.directory.snapshot.profiles[PLACE]
        for account in ("old", "new"):
            await store.put("relay-a", {"password": f"pw-{account}", "UserName": account})
            await at.sign_ins.relays(kept, why=Why.PERSON)
        await at.post("acme")
        await relay.wait_messages(1)
        await at.sign_ins.credentials.connections.close()
    shown = {(login.username, login.password) for session in relay.sessions for login in session.logins}

    assert ("old", "pw-old") in shown
    assert shown <= {("old", "pw-old"), ("new", "pw-new")}


async def test_a_file_that_changed_is_read_when_the_relay_refuses(tmp_path: Path) -> None:
    """The secret was rotated in its source: one refusal, then the new value, and no mail has noticed."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "relay-a").write_text("old\n")
    lent = {"username": "app", "credential": {"source": "file", "key": "relay-a"}}
    async with (
        ScriptedRelay(users={"app": "old"}) as relay,
        world(tmp_path, profile(relay.port, auth=lent, limits={"messages_per_connection": 1}), secrets=secrets) as at,
    ):
        await at.post("acme")
        await relay.wait_messages(1)
        relay.users = {"app": "new"}
        (secrets / "relay-a").write_text("new\n")
        await at.post("acme")
        await relay.wait_messages(2)
    refused = [login for session in relay.sessions for login in session.logins if not login.accepted]

    assert len(refused) == 1
