"""Programs that tests/peers/fetch.sh unpacked: where they are, and how to run one as a daemon of the test's own.

They lie in one directory: `GATEWAY_TEST_PEERS`, or notification-gateway-peers in /var/cache (where root puts them) or in
the user's cache. What is not there is not available, and what needs it says so:
`require("exim (tests/peers/fetch.sh)", exim_available())`.

A `Daemon` has a directory of its own, listens on loopback only, runs as an ordinary user (root becomes nobody, so that
directory has to be readable for all) unless it cannot, and ends with all its children; also with the test's process.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from tests.peers.postfix import free_port

HOST = "127.0.0.1"
START_SECONDS = 20.0
PATIENCE = 0.02
DYING_SECONDS = 5.0
_NAME = "notification-gateway-peers"


def peers() -> Path:
    """Where the programs are, or would be."""
    if given := os.environ.get("GATEWAY_TEST_PEERS"):
        return Path(given)
    own = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    places = [Path(place).expanduser() / _NAME for place in ("/var/cache", own)]
    return next((place for place in places if place.is_dir()), places[0])


def fetched(path: str) -> Path:
    """Answer where the file is that Debian installs as this one."""
    return peers() / path.lstrip("/")


def is_fetched(*paths: str) -> bool:
    """Whether all of these can be run, or read."""
    return all(fetched(path).exists() for path in paths)


def environment() -> dict[str, str]:
    """What a fetched program has to be told to find its libraries, and nothing else."""
    libraries = [*sorted(peers().glob("usr/lib/*-linux-gnu*")), peers() / "usr/lib"]
    libraries += [fetched("/usr/lib/dovecot"), fetched("/usr/lib/dovecot/modules/old-stats")]
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH": ":".join(map(str, libraries))}


def ordinary() -> pwd.struct_passwd:
    """Who runs daemons that need no root: whoever runs the tests, or nobody instead of root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def become(account: pwd.struct_passwd) -> dict[str, Any]:
    """Give the arguments that make `Popen` start a program as this user."""
    if os.geteuid() != 0 or account.pw_uid == 0:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def free_ports(count: int, *avoid: int) -> list[int]:
    """So many different ports, as `free_port` gives them."""
    ports: list[int] = []
    for _ in range(count):
        ports.append(free_port(*avoid, *ports))
    return ports


class Daemon:
    """One daemon: `with SomeDaemon(...) as daemon`. Subclasses say how it is prepared and where it listens."""

    def __init__(self, *listens: int | str) -> None:
        """`listens` are the ports, or the sockets below the daemon's directory, that it opens when it is ready."""
        self.host = HOST
        self.home = Path()
        self._listens = listens
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> list[str | Path]:
        """Write what the daemon reads into its directory, and answer the command that runs it in the foreground."""
        raise NotImplementedError

    def account(self) -> pwd.struct_passwd:
        """Who it runs as."""
        return ordinary()

    def variables(self) -> dict[str, str]:
        """Its environment."""
        return environment()

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True)
        self.home = Path(self._directory.name)
        self.home.chmod(0o755)  # another daemon, of another user, may have to reach a socket inside
        try:
            command = self.prepare()
            self._hand_over()
            self._start(command)
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            ended = time.monotonic() + DYING_SECONDS
            while self.processes() and time.monotonic() < ended:  # the others of its group are not ours to wait for
                time.sleep(PATIENCE)
        if self._directory is not None:
            self._directory.cleanup()

    def log(self) -> str:
        """What it said and logged so far."""
        return "".join(file.read_text(errors="replace") for file in sorted(self.home.glob("*.log")))

    def processes(self) -> list[int]:
        """The living processes of this daemon."""
        if self._process is None:
            return []
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _group(entry) == self._process.pid]

    def _hand_over(self) -> None:
        """Make the daemon's user own the directory."""
        account = self.account()
        if os.geteuid() == 0 and account.pw_uid != 0:
            for path in (self.home, *self.home.rglob("*")):
                os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)

    def _start(self, command: list[str | Path]) -> None:
        said = self.home / "said.log"
        with said.open("wb") as out:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, cwd=self.home, env=self.variables(), start_new_session=True,
                **become(self.account()),
            )  # fmt: skip

    def _wait_until_ready(self) -> None:
        """Connect to everything that it has to listen on: most daemons say nothing when they are ready."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        waiting = list(self._listens)
        while waiting:
            if self._process.poll() is not None:
                raise RuntimeError(f"{type(self).__name__} ended with {self._process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{type(self).__name__} does not listen on {waiting}:\n{self.log()}")
            if self._connects(waiting[0]):
                del waiting[0]
            else:
                time.sleep(PATIENCE)

    def _connects(self, place: int | str) -> bool:
        family, address = (
            (socket.AF_INET, (self.host, place)) if isinstance(place, int) else (socket.AF_UNIX, str(self.home / place))
        )
        with socket.socket(family, socket.SOCK_STREAM) as client:
            return client.connect_ex(address) == 0


def _group(process: Path) -> int | None:
    """The process group; a zombie, or a process that is gone, has none."""
    try:
        state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return None
    return None if state == "Z" else int(group)


def copy_into(root: Path, source: Path, place: str) -> None:
    """Copy a file, or what a link points to, to its place below a root directory."""
    target = root / place.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
