"""Mail: what is accepted, what comes of its recipients, and what waits."""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog

from gateway.observe import log, metrics
from gateway.observe.tracing import trace_id

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


def accepted(tenant: str, recipients: int, size: int) -> None:
    """A notification for so many recipients is on stable storage; `size` of its content in octets."""
    metrics.ACCEPTED.add(metrics.TENANTS.label(tenant))
    metrics.ACCEPTED_RECIPIENTS.add(count=recipients)
    metrics.ACCEPTED_BYTES.add(count=size)


def notification_accepted(id_: str, tenant: str, place: tuple[str, str] | None, traceparent: str | None) -> None:
    """A notification is on stable storage, to be sent by that profile as things stand; one line for each, for `debug` only.

    Apart from `accepted`: only the request knows the profile, and what is committed counts though the request be gone.
    """
    if log.debugging():
        _log.debug("accepted", id=id_, tenant=tenant, **_placed(place), **_traced(traceparent))


def recipient(outcome: str, count: int, tenant: str) -> None:
    """Recipients of a tenant's reached a state.

    Apart from `outcome`: of mail that is cancelled or out of time all count at once, whether or not each is told of.
    """
    metrics.RECIPIENTS.add(outcome, metrics.TENANTS.label(tenant), count=count)


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


def result_unwritten(id_: str, tenant: str, error: BaseException, traceparent: str | None) -> None:
    """The store did not take a result: once the lease is over the notification is sent again."""
    _log.error(
        "result_unwritten", id=id_, tenant=tenant, error=f"{type(error).__name__}: {error}", **_traced(traceparent)
    )


def row_unreadable(id_: str, error: Exception) -> None:
    """A notification cannot be read: newer code wrote it. It waits."""
    _log.error("row_unreadable", id=id_, error=type(error).__name__)


def depths(rows: Mapping[str, int], oldest: Mapping[str, float]) -> None:
    """So many notifications wait how, and the oldest of them for so many seconds."""
    for state in metrics.DEPTHS:
        metrics.DEPTH.labels(state).set(rows.get(state, 0))
        metrics.OLDEST.labels(state).set(oldest.get(state, 0.0))


def overdue(seconds: float) -> None:
    """The most overdue mail is so far past its time."""
    metrics.OVERDUE.set(seconds)


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


def _placed(place: tuple[str, ...] | None) -> dict[str, str]:
    return {} if place is None else {"owner": place[0], "profile": place[1]}


def _said(reply: tuple[int, str | None] | None) -> dict[str, int | str]:
    if reply is None:
        return {}
    return {"code": reply[0]} if reply[1] is None else {"code": reply[0], "enhanced": reply[1]}


def _traced(traceparent: str | None) -> dict[str, str]:
    return {} if traceparent is None else {"trace_id": trace_id(traceparent)}
