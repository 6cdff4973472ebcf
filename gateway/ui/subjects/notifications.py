"""Notifications: found by filters that stand in the address, looked at while they happen, sent again and cancelled.

The newest page of the list and a notification that is not final stay fresh by themselves. What a message says is shown
only to those whom the API tells it, and only as text: HTML as its source, files by name, type and size.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from gateway.http.call import Answer
from gateway.outbox.states import RETRYABLE, Status
from gateway.problems import Code, Problem
from gateway.ui.forms import NO_FAULTS, Document, Faults, placed
from gateway.ui.page import Page
from gateway.ui.visit import Visit, at, place

SHOWN: Final = 50  # notifications of a list at once
OFFERED: Final = 100  # tenants that a list of them offers; where there are more, the id is written
LONGEST_TEXT: Final = 200_000  # characters of a body that are shown
NAMED: Final = 5  # addresses that a sentence names

FILTERS: Final = ("tenant", "status", "category", "since", "until")
_LOCAL: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?", re.ASCII)
ENDED: Final = frozenset({"relayed", "partially_relayed", "failed", "expired", "cancelled"})

EVENTS: Final[Mapping[str, str]] = {
    "accepted": "it is on stable storage",
    "claimed": "a daemon took it in hand",
    "relayed": "the relay took responsibility",
    "deferred": "the relay said later, or the connection was lost before the final dot; it is tried again",
    "uncertain": "the final dot left and no reply came",
    "outcome_unknown": "the final dot left and no reply came: it is never sent again",
    "failed": "the relay said no for good, or the message cannot be sent as it is",
    "expired": "its time was over before a relay took it",
    "held": "something has to change first",
    "failover": "another profile of the failover list carried it",
    "cancelled": "somebody asked for it",
    "retried": "somebody asked for it",
}
"""What each event of a history means."""


# The list.


async def listing(visit: Visit) -> Answer:
    """Show the newest notifications, or those that match, or the ones after them."""
    asked = {name: visit.query.get(name, "").strip() for name in FILTERS}
    cursor = visit.query.get("cursor")
    part = visit.in_part and visit.request.headers.get("HX-Target", "").startswith("div")
    faults, status = NO_FAULTS, 200
    try:
        times = {name: _utc(asked[name]) for name in ("since", "until")}
        listed = await visit.get(at("notifications"), **{**asked, **times}, limit=SHOWN, cursor=cursor)
    except Problem as problem:
        if part:
            raise
        listed, faults, status = {"items": [], "next_cursor": None}, _beside(problem), problem.code.status
    following = listed["next_cursor"]
    context = {
        "rows": listed["items"],
        "more": following and place("notifications", **asked, cursor=following),
        "short": len(listed["items"]) < SHOWN,
        "first": cursor is None,
        "filtered": any(asked.values()),
        "faults": faults,
    }
    if part:
        return visit.part("notifications/rows.html", context)
    return visit.page("notifications/list.html", {**context, **await _choices(visit, asked)}, status=status)


def _utc(text: str) -> str:
    """Write what a browser's field for a time gives as RFC 3339; anything else stays as it is, for the API to judge."""
    local = text.removesuffix("Z")
    if not local:
        return ""
    return f"{local}:00Z" if len(local) == len("2026-01-31T12:00") else f"{local}Z"


def _local(text: str) -> str:
    """Write a time as a browser's field takes it, which holds nothing else."""
    local = text.removesuffix("Z")
    return local if _LOCAL.fullmatch(local) else ""


def _beside(problem: Problem) -> Faults:
    """Put each fault beside its filter; a tenant out of reach is a fault of the filter, too."""
    if problem.code is Code.NOT_FOUND:
        return Faults({"tenant": ["There is no such tenant."]}, ())
    faults = placed(problem, (f"/{name}" for name in FILTERS))
    return Faults({name.removeprefix("/"): told for name, told in faults.beside.items()}, faults.rest)


async def _choices(visit: Visit, asked: Mapping[str, str]) -> dict[str, object]:
    """Give what the filters show and offer."""
    return {
        "values": {**asked, **{name: _local(asked[name]) for name in ("since", "until")}},
        "tenants": await _tenants(visit),
        "statuses": [("", "any"), *((one.value, one.value.replace("_", " ")) for one in Status)],
        "itself": place("notifications", **asked),
        "newest": place("notifications", **asked),
    }


async def _tenants(visit: Visit) -> list[str]:
    """Name the tenants that can be chosen, if they are few and may be told."""
    if not visit.may("read"):
        return []
    listed = await visit.get(at("tenants"), limit=OFFERED)
    return [] if listed["next_cursor"] else [one["id"] for one in listed["items"]]


# One notification.


async def show(visit: Visit) -> Answer:
    """Show a notification, what happened to it, and what it says if that is asked for."""
    shown = await visit.get(_path(visit))
    told = {**_told(shown), "changeable": await _changeable(visit)}
    if visit.in_part and visit.request.headers.get("HX-Target", "").startswith("div"):
        return visit.part("notifications/now.html", told)
    content = {}
    if visit.query.get("include") == "content":
        content = await visit.get(_path(visit), include="content")
    return visit.page(
        "notifications/show.html",
        {**told, "asked": bool(content), "content": _content(content.get("content"))},
    )


async def _changeable(visit: Visit) -> bool:
    """May they retry or cancel it? With `send` alone the API shows what the same key posted, so that is what is asked."""
    if visit.may("admin") or not visit.may("send"):
        return visit.may("admin")
    sender = replace(visit.person.caller, scopes=frozenset({"send"}))
    try:
        await visit.inside.ask(visit.request, sender, visit.request_id, "GET", _path(visit))
    except Problem:
        return False
    return True


def _path(visit: Visit, *more: str) -> str:
    return at("notifications", visit.params["id"], *more)


def _place(visit: Visit) -> str:
    return place("notifications", visit.params["id"])


def _told(shown: Document) -> Document:
    """Tell a notification as its page does."""
    return {
        "one": shown,
        "events": [{**event, "words": EVENTS.get(event["event"], "")} for event in shown["events"]],
        "ended": shown["status"] in ENDED,
        "again": [] if shown["status"] == Status.SENDING else _addresses(shown, RETRYABLE),
        "unfinished": _unfinished(shown),
    }


def _addresses(shown: Document, states: Iterable[str]) -> list[str]:
    wanted = frozenset(states)
    return [one["address"] for one in shown["recipients"] if one["state"] in wanted]


def _unfinished(shown: Document) -> list[str]:
    return _addresses(shown, ("queued", "deferred", "uncertain"))


def _content(content: Document | None) -> Document | None:
    """Tell what a message says; of long bodies the beginning."""
    if content is None:
        return None
    return {
        **content,
        "bodies": [
            {"name": name, "text": text[:LONGEST_TEXT], "cut": len(text) > LONGEST_TEXT}
            for name, text in (("text", content["text"]), ("html", content["html"]))
            if text is not None
        ],
        "data": content["data"] and json.dumps(content["data"], indent=2, ensure_ascii=False)[:LONGEST_TEXT],
        "attachments": [{**file, "octets": _octets(file["content"])} for file in content["attachments"]],
    }


def _octets(base64: str) -> int:
    return len(base64) * 3 // 4 - base64[-2:].count("=")


# What can be done to it.


async def retry(visit: Visit) -> Answer:
    """Make due now what can be, and say who is meant."""
    before = await visit.get(_path(visit))
    try:
        await visit.ask("POST", _path(visit, "retry"))
    except Problem as problem:
        return _refused(visit, problem)
    return visit.go(_place(visit), f"Due now: {_names(_addresses(before, RETRYABLE)) or 'nothing new'}.")


def _names(addresses: list[str]) -> str:
    rest = len(addresses) - NAMED
    return ", ".join(addresses[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


async def ask_cancel(visit: Visit) -> Answer:
    """Ask whether a notification shall be cancelled, and say what that means for each copy of it."""
    shown = await visit.get(_path(visit))
    return visit.page(
        "notifications/cancel.html",
        {**_told(shown), "relayed": _addresses(shown, ("relayed",)), "sending": shown["status"] == Status.SENDING},
    )


async def cancel(visit: Visit) -> Answer:
    """Cancel what is not final."""
    try:
        after = (await visit.ask("POST", _path(visit, "cancel"))).document
    except Problem as problem:
        return _refused(visit, problem)
    if after["status"] == Status.SENDING:
        return visit.go(_place(visit), "It is on the wire: what the relay does not take is not tried again.")
    return visit.go(_place(visit), "It is cancelled.")


def _refused(visit: Visit, problem: Problem) -> Answer:
    if problem.code is Code.NOT_FOUND:
        raise problem
    return visit.go(_place(visit), problem.detail, good=False)


PAGES: Final = (
    Page("GET", "/ui/notifications", listing, live=True),
    Page("GET", "/ui/notifications/{id}", show, live=True),
    Page("POST", "/ui/notifications/{id}/retry", retry),
    Page("GET", "/ui/notifications/{id}/cancel", ask_cancel),
    Page("POST", "/ui/notifications/{id}/cancel", cancel),
)
