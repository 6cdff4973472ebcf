"""A daemon whose log nobody reads, or nobody can write, sends mail all the same."""

from __future__ import annotations

import json
import os
import select
import sys
from contextlib import suppress
from subprocess import run
from typing import TYPE_CHECKING

import pytest

from tests.process.daemon import ROOT, mail, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.peers.smtp_server import ScriptedRelay
    from tests.process.daemon import Daemon

    Install = Callable[..., Daemon]


async def sends(daemon: Daemon, relay: ScriptedRelay, standard_error: str) -> None:
    """Start the daemon with such a standard error, and send some mail."""
    settings = daemon.folder / "gateway.toml"
    settings.write_text(settings.read_text().replace('level = "info"', 'level = "debug"'))
    await daemon.start(wrapper=("bash", "-c", f'exec "$@" {standard_error}', "sh"))
    async with daemon.client() as client:
        statuses = [(await client.post(mail()))[0] for _ in range(5)]
    await relay.wait_messages(5)
    assert statuses == [202] * 5


@pytest.mark.parametrize("standard_error", ["2>&-", "2> >(true)", "2>/dev/full"], ids=["closed", "gone", "full"])
async def test_it_works_on(standard_error: str, install: Install, relay: ScriptedRelay) -> None:
    """It starts, sends and ends in order; every line that it could not write is lost, and nothing else."""
    daemon = install(plain(relay.port))
    await sends(daemon, relay, standard_error)

    assert await daemon.stop() == 0
    assert daemon.log == ""


async def test_it_waits_for_no_reader(install: Install, relay: ScriptedRelay) -> None:
    """A pipe that is full, because its reader stands still, costs lines; once there is space in it they come again."""
    daemon = install(plain(relay.port))
    pipe = daemon.folder / "unread"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(reader, bytes(select.PIPE_BUF))
    await sends(daemon, relay, f"2>'{pipe}'")
    unread = os.read(reader, 1 << 20)
    code = await daemon.stop()
    lines = os.read(reader, 1 << 20).splitlines()
    os.close(reader)

    assert (code, unread.strip(b"\0")) == (0, b"")
    assert [json.loads(line)["event"] for line in lines][-1] == "stopped"


def test_a_line_that_was_cut_off_spoils_no_other() -> None:
    """What there was space for ends where the next line begins."""
    program = (
        "import fcntl, os, sys\n"
        "from gateway.observe.lines import Stream\n"
        "reader, writer = os.pipe()\n"
        "fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)\n"
        "os.dup2(writer, 2)\n"
        "stream = Stream(lambda event: event['event'])\n"
        "for event in ('x' * 10_000, 'lost'):\n"
        "    stream.msg({'event': event})\n"
        "print(os.read(reader, 65536).decode())\n"
        "stream.msg({'event': 'next'})\n"
        "stream.msg({'event': 'last'})\n"
        "print(os.read(reader, 65536).decode(), end='')\n"
    )
    ended = run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.stdout == f"{'x' * 8_192}\n\nnext\nlast\n"
