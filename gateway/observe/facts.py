"""Facts for operators: one function each writes the log line and moves the metric; nobody else does either."""

import logging
import time
import traceback
from typing import Any

import structlog
from prometheus_client import Counter

from gateway import __version__
from gateway.observe import metrics

_answers: dict[tuple[str, int], Counter] = {}
_outcomes: dict[str, Counter] = {}
_log: Any = structlog.get_logger()


def began() -> None:
    """The process begins to be a daemon."""
    metrics.STARTED.set(time.time())
    metrics.BUILD.labels(__version__).set(1)
    metrics.RELOAD_OK.set(1)
    metrics.RELOADED.set(time.time())


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
    metrics.ACCEPTED.inc(count)


def answered(route: str, status: int, seconds: float) -> None:
    """A request was answered."""
    key = (route, status)
    if (child := _answers.get(key)) is None:
        child = _answers[key] = metrics.REQUESTS.labels(route or "none", f"{status // 100}xx")
    child.inc()
    metrics.HTTP_SECONDS.observe(seconds)


def request_failed(request_id: str, error: BaseException) -> None:
    """A request met an error of ours."""
    _log.error("request_failed", request_id=request_id, error=type(error).__name__, exc_info=error)


def key_refused(address: str) -> None:
    """An API key was refused."""
    metrics.REFUSED_KEYS.inc()
    _log.warning("key_refused", client=address)


def recipient(outcome: str, count: int) -> None:
    """Recipients reached a state."""
    if (child := _outcomes.get(outcome)) is None:
        child = _outcomes[outcome] = metrics.RECIPIENTS.labels(outcome)
    child.inc(count)


def session_opened(place: tuple[str, str], *, verified: bool) -> None:
    """A session with a relay is open, which may be anybody if its certificate was not to be verified."""
    metrics.SESSIONS.labels("opened" if verified else "opened_unverified").inc()
    if verified:
        _log.debug("session_opened", owner=place[0], profile=place[1])
    else:
        _log.warning("session_unverified", owner=place[0], profile=place[1])


def session_failed(place: tuple[str, str], fault: Any) -> None:
    """A session could not be opened."""
    metrics.SESSIONS.labels(str(fault.trouble)).inc()
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
    metrics.BREAKERS.inc()
    _log.warning("breaker_opened", owner=place[0], profile=place[1], seconds=round(seconds), detail=detail)


def parked(place: tuple[str, str], reason: str, detail: str) -> None:
    """A profile is not used until something changes; its mail waits."""
    metrics.PARKED.labels(reason).inc()
    _log.warning("parked", owner=place[0], profile=place[1], reason=reason, detail=detail)


def secret_fetched(connection: str, result: str, seconds: float) -> None:
    """A secret was asked for at its source."""
    metrics.SECRET_FETCHES.labels(connection, result).inc()
    metrics.SECRET_FETCH_SECONDS.labels(connection).observe(seconds)


def secret_stale(connection: str, stale: bool) -> None:  # noqa: FBT001 - told by a hook
    """A secret begins to be served on without its source, or no longer is; `SecretLook` counts them."""
    if stale:
        _log.warning("secret_stale", connection=connection)
    else:
        _log.info("secret_fresh_again", connection=connection)


def secret_changed(connection: str) -> None:
    """A secret was fetched and is another one than before."""
    metrics.SECRET_CHANGES.labels(connection).inc()
    _log.info("secret_changed", connection=connection)


def secret_refused(connection: str, outcome: str) -> None:
    """A secret that a relay refused was fetched anew: it is `changed` or `unchanged`, or fetching `failed`."""
    metrics.SECRET_REFUSALS.labels(connection, outcome).inc()
    _log.info("secret_refused", connection=connection, outcome=outcome)


def secret_denied(owner: str, connection: str) -> None:
    """A tenant's profile asked for what the operator does not lend; `connection` is never the tenant's own word."""
    metrics.SECRET_DENIALS.labels(connection).inc()
    _log.warning("secret_denied", owner=owner, connection=connection)


def secret_login(connection: str, result: str) -> None:
    """The daemon signed in at a secret store, or was not let in."""
    metrics.SECRET_LOGINS.labels(connection, result).inc()
    if result != "ok":
        _log.warning("secret_login_failed", connection=connection, result=result)


def secret_expiring(connection: str, seconds: float) -> None:
    """A secret is near the end that its source tells, or past it."""
    _log.warning("secret_expiring", connection=connection, days=round(seconds / 86_400, 1))


def unparked(place: tuple[str, str], reason: str) -> None:
    """A parked profile works again."""
    _log.info("unparked", owner=place[0], profile=place[1], reason=reason)


def certificate(host: str, port: int, ends: float) -> None:
    """A relay showed a certificate; `ends` is in seconds since the epoch."""
    metrics.CERTIFICATES.showed((host, port), ends)


def failover_began(place: tuple[str, str], by: tuple[str, str]) -> None:
    """Mail of a profile that is parked, or whose relay is away, goes by another of its list."""
    _log.warning("failover_began", owner=place[0], profile=place[1], by=by[1])


def failover_ended(place: tuple[str, str]) -> None:
    """A profile carries its own mail again."""
    _log.info("failover_ended", owner=place[0], profile=place[1])


def stood_in() -> None:
    """A message was carried by another profile than its own."""
    metrics.FAILOVERS.inc()


def halved(place: tuple[str, str], detail: str) -> None:
    """A relay had too many of our connections."""
    _log.warning("connections_halved", owner=place[0], profile=place[1], detail=detail)


def commit(seconds: float, jobs: int) -> None:
    """A commit reached stable storage."""
    metrics.COMMIT_SECONDS.observe(seconds)
    metrics.COMMIT_JOBS.observe(jobs)


def statements(count: int) -> None:
    """The database server was asked so often."""
    metrics.STATEMENTS.inc(count)


def store_away(*, away: bool) -> None:
    """The database server cannot be reached, and what waits for it goes on when it is back; or it answers again."""
    metrics.STORE_AWAY.set(away)
    _log.log(logging.ERROR if away else logging.WARNING, "store_away" if away else "store_back")


def daemons(alive: int) -> None:
    """So many daemons live on the database."""
    metrics.DAEMONS.set(alive)
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
    metrics.LANES.set(held)


def lanes_lost(count: int) -> None:
    """The store could not be reached for so long that others carry our profiles' mail: we hung up on their relays."""
    _log.error("lanes_lost", count=count)


def provisioned_key_revoked(file: str) -> None:
    """A key file holds a key that was revoked: it is refused."""
    _log.error("provisioned_key_revoked", file=file)


def store_broken(detail: str) -> None:
    """The database cannot be trusted to write; the daemon ends."""
    _log.error("store_broken", detail=detail)


def reloaded(waiting: list[str]) -> None:
    """The settings were read again and hold; what changed in the keys that are `waiting` needs a restart."""
    metrics.RELOADS.labels("ok").inc()
    metrics.RELOAD_OK.set(1)
    metrics.RELOADED.set(time.time())
    metrics.RESTART_NEEDED.set(bool(waiting))
    _log.info("reloaded")
    if waiting:
        _log.warning("restart_needed", keys=waiting)


def reload_failed(faults: list[str]) -> None:
    """The settings were read again and are faulty; the old ones stay."""
    metrics.RELOADS.labels("failed").inc()
    metrics.RELOAD_OK.set(0)
    _log.error("reload_failed", faults=faults)


def store_stuck(seconds: float) -> None:
    """The store did not write for so long that the service manager is not told that all is well."""
    _log.error("store_stuck", seconds=round(seconds, 1))


def start_failed(detail: str) -> None:
    """The daemon could not start."""
    _log.error("start_failed", detail=detail)


def loop_died(error: BaseException) -> None:
    """A background loop ended by an error of ours; the daemon ends with it."""
    _log.error("loop_died", error=type(error).__name__, exc_info=error)


def gauges(unfinished: int, in_hand: int, *, space_low: bool) -> None:
    """What stands in the outbox now."""
    metrics.UNFINISHED.set(unfinished)
    metrics.IN_HAND.set(in_hand)
    metrics.SPACE_LOW.set(space_low)
