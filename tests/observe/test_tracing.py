"""A caller's trace goes with its notification to the relay and beyond, and spans are recorded where somebody wants them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gateway.app import daemon
from gateway.message.notification import compact
from gateway.observe import log, tracing
from gateway.outbox.delivery import decode_envelope, encode_envelope
from gateway.settings import load
from tests.http.world import failed
from tests.outbox.building import notification
from tests.peers.smtp_server import Reply, ScriptedRelay
from tests.process.daemon import Daemon, mail, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan
    from pytest_aiohttp import AiohttpServer

    from tests.http.world import World
    from tests.observe.written import Written

TRACE = "ab" * 16
PARENT = f"00-{TRACE}-{'cd' * 8}-01"
UNSAMPLED = f"00-{TRACE}-{'cd' * 8}-00"
BAD = (
    PARENT.upper(), f"01-{PARENT[3:]}", f"ff-{PARENT[3:]}", f"{PARENT}-00", PARENT[:-1], f"{PARENT} ", "",
    f"00-{'0' * 32}-{'cd' * 8}-01", f"00-{TRACE}-{'0' * 16}-01", PARENT.replace("-", "_"), f"{PARENT}\u0661"[1:],
)  # fmt: skip


def headers(*parents: str, state: str | None = None) -> CIMultiDict[str]:
    given = CIMultiDict([("Traceparent", parent) for parent in parents])
    if state is not None:
        given.add("tracestate", state)
    return given


def test_a_traceparent_is_read() -> None:
    """As its caller wrote it, whatever the name's case."""
    assert tracing.given(headers(PARENT)) == PARENT


@pytest.mark.parametrize("given", [headers(bad) for bad in BAD] + [headers(), headers(PARENT, PARENT)])
def test_a_bad_one_is_ignored(given: CIMultiDict[str]) -> None:
    """Version 00, lower-case hex, no zero ids, and one of it (Trace Context §3.2.2)."""
    assert tracing.given(given) is None


# Kept with the notification.


async def test_it_is_kept_and_shown(world: World) -> None:
    """By each way in; null where there was none, or a bad one."""
    one, bad, none = [
        await world.call("POST", "/v1/notifications", json=mail(), headers=given)
        for given in ({"traceparent": PARENT}, {"traceparent": PARENT.upper()}, {})
    ]
    many = await world.call(
        "POST", "/v1/notifications/batch", json={"notifications": [mail(), mail()]}, headers={"traceparent": PARENT}
    )
    ids = [one.json["id"], bad.json["id"], none.json["id"], *(each["id"] for each in many.json["results"])]
    shown = [(await world.call("GET", f"/v1/notifications/{id_}")).json["traceparent"] for id_ in ids]

    assert shown == [PARENT, None, None, PARENT, PARENT]


def test_what_was_written_before_has_none() -> None:
    """Rows without the field read as they did, and those without a trace are written as they were."""
    before = compact(["<m@x>", "info", "retry", None, None, False, {"a": "b"}])
    with_trace = encode_envelope(replace(notification(), traceparent=PARENT))

    assert (decode_envelope(before).traceparent, decode_envelope(before).trace_id) == (None, None)
    assert PARENT not in encode_envelope(notification())
    assert (decode_envelope(with_trace).traceparent, decode_envelope(with_trace).trace_id) == (PARENT, TRACE)


async def test_lines_about_the_mail_carry_it(written: Written, world: World) -> None:
    """Its acceptance with the request that brought it, and what came of it."""
    log.configure("json", "debug")
    given = {"traceparent": PARENT, "X-Request-Id": "r1"}
    answered = await world.call("POST", "/v1/notifications", json=mail(), headers=given)
    await world.settle("acme", failed())
    told = {line["event"]: line for line in written.lines()}
    id_ = answered.json["id"]

    fields = {"level": "debug", "id": id_, "tenant": "acme", "owner": "acme", "profile": "own"}
    assert told["accepted"].items() >= {**fields, "trace_id": TRACE, "request_id": "r1"}.items()
    assert told["failed"].items() >= {"level": "info", "id": id_, "code": 550, "trace_id": TRACE}.items()
    assert "request_id" not in told["failed"]


# Spans.


@pytest.fixture(scope="module")
def provided() -> InMemorySpanExporter:
    """Set an SDK up as an operator would; a process has one."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(provided: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    """Record spans for as long as the test lasts."""
    provided.clear()
    tracing.start()
    yield provided
    tracing._recorder = None


def hexed(span: ReadableSpan) -> str:
    """The id of a span's trace, as traceparent has it."""
    return f"{span.context.trace_id:032x}"


@asynccontextmanager
async def gateway(folder: Path, relay: ScriptedRelay) -> AsyncIterator[tuple[aiohttp.ClientSession, Daemon]]:
    """Run the whole daemon in this process, and talk to it."""
    files = Daemon(folder, plain(relay.port), webhooks='["127.0.0.0/8"]')
    async with daemon(load(folder / "gateway.toml", {}), {}) as running:
        url, key = f"http://127.0.0.1:{running.http.port}", {"Authorization": f"Bearer {files.key}"}
        async with aiohttp.ClientSession(url, headers=key) as session:
            yield session, files


async def test_one_trace_from_caller_to_relay(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """The caller's span, ours of acceptance, and one of every attempt, each below the one before it."""
    async with ScriptedRelay() as relay, gateway(tmp_path / "g", relay) as (session, _):
        relay.on("rcpt", Reply("451 4.3.0 later"), once=True)
        state = {"traceparent": PARENT, "tracestate": "them=1"}
        async with session.post("/v1/notifications", json=mail(), headers=state) as answer:
            id_ = (await answer.json())["id"]
        await relay.wait_messages(1)
        async with session.get(f"/v1/notifications/{id_}") as answer:
            kept = (await answer.json())["traceparent"]
    accepted, *attempts = sorted(spans.get_finished_spans(), key=lambda span: span.start_time)

    assert (accepted.name, accepted.kind) == ("POST /v1/notifications", SpanKind.SERVER)
    assert f"{accepted.parent.span_id:016x}" == "cd" * 8
    assert accepted.context.trace_state.get("them") == "1"
    assert accepted.attributes["http.response.status_code"] == 202
    assert kept == f"00-{TRACE}-{accepted.context.span_id:016x}-01"
    assert [(span.name, span.kind, span.attributes["outcome"]) for span in attempts] == [
        ("relay", SpanKind.CLIENT, "refused"),
        ("relay", SpanKind.CLIENT, "relayed"),
    ]
    assert {hexed(span) for span in (accepted, *attempts)} == {TRACE}
    assert {span.parent.span_id for span in attempts} == {accepted.context.span_id}
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.UNSET]
    assert dict(attempts[0].attributes) == {
        "notification.id": id_, "profile.owner": "acme", "profile.name": "main", "outcome": "refused",
    }  # fmt: skip


async def hooked(session: aiohttp.ClientSession, files: Daemon, url: str) -> None:
    """Have the tenant told at that address what is relayed."""
    admin = {"Authorization": f"Bearer {files.admin_key}"}
    hook = {"url": url, "events": ["notification.relayed"]}
    async with session.post("/v1/tenants/acme/webhooks", json=hook, headers=admin) as answer:
        assert answer.status == 201, await answer.text()


@pytest.mark.parametrize("recorded", [True, False])
async def test_one_trace_to_the_webhook(
    recorded: bool, tmp_path: Path, aiohttp_server: AiohttpServer, request: pytest.FixtureRequest
) -> None:
    """It is told the caller's trace, as our span of telling it where there is one, else as the caller sent it."""
    spans = request.getfixturevalue("spans") if recorded else None
    told: asyncio.Queue[str] = asyncio.Queue()

    async def take(asked: web.Request) -> web.Response:
        await told.put(asked.headers["traceparent"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    endpoint = await aiohttp_server(app)
    async with ScriptedRelay() as relay, gateway(tmp_path / "g", relay) as (session, files):
        await hooked(session, files, str(endpoint.make_url("/")))
        async with session.post("/v1/notifications", json=mail(), headers={"traceparent": PARENT}):
            pass
        async with asyncio.timeout(10):
            parent = await told.get()
            while spans is not None and "webhook" not in {span.name for span in spans.get_finished_spans()}:
                await asyncio.sleep(0.01)

    if spans is None:
        assert parent == PARENT
        return
    by_name = {span.name: span for span in spans.get_finished_spans()}
    accepted, webhook = by_name["POST /v1/notifications"], by_name["webhook"]
    assert parent == f"00-{TRACE}-{webhook.context.span_id:016x}-01"
    assert webhook.parent.span_id == accepted.context.span_id
    assert {hexed(span) for span in by_name.values()} == {TRACE}
    assert (webhook.kind, webhook.attributes["outcome"]) == (SpanKind.CLIENT, "ok")


async def test_each_request_begins_a_trace_of_its_own(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """Where the caller names none; and a refusal is recorded too."""
    async with ScriptedRelay() as relay, gateway(tmp_path / "g", relay) as (session, _):
        for body in (mail(), mail(), {}):
            async with session.post("/v1/notifications", json=body):
                pass
        async with session.get("/v1/notifications"):
            pass
        await relay.wait_messages(2)
    done = spans.get_finished_spans()
    accepted = [span for span in done if span.kind is SpanKind.SERVER]

    assert [span.attributes["http.response.status_code"] for span in accepted] == [202, 202, 422]
    assert [span.parent for span in accepted] == [None] * 3
    assert len({hexed(span) for span in accepted}) == 3
    assert len({hexed(span) for span in done}) == 3


async def test_what_is_not_sampled_is_handed_on_as_it_came(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """A caller that records nothing gets no span of ours, and its own traceparent is kept."""
    async with ScriptedRelay() as relay, gateway(tmp_path / "g", relay) as (session, _):
        async with session.post("/v1/notifications", json=mail(), headers={"traceparent": UNSAMPLED}) as answer:
            id_ = (await answer.json())["id"]
        await relay.wait_messages(1)
        async with session.get(f"/v1/notifications/{id_}") as answer:
            kept = (await answer.json())["traceparent"]

    assert kept == UNSAMPLED
    assert spans.get_finished_spans() == ()


def test_a_long_state_is_left_out(spans: InMemorySpanExporter) -> None:
    """Of more than 512 characters nothing is kept; the trace goes on."""
    for size in (512, 513):
        state = f"a={'x' * 253},b={'x' * (size - 258)}"
        assert len(state) == size
        span = tracing.request("POST", "/v1/notifications", headers(PARENT, state=state))
        assert span is not None
        span.end(202)
    fits, too_long = spans.get_finished_spans()

    assert (len(fits.context.trace_state), len(too_long.context.trace_state)) == (2, 0)
    assert {hexed(fits), hexed(too_long)} == {TRACE}


NOTHING = "assert tracing.request('POST', '/', None) is tracing.relay(None, '', '', '') is None"


@pytest.mark.parametrize(
    "before",
    ["import sys; sys.modules['opentelemetry'] = None", "import opentelemetry.trace", "import opentelemetry.sdk.trace"],
    ids=["no package", "no SDK", "no SDK set up"],
)
def test_nothing_is_recorded_for_nobody(before: str) -> None:
    """Without the package, or with nobody who collects, there are no spans, and nothing is asked of a request."""
    program = f"{before}\nfrom gateway.observe import tracing\ntracing.start()\n{NOTHING}"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
