"""The connection test over HTTP: green, every kind of red, as events, by whom, how often, and what it never tells."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

from gateway.credentials.secret import Secret
from gateway.credentials.tokens import Tokens
from gateway.directory.changes import OPERATOR
from gateway.directory.rules import Policy
from gateway.directory.shapes import Link, Pause, Tenant
from gateway.http import admission, server, stream, testing
from gateway.relay import tester
from gateway.relay.guard import Guard
from gateway.relay.sign_in import SignIns
from gateway.settings import EgressRule
from gateway.smtp.dial import Dialer
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.probe import Trial
from gateway.smtp.session import Opener
from gateway.smtp.transaction import Timeouts
from tests.http.world import World, profile, running
from tests.peers.smtp_server import Close, Hold, Raw, Reply, ScriptedRelay, Silence, issue_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.http.world import Answered, Json

ADMIN = "acme:admin"
EDITOR = "acme:profiles"
CHILD = "acme-emea:admin"
TEST = "/v1/tenants/acme/profiles/main/test"
UNSAVED = "/v1/tenants/acme/profiles/test"
INHERITED = "/v1/tenants/acme-emea/profiles/main/test"
ANN = {"to": "ann@example.test"}
EVENTS = {"Accept": "text/event-stream"}
CANARY = "canary-7f3 pass"
LOOPBACK = EgressPolicy((25, 465, 587), (EgressRule(ip_network("127.0.0.0/8"), None),))
IN_CLEAR = ["secret", "resolve", "connect", "greeting", "auth", "sender", "recipient", "content"]


@asynccontextmanager
async def place(folder: Path, egress: EgressPolicy = LOOPBACK, seconds: float = 1.0) -> AsyncIterator[World]:
    """A world whose tests reach relays on this machine, by the code that sends; a reply is waited for so long."""

    async def test(*given: Any) -> Any:
        return await test_of.test(*given)

    async with running(folder, test=test) as world:
        world.directory.policy = Policy(egress, plaintext_auth=("127.0.0.1",))
        credentials = world.services.credentials
        in_clear = frozenset({"127.0.0.1", "localhost"})
        opener = Opener(Dialer(egress), "gateway.example.test", Timeouts(seconds, 5.0, 5.0, 1.0), in_clear)
        tokens = Tokens({}, credentials.cache, time.monotonic)
        test_of = tester.Tester(SignIns(credentials, tokens, opener, Guard(world.store)))
        yield world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with place(tmp_path) as made:
        yield made


@dataclass
class Event:
    """One event of a stream."""

    name: str
    data: Any


def events(text: str) -> list[Event]:
    """Read a stream as a browser does: comments are nothing."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            assert fields.keys() == {"event", "data"}
            found.append(Event(fields["event"], json.loads(fields["data"])))
    return found


def fields(relay: ScriptedRelay, **more: Any) -> Json:
    """A profile for a relay on this machine, as a caller writes it."""
    given = {"host": "127.0.0.1", "port": relay.port, "security": "none", "from": "noreply@acme.example"}
    return {**given, "name": "main", **more}


def signing_in(value: str, name: str = "app") -> Json:
    """How a profile signs in by a password."""
    return {"username": name, "credential": {"source": "plaintext", "value": value}}


async def saved(world: World, relay: ScriptedRelay, **more: Any) -> None:
    """Make `acme/main`."""
    made = await world.call("POST", "/v1/tenants/acme/profiles", ADMIN, json=fields(relay, **more))
    assert made.status == 201, made.text


async def tried(world: World, relay: ScriptedRelay, **more: Any) -> Json:
    """Make `acme/main` and test it; the answer, which must be 200."""
    await saved(world, relay, **more)
    answered = await world.call("POST", TEST, EDITOR, json=ANN)
    assert answered.status == 200, answered.text
    told: Json = answered.json
    return told


def passed(told: Mapping[str, Any]) -> list[str]:
    """Which phases were passed."""
    return [step["phase"] for step in told["phases"] if step["ok"]]


async def audited(world: World, tenant: str) -> list[Json]:
    """What the tenant's log says of tests, newest first."""
    log = await world.call("GET", f"/v1/tenants/{tenant}/audit", f"{tenant}:admin")
    return [row for row in log.json["items"] if row["action"] == "profile.test"]


# Green.


async def test_green(world: World) -> None:
    """All phases in order, each timed; the message reaches exactly the address that was named."""
    async with ScriptedRelay() as relay:
        told = await tried(world, relay, to=["desk@acme.example"])

    assert (told["ok"], told["error"], passed(told)) == (True, None, IN_CLEAR)
    assert all(step.keys() == {"phase", "ok", "milliseconds", "detail"} for step in told["phases"])
    [mail] = relay.messages
    assert mail.rcpt_tos == ("ann@example.test",)
    assert b"Subject: TEST MESSAGE!\r\n" in mail.data
    assert b"ATTENTION: THIS IS A TEST MESSAGE!" in mail.data


async def test_the_message_is_the_callers(world: World) -> None:
    """Address with a name, subject and text, as the API takes them elsewhere."""
    async with ScriptedRelay() as relay:
        await saved(world, relay)
        body = {"to": {"name": "Ann", "address": "ann@Example.test"}, "subject": "Is it on?", "message": "Hello Ann"}
        assert (await world.call("POST", TEST, EDITOR, json=body)).json["ok"]

    assert b"Subject: Is it on?\r\n" in relay.messages[0].data
    assert b"Hello Ann" in relay.messages[0].data


@pytest.mark.parametrize("security", ["starttls", "implicit_tls"])
async def test_green_over_tls(world: World, security: str) -> None:
    """TLS stands where it comes in the dialogue, and says until when the certificate is good."""
    tls = issue_tls()
    async with ScriptedRelay(users={"app": CANARY}, tls=tls.context, implicit_tls=security == "implicit_tls") as relay:
        ca = {"ca_certificates": tls.ca_pem}
        told = await tried(world, relay, security=security, tls=ca, auth=signing_in(CANARY))

    order = ["greeting", "tls"] if security == "starttls" else ["tls", "greeting"]
    assert passed(told) == ["secret", "resolve", "connect", *order, "auth", "sender", "recipient", "content"]
    assert "valid until" in next(step["detail"] for step in told["phases"] if step["phase"] == "tls")


@pytest.mark.parametrize("state", ["disabled", "paused"])
async def test_before_it_is_used(world: World, state: str) -> None:
    """A profile that is disabled or paused is tested like another."""
    async with ScriptedRelay() as relay:
        await saved(world, relay, enabled=state != "disabled")
        if state == "paused":
            await world.put(Pause(tenant="acme", profile="main"))
        assert (await world.call("POST", TEST, EDITOR, json=ANN)).json["ok"]


# As events.


async def test_phases_come_as_they_happen(world: World) -> None:
    """While the relay thinks about the recipient, all before it is told; then the rest, and last the whole answer."""
    go_on = asyncio.Event()
    async with ScriptedRelay({"rcpt": Hold(go_on)}) as relay:
        await saved(world, relay)
        headers = {**EVENTS, "Authorization": f"Bearer {await world.key_for(EDITOR)}"}
        async with world.session.post(world.url + TEST, json=ANN, headers=headers) as response:
            early = ""
            while early.count("event: phase") < 5:
                early += (await response.content.readuntil(b"\n\n")).decode()
            go_on.set()
            late = (await response.read()).decode()

    told = events(early + late)
    assert response.headers["Content-Type"] == "text/event-stream"
    assert (response.headers["Cache-Control"], response.headers["X-Accel-Buffering"]) == ("no-store", "no")
    assert (response.headers["Server"], bool(response.headers["X-Request-Id"])) == ("notification-gateway", True)
    assert [one.name for one in told] == ["phase"] * len(IN_CLEAR) + ["result"]
    assert [one.data for one in told[:-1]] == told[-1].data["phases"]
    assert (told[-1].data["ok"], passed(told[-1].data)) == (True, IN_CLEAR)


async def test_red_events(world: World) -> None:
    """The phase that failed is an event like the others, and the answer says why."""
    async with ScriptedRelay({"rcpt": Reply("550 5.1.1 no such user")}) as relay:
        await saved(world, relay)
        answered = await world.call("POST", TEST, EDITOR, json=ANN, headers=EVENTS)

    *phases, result = events(answered.text)
    assert (phases[-1].data["phase"], phases[-1].data["ok"]) == ("recipient", False)
    assert (result.data["ok"], result.data["error"]["code"]) == (False, "no_such_mailbox")


async def test_a_long_phase_is_kept_alive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By comments, which are no events."""
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.01)
    go_on = asyncio.Event()
    async with ScriptedRelay({"mail": Hold(go_on)}) as relay:
        await saved(world, relay)
        headers = {**EVENTS, "Authorization": f"Bearer {await world.key_for(EDITOR)}"}
        async with world.session.post(world.url + TEST, json=ANN, headers=headers) as response:
            text = ""
            while "\n\n:\n\n:\n\n" not in text:
                text += (await response.content.readuntil(b"\n\n")).decode()
            go_on.set()
            text += (await response.read()).decode()

    assert [one.name for one in events(text)] == ["phase"] * len(IN_CLEAR) + ["result"]


async def test_a_client_that_goes_away_ends_the_test(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay is left, the log says that the test was broken off, and its place is free again."""
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(admission, "TESTS_AT_ONCE", 2)
    async with ScriptedRelay({"rcpt": Silence()}) as relay:
        await saved(world, relay)
        headers = {**EVENTS, "Authorization": f"Bearer {await world.key_for(EDITOR)}"}
        for _ in range(2):
            async with world.session.post(world.url + TEST, json=ANN, headers=headers) as response:
                await response.content.readuntil(b"greeting")
                await relay.wait(lambda: "RCPT" in relay.sessions[-1].verbs)
                response.close()
            await relay.wait(lambda: relay.sessions[-1].closed)
        relay.forget()
        again = await world.call("POST", TEST, EDITOR, json=ANN)

    rows = await audited(world, "acme")
    assert again.json["ok"]
    assert len(rows) == 3
    assert rows[-1]["changes"] == [{"field": "ok", "after": False}, {"field": "error.code", "after": "broken_off"}]


async def test_the_daemon_does_not_wait_for_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops when its patience is over, whether the test is answered by events or at its end."""
    monkeypatch.setattr(server, "DRAIN_SECONDS", 0.1)
    async with place(tmp_path, seconds=3600.0) as world, ScriptedRelay({"connect": Silence()}) as relay:
        await saved(world, relay)
        asked = [
            asyncio.ensure_future(world.call("POST", TEST, EDITOR, json=ANN, headers=headers))
            for headers in (EVENTS, {})
        ]
        await relay.wait(lambda: len(relay.sessions) == 2)
        async with asyncio.timeout(30):
            await world.server.stop()
            ends = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(end, aiohttp.ClientError) for end in ends), ends
        await relay.wait(lambda: all(session.closed for session in relay.sessions))


async def test_what_fails_under_way_is_a_problem(tmp_path: Path) -> None:
    """The operator is told with the request's id; the caller is told nothing else."""

    async def failing(*_: object) -> Any:
        raise RuntimeError(CANARY)

    async with running(tmp_path, test=failing) as world:
        await world.put(profile("acme", "main"))
        answered = await world.call("POST", TEST, EDITOR, json=ANN, headers=EVENTS)
        [row] = await audited(world, "acme")
        [failure] = world.failures
        world.failures.clear()

    [last] = events(answered.text)
    assert (last.name, last.data["code"]) == ("problem", "internal")
    assert last.data["request_id"] == answered.headers["X-Request-Id"]
    assert str(failure) == CANARY
    assert "canary" not in answered.text
    assert row["changes"][-1] == {"field": "error.code", "after": "broken_off"}


# Red.


@pytest.mark.parametrize(
    ("script", "phase", "code", "hint"),
    [
        ({"connect": Reply("554 5.7.1 go away")}, "greeting", "relay_rejects_us", "block list"),
        ({"connect": Reply("421 4.3.2 busy")}, "greeting", "greeting_deferred", "busy"),
        ({"connect": Close()}, "greeting", "unreachable", "firewall"),
        ({"connect": Raw(b"SSH-2.0-OpenSSH\r\n")}, "greeting", "protocol", "SMTP relay"),
        ({"mail": Reply("550 5.7.60 not allowed to send as")}, "sender", "send_as_denied", "Send As"),
        ({"mail": Reply("530 5.7.0 authentication required")}, "sender", "auth_required", "user name"),
        ({"rcpt": Reply("554 5.7.1 Relay access denied")}, "recipient", "relay_denied", "forwards nothing"),
        ({"rcpt": Reply("450 4.7.1 Greylisted, try again")}, "recipient", "greylisted", "five minutes"),
        ({"final": Reply("554 5.7.1 rejected by DMARC")}, "content", "policy", "DMARC"),
        ({"final": Reply("554 5.6.0 bad content")}, "content", "content_rejected", "administrator"),
        ({"final": Close()}, "content", "no_answer", "look into the mailbox"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)  # fmt: skip
async def test_red(world: World, script: Any, phase: str, code: str, hint: str) -> None:
    """The phase that failed, why by code and words, and what to do; the phases before it passed."""
    async with ScriptedRelay(script) as relay:
        told = await tried(world, relay)

    error = told["error"]
    assert (told["ok"], error["phase"], error["code"]) == (False, phase, code)
    assert hint in error["hint"]
    assert (told["phases"][-1]["phase"], told["phases"][-1]["ok"]) == (phase, False)
    assert passed(told) == IN_CLEAR[: IN_CLEAR.index(phase)]
    assert told["phases"][-1]["detail"] == error["detail"]


async def test_nobody_listens(world: World) -> None:
    """Phase connect, with what the system says."""
    relay = ScriptedRelay()
    relay._bind().close()
    told = await tried(world, relay)
    assert (told["error"]["phase"], told["error"]["code"]) == ("connect", "unreachable")
    assert "refused" in told["error"]["detail"]


async def test_no_such_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that no name server knows."""

    async def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    await world.put(profile("acme", "main", host="relay.nowhere.example", port=587))
    await world.key_for(EDITOR)
    before = asyncio.get_running_loop().getaddrinfo

    async def looked_up(host: Any, *given: Any, **named: Any) -> Any:
        return await (unknown if host == "relay.nowhere.example" else before)(host, *given, **named)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", looked_up)
    error = (await world.call("POST", TEST, EDITOR, json=ANN)).json["error"]
    assert (error["phase"], error["code"]) == ("resolve", "name_unknown")
    assert "how the host is written" in error["hint"]


async def test_egress_tells_no_more_than_its_code(tmp_path: Path) -> None:
    """Not the address that a name leads to."""
    async with place(tmp_path, EgressPolicy((587,), ())) as world:
        await world.put(profile("acme", "main", host="localhost", port=587))
        answered = await world.call("POST", TEST, EDITOR, json=ANN)

    error = answered.json["error"]
    assert (error["phase"], error["code"]) == ("resolve", "egress_refused")
    assert "127.0.0.1" not in answered.text
    assert "::1" not in answered.text


async def test_starttls_where_tls_comes_first(world: World) -> None:
    """The profile waits for a greeting, the relay for TLS: which security the port takes is told."""
    tls = issue_tls()
    async with ScriptedRelay(tls=tls.context, implicit_tls=True) as relay:
        told = await tried(world, relay, security="starttls")
    assert (told["error"]["phase"], told["error"]["code"]) == ("greeting", "unreachable")
    assert "choose security implicit_tls" in told["error"]["hint"]


@pytest.mark.parametrize("offered", [True, False])
async def test_tls_where_starttls_comes_first(world: World, offered: bool) -> None:
    """And the other way round; what the relay offers instead is told."""
    async with ScriptedRelay(tls=issue_tls().context if offered else None) as relay:
        told = await tried(world, relay, security="implicit_tls")
    assert (told["error"]["phase"], told["error"]["code"]) == ("tls", "tls_failed")
    assert ("choose security starttls" if offered else "does not offer STARTTLS") in told["error"]["hint"]


async def test_starttls_is_not_offered(world: World) -> None:
    """It is asked for always, and never done without; phase tls."""
    async with ScriptedRelay() as relay:
        told = await tried(world, relay, security="starttls")
    assert (told["error"]["phase"], told["error"]["code"]) == ("tls", "tls_required")
    assert "Nothing is sent in clear" in told["error"]["hint"]
    assert all("MAIL" not in session.verbs for session in relay.sessions)


async def red_certificate(world: World, context: ssl.SSLContext, ca_pem: str | None) -> Json:
    """Test a relay with this certificate, trusting this authority; why it is red."""
    async with ScriptedRelay(users={"app": CANARY}, tls=context) as relay:
        tls = {} if ca_pem is None else {"ca_certificates": ca_pem}
        told = await tried(world, relay, security="starttls", tls=tls, auth=signing_in(CANARY))
    error: Json = told["error"]
    assert (error["phase"], error["code"]) == ("tls", "tls_verify")
    assert not any(session.logins for session in relay.sessions)
    return error


async def test_a_certificate_for_another_host(world: World) -> None:
    """The hint tells whose it is."""
    tls = issue_tls("relay.other.example", "mx.other.example")
    error = await red_certificate(world, tls.context, tls.ca_pem)
    assert "relay.other.example" in error["hint"]
    assert "mx.other.example" in error["hint"]


async def test_a_certificate_of_an_unknown_authority(world: World) -> None:
    """The hint tells which."""
    authority = trustme.CA(organization_name="Acme Internal CA")
    error = await red_certificate(world, issue_tls(authority=authority).context, None)
    assert "Acme Internal CA" in error["hint"]
    assert "tls.ca_certificates" in error["hint"]


async def test_a_certificate_that_is_over(world: World) -> None:
    """The hint tells when it ended, and what this machine's clock says."""
    authority, now = trustme.CA(), dt.datetime.now(dt.UTC)
    ended = now - dt.timedelta(days=3)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_before=now - dt.timedelta(days=9), not_after=ended).configure_cert(context)
    error = await red_certificate(world, context, authority.cert_pem.bytes().decode())
    assert f"{ended:%Y-%m-%d}" in error["hint"]
    assert "clock" in error["hint"]


async def test_a_secret_that_is_not_there(world: World) -> None:
    """Phase secret, before anything is connected to."""
    async with ScriptedRelay(users={"app": CANARY}) as relay:
        credential = {"source": "stored", "key": "nowhere"}
        told = await tried(world, relay, auth={"username": "app", "credential": credential})
    assert (told["error"]["phase"], told["error"]["code"]) == ("secret", "secret_missing")
    assert relay.sessions == []


async def test_time_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too long is red in the phase that was not over, whatever waits behind it."""
    monkeypatch.setattr(testing, "LONGEST_SECONDS", 0.2)
    async with ScriptedRelay({"connect": Silence()}) as relay:
        told = await tried(world, relay)
    assert (told["error"]["phase"], told["error"]["code"]) == ("greeting", "timed_out")
    assert passed(told) == ["secret", "resolve", "connect"]
    assert told["phases"][-1]["ok"] is False


# What a relay says.


@pytest.mark.parametrize("headers", [{}, EVENTS])
async def test_a_password_that_the_relay_repeats_is_told_nowhere(
    world: World, headers: dict[str, str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in the answer, the events, the audit log, or what the daemon writes."""
    async with ScriptedRelay(
        {"auth": Reply(f"535 5.7.8 user app password {CANARY} is wrong")}, users={"app": "other"}
    ) as relay:
        await saved(world, relay, auth=signing_in(CANARY))
        answered = await world.call("POST", TEST, EDITOR, json=ANN, headers=headers)
        result = events(answered.text)[-1].data if headers else answered.json
        log = await world.call("GET", "/v1/tenants/acme/audit", ADMIN)

    assert (result["error"]["phase"], result["error"]["code"]) == ("auth", "auth_failed")
    assert "canary" not in answered.text + log.text + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("headers", [{}, EVENTS])
async def test_what_a_relay_says_is_only_text(world: World, headers: dict[str, str]) -> None:
    """Markup, escape sequences and line ends of its own neither act nor make events."""
    said = '550-<script>alert(1)</script>\x1b[31m\x07\r\n550-event: result\r\n550 data: {"ok": true}\u2028'
    async with ScriptedRelay({"rcpt": Reply(said)}) as relay:
        await saved(world, relay)
        answered = await world.call("POST", TEST, EDITOR, json=ANN, headers=headers)

    result = events(answered.text)[-1].data if headers else answered.json
    assert answered.headers["Content-Type"] == ("text/event-stream" if headers else "application/json")
    assert (result["ok"], result["error"]["phase"]) == (False, "recipient")
    assert all(sign.isprintable() for sign in result["error"]["detail"])
    if headers:
        assert [one.name for one in events(answered.text)].count("result") == 1


async def test_an_account_is_not_locked_by_testing(world: World) -> None:
    """After three refusals the next test says so, and signs in nowhere."""
    async with ScriptedRelay(users={"app": "right"}) as relay:
        await saved(world, relay, auth=signing_in("wrong"))
        told = [(await world.call("POST", TEST, EDITOR, json=ANN)).json["error"] for _ in range(4)]

    assert [(one["phase"], one["code"]) for one in told] == [("auth", "auth_failed")] * 4
    assert "too often" in told[3]["detail"]
    assert "too often" not in told[2]["detail"]
    assert sum(len(session.logins) for session in relay.sessions) == 3


# An inherited profile.


@pytest.fixture
async def lent(world: World) -> AsyncIterator[ScriptedRelay]:
    """The relay of `acme/main`, which is lent to acme-emea."""
    async with ScriptedRelay(users={"app": CANARY}) as relay:
        await saved(world, relay, auth=signing_in(CANARY))
        await world.put(Link(tenant="acme", profile="main", child="acme-emea"))
        yield relay


@pytest.mark.parametrize("headers", [{}, EVENTS])
async def test_a_child_is_told_no_more_than_whether_each_phase_passed(
    world: World, lent: ScriptedRelay, headers: dict[str, str]
) -> None:
    """Green: without times and words."""
    answered = await world.call("POST", INHERITED, CHILD, json=ANN, headers=headers)
    result = events(answered.text)[-1].data if headers else answered.json

    assert result == {"ok": True, "phases": [{"phase": one, "ok": True} for one in IN_CLEAR], "error": None}
    if headers:
        assert [one.data for one in events(answered.text)[:-1]] == result["phases"]
    assert lent.messages[0].rcpt_tos == ("ann@example.test",)


@pytest.mark.parametrize("key", [CHILD, ADMIN, "system"])
async def test_a_child_is_told_only_the_code(world: World, lent: ScriptedRelay, key: str) -> None:
    """Red: whoever looks under the child, and also in the child's log; in the owner's there is nothing."""
    lent.on("rcpt", Reply("554 5.7.1 relay.acme.example: Relay access denied"))
    answered = await world.call("POST", INHERITED, key, json=ANN)
    [row] = await audited(world, "acme-emea")
    log = await world.call("GET", "/v1/tenants/acme-emea/audit", CHILD)

    failed = IN_CLEAR.index("recipient")
    assert answered.json == {
        "ok": False,
        "phases": [{"phase": one, "ok": place < failed} for place, one in enumerate(IN_CLEAR[: failed + 1])],
        "error": {"code": "relay_denied"},
    }
    for hidden in ("127.0.0.1", str(lent.port), "acme.example", "denied:"):
        assert hidden not in answered.text + log.text
    assert row["changes"] == [{"field": "ok", "after": False}, {"field": "error.code", "after": "relay_denied"}]
    assert await audited(world, "acme") == []


@pytest.mark.parametrize("stopped", ["profile", "pause", "owner"])
async def test_a_child_tests_only_what_its_mail_could_go_by(world: World, lent: ScriptedRelay, stopped: str) -> None:
    """What the owner has stopped does not send for the child; it is not told what it is."""
    match stopped:
        case "profile":
            await world.call("PATCH", "/v1/tenants/acme/profiles/main", ADMIN, json={"enabled": False})
        case "pause":
            await world.put(Pause(tenant="acme", profile="main"))
        case _:
            await world.put(Tenant(id="acme", enabled=False))
    assert (await world.call("POST", INHERITED, CHILD, json=ANN)).code == "no_profile"
    assert lent.sessions == []


# A profile that is not saved.


def body(relay: ScriptedRelay, **more: Any) -> Json:
    """Ask to test a profile that is not saved."""
    return {**ANN, "profile": fields(relay, **more)}


async def test_unsaved(world: World) -> None:
    """Its password signs in and is kept nowhere; the directory stays what it was; the log says where it went."""
    async with ScriptedRelay(users={"app": CANARY}, require_auth=True) as relay:
        await world.key_for(EDITOR)
        await world.key_for(ADMIN)
        before = await world.store.directory()
        answered = await world.call("POST", UNSAVED, EDITOR, json=body(relay, name="new", auth=signing_in(CANARY)))
        after = await world.store.directory()
        [row] = await audited(world, "acme")

    assert (answered.json["ok"], passed(answered.json)) == (True, IN_CLEAR)
    assert after == before
    assert row["object"] == "new"
    assert {change["field"]: change["after"] for change in row["changes"]} == {
        "saved": False, "host": "127.0.0.1", "port": relay.port, "ok": True,
    }  # fmt: skip
    for file in world.store.path.parent.glob("gateway.db*"):
        assert b"canary" not in file.read_bytes()


@pytest.mark.parametrize(("tenant", "name"), [("acme", "own"), ("acme-emea", "lent"), ("acme", "new")])
async def test_a_taken_name_is_no_fault(world: World, tenant: str, name: str) -> None:
    """Neither the tenant's own nor an inherited one's; nor is the default mark of another."""
    async with ScriptedRelay() as relay:
        asked = body(relay, name=name, is_default=True)
        answered = await world.call("POST", f"/v1/tenants/{tenant}/profiles/test", f"{tenant}:profiles", json=asked)
    assert answered.json["ok"], answered.text


async def test_all_faults_of_an_unsaved_test_at_once(world: World) -> None:
    """Those of the profile under its pointer, those between its fields, and those of the message."""
    asked = {
        "to": "nobody", "subject": "two\r\nlines", "colour": "red",
        "profile": {"name": "a b", "host": "x.example", "port": 99999, "security": "none", "auth": signing_in("x")},
    }  # fmt: skip
    refused = await world.call("POST", UNSAVED, EDITOR, json=asked)

    assert refused.code == "invalid"
    assert refused.faults == {
        "/to": "bad_address", "/subject": "control_character", "/colour": "unknown_field",
        "/profile/name": "bad_value", "/profile/port": "bad_value", "/profile/from": "required",
        "/profile/security": "plaintext_auth",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "faults"),
    [
        ({**ANN}, {"/profile": "required"}),
        ({**ANN, "profile": 5}, {"/profile": "bad_value"}),
        ({"profile": {"name": "a", "host": "a.example", "from": "a@b.example"}}, {"/to": "required"}),
        ({**ANN, "profile": {"name": "a", "host": "a.example", "from": "a@b.example", "failover": ["gone"]}}, {"/profile/failover/0": "unknown_profile"}),
        ({**ANN, "profile": {"name": "a", "preset": "gmail", "from": "a@b.example", "auth": {"username": "u"}}}, {"/profile/auth/credential": "required"}),
    ],
)  # fmt: skip
async def test_an_unsaved_profile_is_checked_as_saving_does(world: World, asked: Json, faults: dict[str, str]) -> None:
    """Shape, presets, the operator's policy, and relations to other profiles; nothing is connected to."""
    assert (await world.call("POST", UNSAVED, EDITOR, json=asked)).faults == faults


@pytest.mark.parametrize(
    "where",
    [
        {"host": "10.0.0.1", "port": 22},
        {"host": "169.254.169.254", "port": 587},
        {"host": "relay.nowhere.example", "port": 22},
    ],
    ids=str,
)
async def test_where_egress_lets_nobody_go_is_red(tmp_path: Path, where: Json) -> None:
    """As of a profile that was saved before; saving it now is refused, and other faults are told as ever."""
    given = {"name": "a", "from": "a@b.example", **where}
    async with place(tmp_path, EgressPolicy((587,))) as world:
        tested = await world.call("POST", UNSAVED, EDITOR, json={**ANN, "profile": given})
        faulty = await world.call("POST", UNSAVED, EDITOR, json={**ANN, "profile": {**given, "failover": ["gone"]}})
        saving = await world.call("POST", "/v1/tenants/acme/profiles", ADMIN, json=given)

    assert (tested.status, passed(tested.json)) == (200, ["secret"]), tested.text
    assert (tested.json["error"]["phase"], tested.json["error"]["code"]) == ("resolve", "egress_refused")
    assert faulty.faults == {"/profile/failover/0": "unknown_profile"}
    assert (saving.status, saving.code) == (422, "egress_refused")


async def test_an_unsaved_duplicate_is_refused(world: World) -> None:
    """Saving would refuse it too."""
    async with ScriptedRelay() as relay:
        await saved(world, relay)
        refused = await world.call("POST", UNSAVED, EDITOR, json=body(relay, name="new"))
    assert (refused.code, relay.sessions) == ("duplicate_profile", [])


async def test_a_reference_is_tested_by_who_handles_secrets(world: World) -> None:
    """Who may edit profiles alone could have it sent to a server of their own."""
    await world.directory.put_secret(OPERATOR, "acme", "relay-a", Secret(CANARY))
    async with ScriptedRelay(users={"app": CANARY}) as relay:
        credential = {"source": "stored", "key": "relay-a"}
        asked = body(relay, name="new", auth={"username": "app", "credential": credential})
        refused = await world.call("POST", UNSAVED, EDITOR, json=asked)
        sessions = len(relay.sessions)
        tested = await world.call("POST", UNSAVED, "acme:profiles,secrets", json=asked)

    assert (refused.code, sessions) == ("forbidden", 0)
    assert tested.json["ok"]


async def test_an_edited_profile_keeps_its_password(world: World) -> None:
    """What GET answered, changed where it does not matter where the password goes, is tested with the saved one."""
    async with ScriptedRelay(users={"app": CANARY}, require_auth=True) as relay:
        await saved(world, relay, auth=signing_in(CANARY))
        shown = (await world.call("GET", "/v1/tenants/acme/profiles/main", "acme:read")).json
        edited = {**shown, "from": "other@acme.example", "footnote": {"text": "Bye"}}
        answered = await world.call("POST", UNSAVED, EDITOR, json={**ANN, "profile": edited})

    assert answered.json["ok"], answered.text
    assert relay.messages[0].mail_from == "other@acme.example"


@pytest.mark.parametrize(
    "change",
    [
        {"host": "localhost"}, {"port": 587}, {"tls": {"min_version": "1.3"}}, {"security": "starttls"},
        {"username": "else"}, {"method": "login"}, {"domain": "ACME"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("key", [EDITOR, ADMIN])
async def test_a_kept_password_goes_nowhere_else(world: World, change: Json, key: str) -> None:
    """Where saving would drop it, it has to be given anew; nobody is connected to."""
    async with ScriptedRelay(users={"app": CANARY}) as relay:
        await saved(world, relay, auth=signing_in(CANARY))
        kept = {"username": "app", "credential": {"source": "plaintext", "set": True}}
        auth = {**kept, **{name: value for name, value in change.items() if name in ("username", "method", "domain")}}
        rest = {name: value for name, value in change.items() if name not in auth}
        world.directory.policy = Policy(LOOPBACK, plaintext_auth=("127.0.0.1", "localhost"))
        refused = await world.call("POST", UNSAVED, key, json=body(relay, auth=auth, **rest))

    assert refused.faults == {"/profile/auth/credential": "required"}
    assert "anew" in refused.json["detail"]
    assert relay.sessions == []


async def test_a_kept_reference_goes_nowhere_else(world: World) -> None:
    """By who may edit profiles alone: unchanged it is tested, at another host it is not."""
    await world.directory.put_secret(OPERATOR, "acme", "relay-a", Secret(CANARY))
    world.directory.policy = Policy(LOOPBACK, plaintext_auth=("127.0.0.1", "localhost"))
    async with ScriptedRelay(users={"app": CANARY}) as relay:
        auth = {"username": "app", "credential": {"source": "stored", "key": "relay-a"}}
        await saved(world, relay, auth=auth)
        same = await world.call("POST", UNSAVED, EDITOR, json=body(relay, auth=auth))
        sessions = len(relay.sessions)
        other = await world.call("POST", UNSAVED, EDITOR, json=body(relay, auth=auth, host="localhost"))

    assert same.json["ok"]
    assert (other.code, len(relay.sessions)) == ("forbidden", sessions)


async def test_a_provisioned_profile_is_tested(world: World) -> None:
    """Also as somebody would like to have it: a test changes nothing that is the operator's."""
    async with ScriptedRelay() as relay:
        await saved(world, relay)
        _, entries = await world.store.directory()
        await world.write([one._replace(origin="provision") for one in entries if one.name == "main"])
        kept = await world.call("POST", TEST, EDITOR, json=ANN)
        edited = await world.call("POST", UNSAVED, EDITOR, json=body(relay, return_path="b@acme.example"))
    assert (kept.json["ok"], edited.json["ok"]) == (True, True)


# Who, how often, and what is written down.


@pytest.mark.parametrize(("settled", "code"), [({"enabled": False}, "tenant_disabled"), ({"own_profiles": False}, "locked_by_parent")])  # fmt: skip
async def test_what_was_stopped_from_above_is_tested_from_above(world: World, settled: Json, code: str) -> None:
    """A tenant does not send by tests what it may not send; those who may allow it again may look before."""
    async with ScriptedRelay() as relay:
        await saved(world, relay)
        await world.put(Tenant(id="acme", **settled))
        for path, asked in ((TEST, ANN), (UNSAVED, body(relay, return_path="b@acme.example"))):
            assert (await world.call("POST", path, ADMIN, json=asked)).code == code
            assert (await world.call("POST", path, "system", json=asked)).json["ok"]


async def test_ten_a_minute(world: World) -> None:
    """Of one tenant, saved or not; then it is told when to come back, and others are not concerned."""
    async with ScriptedRelay() as relay:
        await saved(world, relay)
        asked = [(TEST, ANN), (UNSAVED, body(relay, return_path="b@acme.example"))] * 5
        done = [(await world.call("POST", path, EDITOR, json=told)).status for path, told in asked]
        over = await world.call("POST", TEST, EDITOR, json=ANN)
        events_over = await world.call("POST", TEST, EDITOR, json=ANN, headers=EVENTS)
        other = await world.call("POST", "/v1/tenants/globex/profiles/test", "globex:profiles", json=body(relay))
        world.offset += 60_000
        later = await world.call("POST", TEST, EDITOR, json=ANN)

    assert done == [200] * 10
    assert (over.code, int(over.headers["Retry-After"]) > 0) == ("rate_limited", True)
    assert over.json["detail"] == "A tenant has at most 10 connection tests a minute."
    assert events_over.code == "rate_limited"
    assert (other.json["ok"], later.json["ok"]) == (True, True)


async def test_ten_at_once(world: World) -> None:
    """As many as a minute has; one more is told to come back, a minute later too; when one is over there is room."""
    go_on = asyncio.Event()
    async with ScriptedRelay({"rcpt": Hold(go_on)}) as relay:
        await saved(world, relay)
        running = [asyncio.ensure_future(world.call("POST", TEST, EDITOR, json=ANN)) for _ in range(10)]
        await relay.wait(lambda: sum("RCPT" in session.verbs for session in relay.sessions) == 10)
        world.offset += 60_000
        one_more = await world.call("POST", TEST, EDITOR, json=ANN)
        go_on.set()
        assert all(one.json["ok"] for one in await asyncio.gather(*running))
        again = await world.call("POST", TEST, EDITOR, json=ANN)

    assert (one_more.code, "Retry-After" in one_more.headers) == ("rate_limited", True)
    assert one_more.json["detail"] == "A tenant has at most 10 connection tests at once."
    assert again.json["ok"]


async def test_who_tested_what_is_audited(world: World) -> None:
    """By whom, which profile and how it ended; not to whom it went, and not what it said."""
    async with ScriptedRelay({"rcpt": Reply("550 5.1.1 no ann@example.test here")}) as relay:
        await tried(world, relay)
    [row] = await audited(world, "acme")
    key_id = (await world.key_for(EDITOR)).split("_")[1]

    assert (row["actor"], row["object"]) == (f"key:{key_id}", "main")
    assert row["changes"] == [{"field": "ok", "after": False}, {"field": "error.code", "after": "no_such_mailbox"}]


@pytest.mark.parametrize(
    ("asked", "faults"),
    [
        ({}, {"/to": "required"}),
        ({"to": ["ann@example.test"]}, {"/to": "bad_address"}),
        ({"to": "ann@localhost", "subject": ""}, {"/to": "bad_address", "/subject": "too_short"}),
        ({**ANN, "subject": "a\r\nBcc: eve@example.test"}, {"/subject": "control_character"}),
        ({**ANN, "subject": "x" * 999}, {"/subject": "too_long"}),
        ({**ANN, "message": "x" * 10_001}, {"/message": "too_long"}),
        ({**ANN, "profile": {}}, {"/profile": "unknown_field"}),
    ],
    ids=str,
)
async def test_faults_of_a_message(world: World, asked: Json, faults: dict[str, str]) -> None:
    """All at once; nothing is connected to."""
    async with ScriptedRelay() as relay:
        await saved(world, relay)
        refused = await world.call("POST", TEST, EDITOR, json=asked)
    assert (refused.faults, relay.sessions) == (faults, [])


# Credentials.

SECRETS = "acme:secrets"


async def verdict(world: World, action: str = "check", tenant: str = "acme", key: str = SECRETS) -> Answered:
    """Ask for the credentials of the tenant's `main`."""
    return await world.call("POST", f"/v1/tenants/{tenant}/profiles/main/credential/{action}", key)


async def test_each_credential_is_checked(world: World) -> None:
    """Of every place where the profile has one; in short the first that cannot be had; no value is told."""
    await world.directory.put_secret(OPERATOR, "acme", "relay-a", Secret(CANARY))
    async with ScriptedRelay() as relay:
        auth = {"username": "app", "credential": {"source": "stored", "key": "relay-a"}}
        tls = {"client_certificate": {"source": "stored", "key": "gone"}}
        await saved(world, relay, auth=auth, tls=tls)
        told = await verdict(world)

    assert [(one["field"], one["ok"], one["state"], one["version"]) for one in told.json["credentials"]] == [
        ("auth.credential", True, "fresh", "1"), ("tls.client_certificate", False, "negative", None),
    ]  # fmt: skip
    assert (told.json["ok"], told.json["error"]["kind"]) == (False, "not_found")
    assert "canary" not in told.text


async def test_a_refreshed_credential_lets_the_profile_go_on(tmp_path: Path) -> None:
    """As resuming does; checking does not."""
    resumed: list[tuple[str, str]] = []

    async def resume(place: tuple[str, str]) -> None:
        resumed.append(place)

    async with running(tmp_path, resume=resume) as world:
        await world.put(profile("acme", "main"))
        assert (await verdict(world)).json == {"ok": True, "source": None, "credentials": []}
        assert resumed == []
        assert (await verdict(world, "refresh")).json["ok"]
    assert resumed == [("acme", "main")]


@pytest.mark.parametrize("action", ["check", "refresh"])
async def test_a_childs_caller_asks_for_no_credential(world: World, lent: ScriptedRelay, action: str) -> None:
    """It is the owner's, who has a path of their own."""
    for key in (CHILD, ADMIN):
        assert (await verdict(world, action, "acme-emea", key)).code == "not_owner"


def test_the_usual_message() -> None:
    """What is sent where nothing else is said."""
    assert (Trial("x").subject, Trial("x").message) == ("TEST MESSAGE!", "ATTENTION: THIS IS A TEST MESSAGE!")
