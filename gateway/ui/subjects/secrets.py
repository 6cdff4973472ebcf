"""A tenant's secrets in the built-in store: kept, replaced, deleted, and never shown."""

from typing import Final

from gateway.http.call import Answer
from gateway.problems import Code, Fault, Problem, refusal
from gateway.ui.forms import Document, Faults, Form, as_written, placed, status_of, values
from gateway.ui.page import Page
from gateway.ui.subjects.frame import NAME, frame, listed, make
from gateway.ui.subjects.profile_form import own_path
from gateway.ui.visit import Visit, at, place

SHOWN: Final = 100  # at once
TAKEN: Final = "This name is taken. A new version is made on its own page."
OUTDATED: Final = (
    "Somebody changed this meanwhile, and what is shown here is so now. A version that is kept now replaces theirs."
)
NO_VERSION: Final = '""'  # is that of no secret: what does not say which one it replaces replaces none
VALUE: Final = "/value"
LINES: Final = "/lines"


async def listing(visit: Visit) -> Answer:
    """List a tenant's secrets, and who uses them."""
    items, following = await listed(visit, "secrets", SHOWN)
    shown = {
        "rows": [_row(visit.params["tenant"], one) for one in items],
        **following,
    }
    return visit.page("secrets/list.html", {**await frame(visit, "secrets"), **shown})


def _row(tenant: str, secret: Document) -> Document:
    users = [(name, own_path(tenant, name)) for name in secret["used_by"]]
    return {**secret, "path": place("tenants", tenant, "secrets", secret["name"]), "users": users}


# Keeping.


def _value(form: Form) -> Document:
    """Give what was written, in one line or in several. Raises a problem if it is nothing, or both."""
    line, lines = form.get(VALUE), form.get(LINES)
    if line and lines:
        raise refusal([Fault(LINES, "conflict", "A secret has one line, or several: one of the two stays empty.")])
    if not line and not lines:
        raise refusal([Fault(VALUE, "required", "A secret is needed.")])
    return {"value": line or lines}


def _again(form: Form, problem: Problem | None) -> bool:
    """Is a secret to be written again, because no page shows the one that was written?"""
    return problem is not None and bool(form.get(VALUE) or form.get(LINES))


async def new(visit: Visit) -> Answer:
    """Ask for a new secret."""
    return await _new(visit)


async def _new(visit: Visit, problem: Problem | None = None) -> Answer:
    known = values([NAME], {}) if problem is None else as_written([NAME], visit.form)
    faults = placed(problem, (NAME.pointer, VALUE, LINES))
    shown = {"values": {**known, LINES: ""}, "faults": faults, "again": _again(visit.form, problem)}
    return visit.page("secrets/new.html", {**await frame(visit, "secrets"), **shown}, status=status_of(problem))


async def create(visit: Visit) -> Answer:
    """Keep a new secret."""
    try:
        name = await make(visit, "secrets", lambda: _value(visit.form), TAKEN)
    except Problem as problem:
        return await _new(visit, problem)
    return visit.go(place("tenants", visit.params["tenant"], "secrets"), f"The secret {name} is kept.")


async def show(visit: Visit) -> Answer:
    """Show what is known of a secret, and take its next version."""
    return await _page(visit)


async def _page(visit: Visit, problem: Problem | None = None) -> Answer:
    """Show the secret as it is; the next version is written for the one that is shown."""
    reply = await visit.ask("GET", _path(visit))
    shown = {
        "secret": _row(visit.params["tenant"], reply.document),
        "version": reply.version,
        "values": {LINES: ""},
        "faults": _faults(problem),
        "again": _again(visit.form, problem),
    }
    return visit.page("secrets/show.html", {**await frame(visit, "secrets"), **shown}, status=status_of(problem))


def _faults(problem: Problem | None) -> Faults:
    if problem is not None and problem.code is Code.PRECONDITION_FAILED:
        return Faults({}, [OUTDATED])
    return placed(problem, (VALUE, LINES))


def _path(visit: Visit) -> str:
    return at("tenants", visit.params["tenant"], "secrets", visit.params["name"])


async def save(visit: Visit) -> Answer:
    """Keep a secret's next version, in the place of the one that was shown."""
    await visit.get(_path(visit))
    try:
        kept = await visit.ask("PUT", _path(visit), _value(visit.form), version=visit.form.get("version") or NO_VERSION)
    except Problem as problem:
        return await _page(visit, problem)
    path = place("tenants", visit.params["tenant"], "secrets", visit.params["name"])
    return visit.go(path, f"Version {kept.document['version']} is kept.")


async def ask_delete(visit: Visit) -> Answer:
    """Ask whether a secret shall be deleted, unless somebody uses it."""
    reply = await visit.ask("GET", _path(visit))
    shown = {"secret": _row(visit.params["tenant"], reply.document), "version": reply.version}
    return visit.page("secrets/delete.html", {**await frame(visit, "secrets"), **shown})


async def delete(visit: Visit) -> Answer:
    """Delete a secret."""
    tenant, name = visit.params["tenant"], visit.params["name"]
    try:
        await visit.ask("DELETE", _path(visit), version=visit.form.get("version"))
    except Problem as problem:
        return visit.go(place("tenants", tenant, "secrets"), problem.detail, good=False)
    return visit.go(place("tenants", tenant, "secrets"), f"The secret {name} is deleted.")


PAGES: Final = (
    Page("GET", "/ui/tenants/{tenant}/secrets", listing),
    Page("GET", "/ui/tenants/{tenant}/new-secret", new),
    Page("POST", "/ui/tenants/{tenant}/new-secret", create),
    Page("GET", "/ui/tenants/{tenant}/secrets/{name}", show),
    Page("POST", "/ui/tenants/{tenant}/secrets/{name}", save),
    Page("GET", "/ui/tenants/{tenant}/secrets/{name}/delete", ask_delete),
    Page("POST", "/ui/tenants/{tenant}/secrets/{name}/delete", delete),
)
