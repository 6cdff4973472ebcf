"""Who is signed in stays so for as long as they may, and not a request longer."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import shutil
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gateway.http import server
from gateway.store.protocol import StoreFull, StoreUnavailable
from gateway.ui.rendering import HEADERS
from gateway.ui.table import PAGES
from tests.peers.openid_provider import OpenIdProvider
from tests.process.engines import NEWEST, own_schema
from tests.ui import gateway as gateways
from tests.ui.asking import opened
from tests.ui.browser import Kind
from tests.ui.wire import COOKIE, FORM, on_the_wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.peers.postgresql import Servers
    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway

MINUTE = 60_000
HOUR = 60 * MINUTE
PUBLIC = "notify.example.test"
LIVE = "/ui/"  # a page that asks for parts of itself


class Clock:
    """Time that a test moves."""

    def __init__(self, gateway: Gateway) -> None:
        self._outbox = gateway.running.outbox
        self._real = self._outbox.clock
        self._ahead = 0
        self._outbox.clock = lambda: self._real() + self._ahead

    def move(self, milliseconds: int) -> None:
        self._ahead += milliseconds


@pytest.fixture
def clock(gateway: Gateway) -> Clock:
    """The gateway's clock."""
    return Clock(gateway)


@pytest_asyncio.fixture(loop_scope="session")
async def proxied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """A gateway behind a proxy that speaks TLS for it."""
    settings = gateways.SETTINGS.replace("[http]", '[http]\ntrusted_proxies = ["127.0.0.1/32"]')
    monkeypatch.setattr(gateways, "SETTINGS", settings)
    async with gateways.running(tmp_path, f'[ui]\npublic_url = "https://{PUBLIC}"\n') as running:
        yield running


async def make_key(gateway: Gateway, **fields: Any) -> tuple[str, str]:
    """Make a key of acme's over the API; its id and its text."""
    import aiohttp

    headers = {"Authorization": f"Bearer {gateway.keys['acme']}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{gateway.url}/v1/tenants/acme/keys", json={"scopes": ["read"], **fields}) as answer,
    ):
        assert answer.status == 201, await answer.text()
        made = await answer.json()
        return made["id"], made["key"]


async def revoke(gateway: Gateway, id_: str) -> None:
    import aiohttp

    headers = {"Authorization": f"Bearer {gateway.keys['acme']}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.delete(f"{gateway.url}/v1/tenants/acme/keys/{id_}") as answer,
    ):
        assert answer.status == 204


# How long.


async def test_use_keeps_a_session_alive(gateway: Gateway, clock: Clock) -> None:
    """Somebody who looks at a page every twenty minutes stays signed in for hours."""
    async with on_the_wire(gateway) as wire:
        await wire.sign_in(gateway.keys["acme"])
        for _ in range(12):
            clock.move(20 * MINUTE)
            assert await wire.is_in()


async def test_a_session_that_nobody_uses_ends(gateway: Gateway, clock: Clock) -> None:
    """After half an hour, and it does not come back."""
    async with on_the_wire(gateway) as wire:
        await wire.sign_in(gateway.keys["acme"])
        clock.move(30 * MINUTE)
        assert not await wire.is_in()
        clock.move(-30 * MINUTE)
        assert not await wire.is_in()


async def test_a_short_idle_time_is_kept_to_the_second(tmp_path: Path) -> None:
    """Where a session lasts a minute, use within it counts."""
    async with gateways.running(tmp_path, "[ui]\nsession_idle_minutes = 1\n") as gateway, on_the_wire(gateway) as wire:
        clock = Clock(gateway)
        await wire.sign_in(gateway.keys["acme"])
        for _ in range(4):
            clock.move(MINUTE // 2)
            assert await wire.is_in()
        clock.move(MINUTE)
        assert not await wire.is_in()


async def test_a_session_ends_in_any_case(gateway: Gateway, clock: Clock) -> None:
    """After twelve hours, however busy somebody is."""
    async with on_the_wire(gateway) as wire:
        await wire.sign_in(gateway.keys["acme"])
        for _ in range(12 * 4 - 1):
            clock.move(15 * MINUTE)
            assert await wire.is_in()
        clock.move(15 * MINUTE)
        assert not await wire.is_in()


@pytest.mark.parametrize("error", [StoreFull, StoreUnavailable])
async def test_a_use_that_cannot_be_written_keeps_nobody_from_reading(
    gateway: Gateway, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: type[StoreUnavailable]
) -> None:
    """The pages are what one wants to see when the disk is full; once there is room, use counts again."""

    async def refuse(*_: object) -> None:
        raise error

    async with on_the_wire(gateway) as wire:
        await wire.sign_in(gateway.keys["acme"])
        with monkeypatch.context() as full:
            full.setattr(type(gateway.running.store), "use_session", refuse)
            clock.move(20 * MINUTE)
            assert await wire.is_in(LIVE)
        assert await wire.is_in()
        clock.move(20 * MINUTE)
        assert await wire.is_in()


async def test_a_page_that_asks_by_itself_keeps_nobody_signed_in(gateway: Gateway, clock: Clock) -> None:
    """A window that was left open is no use of a session; what a person does there is."""
    part = {"HX-Request": "true"}
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as person:
        await wire.sign_in(gateway.keys["acme"])
        await person.sign_in(gateway.keys["acme"])
        for _ in range(2):
            clock.move(14 * MINUTE)
            assert (await wire.ask(LIVE, headers=part)).headers.get("HX-Redirect") is None
            assert await person.is_in(LIVE)
        clock.move(14 * MINUTE)
        assert (await wire.ask(LIVE, headers=part)).headers["HX-Redirect"] == "/ui/sign-in"
        assert await person.is_in(LIVE)


# Whose.


async def test_a_revoked_key_signs_nobody_in_any_more(gateway: Gateway) -> None:
    """Its sessions end at the next request, and not those of other keys."""
    id_, key = await make_key(gateway)
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as other:
        await wire.sign_in(key)
        await other.sign_in(gateway.keys["acme"])
        await revoke(gateway, id_)
        assert (await wire.is_in(), await other.is_in()) == (False, True)


async def test_an_expired_key_ends_its_sessions(gateway: Gateway, clock: Clock) -> None:
    """A session lasts no longer than the key."""
    _, key = await make_key(gateway, expires_at="2999-01-01T00:00:00Z")
    async with on_the_wire(gateway) as wire:
        await wire.sign_in(key)
        assert await wire.is_in()
        found = gateway.running.directory.snapshot.key(key.split("_")[1])
        assert found is not None
        assert found.expires_at is not None
        clock.move(found.expires_at - gateway.running.outbox.clock())
        assert not await wire.is_in()


async def test_a_key_ends_its_session_outside_its_networks(proxied: Gateway) -> None:
    """Whoever takes the cookie elsewhere has ended it everywhere."""
    import aiohttp

    headers = {"Authorization": f"Bearer {proxied.keys['acme']}"}
    wanted = {"scopes": ["read"], "cidrs": ["10.1.0.0/16"]}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{proxied.url}/v1/tenants/acme/keys", json=wanted) as answer,
    ):
        key = (await answer.json())["key"]
    async with on_the_wire(proxied, Host=PUBLIC, X_Forwarded_For="10.1.2.3") as wire:
        await wire.sign_in(key)
        assert await wire.is_in()
        wire.headers["X-Forwarded-For"] = "10.2.2.3"
        assert not await wire.is_in()
        wire.headers["X-Forwarded-For"] = "10.1.2.3"
        assert not await wire.is_in()


async def test_what_somebody_may_is_looked_up_at_each_request(gateway: Gateway) -> None:
    """A session says who, not what: another's cookie shows what that one may see."""
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as child:
        await wire.sign_in(gateway.keys["acme"])
        await child.sign_in(gateway.keys["acme-emea"])
        assert (await wire.ask("/ui/tenants/acme/settings")).status == 200
        assert (await child.ask("/ui/tenants/acme/settings")).status == 404


async def test_a_key_that_is_withdrawn_while_its_form_is_on_its_way_changes_nothing(gateway: Gateway) -> None:
    """The form may take its time; who signed it is looked at when it is all there."""
    id_, key = await make_key(gateway, scopes=["admin"])
    async with on_the_wire(gateway) as wire:
        await wire.sign_in(key)
        body = b"/id=acme-new&/name=New&/parent=acme"
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /ui/new-tenant HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {FORM}\r\nContent-Length: {len(body)}\r\n"
            f"Cookie: {COOKIE}={wire.cookies[COOKIE]}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body[:5])
        await writer.drain()
        while not gateway.running.http.answering:
            await asyncio.sleep(0.005)
        await revoke(gateway, id_)
        writer.write(body[5:])
        told = (await reader.read()).decode()
        writer.close()
    assert told.startswith("HTTP/1.1 401 ")
    assert "acme-new" not in gateway.running.directory.snapshot.tenants


# The end.


async def test_signing_out_ends_the_session_not_the_cookie_alone(gateway: Gateway) -> None:
    """Whoever kept the cookie has nothing; other sessions of the same person go on."""
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as other:
        await wire.sign_in(gateway.keys["acme"])
        await other.sign_in(gateway.keys["acme"])
        kept = wire.cookies[COOKIE]
        out = await wire.post("/ui/sign-out")
        assert (out.status, out.location) == (303, "/ui/sign-in")
        assert out.cookies == [f"{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"]
        wire.cookies[COOKIE] = kept
        assert (await wire.is_in(), await other.is_in()) == (False, True)


async def test_signing_out_everywhere(gateway: Gateway) -> None:
    """All of this person's sessions end, and nobody else's; the audit has it."""
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as other, on_the_wire(gateway) as stranger:
        await wire.sign_in(gateway.keys["acme"])
        await other.sign_in(gateway.keys["acme"])
        await stranger.sign_in(gateway.keys["acme-emea"])
        await wire.post("/ui/sign-out", everywhere="on")
        assert (await wire.is_in(), await other.is_in(), await stranger.is_in()) == (False, False, True)
    rows = await gateway.running.store.audit("acme", before=None, limit=1)
    assert [row.action for row in rows] == ["session.end_all"]


async def test_signing_out_everywhere_reaches_other_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgresql_servers: Servers
) -> None:
    """Daemons that share a database share who is signed in, and who is not any more."""
    async with AsyncExitStack() as stack:
        postgresql = postgresql_servers[NEWEST]
        await postgresql.wait()
        url = await stack.enter_async_context(own_schema(postgresql))
        settings = gateways.SETTINGS.replace("sqlite:///gateway.db", url).replace("disk_floor_bytes = 0\n", "")
        one = tmp_path / "one"
        one.mkdir()
        monkeypatch.setattr(gateways, "SETTINGS", settings)
        first = await stack.enter_async_context(gateways.running(one))
        two = tmp_path / "two"
        two.mkdir()
        for file in one.glob("*.key"):
            shutil.copy(file, two)
        second = await stack.enter_async_context(gateways.running(two))
        here = await stack.enter_async_context(on_the_wire(first))
        there = await stack.enter_async_context(on_the_wire(second))
        await here.sign_in(first.keys["acme"])
        there.cookies |= here.cookies
        assert await there.is_in()
        await there.sign_in(first.keys["acme"])
        await here.sign_in(first.keys["acme"])
        await there.post("/ui/sign-out", everywhere="on")
        assert not await here.is_in()


async def test_a_window_that_was_left_open_asks_to_sign_in(gateway: Gateway, clock: Clock) -> None:
    """Htmx is told where to go, and back to the page that was open."""
    part = {"HX-Request": "true", "HX-Current-URL": f"{gateway.url}/ui/notifications?tenant=acme"}
    async with on_the_wire(gateway) as wire:
        await wire.sign_in(gateway.keys["acme"])
        clock.move(HOUR)
        answered = await wire.ask(LIVE, headers=part)
    assert (answered.status, answered.text) == (200, "")
    assert answered.headers["HX-Redirect"] == "/ui/sign-in?next=%2Fui%2Fnotifications%3Ftenant%3Dacme"


async def test_a_form_that_comes_too_late_leads_nowhere(gateway: Gateway, clock: Clock) -> None:
    """Htmx is given a notice with a way to sign in, and nothing else, so that the page stays with what was typed."""
    part = {"HX-Request": "true", "HX-Current-URL": f"{gateway.url}/ui/new-tenant"}
    async with on_the_wire(gateway) as wire:
        await wire.sign_in(gateway.keys["acme"])
        clock.move(HOUR)
        answered = await wire.post("/ui/new-tenant", headers=part)
    assert (answered.status, "HX-Redirect" in answered.headers) == (401, False)
    assert answered.text.startswith('<div class="notice bad" role="alert">')
    assert 'href="/ui/sign-in" target="_blank"' in answered.text
    assert not any(word in answered.text for word in ("<html", "<form", "acme"))


@pytest.mark.parametrize("error", [StoreFull, StoreUnavailable])
async def test_a_form_that_comes_at_a_bad_moment_can_be_sent_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, error: type[StoreUnavailable]
) -> None:
    """While the database is away a browser is told to reload, which sends it again; who only looked is not."""

    async def refuse(*_: object) -> None:
        raise error

    async with on_the_wire(gateway) as wire:
        await wire.sign_in(gateway.keys["acme"])
        monkeypatch.setattr(type(gateway.running.store), "session", refuse)
        looked, sent = await wire.ask("/ui/new-tenant"), await wire.post("/ui/new-tenant")
    assert (looked.status, "Reload this page" in looked.text) == (503, False)
    assert (sent.status, "Reload this page" in sent.text) == (503, True)


async def test_htmx_is_sent_back_to_pages_of_ours_only(gateway: Gateway) -> None:
    """Whatever the window says that it shows."""
    async with on_the_wire(gateway) as wire:
        for shown in (
            "https://evil.test//ui/x",
            "https://evil.test/elsewhere",
            "javascript:alert(1)",
            "::",
            "http://[/ui/",
        ):
            answered = await wire.ask(LIVE, headers={"HX-Request": "true", "HX-Current-URL": shown})
            assert answered.headers["HX-Redirect"] == "/ui/sign-in"


# From another site.


async def test_a_link_elsewhere_leads_to_the_page(gateway: Gateway) -> None:
    """A browser keeps the cookie back: it is asked to come once more by itself, and does not go round in circles."""
    away = {"Sec-Fetch-Site": "cross-site"}
    async with on_the_wire(gateway) as wire, on_the_wire(gateway) as stranger:
        await wire.sign_in(gateway.keys["acme"])
        hop = await stranger.ask("/ui/tenants?q=a%26b", headers=away)
        assert hop.status == 200
        assert 'content="0; url=' in hop.text
        path = "/ui/sign-in?next=%2Fui%2Ftenants%3Fq%3Da%2526b"
        assert path.replace("/", "&#x2f;") in hop.text
        back = await wire.ask(path)
        assert (back.status, back.location) == (303, "/ui/tenants?q=a%26b")
        assert (await stranger.ask(path, headers=away)).status == 200
        assert "One moment" not in (await stranger.ask(path, headers=away)).text


# Requests that are odd.


async def test_entrances(gateway: Gateway) -> None:
    """The bare address leads to the pages."""
    async with on_the_wire(gateway) as wire:
        for path in ("/", "/ui"):
            answered = await wire.ask(path)
            assert (answered.status, answered.location) == (303, "/ui/")


async def test_head(gateway: Gateway) -> None:
    """A page's head is that of the page."""
    async with on_the_wire(gateway) as wire:
        for path in ("/ui/sign-in", "/ui/tenants"):
            full, head = await wire.ask(path), await wire.ask(path, method="HEAD")
            assert (head.status, head.text) == (full.status, "")
            assert head.headers["Content-Security-Policy"] == full.headers["Content-Security-Policy"]


async def test_wrong_methods(gateway: Gateway) -> None:
    """What a page does not do is refused, with what it does."""
    async with on_the_wire(gateway) as wire:
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"):
            answered = await wire.ask("/ui/sign-in", method=method)
            assert (answered.status, answered.headers["Allow"]) == (405, "GET, HEAD, POST")


async def test_an_absolute_target_leads_nowhere_else(gateway: Gateway) -> None:
    """A request may name a host in its first line; nobody is sent there."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET http://evil.test/ui/tenants?a=b HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    told = (await reader.read()).decode()
    writer.close()
    assert "Location: /ui/sign-in?next=%2Fui%2Ftenants%3Fa%3Db\r\n" in told
    assert "evil" not in told


async def test_cookies_that_are_nobodys(gateway: Gateway) -> None:
    """Whatever stands in the cookie, who is not known is asked who they are."""
    async with on_the_wire(gateway) as wire:
        for token in ("x", "x" * 43, "%00", "é", "x" * 7_900, '"quoted"'):
            wire.cookies[COOKIE] = token
            assert not await wire.is_in()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"a" * 16_385, {}, 413),
        (b"&".join([b"a="] * 5_001), {}, 400),
        (b"no form", {}, 400),
        (b"key=\xff", {}, 400),
        (gzip.compress(b"key=a", mtime=0), {"Content-Encoding": "gzip"}, 415),
        (b"--x--", {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        (b"{}", {"Content-Type": "application/json"}, 415),
    ],
)
async def test_forms_that_are_none(gateway: Gateway, body: bytes, headers: dict[str, str], status: int) -> None:
    """What cannot be read is refused as a page; strangers send little."""
    async with on_the_wire(gateway) as wire:
        answered = await wire.ask("/ui/sign-in", method="POST", body=body, headers={"Content-Type": FORM, **headers})
        assert answered.status == status
        assert "<h1>" in answered.text


async def test_too_large_a_form(gateway: Gateway) -> None:
    """Who is known may send more, within bounds; who is not is asked who they are before it is read."""
    body = b"/name=" + b"a" * 2_000_000
    async with on_the_wire(gateway) as wire:
        asked = {"method": "POST", "body": body, "headers": {"Content-Type": FORM}}
        assert (await wire.ask("/ui/new-tenant", **asked)).status == 401  # type: ignore[arg-type]
        await wire.sign_in(gateway.keys["acme"])
        assert (await wire.ask("/ui/new-tenant", **asked)).status == 413  # type: ignore[arg-type]


async def test_a_form_that_comes_too_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for."""
    settings = gateways.SETTINGS.replace("[http]", "[http]\nbody_timeout_seconds = 1")
    monkeypatch.setattr(gateways, "SETTINGS", settings)
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.1)
    async with gateways.running(tmp_path) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /ui/sign-in HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {FORM}\r\nContent-Length: 9\r\n\r\nkey="
        )
        writer.write(head.encode())
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.transport.abort()


def _paths() -> list[str]:
    names = {"{tenant}": "acme", "{name}": "alerts", "{id}": "nothing", "{child}": "acme-emea"}
    paths = [page.path for page in PAGES if page.method == "GET" and "oidc" not in page.path]
    for name, value in names.items():
        paths = [path.replace(name, value) for path in paths]
    return sorted({path for path in paths if "{" not in path})


async def test_every_page_has_the_headers_that_keep_it_safe(gateway: Gateway) -> None:
    """To somebody who is signed in and to a stranger, shown, refused or sent elsewhere."""
    other = ["/ui/none", "/", "/ui/sign-in/link?token=none"]
    async with (
        on_the_wire(gateway) as wire,
        on_the_wire(gateway) as stranger,
        on_the_wire(gateway, Host="evil.test") as away,
    ):
        await wire.sign_in(gateway.keys["system"])
        wrong = []
        for path, who in itertools.product([*_paths(), *other], (wire, stranger, away)):
            answered = await who.ask(path)
            if "text/html" not in answered.headers["Content-Type"]:
                continue  # a file, or raw mail
            wrong += [(path, answered.status, name) for name in HEADERS if answered.headers.get(name) != HEADERS[name]]
        assert not wrong


def test_the_policy() -> None:
    """Nothing inline, nothing from elsewhere, no frame around us, no form to elsewhere."""
    assert HEADERS == {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "Cache-Control": "no-store",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


async def test_a_session_ends_while_somebody_looks(gateway: Gateway, clock: Clock, browser: Browser) -> None:
    """In a browser: sign in, be away too long, sign in again, and be where one wanted to go; then sign out."""
    seen = await browser.open(f"{gateway.url}/ui/tenants")
    page = seen.page
    await page.get_by_label("API key").fill(gateway.keys["acme"])
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url("**/ui/tenants")
    clock.move(HOUR)
    await seen.goto("/ui/tenants/acme/settings")
    await page.wait_for_url("**/ui/sign-in?next=**")
    await page.get_by_label("API key").fill(gateway.keys["acme"])
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/ui/tenants/acme/settings")
    await page.locator("details.who summary").click()
    await page.get_by_role("button", name="Sign out", exact=True).click()
    await page.wait_for_url("**/ui/sign-in")
    await seen.axe()
    assert not await page.context.cookies()
    await seen.goto("/ui/tenants")
    await page.wait_for_url("**/ui/sign-in?next=**")


async def test_what_was_written_outlives_the_session(gateway: Gateway, clock: Clock, browser: Browser) -> None:
    """Sent too late by who runs no scripts it is not saved, and not lost: signed in elsewhere, one reload sends it again."""
    browser.expect(Kind.CONSOLE, "401")
    seen = await opened(gateway, browser, "/ui/new-tenant")
    page = seen.page
    await page.fill("[name='/id']", "acme-late")
    clock.move(HOUR)
    await page.evaluate("document.querySelector('main form').submit()")  # which no script hears of
    async with page.context.expect_page() as opening:
        await page.get_by_role("link", name="Sign in in another tab").click()
    other = await opening.value
    await seen.axe()
    await other.get_by_label("API key").fill(gateway.keys["acme"])
    await other.keyboard.press("Enter")
    await other.wait_for_url("**/ui/")
    assert "acme-late" not in gateway.running.directory.snapshot.tenants
    await page.reload()
    await page.wait_for_url("**/ui/tenants/acme-late**")
    assert "acme-late" in gateway.running.directory.snapshot.tenants


async def test_a_form_stays_when_the_session_is_over(gateway: Gateway, clock: Clock, browser: Browser) -> None:
    """The page says so above what was typed, which is sent once somebody has signed in in another tab."""
    seen = await opened(gateway, browser, "/ui/new-tenant")
    page = seen.page
    await page.fill("[name='/id']", "acme-late")
    clock.move(HOUR)
    await page.keyboard.press("Enter")
    async with page.context.expect_page() as opening:
        await page.get_by_role("link", name="Sign in in another tab").click()
    other = await opening.value
    await seen.axe()
    assert await page.input_value("[name='/id']") == "acme-late"
    await other.get_by_label("API key").fill(gateway.keys["acme"])
    await other.keyboard.press("Enter")
    await other.wait_for_url("**/ui/")
    assert "acme-late" not in gateway.running.directory.snapshot.tenants
    await page.get_by_role("button", name="Make the tenant").click()
    await page.wait_for_url("**/ui/tenants/acme-late**")
    assert "acme-late" in gateway.running.directory.snapshot.tenants


async def test_a_window_in_a_browser_that_asks_by_itself(gateway: Gateway, clock: Clock, browser: Browser) -> None:
    """Once the session is over, what htmx asks for leads to the form, and from there back to the page that was open."""
    seen = await opened(gateway, browser, "/ui/tenants?q=a")
    page = seen.page
    clock.move(HOUR)
    await page.evaluate("void htmx.ajax('GET', '/ui/', {target: '#main'})")
    await page.wait_for_url("**/ui/sign-in?next=%2Fui%2Ftenants%3Fq%3Da")
    await page.get_by_label("API key").fill(gateway.keys["acme"])
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/ui/tenants?q=a")


async def test_a_link_on_another_site_in_a_browser(gateway: Gateway, browser: Browser) -> None:
    """Who is signed in gets the page, though the browser keeps the cookie back at first; who is not gets the form."""
    elsewhere = OpenIdProvider()
    elsewhere.pages["/mail"] = f"<!doctype html><title>Mail</title><a href='{gateway.url}/ui/tenants'>Look</a>"
    async with elsewhere:
        seen = await browser.open(f"{gateway.url}/ui/sign-in")
        browser.allow(elsewhere.issuer)
        page = seen.page
        await seen.goto(f"{elsewhere.issuer}/mail")
        await page.get_by_text("Look").click()
        await page.wait_for_url("**/ui/sign-in?next=**")
        await page.get_by_label("API key").fill(gateway.keys["acme"])
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/ui/tenants")
        await seen.goto(f"{elsewhere.issuer}/mail")
        await page.get_by_text("Look").click()
        await page.wait_for_url("**/ui/tenants")


async def test_a_cookie_of_octets_that_are_no_text(gateway: Gateway) -> None:
    """Is nobody's, and no failure of ours."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET /ui/sign-in HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\nCookie: {COOKIE}="
    writer.write(head.encode() + b"\xff\xfe\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 "), answer


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Forwarded-Proto", "Via"])
async def test_a_proxy_on_this_machine_is_not_this_machine(gateway: Gateway, name: str) -> None:
    """Whoever asks through one that the settings do not know is not taken for somebody here, whatever Host it names."""
    async with on_the_wire(gateway) as wire:
        assert (await wire.ask("/ui/sign-in")).status == 200
        assert (await wire.ask("/ui/sign-in", headers={name: "for=203.0.113.9"})).status == 403
