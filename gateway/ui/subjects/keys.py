"""A tenant's API keys: made, shown once, and revoked."""

from collections.abc import Mapping
from typing import Final

from gateway.directory.snapshot import Key
from gateway.http.call import Answer
from gateway.message.times import time_text
from gateway.problems import Problem
from gateway.ui.forms import Document, Field, Kind, as_written, document, placed, status_of, values
from gateway.ui.page import Page
from gateway.ui.subjects.frame import frame, listed
from gateway.ui.visit import Visit, at, place

SHOWN: Final = 100  # at once
FIELDS: Final = (Field("/name"), Field("/mode"), Field("/cidrs", Kind.LINES))
SCOPES: Final = "/scopes"
EXPIRES: Final = "/expires_at"
POINTERS: Final = (*(field.pointer for field in FIELDS), SCOPES, EXPIRES)
DAYS_END: Final = "T23:59:59Z"
DAY: Final = 10  # letters of a time that name its day
MAY: Final[Mapping[str, str]] = {
    "send": "Post notifications, and read and cancel those that it posted.",
    "read": "Read everything but secrets, keys and the audit log.",
    "profiles": "Change profiles, preferences and templates; test, push, pause and resume profiles.",
    "secrets": "Keep secrets; check and refresh credentials.",
    "admin": "All of these, and tenants, keys, webhooks and the audit log.",
}
MODES: Final = (("live", "live: what it posts is sent"), ("test", "test: what it posts is accepted and never sent"))


async def listing(visit: Visit) -> Answer:
    """List a tenant's keys."""
    items, following = await listed(visit, "keys", SHOWN)
    shown = {
        "rows": [_row(visit, one) for one in items],
        **following,
    }
    return visit.page("keys/list.html", {**await frame(visit, "keys"), **shown})


def _row(visit: Visit, key: Document) -> Document:
    return {
        **key,
        "over": key["expires_at"] is not None and key["expires_at"] <= time_text(visit.services.outbox.clock()),
        "own": visit.person.who == f"key:{key['id']}",
        "path": place("tenants", key["tenant"], "keys", key["id"], "revoke"),
    }


async def new(visit: Visit) -> Answer:
    """Ask what the new key shall be; the networks and the last day of one's own stand there, for none goes beyond them."""
    own = _own(visit)
    usual = {"mode": "live", "cidrs": [str(network) for network in own.cidrs] if own else []}
    return await _new(visit, {**values(FIELDS, usual), SCOPES: ["send", "read"], EXPIRES: _end(own)[:DAY]})


def _own(visit: Visit) -> Key | None:
    return visit.snapshot.key(visit.person.caller.key_id)


def _end(key: Key | None) -> str:
    """Tell when a key ends; nothing of one that does not."""
    return "" if key is None or key.expires_at is None else time_text(key.expires_at)


async def _new(visit: Visit, known: Mapping[str, object], problem: Problem | None = None) -> Answer:
    shown = {
        "values": known,
        "faults": placed(problem, POINTERS),
        "scopes": [(scope, scope, words) for scope, words in MAY.items() if visit.may(scope)],
        "modes": MODES,
    }
    return visit.page("keys/new.html", {**await frame(visit, "keys"), **shown}, status=status_of(problem))


async def create(visit: Visit) -> Answer:
    """Make a key, and show it this once: the answer is not kept, and no address leads to it again."""
    scopes, day = visit.form.all(SCOPES), visit.form.get(EXPIRES).strip()
    given = {**document(FIELDS, visit.form), "scopes": scopes, **({"expires_at": _until(visit, day)} if day else {})}
    try:
        made = await visit.ask("POST", at("tenants", visit.params["tenant"], "keys"), given)
    except Problem as problem:
        written = {**as_written(FIELDS, visit.form), SCOPES: scopes, EXPIRES: day}
        return await _new(visit, written, problem)
    return visit.page("keys/made.html", {**await frame(visit, "keys"), "key": made.document})


def _until(visit: Visit, day: str) -> str:
    """Give the end of a day; of the last day of one's own key that key's end, which no key goes beyond."""
    end = _end(_own(visit))
    return end if end[:DAY] == day else day + DAYS_END


async def ask_revoke(visit: Visit) -> Answer:
    """Ask whether a key shall be revoked."""
    key = await visit.get(_path(visit))
    return visit.page("keys/revoke.html", {**await frame(visit, "keys"), "key": _row(visit, key)})


def _path(visit: Visit) -> str:
    return at("tenants", visit.params["tenant"], "keys", visit.params["id"])


async def revoke(visit: Visit) -> Answer:
    """Revoke a key."""
    key = await visit.get(_path(visit))
    await visit.ask("DELETE", _path(visit))
    path = place("tenants", visit.params["tenant"], "keys")
    return visit.go(path, f"The key {key['name'] or key['id']} is revoked.")


PAGES: Final = (
    Page("GET", "/ui/tenants/{tenant}/keys", listing),
    Page("GET", "/ui/tenants/{tenant}/new-key", new),
    Page("POST", "/ui/tenants/{tenant}/new-key", create),
    Page("GET", "/ui/tenants/{tenant}/keys/{id}/revoke", ask_revoke),
    Page("POST", "/ui/tenants/{tenant}/keys/{id}/revoke", revoke),
)
