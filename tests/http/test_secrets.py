"""The built-in secret store over HTTP: written, never read; used by name."""

from tests.http.world import World

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
