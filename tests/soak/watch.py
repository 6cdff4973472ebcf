"""What is measured, from outside: the daemon's process as the kernel tells of it, its metrics, its files."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

from tests.bench.figures import quantile

if TYPE_CHECKING:
    from tests.soak.load import Ledger
    from tests.soak.place import Place

LEAVE_SECONDS: Final = 30.0
MEBIBYTE: Final = 1 << 20
PREFIX: Final = "notification_gateway_"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. Sizes in MiB, times in seconds; None where nobody tells."""

    at: float  # since the load began
    rss: float
    anonymous: float  # of it what is no file's: memory that the kernel cannot take away, nor a leak hide in
    descriptors: int
    threads: int
    tasks: int | None
    waiting: int  # notifications that are not final
    database: float | None
    wal: float | None
    accept_p99: float | None
    scrape: float  # how long the metrics took: a loop that lags takes longer


@dataclass(frozen=True, slots=True)
class Rest:
    """What a daemon holds that has nothing to do."""

    descriptors: int
    tasks: int


@dataclass
class Watch:
    """Looks at the daemon every `every` seconds."""

    place: Place
    ledger: Ledger
    every: float
    samples: list[Sample] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)  # as they stood at the last look

    async def run(self) -> None:
        """Look, for ever."""
        began = time.monotonic()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.place.daemon.metrics}") as session:
            for lap in itertools.count(1):
                self.samples.append(await self._look(session, time.monotonic() - began))
                await asyncio.sleep(max(0.0, began + lap * self.every - time.monotonic()))

    async def _look(self, session: aiohttp.ClientSession, at: float) -> Sample:
        asked = time.monotonic()
        self.metrics = await scrape(session)
        scraped = time.monotonic() - asked
        assert self.place.daemon.process is not None
        process = Path(f"/proc/{self.place.daemon.process.pid}")
        status = _sizes(process / "status")  # which anybody may read; more is for root, of a process that dumps no core
        tasks = self.metrics.get(PREFIX + "tasks")
        latencies, self.ledger.latencies = sorted(self.ledger.latencies), []
        return Sample(
            at=at,
            rss=status["VmRSS"] / 1024,
            anonymous=status["RssAnon"] / 1024,
            descriptors=int(self.metrics[PREFIX + "process_open_fds"]),
            threads=status["Threads"],
            tasks=None if tasks is None else int(tasks),
            waiting=int(self.metrics[PREFIX + "outbox_unfinished"]),
            database=_size(self.place.daemon.folder / "gateway.db"),
            wal=_size(self.place.daemon.folder / "gateway.db-wal"),
            accept_p99=quantile(latencies, 0.99) if latencies else None,
            scrape=scraped,
        )


async def at_rest(session: aiohttp.ClientSession, like: Rest | None = None) -> Rest:
    """Read what it holds; wait for a while until that is no more than `like` something, as idle sessions take their leave."""
    until = time.monotonic() + LEAVE_SECONDS
    while True:
        metrics = await scrape(session)
        rest = Rest(int(metrics[PREFIX + "process_open_fds"]), int(metrics[PREFIX + "tasks"]))
        calm = like is None or (rest.descriptors <= like.descriptors and rest.tasks <= like.tasks)
        if calm or time.monotonic() > until:
            return rest
        await asyncio.sleep(1)


async def scrape(session: aiohttp.ClientSession) -> dict[str, float]:
    """Read the metrics, by name with labels."""
    async with session.get("/metrics") as response:
        text = await response.text()
    pairs = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def _sizes(file: Path) -> dict[str, int]:
    """Read the numbers of a file of proc(5); sizes are in KiB."""
    pairs = (line.split() for line in file.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in pairs if len(words) > 1 and words[1].isdecimal()}


def _size(file: Path) -> float | None:
    return file.stat().st_size / MEBIBYTE if file.exists() else None
