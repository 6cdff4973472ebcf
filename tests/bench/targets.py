"""The performance targets: what figures they look at, the floor, and what is wanted."""

from dataclasses import dataclass
from enum import StrEnum

from tests.bench.figures import Figures


class Verdict(StrEnum):
    """How a target was met."""

    STRETCH = "met, stretch too"
    MET = "met"
    MISSED = "**not met**"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure with its floor and its wish; `most` bounds are better when smaller. `form` writes the figure."""

    figure: str
    target: float
    stretch: float
    form: str
    most: bool = False

    def measured(self, figures: Figures) -> str:
        """The median, as it is written."""
        value = figures.median(self.figure)
        return "–" if value is None else self.form.format(value)

    def written(self, value: float) -> str:
        """A bound, as it is written."""
        return f"{'≤' if self.most else '≥'} {self.form.format(value)}"

    def verdict(self, figures: Figures) -> Verdict:
        """Does the median keep it?"""
        value = figures.median(self.figure)
        if value is None:
            return Verdict.UNKNOWN
        sign = -1 if self.most else 1
        if value * sign >= self.stretch * sign:
            return Verdict.STRETCH
        return Verdict.MET if value * sign >= self.target * sign else Verdict.MISSED


@dataclass(frozen=True, slots=True)
class Target:
    """One target; without bounds it is about something that does not exist yet, and `says` tells so."""

    id: str
    says: str
    bounds: tuple[Bound, ...]

    def verdict(self, figures: Figures) -> Verdict:
        """As good as its worst bound."""
        order = [Verdict.MISSED, Verdict.UNKNOWN, Verdict.MET, Verdict.STRETCH]
        return min((bound.verdict(figures) for bound in self.bounds), key=order.index, default=Verdict.UNKNOWN)


MS, RATE, TIMES, SHARE = "{:.1f} ms", "{:.0f}/s", "{:.1f}×", "{:.0%}"

TARGETS = (
    Target(
        "P1",
        "end to end, one process, against Postfix / naive",
        (Bound("ours.e2e/postfix.e2e", 4, 6, TIMES), Bound("ours.e2e/naive.e2e", 8, 8, TIMES)),
    ),
    Target("P2", "CPU of that run, for 1000 messages", (Bound("ours.cpu", 0.33, 0.22, "{:.2f} s", most=True),)),
    Target(
        "P3",
        "share of `smtp-source` → `smtp-sink`: end to end / drain of a full queue",
        (Bound("ours.e2e/limit.e2e", 0.15, 0.22, SHARE), Bound("drain.rate/limit.e2e", 0.40, 0.60, SHARE)),
    ),
    Target(
        "P4",
        "accept p99, open loop at 1000/s / 2000/s",
        (Bound("open-1000.p99", 10, 5, MS, most=True), Bound("open-2000.p99", 15, 8, MS, most=True)),
    ),
    Target(
        "P5",
        "accept p99, 32 clients at full speed / accept rate of the API alone",
        (Bound("ours.p99", 20, 12, MS, most=True), Bound("accept.accept", 5000, 8000, RATE)),
    ),
    Target("P6", "two processes (API and relay) on one SQLite file: not built", ()),
    Target(
        "P7",
        "every sync +2 ms, 32 clients / +10 ms, 256 clients",
        (Bound("disk-2ms.e2e", 1800, 2500, RATE), Bound("disk-10ms.e2e", 1800, 2500, RATE)),
    ),
    Target(
        "P8",
        "20 ms round trip to the relay, 1 / 16 connections",
        (Bound("distant-1.e2e", 45, 48, "{:.1f}/s"), Bound("distant-16.e2e", 700, 750, RATE)),
    ),
    Target("P9", "relay with TLS, kept connections", (Bound("tls.e2e", 2000, 2800, RATE),)),
    Target(
        "P10",
        "PostgreSQL, one / two daemons",
        (Bound("shared-1.e2e", 2200, 3000, RATE), Bound("shared-2.e2e", 2800, 4000, RATE)),
    ),
    Target("P11", "memory under 20 000 messages (PSS)", (Bound("memory.pss", 130, 90, "{:.0f} MiB", most=True),)),
    Target("P12", "compose text + HTML, non-ASCII headers", (Bound("compose.us", 60, 35, "{:.0f} µs", most=True),)),
)
