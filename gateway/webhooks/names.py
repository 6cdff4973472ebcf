"""Names of endpoints, looked up for their tenants by threads of their own.

A lookup cannot be called off: with a silent name server it lasts longer than the request that wanted it. So it counts as
its tenant's until its thread is free again, and a tenant has only a few of them: whose names are never answered waits for
itself, and keeps neither other tenants nor mail waiting. Judges nothing; who asks says how long it waits.
"""

import asyncio
import socket
from asyncio import Future, Semaphore
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

THREADS: Final = 64  # twice the requests at once
OF_TENANT: Final = 4


class Address(NamedTuple):
    """One of a name's."""

    family: socket.AddressFamily
    ip: str  # with its zone, where it has one


class Names:
    """Looks names up; close it at the end."""

    def __init__(self) -> None:
        """No thread is begun yet."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook-names")
        self._free: WeakValueDictionary[str, Semaphore] = WeakValueDictionary()

    async def look_up(self, tenant: str, host: str, port: int, family: socket.AddressFamily) -> list[Address]:
        """Find the addresses of a name, once the tenant has a lookup free; raises OSError where there are none."""
        free = self._free.setdefault(tenant, Semaphore(OF_TENANT))
        await free.acquire()
        work = self._threads.submit(_addresses, host, port, family)
        lookup = asyncio.wrap_future(work)
        lookup.add_done_callback(lambda ended: _over(ended, free))
        try:
            await asyncio.wait([lookup])  # which, cut short, does not take the lookup for over
        finally:
            work.cancel()  # only what no thread has begun
        return lookup.result()

    def close(self) -> None:
        """Begin no more; what is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _addresses(host: str, port: int, family: socket.AddressFamily) -> list[Address]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    return [Address(kind, str(sockaddr[0])) for kind, _, _, _, sockaddr in found]


def _over(lookup: Future[list[Address]], free: Semaphore) -> None:
    free.release()
    with suppress(asyncio.CancelledError):
        lookup.exception()  # perhaps nobody else asks for it
