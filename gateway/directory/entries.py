"""Between the directory's objects and the store's entries: JSON documents, one an object."""

from collections.abc import Iterable
from typing import assert_never

from gateway.directory.shapes import Key, Link, Preferences, Profile, Shape, Tenant
from gateway.directory.snapshot import ROOT, Snapshot, by_key
from gateway.store.rows import Entry

API = "api"
PROVISION = "provision"

Item = Tenant | Profile | Link | Preferences | Key


def place(item: Item) -> tuple[str, str, str]:
    """Where an object stands: kind, tenant, name."""
    match item:
        case Tenant():
            return "tenant", item.id, ""
        case Profile():
            return "profile", item.tenant, item.name
        case Link():
            return "link", item.tenant, f"{item.profile}/{item.child}"
        case Preferences():
            return "preferences", item.tenant, ""
        case Key():
            return "key", item.tenant, item.id
        case _:
            assert_never(item)


def entry(item: Item, origin: str) -> Entry:
    """Write an object as the store keeps it."""
    return Entry(*place(item), item.model_dump_json(by_alias=True, exclude_defaults=True, exclude_none=True), origin)


_SHAPES: dict[str, type[Shape]] = {
    "tenant": Tenant,
    "profile": Profile,
    "link": Link,
    "preferences": Preferences,
    "key": Key,
}


def snapshot_of(revision: int, entries: Iterable[Entry]) -> Snapshot:
    """Read the whole directory; the root tenant is there even if nobody made it."""
    items: list[Shape] = []
    revoked: set[str] = set()
    provisioned: set[tuple[str, str, str]] = set()
    for stored in entries:
        if stored.kind == "revoked":
            revoked.add(stored.name)
            continue
        items.append(_SHAPES[stored.kind].model_validate_json(stored.body))
        if stored.origin == PROVISION:
            provisioned.add(stored[:3])
    tenants = {item.id: item for item in items if isinstance(item, Tenant)}
    tenants.setdefault(ROOT, Tenant(id=ROOT, parent=None))
    return Snapshot(
        revision=revision,
        tenants=tenants,
        profiles=by_key(item for item in items if isinstance(item, Profile)),
        links=tuple(item for item in items if isinstance(item, Link)),
        preferences={item.tenant: item for item in items if isinstance(item, Preferences)},
        key_shapes={item.id: item for item in items if isinstance(item, Key)},
        revoked=frozenset(revoked),
        provisioned=frozenset(provisioned),
    )
