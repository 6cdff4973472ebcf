"""The figures as Markdown tables: medians, and from the smallest to the largest where there are several."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.figures import Figures
from tests.bench.pages import PAGES
from tests.bench.scenarios import SCENARIOS
from tests.bench.targets import TARGETS, Target

NOISE = 0.05
SYSTEMS = (
    ("limit", "limit: `smtp-source` → `smtp-sink`", "SMTP", "no queue"),
    ("ours", "**this daemon**, SQLite", "HTTP", "yes, group commit"),
    ("naive", "naive: aiohttp awaiting aiosmtplib", "HTTP", "no queue"),
    ("postfix", "Postfix, kept sessions", "SMTP", "yes, each message"),
)


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a scenario, and how it is written."""

    figure: str
    title: str
    form: str = "{:.0f}"


RESULTS = (
    Column("accept", "accept/s"),
    Column("p50", "p50 ms", "{:.1f}"),
    Column("p99", "p99 ms", "{:.1f}"),
    Column("p999", "p99.9 ms", "{:.1f}"),
    Column("e2e", "end to end/s"),
    Column("cpu", "CPU-s/1000", "{:.2f}"),
    Column("pss", "PSS MiB"),
    Column("hwm", "VmHWM MiB"),
)

OTHERS = (
    ("drain", Column("rate", "drained/s")),
    ("drain", Column("batch", "accepted/s in batches of 500")),
    ("drain", Column("cpu", "CPU-s/1000 of draining", "{:.2f}")),
    ("compose", Column("us", "µs")),
    ("start", Column("seconds", "seconds until ready", "{:.2f}")),
    ("claim", Column("shallow", "rows/s with 10 000 ready")),
    ("claim", Column("deep", "rows/s with 200 000 ready")),
    *((f"shared-{daemons}", Column("statements", "statements a notification", "{:.2f}")) for daemons in (1, 2, 3)),
    ("shared-claim", Column("shallow", "rows/s with 10 000 ready")),
    ("shared-claim", Column("deep", "rows/s with 1 000 000 ready")),
    ("secret", Column("us", "µs", "{:.1f}")),
    ("stampede", Column("seconds", "seconds until all are there", "{:.1f}")),
    ("stampede", Column("calls", "provider calls")),
    ("stampede", Column("at_once", "at once at most")),
    ("directory", Column("load", "seconds to load", "{:.1f}")),
    ("directory", Column("mib", "MiB of memory")),
    ("directory", Column("first", "µs a resolution, never asked before", "{:.1f}")),
    ("directory", Column("again", "µs a resolution, asked before", "{:.1f}")),
    ("directory", Column("change", "ms to change a profile", "{:.1f}")),
    *(
        ("pages", Column(f"{page}_{figure}", f"`{path}`: {says}", form))
        for page, path in PAGES.items()
        for figure, says, form in (("ms", "ms", "{:.0f}"), ("worst_ms", "ms at most", "{:.0f}"), ("kb", "kB", "{:.0f}"))
    ),
    ("queue", Column("batch", "accepted/s in batches of 500")),
    ("queue", Column("pss", "PSS MiB")),
    ("queue", Column("hwm", "VmHWM MiB")),
    ("queue", Column("file", "MiB of database")),
    ("queue", Column("restart", "seconds from kill -9 to ready", "{:.2f}")),
    ("queue", Column("pss_after", "PSS MiB after the restart")),
)


def report(figures: Figures, machine: Iterable[str], rounds: int) -> Iterator[str]:
    """Everything, line by line."""
    yield from (f"- {line}" for line in machine)
    yield f"- medians of {rounds} rounds (smallest–largest); load generator, servers and sink share the cores"
    yield _quiet(figures)
    yield "### Against others\n"
    yield "The same notifications of 1.5 KiB from 32 clients until all are in `smtp-sink`.\n"
    yield from _systems(figures)
    yield from _ratios(figures)
    yield "\n### The daemon alone\n"
    yield from _scenarios(figures)
    yield ""
    yield from _others(figures)
    yield "\n### Targets\n"
    yield from table(
        ("id", "what", "target", "stretch", "measured", "verdict"), (_target(target, figures) for target in TARGETS)
    )
    if figures.missing:
        yield "\nMissing:\n"
        yield from (f"- {name}: {why}" for name, why in figures.missing.items())


def _quiet(figures: Figures) -> str:
    """How much of the machine belonged to others; Postfix and a tracer count as others too, so theirs are left out."""
    shares = [
        share
        for scenario in SCENARIOS
        if not scenario.name.startswith(("postfix", "disk"))
        for share in figures.samples(f"{scenario.name}.bystanders")
    ]
    if not shares:
        return ""
    words = "" if median(shares) < NOISE else "; **the machine was not quiet: every figure is worse than it could be**"
    return f"- other processes took {median(shares):.0%} of the CPUs meanwhile (at most {max(shares):.0%}){words}\n"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield _line(titles)
    yield _line(["---"] * len(titles))
    yield from map(_line, rows)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def written(figures: Figures, name: str, form: str) -> str:
    """A median, and what lies around it."""
    samples = figures.samples(name)
    middle = figures.median(name)
    if middle is None:
        return "–"
    spread = f" ({form.format(min(samples))}–{form.format(max(samples))})" if len(samples) > 1 else ""
    return form.format(middle) + spread


def _systems(figures: Figures) -> Iterator[str]:
    rows = (
        (title, into, durable, *(written(figures, f"{name}.{column.figure}", column.form) for column in RESULTS))
        for name, title, into, durable in SYSTEMS
    )
    yield from table(("system", "input", "durable first", *(column.title for column in RESULTS)), rows)


def _ratios(figures: Figures) -> Iterator[str]:
    for other, title in (("postfix", "Postfix"), ("naive", "the naive service"), ("limit", "the limit")):
        ratio = written(figures, f"ours.e2e/{other}.e2e", "{:.2f}")
        yield f"\nEnd to end against {title}, in the same rounds: ×{ratio}"


def _scenarios(figures: Figures) -> Iterator[str]:
    """The scenarios that have the figures of a run."""
    compared = {name for name, *_ in SYSTEMS}
    rows = (
        (scenario.says, *(written(figures, f"{scenario.name}.{column.figure}", column.form) for column in RESULTS))
        for scenario in SCENARIOS
        if scenario.name not in compared and figures.samples(f"{scenario.name}.accept")
    )
    yield from table(("scenario", *(column.title for column in RESULTS)), rows)


def _others(figures: Figures) -> Iterator[str]:
    says = {scenario.name: scenario.says for scenario in SCENARIOS}
    rows = (
        (says[name], column.title, written(figures, f"{name}.{column.figure}", column.form))
        for name, column in OTHERS
        if figures.samples(f"{name}.{column.figure}")
    )
    yield from table(("scenario", "figure", "measured"), rows)


def _target(target: Target, figures: Figures) -> tuple[str, ...]:
    return (
        target.id,
        target.says,
        "; ".join(bound.written(bound.target) for bound in target.bounds) or "–",
        "; ".join(bound.written(bound.stretch) for bound in target.bounds) or "–",
        "; ".join(bound.measured(figures) for bound in target.bounds) or "–",
        target.verdict(figures),
    )
