"""The event loop that the daemon runs on: uvloop where it is installed, asyncio elsewhere."""

import asyncio
import importlib
import importlib.util
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


def run(main: Coroutine[object, object, T]) -> T:
    """Run to the end."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.run(main)
    factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
