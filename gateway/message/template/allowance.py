"""What templates may take of the processor, so that nobody's keep everybody else waiting.

One rendering ends after about a second at worst, during which nothing else is done; a thousand of them must not follow
each other. Templates as people write them take less than what counts for nothing here.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from gateway.message.template import Rendered, render
from gateway.problems import Code, Problem

FREE: Final = 0.002  # seconds at once that do not count
SHARE: Final = 0.1  # of a processor, that each may use for what counts
SAVED: Final = 5.0  # seconds of it that may be saved up
MOST_KNOWN: Final = 10_000


class AllowanceSpent(Problem):
    """An owner's templates took too long together; the next one is looked at in `wait` seconds."""

    def __init__(self, wait: float) -> None:
        detail = "The templates of this organisation took too long together."
        super().__init__(Code.RATE_LIMITED, detail, headers={"Retry-After": str(math.ceil(wait))})
        self.wait = wait

    def __str__(self) -> str:
        """Say it in one sentence."""
        return self.detail


class Allowance:
    """How long each owner's templates took lately (GCRA, as time that is paid back)."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, used: Callable[[], float] = time.thread_time
    ) -> None:
        """`clock` and `used` (of the processor, by this thread) tell seconds."""
        self._clock = clock
        self._used = used
        self._paid_at: OrderedDict[str, float] = OrderedDict()  # by owner: when nothing is owed any more

    def render(
        self, owner: str, subject: str, text: str | None, html: str | None, data: Mapping[str, object]
    ) -> Rendered:
        """Return the parts rendered with `data`; raises `TemplateError`, or `AllowanceSpent` if it is not tried."""
        self.ask(owner)
        began = self._used()
        try:
            return render(subject, text, html, data)
        finally:
            self.charge(owner, self._used() - began)

    def ask(self, owner: str) -> None:
        """Raise `AllowanceSpent` if nothing of this owner's is to be looked at now."""
        wait = self.owed(owner) - SAVED / SHARE
        if wait > 0:
            raise AllowanceSpent(wait)

    def owed(self, owner: str) -> float:
        """Tell in how many seconds nothing is owed any more."""
        return max(0.0, self._paid_at.get(owner, 0.0) - self._clock())

    def charge(self, owner: str, seconds: float) -> None:
        """Count what an owner's templates took at once."""
        counted = seconds - FREE
        if counted <= 0:
            return
        now = self._clock()
        self._paid_at[owner] = max(self._paid_at.get(owner, now), now) + counted / SHARE
        self._paid_at.move_to_end(owner)
        if len(self._paid_at) > MOST_KNOWN:
            self._paid_at.popitem(last=False)
