"""Notifications in the pages: found by filters, looked at while they happen, sent again, cancelled."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.ui.subjects.notifications import EVENTS
from tests.peers.smtp_server import Reply, ScriptedRelay
from tests.ui.asking import asked, opened
from tests.ui.mails import LATE, post, status, until_status
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway

HOSTILE = '"><script>alert(1)</script>'
PICTURE = "<img src=x onerror=alert(1)>"
LATER = Reply(f"451 4.3.0 {HOSTILE} come later")
NEVER = Reply(f"550 5.1.1 {PICTURE} nobody")
README = Path(__file__).parents[2] / "README.md"


@asynccontextmanager
async def odd_relay(gateway: Gateway) -> AsyncIterator[ScriptedRelay]:
    """Run a relay that can be told what to say, and a profile `odd` of acme that sends by it."""
    async with ScriptedRelay(host="127.0.0.2") as relay:
        profile = {
            "name": "odd", "host": relay.host, "port": relay.port, "security": "none",
            "auth": {"method": "none"}, "from": "odd@acme.example.test",
        }  # fmt: skip
        await asked(gateway, "POST", "tenants/acme/profiles", profile)
        yield relay


# The list.


async def test_the_list_shows_the_newest_first(gateway: Gateway) -> None:
    """Who sent what to whom, and how it stands; the subject is content, and is not listed."""
    to = ["ann@example.test", "bob@example.test", "eve@example.test"]
    await post(gateway, category="account.welcome", severity="error", subject="Unlisted")
    newest = await post(gateway, to=to, category="security.login", profile="alerts")
    await until_status(gateway, newest, "relayed")
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get("/ui/notifications")
        first, second = rows(page.source)
        assert re.search(r"acme alerts security\.login info ann@example\.test \+2 relayed$", first), first
        assert "acme – account.welcome error ann@example.test" in second
        assert "Unlisted" not in page.source
        assert newest in page.links


def rows(source: str) -> list[str]:
    """The rows of a page's list, as words."""
    found = re.findall(r'<tr id="n-.*?</tr>', source, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in found]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 3),
        ("tenant=acme-emea", 1),
        ("category=security.login", 2),
        ("tenant=acme&category=security.login", 1),
        ("status=scheduled", 1),
        ("status=cancelled", 0),
        ("since=2020-01-01T00:00&until=2099-01-01T00:00:30", 3),
        ("since=2099-01-01T00:00", 0),
        ("until=2020-01-01T00:00:00Z", 0),
    ],
)
async def test_filters(gateway: Gateway, query: str, found: int) -> None:
    """Each filter alone and together with others, as it stands in a bookmark; the form shows what was asked."""
    await post(gateway, category="security.login")
    await post(gateway, category="security.login", tenant="acme-emea")
    await post(gateway, send_at=LATE, ttl_seconds=60)
    async with visiting(gateway, "system") as visitor:
        page = await visitor.get(f"/ui/notifications?{query}")
        assert (page.status, len(rows(page.source))) == (200, found)
        asked = dict(part.split("=") for part in query.split("&") if part)
        shown = page.form("/ui/notifications").fields
        assert {name: value.removesuffix("Z") for name, value in asked.items()} == {name: shown[name] for name in asked}


@pytest.mark.parametrize(
    ("query", "name", "told"),
    [
        ("tenant=other", "tenant", "There is no such tenant."),
        ("tenant=system", "tenant", "There is no such tenant."),
        ("status=lost", "status", ""),
        ("category=No+Category", "category", ""),
        ("since=yesterday", "since", "RFC 3339"),
        ("until=2026-13-01T00:00", "until", "RFC 3339"),
    ],
)
async def test_a_filter_that_makes_no_sense(gateway: Gateway, query: str, name: str, told: str) -> None:
    """Is told beside its field, and nothing is listed; a tenant out of reach is as one that is not there."""
    await post(gateway)
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(f"/ui/notifications?{query}")
        fault = re.search(rf'id="fault{name}">([^<]+)<', page.source)
        assert page.status in (404, 422)
        assert fault is not None
        assert told in fault[1]
        assert rows(page.source) == []


async def test_hostile_filters_are_text(gateway: Gateway) -> None:
    """What a link put into the address is shown as it was written."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(f"/ui/notifications?tenant={HOSTILE}&category={PICTURE}&since={HOSTILE}")
        assert page.form("/ui/notifications").fields["tenant"] == HOSTILE
        assert page.shows_as_text(HOSTILE)
        assert "onerror=alert(1)>" not in page.source


async def test_older_pages(gateway: Gateway) -> None:
    """A long list goes on behind a link that keeps the filters, and only its first page is live."""
    said = [{"to": ["ann@example.test"], "subject": "Hello", "text": "Hello"} for _ in range(60)]
    await asked(gateway, "POST", "notifications/batch", {"notifications": said}, "acme")
    async with visiting(gateway, "acme") as visitor:
        first = await visitor.get("/ui/notifications?tenant=acme")
        older = next(link for link in first.links if "cursor=" in link)
        second = await visitor.get(older)
        assert (len(rows(first.source)), len(rows(second.source))) == (50, 10)
        assert "tenant=acme&" in older
        assert ("data-live" in first.source, "data-live" in second.source) == (True, False)
        pages = [[link for link in page.links if re.search("/[0-9a-f]{32}$", link)] for page in (first, second)]
        assert len({*pages[0], *pages[1]}) == 60


async def test_few_among_many(gateway: Gateway) -> None:
    """A status that none of the newest has offers to look further back, with the filter, instead of saying that there is none."""
    said = [{"to": ["ann@example.test"], "subject": "Hello", "text": "Hello", "send_at": LATE} for _ in range(500)]
    for _ in range(5):
        await asked(gateway, "POST", "notifications/batch", {"notifications": said}, "acme")
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get("/ui/notifications?status=failed")
        assert "None matches so far." in page.text
        further = next(link for link in page.links if "cursor=" in link)
        last = await visitor.get(further)
        assert "status=failed" in further
        assert "No notification matches." in last.text


async def test_nobody_sees_above_their_reach(gateway: Gateway) -> None:
    """A child's administrator sees its own mail, and of others' neither a row nor a page."""
    above, own = await post(gateway), await post(gateway, tenant="acme-emea")
    async with visiting(gateway, "acme-emea") as visitor:
        page = await visitor.get("/ui/notifications")
        assert (own in page.links, above in page.links) == (True, False)
        for path in (above, f"{above}/cancel"):
            assert (await visitor.get(path)).status == 404
        assert (await visitor.post(f"{above}/retry")).status == 404
        assert (await visitor.post(f"{above}/cancel")).status == 404


async def test_who_may_only_send_sees_what_they_sent(gateway: Gateway) -> None:
    """The holder of a key that may do nothing else finds its own notification, and can cancel it."""
    others = await post(gateway, send_at=LATE)
    made = await asked(gateway, "POST", "tenants/acme/keys", {"scopes": ["send"]})
    sender = replace(gateway, keys={"acme": made["key"]})
    own = await post(sender, send_at=LATE)
    async with visiting(gateway) as visitor:
        await visitor.post("/ui/sign-in", {"key": made["key"]})
        page = await visitor.get("/ui/notifications")
        assert (own in page.links, others in page.links) == (True, False)
        assert "datalist" not in page.elements
        assert (await visitor.get(others)).status == 404
        assert "It is cancelled." in (await visitor.send(await visitor.get(f"{own}/cancel"))).text


async def test_who_sends_and_reads_is_offered_what_they_may(gateway: Gateway) -> None:
    """The holder of a key retries and cancels what it posted; of what another posted the page says whose that is."""
    made = await asked(gateway, "POST", "tenants/acme/keys", {"scopes": ["send", "read"]})
    sender = replace(gateway, keys={"acme": made["key"]})
    async with odd_relay(gateway) as relay:
        relay.on("rcpt", LATER)
        own, others = await post(sender, profile="odd"), await post(gateway, profile="odd")
        for path in (own, others):
            await until_status(gateway, path, "deferred")
    async with visiting(gateway) as visitor:
        await visitor.post("/ui/sign-in", {"key": made["key"]})
        for path, offered in ((own, True), (others, False)):
            page = await visitor.get(path)
            assert any(form.action == f"{path}/retry" for form in page.forms) is offered
            assert (f"{path}/cancel" in page.links) is offered
            assert ("Another key posted it" in page.text) is not offered


# One notification.


async def test_each_event_has_the_manual_s_words() -> None:
    """The pages tell an event as README.md does."""
    section = README.read_text().split("### What the history tells")[1].split("###")[0]
    told = re.findall(r"^\| (`[^|]+) \| (.+) \|$", section, re.MULTILINE)
    manual = {name: text.replace("`", "") for names, text in told for name in re.findall(r"`(\w+)`", names)}
    assert set(EVENTS) == set(manual)
    for name in set(EVENTS) - {"outcome_unknown", "expired"}:
        assert manual[name].startswith(EVENTS[name]), name


async def test_all_that_others_wrote_is_text(gateway: Gateway) -> None:
    """Metadata, subject, bodies, header fields, names of files, and what a relay said: none of it becomes markup."""
    async with odd_relay(gateway) as relay:
        relay.on("rcpt", LATER, match="<bob@example.test>")
        relay.on("rcpt", NEVER, match="<eve@example.test>")
        path = await post(
            gateway,
            profile="odd",
            to=[{"name": HOSTILE, "address": "bob@example.test"}, "eve@example.test"],
            subject=f"{HOSTILE} subject",
            text=f"</pre>{HOSTILE}",
            html=f"<h1 onclick='alert(1)'>Hello</h1>{PICTURE}",
            headers={"X-Note": f"{PICTURE} note"},
            metadata={f"{PICTURE} name": f"{PICTURE} value", "sum": "{{ 7*7 }}", "way": "javascript:alert(1)"},
            attachments=[{"filename": f"{PICTURE}.pdf", "content": "AAAA"}],
            **{"from": {"name": f"{HOSTILE} from", "address": "odd@acme.example.test"}},
        )
        await until_status(gateway, path, "deferred")
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(f"{path}?include=content")
        for text in (
            LATER.text, NEVER.text, f"{HOSTILE} subject", f"{HOSTILE} from", f"</pre>{HOSTILE}", f"{PICTURE} note",
            f"{PICTURE} name", f"{PICTURE} value", f"{PICTURE}.pdf", "<h1 onclick='alert(1)'>Hello</h1>",
        ):  # fmt: skip
            assert page.shows_as_text(text), text
        assert "{{ 7*7 }}" in page.text
        assert "img" not in page.elements[page.elements.index("main") :]
        assert page.elements[page.elements.index("main") :].count("script") == 0
        assert "application/octet-stream, 3 B" in page.text
        assert not [link for link in page.links if link.startswith("javascript")]


async def test_content_is_for_administrators(gateway: Gateway) -> None:
    """It is shown when it is asked for, and only to whom the API shows it."""
    path = await post(gateway, send_at=LATE, subject="Between us")
    reader = await asked(gateway, "POST", "tenants/acme/keys", {"scopes": ["read"]})
    async with visiting(gateway, "acme") as visitor:
        assert "Between us" not in (await visitor.get(path)).source
        assert "Between us" in (await visitor.get(f"{path}?include=content")).text
    async with visiting(gateway) as visitor:
        await visitor.post("/ui/sign-in", {"key": reader["key"]})
        page = await visitor.get(path)
        assert "Show the content" not in page.text
        assert not [form for form in page.forms if form.action.endswith("/retry")]
        assert f"{path}/cancel" not in page.links
        refused = await visitor.get(f"{path}?include=content")
        assert (refused.status, "Between us" in refused.source) == (403, False)
        assert (await visitor.post(f"{path}/cancel")).path == path
        assert await status(gateway, path) == "scheduled"


async def test_erased_content_is_told(gateway: Gateway) -> None:
    """What was relayed keeps its facts, and the page says that the rest is gone."""
    path = await post(gateway)
    await until_status(gateway, path, "relayed")
    async with visiting(gateway, "acme") as visitor:
        assert "The content is erased." in (await visitor.get(f"{path}?include=content")).text


async def test_a_child_reads_no_words_of_another_s_relay(gateway: Gateway) -> None:
    """A reply by a default above is its codes alone to a tenant's administrator; whose relay it is reads it all."""
    path = await post(gateway)
    await until_status(gateway, path, "relayed")
    async with visiting(gateway, "system") as above, visiting(gateway, "acme") as below:
        assert "caught as 1" in (await above.get(path)).text
        page = await below.get(path)
        assert "250 2.0.0" in page.text
        assert "caught as" not in page.source
        assert "noreply@" not in page.source


async def test_nothing_to_retry_is_told(gateway: Gateway) -> None:
    """What cannot be done has no button, and a form that comes all the same is told why not."""
    path = await post(gateway)
    await until_status(gateway, path, "relayed")
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(path)
        assert not [form for form in page.forms if form.action == f"{path}/retry"]
        assert f"{path}/cancel" not in page.links
        assert "data-final" in page.source
        refused = await visitor.post(f"{path}/retry")
        assert (refused.path, "The notification is final." in refused.text or "erased" in refused.text) == (path, True)
        assert "It is final: there is nothing left to cancel." in (await visitor.get(f"{path}/cancel")).text


# In a browser.


async def test_live_list(gateway: Gateway, browser: Browser) -> None:
    """What is posted meanwhile appears without a reload, focus stays where it was, and Pause stops it."""
    first = await post(gateway, category="first")
    await until_status(gateway, first, "relayed")
    seen = await opened(gateway, browser, "/ui/notifications")
    page = seen.page
    await page.evaluate("window.same = true")
    await page.get_by_role("row", name="first").get_by_role("link").focus()
    await post(gateway, category="second")
    await page.get_by_role("row", name="second").wait_for()
    assert await page.evaluate("[window.same, document.activeElement.closest('tr')?.innerText.includes('first')]") == [
        True,
        True,
    ]
    await page.get_by_label("Pause").check()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await post(gateway, category="third")
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await browser.settle()
    assert asked == []
    await page.get_by_label("Pause").uncheck()
    await page.get_by_role("row", name="third").wait_for()
    await seen.axe()


async def test_deferred_then_retried_then_relayed(gateway: Gateway, browser: Browser) -> None:
    """The history of mail that a relay put off shows its words as text, goes on after Retry, and ends by itself."""
    async with odd_relay(gateway) as relay:
        relay.on("rcpt", LATER, once=True)
        path = await post(gateway, profile="odd")
        await until_status(gateway, path, "deferred")
        seen = await opened(gateway, browser, path)
        page = seen.page
        assert "Retry now” makes 1 of 1 recipients due now: ann@example.test" in await seen.text()
        assert LATER.text in await page.locator(".timeline").inner_text()
        await seen.axe()
        await page.get_by_role("button", name="Retry now").click()
        await page.get_by_text("Due now: ann@example.test.").wait_for()
        await page.get_by_text("It is final").wait_for()
        told = await page.locator(".timeline strong").all_inner_texts()
        assert told == ["accepted", "claimed", "deferred", "retried", "claimed", "relayed"]
        assert await page.get_by_role("button", name="Retry now").count() == 0
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await browser.settle()
        assert asked == []
