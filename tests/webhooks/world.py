"""A tenant with a webhook, a real store, directory, outbox and sender; only the relay is missing.

    system ─┬─ acme ─── acme-emea
            └─ globex

`acme/main` is acme's default; `acme/lent` is pushed to acme-emea; `system/main` is the default of globex.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from gateway.credentials.sealed import Seal
from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR, Change
from gateway.directory.directory import Directory
from gateway.directory.rules import Policy
from gateway.directory.shapes import Link, Profile, Tenant, Webhook
from gateway.outbox.outbox import Outbox
from gateway.settings import EgressRule
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.outcome import RecipientOutcome, Transaction
from gateway.store.clock import wall_clock
from gateway.store.sqlite import SqliteStore
from gateway.webhooks.endpoint import Poster
from gateway.webhooks.events import Composer
from gateway.webhooks.sender import Sender
from tests.outbox.building import FLOW, SCHEDULE, notification, submission
from tests.store.building import pending

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from gateway.store.protocol import Store
    from gateway.store.rows import EventBacklog, Flow

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
SEAL = Seal([b"k" * 32])
HERE = EgressPolicy((), (EgressRule(ip_network("127.0.0.1/32"), None),), public=True)
HOOK = "a1b2c3d4"


class Clock:
    """The time of day, and what it was moved by (ms)."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return wall_clock() + self.ahead


def profile(tenant: str, name: str, **more: Any) -> Profile:
    document = {"tenant": tenant, "name": name, "host": f"{name}.{tenant}.example", "from": f"{name}@{tenant}.example"}
    return Profile.model_validate({**document, **more})


def webhook(url: str, *events: str, tenant: str = "acme", id_: str = HOOK, **more: Any) -> Webhook:
    """A webhook that signs with `SECRET`."""
    sealed = SEAL.close(Secret(SECRET), ("webhook", tenant, id_))
    given = {"url": url, "events": events or ("notification.relayed",), "created_at": 0, "sealed": sealed}
    return Webhook.model_validate({"tenant": tenant, "id": id_, **given, **more})


@dataclass
class World:
    """Everything that a test may touch."""

    store: Store
    directory: Directory
    outbox: Outbox
    composer: Composer
    sender: Sender
    poster: Poster
    clock: Clock
    running: asyncio.Task[None] | None = None

    async def put(self, *items: Any) -> None:
        """Make or replace objects."""
        await self.directory.change(OPERATOR, lambda _snapshot: Change(list(items)))

    def found(self, tenant: str = "acme", id_: str = HOOK) -> Webhook:
        """The webhook as it is."""
        return self.directory.snapshot.webhooks[tenant, id_]

    def start(self) -> None:
        """Begin to send."""
        self.running = asyncio.get_running_loop().create_task(self.sender.run())

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and let the sender look at it."""
        self.clock.ahead += round(seconds * 1000)
        self.sender._look_at = 0
        self.sender._wake.set()

    async def accept(self, *addresses: str, **more: Any) -> str:
        """Accept a notification; its id."""
        made = notification(*addresses, accepted_at=self.clock(), **more)
        await self.outbox.accept([submission(made)])
        return made.id

    async def settle(self, *outcomes: RecipientOutcome, flow: Flow = FLOW, by: str = "acme/main") -> None:
        """Deliver the flow's next mail, with these outcomes for its due recipients."""
        [delivery], _ = await self.outbox.claim(flow, 1)
        indexes = delivery.due(self.outbox.clock(), len(outcomes))
        assert await self.outbox.settle(delivery, indexes, Transaction(tuple(outcomes)), by)

    async def relayed(self, *outcomes: RecipientOutcome, addresses: tuple[str, ...] = (), **more: Any) -> str:
        """Accept a notification and have it relayed."""
        id_ = await self.accept(*addresses)
        await self.settle(*outcomes, **more)
        return id_

    async def backlog(self) -> list[EventBacklog]:
        """What waits."""
        return await pending(self.store)

    async def idle(self) -> None:
        """Wait until no request is under way, and what came of all is written."""
        await self.until(lambda _backlog: not self.sender._tasks)

    async def due_in(self) -> float:
        """In how many seconds does the first of what waits fall due, once no request is under way?"""
        await self.idle()
        return min(one.due_at - self.clock() for one in await self.backlog()) / 1000

    async def emptied(self, seconds: float = 20) -> None:
        """Wait until nothing waits any more."""
        await self.until(lambda backlog: not backlog, seconds)

    async def until(self, holds: Callable[[list[EventBacklog]], bool], seconds: float = 20) -> None:
        """Wait until what waits is so."""
        async with asyncio.timeout(seconds):
            while not holds(await self.backlog()):
                await asyncio.sleep(0.01)


TREE = (
    Tenant(id="acme"),
    Tenant(id="acme-emea", parent="acme"),
    Tenant(id="globex"),
    profile("system", "main", is_default=True),
    profile("acme", "main", is_default=True),
    profile("acme", "lent"),
    Link(tenant="acme", profile="lent", child="acme-emea"),
)


@asynccontextmanager
async def running(
    folder: Path, *, on: Store | None = None, tls: ssl.SSLContext | None = None, policy: EgressPolicy = HERE
) -> AsyncIterator[World]:
    """A world for as long as the block lasts, on SQLite unless it is on another open store; nothing is sent yet."""
    async with AsyncExitStack() as stack:
        store = on or await stack.enter_async_context(SqliteStore(folder / "gateway.db"))
        clock = Clock()
        directory = Directory(store, Policy(EgressPolicy((25, 587)), webhooks=policy), SEAL)
        await directory.load()
        poster = await stack.enter_async_context(Poster(policy, SEAL, clock, tls))
        outbox = Outbox(store, SCHEDULE, clock=clock)
        directory.unfinished, directory.forget = outbox.queued.__getitem__, outbox.forget
        sender = Sender(store, directory, poster, clock=clock, dice=lambda: 0.5)
        composer = Composer(directory, clock, sender.backlog)
        outbox.tell, outbox.on_told = composer.ended, sender.noted
        world = World(store, directory, outbox, composer, sender, poster, clock)
        if "acme" not in directory.snapshot.tenants:
            await world.put(*TREE)
        try:
            yield world
        finally:
            await sender.drain()
            if world.running is not None:
                world.running.cancel()
                await asyncio.wait([world.running])
                assert world.running.cancelled(), world.running.exception()
