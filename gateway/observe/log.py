"""The log: one line a fact on standard error, as JSON, as text for a terminal, or for the systemd journal.

Every line passes the same chain, whoever wrote it: the id of the request that is being answered, level, time, the
exception as text without its variables, redaction, and the form. To the journal lines go by its own protocol if standard
error is connected to it, so that `journalctl NOTIFICATION_ID=…` finds them.

Promises: a line is one line, whatever stands in it; a reader that is gone, slow or full costs the line and nothing else.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.message.times import time_text
from gateway.observe.lines import Journal, Sink, Stream, journal_line, json_line, text_line
from gateway.observe.redaction import harmless

JOURNAL: Final = Path("/run/systemd/journal/socket")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

live_secrets: Callable[[], Iterable[str]] = tuple
"""Gives the texts of the secrets that live in this process, to be looked for in what is written."""


class Answering:
    """A request that is being answered: its id stands in every line that is written meanwhile.

    What the request sets going, such as a lane, lives on in a copy of its context, but not as part of it.
    """

    __slots__ = ("request_id",)

    def __init__(self, request_id: str) -> None:
        """It begins."""
        self.request_id: str | None = request_id
        _answering.set(self)

    def over(self) -> None:
        """It was answered."""
        self.request_id = None


_answering: ContextVar[Answering | None] = ContextVar("answering", default=None)
_level = logging.INFO


def configure(form: str, level: str, *, journal: Path = JOURNAL) -> None:
    """Write `json`, `text` or `journal` from `level` on; may be called again, and holds for what is written then."""
    global _level  # noqa: PLW0603 - a process has one log
    _level = _LEVELS[level]
    sink = _sink(form, journal)
    structlog.configure(
        processors=[
            _request, structlog.processors.add_log_level, structlog.processors.format_exc_info, _harmless, _ordered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_level),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,  # a reload may change the level
    )  # fmt: skip


def _sink(form: str, journal: Path) -> Sink:
    match form:
        case "journal":
            lines = Stream(journal_line)
            return Journal(journal, lines) if Journal.connected() else lines
        case "text":
            return Stream(text_line(colours=sys.stderr is not None and sys.stderr.isatty()))
        case _:
            return Stream(json_line)


def debugging() -> bool:
    """Are lines written that tell of each notification? So that nobody gathers what would be left out."""
    return _level <= logging.DEBUG


def _request(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name the request that is being answered."""
    answering = _answering.get()
    if answering is not None and answering.request_id is not None:
        event.setdefault("request_id", answering.request_id)
    return event


def _harmless(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> dict[str, object]:
    return harmless(event, live_secrets)


def _ordered(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> tuple[Any, ...]:
    """Put first what every line has, leave out fields that say nothing, and give the whole to the sink."""
    head = {
        "timestamp": time_text(time.time_ns() // 1_000_000),
        "level": event.pop("level"),
        "event": event.pop("event"),
    }
    fields = {name: value for name, value in event.items() if value is not None and value != ""}
    return ({**head, **fields},), {}
