"""Commands that reach no daemon, and what a person finds of a notification."""

from __future__ import annotations

import os
import re
import socket
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Final

import pytest
from click.testing import CliRunner

from gateway.cli import cli
from gateway.outbox.states import Status
from tests.peers.requirements import require
from tests.process.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextmanager
def stranger(status: int, kind: str, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """Something that answers whatever it is asked; its address, and what it was asked."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            paths.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": len(body), "Location": "/elsewhere"}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - as the library calls them

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", paths
        finally:
            server.shutdown()
            thread.join()


STRANGERS: Final = {
    "a proxy": (502, "text/html", b"<html>Bad Gateway</html>"),
    "a proxy that speaks JSON": (503, "application/json", b'{"message": "no upstream"}'),
    "a way elsewhere": (301, "text/html", b""),
    "a way elsewhere in JSON": (302, "application/json", b"{}"),
    "a page": (200, "text/html", b"<html>Welcome</html>"),
    "nothing": (200, "text/plain", b""),
    "half an answer": (200, "application/json", b"{"),
}
ASKING: Final = {
    "a call": ("queue", "list"),
    "the same in JSON": ("queue", "list", "--json"),
    "a test": ("test", "main", "--tenant", "acme", "--to", "ann@example.test"),
    "a test in JSON": ("test", "main", "--tenant", "acme", "--to", "ann@example.test", "--json"),
    "a backup": ("backup", "copy.db"),
}


@pytest.mark.parametrize(("status", "kind", "body"), STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("words", ASKING.values(), ids=ASKING)
def test_what_is_no_gateway(
    words: tuple[str, ...], status: int, kind: str, body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told so, with what it answered; nobody is followed elsewhere, and nothing is left of a backup."""
    monkeypatch.chdir(tmp_path)
    with stranger(status, kind, body) as (url, paths):
        result = CliRunner().invoke(cli, [*words, "--url", url])

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {url} is no notification gateway (it answered {status})\n"
    assert len(paths) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_no_daemon_that_is_away(shell: Shell, tmp_path: Path) -> None:
    """A backup says what became of the file."""
    command = (sys.executable, "-B", "-m", "gateway", "-c", str(shell.daemon.folder / "gateway.toml"), "backup")
    limited = ("sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *command, str(tmp_path / "copy.db"))
    ended = run(limited, cwd=ROOT, capture_output=True, text=True)

    assert (ended.returncode, ended.stderr) == (1, f"Error: {tmp_path}/copy.db.part: File too large\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("standard_input", "told"), [("<latin.txt", "standard input is not UTF-8"), ("<&-", "standard input is closed")]
)
def test_a_message_that_cannot_be_read(tmp_path: Path, standard_input: str, told: str) -> None:
    """Wrong usage, and nobody is asked; whatever the locale."""
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    words = ("send", "--tenant", "acme", "--to", "ann@example.test", "--subject", "x", "--url", "http://127.0.0.1:1")
    command = ("sh", "-c", f'exec "$@" {standard_input}', "sh", sys.executable, "-m", "gateway", *words)
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    ended = run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **plain})

    assert ended.returncode == 2
    assert told in ended.stderr


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
