"""A small world to ask questions of: real store, outbox, directory and HTTP server; only the relay is missing.

    system ─┬─ acme ─── acme-emea
            └─ globex

`system/main` is the default of all who have none. `acme/own` is acme's default and `acme/locked` forces its sender;
`acme/lent` is pushed to acme-emea, `acme/secret` is not. Acme copies its errors to ops and everything to audit.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from gateway.credentials.credentials import Credentials
from gateway.credentials.sealed import Seal
from gateway.directory.directory import Directory
from gateway.directory.entries import API, entry
from gateway.directory.keys import new_key
from gateway.directory.rules import Policy
from gateway.directory.shapes import Key, Link, Preferences, Profile, Tenant
from gateway.http.call import Services
from gateway.http.server import HttpServer
from gateway.outbox.outbox import Outbox, Retention
from gateway.outbox.verdict import Schedule
from gateway.settings import Settings, load
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.outcome import Phase, RecipientOutcome, Refused, Relayed, Transaction
from gateway.smtp.reply import Reply
from gateway.store.clock import wall_clock
from gateway.store.postgresql import PostgresqlStore
from gateway.store.rows import Entry, Flow
from gateway.store.sqlite import SqliteStore
from gateway.webhooks.endpoint import Poster
from gateway.webhooks.sender import Sender

PROBLEM = "application/problem+json"
DAY = 86_400_000
SETTINGS = """
[http]
listen = "127.0.0.1:0"
max_body_bytes = 65536
header_timeout_seconds = 1
body_timeout_seconds = 1
trusted_proxies = ["127.0.0.0/8"]
"""
TAKEN = Reply(250, "2.0.0", "queued as 1")
LATER = Reply(451, "4.3.0", "secret words of the relay")
NEVER = Reply(550, "5.1.1", "secret words of the relay")

Json = dict[str, Any]


def profile(tenant: str, name: str, **more: object) -> Profile:
    """A profile that nobody will ever connect to."""
    document = {"tenant": tenant, "name": name, "host": f"{name}.{tenant}.example", "from": f"{name}@{tenant}.example"}
    return Profile.model_validate({**document, **more})


TENANTS = (
    Tenant(id="acme"),
    Tenant(id="acme-emea", parent="acme"),
    Tenant(id="globex"),
)
OBJECTS = (
    *TENANTS,
    profile("system", "main", is_default=True, to=["root@system.example"]),
    profile("acme", "own", is_default=True, to=["desk@acme.example"], allowed_senders=["*@acme.example"]),
    profile("acme", "locked", force_sender=True),
    profile("acme", "lent"),
    profile("acme", "secret"),
    Link(tenant="acme", profile="lent", child="acme-emea"),
    Preferences.model_validate(
        {
            "tenant": "acme",
            "cc": ["ops@acme.example"],
            "bcc": ["audit@acme.example"],
            "rules": [{"min_severity": "error", "cc": True}, {"bcc": True}],
        }
    ),
)


@dataclass
class Answered:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str
    json: Any = None

    @property
    def code(self) -> str | None:
        """The problem's code; None if it is no problem."""
        return self.json["code"] if self.headers.get("Content-Type") == PROBLEM else None

    @property
    def faults(self) -> dict[str, str]:
        """Each fault's code by its pointer."""
        return {fault["pointer"]: fault["code"] for fault in self.json.get("errors", ())}


@dataclass
class World:
    """Everything that a test may touch."""

    settings: Settings
    store: SqliteStore | PostgresqlStore
    directory: Directory
    outbox: Outbox
    server: HttpServer
    services: Services
    session: aiohttp.ClientSession
    keys: dict[str, str] = field(default_factory=dict)
    held: set[Flow] = field(default_factory=set)
    failures: list[BaseException] = field(default_factory=list)
    offset: int = 0
    making: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def url(self) -> str:
        """Where the server is."""
        return f"http://127.0.0.1:{self.server.port}"

    async def call(self, method: str, path: str, key: str | None = "acme", **options: Any) -> Answered:
        """Ask as the holder of a key made by `key_for`; None: without any."""
        headers = dict(options.pop("headers", {}))
        if key is not None and "Authorization" not in headers:
            headers["Authorization"] = f"Bearer {await self.key_for(key)}"
        async with self.session.request(method, self.url + path, headers=headers, **options) as response:
            text = await response.text(errors="replace")  # a backup is no text
            answered = Answered(response.status, response.headers, text)
            if "json" in response.headers.get("Content-Type", ""):
                answered.json = await response.json(content_type=None)
            return answered

    async def key_for(self, name: str, **more: Any) -> str:
        """Make a key once: `tenant`, or `tenant:scope,scope`; the tenant's holds send and read, system's admin."""
        async with self.making:
            return await self._key_for(name, more)

    async def _key_for(self, name: str, more: Mapping[str, Any]) -> str:
        if name not in self.keys:
            tenant, _, scopes = name.partition(":")
            default = "admin" if tenant == "system" else "send,read"
            wanted = [
                scope
                for scope in (scopes or default).split(",")
                if scope in ("send", "read", "profiles", "secrets", "admin")
            ]
            made = new_key()
            shape = Key.model_validate(
                {
                    "tenant": tenant,
                    "id": made.id,
                    "scopes": wanted,
                    "sha256_hex": made.sha256.hex(),
                    "created_at": 0,
                    **more,
                }
            )
            await self.put(shape)
            self.keys[name] = made.text()
        return self.keys[name]

    async def put(self, *items: Any) -> None:
        """Write directory objects as they are."""
        await self.write([entry(item, API) for item in items])

    async def write(self, put: Sequence[Entry], drop: Sequence[Entry] = ()) -> None:
        """Change the directory behind its back, and let it look again."""
        revision, _ = await self.store.directory()
        await self.store.change_directory(revision, put, drop)
        await self.directory.load()

    async def post(self, key: str = "acme", under: str | None = None, **fields: Any) -> Answered:
        """Post a notification, `under` an idempotency key; fields given as None are left out."""
        headers = {} if under is None else {"Idempotency-Key": under}
        return await self.call("POST", "/v1/notifications", key, json=notification(**fields), headers=headers)

    async def posted(self, key: str = "acme", **fields: Any) -> str:
        """Post a notification that must be accepted, and give its id."""
        answered = await self.post(key, **fields)
        assert answered.status == 202, answered.text
        id_: str = answered.json["id"]
        return id_

    async def settle(self, tenant: str, *outcomes: RecipientOutcome, profile: str = "", by: str = "") -> None:
        """Deliver the flow's next mail by a profile, with these outcomes for its due recipients."""
        [delivery], _ = await self.outbox.claim(Flow(tenant, profile), 1)
        indexes = delivery.due(self.outbox.clock(), len(outcomes))
        await self.outbox.settle(delivery, indexes, Transaction(tuple(outcomes)), by)


def notification(**fields: Any) -> Json:
    """A body that is accepted as it is; fields given as None are left out, `sender` is `from`."""
    body: Json = {"to": ["ann@example.test"], "subject": "Hello", "text": "Hello Ann", **fields}
    if "sender" in body:
        body["from"] = body.pop("sender")
    return {name: value for name, value in body.items() if value is not None}


def ahead(**span: int) -> datetime:
    """A moment from now, to the second."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(**span)


def relayed() -> Relayed:
    return Relayed(TAKEN)


def deferred() -> Refused:
    return Refused(Phase.RECIPIENT, LATER)


def failed() -> Refused:
    return Refused(Phase.RECIPIENT, NEVER)


@asynccontextmanager
async def running(
    folder: Path, extra: str = "", *, on: PostgresqlStore | None = None, **services: Any
) -> AsyncIterator[World]:
    """A world for as long as the block lasts, on SQLite unless it is `on` another store, which is empty and not open.

    `extra` is appended to the settings file.
    """
    path = folder / "gateway.toml"
    path.write_text(SETTINGS + extra)
    settings = load(path, {})
    async with (
        on or SqliteStore(folder / "gateway.db") as store,
        aiohttp.ClientSession() as session,
        AsyncExitStack() as stack,
    ):
        directory = Directory(store, Policy(EgressPolicy((25, 465, 587))), Seal([bytes(32)]))
        await store.change_directory(0, [entry(item, API) for item in OBJECTS], [])
        await directory.load()
        held: set[Flow] = set()
        failures: list[BaseException] = []
        outbox = Outbox(store, Schedule((30,), 300), retention=Retention())
        directory.unfinished = outbox.queued.__getitem__
        directory.forget = outbox.forget
        poster = await stack.enter_async_context(Poster(directory.policy.webhooks, directory.seal, wall_clock))
        made = Services(
            settings=settings,
            directory=directory,
            outbox=outbox,
            store=store,
            credentials=Credentials(directory.seal, directory.stored, on_denied=directory.denied),
            held=lambda flow: flow in held,
            on_failure=lambda _id, error: failures.append(error),
            **{"test_webhook": Sender(store, directory, poster).test, **services},
        )
        async with HttpServer(made) as server:
            world = World(settings, store, directory, outbox, server, made, session, held=held, failures=failures)
            outbox.clock = lambda: wall_clock() + world.offset
            yield world
        assert not failures, failures
