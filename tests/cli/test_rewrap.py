"""`secrets rewrap`: a master key is replaced on a real daemon, without and with a `kill -9` in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from gateway.credentials.sealed import Seal, SealError, make_key_file, read_key
from gateway.credentials.secret import Secret
from gateway.directory.directory import seal_place
from tests.cli.conftest import Shell
from tests.directory.provisioning import bench
from tests.process.daemon import Daemon, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.directory.snapshot import Snapshot

OLD, NEW = "master.key", "new.key"
PASSWORD = "canary-7f3a-whistles"
MANY = 2_000


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Runs what a test waits for, so that a command in between may run a loop of its own."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def daemon(tmp_path: Path, runner: asyncio.Runner) -> Iterator[Daemon]:
    """A daemon with its first master key, which is gone when the test is."""
    daemon = Daemon(tmp_path / "gateway", plain(2525))
    runner.run(daemon.start())
    yield daemon
    runner.run(daemon.kill())


def use(daemon: Daemon, *keys: str) -> None:
    """Write other master keys into the settings; the first seals."""
    path = daemon.folder / "gateway.toml"
    head, _, rest = path.read_text().partition("[master_key]\n")
    _, _, rest = rest.partition("\n")
    files = ", ".join(f'{{file = "{key}"}}' for key in keys)
    path.write_text(f"{head}[master_key]\nkeys = [{files}]\n{rest}")


async def again(daemon: Daemon, *keys: str) -> None:
    """Start anew with these master keys."""
    await daemon.stop()
    if not (daemon.folder / NEW).exists():
        make_key_file(daemon.folder / NEW)
    use(daemon, *keys)
    await daemon.start()


def ring(daemon: Daemon, *keys: str) -> Seal:
    """The keys of these files."""
    return Seal([read_key((daemon.folder / key).read_text()) for key in keys])


def furnish(shell: Shell) -> None:
    """Keep a secret, and a profile with a password."""
    shell.good("secrets", "set", "relay-a", "--tenant", "acme", "--value-file", "-", text=PASSWORD)
    shell.good(
        "profiles", "set", "own", "--tenant", "acme", "--host", "127.0.0.1", "--port", "2526", "--security", "none",
        "--from", "a@acme.example", "--username", "app", "--password-file", "-", text=PASSWORD,
    )  # fmt: skip


def test_a_master_key_is_replaced(daemon: Daemon, runner: asyncio.Runner) -> None:
    """New key first, rewrap, old key out of the settings and off the disk: everything is there."""
    shell = Shell(daemon)
    furnish(shell)
    nothing = shell.good("secrets", "rewrap")
    runner.run(again(daemon, NEW, OLD))
    done = shell.good("secrets", "rewrap")
    once_more = shell.told("secrets", "rewrap")
    runner.run(again(daemon, NEW))
    (daemon.folder / OLD).unlink()
    checked = shell.told("secrets", "check", "own", "--tenant", "acme")
    row = next(one for one in shell.told("audit", "list", "--tenant", "system")["items"] if "rewrap" in one["action"])

    assert nothing == "nothing to do: looked at 2\n"
    assert done == "sealed anew: profiles 1, stored secrets 1, webhooks 0; looked at 2\n"
    assert once_more == {
        "checked": 2, "profiles": 0, "secrets": 0, "webhooks": 0, "unreadable": [], "next_cursor": None,
    }  # fmt: skip
    assert (checked["ok"], row["actor"], row["action"]) == (True, "socket", "secret.rewrap")
    assert PASSWORD not in daemon.log + done


def test_progress_is_told_and_each_answer_is_a_line(daemon: Daemon, runner: asyncio.Runner) -> None:
    """On standard error, call by call; with --json there is nothing but the API's answers."""
    shell = Shell(daemon)
    furnish(shell)
    runner.run(again(daemon, NEW, OLD))
    result = shell.run("secrets", "rewrap", "--limit", "1")
    lines = shell.good("secrets", "rewrap", "--limit", "1", "--json").splitlines()

    assert result.stderr == "sealed anew: profiles 1, stored secrets 0, webhooks 0; looked at 1 so far\n"
    assert result.stdout == "sealed anew: profiles 1, stored secrets 1, webhooks 0; looked at 2\n"
    assert [json.loads(line)["checked"] for line in lines] == [1, 1]


def test_a_key_that_is_gone_too_early(daemon: Daemon, runner: asyncio.Runner) -> None:
    """What it sealed is named, the command exits with 1, and nothing is lost: with the key back it all opens."""
    shell = Shell(daemon)
    furnish(shell)
    runner.run(again(daemon, NEW))
    shell.good("secrets", "set", "relay-b", "--tenant", "acme", "--value-file", "-", text=PASSWORD)
    refused = [shell.run("secrets", "rewrap", *more) for more in ((), ("--json",))]
    runner.run(again(daemon, NEW, OLD))
    done = shell.good("secrets", "rewrap")

    gone = "sealed with a master key that is not configured"
    assert [one.exit_code for one in refused] == [1, 1]
    assert refused[0].stderr.splitlines() == [
        f"profile acme/own auth.credential: {gone}",
        f"secret acme/relay-a: {gone}",
        "2 cannot be opened: keep the older master keys",
    ]
    assert refused[0].stdout == "sealed anew: profiles 0, stored secrets 0, webhooks 0; looked at 3\n"
    assert len(json.loads(refused[1].stdout)["unreadable"]) == 2
    assert done == "sealed anew: profiles 1, stored secrets 1, webhooks 0; looked at 3\n"


def test_a_kill_in_the_middle_loses_nothing(daemon: Daemon, runner: asyncio.Runner) -> None:
    """Some are sealed by the new key and some by the old one then; all open, and the next run does the rest."""
    shell = Shell(daemon)
    runner.run(fill(daemon))
    runner.run(again(daemon, NEW, OLD))
    old, new, both = ring(daemon, OLD), ring(daemon, NEW), ring(daemon, NEW, OLD)
    runner.run(kill_amid(daemon, new))
    half = runner.run(snapshot_of(daemon))
    runner.run(daemon.start())
    told = shell.told("secrets", "rewrap")
    runner.run(daemon.stop())
    whole = runner.run(snapshot_of(daemon))

    by_new = opening(half, new)
    assert 0 < by_new < MANY
    assert (opening(half, old), opening(half, both)) == (MANY - by_new, MANY)
    assert (told["checked"], told["profiles"], told["unreadable"]) == (MANY, MANY - by_new, [])
    assert opening(whole, new) == MANY


async def fill(daemon: Daemon) -> None:
    """Make many profiles with passwords."""
    auth = {"username": "app", "credential": {"source": "plaintext", "value": PASSWORD}}
    rows = [
        {"tenant": "acme", "name": f"p{n:04}", "host": f"p{n}.example", "from": "a@acme.example", "auth": auth}
        for n in range(MANY)
    ]
    async with (
        daemon.client(daemon.admin_key) as client,
        client.session.post("/v1/apply", json={"profiles": rows}) as answer,
    ):
        assert answer.status == 200, await answer.text()


async def kill_amid(daemon: Daemon, new: Seal) -> None:
    """Begin to rewrap, and kill the daemon as soon as the file has something that the new key sealed."""
    key_id = new.close(Secret("x"), ()).partition(":")[0]
    path = daemon.folder / "gateway.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        async with daemon.client(daemon.admin_key) as client:
            asking = asyncio.ensure_future(ask(client))
            while not db.execute("SELECT 1 FROM directory WHERE instr(body, ?) LIMIT 1", (key_id,)).fetchall():
                await asyncio.sleep(0)
            await daemon.kill()
            with pytest.raises(aiohttp.ClientError):
                await asking


async def ask(client: Any) -> None:
    async with client.session.post("/v1/secrets/rewrap") as answer:
        await answer.read()


async def snapshot_of(daemon: Daemon) -> Snapshot:
    """Read the directory of a daemon that does not run."""
    async with bench(daemon.folder) as b:
        return b.snapshot


def opening(snapshot: Snapshot, seal: Seal) -> int:
    """How many profiles' passwords open with these keys, and are the password."""
    found = 0
    for profile in snapshot.profiles.values():
        credential = profile.auth.credential
        if credential is not None and credential.sealed is not None:
            try:
                found += seal.open(credential.sealed, seal_place(profile)) == Secret(PASSWORD)
            except SealError:
                continue
    return found
