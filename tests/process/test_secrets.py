"""The real daemon with a secret store: passwords from it, rotated under load, away for a while, and never seen."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.peers.smtp_server import ScriptedRelay
from tests.peers.vault_server import FakeVault, How, Issued
from tests.process.daemon import mail, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.process.daemon import Client, Daemon

    Install = Callable[..., Daemon]

KEY = "smtp/acme/relay"
CANARY = "canary/7f3a+pass word"
TOKEN = "canary-token-91c2"
MAILS = 60


@pytest.fixture
async def vault() -> AsyncIterator[FakeVault]:
    """A Vault with one token."""
    async with FakeVault() as made:
        made.tokens[TOKEN] = Issued(renewable=False)
        yield made


def connected(install: Install, relay: ScriptedRelay, vault: FakeVault, tmp_path: Path, ttl: int = 300) -> Daemon:
    """A daemon whose profile takes user and password from the Vault."""
    (tmp_path / "token").write_text(TOKEN)
    settings = f"""
[connections.corp]
kind = "vault"
url = "{vault.url}"
auth = {{method = "token", token = {{file = "{tmp_path / "token"}"}}}}
allow = {{acme = ["smtp/acme"]}}
ttl_seconds = {ttl}
"""
    credential = f'{{source = "vault", connection = "corp", key = "{KEY}", username_property = "username"}}'
    profile = plain(relay.port, connections=2, messages_per_connection=3) + f"\nauth = {{credential = {credential}}}"
    return install(profile, more_settings=settings.replace("[log]", ""))


async def post_many(client: Client, count: int) -> list[str]:
    """Post notifications one after the other; their ids."""
    return [(await client.post(mail(f"mail {number}")))[1]["id"] for number in range(count)]


async def relayed(client: Client, ids: list[str]) -> None:
    """Wait until all of them are."""
    for id_ in ids:
        told = await client.until(id_, "relayed", "failed")
        assert told["status"] == "relayed", told


def wrong_logins(relay: ScriptedRelay) -> int:
    return sum(not login.accepted for session in relay.sessions for login in session.logins)


@pytest.mark.parametrize("first", ["relay", "vault", "both"])
async def test_a_password_is_rotated_under_load(
    install: Install, relay: ScriptedRelay, vault: FakeVault, tmp_path: Path, first: str
) -> None:
    """At the relay first, in the store first, or at once: no notification fails, and few logins are refused."""
    await vault.put(KEY, {"username": "app", "password": "one"})
    relay.users["app"] = "one"
    daemon = await connected(install, relay, vault, tmp_path).start()
    async with daemon.client() as client:
        ids = await post_many(client, MAILS // 3)
        await relayed(client, ids)  # the old password is known, and in use
        if first in ("relay", "both"):
            relay.users["app"] = "two"
        if first in ("vault", "both"):
            await vault.put(KEY, {"username": "app", "password": "two"})
        posting = asyncio.ensure_future(post_many(client, MAILS // 3))
        ids += await posting
        relay.users["app"] = "two"
        if first == "relay":
            await vault.put(KEY, {"username": "app", "password": "two"})
            async with client.session.post("/v1/tenants/acme/profiles/main/credential/refresh", headers=admin(daemon)):
                pass
        ids += await post_many(client, MAILS // 3)
        await relayed(client, ids)

    assert wrong_logins(relay) <= 3
    assert len(relay.messages) == MAILS


def admin(daemon: Daemon) -> dict[str, str]:
    return {"Authorization": f"Bearer {daemon.admin_key}"}


async def test_mail_flows_while_the_store_is_away(
    install: Install, relay: ScriptedRelay, vault: FakeVault, tmp_path: Path
) -> None:
    """Its last word is served on; operators are told, mail is not."""
    await vault.put(KEY, {"username": "app", "password": "one"})
    relay.users["app"] = "one"
    daemon = await connected(install, relay, vault, tmp_path, ttl=0).start()
    async with daemon.client() as client:
        ids = await post_many(client, 5)
        await relayed(client, ids)
        vault.misbehave(How.BROKEN)
        ids = await post_many(client, 10)
        await relayed(client, ids)

    assert "secret_stale" in daemon.log
    assert wrong_logins(relay) == 0


async def test_a_secret_is_nowhere_to_be_seen(
    install: Install, relay: ScriptedRelay, vault: FakeVault, tmp_path: Path
) -> None:
    """Not in the database, the log at its most talkative, the metrics, nor any answer; plain, encoded or quoted."""
    await vault.put(KEY, {"username": "app", "password": CANARY})
    relay.users["app"] = CANARY
    daemon = connected(install, relay, vault, tmp_path)
    async with (await daemon.start(environ={"NOTIFICATION_GATEWAY_LOG__LEVEL": "debug"})).client() as client:
        await relayed(client, await post_many(client, 3))
        relay.users["app"] = "other"
        await vault.put(KEY, {"username": "app", "password": CANARY + "2"})
        await post_many(client, 10)  # more than the sessions that are open may carry
        async with asyncio.timeout(20):
            while "parked" not in daemon.log:
                await asyncio.sleep(0.05)
        shown = []
        for path in (
            "/v1/tenants/acme/profiles/main", "/v1/tenants/acme/audit", "/v1/queue", "/v1/notifications",
            "/v1/tenants/acme/secret-connections",
        ):  # fmt: skip
            async with client.session.get(path, headers=admin(daemon)) as response:
                shown.append(await response.text())
        async with client.session.get(f"http://127.0.0.1:{daemon.metrics}/metrics") as response:
            shown.append(await response.text())
    files = [file.read_bytes() for file in daemon.folder.iterdir() if file.is_file()]
    seen = b"\n".join([*(text.encode() for text in shown), *files])

    for secret in (CANARY, TOKEN):
        for form in (secret, base64.b64encode(secret.encode()).decode(), quote(secret), quote(secret, safe="")):
            assert form.encode() not in seen
        assert base64.b64encode(b"\0app\0" + secret.encode()) not in seen
