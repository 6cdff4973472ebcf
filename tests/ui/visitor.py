"""A person who uses the pages without a browser: signs in, reads, fills in the forms that are there, and sends them."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from tests.ui.gateway import Gateway

RUNS_OR_LEADS = ("href", "src", "action", "formaction", "srcdoc")


@dataclass
class FilledForm:
    """A form as a browser would send it if nobody touched it, by the place that it goes to."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: list[str] = []
        self.forms: list[FilledForm] = []
        self.fragments: list[str] = []  # names of elements, to see that none was smuggled in
        self.inline: list[str] = []
        self._select = ""
        self._area: str | None = None
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.fragments.append(tag)
        self.inline += _inline(tag, known)
        if tag in ("script", "style", "title"):
            self._hidden += 1
        if tag == "a":
            self.links.append(known.get("href", ""))
        if tag == "form":
            self.forms.append(FilledForm(known.get("action", "")))
        if not self.forms:
            return
        form, name = self.forms[-1], known.get("name", "")
        if tag == "input" and name:
            box = known.get("type") in ("checkbox", "radio")
            if not box or "checked" in known:
                form.fields[name] = known.get("value", "on" if box else "")
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select and ("selected" in known or self._select not in form.fields):
            form.fields[self._select] = known.get("value", "")
        elif tag == "textarea":
            self._area, form.fields[name] = name, ""
        elif tag == "button":
            form.buttons.append(name)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style", "title"):
            self._hidden -= 1
        if tag == "select":
            self._select = ""
        if tag == "textarea":
            self._area = None

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            fields = self.forms[-1].fields
            fields[self._area] += data if fields[self._area] else data.removeprefix("\n")
        elif not self._hidden:
            self.text.append(data)


def _inline(tag: str, attributes: Mapping[str, str]) -> list[str]:
    """What the content security policy would have to forbid, had somebody smuggled it in."""
    found = [f"{tag} {name}" for name in attributes if name.startswith("on") or name == "style"]
    found += [f"{tag} {name}={attributes[name]}" for name in RUNS_OR_LEADS if _runs(attributes.get(name, ""))]
    if tag == "style" or (tag == "script" and "src" not in attributes):
        found.append(tag)
    return found


def _runs(address: str) -> bool:
    return "".join(address.split()).lower().startswith(("javascript:", "data:", "vbscript:"))


@dataclass(frozen=True)
class Shown:
    """A page that was answered; `path` is where redirects led, `inline` what runs or styles within the page itself."""

    status: int
    path: str
    headers: Mapping[str, str]
    source: str
    text: str
    links: list[str]
    forms: list[FilledForm]
    elements: list[str]
    inline: list[str]

    def form(self, action: str = "") -> FilledForm:
        """Find the form that goes there; the first that names no place goes to its own page."""
        return next(form for form in self.forms if form.action == action)

    def shows_as_text(self, text: str) -> bool:
        """Does this text stand there as it is, and nowhere as markup?"""
        return text in html.unescape(self.source) and text not in self.source


@dataclass
class Visitor:
    """Somebody with a browser's habits: keeps cookies, follows redirects, says where a form comes from."""

    url: str
    session: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> Shown:
        """Read a page."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(self.url + path, headers=named) as response:
            return await _shown(response)

    async def post(self, path: str, fields: Mapping[str, str] | list[tuple[str, str]] = {}, **headers: str) -> Shown:  # noqa: B006 - nobody changes it
        """Send a form."""
        named = {"Sec-Fetch-Site": "same-origin", **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.session.post(self.url + path, data=fields, headers=named) as response:
            return await _shown(response)

    async def send(self, page: Shown, *, action: str = "", **changed: str) -> Shown:
        """Fill in a form of a page and send it; names have `__` for the slashes of their members' pointers."""
        form = page.form(action)
        fields = {**form.fields, **{name.replace("__", "/"): value for name, value in changed.items()}}
        return await self.post(action or page.path, fields)


async def _shown(response: aiohttp.ClientResponse) -> Shown:
    source = await response.text()
    reader = _Reader()
    reader.feed(source)
    text = " ".join(" ".join(reader.text).split())
    path = response.url.raw_path_qs
    return Shown(
        response.status,
        path,
        response.headers,
        source,
        text,
        reader.links,
        reader.forms,
        reader.fragments,
        reader.inline,
    )


@asynccontextmanager
async def visiting(gateway: Gateway, tenant: str = "") -> AsyncIterator[Visitor]:
    """Visit the pages, signed in as a tenant's administrator if one is named."""
    jar = aiohttp.CookieJar(unsafe=True)  # keeps cookies of an address that is no name
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        visitor = Visitor(gateway.url, session)
        if tenant:
            shown = await visitor.post("/ui/sign-in", {"key": gateway.keys[tenant]})
            assert shown.path == "/ui/", shown.text
        yield visitor
