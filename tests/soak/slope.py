"""How fast something grows, and how sure that is: a line through samples that hang together.

What a process holds now is much like what it held ten seconds ago, so a thousand samples are far fewer independent ones,
and the usual error of a fitted line would be a multiple too small. Least squares, with the number of samples reduced to
what the lag-1 autocorrelation r of the residuals leaves of it, n (1 - r) / (1 + r), as climatologists do for temperatures
(Santer et al. 2000, doi:10.1029/1999JD901105); r is corrected for being estimated too small in a short series. Four
independent samples are assumed in any case: with them even a walk at random, which has no slope and never comes back to
where it was, is within its interval more than four times in five.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import inf, sqrt
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE: Final = 0.95
FEWEST: Final = 4.0  # independent samples
HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth an hour: the estimate, and half the width of its 95 % interval."""

    per_hour: float
    error: float

    @property
    def least(self) -> float:
        """The interval's lower end."""
        return self.per_hour - self.error

    @property
    def most(self) -> float:
        """The interval's upper end."""
        return self.per_hour + self.error

    def __str__(self) -> str:
        """Write it with its interval."""
        return f"{self.per_hour:+.2f} ({self.least:+.2f} … {self.most:+.2f})"


def slope(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """Fit a line; the values' unit an hour. Of fewer than four the interval is infinite."""
    n = len(values)
    if n < FEWEST:
        return Slope(0.0, inf)
    middle, level = fmean(seconds), fmean(values)
    spread = sum((at - middle) ** 2 for at in seconds)
    rise = sum((at - middle) * (value - level) for at, value in zip(seconds, values, strict=True)) / spread
    rest = [value - level - rise * (at - middle) for at, value in zip(seconds, values, strict=True)]
    freedom = max(n * _independent(rest), FEWEST) - 2
    error = sqrt(sum(one * one for one in rest) / freedom / spread)
    return Slope(rise * HOUR, _student(freedom) * error * HOUR)


def grows(seconds: Sequence[float], values: Sequence[float], bound: float) -> bool:
    """Does it grow by more than `bound` an hour, and go on doing so?

    After a moment of much work a process keeps some memory for the next: a step, through which a steep line can be drawn.
    A leak goes on, so each half of the time has to grow, too.
    """
    middle = len(values) // 2
    halves = slope(seconds[:middle], values[:middle]), slope(seconds[middle:], values[middle:])
    return slope(seconds, values).least > bound and all(half.least > 0.0 for half in halves)


def _independent(rest: Sequence[float]) -> float:
    """The share of samples that say something of their own."""
    power = sum(one * one for one in rest)
    if power == 0.0:
        return 1.0
    raw = sum(one * other for one, other in pairwise(rest)) / power
    correlation = min(max(raw + (2 + 4 * raw) / len(rest), 0.0), 1.0)
    return (1 - correlation) / (1 + correlation)


def _student(freedom: float) -> float:
    """Student's t for the interval, from the normal distribution (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
