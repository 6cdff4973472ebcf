"""The form of an SMTP profile: all that one can say of it, and whether its credentials can be had."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.directory.shapes import DEFAULT_PORTS
from gateway.http.call import Answer
from gateway.problems import Code, Problem
from gateway.ui.forms import NO_FAULTS, Document, Faults, status_of
from gateway.ui.page import Page
from gateway.ui.subjects import profile_fields as fields
from gateway.ui.subjects.frame import frame
from gateway.ui.trials import parts
from gateway.ui.visit import Visit, at, place

NEW: Final = "new"  # where the form of a new profile is; one that is called so is edited at its path and `/edit`
CONNECTIONS: Final = ("vault", "azure_key_vault", "cyberark", "conjur")
MOST_FAILOVERS: Final = 5
PRESETS: Final[Mapping[str, str]] = {
    "generic": "another one", "microsoft365": "Microsoft 365", "gmail": "Gmail", "amazon_ses": "Amazon SES",
    "sendgrid": "SendGrid", "mailgun": "Mailgun", "postmark": "Postmark", "brevo": "Brevo",
    "postfix": "Postfix on the gateway's machine",
}  # fmt: skip
"""What people call the services that presets are for."""
FOLDED: Final[Mapping[str, tuple[str, ...]]] = {
    "oauth": ("/auth/oauth/",),
    "footnote": ("/footnote/text", "/footnote/html"),
    "tls": ("/tls/",),
    "dkim": ("/dkim/",),
    "limits": ("/limits/", "/failover"),
}
"""Groups of fields that are folded as long as they hold nothing that one should see; by the beginnings of names."""
UNREMARKABLE: Final[Mapping[str, object]] = {
    "/tls/verify": True, "/tls/min_version": "1.2", "/limits/connections": "4", "/limits/messages_per_connection": "100",
    "/limits/recipients": "50", "/limits/bytes": "26214400",
}  # fmt: skip
"""What these fields hold where nobody has said anything else."""
OUTDATED: Final = (
    "Somebody has changed the profile meanwhile. What you wrote stands here; saved now, it replaces what they saved."
)
TAKEN_AWAY: Final = (
    "The profile {name} is saved, but its password or key was taken away, because where it goes has changed. "
    "Mail waits until it is given again."
)
STAYS_AWAY: Final = "The profile {name} is saved. The password or key that was taken away is still to be given again."


def own_path(tenant: str, name: str) -> str:
    """Name the page of a profile."""
    return place("tenants", tenant, "profiles", name, *(("edit",) if name == NEW else ()))


# A new profile.


async def new(visit: Visit) -> Answer:
    """Ask what a new profile shall be."""
    known = fields.shown_values(fields.USUAL)
    return await _form(visit, known | await _filled(visit), {})


async def create(visit: Visit) -> Answer:
    """Make a profile."""
    tenant, form = visit.params["tenant"], visit.form
    name = form.get("/name").strip()
    try:
        if (wrong := fields.mismatch(form)) is not None:
            raise wrong
        given = {**fields.read(form, {}, handles_secrets=visit.may("secrets")), **({"name": name} if name else {})}
        await visit.ask("POST", at("tenants", tenant, "profiles"), given)
    except Problem as problem:
        return await _form(visit, fields.written_values(form), {}, problem=problem)
    return visit.go(
        place("tenants", tenant, "profiles"), f"The profile {name} is there. A test shows whether it works."
    )


# One that is there.


async def show(visit: Visit) -> Answer:
    """Show a profile, to be changed by who may; of an inherited one only what a child knows of it."""
    tenant, name = visit.params["tenant"], visit.params["name"]
    reply = await visit.ask("GET", at("tenants", tenant, "profiles", name))
    if reply.document["inherited"]:
        context = {"profile": reply.document, "path": place("tenants", tenant, "profiles", name)}
        return visit.page("profiles/inherited.html", {**await frame(visit, "profiles"), **context})
    known = fields.shown_values(reply.document)
    return await _form(visit, known | await _filled(visit), reply.document, version=reply.version)


async def save(visit: Visit) -> Answer:
    """Change a profile."""
    tenant, name, form = visit.params["tenant"], visit.params["name"], visit.form
    path = at("tenants", tenant, "profiles", name)
    before = await visit.ask("GET", path)
    if before.document["inherited"]:
        raise Problem(Code.NOT_OWNER)
    version = form.get("version")
    try:
        if (wrong := fields.mismatch(form)) is not None:
            raise wrong
        given = fields.read(form, before.document, handles_secrets=visit.may("secrets"))
        after = await visit.ask("PUT", path, given, version=version)
    except Problem as problem:
        if problem.code is Code.PRECONDITION_FAILED:
            version = before.version
        written = fields.written_values(form)
        return await _form(visit, {**written, "/name": name}, before.document, version=version, problem=problem)
    if fields.dropped(before.document, after.document):
        return visit.go(own_path(tenant, name), TAKEN_AWAY.format(name=name), good=False)
    away = any(one.dropped for one in fields.kept(after.document).values())
    told = STAYS_AWAY.format(name=name) if away else f"The profile {name} is saved."
    return visit.go(place("tenants", tenant, "profiles"), told)


async def _filled(visit: Visit) -> dict[str, object]:
    """Give what the preset fills that was picked by its link, where no script does it."""
    picked = visit.query.get("preset", "")
    presets = (await visit.get(at("presets")))["items"] if picked else []
    found = next((one for one in presets if one["name"] == picked), None)
    return {} if found is None else {"/preset": picked, **fields.filled_by(found)}


# The page.


async def _form(
    visit: Visit, known: Mapping[str, Any], shown: Document, *, version: str = "", problem: Problem | None = None
) -> Answer:
    faults = NO_FAULTS if problem is None else _faults(visit, problem)
    name = shown.get("name", "")
    context: dict[str, object] = {
        **await frame(visit, "profiles"),
        **await _choices(visit, known, name),
        "profile": shown or None,
        "values": known,
        "faults": faults,
        "version": version,
        "again": problem is not None and fields.wrote_secret(visit.form),
        "kept": fields.kept(shown),
        "editable": visit.may("profiles") and not shown.get("provisioned", False),
        "open": {group: _stands_out(known, faults, named) for group, named in FOLDED.items()},
        "path": place("tenants", visit.params["tenant"], "profiles", name) if name else "",
        "trial": place("tenants", visit.params["tenant"], "profiles", "test", name=name),
        "parts": parts(""),
    }
    return visit.page("profiles/form.html", context, status=status_of(problem))


def _faults(visit: Visit, problem: Problem) -> Faults:
    if problem.code is Code.PRECONDITION_FAILED:
        return Faults({}, [OUTDATED])
    return fields.faults_beside(problem, visit.form, handles_secrets=visit.may("secrets"))


async def _choices(visit: Visit, known: Mapping[str, Any], name: str) -> dict[str, object]:
    """Give all that the fields offer to choose from."""
    tenant = visit.params["tenant"]
    connectors = [one["name"] for one in await visit.every(at("tenants", tenant, "connectors"))]
    others = [one["name"] for one in await visit.every(at("tenants", tenant, "profiles")) if one["name"] != name]
    secrets = await visit.every(at("tenants", tenant, "secrets")) if visit.may("secrets") else []
    presets = await visit.every(at("presets"))
    failover = known["/failover"]
    return {
        "presets": [{"host": "", "port": "", "security": "", **one, "words": PRESETS[one["name"]]} for one in presets],
        "ports": {str(security): port for security, port in DEFAULT_PORTS.items()},
        "connectors": _with(connectors, known["/connector"]),
        "others": _with(others, *failover),
        "failovers": [*failover, *[""] * max(0, min(MOST_FAILOVERS, len(others)) - len(failover))],
        "secrets": [one["name"] for one in secrets],
        "connections": await visit.every(at("tenants", tenant, "secret-connections")),
        "kinds": CONNECTIONS,
    }


def _with(offered: list[str], *chosen: str) -> list[str]:
    """What is chosen is shown even where it is not offered any more."""
    return [*offered, *(one for one in chosen if one and one not in offered)]


def _stands_out(known: Mapping[str, Any], faults: Faults, beginnings: tuple[str, ...]) -> bool:
    """Does a group hold a fault, or a value that is not what it always is?"""
    return any(
        name in faults.beside or known.get(name, "") not in ("", UNREMARKABLE.get(name, False), [])
        for name in fields.POINTERS
        if name.startswith(beginnings)
    )


# Its credentials.


async def check(visit: Visit) -> Answer:
    """Say whether a profile's credentials can be had, as they stand or fetched anew."""
    tenant, name = visit.params["tenant"], visit.params["name"]
    step = "refresh" if visit.form.get("step") == "refresh" else "check"
    verdict = (await visit.ask("POST", at("tenants", tenant, "profiles", name, "credential", step))).document
    context = {"verdict": verdict, "step": step, "back": own_path(tenant, name)}
    if visit.in_part:
        return visit.part("profiles/verdict.html", context)
    return visit.page("profiles/verdict_page.html", {**await frame(visit, "profiles"), **context})


PAGES: Final = (
    Page("GET", "/ui/tenants/{tenant}/profiles/new", new),
    Page("POST", "/ui/tenants/{tenant}/profiles/new", create),
    Page("GET", "/ui/tenants/{tenant}/profiles/{name}", show),
    Page("POST", "/ui/tenants/{tenant}/profiles/{name}", save),
    Page("GET", "/ui/tenants/{tenant}/profiles/{name}/edit", show),
    Page("POST", "/ui/tenants/{tenant}/profiles/{name}/edit", save),
    Page("POST", "/ui/tenants/{tenant}/profiles/{name}/check", check),
)
