"""What the figures were measured on."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import apsw

from gateway import __version__


def describe(base: Path) -> Iterator[str]:
    """Lines that name the machine, the disk and the versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB, Linux {platform.release()}, {_filesystem(base)}"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "aiosmtplib"))
    yield (
        f"notification-gateway {__version__}, Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()},"
        f" {libraries}, Postfix {_postfix()}"
    )
    yield f"load of the machine before the run: {os.getloadavg()[0]:.2f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(base: Path) -> str:
    """The type of the file system that a directory is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    around = [(len(place), kind) for place, kind in mounts if base.is_relative_to(place)]
    return max(around, default=(0, "unknown file system"))[1]


def _postfix() -> str:
    tool = shutil.which("postconf", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if tool is None:
        return "not installed"
    asked = subprocess.run([tool, "-d", "-h", "mail_version"], capture_output=True, text=True, timeout=10, check=False)
    return asked.stdout.strip()
