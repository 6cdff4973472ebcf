"""A tenant's webhooks: whom it wants told what happens, and a try whether they listen."""

from collections.abc import Mapping
from typing import Final

from gateway.http.call import Answer
from gateway.problems import Problem
from gateway.ui.forms import Document, Field, Form, Kind, as_written, document, placed, status_of, values
from gateway.ui.page import Page
from gateway.ui.subjects.frame import frame
from gateway.ui.visit import Visit, at, place
from gateway.ui.words import words

SECRET: Final = "/secret"  # noqa: S105 - the name of a field
FIELDS: Final = (Field("/url"), Field("/enabled", Kind.SWITCH), Field(SECRET, Kind.SECRET))
EVENTS: Final = "/events"
POINTERS: Final = (*(field.pointer for field in FIELDS), EVENTS)
TOLD: Final[Mapping[str, str]] = {
    "notification.relayed": "A relay took the mail.",
    "notification.failed": "The mail could not be sent.",
    "notification.expired": "The time for sending it was over.",
    "profile.parked": "A profile stands still until something changes.",
    "profile.unparked": "A profile that stood still goes on.",
}
"""What each event says."""
REASONS: Final[Mapping[str, str]] = {
    "gone": "It answered that it is gone.",
    "failing": "It took nothing for three days.",
    "overflow": "Too much waited for it.",
}
"""Why the gateway itself tells a webhook nothing any more."""
RESULTS: Final[Mapping[str, str]] = {
    "refused": "It refused the test event.",
    "failed": "It failed to take the test event.",
    "unreachable": "It could not be reached.",
    "untrusted": "Its certificate is not trusted.",
    "timeout": "It did not answer in time.",
    "egress_refused": "The operator's policy does not permit its address.",
    "unsigned": "The test event could not be signed: the secret cannot be read.",
}


async def listing(visit: Visit) -> Answer:
    """List a tenant's webhooks."""
    items = await visit.every(at("tenants", visit.params["tenant"], "webhooks"))
    shown = {"rows": [_row(visit, one) for one in items]}
    return visit.page("webhooks/list.html", {**await frame(visit, "webhooks"), **shown})


def _row(visit: Visit, webhook: Document) -> Document:
    reason = webhook["disabled_reason"]
    return {
        **webhook,
        "why": "" if reason is None else REASONS.get(reason, words(reason)),
        "path": place("tenants", visit.params["tenant"], "webhooks", webhook["id"]),
    }


# Making and changing.


def _given(form: Form) -> Document:
    events = form.all(EVENTS)
    return {**document(FIELDS, form), **({"events": events} if events else {})}


def _written(form: Form) -> dict[str, object]:
    return {**as_written(FIELDS, form), EVENTS: form.all(EVENTS)}


async def new(visit: Visit) -> Answer:
    """Ask who shall be told what."""
    return await _new(visit, {**values(FIELDS, {"enabled": True}), EVENTS: []})


async def _new(visit: Visit, known: Mapping[str, object], problem: Problem | None = None) -> Answer:
    return await _form(visit, "webhooks/new.html", {"values": known}, problem)


async def _form(visit: Visit, template: str, shown: Mapping[str, object], problem: Problem | None) -> Answer:
    context = {
        **await frame(visit, "webhooks"),
        **shown,
        "faults": placed(problem, POINTERS),
        "again": problem is not None and bool(visit.form.get(SECRET)),
        "events": [(event, event, what) for event, what in TOLD.items()],
    }
    return visit.page(template, context, status=status_of(problem))


async def create(visit: Visit) -> Answer:
    """Make a webhook; a secret that was made for it is shown this once."""
    try:
        made = await visit.ask("POST", at("tenants", visit.params["tenant"], "webhooks"), _given(visit.form))
    except Problem as problem:
        return await _new(visit, _written(visit.form), problem)
    if isinstance(made.document["secret"], str):
        return visit.page("webhooks/made.html", {**await frame(visit, "webhooks"), "webhook": made.document})
    return visit.go(place("tenants", visit.params["tenant"], "webhooks"), "The webhook is there.")


async def show(visit: Visit) -> Answer:
    """Show a webhook, to be changed."""
    return await _page(visit)


async def _page(visit: Visit, problem: Problem | None = None) -> Answer:
    """Show the webhook as it is, or, with a problem, as somebody wants it."""
    reply = await visit.ask("GET", _path(visit))
    webhook = reply.document
    shown = {
        "webhook": _row(visit, webhook),
        "values": {**values(FIELDS, webhook), EVENTS: webhook["events"]} if problem is None else _written(visit.form),
        "version": reply.version if problem is None else visit.form.get("version"),
    }
    return await _form(visit, "webhooks/show.html", shown, problem)


def _path(visit: Visit) -> str:
    return at("tenants", visit.params["tenant"], "webhooks", visit.params["id"])


async def save(visit: Visit) -> Answer:
    """Change a webhook; without a new secret it keeps the one that it has."""
    try:
        await visit.ask("PUT", _path(visit), _given(visit.form), version=visit.form.get("version"))
    except Problem as problem:
        return await _page(visit, problem)
    return visit.go(place("tenants", visit.params["tenant"], "webhooks"), "The webhook is saved.")


async def test(visit: Visit) -> Answer:
    """Send a test event at once, and tell what came of it."""
    tried = (await visit.ask("POST", f"{_path(visit)}/test")).document
    if visit.in_part:
        return visit.part("webhooks/tested.html", {"tried": tried, "told": _told(tried)})
    return visit.go(place("tenants", visit.params["tenant"], "webhooks"), _told(tried), good=tried["ok"])


def _told(tried: Document) -> str:
    """Tell what came of a test, with the status that was answered and how long it took."""
    what = "It took the test event." if tried["ok"] else RESULTS.get(tried["error"], words(tried["error"]))
    status = "" if tried["status"] is None else f"status {tried['status']}, "
    return f"{what} ({status}{tried['milliseconds']} ms)"


async def ask_delete(visit: Visit) -> Answer:
    """Ask whether a webhook shall be deleted."""
    reply = await visit.ask("GET", _path(visit))
    shown = {"webhook": _row(visit, reply.document), "version": reply.version}
    return visit.page("webhooks/delete.html", {**await frame(visit, "webhooks"), **shown})


async def delete(visit: Visit) -> Answer:
    """Delete a webhook."""
    path = place("tenants", visit.params["tenant"], "webhooks")
    try:
        await visit.ask("DELETE", _path(visit), version=visit.form.get("version"))
    except Problem as problem:
        return visit.go(path, problem.detail, good=False)
    return visit.go(path, "The webhook is deleted.")


PAGES: Final = (
    Page("GET", "/ui/tenants/{tenant}/webhooks", listing),
    Page("GET", "/ui/tenants/{tenant}/new-webhook", new),
    Page("POST", "/ui/tenants/{tenant}/new-webhook", create),
    Page("GET", "/ui/tenants/{tenant}/webhooks/{id}", show),
    Page("POST", "/ui/tenants/{tenant}/webhooks/{id}", save),
    Page("POST", "/ui/tenants/{tenant}/webhooks/{id}/test", test),
    Page("GET", "/ui/tenants/{tenant}/webhooks/{id}/delete", ask_delete),
    Page("POST", "/ui/tenants/{tenant}/webhooks/{id}/delete", delete),
)
