"""The OpenAPI document, health, and the catcher's pages."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from gateway.http.meanings import FOREIGN, MEANINGS
from gateway.http.openapi import specification
from gateway.http.routes import ROUTES
from gateway.problems import Code
from tests.http.world import World, running


async def test_document_is_valid(world: World) -> None:
    """What is served is OpenAPI 3.1."""
    document = (await world.call("GET", "/openapi.json", None)).json
    assert document["openapi"].startswith("3.1")
    validate(document)


async def test_every_route_is_described(world: World) -> None:
    """No route is missing from the document, and each says what it answers and who may ask; no catcher, no pages."""
    paths = specification(ROUTES)["paths"]
    served = (await world.call("GET", "/openapi.json", None)).json["paths"]
    assert set(paths) - set(served) == {"/catcher", "/catcher/{number}"}
    for route in ROUTES:
        operation = paths[route.path][route.method.lower()]
        assert str(route.status) in operation["responses"]
        assert operation["security"] == ([] if route.public else [{"key": []}])
        if not route.public:
            assert {"401", "403", "500"} <= set(operation["responses"])
        if route.body is not None:
            assert {"400", "408", "413", "415", "422"} <= set(operation["responses"])
            content = operation["requestBody"]["content"]
            assert content["application/json"]["schema"]
            assert ("application/merge-patch+json" in content) == (route.method == "PATCH")


def test_references_resolve() -> None:
    """Every reference points at a schema that is there."""
    document = specification(ROUTES)
    references = set(re.findall(r"#/components/schemas/([\w-]+)", str(document)))
    assert references <= set(document["components"]["schemas"])


def test_every_route_is_about_something() -> None:
    """Each is of one subject, and each subject is described."""
    document = specification(ROUTES)
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for methods in document["paths"].values():
        for operation in methods.values():
            (subject,) = operation["tags"]
            assert subject in described, operation["operationId"]


def test_what_callers_may_send_is_explained() -> None:
    """Every parameter, and every member of a body; but not what programs of others post."""
    document = specification(ROUTES)
    schemas = document["components"]["schemas"]
    for methods in document["paths"].values():
        for operation in methods.values():
            assert all(one["description"] for one in operation["parameters"]), operation["operationId"]
    ahead = {route.body.__name__ for route in ROUTES if route.body is not None} - FOREIGN
    explained = set[str]()
    while ahead:
        explained |= ahead
        for name in ahead:
            for member, schema in schemas[name].get("properties", {}).items():
                assert schema.get("description"), f"{name}.{member}"
        ahead = set(re.findall(r"#/components/schemas/([\w-]+)", str([schemas[name] for name in ahead]))) - explained
    assert {"NotificationRequest", "AttachmentBody", "Credential"} <= explained


def test_no_meaning_is_left_over() -> None:
    """Each stands at a member or a parameter that is there."""
    document = specification(ROUTES)
    said = set(re.findall(r"'description': (?:'([^']*)'|\"([^\"]*)\")", str(document)))
    words = {one or other for one, other in said}
    assert not [text for text in MEANINGS.values() if text not in words]


def test_names_are_the_apis() -> None:
    """Models are described under the names that callers use, not under ours."""
    schemas = specification(ROUTES)["components"]["schemas"]
    assert "from" in schemas["NotificationRequest"]["properties"]
    assert "from" in schemas["NotificationView"]["properties"]
    assert "sender" not in str(schemas["NotificationRequest"]["properties"].keys())
    assert schemas["NotificationRequest"]["additionalProperties"] is False
    assert set(schemas["Problem"]["properties"]["code"]["enum"]) == {code.code for code in Code}


def test_addresses_are_described_in_both_forms() -> None:
    """Also of those whom a tenant copies."""
    schemas = specification(ROUTES)["components"]["schemas"]
    forms = schemas["NotificationRequest"]["properties"]["cc"]["items"]
    assert len(forms["oneOf"]) == 2
    for model in ("PreferencesBody", "Preferences"):
        assert [schemas[model]["properties"][name]["items"] for name in ("cc", "bcc")] == [forms, forms]


def test_every_body_is_shown_by_an_example() -> None:
    """And what is shown is valid for the body's own model."""
    schemas = specification(ROUTES)["components"]["schemas"]
    for route in ROUTES:
        if route.body is not None:
            examples = schemas[route.body.__name__].get("examples", [])
            assert examples, route.name
            for example in examples:
                route.body.model_validate_json(json.dumps(example))


async def test_health(world: World) -> None:
    """Liveness and readiness need no key."""
    for path in ("/livez", "/readyz"):
        answered = await world.call("GET", path, None)
        assert (answered.status, answered.json) == (200, {"status": "ok", "reasons": []})


async def test_not_ready(tmp_path: Path) -> None:
    """While there are reasons, readiness is 503 with them; liveness is not concerned."""
    async with running(tmp_path, reasons=lambda: ["store_broken"]) as world:
        answered = await world.call("GET", "/readyz", None)
        assert (answered.status, answered.json["reasons"]) == (503, ["store_broken"])
        assert answered.headers["Retry-After"]
        assert (await world.call("GET", "/livez", None)).status == 200


@dataclass(frozen=True)
class Caught:
    number: int
    received_at: int
    sender: str
    recipients: tuple[str, ...]
    data: bytes


class Catcher:
    def messages(self) -> list[Caught]:
        return [
            Caught(2, 1_000, "a@b.example", ("c@d.example",), b"Subject: two\r\n\r\n<script>alert(1)</script>"),
            Caught(1, 0, "<script>", (), b"Subject: one\r\n\r\n"),
        ]


async def test_no_catcher(world: World) -> None:
    """Without a catcher its pages are not there."""
    for path in ("/catcher", "/catcher/1"):
        assert (await world.call("GET", path, None)).code == "not_found"


async def test_catcher(tmp_path: Path) -> None:
    """Caught mail is listed as JSON, and shown raw so that it cannot act in a browser, which is sent to the pages."""
    async with running(tmp_path, catcher=Catcher()) as world:
        listed = (await world.call("GET", "/catcher", None)).json["items"]
        assert [item["number"] for item in listed] == [2, 1]
        assert listed[0]["recipients"] == ["c@d.example"]
        page = await world.call("GET", "/catcher", None, headers={"Accept": "text/html,*/*"}, allow_redirects=False)
        assert (page.status, page.headers["Location"], page.text) == (303, "/ui/catcher", "")
        raw = await world.call("GET", listed[0]["href"], None)
        assert raw.text.startswith("Subject: two")
        assert raw.headers["Content-Type"].startswith("text/plain")
        assert "sandbox" in raw.headers["Content-Security-Policy"]
        assert raw.headers["X-Content-Type-Options"] == "nosniff"
        assert (await world.call("GET", "/catcher/3", None)).code == "not_found"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_route_names_are_unique(route: object) -> None:
    """Metrics and operation ids tell routes apart."""
    assert [other.name for other in ROUTES].count(route.name) == 1  # type: ignore[attr-defined]
