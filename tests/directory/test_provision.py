"""Declarative files: all of it or nothing, every fault at once, and nothing written when nothing changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.credentials.sealed import Seal
from gateway.directory.changes import OPERATOR, create_tenant, delete_profile, save_profile
from gateway.directory.directory import Directory
from gateway.directory.keys import new_key, parse_key
from gateway.directory.shapes import Profile, Tenant
from gateway.problems import Problem
from tests.directory.provisioning import ACME, SEAL, bench, opened_password, profile, signed_in

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-5b1f0c9e-sings"
KEY = '[[keys]]\ntenant = "acme"\nname = "app"\nscopes = ["send", "read"]\nfile = "acme.key"\n'


async def test_tables_may_stand_in_any_order_and_file(tmp_path: Path) -> None:
    """What a file refers to may come later, or in another file."""
    async with bench(tmp_path) as b:
        await b.provision(profile(), '[[tenants]]\nid = "emea"\nparent = "acme"\n', ACME)

        assert set(b.snapshot.tenants) == {"system", "acme", "emea"}
        assert set(b.snapshot.profiles) == {("acme", "main")}


async def test_the_root_can_be_described(tmp_path: Path) -> None:
    """A table for system needs no parent, and makes none."""
    async with bench(tmp_path) as b:
        await b.provision('[[tenants]]\nid = "system"\nshare_default = false\n')
        await b.directory.load()
        root = b.snapshot.tenants["system"]

    assert (root.parent, root.share_default) == (None, False)


async def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    """Each with its file and key, whatever kind of fault it is, and without the value."""
    texts = (
        '[[tenants]]\nid = "ACME"\ncolour = "red"\n\n[[nonsense]]\nx = 1\n',
        "this is no TOML",
        'tenants = "acme"\n' + profile("main", "acme", "port = 99999"),
    )
    async with bench(tmp_path) as b:
        faults = await b.refused(*texts)

    assert [(fault.file.rpartition("/")[2], fault.key) for fault in faults] == [
        ("0.toml", "[[tenants]][0].id"),
        ("0.toml", "[[tenants]][0].colour"),
        ("0.toml", "[[nonsense]]"),
        ("1.toml", ""),
        ("2.toml", "[[tenants]]"),
        ("2.toml", "[[profiles]][0].port"),
    ]
    assert not any(word in str(fault) for fault in faults for word in ("ACME", "red", "99999"))


async def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    """It is named; the others are read all the same."""
    from gateway.settings import SettingsError

    (tmp_path / "bad.toml").write_text("[[nonsense]]\n")
    async with bench(tmp_path) as b:
        with pytest.raises(SettingsError) as refusal:
            await b.directory.provision([tmp_path / "gone.toml", tmp_path / "bad.toml"], tmp_path)

    assert [fault.file for fault in refusal.value.faults] == [str(tmp_path / "gone.toml"), str(tmp_path / "bad.toml")]


async def test_all_relations_that_do_not_hold_are_told_at_once(tmp_path: Path) -> None:
    """Faults between objects come together too, each at its table."""
    tables = profile("a", "nobody") + profile("b", "acme", "port = 26") + profile("c", "acme", host="b.example")
    async with bench(tmp_path) as b:
        codes = await b.codes(ACME + tables)

    assert sorted(codes) == [
        ("[[profiles]][0]", "unknown_tenant"),
        ("[[profiles]][1]", "egress_refused"),
        ("[[profiles]][2]", "duplicate_profile"),
    ]


async def test_an_object_is_defined_once(tmp_path: Path) -> None:
    """The same name again, in whichever file, is a fault that names the first."""
    async with bench(tmp_path) as b:
        [fault] = await b.refused(ACME, ACME)

    assert (fault.file, fault.key) == (str(tmp_path / "1.toml"), "[[tenants]][0]")


PROFILES: dict[str, tuple[str, list[str]]] = {
    "same host and username": (
        profile("a", "acme", signed_in(), host="x.example") + profile("b", "acme", signed_in(), host="x.example"),
        ["duplicate_profile"],
    ),
    "same host in another writing": (
        profile("a", "acme", host="x.example") + profile("b", "acme", host="X.example."), ["duplicate_profile"],
    ),
    "a password in clear": (profile("a", "acme", 'security = "none"', signed_in()), ["plaintext_auth"]),
    "a password to anybody": (profile("a", "acme", "tls = {verify = false}", signed_in()), ["auth_unverified"]),
    "a port that is not open": (profile("a", "acme", "port = 8080"), ["egress_refused"]),
    "loopback": (profile("a", "acme", host="127.0.0.1"), ["egress_refused"]),
    "metadata": (profile("a", "acme", "port = 587", host="169.254.169.254"), ["egress_refused"]),
    "a source that is not there": (
        profile("a", "acme", 'auth = {username = "a", credential = {source = "vault", connection = "c", key = "k"}}'),
        ["secret_not_allowed"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tables", "codes"), PROFILES.values(), ids=PROFILES.keys())
async def test_profiles_that_are_refused(tmp_path: Path, tables: str, codes: list[str]) -> None:
    """Each rule has its code."""
    async with bench(tmp_path) as b:
        assert [code for _, code in await b.codes(ACME + tables)] == codes


ALLOWED = {
    "same host, another username": profile("a", "acme", signed_in(), host="x.example")
    + profile("b", "acme", signed_in(username="other"), host="x.example"),
    "a password in clear to a host that may": profile(
        "a", "acme", 'security = "none"', signed_in(), host="plain.example"
    ),
    "a password to anybody, knowingly": profile(
        "a", "acme", "tls = {verify = false, allow_auth_unverified = true}", signed_in()
    ),
    "loopback where the operator allows it": profile("a", "acme", "port = 1025", host="127.0.0.1"),
}


@pytest.mark.parametrize("tables", ALLOWED.values(), ids=ALLOWED.keys())
async def test_profiles_that_are_taken(tmp_path: Path, tables: str) -> None:
    """What looks like the refused ones and is none."""
    async with bench(tmp_path) as b:
        await b.provision(ACME + tables)


def tenant(name: str, parent: str) -> str:
    return f'[[tenants]]\nid = "{name}"\nparent = "{parent}"\n'


def link(owner: str, name: str, child: str, *lines: str) -> str:
    return "\n".join(["[[links]]", f'tenant = "{owner}"', f'profile = "{name}"', f'child = "{child}"', *lines, ""])


EMEA = ACME + tenant("emea", "acme")
MARKED = "is_default = true"

RELATIONS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "unknown parent": (tenant("acme", "nobody"), [("[[tenants]][0]", "unknown_parent")]),
    "cycle": (tenant("a", "b") + tenant("b", "a"), [("[[tenants]][0]", "cycle"), ("[[tenants]][1]", "cycle")]),
    "own parent": (tenant("a", "a"), [("[[tenants]][0]", "cycle")]),
    "a root above the root": (tenant("system", "acme") + ACME, [("[[tenants]][0]", "root_has_no_parent")]),
    "too deep": (
        tenant("t1", "system") + "".join(tenant(f"t{n}", f"t{n - 1}") for n in range(2, 9)),
        [("[[tenants]][7]", "too_deep")],
    ),
    "two defaults": (ACME + profile("a", "acme", MARKED) + profile("b", "acme", MARKED), [("[[tenants]][0]", "several_defaults")]),
    "a default and a pushed default": (
        EMEA + profile("a", "acme") + profile("b", "emea", MARKED) + link("acme", "a", "emea", MARKED),
        [("[[tenants]][1]", "several_defaults")],
    ),
    "pushed by who does not own it": (EMEA + link("acme", "a", "emea"), [("[[links]][0]", "not_owned")]),
    "pushed to a grandchild": (
        EMEA + tenant("paris", "emea") + profile("a", "acme") + link("acme", "a", "paris"),
        [("[[links]][0]", "not_a_child")],
    ),
    "pushed to nobody": (ACME + profile("a", "acme") + link("acme", "a", "nobody"), [("[[links]][0]", "not_a_child")]),
    "pushed where the name is used": (
        EMEA + profile("a", "acme") + profile("a", "emea") + link("acme", "a", "emea"), [("[[links]][0]", "name_taken")],
    ),
    "preferences of nobody": ('[[preferences]]\ntenant = "nobody"\n', [("[[preferences]][0]", "unknown_tenant")]),
    "a key of nobody": (KEY, [("[[keys]][0]", "unknown_tenant")]),
}  # fmt: skip


@pytest.mark.parametrize(("tables", "codes"), RELATIONS.values(), ids=RELATIONS.keys())
async def test_relations_that_are_refused(tmp_path: Path, tables: str, codes: list[tuple[str, str]]) -> None:
    """The fault stands at the table that it concerns."""
    async with bench(tmp_path) as b:
        assert await b.codes(tables) == codes


async def test_a_tree_of_eight_levels_is_taken(tmp_path: Path) -> None:
    """The limit itself is no fault."""
    async with bench(tmp_path) as b:
        await b.provision(tenant("t1", "system") + "".join(tenant(f"t{n}", f"t{n - 1}") for n in range(2, 8)))

        assert len(b.snapshot.ancestry("t7")) == 8


async def test_the_same_files_again_write_nothing(tmp_path: Path) -> None:
    """The revision stays, though there is a password to seal and a key to read."""
    text = ACME + profile("main", "acme", signed_in()) + KEY
    async with bench(tmp_path) as b:
        await b.provision(text)
        before = await b.store.directory()
        await b.provision(text)
        same = await b.store.directory() == before
    async with bench(tmp_path) as b:
        await b.provision(text)

        assert same
        assert await b.store.directory() == before


async def test_what_is_gone_from_the_files_goes(tmp_path: Path) -> None:
    """Provisioned objects are what the files say, no more."""
    async with bench(tmp_path) as b:
        await b.provision(ACME + profile())
        await b.provision(ACME)

        assert (set(b.snapshot.tenants), b.snapshot.profiles) == ({"system", "acme"}, {})


async def test_every_change_is_told_once(tmp_path: Path) -> None:
    """Those who depend on the directory hear of a change, and of none where there is none."""
    async with bench(tmp_path) as b:
        told: list[int] = []
        b.directory.on_change.append(lambda: told.append(b.snapshot.revision))
        await b.provision(ACME)
        await b.provision(ACME)

        assert told == [b.snapshot.revision]


# Passwords.


async def test_a_password_is_not_in_the_database(tmp_path: Path) -> None:
    """Not in the file, nor in its log: it is sealed, and opens only here."""
    async with bench(tmp_path) as b:
        await b.provision(ACME + profile("main", "acme", signed_in(CANARY)))
        opened = opened_password(b.directory, b.snapshot.profiles["acme", "main"])
        stored = {path.name: path.read_bytes() for path in tmp_path.glob("gateway.db*")}

    assert opened is not None
    assert opened.reveal() == CANARY
    assert not [name for name, content in stored.items() if CANARY.encode() in content]
    assert any(b"plaintext" in content for content in stored.values())


async def test_a_changed_password_is_sealed_anew(tmp_path: Path) -> None:
    """And is the one that is used."""
    async with bench(tmp_path) as b:
        await b.provision(ACME + profile("main", "acme", signed_in("before")))
        await b.provision(ACME + profile("main", "acme", signed_in("after")))
        opened = opened_password(b.directory, b.snapshot.profiles["acme", "main"])

    assert opened is not None
    assert opened.reveal() == "after"


async def test_a_password_whose_master_key_is_gone_is_sealed_anew(tmp_path: Path) -> None:
    """The file has it: another master key is no reason not to start."""
    text = ACME + profile("main", "acme", signed_in())
    async with bench(tmp_path, Seal([b"o" * 32])) as b:
        await b.provision(text)
    async with bench(tmp_path, SEAL) as b:
        await b.provision(text)
        opened = opened_password(b.directory, b.snapshot.profiles["acme", "main"])

    assert opened is not None
    assert opened.reveal() == "hunter2"


# Keys.


async def test_a_key_file_is_made(tmp_path: Path) -> None:
    """Readable by its owner only, with a key that is known from then on."""
    async with bench(tmp_path) as b:
        await b.provision(ACME + KEY)
        path = tmp_path / "acme.key"
        text = parse_key(path.read_text().strip())

        assert text is not None
        known = b.snapshot.key(text.id)
    assert path.stat().st_mode & 0o777 == 0o600
    assert known is not None
    assert (known.tenant, known.scopes, known.sha256) == ("acme", frozenset({"send", "read"}), text.sha256)


async def test_a_key_that_is_there_is_the_key(tmp_path: Path) -> None:
    """The file is read, not replaced, and its secret is not in the database."""
    text, path = new_key(), tmp_path / "acme.key"
    path.touch(0o600)
    path.write_text(text.text() + "\n")
    async with bench(tmp_path) as b:
        await b.provision(ACME + KEY)
        known = b.snapshot.key(text.id)
        stored = [content.read_bytes() for content in tmp_path.glob("gateway.db*")]

    assert known is not None
    assert known.sha256 == text.sha256
    assert not any(text.secret.encode() in content for content in stored)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
async def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """A key that was open to others is no secret."""
    path = tmp_path / "acme.key"
    path.touch(0o600)
    path.write_text(new_key().text())
    path.chmod(mode)
    async with bench(tmp_path) as b:
        [fault] = await b.refused(ACME + KEY)

    assert (fault.file, "0600" in fault.problem) == (str(path), True)


@pytest.mark.parametrize("content", ["", "ngw_short", "ngw_abcdefgh_" + "x" * 31, CANARY])
async def test_a_key_file_without_a_key_is_refused(tmp_path: Path, content: str) -> None:
    """It is told without being quoted."""
    path = tmp_path / "acme.key"
    path.touch(0o600)
    path.write_text(content)
    async with bench(tmp_path) as b:
        [fault] = await b.refused(ACME + KEY)

    assert (fault.file, fault.problem) == (str(path), "holds no well-formed key")


async def test_one_file_is_one_key(tmp_path: Path) -> None:
    """Two keys that name one file would be the same key with other rights."""
    async with bench(tmp_path) as b:
        [fault] = await b.refused(ACME + KEY + KEY.replace('"acme.key"', '"./acme.key"').replace('"app"', '"other"'))

    assert (fault.key, fault.problem) == ("[[keys]][1]", "is defined twice")
    assert not (tmp_path / "acme.key").exists()


async def test_a_files_failover_is_left_as_it_says(tmp_path: Path) -> None:
    """What others delete does not change the operator's profile; it goes on without."""
    async with bench(tmp_path) as b:
        await b.provision(ACME)
        spare = Profile.model_validate(
            {"tenant": "acme", "name": "spare", "host": "spare.example", "from": "a@b.example"}
        )
        await b.directory.change(OPERATOR, lambda snapshot: save_profile(snapshot, OPERATOR, None, spare, ()))
        await b.provision(ACME, profile("main", "acme", 'failover = ["spare"]'))
        await b.directory.change(
            OPERATOR, lambda snapshot: delete_profile(snapshot, snapshot.profiles["acme", "spare"])
        )
        main = b.snapshot.profiles["acme", "main"]
        await b.provision(ACME, profile("main", "acme", 'failover = ["spare"]'))

    assert main.failover == ("spare",)


async def test_a_provisioned_key_is_revoked_while_another_daemon_changes_something(tmp_path: Path) -> None:
    """The revocation is worked out again on what became of the directory."""
    async with bench(tmp_path) as b:
        await b.provision(ACME + KEY)
        [key] = b.snapshot.keys.values()
        other = Directory(b.store, b.directory.policy, SEAL)
        await other.load()
        await other.change(OPERATOR, lambda snapshot: create_tenant(snapshot, OPERATOR, Tenant(id="globex")))
        await b.directory.revoke_key(OPERATOR, "acme", key.id)

    assert (b.snapshot.key(key.id), "globex" in b.snapshot.tenants) == (None, True)


async def test_a_revoked_key_stays_revoked(tmp_path: Path) -> None:
    """Its file cannot bring it back: not now, and not after a restart."""
    async with bench(tmp_path) as b:
        await b.provision(ACME + KEY)
        [key] = b.snapshot.keys_of("acme")
        await b.directory.revoke_key(OPERATOR, "acme", key.id)
        await b.provision(ACME + KEY)
        found = [b.snapshot.key(key.id)]
    async with bench(tmp_path) as b:
        await b.provision(ACME + KEY)
        found.append(b.snapshot.key(key.id))

    assert found == [None, None]


async def test_a_key_of_another_tenant_is_not_found(tmp_path: Path) -> None:
    """Nobody revokes what is not theirs."""
    async with bench(tmp_path) as b:
        await b.provision(ACME + KEY)
        [key] = b.snapshot.keys_of("acme")
        with pytest.raises(Problem):
            await b.directory.revoke_key(OPERATOR, "globex", key.id)

        assert b.snapshot.key(key.id) is not None
