"""When certificates end: those that relays showed, the listener's own, and those of the connections to secret stores.

Of relays those count that somebody's mail goes to: what another one shows concerns nobody. A relay's name is a label
nowhere else, because tenants choose it: so only the hundred that end first are shown.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from cryptography import x509
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

Relay = tuple[str, int]
Role = tuple[str, str]
"""A connection to a secret store, and what its certificate is there: `client` is ours, `ca` whom we trust."""

MOST_SHOWN: Final = 100
MOST_KEPT: Final = 10_000


class Certificates(Collector):
    """Ends in seconds since the epoch; `prefix` begins the metrics' names."""

    def __init__(self, prefix: str) -> None:
        """Begin with none. `http` is the end of the listener's own; None: it speaks no TLS."""
        self.http: float | None = None
        self.connections: Mapping[Role, float] = {}
        self._prefix = prefix
        self._ends: dict[Relay, float] = {}

    def showed(self, relay: Relay, ends: float) -> None:
        """A relay showed a certificate that ends then; of too many those are forgotten that were not seen for long."""
        self._ends.pop(relay, None)
        self._ends[relay] = ends
        if len(self._ends) > MOST_KEPT:
            del self._ends[next(iter(self._ends))]

    def keep(self, relays: Collection[Relay]) -> None:
        """Forget all other relays: no profile uses them any more, or they were only tried."""
        for relay in self._ends.keys() - relays:
            del self._ends[relay]

    def soonest(self) -> list[tuple[Relay, float]]:
        """Those of relays that end first, the next one first."""
        return sorted(self._ends.items(), key=lambda one: one[1])[:MOST_SHOWN]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the metrics."""
        ends = GaugeMetricFamily(
            self._prefix + "relay_certificate_end_timestamp_seconds",
            "When a relay's certificate ends, of the hundred that end first.",
            labels=["relay"],
        )
        for (host, port), at in self.soonest():
            ends.add_metric([f"{host}:{port}"], at)
        yield ends
        yield GaugeMetricFamily(
            self._prefix + "relay_certificates", "Relays whose certificates are known.", value=len(self._ends)
        )
        http = GaugeMetricFamily(
            self._prefix + "http_certificate_end_timestamp_seconds", "When the HTTP listener's own certificate ends."
        )
        if self.http is not None:
            http.add_metric([], self.http)
        yield http
        stores = GaugeMetricFamily(
            self._prefix + "secret_connection_certificate_end_timestamp_seconds",
            "When the first certificate in a file of a connection ends: of the client, or of whom it trusts.",
            labels=["connection", "role"],
        )
        for role, at in self.connections.items():
            stores.add_metric(role, at)
        yield stores


def first_end(pem: bytes) -> float | None:
    """When the first of these certificates ends; None if they cannot be read."""
    try:
        return min(one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(pem))
    except ValueError:
        return None
