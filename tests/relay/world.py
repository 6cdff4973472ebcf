"""A dispatcher at work in this process: real store, outbox and directory, and relays that the test scripts."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.credentials.credentials import Credentials
from gateway.credentials.local import LocalSecrets
from gateway.credentials.sealed import Seal
from gateway.credentials.secret import Secret
from gateway.credentials.tokens import Tokens
from gateway.directory.directory import Directory
from gateway.directory.entries import API, Item, entry
from gateway.directory.rules import Policy
from gateway.directory.shapes import Profile, Tenant
from gateway.message.address import Mailbox
from gateway.message.notification import Content, Notification, OnAmbiguous, Priority, Role, Severity, new_id
from gateway.outbox.outbox import Outbox, Submission
from gateway.outbox.states import Recipient, decode
from gateway.outbox.verdict import Schedule
from gateway.relay.dispatcher import Dispatcher
from gateway.relay.guard import Guard
from gateway.relay.sign_in import SignIns
from gateway.settings import Connector, EgressRule, OAuthProvider
from gateway.smtp.dial import Dialer
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.session import Opener
from gateway.store.clock import wall_clock
from gateway.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gateway.store.protocol import Store

EGRESS = EgressPolicy((25,), (EgressRule(ip_network("127.0.0.0/8"), None),))
IN_CLEAR = frozenset({"127.0.0.1"})  # hosts to which a password may go without TLS


@dataclass
class World:
    """Everything that a test may touch."""

    store: Store
    directory: Directory
    outbox: Outbox
    dispatcher: Dispatcher
    sign_ins: SignIns

    async def put(self, *items: Item) -> None:
        """Write directory objects and let everybody know."""
        revision, _ = await self.store.directory()
        await self.store.change_directory(revision, [entry(item, API) for item in items], [])
        await self.directory.load()

    async def drop(self, *items: Item) -> None:
        """Delete directory objects and let everybody know."""
        revision, _ = await self.store.directory()
        await self.store.change_directory(revision, [], [entry(item, API) for item in items])
        await self.directory.load()

    async def post(
        self,
        tenant: str,
        *to: str,
        profile: str | None = None,
        sender: Mailbox | None = None,
        content: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> str:
        """Accept a notification, of which `content` says what is not as usual; its id."""
        now = wall_clock()
        addresses = to or ("ann@example.test",)
        written = Content(
            sender, tuple(map(Mailbox, addresses)), (), (), "hello", "text", None, (), (), None, None, False
        )
        written = replace(written, **(content or {}))
        given: dict[str, Any] = {
            "on_ambiguous": OnAmbiguous.RETRY, "expires_at": now + 3_600_000, "send_at": None, **more,
        }  # fmt: skip
        notification = Notification(
            id=new_id(now), tenant=tenant, profile=profile, key_id="k", category="general", severity=Severity.INFO,
            priority=Priority.NORMAL, message_id=f"<{new_id(now)}@example.test>", accepted_at=now,
            simulated=False, metadata={}, recipients=tuple((one, Role.TO) for one in addresses), content=written, **given,
        )  # fmt: skip
        await self.outbox.accept([Submission(notification, "{}")])
        return notification.id

    async def recipients(self, notification_id: str) -> list[Recipient]:
        """Read how its recipients stand."""
        row = await self.store.get(notification_id)
        assert row is not None
        return decode(row.recipients)

    async def until(self, place: tuple[str, str], state: str) -> None:
        """Wait until a lane is in this state."""
        async with asyncio.timeout(10):
            while self.dispatcher.states().get(place) != state:
                await asyncio.sleep(0.01)

    async def until_it_stands(self, place: tuple[str, str]) -> str:
        """Wait until a lane is not active any more; its state then."""
        async with asyncio.timeout(10):
            while (state := self.dispatcher.states().get(place, "active")) == "active":
                await asyncio.sleep(0.01)
        return state

    async def carried(self) -> None:
        """Wait until no message is on its way."""
        async with asyncio.timeout(10):
            while self.outbox.in_hand:
                await asyncio.sleep(0.01)


def profile(port: int, tenant: str = "acme", name: str = "main", **more: Any) -> Profile:
    """A default profile for a relay on this machine."""
    document = {
        "tenant": tenant, "name": name, "host": "127.0.0.1", "port": port, "security": "none", "is_default": True,
        "from": f"noreply@{tenant}.example", **more,
    }  # fmt: skip
    return Profile.model_validate(document)


def password(world_seal: Seal, tenant: str, name: str, text: str) -> dict[str, Any]:
    """Give the `auth` of a profile that signs in with this password."""
    sealed = world_seal.close(Secret(text), ("profile", tenant, name, "auth.credential"))
    return {"username": "app", "credential": {"source": "plaintext", "sealed": sealed}}


SEAL = Seal([b"k" * 32])
Proof = TypeVar("Proof")


def sealed(text: str, slot: str = "auth.credential", tenant: str = "acme", name: str = "main") -> dict[str, str]:
    """Give a credential that holds this, in its slot of a profile."""
    return {"source": "plaintext", "sealed": SEAL.close(Secret(text), ("profile", tenant, name, slot))}


def reaches(*fields: str) -> Callable[[Proof], Proof]:
    """Mark a test that sees on the wire what these fields of a profile say; they are named as in a document."""

    def mark(test: Proof) -> Proof:
        test.fields = fields  # type: ignore[attr-defined]
        return test

    return mark


@asynccontextmanager
async def world(
    folder: Path,
    *items: Item,
    connections: int = 64,
    secrets: Path | None = None,
    connectors: Mapping[str, Connector] | None = None,
    oauth: Mapping[str, OAuthProvider] | None = None,
    kept_in: AbstractAsyncContextManager[Store] | None = None,
) -> AsyncIterator[World]:
    """Run a dispatcher for tenants acme and zoo, with this many connections for all, and files that all may name.

    `connectors` and `oauth` are those of the operator's settings; unless everything is `kept_in` another store it is in one on SQLite.
    """
    async with kept_in or SqliteStore(folder / "gateway.db") as store:
        directory = Directory(store, Policy(EGRESS), SEAL)
        outbox = Outbox(store, Schedule((30,), 300))
        local = LocalSecrets(secrets or folder, allow={"*": ("",)})
        credentials = Credentials(SEAL, directory.stored, local)
        tokens = Tokens(oauth or {}, credentials.cache, time.monotonic)
        opener = Opener(Dialer(EGRESS), "gateway.example.test", plaintext_auth=IN_CLEAR)
        sign_ins = SignIns(credentials, tokens, opener, Guard(store), connectors or {})
        dispatcher = Dispatcher(outbox, directory, sign_ins, connections)
        made = World(store, directory, outbox, dispatcher, sign_ins)
        await made.put(Tenant(id="acme"), Tenant(id="zoo"), *items)
        running = asyncio.ensure_future(dispatcher.run())
        try:
            yield made
        finally:
            await dispatcher.drain(5)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await tokens.close()
