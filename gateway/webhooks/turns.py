"""Turns: how each webhook stands, and which of those that wait are asked next. Only counts and remembers."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

from gateway.directory.shapes import Webhook
from gateway.store.rows import Place

OF_TENANT: Final = 16  # requests at once
OF_ENDPOINT: Final = 4
FORGOTTEN: Final = 36 * 3_600_000  # ms after a pause: what is not taken comes again long before that


@dataclass(slots=True, eq=False)
class Endpoint:
    """A webhook that has, or may have, events; times in ms. `due_at` is when the first is due, as far as is known.

    `worked_at` is when it last took something, or came to lead where it does: what failed before proves nothing any more.
    Nor does what failed long ago: others may have told it much since, or there was nothing to tell.
    """

    webhook: Webhook
    due_at: int | None = None
    rest: int = 0
    rest_until: int = 0
    failures: int = 0
    failing_since: int | None = None
    worked_at: int = 0
    at_work: int = 0

    def forget(self, now: int) -> None:
        """Forget what failed long ago, and what a pause is longer than it was meant to be: the clock was set back."""
        self.rest_until = min(self.rest_until, now + self.rest)
        if now - self.rest_until > FORGOTTEN:
            self.failures, self.failing_since = 0, None

    def room(self, now: int) -> int:
        """How many requests may begin."""
        if self.due_at is None or max(self.due_at, self.rest_until) > now:
            return 0
        return (1 if self.failures else OF_ENDPOINT) - self.at_work

    def note(self, due_at: int) -> None:
        """An event falls due then."""
        self.due_at = due_at if self.due_at is None else min(due_at, self.due_at)

    def works(self, now: int) -> None:
        """It took something: nothing need wait."""
        self.rest_until, self.failures, self.failing_since, self.worked_at = 0, 0, None, now

    def fails(self, now: int, seconds: float, since: int) -> None:
        """Leave it alone for a while; of several failures at once the first counts.

        `since` is when what it does not take was made, if it was tried before, perhaps by a daemon that is no more.
        """
        since = max(since, self.worked_at)
        if now >= self.rest_until:
            self.failures += 1
            self.rest = round(seconds * 1000)
            self.rest_until = now + self.rest
        self.failing_since = min(since, self.failing_since or since)


@dataclass(slots=True)
class Turns:
    """Whose turn it is: who has the fewest requests at work, and of those who was served the longest ago."""

    at_work: Counter[str] = field(default_factory=Counter)
    _served: dict[str, int] = field(default_factory=dict)
    _count: int = 0

    def shares(self, waiting: dict[str, deque[tuple[Endpoint, int]]], free: int) -> Counter[Place]:
        """Divide free requests among the tenants, whose endpoints each have room for some."""
        given: Counter[Place] = Counter()
        busy = Counter(self.at_work)
        while free and waiting:
            tenant = min(waiting, key=lambda one: (busy[one], self._served.get(one, 0)))
            if busy[tenant] >= OF_TENANT:
                del waiting[tenant]
                continue
            endpoint, room = waiting[tenant].popleft()
            given[tenant, endpoint.webhook.id] += 1
            if room > 1:
                waiting[tenant].append((endpoint, room - 1))
            if not waiting[tenant]:
                del waiting[tenant]
            busy[tenant] += 1
            free -= 1
            self._count += 1
            self._served[tenant] = self._count
        return given

    def begins(self, tenant: str) -> None:
        """A request is at work."""
        self.at_work[tenant] += 1

    def ends(self, tenant: str) -> None:
        """It is over."""
        self.at_work[tenant] -= 1
        if not self.at_work[tenant]:
            del self.at_work[tenant]
