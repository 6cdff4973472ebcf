"""Signing in with a key or by a link: who gets in, from where, with what cookie, and where they land."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp
import pytest
import pytest_asyncio
import trustme

from gateway.http import authentication
from gateway.http.sign_in_links import LIFE as LINK_LIFE
from gateway.http.sign_in_links import pages_address
from gateway.settings import Http, Settings, TcpAddress, Ui, UnixAddress
from gateway.ui.signing_in import safe_path
from tests.ui import gateway as gateways
from tests.ui.browser import Kind
from tests.ui.test_sessions import PUBLIC, Clock, make_key, revoke
from tests.ui.wire import COOKIE, on_the_wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway
    from tests.ui.wire import Answered, Wire

HOSTILE = '"><script>alert(1)</script>{{ 7*7 }}'


async def ask_for_link(gateway: Gateway, key: str, status: int = 201) -> Any:
    """Ask the API for a link; what it answers."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{gateway.url}/v1/sign-in-links") as answer,
    ):
        assert answer.status == status, await answer.text()
        return await answer.json()


async def link(gateway: Gateway, tenant: str = "acme") -> tuple[str, str]:
    """Give a link's path and its token."""
    url = (await ask_for_link(gateway, gateway.keys[tenant]))["url"]
    path = url[url.index("/ui/") :]
    return path, path.partition("token=")[2]


async def take(wire: Wire, token: str) -> Answered:
    """Press the button of a link."""
    return await wire.post("/ui/sign-in/link", token=token)


# With a key.


async def test_with_a_key(gateway: Gateway) -> None:
    """The browser gets a token that no script reads and no other site sends, and goes where it wanted to."""
    async with on_the_wire(gateway) as wire:
        answered = await wire.sign_in(gateway.keys["acme"], next="/ui/tenants?q=a")
        assert answered.location == "/ui/tenants?q=a"
        [cookie] = answered.cookies
        assert cookie == f"{COOKIE}={wire.cookies[COOKIE]}; Path=/; HttpOnly; SameSite=Strict"
        assert len(wire.cookies[COOKIE]) == 43
        assert await wire.is_in()


async def test_spaces_around_a_key_are_no_part_of_it(gateway: Gateway) -> None:
    """Whoever copies one, copies a line."""
    async with on_the_wire(gateway) as wire:
        assert (await wire.sign_in(f"  {gateway.keys['acme']}\n")).location == "/ui/"


@pytest.mark.parametrize("key", ["", "ngw_x_y", HOSTILE, "x" * 9_000])
async def test_with_a_wrong_key(gateway: Gateway, key: str) -> None:
    """It is told, and not repeated; where one wanted to go is remembered."""
    async with on_the_wire(gateway) as wire:
        answered = await wire.post("/ui/sign-in", key=key, next="/ui/tenants")
        assert (answered.status, answered.cookies) == (401, [])
        assert "This key is not valid here." in answered.text
        assert "alert(1)" not in answered.text
        assert 'value="&#x2f;ui&#x2f;tenants"' in answered.text
        assert answered.headers["WWW-Authenticate"].startswith("Bearer")


async def test_guessing_is_slowed_down_and_keeps_nobody_out(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """After many wrong keys there are no more answers for a while, but for the right one."""
    monkeypatch.setattr(authentication, "FAILURES", 20)
    async with on_the_wire(gateway) as wire:
        for _ in range(20):
            assert (await wire.post("/ui/sign-in", key="ngw_x_y")).status in (401, 429)
        answers = [await wire.post("/ui/sign-in", key="ngw_x_y") for _ in range(5)]
        limited = [one for one in answers if one.status == 429]
        assert limited
        assert limited[0].headers["Retry-After"] == "1"
        assert "Try again in a minute." in limited[0].text
        await wire.sign_in(gateway.keys["acme"])


async def test_nobody_fills_the_store_with_sessions(gateway: Gateway) -> None:
    """Twenty sign-ins of one person in a minute, links among them, are enough; another person's count for themselves."""
    now = gateway.running.outbox.clock()
    gateway.running.outbox.clock = lambda: now
    async with on_the_wire(gateway) as wire:
        for _ in range(20):
            await wire.sign_in(gateway.keys["acme"])
        answered = await wire.post("/ui/sign-in", key=gateway.keys["acme"])
        assert (answered.status, answered.headers["Retry-After"]) == (429, "3")
        assert (await ask_for_link(gateway, gateway.keys["acme"], 429))["code"] == "rate_limited"
        await wire.sign_in(gateway.keys["acme-emea"])


async def test_a_session_is_never_somebody_elses_choice(gateway: Gateway) -> None:
    """Whatever cookie was there before: a sign-in makes a new token, and ends the session in whose place it is."""
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as thief:
        wire.cookies[COOKIE] = thief.cookies[COOKIE] = "x" * 43
        await wire.sign_in(gateway.keys["acme"])
        assert (await wire.is_in(), await thief.is_in()) == (True, False)
        thief.cookies |= wire.cookies
        await wire.sign_in(gateway.keys["acme-emea"])
        assert (await wire.is_in(), await thief.is_in()) == (True, False)


async def test_sign_ins_are_told(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    """The audit says who signed in and by what, the log by what; neither has anything that opens a door."""
    _, token = await link(gateway)
    async with on_the_wire(gateway) as wire:
        await take(wire, token)
        await wire.sign_in(gateway.keys["acme"])
        rows = await gateway.running.store.audit("acme", before=None, limit=3)
        key = gateway.keys["acme"].split("_")[1]
        assert [(row.actor, row.action, row.changes) for row in reversed(rows)] == [
            (f"key:{key}", "sign_in_link.create", "[]"),
            (f"key:{key}", "session.begin", '[{"field":"how","after":"link"}]'),
            (f"key:{key}", "session.begin", '[{"field":"how","after":"key"}]'),
        ]
        said = capsys.readouterr().out
        assert said.count("signed_in") == 2
        for secret in (token, wire.cookies[COOKIE], gateway.keys["acme"].split("_", 2)[2]):
            assert secret not in said
            assert secret not in str(rows)


# From where.


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site", "Origin": "{url}"},
    ],
)
async def test_a_form_of_another_site_is_refused(gateway: Gateway, headers: dict[str, str]) -> None:
    """Nobody is signed in, or out, by a page that is not ours."""
    named = {name: value.format(url=gateway.url) for name, value in headers.items()}
    async with on_the_wire(gateway) as wire:
        await wire.sign_in(gateway.keys["acme"])
        for path in ("/ui/sign-in", "/ui/sign-out", "/ui/new-tenant", "/ui/sign-in/link"):
            answered = await wire.post(path, named, key=gateway.keys["acme-emea"])
            assert (answered.status, answered.cookies) == (403, [])
        assert await wire.is_in()


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "{url}"}, {}]
)
async def test_a_form_of_ours_is_taken(gateway: Gateway, headers: dict[str, str]) -> None:
    """Also of a browser that says nothing of it, or a program."""
    named = {name: value.format(url=gateway.url) for name, value in headers.items()}
    async with on_the_wire(gateway) as wire:
        assert (await wire.post("/ui/sign-in", named, key=gateway.keys["acme"])).status == 303


async def test_another_name_for_this_machine_is_refused(gateway: Gateway) -> None:
    """A name elsewhere that points here (DNS rebinding) gets an explanation, and no form for a key."""
    for host in ("evil.test", "localhost.evil.test", "127.0.0.1.evil.test", "", "10.0.0.1:8025"):
        async with on_the_wire(gateway, Host=host) as wire:
            answered = await wire.ask("/ui/sign-in")
            assert (answered.status, "not shown over plain HTTP" in answered.text) == (403, True)
            assert "<form" not in answered.text
            assert (await wire.post("/ui/sign-in", key=gateway.keys["acme"])).status == 403


async def test_names_of_this_machine(gateway: Gateway) -> None:
    """Loopback is as good as TLS."""
    for host in ("localhost", "LOCALHOST:8025", "127.0.0.1", "[::1]", "[::1]:8025"):
        async with on_the_wire(gateway, Host=host) as wire:
            assert (await wire.ask("/ui/sign-in")).status == 200


@pytest_asyncio.fixture(loop_scope="session")
async def proxied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """A gateway behind a proxy that speaks TLS for it."""
    settings = gateways.SETTINGS.replace("[http]", '[http]\ntrusted_proxies = ["127.0.0.1/32"]')
    monkeypatch.setattr(gateways, "SETTINGS", settings)
    async with gateways.running(tmp_path, f'[ui]\npublic_url = "https://{PUBLIC}"\n') as running:
        yield running


async def test_behind_a_proxy_with_tls(proxied: Gateway) -> None:
    """The cookie is bound to TLS and to us."""
    async with on_the_wire(proxied, Host=PUBLIC, X_Forwarded_For="203.0.113.9") as wire:
        [cookie] = (await wire.sign_in(proxied.keys["acme"])).cookies
        name, _, rest = cookie.partition("=")
        assert name == f"__Host-{COOKIE}"
        assert rest.endswith("; Path=/; HttpOnly; SameSite=Strict; Secure")
        assert await wire.is_in()


async def test_a_client_elsewhere_is_refused_without_tls(proxied: Gateway) -> None:
    """Whatever name it asks for, unless it is the one of which the operator says that it has TLS."""
    for host in ("localhost", "127.0.0.1", "other.example.test"):
        async with on_the_wire(proxied, Host=host, X_Forwarded_For="203.0.113.9") as wire:
            answered = await wire.ask("/ui/sign-in")
            assert answered.status == 403
            assert f"https:&#x2f;&#x2f;{PUBLIC}" in answered.text


async def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What our own listener sees needs nobody's word."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    named = '[http]\ntls_certificate = "certificate.pem"\ntls_key = "key.pem"'
    monkeypatch.setattr(gateways, "SETTINGS", gateways.SETTINGS.replace("[http]", named))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with gateways.running(tmp_path) as gateway, on_the_wire(gateway) as wire:
        wire.url, wire.tls = gateway.url.replace("http://", "https://"), trust
        [cookie] = (await wire.sign_in(gateway.keys["acme"])).cookies
        assert cookie.startswith(f"__Host-{COOKIE}=")
        assert cookie.endswith("; Secure")
        assert await wire.is_in()


# Where to.


ELSEWHERE = (
    "https://evil.test/", "//evil.test/", "/\\evil.test", "/ui//evil.test", "/ui/../v1/tenants", "/ui/%2e%2e/v1", "/ui/.%2E",
    "/ui/\\..", "/v1/tenants", "", "ui/", "/ui", "javascript:alert(1)", "/ui/a\r\nSet-Cookie: a=b", "/ui/\ttab", "/ui/é",
    "/ui/sign-in?next=/ui/", "/ui/sign-in/oidc", "/ui/sign-out", "\x00/ui/", " /ui/",
)  # fmt: skip


@pytest.mark.parametrize("path", ELSEWHERE)
def test_what_is_no_page_of_ours(path: str) -> None:
    """It leads to the overview."""
    assert safe_path(path) == "/ui/"


async def test_nobody_is_sent_elsewhere(gateway: Gateway) -> None:
    """By the form, or by a link to it."""
    async with on_the_wire(gateway) as wire:
        for path in ELSEWHERE[:10]:
            assert (await wire.sign_in(gateway.keys["acme"], next=path)).location == "/ui/"
            assert (await wire.ask(f"/ui/sign-in?{urlencode({'next': path})}")).location == "/ui/"


@pytest.mark.parametrize("path", ["/ui/", "/ui/tenants", "/ui/tenants/a%2Fb/profiles?cursor=a.b%20c&x=", "/ui/a..b/c"])
def test_pages_of_ours(path: str) -> None:
    """They are where one goes."""
    assert safe_path(path) == path


async def test_who_is_signed_in_is_not_asked(gateway: Gateway) -> None:
    """The form sends them on."""
    async with on_the_wire(gateway) as wire:
        await wire.sign_in(gateway.keys["acme"])
        answered = await wire.ask("/ui/sign-in?next=%2Fui%2Ftenants")
        assert (answered.status, answered.location) == (303, "/ui/tenants")
        assert (await wire.ask("/ui/sign-in?next=//evil.test")).location == "/ui/"


# By a link.


async def test_by_a_link(gateway: Gateway) -> None:
    """Looking at it does not use it up; the button does."""
    path, token = await link(gateway)
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as scanner:
        for method in ("GET", "HEAD", "GET"):
            shown = await scanner.ask(path, method=method, headers={"Sec-Fetch-Site": "cross-site"})
            assert (shown.status, shown.cookies) == (200, [])
        assert "Sign in as admin?" in shown.text
        assert "<strong>acme</strong>" in shown.text
        answered = await take(wire, token)
        assert (answered.status, answered.location) == (303, "/ui/")
        assert (await wire.ask("/ui/tenants/acme-emea/settings")).status == 200
        assert (await wire.ask("/ui/tenants/system/settings")).status == 404
        assert (await take(scanner, token)).status == 410
        assert (await scanner.ask(path)).status == 410
        assert not await scanner.is_in()


async def test_of_two_who_take_a_link_one_gets_in(gateway: Gateway) -> None:
    """Also at the same moment."""
    async with on_the_wire(gateway) as wire:
        for _ in range(5):
            _, token = await link(gateway)
            answers = await asyncio.gather(*(take(wire, token) for _ in range(4)))
            assert sorted(answered.status for answered in answers) == [303, 410, 410, 410]


async def test_a_link_lasts_five_minutes(gateway: Gateway) -> None:
    """Then it signs nobody in."""
    answer = await ask_for_link(gateway, gateway.keys["acme"])
    path, token = await link(gateway)
    clock = Clock(gateway)
    async with on_the_wire(gateway) as wire:
        clock.move(LINK_LIFE - 2_000)
        assert (await wire.ask(path)).status == 200
        clock.move(2_000)
        assert (await wire.ask(path)).status == 410
        assert (await take(wire, token)).status == 410
    assert answer["expires_at"].endswith("Z")


async def test_a_link_of_a_revoked_key_signs_nobody_in(gateway: Gateway) -> None:
    """It is as good as the key."""
    id_, key = await make_key(gateway, scopes=["admin"], name=HOSTILE)
    url = (await ask_for_link(gateway, key))["url"]
    token = url.partition("token=")[2]
    async with on_the_wire(gateway) as wire:
        shown = (await wire.ask(f"/ui/sign-in/link?token={token}")).text
        assert "<script" not in shown
        assert "{{ 7*7 }}" in shown
        await revoke(gateway, id_)
        assert (await take(wire, token)).status == 410


async def test_a_link_that_nobody_made(gateway: Gateway) -> None:
    """It is told, and not repeated."""
    async with on_the_wire(gateway) as wire:
        for token in ("", "x" * 43, "x" * 4_000, HOSTILE):
            answered = await take(wire, token)
            assert answered.status == 410
            assert "signs nobody in" in answered.text
            assert "alert(1)" not in answered.text


async def test_a_session_is_no_link_and_a_link_no_session(gateway: Gateway) -> None:
    """The token of one is not taken for the other."""
    _, token = await link(gateway)
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as other:
        await wire.sign_in(gateway.keys["acme"])
        assert (await take(other, wire.cookies[COOKIE])).status == 410
        assert await wire.is_in()
        other.cookies[COOKIE] = token
        assert not await other.is_in()


async def test_signing_out_everywhere_takes_back_what_links_promise(gateway: Gateway) -> None:
    """Nobody comes back by a link that was made before."""
    _, token = await link(gateway)
    async with on_the_wire(gateway) as wire:
        await wire.sign_in(gateway.keys["acme"])
        await wire.post("/ui/sign-out", everywhere="on")
        assert (await take(wire, token)).status == 410


async def test_who_may_have_a_link(gateway: Gateway) -> None:
    """Whoever holds `admin`; it is a door, and no answer to somebody who reads."""
    _, reader = await make_key(gateway)
    assert (await ask_for_link(gateway, reader, 403))["code"] == "forbidden"


TLS = {"tls_certificate": __file__, "tls_key": __file__}


@pytest.mark.parametrize(
    ("listen", "more", "address"),
    [
        ([TcpAddress("127.0.0.1", 8025)], {}, "http://127.0.0.1:8025"),
        ([TcpAddress("0.0.0.0", 8025)], {}, "http://127.0.0.1:8025"),
        ([TcpAddress("::", 8025)], {}, "http://[::1]:8025"),
        ([UnixAddress("/run/x"), TcpAddress("10.0.0.1", 443)], TLS, "https://10.0.0.1:443"),
        ([UnixAddress("/run/x")], {}, None),
    ],
)
def test_where_the_pages_are(listen: list[Any], more: dict[str, str], address: str | None) -> None:
    """At our first TCP listener as this machine reaches it, unless the operator says where browsers find them."""
    http = Http.model_construct(listen=tuple(listen), tls_certificate=more.get("tls_certificate"))
    settings = Settings.model_construct(http=http, ui=Ui())
    assert pages_address(settings) == address
    named = Settings.model_construct(http=http, ui=Ui(public_url="https://notify.example.test"))
    assert pages_address(named) == "https://notify.example.test"


# In a browser.


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
async def test_a_link_in_a_browser(gateway: Gateway, browser: Browser, width: int, scheme: Any) -> None:
    """Opened and confirmed by keyboard; the cookie is one that no script sees."""
    path, _ = await link(gateway)
    seen = await browser.open(f"{gateway.url}{path}", width=width, scheme=scheme)
    await seen.axe()
    await seen.no_sideways_scroll()
    await seen.page.keyboard.press("Enter")
    await seen.page.wait_for_url("**/ui/")
    [cookie] = await seen.page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
    assert await seen.page.evaluate("document.cookie") == ""


async def test_a_wrong_key_in_a_browser(gateway: Gateway, browser: Browser) -> None:
    """The fault stands at the field; it works without scripts."""
    seen = await browser.open(f"{gateway.url}/ui/sign-in?next=%2Fui%2Ftenants", width=390, scripts=False)
    browser.expect(Kind.CONSOLE, "401")
    await seen.page.get_by_label("API key").fill("ngw_wrong_key")
    await seen.page.keyboard.press("Enter")
    field = seen.page.get_by_label("API key")
    await seen.page.get_by_text("This key is not valid here.").wait_for()
    assert await field.get_attribute("aria-invalid") == "true"
    await seen.no_sideways_scroll()
    await field.fill(gateway.keys["acme"])
    await seen.page.keyboard.press("Enter")
    await seen.page.wait_for_url("**/ui/tenants")
