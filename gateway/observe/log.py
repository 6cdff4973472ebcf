"""The log: one line a fact on standard error, as JSON, as text for a terminal, or with priorities for the journal."""

import json
import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import structlog

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}
_KEY_VALUE: Final = structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True)


def configure(form: str, level: str) -> None:
    """Write `json`, `text` for a terminal, or `journal` with syslog priorities, from `level` on; may be called again."""
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
        cache_logger_on_first_use=False,  # a reload may change the level
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")


def _journal_line(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """Write a line with its priority where systemd looks for it (sd-daemon(3))."""
    event.pop("level", None)
    return f"<{_PRIORITIES.get(method, 6)}>{_KEY_VALUE(logger, method, event)}"
