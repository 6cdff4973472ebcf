"""`check --probe`: every secret is fetched and every relay opened, and nothing is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.cli import main
from gateway.cli.check import check
from tests.peers.smtp_server import ScriptedRelay, issue_tls

if TYPE_CHECKING:
    from pathlib import Path

    from tests.peers.postgresql import Postgresql

SETTINGS = """
[egress]
allow = ["127.0.0.1/32"]
[store]
url = "sqlite:///{folder}/gateway.db"
[local_secrets]
directory = "{folder}/secrets"
allow = {{ acme = [""] }}
[provision]
files = ["tenants.toml"]
"""
TENANTS = """
[[tenants]]
id = "acme"

[[profiles]]
tenant = "acme"
name = "main"
host = "127.0.0.1"
port = {port}
from = "a@acme.example"
tls = {{ ca_certificates = '''{ca}''' }}
auth = {{ username = "app", credential = {credential} }}
"""


async def probed(folder: Path, relay: ScriptedRelay, ca: str, credential: str) -> int:
    """Check a daemon's files with one profile for this relay; the exit code."""
    (folder / "secrets").mkdir(exist_ok=True)
    (folder / "gateway.toml").write_text(SETTINGS.format(folder=folder))
    (folder / "tenants.toml").write_text(TENANTS.format(port=relay.port, ca=ca, credential=credential))
    return await check(folder / "gateway.toml", probe=True, as_json=False)


@pytest.mark.parametrize(
    "credential", ['{ source = "plaintext", value = "right" }', '{ source = "file", key = "relay-a" }']
)
async def test_a_good_way_out(tmp_path: Path, credential: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Signed in with the secret from where it is, and hung up."""
    issued = issue_tls("127.0.0.1")
    async with ScriptedRelay(tls=issued.context, users={"app": "right"}) as relay:
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / "relay-a").write_text("right\n")
        code = await probed(tmp_path, relay, issued.ca_pem, credential)

    assert (code, "acme/main: the relay answers" in capsys.readouterr().out) == (0, True)
    assert relay.sessions[0].username == "app"
    assert "MAIL" not in relay.sessions[0].verbs


@pytest.mark.parametrize(
    ("credential", "told"),
    [
        ('{ source = "file", key = "gone" }', "secret: "),
        ('{ source = "plaintext", value = "wrong" }', "(auth_failed)"),
    ],
)
async def test_a_way_out_that_does_not_work(
    tmp_path: Path, credential: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and which phase and why, without the secret."""
    issued = issue_tls("127.0.0.1")
    async with ScriptedRelay(tls=issued.context, users={"app": "right"}) as relay:
        code = await probed(tmp_path, relay, issued.ca_pem, credential)
    said = capsys.readouterr().err

    assert code == 1
    assert said.startswith("acme/main: ")
    assert told in said
    assert "wrong" not in said.replace("wrong try", "")


async def test_a_secret_of_the_store_is_not_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The database is the daemon's: that profile is named and not judged."""
    async with ScriptedRelay() as relay:
        code = await probed(tmp_path, relay, issue_tls("127.0.0.1").ca_pem, '{ source = "stored", key = "relay-a" }')

    assert (code, relay.sessions) == (0, [])
    assert "see `test`" in capsys.readouterr().out


@pytest.mark.parametrize(("database", "code", "told"), [("postgres", 0, "PostgreSQL "), ("nowhere", 1, "nowhere")])
async def test_the_database(
    tmp_path: Path, postgresql: Postgresql, capsys: pytest.CaptureFixture[str], database: str, code: int, told: str
) -> None:
    """Opened and looked at; one that is not there is named, with exit code 1."""
    url = postgresql.url.replace("/postgres", f"/{database}")
    (tmp_path / "gateway.toml").write_text(f'[store]\nurl = "{url}"\n')

    assert await check(tmp_path / "gateway.toml", probe=True, as_json=False) == code
    assert told in "".join(capsys.readouterr())


@pytest.mark.parametrize("command", [("check",), ("serve",)])
@pytest.mark.parametrize(
    ("text", "told"), [("[relay]\nspeed = 1\n", "1 fault"), ("[relay]\nspeed = 1\nweight = 2\n", "2 faults")]
)
def test_faults_are_counted(
    tmp_path: Path, command: tuple[str, ...], text: str, told: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The last line says how many there are, whichever command met them; exit code 78."""
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    monkeypatch.setattr("sys.argv", ["notification-gateway", "-c", str(path), *command])
    with pytest.raises(SystemExit) as ended:
        main()

    assert (ended.value.code, capsys.readouterr().err.splitlines()[-1]) == (78, told)
