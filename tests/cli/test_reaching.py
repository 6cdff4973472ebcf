"""Commands that reach no daemon, and what a person finds of a notification."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gateway.cli import cli
from gateway.outbox.states import Status
from tests.peers.requirements import require
from tests.process.daemon import ROOT

if TYPE_CHECKING:
    from click.testing import Result

    from tests.cli.conftest import Shell


def asked(folder: Path, *words: str) -> Result:
    """Ask by settings whose admin socket is in this folder."""
    settings = folder / "gateway.toml"
    settings.write_text('[admin]\nsocket = "admin.sock"\n')
    return CliRunner().invoke(cli, ["-c", str(settings), "queue", "list", *words])


@pytest.mark.parametrize("left", [True, False])
def test_a_daemon_that_does_not_run(tmp_path: Path, left: bool) -> None:
    """It says so, and how one is started, whether or not one that was killed has left its socket there; exit code 1."""
    if left:
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(tmp_path / "admin.sock"))
    result = asked(tmp_path)

    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: no daemon answers at {tmp_path}/admin.sock: it does not run")
    assert "`systemctl start notification-gateway`" in result.stderr


def test_a_daemon_that_is_not_this_users_to_ask() -> None:
    """Whoever may not use the socket is told who may, and what else there is."""
    require("root", os.geteuid() == 0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "kept").mkdir(mode=0o700)
        (folder / "gateway.toml").write_text('[admin]\nsocket = "kept/admin.sock"\n')
        command = (sys.executable, "-m", "gateway", "-c", str(folder / "gateway.toml"), "queue")
        ended = run(("setpriv", "--reuid=65534", "--clear-groups", *command), cwd=ROOT, capture_output=True, text=True)

    assert ended.returncode == 1
    assert "it is not this user's to ask; run this as root, or give --url and --key-file" in ended.stderr


def test_an_address_at_which_nobody_answers(tmp_path: Path) -> None:
    """Why not is told in the system's words."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        result = asked(tmp_path, "--url", url)

    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: no daemon answers at {url}: Connect call failed")


def test_an_address_without_its_scheme(tmp_path: Path) -> None:
    """Is wrong usage, and says what to write."""
    result = asked(tmp_path, "--url", "localhost:8025")

    assert result.exit_code == 2
    assert "write http:// or https:// before it" in result.stderr


def test_a_notification_shows_what_the_relay_knows_it_by(shell: Shell, tenant: str) -> None:
    """Its Message-ID, as everybody else has it."""
    shell.good("profiles", "set", "main", "--tenant", tenant, "--host", "127.0.0.1", "--port", "2525", "--security",
               "none", "--from", "noreply@zoo.example", "--default")  # fmt: skip
    said = shell.good("send", "--tenant", tenant, "--to", "ann@example.test", "--subject", "Hello", "--text", "Hello")
    id_ = said.split()[0]

    assert f"\n  Message-ID <{id_}@zoo.example>\n" in shell.good("notifications", "show", id_)


def test_the_statuses_are_named(shell: Shell) -> None:
    """Help lists all; what is none of them is wrong usage."""
    told = shell.good("notifications", "list", "--help")
    wrong = shell.run("notifications", "list", "--status", "uncertain")

    assert re.sub(r"\s", "", told).count("|".join(Status)) == 1
    assert wrong.exit_code == 2
    assert shell.told("notifications", "list", "--status", "held")["items"] == []
