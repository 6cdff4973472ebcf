"""The connection test of a profile, live: each phase as it happens, and what to do about the one that failed.

A browser that asks for events gets the API's own, passed on as they come, and a refusal as faults by field; any other
gets the page again when the test is over. Of an inherited profile nothing is shown but its name, phases, and a code
with what it means anywhere.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from multidict import CIMultiDict

from gateway.http.call import Answer, json_answer
from gateway.http.stream import MEDIA_TYPE
from gateway.problems import Problem
from gateway.smtp.probe import Trial
from gateway.ui.forms import NO_FAULTS, Document, Faults, Field, as_written, document, placed, values
from gateway.ui.page import Page
from gateway.ui.subjects import profile_fields
from gateway.ui.subjects.frame import frame
from gateway.ui.subjects.profile_form import own_path
from gateway.ui.trials import outcome, parts
from gateway.ui.visit import NOTHING, Reply, Visit, at, place

FIELDS: Final = (Field("/to"), Field("/subject"), Field("/message"))
USUAL: Final = Trial("")
TO: Final = "test/to"  # in the form of a profile, whose own recipients are its `/to`


def wants_events(visit: Visit) -> bool:
    """Does the page's script ask, which shows each phase as it comes?"""
    return MEDIA_TYPE in visit.request.headers.get("Accept", "")


async def events(visit: Visit, path: str, given: Document) -> Answer:
    """Let the API tell of a test while it runs, on the page's own request. Raises what keeps it from beginning."""
    headers = CIMultiDict(Accept=MEDIA_TYPE)
    caller, body = visit.person.caller, json.dumps(given).encode()
    return await visit.inside.ask(visit.request, caller, visit.request_id, "POST", path, headers=headers, body=body)


def refused(faults: Faults, status: int) -> Answer:
    """Tell the page's script what is wrong, by field."""
    return json_answer({"beside": faults.beside, "rest": faults.rest}, status)


async def ask(visit: Visit) -> Answer:
    """Ask to whom the test goes."""
    shown = {"subject": USUAL.subject, "message": USUAL.message}
    return await _page(visit, values(FIELDS, shown))


async def run(visit: Visit) -> Answer:
    """Run the test, and tell how it goes or how it went."""
    path = at("tenants", visit.params["tenant"], "profiles", visit.params["name"], "test")
    given = document(FIELDS, visit.form)
    try:
        if wants_events(visit):
            return await events(visit, path, given)
        reply = await visit.ask("POST", path, given)
    except Problem as problem:
        faults, status = placed(problem, (field.pointer for field in FIELDS)), problem.code.status
        if wants_events(visit):
            return refused(faults, status)
        return await _page(visit, as_written(FIELDS, visit.form), faults=faults, status=status)
    return await _page(visit, as_written(FIELDS, visit.form), reply)


async def _page(
    visit: Visit,
    known: dict[str, object],
    reply: Reply | None = None,
    *,
    faults: Faults = NO_FAULTS,
    status: int = 200,
) -> Answer:
    tenant, name = visit.params["tenant"], visit.params["name"]
    profile = await visit.get(at("tenants", tenant, "profiles", name))
    form = own_path(tenant, name)
    context = {
        "profile": profile,
        "back": place("tenants", tenant, "profiles") if profile["inherited"] else form,
        "values": known,
        "faults": faults,
        "outcome": NOTHING if reply is None else outcome(reply.document, form),
        "parts": parts(form, inherited=profile["inherited"]),
    }
    return visit.page("testing/test.html", {**await frame(visit, "profiles"), **context}, status=status)


# What is not saved yet.


async def run_unsaved(visit: Visit) -> Answer:
    """Test what stands in a profile's form; `name` in the query is that of the profile that it changes."""
    tenant, form, name = visit.params["tenant"], visit.form, visit.query.get("name", "")
    try:
        shown = await visit.get(at("tenants", tenant, "profiles", name)) if name else {}
        if (wrong := profile_fields.mismatch(form)) is not None:
            raise wrong
        given = {"profile": _profile(visit, shown, name or form.get("/name").strip()), "to": form.get(TO).strip()}
        path = at("tenants", tenant, "profiles", "test")
        if wants_events(visit):
            return await events(visit, path, given)
        reply = await visit.ask("POST", path, given)
    except Problem as problem:
        faults = _faults_of_unsaved(visit, problem)
        if wants_events(visit):
            return refused(faults, problem.code.status)
        return await _unsaved_page(visit, name, NOTHING, faults, problem.code.status)
    return await _unsaved_page(visit, name, outcome(reply.document, ""), NO_FAULTS, 200)


def _profile(visit: Visit, shown: Document, name: str) -> Document:
    profile = profile_fields.read(visit.form, shown, handles_secrets=visit.may("secrets"))
    return {**profile, "name": name} if name else profile


def _faults_of_unsaved(visit: Visit, problem: Problem) -> Faults:
    """Put each fault beside its field: the profile's under its own name, the recipient's under that of the test."""
    to = [fault.detail for fault in problem.errors if fault.pointer.startswith("/to")]
    others = [
        replace(fault, pointer=fault.pointer.removeprefix("/profile"))
        for fault in problem.errors
        if not fault.pointer.startswith("/to")
    ]
    if to and not others:
        return Faults({TO: to}, ())
    told = Problem(problem.code, problem.detail, errors=others)
    found = profile_fields.faults_beside(told, visit.form, handles_secrets=visit.may("secrets"))
    return replace(found, beside={**found.beside, TO: to}) if to else found


async def _unsaved_page(visit: Visit, name: str, told: Mapping[str, object], faults: Faults, status: int) -> Answer:
    beside = [
        f"{pointer.removeprefix('/')}: {detail}" for pointer, details in faults.beside.items() for detail in details
    ]
    context = {"name": name, "outcome": told, "rest": [*faults.rest, *beside], "parts": parts("")}
    return visit.page("testing/unsaved.html", {**await frame(visit, "profiles"), **context}, status=status)


PAGES: Final = (
    Page("POST", "/ui/tenants/{tenant}/profiles/test", run_unsaved),
    Page("GET", "/ui/tenants/{tenant}/profiles/{name}/test", ask),
    Page("POST", "/ui/tenants/{tenant}/profiles/{name}/test", run),
)
