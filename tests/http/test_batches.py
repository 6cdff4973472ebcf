"""Batches and limits: what is rendered, what is counted, and what a repeat is answered."""

import asyncio
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.directory.shapes import Template, Tenant
from gateway.http import notifications
from gateway.http.call import SOCKET_CALLER, Call
from gateway.message.template.allowance import Allowance
from gateway.store.rows import Entry
from tests.http.world import Answered, World, notification, profile, running


async def batch(world: World, *items: Any, key: str = "acme") -> list[Any]:
    """Post a batch, and give its results."""
    answered = await world.call("POST", "/v1/notifications/batch", key, json={"notifications": items})
    results: list[Any] = answered.json["results"]
    return results


def said(results: list[Any]) -> list[tuple[int, str | None]]:
    """Give each result's status and problem."""
    return [(one["status"], one["problem"]["code"] if "problem" in one else None) for one in results]


async def limit(world: World, **limits: int) -> None:
    await world.put(Tenant.model_validate({"id": "acme", "limits": limits}))


async def template(world: World, text: str = "{{ name }}") -> None:
    """Give acme a template."""
    await world.put(Template(tenant="acme", name="t", subject="s", text=text))


def filled(**more: Any) -> Any:
    """A notification by the template, whose `name` is in `data`."""
    return notification(subject=None, text=None, template="t", **more)


def call(world: World, body: bytes) -> Call:
    """A request to the batch, without a wire."""
    request = make_mocked_request("POST", "/v1/notifications/batch")
    snapshot = world.directory.snapshot
    return Call(request, world.services, snapshot, SOCKET_CALLER, {}, "r", "POST", request.headers, body=body)


# What is rendered.


async def test_what_is_over_the_rate_is_not_rendered(world: World) -> None:
    """Only as many templates are filled as notifications may come; one that fails counts."""
    await template(world)
    await limit(world, per_minute=2)
    results = await batch(world, *[filled(data={})] * 4)
    assert said(results) == [(422, "invalid")] * 2 + [(429, "rate_limited")] * 2
    assert results[0]["problem"]["errors"][0]["code"] == "template_failed"


async def test_a_single_post_over_the_rate_is_not_rendered(world: World) -> None:
    """The rate is asked before the template is filled."""
    await template(world)
    await limit(world, per_minute=1)
    answers = [await world.post(subject=None, text=None, template="t", data={}) for _ in range(2)]
    assert [(answer.status, answer.code) for answer in answers] == [(422, "invalid"), (429, "rate_limited")]


async def test_faults_are_told_over_the_rate(world: World) -> None:
    """What is wrong with an item itself is told whatever the limits say, and takes nothing of the rate."""
    await template(world)
    await limit(world, per_minute=1)
    faulty = filled(data={}, to=["nobody"])
    unknown = notification(subject=None, text=None, template="u")
    results = await batch(world, faulty, unknown, notification(), faulty, unknown, notification())
    assert [status for status, _ in said(results)] == [422, 422, 202, 422, 422, 429]
    assert [fault["code"] for fault in results[3]["problem"]["errors"]] == ["bad_address"]


async def test_templates_that_take_too_long_are_not_rendered_for_a_while(tmp_path: Path) -> None:
    """Neither for the tenant nor for others of its organisation, nor to look at; what needs none goes on."""
    slow = Allowance(used=count(step=60.0).__next__)  # each takes a minute
    async with running(tmp_path) as world:
        world.directory.allowance = slow
        for tenant in ("acme", "acme-emea", "globex"):
            await world.put(Template(tenant=tenant, name="t", subject="s", text="{{ name }}"))
        item = filled(data={"name": "Ann"})
        results = await batch(world, item, item, notification())
        below = await batch(world, item, key="acme-emea")
        preview = await world.call(
            "POST", "/v1/tenants/acme/templates/t/render", "acme:profiles", json={"data": {"name": "Ann"}}
        )
        beside = await batch(world, item, key="globex")

    assert said(results) == [(202, None), (429, "rate_limited"), (202, None)]
    assert (said(below), said(beside)) == ([(429, "rate_limited")], [(202, None)])
    assert (preview.code, int(preview.headers["Retry-After"]) > 60) == ("rate_limited", True)


async def test_templates_are_not_saved_either_for_a_while(world: World) -> None:
    """To look at one takes its time, too; what has none is saved, and the operator's people save whatever they like."""
    world.directory.allowance.charge("acme", 60.0)
    path, body = "/v1/tenants/acme-emea/templates/t", {"subject": "s", "text": "t"}
    refused = await world.call("PUT", path, "acme:admin", json=body)
    applied = await world.call(
        "POST", "/v1/apply", "acme:admin", json={"templates": [{"tenant": "acme", "name": "t", **body}]}
    )
    beside = await world.call("PUT", "/v1/tenants/acme/preferences", "acme:admin", json={})
    taken = await world.call("PUT", path, "system", json=body)

    assert [one.status for one in (refused, applied, beside, taken)] == [429, 429, 200, 201]
    assert int(refused.headers["Retry-After"]) > 60


async def test_what_a_template_takes_when_it_is_saved_is_counted(world: World) -> None:
    """However it ends."""
    slow = "{{ a }}" * 6_000  # tens of milliseconds
    for text in (slow, slow + "{{"):
        await world.call("PUT", "/v1/tenants/acme/templates/t", "acme:admin", json={"subject": "s", "text": text})
        counted = world.directory.allowance.owed("acme")
        assert counted > 0
        world.directory.allowance = Allowance()


# What is counted.


async def test_an_item_that_cannot_be_filled_takes_no_room(world: World) -> None:
    """The room in the queue is for those that are accepted."""
    await template(world)
    await limit(world, queued=1)
    assert said(await batch(world, filled(data={}), notification(), notification())) == [
        (422, "invalid"),
        (202, None),
        (429, "queue_full"),
    ]
    assert world.services.admission.entering("acme") == 0


async def test_a_batch_that_is_cancelled_leaves_nothing_counted(world: World) -> None:
    """Whenever that happens; what was let in is let out once."""
    body = b'{"notifications": [%s]}' % b", ".join(
        [b'{"tenant": "acme", "to": ["a@b.example"], "subject": "s", "text": "t"}'] * 20
    )
    task = asyncio.create_task(notifications.batch(call(world, body)))
    admission = world.services.admission
    while admission.entering("acme") < 10:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert admission.entering("acme") == 0


async def test_others_go_on_while_a_batch_is_judged(world: World) -> None:
    """The loop is given back after every item."""
    body = b'{"notifications": [%s]}' % b", ".join([b"{}"] * 20)
    task = asyncio.create_task(notifications.batch(call(world, body)))
    turns = 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 20


# Repeats.


@pytest.mark.parametrize(
    "change",
    [{"limits": {"per_minute": 1}}, {"limits": {"queued": 1}}, {"enabled": False}],
    ids=["rate", "queue", "disabled"],
)
async def test_an_item_that_was_accepted_gets_its_first_answer(world: World, change: dict[str, Any]) -> None:
    """Also if it would be refused now: whoever is told so would send it another way."""
    known = notification(idempotency_key="k")
    [first] = await batch(world, known)
    await world.key_for("acme")
    await world.put(Tenant.model_validate({"id": "acme", **change}))
    [*_, again, new] = await batch(world, notification(), known, notification(idempotency_key="n"))
    assert (again["status"], again["id"]) == (202, first["id"])
    assert new["status"] in (409, 429)


async def test_a_twin_over_the_rate_gets_the_first_ones_answer(world: World) -> None:
    """Of the same item twice in a batch the first is known by the time that the second is answered."""
    await limit(world, per_minute=1)
    item = notification(idempotency_key="k")
    [first, twin] = await batch(world, item, item)
    assert (twin["status"], twin["id"]) == (202, first["id"])


async def test_another_item_under_a_known_key_is_a_mismatch(world: World) -> None:
    """Over the rate, too: it will never be accepted under this key."""
    await limit(world, per_minute=1)
    await batch(world, notification(idempotency_key="k"))
    assert said(await batch(world, notification(idempotency_key="k", subject="Other"))) == [
        (422, "idempotency_mismatch")
    ]


async def test_a_repeat_outlives_its_template(world: World) -> None:
    """An item that was accepted gets its first answer when the template asks for more by now."""
    await template(world)
    item = filled(data={"name": "Ann"}, idempotency_key="k")
    [first] = await batch(world, item)
    await template(world, "{{ name }} {{ surname }}")
    [again, new] = await batch(world, item, {**item, "idempotency_key": "n"})
    assert (again["status"], again.get("id")) == (202, first["id"])
    assert new["status"] == 422


OWN = {"is_default": True}


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ({"sender": "x@acme.example"}, profile("acme", "own", **OWN)),
        ({"sender": "x@acme.example"}, profile("acme", "own", **OWN, force_sender=True)),
        ({"to": None}, profile("acme", "own", **OWN)),
    ],
    ids=["sender_not_allowed", "sender_forced", "no_recipient"],
)
async def test_a_repeat_outlives_what_allowed_it(world: World, fields: dict[str, Any], change: Any) -> None:
    """What was accepted is not told to be refused, alone or in a batch, whatever the profile says by now."""
    first, again = await repeated(world, "acme", change, **fields)
    [item] = await batch(world, notification(**fields, idempotency_key="k"))
    new = await world.post("acme", "n", **fields)

    assert (first.status, again.json, new.status) == (202, first.json, 422)
    assert said([item]) == [(422, "idempotency_mismatch")]  # the octets of an item are others than a body's


async def test_a_repeat_outlives_the_end_of_its_template(world: World) -> None:
    """Deleted or renamed: the first answer is given again, in a batch too."""
    await template(world)
    item = filled(data={"name": "Ann"}, idempotency_key="k")
    [first] = await batch(world, item)
    await world.write([], [Entry("template", "acme", "t", "", "api")])
    [again, new] = await batch(world, item, {**item, "idempotency_key": "n"})

    assert (again["status"], again.get("id"), new["status"]) == (202, first["id"], 422)


async def test_what_is_wrong_by_itself_has_no_first_answer(world: World) -> None:
    """All that is wrong with a body is told, also under a key that is known."""
    await world.post("acme", "k")
    told = await world.post("acme", "k", to=["nobody"])
    assert (told.status, told.faults) == (422, {"/to/0": "bad_address"})


async def repeated(world: World, key: str, change: Any, **fields: Any) -> tuple[Answered, Answered]:
    """Post once, make a change, and post again under the same key."""
    first = await world.post(key, "k", **fields)
    await world.key_for("globex")
    await world.put(change)
    return first, await world.post(key, "k", **fields)


@pytest.mark.parametrize(
    ("key", "tenant", "name"),
    [("acme", "acme", "own"), ("acme", "acme-emea", "own"), ("system", "globex", "main"), ("globex", "globex", None)],
)
async def test_a_repeat_over_a_limit_says_the_same(world: World, key: str, tenant: str, name: str | None) -> None:
    """The profile's name too, if the caller may know it."""
    parent = "acme" if tenant == "acme-emea" else "system"
    change = Tenant.model_validate({"id": tenant, "parent": parent, "enabled": False})
    first, again = await repeated(world, key, change, tenant=tenant)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (first.json["profile"], again.json) == (name, first.json)


async def test_a_repeat_names_the_profile_that_its_caller_named(world: World) -> None:
    """It knows that name, though there is no such profile any more that it could use."""
    change = profile("acme", "lent", enabled=False)
    first, again = await repeated(world, "acme-emea", change, profile="lent")
    assert (first.json["profile"], again.json) == ("lent", first.json)


async def test_a_repeat_over_a_limit_does_not_name_a_strangers_profile(world: World) -> None:
    """What another caller was told stays with it."""
    first, _ = await repeated(
        world, "system", Tenant.model_validate({"id": "globex", "limits": {"per_minute": 1}}), tenant="globex"
    )
    again = await world.post("globex", "k", tenant="globex")
    assert (first.json["profile"], again.json) == ("main", {**first.json, "profile": None})
