"""Templates over HTTP: messages with places for a request's `data`, and what they look like when filled."""

from typing import Any

from gateway.directory import changes
from gateway.directory.changes import Change
from gateway.directory.shapes import Template
from gateway.directory.snapshot import Snapshot
from gateway.http.acceptance import filled
from gateway.http.call import Answer, Call, json_answer
from gateway.http.resources import (
    NO_CONTENT,
    Document,
    actor,
    answer,
    check_version,
    document,
    page,
    parsed,
    writable,
)
from gateway.http.schema import RenderRequest
from gateway.problems import Code, Problem

READ_ONLY = ("tenant", "name", "provisioned")


def view(snapshot: Snapshot, template: Template) -> Document:
    """Show a template."""
    shown: dict[str, Any] = template.model_dump(mode="json", exclude={"tenant"}, exclude_none=True)
    return {**shown, "provisioned": snapshot.provisioned(("template", template.tenant, template.name))}


def _find(call: Call, snapshot: Snapshot) -> Template:
    template = snapshot.templates.get((call.params["tenant"], call.params["name"]))
    if template is None:
        raise Problem(Code.NOT_FOUND)
    return template


async def locate(call: Call) -> None:
    """Find the template of the path."""
    _find(call, call.snapshot)


async def listing(call: Call) -> Answer:
    """List a tenant's templates."""
    snapshot = call.snapshot
    items = snapshot.templates_of(call.params["tenant"])
    return page(call, items, lambda template: template.name, lambda template: view(snapshot, template))


async def show(call: Call) -> Answer:
    """Show one template."""
    call.no_query()
    return answer(view(call.snapshot, _find(call, call.snapshot)))


async def save(call: Call) -> Answer:
    """Make or replace a template."""
    call.no_query()
    tenant, name = call.params["tenant"], call.params["name"]
    directory = call.services.directory
    new = (tenant, name) not in directory.snapshot.templates

    def work(snapshot: Snapshot) -> Change:
        before = snapshot.templates.get((tenant, name))
        seen = view(snapshot, before) if before is not None else {"name": name, "tenant": tenant, "provisioned": False}
        given, faults = writable(document(call), {**seen, "tenant": tenant}, READ_ONLY)
        change = changes.save(snapshot, parsed(Template, {**given, "tenant": tenant, "name": name}, faults))
        check_version(call, None if before is None else seen)
        return change

    await directory.change(actor(call), work)
    return answer(view(directory.snapshot, _find(call, directory.snapshot)), 201 if new else 200)


async def delete(call: Call) -> Answer:
    """Delete a template."""
    call.no_query()

    def work(snapshot: Snapshot) -> Change:
        template = _find(call, snapshot)
        change = changes.delete_template(snapshot, template)
        check_version(call, view(snapshot, template))
        return change

    await call.services.directory.change(actor(call), work)
    return NO_CONTENT


async def preview(call: Call) -> Answer:
    """Show what a template makes of data."""
    call.no_query()
    asked = call.parsed(RenderRequest)
    template = _find(call, call.snapshot)
    rendered = filled(call, template, asked.data)
    shown = {"subject": rendered.subject, "text": rendered.text, "html": rendered.html}
    return json_answer({name: value for name, value in shown.items() if value is not None})
