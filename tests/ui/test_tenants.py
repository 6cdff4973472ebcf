"""The tree of tenants and a tenant's settings, as administrators at three places of the tree see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.ui.asking import asked, opened
from tests.ui.browser import PHONE, Kind
from tests.ui.profiles import made
from tests.ui.scoped import become
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway

HOSTILE = '"><script>alert(1)</script>'


async def test_a_tenant_is_made_changed_and_deleted(gateway: Gateway) -> None:
    """Each step is confirmed in a sentence, and the tenant is what was written."""
    async with visiting(gateway, "acme") as visitor:
        made = await visitor.send(
            await visitor.get("/ui/new-tenant"), __id="acme-labs", __name="Labs", __parent="acme-emea"
        )
        assert (made.path, "acme-labs is there" in made.text) == ("/ui/tenants/acme-labs/profiles", True)
        page = await visitor.get("/ui/tenants/acme-labs/settings")
        saved = await visitor.send(page, __name="The labs", __limits__per_minute="60")
        assert "The settings are saved." in saved.text
        tenant = gateway.running.directory.snapshot.tenants["acme-labs"]
        assert (tenant.name, tenant.parent, tenant.limits.per_minute) == ("The labs", "acme-emea", 60)
        asked = await visitor.get("/ui/tenants/acme-labs/delete")
        assert "Delete acme-labs?" in asked.text
        assert "acme-labs is deleted" in (await visitor.send(asked)).text
        assert "acme-labs" not in gateway.running.directory.snapshot.tenants


async def test_a_notice_is_told_once(gateway: Gateway) -> None:
    """What was done stands on the next page, and on no other after it."""
    async with visiting(gateway, "acme") as visitor:
        told = await visitor.send(await visitor.get("/ui/new-tenant"), __id="acme-labs")
        assert "is there" in told.text
        assert "is there" not in (await visitor.get(told.path)).text


async def test_faults_stand_beside_their_fields(gateway: Gateway) -> None:
    """All of them at once, with what was written."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.send(await visitor.get("/ui/new-tenant"), __id="No Id", __limits__queued="many")
        assert page.status == 422
        assert page.form().fields["/id"] == "No Id"
        assert page.source.count('aria-invalid="true"') == 2
        assert page.source.count('class="fault"') == 2


async def test_a_taken_id_is_told(gateway: Gateway) -> None:
    """Making a tenant twice says that it is there."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.send(await visitor.get("/ui/new-tenant"), __id="acme-emea")
        assert (page.status, "This id is taken." in page.text) == (409, True)


async def test_an_old_page_does_not_undo_what_happened_since(gateway: Gateway) -> None:
    """Saving a form that was opened before another change is refused, and nothing of what was written is lost."""
    async with visiting(gateway, "acme") as visitor:
        await visitor.send(await visitor.get("/ui/new-tenant"), __id="acme-labs")
        old = await visitor.get("/ui/tenants/acme-labs/settings")
        await visitor.send(await visitor.get("/ui/tenants/acme-labs/settings"), __name="First")
        refused = await visitor.send(old, __name="Second")
        assert (refused.status, refused.form().fields["/name"]) == (412, "Second")
        assert "Somebody changed this meanwhile." in refused.text
        assert gateway.running.directory.snapshot.tenants["acme-labs"].name == "First"


async def test_a_tenant_with_children_says_why_it_stays(gateway: Gateway) -> None:
    """What is in the way is told before and after it is tried."""
    async with visiting(gateway, "system") as visitor:
        asked = await visitor.get("/ui/tenants/acme/delete")
        assert "cannot be deleted yet" in asked.text
        assert "acme-apac, acme-emea" in asked.text
        assert (await visitor.send(asked)).path == "/ui/tenants/acme/settings"
        assert "acme" in gateway.running.directory.snapshot.tenants


async def test_what_was_pushed_to_a_tenant_is_taken_back_first(gateway: Gateway) -> None:
    """The question names it, with the way to take it back for those who can; then nothing stands in the way."""
    await asked(gateway, "POST", "tenants", {"id": "acme-labs", "parent": "acme"})
    await made(gateway)
    await asked(gateway, "POST", "tenants/acme/profiles/push", {"children": ["acme-labs"], "profiles": ["main"]})
    way = "/ui/tenants/acme/profiles/push/acme-labs/main"
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get("/ui/tenants/acme-labs/delete")
        assert "It cannot be deleted yet: Pushed to it, and to be taken back first: main" in page.text
        assert way in page.links
        await visitor.send(await visitor.get(way))
        assert "cannot be deleted yet" not in (await visitor.get(page.path)).text
    await asked(gateway, "POST", "tenants/acme/profiles/push", {"children": ["acme-labs"], "profiles": ["main"]})
    async with visiting(gateway, "acme") as visitor:
        await become(visitor, "acme-labs", "admin")
        page = await visitor.get("/ui/tenants/acme-labs/delete")
        assert "to be taken back first: main" in page.text
        assert way not in page.links


async def test_nobody_sees_or_opens_what_is_above_them(gateway: Gateway) -> None:
    """A child's administrator finds no other tenant in any page's source, and none of their pages."""
    async with visiting(gateway, "acme-emea") as visitor:
        for path in ("/ui/tenants", "/ui/tenants?search=a", "/ui/tenants/acme-emea/settings", "/ui/new-tenant"):
            page = await visitor.get(path)
            assert page.status == 200
            assert not {"acme", "acme-apac", "system"} & set(page.text.split()), path
            assert "acme-apac" not in page.source
        for path in ("/ui/tenants/acme/settings", "/ui/tenants?under=acme", "/ui/tenants/system/delete"):
            assert (await visitor.get(path)).status == 404


async def test_the_tenant_itself_does_not_set_what_its_parent_does(gateway: Gateway) -> None:
    """The fields of the parent are not on its own page; sending them is refused."""
    async with visiting(gateway, "acme-emea") as visitor:
        page = await visitor.get("/ui/tenants/acme-emea/settings")
        assert "/enabled" not in page.form().fields
        page.form().fields["/limits/queued"] = "5"
        sent = await visitor.send(page)
        assert gateway.running.directory.snapshot.tenants["acme-emea"].limits.queued is None, sent.text


async def test_what_goes_with_a_tenant_is_told_to_administrators_alone(gateway: Gateway) -> None:
    """How many keys it has is not for a key that only reads."""
    document = {"name": "reader", "scopes": ["read"]}
    made = await asked(gateway, "POST", "tenants/acme/keys", document, "acme")
    async with visiting(gateway) as visitor:
        await visitor.post("/ui/sign-in", {"key": made["key"]})
        assert (await visitor.get("/ui/tenants/acme/delete")).status == 403


@pytest.mark.parametrize("word", ["EMEA", "acme-em", "Acme E"])
async def test_a_tenant_is_found_by_a_part_of_its_id_or_name(gateway: Gateway, word: str) -> None:
    """In any case of letters, with what it is below."""
    async with visiting(gateway, "system") as visitor:
        page = await visitor.get(f"/ui/tenants?search={word}")
        assert "/ui/tenants/acme-emea/profiles" in page.links
        assert "/ui/tenants/acme-apac/profiles" not in page.links
        assert "below system / acme" in page.text


async def test_names_are_text(gateway: Gateway) -> None:
    """Markup in a tenant's name, and in what is searched for, is shown as it was written."""
    async with visiting(gateway, "acme") as visitor:
        await visitor.send(await visitor.get("/ui/new-tenant"), __id="acme-labs", __name=HOSTILE)
        for path in (
            "/ui/tenants",
            "/ui/tenants/acme-labs/settings",
            "/ui/tenants/acme-labs/delete",
            "/ui/tenants?search=labs",
        ):
            assert (await visitor.get(path)).shows_as_text(HOSTILE), path
        nothing = await visitor.post("/ui/new-tenant", {"/id": HOSTILE})
        assert nothing.shows_as_text(HOSTILE)
        assert (await visitor.get("/ui/tenants?search=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")).elements.count(
            "script"
        ) == 2


async def test_a_branch_opens_where_it_is(gateway: Gateway, browser: Browser) -> None:
    """By keyboard, at a phone's width: the tenants below appear under theirs, without another page."""
    seen = await opened(gateway, browser, "/ui/tenants", "system", width=PHONE, scheme="dark")
    await seen.tab_to("2 below Acme")
    await seen.page.keyboard.press("Enter")
    await seen.page.get_by_role("link", name="Acme EMEA").wait_for()
    assert seen.page.url.endswith("/ui/tenants")
    await seen.no_sideways_scroll()
    await seen.axe()


async def test_signing_in_and_faults_shut_nobody_out(gateway: Gateway, browser: Browser) -> None:
    """The one page that nobody is led to by a link, and a form that came back with faults."""
    seen = await browser.open(f"{gateway.url}/ui/sign-in", width=390)
    await seen.axe()
    await seen.page.fill("#key", gateway.keys["system"])
    await seen.page.keyboard.press("Enter")
    await seen.page.wait_for_url("**/ui/")
    await seen.goto("/ui/new-tenant")
    await seen.page.get_by_label("Id").fill("No Id")
    browser.expect(Kind.CONSOLE, "422")
    await seen.page.get_by_role("button", name="Make the tenant").click()
    await seen.page.locator(".fault").wait_for()
    await seen.no_sideways_scroll()
    await seen.axe()
