"""Pushing profiles to children: each row of the rules, and that a child learns nothing but name and mark."""

import asyncio
from typing import Any

import pytest

from tests.http.world import World

ADMIN = "acme:admin"
CHILD = "acme-emea:admin"
PUSH = "/v1/tenants/acme/profiles/push"
LENT = "/v1/tenants/acme-emea/profiles/lent"
SEEN = {"name": "lent", "is_default": False, "inherited": True}


def push(*profiles: str, default: str | None = None, children: tuple[str, ...] = ("acme-emea",)) -> dict[str, Any]:
    """A body that pushes these profiles."""
    return {"children": list(children), "profiles": list(profiles), **({"default": default} if default else {})}


async def test_an_inherited_profile_is_name_and_mark(world: World) -> None:
    """In the list and alone, to the child and to everybody else who looks under the child."""
    for key in (CHILD, ADMIN, "system"):
        assert (await world.call("GET", LENT, key)).json == SEEN
        assert (await world.call("GET", "/v1/tenants/acme-emea/profiles", key)).json["items"] == [SEEN]


async def test_a_push_links_all_to_all(world: World) -> None:
    """With the default that it names; the answer tells each link."""
    await world.call("POST", "/v1/tenants", ADMIN, json={"id": "acme-apac"})
    pushed = await world.call("POST", PUSH, ADMIN, json=push("own", "locked", default="own", children=("acme-apac",)))
    listed = await world.call("GET", "/v1/tenants/acme-apac/profiles", ADMIN)

    assert pushed.json == {
        "links": [
            {"child": "acme-apac", "profile": "own", "is_default": True},
            {"child": "acme-apac", "profile": "locked", "is_default": False},
        ]
    }
    assert [(one["name"], one["is_default"]) for one in listed.json["items"]] == [("locked", False), ("own", True)]


async def test_a_child_fails_over_to_what_it_inherits_and_no_longer(world: World) -> None:
    """When the link goes, the child's own profile stays without it."""
    own = {"name": "mine", "host": "h.example", "from": "a@b.example", "failover": ["lent"]}
    made = await world.call("POST", "/v1/tenants/acme-emea/profiles", CHILD, json=own)
    gone = await world.call("DELETE", LENT, CHILD)
    left = await world.call("GET", "/v1/tenants/acme-emea/profiles/mine", CHILD)

    assert (made.json["failover"], gone.status, left.json["failover"]) == (["lent"], 204, [])


async def test_a_pushed_default_replaces_the_childs(world: World) -> None:
    """Its own one, or one that it had inherited."""
    own = {"name": "mine", "host": "h.example", "from": "a@b.example", "is_default": True}
    await world.call("POST", "/v1/tenants/acme-emea/profiles", CHILD, json=own)
    await world.call("POST", PUSH, ADMIN, json=push("own", default="own"))
    first = (await world.call("GET", "/v1/tenants/acme-emea/profiles", CHILD)).json["items"]
    await world.call("POST", PUSH, ADMIN, json=push("locked", default="locked"))
    second = (await world.call("GET", "/v1/tenants/acme-emea/profiles", CHILD)).json["items"]

    assert [[one["name"] for one in items if one["is_default"]] for items in (first, second)] == [["own"], ["locked"]]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (push("nobody"), "not_owned"),
        (push("main"), "not_owned"),
        (push("own", children=("acme",)), "not_a_child"),
        (push("own", children=("globex",)), "not_a_child"),
        (push("own", children=("nobody",)), "not_a_child"),
        (push("lent"), "already_inherited"),
        (push("own", default="locked"), "invalid_default"),
        (push(), "required"),
        (push("own", "own"), "repeated"),
    ],
)
async def test_refused_pushes(world: World, body: dict[str, Any], code: str) -> None:
    """Each with its code, and nothing is linked."""
    refused = await world.call("POST", PUSH, ADMIN, json=body)
    assert code in (refused.code, *refused.faults.values())
    assert (await world.call("GET", "/v1/tenants/acme-emea/profiles", CHILD)).json["items"] == [SEEN]


async def test_a_push_is_all_or_nothing(world: World) -> None:
    """One of three is taken: none is linked."""
    mine = {"name": "locked", "host": "h.example", "from": "a@b.example"}
    await world.call("POST", "/v1/tenants/acme-emea/profiles", CHILD, json=mine)
    refused = await world.call("POST", PUSH, ADMIN, json=push("own", "secret", "locked"))
    names = [one["name"] for one in (await world.call("GET", "/v1/tenants/acme-emea/profiles", CHILD)).json["items"]]

    assert (refused.code, names) == ("name_taken", ["lent", "locked"])


async def test_of_concurrent_pushes_one_wins(world: World) -> None:
    """A profile reaches a child once."""
    answers = await asyncio.gather(*(world.call("POST", PUSH, ADMIN, json=push("own")) for _ in range(10)))
    assert sorted(one.status for one in answers) == [200] + [409] * 9


async def test_concurrent_defaults_leave_one(world: World) -> None:
    """Whoever comes last has the mark, alone."""
    names = ("own", "locked", "secret")
    await world.call("POST", PUSH, ADMIN, json=push(*names))
    paths = [f"/v1/tenants/acme-emea/profiles/{name}" for name in ("lent", *names)]
    await asyncio.gather(*(world.call("PATCH", path, CHILD, json={"is_default": True}) for path in paths))
    items = (await world.call("GET", "/v1/tenants/acme-emea/profiles", CHILD)).json["items"]

    assert sum(one["is_default"] for one in items) == 1


async def test_an_inherited_profile_is_not_pushed_on(world: World) -> None:
    """It is the owner's to lend."""
    await world.call("POST", "/v1/tenants", CHILD, json={"id": "emea-paris"})
    path = "/v1/tenants/acme-emea/profiles/push"
    assert (await world.call("POST", path, CHILD, json=push("lent", children=("emea-paris",)))).code == "not_owned"


async def test_the_child_sets_and_clears_the_mark(world: World) -> None:
    """Merged or replaced; and its resolution follows."""
    marked = await world.call("PATCH", LENT, CHILD, json={"is_default": True})
    explained = await world.call("GET", "/v1/tenants/acme-emea/resolution", "acme-emea")
    cleared = await world.call("PUT", LENT, CHILD, json={"name": "lent", "inherited": True})

    assert (marked.json, cleared.json) == ({**SEEN, "is_default": True}, SEEN)
    assert (explained.json["profile"], explained.json["via"], explained.json["owner"]) == ("lent", "default", "acme")


@pytest.mark.parametrize("key", [CHILD, ADMIN])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", LENT, {"host": "evil.example"}),
        ("PATCH", LENT, {"enabled": False, "is_default": True}),
        ("PUT", LENT, {"name": "lent", "host": "x.example", "from": "a@b.example"}),
        ("PATCH", LENT, {"inherited": False}),
        ("POST", f"{LENT}/pause", None),
        ("POST", f"{LENT}/resume", None),
    ],
)
async def test_nothing_else_is_done_under_the_child(
    world: World, key: str, method: str, path: str, body: object
) -> None:
    """Also not by the owner, who has a path of their own."""
    options = {} if body is None else {"json": body}
    assert (await world.call(method, path, key, **options)).code == "not_owner"


async def test_a_lent_profile_is_not_deleted(world: World) -> None:
    """The answer names the children."""
    refused = await world.call("DELETE", "/v1/tenants/acme/profiles/lent", ADMIN)
    assert (refused.code, "acme-emea" in refused.json["detail"]) == ("profile_in_use", True)


async def test_the_child_gives_a_profile_back(world: World) -> None:
    """The link goes, the profile stays, and may go then."""
    unlinked = await world.call("DELETE", LENT, CHILD)
    stays = await world.call("GET", "/v1/tenants/acme/profiles/lent", ADMIN)
    deleted = await world.call("DELETE", "/v1/tenants/acme/profiles/lent", ADMIN)

    assert (unlinked.status, stays.status, deleted.status) == (204, 200, 204)


async def test_a_name_is_taken_by_what_is_inherited(world: World) -> None:
    """The child makes no profile of the same name."""
    mine = {"name": "lent", "host": "h.example", "from": "a@b.example"}
    assert (await world.call("POST", "/v1/tenants/acme-emea/profiles", CHILD, json=mine)).code == "name_taken"


async def test_links_never_count_as_duplicates(world: World) -> None:
    """The child may have its own account at the same relay."""
    mine = {"name": "mine", "host": "lent.acme.example", "from": "a@b.example"}
    assert (await world.call("POST", "/v1/tenants/acme-emea/profiles", CHILD, json=mine)).status == 201


async def test_the_child_learns_nothing_from_its_log(world: World) -> None:
    """A change of the owner is not in it; a push is, by name."""
    await world.call("PATCH", "/v1/tenants/acme/profiles/lent", ADMIN, json={"host": "hidden.example"})
    await world.call("POST", PUSH, ADMIN, json=push("own", default="own"))
    log = await world.call("GET", "/v1/tenants/acme-emea/audit", CHILD)

    assert [(row["action"], row["object"]) for row in log.json["items"]] == [("profile.inherit", "own")]
    assert "hidden" not in log.text
    assert "acme.example" not in log.text


async def test_the_queue_tells_what_waits(world: World) -> None:
    """By profile, with its state; a child's reader sees no name of what lies outside and is not linked."""
    await world.posted("acme", tenant="acme")
    await world.posted("acme", tenant="acme-emea")
    await world.call("POST", "/v1/tenants/acme/profiles/lent/pause", ADMIN)
    own = (await world.call("GET", "/v1/queue", "acme")).json["items"]
    child = (await world.call("GET", "/v1/queue", "acme-emea")).json["items"]

    assert [(line["profile"], line["ready"], line["state"]) for line in own] == [
        ("lent", 0, "paused"), ("own", 2, "active"),
    ]  # fmt: skip
    assert [(line["tenant"], line["profile"], line["ready"]) for line in child] == [(None, None, 1)]


async def test_a_strangers_profile_is_not_there(world: World) -> None:
    """404 for reading, changing, pushing and deleting under another tenant."""
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/pause")):
        options = {"json": {"is_default": True}} if method == "PATCH" else {}
        answered = await world.call(method, f"/v1/tenants/acme/profiles/own{path}", "globex:admin", **options)
        assert (method, answered.code) == (method, "not_found")
    assert (await world.call("POST", PUSH, "globex:admin", json=push("own"))).code == "not_found"
