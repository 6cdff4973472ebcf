"""`check`: it says what the daemon would say, without its database; `--probe` opens every way out, and sends nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from click.testing import CliRunner

from gateway.cli import cli, main
from gateway.cli.check import check
from gateway.directory.entries import entry
from gateway.directory.keys import new_key
from gateway.directory.shapes import Profile, Tenant
from gateway.directory.snapshot import API
from gateway.settings import SettingsError, loading
from tests.directory.provisioning import ACME, bench, profile
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
OCTETS: Final = bytes(range(0xE0, 0x100))
"""Of no key, and of no text."""


async def probed(folder: Path, relay: ScriptedRelay, ca: str, credential: str, *, as_json: bool = False) -> int:
    """Check a daemon's files with one profile for this relay; the exit code."""
    (folder / "secrets").mkdir(exist_ok=True)
    (folder / "gateway.toml").write_text(SETTINGS.format(folder=folder))
    (folder / "tenants.toml").write_text(TENANTS.format(port=relay.port, ca=ca, credential=credential))
    return await check(folder / "gateway.toml", probe=True, as_json=as_json)


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


@pytest.mark.parametrize(
    ("provision", "told"),
    [
        ('files = ["tenants.toml"]', ["[relay] speed", "tenants.toml: [[nonsense]]"]),
        ('files = ["gone.toml"]', ["[relay] speed", "[provision] files[0]"]),
        ('files = "tenants.toml"\nspeed = 1', ["[relay] speed", "[provision] speed"]),
    ],
)
async def test_faults_of_settings_do_not_hide_those_of_files(
    tmp_path: Path, provision: str, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the settings say well which files there are, these are read, whatever else is wrong."""
    (tmp_path / "gateway.toml").write_text(f"[relay]\nspeed = 1\n[provision]\n{provision}\n")
    (tmp_path / "tenants.toml").write_text("[[nonsense]]\n")
    assert await check(tmp_path / "gateway.toml", probe=False, as_json=False) == 78
    said = capsys.readouterr().err
    assert [one for one in told if one not in said] == []
    assert ("nonsense" in said) == ("nonsense" in str(told))


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


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("variable", [False, True], ids=["option", "variable"])
def test_a_file_that_is_named_must_be_there(
    tmp_path: Path, command: str, variable: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one that is looked for when none is named: where it is gone, no daemon comes up on the defaults."""
    path = tmp_path / "gateway.toml"
    monkeypatch.setattr(loading, "DEFAULT_FILE", path)
    if variable:
        monkeypatch.setenv("NOTIFICATION_GATEWAY_CONFIG", str(path))
    monkeypatch.setattr("sys.argv", ["notification-gateway", *(() if variable else ("-c", str(path))), command])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 78
    assert f"{path}: cannot be read (No such file or directory)" in capsys.readouterr().err


def test_without_a_file_there_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody names one."""
    monkeypatch.setattr(loading, "DEFAULT_FILE", tmp_path / "gateway.toml")
    monkeypatch.delenv("NOTIFICATION_GATEWAY_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, ["check"]).exit_code == 0


def test_a_file_that_cannot_be_looked_for_is_none_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may not look there is told so, and gets no defaults."""
    monkeypatch.setattr(loading, "DEFAULT_FILE", tmp_path / ("x" * 300))
    monkeypatch.delenv("NOTIFICATION_GATEWAY_CONFIG", raising=False)
    checked = CliRunner().invoke(cli, ["check"])
    assert (checked.exit_code, "cannot be read" in checked.stderr) == (78, True)


# What only the database can tell.

DB_ACME: Final = Tenant(id="acme")
EMEA: Final = '[[tenants]]\nid = "emea"\nparent = "acme"\n'
LINK: Final = '[[links]]\ntenant = "acme"\nprofile = "main"\nchild = "emea"\n'
MAIN: Final = Profile.model_validate({"tenant": "acme", "name": "main", "host": "h.example", "from": "a@acme.example"})
ELSEWHERE: Final = {
    "a profile's tenant": (profile(), [DB_ACME], "[[profiles]][0]: unknown_tenant: the tenant"),
    "a tenant's parent": (EMEA, [DB_ACME], "[[tenants]][0]: unknown_parent: the parent"),
    "preferences' tenant": ('[[preferences]]\ntenant = "acme"\n', [DB_ACME], "[[preferences]][0]: unknown_tenant: the tenant"),
    "a template's tenant": (
        '[[templates]]\ntenant = "acme"\nname = "hi"\nsubject = "Hi"\ntext = "Hi"\n', [DB_ACME],
        "[[templates]][0]: unknown_tenant: the tenant",
    ),
    "a key's tenant": (
        '[[keys]]\ntenant = "acme"\nname = "app"\nscopes = ["send"]\nfile = "app.key"\n', [DB_ACME],
        "[[keys]][0]: unknown_tenant: the tenant",
    ),
    "a link's profile": (ACME + EMEA + LINK, [DB_ACME, MAIN], "[[links]][0]: not_owned: the profile"),
    "a link's child": (
        ACME + profile() + LINK, [DB_ACME, Tenant(id="emea", parent="acme")], "[[links]][0]: not_a_child: the child",
    ),
    "a failover": (
        ACME + profile("spare", "acme", 'failover = ["main"]'), [DB_ACME, MAIN],
        "[[profiles]][0]: unknown_profile: the failover",
    ),
}  # fmt: skip
"""Files, what of the database they refer to, and what is said of it."""


async def checked(folder: Path, tables: str) -> int:
    """Check a daemon's files with these tables; the exit code."""
    (folder / "gateway.toml").write_text('[provision]\nfiles = ["tenants.toml"]\n')
    (folder / "tenants.toml").write_text(tables)
    return await check(folder / "gateway.toml", probe=False, as_json=False)


@pytest.mark.parametrize(("tables", "known", "told"), ELSEWHERE.values(), ids=ELSEWHERE.keys())
async def test_what_the_database_may_have_is_a_remark(
    tmp_path: Path, tables: str, known: list[Tenant | Profile], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon takes the same file where its database has what it refers to, and refuses it where not."""
    code = await checked(tmp_path, tables)
    said = capsys.readouterr()
    async with bench(tmp_path) as b:
        with pytest.raises(SettingsError):
            await b.provision(tables)
        await b.store.change_directory(b.snapshot.revision, [entry(item, API) for item in known], [])
        await b.directory.load()
        await b.provision(tables)

    assert (code, said.out) == (0, "settings are good\n")
    what = told.rpartition(" ")[2]
    assert said.err == (
        f"note: {tmp_path}/tenants.toml: {told} is not in these files; "
        f"the daemon refuses it unless its database has that {what}\n"
    )


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        (ACME + profile("main", "acme", 'failover = ["main"]'), "unknown_profile: A failover is another"),
        (ACME + '[[tenants]]\nid = "emea"\n' + profile() + LINK, "not_a_child: A profile is pushed to direct children"),
        (profile("main", "acme", "port = 8080"), "egress_refused: "),
        ('[[tenants]]\nid = "a"\nparent = "b"\n[[tenants]]\nid = "b"\nparent = "a"\n', "cycle: "),
    ],
)
async def test_what_no_database_can_mend_is_a_fault(
    tmp_path: Path, tables: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the files say of themselves holds whatever else there is."""
    assert (await checked(tmp_path, tables), told in capsys.readouterr().err) == (78, True)


# Key files.

OF_APP: Final = ACME + '[[keys]]\ntenant = "acme"\nname = "app"\nscopes = ["send"]\nfile = "keys/app.key"\n'


@pytest.mark.parametrize(
    ("octets", "mode", "told"),
    [
        (b"ngw_short\n", 0o600, "holds no well-formed key"),
        (OCTETS, 0o600, "holds no well-formed key"),
        (new_key().text().encode(), 0o640, "is readable by others; its mode must be 0600"),
    ],
    ids=["short", "binary", "readable"],
)
async def test_a_key_file_that_will_not_do(
    tmp_path: Path, octets: bytes, mode: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is told before a start or a reload fails at it, in the same words."""
    file = tmp_path / "keys" / "app.key"
    file.parent.mkdir()
    file.write_bytes(octets)
    file.chmod(mode)
    code = await checked(tmp_path, OF_APP)
    async with bench(tmp_path) as b:
        [fault] = await b.refused(OF_APP)

    assert (code, fault.problem) == (78, told)
    assert capsys.readouterr().err == f"{fault}\n1 fault\n"


@pytest.mark.parametrize("there", [False, True])
async def test_a_key_file_that_will_do(tmp_path: Path, there: bool) -> None:
    """One with a key is good, and one that is not there is made by nobody but the daemon."""
    file = tmp_path / "keys" / "app.key"
    if there:
        file.parent.mkdir()
        file.touch(0o600)
        file.write_text(f"{new_key().text()}\n")
    assert (await checked(tmp_path, OF_APP), file.parent.exists()) == (0, there)


# What more than one tenant may have of an Azure vault.

VAULT: Final = """
[connections.kv]
kind = "azure_key_vault"
url = "https://kv.example"
auth = {{method = "managed_identity"}}
allow = {{{allow}}}
"""
MANY: Final = ", ".join(f'{tenant} = ["{tenant[0]}-"]' for tenant in (f"a{number:02}" for number in range(30)))


@pytest.mark.parametrize(
    ("allow", "told"),
    [
        ('acme = ["smtp-"], globex = ["web-"], "*" = ["", "smtp-"]', []),
        ('acme = ["smtp-", "smtp-a-", "smtp-a-"]', []),
        ('acme = [""], globex = []', []),
        ('acme = ["smtp-web"], globex = ["web", "smtp-"]', ['"smtp-" of globex begins "smtp-web" of acme']),
        ('acme = ["a-"], globex = ["a-"]', ['"a-" of acme begins "a-" of globex']),
        (
            'acme = ["a"], globex = ["ab", "abc"], zoo = ["abd"]',
            ['"a" of acme begins "ab" of globex', '"a" of acme begins "abc" of globex',
             '"a" of acme begins "abd" of zoo', '"ab" of globex begins "abd" of zoo'],
        ),
        (
            'acme = ["", "a"], globex = ["b", "c"], zoo = [""]',
            ['"" of acme begins all that others have', '"" of zoo begins all that others have'],
        ),
    ],
)  # fmt: skip
async def test_azure_prefixes_that_overlap(
    tmp_path: Path, allow: str, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tenants, of which one may have what the other has, are a remark; what is everybody's is meant so."""
    (tmp_path / "gateway.toml").write_text(VAULT.format(allow=allow))
    assert await check(tmp_path / "gateway.toml", probe=False, as_json=False) == 0
    remedy = "give each tenant a prefix that begins no other's, unless that is meant"
    assert capsys.readouterr().err.splitlines() == [f"note: [connections.kv] allow: {one}; {remedy}" for one in told]


@pytest.mark.parametrize(("kind", "count"), [("azure_key_vault", 20), ("vault", 0)])
async def test_twenty_overlaps_are_enough(
    tmp_path: Path, kind: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a connection; and where a prefix ends with a segment there are none."""
    told = VAULT.format(allow=MANY).replace("azure_key_vault", kind)
    if kind == "vault":
        told = told.replace('"managed_identity"', '"token", token = {env = "TOKEN"}')
    (tmp_path / "gateway.toml").write_text(told)
    assert await check(tmp_path / "gateway.toml", probe=False, as_json=True) == 0
    assert len(document(capsys)["remarks"]) == count


# Certificates, and what the daemon signs in with.

PAIR: Final = '[http]\ntls_certificate = "own.pem"\ntls_key = "own.key"\n'
APPROLE: Final = """
[connections.corp]
kind = "vault"
url = "https://vault.example"
auth = {method = "approle", role_id = "r", secret_id = {file = "secret_id"}}
"""
WORKLOAD: Final = """
[connections.kv]
kind = "azure_key_vault"
url = "https://kv.example"
auth = {method = "workload_identity", tenant_id = "t", client_id = "c", token_file = "token"}
"""


@pytest.mark.parametrize("command", ["check", "serve"])
def test_the_key_of_another_certificate(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No daemon comes up with it, and both say which key it is and what to do; exit code 78."""
    path = tmp_path / "gateway.toml"
    path.write_text(PAIR)
    one, other = (trustme.CA().issue_cert("127.0.0.1") for _ in range(2))
    one.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    other.private_key_pem.write_to_path(tmp_path / "own.key")
    monkeypatch.setattr("sys.argv", ["notification-gateway", "-c", str(path), command])
    with pytest.raises(SystemExit) as ended:
        main()

    told = f"{path}: [http] tls_key: names a key that does not belong to tls_certificate"
    said = f"{told}; give the key that tls_certificate was made for\n1 fault\n"
    assert (ended.value.code, capsys.readouterr().err) == (78, said)


async def test_a_certificate_that_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a remark: the daemon starts, and clients may refuse it."""
    ended = datetime.now(UTC) - timedelta(days=3)
    issued = trustme.CA().issue_cert("127.0.0.1", not_after=ended)
    issued.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    issued.private_key_pem.write_to_path(tmp_path / "own.key")
    (tmp_path / "gateway.toml").write_text(PAIR)

    assert await check(tmp_path / "gateway.toml", probe=False, as_json=False) == 0
    told = f"names {tmp_path}/own.pem, of which a certificate ended on {ended:%Y-%m-%d}; renew it"
    assert capsys.readouterr().err == f"note: [http] tls_certificate: {told}\n"


@pytest.mark.parametrize(
    ("settings", "key", "file"),
    [
        (APPROLE, "[connections.corp] auth.secret_id", "secret_id"),
        (WORKLOAD, "[connections.kv] auth.token_file", "token"),
    ],
)
async def test_an_identity_that_is_not_there(
    tmp_path: Path, settings: str, key: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its setting and its file are a remark, for as long as nobody has brought it."""
    (tmp_path / "gateway.toml").write_text(settings)
    codes = [await check(tmp_path / "gateway.toml", probe=False, as_json=False)]
    said = capsys.readouterr().err
    (tmp_path / file).touch()
    codes.append(await check(tmp_path / "gateway.toml", probe=False, as_json=False))

    told = f"names {tmp_path}/{file}, which does not exist; the daemon cannot sign in there until it does"
    assert (codes, said, capsys.readouterr().err) == ([0, 0], f"note: {key}: {told}\n", "")


# The master key.

FILE_OR_VARIABLE: Final = {"file": ('file = "master.key"', "master.key"), "env": ('keys = [{env = "KEY"}]', "KEY")}


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(("source", "place"), FILE_OR_VARIABLE.values(), ids=FILE_OR_VARIABLE.keys())
def test_a_master_key_that_is_none(tmp_path: Path, command: str, source: str, place: str) -> None:
    """Both name the place and what would be right, with exit code 78 and nothing of the octets."""
    (tmp_path / "gateway.toml").write_text(f'[master_key]\n{source}\n[store]\nurl = "sqlite:///gateway.db"\n')
    (tmp_path / "master.key").write_bytes(OCTETS)
    (tmp_path / "master.key").chmod(0o600)
    words = [sys.executable, "-m", "gateway", command, "-c", str(tmp_path / "gateway.toml")]
    ran = subprocess.run(words, capture_output=True, env=os.environb | {b"KEY": OCTETS}, timeout=60)

    where = place if place == "KEY" else str(tmp_path / place)
    told = f"[master_key]: {where} holds none: a master key is 32 octets, written in base64"
    said = f"{told}; give the key that sealed the database\n1 fault\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (78, b"", said.encode())


async def test_a_master_key_that_only_the_daemon_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A credential of the unit is not there for whoever checks, and that is no fault."""
    (tmp_path / "gateway.toml").write_text('[master_key]\nkeys = [{credential = "master-key"}, {env = "OLD_KEY"}]\n')

    assert await check(tmp_path / "gateway.toml", probe=False, as_json=False) == 0
    assert capsys.readouterr().err == ""


# As JSON.


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    """What was written to standard output, which is one JSON document."""
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("settings", "tables", "code", "counts"),
    [
        ("", "", 0, (0, 0)),
        ("[relay]\nspeed = 1\nweight = 2\n", "", 78, (2, 0)),
        ('[provision]\nfiles = ["tenants.toml"]\n', "[[nonsense]]\n", 78, (1, 0)),
        ('[provision]\nfiles = ["tenants.toml"]\n', profile("main", "acme", "port = 8080") + profile("b"), 78, (1, 2)),
    ],
)
@pytest.mark.parametrize("probe", [False, True])
async def test_json_has_all_faults_and_remarks(
    tmp_path: Path, settings: str, tables: str, code: int, counts: tuple[int, int], probe: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The same members whatever was found, and what is faulty is not probed."""
    (tmp_path / "gateway.toml").write_text(settings)
    (tmp_path / "tenants.toml").write_text(tables)

    assert await check(tmp_path / "gateway.toml", probe=probe, as_json=True) == code
    found = document(capsys)
    assert (len(found["faults"]), len(found["remarks"]), found["probes"]) == (*counts, [])


@pytest.mark.parametrize(
    ("credential", "code", "probe"),
    [
        ('{ source = "plaintext", value = "right" }', 0, {"ok": True, "detail": "the relay answers"}),
        ('{ source = "plaintext", value = "wrong" }', 1, {"ok": False, "code": "auth_failed"}),
        ('{ source = "stored", key = "relay-a" }', 0, {"ok": None}),
    ],
)
async def test_json_has_what_came_of_each_probe(
    tmp_path: Path, credential: str, code: int, probe: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """What people read meanwhile goes elsewhere."""
    issued = issue_tls("127.0.0.1")
    async with ScriptedRelay(tls=issued.context, users={"app": "right"}) as relay:
        assert await probed(tmp_path, relay, issued.ca_pem, credential, as_json=True) == code
    [told] = document(capsys)["probes"]

    assert told["name"] == "acme/main"
    assert probe.items() <= told.items()


@pytest.mark.parametrize(
    ("password", "name"), [("", "[store] url"), ('password = {env = "NO_SUCH"}', "[store] password")]
)
async def test_json_has_a_database_that_does_not_answer(
    tmp_path: Path, postgresql: Postgresql, password: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is not there, or whose password is not, is a probe that failed."""
    url = postgresql.url.replace("/postgres", "/nowhere")
    (tmp_path / "gateway.toml").write_text(f'[store]\nurl = "{url}"\n{password}\n')

    assert await check(tmp_path / "gateway.toml", probe=True, as_json=True) == 1
    [told] = document(capsys)["probes"]
    assert (told["name"], told["ok"]) == (name, False)
