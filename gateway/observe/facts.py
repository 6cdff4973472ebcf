"""Facts for operators: one function each writes the log line and moves the metric; nobody else does either.

Labels come from closed sets; a tenant, a host or a relay's text is never one, but for the certificates that end first.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from gateway import __version__
from gateway.observe.certificates import Certificates

REGISTRY: Final = CollectorRegistry()
_PREFIX: Final = "notification_gateway_"
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

ACCEPTED = Counter(_PREFIX + "accepted", "Notifications committed to the outbox.", registry=REGISTRY)
REQUESTS = Counter(
    _PREFIX + "http_requests", "HTTP answers by route and status class.", ["route", "status"], registry=REGISTRY
)
REFUSED_KEYS = Counter(_PREFIX + "http_keys_refused", "Requests with a key that was refused.", registry=REGISTRY)
HTTP_SECONDS = Histogram(
    _PREFIX + "http_request_seconds", "Time from a request's head to its answer.", registry=REGISTRY,
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0),
)  # fmt: skip
_answers: dict[tuple[str, int], Counter] = {}
_outcomes: dict[str, Counter] = {}
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
STARTED = Gauge(_PREFIX + "start_time_seconds", "When the daemon started.", registry=REGISTRY)
BUILD = Gauge(_PREFIX + "build_info", "The version that runs.", ["version"], registry=REGISTRY)

_KEY_VALUE: Final = structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True)
_log: Any = structlog.get_logger()


def configure(form: str, level: str) -> None:
    """Set up logging to standard error: `json`, `text` for a terminal, or `journal` with syslog priorities."""
    renderer: Callable[..., Any] = structlog.processors.JSONRenderer(serializer=json.dumps)
    if form == "text":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    processors: list[Any] = [structlog.processors.add_log_level]
    if form == "journal":
        renderer = _journal_line
    else:
        processors.append(structlog.processors.TimeStamper(fmt="iso"))
    structlog.configure(
        processors=[*processors, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    STARTED.set(time.time())
    BUILD.labels(__version__).set(1)


def _journal_line(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """Write a line with its priority where systemd looks for it (sd-daemon(3))."""
    priority = {"debug": 7, "info": 6, "warning": 4, "error": 3}.get(method, 6)
    event.pop("level", None)
    return f"<{priority}>{_KEY_VALUE(logger, method, event)}"


def started(version: str, store: str) -> None:
    """The daemon is ready."""
    _log.info("started", version=version, store=store)


def listening(what: str, where: str) -> None:
    """A listener takes connections."""
    _log.info("listening", what=what, where=where)


def stopping(in_hand: int) -> None:
    """The daemon begins to drain."""
    _log.info("stopping", in_hand=in_hand)


def stopped() -> None:
    """The daemon ends in order."""
    _log.info("stopped")


def accepted(count: int) -> None:
    """Notifications are on stable storage."""
    ACCEPTED.inc(count)


def answered(route: str, status: int, seconds: float) -> None:
    """A request was answered."""
    key = (route, status)
    if (child := _answers.get(key)) is None:
        child = _answers[key] = REQUESTS.labels(route or "none", f"{status // 100}xx")
    child.inc()
    HTTP_SECONDS.observe(seconds)


def request_failed(request_id: str, error: BaseException) -> None:
    """A request met an error of ours."""
    _log.error("request_failed", request_id=request_id, error=type(error).__name__, exc_info=error)


def key_refused(address: str) -> None:
    """An API key was refused."""
    REFUSED_KEYS.inc()
    _log.warning("key_refused", client=address)


def recipient(outcome: str, count: int) -> None:
    """Recipients reached a state."""
    if (child := _outcomes.get(outcome)) is None:
        child = _outcomes[outcome] = RECIPIENTS.labels(outcome)
    child.inc(count)


def session_opened(place: tuple[str, str], *, verified: bool) -> None:
    """A session with a relay is open, which may be anybody if its certificate was not to be verified."""
    SESSIONS.labels("opened" if verified else "opened_unverified").inc()
    if verified:
        _log.debug("session_opened", owner=place[0], profile=place[1])
    else:
        _log.warning("session_unverified", owner=place[0], profile=place[1])


def session_failed(place: tuple[str, str], fault: Any) -> None:
    """A session could not be opened."""
    SESSIONS.labels(str(fault.trouble)).inc()
    _log.warning(
        "session_failed", owner=place[0], profile=place[1], phase=str(fault.phase), trouble=str(fault.trouble),
        detail=fault.detail,
    )  # fmt: skip


def opening_failed(place: tuple[str, str], error: BaseException) -> None:
    """Opening a session met an error of ours; where, and not what it says, which might be what the relay was told."""
    stack = "".join(traceback.format_tb(error.__traceback__))
    _log.error("opening_failed", owner=place[0], profile=place[1], error=type(error).__name__, stack=stack)


def breaker_opened(place: tuple[str, str], seconds: float, detail: str) -> None:
    """A relay is left alone for a while."""
    BREAKERS.inc()
    _log.warning("breaker_opened", owner=place[0], profile=place[1], seconds=round(seconds), detail=detail)


def parked(place: tuple[str, str], reason: str, detail: str) -> None:
    """A profile is not used until something changes; its mail waits."""
    PARKED.labels(reason).inc()
    _log.warning("parked", owner=place[0], profile=place[1], reason=reason, detail=detail)


def secret_fetched(connection: str, result: str, seconds: float) -> None:
    """A secret was asked for at its source."""
    SECRET_FETCHES.labels(connection, result).inc()
    SECRET_FETCH_SECONDS.labels(connection).observe(seconds)


def secret_stale(connection: str, stale: bool) -> None:  # noqa: FBT001 - told by a hook
    """A secret begins to be served on without its source, or no longer is; `SecretLook` counts them."""
    if stale:
        _log.warning("secret_stale", connection=connection)
    else:
        _log.info("secret_fresh_again", connection=connection)


def secret_changed(connection: str) -> None:
    """A secret was fetched and is another one than before."""
    SECRET_CHANGES.labels(connection).inc()
    _log.info("secret_changed", connection=connection)


def secret_refused(connection: str, outcome: str) -> None:
    """A secret that a relay refused was fetched anew: it is `changed` or `unchanged`, or fetching `failed`."""
    SECRET_REFUSALS.labels(connection, outcome).inc()
    _log.info("secret_refused", connection=connection, outcome=outcome)


def secret_denied(owner: str, connection: str) -> None:
    """A tenant's profile asked for what the operator does not lend; `connection` is never the tenant's own word."""
    SECRET_DENIALS.labels(connection).inc()
    _log.warning("secret_denied", owner=owner, connection=connection)


def secret_login(connection: str, result: str) -> None:
    """The daemon signed in at a secret store, or was not let in."""
    SECRET_LOGINS.labels(connection, result).inc()
    if result != "ok":
        _log.warning("secret_login_failed", connection=connection, result=result)


def secret_expiring(connection: str, seconds: float) -> None:
    """A secret is near the end that its source tells, or past it."""
    _log.warning("secret_expiring", connection=connection, days=round(seconds / 86_400, 1))


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


def unparked(place: tuple[str, str], reason: str) -> None:
    """A parked profile works again."""
    _log.info("unparked", owner=place[0], profile=place[1], reason=reason)


def certificate(host: str, port: int, ends: float) -> None:
    """A relay showed a certificate; `ends` is in seconds since the epoch."""
    CERTIFICATES.showed((host, port), ends)


def failover_began(place: tuple[str, str], by: tuple[str, str]) -> None:
    """Mail of a profile that is parked, or whose relay is away, goes by another of its list."""
    _log.warning("failover_began", owner=place[0], profile=place[1], by=by[1])


def failover_ended(place: tuple[str, str]) -> None:
    """A profile carries its own mail again."""
    _log.info("failover_ended", owner=place[0], profile=place[1])


def stood_in() -> None:
    """A message was carried by another profile than its own."""
    FAILOVERS.inc()


def halved(place: tuple[str, str], detail: str) -> None:
    """A relay had too many of our connections."""
    _log.warning("connections_halved", owner=place[0], profile=place[1], detail=detail)


def commit(seconds: float, jobs: int) -> None:
    """A commit reached stable storage."""
    COMMIT_SECONDS.observe(seconds)
    COMMIT_JOBS.observe(jobs)


def statements(count: int) -> None:
    """The database server was asked so often."""
    STATEMENTS.inc(count)


def store_away(*, away: bool) -> None:
    """The database server cannot be reached, and what waits for it goes on when it is back; or it answers again."""
    STORE_AWAY.set(away)
    _log.log(logging.ERROR if away else logging.WARNING, "store_away" if away else "store_back")


def daemons(alive: int) -> None:
    """So many daemons live on the database."""
    DAEMONS.set(alive)
    _log.info("daemons", alive=alive)


def beat_missed(error: BaseException) -> None:
    """This daemon could not tell the others that it lives."""
    _log.warning("beat_missed", error=f"{type(error).__name__}: {error}")


def entry_unreadable(kind: str, tenant: str, name: str, error: Exception) -> None:
    """An object of the directory cannot be read: newer code wrote it. It counts as not there."""
    _log.error("entry_unreadable", kind=kind, tenant=tenant, name=name, error=type(error).__name__)


def row_unreadable(id_: str, error: Exception) -> None:
    """A notification cannot be read: newer code wrote it. It waits."""
    _log.error("row_unreadable", id=id_, error=type(error).__name__)


def lanes(held: int) -> None:
    """This daemon carries the mail of so many profiles."""
    LANES.set(held)


def lanes_lost(count: int) -> None:
    """The store could not be reached for so long that others carry our profiles' mail: we hung up on their relays."""
    _log.error("lanes_lost", count=count)


def provisioned_key_revoked(file: str) -> None:
    """A key file holds a key that was revoked: it is refused."""
    _log.error("provisioned_key_revoked", file=file)


def store_broken(detail: str) -> None:
    """The database cannot be trusted to write; the daemon ends."""
    _log.error("store_broken", detail=detail)


def reloaded() -> None:
    """The settings were read again and hold."""
    _log.info("reloaded")


def reload_failed(faults: list[str]) -> None:
    """The settings were read again and are faulty; the old ones stay."""
    _log.error("reload_failed", faults=faults)


def start_failed(detail: str) -> None:
    """The daemon could not start."""
    _log.error("start_failed", detail=detail)


def loop_died(error: BaseException) -> None:
    """A background loop ended by an error of ours; the daemon ends with it."""
    _log.error("loop_died", error=type(error).__name__, exc_info=error)


def gauges(unfinished: int, in_hand: int, *, space_low: bool) -> None:
    """What stands in the outbox now."""
    UNFINISHED.set(unfinished)
    IN_HAND.set(in_hand)
    SPACE_LOW.set(space_low)
