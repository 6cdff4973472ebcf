"""What a soak's figures say: a table, whether each of them is within its bound, and everything as JSON for later.

What must not grow is compared by medians of the first and the last third of the time after the warm-up, as a single look
falls into a fault or a reload sooner or later; and before and after it all, when nothing is left to do.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.soak.slope import grows, slope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.soak.run import Soaked
    from tests.soak.watch import Sample

LEAK: Final = 1.0  # MiB an hour
DESCRIPTORS: Final = 2
TASKS: Final = 5
LANES: Final = 10  # each lane has a task, and each webhook, which are there with their first mail
THREADS: Final = 1
WAL: Final = 64.0  # MiB


@dataclass(frozen=True, slots=True)
class Line:
    """A figure of the report; `kept` is None if nothing is asked of it."""

    what: str
    measured: str
    bound: str = ""
    kept: bool | None = None


def lines(soaked: Soaked) -> list[Line]:
    """Judge everything."""
    return [*process(soaked), *account(soaked)]


def process(soaked: Soaked) -> Iterator[Line]:
    """Judge how the process stood: a short run finds only large leaks, as the intervals tell."""
    seconds = [sample.at for sample in soaked.steady]
    for what, pick in (("resident memory", _rss), ("of it anonymous", _anonymous)):
        values = [pick(sample) for sample in soaked.steady]
        first, last = _thirds(soaked, pick)
        told = f"{first:.1f} → {last:.1f}, an hour {slope(seconds, values)}"
        yield Line(f"{what}, MiB", told, f"≤ {LEAK:.0f} an hour", not grows(seconds, values, LEAK))
    yield _flat(soaked, "descriptors", lambda sample: sample.descriptors, DESCRIPTORS)
    if all(sample.tasks is not None for sample in soaked.steady):
        yield _flat(soaked, "asyncio tasks", lambda sample: sample.tasks or 0, TASKS)
    yield _flat(soaked, "threads", lambda sample: sample.threads, THREADS)
    before, after = soaked.rested, soaked.rests
    for what, began, ended, bound in (
        ("descriptors", before.descriptors, after.descriptors, DESCRIPTORS), ("tasks", before.tasks, after.tasks, LANES),
    ):  # fmt: skip
        yield Line(f"{what} at rest, before and after", f"{began} → {ended}", f"≤ {bound} more", ended - began <= bound)
    if all(sample.wal is not None for sample in soaked.steady):
        most = max(sample.wal or 0.0 for sample in soaked.samples)
        yield Line("write-ahead log, MiB at most", f"{most:.1f}", f"≤ {WAL:.0f}", most <= WAL)
        first, last = _thirds(soaked, lambda sample: sample.database or 0.0)
        yield Line("database, MiB", f"{first:.1f} → {last:.1f}")
    first, last = _thirds(soaked, lambda sample: 1000 * (sample.accept_p99 or 0.0))
    yield Line("accept p99, ms", f"{first:.0f} → {last:.0f}")


def account(soaked: Soaked) -> Iterator[Line]:
    """Judge what became of the mail, and how it was told."""
    settled, expired = soaked.account, soaked.outcomes.get("expired", 0)
    fates = ", ".join(f"{count} {fate}" for fate, count in settled.fates.most_common() if fate != "lost")
    yield Line("recipients promised", f"{settled.fates.total()}: {fates}")
    yield Line("of unknown fate", str(len(settled.lost)), "0", not settled.lost)
    said = settled.fates["expired"]
    yield Line("expired as the daemon counts", str(expired), str(said), expired == said)
    yield Line(
        "copies too many", f"{settled.copies}, unexplained {len(settled.unexplained)}", "0", not settled.unexplained
    )
    yield Line("mail that nobody was promised", str(len(settled.unasked)), "0", not settled.unasked)
    yield Line("left in the queue", str(soaked.left), "0", soaked.left == 0)
    yield Line("answers that should not have been", _told(soaked.surprises), "none", not soaked.surprises)
    yield Line("errors in the log", _told(soaked.bad_words), "none", not soaked.bad_words)
    yield Line("exit code after SIGTERM", str(soaked.exit_code), "0", soaked.exit_code == 0)


def _rss(sample: Sample) -> float:
    return sample.rss


def _anonymous(sample: Sample) -> float:
    return sample.anonymous


def _flat(soaked: Soaked, what: str, pick: Callable[[Sample], float], bound: int) -> Line:
    first, last = _thirds(soaked, pick)
    most = max(map(pick, soaked.samples))
    return Line(what, f"{first:g} → {last:g}, at most {most:g}", f"≤ {bound} more", last - first <= bound)


def _thirds(soaked: Soaked, pick: Callable[[Sample], float]) -> tuple[float, float]:
    """Give the medians of the first and the last third of the time after the warm-up."""
    values = [pick(sample) for sample in soaked.steady]
    third = max(1, len(values) // 3)
    return median(values[:third]), median(values[-third:])


def _told(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count}× {what}" for what, count in counted.items()) or "none"


def table(soaked: Soaked) -> str:
    """Write the report in Markdown."""
    plan = soaked.plan
    head = (
        f"{plan.seconds / 60:g} minutes ({plan.warm_up / 60:g} of them warm-up), {plan.rate:g} notifications/s,"
        f" {sum(soaked.answers.values())} requests, {soaked.errands} errands, {sum(soaked.faults.values())} faults,"
        f" {soaked.webhooks} webhooks:"
    )
    rows = [f"| {line.what} | {line.measured} | {line.bound} | {_mark(line)} |" for line in lines(soaked)]
    return "\n".join([head, "", "| what | measured | bound | |", "| --- | --- | --- | --- |", *rows])


def _mark(line: Line) -> str:
    return "" if line.kept is None else "kept" if line.kept else "**broken**"


def broken(judged: Iterable[Line]) -> list[Line]:
    """Give the lines whose bound is broken."""
    return [line for line in judged if line.kept is False]


def write(soaked: Soaked, file: Path) -> None:
    """Write everything that was measured."""
    document: dict[str, Any] = {
        "plan": asdict(soaked.plan),
        "lines": [asdict(line) for line in lines(soaked)],
        "fates": soaked.account.fates,
        "lost": soaked.account.lost,
        "copies": soaked.account.copies,
        "unexplained": soaked.account.unexplained,
        "unasked": soaked.account.unasked,
        "surprises": soaked.surprises,
        "answers": soaked.answers,
        "faults": dict(soaked.faults),
        "log": soaked.said,
        "outcomes": dict(soaked.outcomes),
        "late": soaked.late,
        "samples": [asdict(sample) for sample in soaked.samples],
    }
    file.write_text(json.dumps(document, indent=1))
