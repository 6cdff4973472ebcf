"""A relay that has too many connections is given fewer, and one that is full is left alone for a while."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.peers.smtp_server import Close, Hold, Reply, ScriptedRelay
from tests.relay.world import profile, world

if TYPE_CHECKING:
    from pathlib import Path

GREETINGS = (
    "421 4.7.0 Too many concurrent SMTP connections",
    "421 4.4.5 Server busy, too many connections from your host.",
    "450 4.7.1 connection limit exceeded",
)


@pytest.mark.parametrize("greeting", GREETINGS)
async def test_too_many_connections_halve_the_cap(tmp_path: Path, greeting: str) -> None:
    """Four are allowed, the relay takes two: what is left goes by two, and the third is not tried again."""
    go = asyncio.Event()
    async with ScriptedRelay() as relay:
        relay.on("connect", Reply(greeting, then=Close()), nth=range(3, 100))
        relay.on("final", Hold(go))
        async with world(tmp_path, profile(relay.port, limits={"connections": 4})) as at:
            for _ in range(40):
                await at.post("acme")
            await relay.wait(lambda: len(relay.sessions) >= 3)
            go.set()
            await relay.wait_messages(40)
            states = at.dispatcher.states()

    assert len(relay.sessions) <= 4
    assert states == {("acme", "main"): "active"}


async def test_a_relay_that_is_full_is_left_alone(tmp_path: Path) -> None:
    """There is no fewer than one: when even that is too many nobody knocks for a while, and no mail is blamed."""
    async with ScriptedRelay() as relay:
        relay.on("connect", Reply(GREETINGS[0], then=Close()))
        async with world(tmp_path, profile(relay.port, limits={"connections": 1})) as at:
            mail = await at.post("acme")
            await at.until(("acme", "main"), "open")
            [recipient] = await at.recipients(mail)

    assert recipient.attempts == 0
    assert len(relay.sessions) == 1


async def test_too_many_connections_are_told_once(tmp_path: Path) -> None:
    """However many messages the relay puts off for it: one line until it is over."""
    async with ScriptedRelay() as relay:
        relay.on("mail", Reply("450 4.3.2 too many connections"), nth=range(1, 11))
        with capture_logs() as told:
            async with world(tmp_path, profile(relay.port, limits={"connections": 4})) as at:
                for _ in range(30):
                    await at.post("acme")
                await relay.wait_messages(20)

    assert [line["event"] for line in told].count("connections_halved") == 1


async def test_sessions_at_work_go_down_to_the_cap(tmp_path: Path) -> None:
    """432 to a message halves what is open too: of four sessions two carry on, and the others take their leave."""
    go = asyncio.Event()
    async with ScriptedRelay() as relay:
        relay.on("final", Hold(go), nth=range(1, 5))
        relay.on("mail", Reply("432 4.3.2 sender thread limit exceeded"), nth=5)
        limits = {"connections": 4, "messages_per_connection": 1000}
        async with world(tmp_path, profile(relay.port, limits=limits)) as at:
            for _ in range(300):
                await at.post("acme")
            await relay.wait(lambda: sum("DATA" in session.verbs for session in relay.sessions) == 4)
            go.set()
            await relay.wait(lambda: sum(not session.closed for session in relay.sessions) <= 2)
            left = 299 - len(relay.messages)
            await relay.wait_messages(299)

    assert left > 0
