"""A copy of the whole database, sent piece by piece. It is everybody's, so for administrators of `system` alone.

The copy is made and checked before the first octet is sent. While it is sent, no more of it than a piece is in memory.
Every client is cut off once the daemon stops, which waits for nobody's disk.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

from aiohttp import web

from gateway.directory.snapshot import ROOT
from gateway.http.call import Answer, Call
from gateway.http.resources import actor
from gateway.http.stream import SERVER, Streamed
from gateway.observe import facts
from gateway.problems import Code, Problem
from gateway.store.protocol import Copy, CopyRunning, StoreBroken, StoreError, StoreFull
from gateway.store.rows import Happening

MEDIA_TYPE: Final = "application/vnd.sqlite3"
PIECE: Final = 256 << 10  # bytes
FULL_RETRY: Final = {"Retry-After": "30"}


async def backup(call: Call) -> Answer:
    """Send a copy of the database."""
    call.no_query()
    if call.caller.tenant != ROOT:
        raise Problem(Code.FORBIDDEN)
    copier = call.services.store.copier
    if copier is None:
        raise Problem(Code.BACKUP_BY_SERVER, "Back it up with pg_dump, or as its server is backed up.")
    if call.method == "HEAD":
        return Answer(200, b"", {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"})
    began = time.monotonic()
    try:
        async with copier.copy() as copy:
            return await _answered(call, copy, began)
    except CopyRunning:
        raise Problem(Code.BACKUP_RUNNING) from None
    except StoreFull as error:
        facts.backup_failed(str(error))
        raise Problem(Code.STORAGE_FULL, "There is no room for a copy of the database.", headers=FULL_RETRY) from None
    except StoreBroken:
        raise
    except StoreError as error:
        facts.backup_failed(str(error))
        raise Problem(Code.UNAVAILABLE, "The database could not be copied; the daemon's log says why.") from None


async def _answered(call: Call, copy: Copy, began: float) -> Streamed:
    """Tell the log who gets everything, send it, and note that somebody has it."""
    who, store = actor(call), call.services.store
    await store.log([Happening(ROOT, who.name, who.tenant, "backup", "", "[]")], call.now)
    response = web.StreamResponse(headers=_headers(call, copy))
    try:
        if not await _sent(call, copy, response):
            return Streamed(response.status, b"", response=response)
        with suppress(StoreError):  # it is made, whether or not that can be noted
            await store.backed_up(copy.taken_at)
    except asyncio.CancelledError:  # no other answer can follow on what was sent
        _cut_off(call)
        raise
    facts.backup_made(copy.taken_at, copy.size, time.monotonic() - began)
    return Streamed(response.status, b"", response=response)


def _headers(call: Call, copy: Copy) -> dict[str, str]:
    taken = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(copy.taken_at / 1000))
    return {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(copy.size),
        "Content-Disposition": f'attachment; filename="notification-gateway-{taken}.db"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Request-Id": call.request_id,
        "Server": SERVER,
    }


async def _sent(call: Call, copy: Copy, response: web.StreamResponse) -> bool:
    """Send the copy; False if the client went away, or took nothing for too long."""
    try:
        await response.prepare(call.request)
        while piece := await asyncio.to_thread(copy.file.read, PIECE):
            await response.write(piece)
        await response.write_eof()
    except OSError as error:
        facts.backup_failed(f"it was not sent to its end: {type(error).__name__}")
        _cut_off(call)
        return False
    return True


def _cut_off(call: Call) -> None:
    if call.request.transport is not None:
        call.request.transport.abort()
