"""A tenant's webhooks on their pages: made, tried, changed, deleted; a secret that was made is shown once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, get_args

import pytest
import pytest_asyncio

from gateway.directory.changes import OPERATOR, Change
from gateway.directory.kinds import DisabledReason, EventType
from gateway.ui.subjects.webhooks import REASONS, RESULTS, TOLD
from gateway.webhooks.endpoint import Result
from tests.peers.webhook_endpoint import Reply, WebhookEndpoint
from tests.ui.asking import opened
from tests.ui.browser import PATIENCE, PHONE
from tests.ui.gateway import running
from tests.ui.scoped import become
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Route

    from gateway.directory.shapes import Webhook
    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway
    from tests.ui.visitor import Shown, Visitor

PAGES = "/ui/tenants/acme/webhooks"
NEW = "/ui/tenants/acme/new-webhook"
GIVEN = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOSTILE = '"><script>alert(1)</script>'


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """Run a daemon whose webhooks may go to this machine."""
    async with running(tmp_path, '[egress.webhooks]\nallow = ["127.0.0.0/8"]\n') as up:
        yield up


def saved(gateway: Gateway) -> Webhook:
    [webhook] = gateway.running.directory.snapshot.webhooks_of("acme")
    return webhook


async def make(visitor: Visitor, url: str = "http://127.0.0.1:9/hook", secret: str = "") -> Shown:
    events = [("/events", "notification.failed"), ("/events", "profile.parked")]
    return await visitor.post(
        NEW, [("/url", url), *events, ("/secret", secret), ("/enabled", "off"), ("/enabled", "on")]
    )


async def disable(gateway: Gateway, reason: DisabledReason) -> None:
    """Do as the gateway does when an endpoint has had its chances."""
    off = saved(gateway).model_copy(update={"enabled": False, "disabled_reason": reason})
    await gateway.running.directory.change(OPERATOR, lambda _snapshot: Change([off]))


def test_everything_has_its_words() -> None:
    """Each event, each reason and each result of a test."""
    assert set(TOLD) == set(get_args(EventType))
    assert set(REASONS) == set(get_args(DisabledReason))
    assert set(RESULTS) == set(Result) - {Result.OK}


async def test_a_secret_that_was_made_is_shown_once(gateway: Gateway) -> None:
    """In the answer to the form itself, which nobody keeps."""
    async with visiting(gateway, "acme") as visitor:
        page = await make(visitor)
        webhook = saved(gateway)
        secret = gateway.running.directory.seal.open(webhook.sealed, webhook.sealed_for).reveal()
        assert (page.path, page.headers["Cache-Control"], secret in page.text) == (NEW, "no-store", True)
        for path in (PAGES, f"{PAGES}/{webhook.id}", f"{PAGES}/{webhook.id}/delete"):
            assert secret not in (await visitor.get(path)).source
        assert (webhook.events, webhook.enabled) == (("notification.failed", "profile.parked"), True)


async def test_a_secret_that_was_brought_is_not_shown(gateway: Gateway) -> None:
    """The list follows at once."""
    async with visiting(gateway, "acme") as visitor:
        page = await make(visitor, secret=GIVEN)
        assert (page.path, "The webhook is there." in page.text, GIVEN in page.source) == (PAGES, True, False)


async def test_faults_stand_beside_their_fields(gateway: Gateway) -> None:
    """All of them, with what was written but the secret; a hostile address is text."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.post(NEW, [("/url", f"javascript:{HOSTILE}"), ("/secret", "hunter2"), ("/enabled", "off")])
        assert (page.status, page.source.count('class="fault"')) == (422, 3)
        assert page.form().fields["/url"] == f"javascript:{HOSTILE}"
        assert page.form().fields["/enabled"] == "off"
        assert page.shows_as_text(HOSTILE)
        assert "hunter2" not in page.source
        assert "Tuple" not in page.text


async def test_a_secret_that_was_written_is_asked_for_again(gateway: Gateway) -> None:
    """No page has it, so beside another field's fault there is a word that it would be left out."""
    async with visiting(gateway, "acme") as visitor:
        again = "is not kept on this page: write it again"
        assert again in (await make(visitor, "nowhere", GIVEN)).text
        assert again not in (await make(visitor, "nowhere")).text
        await make(visitor)
        path = f"{PAGES}/{saved(gateway).id}"
        page = await visitor.get(path)
        assert again not in page.text
        assert again in (await visitor.send(page, __url="nowhere", __secret=GIVEN)).text


async def test_a_webhook_keeps_its_secret(gateway: Gateway) -> None:
    """Unless somebody writes another one; events that are not ticked any more are gone."""
    async with visiting(gateway, "acme") as visitor:
        await make(visitor)
        before = saved(gateway)
        path = f"{PAGES}/{before.id}"
        version = (await visitor.get(path)).form().fields["version"]
        fields = {"version": version, "/url": before.url, "/events": "profile.parked", "/secret": "", "/enabled": "on"}
        assert "The webhook is saved." in (await visitor.post(path, fields)).text
        assert (saved(gateway).sealed, saved(gateway).events) == (before.sealed, ("profile.parked",))
        late = await visitor.post(path, {**fields, "/secret": GIVEN})
        assert (late.status, "Somebody changed this meanwhile." in late.text) == (412, True)
        version = (await visitor.get(path)).form().fields["version"]
        await visitor.post(path, {**fields, "version": version, "/secret": GIVEN})
        assert saved(gateway).previous == before.sealed


@pytest.mark.parametrize("reason", get_args(DisabledReason))
async def test_why_it_is_told_nothing(gateway: Gateway, reason: DisabledReason) -> None:
    """In the list, and on its page until somebody enables it."""
    async with visiting(gateway, "acme") as visitor:
        await make(visitor)
        await disable(gateway, reason)
        assert f"disabled {REASONS[reason]}" in (await visitor.get(PAGES)).text
        page = await visitor.get(f"{PAGES}/{saved(gateway).id}")
        assert f"The gateway itself tells it nothing any more. {REASONS[reason]}" in page.text
        ticked = [("version", page.form().fields["version"]), ("/url", saved(gateway).url)]
        await visitor.post(page.path, [*ticked, ("/events", "profile.parked"), ("/enabled", "off"), ("/enabled", "on")])
        assert (saved(gateway).enabled, saved(gateway).disabled_reason) == (True, None)


async def test_a_webhook_is_deleted(gateway: Gateway) -> None:
    """After a question."""
    async with visiting(gateway, "acme") as visitor:
        await make(visitor)
        asked = await visitor.get(f"{PAGES}/{saved(gateway).id}/delete")
        assert "is told nothing any more" in asked.text
        assert "The webhook is deleted." in (await visitor.send(asked)).text
    assert not gateway.running.directory.snapshot.webhooks_of("acme")


async def test_a_test_without_scripts(gateway: Gateway) -> None:
    """The list says what came of it."""
    async with WebhookEndpoint() as endpoint, visiting(gateway, "acme") as visitor:
        endpoint.answers.append(Reply(404))
        await make(visitor, endpoint.url)
        page = await visitor.post(f"{PAGES}/{saved(gateway).id}/test")
        assert page.path == PAGES
        assert "It refused the test event. (status 404, " in page.text


async def test_webhooks_are_for_administrators(gateway: Gateway) -> None:
    """Others change and try none; who may read is not led there, and told no more of an address than where it leads."""
    async with visiting(gateway, "acme") as visitor:
        await make(visitor, "http://127.0.0.1:9/t0ken")
        path = f"{PAGES}/{saved(gateway).id}"
        await become(visitor, "acme", "read", "profiles", "secrets")
        assert PAGES not in (await visitor.get("/ui/tenants/acme/settings")).links
        for page in (await visitor.get(PAGES), await visitor.get(path)):
            assert (page.status, "t0ken" in page.source) == (200, False)
        assert (await visitor.post(f"{path}/test")).status == 403
        await visitor.post(f"{path}/delete")
    assert saved(gateway)


async def test_a_form_on_its_way_is_not_sent_again(gateway: Gateway, browser: Browser) -> None:
    """Who presses twice makes one webhook; a page that is shown anew, by a browser that comes back to it, sends again."""
    posts: asyncio.Queue[str] = asyncio.Queue()

    async def take(route: Route) -> None:
        if route.request.method == "POST":
            posts.put_nowait(route.request.post_data or "")
            await route.fulfill(status=204)  # the page stays
        else:
            await route.continue_()

    seen = await opened(gateway, browser, NEW)
    await seen.page.route(f"**{NEW}", take)
    waiting = seen.page.locator("button.primary[aria-disabled=true]")
    await seen.page.get_by_label("URL", exact=True).fill("http://127.0.0.1:9/hook")
    await seen.page.keyboard.press("Enter")
    assert "hook" in await asyncio.wait_for(posts.get(), PATIENCE)
    assert await waiting.count() == 1
    await seen.page.keyboard.press("Enter")
    await seen.page.evaluate("dispatchEvent(new Event('pageshow'))")
    assert (await waiting.count(), posts.empty()) == (0, True)
    await seen.page.keyboard.press("Enter")
    await asyncio.wait_for(posts.get(), PATIENCE)


async def test_webhooks_are_tried_in_place(gateway: Gateway, browser: Browser) -> None:
    """One that takes the test event and one that cannot be reached, each beside its own button."""
    async with WebhookEndpoint() as endpoint, visiting(gateway, "acme") as visitor:
        await make(visitor, endpoint.url)
        await make(visitor, "http://127.0.0.1:9/hook")
        seen = await opened(gateway, browser, PAGES, width=PHONE)
        page = seen.page
        for row in await page.locator("tbody tr").all():
            await row.get_by_role("button", name="Send a test event").press("Enter")
        await page.get_by_text("It took the test event. (status 200").wait_for()
        await page.get_by_text("It could not be reached.").wait_for()
        [event] = await endpoint.received(1)
        assert '"type":"webhook.test"' in event.body
        await seen.axe()
        await seen.no_sideways_scroll()
