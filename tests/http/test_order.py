"""Which answer wins when several would fit, and the parts of HTTP that every route has."""

import asyncio
import gzip
from typing import Any

import pytest

from gateway.directory.entries import API, entry
from gateway.directory.shapes import Tenant
from gateway.http.routes import ROUTES
from gateway.http.routing import Route, Router
from gateway.store.protocol import StoreBroken, StoreFull
from gateway.store.rows import Entry
from tests.http.world import PROBLEM, World

JSON_TYPE = {"Content-Type": "application/json"}
PROTECTED = [route for route in ROUTES if not route.public]
UNKNOWN_ID = "0" * 32


def filled(route: Route, tenant: str = "acme") -> str:
    return (
        route.path.replace("{tenant}", tenant)
        .replace("{id}", UNKNOWN_ID)
        .replace("{name}", "own")
        .replace("{number}", "1")
    )


@pytest.mark.parametrize("route", PROTECTED, ids=lambda route: route.name)
async def test_401_first(world: World, route: Route) -> None:
    """Without a key nothing else is said, whatever else is wrong."""
    answered = await world.call(route.method, filled(route, "nobody"), None, data=b"{")
    assert (answered.status, answered.code) == (401, "unauthorized")
    assert answered.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "route", [route for route in PROTECTED if "{tenant}" in route.path], ids=lambda route: route.name
)
async def test_404_before_403(world: World, route: Route) -> None:
    """A tenant outside the reach is not there, even for a key without the scope."""
    for tenant in ("globex", "system", "nobody", "acme%2Femea"):
        assert (await world.call(route.method, filled(route, tenant), "acme:profiles")).code == "not_found"


@pytest.mark.parametrize("route", [route for route in PROTECTED if route.locate is None], ids=lambda route: route.name)
async def test_403_before_the_body(world: World, route: Route) -> None:
    """A key without the scope is told so before anybody looks at its body."""
    key = "acme:secrets" if "profiles" in route.scopes else "acme:profiles"
    answered = await world.call(route.method, filled(route), key, data=b"{", headers={"Content-Type": "x/y"})
    assert (answered.status, answered.code) == (403, "forbidden")


async def test_403_of_an_object(world: World) -> None:
    """An object in reach is there; without the scope one still may not."""
    id_ = await world.posted()
    assert (await world.call("GET", f"/v1/notifications/{id_}", "acme:profiles")).code == "forbidden"


async def test_415_413_400_422(world: World) -> None:
    """Kind comes before size, size before form, form before faults."""
    huge = b"[" * 70_000

    async def post(data: bytes, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await world.call("POST", "/v1/notifications", data=data, headers=named)

    assert (await post(huge, Content_Type="text/plain")).code == "unsupported_media_type"
    assert (await post(huge, Content_Type="application/json")).code == "payload_too_large"
    assert (await post(b"[", Content_Type="application/json")).code == "bad_json"
    assert (await post(b"[]", Content_Type="application/json")).code == "invalid"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": "application/json", "Content-Encoding": "br"},
    ],
)
async def test_unsupported_kinds(world: World, headers: dict[str, str]) -> None:
    """Only plain JSON in UTF-8 is read."""
    answered = await world.call("POST", "/v1/notifications", data=b"{}", headers=headers)
    assert (answered.status, answered.code) == (415, "unsupported_media_type")


async def test_compressed_body_is_not_opened(world: World) -> None:
    """A compressed body is refused for being one, however large it would become."""
    bomb = gzip.compress(b" " * 10_000_000)
    headers = {**JSON_TYPE, "Content-Encoding": "gzip"}
    assert (await world.call("POST", "/v1/notifications", data=bomb, headers=headers)).status == 415


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
async def test_supported_kinds(world: World, kind: str) -> None:
    """JSON may say that it is UTF-8."""
    answered = await world.call("POST", "/v1/notifications", data=b"{}", headers={"Content-Type": kind})
    assert answered.status == 422


@pytest.mark.parametrize(("method", "status"), [("PATCH", 200), ("PUT", 415)])
@pytest.mark.parametrize("kind", ["application/merge-patch+json", "Application/Merge-Patch+JSON; charset=utf-8"])
async def test_a_merge_patch_may_say_that_it_is_one(world: World, method: str, status: int, kind: str) -> None:
    """As RFC 7396 has it; what replaces is none."""
    path, headers = "/v1/tenants/acme/profiles/own", {"Content-Type": kind}
    answered = await world.call(method, path, "acme:admin", data=b'{"enabled": true}', headers=headers)
    assert answered.status == status, answered.text


async def test_chunked_body(world: World) -> None:
    """A body without a length is read, and limited like any other."""

    async def chunks(size: int, count: int) -> Any:
        for _ in range(count):
            yield b" " * size

    async def post(data: Any) -> str | None:
        return (await world.call("POST", "/v1/notifications", data=data, headers=JSON_TYPE)).code

    assert await post(chunks(1000, 3)) == "bad_json"
    assert await post(chunks(10_000, 7)) == "payload_too_large"


async def test_405(world: World) -> None:
    """A method that a resource does not have is answered with those it has."""
    answered = await world.call("PUT", "/v1/notifications")
    assert (answered.status, answered.code, answered.headers["Allow"]) == (405, "method_not_allowed", "GET, HEAD, POST")
    assert (await world.call("GET", "/v1/notifications/batch")).headers["Allow"] == "POST"
    assert (await world.call("OPTIONS", "/livez", None)).headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path", ["/v1/notifications/", "/v1//notifications", "/V1/notifications", "/v1/x", "/x", "/", "/" + "a/" * 2000]
)
async def test_404(world: World, path: str) -> None:
    """A path that is in no route is not there, even if it nearly is."""
    assert (await world.call("GET", path)).code == "not_found"


async def test_strangers_learn_no_paths(world: World) -> None:
    """Without a key, what is under /v1 and what is not look alike."""
    assert (await world.call("GET", "/v1/nothing", None)).status == 401
    assert (await world.call("PUT", "/v1/notifications", None)).status == 401


async def test_head(world: World) -> None:
    """HEAD is GET without its body."""
    got, headed = await world.call("GET", "/openapi.json", None), await world.call("HEAD", "/openapi.json", None)
    assert (headed.status, headed.text) == (200, "")
    assert headed.headers["Content-Length"] == got.headers["Content-Length"]


async def test_request_id(world: World) -> None:
    """Every answer has a request id: the caller's if it is a sane one, and the problem repeats it."""
    answered = await world.call("GET", "/v1/x", headers={"X-Request-Id": "trace-1"})
    assert answered.headers["X-Request-Id"] == answered.json["request_id"] == "trace-1"
    made = [
        (await world.call("GET", "/livez", None, headers={"X-Request-Id": bad})).headers["X-Request-Id"]
        for bad in ("", "a b", "x" * 65)
    ]
    assert len(set(made)) == 3
    assert {len(id_) for id_ in made} == {32}


async def test_problem_document(world: World) -> None:
    """A problem has the members of RFC 9457 and ours."""
    answered = await world.call("GET", "/v1/x")
    assert answered.headers["Content-Type"] == PROBLEM
    assert answered.headers["Cache-Control"] == "no-store"
    assert answered.json == {
        "type": "urn:notification-gateway:problem:not_found",
        "title": "There is no such resource.",
        "status": 404,
        "detail": "There is no such resource.",
        "code": "not_found",
        "request_id": answered.headers["X-Request-Id"],
    }


async def test_answers_are_not_stored(world: World) -> None:
    """No cache keeps what is under /v1."""
    assert (await world.call("GET", "/v1/notifications")).headers["Cache-Control"] == "no-store"
    assert "aiohttp" not in (await world.call("GET", "/livez", None)).headers["Server"].lower()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreFull("x"), 503, "storage_full"),
        (StoreBroken("x"), 503, "unavailable"),
        (ZeroDivisionError("secret"), 500, "internal"),
    ],
)
async def test_failures(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    """A failure of ours is a problem without its reason; the operator is told, unless the disk is just full."""

    def fail(_rows: object, _now: object) -> Any:
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed

    monkeypatch.setattr(world.store, "accept", fail)
    answered = await world.post()
    assert (answered.status, answered.code) == (status, code)
    assert ("Retry-After" in answered.headers) == (status == 503)
    assert "secret" not in answered.text
    assert world.failures == ([] if isinstance(error, StoreFull) else [error])
    world.failures.clear()


async def test_key_revoked_while_the_body_arrives(world: World) -> None:
    """A key that is revoked before its body is there posts nothing any more."""
    key = await world.key_for("acme")
    sent = asyncio.Event()

    async def body() -> Any:
        yield b'{"to":["a@b.example"],"subject":"x",'
        sent.set()
        while world.directory.snapshot.key(key.split("_")[1]) is not None:
            await asyncio.sleep(0)
        yield b'"text":"y"}'

    posting = asyncio.create_task(world.call("POST", "/v1/notifications", data=body(), headers=JSON_TYPE))
    await sent.wait()
    await world.write([], [Entry("key", "acme", key.split("_")[1], "", API)])
    assert (await posting).code == "unauthorized"


async def test_directory_changed_while_the_body_arrives(world: World) -> None:
    """What is decided about a body is decided on the directory as it is then."""
    await world.key_for("acme")
    sent = asyncio.Event()
    go = asyncio.Event()

    async def body() -> Any:
        yield b'{"to":["a@b.example"],"subject":"x",'
        sent.set()
        await go.wait()
        yield b'"text":"y"}'

    posting = asyncio.create_task(world.call("POST", "/v1/notifications", data=body(), headers=JSON_TYPE))
    await sent.wait()
    await world.write([entry(Tenant(id="acme", enabled=False), API)])
    go.set()
    assert (await posting).code == "tenant_disabled"


def test_router_prefers_literal_paths() -> None:
    """A literal path wins over a template, and encoded slashes stay in their segment."""
    router = Router(ROUTES)
    found = router.find("/v1/notifications/batch")
    assert found is not None
    assert set(found[0].methods) == {"POST"}
    found = router.find("/v1/notifications/a%2Fb")
    assert found is not None
    assert found[1] == {"id": "a/b"}


async def test_client_that_leaves(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that goes away before its answer has posted all the same."""
    arrived, leave = asyncio.Event(), asyncio.Event()
    accept = world.store.accept

    async def slow(rows: Any, now: int) -> Any:
        arrived.set()
        await leave.wait()
        return await accept(rows, now)

    monkeypatch.setattr(world.store, "accept", lambda rows, now: asyncio.ensure_future(slow(rows, now)))
    posting = asyncio.create_task(world.post())
    await arrived.wait()
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    leave.set()
    while not (await world.call("GET", "/v1/notifications")).json["items"]:
        await asyncio.sleep(0)
