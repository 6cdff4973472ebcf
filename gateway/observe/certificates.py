"""When the certificates end that relays showed: the first of them by name, and how many are known.

A relay's name is a label nowhere else, because tenants choose it: so only the hundred that end first are shown.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

Relay = tuple[str, int]

MOST_SHOWN: Final = 100
MOST_KEPT: Final = 10_000


class Certificates(Collector):
    """By host and port, seconds since the epoch; `prefix` begins the metrics' names."""

    def __init__(self, prefix: str) -> None:
        """Begin with none."""
        self._prefix = prefix
        self._ends: dict[Relay, float] = {}

    def showed(self, relay: Relay, ends: float) -> None:
        """A relay showed a certificate that ends then; of too many those are forgotten that were not seen for long."""
        self._ends.pop(relay, None)
        self._ends[relay] = ends
        if len(self._ends) > MOST_KEPT:
            del self._ends[next(iter(self._ends))]

    def soonest(self) -> list[tuple[Relay, float]]:
        """Those that end first, the next one first."""
        return sorted(self._ends.items(), key=lambda one: one[1])[:MOST_SHOWN]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the metrics."""
        ends = GaugeMetricFamily(
            self._prefix + "relay_certificate_end_seconds",
            "When a relay's certificate ends, of the hundred that end first.",
            labels=["relay"],
        )
        for (host, port), at in self.soonest():
            ends.add_metric([f"{host}:{port}"], at)
        yield ends
        yield GaugeMetricFamily(
            self._prefix + "relay_certificates", "Relays whose certificates are known.", value=len(self._ends)
        )
