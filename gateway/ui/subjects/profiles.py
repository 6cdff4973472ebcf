"""A tenant's SMTP profiles: which there are and how they stand, pausing, the default mark, and deleting."""

from collections.abc import Mapping
from typing import Final

from gateway.http.call import Answer
from gateway.problems import Problem
from gateway.ui.forms import Document
from gateway.ui.page import Page
from gateway.ui.standing import PARKED, why
from gateway.ui.subjects.frame import frame
from gateway.ui.subjects.profile_form import own_path
from gateway.ui.visit import Visit, at, place

SHOWN: Final = 100  # profiles at once
SECURITY: Final[Mapping[str, str]] = {"starttls": "STARTTLS", "implicit_tls": "TLS", "none": "none"}
NO_LINE: Final[Document] = {"state": "", "ready": 0, "deferred": 0}
"""What the queue says of a profile for which nothing waits, and which is in order."""


async def table(visit: Visit) -> Answer:
    """Show a tenant's profiles, and by which of them its mail leaves."""
    tenant = visit.params["tenant"]
    listed = await visit.get(at("tenants", tenant, "profiles"), limit=SHOWN, cursor=visit.query.get("cursor"))
    queue, all_paused = await _queue(visit, tenant)
    context = {
        "rows": [_row(tenant, one, queue.get(one["name"], NO_LINE), all_paused=all_paused) for one in listed["items"]],
        "cursor": listed["next_cursor"],
        "more": place("tenants", tenant, "profiles", cursor=listed["next_cursor"]),
        "leaving": await _leaving(visit, tenant),
        "all_paused": all_paused,
        "new": place("tenants", tenant, "profiles", "new"),
        "push": place("tenants", tenant, "profiles", "push") if visit.snapshot.children(tenant) else "",
    }
    return visit.page("profiles/table.html", {**await frame(visit, "profiles"), **context})


async def _queue(visit: Visit, tenant: str) -> tuple[dict[str, Document], bool]:
    """Give what waits, by the names of the tenant's own profiles; and whether all sending is paused."""
    lines: dict[str, Document] = {}
    all_paused = False
    async for listed in visit.pages(at("queue"), tenant=tenant):
        lines |= {one["profile"]: one for one in listed["items"] if one["profile"] is not None}
        all_paused = listed["paused"] is not None
    return lines, all_paused


def _row(tenant: str, profile: Document, line: Document, *, all_paused: bool) -> Document:
    """Tell what the table shows of a profile; of an inherited one no more than that it is there."""
    name = profile["name"]
    row = {**profile, "page": own_path(tenant, name), "path": place("tenants", tenant, "profiles", name)}
    if profile["inherited"]:
        return row
    state = _state(profile, line["state"], all_paused=all_paused)
    return {
        **row,
        "state": state,
        "why": None if all_paused and state == "paused" and not profile["paused"] else why(state),
        "parked": state.startswith(PARKED),
        "waiting": line["ready"] + line["deferred"],
        "security": SECURITY[profile["security"]],
        "user": (profile.get("auth") or {}).get("username") or "",
    }


def _state(profile: Document, told: str, *, all_paused: bool) -> str:
    if not profile["enabled"]:
        return "disabled"
    return told or ("paused" if profile["paused"] or all_paused else "active")


async def _leaving(visit: Visit, tenant: str) -> str:
    """Tell in a sentence by which profile mail leaves that names none, as far as this person may know."""
    found = await visit.get(at("tenants", tenant, "resolution"))
    here, ends = found["chain"][0]["verdict"], found["chain"][-1]["verdict"]
    profile, owner = found["profile"], found["owner"]
    match found["via"]:
        case "default" if owner in (tenant, None):
            return f"Mail that names no profile leaves by {profile}, this tenant's default."
        case "default":
            return (
                f"Mail that names no profile leaves by {profile}, this tenant's default, which it inherits from above."
            )
        case "ancestor" | "system":
            which = f"by {profile} of {owner}" if profile else "by a default from above"
            return f"Mail that names no profile leaves {which}: {_WHY_NOT_HERE.get(here, 'none here is the default')}."
        case _ if len(found["chain"]) == 1 and tenant != "system" and ends in ("no_default", "disabled"):
            return f"Mail that names no profile is refused: {_WHY_NOT_HERE[here]}, and it uses none from above."
        case _:
            return f"Mail that names no profile is refused: {_WHY_NOT_HERE.get(here, 'none here is the default')}."


_WHY_NOT_HERE: Final[Mapping[str, str]] = {
    "no_default": "no profile here is the default",
    "disabled": "the default here is switched off",
}


# The default mark, pausing.


async def mark(visit: Visit) -> Answer:
    """Make a profile the tenant's default, or no longer."""
    wanted = visit.form.get("mark") == "on"
    words = "is the default now" if wanted else "is no longer the default"
    return await _done(visit, "PATCH", (), words, {"is_default": wanted})


async def pause(visit: Visit) -> Answer:
    """Pause a profile."""
    return await _done(visit, "POST", ("pause",), "is paused; its mail waits until it is resumed")


async def resume(visit: Visit) -> Answer:
    """Let a profile go on, whatever it stood still for."""
    return await _done(visit, "POST", ("resume",), "goes on")


async def _done(visit: Visit, method: str, step: tuple[str, ...], words: str, document: object = None) -> Answer:
    """Ask for a change of the profile of the path, and say on the table what came of it."""
    tenant, name = visit.params["tenant"], visit.params["name"]
    back = place("tenants", tenant, "profiles")
    try:
        await visit.ask(method, at("tenants", tenant, "profiles", name, *step), document)
    except Problem as problem:
        return visit.go(back, problem.detail, good=False)
    return visit.go(back, f"The profile {name} {words}.")


# Deleting.


async def ask_delete(visit: Visit) -> Answer:
    """Ask whether a profile shall be deleted, and say what that means."""
    tenant, name = visit.params["tenant"], visit.params["name"]
    reply = await visit.ask("GET", at("tenants", tenant, "profiles", name))
    queue, _ = await _queue(visit, tenant)
    line = queue.get(name, NO_LINE)
    inherited = reply.document["inherited"]
    consequences = {
        "profile": reply.document,
        "version": reply.version,
        "children": [] if inherited else sorted(link.child for link in visit.snapshot.links_from(tenant, name)),
        "waiting": line["ready"] + line["deferred"],
        "push": place("tenants", tenant, "profiles", "push"),
        "back": place("tenants", tenant, "profiles"),
    }
    return visit.page("profiles/delete.html", {**await frame(visit, "profiles"), **consequences})


async def delete(visit: Visit) -> Answer:
    """Delete a profile, or the link to an inherited one."""
    tenant, name = visit.params["tenant"], visit.params["name"]
    back = place("tenants", tenant, "profiles")
    try:
        await visit.ask("DELETE", at("tenants", tenant, "profiles", name), version=visit.form.get("version"))
    except Problem as problem:
        return visit.go(back, problem.detail, good=False)
    return visit.go(back, f"The profile {name} is deleted.")


PAGES: Final = (
    Page("GET", "/ui/tenants/{tenant}/profiles", table),
    Page("POST", "/ui/tenants/{tenant}/profiles/{name}/default", mark),
    Page("POST", "/ui/tenants/{tenant}/profiles/{name}/pause", pause),
    Page("POST", "/ui/tenants/{tenant}/profiles/{name}/resume", resume),
    Page("GET", "/ui/tenants/{tenant}/profiles/{name}/delete", ask_delete),
    Page("POST", "/ui/tenants/{tenant}/profiles/{name}/delete", delete),
)
