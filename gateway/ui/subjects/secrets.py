"""A tenant's secrets in the built-in store: kept, replaced, deleted, and never shown."""

from typing import Final

from gateway.http.call import Answer
from gateway.problems import Code, Fault, Problem, refusal
from gateway.ui.forms import NO_FAULTS, Document, Field, Form, as_written, placed, values
from gateway.ui.page import Page
from gateway.ui.subjects.frame import frame
from gateway.ui.visit import Visit, at, place

SHOWN: Final = 100  # at once
NAME: Final = Field("/name")
VALUE: Final = "/value"
LINES: Final = "/lines"


async def listing(visit: Visit) -> Answer:
    """List a tenant's secrets, and who uses them."""
    tenant, cursor = visit.params["tenant"], visit.query.get("cursor")
    listed = await visit.get(at("tenants", tenant, "secrets"), limit=SHOWN, cursor=cursor)
    shown = {
        "rows": [_row(tenant, one) for one in listed["items"]],
        "more": listed["next_cursor"],
        "next": place("tenants", tenant, "secrets", cursor=listed["next_cursor"]),
        "first": cursor is None,
    }
    return visit.page("secrets/list.html", {**await frame(visit, "secrets"), **shown})


def _row(tenant: str, secret: Document) -> Document:
    users = [(name, place("tenants", tenant, "profiles", name)) for name in secret["used_by"]]
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


async def new(visit: Visit) -> Answer:
    """Ask for a new secret."""
    return await _new(visit)


async def _new(visit: Visit, problem: Problem | None = None) -> Answer:
    known = values([NAME], {}) if problem is None else as_written([NAME], visit.form)
    faults = NO_FAULTS if problem is None else placed(problem, (NAME.pointer, VALUE, LINES))
    shown = {"values": {**known, LINES: ""}, "faults": faults}
    status = 200 if problem is None else problem.code.status
    return visit.page("secrets/new.html", {**await frame(visit, "secrets"), **shown}, status=status)


async def create(visit: Visit) -> Answer:
    """Keep a new secret."""
    tenant, name = visit.params["tenant"], visit.form.get(NAME.pointer).strip()
    try:
        await _check_free(visit, name)
        await visit.ask("PUT", at("tenants", tenant, "secrets", name), _value(visit.form))
    except Problem as problem:
        return await _new(visit, problem)
    return visit.go(place("tenants", tenant, "secrets"), f"The secret {name} is kept.")


async def _check_free(visit: Visit, name: str) -> None:
    """Raise a problem if the name is taken, or none."""
    if not name:
        raise refusal([Fault(NAME.pointer, "required", "A name is needed.")])
    try:
        await visit.get(at("tenants", visit.params["tenant"], "secrets", name))
    except Problem as problem:
        if problem.code is not Code.NOT_FOUND:
            raise
    else:
        raise refusal([Fault(NAME.pointer, "name_taken", "This name is taken. A new version is made on its own page.")])


async def show(visit: Visit) -> Answer:
    """Show what is known of a secret, and take its next version."""
    return await _page(visit)


async def _page(visit: Visit, problem: Problem | None = None) -> Answer:
    secret = await visit.get(_path(visit))
    faults = NO_FAULTS if problem is None else placed(problem, (VALUE, LINES))
    shown = {"secret": _row(visit.params["tenant"], secret), "values": {LINES: ""}, "faults": faults}
    status = 200 if problem is None else problem.code.status
    return visit.page("secrets/show.html", {**await frame(visit, "secrets"), **shown}, status=status)


def _path(visit: Visit) -> str:
    return at("tenants", visit.params["tenant"], "secrets", visit.params["name"])


async def save(visit: Visit) -> Answer:
    """Keep a secret's next version."""
    await visit.get(_path(visit))
    try:
        kept = await visit.ask("PUT", _path(visit), _value(visit.form))
    except Problem as problem:
        return await _page(visit, problem)
    path = place("tenants", visit.params["tenant"], "secrets", visit.params["name"])
    return visit.go(path, f"Version {kept.document['version']} is kept.")


async def ask_delete(visit: Visit) -> Answer:
    """Ask whether a secret shall be deleted, unless somebody uses it."""
    secret = await visit.get(_path(visit))
    shown = {"secret": _row(visit.params["tenant"], secret)}
    return visit.page("secrets/delete.html", {**await frame(visit, "secrets"), **shown})


async def delete(visit: Visit) -> Answer:
    """Delete a secret."""
    tenant, name = visit.params["tenant"], visit.params["name"]
    try:
        await visit.ask("DELETE", _path(visit))
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
