"""The quota of an organisation: what a tenant below `system` and all below it keep together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.http.world import Answered, World

ADMIN = "acme:admin"
CHILD = "acme-emea:admin"


def keep(world: World, more: int = 10_000, who: str = "acme") -> None:
    """Let organisations keep so many bytes more than this one does."""
    allowed = world.directory.snapshot.kept(who) + more
    world.directory.policy = replace(world.directory.policy, quota_bytes=allowed)


async def template(world: World, tenant: str, name: str, length: int, key: str = ADMIN) -> Answered:
    """Save a template of about this length."""
    body = {"subject": "s", "text": "x" * length}
    return await world.call("PUT", f"/v1/tenants/{tenant}/templates/{name}", key, json=body)


async def test_an_organisation_keeps_so_much(world: World) -> None:
    """A tenant's own and its children's together: what would be more is refused, and nothing of it is kept."""
    await world.key_for(ADMIN), await world.key_for(CHILD)
    keep(world)
    told = [
        await template(world, "acme", "one", 5_000),
        await template(world, "acme-emea", "two", 5_000, CHILD),
        await template(world, "acme", "two", 1_000),
    ]

    assert [(one.status, one.code) for one in told] == [(201, None), (409, "quota_exceeded"), (201, None)]
    assert set(world.directory.snapshot.templates) == {("acme", "one"), ("acme", "two")}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/tenants", {"id": "acme-apac", "name": "x" * 200}),
        ("POST", "/v1/tenants/acme/profiles", {"name": "p", "host": "p.example", "from": "a@b.example"}),
        ("POST", "/v1/tenants/acme/profiles/push", {"children": ["acme-emea"], "profiles": ["own"]}),
        ("PUT", "/v1/tenants/acme/preferences", {"cc": [f"{'x' * 60}{n}@acme.example" for n in range(50)]}),
        ("PUT", "/v1/tenants/acme/secrets/s", {"value": "pa55word"}),
        ("POST", "/v1/tenants/acme/keys", {"name": "k", "scopes": ["send"]}),
        ("POST", "/v1/tenants/acme/webhooks", {"url": "https://hooks.example/x", "events": ["notification.failed"]}),
        ("POST", "/v1/apply", {"templates": [{"tenant": "acme", "name": "t", "subject": "s", "text": "t"}]}),
    ],
    ids=lambda value: value.rpartition("/")[2] if isinstance(value, str) and "/" in value else "",
)
async def test_everything_counts(world: World, method: str, path: str, body: dict[str, Any]) -> None:
    """Whatever an administrator defines: without room for it, 409; of the operator's people it is taken."""
    await world.key_for(ADMIN)
    keep(world, 500)
    refused = await world.call(method, path, ADMIN, json=body)
    taken = await world.call(method, path, "system", json=body)

    assert refused.code == "quota_exceeded", refused.text
    assert taken.status in (200, 201), taken.text


async def test_deleting_makes_room(world: World) -> None:
    """As much as what was deleted had taken."""
    await world.key_for(ADMIN)
    keep(world)
    await template(world, "acme", "one", 8_000)
    full = await template(world, "acme", "two", 8_000)
    await world.call("DELETE", "/v1/tenants/acme/templates/one", ADMIN)
    room = await template(world, "acme", "two", 8_000)

    assert (full.code, room.status) == ("quota_exceeded", 201)


async def test_over_the_quota_things_get_smaller(world: World) -> None:
    """Who keeps more than is allowed by now may still change what gets no bigger, and send."""
    await template(world, "acme", "one", 8_000)
    keep(world, -5_000)
    smaller = await template(world, "acme", "one", 7_000)
    larger = await template(world, "acme", "one", 7_001)
    posted = await world.post()

    assert (smaller.status, larger.code, posted.status) == (200, "quota_exceeded", 202)


async def test_organisations_have_nothing_to_do_with_each_other(world: World) -> None:
    """One that is full leaves the next its whole quota."""
    for key in (ADMIN, "globex:admin"):
        await world.key_for(key)
    keep(world, 0)
    theirs = await template(world, "globex", "one", 3_000, "globex:admin")
    ours = await template(world, "acme", "one", 10)

    assert (theirs.status, ours.code) == (201, "quota_exceeded")
