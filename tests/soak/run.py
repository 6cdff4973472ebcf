"""One soak: the daemon under load, with errands and faults, for as long as was asked; then the account is settled."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

from tests.soak.account import Account
from tests.soak.errands import Errands
from tests.soak.faults import KINDS, SHARE, Faults
from tests.soak.load import Load
from tests.soak.place import place
from tests.soak.watch import PREFIX, Rest, Sample, Watch, at_rest, scrape

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from tests.soak.place import Place

UNIT: Final = Path(__file__).parents[2] / "systemd" / "notification-gateway.service"
WARM_UP: Final = 1200.0  # seconds, or a third of the time if that is less
EVERY: Final = 10.0  # seconds between two looks, or so that there are a hundred
DRAIN: Final = 90.0  # seconds for all mail to come to an end
LONGEST_FAULT: Final = 5.0  # seconds
LONG: Final = 600.0  # seconds, from which on memory is to be flat
KEYS: Final = 60_000  # more than the database's cache holds
ERRANDS: Final = 50.0  # notifications to one errand
BAD_WORDS: Final = frozenset({
    "loop_died", "request_failed", "opening_failed", "row_unreadable", "entry_unreadable", "reload_failed", "store_stuck",
    "store_broken", "store_away", "lanes_lost",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how much, and with which dice; `rate` is notifications a second."""

    seconds: float
    rate: float = 100.0
    seed: int = 7

    @property
    def warm_up(self) -> float:
        """Seconds after which figures count."""
        return min(WARM_UP, self.seconds / 3)

    @property
    def every(self) -> float:
        """Seconds between two looks."""
        return min(EVERY, self.seconds / 100)

    @property
    def fault(self) -> float:
        """Seconds that a fault lasts: a short run shall see each kind, too."""
        return min(LONGEST_FAULT, SHARE * self.seconds / (KINDS + 1))

    @property
    def keys(self) -> int:
        """Idempotency keys that the database has at the beginning."""
        return KEYS if self.seconds >= LONG else 0


@dataclass
class Soaked:
    """What came of it."""

    plan: Plan
    samples: list[Sample]
    account: Account
    surprises: Counter[str]
    answers: Counter[str]
    faults: Mapping[str, int]
    errands: int
    keyed: int
    late: int
    rested: Rest  # before it all began …
    rests: Rest  # … and after it
    outcomes: Mapping[str, int]  # of recipients, as the daemon counts
    webhooks: int  # events that the endpoint took
    left: int  # notifications that are still in the store, not final
    exit_code: int
    said: Counter[str] = field(default_factory=Counter)  # what the daemon's log holds, by event

    @property
    def steady(self) -> list[Sample]:
        """The looks after the warm-up."""
        return [sample for sample in self.samples if sample.at >= self.plan.warm_up]

    @property
    def bad_words(self) -> dict[str, int]:
        """What the log must not hold."""
        return {word: count for word, count in self.said.items() if word in BAD_WORDS or word == "?"}


async def soak(
    plan: Plan, folder: Path, *, store: str = "sqlite:///gateway.db", environ: Mapping[str, str] | None = None
) -> Soaked:
    """Run it all, in the environment that the unit gives."""
    dice = random.Random(plan.seed)
    async with place(folder, store) as here:
        await here.daemon.start(environ={**_of_the_unit(), **(environ or {})})
        rested = await _at_rest(here)
        async with Load(here, plan.rate, dice) as load:
            errands = Errands(here, load, ERRANDS / plan.rate, dice)
            faults = Faults(here, plan.fault, dice)
            watch = Watch(here, load.ledger, plan.every)
            await errands.prepare()
            await errands.fill(plan.keys)
            await load.connect()
            async with _beside(load.run(), errands.run(), errands.reload(), faults.run(), watch.run()):
                await asyncio.sleep(plan.seconds)
            left = await _drained(here, load, errands)
        metrics, rests = await _metrics(here), await _at_rest(here, rested)
        code = await here.daemon.stop()
        here.tidy()
        return Soaked(
            plan=plan, samples=watch.samples, account=Account.of(load.ledger, here.relayed),
            surprises=load.ledger.surprises, answers=load.ledger.answers, faults=faults.happened, errands=errands.done,
            keyed=load.ledger.keyed, late=load.ledger.late, left=left, exit_code=code,
            rested=rested, rests=rests, outcomes=_outcomes(metrics), webhooks=here.endpoint.taken.total(), said=_said(here),
        )  # fmt: skip


def _of_the_unit() -> dict[str, str]:
    settings = (line.partition("=") for line in UNIT.read_text().splitlines())
    return dict(value.split("=", 1) for name, _, value in settings if name == "Environment")


@asynccontextmanager
async def _beside(*work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Work on all of these for as long as the block lasts, unless one of them fails."""
    async with asyncio.TaskGroup() as tasks:
        begun = [tasks.create_task(one) for one in work]
        yield
        for one in begun:
            one.cancel()


async def _drained(here: Place, load: Load, errands: Errands) -> int:
    """Help all mail to its end, as an operator would; answers how many notifications have none."""
    await errands.resume()
    until = time.monotonic() + DRAIN
    while (unfinished := (await _metrics(here))[PREFIX + "outbox_unfinished"]) and time.monotonic() < until:
        _, page = await load.ask("GET", "/v1/notifications?limit=200", "admin", 200)
        for item in page["items"]:
            where = f"/v1/notifications/{item['id']}"
            if item["profile"] == "scratch":
                await load.cancel("admin", item["id"])
            elif item["status"] in ("deferred", "held"):
                await load.ask("POST", f"{where}/retry", "admin", 200, 404, 409)
        await asyncio.sleep(1)
    return int(unfinished)


async def _at_rest(here: Place, like: Rest | None = None) -> Rest:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{here.daemon.metrics}") as session:
        return await at_rest(session, like)


async def _metrics(here: Place) -> dict[str, float]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{here.daemon.metrics}") as session:
        return await scrape(session)


def _outcomes(metrics: Mapping[str, float]) -> dict[str, int]:
    name = f'{PREFIX}recipient_outcomes_total{{outcome="'
    return {one.removeprefix(name).rstrip('"}'): int(count) for one, count in metrics.items() if one.startswith(name)}


def _said(here: Place) -> Counter[str]:
    """Count the log's lines by their event; `?` is what is no line of the log's."""
    said: Counter[str] = Counter()
    with (here.daemon.folder / "log").open() as log:
        for line in log:
            try:
                said[json.loads(line)["event"]] += 1
            except (ValueError, KeyError, TypeError):
                said["?"] += 1
    return said
