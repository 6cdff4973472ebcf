"""What is wrong with a body: every fault at once, by its place, without an echo."""

import base64

import pytest

from gateway.http.faults import pointer, read
from gateway.http.schema import NotificationRequest
from gateway.http.values import parse_time, read_cursor, time_text, write_cursor
from gateway.problems import BY_CODE, Code, Fault, refusal
from tests.http.world import World, ahead, notification

ATTACHMENT = {"filename": "a.png", "content_type": "image/png", "content": "aGk="}

FAULTS = [
    ({"subject": None}, {"/subject": "required"}),
    ({"text": None}, {"/text": "required"}),
    ({"subject": ""}, {"/subject": "too_short"}),
    ({"subject": "a\r\nBcc: x@y.example"}, {"/subject": "control_character"}),
    ({"subject": "x" * 999}, {"/subject": "too_long"}),
    ({"unknown": 1}, {"/unknown": "unknown_field"}),
    ({"a/b~c": 1}, {"/a~1b~0c": "unknown_field"}),
    ({"category": "Not.Ok"}, {"/category": "bad_value"}),
    ({"severity": "grave"}, {"/severity": "bad_value"}),
    ({"priority": 1}, {"/priority": "bad_value"}),
    ({"ttl_seconds": 59}, {"/ttl_seconds": "bad_value"}),
    ({"ttl_seconds": 432_001}, {"/ttl_seconds": "bad_value"}),
    ({"ttl_seconds": "60"}, {"/ttl_seconds": "bad_value"}),
    ({"ttl_seconds": 60.5}, {"/ttl_seconds": "bad_value"}),
    ({"send_at": "2030-01-01T00:00:00"}, {"/send_at": "bad_time"}),
    ({"send_at": 1893456000}, {"/send_at": "bad_time"}),
    ({"send_at": "2030-02-30T00:00:00Z"}, {"/send_at": "bad_time"}),
    ({"send_at": "9999-12-31T23:59:59-23:00"}, {"/send_at": "bad_time"}),
    ({"send_at": "9999-12-31T23:59:59.9999Z"}, {"/send_at": "bad_time"}),
    ({"send_at": "0001-01-01T00:00:00+23:00"}, {"/send_at": "bad_time"}),
    ({"send_at": "2999-01-01T00:00:00Z"}, {"/send_at": "bad_value"}),
    ({"to": "ann@example.test"}, {"/to": "bad_value"}),
    ({"to": [{"address": "a@b.example", "role": "x"}]}, {"/to/0": "bad_address"}),
    ({"to": [{"name": "x" * 201, "address": "a@b.example"}]}, {"/to/0": "bad_address"}),
    ({"to": [7]}, {"/to/0": "bad_address"}),
    ({"to": ["a@b.example"] * 101}, {"/to": "too_long"}),
    ({"to": ["a@b.example"] * 50, "cc": ["c@b.example"] * 30, "bcc": ["d@b.example"] * 21}, {"/to": "too_many"}),
    ({"template": "t"}, {"/subject": "conflict", "/text": "conflict", "/template": "unknown_template"}),
    ({"data": {"a": 1}}, {"/data": "conflict"}),
    (
        {"template": "t", "subject": None, "text": None, "data": {"a": float("nan")}},
        {"/data": "bad_value", "/template": "unknown_template"},
    ),
    (
        {"subject": None, "text": None, "template": "welcome", "data": {"name": "Ann", "list": [1, None, {"a": True}]}},
        {"/template": "unknown_template"},
    ),
    ({"headers": {"Bcc": "x@y.example"}}, {"/headers/Bcc": "bad_header"}),
    ({"headers": {"X-": "a"}}, {"/headers/X-": "bad_header"}),
    ({"headers": {"X-A": "a\nb"}}, {"/headers/X-A": "control_character"}),
    ({"headers": {"X-A": "a", "x-a": "b"}}, {"/headers/X-A": "repeated", "/headers/x-a": "repeated"}),
    ({"headers": {"X-A": "x" * 2049}}, {"/headers/X-A": "too_long"}),
    ({"headers": {f"X-{n}": "a" for n in range(21)}}, {"/headers": "too_long"}),
    ({"headers": {"References": "<ü@b.example>"}}, {"/headers/References": "bad_header"}),
    ({"headers": {"In-Reply-To": " "}}, {"/headers/In-Reply-To": "bad_header"}),
    ({"headers": {"List-Unsubscribe": f"<https://{'x' * 950}>"}}, {"/headers/List-Unsubscribe": "bad_header"}),
    ({"metadata": {f"{n}": "a" for n in range(21)}}, {"/metadata": "too_long"}),
    ({"metadata": {"a": "x" * 257}}, {"/metadata/a": "too_long"}),
    ({"metadata": {"a": 1}}, {"/metadata/a": "bad_value"}),
    ({"attachments": [{**ATTACHMENT, "content": "aGk"}]}, {"/attachments/0/content": "bad_base64"}),
    ({"attachments": [{**ATTACHMENT, "content": "aG\nk="}]}, {"/attachments/0/content": "bad_base64"}),
    ({"attachments": [{**ATTACHMENT, "content": "é"}]}, {"/attachments/0/content": "bad_base64"}),
    ({"attachments": [{**ATTACHMENT, "content_type": "png"}]}, {"/attachments/0/content_type": "bad_value"}),
    ({"attachments": [{**ATTACHMENT, "content_type": "a/b\r\nX: y"}]}, {"/attachments/0/content_type": "bad_value"}),
    ({"attachments": [{**ATTACHMENT, "filename": "a\x00b"}]}, {"/attachments/0/filename": "control_character"}),
    ({"attachments": [{**ATTACHMENT, "inline": True}]}, {"/attachments/0/content_id": "required"}),
    (
        {"attachments": [{**ATTACHMENT, "content_id": "a"}, {**ATTACHMENT, "content_id": "<a>"}]},
        {"/attachments/1/content_id": "repeated"},
    ),
    ({"profile": "-x"}, {"/profile": "bad_value"}),
    ({"tenant": "ACME"}, {"/tenant": "bad_value"}),
    ({"read_receipt": "yes"}, {"/read_receipt": "bad_value"}),
    ({"on_ambiguous": "guess"}, {"/on_ambiguous": "bad_value"}),
    ({"idempotency_key": "k"}, {"/idempotency_key": "unknown_field"}),
]

ACCEPTED = [
    {"text": None, "html": "<p>Hi</p>"},
    {"text": ""},
    {"headers": {"X-Anything": "ü", "List-Unsubscribe": "<https://example.test/u>", "references": "<a@b> <c@d>"}},
    {"attachments": [{**ATTACHMENT, "inline": True, "content_id": "logo"}, ATTACHMENT]},
    {"to": ["a@b.example"] * 100},
    {"metadata": {"k" * 256: "v" * 256}},
    {"ttl_seconds": 60},
    {"ttl_seconds": 432_000},
    {"send_at": ahead(days=365).isoformat()},
    {"tenant": None, "profile": None},
]


@pytest.mark.parametrize(("fields", "faults"), FAULTS)
async def test_fault(world: World, fields: dict[str, object], faults: dict[str, str]) -> None:
    """A body with a fault is 422 and says where."""
    answered = await world.post(**fields)
    assert (answered.status, answered.faults) == (422, faults)
    assert answered.code == "invalid"


@pytest.mark.parametrize("fields", ACCEPTED)
async def test_accepted(world: World, fields: dict[str, object]) -> None:
    """What the contract allows is accepted."""
    answered = await world.post(**fields)
    assert answered.status == 202, answered.text


async def test_all_faults_at_once(world: World) -> None:
    """Faults of fields, between fields, and against the directory are told together."""
    answered = await world.call(
        "POST",
        "/v1/notifications",
        json={"subject": "a\nb", "zzz": 1, "metadata": {"a": 1}, "data": {}, "from": "x@evil.example", "cc": []},
    )
    assert answered.faults == {
        "/subject": "control_character",
        "/metadata/a": "bad_value",
        "/zzz": "unknown_field",
        "/text": "required",
        "/data": "conflict",
        "/from": "sender_not_allowed",
    }
    assert answered.code == "invalid"


async def test_no_recipient_beside_other_faults(world: World) -> None:
    """That nobody is named is told with the other faults, unless the recipients themselves are at fault."""
    answered = await world.post(profile="lent", to=None, subject=None)
    assert answered.faults == {"/subject": "required", "/to": "no_recipient"}
    assert (await world.post(profile="lent", to=["x"])).faults == {"/to/0": "bad_address"}


@pytest.mark.parametrize("body", ["[]", '"x"', "7", "null", "true"])
async def test_not_an_object(world: World, body: str) -> None:
    """JSON that is no object is a fault of the whole."""
    answered = await world.call("POST", "/v1/notifications", data=body, headers={"Content-Type": "application/json"})
    assert (answered.status, answered.faults) == (422, {"": "bad_value"})


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'a':1}", b"\xff", b'{"to":["\\ud800"]}', b'{"a":1}x', b"[" * 100_0, b"\xef\xbb\xbf{}"]
)
async def test_bad_json(world: World, body: bytes) -> None:
    """What is no JSON is 400, and nothing of it is repeated."""
    answered = await world.call("POST", "/v1/notifications", data=body, headers={"Content-Type": "application/json"})
    assert (answered.status, answered.code) == (400, "bad_json")


async def test_nothing_is_echoed(world: World) -> None:
    """No value that was sent comes back, whatever is wrong with it."""
    mark = "hunter2hunter2"
    fields = dict.fromkeys(
        ("tenant", "category", "severity", "to", "from", "attachments", "headers", "profile", "send_at", "ttl_seconds"),
        mark,
    )
    answered = await world.call("POST", "/v1/notifications", json={**fields, "metadata": [mark], "text": {"a": mark}})
    assert answered.status in (404, 422)
    assert mark not in answered.text
    answered = await world.call(
        "POST", "/v1/notifications", json={**notification(to=[mark]), "metadata": {"a": [mark]}}
    )
    assert len(answered.faults) == 2
    assert mark not in answered.text


async def test_many_faults_are_bounded(world: World) -> None:
    """A body that is nothing but faults does not earn an endless answer."""
    answered = await world.call("POST", "/v1/notifications", json={f"f{number}": 1 for number in range(2000)})
    assert answered.status == 422
    assert len(answered.json["errors"]) == 200


def test_pointer_escapes() -> None:
    """Pointers follow RFC 6901, and are cut where a name is the caller's."""
    assert pointer(("a/b", 0, "m~n", "[key]")) == "/a~1b/0/m~0n"
    assert len(pointer(("x" * 10_000,))) == 200


def test_top_level_code() -> None:
    """The only kind of fault gives its code to the whole, if the catalogue has it."""
    assert refusal([Fault("/to", "no_recipient", "")]).code is Code.NO_RECIPIENT
    assert refusal([Fault("/x", "unknown_field", "")]).code is Code.INVALID
    assert refusal([Fault("/to", "no_recipient", ""), Fault("/x", "bad_value", "")]).code is Code.INVALID


def test_catalogue() -> None:
    """Every problem has its own code in snake case, an error's status and a sentence."""
    assert len(BY_CODE) == len(Code)
    for code in Code:
        assert code.code == code.code.lower()
        assert 400 <= code.status < 600
        assert code.title.endswith(".")


def test_partial_reading_keeps_what_is_good() -> None:
    """What is right in a faulty body is read, so that rules between fields can be told."""
    reading = read(NotificationRequest, b'{"to":["x"],"subject":"Hi","text":"a","ttl_seconds":1}')
    assert reading.value is not None
    assert (reading.value.subject, reading.broken) == ("Hi", {"to", "ttl_seconds"})


def test_times_come_back() -> None:
    """A time is read and written to the millisecond, and offsets are undone."""
    assert time_text(parse_time("2030-01-31T12:00:00.123+02:00")) == "2030-01-31T10:00:00.123Z"
    assert time_text(parse_time("1999-12-31t23:59:59z")) == "1999-12-31T23:59:59.000Z"


def test_cursors_come_back() -> None:
    """A cursor is read as it was written; a changed one is refused."""
    cursor = write_cursor(b"acme-emea")
    assert read_cursor(cursor) == b"acme-emea"
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[3] ^= 1
    with pytest.raises(ValueError, match="cursor"):
        read_cursor(base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="))
