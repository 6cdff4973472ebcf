"""Work that keeps a processor busy, away from the event loop and from those who only wait.

The loop's own threads wait: for name servers, for files. Relays and secrets of tenants decide how long that takes, so
what signs, hashes and reads certificates has threads of its own; and each kind of work its own, so that what one
relay has us hash is nothing that everybody's signing waits for.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Aside:
    """Two threads for one kind of work."""

    def __init__(self, name: str) -> None:
        """`name` is what the threads are called by."""
        self._threads = ThreadPoolExecutor(2, thread_name_prefix=name)

    async def __call__(self, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """Do the work in a thread, and answer what it answers."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **more))
