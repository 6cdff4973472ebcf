"""Pushing in the pages: by panes and by boxes, what is in the way, what came of it, and taking back."""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gateway.directory.changes import OPERATOR, Change
from gateway.directory.shapes import Link, Profile, Tenant
from tests.peers.smtp_server import ScriptedRelay
from tests.ui.asking import asked, opened
from tests.ui.browser import PHONE, Kind
from tests.ui.visitor import visiting
from tests.ui.wire import on_the_wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.ui.browser import Browser, Seen
    from tests.ui.gateway import Gateway
    from tests.ui.visitor import Shown, Visitor

PAGE = "/ui/tenants/acme/profiles/push"
HOSTILE = '"><script>alert(1)</script>{{ 7*7 }}'
MANY = 2_000


async def made(gateway: Gateway, name: str, tenant: str = "acme", **fields: Any) -> None:
    """Make a profile; it goes to the mail catcher unless another host is named."""
    port = gateway.running.directory.snapshot.profiles["system", "main"].port
    usual = {
        "name": name,
        "host": f"127.0.0.{len(name)}",
        "port": port,
        "security": "none",
        "from": f"{name}@acme.example",
    }
    await asked(gateway, "POST", f"tenants/{tenant}/profiles", {**usual, **fields})


@pytest_asyncio.fixture(loop_scope="session")
async def relay() -> AsyncIterator[ScriptedRelay]:
    """Run a relay that takes everything."""
    async with ScriptedRelay(host="127.0.0.2") as running:
        yield running


async def tenant(gateway: Gateway, id_: str, **fields: Any) -> None:
    """Make a tenant below acme."""
    await asked(gateway, "POST", "tenants", {"id": id_, "parent": "acme", **fields})


async def lent(gateway: Gateway, *children: str, profile: str = "news", default: str | None = None) -> None:
    """Push a profile of acme."""
    body = {"children": children, "profiles": [profile], "default": default}
    await asked(gateway, "POST", "tenants/acme/profiles/push", body)


async def pushed(visitor: Visitor, *children: str, profiles: tuple[str, ...] = ("news",), default: str = "") -> Shown:
    """Send the form as a browser without scripts does."""
    ticked = [*(("profile", one) for one in profiles), *(("child", one) for one in children)]
    return await visitor.post(PAGE, [*ticked, ("default", default)])


async def names(seen: Seen, pane: str) -> list[str]:
    """Who stands in a pane."""
    return await seen.page.locator(f"#{pane} [role=option]:not([hidden]) code").all_text_contents()


async def marked(seen: Seen, pane: str) -> list[str]:
    """Who is marked there."""
    return await seen.page.locator(f"#{pane} [aria-selected=true] code").all_text_contents()


# From the first to the last.


async def test_a_profile_is_pushed_used_and_taken_back(
    gateway: Gateway, browser: Browser, relay: ScriptedRelay
) -> None:
    """By keyboard: the child sees it as its default, its mail goes by it, and afterwards it is gone."""
    await made(gateway, "news", host=relay.host, port=relay.port)
    await tenant(gateway, "acme-labs", name="Labs")
    await made(gateway, "own", "acme-labs", is_default=True)
    seen = await opened(gateway, browser, PAGE)
    await seen.page.check("[name=profile][value=news]")
    await seen.page.check("[name=default][value=news]")
    await seen.page.locator("#available-find").focus()
    for key in ("l", "a", "b", "ArrowDown", "Enter"):
        await seen.page.keyboard.press(key)
    assert await names(seen, "selected") == ["acme-labs"]
    await seen.tab_to("Push")
    await seen.page.keyboard.press("Enter")
    await seen.page.get_by_text("1 profile is pushed to 1 child.").wait_for()
    assert "Labs acme-labs ✓ default" in " ".join((await seen.text()).split())
    await seen.axe()

    shown = await asked(gateway, "GET", "tenants/acme-labs/profiles")
    assert {one["name"]: one["is_default"] for one in shown["items"]} == {"news": True, "own": False}
    note = {"tenant": "acme-labs", "to": ["ann@example.test"], "subject": "Hello", "text": "Hello Ann"}
    await asked(gateway, "POST", "notifications", note)
    [mail] = await relay.wait_messages(1)
    assert mail.mail_from == "news@acme.example"

    await seen.goto(PAGE)
    await seen.page.get_by_role("link", name="Take back … news from acme-labs").click()
    assert "It is the default of acme-labs" in await seen.text()
    await seen.axe()
    await seen.page.get_by_role("button", name="Take it back").click()
    await seen.page.get_by_text("news is taken back from acme-labs.").wait_for()
    assert ("acme", "news", "acme-labs") not in gateway.running.directory.snapshot.links


async def test_without_a_script(gateway: Gateway) -> None:
    """Boxes do the same, and the result tells child by profile."""
    await made(gateway, "news")
    await made(gateway, "mailings")
    await tenant(gateway, "acme-labs")
    async with visiting(gateway, "acme") as visitor:
        page = await pushed(visitor, "acme-labs", "acme-apac", profiles=("news", "mailings"), default="mailings")
        assert "2 profiles are pushed to 2 children." in page.text
        assert "Acme APAC acme-apac ✓ ✓ default acme-labs ✓ ✓ default" in page.text
        links = (await visitor.get(PAGE)).text.partition("Who has what")[2]
        assert "acme-apac mailings ✓ default" in links
        asking = await visitor.get(f"{PAGE}/acme-apac/news")
        assert "Take news back from acme-apac?" in asking.text
        assert "news is taken back from acme-apac." in (await visitor.send(asking)).text
    assert ("acme", "news", "acme-apac") not in gateway.running.directory.snapshot.links


# The panes.


async def test_the_panes_by_keyboard(gateway: Gateway, browser: Browser) -> None:
    """Arrow keys go, Space marks, Shift marks on, Ctrl+A marks all, Enter moves what is marked to the other side."""
    for number in range(5):
        await tenant(gateway, f"acme-{number}", name=f"Branch {number}")
    seen = await opened(gateway, browser, PAGE)
    await seen.tab_to("Available 7")
    for key in ("Space", "ArrowDown", "Shift+ArrowDown"):
        await seen.page.keyboard.press(key)
    assert await marked(seen, "available") == ["acme-0", "acme-1", "acme-2"]
    await seen.page.keyboard.press("Enter")
    assert await names(seen, "selected") == ["acme-0", "acme-1", "acme-2"]
    assert await seen.page.inner_text("#panes-told") == "3 added."
    for key in ("End", "Enter"):
        await seen.page.keyboard.press(key)
    assert await names(seen, "available") == ["acme-3", "acme-4", "acme-apac"]
    await seen.tab_to("Selected 4")
    for key in ("Control+a", "Enter"):
        await seen.page.keyboard.press(key)
    assert (await names(seen, "selected"), len(await names(seen, "available"))) == ([], 7)
    assert await seen.page.locator("#boxes input:checked").count() == 0


async def test_the_panes_on_a_phone(gateway: Gateway, browser: Browser) -> None:
    """By touch, in the dark: search narrows what Add all adds, and Remove all empties what is shown."""
    await tenant(gateway, "acme-labs", name="Labs")
    seen = await opened(gateway, browser, PAGE, width=PHONE, scheme="dark")
    await seen.no_sideways_scroll()
    await seen.axe()
    await seen.page.fill("#available-find", "ACME A")
    await seen.page.press("#available-find", "Enter")  # which pushes nothing
    assert await names(seen, "available") == ["acme-apac"]
    assert await seen.page.inner_text("#available-count") == "1 of 3"
    await seen.page.get_by_role("button", name="Add all").click()
    await seen.page.fill("#available-find", "")
    await seen.page.locator("#available [role=option]", has_text="Labs").click()
    await seen.page.get_by_role("button", name="Add", exact=True).click()
    assert await names(seen, "selected") == ["acme-apac", "acme-labs"]
    await seen.page.fill("#selected-find", "labs")
    await seen.page.get_by_role("button", name="Remove all").click()
    await seen.page.fill("#selected-find", "")
    assert await names(seen, "selected") == ["acme-apac"]
    await seen.axe()


async def test_who_has_a_profile_cannot_be_chosen_for_it(gateway: Gateway, browser: Browser) -> None:
    """Inherited or under the same name: marked, not added by any way, and taken out if it was chosen before."""
    await made(gateway, "news")
    await lent(gateway, "acme-emea")
    await tenant(gateway, "acme-labs", name="Labs")
    await made(gateway, "news", "acme-labs")
    seen = await opened(gateway, browser, PAGE)
    await seen.page.get_by_role("button", name="Add all").click()
    assert len(await names(seen, "selected")) == 3
    await seen.page.check("[name=profile][value=news]")
    assert await names(seen, "selected") == ["acme-apac"]
    assert "2 children have a chosen profile already" in await seen.page.inner_text("#panes-told")
    blocked = seen.page.locator("#available [aria-disabled=true]")
    assert [" ".join(text.split()) for text in await blocked.all_text_contents()] == [  # not painted yet, maybe
        "Acme EMEA acme-emea has alerts, news",
        "Labs acme-labs has its own news",
    ]
    await blocked.first.click(force=True)
    await blocked.first.dblclick(force=True)
    await seen.page.focus("#available")
    for key in ("Space", "Control+a", "Enter"):
        await seen.page.keyboard.press(key)
    await seen.page.get_by_role("button", name="Add all").click()
    assert await names(seen, "selected") == ["acme-apac"]
    await seen.axe()
    await seen.page.uncheck("[name=profile][value=news]")
    assert await blocked.count() == 0


async def test_a_profile_that_is_not_chosen_is_no_default(gateway: Gateway, browser: Browser) -> None:
    """Its mark goes with it."""
    await made(gateway, "news")
    seen = await opened(gateway, browser, PAGE)
    await seen.page.check("[name=profile][value=news]")
    await seen.page.check("[name=default][value=news]")
    await seen.page.uncheck("[name=profile][value=news]")
    assert await seen.page.locator("[name=default]:checked").get_attribute("value") == ""
    assert not await seen.page.locator("[name=default][value=news]").is_visible()


async def test_what_was_chosen_stays_when_it_is_refused(gateway: Gateway, browser: Browser) -> None:
    """The panes show it again beneath what is in the way."""
    browser.expect(Kind.CONSOLE, "409")
    await made(gateway, "news")
    seen = await opened(gateway, browser, PAGE)
    await seen.page.check("[name=profile][value=news]")
    await seen.page.get_by_role("button", name="Add all").click()
    await lent(gateway, "acme-apac")
    await seen.page.get_by_role("button", name="Push").click()
    await seen.page.get_by_text("acme-apac has news already.").wait_for()
    assert await names(seen, "selected") == ["acme-emea"]  # the other one has it, as is seen now
    assert await seen.page.locator("[name=profile]:checked").get_attribute("value") == "news"


# What is in the way.


async def test_refusals_name_child_and_profile(gateway: Gateway) -> None:
    """Of all children and profiles at once."""
    await made(gateway, "news")
    await lent(gateway, "acme-emea")
    await tenant(gateway, "acme-labs")
    await made(gateway, "news", "acme-labs")
    async with visiting(gateway, "acme") as visitor:
        taken = await pushed(visitor, "acme-labs", "acme-emea", "acme-apac")
        assert (taken.status, "acme-labs has a profile of its own named news." in taken.text) == (409, True)
        assert "acme-emea has news already." in taken.text
        strange = await pushed(visitor, "acme", "acme-apac", "nobody", profiles=("main", "news"))
        assert (strange.status, "acme is not a child of acme." in strange.text) == (422, True)
        assert "nobody is not a child of acme." in strange.text
        assert "acme owns no profile main." in strange.text
        default = await pushed(visitor, "acme-apac", default="alerts")
        assert "alerts cannot be the default, because it is not among the chosen profiles." in default.text
        nothing = await visitor.post(PAGE, {"default": ""})
        assert "Choose at least one child. Choose at least one profile." in nothing.text
        many = await pushed(visitor, *(f"acme-{number}" for number in range(1001)))
        assert "One push reaches at most 1000 children; 1001 are chosen." in many.text
    assert {link.child for link in gateway.running.directory.snapshot.links_from("acme", "news")} == {"acme-emea"}


async def test_a_default_of_the_operators_is_named(gateway: Gateway) -> None:
    """Where a child's default stands in the operator's files, no other takes its place."""
    await made(gateway, "news")
    async with visiting(gateway, "acme") as visitor:
        page = await pushed(visitor, "acme-emea", "acme-apac", default="news")
        assert (page.status, "The default of acme-emea, alerts, stands in the operator's files" in page.text) == (
            409,
            True,
        )
        back = await visitor.send(await visitor.get(f"{PAGE}/acme-emea/alerts"))
        assert "defined in the operator's files" in back.text


async def test_a_profile_of_the_childs_own_is_never_taken_back(gateway: Gateway) -> None:
    """Whoever confirms late, when the link has gone and the child made a profile of that name, deletes nothing."""
    await made(gateway, "news")
    await lent(gateway, "acme-apac")
    async with visiting(gateway, "acme") as visitor:
        asking = await visitor.get(f"{PAGE}/acme-apac/news")
        await asked(gateway, "DELETE", "tenants/acme-apac/profiles/news")
        await made(gateway, "news", "acme-apac")
        assert (await visitor.send(asking)).status == 404
        assert (await visitor.get(f"{PAGE}/acme-apac/news")).status == 404
    assert ("acme-apac", "news") in gateway.running.directory.snapshot.profiles


async def test_a_default_mark_set_meanwhile_is_not_taken_back_unseen(gateway: Gateway) -> None:
    """The question said otherwise, so it is asked again."""
    await made(gateway, "news")
    await lent(gateway, "acme-apac")
    async with visiting(gateway, "acme") as visitor:
        asking = await visitor.get(f"{PAGE}/acme-apac/news")
        await asked(gateway, "PATCH", "tenants/acme-apac/profiles/news", {"is_default": True})
        assert "has changed since it was read" in (await visitor.send(asking)).text
    assert ("acme", "news", "acme-apac") in gateway.running.directory.snapshot.links


# Who may, and who sees what.


@pytest.mark.parametrize("path", [PAGE, f"{PAGE}/acme-emea/alerts"])
async def test_a_child_finds_nothing_of_its_parents_pushing(gateway: Gateway, path: str) -> None:
    """The parent's page is not there for it, read or sent."""
    async with visiting(gateway, "acme-emea") as visitor:
        assert ((await visitor.get(path)).status, (await visitor.post(path)).status) == (404, 404)


async def test_who_may_only_read_sees_and_changes_nothing(gateway: Gateway) -> None:
    """The links are shown; there is no form and no way to take back."""
    key = (await asked(gateway, "POST", "tenants/acme/keys", {"name": "reader", "scopes": ["read"]}))["key"]
    async with visiting(gateway) as visitor:
        await visitor.post("/ui/sign-in", {"key": key})
        page = await visitor.get(PAGE)
        assert "acme-emea alerts ✓ default" in page.text
        assert "does not permit pushing" in page.text
        assert not [link for link in page.links if link.startswith(PAGE)]
        assert (await pushed(visitor, "acme-apac", profiles=("alerts",))).status == 403
        assert (await visitor.post(f"{PAGE}/acme-emea/alerts")).text.count("The API key does not permit this.") == 1
    assert ("acme", "alerts", "acme-emea") in gateway.running.directory.snapshot.links


async def test_tenants_with_nothing_to_push_are_told_so(gateway: Gateway) -> None:
    """Without children, without profiles of its own, and where those above let it use none."""
    await tenant(gateway, "acme-labs")
    await tenant(gateway, "acme-labs-1", parent="acme-labs")
    async with visiting(gateway, "acme") as visitor:
        assert "no tenant directly below acme-apac" in (await visitor.get(PAGE.replace("acme", "acme-apac"))).text
        assert "acme-labs has no profile of its own" in (await visitor.get(PAGE.replace("acme", "acme-labs"))).text
        await made(gateway, "news", "acme-labs")
        await asked(gateway, "PATCH", "tenants/acme-labs", {"own_profiles": False})
        locked = await visitor.get(PAGE.replace("acme", "acme-labs"))
        assert "does not let acme-labs use profiles of its own" in locked.text
        assert "<form method" not in locked.source.partition("<h2>")[2]


async def test_names_are_text(gateway: Gateway, browser: Browser) -> None:
    """Whatever a child is called, in the panes too; and what is searched or sent."""
    await tenant(gateway, "acme-labs", name=HOSTILE)
    await made(gateway, "news")
    await lent(gateway, "acme-labs")
    async with visiting(gateway, "acme") as visitor:
        assert (await visitor.get(PAGE)).shows_as_text(HOSTILE)
        assert (await visitor.get(f"{PAGE}?find=%22%3E%3Cscript%3Ealert(1)")).shows_as_text('"><script>alert(1)')
        assert (await pushed(visitor, HOSTILE, profiles=(HOSTILE,), default=HOSTILE)).shows_as_text(HOSTILE)
        assert (await pushed(visitor, "acme-labs", profiles=("alerts",))).shows_as_text(HOSTILE)
    seen = await opened(gateway, browser, PAGE)
    assert HOSTILE in (await seen.page.text_content("#available") or "")
    assert await seen.page.locator("main script").count() == 0


# Many.


async def crowd(gateway: Gateway) -> None:
    """Give acme very many children, half of which have a profile already."""
    tenants = [
        Tenant(id=f"acme-{number:04}", name=f"Branch {number * 7919 % 9973}", parent="acme") for number in range(MANY)
    ]
    links = [Link(tenant="acme", profile="news", child=one.id) for one in tenants[::2]]
    sender = {"tenant": "acme", "name": "news", "host": "news.example.test", "from": "news@acme.example"}
    profile = Profile.model_validate(sender)
    await gateway.running.directory.change(OPERATOR, lambda _: Change([profile, *tenants, *links]))


async def test_a_page_of_very_many_children_is_small_and_quick(gateway: Gateway) -> None:
    """Less than 150 kB travel, and to make it takes less than 200 ms of the processor."""
    await crowd(gateway)
    async with on_the_wire(gateway, Accept_Encoding="identity") as wire:
        await wire.sign_in(gateway.keys["acme"])
        took = []
        for _ in range(3):
            began = time.process_time()  # of the client too, and of nobody else
            page = await wire.ask(PAGE)
            took.append(time.process_time() - began)
    assert min(took) < 0.2
    assert len(gzip.compress(page.text.encode(), 5)) < 150_000


async def test_very_many_children_stay_usable(gateway: Gateway, browser: Browser) -> None:
    """The list of links is cut, and Add all stops at what one push reaches."""
    await crowd(gateway)
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(PAGE)
        assert page.source.count("Take back …") == 100
        assert "1001 links" in page.text
        more = await visitor.get(next(link for link in page.links if "from=100" in link))
        assert "acme-0196" not in more.text.partition("1001 links")[2]
        assert "acme-0298" in more.text.partition("1001 links")[2]
        assert "1 link" in (await visitor.get(f"{PAGE}?find=acme-1998")).text
    seen = await opened(gateway, browser, PAGE)
    await seen.page.check("[name=profile][value=alerts]")
    await seen.page.get_by_role("button", name="Add all").click()
    assert "1000 added. One push reaches at most 1000: 1001 stayed." in await seen.page.inner_text("#panes-told")
    assert await seen.page.inner_text("#selected-count") == "1000"
