"""What one tenant must not learn of another, and what must not outlive its owner: attempts that were made, and failed."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.directory.changes import OPERATOR, Change
from gateway.directory.entries import entry
from gateway.directory.shapes import Tenant
from gateway.directory.snapshot import PROVISION, Snapshot
from gateway.smtp.outcome import Transaction
from gateway.store.rows import Flow
from tests.http.world import Answered, World, deferred, profile, relayed

ADMIN = "acme:admin"
OWN = {
    "tenant": "acme", "name": "own", "host": "own.acme.example", "from": "own@acme.example", "is_default": True,
    "to": ["desk@acme.example"], "allowed_senders": ["*@acme.example"],
}  # fmt: skip


async def test_a_right_guess_is_answered_like_a_wrong_one(world: World) -> None:
    """Applying what another tenant has, or nearly has: the same answer, also in a dry run."""
    guesses: list[dict[str, Any]] = [
        {"profiles": [OWN]},
        {"profiles": [{**OWN, "host": "wrong.example"}]},
        {"profiles": [{**OWN, "auth": {"username": "u", "credential": {"source": "plaintext", "set": True}}}]},
        {"tenants": [{"id": "acme-emea", "parent": "acme"}]},
        {"preferences": [{"tenant": "acme", "cc": ["ops@acme.example"]}]},
        {"links": [{"tenant": "acme", "profile": "lent", "child": "acme-emea"}]},
        {"profiles": [{**OWN, "tenant": "nobody"}]},
    ]
    answers = [
        await world.call("POST", f"/v1/apply?dry_run={dry}", "globex:admin", json=guess)
        for guess in guesses
        for dry in ("true", "false")
    ]
    assert {(one.status, one.code, one.json["detail"]) for one in answers} == {
        (404, "not_found", "There is no such tenant in your reach.")
    }


async def test_the_name_of_the_parent_cannot_be_guessed(world: World) -> None:
    """A right one and a wrong one are refused alike."""
    answers = [
        await world.call("PATCH", "/v1/tenants/acme-emea", "acme-emea:admin", json={"parent": parent})
        for parent in ("acme", "globex", "nobody")
    ]
    assert {one.code for one in answers} == {"locked_by_parent"}


async def test_a_log_names_no_parent_outside_the_reach(world: World) -> None:
    """A move is told to the tenant, and where to only to those who may know."""
    await world.call("PATCH", "/v1/tenants/acme-emea", "system", json={"parent": "globex"})
    own = await world.call("GET", "/v1/tenants/acme-emea/audit", "acme-emea:admin")
    above = await world.call("GET", "/v1/tenants/acme-emea/audit", "system")

    assert own.json["items"][0]["changes"] == [{"field": "parent"}]
    assert above.json["items"][0]["changes"] == [{"field": "parent", "before": "acme", "after": "globex"}]


async def test_a_relays_words_stay_with_whose_profile_it_was(world: World) -> None:
    """A profile of one's own, made later, does not open what another's relay has said."""
    id_ = await world.posted("globex")
    [delivery], _ = await world.outbox.claim(Flow("globex", ""), 1)
    await world.outbox.settle(delivery, [0], Transaction((deferred(),)), "system/main")
    own = {"name": "mine", "host": "mine.example", "from": "a@globex.example", "is_default": True}
    await world.call("POST", "/v1/tenants/globex/profiles", "globex:admin", json=own)
    seen = await world.call("GET", f"/v1/notifications/{id_}", "globex")

    assert "secret words" not in seen.text
    assert "secret words" in (await world.call("GET", f"/v1/notifications/{id_}", "system")).text


async def test_mail_and_deletion_do_not_pass_each_other(world: World) -> None:
    """Of a notification and the end of its tenant, sent at once, one is refused; nothing is left behind."""
    for number in range(20):
        tenant = f"brief-{number}"
        await world.call("POST", "/v1/tenants", ADMIN, json={"id": tenant})
        posted, deleted = await asyncio.gather(
            world.post(ADMIN, tenant=tenant), world.call("DELETE", f"/v1/tenants/{tenant}", ADMIN)
        )
        assert (posted.status, deleted.status) in ((202, 409), (404, 204))


async def test_nobody_inherits_what_another_of_the_name_had(world: World) -> None:
    """Mail, secrets, pauses, log: pruned by one tenant, and not there for the next that takes the name."""
    files = {
        "tenants": [{"id": "shop", "parent": "acme"}],
        "profiles": [{"tenant": "shop", "name": "main", "host": "h.example", "from": "a@b.example"}],
    }
    await world.call("POST", "/v1/apply?set=s", ADMIN, json=files)
    await world.call("PUT", "/v1/tenants/shop/secrets/relay", ADMIN, json={"value": "pa55"})
    await world.call("POST", "/v1/tenants/shop/profiles/main/pause", ADMIN)
    await world.call(
        "POST", "/v1/notifications", ADMIN, json={"tenant": "shop", "to": ["a@b.example"], "subject": "x", "text": "y"}
    )
    busy = await world.call("POST", "/v1/apply?set=s&prune=true", ADMIN, json={})
    [delivery], _ = await world.outbox.claim(Flow("shop", ""), 1)
    await world.outbox.settle(delivery, [0], Transaction((relayed(),)), "acme/own")
    pruned = await world.call("POST", "/v1/apply?set=s&prune=true", ADMIN, json={})
    made = await world.call("POST", "/v1/tenants", "globex:admin", json={"id": "shop"})
    await world.call(
        "POST",
        "/v1/tenants/shop/profiles",
        "globex:admin",
        json={"name": "main", "host": "h2.example", "from": "a@b.example"},
    )
    stolen = [
        (await world.call("GET", path, "globex:admin")).json["items"]
        for path in ("/v1/notifications?tenant=shop", "/v1/tenants/shop/secrets")
    ]
    log = await world.call("GET", "/v1/tenants/shop/audit", "globex:admin")

    assert (busy.code, pruned.status, made.status, stolen) == ("tenant_in_use", 200, 201, [[], []])
    assert "h.example" not in log.text
    assert log.json["items"][-1]["action"] == "tenant.create"
    assert ("shop", "main") not in world.directory.snapshot.paused


async def test_a_key_that_was_revoked_while_it_waited_changes_nothing(world: World) -> None:
    """Authority is looked at again when the change is made."""
    text = await world.key_for("acme-emea:admin")
    changing = world.directory._changing
    await changing.acquire()
    waiting = asyncio.ensure_future(
        world.call("PUT", "/v1/tenants/acme-emea/preferences", "acme-emea:admin", json={"cc": ["a@b.example"]})
    )
    while not changing._waiters:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    world.directory.snapshot = _without_key(world.directory.snapshot, text.split("_")[1])
    changing.release()
    refused = await waiting

    assert refused.status == 401
    assert "acme-emea" not in world.directory.snapshot.preferences


def _without_key(snapshot: Snapshot, key: str) -> Snapshot:
    return replace(snapshot, revoked=snapshot.revoked | {key})


async def test_a_tenant_that_was_moved_away_is_out_of_reach_at_once(world: World) -> None:
    """Also for a change that was on its way."""
    await world.key_for(ADMIN)
    path = "/v1/tenants/acme-emea"
    answers = await asyncio.gather(
        world.call("PATCH", path, "system", json={"parent": "globex"}),
        *(world.call("PATCH", path, ADMIN, json={"name": f"n{n}"}) for n in range(10)),
    )
    late = await world.call("PATCH", path, ADMIN, json={"name": "late"})

    assert {one.status for one in answers[1:]} <= {200, 404}
    assert late.code == "not_found"


@pytest.mark.parametrize(
    "body",
    [
        {"limits": {"per_minute": 10**400}},
        {"limits": {"bytes": 10**30}},
        {"limits": {"messages_per_connection": 10**9}},
    ],
)
async def test_numbers_have_an_end(world: World, body: dict[str, Any]) -> None:
    """A limit that no computer can count to is a fault, of a profile as of a tenant."""
    profile = {"name": "big", "host": "h.example", "from": "a@b.example", **body}
    assert (await world.call("POST", "/v1/tenants/acme/profiles", ADMIN, json=profile)).status == 422
    tenant = {"limits": {"per_minute": 10**400}}
    assert (await world.call("PATCH", "/v1/tenants/acme-emea", ADMIN, json=tenant)).status == 422


async def test_a_long_line_of_tenants_is_refused_at_once(world: World) -> None:
    """A thousand rows, each the child of the next."""
    rows = [{"id": f"t{n}", "parent": f"t{n + 1}" if n < 1000 else "acme"} for n in range(1001)]
    refused = await world.call("POST", "/v1/apply?dry_run=true", ADMIN, json={"tenants": rows})
    assert refused.status in (404, 422)


async def test_a_child_sees_its_own_line_of_the_queue(world: World) -> None:
    """Under its own id, without how the owner's profile stands."""
    await world.call("PATCH", "/v1/tenants/acme-emea/profiles/lent", "acme-emea:admin", json={"is_default": True})
    await world.posted("acme-emea")
    lines = (await world.call("GET", "/v1/queue", "acme-emea")).json["items"]
    assert [(line["tenant"], line["profile"], line["state"]) for line in lines] == [("acme-emea", "lent", "active")]


async def test_a_certificate_of_an_unknown_version_is_a_fault(world: World) -> None:
    """Not an error of ours."""
    pem = "-----BEGIN CERTIFICATE-----\nMIIBAA==\n-----END CERTIFICATE-----\n"
    profile = {"name": "p", "host": "h.example", "from": "a@b.example", "tls": {"ca_certificates": pem}}
    refused = await world.call("POST", "/v1/tenants/acme/profiles", ADMIN, json=profile)
    assert refused.faults == {"/tls/ca_certificates": "bad_certificate"}


async def test_the_operators_own_change_needs_no_key(world: World) -> None:
    """Files are applied whoever's keys are gone."""
    await world.directory.change(OPERATOR, lambda _snapshot: Change())


# Declarative files: who applies them may no more than who calls.


async def apply(world: World, key: str, tables: object, query: str = "") -> Answered:
    return await world.call("POST", f"/v1/apply{query}", key, json=tables)


async def test_nobody_prunes_their_own_tenant(world: World) -> None:
    """Deleting it takes an administrator above, also where a set of files of theirs once made it."""
    await world.write([entry(Tenant(id="initech", parent="system"), "set:initech/s")])
    pruned = await apply(world, "initech:admin", {}, "?set=s&prune=true")
    assert (pruned.code, "initech" in world.directory.snapshot.tenants) == ("locked_by_parent", True)


async def test_a_set_is_whose_files_it_is(world: World) -> None:
    """Others may call theirs the same; neither prunes what the other made."""
    await apply(world, "system", {"tenants": [{"id": "initech"}]}, "?set=s")
    mine = {"profiles": [{"tenant": "acme", "name": "mine", "host": "mine.example", "from": "a@acme.example"}]}
    await apply(world, ADMIN, mine, "?set=s")
    pruned = [await apply(world, key, {}, "?set=s&prune=true") for key in ("initech:admin", "globex:admin")]
    above = await apply(world, "system", {"tenants": [{"id": "initech"}]}, "?set=s&prune=true")
    own = await apply(world, ADMIN, {}, "?set=s&prune=true")

    assert [one.json["changes"] for one in (*pruned, above)] == [[], [], []]
    assert [(one["action"], one["name"]) for one in own.json["changes"]] == [("delete", "mine")]


async def test_nobody_prunes_what_the_operators_files_say(world: World) -> None:
    """A provisioned profile keeps its tenant, whoever made that."""
    await apply(world, "system", {"tenants": [{"id": "initech"}]}, "?set=s")
    await world.write([entry(profile("initech", "fixed"), PROVISION)])
    pruned = await apply(world, "system", {}, "?set=s&prune=true")
    assert (pruned.code, "initech" in world.directory.snapshot.tenants) == ("provisioned", True)


async def test_files_lend_nothing_where_that_is_locked(world: World) -> None:
    """As pushing does."""
    await world.call("PATCH", "/v1/tenants/acme", "system", json={"own_profiles": False})
    link = {"tenant": "acme", "profile": "own", "child": "acme-emea"}
    refused = await apply(world, ADMIN, {"links": [link]})
    assert (refused.code, set(refused.faults)) == ("locked_by_parent", {"/links/0"})


async def test_files_do_not_guess_the_name_of_the_parent(world: World) -> None:
    """A right one and a wrong one are refused alike; what the tenant is shown of itself is taken."""
    answers = [
        await apply(world, "acme-emea:admin", {"tenants": [{"id": "acme-emea", "parent": parent}]}, "?dry_run=true")
        for parent in ("acme", "globex", "nobody", "system", "acme-emea", 5)
    ]
    shown = (await world.call("GET", "/v1/tenants/acme-emea", "acme-emea:admin")).json
    assert {(one.code, *one.faults.items()) for one in answers} == {
        ("locked_by_parent", ("/tenants/0/parent", "locked_by_parent"))
    }
    given = {"id": shown["id"], "parent": shown["parent"], "name": "Changed"}
    assert (await apply(world, "acme-emea:admin", {"tenants": [given]})).status == 200
