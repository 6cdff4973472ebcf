"""Answers that are sent piece by piece, while they come about: server-sent events (HTML Living Standard §9.2).

A request is answered so if it asks for `text/event-stream`. The work behind such an answer ends with it: a client that
goes away, or a daemon that stops, cancels it and waits until it has ended.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from gateway.http.call import Answer, Call
from gateway.problems import Code, Problem
from gateway.store.protocol import StoreError

MEDIA_TYPE: Final = "text/event-stream"
HEADERS: Final = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
SERVER: Final = "notification-gateway"
HEARTBEAT_SECONDS: Final = 5.0
HEARTBEAT: Final = b":\n\n"  # a comment: clients pass over it, and what stands between keeps the connection

Tell = Callable[[str, object], None]
Work = Callable[[Tell], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Streamed(Answer):
    """An answer that is on the wire already."""

    response: web.StreamResponse = field(kw_only=True)


def wants_events(call: Call) -> bool:
    """Does the client ask for events?"""
    accepted = ",".join(call.headers.getall("Accept", ())).split(",")
    return any(kind.partition(";")[0].strip().lower() == MEDIA_TYPE for kind in accepted)


async def streamed(call: Call, work: Work) -> Streamed:
    """Send each event that `work` tells, by name and document, and last what it answers, as the event `result`.

    What goes wrong under way is the last event instead, `problem`, with the problem's document.
    """
    response = web.StreamResponse(headers={**HEADERS, "X-Request-Id": call.request_id, "Server": SERVER})
    chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
    working = asyncio.ensure_future(_worked(call, work, chunks))
    try:
        await response.prepare(call.request)
        while (chunk := await _next(chunks)) is not None:
            await response.write(chunk)
        await response.write_eof()
    except ConnectionError:
        pass  # the client has gone, and nobody else wants to know
    finally:
        working.cancel()
        await asyncio.wait([working])
    return Streamed(response.status, b"", response=response)


async def _worked(call: Call, work: Work, chunks: asyncio.Queue[bytes | None]) -> None:
    def tell(name: str, document: object) -> None:
        chunks.put_nowait(f"event: {name}\ndata: {json.dumps(document, separators=(',', ':'))}\n\n".encode())

    try:
        tell("result", await work(tell))
    except Problem as problem:
        tell("problem", problem.document(call.request_id))
    except Exception as error:  # noqa: BLE001 - the last place at which a failure can still be told
        call.services.on_failure(call.request_id, error)
        code = Code.UNAVAILABLE if isinstance(error, StoreError) else Code.INTERNAL
        tell("problem", Problem(code).document(call.request_id))
    finally:
        chunks.put_nowait(None)


async def _next(chunks: asyncio.Queue[bytes | None]) -> bytes | None:
    """Wait for what is to be sent next; None: there is nothing more."""
    try:
        async with asyncio.timeout(HEARTBEAT_SECONDS):
            return await chunks.get()
    except TimeoutError:
        return HEARTBEAT
