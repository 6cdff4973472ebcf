"""A tenant's copies: rules as rows and back, the page by keyboard and without scripts, and who would get what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.directory.changes import OPERATOR, Change
from gateway.directory.shapes import Preferences
from gateway.directory.snapshot import API, PROVISION
from gateway.ui.forms import Form
from gateway.ui.subjects.preferences import NEVER, SEVERITIES, Row, rows_in, rows_of, rules_of
from tests.ui.asking import opened
from tests.ui.browser import PHONE
from tests.ui.scoped import become
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway
    from tests.ui.visitor import Shown, Visitor

PAGE = "/ui/tenants/acme-emea/preferences"
ASK = "/ui/tenants/acme-emea/resolution"
HOSTILE = '"><script>alert(1)</script>'
RULES: list[dict[str, Any]] = [
    {"category": "security.*", "min_severity": "info", "cc": False, "bcc": True},
    {"category": "*", "min_severity": "error", "cc": True, "bcc": False},
    {"category": "security.*", "min_severity": "critical", "cc": True, "bcc": True},
    {"category": "quiet", "min_severity": "warning", "cc": False, "bcc": False},
]
CATEGORIES = ("*", "security.*", "billing.invoice")

rules = st.lists(
    st.fixed_dictionaries({
        "category": st.sampled_from(CATEGORIES),
        "min_severity": st.sampled_from(SEVERITIES),
        "cc": st.booleans(),
        "bcc": st.booleans(),
    })
)  # fmt: skip


def effect(of: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Who gets a copy of what, as the rules themselves say it."""
    return {
        (rule["category"], severity, name)
        for rule in of
        for severity in SEVERITIES[SEVERITIES.index(rule["min_severity"]) :]
        for name in ("cc", "bcc")
        if rule[name]
    }


def shown(rows: list[Row]) -> set[tuple[str, str, str]]:
    """Who gets a copy of what, as rows say it."""
    return {
        (row.category, severity, name)
        for row in rows
        for name, level in (("cc", row.cc), ("bcc", row.bcc))
        if level != NEVER
        for severity in SEVERITIES[SEVERITIES.index(level) :]
    }


@given(rules)
def test_rows_say_what_the_rules_do(given_rules: list[dict[str, Any]]) -> None:
    """One row a category, in the order in which they come, with the same effect."""
    rows = rows_of(given_rules)
    assert [row.category for row in rows] == list(dict.fromkeys(rule["category"] for rule in given_rules))
    assert shown(rows) == effect(given_rules)


@given(rules)
def test_what_nobody_changed_is_written_as_it_was(given_rules: list[dict[str, Any]]) -> None:
    """Word for word and in their order, also rules that copy nobody."""
    assert [rule for _, rule in rules_of(rows_of(given_rules), given_rules)] == given_rules


@given(rules, rules)
def test_changed_rows_are_written_with_their_effect(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """Whatever stood there before; a category has one rule, or two."""
    rows = rows_of(after)
    written = rules_of(rows, before)
    assert effect([rule for _, rule in written]) == shown(rows)
    assert {rows[number].category for number, _ in written} == {row.category for row in rows}


def test_a_changed_row_leaves_the_others() -> None:
    """Only the rules of its own category are written anew."""
    rows = rows_of(RULES)
    rows[1] = rows[1]._replace(cc="warning")
    written = [rule for _, rule in rules_of(rows, RULES)]
    assert [rule for rule in RULES if rule["category"] != "*"] == [rule for rule in written if rule["category"] != "*"]
    assert [rule["min_severity"] for rule in written if rule["category"] == "*"] == ["warning"]


def test_rows_without_a_category_are_left_out() -> None:
    """The empty row is always there, and blanks make no category."""
    fields = {"category": ["*", "", "  "], "cc_from": ["info", "never", "error"], "bcc_from": ["never"] * 3}
    form = Form([(name, value) for name, values in fields.items() for value in values])
    assert rows_in(form) == [Row("*", "info", NEVER)]


# The page.


def fields(page: Shown, *rows: tuple[str, str, str], cc: str = "", bcc: str = "") -> list[tuple[str, str]]:
    """What a browser sends of these rows, the empty one last."""
    sent = [("version", page.form().fields["version"]), ("/cc", cc), ("/bcc", bcc)]
    for category, cc_from, bcc_from in (*rows, ("", "never", "never")):
        sent += [("category", category), ("cc_from", cc_from), ("bcc_from", bcc_from)]
    return sent


def saved(gateway: Gateway) -> Preferences:
    return gateway.running.directory.snapshot.preferences["acme-emea"]


async def put(gateway: Gateway, preferences: Preferences, origin: str = API) -> None:
    await gateway.running.directory.change(OPERATOR, lambda _snapshot: Change([preferences], origin=origin))


async def save(visitor: Visitor, *rows: tuple[str, str, str], **lists: str) -> Shown:
    return await visitor.post(PAGE, fields(await visitor.get(PAGE), *rows, **lists))


async def test_preferences_are_saved(gateway: Gateway) -> None:
    """Lists, a line an address; a row becomes one rule or two."""
    async with visiting(gateway, "acme-emea") as visitor:
        page = await save(
            visitor, ("security.*", "critical", "info"), ("*", "error", "never"), cc="a@x.example\n\nb@x.example"
        )
        assert "The preferences are saved." in page.text
    assert saved(gateway).cc == ("a@x.example", "b@x.example")
    assert [(rule.category, rule.min_severity, rule.cc, rule.bcc) for rule in saved(gateway).rules] == [
        ("security.*", "critical", True, False),
        ("security.*", "info", False, True),
        ("*", "error", True, False),
    ]


async def test_faults_stand_beside_their_rows(gateway: Gateway) -> None:
    """Those of the rules at their rows, those of the lists at theirs, and all that was written is there again."""
    async with visiting(gateway, "acme-emea") as visitor:
        page = await save(visitor, ("*", "info", "error"), (HOSTILE, "critical", "info"), cc=f"a@x.example\n{HOSTILE}")
        assert page.status == 422
        assert page.source.count('class="fault"') == 2
        assert 'aria-invalid="true" aria-describedby="wrong2"' in page.source
        assert "Line 2:" in page.text
        assert page.shows_as_text(HOSTILE)
        assert '<option value="critical" selected>' in page.source
    assert "acme-emea" not in gateway.running.directory.snapshot.preferences


async def test_somebody_else_was_faster(gateway: Gateway) -> None:
    """What they saved stays, and what was typed is shown again."""
    async with visiting(gateway, "acme-emea") as visitor:
        page = await visitor.get(PAGE)
        await save(visitor, ("*", "info", "never"), cc="theirs@x.example")
        late = await visitor.post(PAGE, fields(page, ("mine", "info", "never"), cc="mine@x.example"))
        assert (late.status, "Somebody changed this meanwhile." in late.text) == (412, True)
        assert "mine@x.example" in late.source
    assert saved(gateway).cc == ("theirs@x.example",)


async def test_who_only_reads_changes_nothing(gateway: Gateway) -> None:
    """No button, nothing to write in; and what they send all the same is refused."""
    async with visiting(gateway, "acme-emea") as visitor:
        await become(visitor, "acme-emea", "read")
        page = await visitor.get(PAGE)
        assert page.source.count("<fieldset") == page.source.count('<fieldset class="group" disabled') == 2
        assert ">Save<" not in page.source
        assert (await visitor.post(PAGE, fields(page, ("*", "info", "never")))).status == 403


async def test_what_the_operator_wrote_is_not_changed_here(gateway: Gateway) -> None:
    """The page says where it is changed."""
    await put(gateway, Preferences(tenant="acme-emea", cc=("ops@x.example",)), origin=PROVISION)
    async with visiting(gateway, "acme-emea") as visitor:
        page = await visitor.get(PAGE)
        assert "in the operator's files, and are changed there" in page.text
        assert ">Save<" not in page.source
        assert (await visitor.post(PAGE, fields(page, ("*", "info", "never")))).status == 409


# Who would get it?


async def test_who_gets_it_is_told_as_saved(gateway: Gateway) -> None:
    """The profile, why it is that one, the copies, and what was looked at."""
    async with visiting(gateway, "acme-emea") as visitor:
        await save(visitor, ("security.*", "error", "never"), cc="ops@x.example", bcc="b@x.example")
        part = await visitor.get(f"{ASK}?category=security.login&severity=critical&profile=", HX_Request="true")
        assert "<h1" not in part.source
        assert "alerts of acme. It is the tenant's own default." in part.text
        assert "CC ops@x.example BCC nobody" in part.text
        whole = await visitor.get(f"{ASK}?category=security.login&severity=info")
        assert "CC nobody" in whole.text
        assert "<h1" in whole.source


async def test_nothing_is_told_of_a_tenant_above(gateway: Gateway) -> None:
    """Neither whose profile it is nor what it is called."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get("/ui/tenants/acme/resolution?category=general&severity=info&profile=")
        assert "One of a tenant above." in page.text
        assert "main" not in page.text


@pytest.mark.parametrize("part", [True, False])
async def test_a_question_without_sense_is_told(gateway: Gateway, part: bool) -> None:
    """Which of the fields it is; and what was asked is text."""
    async with visiting(gateway, "acme-emea") as visitor:
        headers = {"HX_Request": "true"} if part else {}
        page = await visitor.get(f"{ASK}?category=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&severity=bad", **headers)
        assert page.status == 422
        assert "Category: " in page.text
        assert "Severity: " in page.text
        assert HOSTILE not in page.source


# In a browser.


async def test_rules_by_keyboard_on_a_phone(gateway: Gateway, browser: Browser) -> None:
    """A row is filled in and another added; the cells follow at once; what is saved is what they showed."""
    seen = await opened(gateway, browser, PAGE, "acme-emea", width=PHONE, scheme="dark")
    page = seen.page
    await seen.tab_to("CC")
    await page.keyboard.type("ops@x.example")
    await seen.tab_to("Category")
    await page.keyboard.type("security.*")
    await seen.tab_to("CC from")
    await page.keyboard.type("error")
    await seen.tab_to("BCC from")
    await page.keyboard.type("critical")
    row = page.locator(".rules tbody tr").first
    assert [" ".join((await row.locator(f".{one}").inner_text()).split()) for one in SEVERITIES] == [
        "info nobody", "warning nobody", "error CC", "critical CC BCC",
    ]  # fmt: skip
    await seen.tab_to("Add a row")
    await page.keyboard.press("Enter")
    await page.keyboard.type("gone")
    await seen.tab_to("Remove rule")
    await page.keyboard.press("Enter")
    assert await page.locator(".rules tbody tr").count() == 1
    await seen.axe()
    await seen.no_sideways_scroll()
    await seen.tab_to("Save")
    await page.keyboard.press("Enter")
    await page.get_by_text("The preferences are saved.").wait_for()
    await seen.tab_to("Show")
    await page.keyboard.press("Enter")
    await page.get_by_text("It is the tenant's own default.").wait_for()
    await seen.axe()
    await seen.no_sideways_scroll()
    assert [tuple(rule.model_dump(mode="json").values()) for rule in saved(gateway).rules] == [
        ("security.*", "error", True, False),
        ("security.*", "critical", False, True),
    ]


async def test_opening_and_saving_loses_nothing(gateway: Gateway, browser: Browser) -> None:
    """Also without scripts: nothing is written at all."""
    document = {"tenant": "acme-emea", "cc": ["ops@x.example"], "bcc": ["a@x.example", "b@x.example"], "rules": RULES}
    before = Preferences.model_validate_json(json.dumps(document))
    await put(gateway, before)
    revision = gateway.running.directory.snapshot.revision
    seen = await opened(gateway, browser, PAGE, "acme-emea", scripts=False)
    await seen.no_sideways_scroll()
    await seen.page.get_by_role("button", name="Save").click()
    await seen.page.get_by_text("The preferences are saved.").wait_for()
    assert saved(gateway) == before
    assert gateway.running.directory.snapshot.revision == revision
