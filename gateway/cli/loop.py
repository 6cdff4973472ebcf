"""The event loop that the daemon runs on: uvloop where it is installed, asyncio elsewhere."""

import asyncio
import importlib
import importlib.util
import os
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


def run(main: Coroutine[object, object, T]) -> T:
    """Run to the end."""
    _open_standard_streams()
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.run(main)
    factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def _open_standard_streams() -> None:
    """Open what the process was started without, on nothing: else the next file that is opened is standard error."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
