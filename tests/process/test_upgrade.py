"""The code of an earlier version, from a wheel of its own, beside the present code on one database."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final
from zipfile import ZipFile

import pytest

from gateway.store.postgresql.migrations import SCHEMA
from tests.peers.webhook_endpoint import WebhookEndpoint
from tests.process.cluster import Cluster, Lane, cluster, until
from tests.process.daemon import ROOT, DaemonDiedError, mail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.peers.postgresql import Postgresql
    from tests.process.daemon import Daemon

BEFORE: Final = "ff6ca4f64754c42a4010a4a8b0ce0aa1432c1d95"  # the last commit of schema 2
LANES: Final = [Lane("main", password=True), Lane("spare"), Lane("third"), Lane("fourth")]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel of the version before and unpack it; gives the folder."""
    folder = tmp_path_factory.mktemp("before")
    archive = subprocess.run(["git", "-C", ROOT, "archive", BEFORE], capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("needs the history of this repository")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "wheel"], cwd=folder, check=True)
    [wheel] = (folder / "wheel").iterdir()
    ZipFile(wheel).extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture
async def pair(tmp_path: Path, newest: Postgresql) -> AsyncIterator[Cluster]:
    """Make two daemons on one database, to be started."""
    async with cluster(tmp_path, newest, LANES, size=2) as made:
        yield made


def elsewhere(code: Path) -> dict[str, Any]:
    """Say how a process is started that runs the code in a folder."""
    return {"environ": {"PYTHONPATH": str(code)}, "wrapper": ("sh", "-c", 'cd "$0" && exec "$@"', str(code))}


async def schema_of(made: Cluster) -> int:
    return int(await made.one("SELECT max(number) FROM schema_version"))


async def relayed(made: Cluster, *daemons: Daemon) -> None:
    """Post at each for every profile; all is relayed, once."""
    count = made.relayed
    for daemon in daemons:
        async with daemon.client() as client:
            for lane in LANES:
                status, answer, _ = await client.post(mail(profile=lane.name))
                assert status == 202, answer
    await made.emptied()
    assert made.relayed == count + len(daemons) * len(LANES)


async def divided(made: Cluster) -> bool:
    """Does each of the daemons carry a profile, once there is mail for all? A new one takes its share as mail comes."""
    await relayed(made, *made.daemons)
    carriers = [await made.holder(lane.name) for lane in LANES]
    return all(daemon in carriers for daemon in made.daemons)


async def states(daemon: Daemon) -> set[str]:
    _, queue = await daemon.ask("GET", "/v1/queue")
    return {line["state"] for line in queue["items"] if line["profile"] == "main"}


async def shown(daemon: Daemon, state: str) -> None:
    """Wait until a daemon shows the profile like this."""

    async def so() -> bool:
        return await states(daemon) == {state}

    await until(so, 10)


async def test_both_versions_work_side_by_side(pair: Cluster, before: Path) -> None:
    """Mail posted at either goes, whichever carries its profile; what is changed at one holds at the other."""
    old, new = pair.daemons
    await old.start(**elsewhere(before))
    assert await schema_of(pair) == 2
    await relayed(pair, old)
    await new.start()
    assert await schema_of(pair) == SCHEMA
    await until(lambda: divided(pair), 60)

    for here, there in ((old, new), (new, old)):
        assert (await here.ask("POST", "/v1/tenants/acme/profiles/main/pause"))[0] == 200
        await shown(there, "paused")
        async with there.client() as client:
            _, held, _ = await client.post(mail())
            assert (await client.show(held["id"]))["status"] == "held"
            assert (await there.ask("POST", f"/v1/notifications/{held['id']}/cancel"))[0] == 200
        assert (await there.ask("POST", "/v1/tenants/acme/profiles/main/resume"))[0] == 200
        await relayed(pair, here, there)

    _, told = await new.ask("GET", "/v1/doctor")
    assert [(one["host"] is None, one["here"]) for one in told["daemons"]] == [(False, False), (False, True)]
    assert "Traceback" not in old.log + new.log


async def test_the_version_before_leaves_what_is_told_to_the_present_one(
    tmp_path: Path, newest: Postgresql, before: Path
) -> None:
    """It knows no webhooks: once there is one it stands back from sending, and all is told, wherever it was posted."""
    async with (
        cluster(tmp_path, newest, LANES, size=2, webhooks='["127.0.0.1/32"]') as made,
        WebhookEndpoint() as endpoint,
    ):
        old, new = made.daemons
        await old.start(**elsewhere(before))
        await relayed(made, old)
        await new.start()
        hook = {"url": endpoint.url, "events": ["notification.relayed"]}
        assert (await new.ask("POST", "/v1/tenants/acme/webhooks", hook))[0] == 201
        carried = [await made.holder(lane.name) for lane in LANES]
        async with asyncio.timeout(60):
            while old in carried:
                carried = [await made.holder(lane.name) for lane in LANES]
        await relayed(made, old, new)
        await endpoint.received(2 * len(LANES))


async def test_the_version_before_starts_on_the_next_schema(pair: Cluster, before: Path) -> None:
    """It comes back beside the present code, and also alone."""
    old, new = pair.daemons
    await new.start()
    await old.start(**elsewhere(before))
    await relayed(pair, old, new)
    assert await new.stop() == 0
    assert await old.stop() == 0
    await old.start(**elsewhere(before))
    await relayed(pair, old)
    assert await schema_of(pair) == SCHEMA


async def test_a_schema_that_asks_for_newer_code_is_refused_by_the_version_before(pair: Cluster, before: Path) -> None:
    """It does not start, and says why."""
    old, new = pair.daemons
    await new.start()
    await pair.one("INSERT INTO schema_version VALUES ($1, $1)", SCHEMA + 1)
    with pytest.raises(DaemonDiedError) as died:
        await old.start(**elsewhere(before))
    assert "the database was changed by a newer version" in str(died.value)


async def test_a_rolling_replacement_loses_nothing(tmp_path: Path, newest: Postgresql, before: Path) -> None:
    """Under load each of three daemons is ended in order and comes back as the present code: all arrives, once."""
    async with cluster(tmp_path, newest, LANES, size=3) as made:
        await asyncio.gather(*(daemon.start(**elsewhere(before)) for daemon in made.daemons))
        loads = [made.load(lane.name, ahead=200) for lane in LANES]
        posting = [asyncio.ensure_future(load.run()) for load in loads]
        codes = []
        for daemon in made.daemons:
            count = made.relayed
            await until(lambda count=count: made.relayed > count + 200, 60)
            codes.append(await daemon.stop())
            await daemon.start()
        count = made.relayed
        await until(lambda: made.relayed > count + 200, 60)
        for load in loads:
            load.stop()
        await asyncio.gather(*posting)
        await made.emptied()
        acknowledged = set().union(*(load.acknowledged for load in loads))
        account = made.account()
        schema = await schema_of(made)

    print(f"\n{len(acknowledged)} notifications while three daemons were replaced")
    assert (codes, schema) == ([0, 0, 0], SCHEMA)
    assert account.missing(acknowledged) == set()
    assert account.duplicates == 0
