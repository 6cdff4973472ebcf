"""Processes of the benchmark: started, waited for to the microsecond, ended, and asked what they used."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from tests.bench.loadgen import Answers, Load
from tests.peers.postfix import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0  # seconds for anything to start
LOOK = 0.5  # seconds between two looks at memory
TICKS = os.sysconf("SC_CLK_TCK")


class Child:
    """A process of ours, with its output in a file."""

    def __init__(self, command: Sequence[str], output: Path) -> None:
        self.output = output
        with output.open("ab") as sink:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def wait(self, seconds: float, look: Callable[[], None] = lambda: None) -> float:
        """Wait for its end, looking around meanwhile; answers when it ended, in monotonic seconds."""
        if not self.running:
            return time.monotonic()
        deadline = time.monotonic() + seconds
        handle = os.pidfd_open(self.pid)
        try:
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            while not poller.poll(LOOK * 1000):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not over after {seconds:.0f} s: {self.tail()}")
                look()
            ended = time.monotonic()
        finally:
            os.close(handle)
        self._popen.wait()
        return ended

    @property
    def running(self) -> bool:
        """Has it not ended yet?"""
        return self._popen.poll() is None

    def tail(self) -> str:
        """The last of what it said."""
        return self.output.read_text(errors="replace")[-600:].strip()

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._popen.kill()
        self._popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def module(name: str, *arguments: object) -> list[str]:
    """The command that runs one of our modules."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def await_port(port: int, child: Child) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and child.running:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError(f"nobody listens: {child.tail()}")


class Sink(Child):
    """Postfix's `smtp-sink`, which throws mail away; it ends by itself when it has got `messages` (0: never)."""

    def __init__(self, home: Path, messages: int = 0) -> None:
        self.port = free_port()
        command = [tool("smtp-sink"), *(("-M", str(messages)) if messages else ())]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]
        super().__init__([*command, f"127.0.0.1:{self.port}", "1000"], home / "sink.log")
        await_port(self.port, self)


class Endpoint(Child):
    """Where webhooks go, see `tests.bench.endpoint`; it ends by itself when it was told of so many events."""

    def __init__(self, home: Path, events: int) -> None:
        self.port = free_port()
        super().__init__(module("tests.bench.endpoint", self.port, events), home / "endpoint.log")
        await_port(self.port, self)


class Proxy(Child):
    """Our proxy in front of a relay's port, see `tests.bench.proxy`."""

    def __init__(self, home: Path, relay_port: int, *options: object) -> None:
        self.port = free_port(relay_port)
        super().__init__(module("tests.bench.proxy", self.port, relay_port, *options), home / "proxy.log")
        await_port(self.port, self)


class Generator(Child):
    """The load generator at work on a load."""

    def __init__(self, home: Path, load: Load) -> None:
        self._load = load
        output = home / f"load-{time.monotonic_ns()}.json"
        super().__init__(module("tests.bench.loadgen", json.dumps(asdict(load))), output)

    def answers(self, seconds: float = 180.0, look: Callable[[], None] = lambda: None) -> Answers:
        """Wait for it to finish; anything but acceptance of everything is an error."""
        self.wait(seconds, look)
        try:
            answers = Answers(**json.loads(self.output.read_text().splitlines()[-1]))
        except (ValueError, IndexError):
            raise RuntimeError(f"the load generator failed: {self.tail()}") from None
        if answers.accepted != self._load.requests * (self._load.batch or 1):
            raise RuntimeError(f"{answers.accepted} accepted, refused {answers.refused}: {answers.first_refusal}")
        return answers

    def check(self) -> None:
        """Raise at once what `answers` would raise later."""
        if not self.running:
            self.answers()


def tool(name: str) -> str:
    """Where one of Postfix's test tools is."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


class Watch:
    """What a system's own processes use from now on."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._before = self._cpu()
        self._pss = 0.0

    def look(self) -> None:
        """Look at memory: of PSS the kernel keeps no highest value."""
        self._pss = max(self._pss, sum(_kibibytes(pid, "smaps_rollup", "Pss:") for pid in self._pids()) / 1024)

    def used(self, messages: int) -> dict[str, float]:
        """CPU-seconds for a thousand messages, and the highest memory seen, in MiB."""
        cpu = (self._cpu() - self._before) / messages * 1000
        self.look()
        peak = sum(_kibibytes(pid, "status", "VmHWM:") for pid in self._pids()) / 1024
        return {"cpu": cpu, "pss": self._pss, "hwm": peak}

    def _cpu(self) -> float:
        """User and system time, that of reaped children included."""
        return sum(sum(map(int, _stat(pid)[11:15])) for pid in self._pids()) / TICKS


class Bystanders:
    """What processes that are not ours, nor below ours, take of the machine's CPUs from now on."""

    def __init__(self) -> None:
        self._since, self._others = time.monotonic(), self._taken()

    def share(self) -> float:
        """The share of all CPUs since then; small negative values are the clock's ticks."""
        seconds = time.monotonic() - self._since
        return (self._taken() - self._others) / seconds / (os.cpu_count() or 1)

    @staticmethod
    def _taken() -> float:
        user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return (user + nice + system + irq + softirq) / TICKS - own


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ["0"] * 15


def _kibibytes(pid: int, file: str, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def kill(pid: int) -> None:
    """End a process that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
