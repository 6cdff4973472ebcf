"""Several daemons on one database, the relays that they share, and what is watched while they die.

Every daemon has a folder of its own, the same provisioning and the same keys. A relay knows by the name in EHLO whose
connection it has, so that what a death may send twice is counted, and not guessed.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Self

import asyncpg

from gateway.credentials.sealed import make_key_file
from gateway.directory.keys import new_key
from gateway.relay.dispatcher import UNCOMMITTED
from gateway.relay.limits import BURST_SECONDS
from tests.peers.smtp_server import ScriptedRelay
from tests.process.crash import Account, Load
from tests.process.daemon import Daemon, plain
from tests.process.engines import own_schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from tests.peers.postgresql import Postgresql
    from tests.peers.smtp_script import Session

PER_CONNECTION: Final = 1 + UNCOMMITTED  # one message whose dot has left, and those whose results are being committed
JITTER: Final = 1.0  # seconds between a daemon's decision to send and the relay's note of it
LONGEST_LEASE: Final = 41_000  # ms
LONGEST_WAIT: Final = 700_000  # ms; ten minutes and a fifth are the longest that this provisioning makes mail wait


class WatchedRelay(ScriptedRelay):
    """A relay that remembers how many connections it had at once."""

    def __init__(self, ledger: Path, **more: Any) -> None:
        """Keep the ledger in a file, and no content."""
        super().__init__(ledger_path=ledger, keep_data=False, **more)
        self.ledger = ledger
        self.most_open = 0

    def attach(self, connection: Any) -> Session:
        """Count a new connection."""
        session = super().attach(connection)
        self.most_open = max(self.most_open, len(self._connections))
        return session

    def carriers(self, *, since: int = 0) -> list[str]:
        """Name the daemons that brought the messages, from the one of this number on."""
        return [_greeted_by(self.sessions[caught.session_index]) for caught in self.messages[since:]]

    def exposed(self, daemon: Daemon) -> int:
        """How many connections are open that this daemon may have?"""
        return sum(not one.closed and _greeted_by(one) in ("", daemon.name) for one in self.sessions[-100:])

    def overspent(self, per_minute: int) -> float:
        """By how many messages was a rate exceeded, burst and jitter allowed, in the worst stretch of time?"""
        rate = per_minute / 60
        times = sorted(caught.at for caught in self.messages)
        ahead = [number - rate * at for number, at in enumerate(times)]
        least = accumulate(ahead, min)
        allowed = rate * (BURST_SECONDS + JITTER)
        return max((1 + high - low for high, low in zip(ahead, least, strict=True)), default=0.0) - allowed


def _greeted_by(session: Session) -> str:
    said = next((line for line in session.commands if line.upper().startswith("EHLO")), "")
    return said.partition(" ")[2].partition(".")[0]


@dataclass(frozen=True)
class Lane:
    """A profile of the tenant, with what its relay wants."""

    name: str
    limits: Mapping[str, int] = field(default_factory=dict)
    password: bool = False
    more: str = ""  # lines of TOML

    def profile(self, relay: WatchedRelay) -> str:
        """Write the profile as TOML."""
        told = plain(relay.port, relay.host, **self.limits) + "\n"
        if self.password:
            told += f'auth = {{username = "{self.name}", credential = {{source = "plaintext", value = "s3cret"}}}}\n'
        return told + self.more


@dataclass
class Cluster:
    """Daemons on one database. The first lane is the tenant's default, `main`."""

    folder: Path
    url: str
    relays: dict[str, WatchedRelay]
    daemons: list[Daemon]
    exposed: int = 0  # connections that were open at kills

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[asyncpg.Connection]:
        """Look into the database."""
        connection = await asyncpg.connect(self.url, timeout=5)
        try:
            yield connection
        finally:
            connection.terminate()

    async def one(self, sql: str, *values: object) -> Any:
        """Read one value from the database."""
        async with self.asked() as connection:
            return await connection.fetchval(sql, *values)

    async def ids(self, sql: str) -> set[str]:
        """Read ids from the database."""
        async with self.asked() as connection:
            return {id_ for (id_,) in await connection.fetch(sql)}

    async def start(self) -> Self:
        """Start all daemons at once."""
        await asyncio.gather(*(daemon.start() for daemon in self.daemons))
        return self

    async def kill(self, daemon: Daemon) -> None:
        """Kill a daemon, and count what that may send twice."""
        self.exposed += sum(relay.exposed(daemon) for relay in self.relays.values())
        await daemon.kill()

    async def holder(self, profile: str = "main") -> Daemon | None:
        """Which daemon has the lane of a profile?"""
        name = await self.one(
            "SELECT d.name FROM lane l JOIN daemon d ON d.id = l.daemon WHERE l.profile = $1", profile
        )
        found = [one for one in self.daemons if (one.folder / "admin.sock.id").read_text() == name]
        return found[0] if found else None

    async def held(self, profile: str = "main", but: Iterable[Daemon] = ()) -> Daemon:
        """Wait until a daemon has the lane, other than these; answers which."""
        found: list[Daemon] = []

        async def somebody_else() -> bool:
            holder = await self.holder(profile)
            found[:] = [holder] if holder is not None and holder not in but else []
            return bool(found)

        await until(somebody_else, 60)
        return found[0]

    async def other(self, profile: str = "main") -> tuple[Daemon, Daemon]:
        """Give the daemon that has the lane, and one that has not."""
        holder = await self.held(profile)
        return holder, next(one for one in self.daemons if one is not holder and one.up)

    async def unfinished(self) -> int:
        """Count what is not final."""
        return int(await self.one("SELECT count(*) FROM queue"))

    async def emptied(self, seconds: float = 60) -> None:
        """Wait until nothing is left to do."""

        async def empty() -> bool:
            return await self.unfinished() == 0

        await until(empty, seconds)

    @property
    def relayed(self) -> int:
        """How many messages the relays have taken."""
        return sum(len(relay.messages) for relay in self.relays.values())

    def account(self) -> Account:
        """Settle the accounts of all relays together."""
        return Account.of(*(relay.ledger for relay in self.relays.values()))

    def load(self, profile: str, *, ahead: int, callers: int = 2, batch: int = 10, **body: object) -> Load:
        """Give callers that post for a profile, and never much more than so many ahead of its relay."""
        relay = self.relays[profile]

        def room(accepted: int) -> bool:
            return accepted - len(relay.messages) < ahead

        return Load(self.daemons, {"profile": profile, **body}, profile, callers, batch, room)


@asynccontextmanager
async def cluster(
    folder: Path, postgresql: Postgresql, lanes: Iterable[Lane], size: int = 3, **settings: str
) -> AsyncIterator[Cluster]:
    """Make an installation of several daemons, and relays; nothing is started yet, and in the end all is gone."""
    first, *others = lanes
    async with AsyncExitStack() as stack:
        relays = {
            lane.name: await stack.enter_async_context(_relay(folder, lane, number))
            for number, lane in enumerate((first, *others), start=2)
        }
        url = await stack.enter_async_context(own_schema(postgresql))
        more = "".join(
            f'[[profiles]]\ntenant = "acme"\nname = "{lane.name}"\n{lane.profile(relays[lane.name])}\n'
            f'from = {{address = "{lane.name}@acme.example.test"}}\n'
            for lane in others
        )
        profile = first.profile(relays[first.name])
        daemons = [
            Daemon(folder / f"gateway-{n}", profile, more_tenants=more, store=url, name=f"gateway-{n}", **settings)
            for n in range(size)
        ]
        _give_keys(folder, daemons)
        made = Cluster(folder, url, relays, daemons)
        try:
            yield made
        finally:
            await asyncio.gather(*(daemon.kill() for daemon in daemons if daemon.process is not None))


def _relay(folder: Path, lane: Lane, number: int) -> WatchedRelay:
    """Make a lane's relay: at an address of its own, for no two profiles have the same account."""
    host = "127.0.0.1" if lane.password else f"127.0.0.{number}"
    return WatchedRelay(folder / f"ledger-{lane.name}", host=host, users={lane.name: "s3cret"})


def _give_keys(folder: Path, daemons: Iterable[Daemon]) -> None:
    """Make the keys once, and give them to all."""
    made = folder / "keys"
    made.mkdir()
    make_key_file(made / "master.key")
    for name in ("app.key", "admin.key"):
        (made / name).touch(0o600)
        (made / name).write_text(new_key().text())
    for daemon in daemons:
        shutil.copytree(made, daemon.folder, dirs_exist_ok=True)


async def until(condition: Callable[[], Any], seconds: float) -> float:
    """Ask again and again until a condition holds; answers after how many seconds."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while True:
            held = condition()
            if await held if inspect.isawaitable(held) else held:
                return time.monotonic() - began
            await asyncio.sleep(0.02)


@dataclass
class Stuck:
    """Watches, for as long as it runs, that every row which is not final has something coming to it."""

    cluster: Cluster
    looks: int = 0
    found: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Look twice a second, whenever the database answers."""
        while True:
            try:
                async with self.cluster.asked() as connection:
                    self.found += [str(dict(row)) for row in await connection.fetch(STUCK, LONGEST_LEASE, LONGEST_WAIT)]
                    self.looks += 1
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass  # the database is away
            await asyncio.sleep(0.5)


# Ready with a time at which it goes, leased with a lease that ends, and nothing that rests: nobody was asked.
STUCK: Final = """
WITH clock AS (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now)
SELECT q.*, clock.now FROM queue q, clock
 WHERE NOT CASE q.stage WHEN 0 THEN q.due_at < now + $2 AND q.expires_at > now - 60000
                        WHEN 1 THEN q.lease_until < now + $1 ELSE false END"""
