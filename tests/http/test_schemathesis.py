"""Schemathesis over the served document: whatever the API is asked, its answers are what the document says.

Its command line asks the world's server over HTTP, so that neither knows the other. Administrators of two tenants ask,
one after the other, and each is also made to ask for what the other could read. `GATEWAY_PROOF=1` makes twenty times
as many examples, each time others.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from gateway.catcher import Catcher
from gateway.directory.shapes import Template
from gateway.http.routes import ROUTES
from tests.http.world import World, profile, running

PROOF = bool(os.environ.get("GATEWAY_PROOF"))
EXAMPLES = 10 * (20 if PROOF else 1)  # of each operation; what the document says about boundaries comes on top
SAME = () if PROOF else ("--seed", "1", "--generation-deterministic")
PEERS = ("acme", "globex")

CONFIG = """
[auth.wfc]
path = "keys.json"
user = "{user}"
peers = {peers}

# Every check is on. What follows says where an answer is right that a schema alone would not lead one to expect.

# Data that fits the schema may still name what is not there, contradict itself or the operator's policy (422), or not
# be the version that If-Match means (412): relations between objects cannot be said in JSON Schema.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 412, 422, 429]

# A text beyond its greatest length may make a body beyond its own (413).
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 412, 413, 415, 422, 429]

# Each item of a batch is judged alone: a bad one has its own result, in an answer that is 200.
[[operations]]
include-operation-id = "notification.batch"
[operations.checks.negative_data_rejection]
expected-statuses = [200, 400, 401, 403, 404, 405, 412, 413, 415, 422, 429]

# As many alerts as the schema lets in make a body beyond its greatest length (413).
[[operations]]
include-operation-id = ["receiver.alertmanager", "receiver.grafana"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 412, 413, 422, 429]

"""
# Most made-up names are of nothing. Boundaries are tried on one thing that is there …
ONE_PLACE = """
[parameters]
"path.tenant" = "{user}"
"path.name" = "own"
"path.number" = "1"
"""
# … and at random it is one of many, or nothing.
MANY_PLACES = """
[dictionaries.tenants]
values = ["acme", "acme-emea", "globex", "system"]
[dictionaries.names]
values = ["own", "lent", "secret"]
[dictionaries.ids]
values = {ids}
[dictionaries.numbers]
values = ["1"]
[dictionaries.hosts]
values = ["relay.example", "192.0.2.1"]
[dictionaries.ports]
values = [25, 465, 587]
[dictionaries.addresses]
values = ["ann@example.test", "bob@example.test"]
[parameters]
"path.tenant" = {{ dictionary = "tenants", probability = 0.8 }}
"path.name" = {{ dictionary = "names", probability = 0.7 }}
"path.id" = {{ dictionary = "ids", probability = 0.7 }}
"path.number" = {{ dictionary = "numbers", probability = 0.7 }}
"body.host" = {{ dictionary = "hosts", probability = 0.8 }}
"body.port" = {{ dictionary = "ports", probability = 0.8 }}
"body.from" = {{ dictionary = "addresses", probability = 0.8 }}
"body.children[*]" = {{ dictionary = "tenants", probability = 0.8 }}
"body.profiles[*]" = {{ dictionary = "names", probability = 0.8 }}
"""
STAGES = {"examples,coverage": ONE_PLACE, "fuzzing,stateful": MANY_PLACES}


async def catcher() -> Catcher:
    """Catch one message, so that the catcher's pages are there."""
    made = Catcher()
    await made.handle_DATA(SMTP(made), Session(asyncio.get_running_loop()), Envelope())
    return made


async def furnish(world: World) -> list[str]:
    """Give both tenants something to ask for; answers the ids among it."""
    await world.put(
        profile("globex", "own", is_default=True),
        *(Template(tenant=tenant, name="own", subject="Hello", text="Hello {{ name }}") for tenant in PEERS),
    )
    posted = [await world.posted(f"{tenant}:send") for tenant in PEERS for _ in range(3)]
    return posted + [(await world.key_for(f"{tenant}:send")).split("_")[1] for tenant in PEERS]


def configure(folder: Path, keys: Mapping[str, str], **places: str) -> Path:
    """Write the files of a run."""
    entries = [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {key}"}]}
        for name, key in keys.items()
    ]
    (folder / "keys.json").write_text(json.dumps({"auth": entries}))
    config = folder / "schemathesis.toml"
    config.write_text((CONFIG + STAGES[places["stage"]]).format(peers=json.dumps(PEERS), **places))
    return config


async def explore(folder: Path, config: Path, url: str, stage: str) -> tuple[Any, str]:
    """Run Schemathesis to its end; answers its report, and what it wrote."""
    report = folder / "report.json"
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config),
        "run", url, "--checks", "all", "--phases", stage, "--max-examples", str(EXAMPLES), *SAME, "--continue-on-failure",
        "--report-json-path", str(report), "--output-sanitize", "false", "--output-truncate", "false", "--no-color",
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert report.exists(), written.decode()
    return json.loads(report.read_text()), written.decode()


class Patience:
    """Lets a moment pass after each wrong key: whoever tries a thousand at once is told 429 by right."""

    world: World

    def __call__(self, _address: str) -> None:
        self.world.offset += 500


RUNS = [(user, stage) for user in PEERS for stage in STAGES]
"""Boundaries are the same whoever asks: outside `make proof` one of the peers tries them."""


@pytest.mark.timeout(7200 if PROOF else 300)
@pytest.mark.parametrize(
    ("user", "stage"), RUNS if PROOF else [one for one in RUNS if one != ("globex", "examples,coverage")]
)
async def test_answers_are_as_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], user: str, stage: str
) -> None:
    """No check of Schemathesis finds an answer that the document does not describe, or that should not be given."""
    patience = Patience()
    async with running(tmp_path, catcher=await catcher(), on_refused=patience) as world:
        patience.world = world
        ids = await furnish(world)
        keys = {tenant: await world.key_for(f"{tenant}:admin") for tenant in PEERS}
        config = configure(tmp_path, keys, user=user, ids=json.dumps(ids), stage=stage)
        report, written = await explore(tmp_path, config, f"{world.url}/openapi.json", stage)
        cases, operations = report["test_cases"]["generated"], report["operations"]["tested"]
        with capsys.disabled():  # and on standard error: that of xdist's workers is seen
            print(f"\nschemathesis, {stage} as {user}: {cases} cases of {operations} operations", file=sys.stderr)
        assert not report["errors"], written
        assert not report["failures"], written
        # The document itself is not asked for: it is what Schemathesis was given.
        assert operations == len(ROUTES) - 1
