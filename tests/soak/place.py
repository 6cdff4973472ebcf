"""Where the soak happens: a daemon set up as in production, two relays, a Vault, and tenants that inherit from each other.

Retention is as short as it can be set, so that the database comes to a size at which it stays. What is provisioned is
what the load relies on; tenants made over HTTP are there to be changed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from aiohttp import web

from tests.peers.smtp_server import Reply, ScriptedRelay, issue_tls
from tests.peers.vault_server import FakeVault, Issued
from tests.peers.web_peer import WebPeer
from tests.process.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.peers.smtp_server import Caught

VAULT_KEY = "smtp/acme/relay"
VAULT_TTL = 5  # seconds that a secret counts as fresh
TOKEN_LIFE = 60  # seconds, so that the daemon's token at the Vault is renewed many times
GONE = "gone-"  # the relay knows nobody whose address begins so …
GREY = "grey-"  # … and puts off these once
TIDY = 0.5  # seconds between two looks at what the relays took
JUST_NOW = 2.0  # seconds before a cut, in which a final reply may have been lost

SETTINGS = """
[retention]
finished_days = 0
[connections.corp]
kind = "vault"
url = "{vault}"
auth = {{method = "approle", role_id = "gateway", secret_id = {{file = "secret-id"}}}}
allow = {{acme = ["smtp/acme"]}}
ttl_seconds = {ttl}
"""

TENANTS = """
[[profiles]]
tenant = "system"
name = "house"
is_default = true
host = "127.0.0.1"
port = {plain}
security = "none"
from = {{address = "noreply@house.example.test"}}
limits = {{connections = 4, messages_per_connection = 100}}
[[templates]]
tenant = "acme"
name = "welcome"
subject = "Welcome {{{{ name }}}}"
text = "Hello {{{{ name }}}},\\n{{% for line in lines %}}- {{{{ line }}}}\\n{{% endfor %}}"
html = "<p>Hello {{{{ name }}}}</p><ul>{{% for line in lines %}}<li>{{{{ line }}}}</li>{{% endfor %}}</ul>"
[[preferences]]
tenant = "acme"
cc = ["operations@acme.example.test"]
rules = [{{category = "security.*", min_severity = "warning", cc = true}}]
[[tenants]]
id = "acme-emea"
parent = "acme"
[[links]]
tenant = "acme"
profile = "main"
child = "acme-emea"
is_default = true
[[preferences]]
tenant = "acme-emea"
bcc = ["archive@emea.example.test"]
rules = [{{category = "*", min_severity = "critical", bcc = true}}]
[[tenants]]
id = "beta"
[[tenants]]
id = "metered"
limits = {{per_minute = 120}}
"""

KEY = """
[[keys]]
tenant = "{tenant}"
name = "{name}"
scopes = {scopes}
file = "{name}.key"
"""

PROFILE = """\
host = "localhost"
port = {port}
security = "starttls"
tls = {{ca_certificates = '''{ca}'''}}
auth = {{method = "plain", credential = {{source = "vault", connection = "corp", key = "{key}", username_property = "username"}}}}
limits = {{connections = 4, messages_per_connection = 50}}
failover = ["spare"]
"""

SPARE = """
[[profiles]]
tenant = "acme"
name = "spare"
host = "127.0.0.1"
port = {plain}
security = "none"
from = {{address = "spare@acme.example.test"}}
"""

KEYS = {"emea": "acme-emea", "beta": "beta", "metered": "metered"}


@dataclass
class Relayed:
    """What the relays took and refused, in as little memory as it can be kept in for hours."""

    copies: Counter[tuple[str, str]] = field(default_factory=Counter)  # by notification and recipient
    refused: set[str] = field(default_factory=set)  # recipients that were refused for good
    unanswered: set[str] = field(default_factory=set)  # notifications whose final reply may have been lost
    recent: deque[tuple[float, str]] = field(default_factory=deque)

    def took(self, caught: Caught) -> None:
        """Count a message."""
        notification = id_of(caught.message_id)
        self.copies.update((notification, address) for address in caught.rcpt_tos)
        self.recent.append((caught.at, notification))
        while self.recent and self.recent[0][0] < time.time() - 2 * JUST_NOW:
            self.recent.popleft()

    def cut(self) -> None:
        """Connections are cut now: what was taken a moment ago may not have been answered."""
        self.unanswered |= {notification for at, notification in self.recent if at > time.time() - JUST_NOW}


class Endpoint(WebPeer):
    """Where webhooks go."""

    def __init__(self) -> None:
        super().__init__()
        self.url, self.broken = "", False
        self.taken: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._take)
        self.url = f"http://127.0.0.1:{await self._listen(app, tls=False)}/"
        return self

    async def _take(self, request: web.Request) -> web.Response:
        event = await request.json()
        if self.broken:
            return web.Response(status=503)
        self.taken[event["type"]] += 1
        return web.Response(status=204)


@dataclass
class Place:
    """Everything that the soak works with."""

    daemon: Daemon
    plain: ScriptedRelay
    secure: ScriptedRelay
    vault: FakeVault
    endpoint: Endpoint
    relayed: Relayed
    authority: str  # whom to trust at the relay with TLS, as PEM
    password: int = 1

    @property
    def relays(self) -> tuple[ScriptedRelay, ScriptedRelay]:
        """Both relays."""
        return self.plain, self.secure

    def key(self, name: str) -> str:
        """A provisioned key."""
        return (self.daemon.folder / f"{name}.key").read_text().strip()

    def tidy(self) -> None:
        """Count what the relays took since, and let them forget it."""
        for relay in self.relays:
            taken, relay.messages = relay.messages, []
            for caught in taken:
                self.relayed.took(caught)
            for session in relay.sessions[-50:]:
                del session.commands[:]
            relay.sessions[:-50] = [None] * len(relay.sessions[:-50])  # type: ignore[list-item] - they are counted
            del relay.handshakes[:-50]
        del self.vault.asked[:-50]

    def cut(self, relay: ScriptedRelay) -> None:
        """Cut all connections to a relay."""
        self.tidy()
        self.relayed.cut()
        relay.cut()

    async def keep_tidy(self) -> None:
        """Forget, for ever."""
        while True:
            await asyncio.sleep(TIDY)
            self.tidy()


@asynccontextmanager
async def place(folder: Path, store: str = "sqlite:///gateway.db") -> AsyncIterator[Place]:
    """Set everything up, the daemon not started yet; it is killed at the end if it still runs."""
    tls = issue_tls()
    async with AsyncExitStack() as stack:
        vault = await stack.enter_async_context(FakeVault())
        vault.admit("auth/approle/login", {"role_id": "gateway", "secret_id": "soak"})
        vault.issue = Issued(life=TOKEN_LIFE)
        await vault.put(VAULT_KEY, {"username": "app", "password": "1"})
        plain = await stack.enter_async_context(ScriptedRelay(keep_data=False))
        secure = await stack.enter_async_context(
            ScriptedRelay(keep_data=False, users={"app": "1"}, require_auth=True, tls=tls.context)
        )
        endpoint = await stack.enter_async_context(Endpoint())
        relayed = Relayed()
        for relay in (plain, secure):
            _refuse_some(relay, relayed)
        daemon = Daemon(
            folder,
            PROFILE.format(port=secure.port, ca=tls.ca_pem, key=VAULT_KEY),
            retry="[2, 5, 10, 20]",
            more_tenants=TENANTS.format(plain=plain.port) + SPARE.format(plain=plain.port) + _keys(),
            more_settings=SETTINGS.format(vault=vault.url, ttl=VAULT_TTL),
            store=store,
            webhooks='["127.0.0.0/8"]',
        )
        (daemon.folder / "secret-id").write_text("soak")
        made = Place(daemon, plain, secure, vault, endpoint, relayed, tls.ca_pem)
        tidying = asyncio.ensure_future(made.keep_tidy())
        try:
            yield made
        finally:
            tidying.cancel()
            if daemon.process is not None:
                await daemon.kill()


def _keys() -> str:
    scopes = '["send", "read"]'
    return "".join(KEY.format(tenant=tenant, name=name, scopes=scopes) for name, tenant in KEYS.items())


def _refuse_some(relay: ScriptedRelay, relayed: Relayed) -> None:
    put_off: set[str] = set()

    def unknown(line: str) -> bool:
        if (is_so := f"<{GONE}" in line) is True:
            relayed.refused.add(address_of(line))
        return is_so

    def new(line: str) -> bool:
        if f"<{GREY}" not in line or (address := address_of(line)) in put_off:
            return False
        put_off.add(address)
        return True

    relay.on("rcpt", Reply("550 5.1.1 nobody of that name"), match=unknown)
    relay.on("rcpt", Reply("450 4.7.1 greylisted, come back"), match=new)


def address_of(line: str) -> str:
    """The address in a RCPT."""
    return line.partition("<")[2].partition(">")[0]


def id_of(message_id: str | None) -> str:
    """The notification that a message is."""
    return (message_id or "").strip("<>").partition("@")[0]
