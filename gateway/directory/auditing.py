"""What a change of the directory leaves in the audit log: who changed which fields of what.

Of most fields only the name is written; values only of those that hold no secret and no personal data. A child's log
says nothing of an inherited profile but its name and the child's own mark.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydantic import BaseModel

from gateway.directory.changes import Actor, Change
from gateway.directory.entries import Item, place
from gateway.directory.shapes import Link, Pause, Profile, StoredSecret, Template, Webhook
from gateway.directory.snapshot import EVERYTHING, Place, Snapshot
from gateway.message.notification import compact
from gateway.store.rows import Happening

SHOWN: Final = frozenset({
    "enabled", "is_default", "parent", "own_profiles", "fallback", "share_default", "limits.per_minute",
    "limits.queued", "limits.connections", "limits.messages_per_connection", "limits.recipients", "limits.bytes",
    "preset", "host", "port", "security", "tls.verify", "tls.min_version", "tls.allow_auth_unverified", "auth.method",
    "connector", "force_sender", "scopes", "mode", "expires_at", "child", "version", "url.place", "events",
    "disabled_reason",
})  # fmt: skip
HIDDEN: Final = frozenset({"tenant", "id", "sha256_hex", "sealed", "created_at", "updated_at", "profile", "file"})

Fields = dict[str, Any]


def happenings(before: Snapshot, change: Change, actor: Actor) -> Iterator[Happening]:
    """Tell a change, object by object, in the log of each tenant that it concerns."""
    for where in change.drop:
        yield from _dropped(before, where, actor)
    for item in change.put:
        where = place(item)
        was = before.find(where)
        if isinstance(item, Link):
            yield from _linked(was if isinstance(was, Link) else None, item, actor)
            continue
        if isinstance(item, Pause):
            yield _paused(item, actor)
            continue
        action = "update" if was is not None else "create"
        yield _told(actor, where, f"{where[0]}.{action}", _changes(was, item))


def described(before: Snapshot, change: Change) -> list[Fields]:
    """Tell a change as a list for people: what is done to which object, and which fields differ."""
    told: list[Fields] = [
        {"action": "delete", "kind": kind, "tenant": tenant, "name": name} for kind, tenant, name in change.drop
    ]
    for item in change.put:
        kind, tenant, name = where = place(item)
        was = before.find(where)
        action = "create" if was is None else "update"
        told.append({"action": action, "kind": kind, "tenant": tenant, "name": name, "fields": _changes(was, item)})
    return told


def _dropped(before: Snapshot, where: Place, actor: Actor) -> Iterator[Happening]:
    kind, tenant, name = where
    match kind:
        case "link":
            profile, _, child = name.partition("/")
            yield Happening(tenant, actor.name, actor.tenant, "profile.unlink", profile, _child(child))
            yield Happening(child, actor.name, actor.tenant, "profile.unlink", profile, "[]")
        case "tenant":
            was = before.tenant(tenant)
            above = was.parent if was is not None and was.parent is not None else tenant
            yield Happening(above, actor.name, actor.tenant, "tenant.delete", tenant, "[]")
        case "pause":
            yield _told(actor, where, "queue.resume" if where == EVERYTHING else "resume", [])
        case "key":
            yield _told(actor, where, "key.revoke", [])
        case _:
            yield _told(actor, where, f"{kind}.delete", [])


def _paused(item: Pause, actor: Actor) -> Happening:
    where = place(item)
    if where != EVERYTHING:
        return _told(actor, where, "pause", [])
    return _told(actor, where, "queue.pause", [{"field": "reason", "after": item.reason}])


def _linked(was: Link | None, link: Link, actor: Actor) -> Iterator[Happening]:
    if was is None:
        yield Happening(link.tenant, actor.name, actor.tenant, "profile.push", link.profile, _child(link.child))
    mark = _differences({"is_default": was.is_default} if was else {}, {"is_default": link.is_default})
    action = "profile.inherit" if was is None else "profile.update"
    yield Happening(link.child, actor.name, actor.tenant, action, link.profile, compact(mark))


def _child(child: str) -> str:
    return compact([{"field": "child", "after": child}])


def _told(actor: Actor, where: Place, action: str, changes: list[Fields]) -> Happening:
    kind, tenant, name = where
    return Happening(
        tenant, actor.name, actor.tenant, action, name or (tenant if kind == "tenant" else ""), compact(changes)
    )


def _changes(was: object | None, item: Item) -> list[Fields]:
    """Tell which fields differ; of what is new, those that are not as they would be by themselves."""
    before = dict(_leaves(_document(was, new=False))) if isinstance(was, BaseModel) else {}
    return _differences(before, dict(_leaves(_document(item, new=was is None))))


def _document(item: BaseModel, *, new: bool) -> Fields:
    if isinstance(item, Webhook):
        return _webhook(item)
    by_name = isinstance(item, Profile | Template | StoredSecret)  # its name says which one it is, and never changes
    return item.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=new, exclude={"name"} if by_name else None
    )


def _webhook(webhook: Webhook) -> Fields:
    """A query may hold a token: of that, and of the secret, only the log's reader is told that it changed."""
    place, _, query = webhook.url.partition("?")
    return {
        "url": {"place": place, "query": query or None},
        "events": list(webhook.events),
        "enabled": webhook.enabled,
        "disabled_reason": webhook.disabled_reason,
        "secret": webhook.sealed,
    }


def _leaves(document: Fields, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if name in HIDDEN and not prefix:
            continue
        if name in ("credential", "client_certificate", "key") and isinstance(value, dict):
            yield prefix + name, value  # a credential is one thing, and its parts are nobody's
        elif isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _differences(before: Fields, after: Fields) -> list[Fields]:
    return [
        _difference(name, before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _difference(name: str, before: object, after: object) -> Fields:
    if name not in SHOWN:
        return {"field": name}
    shown: Iterable[tuple[str, object]] = (("before", before), ("after", after))
    return {"field": name, **{when: value for when, value in shown if value is not None}}
