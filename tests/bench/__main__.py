"""`python -m tests.bench`: measure, and print Markdown tables. Progress goes to standard error."""

import argparse
import sys
import tempfile
import time

from tests.bench.figures import Figures, Skipped
from tests.bench.machine import describe
from tests.bench.process import ROOT, Bystanders
from tests.bench.report import report
from tests.bench.scenarios import SCENARIOS, Bench, Scenario, clear, room

QUICK = 0.2  # of the messages


def main() -> None:
    """Read the command line, measure, print."""
    given = _arguments()
    chosen = [scenario for scenario in SCENARIOS if not given.only or scenario.name in given.only]
    base = room(ROOT)
    tempfile.tempdir = str(base)  # Postfix's queue lies on the same disk, too
    try:
        base.chmod(0o755)
        machine = list(describe(base))
        figures = _measure(chosen, given.rounds, Bench(base, QUICK if given.quick else 1.0))
    finally:
        clear(base)
    print("\n".join(report(figures, machine, given.rounds)))


def _arguments() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the gateway.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds over all scenarios (3)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="one round with a fifth of the messages")
    given = parser.parse_args()
    if given.quick:
        given.rounds = 1
    return given


def _measure(scenarios: list[Scenario], rounds: int, bench: Bench) -> Figures:
    """Round after round, so that what is compared was measured within a minute."""
    figures = Figures()
    for round_ in range(rounds):
        for scenario in scenarios:
            if not (scenario.once and round_):
                _run(scenario, round_, bench, figures)
    return figures


def _run(scenario: Scenario, round_: int, bench: Bench, figures: Figures) -> None:
    """Run one scenario; what fails is told in the report and stops nothing else."""
    began, bystanders = time.monotonic(), Bystanders()
    try:
        measured = scenario.run(bench)
    except Skipped as why:
        figures.missing[scenario.name] = f"skipped: {why}"
        told = f"skipped: {why}"
    except (OSError, RuntimeError, ValueError) as error:
        figures.missing[scenario.name] = told = f"failed in round {round_ + 1}: {type(error).__name__}: {error}"
    else:
        figures.add(round_, scenario.name, {**measured, "bystanders": bystanders.share()})
        told = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
        told += f" (bystanders {bystanders.share():.0%})"
    print(f"[{round_ + 1}] {scenario.name} ({time.monotonic() - began:.1f} s): {told}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
