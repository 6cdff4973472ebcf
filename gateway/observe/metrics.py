"""What Prometheus scrapes: every metric, and how some of them are read at that moment.

Only `facts` moves them. Labels come from closed sets; a tenant, a host or a relay's text is never one, but for the
certificates that end first, the operator's own connections, and tenants where the settings want them told apart.

What daemons that share a database tell alike, because they count all that is in it, says "all daemons" in its help:
queries take the `max` of it, where they take the `sum` of everything else.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from gateway.observe.certificates import Certificates
from gateway.observe.tallies import Labels, Spread, Tally, Tenants
from gateway.problems import Code

REGISTRY: Final = CollectorRegistry()
_PREFIX: Final = "notification_gateway_"

# Closed sets. Those that the layers above own are compared with theirs by a test.

CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
TIMED_ROUTES: Final = ("notification.post", "notification.batch", "other")
OUTCOMES: Final = (
    "relayed", "deferred", "failed", "expired", "cancelled", "uncertain", "outcome_unknown", "held", "failover",
    "lease_lost",
)  # fmt: skip
ANSWERS: Final = ("relayed", "refused_4yz", "refused_5yz", "rejected", "untaken", "unknown")
PHASES: Final = ("resolve", "connect", "greeting", "tls", "auth")
PARKINGS: Final = (
    "secret_denied", "secret_missing", "egress_refused", "relay_rejects_us", "capability", "tls_required", "tls_verify",
    "tls_failed", "auth_unavailable", "auth_failed", "auth_transition", "auth_config", "basic_auth_disabled",
    "client_certificate", "dkim_key", "auth_deferred", "auth_held_back", "secret_unavailable",
)  # fmt: skip
TROUBLES: Final = (
    *PARKINGS, "name_unknown", "unreachable", "too_many_connections", "greeting_deferred", "tls_deferred",
    "auth_dropped", "protocol",
)  # fmt: skip
WEBHOOK_RESULTS: Final = (
    "ok", "refused", "failed", "unreachable", "untrusted", "timeout", "egress_refused", "unsigned",
)  # fmt: skip
FETCHES: Final = (
    "ok", "not_found", "denied", "unreachable", "throttled", "malformed", "rotating", "policy",
)  # fmt: skip
LOGINS: Final = ("ok", "denied", "unreachable")  # the other results come when they come
REFUSED: Final = ("changed", "unchanged", "failed")
DEPTHS: Final = ("ready", "scheduled", "deferred", "leased", "held", "resting")
PROFILE_STATES: Final = ("active", "open", "parked", "paused")
CONNECTION_STATES: Final = ("busy", "idle")

_QUICK: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
_FAR: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 600.0)


def _each(values: Iterable[str]) -> tuple[Labels, ...]:
    return tuple((value,) for value in values)


def _tally(
    name: str, says: str, labels: Sequence[str] = (), known: Iterable[Labels] = (), tenants: Tenants | None = None
) -> Tally:
    tally = Tally(_PREFIX + name, says, labels, known=known, tenants=tenants)
    REGISTRY.register(tally)
    return tally


def _spread(name: str, says: str, buckets: Sequence[float], label: str = "", known: Iterable[str] = ()) -> Spread:
    spread = Spread(_PREFIX + name, says, buckets, label, known=known)
    REGISTRY.register(spread)
    return spread


def _gauge(name: str, says: str, label: str = "", known: Iterable[str] = ()) -> Gauge:
    gauge = Gauge(_PREFIX + name, says, [label] if label else [], registry=REGISTRY)
    for value in known:
        gauge.labels(value)
    return gauge


class _Process(ProcessCollector):
    """What `/proc` says of this process, also where it shows processes and nothing else (ProcSubset=pid)."""

    def _boot_time(self) -> float:
        # The library reads /proc/stat, and without it tells nothing at all.
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


# The process.

BUILD: Final = Gauge(
    _PREFIX + "build_info", "1: the version that runs, on which Python and which store.", ["version", "python", "store"],
    registry=REGISTRY,
)  # fmt: skip
READY = _gauge("ready", "1 while /readyz says so.")
PROCESS: Final = _Process(namespace=_PREFIX.rstrip("_"), registry=REGISTRY)
CLOCK = _gauge("clock_timestamp_seconds", "What time it is for the daemon.")
CLOCK.set_function(time.time)
LOOP_LAG = _spread(
    "loop_lag_seconds", "How late the event loop was, looked at ten times a second.",
    (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
)  # fmt: skip
TASKS = _gauge("tasks", "Tasks on the event loop.")
RELOADS = _tally("reloads", "Reloads of the settings, by result.", ["result"], _each(("ok", "failed")))
RELOAD_OK = _gauge("last_reload_successful", "1 if the settings in force are what their files said last.")
RELOADED = _gauge("last_reload_success_timestamp_seconds", "When the settings were last put into force.")
RESTART_NEEDED = _gauge("restart_needed", "1 while changed settings wait for a restart.")
PAUSED = _gauge("paused", "1 while all sending is paused.")
BACKED_UP = _gauge(
    "last_backup_success_timestamp_seconds", "As of when the last backup is that was fetched whole; 0: there is none."
)

# HTTP.

REQUESTS = _tally("http_requests", "HTTP answers by route and status class.", ["route", "status"])
HTTP_SECONDS = _spread(
    "http_request_seconds", "Time from a request's head to its answer.", _QUICK, "route", TIMED_ROUTES
)
IN_FLIGHT = _gauge("http_requests_in_flight", "Requests that are being answered.")
HTTP_CONNECTIONS = _gauge("http_connections", "Connections of callers that are open.")
REFUSED_KEYS = _tally("http_keys_refused", "Requests with a key that was refused.")
SIGN_INS = _tally(
    "http_sign_ins", "Sign-ins to the pages, by how and with what result.", ["how", "result"],
    [("key", "ok"), ("link", "ok"), ("link", "failed"), ("oidc", "ok"), ("oidc", "failed"), ("oidc", "no_right")],
)  # fmt: skip
REFUSALS = _tally(
    "http_refusals", "Requests, and items of batches, that were refused, by the problem's code.", ["code"],
    _each(code.code for code in Code),
)  # fmt: skip
REPLAYS = _tally("idempotent_replays", "Notifications answered again under their idempotency key.")
BATCH_SIZE = _spread(
    "accept_batch_notifications", "Notifications that came in one batch request.", (1, 2, 5, 10, 20, 50, 100, 200, 500)
)

# The outbox.

TENANTS: Final = Tenants(
    _tally(
        "tenant_label_dropped",
        "What was counted under the tenant `other`, because two hundred have series of their own.",
    )
)
ACCEPTED = _tally("accepted", "Notifications committed to the outbox.", tenants=TENANTS)
ACCEPTED_RECIPIENTS = _tally("accepted_recipients", "Recipients of the notifications that were committed.")
ACCEPTED_BYTES = _tally("accepted_bytes", "Size of the contents that were committed, as they are stored.")
RECIPIENTS = _tally(
    "recipient_outcomes", "What became of recipients.", ["outcome"], _each(OUTCOMES), tenants=TENANTS
)  # fmt: skip
UNFINISHED = _gauge("outbox_unfinished", "Notifications that are not final, of all daemons.")
IN_HAND = _gauge("outbox_leased", "Notifications that this daemon has claimed and not settled.")
DEPTH = _gauge("outbox_depth", "Notifications that are not final, by how they stand, of all daemons.", "state", DEPTHS)
OLDEST = _gauge(
    "outbox_oldest_seconds", "Age of the oldest notification by how it stands, of all daemons; 0 without one.",
    "state", DEPTHS,
)  # fmt: skip
OVERDUE = _gauge(
    "outbox_overdue_seconds",
    "How long the most overdue notification is past its time, of all daemons, where its profile may send.",
)

# Relays.

SESSIONS = _tally(
    "relay_sessions", "Sessions with relays, by how opening ended.", ["result"],
    _each(("opened", "opened_unverified", *TROUBLES)),
)  # fmt: skip
PHASE_SECONDS = _spread("relay_phase_seconds", "Time of a phase of opening a session.", _FAR, "phase", PHASES)
TRANSACTION_SECONDS = _spread(
    "relay_transaction_seconds", "Time from a message's turn on its session to the relay's final reply.", _FAR
)
RELAY_ANSWERS = _tally("relay_answers", "What relays answered, by recipient.", ["answer"], _each(ANSWERS))
CONNECTIONS = _gauge("relay_connections", "Connections to relays that are open.", "state", CONNECTION_STATES)
PARKED = _tally("profile_parks", "Times a profile was parked, by reason.", ["reason"], _each(PARKINGS))
PROFILES = _gauge("profiles", "Profiles whose mail this daemon carries, by state.", "state", PROFILE_STATES)
PROFILES_PARKED = _gauge("profiles_parked", "Profiles of this daemon that are parked, by reason.", "reason", PARKINGS)
BREAKER_OPENINGS = _tally("breaker_openings", "Times a relay's breaker opened.")
BREAKERS = _gauge("breakers_open", "Relays that are left alone, or tried with one message.")
BREAKER_SECONDS = _gauge(
    "breaker_open_seconds", "How long the one of them that is away longest has been; 0 without one."
)
FAILOVERS = _tally("failovers", "Messages carried by a profile of the failover list.")
LANES = _gauge("lanes", "Profiles whose mail this daemon carries, since there was some.")
CERTIFICATES: Final = Certificates(_PREFIX)
REGISTRY.register(CERTIFICATES)

# Webhooks.

WEBHOOK_ATTEMPTS = _tally(
    "webhook_attempts", "Attempts to tell a webhook something, by result.", ["result"], _each(WEBHOOK_RESULTS)
)
WEBHOOK_SECONDS = _spread(
    "webhook_seconds", "Time of one attempt to tell a webhook something.",
    (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0),
)  # fmt: skip
WEBHOOK_EVENTS = _gauge("webhook_events_waiting", "Events that webhooks are still to be told, of all daemons.")
WEBHOOK_OLDEST = _gauge("webhook_oldest_seconds", "Age of the oldest of them; 0 without one.")

# Secrets. How their sources stand is in `Everything`.

SECRET_FETCHES = _tally(
    "secret_fetches", "Attempts to fetch a secret, by connection and result.", ["connection", "result"]
)
SECRET_FETCH_SECONDS = _spread(
    "secret_fetch_seconds", "Time of one attempt to fetch a secret.",
    (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0), "connection",
)  # fmt: skip
SECRET_CHANGES = _tally("secret_changes", "Secrets that were fetched and are others than before.", ["connection"])
SECRET_REFUSALS = _tally(
    "secret_refusals", "Secrets fetched anew because a relay refused them, by what that brought.",
    ["connection", "outcome"],
)  # fmt: skip
SECRET_DENIALS = _tally(
    "secret_policy_denials", "Secrets asked for that the operator does not lend to that tenant or relay.",
    ["connection"],
)  # fmt: skip
SECRET_LOGINS = _tally("secret_logins", "Sign-ins at a secret store, by result.", ["connection", "result"])

# The store.

COMMIT_SECONDS = _spread(
    "store_commit_seconds", "Time of one commit.", (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
)
COMMIT_JOBS = _spread(
    "store_commit_jobs", "Writes that shared one commit.", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)  # fmt: skip
STATEMENTS = _tally("store_statements", "Statements sent to the database server, each a round trip.")
STORE_AWAY = _gauge("store_away", "1 while the database server cannot be reached.")
DAEMONS = _gauge("daemons", "Daemons that live on the same database, this one included; 0 on SQLite.")
SPACE_LOW = _gauge("store_space_low", "1 while new notifications are refused for want of disk.")
STORE_SIZE = _gauge("store_size_bytes", "Size of the SQLite database and of its write-ahead log.", "file")
DISK_FREE = _gauge("store_disk_free_bytes", "What is free on the disk of the SQLite database; NaN without one.")
DISK_FREE.set(math.nan)
DISK_FLOOR = _gauge("store_disk_floor_bytes", "With less free disk new notifications are refused; 0: never.")


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
