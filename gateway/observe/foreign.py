"""What others have to say: the records of libraries, their warnings, and errors that nobody caught become facts.

So all of it passes the log's one chain, with its redaction and its forms. Libraries are heard from `warning` on: below
that they tell addresses, paths and octets.
"""

import asyncio
import logging
import sys
import threading
from types import TracebackType
from typing import Any, Final

from gateway.observe import facts

_STEPS: Final = (logging.ERROR, logging.WARNING, logging.INFO)


class Handler(logging.Handler):
    """Makes a record of the standard library's logging a fact."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it; a library that cannot format its own record tells what it has."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - whatever a foreign __str__ raises
            message = str(record.msg)
        level = next((step for step in _STEPS if record.levelno >= step), logging.DEBUG)
        facts.library(record.name, level, message, record.exc_info)


def listen(loop: asyncio.AbstractEventLoop) -> None:
    """Hear libraries, and errors that go past everybody in this loop and in any thread, from now on."""
    root = logging.getLogger()
    if not any(isinstance(handler, Handler) for handler in root.handlers):
        root.addHandler(Handler())
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    loop.set_exception_handler(_in_the_loop)
    threading.excepthook = _in_a_thread
    sys.excepthook = _at_the_end
    sys.unraisablehook = _where_an_object_went


def _in_the_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    facts.uncaught("loop", str(context.get("message", "")), context.get("exception"))


def _in_a_thread(args: threading.ExceptHookArgs) -> None:
    name = "" if args.thread is None else args.thread.name
    if args.exc_type is not SystemExit:
        facts.uncaught("thread", name, args.exc_value)


def _at_the_end(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    facts.uncaught("process", "", error)


def _where_an_object_went(unraisable: "sys.UnraisableHookArgs") -> None:
    facts.uncaught("object", unraisable.err_msg or "", unraisable.exc_value)
