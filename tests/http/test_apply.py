"""Declarative files over HTTP: what they make, what they refuse, and that they are whole or not at all."""

from typing import Any

import pytest

from tests.http.world import World

ADMIN = "acme:admin"
PROFILE = {"tenant": "acme-new", "name": "main", "host": "relay.example", "from": "a@acme.example", "is_default": True}
TABLES: dict[str, Any] = {
    "links": [{"tenant": "acme-new", "profile": "main", "child": "new-child", "is_default": True}],
    "profiles": [
        {**PROFILE, "auth": {"username": "u", "credential": {"source": "plaintext", "value": "pa55word"}}},
    ],
    "tenants": [{"id": "new-child", "parent": "acme-new"}, {"id": "acme-new", "parent": "acme"}],
    "preferences": [{"tenant": "new-child", "cc": ["a@b.example"], "rules": [{"cc": True}]}],
    "templates": [{"tenant": "acme-new", "name": "t", "subject": "{{ a }}", "text": "x"}],
}  # fmt: skip


async def apply(world: World, tables: object, query: str = "", key: str = ADMIN) -> Any:
    """Apply tables."""
    return await world.call("POST", f"/v1/apply{query}", key, json=tables)


async def test_tables_in_any_order_make_everything(world: World) -> None:
    """Tenants, profile, link, preferences, template; told one by one; no secret among it."""
    applied = await apply(world, TABLES)
    snapshot = world.directory.snapshot

    assert (applied.status, applied.json["dry_run"], len(applied.json["changes"])) == (200, False, 6)
    assert {change["action"] for change in applied.json["changes"]} == {"create"}
    assert snapshot.route("new-child", None).profile == snapshot.profiles["acme-new", "main"]
    assert "pa55word" not in applied.text


async def test_the_same_again_changes_nothing(world: World) -> None:
    """Not even the seal of the password."""
    await apply(world, TABLES)
    revision = world.directory.snapshot.revision
    again = await apply(world, TABLES)

    assert (again.json["changes"], world.directory.snapshot.revision) == ([], revision)


async def test_a_dry_run_only_tells(world: World) -> None:
    """The same answer as the real one gives, and nothing done."""
    dry = await apply(world, TABLES, "?dry_run=true")
    untouched = "acme-new" not in world.directory.snapshot.tenants
    real = await apply(world, TABLES)

    assert (dry.json["changes"], dry.json["dry_run"], untouched) == (real.json["changes"], True, True)


async def test_a_change_is_told_by_field(world: World) -> None:
    """Harmless values before and after, of the others the name."""
    await apply(world, TABLES)
    profile = {**TABLES["profiles"][0], "port": 25, "from": "b@acme.example"}
    applied = await apply(world, {"profiles": [profile]})

    assert applied.json["changes"] == [
        {
            "action": "update", "kind": "profile", "tenant": "acme-new", "name": "main",
            "fields": [
                {"field": "auth.credential"}, {"field": "from"}, {"field": "port", "before": 587, "after": 25},
            ],
        }
    ] or applied.json["changes"][0]["fields"] == [
        {"field": "from"}, {"field": "port", "before": 587, "after": 25},
    ]  # fmt: skip


async def test_all_faults_are_told_with_their_places(world: World) -> None:
    """Tables, rows, fields; nothing is done."""
    wrong = {
        "tenants": [{"id": "No Good"}, 5],
        "profiles": [{**PROFILE, "tenant": "acme", "port": 0, "x": 1}, {"name": "n"}],
        "keys": [],
        "nonsense": [],
        "links": {},
    }
    refused = await apply(world, wrong)

    assert set(refused.faults) == {
        "/tenants/0/id", "/tenants/1", "/profiles/0/port", "/profiles/0/x", "/profiles/1/tenant", "/keys", "/nonsense",
        "/links",
    }  # fmt: skip
    assert "acme-new" not in world.directory.snapshot.tenants


@pytest.mark.parametrize(
    ("tables", "code"),
    [
        ({"tenants": [{"id": "globex", "parent": "acme"}]}, "not_found"),
        ({"tenants": [{"id": "new", "parent": "globex"}]}, "not_found"),
        ({"preferences": [{"tenant": "globex", "cc": ["a@b.example"]}]}, "not_found"),
        ({"tenants": [{"id": "acme", "parent": "system", "enabled": False}]}, "locked_by_parent"),
        ({"links": [{"tenant": "acme", "profile": "nobody", "child": "acme-emea"}]}, "not_owned"),
        ({"links": [{"tenant": "acme", "profile": "own", "child": "globex"}]}, "not_found"),
        ({"profiles": [{**PROFILE, "tenant": "acme", "host": "own.acme.example"}]}, "duplicate_profile"),
    ],
)
async def test_the_apis_own_rules_hold(world: World, tables: object, code: str) -> None:
    """Files can do no more than calls."""
    before = world.directory.snapshot
    refused = await apply(world, tables)

    assert refused.code == code
    assert world.directory.snapshot is before or world.directory.snapshot.tenants == before.tenants


async def test_a_default_of_the_files_takes_the_mark(world: World) -> None:
    """From one that the files do not speak of."""
    await apply(world, {"profiles": [{**PROFILE, "tenant": "acme"}]})
    marked = [one.name for one in world.directory.snapshot.own_profiles("acme") if one.is_default]
    assert marked == ["main"]


async def test_pruning_takes_what_the_same_set_made(world: World) -> None:
    """And nothing else: not what calls made, not what another set made."""
    other = {"tenants": [{"id": "acme-other", "parent": "acme"}]}
    await apply(world, other, "?set=b")
    await apply(world, TABLES, "?set=a")
    await world.call("PATCH", "/v1/tenants/acme-new", ADMIN, json={"name": "changed"})
    pruned = await apply(world, {"tenants": [TABLES["tenants"][1]]}, "?set=a&prune=true")
    left = set(world.directory.snapshot.tenants)

    assert pruned.status == 200
    assert {"acme-new", "acme-other", "acme-emea"} <= left
    assert "new-child" not in left
    assert world.directory.snapshot.own_profiles("acme-new") == []


async def test_what_is_pruned_is_gone_though_another_takes_its_mark(world: World) -> None:
    """A profile, and one that was lent, each of them the default until then."""
    lent = {"links": [{"tenant": "acme", "profile": "secret", "child": "acme-emea", "is_default": True}]}
    mine = {"profiles": [{**PROFILE, "tenant": "acme"}]}
    own = {**PROFILE, "tenant": "acme-emea", "name": "new", "host": "new.example"}
    await apply(world, {**lent, **mine}, "?set=a")
    applied = await apply(world, {"profiles": [{**own, "tenant": "acme"}, own]}, "?set=a&prune=true")
    again = await apply(world, {"profiles": [{**own, "tenant": "acme"}, own]}, "?set=a&prune=true")
    snapshot = world.directory.snapshot

    assert sorted((one["action"], one["kind"]) for one in applied.json["changes"] if one["action"] != "update") == [
        ("create", "profile"), ("create", "profile"), ("delete", "link"), ("delete", "profile"),
    ]  # fmt: skip
    assert again.json["changes"] == []
    assert (("acme", "main") in snapshot.profiles, snapshot.inherited("acme-emea", "secret")) == (False, None)


async def test_a_tenant_that_moves_may_bring_a_default(world: World) -> None:
    """What its old parent had lent it stays behind, its default among that."""
    await apply(world, {"links": [{"tenant": "acme", "profile": "secret", "child": "acme-emea", "is_default": True}]})
    moved = {
        "tenants": [{"id": "acme-emea", "parent": "globex"}],
        "profiles": [{**PROFILE, "tenant": "acme-emea"}],
    }
    applied = await apply(world, moved, key="system")
    snapshot = world.directory.snapshot
    assert (applied.status, snapshot.tenants["acme-emea"].parent, snapshot.links_to("acme-emea")) == (200, "globex", [])


async def test_ones_own_tenant_keeps_what_others_set(world: World) -> None:
    """Whoever may not say their own limits need not say them; what they may say is as the files have it."""
    limits = {"limits": {"per_minute": 60}, "name": "Acme"}
    await world.call("PATCH", "/v1/tenants/acme", "system", json=limits)
    applied = await apply(world, {"tenants": [{"id": "acme"}]})
    kept = world.directory.snapshot.tenants["acme"]

    assert (applied.status, kept.limits.per_minute, kept.name) == (200, 60, "")


async def test_files_without_a_name_are_a_set_too(world: World) -> None:
    """Pruning takes what they made before; what a named set or a call made stays."""
    made = [{"id": f"acme-{name}", "parent": "acme"} for name in ("a", "b", "c")]
    await apply(world, {"tenants": made[:1]}, "?set=a")
    await apply(world, {"tenants": made[1:]})
    await world.call("POST", "/v1/tenants", ADMIN, json={"id": "acme-d"})
    pruned = await apply(world, {"tenants": made[1:2]}, "?prune=true")

    assert [(one["action"], one["tenant"]) for one in pruned.json["changes"]] == [("delete", "acme-c")]


async def test_only_administrators_apply(world: World) -> None:
    """Scope `admin`."""
    assert (await apply(world, TABLES, key="acme:profiles,secrets,send,read")).code == "forbidden"


async def test_what_breaks_a_rule_is_found_in_its_row(world: World) -> None:
    """Relations between objects, and what is not in reach, point at their rows too."""
    tables = {
        "profiles": [{**PROFILE, "tenant": "acme", "failover": ["nobody"]}],
        "templates": [{"tenant": "acme", "name": "t", "subject": "{{", "text": "x"}],
    }
    refused = await apply(world, tables)
    stranger = await apply(world, {"preferences": [{"tenant": "globex"}, {"tenant": "nobody", "cc": ["a@b.example"]}]})

    assert refused.faults == {"/profiles/0/failover/0": "unknown_profile", "/templates/0/subject": "bad_template"}
    assert (stranger.code, set(stranger.faults)) == ("not_found", {"/preferences/0", "/preferences/1"})


async def test_so_many_templates_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at templates takes long, so they have a measure of their own: as many characters together, and no more."""
    monkeypatch.setattr("gateway.http.apply.MOST_TEMPLATE", 100)
    template = {"tenant": "acme", "name": "t", "subject": "s", "text": "x" * 94}  # with its name and tenant: 100
    taken = await apply(world, {"templates": [template]}, "?dry_run=true")
    refused = await apply(world, {"templates": [{**template, "text": "x" * 95}]}, "?dry_run=true")

    assert (taken.status, refused.status, refused.faults) == (200, 422, {"/templates": "too_many"})
