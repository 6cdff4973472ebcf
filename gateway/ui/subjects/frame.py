"""What pages of one tenant share: its name, the way down to it, the ways to its other pages; its lists, and new ones."""

from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.problems import Code, Fault, Problem, refusal
from gateway.ui.forms import Document, Field
from gateway.ui.visit import Visit, at, place

NAME: Final = Field("/name")


class Tab(NamedTuple):
    """A page of a tenant, and the scopes of which one is needed to open it."""

    name: str
    path: str
    scopes: tuple[str, ...]


TABS: Final = (
    Tab("Profiles", "profiles", ("read",)),
    Tab("Preferences", "preferences", ("read",)),
    Tab("Templates", "templates", ("read",)),
    Tab("Secrets", "secrets", ("secrets",)),
    Tab("Keys", "keys", ("admin",)),
    Tab("Webhooks", "webhooks", ("admin",)),
    Tab("Audit", "audit", ("admin",)),
    Tab("Settings", "settings", ("read",)),
)


async def make(visit: Visit, kind: str, document: Callable[[], Document], taken: str) -> str:
    """Make one of this kind under the name in the form; answers the name. Raises a problem if that is none, or taken."""
    name = visit.form.get(NAME.pointer).strip()
    if not name:
        raise refusal([Fault(NAME.pointer, "required", "A name is needed.")])
    try:
        await visit.ask("PUT", at("tenants", visit.params["tenant"], kind, name), document(), new=True)
    except Problem as problem:
        if problem.code is Code.PRECONDITION_FAILED:
            raise refusal([Fault(NAME.pointer, "name_taken", taken)]) from None
        raise
    return name


async def listed(visit: Visit, kind: str, limit: int) -> tuple[list[Document], Document]:
    """Ask for the part of a tenant's list that the page is of; answers its items, and what leads to the next part."""
    tenant, cursor = visit.params["tenant"], visit.query.get("cursor")
    found = await visit.get(at("tenants", tenant, kind), limit=limit, cursor=cursor)
    following = found["next_cursor"]
    return found["items"], {
        "more": following,
        "next": place("tenants", tenant, kind, cursor=following),
        "first": cursor is None,
    }


async def frame(visit: Visit, tab: str) -> dict[str, object]:
    """Give what `tenant_frame.html` needs around a tenant's page. Raises `not_found`."""
    tenant = visit.params["tenant"]
    shown = await _shown(visit, tab)
    line = visit.snapshot.ancestry(tenant)
    above = reversed(line[1 : line.index(visit.root) + 1]) if visit.root in line else ()
    return {
        "tenant": shown,
        "above": [(name, place("tenants", name)) for name in above],
        "tabs": [
            (one.name, place("tenants", tenant, one.path), one.path == tab)
            for one in TABS
            if any(map(visit.may, one.scopes))
        ],
    }


async def _shown(visit: Visit, tab: str) -> Document:
    """Show the tenant; of one whose page somebody may open without scope `read`, no more than the page's address says."""
    tenant = visit.params["tenant"]
    needed = next(one.scopes for one in TABS if one.path == tab)
    if visit.may("read") or not any(map(visit.may, needed)):
        return await visit.get(at("tenants", tenant))
    if not visit.snapshot.within(tenant, visit.root):
        raise Problem(Code.NOT_FOUND)
    return {"id": tenant, "name": "", "enabled": True, "provisioned": False}
