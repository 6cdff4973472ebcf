"""The process: its start, its end, its settings, its loop, and what libraries and errors say."""

import platform
import time
from typing import Any

import structlog

from gateway.observe import metrics
from gateway.observe.facts.mail import tell_left_out

_log: Any = structlog.get_logger()


def began(*, tenants: bool) -> None:
    """The process begins to be a daemon; `tenants`: metrics tell them apart."""
    metrics.TENANTS.shown = tenants
    metrics.RELOAD_OK.set(1)
    metrics.RELOADED.set(time.time())


def started(version: str, store: str) -> None:
    """The daemon is ready."""
    metrics.BUILD.labels(version, platform.python_version(), store).set(1)
    _log.info("started", version=version, store=store)


def start_failed(detail: str) -> None:
    """The daemon could not start."""
    _log.error("start_failed", detail=detail)


def listening(what: str, where: str) -> None:
    """A listener takes connections."""
    _log.info("listening", what=what, where=where)


def stopping(in_hand: int) -> None:
    """The daemon begins to drain."""
    _log.info("stopping", in_hand=in_hand)


def stopped() -> None:
    """The daemon ends in order."""
    _log.info("stopped")


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


def loop_died(error: BaseException) -> None:
    """A background loop ended by an error of ours; the daemon ends with it."""
    _log.error("loop_died", error=type(error).__name__, exc_info=error)


def loop_lag(seconds: float) -> None:
    """The event loop was so late."""
    metrics.LOOP_LAG.observe(seconds)


def uncaught(where: str, message: str, error: BaseException | None) -> None:
    """An error went past everybody, in the loop, in a thread, at the end of the process, or where an object went."""
    _log.error("uncaught", where=where, message=message, exc_info=error)


def library(name: str, level: int, message: str, exc_info: Any) -> None:
    """A library logged something."""
    _log.log(level, "library", logger=name, message=message, exc_info=exc_info)


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
