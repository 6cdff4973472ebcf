"""API keys: who is let in, and who may make which key; and what resolution explains."""

import asyncio
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.http import authentication
from gateway.http.admission import Buckets
from gateway.http.authentication import FAILURES
from gateway.http.client import bucket_name, client_address
from tests.http.world import World

LIST = "/v1/notifications"
PROXIES = (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"))


async def ask(world: World, authorization: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.call("GET", LIST, None, headers={"Authorization": authorization, **named})


@pytest.mark.parametrize(
    "make", ["Bearer {}x", "Bearer x{}", "Basic {}", "{}", "Bearer", "Bearer ngw_aaaaaaaa_" + "b" * 43]
)
async def test_wrong_keys_look_alike(world: World, make: str) -> None:
    """A malformed, unknown or wrong key gets one and the same answer."""
    answered = await ask(world, make.format(await world.key_for("acme")))
    assert (answered.status, answered.code) == (401, "unauthorized")
    assert answered.json["detail"] == "A valid API key is required."


async def test_scheme_in_any_case(world: World) -> None:
    """The scheme's case is of no importance (RFC 9110 §11.1)."""
    assert (await ask(world, f"bearer {await world.key_for('acme')}")).status == 200


async def test_expired_key(world: World) -> None:
    """A key is refused from its expiry on."""
    key = await world.key_for("acme:read", expires_at=world.outbox.clock() + 60_000)
    assert (await ask(world, f"Bearer {key}")).status == 200
    world.offset = 60_000
    assert (await ask(world, f"Bearer {key}")).status == 401


async def test_networks_of_a_key(world: World) -> None:
    """A key with networks is for clients in them, as a trusted proxy names them."""
    key = "Bearer " + await world.key_for("acme:read", cidrs=["192.0.2.0/24"])
    assert (await ask(world, key)).status == 401
    assert (await ask(world, key, X_Forwarded_For="192.0.2.7")).status == 200
    assert (await ask(world, key, X_Forwarded_For="192.0.2.7, 198.51.100.1")).status == 401
    assert (await ask(world, key, X_Forwarded_For="198.51.100.1, 192.0.2.7, 127.0.0.9")).status == 200


async def test_too_many_wrong_keys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with a thousand wrong keys is told to wait; others and right keys are not kept out."""
    assert FAILURES == 1_000
    monkeypatch.setattr(authentication, "FAILURES", 20)
    world.outbox.clock = lambda: 0
    wrong = "Bearer ngw_aaaaaaaa_" + "b" * 43
    answers = await asyncio.gather(*(ask(world, wrong, X_Forwarded_For="192.0.2.7") for _ in range(25)))
    assert sorted(answer.status for answer in answers) == [401] * 20 + [429] * 5
    refused = await ask(world, wrong, X_Forwarded_For="192.0.2.7")
    assert (refused.code, refused.headers["Retry-After"]) == ("rate_limited", "1")
    assert (await ask(world, wrong, X_Forwarded_For="192.0.2.8")).status == 401
    assert (await ask(world, f"Bearer {await world.key_for('acme')}", X_Forwarded_For="192.0.2.7")).status == 200


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["evil, 198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["6.6.6.6, 198.51.100.1, 10.1.1.1"], "198.51.100.1"),
        ("127.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1, junk"], "127.0.0.1"),
        ("127.0.0.1", ["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        ("::ffff:127.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("", ["198.51.100.1"], "198.51.100.1"),
        ("", [], None),
    ],
)
def test_client_address(peer: str, forwarded: list[str], client: str | None) -> None:
    """The client is the rightmost address that no trusted proxy has; a stranger's word is not taken."""
    transport = SimpleNamespace(get_extra_info=lambda _name: (peer, 1) if peer else "")
    request: Any = SimpleNamespace(
        transport=transport, headers=CIMultiDict([("X-Forwarded-For", value) for value in forwarded])
    )
    assert client_address(request, PROXIES) == (None if client is None else ip_address(client))


def test_customers_are_counted_by_network() -> None:
    """An IPv6 client cannot escape by changing the half of the address that is its own."""
    assert bucket_name(ip_address("2001:db8::1")) == bucket_name(ip_address("2001:db8::ffff"))
    assert bucket_name(ip_address("192.0.2.1")) != bucket_name(ip_address("192.0.2.2"))


def test_buckets_are_bounded() -> None:
    """However many names there are, the table keeps its size; tokens come back with time."""
    buckets = Buckets(size=10)
    for name in range(100):
        assert buckets.take(f"{name}", 0, interval=10, burst=1) == 0
    assert len(buckets) == 10
    assert buckets.take("99", 4, interval=10, burst=1) == 6
    assert buckets.take("99", 10, interval=10, burst=1) == 0


def test_full_buckets_are_not_kept() -> None:
    """Of names that come once and never again no more are remembered than are waited for."""
    buckets = Buckets()
    for now in range(1_000):
        assert buckets.take(f"{now}", now, interval=10, burst=5) == 0
    assert len(buckets) == 10


@pytest.mark.parametrize("burst", [1, 5])
def test_a_clock_that_is_set_back_closes_no_bucket(burst: int) -> None:
    """Nobody waits longer than for a bucket that is empty."""
    buckets = Buckets()
    for _ in range(burst):
        assert buckets.take("acme", 1_000_000, interval=10, burst=burst) == 0
    assert buckets.take("acme", 1_000, interval=10, burst=burst) == 10
    assert buckets.take("acme", 1_010, interval=10, burst=burst) == 0


# Making keys.


async def make(world: World, tenant: str = "acme", key: str = "acme:admin", **fields: Any) -> Any:
    return await world.call("POST", f"/v1/tenants/{tenant}/keys", key, json={"scopes": ["send"], **fields})


async def test_made_key_works_and_is_shown_once(world: World) -> None:
    """A new key is in the answer that makes it and in no other, and opens what it should."""
    made = await make(world, name="app", scopes=["read"], expires_at="2090-01-01T00:00:00Z", cidrs=["127.0.0.0/8"])
    assert made.status == 201
    assert made.headers["Location"] == f"/v1/tenants/acme/keys/{made.json['id']}"
    assert (await ask(world, f"Bearer {made.json['key']}")).status == 200
    listed = await world.call("GET", "/v1/tenants/acme/keys", "acme:admin")
    [shown] = [item for item in listed.json["items"] if item["name"] == "app"]
    assert {name: value for name, value in made.json.items() if name != "key"} == {**shown, "last_used_at": None}
    assert shown["last_used_at"] is not None
    assert (await world.call("GET", made.headers["Location"], "acme:admin")).json == shown
    assert (shown["scopes"], shown["mode"], shown["cidrs"]) == (["read"], "live", ["127.0.0.0/8"])
    assert shown["expires_at"] == "2090-01-01T00:00:00.000Z"
    assert made.json["key"].split("_", 2)[2] not in listed.text


async def test_revoked_key_is_dead_at_once(world: World) -> None:
    """The first request after the revocation is refused; the key cannot be revoked twice."""
    made = (await make(world, scopes=["read"])).json
    path = f"/v1/tenants/acme/keys/{made['id']}"
    assert (await world.call("DELETE", path, "acme:admin")).status == 204
    assert (await ask(world, f"Bearer {made['key']}")).status == 401
    for method in ("GET", "DELETE"):
        assert (await world.call(method, path, "acme:admin")).code == "not_found"


async def test_use_of_revoked_keys_is_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many keys come and go, no more of them are remembered than there are, and a few; those that are there stay."""
    monkeypatch.setattr(authentication, "FORGOTTEN_LATER", 0)
    for _ in range(20):
        made = (await make(world, scopes=["read"])).json
        assert (await ask(world, f"Bearer {made['key']}")).status == 200
        assert (await world.call("DELETE", f"/v1/tenants/acme/keys/{made['id']}", "acme:admin")).status == 204
    there = world.directory.snapshot.keys.keys()
    used = world.services.last_used.keys()
    assert len(used) <= 2 * len(there) + 1
    assert used & there


async def test_keys_of_others(world: World) -> None:
    """A key is found under its own tenant only."""
    made = (await make(world, "acme-emea")).json
    assert (await world.call("DELETE", f"/v1/tenants/acme/keys/{made['id']}", "acme:admin")).code == "not_found"
    assert (await make(world, "globex")).code == "not_found"
    assert (await make(world, "acme", "acme-emea:admin")).code == "not_found"
    assert (await make(world, "globex", "system")).status == 201


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        ({"scopes": []}, {"/scopes": "required"}),
        ({"scopes": ["root"]}, {"/scopes/0": "bad_value"}),
        ({"mode": "test", "scopes": ["send", "admin"]}, {"/scopes": "conflict"}),
        ({"cidrs": ["10.0.0.1/8"], "name": "a\nb"}, {"/cidrs/0": "bad_cidr", "/name": "control_character"}),
        ({"expires_at": "2020-01-01T00:00:00Z"}, {"/expires_at": "bad_value"}),
        ({"id": "mine"}, {"/id": "unknown_field"}),
    ],
)
async def test_faulty_key(world: World, fields: dict[str, Any], faults: dict[str, str]) -> None:
    """What a key cannot be is 422."""
    answered = await make(world, **fields)
    assert (answered.status, answered.faults) == (422, faults)


async def test_no_key_beyond_its_maker(world: World) -> None:
    """A key that is bound to networks makes keys within them, and none without."""
    await world.key_for("acme:admin", cidrs=["127.0.0.0/8"])
    assert (await make(world)).code == "forbidden"
    assert (await make(world, cidrs=["10.0.0.0/8"])).code == "forbidden"
    assert (await make(world, cidrs=["127.0.0.0/7"])).status in (403, 422)
    assert (await make(world, cidrs=["::1/128"])).code == "forbidden"
    assert (await make(world, cidrs=["127.1.0.0/16"])).status == 201


async def test_no_key_outlives_its_maker(world: World) -> None:
    """A key that ends makes keys that end by then, and none that do not end."""
    await world.key_for("acme:admin", expires_at=2_000_000_000_000)
    for fields in ({}, {"expires_at": "2033-05-18T03:33:20.001Z"}):
        refused = await make(world, **fields)
        assert (refused.code, refused.faults) == ("forbidden", {"/expires_at": "forbidden"})
    assert (await make(world, expires_at="2033-05-18T03:33:20Z")).status == 201


async def test_only_administrators_make_keys(world: World) -> None:
    """No other scope makes, lists or revokes keys."""
    for scope in ("send", "read", "profiles", "secrets"):
        assert (await make(world, key=f"acme:{scope}")).code == "forbidden"
        assert (await world.call("GET", "/v1/tenants/acme/keys", f"acme:{scope}")).code == "forbidden"


async def test_pages_of_keys(world: World) -> None:
    """Keys are listed in pages like everything else."""
    await world.key_for("acme:admin")
    made = {(await make(world)).json["id"] for _ in range(3)}
    first = (await world.call("GET", "/v1/tenants/acme/keys?limit=2", "acme:admin")).json
    second = (
        await world.call("GET", f"/v1/tenants/acme/keys?limit=2&cursor={first['next_cursor']}", "acme:admin")
    ).json
    assert made < {item["id"] for page in (first, second) for item in page["items"]}
    assert second["next_cursor"] is None
    for query, pointer in (("limit=0", "/limit"), ("cursor=%21", "/cursor")):
        answered = await world.call("GET", f"/v1/tenants/acme/keys?{query}", "acme:admin")
        assert list(answered.faults) == [pointer]


SCOPES = {
    "send": {"post": 202, "list": 200, "resolution": 403, "keys": 403},
    "read": {"post": 403, "list": 200, "resolution": 200, "keys": 403},
    "profiles": {"post": 403, "list": 403, "resolution": 403, "keys": 403},
    "secrets": {"post": 403, "list": 403, "resolution": 403, "keys": 403},
    "admin": {"post": 202, "list": 200, "resolution": 200, "keys": 200},
}


@pytest.mark.parametrize("scope", SCOPES)
async def test_scopes(world: World, scope: str) -> None:
    """Each scope opens what is its own, and admin everything."""
    key = f"acme:{scope}"
    assert {
        "post": (await world.post(key)).status,
        "list": (await world.call("GET", LIST, key)).status,
        "resolution": (await world.call("GET", "/v1/tenants/acme/resolution", key)).status,
        "keys": (await world.call("GET", "/v1/tenants/acme/keys", key)).status,
    } == SCOPES[scope]


# Resolution.


async def resolve(world: World, tenant: str, key: str, query: str = "") -> Any:
    answered = await world.call("GET", f"/v1/tenants/{tenant}/resolution{query}", key)
    assert answered.status == 200
    return answered.json


async def test_resolution(world: World) -> None:
    """Resolution tells the profile, its owner, how it was found and who is copied."""
    assert await resolve(world, "acme", "acme", "?severity=error") == {
        "profile": "own",
        "owner": "acme",
        "via": "default",
        "cc": ["ops@acme.example"],
        "bcc": ["audit@acme.example"],
        "chain": [{"tenant": "acme", "profile": "own", "verdict": "used"}],
    }


async def test_resolution_beyond_the_reach(world: World) -> None:
    """Of what lies outside the reach one learns how it was found, and no names."""
    told = await resolve(world, "globex", "globex")
    assert (told["profile"], told["owner"], told["via"]) == (None, None, "system")
    assert told["chain"] == [
        {"tenant": "globex", "profile": None, "verdict": "no_default"},
        {"tenant": None, "profile": None, "verdict": "used"},
    ]
    seen = await resolve(world, "globex", "system")
    assert (seen["profile"], seen["owner"]) == ("main", "system")


async def test_resolution_of_a_lent_profile(world: World) -> None:
    """A pushed profile is named to the child; one that does not exist has a verdict."""
    lent = await resolve(world, "acme-emea", "acme-emea", "?profile=lent")
    assert (lent["profile"], lent["via"]) == ("lent", "named")
    missing = await resolve(world, "acme-emea", "acme-emea", "?profile=secret")
    assert (missing["profile"], missing["via"], missing["chain"][-1]["verdict"]) == (None, None, "missing")


async def test_faulty_resolution_query(world: World) -> None:
    """Every bad parameter is told."""
    answered = await world.call("GET", "/v1/tenants/acme/resolution?severity=x&category=A&colour=red")
    assert answered.faults == {"/severity": "bad_value", "/category": "bad_value", "/colour": "unknown_field"}
