"""Webhooks over HTTP: whom a tenant may name, what is shown of it, and how its secret comes and goes."""

import base64
import json
from typing import Any

import pytest

from gateway.credentials.secret import Secret
from gateway.directory import changes
from gateway.directory.changes import OPERATOR, Change
from gateway.directory.rules import MOST_WEBHOOKS
from gateway.directory.shapes import Webhook
from gateway.http.admission import TESTS_PER_MINUTE
from gateway.http.resources import etag
from gateway.store.rows import WebhookEvent
from tests.http.world import Answered, World

PATH = "/v1/tenants/acme/webhooks"
ADMIN = "acme:admin"
URL = "https://hook.acme.example/path?token=t0ken"
BODY: dict[str, Any] = {"url": URL, "events": ["notification.failed", "profile.parked"]}
GIVEN = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


async def made(world: World, **more: Any) -> str:
    """Make a webhook; where it is."""
    answered = await world.call("POST", PATH, ADMIN, json={**BODY, **more})
    assert answered.status == 201, answered.text
    return answered.headers["Location"]


def found(world: World, path: str) -> Webhook:
    return world.directory.snapshot.webhooks["acme", path.rpartition("/")[2]]


def opened(world: World, sealed: str, webhook: Webhook) -> str:
    return world.directory.seal.open(sealed, webhook.sealed_for).reveal()


async def audit(world: World) -> list[dict[str, Any]]:
    return list((await world.call("GET", "/v1/tenants/acme/audit", ADMIN)).json["items"])


async def test_a_secret_that_was_made_is_shown_once(world: World) -> None:
    """In the answer that made it; afterwards only that there is one."""
    answered = await world.call("POST", PATH, ADMIN, json=BODY)
    where, secret = answered.headers["Location"], answered.json["secret"]
    shown = await world.call("GET", where, ADMIN)
    listed = await world.call("GET", PATH, ADMIN)

    assert answered.status == 201
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert opened(world, found(world, where).sealed, found(world, where)) == secret
    assert shown.json == {**answered.json, "secret": {"set": True}}
    assert shown.headers["ETag"] == answered.headers["ETag"]
    assert listed.json == {"items": [shown.json], "next_cursor": None}
    assert {**shown.json, "id": "", "created_at": ""} == {
        "id": "", "url": URL, "events": BODY["events"], "secret": {"set": True}, "enabled": True,
        "disabled_reason": None, "created_at": "", "provisioned": False,
    }  # fmt: skip


async def test_a_secret_that_was_brought_is_never_shown(world: World) -> None:
    """Not even in the first answer."""
    answered = await world.call("POST", PATH, ADMIN, json={**BODY, "secret": GIVEN})
    assert answered.json["secret"] == {"set": True}
    assert GIVEN.removeprefix("whsec_") not in answered.text


async def test_what_was_read_may_be_put_back(world: World) -> None:
    """As it is; nothing changes, and nothing is logged."""
    where = await made(world)
    shown = await world.call("GET", where, ADMIN)
    rows = len(await audit(world))
    again = await world.call("PUT", where, ADMIN, json=shown.json, headers={"If-Match": shown.headers["ETag"]})
    assert (again.status, again.json, len(await audit(world))) == (200, shown.json, rows)


async def test_a_secret_that_signs_no_more_is_dropped(world: World) -> None:
    """The first change after a day keeps but the secret that signs."""
    where = await made(world)
    assert (await world.call("PATCH", where, ADMIN, json={"secret": OTHER})).status == 200
    old = found(world, where).model_copy(update={"rotated_at": 1})
    await world.directory.change(OPERATOR, lambda _snapshot: Change([old]))
    assert (await world.call("PATCH", where, ADMIN, json={"enabled": False})).status == 200
    assert found(world, where).previous is None


async def test_a_new_secret_rotates(world: World) -> None:
    """The one before is kept beside it; the same one again changes nothing."""
    where = await made(world, secret=GIVEN)
    await world.call("PATCH", where, ADMIN, json={"secret": OTHER})
    once = found(world, where)
    await world.call("PATCH", where, ADMIN, json={"secret": OTHER})
    assert found(world, where) == once
    assert once.previous is not None
    assert (opened(world, once.sealed, once), opened(world, once.previous, once)) == (OTHER, GIVEN)
    assert once.rotated_at >= once.created_at


async def test_another_version_is_refused(world: World) -> None:
    """Whoever read before it changed."""
    where = await made(world)
    tag = (await world.call("GET", where, ADMIN)).headers["ETag"]
    await world.call("PATCH", where, ADMIN, json={"events": ["notification.expired"]})
    for method, body in (("PUT", BODY), ("PATCH", {}), ("DELETE", None)):
        answered = await world.call(method, where, ADMIN, json=body, headers={"If-Match": tag})
        assert answered.code == "precondition_failed"


async def test_enabling_clears_the_reason(world: World) -> None:
    """What the gateway disabled says why, until somebody enables it again; nobody else sets a reason."""
    where = await made(world)
    id_ = where.rpartition("/")[2]
    await world.directory.change(OPERATOR, lambda snapshot: changes.disable_webhook(snapshot, ("acme", id_), "gone"))
    shown = await world.call("GET", where, ADMIN)
    renamed = await world.call("PATCH", where, ADMIN, json={"events": ["notification.failed"]})
    forged = await world.call("PATCH", where, ADMIN, json={"disabled_reason": None})
    claimed = await world.call("PATCH", where, ADMIN, json={"disabled_reason": "overflow"})
    enabled = await world.call("PATCH", where, ADMIN, json={"enabled": True})

    assert (shown.json["enabled"], shown.json["disabled_reason"]) == (False, "gone")
    assert renamed.json["disabled_reason"] == "gone"
    assert forged.json == renamed.json
    assert claimed.faults == {"/disabled_reason": "read_only"}
    assert (enabled.json["enabled"], enabled.json["disabled_reason"]) == (True, None)


@pytest.mark.parametrize(
    "url",
    [
        "https://user@hook.example/", "https://user:password@hook.example/", "https://hook.example/#part",
        "ftp://hook.example/", "https:///path", "https://?", "hook.example", "//hook.example/", "https://hook.example:0/",
        "https://hook.example:65536/", "https://hook.example:port/", "https://hook.example /", "https://hook.example/a b",
        "https://hook.example\\@127.0.0.1/", "https://hook.example/\r\nX: y", "https://[fe80::1%25eth0]/",
        "https://[hook.example]/", "https://::1/", "https://127.1/", "https://0x7f000001/", "https://2130706433/",
        "https://0177.0.0.1/", "https://hook..example/", "https://hook.example/ü", "javascript:alert(1)",
        "httpſ://hook.example/", "https://hook.example/\u212a", "https://hook\u00a0.example/",
        "https://" + "a" * 300 + ".example/", "https://hook.example/" + "a" * 2000,
    ],
)  # fmt: skip
async def test_what_is_no_address(world: World, url: str) -> None:
    """Told by its pointer, and never repeated."""
    answered = await world.call("POST", PATH, ADMIN, json={**BODY, "url": url})
    assert (answered.status, set(answered.faults)) == (422, {"/url"}), answered.text
    assert url not in answered.text


@pytest.mark.parametrize(
    "url",
    [
        "http://hook.example/", "http://hook.example:443/", "http://8.8.8.8:443/", "https://hook.example:8443/", "https://127.0.0.1/", "https://10.0.0.1/", "https://[::1]/",
        "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://169.254.169.254/latest/meta-data",
        "https://[64:ff9b::7f00:1]/", "https://100.64.0.1/", "https://0.0.0.0/", "https://[fd00::1]/", "http://8.8.8.8/",
    ],
)  # fmt: skip
async def test_where_egress_lets_nobody_go(world: World, url: str) -> None:
    """A literal address that is not public, another port, or no TLS, is refused when it is saved."""
    answered = await world.call("POST", PATH, ADMIN, json={**BODY, "url": url})
    assert (answered.status, answered.code, answered.faults) == (422, "egress_refused", {"/url": "egress_refused"})


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("HTTPS://Hook.EXAMPLE", "https://hook.example/"), ("https://hook.example:443/a", "https://hook.example/a"),
        ("https://hook.example./?a=%C3%BC&b", "https://hook.example/?a=%C3%BC&b"), ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://[2606:4700:0::1]/", "https://[2606:4700::1]/"),
    ],
)  # fmt: skip
async def test_addresses_are_kept_in_one_form(world: World, url: str, kept: str) -> None:
    """With the host as it is judged."""
    assert found(world, await made(world, url=url)).url == kept


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"url": URL}, {"/events"}),
        ({"url": URL, "events": []}, {"/events"}),
        ({"url": URL, "events": ["webhook.test"]}, {"/events/0", "/events"}),
        ({"url": URL, "events": ["profile.parked", "profile.parked"]}, {"/events"}),
        ({**BODY, "secret": "whsec_c2hvcnQ="}, {"/secret"}),
        ({**BODY, "secret": {"set": True}}, {"/secret"}),
        ({**BODY, "secret": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, {"/secret"}),
        ({**BODY, "id": "a1b2c3d4"}, {"/id"}),
        ({**BODY, "enabled": "yes", "more": 1, "url": 7}, {"/enabled", "/more", "/url"}),
    ],
)
async def test_faults_are_told_together(world: World, body: dict[str, Any], faults: set[str]) -> None:
    """Each by its pointer."""
    answered = await world.call("POST", PATH, ADMIN, json=body)
    assert answered.status == 422
    assert set(answered.faults) & faults == set(answered.faults) != set()
    assert not world.directory.snapshot.webhooks


async def test_a_tenant_has_twenty_at_most(world: World) -> None:
    """The next is refused, and another may be made once one is gone."""
    places = [await made(world) for _ in range(MOST_WEBHOOKS)]
    refused = await world.call("POST", PATH, ADMIN, json=BODY)
    changed = await world.call("PATCH", places[0], ADMIN, json={"enabled": False})
    await world.call("DELETE", places[0], ADMIN)
    assert (refused.status, list(refused.faults.values()), changed.status) == (422, ["too_many"], 200)
    await made(world)


async def test_the_log_says_no_secret(world: World) -> None:
    """Who made and changed what; of the address's query, and of the secret, only that they changed."""
    where = await made(world, secret=GIVEN)
    await world.call("PATCH", where, ADMIN, json={"url": f"{URL}x", "secret": OTHER})
    await world.call("POST", f"{where}/test", ADMIN)
    await world.call("DELETE", where, ADMIN)
    rows = await audit(world)

    assert [row["action"] for row in rows] == ["webhook.delete", "webhook.test", "webhook.update", "webhook.create"]
    assert rows[2]["changes"] == [{"field": "secret"}, {"field": "url.query"}]
    assert {"field": "url.place", "after": "https://hook.acme.example/path"} in rows[3]["changes"]
    assert not any(word in json.dumps(rows) for word in ("t0ken", GIVEN[8:], OTHER[8:], "whsec_"))


async def test_what_it_was_to_be_told_goes_with_it(world: World) -> None:
    """Deleting a webhook drops its events at once."""
    where, other = await made(world), await made(world)
    ids = [place.rpartition("/")[2] for place in (where, other)]
    await world.store.add_events([WebhookEvent(f"e{id_}", "acme", id_, 1, 2, "{}") for id_ in ids])
    assert (await world.call("DELETE", where, ADMIN)).status == 204
    assert [one.webhook for one in await world.store.due_events()] == ids[1:]


async def put(world: World, url: str) -> str:
    """Put a webhook there whose address egress need not permit; where it is."""
    sealed = world.directory.seal.close(Secret(GIVEN), ("webhook", "acme", "a1b2c3d4"))
    events = ("notification.failed",)
    await world.put(Webhook(tenant="acme", id="a1b2c3d4", url=url, events=events, created_at=0, sealed=sealed))
    return f"{PATH}/a1b2c3d4"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://hook.example/services/t0ken?key=t0ken", "https://hook.example/…"),
        ("http://[2606:4700::1]:8080/t0ken", "http://[2606:4700::1]:8080/…"),
        ("https://hook.example/", "https://hook.example/…"),
    ],
)
async def test_who_is_no_administrator_is_told_only_where_it_leads(world: World, url: str, place: str) -> None:
    """Path and query may hold a token. The version is of what is seen: it tells nothing of the rest either."""
    where = await put(world, url)
    whole = await world.call("GET", where, ADMIN)
    shown = await world.call("GET", where, "acme:read")
    listed = await world.call("GET", PATH, "acme:read")
    await put(world, url + "else")
    later = await world.call("GET", where, "acme:read")

    assert shown.json == {**whole.json, "url": place}
    assert listed.json == {"items": [shown.json], "next_cursor": None}
    assert (whole.json["url"], "t0ken" in shown.text + listed.text) == (url, False)
    assert shown.headers["ETag"] == later.headers["ETag"] == etag(shown.json) != whole.headers["ETag"]


async def test_a_test_says_what_came_of_it(world: World) -> None:
    """Within the tenant's limits; where egress lets nobody go, only that."""
    where = await put(world, "https://127.0.0.1/")
    answers: list[Answered] = [await world.call("POST", f"{where}/test", ADMIN) for _ in range(TESTS_PER_MINUTE + 1)]
    first = answers[0].json
    assert (answers[0].status, {**first, "milliseconds": 0}) == (
        200, {"ok": False, "status": None, "milliseconds": 0, "error": "egress_refused"},
    )  # fmt: skip
    assert answers[-1].code == "rate_limited"
    assert answers[-1].json["detail"] == f"A tenant has at most {TESTS_PER_MINUTE} webhook tests a minute."


async def test_files_define_no_webhooks(world: World) -> None:
    """Their secrets would stand in them."""
    answered = await world.call("POST", "/v1/apply", ADMIN, json={"webhooks": [{**BODY, "tenant": "acme"}]})
    assert (answered.status, answered.faults) == (422, {"/webhooks": "unknown_field"})
