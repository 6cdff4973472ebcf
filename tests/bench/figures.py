"""What was measured: samples by name, their medians, and ratios between samples of the same round."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median


class Skipped(Exception):
    """A scenario that this machine cannot run; the text says why."""


@dataclass(slots=True)
class Figures:
    """Samples by name, such as `ours.e2e`, one for each round in which its scenario ran."""

    _samples: dict[str, dict[int, float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, round_: int, scenario: str, measured: Mapping[str, float]) -> None:
        """Keep what a scenario measured in a round."""
        for name, value in measured.items():
            self._samples.setdefault(f"{scenario}.{name}", {})[round_] = value

    def samples(self, name: str) -> list[float]:
        """All samples of a name; of `a/b` the quotients within each round."""
        over, slash, under = name.partition("/")
        if not slash:
            return list(self._samples.get(name, {}).values())
        upper, lower = self._samples.get(over, {}), self._samples.get(under, {})
        return [value / lower[round_] for round_, value in upper.items() if round_ in lower]

    def median(self, name: str) -> float | None:
        """The median of a name, None without samples."""
        samples = self.samples(name)
        return median(samples) if samples else None


def quantile(ordered: list[float], share: float) -> float:
    """The smallest value that at least this share of an ordered list does not exceed."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
