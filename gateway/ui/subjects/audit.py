"""A tenant's audit log: who changed what, newest first, and whether the log is whole."""

import json
from typing import Final

from gateway.http.call import Answer
from gateway.ui.forms import Document
from gateway.ui.page import Page
from gateway.ui.subjects.frame import frame, listed
from gateway.ui.visit import Visit, at, place
from gateway.ui.words import NONE, moment

SHOWN: Final = 50  # at once
SHORT: Final = 12  # digits of a hash
TIMES: Final = frozenset({"expires_at"})  # fields whose values are milliseconds since the epoch


async def listing(visit: Visit) -> Answer:
    """Show a part of the log."""
    return await _page(visit, None)


async def _page(visit: Visit, verdict: Document | None) -> Answer:
    items, following = await listed(visit, "audit", SHOWN)
    shown = {
        "rows": [_row(visit, one) for one in items],
        **following,
        "verdict": verdict,
        "verify_path": place("tenants", visit.params["tenant"], "audit", "verify"),
    }
    return visit.page("audit/list.html", {**await frame(visit, "audit"), **shown})


def _row(visit: Visit, row: Document) -> Document:
    return {
        **row,
        "who": _who(visit, row["actor"]),
        "short": row["hash"][:SHORT],
        "changes": [_change(one) for one in row["changes"]],
    }


def _change(change: Document) -> Document:
    """Tell a field's values, as far as the log has them; `was`: it had one before."""
    name, was = change["field"], "before" in change
    before, after = (_value(name, change.get(when)) for when in ("before", "after"))
    return {"field": name, "told": was or "after" in change, "was": was, "before": before, "after": after}


def _who(visit: Visit, actor: str) -> str:
    """Give the name of the key that acted, if it still has one; the log itself names nobody outside the reach."""
    kind, _, id_ = actor.partition(":")
    key = visit.snapshot.key(id_) if kind == "key" else None
    return "" if key is None else key.name


def _value(name: str, value: object) -> str:
    """Write a field's value for people; what is not there is a dash."""
    match value:
        case None:
            return NONE
        case int() if name in TIMES:
            return moment(value)
        case str():
            return value
        case list() if all(isinstance(one, str) for one in value):
            return ", ".join(value) or NONE
        case _:
            return json.dumps(value, ensure_ascii=False)


async def verify(visit: Visit) -> Answer:
    """Tell whether each row still follows from the one before."""
    verdict = await visit.get(at("tenants", visit.params["tenant"], "audit", "verify"))
    if visit.in_part:
        return visit.part("audit/verdict.html", {"verdict": verdict})
    return await _page(visit, verdict)


PAGES: Final = (
    Page("GET", "/ui/tenants/{tenant}/audit", listing),
    Page("GET", "/ui/tenants/{tenant}/audit/verify", verify),
)
