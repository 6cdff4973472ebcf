"""Tenants over HTTP: the tree, what each may, and what it copies."""

from typing import Any, Final

from gateway.directory import changes
from gateway.directory.changes import PARENTS_FIELDS, Change
from gateway.directory.shapes import Preferences, Tenant
from gateway.directory.snapshot import Snapshot
from gateway.http.call import Answer, Call
from gateway.http.resources import (
    NO_CONTENT,
    Document,
    actor,
    answer,
    check_version,
    document,
    page_of,
    parsed,
    wanted,
    writable,
)
from gateway.http.schema import TenantQuery
from gateway.problems import Code, Problem

READ_ONLY: Final = ("id", "provisioned")


def view(snapshot: Snapshot, tenant: Tenant) -> Document:
    """Show a tenant."""
    shown: Document = tenant.model_dump(mode="json")
    return {**shown, "provisioned": snapshot.provisioned(("tenant", tenant.id, ""))}


def _seen(call: Call, snapshot: Snapshot, tenant: Tenant) -> Document:
    """Show a tenant to the caller, who is told no name of what is outside the reach."""
    shown = view(snapshot, tenant)
    if tenant.id == call.caller.tenant:
        shown["parent"] = None
    return shown


async def listing(call: Call) -> Answer:
    """List the tenants in reach: all of them, those directly below one, or those that a word is found in."""
    query, snapshot = call.query(TenantQuery), call.snapshot
    if query.parent is not None:
        call.within_reach(query.parent)
    among = snapshot.reach(call.caller.tenant) if query.parent is None else snapshot.children(query.parent)
    tenants = [snapshot.tenants[tenant] for tenant in among]
    if query.search is not None:
        word = query.search.casefold()
        tenants = [tenant for tenant in tenants if word in tenant.id or word in tenant.name.casefold()]
    return page_of(query, tenants, lambda tenant: tenant.id, lambda tenant: _seen(call, snapshot, tenant))


async def show(call: Call) -> Answer:
    """Show one tenant."""
    call.no_query()
    return answer(_seen(call, call.snapshot, call.snapshot.tenants[call.params["tenant"]]))


async def create(call: Call) -> Answer:
    """Make a tenant."""
    call.no_query()
    given = document(call)
    given.setdefault("parent", call.caller.tenant)
    tenant = parsed(Tenant, given)
    directory = call.services.directory
    await directory.change(actor(call), lambda snapshot: changes.create_tenant(snapshot, actor(call), tenant))
    return answer(_seen(call, directory.snapshot, tenant), 201, Location=f"/v1/tenants/{tenant.id}")


async def save(call: Call) -> Answer:
    """Replace or patch a tenant."""
    call.no_query()
    tenant_id = call.params["tenant"]

    def work(snapshot: Snapshot) -> Change:
        before = _found(snapshot, tenant_id)
        seen = _seen(call, snapshot, before)
        given, faults = writable(wanted(call, seen), seen, READ_ONLY)
        if guesses_parent(call, tenant_id, given):
            raise Problem(Code.LOCKED_BY_PARENT)
        after = parsed(Tenant, {**untold(call, before, given), "id": tenant_id}, faults)
        change = changes.save_tenant(snapshot, actor(call), before, after)
        check_version(call, seen)
        return change

    directory = call.services.directory
    await directory.change(actor(call), work)
    return answer(_seen(call, directory.snapshot, directory.snapshot.tenants[tenant_id]))


def guesses_parent(call: Call, tenant_id: str, given: Document) -> bool:
    """Does somebody name their own tenant's parent? Whichever it is: a right guess is told from a wrong one by nobody."""
    return tenant_id == call.caller.tenant and given.get("parent") is not None


def untold(call: Call, before: Tenant, given: Document) -> Document:
    """What a document leaves out stays, if the caller could not have said it: a tenant keeps its parent."""
    kept: Document = before.model_dump(mode="json", include={*PARENTS_FIELDS})
    if before.id != call.caller.tenant:
        kept = {"parent": kept["parent"]}
    elif given.get("parent") is None:
        given = {name: value for name, value in given.items() if name != "parent"}
    return {**kept, **given}


async def delete(call: Call) -> Answer:
    """Delete a tenant that nothing depends on."""
    call.no_query()
    tenant_id = call.params["tenant"]

    admission = call.services.admission

    def work(snapshot: Snapshot) -> Change:
        tenant = _found(snapshot, tenant_id)
        unfinished = call.services.directory.unfinished(tenant_id) + admission.entering(tenant_id)
        change = changes.delete_tenant(snapshot, actor(call), tenant, unfinished)
        check_version(call, _seen(call, snapshot, tenant))
        return change

    with admission.closed(tenant_id):  # what comes in from now on is refused, what came before is counted
        await call.services.directory.change(actor(call), work)
    return NO_CONTENT


def _found(snapshot: Snapshot, tenant_id: str) -> Tenant:
    tenant = snapshot.tenant(tenant_id)
    if tenant is None:
        raise Problem(Code.NOT_FOUND)
    return tenant


# Preferences.


def preferences_view(snapshot: Snapshot, tenant: str) -> Document:
    """Show a tenant's copies, which are none until somebody asks for them."""
    preferences = snapshot.preferences.get(tenant) or Preferences(tenant=tenant)
    shown: dict[str, Any] = preferences.model_dump(mode="json", exclude={"tenant"})
    return shown


async def show_preferences(call: Call) -> Answer:
    """Show whom the tenant copies."""
    call.no_query()
    return answer(preferences_view(call.snapshot, call.params["tenant"]))


async def save_preferences(call: Call) -> Answer:
    """Replace whom the tenant copies."""
    call.no_query()
    tenant = call.params["tenant"]
    given, faults = writable(document(call), {"tenant": tenant}, ("tenant",))
    preferences = parsed(Preferences, {**given, "tenant": tenant}, faults)

    def work(snapshot: Snapshot) -> Change:
        change = changes.save(snapshot, preferences)
        check_version(call, preferences_view(snapshot, tenant))
        return change

    directory = call.services.directory
    await directory.change(actor(call), work)
    return answer(preferences_view(directory.snapshot, tenant))
