"""A password that its source and its relay do not change at the same instant: the mail between the two changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.credentials.provider import Why
from gateway.smtp.outcome import Fault
from tests.peers.smtp_server import ScriptedRelay
from tests.relay.world import profile, world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.relay.world import World

LENT = {"username": "app", "credential": {"source": "file", "key": "relay-a"}}
PLACE = ("acme", "main")
ONE_EACH = {"messages_per_connection": 1}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The directory of local secrets, with a password that is about to be changed."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "relay-a").write_text("old\n")
    return folder


async def change(at: World, secrets: Path) -> None:
    """Change the password in its source, and let a person have it fetched anew."""
    (secrets / "relay-a").write_text("new\n")
    relays = await at.sign_ins.relays(at.directory.snapshot.profiles[PLACE], why=Why.PERSON)
    assert not isinstance(relays, Fault)
    assert {relay.login.secret.reveal() for relay in relays if relay.login and relay.login.secret} == {"old", "new"}


def logins(relay: ScriptedRelay) -> list[tuple[str, bool]]:
    """Which passwords were shown, and whether the relay took each."""
    return [(login.password, login.accepted) for session in relay.sessions for login in session.logins]


async def test_what_the_relay_took_last_is_tried_first(tmp_path: Path, secrets: Path) -> None:
    """The source has the new password, the relay still the old: each session signs in at its first try."""
    async with (
        ScriptedRelay(users={"app": "old"}) as relay,
        world(tmp_path, profile(relay.port, auth=LENT, limits=ONE_EACH), secrets=secrets) as at,
    ):
        await at.post("acme")
        await relay.wait_messages(1)
        await change(at, secrets)
        for number in range(2, 8):
            await at.post("acme")
            await relay.wait_messages(number)
        states = at.dispatcher.states()

    assert logins(relay) == [("old", True)] * 7
    assert states == {PLACE: "active"}


async def test_a_session_that_stands_is_used_on(tmp_path: Path, secrets: Path) -> None:
    """A new password in the source is no reason to leave a session that was opened with the old one."""
    async with (
        ScriptedRelay(users={"app": "old"}) as relay,
        world(tmp_path, profile(relay.port, auth=LENT, limits={"connections": 1}), secrets=secrets) as at,
    ):
        await at.post("acme")
        await relay.wait_messages(1)
        await change(at, secrets)
        for number in range(2, 8):
            await at.carried()
            await at.post("acme")
            await relay.wait_messages(number)

    assert logins(relay) == [("old", True)]


async def test_the_relay_changes_too(tmp_path: Path, secrets: Path) -> None:
    """Then the old password is refused once at most, however many sessions are opened, and mail goes on by the new."""
    async with (
        ScriptedRelay(users={"app": "old"}) as relay,
        world(tmp_path, profile(relay.port, auth=LENT, limits=ONE_EACH), secrets=secrets) as at,
    ):
        await at.post("acme")
        await relay.wait_messages(1)
        await change(at, secrets)
        await at.post("acme")
        await relay.wait_messages(2)
        relay.users = {"app": "new"}
        for _ in range(20):
            await at.post("acme")
        await relay.wait_messages(22)
        states = at.dispatcher.states()
    shown = logins(relay)

    assert shown.count(("old", False)) <= 1
    assert shown.count(("new", True)) == 20
    assert set(shown) <= {("old", True), ("old", False), ("new", True)}
    assert states == {PLACE: "active"}
