"""One request from its head to its answer.

What is decided first: who asks (401), whether path and object exist in their reach (404), whether they may (403),
then the body's kind, size and form (415, 413, 400), its faults (422), and last the state of things (409, 412).

Promises: every answer has a request id; every refusal is a problem document; an unexpected failure is told to the
operator with that id, and to the caller with nothing else. There is no middleware: what every request needs is here.
"""

import re
import time
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from gateway.http.authentication import Authenticator
from gateway.http.body import read_body
from gateway.http.call import Answer, Call, Caller, Pages, Services
from gateway.http.inside import admit, carry_out, check_scope, meaning, method_not_allowed
from gateway.http.routing import Route, Router
from gateway.http.stream import SERVER, Streamed
from gateway.message.entropy import random_hex
from gateway.observe import facts, log, tracing
from gateway.observe.failpoint import failpoint
from gateway.problems import MEDIA_TYPE, Code, Problem

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
NOBODY: Final = Caller("", frozenset(), "")
PROTECTED: Final = "/v1/"
PAGES: Final = "ui"


class Dispatcher:
    """Answers the requests of one listener."""

    def __init__(
        self, services: Services, router: Router[Route], *, pages: Pages | None = None, admin_socket: bool = False
    ) -> None:
        """Answer from these routes, with these services; what the pages own is theirs to answer."""
        self.answering = 0
        self._pages = pages
        self._services = services
        self._router = router
        self._authenticator = Authenticator(services, admin_socket=admin_socket)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens on the way."""
        began = time.perf_counter()
        self.answering += 1
        given = request.headers.get("X-Request-Id")
        request_id = given if given is not None and REQUEST_ID.fullmatch(given) else random_hex(32)
        scope = log.Answering(request_id)
        span: tracing.Span | None = None
        name = ""
        try:
            path = request.rel_url.raw_path
            if self._services.lags() and path.startswith(PROTECTED):
                await self._services.catch_up()  # a key may have been revoked at another daemon
            if self._pages is not None and self._pages.own(path):
                name = PAGES
                answer = await self._pages.answer(request, request_id)
            else:
                route, call = self._begin(request, request_id)
                name = route.name
                if route.brings_mail:
                    span = call.span = tracing.request(route.method, route.path, request.headers)
                answer = await self._answer(route, call)
        except Problem as problem:
            answer = refused(problem, request_id)
        except Exception as error:  # noqa: BLE001 - the last place at which a failure can become an answer
            answer = refused(meaning(error, self._services, request_id), request_id)
        finally:
            self.answering -= 1
        self._services.on_answer(name, answer.status, time.perf_counter() - began)
        if span is not None:
            span.end(answer.status, failed=answer.status >= 500)
        scope.over()
        return response(answer, request_id)

    def _begin(self, request: web.BaseRequest, request_id: str) -> tuple[Route, Call]:
        """Find who asks for what. Raises 401, 404, 405."""
        path = request.rel_url.raw_path
        snapshot = self._services.directory.snapshot
        # Under /v1 strangers learn nothing, not even what is there.
        caller = self._authenticator.caller(request, snapshot) if path.startswith(PROTECTED) else NOBODY
        found = self._router.find(path)
        if found is None:
            raise Problem(Code.NOT_FOUND)
        resource, params = found
        route = resource.route(request.method)
        if route is None:
            raise method_not_allowed(resource)
        asked = tuple(request.query.items()) if request.query_string else ()
        return route, Call(
            request, self._services, snapshot, caller, params, request_id, request.method, request.headers, asked
        )

    async def _answer(self, route: Route, call: Call) -> Answer:
        await admit(route, call)
        if route.body is not None:
            call.body = await read_body(call.request, self._services.settings.http)
            failpoint("http.body_read")
            if self._services.lags():
                await self._services.catch_up()
            self._look_again(route, call)
        return await carry_out(route, call)

    def _look_again(self, route: Route, call: Call) -> None:
        """A body may take its time, in which a key can be revoked and a directory changed."""
        snapshot = self._services.directory.snapshot
        if snapshot is not call.snapshot:
            call.snapshot = snapshot
            call.caller = self._authenticator.caller(call.request, snapshot)
            if "tenant" in call.params:
                call.within_reach(call.params["tenant"])
            check_scope(route, call.caller)


def refused(problem: Problem, request_id: str) -> Answer:
    """Answer a problem."""
    facts.refused(problem.code.code)
    headers = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store", **problem.headers}
    return Answer(problem.code.status, problem.body(request_id), headers)


def response(answer: Answer, request_id: str) -> web.StreamResponse:
    """Make an answer what the server writes, or has written already."""
    if isinstance(answer, Streamed):
        return answer.response
    headers = CIMultiDict(answer.headers)  # of which some may stand there twice
    headers["X-Request-Id"], headers["Server"] = request_id, SERVER
    made = web.Response(status=answer.status, body=answer.body, headers=headers)
    if answer.headers.get("Connection") == "close":
        made.force_close()
    return made
