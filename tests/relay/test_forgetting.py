"""What people can name at will is not remembered for ever: hosts and ports of profiles, and the users of their tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.credentials.secret import Secret
from gateway.relay import guard
from gateway.relay.guard import Guard
from gateway.smtp.dial import Dialer
from gateway.smtp.sasl import Login, Method
from gateway.smtp.session import Opener, Relay, Security
from gateway.store.sqlite import SqliteStore
from tests.peers.smtp_server import ScriptedRelay
from tests.relay.world import EGRESS, IN_CLEAR, profile, world

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

EDITS = 10
ACCOUNTS = 5


async def test_a_breaker_goes_with_the_last_lane_that_has_it(tmp_path: Path) -> None:
    """However often a profile with mail is given another port at which nobody listens, one breaker is left."""
    async with world(tmp_path, profile(1)) as here:
        await here.post("acme")
        for port in range(2, EDITS):
            await here.put(profile(port))
            async with asyncio.timeout(10):
                while ("acme", "main") not in here.dispatcher.states():
                    await asyncio.sleep(0.01)
        breakers = list(here.dispatcher._routes._breakers)

    assert ("acme", "127.0.0.1", EDITS - 1) in breakers
    assert len(breakers) <= 2  # the worker of the lane before may still be at its end


async def test_a_breaker_outlives_an_edit_that_leaves_host_and_port(tmp_path: Path) -> None:
    """While mail waits for it, an open breaker stays open: whoever edits a footnote does not hammer a relay."""
    async with world(tmp_path, profile(1)) as here:
        await here.post("acme")
        await here.until(("acme", "main"), "open")
        await here.put(profile(1, request_read_receipt=True))
        state = here.dispatcher.states()[("acme", "main")]

    assert state == "open"


async def test_a_deleted_profile_leaves_no_rate(tmp_path: Path) -> None:
    """Nor does asking for the rate of one that never was."""
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port)) as here:
        await here.post("acme")
        await relay.wait_messages(1)
        revision, entries = await here.store.directory()
        gone = [entry for entry in entries if entry.kind == "profile" and entry.tenant == "acme"]
        await here.store.change_directory(revision, [], gone)
        await here.directory.load()
        here.dispatcher.left(("acme", "never"))
        rates = dict(here.dispatcher._routes._rates)

    assert not [place for place in rates if place[0] == "acme"]


async def test_the_guard_remembers_a_bounded_number_of_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all users that somebody tried, with or without success, or had forgiven, those tried last."""
    monkeypatch.setattr(guard, "MOST", ACCOUNTS)
    users = {f"user-{number}": "right" for number in range(3 * ACCOUNTS)}
    async with ScriptedRelay(users=users) as relay, SqliteStore(tmp_path / "gateway.db") as store:
        guarding, opener = Guard(store), Opener(Dialer(EGRESS), "gateway.test", plaintext_auth=IN_CLEAR)
        for user in users:
            guarding.forgive("acme", "127.0.0.1", f"other-{user}")
            login = Login(Method.PLAIN, user, Secret("right"))
            opened = await guarding.open("acme", Relay("127.0.0.1", relay.port, Security.NONE, login=login), opener)
            opened.abort()

    assert [len(table) for table in (guarding._accepted, guarding._forgiven, guarding._unsettled)] == [ACCOUNTS] * 3
    assert guarding._accepted[guard._sign_in("acme", "127.0.0.1", list(users)[-1])]
