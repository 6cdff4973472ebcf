"""Between the directory's objects and the store's entries: JSON documents, one an object; and snapshots made of them.

A snapshot is never changed: `changed` gives the next one, which shares with it whatever stays.
"""

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, assert_never

from pydantic import ValidationError

from gateway.directory.shapes import Key as KeyShape
from gateway.directory.shapes import Link, Pause, Preferences, Profile, Shape, StoredSecret, Template, Tenant, Webhook
from gateway.directory.snapshot import API, EVERYTHING, ROOT, Key, Place, Snapshot
from gateway.observe import facts
from gateway.store.rows import Entry

Item = Tenant | Profile | Link | Preferences | Template | StoredSecret | Webhook | Pause | KeyShape

REVOKED = "revoked"  # the mark of a provisioned key that was revoked; it has no body


def place(item: Item) -> Place:
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
        case Template():
            return "template", item.tenant, item.name
        case StoredSecret():
            return "secret", item.tenant, item.name
        case Webhook():
            return "webhook", item.tenant, item.id
        case Pause():
            return "pause", item.tenant, item.profile
        case KeyShape():
            return "key", item.tenant, item.id
        case _:
            assert_never(item)


def entry(item: Item, origin: str) -> Entry:
    """Write an object as the store keeps it."""
    return Entry(*place(item), item.model_dump_json(by_alias=True, exclude_defaults=True, exclude_none=True), origin)


def gone(where: Place) -> Entry:
    """Name an object that shall be deleted."""
    return Entry(*where, "", API)


_SHAPES: dict[str, type[Shape]] = {
    "tenant": Tenant,
    "profile": Profile,
    "link": Link,
    "preferences": Preferences,
    "template": Template,
    "secret": StoredSecret,
    "webhook": Webhook,
    "pause": Pause,
    "key": KeyShape,
}


_BY_NAME: dict[str, str] = {"template": "templates", "secret": "secrets"}
"""The snapshot's tables of what tenants name, and nobody counts."""


BESIDES = 1024
"""Bytes that an object counts beside its JSON: for names, indexes, and what Python makes of it."""


def _weight(kind: str, body: str) -> int:
    """What an object counts against its organisation's quota: of keys, which are all of one size, nobody keeps the JSON."""
    return BESIDES + (0 if kind in ("key", "pause") else len(body))


def _weight_in(snapshot: Snapshot, where: Place) -> int:
    """What the object that stands there counted."""
    found = snapshot.find(where) if where[0] in _SHAPES else None
    if found is None:
        return 0
    return _weight(where[0], entry(found, API).body if isinstance(found, Shape) else "")  # type: ignore[arg-type]


def item_of(stored: Entry) -> Item:
    """Read an object as the store keeps it."""
    item: Item = _SHAPES[stored.kind].model_validate_json(stored.body)  # type: ignore[assignment]
    return item


def _readable(stored: Entry) -> Item | None:
    """Read an object; None if newer code wrote it, beside which this one works on without."""
    try:
        return item_of(stored)
    except (KeyError, ValidationError) as error:
        facts.entry_unreadable(stored.kind, stored.tenant, stored.name, error)
        return None


def key_of(shape: KeyShape) -> Key:
    """Make of a stored key what authentication needs."""
    return Key(
        shape.id,
        shape.tenant,
        shape.name,
        frozenset(shape.scopes),
        bytes.fromhex(shape.sha256_hex),
        shape.created_at,
        shape.expires_at,
        tuple(map(ip_network, shape.cidrs)),
        shape.mode,
        shape.file,
    )


class _Tables:
    """The tables of a snapshot in the making: each is copied when it is first written to."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._copies: dict[str, Any] = {}
        self._members: set[tuple[str, str]] = set()  # of the indexes: whose members are copies already
        self._weighed: set[Place] = set()  # where what stood before counts no more

    def _table(self, name: str) -> dict[Any, Any]:
        if name not in self._copies:
            self._copies[name] = dict(getattr(self._snapshot, name))
        table: dict[Any, Any] = self._copies[name]
        return table

    def _set(self, name: str) -> set[Any]:
        if name not in self._copies:
            self._copies[name] = set(getattr(self._snapshot, name))
        table: set[Any] = self._copies[name]
        return table

    def done(self, revision: int) -> Snapshot:
        """Give the snapshot."""
        copies = {name: frozenset(table) if isinstance(table, set) else table for name, table in self._copies.items()}
        changes: dict[str, Any] = copies
        return replace(self._snapshot, revision=revision, _routes={}, **changes)

    def _of(self, index: str, key: str) -> dict[Any, None]:
        table = self._table(index)
        if (index, key) not in self._members:
            self._members.add((index, key))
            table[key] = dict(table.get(key, {}))
        members: dict[Any, None] = table[key]
        return members

    def _join(self, index: str, key: str, member: Any) -> None:
        self._of(index, key)[member] = None

    def _part(self, index: str, key: str, member: Any) -> None:
        self._of(index, key).pop(member, None)

    def put(self, item: Item, origin: str) -> None:
        """Put an object in its place."""
        where = place(item)
        self._put_origin(where, origin)
        match item:
            case Tenant():
                self._put_tenant(item)
            case Profile():
                self._table("profiles")[item.tenant, item.name] = item
                self._join("_own", item.tenant, item.name)
            case Link():
                link = (item.tenant, item.profile, item.child)
                self._table("links")[link] = item
                self._join("_inherited", item.child, link)
                self._join("_pushed", item.tenant, link)
            case Preferences():
                self._table("preferences")[item.tenant] = item
            case Template() | StoredSecret():
                self._table(_BY_NAME[where[0]])[item.tenant, item.name] = item
            case Webhook():
                self._table("webhooks")[item.tenant, item.id] = item
                self._join("_webhooks", item.tenant, item.id)
            case Pause():
                self._put_pause(item)
            case KeyShape():
                self._table("keys")[item.id] = key_of(item)
            case _:
                assert_never(item)

    def _put_origin(self, where: Place, origin: str) -> None:
        if origin != API:
            self._table("origins")[where] = origin
        elif where in (self._copies.get("origins") or self._snapshot.origins):
            del self._table("origins")[where]

    def _put_tenant(self, tenant: Tenant) -> None:
        before = self._table("tenants").get(tenant.id)
        if before is not None and before.parent not in (None, tenant.parent):
            self._part("_children", before.parent, tenant.id)
        self._table("tenants")[tenant.id] = tenant
        if tenant.parent is not None:
            self._join("_children", tenant.parent, tenant.id)

    def drop(self, where: Place) -> None:
        """Take an object away."""
        kind, tenant, name = where
        if where in self._snapshot.origins:
            self._table("origins").pop(where, None)
        dropping: dict[str, Callable[[], object]] = {
            "tenant": lambda: self._drop_tenant(tenant),
            "profile": lambda: self._drop_profile(tenant, name),
            "link": lambda: self._drop_link(tenant, *name.split("/", 1)),
            "preferences": lambda: self._table("preferences").pop(tenant, None),
            "template": lambda: self._table(_BY_NAME[kind]).pop((tenant, name), None),
            "secret": lambda: self._table(_BY_NAME[kind]).pop((tenant, name), None),
            "webhook": lambda: self._drop_webhook(tenant, name),
            "pause": lambda: self._drop_pause(where),
            "key": lambda: self._table("keys").pop(name, None),
            REVOKED: lambda: self._set("revoked").discard(name),
        }
        if kind in dropping:  # newer code knows more of them
            dropping[kind]()

    def _drop_tenant(self, tenant: str) -> None:
        before = self._table("tenants").pop(tenant, None)
        if before is not None and before.parent is not None:
            self._part("_children", before.parent, tenant)
        if tenant == ROOT:  # it is there whatever becomes of what is said of it
            self._put_tenant(Tenant(id=ROOT, parent=None))

    def _drop_profile(self, tenant: str, name: str) -> None:
        self._table("profiles").pop((tenant, name), None)
        self._part("_own", tenant, name)

    def _drop_webhook(self, tenant: str, id_: str) -> None:
        self._table("webhooks").pop((tenant, id_), None)
        self._part("_webhooks", tenant, id_)

    def _put_pause(self, pause: Pause) -> None:
        if place(pause) == EVERYTHING:
            self._copies["all_paused"] = pause
        else:
            self._set("paused").add((pause.tenant, pause.profile))

    def _drop_pause(self, where: Place) -> None:
        if where == EVERYTHING:
            self._copies["all_paused"] = None
        else:
            self._set("paused").discard(where[1:])

    def _drop_link(self, owner: str, profile: str, child: str) -> None:
        link = (owner, profile, child)
        self._table("links").pop(link, None)
        self._part("_inherited", child, link)
        self._part("_pushed", owner, link)

    def weigh(self, where: Place, weight: int) -> None:
        """Count what stands there now instead of what did before; that goes once. The root has no quota."""
        tenant = where[1]
        more = weight - (0 if where in self._weighed else _weight_in(self._snapshot, where))
        self._weighed.add(where)
        if more and tenant != ROOT:
            own = self._table("own_bytes")
            own[tenant] = own.get(tenant, 0) + more
            if not own[tenant]:
                del own[tenant]

    def revoke(self, key_id: str) -> None:
        """Mark a provisioned key as revoked."""
        self._set("revoked").add(key_id)


def snapshot_of(revision: int, entries: Iterable[Entry]) -> Snapshot:
    """Read the whole directory; the root tenant is there even if nobody made it."""
    empty = Snapshot(tenants={ROOT: Tenant(id=ROOT, parent=None)})
    collecting = gc.isenabled()
    gc.disable()  # a large directory is a million new objects and no garbage: looking for some doubles the time
    try:
        return changed(empty, revision, entries, ())
    finally:
        if collecting:
            gc.enable()


def changed(snapshot: Snapshot, revision: int, put: Iterable[Entry], drop: Iterable[Entry]) -> Snapshot:
    """Give the snapshot after a change: what is dropped goes first."""
    tables, unreadable = _Tables(snapshot), snapshot.unreadable
    for stored in drop:
        where = (stored.kind, stored.tenant, stored.name)
        tables.drop(where)
        tables.weigh(where, 0)
    for stored in put:
        where = (stored.kind, stored.tenant, stored.name)
        if stored.kind == REVOKED:
            tables.revoke(stored.name)
        elif (item := _readable(stored)) is not None:
            tables.put(item, stored.origin)
            tables.weigh(where, _weight(stored.kind, stored.body))
        else:
            tables.drop(where)
            tables.weigh(where, 0)
            unreadable = True
    return replace(tables.done(revision), unreadable=unreadable)
