"""The one route table: everything the HTTP listener answers, who may ask, and what can go wrong.

Dispatch works from it and the OpenAPI document is written from it, so the two cannot disagree. Problems that every
route of a kind can answer (no key, no such thing, a bad body) are added where the table is read; a route names only
its own. Each subject has its table in a module of its own; here they are put together.
"""

from collections.abc import Iterable
from typing import Final

from gateway.http import operations
from gateway.http.call import Answer, Call
from gateway.http.openapi import document
from gateway.http.routes import (
    health,
    keys,
    notifications,
    profiles,
    queue,
    receivers,
    secrets,
    templates,
    tenants,
    webhooks,
)
from gateway.http.routing import Route
from gateway.problems import Code


async def _describe(call: Call) -> Answer:
    routes = reachable(ROUTES, catcher=call.services.catcher is not None)
    return Answer(200, document(routes), {"Content-Type": "application/json"})


ROUTES: Final = (
    *notifications.ROUTES,
    *receivers.ROUTES,
    *queue.ROUTES,
    *secrets.ROUTES,
    *tenants.ROUTES,
    *profiles.ROUTES,
    *templates.ROUTES,
    *webhooks.ROUTES,
    *keys.ROUTES,
    *health.ROUTES,
    Route("GET", "/openapi.json", "openapi", _describe, "This document"),
    Route("GET", "/docs", "docs", operations.docs, "A page about the API", media_type="text/html"),
    Route(
        "GET", "/catcher", "catcher.list", operations.catcher,
        "List caught mail (development only)",
        answer=operations.CaughtList,
        problems=(Code.NOT_FOUND,),
    ),
    Route(
        "GET", "/catcher/{number}", "catcher.show", operations.caught,
        "Show a caught message (development only)",
        media_type="text/plain",
    ),
)  # fmt: skip
"""Everything the HTTP listener answers."""


def reachable(routes: Iterable[Route], *, catcher: bool) -> tuple[Route, ...]:
    """Leave the catcher's pages out where there is no catcher."""
    return tuple(route for route in routes if catcher or not route.name.startswith("catcher."))
