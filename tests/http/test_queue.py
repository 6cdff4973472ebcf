"""Pausing everything over HTTP: the operator alone does it, everybody learns of it, and only the operator why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.directory.changes import pause_all, resume_all
from gateway.directory.shapes import Pause
from gateway.directory.snapshot import Snapshot
from gateway.http.values import parse_time
from gateway.smtp.outcome import Unknown
from tests.http.world import profile

if TYPE_CHECKING:
    from tests.http.world import World

NOTHING = {"items": [], "next_cursor": None, "paused": None}


async def test_pausing_is_told_and_resuming_too(world: World) -> None:
    """Both answer how it is now, and so does the queue; to do it twice changes nothing."""
    before = (await world.call("GET", "/v1/queue", "system")).json
    first = (await world.call("POST", "/v1/queue/pause", "system")).json
    again = (await world.call("POST", "/v1/queue/pause", "system")).json
    during = (await world.call("GET", "/v1/queue", "system")).json
    resumed = [(await world.call("POST", "/v1/queue/resume", "system")).json for _ in range(2)]
    after = (await world.call("GET", "/v1/queue", "system")).json

    assert before == after == NOTHING
    assert first == again == {"paused": during["paused"]}
    assert first["paused"]["reason"] == "operator"
    assert abs(parse_time(first["paused"]["since"]) - world.outbox.clock()) < 60_000
    assert resumed == [{"paused": None}] * 2


async def test_it_is_on_record(world: World) -> None:
    """The operator's log has one row for each change, with its reason, and none for what changed nothing."""
    for path in ("pause", "pause", "resume", "resume"):
        await world.call("POST", f"/v1/queue/{path}", "system")
    log = (await world.call("GET", "/v1/tenants/system/audit", "system")).json["items"]
    told = [(one["action"], one["object"], one["changes"]) for one in log if one["action"].startswith("queue")]
    assert told == [("queue.resume", "", []), ("queue.pause", "", [{"field": "reason", "after": "operator"}])]


async def test_tenants_learn_that_and_not_why(world: World) -> None:
    """Since when, and no reason; their own profiles show as paused, those that they inherit as held."""
    await world.posted("acme", profile="own")
    await world.posted("acme-emea", profile="lent")
    await world.put(Pause(tenant="system", since=1_800_000_000_000, reason="cloned"))
    acme = (await world.call("GET", "/v1/queue", "acme")).json
    emea = (await world.call("GET", "/v1/queue", "acme-emea")).json
    told = (await world.call("GET", "/v1/queue", "system")).json["paused"]

    assert acme["paused"] == emea["paused"] == {"since": "2027-01-15T08:00:00.000Z", "reason": None}
    assert told["reason"] == "cloned"
    assert {(one["profile"], one["state"]) for one in acme["items"]} == {("own", "paused"), ("lent", "paused")}
    assert [(one["profile"], one["state"]) for one in emea["items"]] == [("lent", "held")]


async def test_tenants_send_no_tests_meanwhile(world: World) -> None:
    """A test is mail; the operator may try whether the relay is back."""
    await world.call("POST", "/v1/queue/pause", "system")
    path = "/v1/tenants/acme/profiles/own/test"
    refused = await world.call("POST", path, "acme:profiles", json={"to": "ann@example.test"})
    allowed = await world.call("POST", path, "system", json={"to": "ann@example.test"})
    assert (refused.status, refused.code, allowed.status) == (409, "no_profile", 200)


async def test_nobody_makes_a_profile_of_it(world: World) -> None:
    """It hangs on no profile, and no profile's own pause hangs on it."""
    await world.put(profile("system", "relay"))
    await world.call("POST", "/v1/tenants/system/profiles/relay/pause", "system")
    await world.call("POST", "/v1/queue/pause", "system")
    await world.call("POST", "/v1/queue/resume", "system")
    shown = (await world.call("GET", "/v1/tenants/system/profiles/relay", "system")).json
    assert shown["paused"] is True


def test_that_it_is_a_copy_counts_for_more() -> None:
    """A pause that a person made becomes that of a copy, and never the other way round."""
    wanted = Snapshot(all_paused=Pause(tenant="system", since=1))
    copied = Snapshot(all_paused=Pause(tenant="system", since=1, reason="restored"))

    assert pause_all(wanted, 2, "restored").put == [Pause(tenant="system", since=2, reason="restored")]
    assert pause_all(copied, 2).put == pause_all(copied, 2, "restored").put == []
    assert resume_all(Snapshot()).drop == []


async def test_what_nobody_knows_the_fate_of_is_told_apart(world: World) -> None:
    """What may have arrived is not ready to go: a person decides, and it counts as what they made of it."""
    id_ = await world.posted("acme", profile="own", on_ambiguous="hold")
    await world.posted("acme", profile="own")
    await world.settle("acme", *[Unknown("no reply to the final dot")] * 2, profile="own")
    [before] = (await world.call("GET", "/v1/queue", "acme")).json["items"]
    assert (await world.call("POST", f"/v1/notifications/{id_}/retry")).status == 200
    [after] = (await world.call("GET", "/v1/queue", "acme")).json["items"]
    assert (before["ready"], before["deferred"], before["uncertain"]) == (1, 0, 1)
    assert (after["ready"], after["deferred"], after["uncertain"]) == (2, 0, 0)


async def test_one_tenants_part_is_told_alone(world: World) -> None:
    """All of its own profiles, and nothing of the others in reach; beyond the reach there is no such tenant."""
    await world.posted("acme", profile="own")
    await world.posted("acme-emea", profile="lent")
    await world.put(profile("acme-emea", "branch"), Pause(tenant="acme-emea", profile="branch"))
    acme = (await world.call("GET", "/v1/queue?tenant=acme", "acme")).json["items"]
    emea = (await world.call("GET", "/v1/queue?tenant=acme-emea", "acme")).json["items"]
    beyond = await world.call("GET", "/v1/queue?tenant=system", "acme")

    waiting = {one["profile"] for one in acme if one["ready"]}
    idle = [(one["state"], one["oldest_seconds"]) for one in acme if not one["ready"]]

    assert {(one["tenant"], one["profile"]) for one in acme} == {
        ("acme", one.name) for one in world.directory.snapshot.own_profiles("acme")
    }
    assert (waiting, set(idle)) == ({"own", "lent"}, {("active", None)})
    assert [(one["tenant"], one["profile"], one["state"]) for one in emea] == [("acme-emea", "branch", "paused")]
    assert (beyond.status, beyond.code) == (404, "not_found")


async def test_mail_of_a_disabled_tenant_waits_for_nobodys_profile(world: World) -> None:
    """It is held, and not what the profile that it would go by has to send."""
    await world.posted("acme-emea", profile="lent")
    await world.call("PATCH", "/v1/tenants/acme-emea", "acme:admin", json={"enabled": False})
    [line] = (await world.call("GET", "/v1/queue", "acme")).json["items"]
    assert (line["tenant"], line["profile"], line["state"], line["ready"]) == ("acme-emea", None, "held", 1)
