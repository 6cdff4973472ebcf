"""A posted notification's way through the real daemon, to scripted relays and to Debian's Postfix."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
from typing import TYPE_CHECKING

from tests.peers.postfix import PostfixRelay, free_port, postfix_available
from tests.peers.requirements import require
from tests.peers.smtp_server import Reply, ScriptedRelay
from tests.process.daemon import mail, plain
from tests.process.engines import on_every_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.process.daemon import Daemon

    Install = Callable[..., Daemon]

pytestmark = on_every_engine


async def test_a_posted_mail_is_relayed_as_it_was_asked_for(install: Install, relay: ScriptedRelay) -> None:
    """202, then the relay has the message with its text, and the status says relayed."""
    daemon = await install(plain(relay.port)).start()
    async with daemon.client() as client:
        status, accepted, _ = await client.post(mail("Grüße aus Köln", cc=["bob@example.test"]))
        told = await client.until(accepted["id"], "relayed")
    (caught,) = await relay.wait_messages(1)
    message = email.message_from_bytes(caught.data, policy=email.policy.default)

    assert status == 202
    assert message["Subject"] == "Grüße aus Köln"
    assert caught.rcpt_tos == ["ann@example.test", "bob@example.test"] or set(caught.rcpt_tos) == {
        "ann@example.test",
        "bob@example.test",
    }
    assert [event["event"] for event in told["events"]][:1] == ["accepted"]
    assert relay.violations == []


async def test_one_refused_recipient_does_not_stop_the_others(install: Install, relay: ScriptedRelay) -> None:
    """Of three recipients one gets 550: two relayed, one failed, in one transaction."""
    relay.on("rcpt", Reply("550 5.1.1 no such user"), match="bob@")
    daemon = await install(plain(relay.port)).start()
    async with daemon.client() as client:
        _, accepted, _ = await client.post(mail(to=("ann@example.test", "bob@example.test", "eve@example.test")))
        told = await client.until(accepted["id"], "partially_relayed")
    states = {recipient["address"]: recipient["state"] for recipient in told["recipients"]}

    assert states == {"ann@example.test": "relayed", "bob@example.test": "failed", "eve@example.test": "relayed"}
    assert next(r for r in told["recipients"] if r["state"] == "failed")["reply"]["code"] == 550
    assert len(relay.messages) == 1


async def test_a_deferred_mail_goes_later_under_the_same_message_id(install: Install, relay: ScriptedRelay) -> None:
    """451 after the dot, then 250: deferred, then relayed; the retry is recognisable."""
    relay.on("final", Reply("451 4.3.0 not now"), once=True)
    daemon = await install(plain(relay.port)).start()
    async with daemon.client() as client:
        _, accepted, _ = await client.post(mail())
        told = await client.until(accepted["id"], "relayed")
    (caught,) = await relay.wait_messages(1)

    assert [event["event"] for event in told["events"]] == ["accepted", "claimed", "deferred", "claimed", "relayed"]
    assert accepted["id"] in (caught.message_id or "")
    assert told["recipients"][0]["attempts"] == 2


async def test_mail_waits_for_a_relay_that_is_down(install: Install, relay: ScriptedRelay) -> None:
    """While the relay is away nothing is lost and no attempt is counted; when it is back the mail goes."""
    await relay.reachable(False)
    daemon = await install(plain(relay.port)).start()
    async with daemon.client() as client:
        _, accepted, _ = await client.post(mail())
        await _logged(daemon, "session_failed")
        waiting = await client.show(accepted["id"])
        await relay.reachable(True)
        told = await client.until(accepted["id"], "relayed", seconds=60)

    assert waiting["status"] in ("queued", "sending")
    assert waiting["recipients"][0]["attempts"] == 0
    assert told["recipients"][0]["attempts"] == 1


async def test_one_key_from_twenty_clients_is_one_mail(install: Install, relay: ScriptedRelay) -> None:
    """The same Idempotency-Key sent by twenty clients at once: one mail, one id, nineteen replays."""
    daemon = await install(plain(relay.port)).start()
    async with daemon.client() as client:
        answers = await asyncio.gather(*(client.post(mail(), "order-42") for _ in range(20)))
        await client.until(answers[0][1]["id"], "relayed")

    assert {status for status, _, _ in answers} == {202}
    assert len({answer["id"] for _, answer, _ in answers}) == 1
    assert sum(replayed for _, _, replayed in answers) == 19
    assert len(relay.messages) == 1


async def test_sigterm_ends_in_order_and_loses_nothing(install: Install, relay: ScriptedRelay) -> None:
    """SIGTERM in the middle of a queue: exit 0, and after the next start everything arrives once."""
    daemon = await install(plain(relay.port)).start()
    async with daemon.client() as client:
        answers = await asyncio.gather(*(client.post(mail(str(n))) for n in range(200)))
        code = await daemon.stop()
    await daemon.start()
    await relay.wait_messages(200, timeout=30)

    assert code == 0
    assert {status for status, _, _ in answers} == {202}
    assert len({caught.message_id for caught in relay.messages}) == len(relay.messages) == 200


async def test_first_mail_of_a_tenant_passes_anothers_backlog(install: Install, relay: ScriptedRelay) -> None:
    """A tenant with thousands queued on a shared profile does not delay another's first mail."""
    more = (
        '[[tenants]]\nid = "zoo"\n[[keys]]\ntenant = "zoo"\nname = "app"\nscopes = ["send", "read"]\nfile = "zoo.key"\n'
    )
    system = f'[[profiles]]\ntenant = "system"\nname = "shared"\nis_default = true\n{plain(relay.port, connections=1)}\nfrom = {{address = "noreply@example.test"}}\n'
    daemon = install(plain(relay.port) + "\nenabled = false", more_tenants=more + system)
    await relay.reachable(False)
    await daemon.start()
    async with daemon.client() as client, daemon.client((daemon.folder / "zoo.key").read_text().strip()) as other:
        batch = {"notifications": [mail(f"acme {n}") for n in range(500)]}
        for _ in range(6):
            async with client.session.post("/v1/notifications/batch", json=batch) as response:
                assert response.status == 200
        _, accepted, _ = await other.post(mail("zoo's first"))
        await relay.reachable(True)
        await other.until(accepted["id"], "relayed", seconds=60)
    order = [caught for caught in relay.messages if accepted["id"] in (caught.message_id or "")]

    assert relay.messages.index(order[0]) < 50


async def test_postfix_takes_mail_over_starttls_with_a_password(install: Install) -> None:
    """Debian's Postfix: STARTTLS with a verified certificate, AUTH, and the mail arrives behind it."""
    require("Debian's postfix as root", postfix_available())
    with PostfixRelay(free_port(), users={"app": "s3cret"}) as postfix:
        async with ScriptedRelay(port=postfix.sink_port) as sink:
            pem = postfix.ca_pem.decode() if isinstance(postfix.ca_pem, bytes) else postfix.ca_pem
            profile = (
                f'host = "{postfix.host}"\nport = {postfix.port}\nsecurity = "starttls"\n'
                f"tls = {{ca_certificates = {json.dumps(pem)}}}\n"
                'auth = {username = "app", credential = {source = "plaintext", value = "s3cret"}}'
            )
            daemon = await install(profile).start()
            async with daemon.client() as client:
                _, accepted, _ = await client.post(mail("through Postfix", html="<p>through Postfix</p>"))
                told = await client.until(accepted["id"], "relayed")
            (caught,) = await sink.wait_messages(1, timeout=20)
    message = email.message_from_bytes(caught.data, policy=email.policy.default)

    assert told["recipients"][0]["reply"]["code"] == 250
    assert message["Subject"] == "through Postfix"
    assert message["Message-ID"].startswith(f"<{accepted['id']}@")
    assert "s3cret" not in daemon.log


async def _logged(daemon: Daemon, event: str, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while f'"event": "{event}"' not in daemon.log:
            await asyncio.sleep(0.05)
