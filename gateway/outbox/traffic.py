"""What came of mail in the last hour, minute by minute and by tenant: kept in memory, for people who look.

Owns sixty minutes of this process; a restart forgets them, and what other daemons carry is not in them. Of one minute
`APART` tenants are told apart; what more tenants do is in the minute's sum alone, which only those may see who may see
everybody. It is no record: metrics and the notifications themselves are.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from gateway.outbox.states import State

MINUTE: Final = 60_000  # ms
KEPT: Final = 60  # minutes
APART: Final = 1_000

RELAYED, FAILED, DEFERRED = range(3)
_KINDS: Final[Mapping[str, int]] = {
    State.RELAYED: RELAYED, State.FAILED: FAILED, "outcome_unknown": FAILED, State.EXPIRED: FAILED,
    State.DEFERRED: DEFERRED,
}  # fmt: skip

Counts = list[int]


class Minute(NamedTuple):
    """How many recipients were relayed, failed (or ran out of time) and were put off in the minute that began then (ms)."""

    at: int
    relayed: int
    failed: int
    deferred: int


class _Kept(NamedTuple):
    all: Counts
    tenants: dict[str, Counts]


class Traffic:
    """The last hour; the clock gives milliseconds since the epoch."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """Begin with nothing."""
        self._clock = clock
        self._kept: dict[int, _Kept] = {}  # by the minute's number since the epoch

    def count(self, event: str, count: int, tenant: str) -> None:
        """Recipients of a tenant's reached a state; events that are none of these are let pass."""
        kind = _KINDS.get(event)
        if kind is None:
            return
        number = self._clock() // MINUTE
        kept = self._kept.get(number) or self._begin(number)
        kept.all[kind] += count
        counts = kept.tenants.get(tenant)
        if counts is None:
            if len(kept.tenants) == APART:
                return
            counts = kept.tenants[tenant] = [0, 0, 0]
        counts[kind] += count

    def _begin(self, number: int) -> _Kept:
        """Begin a minute, and let go what is not of the hour that ends with it, also if the clock was set back."""
        for other in [other for other in self._kept if not number - KEPT < other < number]:
            del self._kept[other]
        kept = self._kept[number] = _Kept([0, 0, 0], {})
        return kept

    def forget(self, tenant: str) -> None:
        """Tell a tenant apart no more: who gets its name next shall not see what it did."""
        for kept in self._kept.values():
            kept.tenants.pop(tenant, None)

    def minutes(self, sees: Callable[[str], bool] | None = None) -> list[Minute]:
        """Tell the last hour, oldest first, the present minute last: of the tenants that `sees` lets in, or of all."""
        present = self._clock() // MINUTE
        known = (
            {} if sees is None else {tenant: sees(tenant) for kept in self._kept.values() for tenant in kept.tenants}
        )
        return [
            Minute(number * MINUTE, *self._of(number, None if sees is None else known))
            for number in range(present - KEPT + 1, present + 1)
        ]

    def _of(self, number: int, known: Mapping[str, bool] | None) -> Counts:
        kept = self._kept.get(number)
        if kept is None:
            return [0, 0, 0]
        if known is None:
            return kept.all
        seen = [counts for tenant, counts in kept.tenants.items() if known[tenant]]
        return [sum(counts[kind] for counts in seen) for kind in (RELAYED, FAILED, DEFERRED)]
