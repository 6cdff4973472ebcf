"""Counters and histograms for what happens with every message: moved by the event loop's thread alone, so without locks.

The library's cost six times as much, which the hot path would feel. Each is a collector that the registry reads. Labels
come in the order in which the names were given; what is `known` from the beginning is shown as 0.

Tenants are told apart where the operator wants it, and only the first two hundred that are seen: the rest is `other`.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

MOST_TENANTS: Final = 200
OTHER: Final = "other"
TENANT: Final = "tenant"

Labels = tuple[str, ...]


@dataclass(slots=True)
class Tenants:
    """Which tenants have series of their own; `dropped` counts what is told of those that have none."""

    dropped: "Tally"
    shown: bool = False
    _seen: set[str] = field(default_factory=set)

    def label(self, tenant: str) -> str:
        """The label for a tenant; "" where tenants are not told apart."""
        if not self.shown:
            return ""
        if tenant in self._seen:
            return tenant
        if len(self._seen) < MOST_TENANTS and tenant != OTHER:
            self._seen.add(tenant)
            return tenant
        self.dropped.add()
        return OTHER


class Tally(Collector):
    """A counter by labels; with `tenants` by tenant besides, as its last label."""

    def __init__(
        self,
        name: str,
        says: str,
        labels: Sequence[str] = (),
        *,
        known: Iterable[Labels] = (),
        tenants: Tenants | None = None,
    ) -> None:
        """Begin at 0; `name` is without `_total`."""
        self._name, self._says, self._labels, self._tenants = name, says, tuple(labels), tenants
        self._known: tuple[Labels, ...] = tuple(known) if labels else ((),)
        self._counts: defaultdict[Labels, int] = defaultdict(int)

    def add(self, *labels: str, count: int = 1) -> None:
        """Count so many."""
        self._counts[labels] += count

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Give the metric."""
        apart = self._tenants is not None and self._tenants.shown
        labels = (*self._labels, TENANT) if apart else self._labels
        counts = dict.fromkeys(() if apart else self._known, 0)
        counts.update((told[: len(labels)], count) for told, count in self._counts.items())
        family = CounterMetricFamily(self._name, self._says, labels=labels)
        for told, count in counts.items():
            family.add_metric(told, count)
        yield family


class Spread(Collector):
    """A histogram, by one label at most."""

    def __init__(
        self, name: str, says: str, buckets: Sequence[float], label: str = "", *, known: Iterable[str] = ()
    ) -> None:
        """Begin with nothing; `buckets` are upper bounds, the last of which is followed by infinity."""
        self._name, self._says, self._label = name, says, label
        self._bounds = tuple(buckets)
        self._edges = [*map(floatToGoString, buckets), "+Inf"]
        self._sums: dict[str, float] = {}
        self._counts: dict[str, list[int]] = {}
        for one in known if label else ("",):
            self._begin(one)

    def _begin(self, label: str) -> list[int]:
        self._sums[label] = 0.0
        counts = self._counts[label] = [0] * len(self._edges)
        return counts

    def observe(self, value: float, label: str = "") -> None:
        """Note a value."""
        counts = self._counts.get(label) or self._begin(label)
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[label] += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Give the metric."""
        family = HistogramMetricFamily(self._name, self._says, labels=[self._label] if self._label else [])
        for one, counts in list(self._counts.items()):
            below, buckets = 0, []
            for edge, count in zip(self._edges, counts, strict=True):
                below += count
                buckets.append((edge, below))
            family.add_metric([one] if self._label else [], buckets, self._sums[one])
        yield family
