"""Who works on the database, and which of them has which lane.

A daemon is a row whose lease it renews with every beat. The first to find a lease over takes the row away, and with it
everything that hung on it: lanes, and claimed mail. A daemon that finds its row gone was slow, not dead; it begins anew
under another id, and what it held is others' by then.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Final

import asyncpg

from gateway.observe import facts
from gateway.store.clock import ServerClock
from gateway.store.postgresql.server import Connection, Server
from gateway.store.protocol import StoreBroken, StoreError
from gateway.store.rows import DaemonRow, Place, Pulse

DAEMON_LEASE: Final = 30_000  # ms
LONGEST_PAUSE: Final = 5.0  # seconds between beats that are regular
REGULAR: Final = 10.0  # seconds of regular beats before others are given up: a server that was away was so for all
CONNECTIONS: Final = 2  # of its own: who has much to read or to write must not look dead
GOODBYE: Final = 5.0  # seconds
LANE_REMEMBERED: Final = 3_600_000  # ms, after it was given up
LISTEN_AGAIN: Final = 1.0  # seconds
STILL_THERE: Final = 10.0  # seconds after which a connection that said nothing is asked
LONGEST_NEWS: Final = 7_000  # bytes; the server takes 8,000

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_BEAT: Final = f"""
WITH beat AS (UPDATE daemon SET lease_until = {_NOW} + $2, retiring = $3 WHERE id = $1 RETURNING id)
SELECT {_NOW}, (SELECT id FROM beat), (SELECT value::bigint FROM meta WHERE name = 'directory_revision'),
       (SELECT coalesce(array_agg(id ORDER BY id), '{{}}') FROM daemon
         WHERE lease_until > {_NOW} AND id <> $1 AND NOT retiring),
       EXISTS (SELECT FROM daemon WHERE lease_until <= {_NOW} AND id <> $1)"""
_REAP: Final = f"DELETE FROM daemon WHERE lease_until <= {_NOW}"
_LANES: Final = "SELECT tenant, profile, state, resumes, daemon FROM lane WHERE state <> 'active' OR resumes > 0"
_DAEMONS: Final = f"""
SELECT d.host, d.began_at, (SELECT count(*) FROM lane l WHERE l.daemon = d.id), d.retiring, d.id = $1
  FROM daemon d WHERE d.lease_until > {_NOW} ORDER BY d.began_at NULLS FIRST, d.id"""
_LEFT: Final = "DELETE FROM daemon WHERE name = $1"
_ENTER: Final = f"""
INSERT INTO daemon (name, host, lease_until) SELECT $1::text, $3::text, {_NOW} + $2
 WHERE NOT EXISTS (SELECT FROM meta WHERE name = 'moving_from') RETURNING id"""
_LOCK: Final = """
INSERT INTO lane (tenant, profile, spent_until) SELECT *, 0 FROM unnest($1::text[], $2::text[]) ORDER BY 1, 2
ON CONFLICT (tenant, profile) DO UPDATE SET tenant = EXCLUDED.tenant WHERE false"""
_TAKE: Final = """
UPDATE lane l SET daemon = $3, state = 'active', spent_until = CASE WHEN l.daemon IS NULL THEN l.spent_until END
  FROM unnest($1::text[], $2::text[]) AS g(tenant, profile)
 WHERE l.tenant = g.tenant AND l.profile = g.profile
   AND (l.daemon IS NULL OR l.daemon = $3 OR NOT EXISTS (SELECT FROM daemon d WHERE d.id = l.daemon))
RETURNING l.tenant, l.profile, l.spent_until"""


class PostgresqlRoster:
    """`Roster` on the tables `daemon` and `lane`."""

    def __init__(
        self, server: Server, clock: ServerClock, name: str, *, lease: int = DAEMON_LEASE, regular: float = REGULAR
    ) -> None:
        """Begin outside. `lease` (ms) is how long a beat lasts, `regular` (s) how long to beat before others are dead."""
        self.me = 0
        self._whole = self._server = server
        self._clock = clock
        self._name = name
        self._heard: Callable[[str | None], None] = lambda _news: None
        self._listening: asyncio.Task[None] | None = None
        self._lease = lease
        self._regular = regular
        self._asked = 0.0
        self._regular_since = 0.0
        self._reborn = False

    async def enter(self) -> None:
        """Come in under the name; whoever had it before is dead."""
        self._server = self._whole.apart(CONNECTIONS)  # whose schema is known by now
        await self._server.open()
        try:
            await self._come_in()
            await self.beat()
        except BaseException:
            await self._server.close()
            raise

    async def _come_in(self) -> None:
        """Become a new daemon, also where another one was quicker under our name: an id is one process' only."""
        await self._server.fetch(_LEFT, self._name)
        me = await self._server.fetchval(_ENTER, self._name, self._lease, socket.gethostname())
        if me is None:
            raise StoreBroken("another installation is being moved to this database")
        self.me = me

    async def exit(self) -> None:
        """Go, and leave everything to the others."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        try:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(GOODBYE):
                    await self._server.fetch("DELETE FROM daemon WHERE id = $1", self.me)
        finally:
            await self._server.close()

    async def beat(self, *, retiring: bool = False) -> Pulse:
        """Say that this daemon lives, and learn what the others do; one that is retiring gets no lanes any more."""
        asked = self._clock.elapsed()
        [(now, me, revision, others, dead)] = await self._server.fetch(_BEAT, self.me, self._lease, retiring)
        jumped = abs(now - self._clock()) > LONGEST_PAUSE * 1000
        self._clock.told(asked, now)
        if me is None:
            await self._come_in()
            self._reborn = True  # until it is told, whatever fails in between
        if jumped or asked - self._asked > LONGEST_PAUSE:  # or its clock was set, and so for all
            self._regular_since = asked
        self._asked = asked
        if dead and asked - self._regular_since >= self._regular:
            await self._server.fetch(_REAP)
        lanes = await self._server.fetch(_LANES)
        reborn, self._reborn = self._reborn, False
        return Pulse(
            self.me,
            tuple(sorted(others if retiring else (*others, self.me))),
            revision,
            reborn,
            {(tenant, profile): state for tenant, profile, state, _, daemon in lanes if daemon in others},
            {(tenant, profile): resumes for tenant, profile, _, resumes, _ in lanes if resumes},
        )

    async def take(self, lanes: Sequence[Place]) -> dict[Place, int | None]:
        """Take those of the lanes that no living daemon has; answers which are ours now, and how far spent."""
        me, columns = self.me, _columns(lanes)

        async def work(connection: Connection) -> list[asyncpg.Record]:
            async with connection.transaction():
                await connection.execute(_LOCK, *columns)
                # A statement of its own: it sees every daemon that had a lane before that lane was locked.
                return list(await connection.fetch(_TAKE, *columns, me))

        facts.statements(4)
        rows = await self._server.run(work)
        return {(tenant, profile): spent_until for tenant, profile, spent_until in rows}

    async def held(self) -> list[Place]:
        """Read which lanes are ours."""
        rows = await self._server.fetch("SELECT tenant, profile FROM lane WHERE daemon = $1", self.me)
        return [(tenant, profile) for tenant, profile in rows]

    async def leave(self, lanes: Sequence[tuple[Place, int | None]]) -> None:
        """Give lanes of ours up, with the time until which the rate of each is spent; None: nobody knows."""
        await self._server.fetch(
            "UPDATE lane l SET daemon = NULL, state = 'active', spent_until = g.spent_until"
            " FROM unnest($1::text[], $2::text[], $3::bigint[]) AS g(tenant, profile, spent_until)"
            " WHERE l.tenant = g.tenant AND l.profile = g.profile AND l.daemon = $4",
            *_columns([lane for lane, _ in lanes]), [spent_until for _, spent_until in lanes], self.me,
        )  # fmt: skip

    async def prune(self, now: int) -> None:
        """Delete the lanes that nobody has and whose rate is spent no more; who takes one at the moment keeps it."""
        await self._server.fetch(
            "WITH over AS (SELECT tenant, profile FROM lane WHERE daemon IS NULL AND spent_until < $1"
            " FOR UPDATE SKIP LOCKED)"
            " DELETE FROM lane l USING over WHERE l.tenant = over.tenant AND l.profile = over.profile",
            now - LANE_REMEMBERED,
        )

    async def tell(self, states: Sequence[tuple[Place, str]]) -> None:
        """Tell how lanes of ours stand."""
        await self._server.fetch(
            "UPDATE lane l SET state = g.state FROM unnest($1::text[], $2::text[], $3::text[]) AS g(tenant, profile, state)"
            " WHERE l.tenant = g.tenant AND l.profile = g.profile AND l.daemon = $4",
            *_columns([lane for lane, _ in states]), [state for _, state in states], self.me,
        )  # fmt: skip

    async def resume(self, lane: Place) -> None:
        """Let whoever has the lane know that a person lets it go on."""
        await self._server.fetch("UPDATE lane SET resumes = resumes + 1 WHERE tenant = $1 AND profile = $2", *lane)

    async def daemons(self) -> list[DaemonRow]:
        """Read who lives, the longest first."""
        return [DaemonRow._make(row) for row in await self._server.fetch(_DAEMONS, self.me)]

    # Words.

    @property
    def channel(self) -> str:
        """A name has 63 bytes, of which a schema's may take all."""
        return f"notification_gateway_{blake2b(self._server.schema.encode(), digest_size=8).hexdigest()}"

    async def notify(self, news: str) -> None:
        """Send a few words to all daemons; they may be lost, and are if they are more than `LONGEST_NEWS`."""
        if len(news.encode()) <= LONGEST_NEWS:
            await self._server.fetch("SELECT pg_notify($1, $2)", self.channel, news)

    def listen(self, heard: Callable[[str | None], None]) -> None:
        """Hear what is sent, ourselves included; None: something may have been missed."""
        self._heard = heard
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        """Keep a connection that listens; whenever it is new, something may have been missed."""
        deaf = False
        while True:
            try:
                connection = await self._server.listener()
                try:
                    ended = asyncio.Event()
                    connection.add_termination_listener(lambda _connection, ended=ended: ended.set())
                    await connection.add_listener(self.channel, lambda *told: self._heard(str(told[-1])))
                    self._heard(None)
                    deaf = False
                    while not ended.is_set():
                        with suppress(TimeoutError):
                            async with asyncio.timeout(STILL_THERE):
                                await ended.wait()
                        await connection.execute("SELECT")
                finally:
                    connection.terminate()
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody would hear of it, and the next may listen
                if not deaf:  # told once, however long it lasts
                    facts.words_missed(error)
                deaf = True
            await asyncio.sleep(LISTEN_AGAIN)


def _columns(lanes: Sequence[Place]) -> tuple[list[str], list[str]]:
    return [tenant for tenant, _ in lanes], [profile for _, profile in lanes]
