"""A daemon in which everything that is watched happens: TLS, two secret stores, and a relay with a certificate."""

from __future__ import annotations

import json
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from tests.peers.azure_server import CLIENT, CLIENT_SECRET, TENANT, AzureServer, azure_name
from tests.peers.smtp_server import ScriptedRelay, issue_tls
from tests.peers.vault_server import FakeVault, Issued
from tests.process.daemon import Daemon, mail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = "relay-a"
TOKEN = "token-of-the-vault"
DAY = 86_400

STORES = """
[connections.corp]
kind = "vault"
url = "{vault}"
auth = {{method = "token", token = {{file = "{folder}/token"}}}}
allow = {{acme = [""]}}
[connections.cloud]
kind = "azure_key_vault"
url = "{azure}"
ca_certificates = "{folder}/azure.pem"
allow = {{acme = [""]}}
[connections.cloud.auth]
method = "client_secret"
tenant_id = "{tenant}"
client_id = "{client}"
authority = "{authority}"
client_secret = {{env = "CLIENT_SECRET"}}
"""

PROFILE = """\
host = "127.0.0.1"
port = {port}
security = "starttls"
tls = {{ca_certificates = {ca}}}
auth = {{username = "{connection}", credential = {{source = "{source}", connection = "{connection}", key = "{key}"{property}}}}}"""

SECOND = """
[[profiles]]
tenant = "acme"
name = "second"
from = {{address = "second@acme.example.test"}}
{profile}
"""


@dataclass
class Installation:
    """The daemon and its peers, and how a caller talks to it."""

    daemon: Daemon
    relay: ScriptedRelay
    vault: FakeVault
    azure: AzureServer
    session: aiohttp.ClientSession
    _posted: int = field(default=0)

    async def post(self, status: int = 202, **more: object) -> None:
        """Post a notification as the tenant."""
        await self._ask("POST", "/v1/notifications", self.daemon.key, status, mail(**more))

    async def busy(self) -> None:
        """Do a little of everything that callers do."""
        self._posted += 1
        number = self._posted
        key = {"Idempotency-Key": f"key-{number}"}
        for _ in range(2 if number % 10 == 0 else 1):
            await self._ask("POST", "/v1/notifications", self.daemon.key, 202, mail(), key)
        if number % 10 == 1:
            await self._ask(
                "POST", "/v1/notifications/batch", self.daemon.key, 200, {"notifications": [mail(), {}, mail()]}
            )
            await self.post(profile="second")
        if number % 50 == 2:
            await self._ask("GET", "/v1/nothing", "ngw_live_wrong", 401)

    async def back_up(self) -> None:
        """Fetch a backup."""
        await self._ask("GET", "/v1/backup", self.daemon.admin_key, 200)

    async def _ask(
        self, method: str, path: str, key: str, status: int, body: object = None, headers: dict[str, str] | None = None
    ) -> None:
        told = {"Authorization": f"Bearer {key}", **(headers or {})}
        async with self.session.request(method, path, json=body, headers=told) as answer:
            text = await answer.read()
            assert answer.status == status, text


@asynccontextmanager
async def installation(folder: Path) -> AsyncIterator[Installation]:
    """Run it for as long as the block lasts."""
    own, issued = issue_tls("127.0.0.1"), issue_tls("127.0.0.1")
    for name, text in (("token", TOKEN), ("own.pem", own.chain_pem), ("own.key", own.key_pem)):
        (folder / name).write_text(text)
    relay = ScriptedRelay(tls=issued.context, users={"corp": "s3cret", "cloud": "s3cret"})
    async with relay, FakeVault() as vault, AzureServer() as azure:
        (folder / "azure.pem").write_text(azure.tls.ca_pem)
        vault.tokens[TOKEN] = Issued()
        await vault.put(KEY, {"password": "s3cret"})
        azure.put_value(azure_name(KEY), "s3cret").ends = round(time.time()) + 90 * DAY
        profiles = [
            PROFILE.format(
                port=relay.port,
                ca=json.dumps(issued.ca_pem),
                source=source,
                connection=connection,
                key=KEY,
                property=more,
            )
            for source, connection, more in (
                ("vault", "corp", ', property = "password"'),
                ("azure_key_vault", "cloud", ""),
            )
        ]
        stores = STORES.format(
            vault=vault.url, azure=azure.url, authority=azure.authority, folder=folder, tenant=TENANT, client=CLIENT
        )
        daemon = Daemon(
            folder / "gateway", profiles[0], more_tenants=SECOND.format(profile=profiles[1]), more_settings=stores
        )
        environ = {
            "CLIENT_SECRET": CLIENT_SECRET,
            "NOTIFICATION_GATEWAY_HTTP__TLS_CERTIFICATE": str(folder / "own.pem"),
            "NOTIFICATION_GATEWAY_HTTP__TLS_KEY": str(folder / "own.key"),
        }
        await daemon.start(environ=environ)
        try:
            connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=own.ca_pem))
            async with aiohttp.ClientSession(f"https://127.0.0.1:{daemon.http}", connector=connector) as session:
                yield Installation(daemon, relay, vault, azure, session)
        finally:
            await daemon.kill()
