"""Relays and the profiles that use them: sessions, what relays answer, who is left alone, who stands in for whom."""

import traceback
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import structlog

from gateway.observe import metrics

_log: Any = structlog.get_logger()


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


def phase_passed(phase: str, seconds: float) -> None:
    """A phase of opening a session took so long."""
    metrics.PHASE_SECONDS.observe(seconds, phase)


def carried(seconds: float, answers: Iterable[str]) -> None:
    """A relay answered a message, each recipient so, after that time."""
    metrics.TRANSACTION_SECONDS.observe(seconds)
    for answer in answers:
        metrics.RELAY_ANSWERS.add(answer)


def certificate(host: str, port: int, ends: float) -> None:
    """A relay showed a certificate; `ends` is in seconds since the epoch."""
    metrics.CERTIFICATES.showed((host, port), ends)


def relays_used(relays: Collection[tuple[str, int]]) -> None:
    """Mail of this daemon's profiles goes to those relays, and to no others."""
    metrics.CERTIFICATES.keep(relays)


def relay_connections(busy: int, idle: int) -> None:
    """So many connections to relays are open."""
    metrics.CONNECTIONS.labels("busy").set(busy)
    metrics.CONNECTIONS.labels("idle").set(idle)


def breaker_opened(place: tuple[str, str], seconds: float, detail: str) -> None:
    """A relay is left alone for a while."""
    metrics.BREAKER_OPENINGS.add()
    _log.warning("breaker_opened", owner=place[0], profile=place[1], seconds=round(seconds), detail=detail)


def breakers(count: int, longest: float) -> None:
    """So many relays are left alone, one of them for so many seconds."""
    metrics.BREAKERS.set(count)
    metrics.BREAKER_SECONDS.set(longest)


def halved(place: tuple[str, str], detail: str) -> None:
    """A relay had too many of our connections."""
    _log.warning("connections_halved", owner=place[0], profile=place[1], detail=detail)


def parked(place: tuple[str, str], reason: str, detail: str) -> None:
    """A profile is not used until something changes; its mail waits."""
    metrics.PARKED.add(reason)
    _log.warning("parked", owner=place[0], profile=place[1], reason=reason, detail=detail)


def unparked(place: tuple[str, str], reason: str) -> None:
    """A parked profile works again."""
    _log.info("unparked", owner=place[0], profile=place[1], reason=reason)


def profiles(states: Mapping[str, int], parked: Mapping[str, int]) -> None:
    """So many profiles stand how, and are parked for what reason."""
    for state in metrics.PROFILE_STATES:
        metrics.PROFILES.labels(state).set(states.get(state, 0))
    for reason in metrics.PARKINGS:
        metrics.PROFILES_PARKED.labels(reason).set(parked.get(reason, 0))


def failover_began(place: tuple[str, str], by: tuple[str, str]) -> None:
    """Mail of a profile that is parked, or whose relay is away, goes by another of its list."""
    _log.warning("failover_began", owner=place[0], profile=place[1], by=by[1])


def failover_ended(place: tuple[str, str]) -> None:
    """A profile carries its own mail again."""
    _log.info("failover_ended", owner=place[0], profile=place[1])


def stood_in() -> None:
    """A message was carried by another profile than its own."""
    metrics.FAILOVERS.add()


def lanes(held: int) -> None:
    """This daemon carries the mail of so many profiles."""
    metrics.LANES.set(held)


def lanes_lost(count: int) -> None:
    """The store could not be reached for so long that others carry our profiles' mail: we hung up on their relays."""
    _log.error("lanes_lost", count=count)
