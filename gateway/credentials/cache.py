"""Secrets that were fetched, kept in memory: fresh, nearly stale, stale, or known to be missing.

A secret is fresh for a while, and refreshed before that is over if somebody uses it. While its source is away the last
value is served on, long when the source cannot be reached, shortly when it says no: an operator's typo must not stop
mail at once, and a revocation must bite soon. Requests for one secret share one fetch and its outcome. Each source has
a breaker, a pause it asked for itself, and a bound on requests at once and a second.

What operators see of it is counted here and read when somebody looks, so that a use of what is fresh costs little.

The clock counts seconds and is passed in, as are the dice. Values never leave but as `Secret`.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple
from weakref import WeakSet

from gateway.credentials.login import Logins
from gateway.credentials.provider import CredentialError, Fetched, Kind, Why
from gateway.observe import facts
from gateway.observe.metrics import SecretLook

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
EXPIRES_SOON: Final = 14 * 86_400.0  # seconds before the end that its source tells, when operators are warned
USES: Final = ("hit", "ahead", "miss", "stale", "negative")

Fetch = Callable[[], Awaitable[Fetched]]


@dataclass(frozen=True, slots=True)
class Terms:
    """How long secrets of a source are fresh, and served on when it cannot be reached; seconds. 0 fresh: never kept.

    None for `stale` is for what is dead at a known hour, such as a token: it is served on while its source vouches for
    it (`Fetched.lasts`) and not a second longer, whatever keeps a newer one away.
    """

    fresh: float = 300.0
    stale: float | None = 86_400.0


class Held(NamedTuple):
    """A secret out of the cache; `stale` if its source did not vouch for it just now; `previous` for a while."""

    fetched: Fetched
    stale: bool = False
    previous: Fetched | None = None


class State(StrEnum):
    """How a secret stands in the cache: vouched for, outliving its source, known not to be had, or never asked for."""

    FRESH = "fresh"
    STALE = "stale"
    NEGATIVE = "negative"
    UNUSED = "unused"


class Warned(StrEnum):
    """What a person should look at before it stops mail."""

    EXPIRES_SOON = "secret_expires"
    EXPIRED = "secret_expired"


class Known(NamedTuple):
    """What is known of a secret without asking its source; never the value.

    `age` is in seconds since it was fetched, `error` how the last attempt failed if it did, `expires_at` a Unix time.
    """

    state: State
    version: str = ""
    age: float | None = None
    error: Kind | None = None
    expires_at: float | None = None
    warning: Warned | None = None


@dataclass(slots=True, eq=False, weakref_slot=True)
class Line:
    """The way to one source: how much may go over it, and whether it is open.

    Requests that are on their way together fail together. So whoever begins one notes how many failures had `counted`:
    the first to fail counts, and for what the others say no pause grows.

    `uses` of its secrets are counted by `USES`, together with those of other lines of its name.
    """

    clock: Callable[[], float]
    name: str = ""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT))
    failures: int = 0
    counted: int = 0
    closed_until: float = 0.0
    error: CredentialError | None = None
    answered_at: float | None = None
    uses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(USES, 0))
    logins: Logins = field(init=False)
    _throttle: float = 0.0
    _turn: float = 0.0

    def __post_init__(self) -> None:
        """Let nobody have signed in yet."""
        self.logins = Logins(self.clock, self.name)

    @property
    def closed(self) -> bool:
        """Is the source left alone at the moment?"""
        return self.error is not None and self.clock() < self.closed_until

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

    def answered(self, begun: int) -> None:
        """The source works; what was begun before it asked for a pause does not end that."""
        self.answered_at = self.clock()
        if begun < self.counted and self.error is not None and self.error.kind is Kind.THROTTLED:
            return
        self.failures, self.closed_until, self.error, self._throttle = 0, 0.0, None, 0.0

    def failed(self, error: CredentialError, begun: int, dice: Callable[[], float]) -> None:
        """Count what keeps everybody from the source; what is wrong with one secret does not."""
        first, pause = begun == self.counted, 0.0
        if error.kind is Kind.THROTTLED:
            if first:
                self._throttle = min(max(self._throttle * 2, THROTTLED), LONGEST_THROTTLE)
            pause = error.retry_after or self._throttle or THROTTLED
        elif error.kind is Kind.UNREACHABLE:
            if first or self.failures < TRIP_AFTER:
                self.failures += 1
            if self.failures >= TRIP_AFTER:
                rest = min(2.0 ** min(self.failures - TRIP_AFTER, 10), LONGEST_BREAK)
                pause = rest * (1 + JITTER * (2 * dice() - 1))
        else:
            self.answered(begun)  # it answered, and about another secret it may say something else
            return
        self.counted += first
        until = self.clock() + pause
        if until >= self.closed_until:
            self.closed_until, self.error = until, error


@dataclass(slots=True)
class _Entry:
    line: Line
    fields: set[str] = field(default_factory=set)
    value: Fetched | None = None
    fetched_at: float = 0.0
    vouched_until: float = 0.0
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
    warned_of: float | None = None

    def use(self, fields: Collection[str]) -> None:
        """Remember which of its fields are used; whoever refers to it may name any number that it does not have."""
        if self.value is not None and not self.fields.issuperset(fields):
            self.fields.update(self.value.fields.keys() & fields)


class Cache:
    """Secrets by key; the key says everything that a value depends on, and nothing about who asks."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        dice: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Begin with nothing. `wall` gives Unix time, for what sources say about the end of a secret."""
        self.on_fetch: Callable[[str, str, float], None] = facts.secret_fetched
        self.on_stale: Callable[[str, bool], None] = facts.secret_stale
        self.on_changed: Callable[[str], None] = facts.secret_changed
        self.on_refused: Callable[[str, str], None] = facts.secret_refused
        self.on_expiring: Callable[[str, float], None] = facts.secret_expiring
        self._clock = clock
        self._wall = wall
        self._dice = dice
        self._sleep = sleep
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lines: WeakSet[Line] = WeakSet()  # whoever made them may have no more use for them
        self._uses: dict[str, dict[str, int]] = {}

    async def get(
        self,
        key: Hashable,
        line: Line,
        terms: Terms,
        fetch: Fetch,
        *,
        why: Why = Why.USE,
        fields: Collection[str] = (),
    ) -> Held:
        """Give a secret; one that was refused is fetched anew now and then, for a person always. `CredentialError`.

        `fields` are those that are used of it. As long as no used one changes it is the same secret, whatever its
        source tells besides, such as when it looked at it last; if nobody says which are used, all are.
        """
        now = self._clock()
        entry = self._entry(key, line)
        entry.use(fields)
        if why is not Why.USE and (why is not Why.REFUSED or now - entry.forced_at >= FORCED_EVERY):
            entry.forced_at = now
        elif entry.value is not None and now < entry.fresh_until:
            if now >= entry.ahead_at and entry.flight is None:
                line.uses["ahead"] += 1
                self._fly(entry, terms, fetch)
            else:
                line.uses["hit"] += 1
            return Held(entry.value, False, entry.previous if now < entry.previous_until else None)
        elif entry.error is not None and now < entry.error_until and entry.flight is None:
            return self._stale(entry, terms, entry.error, otherwise="negative")
        before, trouble = entry.value, None
        try:
            await asyncio.wait_for(asyncio.shield(entry.flight or self._fly(entry, terms, fetch)), PATIENCE)
        except CredentialError as error:
            trouble = error
        except TimeoutError:
            trouble = CredentialError(Kind.UNREACHABLE, "the secret's source is slow")
        entry.use(fields)
        if why is Why.REFUSED:
            self.on_refused(line.name, _outcome(before, entry.value, trouble, fields))
        if trouble is not None:
            return self._stale(entry, terms, trouble, otherwise="miss")
        line.uses["miss"] += 1
        return self._held(entry, stale=False)

    def known(self, key: Hashable, terms: Terms) -> Known:
        """Say how a secret stands; nothing is asked for, and nothing counts as a use."""
        entry = self._entries.get(key)
        if entry is None or (entry.value is None and entry.error is None):
            return Known(State.UNUSED)
        error = None if entry.error is None else entry.error.kind
        if entry.value is None:
            return Known(State.NEGATIVE, error=error)
        now = self._clock()
        state = State.FRESH if now < entry.fresh_until else State.STALE
        if state is State.STALE and self._over(entry, terms, error):
            state = State.NEGATIVE
        expires_at = entry.value.expires_at
        left = None if expires_at is None else expires_at - self._wall()
        return Known(state, entry.value.version, now - entry.fetched_at, error, expires_at, _warned(left))

    def looks(self) -> Iterable[SecretLook]:
        """Tell how each source stands; those of one name are one."""
        now, wall = self._clock(), self._wall()
        looks = {name: SecretLook(name, dict(uses)) for name, uses in self._uses.items()}
        for line in self._lines:
            look = looks[line.name]
            look.token = _least(look.token, line.logins.token_left())
            look.closed = look.closed or line.closed
        for entry in self._entries.values():
            look, value = looks[entry.line.name], entry.value
            look.in_flight += entry.flight is not None
            look.stale += entry.stale
            if value is not None:
                look.cached += 1
                look.oldest = max(look.oldest or 0.0, now - entry.fetched_at)
                look.expiry = _least(look.expiry, None if value.expires_at is None else value.expires_at - wall)
        return looks.values()

    def _entry(self, key: Hashable, line: Line) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(line)
            self._lines.add(line)
            line.uses = self._uses.setdefault(line.name, line.uses)
            if len(self._entries) > MOST:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return entry

    def _held(self, entry: _Entry, *, stale: bool) -> Held:
        if entry.value is None:
            raise CredentialError(Kind.UNREACHABLE, "the secret was never fetched")
        previous = entry.previous if self._clock() < entry.previous_until else None
        return Held(entry.value, stale, previous)

    def _stale(self, entry: _Entry, terms: Terms, error: CredentialError, *, otherwise: str) -> Held:
        """Serve the last value while its age, and the reason why there is no newer one, permit it."""
        if entry.value is None or self._over(entry, terms, error.kind):
            entry.line.uses[otherwise] += 1
            entry.stale = False  # it is not served any more
            raise error
        entry.line.uses["stale"] += 1
        self._mark(entry, stale=True)
        return self._held(entry, stale=True)

    def _over(self, entry: _Entry, terms: Terms, kind: Kind | None) -> bool:
        now = self._clock()
        if terms.stale is None:
            return now >= entry.vouched_until
        if entry.refused_since is not None and now - entry.refused_since > DENIAL_PATIENCE:
            return True  # also where the source has gone away since: what was revoked does not come back by that
        return kind not in (Kind.NOT_FOUND, Kind.DENIED) and now - entry.fetched_at > terms.stale

    def _mark(self, entry: _Entry, *, stale: bool) -> None:
        """Tell when a secret begins to be served stale, and when that is over; not each time."""
        if entry.stale is not stale:
            entry.stale = stale
            self.on_stale(entry.line.name, stale)

    # Fetching.

    def _fly(self, entry: _Entry, terms: Terms, fetch: Fetch) -> "asyncio.Task[Fetched]":
        flight = asyncio.ensure_future(self._fetch(entry, terms, fetch))
        entry.flight = flight
        flight.add_done_callback(lambda done: self._landed(entry, done))
        return flight

    def _landed(self, entry: _Entry, flight: "asyncio.Task[Fetched]") -> None:
        entry.flight = None
        if not flight.cancelled():
            with suppress(CredentialError):  # whoever waited was told; a refresh ahead of time has nobody
                flight.result()

    async def _fetch(self, entry: _Entry, terms: Terms, fetch: Fetch) -> Fetched:
        line = entry.line
        line.check()  # what it raises was counted when it happened
        async with line.slots:
            line.check()  # whoever had the slot before may have been sent away
            if (wait := line.turn()) > 0:
                await self._sleep(wait)
                line.check()
            asked_at, begun = self._clock(), line.counted
            try:
                fetched = await fetch()
            except CredentialError as error:
                self.on_fetch(line.name, error.kind, self._clock() - asked_at)
                self._failed(entry, error, begun)
                raise
        self.on_fetch(line.name, "ok", self._clock() - asked_at)
        line.answered(begun)
        self._keep(entry, terms, fetched, asked_at)
        return fetched

    def _failed(self, entry: _Entry, error: CredentialError, begun: int) -> None:
        now = self._clock()
        entry.line.failed(error, begun, self._dice)
        entry.error = error
        entry.error_until = now + NEGATIVE.get(error.kind, 0.0)
        if error.kind in (Kind.NOT_FOUND, Kind.DENIED):
            entry.refused_since = entry.refused_since if entry.refused_since is not None else now

    def _keep(self, entry: _Entry, terms: Terms, fetched: Fetched, asked_at: float) -> None:
        now = self._clock()
        self._mark(entry, stale=False)
        if entry.value is not None and _differs(entry.value, fetched, entry.fields):
            entry.previous, entry.previous_until = entry.value, now + OVERLAP
            if terms.stale is None:
                entry.previous_until = min(entry.previous_until, entry.vouched_until)
            else:
                self.on_changed(entry.line.name)  # a token is another one each time, which is no news
        fresh = terms.fresh * (1 + JITTER * (2 * self._dice() - 1))
        entry.vouched_until = now + fresh
        if fetched.lasts is not None:
            entry.vouched_until = asked_at + fetched.lasts  # it may have been on its way for long
            fresh = max(0.0, min(fresh, asked_at + fetched.lasts * 2 / 3 - now))
        entry.value, entry.fetched_at = fetched, now
        entry.fields &= fetched.fields.keys()
        entry.fresh_until, entry.ahead_at = now + fresh, now + fresh * REFRESH_AHEAD
        entry.error, entry.refused_since = None, None
        self._warn(entry, fetched)

    def _warn(self, entry: _Entry, fetched: Fetched) -> None:
        """Tell once of each end that is near."""
        ends = fetched.expires_at
        if ends is not None and ends != entry.warned_of and (left := ends - self._wall()) < EXPIRES_SOON:
            entry.warned_of = ends
            self.on_expiring(entry.line.name, left)


def _least(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)


def _warned(left: float | None) -> Warned | None:
    if left is None or left >= EXPIRES_SOON:
        return None
    return Warned.EXPIRES_SOON if left > 0 else Warned.EXPIRED


def _outcome(
    before: Fetched | None, after: Fetched | None, trouble: CredentialError | None, fields: Collection[str]
) -> str:
    """What fetching a refused secret anew has brought."""
    if trouble is not None or after is None:
        return "failed"
    return "changed" if before is None or _differs(before, after, fields) else "unchanged"


def _differs(before: Fetched, after: Fetched, fields: Collection[str]) -> bool:
    """Is it another secret, by these fields, or by all if there are none?"""
    return any(before.fields.get(one) != after.fields.get(one) for one in fields or {*before.fields, *after.fields})
