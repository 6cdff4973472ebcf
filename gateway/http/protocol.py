"""aiohttp's server protocol, with our words for what goes wrong before a handler is there.

The head of a request is bounded in time by aiohttp's keep-alive timer: it starts when the connection is made and
again when an answer was sent, and only a complete head stops it, however many octets dribble in. What is bounded in
size: the request line, each header and their number, by aiohttp's own limits.

An answer may take as long as the client goes on taking it. Who takes nothing for `PATIENCE_SECONDS` is hung up on, at
the latest when they have passed once more; so is who leaves octets lying that go out before the connection is closed.

Nothing that a client sent comes back in an error, and bytes that are no HTTP are the client's affair, not a failure
of ours: they are answered and not logged.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any, Final, cast

from aiohttp import web

from gateway.http.dispatch import refused, response
from gateway.observe.failpoint import failpoint
from gateway.problems import Code, Problem

ACCEPTED: Final = 202
PATIENCE_SECONDS: Final = 60.0  # with a client that takes nothing of its answer

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ("_look", "_wire")

    _wire: asyncio.Transport | None  # for as long as there is a connection; aiohttp forgets its own once it closes
    _look: asyncio.TimerHandle | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to listen to a client."""
        self._wire, self._look = cast("asyncio.Transport", transport), None
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of a client."""
        self._stop_watching()
        self._wire = None
        if exc is None and self.writing_paused:
            exc = ConnectionAbortedError()  # without a reason aiohttp would take the answer for sent
        super().connection_lost(exc)

    async def start(self) -> None:
        """Answer requests until the connection ends."""
        try:
            await super().start()
        finally:
            if self._wire is not None and self._wire.get_write_buffer_size() > 0:
                self._watch(self._wire)

    def pause_writing(self) -> None:
        """Wait for the client, which has enough to take."""
        super().pause_writing()
        if self._wire is not None:
            self._watch(self._wire)

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        if self._wire is not None and not self._wire.is_closing():  # what is left then has to go out in time, too
            self._stop_watching()

    def _watch(self, wire: asyncio.Transport) -> None:
        self._stop_watching()
        self._look = self._loop.call_later(PATIENCE_SECONDS, self._look_at, wire, _untaken(wire))

    def _stop_watching(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _look_at(self, wire: asyncio.Transport, before: tuple[int, bytes]) -> None:
        if _untaken(wire) == before:
            wire.abort()
        else:
            self._watch(wire)

    async def finish_response(
        self,
        request: web.BaseRequest,
        resp: web.StreamResponse,
        start_time: float | None,
    ) -> tuple[web.StreamResponse, bool]:
        """Write the answer."""
        finished = await super().finish_response(request, resp, start_time)
        if resp.status == ACCEPTED:
            failpoint("accept.after_reply")
        return finished

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Go on reading if it was stopped; aiohttp asks after every body, and starts parser and transport each time."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached a handler, and close."""
        del exc, message
        if request.writer.output_size > 0:
            raise ConnectionError  # part of an answer is out already: nothing may follow it
        code = Code.INTERNAL if status >= Code.INTERNAL.status else Code.BAD_REQUEST
        answer = response(refused(Problem(code), (request_id := os.urandom(16).hex())), request_id)
        answer.force_close()
        return answer


def _untaken(wire: asyncio.Transport) -> tuple[int, bytes]:
    """Tell how much of what was written the client has yet to take, here and in the kernel, whose part may be megabytes."""
    kept = b""
    with suppress(OSError, ValueError):  # the socket is gone, or of a kind that does not tell
        kept = ioctl(wire.get_extra_info("socket"), TIOCOUTQ, bytes(4))
    return wire.get_write_buffer_size(), kept


class Server(web.Server):
    """Makes a protocol for each connection."""

    def __init__(self, handler: Handler, **options: Any) -> None:
        super().__init__(handler, **options)
        self._options = options

    def __call__(self) -> Protocol:
        """Make the protocol of a new connection."""
        return Protocol(self, loop=asyncio.get_running_loop(), **self._options)
