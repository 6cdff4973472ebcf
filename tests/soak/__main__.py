"""`python -m tests.soak --minutes 120`: a soak of any length; prints a table, exit code 1 if a bound is broken."""

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.peers.postgresql import VERSIONS, of_our_own
from tests.soak.report import broken, lines, table, write
from tests.soak.run import Plan, soak


def main() -> None:
    """Read the command line, soak, print."""
    given = _arguments()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"everything is in {folder}", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        store = "sqlite:///gateway.db"
        if given.store == "postgresql":
            store = stack.enter_context(of_our_own(VERSIONS[-1])).url
        soaked = asyncio.run(soak(Plan(given.minutes * 60, given.rate, given.seed), folder / "gateway", store=store))
    write(soaked, given.json or folder / "soak.json")
    print(table(soaked))
    sys.exit(bool(broken(lines(soaked))))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description="Keep a daemon busy, and see what it costs."
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--rate", type=float, default=100.0, help="notifications a second (100)")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seed", type=int, default=7, help="of the dice (7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go (soak.json in the folder)")
    parser.add_argument("--folder", type=Path, help="where the daemon's files go (a new one in the system's)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
