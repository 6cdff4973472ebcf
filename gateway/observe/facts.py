"""Facts for operators: one function each writes the log line and moves the metric; nobody else does either."""

import logging
import platform
import time
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Final

import structlog

from gateway.observe import log, metrics
from gateway.observe.certificates import Role

LINES_A_MINUTE: Final = 10  # on recipients that do not get their mail, of one profile's
OUTCOMES: Final = {
    "relayed": logging.DEBUG, "deferred": logging.DEBUG, "held": logging.DEBUG, "failover": logging.DEBUG,
    "cancelled": logging.DEBUG, "failed": logging.INFO, "expired": logging.INFO, "uncertain": logging.INFO,
    "outcome_unknown": logging.INFO,
}  # fmt: skip
"""What can come of a recipient, and how much an operator wants to hear of it."""

_log: Any = structlog.get_logger()
_left_out: dict[str, int] = {}  # lines of this minute by profile; what is beyond those that are written is told later
_minute = 0.0


def began(*, tenants: bool) -> None:
    """The process begins to be a daemon; `tenants`: metrics tell them apart."""
    metrics.TENANTS.shown = tenants
    metrics.RELOAD_OK.set(1)
    metrics.RELOADED.set(time.time())


def started(version: str, store: str) -> None:
    """The daemon is ready."""
    metrics.BUILD.labels(version, platform.python_version(), store).set(1)
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


def accepted(tenant: str, recipients: int, size: int) -> None:
    """A notification for so many recipients is on stable storage; `size` of its content in octets."""
    metrics.ACCEPTED.add(metrics.TENANTS.label(tenant))
    metrics.ACCEPTED_RECIPIENTS.add(count=recipients)
    metrics.ACCEPTED_BYTES.add(count=size)


def answered(route: str, status: int, seconds: float) -> None:
    """A request was answered."""
    metrics.REQUESTS.add(route or "none", metrics.CLASSES[status // 100 - 1])
    metrics.HTTP_SECONDS.observe(seconds, route if route in metrics.TIMED_ROUTES else "other")


def refused(code: str) -> None:
    """A request, or one item of a batch, was refused with this problem's code."""
    metrics.REFUSALS.add(code)


def batch(size: int) -> None:
    """A batch of so many notifications came."""
    metrics.BATCH_SIZE.observe(size)


def replayed() -> None:
    """A request was answered again under its idempotency key."""
    metrics.REPLAYS.add()


def request_failed(request_id: str, error: BaseException) -> None:
    """A request met an error of ours."""
    _log.error("request_failed", request_id=request_id, error=type(error).__name__, exc_info=error)


def key_refused(address: str) -> None:
    """An API key was refused."""
    metrics.REFUSED_KEYS.add()
    _log.warning("key_refused", client=address)


def recipient(outcome: str, count: int, tenant: str) -> None:
    """Recipients of a tenant's reached a state."""
    metrics.RECIPIENTS.add(outcome, metrics.TENANTS.label(tenant), count=count)


def notification_accepted(id_: str, tenant: str, place: tuple[str, str] | None, traceparent: str | None) -> None:
    """A notification is on stable storage, to be sent by that profile as things stand; one line for each, for `debug` only."""
    if log.debugging():
        _log.debug("accepted", id=id_, tenant=tenant, **_placed(place), **_traced(traceparent))


def outcome(
    event: str, id_: str, tenant: str, by: str, recipient: int, reply: tuple[int, str | None] | None,
    traceparent: str | None,
) -> None:  # fmt: skip
    """Something came of one recipient, named by its place in the notification's list: an address is personal data.

    `by` is the profile ("owner/name") that carried it, if any did. Above `debug` a profile has ten lines a minute.
    """
    level = OUTCOMES.get(event)
    if level is None or (not log.debugging() and (level < logging.INFO or not _within_a_minute(by or tenant))):
        return
    place = tuple(by.split("/", 1)) if by else None
    _log.log(
        level, event, id=id_, tenant=tenant, **_placed(place), recipient=recipient, **_said(reply),
        **_traced(traceparent),
    )  # fmt: skip


def _within_a_minute(of: str) -> bool:
    """Is there a line left for a profile, or for a tenant's mail that none carried?"""
    tell_left_out()
    _left_out[of] = count = _left_out.get(of, 0) + 1
    return count <= LINES_A_MINUTE


def tell_left_out() -> None:
    """Once a minute is over, tell how many lines were left out in it."""
    global _minute  # noqa: PLW0603 - a process has one log
    now = time.monotonic()
    if now - _minute < 60:
        return
    _minute = now
    counts = dict(_left_out)
    _left_out.clear()
    for of, count in counts.items():
        if count > LINES_A_MINUTE:
            _log.info("lines_left_out", of=of, count=count - LINES_A_MINUTE)


def lease_lost(id_: str, tenant: str, traceparent: str | None) -> None:
    """A result came too late: somebody else may have sent the notification meanwhile, so there may be two copies."""
    _log.warning("lease_lost", id=id_, tenant=tenant, **_traced(traceparent))


def _placed(place: tuple[str, ...] | None) -> dict[str, str]:
    return {} if place is None else {"owner": place[0], "profile": place[1]}


def _said(reply: tuple[int, str | None] | None) -> dict[str, int | str]:
    if reply is None:
        return {}
    return {"code": reply[0]} if reply[1] is None else {"code": reply[0], "enhanced": reply[1]}


def _traced(traceparent: str | None) -> dict[str, str]:
    return {} if traceparent is None else {"trace_id": traceparent.split("-")[1]}


def library(name: str, level: int, message: str, exc_info: Any) -> None:
    """A library logged something."""
    _log.log(level, "library", logger=name, message=message, exc_info=exc_info)


def uncaught(where: str, message: str, error: BaseException | None) -> None:
    """An error went past everybody, in the loop, in a thread, at the end of the process, or where an object went."""
    _log.error("uncaught", where=where, message=message, exc_info=error)


def session_opened(place: tuple[str, str], *, verified: bool) -> None:
    """A session with a relay is open, which may be anybody if its certificate was not to be verified."""
    metrics.SESSIONS.add("opened" if verified else "opened_unverified")
    if verified:
        _log.debug("session_opened", owner=place[0], profile=place[1])
    else:
        _log.warning("session_unverified", owner=place[0], profile=place[1])


def session_failed(place: tuple[str, str], fault: Any) -> None:
    """A session could not be opened."""
    metrics.SESSIONS.add(str(fault.trouble))
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
    metrics.BREAKER_OPENINGS.add()
    _log.warning("breaker_opened", owner=place[0], profile=place[1], seconds=round(seconds), detail=detail)


def parked(place: tuple[str, str], reason: str, detail: str) -> None:
    """A profile is not used until something changes; its mail waits."""
    metrics.PARKED.add(reason)
    _log.warning("parked", owner=place[0], profile=place[1], reason=reason, detail=detail)


def secret_connection(connection: str) -> None:
    """There is such a source of secrets: what has not happened there yet is shown as 0."""
    for result in metrics.FETCHES:
        metrics.SECRET_FETCHES.add(connection, result, count=0)
    for result in metrics.LOGINS:
        metrics.SECRET_LOGINS.add(connection, result, count=0)
    for outcome in metrics.REFUSED:
        metrics.SECRET_REFUSALS.add(connection, outcome, count=0)
    metrics.SECRET_CHANGES.add(connection, count=0)
    metrics.SECRET_DENIALS.add(connection, count=0)


def secret_fetched(connection: str, result: str, seconds: float) -> None:
    """A secret was asked for at its source."""
    metrics.SECRET_FETCHES.add(connection, result)
    metrics.SECRET_FETCH_SECONDS.observe(seconds, connection)


def secret_stale(connection: str, stale: bool) -> None:  # noqa: FBT001 - told by a hook
    """A secret begins to be served on without its source, or no longer is; `SecretLook` counts them."""
    if stale:
        _log.warning("secret_stale", connection=connection)
    else:
        _log.info("secret_fresh_again", connection=connection)


def secret_changed(connection: str) -> None:
    """A secret was fetched and is another one than before."""
    metrics.SECRET_CHANGES.add(connection)
    _log.info("secret_changed", connection=connection)


def secret_refused(connection: str, outcome: str) -> None:
    """A secret that a relay refused was fetched anew: it is `changed` or `unchanged`, or fetching `failed`."""
    metrics.SECRET_REFUSALS.add(connection, outcome)
    _log.info("secret_refused", connection=connection, outcome=outcome)


def secret_denied(owner: str, connection: str) -> None:
    """A tenant's profile asked for what the operator does not lend; `connection` is never the tenant's own word."""
    metrics.SECRET_DENIALS.add(connection)
    _log.warning("secret_denied", owner=owner, connection=connection)


def secret_login(connection: str, result: str) -> None:
    """The daemon signed in at a secret store, or was not let in."""
    metrics.SECRET_LOGINS.add(connection, result)
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
    metrics.FAILOVERS.add()


def halved(place: tuple[str, str], detail: str) -> None:
    """A relay had too many of our connections."""
    _log.warning("connections_halved", owner=place[0], profile=place[1], detail=detail)


def commit(seconds: float, jobs: int) -> None:
    """A commit reached stable storage."""
    metrics.COMMIT_SECONDS.observe(seconds)
    metrics.COMMIT_JOBS.observe(jobs)


def statements(count: int) -> None:
    """The database server was asked so often."""
    metrics.STATEMENTS.add(count=count)


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


def webhook_attempt(result: str, seconds: float) -> None:
    """A webhook was told something, or could not be."""
    metrics.WEBHOOK_ATTEMPTS.add(result)
    metrics.WEBHOOK_SECONDS.observe(seconds)


def webhook_failed(webhook: tuple[str, str], host: str, result: str, status: int | None, *, first: bool) -> None:
    """A webhook did not take what it was told, the `first` time since it did.

    Of its address only the host is shown, for the rest may be a secret.
    """
    level = logging.WARNING if first else logging.DEBUG
    _log.log(level, "webhook_failed", tenant=webhook[0], webhook=webhook[1], host=host, result=result, status=status)


def webhook_gave_up(webhook: tuple[str, str], event_id: str) -> None:
    """A webhook did not take an event for so long that it is told no more of it."""
    _log.warning("webhook_gave_up", tenant=webhook[0], webhook=webhook[1], event_id=event_id)


def webhook_disabled(webhook: tuple[str, str], host: str, reason: str) -> None:
    """A webhook is told nothing any more, until somebody enables it again."""
    _log.warning("webhook_disabled", tenant=webhook[0], webhook=webhook[1], host=host, reason=reason)


def webhook_events(waiting: int, oldest_seconds: float) -> None:
    """So many events wait for webhooks, the oldest for so long."""
    metrics.WEBHOOK_EVENTS.set(waiting)
    metrics.WEBHOOK_OLDEST.set(oldest_seconds)


def store_broken(detail: str) -> None:
    """The database cannot be trusted to write; the daemon ends."""
    _log.error("store_broken", detail=detail)


def reloaded(waiting: list[str]) -> None:
    """The settings were read again and hold; what changed in the keys that are `waiting` needs a restart."""
    metrics.RELOADS.add("ok")
    metrics.RELOAD_OK.set(1)
    metrics.RELOADED.set(time.time())
    metrics.RESTART_NEEDED.set(bool(waiting))
    _log.info("reloaded")
    if waiting:
        _log.warning("restart_needed", keys=waiting)


def reload_failed(faults: list[str]) -> None:
    """The settings were read again and are faulty; the old ones stay."""
    metrics.RELOADS.add("failed")
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


def sending_paused(reason: str) -> None:
    """All sending is paused, and mail is kept: a person wanted it so, or the database is a copy."""
    metrics.PAUSED.set(1)
    _log.warning("sending_paused", reason=reason)


def sending_resumed() -> None:
    """Mail leaves again."""
    metrics.PAUSED.set(0)
    _log.warning("sending_resumed")


def started_paused(reason: str) -> None:
    """The database is a copy: what the original has sent since would be sent again."""
    remedy = "stop whatever works on the original, look at `queue list` and `doctor`, then run `queue resume`"
    _log.error("started_paused", reason=reason, remedy=remedy)


def last_backup(taken_at: int) -> None:
    """The last copy of the database that somebody has whole is as of then (ms)."""
    metrics.BACKED_UP.set(taken_at / 1000)


def backup_made(taken_at: int, size: int, seconds: float) -> None:
    """Somebody has a whole copy of the database, as of then (ms): its bytes, and how long it took."""
    last_backup(taken_at)
    _log.info("backup_made", bytes=size, seconds=round(seconds, 1))


def backup_failed(detail: str) -> None:
    """A copy of the database could not be made, or was not whole, or nobody took it to its end."""
    _log.error("backup_failed", detail=detail)


def life_unwritten(detail: str) -> None:
    """What is copied from now on looks like what was copied before."""
    _log.warning("life_unwritten", detail=detail)


def gauges(
    *, ready: bool, space_low: bool, unfinished: int, in_hand: int, in_flight: int, connections: int, tasks: int
) -> None:
    """How the daemon stands now."""
    tell_left_out()
    metrics.READY.set(ready)
    metrics.SPACE_LOW.set(space_low)
    metrics.UNFINISHED.set(unfinished)
    metrics.IN_HAND.set(in_hand)
    metrics.IN_FLIGHT.set(in_flight)
    metrics.HTTP_CONNECTIONS.set(connections)
    metrics.TASKS.set(tasks)


def loop_lag(seconds: float) -> None:
    """The event loop was so late."""
    metrics.LOOP_LAG.observe(seconds)


def depths(rows: Mapping[str, int], oldest: Mapping[str, float]) -> None:
    """So many notifications wait how, and the oldest of them for so many seconds."""
    for state in metrics.DEPTHS:
        metrics.DEPTH.labels(state).set(rows.get(state, 0))
        metrics.OLDEST.labels(state).set(oldest.get(state, 0.0))


def overdue(seconds: float) -> None:
    """The most overdue mail is so far past its time."""
    metrics.OVERDUE.set(seconds)


def profiles(states: Mapping[str, int], parked: Mapping[str, int]) -> None:
    """So many profiles stand how, and are parked for what reason."""
    for state in metrics.PROFILE_STATES:
        metrics.PROFILES.labels(state).set(states.get(state, 0))
    for reason in metrics.PARKINGS:
        metrics.PROFILES_PARKED.labels(reason).set(parked.get(reason, 0))


def breakers(count: int, longest: float) -> None:
    """So many relays are left alone, one of them for so many seconds."""
    metrics.BREAKERS.set(count)
    metrics.BREAKER_SECONDS.set(longest)


def relay_connections(busy: int, idle: int) -> None:
    """So many connections to relays are open."""
    metrics.CONNECTIONS.labels("busy").set(busy)
    metrics.CONNECTIONS.labels("idle").set(idle)


def store_size(database: int | None, log: int | None) -> None:
    """The database and its log have so many octets; None: that is its server's affair."""
    for file, size in (("database", database), ("log", log)):
        if size is not None:
            metrics.STORE_SIZE.labels(file).set(size)


def disk(free: int | None, floor: int | None) -> None:
    """So many octets are free on the database's disk, and so many have to be; None: that is its server's affair."""
    if free is not None and floor is not None:
        metrics.DISK_FREE.set(free)
        metrics.DISK_FLOOR.set(floor)


def http_certificate(ends: float | None) -> None:
    """The listener shows a certificate that ends then, in seconds since the epoch; None: it speaks no TLS."""
    metrics.CERTIFICATES.http = ends


def connection_certificates(ends: Mapping[Role, float]) -> None:
    """When the certificates of connections to secret stores end, in seconds since the epoch."""
    metrics.CERTIFICATES.connections = ends


def phase_passed(phase: str, seconds: float) -> None:
    """A phase of opening a session took so long."""
    metrics.PHASE_SECONDS.observe(seconds, phase)


def carried(seconds: float, answers: Iterable[str]) -> None:
    """A relay answered a message, each recipient so, after that time."""
    metrics.TRANSACTION_SECONDS.observe(seconds)
    for answer in answers:
        metrics.RELAY_ANSWERS.add(answer)
