"""How much waits for webhooks: counted now and then, and kept up with in between. Only counts and remembers.

A tenant may have so many events waiting, of so many octets together. Once a count finds more, those of its webhooks
that have more than an even share of what it may have are crowded: nothing is composed for them any more, and they are to
be disabled. What the others have meanwhile is less than as much again. Between two counts a daemon does not know what
others have told: where there may be too much it asks for a count, and composes up to twice as much until there is one.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from gateway.store.rows import EventBacklog, Place

MOST_EVENTS: Final = 100_000  # of a tenant
MOST_OCTETS: Final = 64 << 20  # of a tenant's payloads
UNCOUNTED: Final = 2  # times as much may be composed before it is counted


@dataclass(slots=True)
class Load:
    """Events, and the octets of their payloads."""

    events: int = 0
    octets: int = 0

    def add(self, events: int, octets: int) -> None:
        """Count some more, or fewer; never below nothing."""
        self.events, self.octets = max(0, self.events + events), max(0, self.octets + octets)

    def beyond(self, share: float = 1) -> bool:
        """Is one of that many such shares more than a tenant may have?"""
        return self.events * share > MOST_EVENTS or self.octets * share > MOST_OCTETS


_Loads = dict[str, Load]  # by webhook


class Backlog:
    """What waits, as far as this daemon knows; `wanted` is set when it would better be counted at once."""

    def __init__(self) -> None:
        """Know of nothing."""
        self.wanted = asyncio.Event()
        self.crowded: set[Place] = set()
        self._loads: dict[str, _Loads] = {}
        self._since: dict[str, _Loads] = {}  # what came since the tenant's last count began
        self._ends: dict[str, int] = {}  # when the first of a tenant's events ends, by its last count

    @property
    def events(self) -> int:
        """How many wait, of all tenants."""
        return sum(load.events for loads in self._loads.values() for load in loads.values())

    @property
    def first_end(self) -> int | None:
        """When the first of all ends (ms), by the last counts."""
        return min(self._ends.values(), default=None)

    def takes(self, place: Place, octets: int) -> bool:
        """Count an event that is composed for a webhook; False if there shall be no such event, for it is crowded."""
        if place in self.crowded:
            return False
        tenant, webhook = place
        loads, since = (one.setdefault(tenant, {}) for one in (self._loads, self._since))
        load, total = loads.setdefault(webhook, Load()), _total(loads)
        if total.beyond() or _total(since).beyond(2):  # by now much of it may be over, or never have been written
            self.wanted.set()
        if total.beyond(1 / UNCOUNTED) and load.beyond(len(loads) / UNCOUNTED):
            return False
        for one in (load, since.setdefault(webhook, Load())):
            one.add(1, octets)
        return True

    def over(self, place: Place, octets: int) -> None:
        """An event is told, or given up."""
        tenant, webhook = place
        if (load := self._loads.get(tenant, {}).get(webhook)) is not None:
            load.add(-1, -octets)

    def begin(self, tenant: str) -> Callable[[Iterable[EventBacklog]], None]:
        """Begin to count a tenant's events; what is answered takes the result."""
        since = self._since[tenant] = {}

        def counted(found: Iterable[EventBacklog]) -> None:
            loads: _Loads = {}
            for one in found:
                loads.setdefault(one.webhook, Load()).add(one.waiting, one.octets)
                self._ends[tenant] = min(one.expires_at, self._ends.get(tenant, one.expires_at))
            self._crowd(tenant, loads)
            for webhook, load in since.items():  # some of which was there to be counted
                loads.setdefault(webhook, Load()).add(load.events, load.octets)
            self._loads[tenant] = loads

        self._ends.pop(tenant, None)
        return counted

    def drop(self, place: Place) -> None:
        """Whatever waited for a webhook does so no more."""
        tenant, webhook = place
        self.crowded.discard(place)
        for loads in (self._loads, self._since):
            loads.get(tenant, {}).pop(webhook, None)

    def found(self, places: Collection[Place]) -> None:
        """Those are all the webhooks that have events: nothing waits for others, and what is new of them is counted."""
        known = {(tenant, webhook) for tenant, loads in self._loads.items() for webhook in loads}
        for tenant, webhook in known.difference(places):
            del self._loads[tenant][webhook]
            if not self._loads[tenant]:
                for of_tenant in (self._loads, self._since, self._ends):
                    of_tenant.pop(tenant, None)
        if not known.issuperset(places):
            self.wanted.set()

    def _crowd(self, tenant: str, loads: _Loads) -> None:
        """Find who has too much; what they have counts until they are disabled, and it is dropped."""
        if not _total(loads).beyond():
            return
        crowded = {(tenant, webhook) for webhook, load in loads.items() if load.beyond(len(loads))}
        if not crowded <= self.crowded:
            self.crowded |= crowded
            self.wanted.set()


def _total(loads: _Loads) -> Load:
    return Load(sum(one.events for one in loads.values()), sum(one.octets for one in loads.values()))
