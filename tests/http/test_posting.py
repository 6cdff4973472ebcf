"""Posting notifications: what is accepted, who gets it, and what the answer promises."""

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from gateway.directory.shapes import Tenant
from gateway.http.admission import Buckets
from gateway.message.notification import Role
from gateway.outbox.delivery import decode_envelope
from gateway.outbox.states import decode
from gateway.store.postgresql import PostgresqlStore
from gateway.store.postgresql.server import Server
from gateway.store.rows import Inserted, StoredRow
from tests.http.world import DAY, World, ahead, notification, profile, running
from tests.peers.postgresql import Postgresql
from tests.store.building import row

pytestmark = pytest.mark.asyncio


async def row_of(world: World, id_: str) -> StoredRow:
    row = await world.store.get(id_, content=True)
    assert row is not None
    return row


async def recipients(world: World, id_: str) -> list[tuple[str, Role]]:
    return [(one.address, one.role) for one in decode((await row_of(world, id_)).recipients)]


async def test_answer_of_an_accepted_notification(world: World) -> None:
    """The answer has exactly the promised members, and Location is where the notification is."""
    answered = await world.post()
    assert answered.status == 202
    assert set(answered.json) == {"id", "status", "tenant", "profile", "accepted_at", "expires_at", "href"}
    assert answered.json["status"] == "queued"
    assert (answered.json["tenant"], answered.json["profile"]) == ("acme", "own")
    assert answered.headers["Location"] == answered.json["href"] == f"/v1/notifications/{answered.json['id']}"
    assert (await world.call("GET", answered.json["href"])).status == 200


async def test_accepted_is_on_disk(world: World) -> None:
    """What was answered 202 is in the store, under the id of the answer."""
    assert (await row_of(world, await world.posted())).flow.tenant == "acme"


async def test_times_are_utc_with_milliseconds(world: World) -> None:
    """A notification lives for its ttl from its acceptance; times end in Z."""
    answered = (await world.post(ttl_seconds=60)).json
    accepted, expires = (datetime.fromisoformat(answered[name]) for name in ("accepted_at", "expires_at"))
    assert (expires - accepted).total_seconds() == 60
    assert answered["accepted_at"].endswith("Z")


async def test_scheduled(world: World) -> None:
    """A later send_at makes the notification scheduled, and its life begins then."""
    at = ahead(days=30)
    elsewhere = at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    answered = (await world.post(send_at=elsewhere.isoformat(), ttl_seconds=60)).json
    assert answered["status"] == "scheduled"
    assert datetime.fromisoformat(answered["expires_at"]) == at + timedelta(seconds=60)
    assert (await world.call("GET", answered["href"])).json["status"] == "scheduled"


async def test_past_send_at_is_now(world: World) -> None:
    """A send_at that is over means at once, and the life begins with the acceptance."""
    answered = (await world.post(send_at="2020-01-01T00:00:00Z", ttl_seconds=60)).json
    assert answered["status"] == "queued"
    assert answered["expires_at"] > answered["accepted_at"]


async def test_message_id_is_of_the_senders_domain(world: World) -> None:
    """The Message-ID is minted at acceptance, from the id and the domain of the From address."""
    id_ = await world.posted(sender="ceo@acme.example")
    assert decode_envelope((await row_of(world, id_)).envelope).message_id == f"<{id_}@acme.example>"


async def test_every_role_and_form_of_address(world: World) -> None:
    """Addresses are bare or named, in every role; domains become lower-case A-labels."""
    id_ = await world.posted(
        to=["Ann@Example.TEST"],
        cc=[{"name": "Bob", "address": "bob@bücher.example"}],
        bcc=[{"address": "eve@example.test"}],
        reply_to=[{"name": "Desk", "address": "desk@acme.example"}],
        sender={"name": "Boss", "address": "boss@acme.example"},
    )
    assert await recipients(world, id_) == [
        ("Ann@example.test", Role.TO),
        ("bob@xn--bcher-kva.example", Role.CC),
        ("eve@example.test", Role.BCC),
        ("audit@acme.example", Role.BCC),
    ]


@pytest.mark.parametrize("role", ["to", "cc", "bcc", "reply_to"])
async def test_bad_address_in_a_list(world: World, role: str) -> None:
    """A bad address is told by its place, and not repeated."""
    answered = await world.post(**{role: ["ok@example.test", "no body <x@y>"]})
    assert (answered.status, answered.code) == (422, "invalid")
    assert answered.faults == {f"/{role}/1": "bad_address"}
    assert "no body" not in answered.text


async def test_bad_sender(world: World) -> None:
    """The sender goes through the same grammar."""
    assert (await world.post(sender={"name": "x\r\ny", "address": "a@b.example"})).faults == {
        "/from": "control_character"
    }


async def test_each_address_once(world: World) -> None:
    """An address gets one copy, in the first of its roles, whatever its case."""
    id_ = await world.posted(
        to=["ann@example.test", "ANN@example.test"], cc=["Ann@example.test", "b@example.test"], bcc=["b@example.test"]
    )
    assert await recipients(world, id_) == [
        ("ann@example.test", Role.TO),
        ("b@example.test", Role.CC),
        ("audit@acme.example", Role.BCC),
    ]


async def test_preferred_copies(world: World) -> None:
    """The tenant's copies are added by severity; a copy that is named already is not doubled."""
    id_ = await world.posted(severity="error", bcc=["ops@acme.example"])
    assert await recipients(world, id_) == [
        ("ann@example.test", Role.TO),
        ("ops@acme.example", Role.CC),
        ("audit@acme.example", Role.BCC),
    ]


async def test_default_recipients(world: World) -> None:
    """The profile's own recipients stand in when the request names none at all."""
    assert (await recipients(world, await world.posted(to=None)))[0] == ("desk@acme.example", Role.TO)
    assert ("desk@acme.example", Role.TO) not in await recipients(
        world, await world.posted(to=[], cc=["c@example.test"])
    )


async def test_no_recipient(world: World) -> None:
    """Without recipients of the request or the profile there is nobody to send to."""
    answered = await world.post(to=None, profile="lent")
    assert (answered.status, answered.code, answered.faults) == (422, "no_recipient", {"/to": "no_recipient"})


async def test_default_recipients_of_strangers_are_not_used(world: World) -> None:
    """A profile outside the caller's reach lends its relay, not its recipients."""
    assert (await world.post("globex", to=None)).code == "no_recipient"
    assert (await world.post("system", to=None, tenant="globex")).status == 202


async def test_profile_of_strangers_is_not_named(world: World) -> None:
    """The answer names the profile only to those who may know it."""
    assert (await world.post("globex")).json["profile"] is None
    assert (await world.post("acme-emea", profile="lent")).json["profile"] == "lent"


async def test_named_profile_is_a_demand(world: World) -> None:
    """A named profile is never replaced by another."""
    for name in ("missing", "secret"):
        assert (await world.post("acme-emea", profile=name)).code == "no_profile"


async def test_no_profile(world: World) -> None:
    """Without a usable profile nothing is accepted."""
    await world.put(profile("system", "main", is_default=True, enabled=False))
    answered = await world.post("globex")
    assert (answered.status, answered.code) == (409, "no_profile")


async def test_disabled_tenant(world: World) -> None:
    """A disabled tenant posts nothing; faults of the body are told first."""
    await world.key_for("globex")
    await world.put(Tenant(id="globex", enabled=False))
    assert (await world.post("globex", subject=None)).status == 422
    answered = await world.post("globex")
    assert (answered.status, answered.code) == (409, "tenant_disabled")


async def test_forced_sender(world: World) -> None:
    """Where the profile forces its sender, a request sets neither From nor Reply-To."""
    answered = await world.post(profile="locked", sender="a@acme.example", reply_to=["b@acme.example"])
    assert (answered.status, answered.code) == (422, "sender_forced")
    assert answered.faults == {"/from": "sender_forced", "/reply_to": "sender_forced"}


async def test_allowed_senders(world: World) -> None:
    """A sender is one that the profile allows; without a list, only its own."""
    assert (await world.post(sender="any@acme.example")).status == 202
    assert (await world.post(sender="any@evil.example")).code == "sender_not_allowed"
    assert (await world.post(profile="lent", sender="LENT@acme.example")).status == 202
    assert (await world.post(profile="lent", sender="any@acme.example")).code == "sender_not_allowed"


async def test_tenant_of_the_body(world: World) -> None:
    """A key posts for its tenant and those below; any other is not there, whatever else is wrong."""
    assert (await world.post(tenant="acme-emea")).json["tenant"] == "acme-emea"
    for tenant in ("globex", "system", "nobody"):
        answered = await world.post(tenant=tenant)
        assert (answered.status, answered.code) == (404, "not_found")
        assert (await world.post(tenant=tenant, subject=7)).status == 404


async def test_test_key_never_sends(world: World) -> None:
    """What a test key posts is relayed at once and marked as simulated."""
    await world.key_for("acme:send,read,test", mode="test")
    id_ = await world.posted("acme:send,read,test")
    shown = (await world.call("GET", f"/v1/notifications/{id_}")).json
    assert (shown["status"], shown["simulated"]) == ("relayed", True)
    assert shown["recipients"][0]["state"] == "relayed"


# Limits.


async def test_a_replay_outlives_what_would_refuse_it_now(world: World) -> None:
    """A repeat gets its first answer also when the tenant's rate is used up since, or the tenant disabled."""
    first = await with_key(world, "k")
    await world.put(Tenant.model_validate({"id": "acme", "enabled": False}))
    again = await with_key(world, "k")

    assert (again.status, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert again.json["id"] == first.json["id"]
    assert (await with_key(world, "another")).code == "tenant_disabled"


async def test_rate_limit(world: World) -> None:
    """Over its rate a tenant is told when to come back, and not before the body was checked."""
    await world.put(Tenant.model_validate({"id": "acme", "limits": {"per_minute": 2}}))
    assert [(await world.post()).status for _ in range(3)] == [202, 202, 429]
    refused = await world.post()
    assert (refused.code, refused.headers["Retry-After"]) == ("rate_limited", "30")
    assert (await world.post(subject=None)).status == 422
    world.offset += 30_000
    assert (await world.post()).status == 202


@pytest.mark.parametrize("per_minute", [1, 9, 14, 97, 600])
async def test_a_minutes_worth_may_come_at_once(per_minute: int) -> None:
    """And no more; sums of fractions as large as the time of day take nothing away."""
    buckets = Buckets()
    waits = [
        buckets.take("acme", 1_767_225_600_000, interval=60_000 / per_minute, burst=per_minute)
        for _ in range(per_minute + 5)
    ]
    assert [wait == 0 for wait in waits] == [True] * per_minute + [False] * 5


async def test_rate_limit_of_all_daemons(tmp_path: Path, postgresql: Postgresql, schema: str) -> None:
    """What another daemon took of a tenant's mail counts here, for each part of a batch too; a repeat is answered."""
    here, there = (PostgresqlStore(Server(postgresql.url, schema=schema), name) for name in ("here", "there"))
    async with running(tmp_path, on=here) as world, there:
        await world.put(Tenant.model_validate({"id": "acme", "limits": {"per_minute": 4}}))
        now = world.outbox.clock()
        world.outbox.clock = lambda: now + world.offset

        async def take_elsewhere(count: int) -> None:
            rows = [row(key_id="", per_minute=4) for _ in range(count)]
            assert await there.accept(rows, now + world.offset) == [Inserted()] * count

        await take_elsewhere(2)
        first = await with_key(world, "a")
        assert [first.status, (await world.post()).status] == [202, 202]
        refused = await world.post()
        assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "rate_limited", "15")
        assert (await with_key(world, "a")).json == first.json
        assert (await with_key(world, "b")).code == "rate_limited"

        world.offset = 60_000
        known = notification(idempotency_key="c")
        [accepted] = (await batch(world, known)).json["results"]
        await take_elsewhere(2)
        results = (await batch(world, known, notification(), notification())).json["results"]
        assert [result["status"] for result in results] == [202, 202, 429]
        assert (results[0]["id"], results[2]["problem"]["code"]) == (accepted["id"], "rate_limited")
        world.offset = 75_000
        assert (await with_key(world, "b")).status == 202
        assert world.outbox.queued["acme"] == 5


async def test_queue_limit(world: World) -> None:
    """Over its queue limit a tenant is refused, also by requests that arrive together."""
    await world.put(Tenant.model_validate({"id": "acme", "limits": {"queued": 3}}))
    answers = await asyncio.gather(*(world.post() for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [202] * 3 + [429] * 5
    assert {answer.code for answer in answers if answer.status == 429} == {"queue_full"}
    assert (await world.post()).headers["Retry-After"].isdigit()


# Idempotency.


async def with_key(world: World, key: str, who: str = "acme", **fields: Any) -> Any:
    return await world.post(who, key, **fields)


async def test_repeat_gets_the_first_answer(world: World) -> None:
    """The same request under the same key is the first answer again, marked as such."""
    first, second = await with_key(world, "k1"), await with_key(world, "k1")
    assert second.status == 202
    assert second.json == first.json
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers


async def test_other_body_under_the_same_key(world: World) -> None:
    """A key stands for one body, octet by octet."""
    await with_key(world, "k1")
    answered = await with_key(world, "k1", subject="Other")
    assert (answered.status, answered.code) == (422, "idempotency_mismatch")


async def test_twenty_at_once(world: World) -> None:
    """Twenty repeats at the same moment make one notification."""
    answers = await asyncio.gather(*(with_key(world, "burst") for _ in range(20)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum(answer.headers.get("Idempotency-Replayed") == "true" for answer in answers) == 19
    assert len((await world.call("GET", "/v1/notifications")).json["items"]) == 1


async def test_keys_belong_to_the_tenant(world: World) -> None:
    """The same key in another tenant is another key; in the same tenant it is shared by all API keys."""
    first, other = await with_key(world, "k"), await with_key(world, "k", who="globex")
    assert first.json["id"] != other.json["id"]
    assert (await with_key(world, "k", who="acme:send")).json["id"] == first.json["id"]


async def test_refusals_are_not_remembered(world: World) -> None:
    """Only a 202 takes the key."""
    assert (await with_key(world, "k", subject=None)).status == 422
    assert (await with_key(world, "k")).status == 202


async def test_keys_are_kept_long_enough(world: World) -> None:
    """A key is kept three days, or a day longer than the notification lives."""
    await with_key(world, "short", ttl_seconds=60)
    await with_key(world, "long", ttl_seconds=432_000)
    world.offset = 3 * DAY - 60_000
    assert "Idempotency-Replayed" in (await with_key(world, "short", ttl_seconds=60)).headers
    world.offset = 3 * DAY + 60_000
    assert "Idempotency-Replayed" not in (await with_key(world, "short", ttl_seconds=60)).headers
    world.offset = 6 * DAY - 60_000
    assert "Idempotency-Replayed" in (await with_key(world, "long", ttl_seconds=432_000)).headers


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "ümlaut"])
async def test_unusable_idempotency_key(world: World, key: str) -> None:
    """A key that is no key is told together with the body's faults."""
    answered = await with_key(world, key, subject=None)
    assert answered.status == 422
    assert answered.faults == {"": "bad_idempotency_key", "/subject": "required"}


async def test_test_and_live_keys_do_not_share_promises(world: World) -> None:
    """What a test key sent never answers for a live one."""
    await world.key_for("acme:send,read,test", mode="test")
    assert (await with_key(world, "k", who="acme:send,read,test")).status == 202
    assert (await with_key(world, "k")).code == "idempotency_mismatch"


async def test_replay_does_not_name_a_strangers_profile(world: World) -> None:
    """A replayed answer tells its caller no more than a fresh one would."""
    first = await with_key(world, "k", who="system", tenant="globex")
    again = await with_key(world, "k", who="globex", tenant="globex")
    assert (first.json["profile"], again.json["profile"]) == ("main", None)
    assert again.json["id"] == first.json["id"]


# Batches.


async def batch(world: World, *items: Any, key: str = "acme", **options: Any) -> Any:
    return await world.call("POST", "/v1/notifications/batch", key, json={"notifications": list(items)}, **options)


async def test_batch_results(world: World) -> None:
    """Each item has its result in order; bad ones stop no other, and good ones share one commit."""
    await world.key_for("acme")
    before = world.store.writer.commits
    answered = await batch(
        world,
        *[notification()] * 4,
        notification(subject=None),
        notification(tenant="globex"),
        7,
        notification(profile="missing"),
    )
    assert answered.status == 200
    results = answered.json["results"]
    assert [result["index"] for result in results] == list(range(8))
    assert [result["status"] for result in results] == [202, 202, 202, 202, 422, 404, 422, 409]
    assert results[4]["problem"]["errors"][0]["pointer"] == "/subject"
    assert results[5]["problem"]["code"] == "not_found"
    assert set(results[0]) == {"index", "status", "id"}
    assert world.store.writer.commits == before + 1


async def test_batch_items_carry_their_own_keys(world: World) -> None:
    """Repeats are found across batches and within one; another item under the same key is refused."""
    item = notification(idempotency_key="i1")
    [first, twin] = (await batch(world, item, item)).json["results"]
    assert first["id"] == twin["id"]
    [again, other] = (await batch(world, dict(reversed(item.items())), {**item, "text": "x"})).json["results"]
    assert again["id"] == first["id"]
    assert other["problem"]["code"] == "idempotency_mismatch"


async def test_batch_size(world: World) -> None:
    """A batch holds up to 500 items; an empty one is no fault."""
    assert len((await batch(world, *[notification(to=["a@b.example"], text="")] * 500)).json["results"]) == 500
    assert (await batch(world, *[{}] * 501)).faults == {"/notifications": "too_long"}
    assert (await batch(world)).json == {"results": []}


async def test_batch_takes_no_header_key(world: World) -> None:
    """A promise that a batch cannot keep is refused."""
    assert (await batch(world, headers={"Idempotency-Key": "k"})).status == 422


async def test_batch_and_limits(world: World) -> None:
    """A batch fills the queue up to its limit, and the rest of it is refused."""
    await world.put(Tenant.model_validate({"id": "acme", "limits": {"queued": 2}}))
    results = (await batch(world, *[notification()] * 4)).json["results"]
    assert [result["status"] for result in results] == [202, 202, 429, 429]
