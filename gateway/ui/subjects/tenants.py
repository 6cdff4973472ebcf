"""The tree of tenants, found by branch or by word; and a tenant's own settings, made, changed and deleted."""

from typing import Final

from gateway.directory.shapes import Link
from gateway.http.call import Answer
from gateway.problems import Code, Problem
from gateway.ui.forms import Document, Field, Kind, as_written, document, placed, status_of, values
from gateway.ui.page import Page
from gateway.ui.subjects.frame import frame
from gateway.ui.visit import Visit, at, place

SHOWN: Final = 100  # tenants of a branch at once

PARENTS: Final = (
    Field("/enabled", Kind.SWITCH),
    Field("/own_profiles", Kind.SWITCH),
    Field("/limits/per_minute", Kind.NUMBER),
    Field("/limits/queued", Kind.NUMBER),
)
"""What only an administrator of a tenant above sets."""
OWN: Final = (Field("/name"), Field("/fallback"), Field("/share_default", Kind.SWITCH))
NEW: Final = (Field("/id"), Field("/parent"), *OWN, *PARENTS)
USUAL: Final[Document] = {
    "fallback": "inherit", "share_default": True, "enabled": True, "own_profiles": True,
}  # fmt: skip


# The tree.


async def tree(visit: Visit) -> Answer:
    """Show a branch of the tree, or what a word is found in."""
    word, under = visit.query.get("search", "").strip(), visit.query.get("under", "")
    cursor = visit.query.get("cursor")
    if word:
        listed = await visit.get(at("tenants"), search=word[:100], limit=SHOWN, cursor=cursor)
        top = None
    else:
        top = await visit.get(at("tenants", under or visit.root))
        listed = await visit.get(at("tenants"), parent=top["id"], limit=SHOWN, cursor=cursor)
    more = listed["next_cursor"] and place("tenants", search=word, under=under, cursor=listed["next_cursor"])
    context = {
        "word": word,
        "top": top,
        "rows": [_row(visit, one, found=bool(word)) for one in listed["items"]],
        "more": more,
        "first": cursor is None,
    }
    if visit.in_part and visit.request.headers.get("HX-Target", "").startswith("ul"):
        return visit.part("tenants/branch.html", context)
    return visit.page("tenants/tree.html", context)


def _row(visit: Visit, tenant: Document, *, found: bool) -> Document:
    """Tell what the tree shows of a tenant; of one that was searched for also what it is below."""
    id_ = tenant["id"]
    line = visit.snapshot.ancestry(id_)
    above = line[1 : line.index(visit.root) + 1] if found and visit.root in line else ()
    return {
        **tenant,
        "path": place("tenants", id_, "profiles"),
        "branch": place("tenants", under=id_),
        "children": len(visit.snapshot.children(id_)),
        "above": " / ".join(reversed(above)),
    }


# One tenant.


async def show(visit: Visit) -> Answer:
    """Go to what one mostly wants of a tenant."""
    await visit.get(at("tenants", visit.params["tenant"]))
    return visit.go(place("tenants", visit.params["tenant"], "profiles"))


async def settings(visit: Visit) -> Answer:
    """Show a tenant's settings, to be changed by who may."""
    reply = await visit.ask("GET", at("tenants", visit.params["tenant"]))
    fields = _fields(visit)
    return await _settings(visit, values(fields, reply.document), reply.version)


async def _settings(visit: Visit, known: dict[str, object], version: str, problem: Problem | None = None) -> Answer:
    fields = _fields(visit)
    faults = placed(problem, (field.pointer for field in fields))
    below = visit.params["tenant"] != visit.root
    shown = {"values": known, "faults": faults, "version": version, "below": below}
    return visit.page("tenants/settings.html", {**await frame(visit, "settings"), **shown}, status=status_of(problem))


def _fields(visit: Visit) -> tuple[Field, ...]:
    return (*OWN, *PARENTS) if visit.params["tenant"] != visit.root else OWN


async def save(visit: Visit) -> Answer:
    """Change a tenant's settings."""
    tenant = visit.params["tenant"]
    fields = _fields(visit)
    given = document(fields, visit.form)
    try:
        await visit.ask("PUT", at("tenants", tenant), given, version=visit.form.get("version"))
    except Problem as problem:
        return await _settings(visit, as_written(fields, visit.form), visit.form.get("version"), problem)
    return visit.go(place("tenants", tenant, "settings"), "The settings are saved.")


async def new(visit: Visit) -> Answer:
    """Ask what the new tenant shall be."""
    parent = visit.query.get("under") or visit.root
    await visit.get(at("tenants", parent))
    return _new(visit, values(NEW, {**USUAL, "parent": parent}))


def _new(visit: Visit, known: dict[str, object], problem: Problem | None = None) -> Answer:
    faults = placed(problem, (field.pointer for field in NEW))
    if problem is not None and problem.code is Code.NAME_TAKEN:
        faults = placed(Problem(problem.code, "This id is taken."), ())
    return visit.page("tenants/new.html", {"values": known, "faults": faults}, status=status_of(problem))


async def create(visit: Visit) -> Answer:
    """Make a tenant."""
    given = document(NEW, visit.form)
    try:
        made = await visit.ask("POST", at("tenants"), given)
    except Problem as problem:
        return _new(visit, as_written(NEW, visit.form), problem)
    id_ = made.document["id"]
    return visit.go(place("tenants", id_, "profiles"), f"The tenant {id_} is there.")


async def ask_delete(visit: Visit) -> Answer:
    """Ask whether a tenant shall be deleted, and say what that means."""
    if not visit.may("admin"):
        raise Problem(Code.FORBIDDEN)
    tenant = visit.params["tenant"]
    reply = await visit.ask("GET", at("tenants", tenant))
    snapshot = visit.snapshot
    consequences = {
        "children": sorted(snapshot.children(tenant)),
        "profiles": sorted(profile.name for profile in snapshot.own_profiles(tenant)),
        "pushed": sorted({link.child for link in snapshot.links_from(tenant)}),
        "inherited": [
            (link.profile, _take_back(visit, link)) for link in sorted(snapshot.links_to(tenant), key=_profile_of)
        ],
        "keys": len(snapshot.keys_of(tenant)),
        "queued": visit.services.outbox.queued[tenant],
        "version": reply.version,
    }
    return visit.page("tenants/delete.html", {**await frame(visit, "settings"), **consequences})


def _profile_of(link: Link) -> str:
    return link.profile


def _take_back(visit: Visit, link: Link) -> str:
    """Name the page where a profile is taken back from a child; it is the owner's, who may be out of sight."""
    if not visit.snapshot.within(link.tenant, visit.root):
        return ""
    return place("tenants", link.tenant, "profiles", "push", link.child, link.profile)


async def delete(visit: Visit) -> Answer:
    """Delete a tenant."""
    tenant = visit.params["tenant"]
    try:
        await visit.ask("DELETE", at("tenants", tenant), version=visit.form.get("version"))
    except Problem as problem:
        return visit.go(place("tenants", tenant, "settings"), problem.detail, good=False)
    return visit.go(place("tenants"), f"The tenant {tenant} is deleted.")


PAGES: Final = (
    Page("GET", "/ui/tenants", tree),
    Page("GET", "/ui/new-tenant", new),
    Page("POST", "/ui/new-tenant", create),
    Page("GET", "/ui/tenants/{tenant}", show),
    Page("GET", "/ui/tenants/{tenant}/settings", settings),
    Page("POST", "/ui/tenants/{tenant}/settings", save),
    Page("GET", "/ui/tenants/{tenant}/delete", ask_delete),
    Page("POST", "/ui/tenants/{tenant}/delete", delete),
)
