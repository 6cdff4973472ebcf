"""Declarative files over HTTP: tables of objects become the directory's, in one change, or not at all."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.directory import changes
from gateway.directory.auditing import described
from gateway.directory.changes import Change, Misplaced, Slot
from gateway.directory.directory import Broken
from gateway.directory.entries import Item, place
from gateway.directory.presets import filled
from gateway.directory.shapes import Link, Preferences, Profile, Shape, Template, Tenant
from gateway.directory.snapshot import API, Place, Snapshot
from gateway.http.call import Answer, Call, json_answer
from gateway.http.profiles import read_profile
from gateway.http.resources import Document, actor, document, validated
from gateway.http.schema import ApplyQuery
from gateway.problems import Code, Fault, Problem, refusal

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
        origin = f"set:{query.set}" if query.set is not None else API
        change = changes.declare(snapshot, who, items, origin, read.supplied)
        if query.prune:
            change.drop += changes.prune(snapshot, who, set(map(place, items)), origin)
            _check_idle(call, change)
        told[:] = described(snapshot, change)
        return change

    try:
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


def _check_idle(call: Call, change: Change) -> None:
    for kind, tenant, _ in change.drop:
        if kind == "tenant" and call.services.outbox.queued[tenant] > 0:
            raise Problem(Code.TENANT_IN_USE, f"tenant {tenant}: it has unfinished mail.")


def _read(call: Call, snapshot: Snapshot, tables: Document) -> _Read:
    read = _Read()
    for name, rows in tables.items():
        if name not in TABLES:
            detail = "Keys are made by keys create, or in [provision]." if name == "keys" else "There is no such table."
            read.faults.append(Fault(f"/{name}", "unknown_field", detail))
        elif not isinstance(rows, list):
            read.faults.append(Fault(f"/{name}", "bad_value", "A table is a list of objects."))
        else:
            for index, row in enumerate(rows):
                pointer = f"/{name}/{index}"
                item = _row(call, snapshot, name, row, pointer, read)
                if item is not None and (first := read.pointers.setdefault(place(item), pointer)) != pointer:
                    read.faults.append(Fault(pointer, "repeated", f"It is defined at {first} already."))
    return read


def _row(call: Call, snapshot: Snapshot, table: str, row: Any, pointer: str, read: _Read) -> Item | None:
    if not isinstance(row, dict):
        read.faults.append(Fault(pointer, "bad_value", "A JSON object is expected."))
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
        yield Fault(pointer + fault.pointer, fault.code, fault.detail)
