"""The connection test in the pages: live, green and red, of saved and unsaved profiles, and what an inherited one tells."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from gateway.http.admission import TESTS_PER_MINUTE
from gateway.smtp import hints
from gateway.smtp.outcome import Phase, Trouble
from gateway.ui.trials import MEANINGS, mend
from tests.peers.smtp_server import Hold, Reply, ScriptedRelay, issue_tls
from tests.ui.asking import asked, opened
from tests.ui.browser import PHONE, Kind
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.peers.smtp_server import Action, Step
    from tests.ui.browser import Browser, Seen
    from tests.ui.gateway import Gateway

PAGE = "/ui/tenants/acme/profiles/main/test"
INHERITED = "/ui/tenants/acme-emea/profiles/main/test"
UNSAVED = "/ui/tenants/acme/profiles/test"
HOST = "127.0.0.2"  # acme has a profile for 127.0.0.1 already
NOWHERE = "nowhere.example.test"
TLS = issue_tls(HOST)
CANARY = "zebrafinch"
HOSTILE = '<img src=x onerror=alert(1)>"><script>alert(1)</script>{{ 7*7 }}'
EVENTS = {"Accept": "text/event-stream"}
IN_CLEAR = [
    "Get the secret", "Look up the host", "Connect", "Hear the relay's greeting", "Sign in", "Name the sender",
    "Name the recipient", "Hand over the message",
]  # fmt: skip
SIGNED_IN = [*IN_CLEAR[:4], "Encrypt with TLS", *IN_CLEAR[4:]]
BY_TLS: dict[str, Any] = {"security": "starttls", "tls": {"ca_certificates": TLS.ca_pem}}


async def made(gateway: Gateway, port: int, name: str = "main", **fields: Any) -> None:
    """Make a profile of acme; where nothing is said it goes to this machine in clear."""
    usual = {"name": name, "host": HOST, "port": port, "security": "none", "from": "noreply@acme.example"}
    await asked(gateway, "POST", "tenants/acme/profiles", {**usual, **fields})


def catcher(gateway: Gateway) -> int:
    """The port of the relay that takes everything."""
    return gateway.running.directory.snapshot.profiles["system", "main"].port


def signing_in(name: str, password: str) -> dict[str, object]:
    """How a profile signs in."""
    return {"username": name, "credential": {"source": "plaintext", "value": password}}


async def run(seen: Seen, field: str = "/to") -> None:
    """Fill in the form, start the test, and wait for its end."""
    await seen.page.fill(f"[name='{field}']", "ann@example.test")
    await seen.page.click("[data-test]")
    await seen.page.locator("#outcome .verdict").wait_for()


async def steps(seen: Seen, look: str = "good") -> list[str]:
    """Which phases stand there, with this look."""
    return await seen.page.locator(f".phase.{look} .what").all_inner_texts()


# Green.


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "dark"), (1280, "light")])
async def test_green(gateway: Gateway, browser: Browser, width: int, scheme: Any) -> None:
    """Every phase with its time, a green button, and the message as it was written at exactly that address."""
    async with ScriptedRelay(host=HOST) as relay:
        await made(gateway, relay.port)
        seen = await opened(gateway, browser, PAGE, width=width, scheme=scheme)
        assert await seen.page.input_value("[name='/subject']") == "TEST MESSAGE!"
        await seen.axe()
        await seen.page.fill("[name='/message']", "Is it on?")
        await run(seen)
        assert await steps(seen) == IN_CLEAR
        assert all(text.endswith(" ms") for text in await seen.page.locator(".phase .time").all_inner_texts())
        assert "The relay took the message" in await seen.page.inner_text("button.passed")
        await seen.axe()
        await seen.no_sideways_scroll()
    [mail] = relay.messages
    assert (mail.rcpt_tos, b"Is it on?" in mail.data) == (("ann@example.test",), True)


async def test_phases_appear_as_they_happen(gateway: Gateway, browser: Browser) -> None:
    """While the relay thinks, what is passed stands there, the phase that comes is marked, and the button waits."""
    go_on = asyncio.Event()
    async with ScriptedRelay({"rcpt": Hold(go_on)}, host=HOST) as relay:
        await made(gateway, relay.port)
        seen = await opened(gateway, browser, PAGE)
        await seen.page.fill("[name='/to']", "ann@example.test")
        await seen.tab_to("Send the test")
        await seen.page.keyboard.press("Enter")
        await seen.page.locator(".phase.going .what", has_text="Name the recipient").wait_for()
        assert await steps(seen) == IN_CLEAR[:6]
        assert await seen.page.inner_text("[data-test][aria-disabled=true]") == "Testing …"
        await seen.page.keyboard.press("Enter")  # once is enough
        go_on.set()
        await seen.page.locator("button.passed").wait_for()
        assert (await steps(seen), await steps(seen, "going")) == (IN_CLEAR, [])
    assert len(relay.sessions) == 1


async def test_tls_from_the_start_comes_before_the_greeting(gateway: Gateway, browser: Browser) -> None:
    """The phase that is marked as coming is the one that comes, in the order of this security."""
    go_on = asyncio.Event()
    async with ScriptedRelay({"connect": Hold(go_on)}, host=HOST, tls=TLS.context, implicit_tls=True) as relay:
        await made(gateway, relay.port, **{**BY_TLS, "security": "implicit_tls"})
        seen = await opened(gateway, browser, PAGE)
        await seen.page.fill("[name='/to']", "ann@example.test")
        await seen.page.click("[data-test]")
        await seen.page.locator(".phase.going .what", has_text="greeting").wait_for()
        assert (await steps(seen))[-1] == "Encrypt with TLS"
        go_on.set()
        await seen.page.locator("button.passed").wait_for()


# Red.


@dataclass(frozen=True)
class Broken:
    """A profile with one thing wrong, at a relay that has users, and what its test tells."""

    says: str
    hint: str
    code: str
    anchor: str
    passed: int
    fields: dict[str, Any] = field(default_factory=dict)
    script: dict[Step, Action] = field(default_factory=dict)
    tls: bool = True
    listens: bool = True


RED = {
    "host": Broken("The name does not exist", "how the host is written", "name_unknown", "where", 1,
                   fields={"host": NOWHERE}),
    "port": Broken("refused", "See host and port", "unreachable", "where", 2, listens=False),
    "starttls": Broken("STARTTLS", "Nothing is sent in clear", "tls_required", "where", 4, tls=False),
    "certificate": Broken("certificate", "signed by", "tls_verify", "tls", 4, fields={"tls": {}}),
    "name": Broken("535", "See user name and password", "auth_failed", "auth", 5,
                   fields={"auth": signing_in("nobody", "right")}),
    "password": Broken("535", "See user name and password", "auth_failed", "auth", 5,
                       fields={"auth": signing_in("app", "wrong")}),
    "sender": Broken("550 5.7.1 not from you", "no mail from this sender", "sender_rejected", "sender", 6,
                     script={"mail": Reply("550 5.7.1 not from you")}),
    "recipient": Broken("550 5.1.1 nobody here", "There is no such recipient", "no_such_mailbox", "", 7,
                        script={"rcpt": Reply("550 5.1.1 nobody here")}),
}  # fmt: skip


@asynccontextmanager
async def standing(gateway: Gateway, broken: Broken, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedRelay]:
    """Run the relay, and make the profile that cannot send by it."""
    loop = asyncio.get_running_loop()
    before = loop.getaddrinfo

    async def looked_up(host: Any, *given: Any, **named: Any) -> Any:
        if host == NOWHERE:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return await before(host, *given, **named)

    relay = ScriptedRelay(broken.script, host=HOST, users={"app": "right"}, tls=TLS.context if broken.tls else None)
    async with relay:
        if not broken.listens:
            await relay.stop()
        monkeypatch.setattr(loop, "getaddrinfo", looked_up)
        usual = {**BY_TLS, "auth": signing_in("app", "right")}
        await made(gateway, relay.port, **{**usual, **broken.fields})
        yield relay


@pytest.mark.parametrize("broken", RED.values(), ids=RED)
async def test_red(gateway: Gateway, browser: Browser, broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    """The phase that failed, why, what to do, and a link to the fields that are at fault; the button is red."""
    async with standing(gateway, broken, monkeypatch):
        seen = await opened(gateway, browser, PAGE)
        await run(seen)
        assert (await steps(seen), await steps(seen, "bad")) == (SIGNED_IN[: broken.passed], [SIGNED_IN[broken.passed]])
        verdict = await seen.page.inner_text(".notice .verdict")
        assert verdict.startswith(f"{SIGNED_IN[broken.passed]}: ")
        assert broken.says in verdict
        assert broken.hint in await seen.page.inner_text(".notice .hint")
        assert await seen.page.inner_text(".notice .code") == broken.code
        links = seen.page.locator(".notice a")
        paths = [await one.get_attribute("href") for one in await links.all()]
        assert paths == ([f"/ui/tenants/acme/profiles/main#{broken.anchor}"] if broken.anchor else [])
        assert "The test failed" in await seen.page.inner_text("button.danger")
        assert "right" not in await seen.page.content()


async def test_a_red_test_leads_to_the_fields_at_fault(gateway: Gateway, browser: Browser) -> None:
    """On a phone: the link under the reason opens the group of the form, which is folded otherwise."""
    async with ScriptedRelay(host=HOST, tls=TLS.context) as relay:
        await made(gateway, relay.port, security="starttls")
        seen = await opened(gateway, browser, PAGE, width=PHONE, scheme="dark")
        await run(seen)
        await seen.no_sideways_scroll()
        await seen.axe()
        await seen.page.click("text=Change what TLS wants")
        await seen.page.wait_for_url("**/profiles/main#tls")
        assert await seen.page.locator("[name='/tls/ca_certificates']").is_visible()


async def test_a_phase_that_never_ends_is_red(gateway: Gateway, browser: Browser) -> None:
    """If the gateway falls silent in the middle, the page says so and can be used again."""
    await made(gateway, 9)
    seen = await opened(gateway, browser, PAGE)
    half = 'event: phase\ndata: {"phase":"secret","ok":true,"milliseconds":1,"detail":""}\n\n'
    await seen.page.route("**/test", lambda route: route.fulfill(content_type="text/event-stream", body=half))
    await run(seen)
    assert "cannot be heard any more" in await seen.page.inner_text(".verdict")
    assert await seen.page.locator("[data-test]:not([aria-disabled])").count() == 1


# What keeps a test from beginning.


async def test_a_wrong_address_is_told_beside_its_field(gateway: Gateway, browser: Browser) -> None:
    """Live: the field has focus, its fault describes it, and goes with the next test."""
    browser.expect(Kind.CONSOLE, "422")
    async with ScriptedRelay(host=HOST) as relay:
        await made(gateway, relay.port)
        seen = await opened(gateway, browser, PAGE)
        await seen.page.fill("[name='/to']", "ann")
        await seen.page.click("[data-test]")
        await seen.page.locator("#outcome:not([aria-busy])").wait_for(state="attached")
        focused = seen.page.locator("[name='/to'][aria-invalid]:focus")
        described = (await focused.get_attribute("aria-describedby") or "").split()[-1]
        assert "local-part@domain" in await seen.page.locator(f"[id='{described}']").inner_text()
        assert not relay.sessions
        await run(seen)
        assert await seen.page.locator(".fault, [aria-invalid]").count() == 0
        assert await seen.page.inner_text("button.passed")


async def test_too_many_tests_are_told(gateway: Gateway, browser: Browser) -> None:
    """With and without a script it is a sentence, and the script shows it as what failed."""
    browser.expect(Kind.CONSOLE, "429")
    await made(gateway, 9, host="127.0.0.9")
    async with visiting(gateway, "acme") as visitor:
        for _ in range(TESTS_PER_MINUTE):
            assert (await visitor.post(PAGE, {"/to": "ann@example.test"})).status == 200
        page = await visitor.post(PAGE, {"/to": "ann@example.test"})
        assert (page.status, "at most 10 connection tests a minute" in page.text) == (429, True)
        assert page.form().fields["/to"] == "ann@example.test"
    seen = await opened(gateway, browser, PAGE)
    await run(seen)
    assert "at most 10 connection tests a minute" in await seen.page.inner_text(".verdict")
    assert await seen.page.inner_text("[data-test]") == "Send the test"


async def test_who_was_signed_out_is_told(gateway: Gateway, browser: Browser) -> None:
    """What they wrote stands there still: signed in elsewhere, they test again."""
    async with ScriptedRelay(host=HOST) as relay:
        await made(gateway, relay.port)
        browser.expect(Kind.CONSOLE, "401")
        seen = await opened(gateway, browser, PAGE)
        await seen.page.fill("[name='/to']", "ann@example.test")
        await seen.page.context.clear_cookies()
        await seen.page.click("[data-test]")
        await seen.page.get_by_text("You are not signed in any more").wait_for()
        other = await seen.page.context.new_page()
        await other.goto(f"{gateway.url}/ui/sign-in")
        await other.fill("#key", gateway.keys["acme"])
        await other.keyboard.press("Enter")
        await other.wait_for_url("**/ui/")
        await seen.page.click("[data-test]")
        await seen.page.locator(".good").first.wait_for()
        assert len(relay.messages) == 1


async def test_who_may_only_read_is_not_offered_a_test(gateway: Gateway) -> None:
    """There is no form, and nothing goes out if one is sent all the same."""
    async with ScriptedRelay(host=HOST) as relay:
        await made(gateway, relay.port)
        key = (await asked(gateway, "POST", "tenants/acme/keys", {"name": "reader", "scopes": ["read"]}))["key"]
        async with visiting(gateway) as visitor:
            await visitor.post("/ui/sign-in", {"key": key})
            page = await visitor.get(PAGE)
            assert "does not permit testing" in page.text
            assert "data-test" not in page.source
            assert (await visitor.post(PAGE, {"/to": "ann@example.test"})).status == 403
            assert (await visitor.post(PAGE, {"/to": "ann@example.test"}, **EVENTS)).status == 403
        assert not relay.sessions


# Without a script.


async def test_without_a_script(gateway: Gateway) -> None:
    """The same page comes back, with the outcome, what was written, and the same words as live."""
    async with ScriptedRelay(host=HOST) as relay:
        await made(gateway, relay.port)
        async with visiting(gateway, "acme") as visitor:
            page = await visitor.send(await visitor.get(PAGE), __to="ann@example.test", __subject="Once")
            assert all(words in page.text for words in IN_CLEAR)
            assert page.text.count("The relay took the message") == 2 + 2  # button and outcome, and the script's words
            assert page.form().fields["/subject"] == "Once"
            relay.on("mail", Reply("550 5.7.1 not from you"))
            page = await visitor.send(page)
            assert "Name the sender: The relay said: 550 5.7.1 not from you." in page.text
            assert "/ui/tenants/acme/profiles/main#sender" in page.links
    assert b"Subject: Once" in relay.messages[0].data


@pytest.mark.parametrize(
    ("phase", "code", "anchor"),
    [
        (Phase.TLS, "tls_verify", "tls"),
        (Phase.TLS, "tls_failed", "where"),
        (Phase.RECIPIENT, "relay_denied", "auth"),
        (Phase.RECIPIENT, "no_such_mailbox", None),
    ],
)
def test_a_code_leads_elsewhere_than_its_phase(phase: str, code: str, anchor: str | None) -> None:
    """Where there is no script either, the link is to the fields that mend it, if any do."""
    found = mend(phase, code)
    assert (found.anchor if found else None) == anchor


async def test_what_relays_and_people_write_is_text(gateway: Gateway, browser: Browser) -> None:
    """Markup in a reply is shown as it is, live and without a script, and so is what was typed."""
    async with ScriptedRelay({"mail": Reply(f"550 5.7.1 {HOSTILE}")}, host=HOST) as relay:
        await made(gateway, relay.port)
        seen = await opened(gateway, browser, PAGE)
        await run(seen)
        assert HOSTILE in await seen.page.inner_text(".verdict")
        assert await seen.page.locator("main img, main script").count() == 0
        async with visiting(gateway, "acme") as visitor:
            page = await visitor.send(await visitor.get(PAGE), __to="ann@example.test", __subject=HOSTILE)
            assert page.shows_as_text(HOSTILE)
            assert page.source.count("alert(1)") > 2
            assert (await visitor.send(page, __to=HOSTILE)).shows_as_text(HOSTILE)


# Inherited profiles.


async def lent(gateway: Gateway, port: int, **fields: Any) -> None:
    """Make a profile of acme, all of which is a secret of acme's, and lend it to acme-emea."""
    sender = {"name": CANARY, "address": f"{CANARY}@acme.example"}
    await made(gateway, port, **{"from": sender, "return_path": f"{CANARY}-bounces@acme.example", **fields})
    body = {"children": ["acme-emea"], "profiles": ["main"]}
    await asked(gateway, "POST", "tenants/acme/profiles/push", body)


async def test_an_inherited_profile_tells_phases_and_a_code(gateway: Gateway, browser: Browser) -> None:
    """A child sees which phase failed and what its code means; no word of the relay's, no time, no link to the form."""
    async with ScriptedRelay({"rcpt": Reply(f"550 5.1.1 {CANARY}")}, host=HOST) as relay:
        await lent(gateway, relay.port)
        seen = await opened(gateway, browser, INHERITED, "acme-emea")
        await run(seen)
        assert await steps(seen, "bad") == ["Name the recipient"]
        assert await seen.page.inner_text(".verdict") == f"Name the recipient: {MEANINGS['no_such_mailbox']}"
        assert await seen.page.inner_text(".code") == "no_such_mailbox"
        assert await seen.page.locator(".notice a").count() == 0
        assert set(await seen.page.locator(".phase .time, .phase .detail").all_inner_texts()) == {""}
        assert CANARY not in await seen.page.content()
        await seen.axe()


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["page", "events"])
async def test_nothing_of_the_owner_stands_in_any_source(gateway: Gateway, headers: dict[str, str]) -> None:
    """Neither before nor after a test that fails, however it is asked for."""
    async with ScriptedRelay({"mail": Reply(f"550 5.7.1 {CANARY}")}, host=HOST) as relay:
        await lent(gateway, relay.port)
        async with visiting(gateway, "acme-emea") as visitor:
            before = await visitor.get(INHERITED)
            after = await visitor.post(INHERITED, {"/to": "ann@example.test"}, **headers)
    for page in (before, after):
        assert page.status == 200
        assert not [word for word in (CANARY, HOST, str(relay.port), "5.7.1") if word in page.source]
    assert "sender_rejected" in after.source


def test_every_code_has_a_meaning() -> None:
    """Whatever a test can be red for, a child is told in words."""
    refusals = {code for code, *_ in hints._REFUSALS}
    refusals |= {f"{phase}_rejected" for phase in (Phase.SENDER, Phase.RECIPIENT, Phase.CONTENT)}
    others = {"deferred", "cut_short", "no_answer", "not_sendable", "timed_out"}
    assert {*map(str, Trouble), *refusals, *others} == set(MEANINGS)


# What is not saved yet.


async def test_an_unsaved_profile_is_tested_as_it_stands_in_the_form(gateway: Gateway, browser: Browser) -> None:
    """Live, by Enter in its field, and with the password that is kept; the profile stays as it was saved."""
    async with ScriptedRelay(host=HOST, users={"app": "right"}, tls=TLS.context, require_auth=True) as relay:
        await made(gateway, relay.port, **BY_TLS, auth=signing_in("app", "right"))
        seen = await opened(gateway, browser, "/ui/tenants/acme/profiles/main")
        await seen.page.fill("[name='/from']", "changed@acme.example")
        await seen.page.fill("[name='test/to']", "ann@example.test")
        await seen.page.keyboard.press("Enter")
        await seen.page.locator("#outcome .verdict").wait_for()
        assert await steps(seen) == SIGNED_IN
        await seen.axe()
    assert relay.messages[0].mail_from == "changed@acme.example"
    assert gateway.running.directory.snapshot.profiles["acme", "main"].sender.address == "noreply@acme.example"


async def test_faults_of_an_unsaved_profile_stand_beside_their_fields(gateway: Gateway, browser: Browser) -> None:
    """All at once, the profile's and the test's own; what is folded opens."""
    browser.expect(Kind.CONSOLE, "422")
    seen = await opened(gateway, browser, "/ui/tenants/acme/profiles/new", width=PHONE)
    await seen.page.fill("[name='/host']", "no host")
    await seen.page.evaluate("document.getElementById('limits').open = true")
    await seen.page.fill("[name='/limits/bytes']", "1")
    await seen.page.evaluate("document.getElementById('limits').open = false")
    await seen.page.fill("[name='test/to']", "ann")
    await seen.page.click("[data-test]")
    await seen.page.locator("[aria-invalid]").first.wait_for()
    invalid = {await one.get_attribute("name") for one in await seen.page.locator("[aria-invalid]").all()}
    assert invalid == {"/name", "/host", "/from", "/limits/bytes", "test/to"}
    assert await seen.page.locator("[name='/limits/bytes']").is_visible()
    await seen.no_sideways_scroll()


async def test_what_a_test_says_goes_and_what_the_page_says_stays(gateway: Gateway, browser: Browser) -> None:
    """That a password was taken away is told still; a fault whose field is not on the page stands under the button."""
    await made(gateway, 9, **BY_TLS, auth=signing_in("app", "right"))
    await asked(gateway, "PATCH", "tenants/acme/profiles/main", {"host": "127.0.0.3"}, "acme")
    seen = await opened(gateway, browser, "/ui/tenants/acme/profiles/main")
    standing = "The password was taken away with a change of where it goes: give it again."
    told = [
        {"beside": {"/host": ["Not there."], "/nowhere": ["Gone."]}, "rest": []},
        {"beside": {}, "rest": ["Come back tomorrow."]},
    ]
    await seen.page.route("**/profiles/test?*", lambda route: route.fulfill(json=told.pop(0)))
    await run(seen, "test/to")
    assert await seen.page.inner_text("#outcome .verdict") == "/nowhere: Gone."
    assert await seen.page.locator("form .fault").all_inner_texts() == ["Not there.", standing]
    await seen.page.click("[data-test]")
    await seen.page.get_by_text("Come back tomorrow.").wait_for()
    assert await seen.page.locator("form .fault").all_inner_texts() == [standing]
    assert await seen.page.locator("[name='/host'][aria-invalid]").count() == 0


async def test_what_a_refused_save_said_stays_beside_a_test(gateway: Gateway, browser: Browser) -> None:
    """It is still wrong; what the test finds anew stands beside it, and the same is not said twice."""
    browser.expect(Kind.CONSOLE, "422")
    seen = await opened(gateway, browser, "/ui/tenants/acme/profiles/new")
    await seen.page.fill("[name='/host']", "no host")
    await seen.page.click("button:text-is('Make the profile')")
    await seen.page.locator("[id='fault/host']").wait_for()
    for _ in range(2):
        await seen.page.fill("[name='test/to']", "ann")
        await seen.page.click("[data-test]")
        await seen.page.locator("[name='test/to'][aria-invalid]").wait_for()
    assert await seen.page.locator("[name='/host'] ~ .fault").count() == 1
    assert await seen.page.locator("[name='test/to'] ~ .fault").count() == 1


async def test_an_unsaved_profile_without_a_script(gateway: Gateway) -> None:
    """The outcome is a page of its own, and so is what keeps the test from beginning; nothing is saved."""
    fields = {"/host": HOST, "/security": "none", "/from": "noreply@acme.example", "/name": "fresh"}
    async with ScriptedRelay(host=HOST) as relay, visiting(gateway, "acme") as visitor:
        given = {**fields, "/port": str(relay.port)}
        page = await visitor.post(UNSAVED, {**given, "test/to": "ann@example.test"})
        assert (page.status, page.text.count("The relay took the message") > 2) == (200, True)
        page = await visitor.post(UNSAVED, {**given, "test/to": HOSTILE, "/name": HOSTILE})
        assert page.status == 422
        assert "test/to: An address is written" in page.text
        assert "alert(1)" not in page.source
    assert ("acme", "fresh") not in gateway.running.directory.snapshot.profiles


async def test_a_password_that_was_not_written_twice_alike_is_not_tried(gateway: Gateway) -> None:
    """It is a fault, as when saving."""
    fields = {"/name": "fresh", "/auth/credential/source": "plaintext", "/auth/credential/value": "one"}
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.post(UNSAVED, {**fields, "/auth/credential/again": "two"}, **EVENTS)
    assert (page.status, "The two are not the same." in page.source) == (422, True)
