"""Looking at notifications, listing, cancelling and sending again; and who sees what."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.http.views import NotificationList, NotificationView
from gateway.outbox.states import State
from gateway.smtp.outcome import Unknown
from gateway.store.rows import Flow
from tests.http.world import DAY, World, ahead, deferred, failed, profile, relayed

pytestmark = pytest.mark.asyncio


async def show(world: World, id_: str, key: str = "acme") -> dict[str, object]:
    answered = await world.call("GET", f"/v1/notifications/{id_}", key)
    assert answered.status == 200, answered.text
    return answered.json


async def test_view_of_a_new_notification(world: World) -> None:
    """A view repeats the envelope, each recipient's state, and begins its history with the acceptance."""
    id_ = await world.posted(
        category="a.b", severity="warning", priority="high", metadata={"order": "42"}, sender="ceo@acme.example",
        on_ambiguous="hold", cc=["bob@example.test"],
    )  # fmt: skip
    shown = await show(world, id_)
    assert {name: shown[name] for name in ("id", "status", "tenant", "profile", "category", "severity", "priority")} == {
        "id": id_, "status": "queued", "tenant": "acme", "profile": "own", "category": "a.b", "severity": "warning",
        "priority": "high",
    }  # fmt: skip
    assert shown["metadata"] == {"order": "42"}
    assert shown["from"] == "ceo@acme.example"
    assert shown["on_ambiguous"] == "hold"
    assert shown["message_id"] == f"<{id_}@acme.example>"
    first = shown["recipients"][0]
    assert set(first) == {"address", "role", "state", "attempts", "reply", "next_attempt_at"}
    assert (first["address"], first["role"], first["state"], first["attempts"]) == (
        "ann@example.test",
        "to",
        "queued",
        0,
    )
    assert shown["events"] == [{"at": shown["accepted_at"], "event": "accepted", "detail": ""}]
    assert "content" not in shown


async def test_answers_are_what_the_models_say(world: World) -> None:
    """What is answered has exactly the members that the OpenAPI document promises."""
    id_ = await world.posted()
    assert set(await show(world, id_)) == {
        field.serialization_alias or name for name, field in NotificationView.model_fields.items() if name != "content"
    }
    listed = (await world.call("GET", "/v1/notifications")).json
    assert set(listed) == set(NotificationList.model_fields)


async def test_content_is_for_administrators(world: World) -> None:
    """Content is shown when asked for, to scope admin only, and is null once erased."""
    id_ = await world.posted(
        html="<b>Hi</b>",
        attachments=[{"filename": "a.txt", "content_type": "text/plain", "content": "aGk="}],
        headers={"X-Anything": "yes"},
        reply_to=[{"name": "Desk", "address": "desk@acme.example"}],
    )
    path = f"/v1/notifications/{id_}?include=content"
    assert (await world.call("GET", path)).code == "forbidden"
    content = (await world.call("GET", path, "acme:admin")).json["content"]
    assert (content["subject"], content["text"], content["html"]) == ("Hello", "Hello Ann", "<b>Hi</b>")
    assert content["attachments"][0]["content"] == "aGk="
    assert content["headers"] == {"X-Anything": "yes"}
    assert content["reply_to"] == [{"name": "Desk", "address": "desk@acme.example"}]
    await world.settle("acme", relayed(), relayed())
    assert (await world.call("GET", path, "acme:admin")).json["content"] is None


async def test_journey(world: World) -> None:
    """Attempts, replies and events tell what happened."""
    id_ = await world.posted()
    await world.settle("acme", relayed(), deferred())
    shown = await show(world, id_)
    assert shown["status"] == "deferred"
    ann, audit = shown["recipients"]
    assert (ann["state"], ann["attempts"], ann["next_attempt_at"]) == ("relayed", 1, None)
    assert ann["reply"] == {"code": 250, "enhanced": "2.0.0", "text": "queued as 1"}
    assert audit["state"] == "deferred"
    assert datetime.fromisoformat(audit["next_attempt_at"]) > datetime.now(UTC)
    assert [event["event"] for event in shown["events"]] == ["accepted", "claimed", "relayed", "deferred"]
    assert "secret words" in shown["events"][3]["detail"]


async def test_statuses(world: World) -> None:
    """The status is derived from the recipients, and from what the relay half says of the flow."""
    partly, held, gone = [await world.posted() for _ in range(3)]
    await world.settle("acme", relayed(), failed())
    assert (await show(world, partly))["status"] == "partially_relayed"
    world.held.add(Flow("acme", ""))
    assert (await show(world, held))["status"] == "held"
    world.held.clear()
    await world.outbox.claim(Flow("acme", ""), 1)
    assert (await show(world, held))["status"] == "sending"
    await world.settle("acme", failed(), failed())
    assert (await show(world, gone))["status"] == "failed"


# Redaction.


async def test_replies_of_strangers_are_codes(world: World) -> None:
    """Of a relay outside the caller's reach replies are codes, and events are words."""
    id_ = await world.posted("globex")
    await world.settle("globex", deferred())
    shown = await show(world, id_, "globex")
    assert shown["recipients"][0]["reply"] == {"code": 451, "enhanced": "4.3.0"}
    assert [(event["event"], event["detail"]) for event in shown["events"]] == [
        ("accepted", ""),
        ("claimed", ""),
        ("deferred", ""),
    ]
    assert "secret words" not in str((await world.call("GET", "/v1/notifications", "globex")).json)
    seen = await show(world, id_, "system")
    assert seen["recipients"][0]["reply"]["text"] == "secret words of the relay"


@pytest.mark.parametrize("by", ["", "acme/lent"])
async def test_inherited_profile_is_named_but_not_quoted(world: World, by: str) -> None:
    """A pushed profile has a name for the child; what its relay says stays with the owner, also when it is told whose it was."""
    id_ = await world.posted("acme-emea", profile="lent")
    await world.settle("acme-emea", deferred(), profile="lent", by=by)
    shown = await show(world, id_, "acme-emea")
    assert shown["profile"] == "lent"
    assert "secret words" not in str(shown)
    assert "secret words" in str(await show(world, id_, "acme"))


@pytest.mark.parametrize("poster", ["acme-emea", "acme", "system"])
async def test_inherited_profile_does_not_tell_its_sender(world: World, poster: str) -> None:
    """Whoever posts by it, the child finds its From nowhere, nor the domain of it in a Message-ID."""
    await world.put(profile("acme", "lent", **{"from": "desk@canary.example"}))
    id_ = await world.posted(poster, tenant="acme-emea", profile="lent")
    await world.settle("acme-emea", relayed(), profile="lent", by="acme/lent")
    at = "/v1/tenants/acme-emea"
    told = [
        await world.call("GET", path, "acme-emea:admin")
        for path in (
            f"/v1/notifications/{id_}?include=content", "/v1/notifications", "/v1/queue", f"{at}/audit",
            f"{at}/resolution?profile=lent", f"{at}/profiles", f"{at}/profiles/lent",
        )
    ]  # fmt: skip
    assert [one.status for one in told] == [200] * len(told)
    assert not any("canary" in one.text for one in told)
    assert told[0].json["message_id"] == f"<{id_}@{world.settings.relay.ehlo_name}>"


async def test_own_profile_gives_the_message_id_its_domain(world: World) -> None:
    """Also where the operator posts for the tenant."""
    for poster in ("acme", "system"):
        id_ = await world.posted(poster, tenant="acme")
        assert (await show(world, id_))["message_id"] == f"<{id_}@acme.example>"


async def test_lost_profile_is_not_quoted(world: World) -> None:
    """When nobody can say whose relay it was, it is treated as a stranger's."""
    id_ = await world.posted(profile="lent")
    await world.settle("acme", deferred(), profile="lent")
    await world.put(profile("acme", "lent", enabled=False))
    assert "secret words" not in str(await show(world, id_))


# Who sees what.


async def test_strangers_see_nothing(world: World) -> None:
    """What another tenant owns is not there; parents see what their children own."""
    id_ = await world.posted("acme-emea")
    assert (await world.call("GET", f"/v1/notifications/{id_}", "globex")).code == "not_found"
    assert (await world.call("GET", f"/v1/notifications/{id_}", "acme")).status == 200
    acme = await world.posted("acme")
    assert (await world.call("GET", f"/v1/notifications/{acme}", "acme-emea")).status == 404


async def test_send_scope_sees_its_own(world: World) -> None:
    """A key that only sends sees, cancels and retries what it posted, and nothing else."""
    mine, other = await world.posted("acme:send"), await world.posted("acme")
    assert (await world.call("GET", f"/v1/notifications/{mine}", "acme:send")).status == 200
    for method, suffix in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
        answered = await world.call(method, f"/v1/notifications/{other}{suffix}", "acme:send")
        assert answered.code == "not_found"
    listed = (await world.call("GET", "/v1/notifications", "acme:send")).json["items"]
    assert [item["id"] for item in listed] == [mine]
    assert len((await world.call("GET", "/v1/notifications", "acme:read")).json["items"]) == 2


@pytest.mark.parametrize("id_", ["0" * 32, "x", "..", "%00", "é"])
async def test_unknown_notification(world: World, id_: str) -> None:
    """An id that names nothing is not there, whatever it looks like."""
    assert (await world.call("GET", f"/v1/notifications/{id_}")).code == "not_found"


# Lists.


async def test_pages(world: World) -> None:
    """Pages follow each other, newest first, without gaps or repeats, also while new mail comes in."""
    ids = [await world.posted() for _ in range(5)]
    first = (await world.call("GET", "/v1/notifications?limit=2")).json
    await world.posted()
    second = (await world.call("GET", f"/v1/notifications?limit=2&cursor={first['next_cursor']}")).json
    third = (await world.call("GET", f"/v1/notifications?limit=2&cursor={second['next_cursor']}")).json
    assert [item["id"] for page in (first, second, third) for item in page["items"]] == sorted(ids, reverse=True)
    assert third["next_cursor"] is None


async def test_last_page_that_is_full(world: World) -> None:
    """A page that ends the list says so, though it is full."""
    for _ in range(2):
        await world.posted()
    assert (await world.call("GET", "/v1/notifications?limit=2")).json["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        ("limit=x", "/limit"),
        ("cursor=AAAA", "/cursor"),
        ("cursor=", "/cursor"),
        ("cursor=" + "A" * 100, "/cursor"),
        ("status=lost", "/status"),
        ("since=yesterday", "/since"),
        ("until=2030-01-01", "/until"),
        ("category=A B", "/category"),
        ("stauts=queued", "/stauts"),
        ("limit=1&limit=2", ""),
    ],
)
async def test_bad_query(world: World, query: str, pointer: str) -> None:
    """A bad parameter is 422, with its name."""
    answered = await world.call("GET", f"/v1/notifications?{query}")
    assert answered.status == 422
    assert list(answered.faults) == [pointer]


async def test_filters(world: World) -> None:
    """Lists can be narrowed by tenant, category, status and time."""
    old = await world.posted(category="billing")
    world.offset = DAY
    emea = await world.posted("acme-emea")
    await world.settle("acme", relayed(), relayed())
    middle = (datetime.now(UTC) + timedelta(hours=12)).strftime("%Y-%m-%dT%H:%M:%SZ")

    async def ids(query: str) -> list[str]:
        return [item["id"] for item in (await world.call("GET", f"/v1/notifications?{query}")).json["items"]]

    assert await ids("") == [emea, old]
    assert await ids("tenant=acme") == [old]
    assert await ids("tenant=acme-emea") == [emea]
    assert await ids("category=billing") == [old]
    assert await ids("status=relayed") == [old]
    assert await ids("status=queued") == [emea]
    assert await ids(f"since={middle}") == [emea]
    assert await ids(f"until={middle}") == [old]
    assert (await world.call("GET", "/v1/notifications?tenant=globex")).code == "not_found"


async def test_pages_of_one_status(world: World) -> None:
    """Pages by status have as many items as others."""
    ids = [await world.posted(send_at=ahead(days=1).isoformat() if index % 2 else None) for index in range(6)]
    first = (await world.call("GET", "/v1/notifications?status=scheduled&limit=2")).json
    second = (await world.call("GET", f"/v1/notifications?status=scheduled&limit=2&cursor={first['next_cursor']}")).json
    assert [item["id"] for page in (first, second) for item in page["items"]] == sorted(ids[1::2], reverse=True)
    assert second["next_cursor"] is None


# Cancel and retry.


async def test_cancel(world: World) -> None:
    """What is cancelled is cancelled for all its recipients; to cancel it again is no mistake."""
    id_ = await world.posted()
    cancelled = await world.call("POST", f"/v1/notifications/{id_}/cancel")
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
    assert {one["state"] for one in cancelled.json["recipients"]} == {State.CANCELLED}
    assert world.outbox.queued["acme"] == 0


async def test_cancel_too_late(world: World) -> None:
    """What is final cannot be cancelled."""
    id_ = await world.posted()
    await world.settle("acme", relayed(), relayed())
    answered = await world.call("POST", f"/v1/notifications/{id_}/cancel")
    assert (answered.status, answered.code) == (409, "already_final")


async def test_retry(world: World) -> None:
    """Deferred, failed and uncertain recipients become due now."""
    id_ = await world.posted(on_ambiguous="hold")
    await world.settle("acme", failed(), Unknown("no reply to the final dot"))
    assert (await show(world, id_))["status"] == "held"
    answered = await world.call("POST", f"/v1/notifications/{id_}/retry")
    assert (answered.status, answered.json["status"]) == (200, "queued")
    assert [event["event"] for event in answered.json["events"]][-1] == "retried"


async def test_retry_of_what_is_queued(world: World) -> None:
    """What is due already stays so."""
    id_ = await world.posted()
    assert (await world.call("POST", f"/v1/notifications/{id_}/retry")).json["status"] == "queued"


async def test_retry_in_flight(world: World) -> None:
    """What is being sent cannot be sent again at the same time."""
    id_ = await world.posted()
    await world.outbox.claim(Flow("acme", ""), 1)
    assert (await world.call("POST", f"/v1/notifications/{id_}/retry")).code == "in_flight"


async def test_retry_of_what_is_erased(world: World) -> None:
    """What was relayed has no content any more, and cannot be sent again."""
    id_ = await world.posted()
    await world.settle("acme", relayed(), relayed())
    answered = await world.call("POST", f"/v1/notifications/{id_}/retry")
    assert (answered.status, answered.code) == (409, "content_gone")


async def test_others_mail_takes_admin(world: World) -> None:
    """Who sees another key's mail may still not cancel or retry it, unless it is an administrator."""
    id_ = await world.posted("acme:send")
    for verb in ("retry", "cancel"):
        path = f"/v1/notifications/{id_}/{verb}"
        assert (await world.call("POST", path, "acme:read")).code == "forbidden"
        assert (await world.call("POST", path, "acme")).code == "forbidden"
        assert (await world.call("POST", path, "acme:admin")).status == 200
    assert (await world.call("POST", f"/v1/notifications/{id_}/cancel", "globex:admin")).code == "not_found"
