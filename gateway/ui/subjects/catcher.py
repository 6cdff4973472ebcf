"""What the development mail catcher took: the list, and each message as text, as HTML, by its header fields, and raw.

Caught mail belongs to no tenant, so only those whose reach begins at the top see it. What somebody else wrote as HTML is
shown in a frame without scripts, forms and links that lead anywhere, and nothing is loaded for it.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.http.call import Answer, CaughtMail
from gateway.problems import Code, Problem
from gateway.ui.mail import READ_OCTETS, Mail, as_text, read_mail, subject
from gateway.ui.page import Page
from gateway.ui.rendering import SAFE_HEADERS
from gateway.ui.visit import Visit, place

FRAMED: Final[Mapping[str, str]] = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'self'"
    ),
    "Cache-Control": "no-store",
    **SAFE_HEADERS,
    "Referrer-Policy": "no-referrer",
}
RAW: Final[Mapping[str, str]] = {
    **FRAMED,
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
}


class Tab(NamedTuple):
    """One way of looking at a message."""

    name: str
    word: str


TABS: Final = (Tab("Text", "text"), Tab("HTML", "html"), Tab("Headers", "headers"), Tab("Raw", "raw"))


async def listing(visit: Visit) -> Answer:
    """List what was caught and is still kept, newest first."""
    rows = [{"mail": mail, "subject": subject(mail.data)} for mail in _caught(visit)]
    if visit.in_part and visit.request.headers.get("HX-Target", "").startswith("div"):
        return visit.part("catcher/rows.html", {"rows": rows})
    return visit.page("catcher/list.html", {"rows": rows})


async def show(visit: Visit) -> Answer:
    """Show a message in one of the ways."""
    caught = _one(visit)
    read = await asyncio.to_thread(read_mail, caught.data)  # what is built to take long keeps nobody else waiting
    missing = {word for word, body in (("text", read.text), ("html", read.html)) if body is None}
    there = [tab for tab in TABS if tab.word not in missing]
    asked = visit.query.get("show", there[0].word)
    if all(tab.word != asked for tab in there):
        raise Problem(Code.NOT_FOUND)
    number = str(caught.number)
    context = {
        "caught": caught,
        "mail": read,
        "subject": read.field("subject"),
        "tabs": [(tab.name, place("catcher", number, show=tab.word), tab.word == asked) for tab in there],
        "shown": asked,
        "raw": as_text(caught.data[:READ_OCTETS]) if asked == "raw" else "",
        "limit": READ_OCTETS,
    }
    return visit.page("catcher/show.html", context)


async def framed(visit: Visit) -> Answer:
    """Give a message's HTML as it is, for a frame in which it can do nothing."""
    read: Mail = await asyncio.to_thread(read_mail, _one(visit).data)
    if read.html is None:
        raise Problem(Code.NOT_FOUND)
    return Answer(200, read.html.encode("utf-8", "replace"), FRAMED)


async def raw(visit: Visit) -> Answer:
    """Give a message as it came."""
    return Answer(200, _one(visit).data, RAW)


def _caught(visit: Visit) -> list[CaughtMail]:
    """Raises `not_found` where there is no catcher, and for those who may not look."""
    if not visit.sees_caught_mail or visit.services.catcher is None:
        raise Problem(Code.NOT_FOUND)
    return list(visit.services.catcher.messages())


def _one(visit: Visit) -> CaughtMail:
    for mail in _caught(visit):
        if str(mail.number) == visit.params["number"]:
            return mail
    raise Problem(Code.NOT_FOUND, "There is no such message, or it is not kept any more.")


PAGES: Final = (
    Page("GET", "/ui/catcher", listing, live=True),
    Page("GET", "/ui/catcher/{number}", show),
    Page("GET", "/ui/catcher/{number}/html", framed),
    Page("GET", "/ui/catcher/{number}/raw", raw),
)
