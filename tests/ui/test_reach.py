"""Every page that a person can come to by links: what must be true of all of them, and what none may tell.

A crawler follows each link from the overview, as an administrator of the system, of a tenant, and of its child, and as the
holder of a key that may do little. The tenant's profile, which its child inherits, is made of words that stand nowhere else.
Other tenants write, wherever they may write freely, what would run in a browser if it were not text, and so does a relay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest

from gateway.http.routing import Router
from gateway.ui.page import Page
from gateway.ui.table import PAGES
from tests.peers.smtp_server import Reply, ScriptedRelay
from tests.process.cluster import until
from tests.ui.asking import asked, opened
from tests.ui.browser import DESK, PHONE
from tests.ui.visitor import Shown, Visitor, visiting

if TYPE_CHECKING:
    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway

MOST = 300
CANARY = "zebrafinch"
PROFILE: dict[str, Any] = {
    "name": "lent",
    "host": f"{CANARY}-host.example.test",
    "auth": {"username": f"{CANARY}-user", "credential": {"source": "plaintext", "value": f"{CANARY}-password"}},
    "from": {"name": f"{CANARY} from", "address": f"{CANARY}-from@example.test"},
    "reply_to": [f"{CANARY}-reply@example.test"],
    "return_path": f"{CANARY}-return@example.test",
    "read_receipt_to": f"{CANARY}-receipt@example.test",
    "to": [f"{CANARY}-to@example.test"],
    "allowed_senders": [f"*@{CANARY}-sender.example.test"],
    "footnote": {"enabled": True, "text": f"{CANARY} footnote", "html": f"<b>{CANARY} footnote</b>"},
    "dkim": {
        "domain": f"{CANARY}-dkim.example.test",
        "selector": f"{CANARY}-selector",
        "key": {"source": "plaintext", "value": f"{CANARY}-key"},
    },
    "limits": {"connections": 1},
}
HOSTILE = (
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "</textarea></title></script><svg onload=alert(1)>",
    "javascript:alert(1)//{{ name }}<a href=javascript:alert(1)>",
)
"""Texts that would run, or be reckoned, if they were not text."""
ROUTER = Router(PAGES)
UNLINKED = {  # parts that a page fetches, and what stands in frames; a profile that is called `new`
    "/ui/catcher/{number}/raw", "/ui/catcher/{number}/html", "/ui/tenants/{tenant}/audit/verify",
    "/ui/tenants/{tenant}/resolution", "/ui/tenants/{tenant}/profiles/{name}/edit",
}  # fmt: skip
LEAVES = ("/ui/static/", "/docs", "/openapi.json", "/raw", "/html")


async def furnish(gateway: Gateway) -> None:
    """Make what there is to come to: profiles, a push, copies, templates, keys, webhooks, mail that waits and mail that went."""
    made = {name: value for name, value in PROFILE.items() if name != "dkim"}  # whose key would have to be one
    await asked(gateway, "POST", "tenants/acme/profiles", {**made, "is_default": True})
    push = {"children": ["acme-apac", "acme-emea"], "profiles": ["lent"]}
    await asked(gateway, "POST", "tenants/acme/profiles/push", push)
    for tenant in ("acme", "acme-emea"):
        at = f"tenants/{tenant}"
        await asked(gateway, "PUT", f"{at}/preferences", {"cc": ["cc@example.test"], "rules": [{"cc": True}]})
        await asked(gateway, "PUT", f"{at}/templates/hello", {"subject": "Hello", "text": "Hello {{ name }}"})
        await asked(gateway, "PUT", f"{at}/secrets/relay", {"value": "hunter2"})
        await asked(gateway, "POST", f"{at}/keys", {"name": "app", "scopes": ["send"]})
        hook = {"url": "https://hooks.example.test/in", "events": ["notification.failed"], "enabled": False}
        await asked(gateway, "POST", f"{at}/webhooks", hook)
        for profile in ("lent", None):
            mail = {"tenant": tenant, "to": ["ann@example.test"], "subject": "Hello", "text": "Hello"}
            await asked(gateway, "POST", "notifications", mail if profile is None else {**mail, "profile": profile})


async def furnish_hostile(gateway: Gateway, relay: ScriptedRelay) -> list[str]:
    """Make tenants whose every free text would run, and give each a mail that is refused; answers the mails' pages."""
    mails = []
    for number, text in enumerate(HOSTILE):
        tenant = f"hostile-{number}"
        at = f"tenants/{tenant}"
        await asked(gateway, "POST", "tenants", {"id": tenant, "name": text, "parent": "acme"})
        profile = {
            "name": "main", "host": relay.host, "port": relay.port, "security": "none", "is_default": True,
            "from": {"name": text, "address": "a@example.test"}, "reply_to": [{"name": text, "address": "b@example.test"}],
            "footnote": {"text": text, "html": text}, "allowed_senders": ["*@example.test"],
        }  # fmt: skip
        await asked(gateway, "POST", f"{at}/profiles", profile)
        auth = {"username": text, "domain": text, "credential": {"source": "plaintext", "value": text}}
        unused = {"name": "unused", "host": "relay.example", "from": "a@example.test", "auth": auth}
        await asked(gateway, "POST", f"{at}/profiles", unused)
        await asked(gateway, "PUT", f"{at}/templates/hello", {"subject": "Hello", "text": text, "html": text})
        await asked(gateway, "POST", f"{at}/keys", {"name": text, "scopes": ["send"]})
        mail = {
            "tenant": tenant, "to": [{"name": text, "address": "ann@example.test"}], "subject": text, "text": text,
            "html": text, "metadata": {text: text}, "headers": {"X-Told": text},
            "from": {"name": text, "address": "c@example.test"},
            "attachments": [{"filename": text.replace("/", "|"), "content": "aGVsbG8="}],
        }  # fmt: skip
        mails.append((await asked(gateway, "POST", "notifications", mail))["id"])
    return mails


async def crawled(visitor: Visitor) -> dict[str, Shown]:
    """Follow every link, each place once, whatever its query; a list's next pages are places of their own."""
    found: dict[str, Shown] = {}
    waiting, known = ["/ui/"], {"/ui/"}
    while waiting and len(found) < MOST:
        path = waiting.pop(0)
        shown = found[path] = await visitor.get(path)
        for link in shown.links:
            target = urlsplit(link)
            at = target.path + (f"?{target.query}" if target.query else "")
            if not target.netloc and at.startswith("/ui/") and at not in known and not any(one in at for one in LEAVES):
                known.add(at)
                waiting.append(at)
    return found


@pytest.mark.parametrize("tenant", ["system", "acme", "acme-emea"])
async def test_every_link_leads_to_a_page_that_keeps_the_rules(gateway: Gateway, tenant: str) -> None:
    """It is there, loads nothing from elsewhere, has nothing inline, and is kept by nobody."""
    await furnish(gateway)
    async with visiting(gateway, tenant) as visitor:
        pages = await crawled(visitor)
        assert len(pages) > 20
        for path, page in pages.items():
            assert page.status == 200, (path, page.text)
            assert page.inline == [], path
            assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
            assert page.headers["Cache-Control"] == "no-store"
            assert page.headers["X-Content-Type-Options"] == "nosniff"
            assert page.elements.count("h1") == 1, path


async def test_what_would_run_is_text_on_every_page(gateway: Gateway) -> None:
    """Names, senders, subjects, bodies, metadata, file names, a relay's words: shown as written, nowhere as markup."""
    async with ScriptedRelay({"rcpt": Reply(f"550 5.1.1 {HOSTILE[0]}")}, host="127.0.0.2") as relay:
        mails = await furnish_hostile(gateway, relay)

        async def all_refused() -> bool:
            found = [await asked(gateway, "GET", f"notifications/{id_}") for id_ in mails]
            return all(one["status"] == "failed" for one in found)

        await until(all_refused, 20)
        async with visiting(gateway, "acme") as visitor:
            pages = await crawled(visitor)
            pages |= {id_: await visitor.get(f"/ui/notifications/{id_}?include=content") for id_ in mails}
            for path, page in pages.items():
                assert page.status == 200, (path, page.text)
                assert page.inline == [], path
            told = "\n".join(f"{page.text} {page.forms}" for page in pages.values())
            assert all(text in told for text in HOSTILE)
            assert f"550 5.1.1 {HOSTILE[0]}" in told


async def test_a_child_finds_nothing_of_what_its_parent_lends(gateway: Gateway) -> None:
    """In no page's source stands a word of the parent's profile, whoever its mail went by."""
    await furnish(gateway)
    async with visiting(gateway, "acme-emea") as visitor:
        pages = await crawled(visitor)
        told = [path for path, page in pages.items() if CANARY in page.source.lower() or "127.0.0.1" in page.text]
        assert told == []
        assert any("lent" in page.text for page in pages.values())


async def test_the_owner_finds_it(gateway: Gateway) -> None:
    """The words are where they may be: otherwise the test before would show nothing."""
    await furnish(gateway)
    async with visiting(gateway, "acme") as visitor:
        pages = await crawled(visitor)
        assert any(f"{CANARY}-host" in page.source for page in pages.values())
        assert all(f"{CANARY}-password" not in page.source for page in pages.values())


@pytest.mark.parametrize("scopes", [["send"], ["read"], ["profiles"], ["secrets"]])
async def test_whoever_may_little_is_led_nowhere_in_vain(gateway: Gateway, scopes: list[str]) -> None:
    """No page links to one that its reader may not open."""
    await furnish(gateway)
    made = await asked(gateway, "POST", "tenants/acme/keys", {"name": "little", "scopes": scopes})
    async with visiting(gateway) as visitor:
        await visitor.post("/ui/sign-in", {"key": made["key"]})
        for path, page in (await crawled(visitor)).items():
            assert page.status == 200, (path, page.text)


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "dark"), (DESK, "light")])
async def test_every_page_shuts_nobody_out(
    gateway: Gateway, browser: Browser, width: int, scheme: Literal["light", "dark"]
) -> None:
    """One of each page: no wider than its window, nothing that axe-core calls grave, no word on the console."""
    await furnish(gateway)
    async with visiting(gateway, "system") as visitor:
        found = {page_of(path): path for path in await crawled(visitor)}
    seen = await opened(gateway, browser, "/ui/", "system", width=width, scheme=scheme)
    assert {page.path for page in found} >= {
        page.path for page in PAGES if page.method == "GET" and page.handler
    } - UNLINKED
    for path in found.values():
        await seen.goto(path)
        await seen.no_sideways_scroll()
        await seen.axe()


def page_of(path: str) -> Page:
    """The line of the table that answers a path."""
    resource = ROUTER.find(urlsplit(path).path)
    assert resource is not None, path
    page = resource[0].route("GET")
    assert page is not None, path
    return page
