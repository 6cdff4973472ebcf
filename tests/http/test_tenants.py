"""Tenants, preferences and templates over HTTP: the tree, who may change what, and versions."""

import asyncio

import pytest

from gateway.store.rows import Entry
from tests.http.world import World, notification, relayed

ADMIN = "acme:admin"
CHILD = "acme-emea:admin"


# Reading.


async def test_the_reach_is_listed_in_pages(world: World) -> None:
    """A key sees its tenant and all below it, by id, and nothing else."""
    first = await world.call("GET", "/v1/tenants?limit=1", "acme")
    second = await world.call("GET", f"/v1/tenants?cursor={first.json['next_cursor']}", "acme")
    ids = [item["id"] for answered in (first, second) for item in answered.json["items"]]

    assert (ids, second.json["next_cursor"]) == (["acme", "acme-emea"], None)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("parent=system", ["acme", "globex"]),
        ("parent=acme", ["acme-emea"]),
        ("parent=acme-emea", []),
        ("search=EMEA", ["acme-emea"]),
        ("search=cm", ["acme", "acme-emea"]),
        ("search=cm&parent=acme", ["acme-emea"]),
    ],
)
async def test_tenants_are_found_by_what_is_above_them_or_a_word(world: World, query: str, found: list[str]) -> None:
    """Those directly below one, and those whose id or name a word is a part of, in any case."""
    listed = await world.call("GET", f"/v1/tenants?{query}", "system")
    assert [item["id"] for item in listed.json["items"]] == found


async def test_a_word_finds_nothing_outside_the_reach(world: World) -> None:
    """Neither by a word that others have, nor by naming their parent."""
    assert (await world.call("GET", "/v1/tenants?search=globex", "acme")).json["items"] == []
    assert (await world.call("GET", "/v1/tenants?parent=system", "acme")).code == "not_found"
    assert (await world.call("GET", "/v1/tenants?parent=nobody", "acme")).code == "not_found"


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "cursor=AAAA", "cursor=%ff", "colour=red", "parent=No%20Id", "search="],
)
async def test_a_bad_page_is_refused(world: World, query: str) -> None:
    """Limits, cursors and unknown parameters: 422."""
    assert (await world.call("GET", f"/v1/tenants?{query}", "acme")).status == 422


async def test_a_tenant_outside_the_reach_is_not_there(world: World) -> None:
    """Strangers, parents and nobody look alike."""
    for tenant in ("globex", "system", "nobody"):
        assert (await world.call("GET", f"/v1/tenants/{tenant}", ADMIN)).code == "not_found"


async def test_the_parent_is_not_told_to_those_below_it(world: World) -> None:
    """Its name is outside their reach."""
    assert (await world.call("GET", "/v1/tenants/acme", ADMIN)).json["parent"] is None
    assert (await world.call("GET", "/v1/tenants/acme-emea", ADMIN)).json["parent"] == "acme"


# Making.


async def test_a_tenant_is_made_below_its_maker(world: World) -> None:
    """201 with the place; the parent is the maker's tenant unless told otherwise."""
    made = await world.call("POST", "/v1/tenants", ADMIN, json={"id": "acme-apac", "name": "APAC"})

    assert (made.status, made.headers["Location"]) == (201, "/v1/tenants/acme-apac")
    assert (made.json["parent"], made.json["enabled"], made.json["fallback"]) == ("acme", True, "inherit")
    assert (await world.call("GET", "/v1/tenants/acme-apac", ADMIN)).json == made.json


@pytest.mark.parametrize("parent", ["globex", "system", "nobody"])
async def test_a_parent_outside_the_reach_is_not_there(world: World, parent: str) -> None:
    """Whether it exists is nobody's business."""
    made = await world.call("POST", "/v1/tenants", ADMIN, json={"id": "new", "parent": parent})
    assert (made.status, made.code) == (404, "not_found")


async def test_all_faults_of_a_tenant_are_told(world: World) -> None:
    """Each field with its pointer."""
    body = {"id": "Not Good", "fallback": "maybe", "limits": {"queued": 0, "x": 1}, "nme": "A", "enabled": "yes"}
    made = await world.call("POST", "/v1/tenants", ADMIN, json=body)

    assert made.code == "invalid"
    assert set(made.faults) == {"/id", "/fallback", "/limits/queued", "/limits/x", "/nme", "/enabled"}


async def test_an_id_is_taken_once(world: World) -> None:
    """Also by somebody out of sight: ids are one for the whole installation."""
    for id_ in ("acme-emea", "globex"):
        assert (await world.call("POST", "/v1/tenants", ADMIN, json={"id": id_})).code == "name_taken"


async def test_the_tree_is_eight_levels_deep(world: World) -> None:
    """The ninth is refused, made or moved."""
    parent = "acme-emea"
    for level in range(4, 9):
        made = await world.call("POST", "/v1/tenants", ADMIN, json={"id": f"t{level}", "parent": parent})
        assert made.status == 201
        parent = f"t{level}"
    ninth = await world.call("POST", "/v1/tenants", ADMIN, json={"id": "t9", "parent": parent})
    moved = await world.call("PATCH", "/v1/tenants/acme-emea", "system", json={"parent": "globex"})
    below = await world.call("POST", "/v1/tenants", "system", json={"id": "low", "parent": "globex"})
    too_low = await world.call("PATCH", "/v1/tenants/acme-emea", "system", json={"parent": "low"})

    assert [one.faults for one in (ninth, too_low)] == [{"/parent": "too_deep"}] * 2
    assert (moved.status, below.status) == (200, 201)


# Changing.


@pytest.mark.parametrize(
    "change", [{"enabled": False}, {"own_profiles": False}, {"limits": {"queued": 5}}, {"parent": "globex"}]
)
async def test_what_the_parent_sets_is_locked(world: World, change: dict[str, object]) -> None:
    """The tenant's own administrator is told so; one above may."""
    assert (await world.call("PATCH", "/v1/tenants/acme-emea", CHILD, json=change)).code == "locked_by_parent"
    if "parent" not in change:
        assert (await world.call("PATCH", "/v1/tenants/acme-emea", ADMIN, json=change)).status == 200


async def test_a_tenant_sets_its_own_affairs(world: World) -> None:
    """Name, fallback, and whether others may use its default."""
    change = {"name": "EMEA", "fallback": "none", "share_default": False}
    changed = await world.call("PATCH", "/v1/tenants/acme-emea", CHILD, json=change)

    assert change.items() <= changed.json.items()


async def test_a_tenant_may_be_put_back_as_it_was_read(world: World) -> None:
    """By its own administrator, and by one above; the tree stays."""
    for key in (CHILD, ADMIN):
        read = (await world.call("GET", "/v1/tenants/acme-emea", key)).json
        assert (await world.call("PUT", "/v1/tenants/acme-emea", key, json=read)).json == read
    assert world.directory.snapshot.tenants["acme-emea"].parent == "acme"


async def test_what_is_so_may_be_said_and_nothing_else(world: World) -> None:
    """A read-only member with another value is a fault."""
    changed = await world.call("PATCH", "/v1/tenants/acme-emea", CHILD, json={"id": "other", "provisioned": True})
    assert changed.faults == {"/id": "read_only", "/provisioned": "read_only"}


async def test_a_move_needs_both_parents_and_drops_links(world: World) -> None:
    """The new parent must be in reach; what the old one pushed goes with the move."""
    assert (await world.call("PATCH", "/v1/tenants/acme-emea", ADMIN, json={"parent": "globex"})).code == "not_found"
    moved = await world.call("PATCH", "/v1/tenants/acme-emea", "system", json={"parent": "globex"})
    listed = await world.call("GET", "/v1/tenants/acme-emea/profiles", "system")

    assert (moved.json["parent"], listed.json["items"]) == ("globex", [])


async def test_no_tenant_becomes_its_own_ancestor(world: World) -> None:
    """A cycle is a fault of the parent."""
    moved = await world.call("PATCH", "/v1/tenants/acme", "system", json={"parent": "acme-emea"})
    assert moved.faults == {"/parent": "cycle"}


async def test_versions_are_honoured(world: World) -> None:
    """A change of another version is 412 and changes nothing; of this one it goes through."""
    path = "/v1/tenants/acme-emea"
    tag = (await world.call("GET", path, ADMIN)).headers["ETag"]
    changed = await world.call("PATCH", path, ADMIN, json={"name": "A"}, headers={"If-Match": tag})
    stale = await world.call("PATCH", path, ADMIN, json={"name": "B"}, headers={"If-Match": tag})
    any_ = await world.call("PATCH", path, ADMIN, json={"name": "C"}, headers={"If-Match": "*"})

    assert (changed.status, stale.code, any_.status) == (200, "precondition_failed", 200)
    assert changed.headers["ETag"] != tag


async def test_of_concurrent_changes_of_one_version_one_wins(world: World) -> None:
    """The others are told that it has changed."""
    path = "/v1/tenants/acme-emea"
    tag = (await world.call("GET", path, ADMIN)).headers["ETag"]
    answers = await asyncio.gather(
        *(world.call("PATCH", path, ADMIN, json={"name": f"N{n}"}, headers={"If-Match": tag}) for n in range(8))
    )
    assert sorted(one.status for one in answers) == [200] + [412] * 7


# Deleting.


async def test_a_tenant_in_use_stays(world: World) -> None:
    """Children, links, unfinished mail: each keeps it."""
    await world.call("POST", "/v1/tenants", ADMIN, json={"id": "busy"})
    assert (await world.post(ADMIN, tenant="busy")).status == 202
    for tenant in ("acme", "acme-emea", "busy", "system"):
        answered = await world.call("DELETE", f"/v1/tenants/{tenant}", "system")
        assert (tenant, answered.code) == (tenant, "tenant_in_use")


async def test_a_tenant_goes_with_all_that_is_its_own(world: World) -> None:
    """Profiles, preferences, templates and keys; a key of it is refused from then on."""
    await world.call("DELETE", "/v1/tenants/acme-emea/profiles/lent", ADMIN)
    own = {"name": "own", "host": "relay.example", "from": "a@emea.example"}
    await world.call("POST", "/v1/tenants/acme-emea/profiles", ADMIN, json=own)
    await world.call("PUT", "/v1/tenants/acme-emea/preferences", ADMIN, json={"cc": ["a@emea.example"]})
    await world.call("PUT", "/v1/tenants/acme-emea/templates/t", ADMIN, json={"subject": "x", "text": "y"})
    key = await world.key_for(CHILD)
    gone = await world.call("DELETE", "/v1/tenants/acme-emea", ADMIN)
    refused = await world.call("GET", "/v1/tenants", None, headers={"Authorization": f"Bearer {key}"})
    again = await world.call("POST", "/v1/tenants", ADMIN, json={"id": "acme-emea"})
    profiles = await world.call("GET", "/v1/tenants/acme-emea/profiles", ADMIN)

    assert (gone.status, refused.status, again.status) == (204, 401, 201)
    assert profiles.json["items"] == []


async def test_nobody_deletes_themselves(world: World) -> None:
    """It takes an administrator above."""
    await world.call("DELETE", "/v1/tenants/acme-emea/profiles/lent", ADMIN)
    assert (await world.call("DELETE", "/v1/tenants/acme-emea", CHILD)).code == "locked_by_parent"


# Preferences.


async def test_preferences_are_none_until_they_are_set(world: World) -> None:
    """Empty lists, which may be put back."""
    empty = {"cc": [], "bcc": [], "rules": []}
    read = await world.call("GET", "/v1/tenants/acme-emea/preferences", "acme-emea")
    put = await world.call("PUT", "/v1/tenants/acme-emea/preferences", CHILD, json=read.json)
    assert (read.json, put.json) == (empty, empty)


async def test_preferences_decide_about_copies(world: World) -> None:
    """All matching rules add up; the answer of the resolution says who gets a copy."""
    wanted = {
        "cc": ["Ops@EMEA.example"],
        "bcc": ["sec@emea.example"],
        "rules": [
            {"category": "billing.*", "min_severity": "warning", "cc": True},
            {"category": "billing", "bcc": True},
        ],
    }
    put = await world.call("PUT", "/v1/tenants/acme-emea/preferences", "acme-emea:profiles", json=wanted)
    explained = await world.call("GET", "/v1/tenants/acme-emea/resolution?category=billing&severity=error", "acme-emea")
    quiet = await world.call("GET", "/v1/tenants/acme-emea/resolution?category=billing.due", "acme-emea")

    assert put.json["rules"][0] == {"category": "billing.*", "min_severity": "warning", "cc": True, "bcc": False}
    assert (explained.json["cc"], explained.json["bcc"]) == (["Ops@emea.example"], ["sec@emea.example"])
    assert (quiet.json["cc"], quiet.json["bcc"]) == ([], [])


async def test_copies_have_addresses_in_either_form(world: World) -> None:
    """With a name or without, as everywhere; the address is kept."""
    path = "/v1/tenants/acme/preferences"
    given = [{"name": "Ops", "address": "Ops@ACME.example"}, "b@acme.example"]
    put = await world.call("PUT", path, ADMIN, json={"cc": given, "bcc": [{"address": "c@acme.example"}]})
    faulty = [{"name": "a\r\nb", "address": "a@b.example"}, {"name": "a"}]
    wrong = await world.call("PUT", path, ADMIN, json={"cc": faulty})

    assert (put.json["cc"], put.json["bcc"]) == (["Ops@acme.example", "b@acme.example"], ["c@acme.example"])
    assert wrong.faults == {"/cc/0": "control_character", "/cc/1": "bad_address"}
    assert (await world.call("GET", path, ADMIN)).json == put.json


async def test_all_faults_of_preferences_are_told(world: World) -> None:
    """Addresses, patterns, severities, unknown fields."""
    wrong = {"cc": ["no"], "bcc": "x", "rules": [{"category": "A B", "min_severity": "bad", "cc": 1}], "to": []}
    put = await world.call("PUT", "/v1/tenants/acme/preferences", ADMIN, json=wrong)

    assert set(put.faults) == {"/cc/0", "/bcc", "/rules/0/category", "/rules/0/min_severity", "/rules/0/cc", "/to"}
    assert put.faults["/cc/0"] == "bad_address"


# Templates.


async def test_a_template_is_made_replaced_listed_and_deleted(world: World) -> None:
    """201 when it is new, 200 when it is not, 404 when it is gone."""
    path = "/v1/tenants/acme/templates/welcome"
    template = {"subject": "Hi {{ name }}", "text": "Hello"}
    made = await world.call("PUT", path, ADMIN, json=template)
    replaced = await world.call("PUT", path, ADMIN, json={**made.json, "html": "<p>{{ name }}</p>"})
    listed = await world.call("GET", "/v1/tenants/acme/templates", "acme")
    deleted = await world.call("DELETE", path, ADMIN)

    assert (made.status, replaced.status, deleted.status) == (201, 200, 204)
    assert listed.json["items"] == [replaced.json]
    assert (await world.call("GET", path, "acme")).code == "not_found"


async def test_a_preview_shows_what_would_be_sent(world: World) -> None:
    """Text as it is, HTML escaped; what is missing is told."""
    path = "/v1/tenants/acme/templates/welcome"
    template = {"subject": "Hi {{ name }}", "text": "Hello {{ name }}", "html": "<p>{{ name }}</p>"}
    await world.call("PUT", path, ADMIN, json=template)
    shown = await world.call("POST", f"{path}/render", "acme", json={"data": {"name": "A<b>"}})
    missing = await world.call("POST", f"{path}/render", "acme", json={"data": {}})

    assert shown.json == {"subject": "Hi A<b>", "text": "Hello A<b>", "html": "<p>A&lt;b&gt;</p>"}
    assert missing.faults == {"/data": "template_failed"}


async def test_a_template_that_cannot_be_is_refused(world: World) -> None:
    """Syntax by part; neither text nor html."""
    put = await world.call("PUT", "/v1/tenants/acme/templates/x", ADMIN, json={"subject": "{{ a", "html": "{% for %}"})
    bare = await world.call("PUT", "/v1/tenants/acme/templates/x", ADMIN, json={"subject": "a"})

    assert put.faults == {"/subject": "bad_template", "/html": "bad_template"}
    assert bare.faults == {"/text": "required"}


async def test_a_notification_by_template(world: World) -> None:
    """Accepted if the template can be filled; otherwise the caller is told what is missing."""
    await world.call("PUT", "/v1/tenants/acme/templates/w", ADMIN, json={"subject": "{{ n }}", "text": "t"})
    body = notification(template="w", subject=None, text=None)
    good = await world.call("POST", "/v1/notifications", "acme", json={**body, "data": {"n": 1}})
    bad = await world.call("POST", "/v1/notifications", "acme", json={**body, "data": {"m": 1}})
    unknown = await world.call("POST", "/v1/notifications", "acme", json={**body, "template": "v"})

    assert good.status == 202
    assert (bad.faults, unknown.faults) == ({"/data": "template_failed"}, {"/template": "unknown_template"})


# Audit.


async def test_every_change_is_in_the_audit_log(world: World) -> None:
    """Who, what, which fields; values only of harmless ones; newest first; and the chain holds."""
    key = (await world.key_for(ADMIN)).split("_")[1]
    await world.call("PATCH", "/v1/tenants/acme-emea", ADMIN, json={"name": "secret name", "enabled": False})
    await world.call("PUT", "/v1/tenants/acme-emea/preferences", ADMIN, json={"cc": ["private@acme.example"]})
    log = await world.call("GET", "/v1/tenants/acme-emea/audit", ADMIN)
    verdict = await world.call("GET", "/v1/tenants/acme-emea/audit/verify", ADMIN)

    assert [(row["action"], row["actor"]) for row in log.json["items"]] == [
        ("preferences.create", f"key:{key}"), ("tenant.update", f"key:{key}"),
    ]  # fmt: skip
    assert log.json["items"][1]["changes"] == [
        {"field": "enabled", "before": True, "after": False}, {"field": "name"},
    ]  # fmt: skip
    assert "private" not in log.text
    assert "secret name" not in log.text
    assert verdict.json == {"ok": True, "rows": 2, "broken_at": None}


async def test_an_ancestor_in_the_log_is_not_named(world: World) -> None:
    """A child's administrator sees that somebody above did it, and no key of theirs."""
    await world.call("PATCH", "/v1/tenants/acme-emea", ADMIN, json={"enabled": True, "name": "x"})
    log = await world.call("GET", "/v1/tenants/acme-emea/audit", CHILD)
    assert [row["actor"] for row in log.json["items"]] == ["ancestor"]


async def test_what_changes_nothing_leaves_no_trace(world: World) -> None:
    """The same again: 200, no audit row, the same version of the directory."""
    revision = world.directory.snapshot.revision
    await world.key_for(ADMIN)
    before = world.directory.snapshot.revision
    again = await world.call("PATCH", "/v1/tenants/acme-emea", ADMIN, json={"enabled": True})

    assert (again.status, world.directory.snapshot.revision) == (200, before)
    assert before == revision + 1


async def test_mail_of_a_finished_tenant_keeps_nobody(world: World) -> None:
    """Once its mail is finished a tenant may go."""
    await world.call("POST", "/v1/tenants", ADMIN, json={"id": "brief"})
    assert (await world.post(ADMIN, tenant="brief")).status == 202
    await world.settle("brief", relayed())
    assert (await world.call("DELETE", "/v1/tenants/brief", ADMIN)).status == 204


async def test_a_new_tenant_begins_with_nothing(world: World) -> None:
    """What a former tenant of the name left behind, since the code that deleted it did not know of it, goes."""
    await world.call("POST", "/v1/tenants", "system", json={"id": "globex"})
    hook = {"url": "https://hook.example/", "events": ["notification.failed"]}
    made = await world.call("POST", "/v1/tenants/globex/webhooks", "system", json=hook)
    assert made.status == 201, made.text
    await world.store.change_directory(
        world.directory.snapshot.revision, [], [Entry("tenant", "globex", "", "", "api")]
    )
    await world.directory.load()
    assert "globex" not in world.directory.snapshot.tenants
    assert world.directory.snapshot.webhooks_of("globex")

    await world.call("POST", "/v1/tenants", "system", json={"id": "globex"})
    assert (await world.call("GET", "/v1/tenants/globex/webhooks", "system")).json["items"] == []
