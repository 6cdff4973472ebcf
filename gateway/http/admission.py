"""How much may come in: a tenant's rate and queue limits, counted before anything is written, its tests, and sign-ins.

What is counted here is the daemon's own. Where several share a database, their store decides about a tenant's rate when
it commits, for all of them together; this is the wall before it. How much is queued is then known from a count of all that
is at most five seconds old, and tests are so many a minute for each daemon. The tables are bounded, so that no caller
can fill the memory by being many.

A `Bucket` holds tokens as a single time (GCRA): the moment at which it is full again. Times are in milliseconds.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Final

from gateway.directory.shapes import Tenant
from gateway.problems import Code, Problem

MINUTE: Final = 60_000
MAX_BUCKETS: Final = 10_000
QUEUE_RETRY_SECONDS: Final = 30
TESTS_PER_MINUTE: Final = 10
TESTS_AT_ONCE: Final = TESTS_PER_MINUTE
SIGN_INS_PER_MINUTE: Final = 20


class Tested(StrEnum):
    """What a tenant tries out, as it is told of too many; of each so many a minute, and none at another's expense."""

    CONNECTION = "connection tests"
    CREDENTIAL = "credential checks"
    REFRESH = "credential refreshes"
    WEBHOOK = "webhook tests"


@dataclass(slots=True)
class Buckets:
    """Token buckets by name. A full one is nothing to remember; beyond `size` the longest unused are forgotten first."""

    size: int = MAX_BUCKETS
    _full_at: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def take(self, name: str, now: float, *, interval: float, burst: int) -> float:
        """Take a token, of which one comes every `interval` and `burst` are kept.

        Answers 0.0 if there was one, else how long until there is; nothing is taken then.
        """
        full_at = min(max(self._full_at.get(name, now), now), now + burst * interval)  # the clock may be set back
        wait = full_at - now - (burst - 1) * interval
        if wait > interval / 100:  # less is rounding, of sums as large as the time of day
            self._full_at[name] = full_at
            return wait
        self._full_at[name] = full_at + interval
        self._full_at.move_to_end(name)
        for oldest in list(islice(self._full_at, 2)):  # one more than comes in: what is full goes by and by
            if self._full_at[oldest] <= now or len(self._full_at) > self.size:
                del self._full_at[oldest]
        return 0.0

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._full_at)


class Admission:
    """Lets notifications and tests in, or says when to come back."""

    def __init__(self) -> None:
        self._buckets = Buckets()
        self._tests = {what: Buckets() for what in Tested}
        self._sign_ins = Buckets()
        self._testing: Counter[tuple[Tested, str]] = Counter()
        self._entering: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()

    def admit(self, tenant: Tenant, queued: int, now: int) -> None:
        """Count a notification in; `leave` must follow once it is committed or refused.

        Raises `queue_full` or `rate_limited`, and then nothing was counted; `not_found` for a tenant that is going.
        """
        if self._closed[tenant.id]:
            raise Problem(Code.NOT_FOUND)
        limits = tenant.limits
        if limits.queued is not None and queued + self._entering[tenant.id] >= limits.queued:
            raise Problem(Code.QUEUE_FULL, headers={"Retry-After": str(QUEUE_RETRY_SECONDS)})
        if limits.per_minute is not None:
            interval = MINUTE / limits.per_minute
            if wait := self._buckets.take(tenant.id, now, interval=interval, burst=limits.per_minute):
                raise rate_limited(wait)
        self._entering[tenant.id] += 1

    def entering(self, tenant_id: str) -> int:
        """How many notifications of a tenant are on their way to stable storage."""
        return self._entering[tenant_id]

    @contextmanager
    def closed(self, tenant_id: str) -> Iterator[None]:
        """Let nothing of a tenant in for as long as the block lasts."""
        self._closed[tenant_id] += 1
        try:
            yield
        finally:
            self._closed[tenant_id] -= 1
            if not self._closed[tenant_id]:
                del self._closed[tenant_id]

    def leave(self, tenant_id: str) -> None:
        """Count a notification out that `admit` let in: by now it is in the queue, or refused."""
        self._entering[tenant_id] -= 1
        if not self._entering[tenant_id]:
            del self._entering[tenant_id]

    @contextmanager
    def testing(self, what: Tested, tenant_id: str, now: int) -> Iterator[None]:
        """Count a test in for as long as the block lasts. Raises `rate_limited`."""
        under_way, interval = (what, tenant_id), MINUTE / TESTS_PER_MINUTE
        if wait := self._tests[what].take(tenant_id, now, interval=interval, burst=TESTS_PER_MINUTE):
            detail = f"A tenant has at most {TESTS_PER_MINUTE} {what} a minute."
            raise Problem(Code.RATE_LIMITED, detail, headers={"Retry-After": seconds(wait)})
        if self._testing[under_way] >= TESTS_AT_ONCE:
            raise Problem(Code.RATE_LIMITED, f"A tenant has at most {TESTS_AT_ONCE} {what} at once.")
        self._testing[under_way] += 1
        try:
            yield
        finally:
            self._testing[under_way] -= 1
            if not self._testing[under_way]:
                del self._testing[under_way]

    def signing_in(self, who: str, now: int) -> None:
        """Count a session, or a link that promises one: each is kept for a while. Raises `rate_limited`."""
        interval = MINUTE / SIGN_INS_PER_MINUTE
        if wait := self._sign_ins.take(who, now, interval=interval, burst=SIGN_INS_PER_MINUTE):
            detail = f"Nobody signs in more than {SIGN_INS_PER_MINUTE} times a minute."
            raise Problem(Code.RATE_LIMITED, detail, headers={"Retry-After": seconds(wait)})


def rate_limited(wait: float) -> Problem:
    """Refuse what is more than a tenant may send, for so long (ms)."""
    return Problem(Code.RATE_LIMITED, headers={"Retry-After": seconds(wait)})


def seconds(milliseconds: float) -> str:
    """Write a wait as Retry-After has it: whole seconds, at least one."""
    return str(max(1, -int(-milliseconds // 1000)))
