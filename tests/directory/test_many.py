"""What a change of many tenants costs: tables that are not sorted by tenant are gone through once, and not for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.directory.changes import Change, cleared_out, from_scratch
from gateway.directory.rules import Policy, faults
from gateway.directory.shapes import StoredSecret, Template, Tenant
from gateway.directory.snapshot import Key, Snapshot
from gateway.smtp.egress import EgressPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

TENANTS = [f"t{number}" for number in range(50)]
PLACES = [("tenant", tenant, "") for tenant in TENANTS]


class Table(dict[Any, Any]):
    """A table that counts who goes through it."""

    passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return super().__iter__()

    def items(self) -> Any:
        self.passes += 1
        return super().items()

    def values(self) -> Any:
        self.passes += 1
        return super().values()


class Marks(frozenset[Any]):
    """A set that does."""

    passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return super().__iter__()


def full(**more: Any) -> Snapshot:
    """Give each tenant one of everything that is not sorted by tenant."""
    sealed = {"name": "a", "sealed": "x", "version": 1, "created_at": 0, "updated_at": 0}
    keys = [Key(f"key-{one}", one, "", frozenset({"send"}), b"", 0, None, (), "live") for one in TENANTS]
    return Snapshot(
        templates=Table({(one, "a"): Template(tenant=one, name="a", subject="s", text="t") for one in TENANTS}),
        secrets=Table({(one, "a"): StoredSecret.model_validate({"tenant": one, **sealed}) for one in TENANTS}),
        paused=Marks((one, "a") for one in TENANTS),
        keys=Table({key.id: key for key in keys}),
        **more,
    )


def passes(snapshot: Snapshot) -> list[int]:
    """How often each table was gone through."""
    tables: list[Any] = [snapshot.templates, snapshot.secrets, snapshot.paused, snapshot.keys]
    return [table.passes for table in tables]


def belongings() -> set[tuple[str, str, str]]:
    """Name all that the tenants have."""
    named = {(kind, one, "a") for kind in ("template", "secret", "pause") for one in TENANTS}
    return named | {("key", one, f"key-{one}") for one in TENANTS}


def test_new_tenants_begin_with_nothing() -> None:
    """What was left under their names is looked for once for all of them; where none is new, not at all."""
    snapshot = full()
    change = from_scratch(snapshot, Change([Tenant(id=one) for one in TENANTS]))
    assert (set(change.drop), len(change.drop)) == (belongings(), 200)
    assert passes(snapshot) == [1, 1, 1, 1]
    assert from_scratch(snapshot, Change([snapshot.templates["t1", "a"]])).drop == []
    assert passes(snapshot) == [1, 1, 1, 1]


def test_tenants_go_with_all_that_they_have() -> None:
    """Found once for all that go together."""
    snapshot = full(tenants={one: Tenant(id=one) for one in TENANTS})
    going = cleared_out(snapshot, PLACES, lambda _tenant: 0)
    assert (set(going), len(going)) == ({*PLACES, *belongings()}, 250)
    assert passes(snapshot) == [1, 1, 1, 1]


def test_who_leaves_something_behind_is_found() -> None:
    """Of all that have gone, by one look at who has something."""
    snapshot = full()
    found = faults(snapshot, [], PLACES, Policy(EgressPolicy((25,))))
    assert {(fault.tenant, fault.code) for fault in found} == {(one, "tenant_in_use") for one in TENANTS}
    assert (passes(snapshot)[0], passes(snapshot)[3]) == (1, 1)
