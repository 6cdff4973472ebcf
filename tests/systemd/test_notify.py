"""What the daemon tells the service manager, word by word, at a socket of the test's own (sd_notify(3))."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import aiohttp
import pytest
import trustme

from tests.peers.smtp_server import Hold, ScriptedRelay
from tests.process.daemon import ROOT, START_SECONDS, Daemon, mail, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STUCK_LOOP: Final = "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))\n"
BROKEN_LOOP: Final = """
import signal

def broken(*_):
    from gateway.observe import facts
    facts.gauges = None  # which is told each second

signal.signal(signal.SIGUSR1, broken)
"""
PING: Final = 0.2  # seconds between two pings
WATCHED: Final = {"WATCHDOG_USEC": str(int(3 * PING * 1_000_000))}
Notice = dict[str, str]


@dataclass
class Manager:
    """A service manager that only listens: every notice, in order."""

    channel: socket.socket
    notices: list[Notice] = field(default_factory=list)

    @classmethod
    def at(cls, address: str) -> Self:
        """Listen at a path, or an abstract address (`@…`)."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        channel.setblocking(False)
        channel.bind("\0" + address[1:] if address.startswith("@") else address)
        return cls(channel)

    async def next(self, seconds: float = START_SECONDS) -> Notice:
        """Wait for the next notice."""
        async with asyncio.timeout(seconds):
            told = (await asyncio.get_running_loop().sock_recv(self.channel, 4096)).decode()
        self.notices.append(dict(line.split("=", 1) for line in told.split("\n")))
        return self.notices[-1]

    async def until(self, name: str, seconds: float = START_SECONDS) -> Notice:
        """Wait for a notice with this assignment, whatever comes before."""
        while name not in (told := await self.next(seconds)):
            pass
        return told

    async def silent(self, name: str, seconds: float) -> bool:
        """Wait until there is none for so long, beyond one that was on its way already."""
        for _ in range(2):
            try:
                await self.until(name, seconds)
            except TimeoutError:
                return True
        return False


@dataclass
class Started:
    """A daemon, and who it tells."""

    daemon: Daemon
    manager: Manager

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.daemon.process is not None
        self.daemon.process.send_signal(number)

    async def ready(self) -> int:
        """Ask once whether it is ready."""
        async with aiohttp.ClientSession() as session, session.get(self.daemon.url + "/readyz") as answer:
            return answer.status


@asynccontextmanager
async def started(folder: Path, relay: ScriptedRelay, address: str = "", **environ: str) -> AsyncIterator[Started]:
    """Start a daemon that tells `address`; nothing is waited for."""
    address = address or str(folder / "told.sock")
    daemon = Daemon(folder / "gateway", plain(relay.port))
    manager = Manager.at(address)
    with (daemon.folder / "log").open("ab") as log:
        daemon.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "serve", "-c", str(daemon.folder / "gateway.toml"),
            cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "NOTIFY_SOCKET": address, **environ},
        )  # fmt: skip
    try:
        yield Started(daemon, manager)
    finally:
        if daemon.process.returncode is None:
            await daemon.kill()
        manager.channel.close()


@pytest.fixture
async def relay() -> AsyncIterator[ScriptedRelay]:
    """A relay."""
    async with ScriptedRelay() as made:
        yield made


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
async def test_ready_means_that_requests_are_answered(tmp_path: Path, relay: ScriptedRelay, abstract: bool) -> None:
    """The moment READY=1 is told the first request is answered; told at a path or an abstract address."""
    address = f"@notification-gateway-{os.getpid()}-{time.monotonic_ns()}" if abstract else ""
    async with started(tmp_path, relay, address) as one:
        await one.manager.until("READY")
        assert await one.ready() == 200


async def test_a_start_asks_for_time(tmp_path: Path, relay: ScriptedRelay) -> None:
    """Before anything that may be long: the very first notice."""
    async with started(tmp_path, relay) as one:
        first = await one.manager.next()
        assert int(first["EXTEND_TIMEOUT_USEC"]) > 10_000_000


async def test_nothing_is_told_when_the_start_fails(tmp_path: Path, relay: ScriptedRelay) -> None:
    """Another daemon has the database: no READY, exit code 1."""
    async with started(tmp_path, relay) as one:
        await one.manager.until("READY")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "serve", "-c", str(one.daemon.folder / "gateway.toml"), cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "told.sock")}, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await process.wait() == 1
        one.signal(signal.SIGTERM)
        await one.manager.until("STOPPING")
        assert sum("READY" in notice for notice in one.manager.notices) == 1


async def test_a_listener_that_is_taken(tmp_path: Path, relay: ScriptedRelay) -> None:
    """Somebody else has the port: the log says so in one line, and the exit code is 1."""
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as other, started(tmp_path, relay) as one:
        port = other.sockets[0].getsockname()[1]
        one.signal(signal.SIGKILL)
        settings = one.daemon.folder / "taken.toml"
        settings.write_text((one.daemon.folder / "gateway.toml").read_text().replace(f":{one.daemon.http}", f":{port}"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "serve", "-c", str(settings), cwd=ROOT, stderr=asyncio.subprocess.PIPE
        )
        _, log = await process.communicate()
        told = [json.loads(line) for line in log.splitlines()]
    assert process.returncode == 1
    assert [line["event"] for line in told if line["level"] == "error"] == ["start_failed"]
    assert str(port) in told[-1]["detail"]


async def test_pings_end_when_the_loop_is_stuck(tmp_path: Path, relay: ScriptedRelay) -> None:
    """They come three times in the watchdog's limit; when the loop stands still there is none, whatever threads do."""
    (tmp_path / "sitecustomize.py").write_text(STUCK_LOOP)
    async with started(tmp_path, relay, PYTHONPATH=str(tmp_path), **WATCHED) as one:
        await one.manager.until("READY")
        began = time.monotonic()
        for _ in range(6):
            await one.manager.until("WATCHDOG", 3 * PING)
        assert time.monotonic() - began > 4 * PING
        one.signal(signal.SIGUSR1)
        assert await one.manager.silent("WATCHDOG", 10 * PING)


async def test_pings_and_reloads_outlive_a_want_of_descriptors(tmp_path: Path, relay: ScriptedRelay) -> None:
    """While the process may open nothing there are none; after that they come again, and nobody has to end it."""
    async with started(tmp_path, relay, **WATCHED) as one:
        await one.manager.until("WATCHDOG")
        assert one.daemon.process is not None
        pid = one.daemon.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        one.signal(signal.SIGHUP)
        assert await one.manager.silent("WATCHDOG", 5 * PING)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        await one.manager.until("WATCHDOG", 20 * PING)
        one.signal(signal.SIGHUP)
        await one.manager.until("RELOADING")
        await one.manager.until("READY")
        told = [json.loads(line)["event"] for line in one.daemon.log.splitlines()]

    assert [event for event in told if "reload" in event] == ["reload_failed", "reloaded"]


async def test_nobody_is_pinged_who_watches_another(tmp_path: Path, relay: ScriptedRelay) -> None:
    """WATCHDOG_PID names another process (sd_watchdog_enabled(3)): no pings, and it works."""
    async with started(tmp_path, relay, **WATCHED, WATCHDOG_PID="1") as one:
        await one.manager.until("READY")
        assert await one.manager.silent("WATCHDOG", 5 * PING)
        assert await one.ready() == 200


async def ended_in_order(one: Started, relay: ScriptedRelay, by: signal.Signals) -> int:
    """End a daemon with a mail on the wire: it says so first, then asks for time; answers its exit code."""
    word = asyncio.Event()
    held = relay.on("final", Hold(word))
    await one.manager.until("READY")
    async with one.daemon.client() as client:
        await client.post(mail())
    await relay.wait(lambda: held.hits)
    one.signal(by)
    first, second = await one.manager.next(), await one.manager.next()
    word.set()
    code = await one.daemon.wait()

    assert first["STOPPING"] == "1"
    assert int(second["EXTEND_TIMEOUT_USEC"]) > 20_000_000  # longer than drain_seconds
    return code


async def test_a_stop_is_told_first_and_asks_for_time(tmp_path: Path, relay: ScriptedRelay) -> None:
    """SIGTERM with a mail on the wire: STOPPING=1 before anything else, then more time; the end is in order."""
    async with started(tmp_path, relay) as one:
        code = await ended_in_order(one, relay, signal.SIGTERM)

    assert code == 0
    assert len(relay.messages) == 1


async def test_an_error_of_ours_is_told_and_asks_for_time(tmp_path: Path, relay: ScriptedRelay) -> None:
    """A loop that dies takes the daemon down in the same order: what is on the wire is not cut off by the watchdog."""
    (tmp_path / "sitecustomize.py").write_text(BROKEN_LOOP)
    async with started(tmp_path, relay, PYTHONPATH=str(tmp_path)) as one:
        code = await ended_in_order(one, relay, signal.SIGUSR1)

    assert code == 1
    assert len(relay.messages) == 1


@pytest.mark.parametrize("faulty", [False, True], ids=["good", "faulty"])
async def test_a_reload_begins_and_ends(tmp_path: Path, relay: ScriptedRelay, faulty: bool) -> None:
    """RELOADING=1 with the clock's time, as `notify-reload` needs it, then READY=1: also when the settings are faulty."""
    async with started(tmp_path, relay) as one:
        await one.manager.until("READY")
        if faulty:
            (one.daemon.folder / "gateway.toml").write_text("[http]\nlisten = 3\n")
        before = time.monotonic_ns() // 1000
        one.signal(signal.SIGHUP)
        reloading, ready = await one.manager.next(), await one.manager.next()
        assert await one.ready() == 200

    assert reloading["RELOADING"] == "1"
    assert before < int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert ready["READY"] == "1"


UNREADABLE = {
    "settings nested too deeply": ("gateway.toml", "x = " + "[" * 100_000),
    "a number too long in the settings": ("gateway.toml", "\n[relay]\nconnections = " + "9" * 5_000),
    "tenants nested too deeply": ("tenants.toml", "x = " + "[" * 100_000),
    "a number too long among the tenants": ("tenants.toml", "\n[[tenants]]\nid = " + "9" * 5_000),
}


@pytest.mark.parametrize(("file", "mistake"), UNREADABLE.values(), ids=UNREADABLE)
async def test_a_reload_survives_whatever_it_reads(
    tmp_path: Path, relay: ScriptedRelay, file: str, mistake: str
) -> None:
    """It fails, says that it is over, and the next one, with the mistake put right, holds."""
    async with started(tmp_path, relay) as one:
        await one.manager.until("READY")
        written = (one.daemon.folder / file).read_text()
        (one.daemon.folder / file).write_text(written + mistake)
        one.signal(signal.SIGHUP)
        await one.manager.until("READY")
        (one.daemon.folder / file).write_text(written)
        one.signal(signal.SIGHUP)
        await one.manager.until("READY")
        told = [json.loads(line) for line in one.daemon.log.splitlines()]
    assert [line["event"] for line in told if "reload" in line["event"]] == ["reload_failed", "reloaded"]
    assert "is not TOML" in next(line for line in told if line["event"] == "reload_failed")["faults"][0]


async def test_a_pipe_in_the_place_of_the_settings_stops_nobody(tmp_path: Path, relay: ScriptedRelay) -> None:
    """A reload that would wait for somebody to write into it is refused instead."""
    async with started(tmp_path, relay) as one:
        await one.manager.until("READY")
        settings = one.daemon.folder / "gateway.toml"
        settings.unlink()
        os.mkfifo(settings)
        one.signal(signal.SIGHUP)
        await one.manager.until("READY")
        assert await one.ready() == 200
        assert "is no regular file" in one.daemon.log


async def test_a_listener_that_was_plain_says_that_tls_waits(tmp_path: Path, relay: ScriptedRelay) -> None:
    """A certificate that is added by a reload needs a restart, and so does one that is taken away."""
    pair = tmp_path / "pair.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pair)
    async with started(tmp_path, relay) as one:
        await one.manager.until("READY")
        settings = one.daemon.folder / "gateway.toml"
        named = f'[http]\ntls_certificate = "{pair}"\ntls_key = "{pair}"\n'
        settings.write_text(settings.read_text().replace("[http]\n", named))
        one.signal(signal.SIGHUP)
        await one.manager.until("READY")
        waiting = [json.loads(line) for line in one.daemon.log.splitlines() if "restart_needed" in line]
    assert waiting[0]["keys"] == ["http.tls_certificate"]
