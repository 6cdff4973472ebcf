"""The real daemon with a secret store: passwords from it, rotated under load, away for a while, and never seen."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import apsw
import asyncpg
import pytest

from tests.peers.azure_server import CLIENT, CLIENT_SECRET, TENANT, AzureServer
from tests.peers.conjur_server import API_KEY, ConjurServer
from tests.peers.cyberark_server import CyberArkServer
from tests.peers.smtp_server import ScriptedRelay
from tests.peers.vault_server import FakeVault, How, Issued
from tests.process.daemon import mail, plain
from tests.process.engines import on_both_engines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.peers.postgresql import Postgresql
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


def connected(
    install: Install, relay: ScriptedRelay, vault: FakeVault, tmp_path: Path, ttl: int = 300, auth: str = ""
) -> Daemon:
    """A daemon whose profile takes user and password from the Vault; by its token, unless told otherwise."""
    (tmp_path / "token").write_text(TOKEN)
    auth = auth or f'{{method = "token", token = {{file = "{tmp_path / "token"}"}}}}'
    settings = f"""
[connections.corp]
kind = "vault"
url = "{vault.url}"
auth = {auth}
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


@on_both_engines
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


async def test_operators_see_how_secrets_stand(
    install: Install, relay: ScriptedRelay, vault: FakeVault, tmp_path: Path
) -> None:
    """The daemon's metrics tell uses, sign-ins and what is kept, by connection."""
    await vault.put(KEY, {"username": "app", "password": "one"})
    relay.users["app"] = "one"
    daemon = await connected(install, relay, vault, tmp_path).start()
    async with daemon.client() as client:
        await relayed(client, await post_many(client, 1))
        async with client.session.get(f"http://127.0.0.1:{daemon.metrics}/metrics") as response:
            told = (await response.text()).splitlines()

    assert {
        'notification_gateway_secret_uses_total{connection="corp",state="miss"} 1.0',
        'notification_gateway_secret_logins_total{connection="corp",result="ok"} 1.0',
        'notification_gateway_secret_fetches_total{connection="corp",result="ok"} 1.0',
        'notification_gateway_secrets_cached{connection="corp"} 1.0',
        'notification_gateway_secret_breaker_open{connection="corp"} 0.0',
    } <= set(told)
    assert not any(line.startswith('notification_gateway_secret_logins_total{connection="files"') for line in told)


async def test_the_daemon_gives_its_token_back(
    install: Install, relay: ScriptedRelay, vault: FakeVault, tmp_path: Path
) -> None:
    """At its end, in order, the token that it signed in for is revoked."""
    vault.admit("auth/approle/login", {"role_id": "r-1", "secret_id": TOKEN})
    await vault.put(KEY, {"username": "app", "password": "one"})
    relay.users["app"] = "one"
    auth = f'{{method = "approle", role_id = "r-1", secret_id = {{file = "{tmp_path / "token"}"}}}}'
    daemon = await connected(install, relay, vault, tmp_path, auth=auth).start()
    async with daemon.client() as client:
        await relayed(client, await post_many(client, 1))
    ended = await daemon.stop()

    assert (ended, vault.asked[-1].path, vault.asked[-1].token) == (0, "/v1/auth/token/revoke-self", "hvs.1")


# Every source.

SOURCES = ("plaintext", "stored", "file", "env", "vault", "azure_key_vault", "cyberark", "conjur")
IDENTITIES = (TOKEN, CLIENT_SECRET, API_KEY)


def canary(source: str) -> str:
    """A password that is found nowhere but where it belongs, with letters that encodings change."""
    return f"canary {source}+7f/3a?é"


def forms(secret: str) -> set[bytes]:
    """The ways in which a text might be written down: as it is, in quotes, in a URL, as octets, in base64."""
    octets = secret.encode()
    written = {octets, secret.encode("utf-16-le"), octets.hex().encode(), octets.hex().upper().encode()}
    written |= {json.dumps(secret)[1:-1].encode(), repr(octets)[2:-1].encode()}
    written |= {one.encode() for one in (quote(secret), quote(secret, safe=""), quote_plus(secret))}
    for before in range(3):  # in the midst of something, base64 of a text begins with any of three alignments
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"x" * before + octets)
            written.add(encoded[(0, 2, 3)[before] : len(encoded) - 4])
    return written


def settings_of(tmp_path: Path, vault: FakeVault, azure: AzureServer, cyberark: CyberArkServer, conjur: str) -> str:
    """Connections to all four stores, and this machine's secrets, outside the daemon's own folder."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "relay-file").write_text(canary("file"))
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "azure.pem").write_text(azure.tls.ca_pem)
    return f"""
[local_secrets]
directory = "{own}"
env = ["RELAY_*"]
allow = {{acme = ["relay-file", "RELAY_ENV"]}}
[connections.vault]
kind = "vault"
url = "{vault.url}"
auth = {{method = "token", token = {{file = "{tmp_path / "token"}"}}}}
allow = {{acme = [""]}}
[connections.azure-key-vault]
kind = "azure_key_vault"
url = "{azure.url}"
ca_certificates = "{tmp_path / "azure.pem"}"
allow = {{acme = [""]}}
[connections.azure-key-vault.auth]
method = "client_secret"
tenant_id = "{TENANT}"
client_id = "{CLIENT}"
authority = "{azure.authority}"
client_secret = {{env = "CLIENT_SECRET"}}
[connections.cyberark]
kind = "cyberark"
url = "{cyberark.url}"
app_id = "gateway"
allow = {{acme = ["Safe=SMTP"]}}
[connections.conjur]
kind = "conjur"
url = "{conjur}"
account = "main"
auth = {{method = "api_key", login = "host/gateway", api_key = {{env = "CONJUR_KEY"}}}}
allow = {{acme = [""]}}
"""


def credential_of(source: str) -> dict[str, str]:
    """What a profile says of it."""
    match source:
        case "plaintext":
            return {"source": source, "value": canary(source)}
        case "env":
            return {"source": source, "key": "RELAY_ENV"}
        case "stored" | "file":
            return {"source": source, "key": f"relay-{source}"}
        case "cyberark":
            return {"source": source, "connection": source, "key": "Safe=SMTP;Object=relay-a"}
        case _:
            return {"source": source, "connection": source.replace("_", "-"), "key": "relay-a"}


@pytest.fixture
async def stores() -> AsyncIterator[tuple[FakeVault, AzureServer, CyberArkServer, ConjurServer]]:
    """All four, each with a password of its own."""
    async with FakeVault() as vault, AzureServer() as azure, CyberArkServer() as cyberark, ConjurServer() as conjur:
        vault.tokens[TOKEN] = Issued(renewable=False)
        for store, source in (
            (vault, "vault"), (azure, "azure_key_vault"), (cyberark, "cyberark"), (conjur, "conjur"),
        ):  # fmt: skip
            await store.put("relay-a", {"password": canary(source)})
        yield vault, azure, cyberark, conjur


async def put_profiles(client: Client, daemon: Daemon, port: int) -> None:
    """Make a profile for each source, over HTTP."""
    path, headers = "/v1/tenants/acme", admin(daemon)
    body = {"value": canary("stored")}
    async with client.session.put(f"{path}/secrets/relay-stored", json=body, headers=headers) as response:
        assert response.status == 201, await response.text()
    for source in SOURCES:
        profile = {
            "name": source, "host": "127.0.0.1", "port": port, "security": "none",
            "from": {"address": "noreply@acme.example.test"},
            "auth": {"username": f"app-{source}", "credential": credential_of(source)},
        }  # fmt: skip
        async with client.session.post(f"{path}/profiles", json=profile, headers=headers) as response:
            assert response.status == 201, await response.text()


def copied(database: Path, to: Path) -> bytes:
    """A backup by SQLite's own means, as an operator makes one while the daemon runs."""
    source, target = apsw.Connection(str(database)), apsw.Connection(str(to))
    with source, target, target.backup("main", source, "main") as backup:
        backup.step()
    source.close()
    target.close()
    return to.read_bytes()


async def rows_of(url: str) -> bytes:
    """All rows of all tables, as text."""
    connection = await asyncpg.connect(url)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    rows = [await connection.fetch(f'SELECT t::text FROM "{name}" t') for (name,) in tables]
    await connection.close()
    return "\n".join(text for table in rows for (text,) in table).encode()


@on_both_engines
async def test_no_source_leaves_its_secret_on_disk(
    install: Install,
    relay: ScriptedRelay,
    tmp_path: Path,
    engine: Postgresql | None,
    stores: tuple[FakeVault, AzureServer, CyberArkServer, ConjurServer],
) -> None:
    """All eight sign in; none of their passwords is in the database, its log of writes, a backup, or the daemon's log.

    Nor is what the daemon itself shows to the stores. What is no secret is found in each of these, so it was looked for
    in the right places.
    """
    vault, azure, cyberark, conjur = stores
    relay.users |= {f"app-{source}": canary(source) for source in SOURCES}
    settings = settings_of(tmp_path, vault, azure, cyberark, conjur.url)
    daemon = install(plain(relay.port), more_settings=settings)
    environ = {
        "RELAY_ENV": canary("env"), "CLIENT_SECRET": CLIENT_SECRET, "CONJUR_KEY": API_KEY,
        "NOTIFICATION_GATEWAY_LOG__LEVEL": "debug",
    }  # fmt: skip
    await daemon.start(environ=environ)
    async with daemon.client() as client:
        await put_profiles(client, daemon, relay.port)
        ids = [(await client.post(mail("canary", profile=source)))[1]["id"] for source in SOURCES]
        await relayed(client, ids)
    if engine is None:
        database = daemon.folder / "gateway.db"
        places = {
            "database and log of writes": database.read_bytes() + database.with_name("gateway.db-wal").read_bytes(),
            "backup": copied(database, tmp_path / "backup.db"),
        }
    else:
        places = {"rows": await rows_of(daemon.store)}
    await daemon.kill()
    left = b"".join(file.read_bytes() for file in sorted(daemon.folder.rglob("*")) if file.is_file())
    places["all that is left"] = left + (b"" if engine is None else places["rows"])
    signed_in = {login.username for session in relay.sessions for login in session.logins if login.accepted}

    assert signed_in == {f"app-{source}" for source in SOURCES}
    for place, octets in places.items():
        assert all(f"app-{source}".encode() in octets for source in SOURCES), place
        for secret in (*map(canary, SOURCES), *IDENTITIES):
            assert not [form for form in forms(secret) if form in octets], (place, secret)
