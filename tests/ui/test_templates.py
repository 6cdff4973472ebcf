"""A tenant's templates on their pages: made, changed, tried, deleted, and shown as the text that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.ui.asking import opened
from tests.ui.browser import Kind
from tests.ui.scoped import become
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from gateway.directory.shapes import Template
    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway
    from tests.ui.visitor import Shown, Visitor

PAGES = "/ui/tenants/acme/templates"
NEW = "/ui/tenants/acme/new-template"
WELCOME = f"{PAGES}/welcome"
HOSTILE = '"><script>alert(1)</script>'
WORDS = {"/subject": "Welcome, {{ name }}", "/text": "  Hello {{ name }}\n\n", "/html": "<p>Hello {{ name }}</p>"}


def saved(gateway: Gateway, name: str = "welcome") -> Template:
    return gateway.running.directory.snapshot.templates["acme", name]


async def made(visitor: Visitor, **changed: str) -> Shown:
    """Make the template `welcome`."""
    return await visitor.post(NEW, {"/name": "welcome", **WORDS, **changed})


async def test_a_template_is_made_changed_and_deleted(gateway: Gateway) -> None:
    """Blanks and line ends are kept, and a part that is emptied is gone."""
    async with visiting(gateway, "acme") as visitor:
        page = await made(visitor)
        assert (page.path, "The template welcome is there." in page.text) == (WELCOME, True)
        assert (saved(gateway).text, saved(gateway).html) == ("  Hello {{ name }}\n\n", "<p>Hello {{ name }}</p>")
        assert saved(gateway) == (await unchanged(visitor, gateway))
        page = await visitor.send(await visitor.get(WELCOME), action=WELCOME, __html="")
        assert "The template is saved." in page.text
        assert (saved(gateway).text, saved(gateway).html) == ("  Hello {{ name }}\n\n", None)
        listed = await visitor.get(PAGES)
        assert "welcome" in listed.text
        assert "HTML" not in listed.text
        asked = await visitor.get(f"{WELCOME}/delete")
        assert "mail that names it and still waits will fail" in asked.text
        assert "The template welcome is deleted." in (await visitor.send(asked)).text
        assert not gateway.running.directory.snapshot.templates


async def unchanged(visitor: Visitor, gateway: Gateway) -> Template:
    """Open the template and save it; what it is then."""
    await visitor.send(await visitor.get(WELCOME), action=WELCOME)
    return saved(gateway)


async def test_faults_stand_beside_their_fields(gateway: Gateway) -> None:
    """The name's and the parts', with what was written."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.post(NEW, {"/name": "a b", **WORDS, "/subject": "", "/text": "{{ name"})
        assert (page.status, page.source.count('class="fault"')) == (422, 2)
        assert page.form().fields["/text"] == "{{ name"
        assert not gateway.running.directory.snapshot.templates


@pytest.mark.parametrize(
    ("name", "status", "told"), [("welcome", 409, "This name is taken."), ("", 422, "A name is needed.")]
)
async def test_a_name_is_free(gateway: Gateway, name: str, status: int, told: str) -> None:
    """A new template takes no other's place."""
    async with visiting(gateway, "acme") as visitor:
        await made(visitor)
        page = await visitor.post(NEW, {"/name": name, "/subject": "Mine", "/text": "Mine"})
        assert (page.status, told in page.text) == (status, True)
    assert saved(gateway).subject == WORDS["/subject"]


async def test_somebody_else_was_faster(gateway: Gateway) -> None:
    """What they saved stays, and what was typed is shown again."""
    async with visiting(gateway, "acme") as visitor:
        await made(visitor)
        page = await visitor.get(WELCOME)
        await visitor.send(page, action=WELCOME, __subject="Theirs")
        late = await visitor.send(page, action=WELCOME, __subject="Mine")
        assert (late.status, "Somebody changed this meanwhile." in late.text) == (412, True)
        assert late.form(WELCOME).fields["/subject"] == "Mine"
    assert saved(gateway).subject == "Theirs"


@pytest.mark.parametrize("part", [True, False])
async def test_what_it_makes_of_data(gateway: Gateway, part: bool) -> None:
    """In place or as a page; data that holds markup makes none, and the HTML is its source."""
    async with visiting(gateway, "acme") as visitor:
        await made(visitor)
        headers = {"HX_Request": "true"} if part else {}
        data = '{"name": "<img src=x onerror=alert(1)>"}'
        page = await visitor.post(f"{WELCOME}/preview", {"/data": data}, **headers)
        assert "Hello <img src=x onerror=alert(1)>" in page.text
        assert "<p>Hello &lt;img src=x" in page.text
        assert "<img src=x" not in page.source
        assert ("<h1" in page.source) is not part
        if not part:
            assert page.form(f"{WELCOME}/preview").fields["/data"] == data


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ('{"name":\n "Ann"', "This is no JSON, from line 2 on."),
        ("[" * 100_000, "This JSON is too deep"),
        ("[]", "object"),
        ("{}", "a variable is unknown"),
        ('{"name": "\\ud800"}', ""),
    ],
)
async def test_data_that_does_not_fill_it(gateway: Gateway, data: str, told: str) -> None:
    """What is wrong is told where the result would stand."""
    async with visiting(gateway, "acme") as visitor:
        await made(visitor)
        page = await visitor.post(f"{WELCOME}/preview", {"/data": data}, HX_Request="true")
        assert (page.status, told in page.text, "notice bad" in page.source) == (200, True, True)


async def test_hostile_words_are_text(gateway: Gateway) -> None:
    """In the list, in the fields, and in what is made of them."""
    async with visiting(gateway, "acme") as visitor:
        words = f"{HOSTILE} javascript:alert(1) </textarea>"
        page = await made(visitor, **{"/subject": words, "/text": words, "/html": words})
        for shown in (page, await visitor.get(PAGES), await visitor.post(f"{WELCOME}/preview", {"/data": "{}"})):
            assert shown.shows_as_text(HOSTILE)
        assert page.form(WELCOME).fields["/text"] == words


async def test_who_only_reads_changes_nothing(gateway: Gateway) -> None:
    """They may try a template, and see no button that changes one."""
    async with visiting(gateway, "acme") as visitor:
        await made(visitor)
        await become(visitor, "acme", "read")
        assert "New template" not in (await visitor.get(PAGES)).text
        page = await visitor.get(WELCOME)
        assert "Save" not in page.text
        assert "Delete" not in page.text
        assert (await visitor.post(WELCOME, WORDS)).status == 403
        assert "Welcome, Ann" in (await visitor.post(f"{WELCOME}/preview", {"/data": '{"name": "Ann"}'})).text


async def test_a_tenant_beside_has_no_such_page(gateway: Gateway) -> None:
    """Another tenant's templates are not there, for whoever may not look."""
    async with visiting(gateway, "acme") as visitor:
        await made(visitor)
    async with visiting(gateway, "acme-emea") as visitor:
        for path in (PAGES, WELCOME, f"{WELCOME}/delete", NEW):
            assert (await visitor.get(path)).status == 404


async def test_data_stays_when_the_session_is_over(gateway: Gateway, browser: Browser) -> None:
    """Where the preview would stand it says so; the page stays, and what was typed."""
    browser.expect(Kind.CONSOLE, "401")
    async with visiting(gateway, "acme") as visitor:
        await made(visitor)
    seen = await opened(gateway, browser, WELCOME)
    await seen.page.fill("#data", '{"name": "Ann"}')
    await seen.page.context.clear_cookies()
    await seen.page.get_by_role("button", name="Preview").click()
    await seen.page.locator("#made").get_by_text("You are not signed in any more.").wait_for()
    assert await seen.page.input_value("#data") == '{"name": "Ann"}'
    await seen.axe()
