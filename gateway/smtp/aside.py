"""Work that keeps a processor busy, away from the event loop and from those who only wait.

The loop's own threads wait: for name servers, for files. Relays and secrets of tenants decide how long that takes, so
what signs and hashes has threads of its own.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

_THREADS: Final = ThreadPoolExecutor(2, thread_name_prefix="aside")
P = ParamSpec("P")
T = TypeVar("T")


async def aside(work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """Do the work in a thread, and answer what it answers."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, lambda: work(*args, **more))
