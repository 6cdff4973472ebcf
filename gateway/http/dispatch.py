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

from gateway.http.audit import tell_denials
from gateway.http.authentication import CHALLENGE, Authenticator
from gateway.http.body import read_body
from gateway.http.call import Answer, Call, Caller, Services
from gateway.http.routing import Resource, Route, Router
from gateway.http.stream import SERVER, Streamed
from gateway.message.entropy import random_hex
from gateway.observe import facts, log, tracing
from gateway.observe.failpoint import failpoint
from gateway.problems import MEDIA_TYPE, Code, Problem
from gateway.store.protocol import KeyWithdrawn, StoreError, StoreFull, StoreUnavailable

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
NOBODY: Final = Caller("", frozenset(), "")
PROTECTED: Final = "/v1/"
STORAGE_RETRY: Final = {"Retry-After": "30"}
AWAY_RETRY: Final = {"Retry-After": "5"}


class Dispatcher:
    """Answers the requests of one listener."""

    def __init__(self, services: Services, router: Router, *, admin_socket: bool = False) -> None:
        """Answer from these routes, with these services."""
        self.answering = 0
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
            if self._services.lags() and request.rel_url.raw_path.startswith(PROTECTED):
                await self._services.catch_up()  # a key may have been revoked at another daemon
            route, call = self._begin(request, request_id)
            name = route.name
            if route.brings_mail:
                span = call.span = tracing.request(route.method, route.path, request.headers)
            answer = await self._answer(route, call)
        except Problem as problem:
            answer = refused(problem, request_id)
        except Exception as error:  # noqa: BLE001 - the last place at which a failure can become an answer
            answer = refused(self._problem(error, request_id), request_id)
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
            raise _method_not_allowed(resource)
        return route, Call(request, self._services, snapshot, caller, params, request_id)

    async def _answer(self, route: Route, call: Call) -> Answer:
        if not route.public:
            if "tenant" in call.params:
                call.within_reach(call.params["tenant"])
            if route.locate is not None:
                await route.locate(call)
            _check_scope(route, call.caller)
        if route.body is not None:
            call.body = await read_body(call.request, self._services.settings.http)
            failpoint("http.body_read")
            if self._services.lags():
                await self._services.catch_up()
            self._look_again(route, call)
        try:
            return await route.handler(call)
        except Problem as problem:
            await tell_denials(call, problem)
            raise

    def _look_again(self, route: Route, call: Call) -> None:
        """A body may take its time, in which a key can be revoked and a directory changed."""
        snapshot = self._services.directory.snapshot
        if snapshot is not call.snapshot:
            call.snapshot = snapshot
            call.caller = self._authenticator.caller(call.request, snapshot)
            if "tenant" in call.params:
                call.within_reach(call.params["tenant"])
            _check_scope(route, call.caller)

    def _problem(self, error: Exception, request_id: str) -> Problem:
        """Say what a failure means for the caller; what it was is for the operator."""
        if isinstance(error, StoreFull):
            return Problem(Code.STORAGE_FULL, headers=STORAGE_RETRY)
        if isinstance(error, KeyWithdrawn):
            return Problem(Code.UNAUTHORIZED, headers=CHALLENGE)
        if isinstance(error, StoreUnavailable):
            return Problem(Code.UNAVAILABLE, headers=AWAY_RETRY)
        self._services.on_failure(request_id, error)
        if isinstance(error, StoreError):
            return Problem(Code.UNAVAILABLE)
        return Problem(Code.INTERNAL)


def _check_scope(route: Route, caller: Caller) -> None:
    if caller.scopes.isdisjoint(route.admitted):
        raise Problem(Code.FORBIDDEN)


def _method_not_allowed(resource: Resource) -> Problem:
    return Problem(Code.METHOD_NOT_ALLOWED, headers={"Allow": resource.allow})


def refused(problem: Problem, request_id: str) -> Answer:
    """Answer a problem."""
    facts.refused(problem.code.code)
    headers = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store", **problem.headers}
    return Answer(problem.code.status, problem.body(request_id), headers)


def response(answer: Answer, request_id: str) -> web.StreamResponse:
    """Make an answer what the server writes, or has written already."""
    if isinstance(answer, Streamed):
        return answer.response
    headers = {**answer.headers, "X-Request-Id": request_id, "Server": SERVER}
    made = web.Response(status=answer.status, body=answer.body, headers=headers)
    if answer.headers.get("Connection") == "close":
        made.force_close()
    return made
