"""How the directory bears 100,000 tenants with 300,000 profiles: loading, resolving, changing, and memory.

Run as `python -m tests.bench.directory FILE TENANTS`; prints the figures as JSON.
"""

import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.credentials.sealed import Seal
from gateway.directory import changes
from gateway.directory.changes import OPERATOR, Change
from gateway.directory.directory import Directory
from gateway.directory.rules import Policy
from gateway.directory.snapshot import Snapshot
from gateway.message.notification import Severity
from gateway.smtp.egress import EgressPolicy
from gateway.store.rows import Entry
from gateway.store.sqlite import SqliteStore

PROFILES = 3  # a tenant
ASKED = 20_000
FAN = 20  # children a tenant has, so that the tree is four to five levels deep


def _entries(tenants: int) -> Iterator[Entry]:
    for number in range(tenants):
        id_, parent = f"t{number}", "system" if number < FAN else f"t{number // FAN}"
        yield Entry("tenant", id_, "", json.dumps({"id": id_, "parent": parent}), "api")
        for which in range(PROFILES):
            yield Entry(
                "profile", id_, f"p{which}", profile(id_, which, is_default=not which and number % 2 == 0), "api"
            )


def profile(tenant: str, which: int, *, is_default: bool = False) -> str:
    """A profile as the store keeps it, with a password that nobody can open."""
    document = {
        "tenant": tenant, "name": f"p{which}", "host": f"relay{which}.{tenant}.example", "port": 587,
        "from": f"p{which}@{tenant}.example", "is_default": is_default,
        "auth": {"username": tenant, "credential": {"source": "plaintext", "sealed": "x" * 80}},
    }  # fmt: skip
    return json.dumps(document)


def _resident() -> float:
    """MiB of memory that is there."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


async def measure(file: Path, tenants: int) -> dict[str, float]:
    """Load a directory of so many tenants, ask it, change it."""
    async with SqliteStore(file) as store:
        await store.change_directory(0, list(_entries(tenants)), [])
        gc.collect()
        before = _resident()
        directory = Directory(store, Policy(EgressPolicy((587,))), Seal([bytes(32)]))
        began = time.perf_counter()
        await directory.load()
        figures = {"load": time.perf_counter() - began, "mib": _resident() - before}
        gc.freeze()  # as the daemon does once it is up
        asked = [f"t{random.randrange(tenants)}" for _ in range(ASKED)]
        figures["first"] = _resolve(directory.snapshot, asked)
        figures["again"] = _resolve(directory.snapshot, asked)
        figures["change"] = await _change(directory)
        return figures


def _resolve(snapshot: Snapshot, asked: list[str]) -> float:
    """Microseconds a resolution."""
    began = time.perf_counter()
    for tenant in asked:
        snapshot.resolve(tenant, None, "billing.due", Severity.ERROR)
    return (time.perf_counter() - began) * 1e6 / len(asked)


async def _change(directory: Directory, laps: int = 20) -> float:
    """Milliseconds to change a profile, commit and audit included."""
    began = time.perf_counter()
    for lap in range(laps):

        def work(snapshot: Snapshot, host: str = f"new{lap}.example") -> Change:
            before = snapshot.profiles["t5", "p1"]
            return changes.save_profile(snapshot, OPERATOR, before, before.model_copy(update={"host": host}), ())

        await directory.change(OPERATOR, work)
    return (time.perf_counter() - began) * 1e3 / laps


def main() -> None:
    """Read the command line, print the figures."""
    file, tenants = sys.argv[1:]
    print(json.dumps(asyncio.run(measure(Path(file), int(tenants)))))


if __name__ == "__main__":
    main()
