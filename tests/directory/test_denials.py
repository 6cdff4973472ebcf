"""Secrets that are not lent, in the audit log: who is told what of them, and how often at most."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.credentials.connections import made
from gateway.credentials.local import LocalSecrets
from gateway.credentials.reference import Credential
from gateway.credentials.sealed import Seal
from gateway.directory.changes import Actor
from gateway.directory.denials import HOUR, MOST
from gateway.directory.directory import Directory
from gateway.directory.rules import Denial, Policy, denial, profile_faults
from gateway.directory.shapes import Profile
from gateway.settings import load
from gateway.smtp.egress import EgressPolicy
from gateway.store.protocol import StoreError
from gateway.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOST = "smtp.acme.example"
KEY = "smtp/globex/canary-key"
WHO = Actor("key:abc", "acme")
SETTINGS = """
[connections.corp]
kind = "vault"
url = "https://vault.example:8200"
auth = {method = "token", token = {env = "T"}}
allow = {acme = ["smtp/acme"]}
entries = {relay = {key = "smtp/x", tenants = ["globex"]}}
[connections.narrow]
kind = "vault"
url = "https://vault.example:8200"
auth = {method = "token", token = {env = "T"}}
allow = {"*" = [""]}
hosts = ["other.example"]
"""


def reference(source: str = "vault", **fields: Any) -> Credential:
    return Credential.model_validate({"source": source, **fields})


def corp(key: str = KEY) -> Credential:
    return reference(connection="corp", key=key)


def place(tenant: str = "acme", name: str = "main") -> tuple[str, str, str, str]:
    return "profile", tenant, name, "auth.credential"


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    """What the operator of these tests lends."""
    path = tmp_path / "gateway.toml"
    path.write_text(SETTINGS)
    connections = made(load(path, {}).connections, {}, lambda: 0.0)
    local = LocalSecrets(tmp_path, ("SMTP_*",), {"acme": ("acme", "SMTP_ACME")})
    return Policy(EgressPolicy((587,)), local=local, connections=connections)


@pytest.fixture
async def directory(tmp_path: Path, policy: Policy) -> AsyncIterator[Directory]:
    """An empty directory whose clock stands."""
    async with SqliteStore(tmp_path / "gateway.db") as store:
        directory = Directory(store, policy, Seal([bytes(32)]))
        directory.denials.clock = lambda: HOUR
        yield directory


async def told(directory: Directory, tenant: str = "system") -> list[tuple[str, str, str, dict[str, Any]]]:
    """A tenant's log, oldest first: action, actor, object, and the fields with what is told of them."""
    store = directory.denials.store
    await store.check()  # what was told before is written now
    rows = (await store.audit(tenant, before=None, limit=200))[::-1]
    return [
        (row.action, row.actor, row.object, {one["field"]: one.get("after") for one in json.loads(row.changes)})
        for row in rows
    ]


async def test_owner_and_operator_are_told(directory: Directory) -> None:
    """Which profile asked which connection; the operator also which setting gives no leave; nobody the key."""
    directory.denied("acme", HOST, place(), corp())
    asked = {"auth.credential": None, "source": "vault", "connection": "corp"}

    assert await told(directory, "acme") == [("secret.deny", "gateway", "main", asked)]
    assert await told(directory) == [("secret.deny", "gateway", "acme/main", {**asked, "rule": "allow"})]
    for file in directory.denials.store.path.parent.glob("gateway.db*"):  # type: ignore[attr-defined]
        assert b"canary" not in file.read_bytes()


async def test_the_operators_own_is_told_once(directory: Directory) -> None:
    """A profile of `system` has one log."""
    directory.denied("system", HOST, place("system"), reference(connection="narrow", key="x"))
    [(_, _, name, fields)] = await told(directory)

    assert (name, fields["rule"]) == ("system/main", "hosts")


async def test_mail_that_keeps_trying_is_told_once_an_hour(directory: Directory) -> None:
    """And again when the hour is over, by the clock."""
    for at in (0, 1, HOUR - 1, HOUR, 2 * HOUR - 1, 2 * HOUR):
        directory.denials.clock = lambda at=at: at
        for _ in range(100):
            directory.denied("acme", HOST, place(), corp())
    assert (len(await told(directory)), len(await told(directory, "acme"))) == (3, 3)


async def test_each_secret_is_told_for_itself(directory: Directory) -> None:
    """Another key, connection or owner is another denial; another profile that asks for the same is not."""
    directory.denied("acme", HOST, place(), corp())
    directory.denied("acme", HOST, place(), corp(KEY + "-2"))
    directory.denied("acme", HOST, place(), reference(connection="narrow", key=KEY))
    directory.denied("globex", HOST, place("globex"), corp())
    directory.denied("acme", HOST, place(name="other"), corp())
    names = [name for _, _, name, _ in await told(directory)]

    assert names == ["acme/main", "acme/main", "acme/main", "globex/main"]


async def test_who_tries_names_does_not_fill_the_log(directory: Directory) -> None:
    """So many secrets an hour for an owner, and others are still told of."""
    for number in range(10 * MOST):
        directory.denied("acme", HOST, place(), corp(f"guess-{number}"))
    directory.denied("globex", HOST, place("globex"), corp())
    owners = [name.partition("/")[0] for _, _, name, _ in await told(directory)]

    assert owners == ["acme"] * MOST + ["globex"]
    assert len(await told(directory, "acme")) == MOST


async def test_what_could_not_be_written_is_told_again(directory: Directory) -> None:
    """A row that the log refused does not count."""
    tell = directory.denials.tell
    refused = tell(denial("acme", "\udcff", HOST, "auth.credential", corp(), directory.policy), WHO)
    assert refused is not None
    with pytest.raises(StoreError):
        await refused
    again = tell(denial("acme", "main", HOST, "auth.credential", corp(), directory.policy), WHO)
    assert again is not None
    await again

    assert [row[:3] for row in await told(directory, "acme")] == [("secret.deny", "key:abc", "main")]


@pytest.mark.parametrize("name", ["\x1b[31mcorp", "a" * 500, "two words", "ä"])
async def test_a_name_that_is_none_is_not_repeated(directory: Directory, name: str) -> None:
    """Whoever asks could write anything there."""
    directory.denied("acme", HOST, place(), reference(connection=name, key="x"))
    [(_, _, _, fields)] = await told(directory)

    assert (fields["connection"], fields["rule"]) == (None, "connections")


RULES = [
    (corp(), "allow"),
    (corp("smtp/acmex"), "allow"),
    (reference(connection="corp", entry="relay"), "entries"),
    (reference(connection="narrow", key="x"), "hosts"),
    (reference(connection="nobody", key="x"), "connections"),
    (reference("conjur", connection="corp", key="x"), "connections"),
    (reference("file", key="globex/a"), "allow"),
    (reference("file", key="../a"), "allow"),
    (reference("env", key="HOME"), "env"),
    (reference("env", key="SMTP_GLOBEX"), "allow"),
]


@pytest.mark.parametrize(("credential", "rule"), RULES)
def test_the_missing_leave_is_named_by_its_setting(policy: Policy, credential: Credential, rule: str) -> None:
    """A fault of a profile that is to be saved tells the same as a refusal at use, and callers are told none of it."""
    profile = Profile.model_validate(
        {
            "tenant": "acme", "name": "main", "host": HOST, "from": "a@acme.example",
            "auth": {"username": "u", "credential": credential},
        }
    )  # fmt: skip
    [fault] = profile_faults(profile, policy)

    assert fault == denial("acme", "main", HOST, "auth.credential", credential, policy)
    assert isinstance(fault, Denial)
    where = "entry" if credential.entry else "key"
    assert (fault.rule, fault.code, fault.pointer) == (rule, "secret_not_allowed", f"/auth/credential/{where}")
    assert fault.detail == "The operator does not lend this to the tenant."


def test_a_lent_file_that_leads_elsewhere(policy: Policy) -> None:
    """Its name is allowed; it is the directory that it leaves."""
    told = denial("acme", "main", HOST, "auth.credential", reference("file", key="acme/link"), policy)
    assert told.rule == "directory"
