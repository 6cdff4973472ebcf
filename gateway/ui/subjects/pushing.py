"""Pushing: a tenant's own profiles lent to children, seen before and after, and taken back one by one.

What is chosen are boxes of one form; the panes are the script's view of them. Who has what already is told from the
links that this tenant made itself, and from the names of profiles in its reach.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.directory.entries import place as placed
from gateway.directory.shapes import Link, Profile
from gateway.directory.snapshot import Snapshot
from gateway.http.call import Answer
from gateway.problems import Code, Fault, Problem
from gateway.ui.forms import Document, of_the_whole
from gateway.ui.page import Page
from gateway.ui.subjects.frame import frame
from gateway.ui.visit import Reply, Visit, at, place

LINKS_SHOWN: Final = 100  # at once, of those that are there
FAULTS_SHOWN: Final = 50
MOST_CHILDREN: Final = 1_000  # of one push
LONGEST_SHOWN: Final = 63


@dataclass(frozen=True, slots=True)
class Child:
    """A child to choose: `has` are profiles that it inherits, `taken` names under which it has others of its own."""

    id: str
    name: str
    enabled: bool
    has: Sequence[str]
    taken: Sequence[str]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is ticked in the form."""

    profiles: Sequence[str] = ()
    children: Sequence[str] = ()
    default: str = ""


async def ask(visit: Visit) -> Answer:
    """Show what could be pushed to whom, and what is."""
    return await _page(visit, Chosen())


async def _page(visit: Visit, chosen: Chosen, refusals: Sequence[str] = (), status: int = 200) -> Answer:
    tenant = visit.params["tenant"]
    around = await frame(visit, "profiles")
    profiles = [one for one in await visit.every(at("tenants", tenant, "profiles")) if not one["inherited"]]
    context = {
        "profiles": profiles,
        "children": _children(visit.snapshot, tenant, [one["name"] for one in profiles]),
        "chosen": chosen,
        "ticked": {"profiles": dict.fromkeys(chosen.profiles, True), "children": dict.fromkeys(chosen.children, True)},
        "refusals": refusals,
        "most": MOST_CHILDREN,
        **_links(visit, tenant),
    }
    return visit.page("pushing/push.html", {**around, **context}, status=status)


def _children(snapshot: Snapshot, tenant: str, profiles: Sequence[str]) -> list[Child]:
    has: dict[str, list[str]] = {}
    for link in snapshot.links_from(tenant):
        has.setdefault(link.child, []).append(link.profile)
    ours = set(profiles)
    found = []
    for id_ in sorted(snapshot.children(tenant)):
        child = snapshot.tenants[id_]
        taken = sorted(profile.name for profile in snapshot.own_profiles(id_) if profile.name in ours)
        found.append(Child(id_, child.name, child.enabled, sorted(has.get(id_, ())), taken))
    return found


def _links(visit: Visit, tenant: str) -> dict[str, object]:
    """Tell which links are there, found by a word, some at a time."""
    word, start = visit.query.get("find", "").strip()[:100], visit.query.get("from", "")
    links = sorted(visit.snapshot.links_from(tenant), key=lambda link: (link.child, link.profile))
    fitting = [link for link in links if _fits(visit.snapshot, link, word.casefold())]
    first = int(start) if start.isascii() and start.isdigit() and len(start) < 7 else 0
    shown = fitting[first : first + LINKS_SHOWN]
    here = ("tenants", tenant, "profiles", "push")
    after = first + LINKS_SHOWN
    return {
        "links": [
            {**_shown(visit.snapshot, link), "take_back": place(*here, link.child, link.profile)} for link in shown
        ],
        "count": len(fitting),
        "some": bool(links),
        "word": word,
        "more": place(*here, find=word, **{"from": after}) + "#links" if after < len(fitting) else "",
    }


def _fits(snapshot: Snapshot, link: Link, word: str) -> bool:
    return any(word in text.casefold() for text in (link.child, link.profile, snapshot.tenants[link.child].name))


def _shown(snapshot: Snapshot, link: Link) -> Document:
    name = snapshot.tenants[link.child].name
    return {"child": link.child, "name": name, "profile": link.profile, "is_default": link.is_default}


async def push(visit: Visit) -> Answer:
    """Push, and show what came of it."""
    tenant, form = visit.params["tenant"], visit.form
    chosen = Chosen(form.all("profile"), form.all("child"), form.get("default"))
    given: Document = {"children": [*chosen.children], "profiles": [*chosen.profiles]}
    if chosen.default:
        given["default"] = chosen.default
    try:
        reply = await visit.ask("POST", at("tenants", tenant, "profiles", "push"), given)
    except Problem as problem:
        told = list(_refusals(visit.snapshot, tenant, chosen, problem))
        if len(told) > FAULTS_SHOWN:
            told = [*told[:FAULTS_SHOWN], f"… and {len(told) - FAULTS_SHOWN} more."]
        return await _page(visit, chosen, told, problem.code.status)
    made = {(link["child"], link["profile"]): link["is_default"] for link in reply.document["links"]}
    rows = [
        {
            "child": child,
            "name": visit.snapshot.tenants[child].name,
            "marks": [made[child, one] for one in chosen.profiles],
        }
        for child in sorted(chosen.children)
    ]
    context = {"rows": rows, "profiles": chosen.profiles, "default": chosen.default}
    return visit.page("pushing/pushed.html", {**await frame(visit, "profiles"), **context})


def _refusals(snapshot: Snapshot, tenant: str, chosen: Chosen, problem: Problem) -> Iterator[str]:
    """Say what is in the way, of which child and which profile."""
    match problem.code:
        case Code.ALREADY_INHERITED | Code.NAME_TAKEN:
            told = list(_in_the_way(snapshot, tenant, chosen))
            yield from told or [problem.detail]
        case Code.PROVISIONED:
            told = list(_fixed(snapshot, chosen))
            yield from told or [problem.detail]
        case _ if problem.errors:
            for fault in problem.errors:
                yield _sentence(tenant, chosen, fault)
        case _:
            yield of_the_whole(problem)


def _in_the_way(snapshot: Snapshot, tenant: str, chosen: Chosen) -> Iterator[str]:
    for child in chosen.children:
        for name in chosen.profiles:
            if (tenant, name, child) in snapshot.links:
                yield f"{child} has {name} already."
            elif (child, name) in snapshot.profiles:
                yield f"{child} has a profile of its own named {name}."


def _fixed(snapshot: Snapshot, chosen: Chosen) -> Iterator[str]:
    """Tell whose default stands in the operator's files, where no other can take its place."""
    for child in chosen.children:
        listed: list[Profile | Link] = [*snapshot.own_profiles(child), *snapshot.links_to(child)]
        for one in listed:
            if one.is_default and snapshot.provisioned(placed(one)):
                name = one.profile if isinstance(one, Link) else one.name
                yield f"The default of {child}, {name}, stands in the operator's files; no other takes its place here."


def _sentence(tenant: str, chosen: Chosen, fault: Fault) -> str:
    _, kind, *rest = fault.pointer.split("/")
    asked = {"children": chosen.children, "profiles": chosen.profiles}.get(kind, ())
    index = int(rest[0]) if rest and rest[0].isdigit() else -1
    named = asked[index][:LONGEST_SHOWN] if 0 <= index < len(asked) else ""
    match kind, fault.code:
        case "default", _:
            return (
                f"{chosen.default[:LONGEST_SHOWN]} cannot be the default, because it is not among the chosen profiles."
            )
        case "children", "not_a_child" if named:
            return f"{named} is not a child of {tenant}."
        case "profiles", "not_owned" if named:
            return f"{tenant} owns no profile {named}."
        case "children", _ if not chosen.children:
            return "Choose at least one child."
        case "profiles", _ if not chosen.profiles:
            return "Choose at least one profile."
        case "children", _ if len(chosen.children) > MOST_CHILDREN:
            return f"One push reaches at most {MOST_CHILDREN} children; {len(chosen.children)} are chosen."
        case _:
            return f"{named}: {fault.detail}" if named else fault.detail


# Taking back.


async def ask_back(visit: Visit) -> Answer:
    """Ask whether a profile shall be taken back from a child, and say what that means."""
    tenant, child = visit.params["tenant"], visit.params["child"]
    around = await frame(visit, "profiles")
    reply = await _link(visit)
    context = {
        "child": child,
        "link": reply.document,
        "version": reply.version,
        "queued": visit.services.outbox.queued[child],
        "back": place("tenants", tenant, "profiles", "push"),
    }
    return visit.page("pushing/take_back.html", {**around, **context})


async def take_back(visit: Visit) -> Answer:
    """Take a profile back."""
    tenant, child, name = (visit.params[one] for one in ("tenant", "child", "profile"))
    back = place("tenants", tenant, "profiles", "push")
    await _link(visit)
    try:
        await visit.ask("DELETE", at("tenants", child, "profiles", name), version=visit.form.get("version"))
    except Problem as problem:
        return visit.go(back, problem.detail, good=False)
    return visit.go(back, f"{name} is taken back from {child}.")


async def _link(visit: Visit) -> Reply:
    """Find the link of the path as the child sees it. Raises `not_found` if this tenant made none."""
    tenant, child, name = (visit.params[one] for one in ("tenant", "child", "profile"))
    reply = await visit.ask("GET", at("tenants", child, "profiles", name))
    if (tenant, name, child) not in visit.snapshot.links:
        raise Problem(Code.NOT_FOUND)
    return reply


PAGES: Final = (
    Page("GET", "/ui/tenants/{tenant}/profiles/push", ask),
    Page("POST", "/ui/tenants/{tenant}/profiles/push", push),
    Page("GET", "/ui/tenants/{tenant}/profiles/push/{child}/{profile}", ask_back),
    Page("POST", "/ui/tenants/{tenant}/profiles/push/{child}/{profile}", take_back),
)
