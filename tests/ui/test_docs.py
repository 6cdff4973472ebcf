"""The page about the API: complete, for everybody, and requests can be tried on it."""

from __future__ import annotations

import asyncio
import gzip
import html
import os
import re
import shutil
from typing import TYPE_CHECKING, Any, Final, Literal

import aiohttp
import pytest

from gateway.http.openapi import specification
from gateway.http.routes import ROUTES
from gateway.ui.assets import static
from gateway.ui.schemas import Schemas
from tests.peers.requirements import require
from tests.ui.browser import Kind
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from playwright.async_api import Locator

    from tests.ui.browser import Browser, Seen
    from tests.ui.gateway import Gateway

HOSTILE = "<img src=x onerror=alert(1)>"
MOST_OCTETS = 150_000


async def shown(gateway: Gateway) -> str:
    """Read the page as somebody whom nobody knows."""
    async with visiting(gateway) as visitor:
        page = await visitor.get("/docs")
    assert page.status == 200
    return page.source


def sections(source: str) -> dict[str, str]:
    """Give each operation's part of the page, by the operation's id."""
    parts = re.split(r'<details class="opens operation" id="([^"]+)">', source)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def operations(document: Any) -> list[Any]:
    """All operations of a document, each with its method and path."""
    return [
        {**one, "method": method.upper(), "path": path}
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    ]


def names(schema: Any, schemas: Any, seen: frozenset[str] = frozenset()) -> set[str]:
    """Every member's name that a schema leads to, by whatever way."""
    if isinstance(schema, list):
        return set().union(*(names(one, schemas, seen) for one in schema))
    if not isinstance(schema, dict):
        return set()
    reference = schema.get("$ref", "").rpartition("/")[2]
    found = names(schemas[reference], schemas, seen | {reference}) if reference and reference not in seen else set()
    for key in ("anyOf", "oneOf", "items", "additionalProperties"):
        found |= names(schema.get(key), schemas, seen)
    properties = schema.get("properties", {})
    return found | set(properties) | names(list(properties.values()), schemas, seen)


async def test_every_operation_is_there(gateway: Gateway) -> None:
    """Each with its method, path, words, parameters and what can go wrong; and no other."""
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.url}/openapi.json") as answer:
        document = await answer.json()
    parts = sections(await shown(gateway))
    assert set(parts) == {one["operationId"] for one in operations(document)}
    assert "catcher.list" in parts
    for one in operations(document):
        text = html.unescape(re.sub(r"<[^>]+>", "", parts[one["operationId"]]))
        words = [one["method"], one["path"], one["summary"], one.get("description", "").replace("`", "")]
        words += [parameter["name"] for parameter in one["parameters"]]
        words += [
            code for answer in one["responses"].values() for code in re.findall("`(.+?)`:", answer["description"])
        ]
        assert not [word for word in words if word not in text], one["operationId"]


async def test_every_reference_is_resolved(gateway: Gateway) -> None:
    """Whatever member a body leads to stands in its operation; whatever an answer leads to, in an object that is linked."""
    source = html.unescape(await shown(gateway))
    assert "$ref" not in source
    assert "#/components" not in source
    parts = sections(source)
    document = specification(ROUTES)
    schemas = document["components"]["schemas"]
    for one in operations(document):
        body = one.get("requestBody", {"content": {}})["content"]
        assert names([kind["schema"] for kind in body.values()], schemas) <= said(parts[one["operationId"]])
        answers = [one["responses"][status].get("content", {}) for status in one["responses"] if status < "3"]
        wanted = [kind["schema"] for content in answers for kind in content.values()]
        assert names(wanted, schemas) <= linked(parts[one["operationId"]], source), one["operationId"]


def said(part: str) -> set[str]:
    """The members of which a part of the page tells."""
    return set(re.findall(r'<b class="mono">([^<]+)</b>', part))


def linked(part: str, source: str) -> set[str]:
    """The members of the objects that a part links to, and of those that these link to."""
    found, ahead, seen = set[str](), set(re.findall(r'href="#(shape-[^"]+)"', part)), set[str]()
    while ahead:
        name = ahead.pop()
        seen.add(name)
        object_ = source.partition(f'id="{name}"')[2].partition('<details class="opens')[0]
        assert object_, name
        found |= said(object_)
        ahead |= set(re.findall(r'href="#(shape-[^"]+)"', object_)) - seen
    return found


async def test_every_link_within_leads_somewhere(gateway: Gateway) -> None:
    """And no two places have one name."""
    source = html.unescape(await shown(gateway))
    places = re.findall(r' id="([^"]+)"', source)
    assert len(places) == len(set(places))
    assert set(re.findall(r'href="#([^"]+)"', source)) <= set(places)


async def test_it_is_for_everybody(gateway: Gateway) -> None:
    """Over plain HTTP from elsewhere, where the pages are not shown; no cookie is given or looked at."""
    async with visiting(gateway, "acme") as visitor:
        elsewhere = {"Host": "gateway.example.test"}
        assert (await visitor.get("/ui/", **elsewhere)).status == 403
        page = await visitor.get("/docs", **elsewhere)
        assert (page.status, "Set-Cookie" in page.headers) == (200, False)
        assert "Signed in" not in page.text
        assert page.source == await shown(gateway)
        refused = await visitor.post("/docs")
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
        assert (await visitor.get("/docs/")).status == 404


async def test_it_is_small(gateway: Gateway) -> None:
    """With its style and scripts, as it travels."""
    asked = {"Accept-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(f"{gateway.url}/docs", headers=asked) as answer,
    ):
        packed = await answer.read()
    source = html.unescape(gzip.decompress(packed).decode())
    assets = [static(path, packed=True) for path in re.findall(r'(?:src|href)="(/ui/static/[^"]+)"', source)]
    assert len(assets) >= 3
    assert len(packed) + sum(len(asset.body) for asset in assets if asset) < MOST_OCTETS


def test_a_schema_that_holds_itself() -> None:
    """It is named where it comes again, and not opened."""
    schemas = Schemas({"Tree": {"type": "object", "properties": {"below": {"$ref": "#/components/schemas/Tree"}}}})
    (below,) = schemas.read({"$ref": "#/components/schemas/Tree"}).members
    assert (below.value.kind, below.value.members) == ("Tree", ())


def test_variants_are_told_together() -> None:
    """Kinds, limits and choices of each; objects of several forms one after the other."""
    read = Schemas({}).read
    either = read({"anyOf": [{"type": "string", "maxLength": 9}, {"type": "integer", "minimum": 1}, {"type": "null"}]})
    assert (either.kind, either.limits) == ("string or integer or null", ("at most 9 characters", "at least 1"))
    formed = [{"type": "object", "properties": {name: {"type": "string"}}} for name in "ab"]
    assert [form.value.members[0].name for form in read({"oneOf": formed}).members] == ["a", "b"]
    assert read({"enum": ["a", 1, None]}).choices == ("a", "1", "null")
    ruled = read({"type": "object", "anyOf": [{"required": ["a", "b"]}, {"required": ["c"]}]})
    assert ruled.limits == ("with a and b, or c",)


# Trying it.


async def opened(browser: Browser, gateway: Gateway, operation: str, key: str = "") -> tuple[Seen, Locator]:
    """Follow the link to an operation, and give the page a key; answers the operation's form."""
    seen = await browser.open(f"{gateway.url}/docs#{operation}")
    if key:
        await seen.page.get_by_label("API key").fill(key)
    return seen, seen.page.get_by_role("form", name=f"Try {operation}", exact=True)


async def sent(form: Locator) -> str:
    """Send, and read what was answered."""
    await form.get_by_role("button", name="Send").click()
    await form.locator(".result .facts > dt, .result .mark.bad").first.wait_for()
    await form.locator("[data-busy]").wait_for(state="detached")
    return await form.locator(".result").inner_text()


# All operations are made alike; with every one of them axe-core would take a minute on a busy machine.
PRUNED: Final = """() => {
  const kept = "#notification\\\\.post, #shape-NotificationView";
  for (const one of document.querySelectorAll(`.opens:not(${kept})`))
    one.closest(".subject").querySelector(kept) ? one.querySelector(":scope > :not(summary)").remove() : one.remove();
  document.querySelectorAll("[id^=shape]:not([id$=NotificationView], h2)").forEach(one => one.remove());
  document.querySelectorAll("details:has(> :not(summary))").forEach(one => one.open = true);
}"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
async def test_nobody_is_shut_out(
    gateway: Gateway, browser: Browser, width: int, scheme: Literal["light", "dark"]
) -> None:
    """With some operations open to their depths, one of them sent, on a phone and at a desk."""
    browser.expect(Kind.CONSOLE, "401")
    seen = await browser.open(f"{gateway.url}/docs#notification.post", width=width, scheme=scheme)
    await seen.no_sideways_scroll()
    assert "401" in await sent(seen.page.get_by_role("form", name="Try notification.post"))
    await seen.page.evaluate(PRUNED)
    await seen.axe()
    await seen.no_sideways_scroll()


async def test_a_notification_is_sent_and_seen(gateway: Gateway, browser: Browser) -> None:
    """With a key the example is accepted, and found again by another request."""
    seen, form = await opened(browser, gateway, "notification.post", gateway.keys["acme"])
    answer = await sent(form)
    assert "202" in answer
    found = re.search(r'"id": "([0-9a-f]+)"', answer)
    assert found
    assert f"/v1/notifications/{found[1]}" in answer  # the header Location
    await seen.goto("/docs#notification.show")
    form = seen.page.get_by_role("form", name="Try notification.show")
    await form.locator("[name=id]").fill(found[1])
    answer = await sent(form)
    assert "200" in answer
    assert '"address": "ann@example.test"' in answer


async def test_the_key_is_needed_and_kept_nowhere(gateway: Gateway, browser: Browser) -> None:
    """Somebody who is signed in gives one all the same; when the page is left it is gone."""
    browser.expect(Kind.CONSOLE, "401")
    seen = await browser.open(f"{gateway.url}/ui/sign-in")
    await seen.page.get_by_label("API key").fill(gateway.keys["acme"])
    await seen.page.get_by_role("button", name="Sign in").click()
    await seen.page.wait_for_url("**/ui/")
    await seen.goto("/docs#tenant.list")
    form = seen.page.get_by_role("form", name="Try tenant.list")
    async with seen.page.expect_request("**/v1/tenants") as asked:
        assert "unauthorized" in await sent(form)
    assert "cookie" not in await (await asked.value).all_headers()
    await seen.page.get_by_label("API key").fill(gateway.keys["acme"])
    assert '"id": "acme-emea"' in await sent(form)
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, history.state, location.href, document.cookie])"
    assert gateway.keys["acme"] not in await seen.page.evaluate(kept)
    assert gateway.keys["acme"] not in await form.locator(".curl").inner_text()
    await seen.page.reload()
    assert await seen.page.get_by_label("API key").input_value() == ""


async def test_faults_are_shown(gateway: Gateway, browser: Browser) -> None:
    """All of them, as the API tells them."""
    browser.expect(Kind.CONSOLE, "422")
    _, form = await opened(browser, gateway, "notification.post", gateway.keys["acme"])
    await form.locator("[name=body]").fill('{"to": ["nobody"], "colour": "red"}')
    answer = await sent(form)
    for said in ("422", "application/problem+json", "/to/0", "/colour", "/subject"):
        assert said in answer


async def test_a_hostile_answer_is_text(gateway: Gateway, browser: Browser) -> None:
    """What a tenant wrote is shown as it is, and runs nothing."""
    seen, form = await opened(browser, gateway, "tenant.create", gateway.keys["acme"])
    await form.locator("[name=body]").fill(f'{{"id": "acme-labs", "parent": "acme", "name": "{HOSTILE}"}}')
    assert HOSTILE in await sent(form)
    assert HOSTILE in await form.locator(".curl").inner_text()
    assert await seen.page.locator("main img").count() == 0


async def test_parameters_find_their_places(gateway: Gateway, browser: Browser) -> None:
    """Path, query and headers, each quoted; what is empty is left out."""
    _, form = await opened(browser, gateway, "receiver.grafana")
    await form.locator("[name=to]").fill("ann@example.test, bob@example.test")
    await form.locator("[name=severity]").select_option("error")
    await form.locator("[name=Idempotency-Key]").fill("one & two")
    line = await form.locator(".curl pre").inner_text()
    assert "/v1/receivers/grafana?to=ann%40example.test&to=bob%40example.test&severity=error'" in line
    assert "-H 'Idempotency-Key: one & two'" in line
    _, form = await opened(browser, gateway, "template.show")
    await form.locator("[name=tenant]").fill("a/b?c")
    await form.locator("[name=name]").fill("{tenant}$&")
    assert "/v1/tenants/a%2Fb%3Fc/templates/%7Btenant%7D%24%26'" in await form.locator(".curl pre").inner_text()


async def test_the_curl_line_does_the_same(gateway: Gateway, browser: Browser) -> None:
    """A shell runs it as it stands, whatever the body has in it."""
    require("curl (apt: curl)", shutil.which("curl"))
    _, form = await opened(browser, gateway, "notification.post")
    noted = "it's $HOME `id` ü ! @"
    await form.locator("[name=body]").fill(
        f'{{"to": ["ann@example.test"], "subject": "a",\n "text": "b", "metadata": {{"note": "{noted}"}}}}'
    )
    line = await form.locator(".curl pre").inner_text()
    environ = {**os.environ, "NOTIFICATION_GATEWAY_KEY": gateway.keys["acme"]}
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", line, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    answer = (await shell.communicate())[0].decode()
    assert answer.startswith("HTTP/1.1 202"), answer
    found = re.search(r"Location: (\S+)", answer)
    assert found
    headers = {"Authorization": f"Bearer {gateway.keys['acme']}"}
    async with aiohttp.ClientSession() as session, session.get(gateway.url + found[1], headers=headers) as accepted:
        assert (await accepted.json())["metadata"] == {"note": noted}


async def test_events_are_shown_as_they_come(gateway: Gateway, browser: Browser) -> None:
    """A connection test told as server-sent events."""
    _, form = await opened(browser, gateway, "profile.test", gateway.keys["acme"])
    await form.locator("[name=tenant]").fill("acme")
    await form.locator("[name=name]").fill("alerts")
    await form.locator("[name=Accept]").select_option("text/event-stream")
    answer = await sent(form)
    assert "text/event-stream" in answer
    assert answer.count("event: phase") > 5


async def test_what_is_no_text_is_not_read(gateway: Gateway, browser: Browser) -> None:
    """A copy of the database stays where it is, and the page says so."""
    _, form = await opened(browser, gateway, "backup", gateway.keys["system"])
    answer = await sent(form)
    assert "This is no text." in answer
    assert "SQLite format" not in answer


async def tab_to(seen: Seen, wanted: str) -> None:
    """Press Tab until what this selects has focus."""
    for _ in range(40):
        await seen.page.keyboard.press("Tab")
        if await seen.page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
            return
    raise AssertionError(f"40 times Tab, and never at {wanted}")


async def test_operations_are_found_by_keyboard(gateway: Gateway, browser: Browser) -> None:
    """Some words leave few, and the first of them opens."""
    seen = await browser.open(f"{gateway.url}/docs")
    await tab_to(seen, "#filter")
    await seen.page.keyboard.type("Webhook TEST")
    found = seen.page.locator(".operation:visible")
    assert [await one.get_attribute("id") for one in await found.all()] == ["webhook.test"]
    assert await seen.page.locator(".subject:visible h2").all_inner_texts() == ["Webhooks"]
    assert "1 operation" in await seen.text()
    await tab_to(seen, "#webhook\\.test > summary")
    await seen.page.keyboard.press("Enter")
    await seen.page.locator("#webhook\\.test .try").wait_for()
    await seen.page.get_by_label("Show only").fill("")
    assert await found.count() == len(ROUTES)


async def test_it_reads_without_scripts(gateway: Gateway, browser: Browser) -> None:
    """All of it but what only scripts can do."""
    seen = await browser.open(f"{gateway.url}/docs", scripts=False)
    await seen.page.locator("#notification\\.post > summary").click()
    assert await seen.page.get_by_text("on_ambiguous").first.is_visible()
    assert await seen.page.get_by_role("button", name="Send").count() == 0
    assert not await seen.page.get_by_label("API key").is_visible()
