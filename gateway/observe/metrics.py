"""What Prometheus scrapes: every metric, and how some of them are read at that moment.

Only `facts` moves them. Labels come from closed sets; a tenant, a host or a relay's text is never one, but for the
certificates that end first.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from gateway.observe.certificates import Certificates

REGISTRY: Final = CollectorRegistry()
_PREFIX: Final = "notification_gateway_"

ACCEPTED = Counter(_PREFIX + "accepted", "Notifications committed to the outbox.", registry=REGISTRY)
REQUESTS = Counter(
    _PREFIX + "http_requests", "HTTP answers by route and status class.", ["route", "status"], registry=REGISTRY
)
REFUSED_KEYS = Counter(_PREFIX + "http_keys_refused", "Requests with a key that was refused.", registry=REGISTRY)
HTTP_SECONDS = Histogram(
    _PREFIX + "http_request_seconds", "Time from a request's head to its answer.", registry=REGISTRY,
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0),
)  # fmt: skip
RECIPIENTS = Counter(_PREFIX + "recipient_outcomes", "What became of recipients.", ["outcome"], registry=REGISTRY)
SESSIONS = Counter(
    _PREFIX + "relay_sessions", "Sessions with relays, by how opening ended.", ["result"], registry=REGISTRY
)
PARKED = Counter(_PREFIX + "profile_parks", "Times a profile was parked, by reason.", ["reason"], registry=REGISTRY)
SECRET_FETCHES = Counter(
    _PREFIX + "secret_fetches", "Attempts to fetch a secret, by connection and result.", ["connection", "result"],
    registry=REGISTRY,
)  # fmt: skip
SECRET_FETCH_SECONDS = Histogram(
    _PREFIX + "secret_fetch_seconds", "Time of one attempt to fetch a secret.", ["connection"], registry=REGISTRY,
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)  # fmt: skip
SECRET_CHANGES = Counter(
    _PREFIX + "secret_changes", "Secrets that were fetched and are others than before.", ["connection"],
    registry=REGISTRY,
)  # fmt: skip
SECRET_REFUSALS = Counter(
    _PREFIX + "secret_refusals", "Secrets fetched anew because a relay refused them, by what that brought.",
    ["connection", "outcome"], registry=REGISTRY,
)  # fmt: skip
SECRET_DENIALS = Counter(
    _PREFIX + "secret_policy_denials", "Secrets asked for that the operator does not lend to that tenant or relay.",
    ["connection"], registry=REGISTRY,
)  # fmt: skip
SECRET_LOGINS = Counter(
    _PREFIX + "secret_logins", "Sign-ins at a secret store, by result.", ["connection", "result"], registry=REGISTRY
)
FAILOVERS = Counter(_PREFIX + "failovers", "Messages carried by a profile of the failover list.", registry=REGISTRY)
CERTIFICATES = Certificates(_PREFIX)
REGISTRY.register(CERTIFICATES)
BREAKERS = Counter(_PREFIX + "breaker_openings", "Times a relay's breaker opened.", registry=REGISTRY)
UNFINISHED = Gauge(_PREFIX + "outbox_unfinished", "Notifications that are not final.", registry=REGISTRY)
IN_HAND = Gauge(_PREFIX + "outbox_leased", "Notifications claimed and not settled.", registry=REGISTRY)
COMMIT_SECONDS = Histogram(
    _PREFIX + "store_commit_seconds", "Time of one commit.", registry=REGISTRY,
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0),
)  # fmt: skip
COMMIT_JOBS = Histogram(
    _PREFIX + "store_commit_jobs", "Writes that shared one commit.", registry=REGISTRY,
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)  # fmt: skip
STATEMENTS = Counter(
    _PREFIX + "store_statements", "Statements sent to the database server, each a round trip.", registry=REGISTRY
)
STORE_AWAY = Gauge(_PREFIX + "store_away", "1 while the database server cannot be reached.", registry=REGISTRY)
DAEMONS = Gauge(_PREFIX + "daemons", "Daemons that live on the same database, this one included.", registry=REGISTRY)
LANES = Gauge(_PREFIX + "lanes", "Profiles whose mail this daemon carries.", registry=REGISTRY)
SPACE_LOW = Gauge(
    _PREFIX + "store_space_low", "1 while new notifications are refused for want of disk.", registry=REGISTRY
)
RELOADS = Counter(_PREFIX + "reloads", "Reloads of the settings, by result.", ["result"], registry=REGISTRY)
RELOAD_OK = Gauge(
    _PREFIX + "last_reload_successful", "1 if the settings in force are what their files said last.", registry=REGISTRY
)
RELOADED = Gauge(
    _PREFIX + "last_reload_success_seconds", "When the settings were last put into force.", registry=REGISTRY
)
RESTART_NEEDED = Gauge(_PREFIX + "restart_needed", "1 while changed settings wait for a restart.", registry=REGISTRY)
STARTED = Gauge(_PREFIX + "start_time_seconds", "When the daemon started.", registry=REGISTRY)
BUILD = Gauge(_PREFIX + "build_info", "The version that runs.", ["version"], registry=REGISTRY)


@dataclass(slots=True)
class SecretLook:
    """How a source of secrets stands at the moment; seconds. Not moved by events, so that a cached use costs little."""

    connection: str
    uses: dict[str, int] = field(default_factory=dict)
    cached: int = 0
    stale: int = 0
    in_flight: int = 0
    oldest: float | None = None
    expiry: float | None = None
    token: float | None = None
    closed: bool = False

    def gauges(self) -> Iterator[tuple[str, float | None]]:
        """The gauges by name; None where there is nothing to tell."""
        yield "secrets_cached", self.cached
        yield "secrets_stale", self.stale
        yield "secret_fetches_in_flight", self.in_flight
        yield "secret_breaker_open", self.closed
        yield "secret_oldest_seconds", self.oldest
        yield "secret_expiry_seconds", self.expiry
        yield "secret_token_seconds", self.token


_LOOKS: Final = {
    "secrets_cached": "Secrets kept in memory.",
    "secrets_stale": "Secrets served on though their source does not vouch for them.",
    "secret_fetches_in_flight": "Secrets being fetched now, or waiting for their turn.",
    "secret_breaker_open": "1 while a source is left alone because it failed, or asked for a pause.",
    "secret_oldest_seconds": "Age of the secret that was fetched longest ago.",
    "secret_expiry_seconds": "Time until the first of the secrets ends, as its source tells; negative once it is over.",
    "secret_token_seconds": "Time that the daemon's token at the store lasts.",
}


@dataclass(frozen=True, slots=True)
class Everything:
    """What Prometheus scrapes: the registry, and how the sources of secrets stand at that moment."""

    secrets: Callable[[], Iterable[SecretLook]]

    def collect(self) -> Iterator[Metric]:
        """Collect all metrics."""
        yield from REGISTRY.collect()
        looks = list(self.secrets())
        uses = CounterMetricFamily(
            _PREFIX + "secret_uses", "Uses of secrets, by what the cache had.", labels=["connection", "state"]
        )
        gauges = {name: GaugeMetricFamily(_PREFIX + name, says, labels=["connection"]) for name, says in _LOOKS.items()}
        for look in looks:
            for state, count in look.uses.items():
                uses.add_metric([look.connection, state], count)
            for name, value in look.gauges():
                if value is not None:
                    gauges[name].add_metric([look.connection], value)
        yield uses
        yield from gauges.values()
