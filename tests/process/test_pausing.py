"""Pausing everything: mail is accepted and kept, what is on the wire ends, and resuming lets go at once."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

from tests.peers.smtp_server import Hold
from tests.process.cluster import Lane, cluster, until
from tests.process.daemon import mail, plain
from tests.process.engines import on_both_engines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.peers.postgresql import Postgresql
    from tests.peers.smtp_server import ScriptedRelay
    from tests.process.daemon import Daemon

    Install = Callable[..., Daemon]

AT_ONCE = 2.0  # seconds
MAIN = "/v1/tenants/acme/profiles/main"


@on_both_engines
async def test_mail_is_kept_until_it_is_resumed(install: Install, relay: ScriptedRelay) -> None:
    """202 meanwhile, `held` and on no wire, also after a restart; a profile's own pause is another one."""
    daemon = await install(plain(relay.port)).start()
    async with daemon.client() as client:
        await daemon.ask("POST", "/v1/queue/pause")
        posted = [await client.post(mail(str(number))) for number in range(20)]
        _, queue = await daemon.ask("GET", "/v1/queue")
        await daemon.stop()
        await daemon.start()
        shown = {(await client.show(answer["id"]))["status"] for _, answer, _ in posted}
        await daemon.ask("POST", f"{MAIN}/pause")
        await daemon.ask("POST", "/v1/queue/resume")
        still = {(await client.show(answer["id"]))["status"] for _, answer, _ in posted}
        sent = len(relay.messages)
        await daemon.ask("POST", f"{MAIN}/resume")
        took = await until(lambda: len(relay.messages) == len(posted), 10)

    assert {status for status, _, _ in posted} == {202}
    assert [(one["state"], one["ready"]) for one in queue["items"]] == [("paused", 20)]
    assert (shown, still, sent) == ({"held"}, {"held"}, 0)
    assert took < AT_ONCE


async def test_a_resumed_profile_stays_paused_with_all_others(install: Install, relay: ScriptedRelay) -> None:
    """To resume one profile lets nothing go while everything is paused."""
    daemon = await install(plain(relay.port)).start()
    async with daemon.client() as client:
        await daemon.ask("POST", f"{MAIN}/pause")
        await daemon.ask("POST", "/v1/queue/pause")
        _, answer, _ = await client.post(mail("hello"))
        await daemon.ask("POST", f"{MAIN}/resume")
        held = (await client.show(answer["id"]))["status"]
        sent = len(relay.messages)
        began = time.monotonic()
        await daemon.ask("POST", "/v1/queue/resume")
        await client.until(answer["id"], "relayed")

    assert (held, sent) == ("held", 0)
    assert time.monotonic() - began < AT_ONCE


async def test_relays_are_known_by_what_they_did(install: Install, relay: ScriptedRelay) -> None:
    """The doctor tells how a relay stands, and since when it has proven that it works: never, and then just now.

    A message proves it as well as a sign-in does.
    """
    daemon = await install(plain(relay.port)).start()
    async with daemon.client() as client:
        await daemon.ask("POST", "/v1/queue/pause")
        _, answer, _ = await client.post(mail("hello"))
        _, before = await daemon.ask("GET", "/v1/doctor")
        await daemon.ask("POST", "/v1/queue/resume")
        await client.until(answer["id"], "relayed")
        _, after = await daemon.ask("GET", "/v1/doctor")

        async def aged() -> bool:
            return bool((await daemon.ask("GET", "/v1/doctor"))[1]["relays"][0]["proven_seconds"] >= AT_ONCE)

        await until(aged, 10)
        _, answer, _ = await client.post(mail("again"))
        await client.until(answer["id"], "relayed")
        _, again = await daemon.ask("GET", "/v1/doctor")

    where = {"host": relay.host, "port": relay.port}
    assert before["relays"] == [{**where, "states": {"paused": 1}, "proven_seconds": None}]
    assert after["relays"][0].pop("proven_seconds") < AT_ONCE
    assert after["relays"] == [{**where, "states": {"active": 1}}]
    assert again["relays"][0]["proven_seconds"] < AT_ONCE
    assert len(relay.sessions) == 1


async def test_settings_that_wait_for_a_restart_are_named(install: Install, relay: ScriptedRelay) -> None:
    """A reload that cannot put everything into force says what is left, until what is left is as it was."""
    daemon = await install(plain(relay.port)).start()
    settings = daemon.folder / "gateway.toml"
    written = settings.read_text()

    async def needed() -> object:
        return (await daemon.ask("GET", "/v1/doctor"))[1]["restart_needed"]

    async def becomes(keys: list[str]) -> bool:
        return await needed() == keys

    settings.write_text(written.replace("drain_seconds = 20", "drain_seconds = 21"))
    daemon.signal(signal.SIGHUP)
    await until(lambda: becomes(["relay.drain_seconds"]), 10)
    settings.write_text(written)
    daemon.signal(signal.SIGHUP)
    await until(lambda: becomes([]), 10)


async def test_what_is_on_the_wire_ends(install: Install, relay: ScriptedRelay) -> None:
    """A message whose dot has left gets its reply; the next one of the same session is not begun."""
    go = asyncio.Event()
    final = relay.on("final", Hold(go), once=True)
    daemon = await install(plain(relay.port, connections=1)).start()
    async with daemon.client() as client:
        _, first, _ = await client.post(mail("first"))
        await until(lambda: final.hits, 10)
        _, second, _ = await client.post(mail("second"))
        await daemon.ask("POST", "/v1/queue/pause")
        go.set()
        await client.until(first["id"], "relayed")
        held = (await client.show(second["id"]))["status"]
        sent = len(relay.messages)
        await daemon.ask("POST", "/v1/queue/resume")
        await client.until(second["id"], "relayed")

    assert (held, sent) == ("held", 1)


async def test_all_daemons_heed_it(tmp_path: Path, newest: Postgresql) -> None:
    """Two daemons on one database: what one is told both do, whoever has the lane and whoever took the mail."""
    async with cluster(tmp_path, newest, [Lane("main")], size=2) as made:
        await made.start()
        one, other = made.daemons
        async with one.client() as here, other.client() as there:
            _, answer, _ = await here.post(mail("first"))
            await there.until(answer["id"], "relayed")
            await one.ask("POST", "/v1/queue/pause")

            async def heard() -> bool:
                return (await other.ask("GET", "/v1/queue"))[1]["paused"] is not None

            await until(heard, 10)
            posted = [(await client.post(mail(str(n))))[1]["id"] for n in range(10) for client in (here, there)]
            shown = {(await there.show(id_))["status"] for id_ in posted}
            sent = made.relayed
            await other.ask("POST", "/v1/queue/resume")
            for id_ in posted:
                await here.until(id_, "relayed", seconds=10)

    assert (shown, sent) == ({"held"}, 1)
