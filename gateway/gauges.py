"""What nobody tells because it does not happen but is so: read now and then, for those who watch.

Each second what costs nothing to know; how late the loop is ten times a second; and what has to be counted in the
database every fifteen seconds, or so much more seldom that counting takes a fiftieth of the time at most.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from gateway.http.server import HttpServer
from gateway.observe import facts
from gateway.observe.certificates import Role, first_end
from gateway.outbox.outbox import Outbox
from gateway.relay.dispatcher import Dispatcher
from gateway.settings import Settings
from gateway.store.protocol import Store, StoreError
from gateway.store.rows import Wait

T = TypeVar("T")

EVERY: Final = 15.0  # seconds
SHARE: Final = 50
LAG_EVERY: Final = 0.1
WAITING: Final = frozenset({Wait.READY, Wait.SCHEDULED, Wait.DEFERRED})
TURN: Final = 256  # flows that are looked at before others get their turn


@dataclass(slots=True)
class Gauges:
    """Reads a running daemon. `reasons` tells why it is not ready; `certificates` where those of connections lie."""

    outbox: Outbox
    store: Store
    dispatcher: Dispatcher
    servers: Sequence[HttpServer]
    reasons: Callable[[], list[str]]
    certificates: Mapping[Role, Path]
    _away: bool = False

    async def each_second(self) -> None:
        """Tell what costs nothing to know, for ever."""
        while True:
            reasons = self.reasons()
            facts.gauges(
                ready=not reasons,
                space_low="storage_full" in reasons,
                unfinished=sum(self.outbox.queued.values()),
                in_hand=self.outbox.in_hand,
                in_flight=sum(server.answering for server in self.servers),
                connections=sum(server.connections for server in self.servers),
                tasks=len(asyncio.all_tasks()),
            )
            if self._away != ("store_away" in reasons):
                self._away = not self._away
                facts.store_away(away=self._away)
            await asyncio.sleep(1)

    async def loop_lag(self) -> None:
        """Tell how late the loop is, for ever."""
        now = asyncio.get_running_loop().time
        while True:
            due = now() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            facts.loop_lag(max(0.0, now() - due))

    async def now_and_then(self) -> None:
        """Tell what has to be counted, for ever; while the store is away nothing new is told of it."""
        now = asyncio.get_running_loop().time
        while True:
            began = now()
            self._relays()
            facts.connection_certificates(await asyncio.to_thread(_ends, self.certificates))
            with suppress(StoreError, OSError):  # whoever needs the store will say so
                await self._store()
                await self._outbox()
            await asyncio.sleep(max(EVERY, SHARE * (now() - began)))

    def _relays(self) -> None:
        counts = self.dispatcher.counts()
        facts.profiles(counts.states, counts.parked)
        facts.breakers(counts.breakers, counts.longest)
        facts.relay_connections(counts.busy, counts.idle)
        facts.relays_used({(host, port) for host, port, _, _ in self.dispatcher.relays()})
        if self.store.roster is None:  # otherwise who has which lane is agreed on, and told then
            facts.lanes(sum(counts.states.values()))

    async def _store(self) -> None:
        health = await self.store.health()
        facts.store_size(health.size, health.log)
        facts.disk(health.free, health.floor)

    async def _outbox(self) -> None:
        """Tell how many wait how, the age of the oldest, and how long the most overdue is past its time (s)."""
        now = self.outbox.clock()
        depths: Counter[str] = Counter()
        oldest: dict[str, float] = {}
        overdue = 0
        async for one in _in_turns(await self.store.census(now)):
            state = "held" if one.wait in WAITING and self.dispatcher.holds(one.flow) else one.wait.value
            depths[state] += one.rows
            oldest[state] = max(oldest.get(state, 0.0), (now - one.oldest_at) / 1000)
            if one.wait in WAITING and now - one.due_at > overdue and self.dispatcher.may_send(one.flow):
                overdue = now - one.due_at
        facts.depths(depths, oldest)
        facts.overdue(overdue / 1000)


async def _in_turns(many: Sequence[T]) -> AsyncIterator[T]:
    """Give them one by one, and others their turn in between."""
    for number, one in enumerate(many):
        if number % TURN == TURN - 1:
            await asyncio.sleep(0)
        yield one


def certificate_files(settings: Settings) -> dict[Role, Path]:
    """Where the certificates of connections and OAuth providers lie: the client's own, and of whom is trusted."""
    return dict(_files(settings))


def _files(settings: Settings) -> Iterator[tuple[Role, Path]]:
    ends: Iterable[tuple[str, object]] = [*settings.connections.items(), *settings.oauth.items()]
    for name, end in ends:
        auth = getattr(end, "auth", None)
        client = [getattr(end, "client_certificate", None)]
        client += [getattr(auth, key, None) for key in ("client_certificate", "certificate")]
        for role, path in (("ca", getattr(end, "ca_certificates", None)), *(("client", one) for one in client)):
            if isinstance(path, Path):
                yield (name, role), path


def _ends(files: Mapping[Role, Path]) -> dict[Role, float]:
    ends = {}
    for role, path in files.items():
        with suppress(OSError):
            if (end := first_end(path.read_bytes())) is not None:
                ends[role] = end
    return ends
