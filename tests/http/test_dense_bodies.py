"""Bodies that are made of values, or of faults: they are refused at once, and ordinary ones still hear everything."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.directory.shapes import Preferences, Shape
from gateway.http.density import MAX_VALUES, has_more_values
from gateway.http.faults import MOST_ERRORS, ORDINARY, TOO_MANY, read, validate
from gateway.http.receivers.payload import MAX_POSTED, AlertGroup
from gateway.http.schema import BatchEnvelope, NotificationRequest, PushRequest
from gateway.http.server import HttpServer
from gateway.message.address import Mailbox
from gateway.problems import MAX_FAULTS
from gateway.settings import Http
from tests.http.world import World, running

ALERT = {"status": "firing", "labels": {}}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b"[1,2,3]", 4),
        (b'{"a":1,"b":2}', 3),
        (b'[{"a":[]}]', 4),  # what an empty list might have had is counted
        (rb'["a,b,[{","\",[{","\\",1]', 5),
        (b'{"a":1,"' + b",[{" * 10, 3),
        (b'{"a":1,"' + rb"\"," * 10, 3),
        (b'{"a":1,"\\', 3),
    ],
)
def test_values_are_counted_outside_texts(body: bytes, values: int) -> None:
    """What stands in a text, whole or torn, is no value; of others none is missed."""
    assert has_more_values(body, values - 1)
    assert not has_more_values(body, values)


@pytest.mark.parametrize("names", [0, 98])
def test_texts_that_are_no_values_of_json(names: int) -> None:
    """Of what cannot be JSON not every text is looked at; of what can, all are."""
    commas = b'"' + b"," * 200 + b'"'
    assert has_more_values(b"[" + commas + b'""' * 1_000, 200)
    members = b",".join([b'"name":"value"'] * names + [b'"last":' + commas])
    assert has_more_values(b"{" + members + b"}", names + 1)
    assert not has_more_values(b"{" + members + b"}", names + 2)


@pytest.fixture
async def roomy(tmp_path: Path) -> AsyncIterator[World]:
    """A world that takes bodies of the usual size."""
    async with running(tmp_path) as made:
        http = made.settings.http.model_copy(update={"max_body_bytes": Http().max_body_bytes})
        services = replace(made.services, settings=made.settings.model_copy(update={"http": http}))
        async with HttpServer(services) as server:
            yield replace(made, server=server)


@pytest.mark.parametrize(
    "path", ["/v1/notifications", "/v1/notifications/batch", "/v1/receivers/alertmanager", "/v1/receivers/grafana"]
)
async def test_too_many_values(roomy: World, path: str) -> None:
    """A body with too many values is 413 before anything is made of it, however small it is."""
    body = b'{"notifications":[' + b"1," * MAX_VALUES + b"1]}"
    answered = await roomy.call("POST", path, data=body, headers=JSON)
    assert (answered.status, answered.code) == (413, "payload_too_large")
    assert str(MAX_VALUES) in answered.json["detail"]


async def test_a_text_of_commas(roomy: World) -> None:
    """A long text is one value, whatever stands in it."""
    assert (await roomy.post(text=",[{" * MAX_VALUES)).status == 202


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (NotificationRequest, {"to": [1] * 100_000}),
        (NotificationRequest, {"attachments": [{}] * 100_000}),
        (AlertGroup, {"status": "firing", "alerts": [{}] * 100_000}),
        (PushRequest, {"children": [1] * 100_000, "profiles": [1] * 100_000}),
        (Preferences, {"tenant": "acme", "cc": [1] * 50_000, "rules": [1] * 50_000}),
        (NotificationRequest, {"to": [1] * (MOST_ERRORS + 1)}),
    ],
)
def test_lists_of_faults(shape: type[Shape], body: dict[str, object]) -> None:
    """Of a list that is made of faults the first is found, and none is kept of the others."""
    with pytest.raises(ValidationError) as raised:
        validate(shape, json.dumps(body).encode())
    assert 0 < raised.value.error_count() <= 4


@pytest.mark.parametrize("field", ["headers", "metadata"])
def test_maps_of_faults(field: str) -> None:
    """Of one that is too large that is told, and none of its entries; of faults that no field holds, that they are too many."""
    names = {str(number): 1 for number in range(MOST_ERRORS + 1)}
    told = read(NotificationRequest, json.dumps({"to": [1], "subject": "s", "text": "t", field: names}).encode()).faults
    assert {fault.pointer: fault.code for fault in told} == {"/to/0": "bad_address", f"/{field}": "too_long"}
    assert read(NotificationRequest, json.dumps(names).encode()).faults == (TOO_MANY,)


def test_ordinary_bodies_hear_everything() -> None:
    """As many faults as can be told are told, in lists of more than their length too."""
    reading = read(NotificationRequest, json.dumps({"to": [1] * 1_000, "zzz": 1}).encode())
    assert [fault.pointer for fault in reading.faults[:MAX_FAULTS]] == [f"/to/{n}" for n in range(MAX_FAULTS)]
    assert reading.broken == {"to", "zzz"}


def test_dense_bodies_mean_the_same() -> None:
    """A body with many values that is right is read as any other, and one that is not hears each field's fault."""
    right = {"from": "ann@example.test", "to": ["bob@example.test"], "template": "t", "data": {"a": [0] * ORDINARY}}
    reading = read(NotificationRequest, json.dumps(right).encode())
    assert reading.value is not None
    assert not reading.faults
    assert (reading.value.sender, reading.value.template) == (Mailbox("ann@example.test"), "t")
    wrong = {**right, "to": [1, 2], "cc": [3], "zzz": 1}
    told = {fault.pointer for fault in read(NotificationRequest, json.dumps(wrong).encode()).faults}
    assert told == {"/to/0", "/cc/0", "/zzz"}


def test_so_many_alerts() -> None:
    """A group has its limit, and that many are read."""
    for most, faults in ((MAX_POSTED, set()), (MAX_POSTED + 1, {("/alerts", "too_long")})):
        reading = read(AlertGroup, json.dumps({"status": "firing", "alerts": [ALERT] * most}).encode())
        assert {(fault.pointer, fault.code) for fault in reading.faults} == faults


def test_batches_are_read_whole() -> None:
    """The items of a batch are judged alone, so that one of many values is no fault of the whole."""
    body = json.dumps({"notifications": [{"to": [1] * 100}] * 500}).encode()
    assert len(validate(BatchEnvelope, body).notifications) == 500


async def test_apply_stops_at_what_can_be_told(roomy: World) -> None:
    """Rows after the last fault that is told are not looked at."""
    rows = [{"id": "system"}] * MAX_FAULTS + [{"id": 1}]
    answered = await roomy.call("POST", "/v1/apply", "acme:admin", json={"tenants": rows})
    assert (answered.code, len(answered.json["errors"])) == ("not_found", MAX_FAULTS)
