"""A tenant's templates: messages with places for a request's data, tried before anybody gets one."""

import json
from collections.abc import Mapping
from typing import Final

from gateway.http.call import Answer
from gateway.problems import Code, Fault, Problem, refusal
from gateway.ui.forms import Document, Faults, Field, Form, as_written, placed, status_of, values
from gateway.ui.page import Page
from gateway.ui.subjects.frame import NAME, frame, listed, make
from gateway.ui.visit import Visit, at, place

SHOWN: Final = 50  # at once
TAKEN: Final = "This name is taken."
PARTS: Final = (Field("/subject"), Field("/text"), Field("/html"))
DATA: Final = "/data"
NO_DATA: Final = "{}"


async def listing(visit: Visit) -> Answer:
    """List a tenant's templates."""
    items, following = await listed(visit, "templates", SHOWN)
    shown = {
        "rows": [{**one, "path": place("tenants", visit.params["tenant"], "templates", one["name"])} for one in items],
        **following,
    }
    return visit.page("templates/list.html", {**await frame(visit, "templates"), **shown})


# Making and changing.


def _written(form: Form) -> Document:
    """Give the parts as they were written: blanks and line ends are part of a message."""
    return {field.steps[0]: form.get(field.pointer) for field in PARTS if form.get(field.pointer)}


async def new(visit: Visit) -> Answer:
    """Ask what the new template shall say."""
    return await _new(visit, values((NAME, *PARTS), {}))


async def _new(visit: Visit, known: Mapping[str, object], problem: Problem | None = None) -> Answer:
    shown = {"values": known, "faults": _faults(problem)}
    return visit.page("templates/new.html", {**await frame(visit, "templates"), **shown}, status=status_of(problem))


def _faults(problem: Problem | None) -> Faults:
    return placed(problem, (field.pointer for field in (NAME, *PARTS)))


async def create(visit: Visit) -> Answer:
    """Make a template."""
    try:
        name = await make(visit, "templates", lambda: _written(visit.form), TAKEN)
    except Problem as problem:
        return await _new(visit, as_written((NAME, *PARTS), visit.form), problem)
    return visit.go(place("tenants", visit.params["tenant"], "templates", name), f"The template {name} is there.")


async def show(visit: Visit) -> Answer:
    """Show a template, to be changed by who may."""
    return await _page(visit)


async def _page(
    visit: Visit,
    *,
    problem: Problem | None = None,
    preview: Mapping[str, object] | None = None,
    data: str = NO_DATA,
) -> Answer:
    """Show the template as it is, or, with a problem, as somebody wants it; and what it makes of data."""
    reply = await visit.ask("GET", _path(visit))
    shown = {
        "saved": reply.document,
        "values": values(PARTS, reply.document) if problem is None else as_written(PARTS, visit.form),
        "version": reply.version if problem is None else visit.form.get("version"),
        "faults": _faults(problem),
        "data": data,
        "path": _place(visit),
        **(preview or {"made": None, "wrong": []}),
    }
    return visit.page("templates/show.html", {**await frame(visit, "templates"), **shown}, status=status_of(problem))


def _path(visit: Visit) -> str:
    return at("tenants", visit.params["tenant"], "templates", visit.params["name"])


def _place(visit: Visit, *more: str) -> str:
    return place("tenants", visit.params["tenant"], "templates", visit.params["name"], *more)


async def save(visit: Visit) -> Answer:
    """Change a template."""
    try:
        await visit.ask("PUT", _path(visit), _written(visit.form), version=visit.form.get("version"))
    except Problem as problem:
        return await _page(visit, problem=problem)
    return visit.go(_place(visit), "The template is saved.")


async def preview(visit: Visit) -> Answer:
    """Show what the saved template makes of data; its HTML is shown as the text that it is."""
    written = visit.form.get(DATA)
    made: Document | None = None
    wrong: list[str] = []
    try:
        made = (await visit.ask("POST", f"{_path(visit)}/render", {"data": _data(written)})).document
    except Problem as problem:
        if problem.code is Code.NOT_FOUND:
            raise
        wrong = [fault.detail for fault in problem.errors] or [problem.detail]
    told: dict[str, object] = {"made": made, "wrong": wrong}
    if visit.in_part:
        return visit.part("templates/made.html", told)
    return await _page(visit, preview=told, data=written)


def _data(text: str) -> object:
    """Read JSON. Raises a problem that says in which line it is none."""
    try:
        return json.loads(text or NO_DATA)
    except json.JSONDecodeError as error:
        raise refusal([Fault(DATA, "bad_json", f"This is no JSON, from line {error.lineno} on.")]) from None
    except (ValueError, RecursionError):
        raise refusal([Fault(DATA, "bad_json", "This JSON is too deep, or has too long a number.")]) from None


async def ask_delete(visit: Visit) -> Answer:
    """Ask whether a template shall be deleted."""
    reply = await visit.ask("GET", _path(visit))
    shown = {"saved": reply.document, "version": reply.version, "path": _place(visit)}
    return visit.page("templates/delete.html", {**await frame(visit, "templates"), **shown})


async def delete(visit: Visit) -> Answer:
    """Delete a template."""
    try:
        await visit.ask("DELETE", _path(visit), version=visit.form.get("version"))
    except Problem as problem:
        return visit.go(_place(visit), problem.detail, good=False)
    path = place("tenants", visit.params["tenant"], "templates")
    return visit.go(path, f"The template {visit.params['name']} is deleted.")


PAGES: Final = (
    Page("GET", "/ui/tenants/{tenant}/templates", listing),
    Page("GET", "/ui/tenants/{tenant}/new-template", new),
    Page("POST", "/ui/tenants/{tenant}/new-template", create),
    Page("GET", "/ui/tenants/{tenant}/templates/{name}", show),
    Page("POST", "/ui/tenants/{tenant}/templates/{name}", save),
    Page("POST", "/ui/tenants/{tenant}/templates/{name}/preview", preview),
    Page("GET", "/ui/tenants/{tenant}/templates/{name}/delete", ask_delete),
    Page("POST", "/ui/tenants/{tenant}/templates/{name}/delete", delete),
)
