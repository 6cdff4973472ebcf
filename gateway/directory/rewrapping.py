"""Rewrapping: what older master keys sealed is sealed by the present one.

Everything sealed is opened, also what the present key sealed, so that a whole run without anything unreadable proves
that the older keys can go. Objects go page by page in the order of their places, each page in transactions of a
hundred objects: whenever it ends, all that opened before still opens, and the next run does what is left. A secret
that somebody changes meanwhile stays as they left it, and so does everything else of its object, its version included.
What a webhook signed with before, and signs with no more, is not opened but dropped.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from itertools import islice
from typing import Final, NamedTuple

from gateway.credentials.credentials import stored_place
from gateway.credentials.sealed import Seal, SealError
from gateway.directory.changes import Actor
from gateway.directory.directory import Directory, seal_place
from gateway.directory.entries import place
from gateway.directory.shapes import Profile, StoredSecret, Webhook
from gateway.directory.snapshot import ROOT, Place, Snapshot
from gateway.message.notification import compact
from gateway.store.clock import wall_clock
from gateway.store.rows import Happening

ACTION: Final = "secret.rewrap"
BATCH: Final = 100  # objects a transaction
MOST: Final = 10_000  # objects a page
FIRST: Final[Place] = ("", "", "")

_Item = Profile | StoredSecret | Webhook
_Resealed = Mapping[str, str | None]  # an object's new ciphertexts by the old ones; None: it needs that no more


class Unreadable(NamedTuple):
    """What does not open: of which object, in which of its fields (a stored secret has but one), and why."""

    kind: str
    tenant: str
    name: str
    field: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Page:
    """What became of a page: how many objects were looked at, and how many of each kind were sealed anew.

    `last` is where the next page begins, None if there is none.
    """

    checked: int
    profiles: int
    secrets: int
    webhooks: int
    unreadable: Sequence[Unreadable]
    last: Place | None


@dataclass(slots=True)
class _Plan:
    places: Sequence[Place]
    last: Place | None
    resealed: dict[Place, _Resealed] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)

    def happening(self, actor: Actor) -> Happening:
        """Who does it, and to how many objects."""
        kinds = Counter(kind for kind, _, _ in self.resealed)
        told = [{"field": f"{kind}s", "after": kinds[kind]} for kind in ("profile", "secret", "webhook")]
        return Happening(ROOT, actor.name, actor.tenant, ACTION, "", compact(told))


async def rewrap(directory: Directory, actor: Actor, after: Place = FIRST, limit: int = MOST) -> Page:
    """Rewrap a page of objects beyond a place. Its first transaction also tells the audit log how many it will be."""
    plan = await asyncio.to_thread(_plan, directory.snapshot, directory.seal, after, limit, wall_clock())
    told = [plan.happening(actor)]
    done: Counter[str] = Counter()
    waiting = iter(plan.resealed.items())
    while batch := dict(islice(waiting, BATCH)):
        put = await directory.reseal(actor, partial(_exchanged, batch), told)
        done.update(place(item)[0] for item in put)
        told = [] if put else told
    return Page(len(plan.places), done["profile"], done["secret"], done["webhook"], plan.unreadable, plan.last)


def _plan(snapshot: Snapshot, seal: Seal, after: Place, limit: int, now: int) -> _Plan:
    """Open a page of objects and seal them anew; in a thread, because it takes its time and a snapshot never changes."""
    found = nsmallest(limit + 1, (where for where in _holders(snapshot) if where > after))
    places = found[:limit]
    plan = _Plan(places, places[-1] if len(found) > limit else None)
    for where in places:
        item = _find(snapshot, where)
        resealed: dict[str, str | None] = {}
        for slot, bound, sealed in _sealed(item):
            if slot == "previous" and isinstance(item, Webhook) and not item.signs_with_both(now):
                resealed[sealed] = None
                continue
            try:
                secret = seal.open(sealed, bound)
            except SealError as error:
                plan.unreadable.append(Unreadable(*where, slot, str(error)))
            else:
                if not seal.is_current(sealed):
                    resealed[sealed] = seal.close(secret, bound)
        if resealed:
            plan.resealed[where] = resealed
    return plan


def _holders(snapshot: Snapshot) -> Iterator[Place]:
    """Name the objects in which something is sealed."""
    for profile in snapshot.profiles.values():
        if any(credential.sealed is not None for _, credential in profile.credentials()):
            yield place(profile)
    yield from map(place, snapshot.secrets.values())
    yield from map(place, snapshot.webhooks.values())


def _find(snapshot: Snapshot, where: Place) -> _Item | None:
    found = snapshot.find(where)
    return found if isinstance(found, Profile | StoredSecret | Webhook) else None


def _sealed(item: _Item | None) -> Iterator[tuple[str | None, Sequence[str], str]]:
    """What is sealed in an object: its field, the place it is sealed for, and the ciphertext."""
    match item:
        case StoredSecret():
            yield None, stored_place(item.tenant, item.name, item.version), item.sealed
        case Webhook():
            yield "secret", item.sealed_for, item.sealed
            if item.previous is not None:
                yield "previous", item.sealed_for, item.previous
        case Profile():
            for slot, credential in item.credentials():
                if credential.sealed is not None:
                    yield ".".join(slot), seal_place(item, slot), credential.sealed
        case None:
            return


def _exchanged(batch: Mapping[Place, _Resealed], snapshot: Snapshot) -> list[_Item]:
    """Give the objects of a batch as they are now, with new ciphertexts where the old ones still stand."""
    return [
        _resealed(item, resealed)
        for where, resealed in batch.items()
        if (item := _find(snapshot, where)) is not None and any(old in resealed for _, _, old in _sealed(item))
    ]


def _resealed(item: _Item, resealed: _Resealed) -> _Item:
    if isinstance(item, StoredSecret):
        return item.model_copy(update={"sealed": resealed[item.sealed]})
    if isinstance(item, Webhook):
        exchanged = {name: resealed.get(old, old) for name in ("sealed", "previous") if (old := getattr(item, name))}
        return item.model_copy(update=exchanged)
    for slot, credential in list(item.credentials()):
        if credential.sealed is not None and credential.sealed in resealed:
            item = item.with_credential(slot, credential.model_copy(update={"sealed": resealed[credential.sealed]}))
    return item
