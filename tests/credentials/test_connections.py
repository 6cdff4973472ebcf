"""Connections: who may have which key at which relay, and secrets through them, by a source that the test holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.credentials.cache import OVERLAP, Cache, Known, Line, State
from gateway.credentials.connections import Connection, Connections
from gateway.credentials.credentials import Credentials, Stored
from gateway.credentials.local import LocalSecrets
from gateway.credentials.provider import CredentialError, Fetched, Kind, Why
from gateway.credentials.reference import Credential
from gateway.credentials.sealed import Seal
from gateway.credentials.secret import Secret
from gateway.directory.entries import entry, snapshot_of
from gateway.directory.rules import Policy, profile_faults
from gateway.directory.rules import faults as rule_faults
from gateway.directory.shapes import Profile, Tenant
from gateway.directory.snapshot import API
from gateway.observe.metrics import REGISTRY
from gateway.settings import load
from gateway.smtp.egress import EgressPolicy

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = """
[connections.corp]
kind = "vault"
url = "https://vault.example:8200"
auth = {method = "token", token = {env = "TOKEN"}}
allow = {acme = ["smtp/acme"], "*" = ["common"], closed = [], open = [""]}
hosts = ["relay.example"]

[connections.corp.entries]
relay-a = {key = "smtp/hidden", property = "pw", tenants = ["acme"]}
relay-b = {key = "smtp/hidden", property = "pw", username_property = "user", tenants = ["acme"]}
relay-c = {key = "smtp/other", username_property = "user", tenants = ["acme"]}

[connections.kv]
kind = "azure_key_vault"
url = "https://kv.example"
auth = {method = "managed_identity"}
allow = {acme = ["smtp-"]}

[connections.ccp]
kind = "cyberark"
url = "https://ccp.example"
app_id = "gateway"
allow = {acme = ["Safe=SMTP;Folder=Root"]}
"""
HOST = "relay.example"


class Source:
    """A source in memory, which counts."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, str]] = {}
        self.fetched = 0

    async def fetch(self, key: str, version: str | None) -> Fetched:
        self.fetched += 1
        if key not in self.secrets:
            raise CredentialError(Kind.NOT_FOUND, "not there")
        return Fetched({name: Secret(value) for name, value in self.secrets[key].items()}, version or "1")

    async def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def credentials(tmp_path: Path, source: Source) -> Credentials:
    """The connections of the settings above, all to one source."""
    path = tmp_path / "gateway.toml"
    path.write_text(SETTINGS)
    made = {
        name: Connection(name, one, lambda _settings: source, Line(lambda: 0.0))
        for name, one in load(path, {}).connections.items()
    }
    return Credentials(Seal([bytes(32)]), lambda _tenant, _name: None, connections=Connections(made))


def reference(source: str, connection: str, key: str | None, **more: Any) -> Credential:
    return Credential.model_validate({"source": source, "connection": connection, "key": key, **more})


@pytest.mark.parametrize(
    ("owner", "source", "connection", "key", "allowed"),
    [
        ("acme", "vault", "corp", "smtp/acme/relay", True),
        ("acme", "vault", "corp", "smtp/acme", True),
        ("acme", "vault", "corp", "smtp/acmex", False),
        ("acme", "vault", "corp", "common/x", True),
        ("other", "vault", "corp", "common/x", True),
        ("other", "vault", "corp", "smtp/acme", False),
        ("closed", "vault", "corp", "smtp/acme", False),
        ("open", "vault", "corp", "anything", True),
        ("system", "vault", "corp", "anything", True),
        ("acme", "azure_key_vault", "corp", "smtp/acme", False),
        ("acme", "vault", "nowhere", "smtp/acme", False),
        ("acme", "azure_key_vault", "kv", "smtp-relay", True),
        ("acme", "azure_key_vault", "kv", "web-relay", False),
        ("acme", "cyberark", "ccp", "Safe=SMTP;Folder=Root;Object=a", True),
        ("acme", "cyberark", "ccp", "Folder=Root;Object=a;Safe=SMTP", True),
        ("acme", "cyberark", "ccp", "Safe=SMTP;Object=a", False),
        ("acme", "cyberark", "ccp", "Safe=SMTPX;Folder=Root;Object=a", False),
        ("acme", "cyberark", "ccp", "Object=Safe=SMTP;Folder=Root", False),
        ("acme", "cyberark", "ccp", "Safe=Other;safe=SMTP;Folder=Root;Object=a", False),
        ("acme", "cyberark", "ccp", "Safe=SMTP;Folder=Root;Address=10.0.0.1", False),
        ("acme", "cyberark", "ccp", "Safe=SMTP;Folder=Root;", False),
        ("system", "cyberark", "ccp", "Safe=Other;Object=a", True),
        ("system", "cyberark", "ccp", "Safe=Other;Safe=SMTP;Object=a", False),
    ],
)
def test_who_may_have_what(
    credentials: Credentials, owner: str, source: str, connection: str, key: str, *, allowed: bool
) -> None:
    """By the owner's entry and everybody's; an entry does not extend to descendants."""
    assert credentials.connections.permits(owner, HOST, reference(source, connection, key)) is allowed


def test_secrets_go_to_the_relays_that_the_operator_named(credentials: Credentials) -> None:
    """Also those of `system`."""
    wanted = reference("vault", "corp", "common/x")
    for owner in ("acme", "system"):
        assert not credentials.connections.permits(owner, "evil.example", wanted)


async def test_an_entry_stands_for_key_and_property(credentials: Credentials, source: Source) -> None:
    """Whoever may pick it needs no leave for its key; others may not pick it."""
    source.secrets["smtp/hidden"] = {"pw": "right"}
    picked = reference("vault", "corp", None, entry="relay-a")
    found = await credentials.find("acme", HOST, (), picked)

    assert found.secret.reveal() == "right"
    assert not credentials.connections.permits("open", HOST, picked)
    assert credentials.connections.by_name["corp"].entries_for("acme") == ["relay-a", "relay-b", "relay-c"]


async def test_an_entry_may_bring_the_user_name(credentials: Credentials, source: Source) -> None:
    """From the field that the operator names."""
    source.secrets["smtp/hidden"] = {"pw": "right", "user": "app"}
    found = await credentials.find("acme", HOST, (), reference("vault", "corp", None, entry="relay-b"))

    assert found.username is not None
    assert (found.secret.reveal(), found.username.reveal()) == ("right", "app")


@pytest.mark.parametrize("entry", ["relay-a", "relay-b"])
async def test_of_an_entry_tenants_name_no_fields_and_no_version(
    credentials: Credentials, source: Source, entry: str
) -> None:
    """What a stored profile names besides is ignored: it is lent this much of the secret, as it is now."""
    source.secrets["smtp/hidden"] = {"pw": "right", "user": "app", "root": "not lent"}
    asked = reference("vault", "corp", None, entry=entry, property="root", username_property="root", version="3")
    found = await credentials.find("acme", HOST, (), asked)

    assert (found.secret.reveal(), found.version) == ("right", "1")
    assert found.username is None or found.username.reveal() == "app"


CONFLICTS = {
    "/auth/credential/property": "conflict",
    "/auth/credential/username_property": "conflict",
    "/auth/credential/version": "conflict",
}


@pytest.mark.parametrize(
    ("host", "auth", "faults"),
    [
        (HOST, {"username": "u", "credential": {"entry": "relay-a"}}, {}),
        (HOST, {"credential": {"entry": "relay-a"}}, {"/auth/username": "required"}),
        (HOST, {"credential": {"entry": "relay-b"}}, {}),
        (
            HOST,
            {
                "username": "u",
                "credential": {"entry": "relay-b", "property": "x", "username_property": "x", "version": 1},
            },
            CONFLICTS,
        ),
        (
            "evil.example",
            {"credential": {"entry": "relay-b"}},
            {"/auth/username": "required", "/auth/credential/entry": "secret_not_allowed"},
        ),
    ],
)
def test_a_profile_that_picks_an_entry(
    credentials: Credentials, host: str, auth: dict[str, Any], faults: dict[str, str]
) -> None:
    """It needs a user name unless the entry brings one, which only those learn who may pick it; and names no fields."""
    policy = Policy(EgressPolicy((587,)), connections=credentials.connections)
    credential = {"source": "vault", "connection": "corp", **auth["credential"]}
    picking = Profile.model_validate(
        {
            "tenant": "acme", "name": "main", "host": host, "from": "a@acme.example",
            "auth": {**auth, "credential": credential},
        }
    )  # fmt: skip

    assert {fault.pointer: fault.code for fault in profile_faults(picking, policy)} == faults


@pytest.mark.parametrize(
    ("key", "faults"),
    [
        ("Safe=SMTP;Folder=Root;Object=a", {}),
        ("Safe=SMTP;Folder=Root;Object=a;Object=b", {"/auth/credential/key": "secret_not_allowed"}),
        ("Safe=SMTP;Folder=Root;Query=Object=a", {"/auth/credential/key": "secret_not_allowed"}),
    ],
)
def test_a_profile_with_a_key_that_names_no_account(credentials: Credentials, key: str, faults: dict[str, str]) -> None:
    """It is not saved, and not only refused its secret later."""
    policy = Policy(EgressPolicy((587,)), connections=credentials.connections)
    asking = Profile.model_validate(
        {
            "tenant": "acme", "name": "main", "host": HOST, "from": "a@acme.example",
            "auth": {"username": "app", "credential": {"source": "cyberark", "connection": "ccp", "key": key}},
        }
    )  # fmt: skip
    assert {fault.pointer: fault.code for fault in profile_faults(asking, policy)} == faults


@pytest.mark.parametrize(("second", "faults"), [("relay-c", []), ("relay-b", ["duplicate_profile"])])
def test_accounts_of_entries_are_told_apart_by_their_entry(
    credentials: Credentials, second: str, faults: list[str]
) -> None:
    """Where they bring the user name, two profiles at one relay are of two accounts, unless it is the same one."""
    policy = Policy(EgressPolicy((587,)), connections=credentials.connections)
    picking = [
        Profile.model_validate(
            {
                "tenant": "acme", "name": entry, "host": HOST, "from": "a@acme.example",
                "auth": {"credential": {"source": "vault", "connection": "corp", "entry": entry}},
            }
        )
        for entry in ("relay-b", second)
    ]  # fmt: skip
    picking[1] = picking[1].model_copy(update={"name": "second"})
    snapshot = snapshot_of(1, [entry(Tenant(id="acme"), API), *(entry(one, API) for one in picking)])

    assert [fault.code for fault in rule_faults(snapshot, picking, (), policy)] == faults


async def test_user_name_and_password_are_of_one_answer(credentials: Credentials, source: Source) -> None:
    """One fetch for both; a field that is not there is told."""
    source.secrets["common/x"] = {"password": "pw", "username": "app"}
    found = await credentials.find(
        "acme", HOST, (), reference("vault", "corp", "common/x", username_property="username")
    )
    with pytest.raises(CredentialError) as refused:
        await credentials.find("acme", HOST, (), reference("vault", "corp", "common/x", property="nothing"))

    assert found.username is not None
    assert (found.secret.reveal(), found.username.reveal(), source.fetched) == ("pw", "app", 1)
    assert refused.value.kind is Kind.MALFORMED


async def test_the_pair_before_is_of_one_answer_too(credentials: Credentials, source: Source) -> None:
    """The user name that came along with the password before goes with it."""
    wanted = reference("vault", "corp", "common/x", username_property="username")
    for version in ("one", "two"):
        source.secrets["common/x"] = {"password": f"pw-{version}", "username": f"app-{version}"}
        found = await credentials.find("acme", HOST, (), wanted, why=Why.PERSON)
    pairs = [(one.username, one.secret) for one in (found, found.previous) if one is not None]

    assert pairs == [(Secret("app-two"), Secret("pw-two")), (Secret("app-one"), Secret("pw-one"))]


async def test_a_pair_before_without_its_user_name_is_none(credentials: Credentials, source: Source) -> None:
    """The field came with the present version."""
    wanted = reference("vault", "corp", "common/x", username_property="username")
    source.secrets["common/x"] = {"password": "pw-one"}
    await credentials.find("acme", HOST, (), reference("vault", "corp", "common/x"))
    source.secrets["common/x"] = {"password": "pw-two", "username": "app"}
    found = await credentials.find("acme", HOST, (), wanted, why=Why.PERSON)

    assert (found.secret.reveal(), found.previous) == ("pw-two", None)


async def test_a_version_without_a_field_that_is_used(credentials: Credentials, source: Source) -> None:
    """The one before serves on for a while, whole; who uses what is there has the new one."""
    now = 0.0
    credentials.cache = Cache(lambda: now)
    wanted = reference("vault", "corp", "common/x", username_property="username")
    source.secrets["common/x"] = {"password": "pw-one", "username": "app-one"}
    await credentials.find("acme", HOST, (), wanted)
    source.secrets["common/x"] = {"passwrd": "pw-two", "username": "app-two"}
    found = await credentials.find("acme", HOST, (), wanted, why=Why.PERSON)
    other = await credentials.find("acme", HOST, (), reference("vault", "corp", "common/x", property="username"))
    now = OVERLAP
    with pytest.raises(CredentialError) as refused:
        await credentials.find("acme", HOST, (), wanted)

    assert (found.secret.reveal(), found.username, found.stale) == ("pw-one", Secret("app-one"), True)
    assert (other.secret.reveal(), other.stale, refused.value.kind) == ("app-two", False, Kind.MALFORMED)


async def test_leave_is_asked_for_before_the_cache(credentials: Credentials, source: Source) -> None:
    """What one tenant has fetched is not served to one that may not have it."""
    source.secrets["smtp/acme"] = {"password": "pw"}
    wanted = reference("vault", "corp", "smtp/acme")
    await credentials.find("acme", HOST, (), wanted)
    with pytest.raises(CredentialError) as refused:
        await credentials.find("other", HOST, (), wanted)

    assert (refused.value.kind, source.fetched) == (Kind.POLICY, 1)


async def test_ten_thousand_uses_are_one_fetch(credentials: Credentials, source: Source) -> None:
    """As long as the secret is fresh; a pinned version is for ever."""
    source.secrets["common/x"] = {"password": "pw"}
    for _ in range(10_000):
        await credentials.find("acme", HOST, (), reference("vault", "corp", "common/x"))
    assert source.fetched == 1


# What is known without asking.


async def test_what_is_known_of_a_connections_secret(credentials: Credentials, source: Source) -> None:
    """Unused, then as it was fetched; nobody is asked for that."""
    source.secrets["common/x"] = {"password": "pw"}
    wanted = reference("vault", "corp", "common/x")
    before = credentials.known("acme", HOST, wanted)
    await credentials.find("acme", HOST, (), wanted)
    after = credentials.known("acme", HOST, wanted)

    assert (before, after.state, after.version, source.fetched) == (Known(State.UNUSED), State.FRESH, "1", 1)
    assert after.age is not None


@pytest.mark.parametrize(("owner", "host"), [("other", HOST), ("acme", "evil.example")])
async def test_nothing_is_known_by_who_may_not_have_it(
    credentials: Credentials, source: Source, owner: str, host: str
) -> None:
    """Neither by another tenant nor for another relay, though it is in the cache."""
    source.secrets["smtp/acme"] = {"password": "pw"}
    wanted = reference("vault", "corp", "smtp/acme")
    await credentials.find("acme", HOST, (), wanted)
    assert credentials.known(owner, host, wanted) == Known(State.NEGATIVE, error=Kind.POLICY)


async def test_what_is_known_of_secrets_at_home(credentials: Credentials, tmp_path: Path) -> None:
    """Of the profile's own, the tenant's, this machine's, and of one that was dropped."""
    (tmp_path / "relay").write_text("pw")
    allow = {"acme": ("relay", "SET", "UNSET")}
    credentials.local = LocalSecrets(tmp_path, ("*",), allow, {"SET": "pw"})
    credentials.stored = lambda tenant, name: Stored("sealed", 3) if (tenant, name) == ("acme", "relay") else None
    plaintext = Credential(source="plaintext", sealed="sealed")
    file = Credential(source="file", key="relay")

    def known(credential: Credential) -> tuple[State, str, Kind | None]:
        told = credentials.known("acme", HOST, credential)
        return told.state, told.version, told.error

    assert known(file)[0] is State.UNUSED
    await credentials.find("acme", HOST, (), file)
    assert known(file)[0] is State.FRESH
    assert known(plaintext) == (State.FRESH, "", None)
    assert known(plaintext.without_secret()) == (State.NEGATIVE, "", Kind.NOT_FOUND)
    assert known(Credential(source="stored", key="relay")) == (State.FRESH, "3", None)
    assert known(Credential(source="stored", key="none")) == (State.NEGATIVE, "", Kind.NOT_FOUND)
    assert known(Credential(source="env", key="SET")) == (State.FRESH, "", None)
    assert known(Credential(source="env", key="UNSET")) == (State.NEGATIVE, "", Kind.NOT_FOUND)
    assert known(Credential(source="env", key="OTHER")) == (State.NEGATIVE, "", Kind.POLICY)


def denials(connection: str) -> float:
    labels = {"connection": connection}
    return REGISTRY.get_sample_value("notification_gateway_secret_policy_denials_total", labels) or 0.0


@pytest.mark.parametrize(
    ("credential", "label"),
    [
        (reference("vault", "corp", "smtp/other"), "corp"),
        (reference("vault", "a-tenants-own-word", "smtp/other"), "none"),
        (Credential(source="file", key="other"), "files"),
    ],
)
async def test_what_is_not_lent_is_counted(credentials: Credentials, credential: Credential, label: str) -> None:
    """By the operator's connection; what a tenant calls one is no label. Looking counts nothing."""
    before, strange = denials(label), denials("a-tenants-own-word")
    with pytest.raises(CredentialError):
        await credentials.find("acme", HOST, (), credential)
    credentials.known("acme", HOST, credential)
    assert (denials(label) - before, denials("a-tenants-own-word") - strange) == (1.0, 0.0)
