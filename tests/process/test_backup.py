"""Backups by the real command from a daemon under load, and real daemons that go on with what was restored."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.cluster import until
from tests.process.commands import command
from tests.process.crash import Account, settled
from tests.process.daemon import DaemonDiedError, mail, plain
from tests.process.engines import NEWEST, own_schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.peers.postgresql import Postgresql
    from tests.peers.smtp_server import ScriptedRelay
    from tests.process.daemon import Client, Daemon

    Install = Callable[..., Daemon]

CALLERS = 4
BULK = 60
LONGEST_STALL = 2.0  # seconds; on a quiet machine it is a twentieth of that
LONGEST_STOP = 5.0  # seconds; the server would wait 20 for an answer to end
LIFE = ("life.announced", "life.committed")


async def paused(daemon: Daemon) -> str | None:
    """Ask why all sending is paused; None if it is not."""
    _, told = await daemon.ask("GET", "/v1/queue")
    return None if told["paused"] is None else str(told["paused"]["reason"])


async def resume(daemon: Daemon) -> None:
    """Let sending go on."""
    assert (await daemon.ask("POST", "/v1/queue/resume"))[0] == 200


async def all_ids(daemon: Daemon) -> set[str]:
    """Read the ids of everything that there is."""
    found: set[str] = set()
    cursor = ""
    while True:
        _, told = await daemon.ask("GET", f"/v1/notifications?limit=200{cursor}")
        found |= {one["id"] for one in told["items"]}
        if told["next_cursor"] is None:
            return found
        cursor = f"&cursor={told['next_cursor']}"


def litter(daemon: Daemon) -> set[str]:
    """Name what lies beside the database and is no part of it."""
    parts = {f"gateway.db{part}" for part in ("", "-wal", "-shm", ".lock", ".life")}
    return {one.name for one in daemon.folder.iterdir() if one.name.startswith("gateway.db")} - parts


def elsewhere(install: Install, daemon: Daemon, relay: ScriptedRelay) -> Daemon:
    """Make a new installation with the keys of an old one."""
    other = install(plain(relay.port))
    for name in ("master.key", "app.key", "admin.key"):
        shutil.copy(daemon.folder / name, other.folder)
    return other


class Posting:
    """Callers that post one after the other, each under keys of its own, and note how long each answer took."""

    def __init__(self, client: Client) -> None:
        """Post nothing yet."""
        self.client = client
        self.accepted: dict[tuple[int, int], str] = {}
        self.slowest = 0.0
        self.over = False

    async def run(self) -> None:
        """Post until it is over."""
        await asyncio.gather(*(self._caller(caller) for caller in range(CALLERS)))

    async def _caller(self, caller: int) -> None:
        for number in itertools.count():
            if self.over:
                return
            began = time.monotonic()
            status, answer, _ = await self.client.post(mail(f"{caller}/{number}"), f"{caller}/{number}")
            self.slowest = max(self.slowest, time.monotonic() - began)
            assert status == 202, answer
            self.accepted[caller, number] = answer["id"]


async def test_a_backup_under_load_restores_to_what_was_there(
    install: Install, relay: ScriptedRelay, tmp_path: Path
) -> None:
    """Elsewhere: every notification of one moment, its content, its key; paused, without a mail, until it is resumed."""
    file = tmp_path / "backup.db"
    daemon = await install(plain(relay.port)).start()
    await daemon.ask("POST", "/v1/queue/pause")
    async with daemon.client() as client:
        for number in range(BULK):
            await client.post(mail(f"bulk/{number}", text="x" * 500_000), f"bulk/{number}")
        posting = Posting(client)
        running = asyncio.ensure_future(posting.run())
        await until(lambda: len(posting.accepted) > 100, 30)
        before, posting.slowest = dict(posting.accepted), 0.0
        made = await command(daemon, "backup", str(file))
        slowest = posting.slowest
        posting.over = True
        await running
    await daemon.kill()

    other = elsewhere(install, daemon, relay)
    code, out, _ = await command(other, "restore", str(file), "--json")
    told = json.loads(out)
    await other.start()
    names = {id_: name for name, id_ in posting.accepted.items()}
    found = await all_ids(other)
    late = [sorted(number for caller, number in map(names.__getitem__, found & names.keys()) if caller == one)
            for one in range(CALLERS)]  # fmt: skip
    async with other.client(other.admin_key) as admin, other.client() as client:
        for id_ in sorted(found & names.keys())[-50:]:
            async with admin.session.get(f"/v1/notifications/{id_}?include=content") as response:
                subject = "/".join(map(str, names[id_]))
                shown = await response.json()
                content = shown["content"]
                assert (shown["status"], content["subject"], content["text"]) == ("held", subject, f"{subject}\n")
        replays = [await client.post(mail(f"{caller}/{n}"), f"{caller}/{n}") for caller, n in list(before)[:50]]
    verified = [(await command(other, "audit", "verify", "--tenant", tenant))[0] for tenant in ("acme", "system")]
    why, sent = await paused(other), len(relay.messages)
    await resume(other)
    await settled(other, found)
    account = Account.of(relay.ledger_path)  # type: ignore[arg-type]

    assert made[0] == code == 0, made
    assert "the master key" in made[1]
    assert file.stat().st_mode & 0o777 == 0o600
    assert told["unfinished"] == len(found)
    assert set(before.values()) <= found
    assert len(found - names.keys()) == BULK
    assert late == [list(range(len(numbers))) for numbers in late]
    assert [(replayed, answer["id"]) for _, answer, replayed in replays] == [
        (True, id_) for id_ in list(before.values())[:50]
    ]
    assert verified == [0, 0]
    assert (why, sent) == ("restored", 0)
    assert account.missing(found) == set()
    assert account.duplicates == 0
    assert slowest < LONGEST_STALL


async def test_a_kill_during_a_backup_leaves_no_litter(install: Install, relay: ScriptedRelay, tmp_path: Path) -> None:
    """Half a copy lies there until the next start, and the command leaves no file that looks like a backup."""
    daemon = await install(plain(relay.port)).start(environ={"GATEWAY_FAILPOINT": "backup.filled:1"})
    code, _, said = await command(daemon, "backup", str(tmp_path / "backup.db"))
    died = await daemon.wait()
    left = litter(daemon)
    await daemon.start()

    assert (code, died) == (1, -9), said
    assert left == {"gateway.db.copy"}
    assert litter(daemon) == set()
    assert not list(tmp_path.glob("backup.db*"))
    assert await paused(daemon) is None


async def test_a_disk_that_fills_up_ends_the_backup_only(
    install: Install,
    relay: ScriptedRelay,
    strace: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """ENOSPC while the copy is written: 503, nothing left of it, and mail is taken and sent all the same."""
    daemon = install(plain(relay.port))
    copy = daemon.folder / "gateway.db.copy"
    inject = ("-P", str(copy), "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC")
    await daemon.start(wrapper=(*strace, "-o", "/dev/null", *inject))
    code, _, said = await command(daemon, "backup", str(tmp_path / "backup.db"))
    async with daemon.client() as client:
        _, answer, _ = await client.post(mail("hello"))
        await client.until(answer["id"], "relayed")

    assert (code, said.partition(":")[0]) == (1, "storage_full")
    assert litter(daemon) == set()
    assert '"event": "backup_failed"' in daemon.log


async def test_who_takes_nothing_of_a_backup_keeps_no_daemon(install: Install, relay: ScriptedRelay) -> None:
    """A client that has fetched the head of one, and reads no further, is cut off when the daemon is told to stop."""
    daemon = await install(plain(relay.port)).start()
    await daemon.ask("POST", "/v1/queue/pause")
    async with daemon.client() as client:
        for number in range(BULK):
            await client.post(mail(f"bulk/{number}", text="x" * 500_000), f"bulk/{number}")
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.http, limit=1024)
    writer.write(f"GET /v1/backup HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {daemon.admin_key}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    began = time.monotonic()
    code = await daemon.stop()
    took = time.monotonic() - began
    writer.close()

    assert (head.split()[1], code) == (b"200", 0)
    assert took < LONGEST_STOP
    assert '"detail": "the daemon is stopping"' in daemon.log


async def test_no_file_is_overwritten_unasked(install: Install, relay: ScriptedRelay, tmp_path: Path) -> None:
    """Without --force the file stays; a backup that fails leaves the one before, with --force too."""
    file = tmp_path / "backup.db"
    file.write_text("the one before")
    daemon = await install(plain(relay.port)).start()
    refused = await command(daemon, "backup", str(file))
    await daemon.stop()
    failed = await command(daemon, "backup", str(file), "--force")
    kept = file.read_text()
    await daemon.start()
    done = await command(daemon, "backup", str(file), "--force", "--json")

    assert (refused[0], failed[0], kept) == (1, 1, "the one before")
    assert json.loads(done[1]) == {"file": str(file), "bytes": file.stat().st_size}


# Restoring.


async def test_nothing_is_restored_beside_a_daemon(install: Install, relay: ScriptedRelay, tmp_path: Path) -> None:
    """The command refuses while the daemon runs, and what is no backup at any time; mail goes on."""
    file = tmp_path / "backup.db"
    daemon = await install(plain(relay.port)).start()
    await command(daemon, "backup", str(file))
    beside = await command(daemon, "restore", str(file), "--force", "--json")
    async with daemon.client() as client:
        _, answer, _ = await client.post(mail("hello"))
        await client.until(answer["id"], "relayed")
    await daemon.stop()
    file.write_bytes(file.read_bytes()[:-4096])
    damaged = await command(daemon, "restore", str(file), "--force")
    await daemon.start()

    assert beside[0] == 1
    assert "another daemon holds" in json.loads(beside[1])["error"]
    assert (damaged[0], "is damaged" in damaged[2]) == (1, True)
    assert (await paused(daemon), await all_ids(daemon)) == (None, {answer["id"]})


async def test_a_restore_that_was_killed_is_ended_by_the_daemon(
    install: Install, relay: ScriptedRelay, tmp_path: Path
) -> None:
    """Between taking the old database away and putting the new one there: the next start does what was left."""
    file = tmp_path / "backup.db"
    daemon = await install(plain(relay.port)).start()
    await relay.reachable(False)
    async with daemon.client() as client:
        _, first, _ = await client.post(mail("before"))
        await command(daemon, "backup", str(file))
        await client.post(mail("after"))
    await daemon.kill()
    killed = await command(daemon, "restore", str(file), "--force", environ={"GATEWAY_FAILPOINT": "restore.cleared"})
    gone = not (daemon.folder / "gateway.db").exists()
    await daemon.start()

    assert (killed[0], gone) == (-9, True)
    assert (await paused(daemon), await all_ids(daemon)) == ("restored", {first["id"]})
    assert len([name for name in litter(daemon) if "before-restore" in name and "-wal" not in name]) == 1


async def test_a_copy_put_back_by_hand_waits_for_a_person(install: Install, relay: ScriptedRelay) -> None:
    """An older state of the file, copied over it: nothing is sent, the log says why and what to do, until it is resumed."""
    daemon = await install(plain(relay.port)).start()
    await relay.reachable(False)
    async with daemon.client() as client:
        _, answer, _ = await client.post(mail("hello"))
        await daemon.stop()
        older = (daemon.folder / "gateway.db").read_bytes()
        await relay.reachable(True)
        await daemon.start()
        await client.until(answer["id"], "relayed")
        await daemon.stop()
        (daemon.folder / "gateway.db").write_bytes(older)
        await daemon.start()
        why, shown = await paused(daemon), await client.show(answer["id"])
        doctor, metrics = await command(daemon, "doctor"), await scraped(daemon)
        sent = len(relay.messages)
        await resume(daemon)
        await client.until(answer["id"], "relayed")
    await daemon.stop()
    await daemon.start()

    assert (why, shown["status"], sent) == ("cloned", "held", 1)
    assert "notification_gateway_paused 1.0" in metrics
    assert (doctor[0], "the database is a copy" in doctor[1]) == (1, True)
    assert '"event": "started_paused"' in daemon.log
    assert len(relay.messages) == 2
    assert await paused(daemon) is None


async def scraped(daemon: Daemon) -> str:
    """Read the metrics."""
    async with daemon.client() as client, client.session.get(f"http://127.0.0.1:{daemon.metrics}/metrics") as response:
        return await response.text()


@pytest.mark.parametrize("place", LIFE)
async def test_a_kill_while_it_starts_is_no_copy(install: Install, relay: ScriptedRelay, place: str) -> None:
    """Between announcing a new life, committing it and being the only one: the next start is an ordinary one."""
    daemon = await install(plain(relay.port)).start()
    await daemon.stop()
    for _ in range(2):
        with pytest.raises(DaemonDiedError):
            await daemon.start(environ={"GATEWAY_FAILPOINT": f"{place}:1"})
    await daemon.start()
    assert await paused(daemon) is None


@pytest.mark.parametrize("place", LIFE)
async def test_a_kill_while_it_stops_is_no_copy(install: Install, relay: ScriptedRelay, place: str) -> None:
    """An end in order begins a new life too, so that what was copied before shows; killed there, it is an ordinary end."""
    daemon = await install(plain(relay.port)).start(environ={"GATEWAY_FAILPOINT": f"{place}:2"})
    died = await daemon.stop()
    await daemon.start()
    assert (died, await paused(daemon)) == (-9, None)


# PostgreSQL.


@pytest.mark.parametrize("engine", [NEWEST], indirect=True)
async def test_a_database_that_its_server_restored_waits_for_a_person(
    install: Install, relay: ScriptedRelay, tmp_path: Path
) -> None:
    """`restore` without a file marks it, not while a daemon works on it; the daemon sends nothing until it is resumed."""
    daemon = await install(plain(relay.port)).start()
    await relay.reachable(False)
    async with daemon.client() as client:
        _, answer, _ = await client.post(mail("hello"))
        beside = await command(daemon, "restore")
        no_file = await command(daemon, "restore", str(tmp_path / "backup.db"))
        await daemon.stop()
        marked = await command(daemon, "restore", "--json")
        await relay.reachable(True)
        await daemon.start()
        why, shown, sent = await paused(daemon), await client.show(answer["id"]), len(relay.messages)
        await resume(daemon)
        await client.until(answer["id"], "relayed")
    await daemon.stop()
    await daemon.start()

    assert (beside[0], "daemon works on the database" in beside[2]) == (1, True)
    assert (no_file[0], "by its own means" in no_file[2]) == (2, True)
    assert (marked[0], json.loads(marked[1])["unfinished"]) == (0, 1)
    assert (why, shown["status"], sent) == ("restored", "held", 0)
    assert await paused(daemon) is None


async def test_a_copy_that_is_moved_is_still_one(
    install: Install, relay: ScriptedRelay, newest: Postgresql, tmp_path: Path
) -> None:
    """Restored, and moved to PostgreSQL before any daemon has started: there it waits for a person."""
    file = tmp_path / "backup.db"
    daemon = await install(plain(relay.port)).start()
    await command(daemon, "backup", str(file))
    await daemon.stop()
    await command(daemon, "restore", str(file), "--force")
    settings: Any = daemon.folder / "gateway.toml"
    async with own_schema(newest) as url:
        settings.write_text(settings.read_text().replace("sqlite:///gateway.db", url))
        moved = await command(daemon, "store", "migrate-from", f"sqlite:///{daemon.folder / 'gateway.db'}")
        await daemon.start()
        why = await paused(daemon)
        await daemon.kill()

    assert moved[0] == 0, moved
    assert why == "restored"
