"""One request of a person who is known: what they ask of the API, and the page that they are shown.

A handler takes a `Visit`, asks (`get`, `ask`), and answers with `page` or, after a change, with `go` to where its result
is seen. A problem that it does not catch becomes a page that tells it.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from aiohttp import web
from multidict import CIMultiDict

from gateway.directory.snapshot import ROOT, Snapshot
from gateway.http.call import SCOPES, Answer, Services
from gateway.http.inside import Inside, meaning
from gateway.store.protocol import KeyWithdrawn, StoreError
from gateway.ui.forms import Document, Form
from gateway.ui.origin import Footing
from gateway.ui.rendering import html, rendered
from gateway.ui.sessions import Person

NOTICE_SECONDS: Final = 60
LONGEST_NOTICE: Final = 300
NOTICE: Final = "-notice"
NOTHING: Final[Mapping[str, object]] = {}
_PACKED: Final = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)
MOST_AT_ONCE: Final = 200  # of a list of the API


def at(*segments: str) -> str:
    """Name a resource of the API, whatever stands in the names."""
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


def place(*segments: str, **query: str | int | None) -> str:
    """Name a page, likewise; parts of the query that are None or empty are left out."""
    path = "/ui/" + "/".join(quote(segment, safe="") for segment in segments)
    asked = urlencode({name: value for name, value in query.items() if value not in (None, "")})
    return f"{path}?{asked}" if asked else path


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answered: its document, and the version to name in a change."""

    document: Document
    version: str


@dataclass(slots=True)
class Visit:
    """A request for a page."""

    request: web.BaseRequest
    services: Services
    inside: Inside
    person: Person
    footing: Footing
    params: Mapping[str, str]
    request_id: str
    form: Form = field(default_factory=Form)

    @property
    def query(self) -> Mapping[str, str]:
        """What the page's own address asks."""
        return self.request.query

    @property
    def in_part(self) -> bool:
        """Is only a part of the page asked for, to take the place of what is there?"""
        return "HX-Request" in self.request.headers

    @property
    def snapshot(self) -> Snapshot:
        """The directory, for what the API tells in other words; who looks keeps to the reach."""
        return self.services.directory.snapshot

    def may(self, scope: str) -> bool:
        """May this person do what the scope is for?"""
        return self.person.caller.may(scope)

    @property
    def root(self) -> str:
        """The tenant at which their reach begins."""
        return self.person.caller.tenant

    @property
    def sees_caught_mail(self) -> bool:
        """Is there a mail catcher, and do they reach everybody? What is caught belongs to no tenant."""
        return self.services.catcher is not None and self.root == ROOT and self.may("read")

    # The API.

    async def ask(
        self,
        method: str,
        path: str,
        document: object = None,
        *,
        query: Mapping[str, str | int | None] | None = None,
        version: str = "",
        new: bool = False,
    ) -> Reply:
        """Ask the API as this person. Raises its `Problem`.

        It is a problem, too, if `version` is not the present one, if there is something where it has to be `new`, or if
        the store cannot do it. Raises `KeyWithdrawn` for somebody who is nobody any more.
        """
        headers = CIMultiDict[str]()
        if version:
            headers["If-Match"] = version
        if new:
            headers["If-None-Match"] = "*"
        try:
            answer = await self.inside.ask(
                self.request, self.person.caller, self.request_id, method, path,
                query=tuple((name, str(value)) for name, value in (query or {}).items() if value not in (None, "")),
                headers=headers,
                body=b"" if document is None else json.dumps(document).encode(),
            )  # fmt: skip
        except KeyWithdrawn:
            raise
        except StoreError as error:
            raise meaning(error, self.services, self.request_id) from None
        known = json.loads(answer.body) if answer.body else {}
        return Reply(known, answer.headers.get("ETag", ""))

    async def get(self, path: str, **query: str | int | None) -> Document:
        """Ask for a document."""
        return (await self.ask("GET", path, query=query)).document

    async def every(self, path: str, most: int = 1_000) -> list[Document]:
        """Ask for the items of a list, page after page, up to `most`."""
        items: list[Document] = []
        async for listed in self.pages(path):
            items += listed["items"]
            if len(items) >= most:
                break
        return items[:most]

    async def pages(self, path: str, **query: str | int | None) -> AsyncIterator[Document]:
        """Ask for a list, as large a page of it after the other as there is."""
        cursor: str | None = None
        while True:
            listed = await self.get(path, limit=MOST_AT_ONCE, cursor=cursor, **query)
            yield listed
            cursor = listed["next_cursor"]
            if cursor is None:
                return

    # The page.

    def page(self, template: str, context: Mapping[str, object] = NOTHING, *, status: int = 200) -> Answer:
        """Show a page. What was to be told about the step before is told on it."""
        notice = self._notice()
        text = rendered(template, **self._known(), notice=notice, **context)
        headers = {"Set-Cookie": self.footing.set("", seconds=0, name=NOTICE)} if notice else {}
        return html(text, status, headers, packed=takes_packed(self.request))

    def part(self, template: str, context: Mapping[str, object] = NOTHING, *, status: int = 200) -> Answer:
        """Show what takes the place of a part of the page."""
        text = rendered(template, **self._known(), notice=None, **context)
        return html(text, status, packed=takes_packed(self.request))

    def go(self, path: str, notice: str = "", *, good: bool = True) -> Answer:
        """Send the browser to another page, which tells in one sentence what was done."""
        headers = {"Location": path}
        if notice:
            value = quote(f"{'good' if good else 'bad'}:{notice[:LONGEST_NOTICE]}", safe="")
            headers["Set-Cookie"] = self.footing.set(value, seconds=NOTICE_SECONDS, name=NOTICE)
        return html("", 303, headers)

    def _notice(self) -> Mapping[str, str] | None:
        given = self.request.cookies.get(f"{self.footing.cookie}{NOTICE}", "")
        kind, colon, text = unquote(given).partition(":")
        return {"kind": kind, "text": text} if colon and kind in ("good", "bad") else None

    def _known(self) -> dict[str, Any]:
        return {
            "person": {"name": self.person.name, "tenant": self.root},
            "root": self.root,
            "may": {scope: self.may(scope) for scope in SCOPES},
            "catcher": self.sees_caught_mail,
            "here": self.request.rel_url.path,
        }


def takes_packed(request: web.BaseRequest) -> bool:
    """Does the browser take what is compressed?"""
    return _PACKED.search(request.headers.get("Accept-Encoding", "")) is not None
