"""Signing in with secrets that change: fetched anew when refused, looked for again, and never tried too often."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.credentials.connections import made
from gateway.credentials.provider import Why
from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.outbox.states import State
from gateway.settings import CyberArkConnection
from tests.peers.cyberark_server import CyberArkServer
from tests.peers.smtp_server import ScriptedRelay
from tests.relay.world import profile, world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.relay.world import World

STORED = {"username": "app", "credential": {"source": "stored", "key": "relay-a"}}
PLACE = ("acme", "main")


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


async def test_the_password_before_goes_with_its_own_user_name(tmp_path: Path) -> None:
    """The store has a new account, the relay still the old one: its name and its password sign in together."""
    brought = {"source": "cyberark", "connection": "ccp", "key": "Safe=SMTP;Object=relay-a"}
    auth = {"credential": {**brought, "username_property": "UserName"}}
    async with (
        CyberArkServer() as store,
        ScriptedRelay(users={"old": "pw-old"}) as relay,
        world(tmp_path, profile(relay.port, auth=auth)) as at,
    ):
        settings = {"kind": "cyberark", "url": store.url, "app_id": "gateway", "allow": {"acme": ["Safe=SMTP"]}}
        connection = CyberArkConnection.model_validate(settings)
        at.sign_ins.credentials.connections = made({"ccp": connection}, {}, time.monotonic)
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
