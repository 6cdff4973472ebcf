"""Dispatchers of several daemons in this process, on one schema of a real PostgreSQL.

Each reaches the server through a proxy of its own, which loses answers, freezes, or goes away with everything that the
daemon has there.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from gateway.credentials.credentials import Credentials
from gateway.credentials.local import LocalSecrets
from gateway.credentials.tokens import Tokens
from gateway.directory.directory import Directory
from gateway.directory.rules import Policy
from gateway.outbox.outbox import Outbox
from gateway.outbox.verdict import Schedule
from gateway.relay.dispatcher import Dispatcher
from gateway.relay.guard import Guard
from gateway.relay.holding import Pace, SharedHolding, chosen
from gateway.relay.sign_in import SignIns
from gateway.smtp.dial import Dialer
from gateway.smtp.session import Opener
from gateway.store.postgresql import PostgresqlStore
from gateway.store.postgresql.roster import PostgresqlRoster
from gateway.store.postgresql.server import Server
from tests.peers.losing_proxy import CHUNK, LosingProxy
from tests.peers.smtp_server import ScriptedRelay
from tests.relay.world import EGRESS, IN_CLEAR, SEAL, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from gateway.store.rows import Place
    from tests.peers.postgresql import Postgresql
    from tests.peers.smtp_script import Session

QUICK = Pace(beat=0.05, breath=0.01, patience=2.0, tenure=25.0, lag=5.0, look=0.5, gather=0.005)
MORTAL = Pace(beat=0.05, breath=0.01, patience=0.5, tenure=1.0, lag=0.5, look=0.5, gather=0.005)
LEASE = 1_500  # ms, of those that are MORTAL
REGULAR = 0.2  # seconds
_numbers = itertools.count(1)


@dataclass
class Member(World):
    """One daemon's parts."""

    store: PostgresqlStore
    holding: SharedHolding
    proxy: Freezing
    greeting: str
    running: asyncio.Task[None]

    @property
    def me(self) -> int:
        """Its id among the others."""
        return self.store.roster.me

    def sent(self, relay: ScriptedRelay) -> list[str]:
        """Whose mail the relay took from it, in order."""
        mine = {session.index for session in relay.sessions if f"EHLO {self.greeting}" in session.commands}
        return [to for caught in relay.messages if caught.session_index in mine for to in caught.rcpt_tos]

    async def sees(self, *others: Member) -> None:
        """Wait until it knows these others to live, and nobody else."""
        await until(lambda: {*self.holding.alive} == {self.me, *(other.me for other in others)}, 30)

    async def die(self) -> None:
        """End without a word to anybody: every connection is cut, and nothing more is written."""
        await self.proxy.leave()
        self.running.cancel()
        await asyncio.gather(self.running, self.store.__aexit__(), return_exceptions=True)

    async def go(self) -> None:
        """End in order."""
        await self.dispatcher.drain(5)
        self.running.cancel()
        await asyncio.gather(self.running, self.store.__aexit__(), return_exceptions=True)


class Freezing(LosingProxy):
    """A proxy that passes on what it kept, once it thaws."""

    def __init__(self, to: str) -> None:
        super().__init__(to)
        self._flowing = asyncio.Event()
        self.thaw()

    def freeze(self) -> None:
        """Keep everything back that comes, and every connection open."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Pass on what was kept back, and what comes."""
        self._flowing.set()

    async def _read(self, read: Callable[[int], Awaitable[bytes]]) -> bytes:
        data = await read(CHUNK)
        await self._flowing.wait()
        return data


class Cluster:
    """Makes daemons on one schema."""

    def __init__(self, postgresql: Postgresql, schema: str, folder: Path, stack: AsyncExitStack) -> None:
        self._postgresql = postgresql
        self._schema = schema
        self._folder = folder
        self._stack = stack

    async def rows(self) -> dict[Place, int | None]:
        """Read which daemon has which lane."""
        connection = await asyncpg.connect(self._postgresql.url)
        rows = await connection.fetch(f"SELECT tenant, profile, daemon FROM {self._schema}.lane")
        await connection.close()
        return {(tenant, name): me for tenant, name, me in rows}

    async def execute(self, sql: str) -> None:
        """Run a statement in the schema."""
        await self._postgresql.execute(f"SET search_path = {self._schema}", sql)

    async def join(self, *, pace: Pace = QUICK, connections: int = 64) -> Member:
        """Start one daemon more."""
        return await self._stack.enter_async_context(self._member(pace, connections))

    @asynccontextmanager
    async def _member(self, pace: Pace, connections: int) -> AsyncIterator[Member]:
        async with Freezing(self._postgresql.url) as proxy, AsyncExitStack() as stack:
            greeting = f"d{next(_numbers)}.example.test"
            store = shared_store(proxy.url, self._schema, mortal=pace is MORTAL)
            await stack.enter_async_context(store)
            directory = Directory(store, Policy(EGRESS), SEAL)
            await directory.load()
            outbox = Outbox(store, Schedule((30,), 300))
            credentials = Credentials(SEAL, directory.stored, LocalSecrets(self._folder, allow={"*": ("",)}))
            tokens = Tokens({}, credentials.cache, time.monotonic)
            stack.push_async_callback(tokens.close)
            opener = Opener(Dialer(EGRESS), greeting, plaintext_auth=IN_CLEAR)
            sign_ins = SignIns(credentials, tokens, opener, Guard(store), {})
            holding = SharedHolding(store.roster, directory.learn, store.clock, pace)
            dispatcher = Dispatcher(outbox, directory, sign_ins, connections, holding)
            await outbox.recount()
            await outbox.start()
            running = asyncio.ensure_future(dispatcher.run())
            member = Member(store, directory, outbox, dispatcher, sign_ins, holding, proxy, greeting, running)
            try:
                yield member
            finally:
                proxy.thaw()
                await member.go()


def shared_store(url: str, schema: str, *, mortal: bool = False) -> PostgresqlStore:
    """Name a store whose daemon counts as dead after `LEASE`, if it is mortal."""
    store = PostgresqlStore(Server(url, schema=schema), patience=1.0)
    if mortal:
        store.roster = PostgresqlRoster(store.server, store.clock, f"{id(store)}", lease=LEASE, regular=REGULAR)
    return store


class Watched(ScriptedRelay):
    """A relay that knows how many connections it had at most at once."""

    most = 0

    def attach(self, connection: object) -> Session:
        """Count one."""
        session = super().attach(connection)  # type: ignore[arg-type]
        self.most = max(self.most, self.open)
        return session

    @property
    def open(self) -> int:
        """How many there are."""
        return sum(not session.closed for session in self.sessions)


def names_at(member: Member, *others: Member, tenant: str = "acme") -> Iterator[str]:
    """Think of names for profiles whose lanes are for the member to have."""
    alive = [one.me for one in (member, *others)]
    named = (f"p{number}" for number in itertools.count())
    return (name for name in named if chosen(alive, (tenant, name)) == member.me)


async def until(predicate: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until this holds."""
    async with asyncio.timeout(seconds):
        while not predicate():
            await asyncio.sleep(0.01)
