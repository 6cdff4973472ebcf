"""Caught mail in the pages: nothing that a sender wrote can do anything to who reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import aiosmtplib
import pytest

from tests.ui import gateway as gateways
from tests.ui.asking import asked, opened
from tests.ui.browser import PHONE, Kind
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway

HOSTILE = '"><script>alert(1)</script>'
ATTACK = """<script>parent.document.title = "owned"; fetch("/ui/sign-out", {method: "POST"})</script>
<img src=x onerror="parent.document.title = 'owned'">
<img src="http://127.0.0.1:9/seen.png"><style>@import "http://127.0.0.1:9/a.css"; p { color: rgb(1, 2, 3) }</style>
<form action="/ui/sign-out" method="post" target="_top"><button>Go</button></form>
<a href="http://127.0.0.1:9/" target="_top">Away</a><p>Shown</p>"""


async def caught(gateway: Gateway, data: bytes, sender: str = "a@b.example") -> str:
    """Have a message caught; answers the path of its page."""
    catcher = gateway.running.catcher
    assert catcher is not None
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=catcher.port, start_tls=False) as client:
        await client.sendmail(sender, ["c@d.example"], data)
    return f"/ui/catcher/{catcher.messages()[0].number}"


async def test_list(gateway: Gateway) -> None:
    """Newest first, with decoded subjects."""
    await caught(gateway, b"Subject: Gestern\r\n\r\nHello")
    path = await caught(gateway, b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nHello")
    async with visiting(gateway, "system") as visitor:
        page = await visitor.get("/ui/catcher")
        assert page.text.index("Grüße") < page.text.index("Gestern")
        assert "a@b.example c@d.example" in page.text
        assert path in page.links


async def test_each_way_of_looking(gateway: Gateway) -> None:
    """A message has the tabs that it has something for, and begins with its text."""
    path = await caught(gateway, b"Subject: plain\r\nX-Note: =?utf-8?q?=C3=BC?=\r\n\r\nHello there")
    async with visiting(gateway, "system") as visitor:
        assert "Hello there" in (await visitor.get(path)).text
        assert "ü" in (await visitor.get(f"{path}?show=headers")).text
        assert "X-Note: =?utf-8?q?=C3=BC?=" in (await visitor.get(f"{path}?show=raw")).text
        for other in (f"{path}?show=html", f"{path}/html", f"{path}?show=else", "/ui/catcher/99", "/ui/catcher/x"):
            assert (await visitor.get(other)).status == 404, other


async def test_what_senders_wrote_is_text(gateway: Gateway) -> None:
    """Subject, header fields, text and the names of attachments become no markup, wherever they are shown."""
    data = (
        f"Subject: {HOSTILE} subject\r\nX-{HOSTILE}: {HOSTILE} value\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        f"--b\r\n\r\n</pre>{HOSTILE} text\r\n--b\r\nContent-Type: a/<b>\r\n"
        f'Content-Disposition: attachment; filename="a <img src=x>.pdf"\r\n\r\nx\r\n--b--\r\n'
    ).encode()
    path = await caught(gateway, data, sender="<script>@b.example")
    async with visiting(gateway, "system") as visitor:
        for page in ("/ui/catcher", path, f"{path}?show=headers", f"{path}?show=raw"):
            shown = await visitor.get(page)
            assert shown.shows_as_text(f"{HOSTILE} subject"), page
            assert "img" not in shown.elements[shown.elements.index("main") :]
            assert shown.elements[shown.elements.index("main") :].count("script") == 0
        assert (await visitor.get(path)).shows_as_text(f"</pre>{HOSTILE} text")
        assert (await visitor.get(path)).shows_as_text("a <img src=x>.pdf")
        assert (await visitor.get(f"{path}?show=headers")).shows_as_text(f"{HOSTILE} value")


async def test_what_is_not_ours_comes_in_a_sandbox(gateway: Gateway) -> None:
    """The HTML and the raw message say themselves that they may do nothing, and the raw one is no HTML."""
    path = await caught(gateway, f"Subject: x\r\nContent-Type: text/html\r\n\r\n{ATTACK}".encode())
    async with visiting(gateway, "system") as visitor:
        html, raw = await visitor.get(f"{path}/html"), await visitor.get(f"{path}/raw")
        for answered in (html, raw):
            policy = [part.strip() for part in answered.headers["Content-Security-Policy"].split(";")]
            assert "sandbox" in policy
            assert "default-src 'none'" in policy
            assert not any(part.startswith("script-src") for part in policy)
            assert answered.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'self'" in html.headers["Content-Security-Policy"]
        assert raw.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert ATTACK.splitlines()[0] in html.source


async def test_large_mail(gateway: Gateway) -> None:
    """Of a large message the beginning is shown, and that this is so; the whole is a link away."""
    path = await caught(gateway, b"Subject: large\r\n\r\n" + b"A line of text.\r\n" * 100_000)
    async with visiting(gateway, "system") as visitor:
        for page in (path, f"{path}?show=raw"):
            shown = await visitor.get(page)
            assert "only its first" in shown.text
            assert 900_000 < len(shown.source) < 1_100_000
        assert len((await visitor.get(f"{path}/raw")).source) > 1_600_000


async def test_only_for_those_who_reach_everybody(gateway: Gateway) -> None:
    """Caught mail belongs to no tenant: who reaches only some finds neither link nor page, and strangers sign in."""
    path = await caught(gateway, b"Subject: between us\r\n\r\nHello")
    sender = await asked(gateway, "POST", "tenants/system/keys", {"scopes": ["send"]})
    pages = ("/ui/catcher", path, f"{path}?show=raw", f"{path}/html", f"{path}/raw")
    async with visiting(gateway, "acme") as tenant, visiting(gateway) as low, visiting(gateway) as stranger:
        await low.post("/ui/sign-in", {"key": sender["key"]})
        for page in pages:
            assert (await tenant.get(page)).status == 404
            assert (await low.get(page)).status == 404
            assert (await stranger.get(page)).path.startswith("/ui/sign-in")
        assert "/ui/catcher" not in (await tenant.get("/ui/tenants")).links
    async with visiting(gateway, "system") as visitor:
        assert "/ui/catcher" in (await visitor.get("/ui/tenants")).links


async def test_browsers_are_sent_to_the_pages(gateway: Gateway) -> None:
    """Who opens the API's address in a browser comes to the page; a program gets JSON."""
    async with aiohttp.ClientSession() as session:
        async with session.get(
            f"{gateway.url}/catcher", headers={"Accept": "text/html"}, allow_redirects=False
        ) as told:
            assert (told.status, told.headers["Location"]) == (303, "/ui/catcher")
        async with session.get(f"{gateway.url}/catcher") as told:
            assert (await told.json())["items"] == []


async def test_no_catcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a catcher there is neither a link nor a page."""
    catcher = '[mail_catcher]\nlisten = "127.0.0.1:{catcher}"\n'
    assert catcher in gateways.SETTINGS
    monkeypatch.setattr(gateways, "SETTINGS", gateways.SETTINGS.replace(catcher, ""))
    async with gateways.running(tmp_path) as gateway, visiting(gateway, "system") as visitor:
        assert (await visitor.get("/ui/catcher")).status == 404
        assert (await visitor.get("/ui/catcher/1/raw")).status == 404
        assert "/ui/catcher" not in (await visitor.get("/ui/tenants")).links


async def test_html_can_do_nothing(gateway: Gateway, browser: Browser) -> None:
    """A script in a caught message does not run, its pictures are not loaded, its forms are not sent, and the page stays."""
    path = await caught(gateway, f"Subject: attack\r\nContent-Type: text/html\r\n\r\n{ATTACK}".encode())
    browser.expect(Kind.CONSOLE, "Blocked script execution")
    browser.expect(Kind.POLICY, "img-src")
    browser.expect(Kind.POLICY, "style-src")
    browser.expect(Kind.CONSOLE, "Blocked form submission")
    browser.expect(Kind.FOREIGN, "^GET http://127.0.0.1:9/")  # it tries …
    for name in ("a.css", "seen.png", "x"):
        browser.expect(Kind.FAILED, f"^csp GET .*/{name}$")  # … and gets nowhere
    seen = await opened(gateway, browser, path, "system")
    frame = seen.page.frame_locator("iframe")
    await frame.get_by_text("Shown").wait_for()
    assert await frame.get_by_text("Shown").evaluate("one => getComputedStyle(one).color") == "rgb(1, 2, 3)"
    await frame.get_by_role("button", name="Go").click()
    await browser.settle()
    assert await seen.page.title() == "attack · Notification gateway"
    assert await frame.locator("body").evaluate("() => window.origin") == "null"
    assert urlsplit(seen.page.url).path == path
    await seen.axe()


async def test_pages_on_a_phone(gateway: Gateway, browser: Browser) -> None:
    """The list, which is live, and each way of looking at a message fit a phone and shut nobody out."""
    seen = await opened(gateway, browser, "/ui/catcher", "system", width=PHONE, scheme="dark")
    await caught(gateway, b"Subject: " + b"long " * 60 + b"\r\nX-Word: " + b"w" * 300 + b"\r\n\r\n" + b"w" * 300)
    await seen.page.get_by_role("link", name="long long").wait_for()
    await seen.no_sideways_scroll()
    await seen.axe()
    await seen.page.get_by_role("link", name="long long").click()
    for tab in ("Text", "Headers", "Raw"):
        await seen.page.get_by_role("link", name=tab, exact=True).click()
        await seen.page.wait_for_load_state()
        await seen.no_sideways_scroll()
    await seen.axe()
