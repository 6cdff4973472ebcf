"""`doctor` at the command line, before a real daemon: all in order, and a profile that waits for a person."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from gateway import __version__
from gateway.cli import cli
from gateway.cli.doctor import needs_a_person, show
from gateway.http.needs import NeedView

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Shell

PARKED = "parked:secret_missing"
STORE = {
    "engine": "PostgreSQL 18", "schema_version": 3, "bytes": 5_000_000, "log_bytes": None, "free_bytes": None,
    "floor_bytes": None, "last_backup_at": None,
}  # fmt: skip
WELL: dict[str, Any] = {
    "version": "1", "store": STORE, "ready": True, "reasons": [], "paused": None, "restart_needed": [], "outbox": None,
    "daemons": [], "connections": [], "relays": [], "states": {}, "profiles": [], "certificates": [],
    "needs": [],
}  # fmt: skip
SINCE = "2027-01-15T08:00:00.000Z"


def need(kind: str, *, remark: bool = False, **more: object) -> dict[str, object]:
    """Something that needs a person, as the daemon tells it."""
    return {**dict.fromkeys(NeedView.model_fields), "need": kind, "remark": remark, **more}


def test_all_in_order(shell: Shell) -> None:
    """Versions and readiness; exit code 0, though no backup was made yet."""
    said = shell.good("doctor")
    assert said.startswith(f"daemon {__version__} (command line {__version__}) on SQLite 3.")
    assert said.endswith("\nremark: backup\n")
    assert shell.told("doctor")["ready"] is True


@pytest.mark.parametrize("remark", [True, False])
def test_a_remark_needs_nobody(remark: bool) -> None:
    """Only what is more than a remark makes the exit code 1."""
    assert needs_a_person({**WELL, "needs": [need("backup", remark=True), need("disk", remark=remark)]}) is not remark
    assert not needs_a_person(WELL)


def test_what_needs_a_person_is_said_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """What it is, of what, and why; last of all, and behind everything else that is told."""
    show(
        {
            **WELL,
            "needs": [
                need("restart", name="http.listen, store"),
                need("certificate", name="a.example:25", at=SINCE),
                need("connection", name="corp", reason="login_denied"),
                need("parked", tenant="acme", profile="main", reason="auth_failed", waiting=2, age_seconds=90),
                need("parked", tenant="acme", profile="desk", reason="auth_failed", waiting=0),
                need("no_profile", tenant="globex", waiting=1, age_seconds=5),
                need("uncertain", waiting=4),
                need(
                    "credential", tenant="acme", profile="main", name="auth.credential", reason="stale", source="vault",
                    age_seconds=3600,
                ),
                need("webhook", tenant="acme", name="hooks.example", reason="gone"),
                need("backup", remark=True),
            ],
        }
    )  # fmt: skip
    assert capsys.readouterr().out.splitlines()[-10:] == [
        "needs a person: restart http.listen, store",
        "needs a person: certificate a.example:25: 2027-01-15T08:00:00Z",
        "needs a person: connection corp: login_denied",
        "needs a person: parked acme/main: auth_failed, 2 wait, the oldest for 90 s",
        "needs a person: parked acme/desk: auth_failed, 0 wait",
        "needs a person: no_profile globex: 1 wait, the oldest for 5 s",
        "needs a person: uncertain: 4 wait",
        "needs a person: credential acme/main auth.credential: stale, vault, 3600 s old",
        "needs a person: webhook acme hooks.example: gone",
        "remark: backup",
    ]


def test_pause_and_restart_are_told_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Since when nothing is sent, and which settings wait, stand at the top."""
    show({**WELL, "paused": {"since": SINCE, "reason": "restored"}, "restart_needed": ["http.listen", "store"]})
    paused, restart = capsys.readouterr().out.splitlines()[1:3]
    assert paused.startswith("all sending is paused since 2027-01-15T08:00:00Z (the database was restored: ")
    assert restart == "a restart is needed for http.listen, store"


def test_store_outbox_and_relays(capsys: pytest.CaptureFixture[str]) -> None:
    """How large and how old everything is, as far as anybody knows."""
    store = {**STORE, "log_bytes": 250_000, "free_bytes": 9e9, "floor_bytes": 268e6, "last_backup_at": SINCE}
    outbox = {"unfinished": 7, "deferred": 2, "oldest_seconds": 90, "overdue_seconds": 30}
    relays = [
        {"host": "a.example", "port": 25, "states": {"parked:auth_failed": 1, "active": 2}, "proven_seconds": 4},
        {"host": "b.example", "port": 587, "states": {"active": 1}, "proven_seconds": None},
    ]
    vault = {"name": "corp", "kind": "vault", "health": "ok", "answered_seconds": 12}
    show({**WELL, "store": store, "outbox": outbox, "relays": relays, "connections": [vault]})
    show(WELL)

    assert capsys.readouterr().out.splitlines()[1:] == [
        "store: schema 3, 5.0 MB, its log 0.2 MB, 9000 MB free, of which 268 stay so, backed up 2027-01-15T08:00:00",
        "outbox: 7 unfinished, 2 deferred, the oldest for 90 s, due for 30 s",
        "connection corp (vault): ok, answered 12 s ago",
        "relay a.example:25: 2 active, 1 parked:auth_failed, proven 4 s ago",
        "relay b.example:587: 1 active",
        "profiles: none was in use yet",
        f"daemon 1 (command line {__version__}) on PostgreSQL 18: ready",
        "store: schema 3, 5.0 MB",
        "profiles: none was in use yet",
    ]


def test_daemons_that_share_the_database(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each; of one of a version that did not tell, what is known."""
    daemons = [
        {"host": None, "began_at": None, "lanes": 2, "retiring": True, "here": False},
        {"host": "b.example", "began_at": SINCE, "lanes": 1, "retiring": False, "here": True},
    ]
    show({**WELL, "daemons": daemons})
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
    assert f"\nneeds a person: parked {tenant}/main: secret_missing, 1 wait, the oldest for " in result.stdout
    assert shell.run("doctor", "--json").exit_code == 1


def test_the_daemon_is_found_while_its_settings_are_faulty(shell: Shell) -> None:
    """Whoever has to mend a settings file can ask the running daemon meanwhile; `check` alone tells the faults."""
    settings = shell.daemon.folder / "gateway.toml"
    faulty = shell.daemon.folder / "faulty.toml"
    faulty.write_text(settings.read_text() + "[ui]\nno_such_key = 1\n")
    asked = CliRunner().invoke(cli, ["-c", str(faulty), "queue", "list"])
    checked = CliRunner().invoke(cli, ["-c", str(faulty), "check"])
    assert asked.exit_code == 0, asked.output
    assert checked.exit_code == 78
