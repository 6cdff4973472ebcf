"""Profiles over HTTP: every field, the relations between them, passwords that stay where they were meant for."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.credentials.connections import made as connected
from tests.directory.provisioning import opened_password
from tests.http.world import World, running
from tests.smtp.test_keys import authority_of, long_key

ADMIN = "acme:admin"
EDITOR = "acme:profiles"
PROFILES = "/v1/tenants/acme/profiles"
RELAY = {"name": "relay", "host": "smtp.relay.example", "from": "noreply@acme.example"}
SIGNED_IN = {**RELAY, "auth": {"username": "app", "credential": {"source": "plaintext", "value": "pa55word"}}}
SET, UNSET = ({"source": "plaintext", "set": known} for known in (True, False))

EVERYTHING: dict[str, Any] = {
    "name": "full", "enabled": False, "is_default": True, "preset": "generic", "host": "smtp.full.example",
    "port": 465, "security": "implicit_tls",
    "tls": {"verify": False, "allow_auth_unverified": True, "min_version": "1.3"},
    "auth": {
        "method": "ntlm", "username": "app", "domain": "CORP",
        "credential": {"source": "plaintext", "value": "pa55word"},
    },
    "from": {"name": "Full", "address": "full@acme.example"}, "force_sender": True,
    "allowed_senders": ["*@acme.example", "x@y.example"], "reply_to": ["desk@acme.example"],
    "return_path": "bounces@acme.example", "read_receipt_to": "read@acme.example", "request_read_receipt": True,
    "to": [{"name": "Desk", "address": "desk@acme.example"}],
    "footnote": {"enabled": False, "text": "bye", "html": "<p>bye</p>"},
    "limits": {
        "connections": 2, "per_minute": 60, "messages_per_connection": 10, "recipients": 5, "bytes": 1_000_000,
    },
    "failover": ["own"], "dsn": {"notify": ["failure", "delay"], "return": "headers"},
}  # fmt: skip


async def test_every_field_is_kept_and_shown(world: World) -> None:
    """What was written is read back, but for the password."""
    made = await world.call("POST", PROFILES, EDITOR, json=EVERYTHING)
    read = await world.call("GET", f"{PROFILES}/full", "acme")
    shown = {name: read.json[name] for name in EVERYTHING}
    auth = {**EVERYTHING["auth"], "credential": SET}

    assert (made.status, made.json) == (201, read.json)
    assert shown == {**EVERYTHING, "auth": auth}
    assert "pa55word" not in made.text + read.text


async def test_defaults(world: World) -> None:
    """STARTTLS on 587, enabled, not the default, limits as documented."""
    made = (await world.call("POST", PROFILES, EDITOR, json=RELAY)).json

    assert (made["port"], made["security"], made["enabled"], made["is_default"]) == (587, "starttls", True, False)
    assert made["limits"] == {
        "connections": 4, "messages_per_connection": 100, "recipients": 50, "bytes": 26_214_400,
    }  # fmt: skip


@pytest.mark.parametrize(("security", "port"), [("starttls", 587), ("implicit_tls", 465), ("none", 25)])
async def test_the_port_follows_the_security(world: World, security: str, port: int) -> None:
    """Unless it is said."""
    made = await world.call("POST", PROFILES, EDITOR, json={**RELAY, "security": security})
    assert made.json["port"] == port


async def test_a_preset_fills_what_is_left_open(world: World) -> None:
    """Host, limits; what the profile says itself wins."""
    asked = {"name": "m365", "preset": "microsoft365", "from": "a@acme.example", "limits": {"connections": 2}}
    made = (await world.call("POST", PROFILES, EDITOR, json=asked)).json

    assert (made["host"], made["port"], made["security"]) == ("smtp.office365.com", 587, "starttls")
    assert (made["limits"]["connections"], made["limits"]["per_minute"]) == (2, 30)


@pytest.mark.parametrize(
    ("said", "port"),
    [
        ({"security": "implicit_tls"}, 465),
        ({"security": "none"}, 25),
        ({"security": "starttls"}, 587),
        ({"security": "implicit_tls", "port": 587}, 587),
    ],
)
async def test_a_presets_port_goes_with_its_security(world: World, said: dict[str, Any], port: int) -> None:
    """Another security has another port, unless that is said."""
    asked = {"name": "google", "preset": "gmail", "from": "a@acme.example", **said}
    made = (await world.call("POST", PROFILES, EDITOR, json=asked)).json
    assert (made["host"], made["port"], made["security"]) == ("smtp.gmail.com", port, said["security"])


async def test_presets_are_listed(world: World) -> None:
    """All nine, with what they fill in."""
    listed = (await world.call("GET", "/v1/presets", "acme")).json["items"]
    assert {preset["name"] for preset in listed} == {
        "generic", "microsoft365", "gmail", "amazon_ses", "sendgrid", "mailgun", "postmark", "brevo", "postfix",
    }  # fmt: skip


STORES = "".join(
    f'[connections.{name}]\nkind = "cyberark"\nurl = "https://{name}.example"\napp_id = "x"\nallow = {{acme = [""]}}\n'
    for name in ("two", "one", "three")
)


@pytest.mark.parametrize("path", ["/v1/presets", "/v1/tenants/acme/connectors", "/v1/tenants/acme/secret-connections"])
async def test_what_the_operator_offers_is_listed_in_parts(tmp_path: Path, path: str) -> None:
    """As every list is: piece by piece it is the same as at once."""
    async with running(tmp_path, STORES) as world:
        lent = dict.fromkeys(("two", "one", "three"), ("acme",))
        world.directory.policy = replace(world.directory.policy, connectors=lent)
        world.services.credentials.connections = connected(world.settings.connections, {}, time.monotonic)
        whole = (await world.call("GET", path)).json
        items, query = [], {"limit": "1"}
        for _ in whole["items"]:
            part = (await world.call("GET", path, params=query)).json
            items += part["items"]
            query["cursor"] = part["next_cursor"] or "none"
        wrong = await world.call("GET", path, params={"limit": "0", "cursor": "x"})

    assert (items, query["cursor"], whole["next_cursor"]) == (whole["items"], "none", None)
    assert len(items) >= 3
    assert wrong.faults == {"/limit": "bad_value", "/cursor": "bad_cursor"}


async def test_unusual_is_not_wrong(world: World) -> None:
    """Port 465 with STARTTLS, certificates unverified: saved, with warnings."""
    made = await world.call("POST", PROFILES, EDITOR, json={**RELAY, "port": 465, "tls": {"verify": False}})
    assert made.status == 201
    assert {warning["pointer"]: warning["code"] for warning in made.json["warnings"]} == {
        "/port": "unusual_port", "/tls/verify": "unverified",
    }  # fmt: skip


CREDENTIAL = {"source": "plaintext", "value": "x"}
SLOW = authority_of(long_key(3072, exponent=2**3072 - 3))
FAULTY: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "no host": ({"host": None}, {"/host": "bad_value"}),
    "bad host": ({"host": "a_b"}, {"/host": "bad_host"}),
    "bad names": ({"name": "push"}, {"/name": "bad_value"}),
    "bad address": ({"from": "x@localhost"}, {"/from": "bad_address"}),
    "bad pattern": ({"allowed_senders": ["*@", "a@b.example"]}, {"/allowed_senders/0": "bad_address"}),
    "unknown fields": ({"hots": "x", "tls": {"verfy": True}}, {"/hots": "unknown_field", "/tls/verfy": "unknown_field"}),
    "kinds": ({"port": "587", "enabled": 1}, {"/port": "bad_value", "/enabled": "bad_value"}),
    "unknown words": ({"security": "tls", "preset": "x"}, {"/security": "bad_value", "/preset": "bad_value"}),
    "plain needs both": (
        {"auth": {"method": "plain"}}, {"/auth/credential": "required", "/auth/username": "required"},
    ),
    "ntlm without a password": ({"auth": {"method": "ntlm", "username": "u"}}, {"/auth/credential": "required"}),
    "auto with half": ({"auth": {"credential": CREDENTIAL}}, {"/auth/username": "required"}),
    "external": ({"auth": {"method": "external"}}, {"/tls/client_certificate": "required"}),
    "xoauth2": ({"auth": {"method": "xoauth2"}}, {"/auth/oauth": "required"}),
    "unknown provider": (
        {"auth": {"method": "xoauth2", "oauth": {"provider": "mine", "grant": "client_secret"}}},
        {"/auth/oauth/provider": "unknown_provider"},
    ),
    "the machine's identity": (
        {"auth": {"method": "xoauth2", "username": "u", "oauth": {"provider": "microsoft365", "grant": "managed_identity"}}},
        {"/auth/oauth/grant": "not_allowed"},
    ),
    "half a way to a token": (
        {"auth": {"method": "xoauth2", "oauth": {"provider": "microsoft365", "grant": "certificate", "directory": "a/b"}}},
        {
            "/auth/oauth/client_id": "required", "/auth/oauth/directory": "bad_value",
            "/auth/oauth/mailbox": "required", "/auth/credential": "required",
        },
    ),
    "a token is no password": (
        {"auth": {"method": "plain", "username": "u", "credential": CREDENTIAL,
                  "oauth": {"provider": "google", "grant": "refresh_token", "client_id": "c"}}},
        {"/auth/oauth": "conflict"},
    ),
    "no such way to a token": (
        {"auth": {"method": "auto", "username": "u", "oauth": {"provider": "google", "grant": "client_secret"}}},
        {"/auth/oauth/grant": "bad_value"},
    ),
    "nobody's secret": ({"auth": {"username": "u", "credential": SET}}, {
        "/auth/credential": "required",
    }),
    "what we keep": ({"auth": {"username": "u", "credential": {**CREDENTIAL, "sealed": "x"}}}, {
        "/auth/credential": "required",
    }),
    "connector": ({"connector": "dmz"}, {"/connector": "unknown_connector"}),
    "failover": ({"failover": ["nobody"]}, {"/failover/0": "unknown_profile"}),
    "certificates": ({"tls": {"ca_certificates": "x"}}, {"/tls/ca_certificates": "bad_certificate"}),
    "a certificate that takes long": ({"tls": {"ca_certificates": SLOW}}, {"/tls/ca_certificates": "bad_certificate"}),
    "dsn": ({"dsn": {"notify": ["never", "delay"]}}, {"/dsn/notify": "conflict"}),
    "metadata service": ({"host": "169.254.169.254"}, {"/host": "egress_refused"}),
    "port": ({"port": 22}, {"/port": "egress_refused"}),
    "many at once": (
        {"port": 22, "from": 5, "auth": {"method": "plain", "username": "u"}, "x": 1},
        {"/port": "egress_refused", "/from": "bad_address", "/auth/credential": "required", "/x": "unknown_field"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "faults"), FAULTY.values(), ids=FAULTY.keys())
async def test_faults(world: World, change: dict[str, Any], faults: dict[str, str]) -> None:
    """Each with its pointer and code, all at once; nothing is made."""
    refused = await world.call("POST", PROFILES, EDITOR, json={**RELAY, **change})

    assert refused.status == 422
    assert {pointer: refused.faults.get(pointer) for pointer in faults} == faults
    assert ("acme", "relay") not in world.directory.snapshot.profiles


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"security": "none"}, "plaintext_auth"),
        ({"tls": {"verify": False}}, "auth_unverified"),
        ({"host": "127.0.0.1"}, "egress_refused"),
    ],
)
async def test_the_only_fault_names_the_problem(world: World, change: dict[str, Any], code: str) -> None:
    """Where the contract has a code for it."""
    assert (await world.call("POST", PROFILES, EDITOR, json={**SIGNED_IN, **change})).code == code


@pytest.mark.parametrize(("certificates", "says"), [("x", "These are no certificates"), (SLOW, "has no usual key")])
async def test_what_is_wrong_with_certificates_is_told(world: World, certificates: str, says: str) -> None:
    """Each in a sentence of its own."""
    refused = await world.call("POST", PROFILES, EDITOR, json={**RELAY, "tls": {"ca_certificates": certificates}})
    [told] = refused.json["errors"]

    assert says in told["detail"]


async def test_host_and_username_are_one_account(world: World) -> None:
    """However the host is written; on making and on changing; another tenant may."""
    assert (await world.call("POST", PROFILES, EDITOR, json=SIGNED_IN)).status == 201
    same = {**SIGNED_IN, "name": "again", "host": "SMTP.Relay.Example."}
    other = {**SIGNED_IN, "name": "other", "auth": {**SIGNED_IN["auth"], "username": "App"}}  # type: ignore[dict-item]
    again = await world.call("POST", PROFILES, EDITOR, json=same)
    made = await world.call("POST", PROFILES, EDITOR, json=other)
    changed = await world.call("PATCH", f"{PROFILES}/other", EDITOR, json={"auth": {"username": "app"}})
    child = await world.call("POST", "/v1/tenants/acme-emea/profiles", ADMIN, json=SIGNED_IN)

    assert (again.code, made.status, changed.code, child.status) == (
        "duplicate_profile", 201, "duplicate_profile", 201,
    )  # fmt: skip


async def test_a_new_default_takes_the_mark(world: World) -> None:
    """One default, whoever had it before."""
    await world.call("POST", PROFILES, EDITOR, json={**RELAY, "is_default": True})
    listed = (await world.call("GET", PROFILES, "acme")).json["items"]
    assert [one["name"] for one in listed if one["is_default"]] == ["relay"]


async def test_the_name_never_changes(world: World) -> None:
    """A read-only member with another value is a fault, nothing a rename."""
    changed = await world.call("PATCH", f"{PROFILES}/own", EDITOR, json={"name": "new", "tenant": "globex"})
    assert changed.faults == {"/name": "read_only", "/tenant": "read_only"}


async def test_a_profile_may_be_put_back_as_it_was_read(world: World) -> None:
    """The password stays, nothing is audited, the version too."""
    await world.call("POST", PROFILES, EDITOR, json=SIGNED_IN)
    read = await world.call("GET", f"{PROFILES}/relay", "acme")
    put = await world.call(
        "PUT", f"{PROFILES}/relay", EDITOR, json=read.json, headers={"If-Match": read.headers["ETag"]}
    )

    assert (put.status, put.json, put.headers["ETag"]) == (200, read.json, read.headers["ETag"])
    assert opened_password(world.directory, world.directory.snapshot.profiles["acme", "relay"]) is not None


async def test_put_replaces_and_patch_merges(world: World) -> None:
    """PUT forgets what it does not say; PATCH keeps it, and null takes it away."""
    await world.call("POST", PROFILES, EDITOR, json={**RELAY, "to": ["a@b.example"], "footnote": {"text": "x"}})
    patched = await world.call("PATCH", f"{PROFILES}/relay", EDITOR, json={"footnote": None, "port": 25})
    put = await world.call("PUT", f"{PROFILES}/relay", EDITOR, json=RELAY)

    assert (patched.json["to"], patched.json["port"], "footnote" in patched.json) == (["a@b.example"], 25, False)
    assert (put.json["to"], put.json["port"]) == ([], 587)


GOES_ELSEWHERE: dict[str, dict[str, Any]] = {
    "host": {"host": "evil.example"},
    "port": {"port": 2525},
    "security": {"security": "implicit_tls"},
    "tls": {"tls": {"verify": False, "allow_auth_unverified": True}},
    "method": {"auth": {"method": "login"}},
    "domain": {"auth": {"domain": "CORP"}},
    "username": {"auth": {"username": "other"}},
}


@pytest.mark.parametrize("change", GOES_ELSEWHERE.values(), ids=GOES_ELSEWHERE.keys())
async def test_a_password_does_not_go_elsewhere(world: World, change: dict[str, Any]) -> None:
    """Who may change the host, and does not know the password, does not get it that way; not even an admin."""
    world.directory.policy = world.directory.policy.__class__(
        world.directory.policy.egress.__class__((25, 465, 587, 2525))
    )
    await world.call("POST", PROFILES, EDITOR, json=SIGNED_IN)
    changed = await world.call("PATCH", f"{PROFILES}/relay", ADMIN, json=change)
    again = await world.call("PATCH", f"{PROFILES}/relay", EDITOR, json={"auth": {"credential": {**CREDENTIAL}}})

    assert (changed.status, changed.json["auth"]["credential"]) == (200, UNSET)
    assert again.json["auth"]["credential"] == SET


async def test_a_password_that_comes_along_is_taken(world: World) -> None:
    """A change of the host with the password anew keeps the new one."""
    await world.call("POST", PROFILES, EDITOR, json=SIGNED_IN)
    change = {"host": "smtp.new.example", "auth": {"credential": {"source": "plaintext", "value": "new"}}}
    changed = await world.call("PATCH", f"{PROFILES}/relay", EDITOR, json=change)

    assert changed.json["auth"]["credential"] == SET


async def test_what_does_not_matter_keeps_the_password(world: World) -> None:
    """Identity, limits, footnotes."""
    await world.call("POST", PROFILES, EDITOR, json=SIGNED_IN)
    change = {"from": "b@acme.example", "limits": {"connections": 9}, "enabled": False, "footnote": {"text": "x"}}
    assert (await world.call("PATCH", f"{PROFILES}/relay", EDITOR, json=change)).json["auth"]["credential"] == SET


async def test_a_disabled_profile_is_kept_and_passed_over(world: World) -> None:
    """The next default up the tree is used."""
    await world.call("PATCH", f"{PROFILES}/own", EDITOR, json={"enabled": False})
    explained = (await world.call("GET", "/v1/tenants/acme/resolution", "system")).json

    assert (explained["profile"], explained["owner"], explained["via"]) == ("main", "system", "system")
    assert explained["chain"][0] == {"tenant": "acme", "profile": "own", "verdict": "disabled"}


async def test_a_tenant_without_own_profiles(world: World) -> None:
    """It makes none, and its own are passed over; what it inherits is used."""
    await world.call("POST", "/v1/tenants/acme-emea/profiles", ADMIN, json={**RELAY, "is_default": True})
    await world.call("PATCH", "/v1/tenants/acme-emea", ADMIN, json={"own_profiles": False})
    refused = await world.call("POST", "/v1/tenants/acme-emea/profiles", ADMIN, json={**RELAY, "name": "two"})
    explained = (await world.call("GET", "/v1/tenants/acme-emea/resolution", "acme")).json

    assert refused.code == "locked_by_parent"
    assert (explained["profile"], explained["via"]) == ("own", "ancestor")


async def test_a_paused_profile_says_so(world: World) -> None:
    """Pausing twice is pausing; resuming takes it back."""
    paused = [await world.call("POST", f"{PROFILES}/own/pause", EDITOR) for _ in range(2)]
    resumed = await world.call("POST", f"{PROFILES}/own/resume", EDITOR)

    assert [one.json["paused"] for one in (*paused, resumed)] == [True, True, False]


@pytest.mark.parametrize(
    ("paused", "state", "told"),
    [(False, "parked:auth_failed", 1), (True, "parked:auth_failed", 1), (True, "active", 1), (False, "active", 0)],
)
async def test_who_lets_a_profile_go_on_is_on_record(tmp_path: Path, paused: bool, state: str, told: int) -> None:
    """Once, whatever it stood still for; what changes nothing is not told."""
    async with running(tmp_path, states=lambda: {("acme", "own"): state}) as world:
        if paused:
            await world.call("POST", f"{PROFILES}/own/pause", EDITOR)
        await world.call("POST", f"{PROFILES}/own/resume", EDITOR)
        log = (await world.call("GET", "/v1/tenants/acme/audit", ADMIN)).json["items"]
    rows = [(row["actor"][:4], row["object"], row["changes"]) for row in log if row["action"] == "resume"]
    assert rows == [("key:", "own", [])] * told


async def test_deleting(world: World) -> None:
    """204, and it is gone; a stale version deletes nothing."""
    await world.call("POST", PROFILES, EDITOR, json=RELAY)
    stale = await world.call("DELETE", f"{PROFILES}/relay", EDITOR, headers={"If-Match": '"x"'})
    gone = await world.call("DELETE", f"{PROFILES}/relay", EDITOR)

    assert (stale.code, gone.status) == ("precondition_failed", 204)
    assert (await world.call("GET", f"{PROFILES}/relay", "acme")).code == "not_found"


async def test_nobody_fails_over_to_what_is_gone(world: World) -> None:
    """A deleted profile leaves the failover lists that name it, on record; what is read can be written back."""
    await world.call("POST", PROFILES, EDITOR, json=RELAY)
    made = await world.call("POST", PROFILES, EDITOR, json={**EVERYTHING, "failover": ["own", "relay"]})
    assert made.status == 201, made.text
    await world.call("DELETE", f"{PROFILES}/relay", EDITOR)
    left = await world.call("GET", f"{PROFILES}/full", "acme")
    again = await world.call("PUT", f"{PROFILES}/full", EDITOR, json=left.json)
    log = (await world.call("GET", "/v1/tenants/acme/audit?limit=2", ADMIN)).json["items"]

    assert (left.json["failover"], again.status) == (["own"], 200)
    assert [(row["action"], row["object"], row["changes"]) for row in log] == [
        ("profile.update", "full", [{"field": "failover"}]),
        ("profile.delete", "relay", []),
    ]


async def test_a_patched_credential_replaces_the_old_one_whole(world: World) -> None:
    """A new value over a kept one is the new one, with nothing left of what was there."""
    await world.call("POST", PROFILES, EDITOR, json=SIGNED_IN)
    patched = await world.call("PATCH", f"{PROFILES}/relay", EDITOR, json={"auth": {"credential": CREDENTIAL}})
    secret = opened_password(world.directory, world.directory.snapshot.profiles["acme", "relay"])

    assert patched.json["auth"]["credential"] == SET
    assert secret is not None
    assert secret.reveal() == "x"


async def test_what_a_preset_filled_may_be_taken_away(world: World) -> None:
    """A patch that names no preset is not filled again."""
    await world.call("POST", PROFILES, EDITOR, json={"name": "g", "preset": "gmail", "from": "a@acme.example"})
    patched = await world.call("PATCH", f"{PROFILES}/g", EDITOR, json={"limits": {"per_minute": None}})
    assert "per_minute" not in patched.json["limits"]


async def test_a_name_is_added_to_a_bare_address(world: World) -> None:
    """Whichever way the address was written."""
    await world.call("POST", PROFILES, EDITOR, json=RELAY)
    patched = await world.call("PATCH", f"{PROFILES}/relay", EDITOR, json={"from": {"name": "Relay"}})
    assert patched.json["from"] == {"name": "Relay", "address": "noreply@acme.example"}


async def test_a_profile_is_copied_by_posting_what_was_read(world: World) -> None:
    """Under a new name and with its password given anew."""
    await world.call("POST", PROFILES, EDITOR, json=SIGNED_IN)
    read = (await world.call("GET", f"{PROFILES}/relay", "acme")).json
    copy = {**read, "name": "copy", "host": "other.example", "auth": {**read["auth"], "credential": CREDENTIAL}}
    assert (await world.call("POST", PROFILES, EDITOR, json=copy)).status == 201
