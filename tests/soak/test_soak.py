"""The soak, for a minute with every test and for half an hour with `make proof`; and a daemon that leaks is found out."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.soak.faults import KINDS
from tests.soak.report import DESCRIPTORS, account, broken, process, table, write
from tests.soak.run import Plan, soak
from tests.soak.slope import HOUR, slope

if TYPE_CHECKING:
    from tests.soak.run import Soaked

PROOF = "GATEWAY_PROOF" in os.environ
MINUTE = Plan(35, rate=30)
HALF_AN_HOUR = Plan(1800, rate=60)
LEAK = 2.0  # MiB a second, and a descriptor
LEAKY = Plan(20, rate=10)
HOOK = Path(__file__).with_name("leaking")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Soaked, Soaked]:
    """A minute of everything, and beside it a daemon that leaks."""
    folder = tmp_path_factory.mktemp("soak")

    async def run() -> tuple[Soaked, Soaked]:
        path = os.pathsep.join(filter(None, (str(HOOK), os.environ.get("PYTHONPATH"))))
        leak = {"PYTHONPATH": path, "GATEWAY_SOAK_LEAK": str(LEAK)}
        return await asyncio.gather(soak(MINUTE, folder / "sound"), soak(LEAKY, folder / "leaky", environ=leak))

    return asyncio.run(run())


def test_every_202_of_a_busy_minute_is_accounted_for(both: tuple[Soaked, Soaked]) -> None:
    """Under faults of every kind nothing is lost, sent twice without a reason, or answered as it should not be."""
    sound, _ = both
    print("\n" + table(sound))

    assert broken(account(sound)) == []
    assert sound.rests.descriptors - sound.rested.descriptors <= DESCRIPTORS
    assert sound.account.fates["relayed"] > MINUTE.seconds * MINUTE.rate / 2
    assert len(sound.faults) == KINDS


def test_a_leak_is_measured(both: tuple[Soaked, Soaked]) -> None:
    """A daemon that leaks memory and descriptors breaks both bounds, by as much as it leaks; its mail is right."""
    _, leaky = both
    seconds = [sample.at for sample in leaky.steady]
    growth = slope(seconds, [sample.anonymous for sample in leaky.steady])
    named = {line.what for line in broken(process(leaky))}

    assert growth.per_hour == pytest.approx(LEAK * HOUR, rel=0.3)
    assert named >= {
        "resident memory, MiB",
        "of it anonymous, MiB",
        "descriptors",
        "descriptors at rest, before and after",
    }
    assert broken(account(leaky)) == []


@pytest.mark.skipif(not PROOF, reason="takes half an hour: `make proof` runs it")
async def test_half_an_hour_leaves_nothing_behind(tmp_path: Path) -> None:
    """Memory, descriptors, tasks, threads and the log of writes stay as they are, and every 202 is accounted for."""
    soaked = await soak(HALF_AN_HOUR, tmp_path / "gateway")
    write(soaked, tmp_path / "soak.json")
    print("\n" + table(soaked))

    assert broken(process(soaked)) == []
    assert broken(account(soaked)) == []
