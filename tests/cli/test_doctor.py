"""`doctor` at the command line, before a real daemon: all in order, and a profile that waits for a person."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from gateway import __version__
from gateway.cli.doctor import needs_a_person

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
