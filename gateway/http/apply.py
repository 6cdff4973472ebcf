"""Declarative files over HTTP: tables of objects become the directory's, in one change, or not at all."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

from gateway.directory import changes
from gateway.directory.auditing import described
from gateway.directory.changes import Change, Misplaced, Slot
from gateway.directory.directory import Broken
from gateway.directory.entries import Item, place
from gateway.directory.presets import filled
from gateway.directory.shapes import Link, Preferences, Profile, Shape, Template, Tenant
from gateway.directory.snapshot import ROOT, Place, Snapshot
from gateway.http.call import Answer, Call, json_answer
from gateway.http.profiles import read_profile
from gateway.http.resources import Document, actor, document, validated
from gateway.http.schema import ApplyQuery
from gateway.http.tenants import guesses_parent, untold
from gateway.problems import MAX_FAULTS, Code, Fault, Problem, refusal

MOST_ROWS: Final = 5_000
MOST_TEMPLATE: Final = 2_000_000  # characters of all templates: to look at so many takes seconds, and changes wait
TABLES: Final[dict[str, type[Shape]]] = {
    "tenants": Tenant,
    "profiles": Profile,
    "links": Link,
    "preferences": Preferences,
    "templates": Template,
}


@dataclass(slots=True)
class _Read:
    """What the tables say, and all that is wrong with them."""

    items: list[Item] = field(default_factory=list)
    supplied: dict[Place, frozenset[Slot]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    pointers: dict[Place, str] = field(default_factory=dict)
    ours: set[str] = field(default_factory=set)


async def apply(call: Call) -> Answer:
    """Make the directory what the tables say; answers what changed, or would."""
    query = call.query(ApplyQuery)
    directory = call.services.directory
    tables = document(call)
    who = actor(call)
    told: list[Document] = []
    pointers: dict[Place, str] = {}

    def work(snapshot: Snapshot) -> Change:
        read = _read(call, snapshot, tables)
        pointers.update(read.pointers)
        if read.faults:
            raise refusal(read.faults)
        items = [directory.with_kept_secrets(snapshot, item) for item in read.items]
        origin = f"set:{who.tenant}/{query.set or ''}"  # of its own for each who apply files
        wanted = set(map(place, items))
        gone = changes.prune(snapshot, who, wanted, origin, unfinished) if query.prune else ()
        change = changes.declare(snapshot, who, items, origin, read.supplied, gone)
        told[:] = described(snapshot, change)
        return change

    closed = ExitStack()

    def unfinished(tenant: str) -> int:
        """Count what a tenant that goes has in hand; nothing more is let in until that is done."""
        closed.enter_context(call.services.admission.closed(tenant))
        return directory.unfinished(tenant) + call.services.admission.entering(tenant)

    try:
        with closed:
            await directory.change(who, work, dry_run=query.dry_run)
    except Broken as problem:
        raise _placed(problem, [(fault.place, fault.told()) for fault in problem.faults], pointers) from None
    except Misplaced as problem:
        fault = Fault("", problem.code.code, problem.detail)
        raise _placed(problem, [(problem.where, fault)], pointers) from None
    return json_answer({"dry_run": query.dry_run, "changes": told})


def _placed(problem: Problem, faults: Iterable[tuple[Place, Fault]], pointers: dict[Place, str]) -> Problem:
    """Tell the same with a pointer to the row of each object; of what is in no table, the object's name."""
    errors = [
        Fault(pointers[where] + fault.pointer, fault.code, fault.detail)
        if where in pointers
        else Fault("", fault.code, f"{' '.join(filter(None, where))}: {fault.detail}")
        for where, fault in faults
    ]
    return Problem(problem.code, problem.detail, errors=errors)


def _read(call: Call, snapshot: Snapshot, tables: Document) -> _Read:
    read = _Read()
    rows = {name: [*rows] for name, rows in tables.items() if name in TABLES and isinstance(rows, list)}
    for name in islice(tables.keys() - rows.keys(), MAX_FAULTS):
        read.faults.append(Fault(f"/{name}", *_no_table(name)))
    if sum(map(len, rows.values())) > MOST_ROWS:
        raise refusal([Fault("", "too_many", f"Files hold at most {MOST_ROWS} objects at once.")])
    if sum(map(_length, rows.get("templates", []))) > MOST_TEMPLATE:
        raise refusal([Fault("/templates", "too_many", f"Templates have at most {MOST_TEMPLATE} characters at once.")])
    _place_tenants(call, snapshot, rows.get("tenants", []), read)
    for name in TABLES:
        for index, row in enumerate(rows.get(name, [])):
            if len(read.faults) >= MAX_FAULTS:  # no more are told
                return read
            pointer = f"/{name}/{index}"
            item = _row(call, snapshot, name, row, pointer, read)
            if item is not None and (first := read.pointers.setdefault(place(item), pointer)) != pointer:
                read.faults.append(Fault(pointer, "repeated", f"It is defined at {first} already."))
    return read


def _length(template: object) -> int:
    parts = template.values() if isinstance(template, dict) else ()
    return sum(len(part) for part in parts if isinstance(part, str))


def _no_table(name: str) -> tuple[str, str]:
    if name == "keys":
        return "unknown_field", "Keys are made by keys create, or in [provision]."
    return (
        ("bad_value", "A table is a list of objects.")
        if name in TABLES
        else ("unknown_field", "There is no such table.")
    )


def _place_tenants(call: Call, snapshot: Snapshot, rows: list[Any], read: _Read) -> None:
    """Give tenants what their rows leave to others, new ones the caller as parent; and find out whom the rows may concern."""
    made: dict[str, str | None] = {}
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(id_ := row.get("id"), str):
            continue
        known = snapshot.tenant(id_)
        if guesses_parent(call, id_, row):
            fault = Fault(f"/tenants/{index}/parent", Code.LOCKED_BY_PARENT.code, Code.LOCKED_BY_PARENT.title)
            raise Problem(Code.LOCKED_BY_PARENT, errors=[fault])
        if known is None or known.id == ROOT:
            rows[index] = {"parent": call.caller.tenant if known is None else None, **row}
        else:
            rows[index] = untold(call, known, row)
        parent = rows[index]["parent"]
        made[id_] = parent if isinstance(parent, str) else None
    read.ours = changes.reached(snapshot, actor(call), made)


def _row(call: Call, snapshot: Snapshot, table: str, row: Any, pointer: str, read: _Read) -> Item | None:
    if not isinstance(row, dict):
        read.faults.append(Fault(pointer, "bad_value", "A JSON object is expected."))
        return None
    named = [row.get("id")] if table == "tenants" else [row.get("tenant"), row.get("child", row.get("tenant"))]
    if any(isinstance(one, str) and one not in read.ours for one in named):
        # Nothing else is looked at: an answer about it would be one about somebody else's objects.
        read.faults.append(Fault(pointer, "not_found", "There is no such tenant in your reach."))
        return None
    if table == "profiles":
        return _profile(call, snapshot, row, pointer, read)
    item, faults, _ = validated(TABLES[table], row)
    read.faults += _below(pointer, faults)
    if item is None:
        return None
    read.items.append(item)  # type: ignore[arg-type]
    return read.items[-1]


def _profile(call: Call, snapshot: Snapshot, row: Document, pointer: str, read: _Read) -> Item | None:
    tenant, name = row.get("tenant"), row.get("name")
    if not isinstance(tenant, str):
        read.faults.append(Fault(f"{pointer}/tenant", "required", "This field is required."))
        return None
    before = snapshot.profiles.get((tenant, name)) if isinstance(name, str) else None
    given = {field: value for field, value in row.items() if field != "tenant"}
    try:
        profile, supplied = read_profile(call.services.directory.policy, tenant, filled(given), before)
    except Problem as problem:
        read.faults += _below(pointer, problem.errors)
        return None
    read.items.append(profile)
    read.supplied[place(profile)] = supplied
    return profile


def _below(pointer: str, faults: tuple[Fault, ...] | list[Fault]) -> Iterator[Fault]:
    for fault in faults:
        yield replace(fault, pointer=pointer + fault.pointer)
