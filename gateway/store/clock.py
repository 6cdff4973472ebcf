"""The time by which a store's rows fall due: the machine's own, or that of the server which several machines share.

Milliseconds since the epoch.
"""

import time
from collections.abc import Callable
from typing import Final

LONGEST_TRIP: Final = 1.0  # seconds; what took longer to tell the time tells it badly
SET_BACK: Final = (
    2_000  # ms; more than trips account for: the server's clock was set, and standing still takes too long
)


def wall_clock() -> int:
    """Tell the machine's time."""
    return time.time_ns() // 1_000_000


def elapsed() -> float:
    """Count seconds, those that the machine was suspended included where the system counts them."""
    if (boottime := getattr(time, "CLOCK_BOOTTIME", None)) is not None:
        return time.clock_gettime(boottime)
    return time.monotonic()


class ServerClock:
    """The server's time, told again and again, and in between by how much time has passed. It goes back only with the server's."""

    def __init__(self, elapsed: Callable[[], float] = elapsed) -> None:
        """Know nothing yet; `elapsed` counts seconds."""
        self.elapsed = elapsed
        self._offset: float | None = None
        self._last = 0

    def told(self, asked: float, milliseconds: int) -> None:
        """The server said what time it is, asked at the count `asked`: somewhere between then and now."""
        trip = self.elapsed() - asked
        if self._offset is None or trip <= LONGEST_TRIP:
            self._offset = milliseconds - (asked + trip / 2) * 1000

    def __call__(self) -> int:
        """Tell the time."""
        if self._offset is None:
            return wall_clock()
        now = int(self.elapsed() * 1000 + self._offset)
        self._last = now if self._last - now > SET_BACK else max(self._last, now)
        return self._last
