"""The browser that the pages' tests look through sees what it should, and only that."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Error

from tests.process.cluster import until
from tests.process.daemon import mail
from tests.ui import browser as browsers
from tests.ui.browser import DESK, PHONE, Browser, Kind, watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser as Chromium

    from tests.ui.gateway import Gateway

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
DOT = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Queue</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><link rel="stylesheet" href="/style.css">
<script src="/script.js" defer></script></head><body><main><h1>Queue</h1>{body}</main></body></html>"""
STYLE = ":root { color-scheme: light dark; background: Canvas; color: CanvasText }"  # axe takes no background for white
FORM = '<p><a href="/">Home</a> <label>Recipient <input></label> <button aria-label="Send it">+</button></p>'


@asynccontextmanager
async def site(body: str = "", style: str = "", script: str = "") -> AsyncIterator[str]:
    """Serve one page under the policy of the gateway's own; give its address."""

    def serve(text: str, kind: str) -> web.Response:
        return web.Response(text=text, content_type=kind, headers={"Content-Security-Policy": POLICY})

    async def page(_: web.Request) -> web.Response:
        return serve(PAGE.format(body=body), "text/html")

    async def sheet(_: web.Request) -> web.Response:
        return serve(STYLE + style, "text/css")

    async def code(_: web.Request) -> web.Response:
        return serve(script, "text/javascript")

    async def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/style.css", sheet)
    app.router.add_get("/script.js", code)
    app.router.add_get("/cut", cut)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def visit(running: Chromium, url: str, *expected: str) -> None:
    """Open a page as a test that expects these lines on the console."""
    async with watched(running) as browser:
        for line in expected:
            browser.expect(Kind.CONSOLE, line)
        await browser.open(url)


async def blame(running: Chromium, url: str, *expected: str) -> str:
    """Open a page that does something wrong; give what the test that did it is told."""
    with pytest.raises(AssertionError) as told:
        await visit(running, url, *expected)
    return str(told.value)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
async def test_clean_page(browser: Browser, width: int, scheme: str) -> None:
    """A page that does nothing wrong passes everything, at each width and in each scheme."""
    async with site(FORM, script="document.body.dataset.ran = 1") as url:
        seen = await browser.open(url, width=width, scheme=scheme)
        assert await seen.page.evaluate("[innerWidth, document.body.dataset.ran]") == [width, "1"]
        assert await seen.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")
        assert "Recipient" in await seen.text()
        await seen.axe()
        await seen.no_sideways_scroll()
        await seen.tab_to("Recipient")
        await seen.tab_to("Send it")


@pytest.mark.parametrize(
    ("body", "directive", "console"),
    [
        ("<script>document.title = 'Mine'</script>", "script-src-elem", "Executing inline script"),
        ("<p style='color: red'>Red</p>", "style-src-attr", "Applying inline style"),
        ("<p onclick='alert()'>Click</p>", "script-src-attr", "Executing inline event handler"),
        ("<img src='http://127.0.0.1:9/' alt='Dot'>", "img-src", "Loading the image"),
    ],
)
async def test_policy(started_chromium: Chromium, body: str, directive: str, console: str) -> None:
    """What the policy forbids is reported, by the page's event and by its console."""
    async with site(body) as url:
        told = await blame(started_chromium, url)
        assert f"policy: content-security-policy: {directive} forbids " in told
        assert f"policy: {console}" in told


async def test_policy_after_navigation(browser: Browser) -> None:
    """Also on pages to which the first one leads."""
    async with site() as clean, site("<script>1</script>") as url:
        seen = await browser.open(clean)
        await browser.verify()
        browser.allow(url)
        browser.expect(Kind.POLICY, f"^content-security-policy: script-src-elem forbids inline {url}")
        browser.expect(Kind.POLICY, "^Executing inline script")
        await seen.goto(url)


async def test_console(started_chromium: Chromium) -> None:
    """Errors and warnings are told, other lines are not."""
    async with site(script="console.log('one'); console.error('two'); console.warn('three')") as url:
        told = await blame(started_chromium, url)
        assert "console: two" in told
        assert "console: three" in told
        assert "one" not in told


async def test_without_scripts(browser: Browser) -> None:
    """Who lets no script run can read the page and walk through it."""
    async with site(FORM, script="console.error('ran')") as url:
        seen = await browser.open(url, scripts=False)
        await seen.no_sideways_scroll()
        await seen.tab_to("Send it")
        assert "Recipient" in await seen.text()


async def test_stuck_page(started_chromium: Chromium, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that never gets to what it has to say fails its test."""

    async def stick() -> None:
        async with watched(started_chromium) as browser:
            seen = await browser.open(url)
            await seen.page.evaluate("void setTimeout(() => { for (;;); })")
            monkeypatch.setattr(browsers, "PATIENCE", 0.5)

    async with site() as url:
        with pytest.raises(TimeoutError):
            await stick()


async def test_thrown(started_chromium: Chromium) -> None:
    """What nobody catches is told."""
    async with site(script="setTimeout(() => { throw new Error('lost') })") as url:
        assert "thrown: lost" in await blame(started_chromium, url)


async def test_missing_file(started_chromium: Chromium) -> None:
    """An answer that is an error shows on the console."""
    async with site("<img src='/none.png' alt='None'>") as url:
        assert f"404 (Not Found) {url}none.png" in await blame(started_chromium, url)


async def test_failed_request(started_chromium: Chromium) -> None:
    """A request without an answer is told."""
    async with site("<img src='/cut' alt='Cut'>") as url:
        assert f"failed: net::ERR_EMPTY_RESPONSE GET {url}cut" in await blame(started_chromium, url)


async def test_request_given_up(browser: Browser) -> None:
    """What a page no longer wants to know is no fault."""
    async with site(FORM) as url:
        seen = await browser.open(url)
        async with seen.page.expect_event("requestfailed"):
            await seen.page.evaluate("""() => {
                const regret = new AbortController();
                fetch("/style.css", {signal: regret.signal}).catch(() => null);
                regret.abort();
            }""")


async def test_foreign_host(browser: Browser) -> None:
    """Whoever is asked besides the hosts that were opened is told, also where the policy lets a page go there."""
    async with site() as other, site(f"<a href='{other}'>Away</a>") as url:
        seen = await browser.open(url)
        browser.expect(Kind.FOREIGN, f"^GET {other}")
        await seen.page.get_by_text("Away").click()
        await seen.page.wait_for_url(other)


async def test_other_machine(started_chromium: Chromium) -> None:
    """No name but loopback's resolves."""
    async with watched(started_chromium) as browser:
        browser.expect(Kind.FAILED, "^net::ERR_NAME_NOT_RESOLVED GET http://gateway.example/")
        with pytest.raises(Error, match="ERR_NAME_NOT_RESOLVED"):
            await browser.open("http://gateway.example/")


async def test_expected(started_chromium: Chromium) -> None:
    """What a test expects is no fault of its page."""
    async with site(script="console.error('two')") as url:
        await visit(started_chromium, url, "^two")


async def test_expected_and_missing(started_chromium: Chromium) -> None:
    """An expectation that nothing meets fails as well."""
    async with site(script="console.error('two')") as url:
        told = await blame(started_chromium, url, "^two", "^three")
        assert told == "what the pages did\nexpected and missing: console: ^three"


async def test_own_failure_first(started_chromium: Chromium) -> None:
    """A test that fails by itself is told of that, not of the pages."""

    async def fail() -> None:
        async with watched(started_chromium) as browser:
            await browser.open(url)
            raise LookupError

    async with site(script="console.error('two')") as url:
        with pytest.raises(LookupError):
            await fail()


async def test_axe(browser: Browser) -> None:
    """An image without words is found, and the message says which and what to do."""
    async with site(f"<img src='{DOT}'>") as url:
        seen = await browser.open(url)
        with pytest.raises(AssertionError, match=r"critical image-alt: <img src=.* Fix any of the following: .*alt"):
            await seen.axe()


async def test_sideways_scroll(browser: Browser) -> None:
    """A page that fits a desk and not a phone is found, with what sticks out."""
    async with site("<p class='wide'>Wide</p>", style=".wide { width: 600px }") as url:
        await (await browser.open(url)).no_sideways_scroll()
        seen = await browser.open(url, width=PHONE)
        with pytest.raises(AssertionError, match=r'6\d\d wide in 390: .*<p class="wide">'):
            await seen.no_sideways_scroll()


@pytest.mark.parametrize("hidden", ["outline: none", "outline: 2px solid transparent", "outline-width: 0"])
async def test_focus_nobody_sees(browser: Browser, hidden: str) -> None:
    """Who takes the ring away and puts nothing in its place is found."""
    async with site(FORM, style=f"input:focus {{ {hidden} }}") as url:
        seen = await browser.open(url)
        with pytest.raises(AssertionError, match="nothing shows that 'Recipient' has focus"):
            await seen.tab_to("Send it")


async def test_focus_shown_otherwise(browser: Browser) -> None:
    """A shadow, or a mark on the label, is as good as a ring."""
    style = "input:focus { outline: none } label:has(:focus) { background: gold } a:focus { outline: 0; box-shadow: 0 0 2px }"
    async with site(FORM, style=style) as url:
        await (await browser.open(url)).tab_to("Send it")


async def test_out_of_reach(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no keyboard reaches is found."""
    monkeypatch.setattr(browsers, "TABS", 10)
    async with site(FORM + "<div class='button'>Delete</div>") as url:
        seen = await browser.open(url)
        with pytest.raises(AssertionError, match=r"never at 'Delete', only .*'Send it'"):
            await seen.tab_to("Delete")


async def test_people_apart(browser: Browser) -> None:
    """Each page that is opened is another person, with cookies of their own."""
    async with site() as url:
        one, other = await browser.open(url), await browser.open(url)
        await one.page.context.add_cookies([{"name": "who", "value": "one", "url": url}])
        assert not await other.page.context.cookies()


async def test_gateway(gateway: Gateway) -> None:
    """The daemon is up, and knows each tenant's administrator by their key."""
    async with aiohttp.ClientSession() as session:
        for tenant, key in gateway.keys.items():
            url = f"{gateway.url}/v1/tenants/{tenant}"
            async with session.get(url, headers={"Authorization": f"Bearer {key}"}) as answer:
                assert (answer.status, (await answer.json())["id"]) == (200, tenant)


async def test_mail(gateway: Gateway) -> None:
    """What the lent profile is for arrives in the mail catcher."""
    assert gateway.running.catcher is not None
    headers = {"Authorization": f"Bearer {gateway.keys['acme-emea']}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{gateway.url}/v1/notifications", json=mail()) as answer,
    ):
        assert answer.status == 202, await answer.text()
    await until(gateway.running.catcher.messages, 10)
    assert [caught.sender for caught in gateway.running.catcher.messages()] == ["alerts@acme.example.test"]
