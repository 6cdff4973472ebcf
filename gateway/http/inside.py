"""The API asked from inside the process, by the pages on behalf of a person whom they know.

A page sees and does exactly what the same question over the wire would, because it goes the same way: the reach, the
object of the path, the scope, then the handler; refusals and what the audit is told are the same, and so is the bound
on a body's values. Only the key is not looked at again, and nothing is read from a connection.
"""

from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from gateway.http.audit import tell_denials
from gateway.http.authentication import CHALLENGE
from gateway.http.body import check_values
from gateway.http.call import Answer, Call, Caller, Headers, Query, Services
from gateway.http.routing import R, Resource, Route, Router
from gateway.problems import Code, Problem
from gateway.store.protocol import KeyWithdrawn, StoreError, StoreFull, StoreUnavailable

NO_HEADERS: Final = CIMultiDict[str]()
STORAGE_RETRY: Final = {"Retry-After": "30"}
AWAY_RETRY: Final = {"Retry-After": "5"}


async def admit(route: Route, call: Call) -> None:
    """Look whether the caller may ask this: the tenant and the object of the path (404), then the scope (403)."""
    if route.public:
        return
    if "tenant" in call.params:
        call.within_reach(call.params["tenant"])
    if route.locate is not None:
        await route.locate(call)
    check_scope(route, call.caller)


def check_scope(route: Route, caller: Caller) -> None:
    """Raise `forbidden` for a caller who holds none of the route's scopes."""
    if caller.scopes.isdisjoint(route.admitted):
        raise Problem(Code.FORBIDDEN)


async def carry_out(route: Route, call: Call) -> Answer:
    """Do what was asked; a refusal that the audit should know of is told."""
    try:
        return await route.handler(call)
    except Problem as problem:
        await tell_denials(call, problem)
        raise


def meaning(error: Exception, services: Services, request_id: str) -> Problem:
    """Say what a failure means for whoever asked; what it was is for the operator."""
    if isinstance(error, StoreFull):
        return Problem(Code.STORAGE_FULL, headers=STORAGE_RETRY)
    if isinstance(error, KeyWithdrawn):
        return Problem(Code.UNAUTHORIZED, headers=CHALLENGE)
    if isinstance(error, StoreUnavailable):
        return Problem(Code.UNAVAILABLE, headers=AWAY_RETRY)
    services.on_failure(request_id, error)
    return Problem(Code.UNAVAILABLE if isinstance(error, StoreError) else Code.INTERNAL)


def method_not_allowed(resource: Resource[R]) -> Problem:
    """Make the refusal of a method that the path does not have."""
    return Problem(Code.METHOD_NOT_ALLOWED, headers={"Allow": resource.allow})


class Inside:
    """Asks the routes of one table."""

    def __init__(self, services: Services, router: Router[Route]) -> None:
        self._services = services
        self._router = router

    async def ask(
        self,
        request: web.BaseRequest,
        caller: Caller,
        request_id: str,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Headers = NO_HEADERS,
        body: bytes = b"",
    ) -> Answer:
        """Answer as the caller would be answered. Raises the `Problem`, or a `StoreError`.

        `request` is the page's own, for answers that come piece by piece.
        """
        if self._services.lags():
            await self._services.catch_up()
        found = self._router.find(path)
        if found is None:
            raise Problem(Code.NOT_FOUND)
        resource, params = found
        route = resource.route(method)
        if route is None:
            raise method_not_allowed(resource)
        snapshot = self._services.directory.snapshot
        check_values(body)
        call = Call(request, self._services, snapshot, caller, params, request_id, method, headers, query, body)
        await admit(route, call)
        return await carry_out(route, call)
