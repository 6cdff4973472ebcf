"""The one route table: everything the HTTP listener answers, who may ask, and what can go wrong.

Dispatch works from it and the OpenAPI document is written from it, so the two cannot disagree. Problems that every
route of a kind can answer (no key, no such thing, a bad body) are added where the table is read; a route names only
its own. Each subject has its table in a module of its own; here they are put together.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
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
    sign_in,
    templates,
    tenants,
    webhooks,
)
from gateway.http.routing import Route, Subject
from gateway.problems import Code


async def _describe(call: Call) -> Answer:
    routes = reachable(ROUTES, catcher=call.services.catcher is not None)
    described = await asyncio.to_thread(document, routes)  # the first time that takes two tenths of a second
    return Answer(200, described, {"Content-Type": "application/json"})


DESCRIPTION: Final = (
    Route(
        "GET", "/openapi.json", "openapi", _describe,
        "Describe the API (OpenAPI 3.1)",
        description="`/docs` is a page made from it, on which requests can be tried.",
    ),
)  # fmt: skip
CAUGHT: Final = (
    Route(
        "GET", "/catcher", "catcher.list", operations.catcher,
        "List caught mail (development only)",
        description="A browser (`Accept: text/html`) is sent to `/ui/catcher`, the page that shows it.",
        answer=operations.CaughtList,
        problems=(Code.NOT_FOUND,),
    ),
    Route(
        "GET", "/catcher/{number}", "catcher.show", operations.caught,
        "Show a caught message (development only)",
        media_type="text/plain",
    ),
)  # fmt: skip
SUBJECTS: Final = (
    (Subject("Notifications", "Send them, see what became of them, cancel and repeat them."), notifications.ROUTES),
    (Subject("Receivers", "Take what Alertmanager's and Grafana's webhooks post."), receivers.ROUTES),
    (Subject("Queue", "See what goes and what waits, and pause all of it."), queue.ROUTES),
    (
        Subject("Tenants", "The tree of tenants: preferences, audit, and files that say how all should be."),
        tenants.ROUTES,
    ),
    (Subject("Profiles", "Relays and how to reach them: make, test, pause and lend them."), profiles.ROUTES),
    (Subject("Secrets", "What profiles sign in with, and whether it can be had."), secrets.ROUTES),
    (Subject("Templates", "Subjects and bodies that notifications fill with their data."), templates.ROUTES),
    (Subject("Webhooks", "Endpoints that are told what happens to a tenant's mail."), webhooks.ROUTES),
    (Subject("Keys", "API keys and what they admit to; which profile a notification would get."), keys.ROUTES),
    (Subject("Pages", "Sign in to the pages without a key at hand."), sign_in.ROUTES),
    (Subject("Operation", "How the daemon is; a copy of its database."), health.ROUTES),
    (Subject("Description", "What the API says of itself."), DESCRIPTION),
    (Subject("Caught mail", "What the mail catcher took instead of a relay; for development only."), CAUGHT),
)
"""The tables by what they are about, as people read on."""
ROUTES: Final = tuple(replace(route, subject=subject) for subject, routes in SUBJECTS for route in routes)
"""Everything the HTTP listener answers."""


def reachable(routes: Iterable[Route], *, catcher: bool) -> tuple[Route, ...]:
    """Leave the catcher's pages out where there is no catcher."""
    return tuple(route for route in routes if catcher or not route.name.startswith("catcher."))
