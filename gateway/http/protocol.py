"""aiohttp's server protocol, with our words for what goes wrong before a handler is there.

The head of a request is bounded in time by aiohttp's keep-alive timer: it starts when the connection is made and
again when an answer was sent, and only a complete head stops it, however many octets dribble in. What is bounded in
size: the request line, each header and their number, by aiohttp's own limits.

Nothing that a client sent comes back in an error, and bytes that are no HTTP are the client's affair, not a failure
of ours: they are answered and not logged.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from gateway.http.dispatch import refused, response
from gateway.observe.failpoint import failpoint
from gateway.problems import Code, Problem

ACCEPTED: Final = 202

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ()

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


class Server(web.Server):
    """Makes a protocol for each connection."""

    def __init__(self, handler: Handler, **options: Any) -> None:
        super().__init__(handler, **options)
        self._options = options

    def __call__(self) -> Protocol:
        """Make the protocol of a new connection."""
        return Protocol(self, loop=asyncio.get_running_loop(), **self._options)
