"""Whom a tenant copies: two lists of addresses, and from which severity on each category goes to them.

The page has one row for a category, with the severity from which CC gets a copy and that from which BCC does. Rules of
one category add up, so a row tells all of them. A row that nobody changed is written as the rules that it was read from,
any other as one rule or two: opening and saving loses nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

from gateway.http.call import Answer
from gateway.message.notification import Severity
from gateway.problems import Problem
from gateway.ui.forms import NO_FAULTS, Document, Faults, Field, Form, Kind, as_written, document, placed, values
from gateway.ui.page import Page
from gateway.ui.subjects.frame import frame
from gateway.ui.visit import Visit, at, place
from gateway.ui.words import words

LISTS: Final = (Field("/cc", Kind.LINES), Field("/bcc", Kind.LINES))
SEVERITIES: Final = tuple(severity.value for severity in Severity)
NEVER: Final = "never"
LEVELS: Final = (*SEVERITIES, NEVER)
VIA: Final[Mapping[str | None, str]] = {
    None: "There is none to be used: such a notification is refused.",
    "named": "It is the one that the notification names.",
    "default": "It is the tenant's own default.",
    "ancestor": "It is the default of a tenant above.",
    "system": "It is the default of the tenant system.",
}
VERDICTS: Final[Mapping[str, str]] = {
    "used": "is used",
    "disabled": "is disabled",
    "missing": "is not there",
    "tenant_disabled": "the tenant is disabled",
    "no_default": "has no default profile",
    "not_shared": "keeps its default profile to itself",
}


class Row(NamedTuple):
    """A category, and from which severity on each list gets a copy."""

    category: str
    cc: str
    bcc: str


EMPTY: Final = Row("", NEVER, NEVER)


def rows_of(rules: Sequence[Document]) -> list[Row]:
    """Tell rules by category, in the order in which they come; one that copies nobody makes a row, too."""
    rows: dict[str, Row] = {}
    for rule in rules:
        category, level = rule["category"], rule["min_severity"]
        row = rows.get(category, Row(category, NEVER, NEVER))
        rows[category] = Row(
            category,
            _lower(row.cc, level if rule["cc"] else NEVER),
            _lower(row.bcc, level if rule["bcc"] else NEVER),
        )
    return list(rows.values())


def _lower(one: str, other: str) -> str:
    return min(one, other, key=LEVELS.index)


def rules_of(rows: Sequence[Row], before: Sequence[Document]) -> list[tuple[int, Document]]:
    """Write rows as rules, each with the number of its row; what is as it was before stays word for word."""
    known = rows_of(before)
    if list(rows) == known:
        numbers = {row.category: number for number, row in enumerate(known)}
        return [(numbers[rule["category"]], rule) for rule in before]
    return [
        (number, rule)
        for number, row in enumerate(rows)
        for rule in ([rule for rule in before if rule["category"] == row.category] if row in known else _written(row))
    ]


def _written(row: Row) -> Iterator[Document]:
    levels = [level for level in dict.fromkeys((row.cc, row.bcc)) if level != NEVER]
    for level in levels or [SEVERITIES[0]]:
        yield {"category": row.category, "min_severity": level, "cc": row.cc == level, "bcc": row.bcc == level}


def rows_in(form: Form) -> list[Row]:
    """Read the rows of a form; those without a category are left out."""
    columns = (form.all(name) for name in ("category", "cc_from", "bcc_from"))
    rows = [Row(*cells) for cells in zip_longest(*columns, fillvalue=NEVER)]
    return [row._replace(category=row.category.strip()) for row in rows if row.category.strip()]


# The page.


async def show(visit: Visit) -> Answer:
    """Show whom a tenant copies, to be changed by who may."""
    reply = await visit.ask("GET", at("tenants", visit.params["tenant"], "preferences"))
    return await _page(visit, values(LISTS, reply.document), rows_of(reply.document["rules"]), reply.version)


async def _page(
    visit: Visit,
    known: dict[str, object],
    rows: Sequence[Row],
    version: str,
    *,
    faults: Faults = NO_FAULTS,
    wrong: Mapping[int, list[str]] | None = None,
    status: int = 200,
) -> Answer:
    tenant = visit.params["tenant"]
    shown = {
        "values": known,
        "rows": [{**row._asdict(), "wrong": (wrong or {}).get(number, [])} for number, row in enumerate(rows)],
        "empty": {**EMPTY._asdict(), "wrong": []},
        "version": version,
        "faults": faults,
        "severities": SEVERITIES,
        "levels": [
            (NEVER, NEVER),
            *((level, f"{level} on" if level != SEVERITIES[-1] else level) for level in SEVERITIES),
        ],
        "provisioned": visit.snapshot.provisioned(("preferences", tenant, "")),
        **await _question(visit),
    }
    return visit.page("preferences/show.html", {**await frame(visit, "preferences"), **shown}, status=status)


async def save(visit: Visit) -> Answer:
    """Change whom a tenant copies."""
    tenant = visit.params["tenant"]
    path, version = at("tenants", tenant, "preferences"), visit.form.get("version")
    before = await visit.get(path)
    rows = rows_in(visit.form)
    numbered = rules_of(rows, before["rules"])
    given = {**document(LISTS, visit.form), "rules": [rule for _, rule in numbered]}
    try:
        await visit.ask("PUT", path, given, version=version)
    except Problem as problem:
        wrong, faults = _faults(problem, [number for number, _ in numbered])
        written = as_written(LISTS, visit.form)
        return await _page(visit, written, rows, version, faults=faults, wrong=wrong, status=problem.code.status)
    return visit.go(place("tenants", tenant, "preferences"), "The preferences are saved.")


def _faults(problem: Problem, numbers: Sequence[int]) -> tuple[dict[int, list[str]], Faults]:
    """Put the faults of rules beside their rows, each sentence once, and the others where they belong."""
    wrong: dict[int, list[str]] = {}
    others = []
    for fault in problem.errors:
        steps = fault.pointer.split("/")
        if steps[1:2] == ["rules"] and len(steps) > 2 and steps[2].isdigit():
            told = wrong.setdefault(numbers[int(steps[2])], [])
            if fault.detail not in told:
                told.append(fault.detail)
        else:
            others.append(fault)
    if wrong and not others:
        return wrong, NO_FAULTS
    return wrong, placed(Problem(problem.code, problem.detail, errors=others), (field.pointer for field in LISTS))


# Who would get it?


async def _question(visit: Visit) -> dict[str, object]:
    """Give what can be asked, with what was asked last."""
    profiles = await visit.every(at("tenants", visit.params["tenant"], "profiles"))
    return {
        "asked": {
            "category": visit.query.get("category", "general"),
            "severity": visit.query.get("severity", SEVERITIES[0]),
            "profile": visit.query.get("profile", ""),
        },
        "named": [profile["name"] for profile in profiles],
        "all_severities": SEVERITIES,
    }


async def resolution(visit: Visit) -> Answer:
    """Tell who would get a notification, and by which profile, as things are saved."""
    tenant = visit.params["tenant"]
    asked = {name: visit.query.get(name, "") for name in ("category", "severity", "profile")}
    wrong: list[str] = []
    told: Document | None = None
    status = 200
    try:
        told = _told(await visit.get(at("tenants", tenant, "resolution"), **asked))
    except Problem as problem:
        if not problem.errors:
            raise
        status = problem.code.status
        wrong = [f"{fault.pointer.strip('/').capitalize()}: {fault.detail}" for fault in problem.errors]
    answer = {"told": told, "wrong": wrong}
    if visit.in_part:
        return visit.part("preferences/answer.html", answer, status=status)
    shown = {**await frame(visit, "preferences"), **await _question(visit), **answer}
    return visit.page("preferences/resolution.html", shown, status=status)


def _told(found: Document) -> Document:
    """Put a resolution into words."""
    return {
        **found,
        "why": VIA.get(found["via"], found["via"]),
        "chain": [{**step, "words": VERDICTS.get(step["verdict"], words(step["verdict"]))} for step in found["chain"]],
    }


PAGES: Final = (
    Page("GET", "/ui/tenants/{tenant}/preferences", show),
    Page("POST", "/ui/tenants/{tenant}/preferences", save),
    Page("GET", "/ui/tenants/{tenant}/resolution", resolution),
)
