"""What the unit files say, read the way systemd reads them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.peers.requirements import require

FOLDER: Final = Path(__file__).parents[2] / "systemd"
DROP_INS: Final = sorted((FOLDER / "drop-ins").glob("*.conf"))
Settings = list[tuple[str, str]]


def section(text: str, name: str) -> Settings:
    """Read the assignments of one section, in order."""
    told, here = [], ""
    for line in text.splitlines():
        if line.startswith("["):
            here = line.strip("[]")
        elif here == name and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            told.append((key, value))
    return told


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Ask systemd-analyze, or skip visibly."""
    require("systemd-analyze", shutil.which("systemd-analyze"))
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def system_calls(lines: list[str]) -> set[str]:
    """Expand the values of SystemCallFilter= to the calls that are allowed (systemd.exec(5))."""
    groups = _groups()
    allowed: set[str] = _expand("@default", groups)
    for line in lines:
        named = set().union(*(_expand(word, groups) for word in line.removeprefix("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def _groups() -> dict[str, list[str]]:
    """Read the groups of system calls as systemd knows them here."""
    groups: dict[str, list[str]] = {}
    members: list[str] = []
    for line in analyze("syscall-filter", "--no-pager").stdout.splitlines():
        if line.startswith("@"):
            members = groups[line.strip()] = []
        elif line.startswith("    ") and not line.strip().startswith("#"):
            members.append(line.strip())
    return groups


def _expand(word: str, groups: dict[str, list[str]]) -> set[str]:
    if not word.startswith("@"):
        return {word}
    return set().union(*(_expand(member, groups) for member in groups[word]))
