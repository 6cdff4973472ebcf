"""What rendering may take of the processor, so that nobody's templates keep everybody else waiting.

One rendering ends after about a second at worst, during which nothing else is done; a thousand of them must not follow
each other. Templates as people write them take less than what counts for nothing here.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from gateway.message.template import Rendered, render

FREE: Final = 0.002  # seconds of a rendering that do not count
SHARE: Final = 0.1  # of a processor, that each may use for what counts
SAVED: Final = 5.0  # seconds of it that may be saved up
MOST_KNOWN: Final = 10_000


class AllowanceSpent(Exception):
    """An owner's templates took too long together; the next one is rendered in `wait` seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__("The templates of this organisation took too long together.")
        self.wait = wait


class Allowance:
    """Renders templates, and knows how long each owner's took lately (GCRA, as time that is paid back)."""

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
        now = self._clock()
        wait = self._paid_at.get(owner, now) - now - SAVED / SHARE
        if wait > 0:
            raise AllowanceSpent(wait)
        began = self._used()
        try:
            return render(subject, text, html, data)
        finally:
            if (counted := self._used() - began - FREE) > 0:
                self._pay(owner, now, counted / SHARE)

    def _pay(self, owner: str, now: float, seconds: float) -> None:
        self._paid_at[owner] = max(self._paid_at.get(owner, now), now) + seconds
        self._paid_at.move_to_end(owner)
        if len(self._paid_at) > MOST_KNOWN:
            self._paid_at.popitem(last=False)
