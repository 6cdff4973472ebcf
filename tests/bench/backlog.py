"""How fast the store gives mail out and takes results when little and when much is queued.

Works on the real store without a daemon around it: fills it, then claims and settles batches, at each depth. Run as
`python -m tests.bench.backlog STORE BATCHES DEPTH…`, where STORE is a new file or the URL of an empty PostgreSQL; prints
rows per second by depth as JSON.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import uvloop

from gateway.message.notification import new_id
from gateway.store.postgresql import PostgresqlStore
from gateway.store.postgresql.server import Server
from gateway.store.protocol import Store
from gateway.store.rows import Claim, Flow, LeasedRow, NewRow, Settlement, Stage
from gateway.store.sqlite import SqliteStore
from tests.bench.loadgen import TEXT

FLOW = Flow("acme", "")
BATCH = 200
FILL = 500
LAPS = 3
REST = 0.3  # seconds in which the log of the filling is folded back into the file
DAY = 86_400_000
RELAYED = '[["ann@example.test","to",null,"relayed",1,0,0,250,"2.0.0","Ok","acme/main"]]'
CONTENT = json.dumps({"to": [["ann@example.test", ""]], "subject": "Export finished", "text": TEXT})


def opened(named: str) -> "SqliteStore | PostgresqlStore":
    """The store of that name."""
    return PostgresqlStore(Server(named), breath=0.0) if named.startswith("postgresql://") else SqliteStore(Path(named))


async def measure(named: str, batches: int, depths: list[int]) -> dict[int, float]:
    """Rows claimed and settled in a second, by rows that were ready when it began; the median of some laps."""
    async with opened(named) as store:
        queue = _Queue(store)
        return {depth: median([await queue.lap(depth, batches) for _ in range(LAPS)]) for depth in sorted(depths)}


@dataclass(slots=True)
class _Queue:
    """A store, and how many rows are ready in it."""

    store: Store
    ready: int = 0

    async def lap(self, depth: int, batches: int) -> float:
        """Fill up to a depth, then deliver some batches; rows per second of the latter."""
        while self.ready < depth:
            await self.store.accept([fresh_row() for _ in range(FILL)], now())
            self.ready += FILL
        await asyncio.sleep(REST)
        began = time.perf_counter()
        for _ in range(batches):
            self.ready -= await deliver(self.store)
        return batches * BATCH / (time.perf_counter() - began)


async def deliver(store: Store, least: int = BATCH) -> int:
    """Claim some rows and settle them as relayed; RuntimeError if there were fewer than `least`, or one was not written."""
    at = now()
    claimed = await store.claim(Claim(FLOW, BATCH, at, at + 120_000))
    written = await asyncio.gather(*(store.settle(_result(row, at)) for row in claimed.rows))
    if len(written) < least or not all(written):
        raise RuntimeError(f"{sum(written)} of {BATCH} results were written")
    return len(written)


def now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def fresh_row() -> NewRow:
    """A notification that is due."""
    at = now()
    id_ = new_id(at)
    return NewRow(
        id=id_, flow=FLOW, category="general", key_id="bench", priority=1, due_at=at, expires_at=at + DAY,
        accepted_at=at, recipients=f'[["ann@example.test","to",{at}]]', envelope=f'["<{id_}@example.test>","info","retry"]',
        content=CONTENT, answer="{}",
    )  # fmt: skip


def _result(row: LeasedRow, at: int) -> Settlement:
    return Settlement(
        seq=row.seq, lease_token=row.lease_token, stage=Stage.FINAL, status="relayed", due_at=row.due_at,
        finished_at=at, recipients=RELAYED, events=f'[{at},"relayed","250 2.0.0 Ok"]', erase=True,
    )  # fmt: skip


def main() -> None:
    """Read the command line, print the rates."""
    named, batches, *depths = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rates = runner.run(measure(named, int(batches), [int(depth) for depth in depths]))
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
