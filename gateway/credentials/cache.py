"""Secrets that were fetched, kept in memory: fresh, nearly stale, stale, or known to be missing.

A secret is fresh for a while, and refreshed before that is over if somebody uses it. While its source is away the last
value is served on, long when the source cannot be reached, shortly when it says no: an operator's typo must not stop
mail at once, and a revocation must bite soon. Requests for one secret share one fetch and its outcome. Each source has
a breaker, a pause it asked for itself, and a bound on requests at once and a second.

The clock counts seconds and is passed in, as are the dice. Values never leave but as `Secret`.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateway.credentials.provider import PASSWORD, CredentialError, Fetched, Kind, Why

REFRESH_AHEAD: Final = 0.8  # of its freshness, when a secret in use is fetched anew
JITTER: Final = 0.1
DENIAL_PATIENCE: Final = 900.0  # how long a value is served on after its source said no
NEGATIVE: Final = {Kind.NOT_FOUND: 30.0, Kind.DENIED: 60.0, Kind.MALFORMED: 60.0, Kind.ROTATING: 3.0}
FORCED_EVERY: Final = 30.0  # one forced refresh a secret
OVERLAP: Final = 600.0  # how long the value before the present one is kept: source and relay never switch at once
PATIENCE: Final = 5.0  # that somebody waits for a fetch before the stale value has to do
CONCURRENT: Final = 8
PER_SECOND: Final = 20.0
TRIP_AFTER: Final = 3
LONGEST_BREAK: Final = 60.0
THROTTLED: Final = 10.0
LONGEST_THROTTLE: Final = 300.0
MOST: Final = 10_000

Fetch = Callable[[], Awaitable[Fetched]]


@dataclass(frozen=True, slots=True)
class Terms:
    """How long secrets of a source are fresh, and served on when it cannot be reached; seconds. 0 fresh: never kept."""

    fresh: float = 300.0
    stale: float = 86_400.0


class Held(NamedTuple):
    """A secret out of the cache; `stale` if its source did not vouch for it just now; `previous` for a while."""

    fetched: Fetched
    stale: bool = False
    previous: Fetched | None = None


@dataclass(slots=True)
class Line:
    """The way to one source: how much may go over it, and whether it is open."""

    clock: Callable[[], float]
    name: str = ""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT))
    failures: int = 0
    closed_until: float = 0.0
    error: CredentialError | None = None
    _throttle: float = THROTTLED
    _turn: float = 0.0

    def check(self) -> None:
        """Raise what is wrong with the source, as long as nobody should ask it."""
        wait = self.closed_until - self.clock()
        if wait > 0 and self.error is not None:
            raise CredentialError(self.error.kind, self.error.detail, wait)

    def turn(self) -> float:
        """Seconds until the next request may go."""
        now = self.clock()
        self._turn = max(self._turn, now) + 1 / PER_SECOND
        return max(0.0, self._turn - 1 / PER_SECOND - now)

    def answered(self) -> None:
        """The source works."""
        self.failures, self.closed_until, self.error, self._throttle = 0, 0.0, None, THROTTLED

    def failed(self, error: CredentialError, dice: Callable[[], float]) -> None:
        """Count what keeps everybody from the source; what is wrong with one secret does not."""
        now = self.clock()
        if error.kind is Kind.THROTTLED:
            self.closed_until = now + (error.retry_after or self._throttle)
            self._throttle = min(self._throttle * 2, LONGEST_THROTTLE)
        elif error.kind is Kind.UNREACHABLE:
            self.failures += 1
            if self.failures >= TRIP_AFTER:
                rest = min(2.0 ** (self.failures - TRIP_AFTER), LONGEST_BREAK)
                self.closed_until = now + rest * (1 + JITTER * (2 * dice() - 1))
        else:
            self.answered()  # it answered, and about another secret it may say something else
            return
        self.error = error


@dataclass(slots=True)
class _Entry:
    value: Fetched | None = None
    fetched_at: float = 0.0
    fresh_until: float = 0.0
    ahead_at: float = 0.0
    previous: Fetched | None = None
    previous_until: float = 0.0
    error: CredentialError | None = None
    error_until: float = 0.0
    refused_since: float | None = None
    forced_at: float = float("-inf")
    flight: "asyncio.Task[Fetched] | None" = None
    stale: bool = False


class Cache:
    """Secrets by key; the key says everything that a value depends on, and nothing about who asks."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        dice: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Begin with nothing."""
        self.on_fetch: Callable[[str, str], None] = lambda _source, _result: None
        self.on_stale: Callable[[str, bool], None] = lambda _source, _stale: None
        self._clock = clock
        self._dice = dice
        self._sleep = sleep
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    async def get(self, key: Hashable, line: Line, terms: Terms, fetch: Fetch, *, why: Why = Why.USE) -> Held:
        """Give a secret; one that was refused is fetched anew now and then, for a person always. `CredentialError`."""
        now = self._clock()
        entry = self._entry(key)
        if why is Why.PERSON or (why is Why.REFUSED and now - entry.forced_at >= FORCED_EVERY):
            entry.forced_at = now
        elif entry.value is not None and now < entry.fresh_until:
            if now >= entry.ahead_at and entry.flight is None:
                self._fly(entry, line, terms, fetch)
            return self._held(entry, stale=False)
        elif entry.error is not None and now < entry.error_until and entry.flight is None:
            return self._stale(entry, line, terms, entry.error)
        try:
            flight = entry.flight or self._fly(entry, line, terms, fetch)
            await asyncio.wait_for(asyncio.shield(flight), PATIENCE)
        except CredentialError as error:
            return self._stale(entry, line, terms, error)
        except TimeoutError:
            return self._stale(entry, line, terms, CredentialError(Kind.UNREACHABLE, "the secret's source is slow"))
        return self._held(entry, stale=False)

    def _entry(self, key: Hashable) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
            if len(self._entries) > MOST:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return entry

    def _held(self, entry: _Entry, *, stale: bool) -> Held:
        if entry.value is None:
            raise CredentialError(Kind.UNREACHABLE, "the secret was never fetched")
        previous = entry.previous if self._clock() < entry.previous_until else None
        return Held(entry.value, stale, previous)

    def _stale(self, entry: _Entry, line: Line, terms: Terms, error: CredentialError) -> Held:
        """Serve the last value while its age, and the reason why there is no newer one, permit it."""
        if entry.value is None:
            raise error
        now = self._clock()
        if error.kind in (Kind.NOT_FOUND, Kind.DENIED):
            over = entry.refused_since is not None and now - entry.refused_since > DENIAL_PATIENCE
        else:
            over = now - entry.fetched_at > terms.stale
        if over:
            raise error
        self._mark(entry, line, stale=True)
        return self._held(entry, stale=True)

    def _mark(self, entry: _Entry, line: Line, *, stale: bool) -> None:
        """Tell when a secret begins to be served stale, and when that is over; not each time."""
        if entry.stale is not stale:
            entry.stale = stale
            self.on_stale(line.name, stale)

    # Fetching.

    def _fly(self, entry: _Entry, line: Line, terms: Terms, fetch: Fetch) -> "asyncio.Task[Fetched]":
        flight = asyncio.ensure_future(self._fetch(entry, line, terms, fetch))
        entry.flight = flight
        flight.add_done_callback(lambda done: self._landed(entry, done))
        return flight

    def _landed(self, entry: _Entry, flight: "asyncio.Task[Fetched]") -> None:
        entry.flight = None
        if not flight.cancelled():
            with suppress(CredentialError):  # whoever waited was told; a refresh ahead of time has nobody
                flight.result()

    async def _fetch(self, entry: _Entry, line: Line, terms: Terms, fetch: Fetch) -> Fetched:
        line.check()  # what it raises was counted when it happened
        try:
            async with line.slots:
                if (wait := line.turn()) > 0:
                    await self._sleep(wait)
                fetched = await fetch()
        except CredentialError as error:
            self._failed(entry, line, error)
            raise
        line.answered()
        self._keep(entry, line, terms, fetched)
        return fetched

    def _failed(self, entry: _Entry, line: Line, error: CredentialError) -> None:
        now = self._clock()
        self.on_fetch(line.name, error.kind)
        line.failed(error, self._dice)
        entry.error = error
        entry.error_until = now + NEGATIVE.get(error.kind, 0.0)
        if error.kind in (Kind.NOT_FOUND, Kind.DENIED):
            entry.refused_since = entry.refused_since if entry.refused_since is not None else now

    def _keep(self, entry: _Entry, line: Line, terms: Terms, fetched: Fetched) -> None:
        now = self._clock()
        self.on_fetch(line.name, "ok")
        self._mark(entry, line, stale=False)
        if entry.value is not None and _differs(entry.value, fetched):
            entry.previous, entry.previous_until = entry.value, now + OVERLAP
        fresh = terms.fresh * (1 + JITTER * (2 * self._dice() - 1))
        if fetched.lasts is not None:
            fresh = min(fresh, fetched.lasts * 2 / 3)
        entry.value, entry.fetched_at = fetched, now
        entry.fresh_until, entry.ahead_at = now + fresh, now + fresh * REFRESH_AHEAD
        entry.error, entry.refused_since = None, None


def _differs(before: Fetched, after: Fetched) -> bool:
    """Is it another secret? What is told besides, such as when it was looked at last, makes it none."""
    if PASSWORD in before.fields and PASSWORD in after.fields:
        return before.fields[PASSWORD] != after.fields[PASSWORD]
    return before.fields != after.fields
