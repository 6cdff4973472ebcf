"""When a lane may go: its rate, its relay's breaker, and what it was told to wait for. Seconds on a monotonic clock."""

from dataclasses import dataclass, field
from typing import Final

BURST_SECONDS: Final = 10.0  # of its rate that a lane may send at once
FIRST_REST: Final = 30.0
LONGEST_REST: Final = 600.0


@dataclass(slots=True)
class Rate:
    """At most `per_minute` events, evenly, with a burst of up to ten seconds' worth (GCRA); None is unlimited."""

    per_minute: int | None
    _due: float = 0.0

    def wait(self, now: float) -> float:
        """Seconds until one more is allowed; 0 if it is now."""
        if self.per_minute is None:
            return 0.0
        return max(0.0, self._due - self._tolerance() - now)

    def spend(self, now: float) -> None:
        """Count one."""
        if self.per_minute is not None:
            self._due = max(self._due, now) + 60.0 / self.per_minute

    def spent(self, now: float) -> float:
        """How far ahead it is spent, in seconds; negative: it has been idle for so long."""
        return self._due - now

    def take_over(self, now: float, spent: float | None) -> None:
        """Go on where somebody else ended, who had `spent` so much; None: nobody knows, so it was all that may be."""
        if self.per_minute is not None:
            worst = self._tolerance() + 60.0 / self.per_minute
            self._due = max(self._due, now + (worst if spent is None else min(spent, worst)))

    def _tolerance(self) -> float:
        return max(0.0, BURST_SECONDS - 60.0 / (self.per_minute or 1))


@dataclass(slots=True, weakref_slot=True)
class Breaker:
    """Keeps everybody away from a relay that is in trouble; shared by all lanes to one host and port.

    Closed: all may go. Open: nobody, for 30 s, then twice as long each time, up to 10 min. When that is over it is
    half open: one message goes, and its fate closes or opens the breaker again.
    """

    open_until: float = 0.0
    since: float = 0.0  # when it was opened first, if it is half open
    _faults: int = 0
    _rest: float = 0.0

    @property
    def half_open(self) -> bool:
        """Was it opened, and not closed since?"""
        return self._rest > 0.0

    def wait(self, now: float) -> float:
        """Seconds until somebody may go."""
        return max(0.0, self.open_until - now)

    def trip(self, now: float, *, after: int = 1, seconds: float | None = None, pause: bool = True) -> bool:
        """Count one fault; True if it is the one that opens the breaker.

        Before that each fault makes everybody `pause` for a second or two; faults that come while everybody is
        kept away were on their way already and do not count.
        """
        if self.open_until > now:
            return False
        self._faults += 1
        if self._faults < after and not self.half_open:
            if pause:
                self.open_until = now + max(float(self._faults), seconds or 0.0)
            return False
        if not self.half_open:
            self.since = now
        self._rest = min(max(self._rest * 2, FIRST_REST), LONGEST_REST)
        self.open_until = now + max(self._rest, seconds or 0.0)
        return True

    def reset(self) -> None:
        """Forget all faults: the relay answered."""
        self.open_until, self._faults, self._rest = 0.0, 0, 0.0


@dataclass(slots=True)
class Standstill:
    """Why a lane stands, and when it may look again: each time later, the last step repeats."""

    reason: str
    steps: tuple[float, ...]
    until: float = 0.0
    since: float = 0.0
    _step: int = field(default=0)

    def begin(self, now: float) -> None:
        """Stand for the next step's time."""
        self.since = now
        self.until = now + self.steps[min(self._step, len(self.steps) - 1)]
        self._step += 1
