"""The disk fails under the real daemon: errors are injected into its system calls, and its promises are held to.

strace stands between the daemon and the kernel, so it is the real SQLite that meets the error.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.peers.requirements import require
from tests.process.crash import Account, Load, settled
from tests.process.daemon import mail, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.peers.smtp_server import ScriptedRelay
    from tests.process.daemon import Daemon

    Install = Callable[..., Daemon]

SYNCS = "fdatasync,fsync"
REQUESTS = 200
POSTED = 240  # some lines of a trace are cut in two by another thread


@pytest.mark.parametrize("nth", [12, 25, 60])
async def test_a_failed_sync_is_never_acknowledged(
    install: Install, relay: ScriptedRelay, strace: tuple[str, ...], nth: int
) -> None:
    """EIO at a sync: no 202 for what it covered, the daemon ends with code 1, and the restart finds all that was answered."""
    daemon = install(plain(relay.port))
    inject = (*strace, "-o", "/dev/null", "-e", f"trace={SYNCS}", "-e", f"inject={SYNCS}:error=EIO:when={nth}")
    await daemon.start(wrapper=inject)
    answers = await _post_until_refused(daemon)
    code = await daemon.wait()
    await daemon.start()
    acknowledged = {answer["id"] for status, answer in answers if status == 202}
    await settled(daemon, acknowledged)
    account = Account.of(relay.ledger_path)  # type: ignore[arg-type]

    assert code == 1
    told = [json.loads(line) for line in daemon.log.splitlines()]
    broken = [line for line in told if line["event"] == "store_broken"]
    assert len(broken) == 1
    assert "I/O" in broken[0]["detail"]
    assert not [line for line in told if line["event"] in ("loop_died", "uncaught")]
    assert account.missing(acknowledged) == set()
    assert {status for status, _ in answers} <= {202, 503, 0}


async def test_a_full_disk_is_503_until_there_is_room(
    install: Install, relay: ScriptedRelay, strace: tuple[str, ...]
) -> None:
    """ENOSPC while writing: 503 with Retry-After, the daemon lives, and later mail is taken again; nothing is lost."""
    daemon = install(plain(relay.port))
    inject = (*strace, "-o", "/dev/null", "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC:when=200..204")
    await daemon.start(wrapper=inject)
    load = Load([daemon])
    refused = 0
    status = 0
    async with daemon.client() as client, asyncio.timeout(20):
        while not (refused and status == 202):
            status, answer, _ = await client.post(mail("hello"))
            if status == 202:
                load.acknowledged.add(answer["id"])
            else:
                refused += 1
                assert (status, answer["code"]) == (503, "storage_full")
    await settled(daemon, load.acknowledged)

    assert refused > 0
    assert status == 202
    assert Account.of(relay.ledger_path).missing(load.acknowledged) == set()  # type: ignore[arg-type]


async def test_every_202_follows_a_sync_that_covers_it(
    install: Install, relay: ScriptedRelay, strace: tuple[str, ...], tmp_path: Path
) -> None:
    """Two hundred requests: between a request's octets and its 202 the log of the database was synced, every time."""
    require("root, to whom the daemon's descriptors are shown", os.geteuid() == 0)
    daemon = install(plain(relay.port))
    log = tmp_path / "strace.log"
    calls = f"trace={SYNCS},read,recvfrom,write,writev,sendto,sendmsg"
    await daemon.start(wrapper=(*strace, "-o", str(log), "-y", "-s", "24", "-e", calls))
    async with daemon.client() as client:
        answers = await asyncio.gather(*(_several(client, n) for n in range(8)))
    await daemon.stop()
    covered, uncovered = _coverage(await _whole(log))

    assert {status for one in answers for status in one} == {202}
    assert uncovered == 0
    assert covered >= REQUESTS


async def _several(client: object, caller: int) -> list[int]:
    return [(await client.post(mail(f"{caller} {n}")))[0] for n in range(POSTED // 8)]  # type: ignore[attr-defined]


async def _post_until_refused(daemon: Daemon) -> list[tuple[int, dict[str, str]]]:
    """Post one after the other until the daemon refuses or is gone (status 0)."""
    answers: list[tuple[int, dict[str, str]]] = []
    async with daemon.client() as client:
        for number in range(500):
            try:
                status, answer, _ = await client.post(mail(str(number)))
            except Exception:  # noqa: BLE001 - whatever a dying daemon does to the connection
                answers.append((0, {}))
                break
            answers.append((status, answer))
            if status != 202:
                break
    return answers


async def _whole(log: Path) -> str:
    """Read the trace once its tracer, which is no child of ours, has written the last line."""
    async with asyncio.timeout(20):
        while "+++ exited with" not in (trace := log.read_text(errors="replace")).rpartition("\n\n")[2][-200:]:
            await asyncio.sleep(0.05)
    return trace


def _coverage(trace: str) -> tuple[int, int]:
    """Count the 202s that follow a whole sync of the log since their request was read, and those that do not."""
    covered = uncovered = 0
    read_at: dict[str, int] = {}
    begun: dict[str, int] = {}
    syncs: list[tuple[int, int]] = []
    for at, line in enumerate(trace.splitlines()):
        pid = line.split(" ", 1)[0]
        if "sync(" in line and "-wal" in line:
            begun[pid] = at
            if "<unfinished" not in line:
                syncs.append((at, at))
        elif re.search(r"<\.\.\. f(data)?sync resumed>", line) and pid in begun:
            syncs.append((begun.pop(pid), at))
        elif (found := re.search(r"(?:read|recvfrom)\((\d+)<[^>]*>+, \"POST /v1", line)) is not None:
            read_at[found[1]] = at
        elif (found := re.search(r"(?:write|writev|sendto|sendmsg)\((\d+)<.*HTTP/1\.1 202", line)) is not None:
            since = read_at.pop(found[1], None)
            if since is not None:
                good = any(since < start and end < at for start, end in syncs[-50:])
                covered += good
                uncovered += not good
    return covered, uncovered
