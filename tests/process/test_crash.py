"""SIGKILL at every named place and at random ones: what was answered with 202 arrives; copies only in the window."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import pytest

from gateway.observe.failpoint import PLACES
from gateway.relay.dispatcher import UNCOMMITTED
from tests.process.crash import Account, Load, settled
from tests.process.daemon import DaemonDiedError, plain
from tests.process.engines import NEWEST, SQLITE, on_both_engines

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.peers.smtp_server import ScriptedRelay
    from tests.process.daemon import Daemon

    Install = Callable[..., Daemon]

PROOF = "GATEWAY_PROOF" in os.environ
PER_CONNECTION = 1 + UNCOMMITTED  # one message whose dot has left, and those whose results are being committed
CONNECTIONS = 4
BODIES = {"smtp.body_written": {"text": "x\n" * 60_000}}
# The log is folded back only when it is long, or at rest after a thousand pages; give it enough to fold.
OF_SQLITE = {"maint.checkpoint"}
# Mail does not pass those of copies: `test_backup` does.
ON_THE_WAY = [place for place in PLACES if not place.startswith(("backup.", "restore.", "life."))]
BULK = {"maint.checkpoint": {"text": "y" * 900 + "\n" + "y\n" * 20_000}}


@pytest.mark.parametrize("nth", [1, 5, 17] if PROOF else [3])
@pytest.mark.parametrize(
    ("engine", "place"),
    [(SQLITE, place) for place in ON_THE_WAY] + [(NEWEST, place) for place in ON_THE_WAY if place not in OF_SQLITE],
    indirect=["engine"],
)
async def test_a_kill_at_a_named_place_loses_nothing(
    install: Install, relay: ScriptedRelay, place: str, nth: int
) -> None:
    """The daemon dies there under load and is started again: nothing is lost, copies only between dot and commit."""
    if place == "secret.fetched":
        nth = 1
    daemon = install(profile_with_password(relay) if place == "secret.fetched" else plain(relay.port))
    load = Load([daemon], BODIES.get(place) or BULK.get(place) or {})
    posting = asyncio.ensure_future(load.run())
    code = await _life(daemon, {"GATEWAY_FAILPOINT": f"{place}:{nth}"})
    await daemon.start()
    load.stop()
    await posting
    await settled(daemon, load.acknowledged)
    account = Account.of(relay.ledger_path)  # type: ignore[arg-type]

    assert code == -9
    assert load.acknowledged or place.startswith(("http", "accept", "secret"))
    assert account.missing(load.acknowledged) == set()
    assert account.duplicates <= CONNECTIONS * PER_CONNECTION


@on_both_engines
async def test_kills_at_random_moments_lose_nothing(install: Install, relay: ScriptedRelay) -> None:
    """Killed again and again under load: every 202 arrives, and copies stay within what was in flight."""
    kills = 100 if PROOF else 5
    dice = random.Random(os.environ.get("GATEWAY_SEED", "7"))
    daemon = install(plain(relay.port, connections=CONNECTIONS))
    load = Load([daemon])
    posting = asyncio.ensure_future(load.run())
    for _ in range(kills):
        await daemon.start()
        seen = len(relay.messages)
        await relay.wait(lambda seen=seen: len(relay.messages) >= seen + dice.randint(1, 300), timeout=60)
        await daemon.kill()
    await daemon.start()
    load.stop()
    await posting
    await settled(daemon, load.acknowledged)
    account = Account.of(relay.ledger_path)  # type: ignore[arg-type]
    print(f"\n{kills} kills, {len(load.acknowledged)} acknowledged, {account.duplicates} copies too many")

    assert account.missing(load.acknowledged) == set()
    assert account.duplicates <= kills * CONNECTIONS * PER_CONNECTION


@on_both_engines
async def test_a_notification_that_must_not_go_twice_never_does(install: Install, relay: ScriptedRelay) -> None:
    """With on_ambiguous=fail a kill in the window leaves one copy at most, and the outcome is told as unknown."""
    kills = 30 if PROOF else 2
    daemon = install(plain(relay.port, connections=1))
    load = Load([daemon], {"on_ambiguous": "fail"})
    posting = asyncio.ensure_future(load.run())
    for n in range(kills):
        place = "smtp.after_terminator" if n % 2 else "smtp.reply_read"
        await _life(daemon, {"GATEWAY_FAILPOINT": f"{place}:{n + 2}"})
    await daemon.start()
    load.stop()
    await posting
    unknown = 0
    async with daemon.client() as client:
        for notification_id in load.acknowledged:
            told = await client.until(notification_id, "relayed", "failed")
            unknown += any(event["event"] == "outcome_unknown" for event in told["events"])
    account = Account.of(relay.ledger_path)  # type: ignore[arg-type]
    print(f"\n{kills} kills in the window, {len(load.acknowledged)} acknowledged, {unknown} outcomes unknown")

    assert account.duplicates == 0
    assert unknown <= kills


async def _life(daemon: Daemon, environ: dict[str, str]) -> int:
    """Start the daemon, let it take load, and wait until it dies of its own; the exit code."""
    try:
        await daemon.start(environ=environ)
    except DaemonDiedError as died:
        return int(died.args[0])
    return await daemon.wait()


def profile_with_password(relay: ScriptedRelay) -> str:
    """Give a profile that has to fetch a secret."""
    auth = 'auth = {username = "app", credential = {source = "plaintext", value = "s3cret"}}'
    return f"{plain(relay.port)}\n{auth}"
