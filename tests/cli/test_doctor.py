"""`doctor` at the command line, before a real daemon: all in order, and a profile that waits for a person."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from gateway import __version__
from gateway.cli.doctor import needs_a_person, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Shell

PARKED = "parked:secret_missing"


def test_all_in_order(shell: Shell) -> None:
    """Versions and readiness; exit code 0."""
    assert shell.good("doctor").startswith(f"daemon {__version__} (command line {__version__}) on SQLite 3.")
    assert shell.told("doctor")["ready"] is True


@pytest.mark.parametrize(("days", "trouble"), [(13, True), (15, False)])
def test_a_certificate_that_ends_soon_needs_a_person(days: int, trouble: bool) -> None:
    """Two weeks before its end it is time to renew it."""
    ends = datetime.now(UTC) + timedelta(days=days)
    told = {"ready": True, "connections": [], "profiles": [], "certificates": [{"ends_at": ends.isoformat()}]}
    assert needs_a_person(told) is trouble


def test_daemons_that_share_the_database(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each; of one of a version that did not tell, what is known."""
    told = {
        "version": "1", "store": "PostgreSQL 18", "reasons": [], "connections": [], "states": {}, "profiles": [],
        "certificates": [],
        "daemons": [
            {"host": None, "began_at": None, "lanes": 2, "retiring": True, "here": False},
            {"host": "b.example", "began_at": "2027-01-15T08:00:00.000Z", "lanes": 1, "retiring": False, "here": True},
        ],
    }  # fmt: skip
    show(told)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("daemon on ")]
    assert lines == [
        "daemon on an unknown host: 2 lanes, retiring",
        "daemon on b.example (this one), since 2027-01-15T08:00:00Z: 1 lane",
    ]


def test_what_needs_a_person(shell: Shell, tenant: str, write: Callable[[str, str], str]) -> None:
    """A profile whose secret is not there stands still with its mail: it is named, with the secret; exit code 1."""
    profile = write("profile.toml", 'auth = {username = "app", credential = {source = "stored", key = "gone"}}')
    where = ("--host", "127.0.0.1", "--port", "2525", "--security", "none", "--from", f"a@{tenant}.example")
    shell.good("profiles", "set", "main", "--tenant", tenant, *where, "--default", "--file", profile)
    shell.good("send", "--tenant", tenant, "--to", "ann@example.test", "--subject", "Hello", "--text", "Hello")
    until = time.monotonic() + 30
    while PARKED not in shell.good("queue"):
        assert time.monotonic() < until
    result = shell.run("doctor")

    assert result.exit_code == 1
    assert f"  {tenant}/main {PARKED}\n    auth.credential from stored: negative\n" in result.stdout
    assert shell.run("doctor", "--json").exit_code == 1
