"""Webhooks: what they were told, and what they would not take."""

import logging
from typing import Any

import structlog

from gateway.observe import metrics

_log: Any = structlog.get_logger()


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


def webhook_not_disabled(webhook: tuple[str, str], host: str, reason: str, error: Exception) -> None:
    """A webhook ought to be told nothing any more, but that could not be written; it is tried again later."""
    _log.warning(
        "webhook_not_disabled", tenant=webhook[0], webhook=webhook[1], host=host, reason=reason,
        error=type(error).__name__,
    )  # fmt: skip


def webhook_events(waiting: int, oldest_seconds: float) -> None:
    """So many events wait for webhooks, the oldest for so long."""
    metrics.WEBHOOK_EVENTS.set(waiting)
    metrics.WEBHOOK_OLDEST.set(oldest_seconds)
