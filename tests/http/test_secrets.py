"""The built-in secret store over HTTP: written, never read; used by name."""

import asyncio
import json
from typing import Any

import pytest

from gateway.credentials.sealed import Seal
from tests.http.world import World, profile

KEY = "acme:secrets"
PATH = "/v1/tenants/acme/secrets/relay-a"
CREDENTIAL = {"source": "stored", "key": "relay-a"}
PROFILE = {
    "name": "relay", "host": "smtp.relay.example", "from": "a@acme.example",
    "auth": {"username": "u", "credential": CREDENTIAL},
}  # fmt: skip


async def test_a_secret_is_kept_and_never_shown(world: World) -> None:
    """201, then 200 with the next version; its value is in no answer and not in the database's files."""
    made = await world.call("PUT", PATH, KEY, json={"value": "canary-7f3"})
    again = await world.call("PUT", PATH, KEY, json={"value": "canary-7f4"})
    shown = await world.call("GET", PATH, KEY)
    listed = await world.call("GET", "/v1/tenants/acme/secrets", KEY)
    log = await world.call("GET", "/v1/tenants/acme/audit", "acme:admin")

    assert (made.status, made.json["version"], again.status, again.json["version"]) == (201, 1, 200, 2)
    assert listed.json["items"] == [shown.json]
    assert "canary" not in made.text + again.text + shown.text + listed.text + log.text
    for file in world.store.path.parent.glob("gateway.db*"):
        assert b"canary" not in file.read_bytes()


async def test_only_who_handles_secrets(world: World) -> None:
    """Not by `read`, `profiles` or `send`; not of another tenant; not of a parent."""
    await world.call("PUT", PATH, KEY, json={"value": "x"})
    for scopes in ("read", "profiles", "send"):
        for method in ("GET", "PUT", "DELETE"):
            options = {"json": {"value": "y"}} if method == "PUT" else {}
            assert (await world.call(method, PATH, f"acme:{scopes}", **options)).code == "forbidden"
    for stranger in ("globex:secrets", "acme-emea:secrets"):
        assert (await world.call("GET", PATH, stranger)).code == "not_found"


async def test_a_profile_refers_to_it(world: World) -> None:
    """Before it is there with a warning; once it is there, checked, and told as used."""
    early = await world.call("POST", "/v1/tenants/acme/profiles", "acme:profiles,secrets", json=PROFILE)
    missing = await world.call("POST", "/v1/tenants/acme/profiles/relay/credential/check", KEY)
    await world.call("PUT", PATH, KEY, json={"value": "x"})
    found = await world.call("POST", "/v1/tenants/acme/profiles/relay/credential/check", KEY)
    refreshed = await world.call("POST", "/v1/tenants/acme/profiles/relay/credential/refresh", KEY)
    shown = await world.call("GET", PATH, KEY)

    assert early.json["auth"]["credential"] == CREDENTIAL
    assert [warning["code"] for warning in early.json["warnings"]] == ["unknown_secret"]
    assert (missing.json["ok"], missing.json["error"]["kind"]) == (False, "not_found")
    assert (found.json["ok"], found.json["version"], refreshed.json["ok"]) == (True, "1", True)
    assert shown.json["used_by"] == ["relay"]


async def test_a_used_secret_is_not_deleted(world: World) -> None:
    """Until nobody refers to it."""
    await world.call("PUT", PATH, KEY, json={"value": "x"})
    await world.call("POST", "/v1/tenants/acme/profiles", "acme:profiles", json=PROFILE)
    used = await world.call("DELETE", PATH, KEY)
    await world.call("DELETE", "/v1/tenants/acme/profiles/relay", "acme:profiles")
    deleted = await world.call("DELETE", PATH, KEY)

    assert (used.code, deleted.status) == ("secret_in_use", 204)
    assert (await world.call("GET", PATH, KEY)).code == "not_found"


async def test_only_the_version_that_is_meant_is_followed_or_deleted(world: World) -> None:
    """`If-Match` holds as for everything that changes; a profile that begins to use it makes it another version."""
    first = (await world.call("PUT", PATH, KEY, json={"value": "x"})).headers["ETag"]
    second = await world.call("PUT", PATH, KEY, json={"value": "y"}, headers={"If-Match": first})
    stale = await world.call("PUT", PATH, KEY, json={"value": "z"}, headers={"If-Match": first})
    kept = await world.call("DELETE", PATH, KEY, headers={"If-Match": first})
    gone = await world.call("DELETE", PATH, KEY, headers={"If-Match": second.headers["ETag"]})
    nothing = await world.call("PUT", PATH, KEY, json={"value": "x"}, headers={"If-Match": "*"})

    assert second.json["version"] == 2
    assert [stale.code, kept.code, nothing.code] == ["precondition_failed"] * 3
    assert (gone.status, (await world.call("GET", PATH, KEY)).code) == (204, "not_found")


@pytest.mark.parametrize(
    ("path", "key", "body"),
    [(PATH, KEY, {"value": "x"}), ("/v1/tenants/acme/templates/hello", "acme:profiles", {"subject": "a", "text": "b"})],
    ids=["secret", "template"],
)
async def test_one_of_many_makes_it(world: World, path: str, key: str, body: dict[str, str]) -> None:
    """With `If-None-Match: *` nothing that is there is overwritten, however many ask at once (RFC 9110 §13.1.2)."""
    only_new = {"If-None-Match": "*"}
    together = await asyncio.gather(*(world.call("PUT", path, key, json=body, headers=only_new) for _ in range(8)))
    [made] = [one for one in together if one.status == 201]
    tag = made.headers["ETag"]
    unless_this = [
        await world.call("PUT", path, key, json=body, headers={"If-None-Match": tags})
        for tags in (tag, f"W/{tag}", f'"other", {tag}')
    ]
    unless_other = await world.call("PUT", path, key, json=body, headers={"If-None-Match": '"other"'})

    assert sorted(one.status for one in together) == [201] + [412] * 7
    assert [one.code for one in unless_this] == ["precondition_failed"] * 3
    assert unless_other.status == 200


async def test_a_reference_stays_only_with_who_handles_secrets(world: World) -> None:
    """Who may edit profiles alone cannot send a stored secret to a host of their own."""
    await world.call("PUT", PATH, KEY, json={"value": "x"})
    await world.call("POST", "/v1/tenants/acme/profiles", "acme:profiles,secrets", json=PROFILE)
    path = "/v1/tenants/acme/profiles/relay"
    kept = await world.call("PATCH", path, "acme:profiles,secrets", json={"host": "new.example"})
    dropped = await world.call("PATCH", path, "acme:profiles", json={"host": "evil.example"})
    again = await world.call(
        "PATCH", path, "acme:profiles", json={"host": "worse.example", "auth": {"credential": CREDENTIAL}}
    )

    made = await world.call(
        "POST", "/v1/tenants/acme/profiles", "acme:profiles", json={**PROFILE, "name": "b", "host": "b.example"}
    )
    tricked = await world.call(
        "PUT",
        path,
        "acme:profiles",
        json={**PROFILE, "host": "c.example", "auth": {"username": "u", "credential": {**CREDENTIAL, "value": None}}},
    )

    assert made.json["auth"]["credential"] == {**CREDENTIAL, "set": False}
    assert tricked.json["auth"]["credential"] == {**CREDENTIAL, "set": False}
    assert kept.json["auth"]["credential"] == CREDENTIAL
    assert dropped.json["auth"]["credential"] == {**CREDENTIAL, "set": False}
    assert again.json["auth"]["credential"] == {**CREDENTIAL, "set": False}


async def test_faults_of_a_secret(world: World) -> None:
    """No value, an empty one, unknown fields, a name that is none; and a file that nobody lent."""
    for body in ({}, {"value": ""}, {"value": "x", "y": 1}, {"value": 5}):
        assert (await world.call("PUT", PATH, KEY, json=body)).status == 422
    assert (await world.call("PUT", "/v1/tenants/acme/secrets/a%20b", KEY, json={"value": "x"})).status == 422
    lent = {**PROFILE, "auth": {"username": "u", "credential": {"source": "file", "key": "other"}}}
    refused = await world.call("POST", "/v1/tenants/acme/profiles", "acme:admin", json=lent)
    assert (refused.code, refused.faults) == ("secret_not_allowed", {"/auth/credential/key": "secret_not_allowed"})


# Rewrapping.

REWRAP = "/v1/secrets/rewrap"
NEW = Seal([b"n" * 32])
BOTH = Seal([b"n" * 32, bytes(32)])  # the second is the world's own
PASSWORD = {"name": "main", "host": "relay.example", "from": "a@acme.example", "auth": {"username": "u", "credential": {"source": "plaintext", "value": "canary-7f3"}}}  # fmt: skip


async def furnish(world: World) -> None:
    """Seal a profile's password and a stored secret, and then begin a new master key."""
    await world.call("POST", "/v1/tenants/acme/profiles", "acme:admin", json=PASSWORD)
    await world.call("PUT", PATH, KEY, json={"value": "canary-7f4"})
    use(world, BOTH)


def use(world: World, seal: Seal) -> None:
    """Go on with these master keys."""
    world.directory.seal = world.services.credentials.seal = seal


async def test_rewrapping_is_seen_by_nobody(world: World) -> None:
    """Versions stay what they were, so that `If-Match` holds; afterwards the older key is not needed."""
    await furnish(world)
    paths = [PATH, "/v1/tenants/acme/profiles/main"]
    before = [await world.call("GET", path, "acme:admin") for path in paths]
    done = await world.call("POST", REWRAP, "system")
    use(world, NEW)
    after = [await world.call("GET", path, "acme:admin") for path in paths]
    checked = await world.call("POST", f"{paths[1]}/credential/check", KEY)
    edited = await world.call(
        "PATCH", paths[1], "acme:admin", json={"port": 465}, headers={"If-Match": before[1].headers["ETag"]}
    )

    assert done.json == {
        "checked": 2, "profiles": 1, "secrets": 1, "webhooks": 0, "unreadable": [], "next_cursor": None,
    }  # fmt: skip
    assert [(one.text, one.headers["ETag"]) for one in before] == [(one.text, one.headers["ETag"]) for one in after]
    assert (checked.json["ok"], edited.status) == (True, 200)


async def test_rewrapping_is_told_by_name_of_the_key(world: World) -> None:
    """To the operator, once, without anything of a secret."""
    await furnish(world)
    await world.call("POST", REWRAP, "system")
    log = await world.call("GET", "/v1/tenants/system/audit", "system")
    [row] = [row for row in log.json["items"] if row["action"] == "secret.rewrap"]
    key_id = (await world.key_for("system")).split("_")[1]

    assert (row["actor"], row["object"]) == (f"key:{key_id}", "")
    assert row["changes"] == [
        {"field": "profiles", "after": 1}, {"field": "secrets", "after": 1}, {"field": "webhooks", "after": 0},
    ]  # fmt: skip


async def test_rewrapping_goes_on_from_its_cursor(world: World) -> None:
    """One object at a time, until there is no cursor; one that was not answered is refused."""
    await furnish(world)
    first = await world.call("POST", f"{REWRAP}?limit=1", "system")
    second = await world.call("POST", f"{REWRAP}?limit=1&cursor={first.json['next_cursor']}", "system")
    listed = await world.call("GET", "/v1/tenants/acme/secrets?limit=1", KEY)
    assert listed.json["next_cursor"] is None
    names = await world.call("GET", "/v1/tenants?limit=1", "system")
    strange = await world.call("POST", f"{REWRAP}?cursor={names.json['next_cursor']}", "system")

    assert (first.json["profiles"], first.json["secrets"], first.json["checked"]) == (1, 0, 1)
    assert (second.json["profiles"], second.json["secrets"], second.json["next_cursor"]) == (0, 1, None)
    assert (strange.code, strange.faults) == ("invalid", {"/cursor": "bad_cursor"})


async def test_what_does_not_open_is_answered_by_name(world: World) -> None:
    """Tenant, object and field, and no secret; the rest is sealed anew."""
    await furnish(world)
    use(world, NEW)
    await world.call("PUT", PATH, KEY, json={"value": "canary-7f5"})
    done = await world.call("POST", REWRAP, "system")

    assert done.json["unreadable"] == [
        {
            "kind": "profile", "tenant": "acme", "name": "main", "field": "auth.credential",
            "detail": "sealed with a master key that is not configured",
        }
    ]  # fmt: skip
    assert (done.json["checked"], done.json["secrets"]) == (2, 0)
    assert "canary" not in json.dumps(done.json)


@pytest.mark.parametrize("key", ["acme:admin", "system:secrets", "system:profiles,read,send"])
async def test_only_the_operator_rewraps(world: World, key: str) -> None:
    """An administrator of `system`; whoever else asks changes nothing."""
    await furnish(world)
    await world.key_for(key)
    stored = await world.store.directory()
    refused = await world.call("POST", REWRAP, key)

    assert refused.code == "forbidden"
    assert await world.store.directory() == stored


# Secrets that are not lent.


async def denials(world: World, tenant: str = "system") -> list[tuple[str, str, list[dict[str, str]]]]:
    """What a tenant's log tells of them, oldest first: who asked, for which profile, and the fields."""
    log = await world.call("GET", f"/v1/tenants/{tenant}/audit", f"{tenant}:admin")
    rows = [row for row in log.json["items"] if row["action"] == "secret.deny"]
    return [(row["actor"], row["object"], row["changes"]) for row in reversed(rows)]


def lent(name: str, key: str) -> dict[str, Any]:
    """A profile that wants a file of the operator's."""
    credential = {"source": "file", "key": key}
    return {**PASSWORD, "name": name, "auth": {"username": "u", "credential": credential}}


async def test_what_is_refused_on_saving_is_told(world: World) -> None:
    """By whatever way it was to be saved; to the owner and the operator, of whom only one is told the missing leave."""
    who = f"key:{(await world.key_for('acme:admin')).split('_')[1]}"
    made = await world.call("POST", "/v1/tenants/acme/profiles", "acme:admin", json=lent("made", "one"))
    credential = {"auth": {"username": "u", "credential": {"source": "file", "key": "two"}}}
    saved = await world.call("PATCH", "/v1/tenants/acme/profiles/own", "acme:admin", json=credential)
    row = {"tenant": "acme", **lent("applied", "three")}
    applied = await world.call("POST", "/v1/apply?dry_run=true", "acme:admin", json={"profiles": [row]})
    asked = [{"field": "auth.credential"}, {"field": "source", "after": "file"}]
    missing = {"field": "rule", "after": "allow"}

    assert [one.code for one in (made, saved, applied)] == ["secret_not_allowed"] * 3
    assert applied.faults == {"/profiles/0/auth/credential/key": "secret_not_allowed"}
    assert await denials(world, "acme") == [(who, name, asked) for name in ("made", "own", "applied")]
    assert await denials(world) == [(who, f"acme/{name}", [*asked, missing]) for name in ("made", "own", "applied")]


async def test_the_owner_is_not_told_who_above_them_asked(world: World) -> None:
    """As in every row of the log."""
    await world.call("POST", "/v1/tenants/acme/profiles", "system", json=lent("made", "one"))
    [(who, _, _)] = await denials(world, "acme")

    assert who == "ancestor"


async def test_what_is_refused_at_use_is_told(world: World) -> None:
    """Once, however often it is wanted, and not again for the same on saving."""
    made = profile("acme", "late", auth={"username": "u", "credential": {"source": "file", "key": "one"}})
    await world.put(made)  # it was lent when it was saved
    path = "/v1/tenants/acme/profiles/late/credential"
    verdicts = [await world.call("POST", f"{path}/{what}", KEY) for what in ("check", "check", "refresh")]
    await world.call("POST", "/v1/tenants/acme/profiles", "acme:admin", json=lent("made", "one"))

    assert [one.json["error"]["kind"] for one in verdicts] == ["policy"] * 3
    assert [(who, name) for who, name, _ in await denials(world)] == [("gateway", "acme/late")]
    assert [(who, name) for who, name, _ in await denials(world, "acme")] == [("gateway", "late")]
