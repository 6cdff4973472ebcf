"""The one route table: everything the HTTP listener answers, who may ask, and what can go wrong.

Dispatch works from it and the OpenAPI document is written from it, so the two cannot disagree. Problems that every
route of a kind can answer (no key, no such thing, a bad body) are added where the table is read; a route names only
its own.
"""

from collections.abc import Iterable
from typing import Final

from gateway.http import keys, notifications, operations
from gateway.http.call import Answer, Call
from gateway.http.openapi import document
from gateway.http.routing import Route
from gateway.http.schema import (
    BatchRequest,
    KeyRequest,
    ListQuery,
    NotificationRequest,
    PageQuery,
    ResolutionQuery,
    ViewQuery,
)
from gateway.http.views import BatchResults, NotificationAccepted, NotificationList, NotificationView
from gateway.problems import Code

SEND: Final = frozenset({"send"})
LOOK: Final = frozenset({"send", "read"})
READ: Final = frozenset({"read"})
ADMIN: Final = frozenset({"admin"})
KEY_HEADER: Final = {
    "Idempotency-Key": "Repeating the request under the same key repeats the answer, and sends nothing."
}
LIMITS: Final = (Code.RATE_LIMITED, Code.QUEUE_FULL)
STORE: Final = (Code.STORAGE_FULL, Code.UNAVAILABLE)

NOTIFICATIONS: Final = (
    Route(
        "POST", "/v1/notifications", "notification.post", notifications.post,
        "Send a notification",
        scopes=SEND,
        body=NotificationRequest,
        status=202,
        answer=NotificationAccepted,
        description=(
            "Answers once the notification is on stable storage. `profile` in the answer is the profile that would "
            "be used now; which one is used is decided at sending."
        ),
        request_headers=KEY_HEADER,
        answer_headers={"Location": "The notification.", "Idempotency-Replayed": "`true` if this repeats an answer."},
        problems=(
            Code.NOT_FOUND, Code.NO_PROFILE, Code.TENANT_DISABLED, Code.NO_RECIPIENT, Code.SENDER_FORCED,
            Code.SENDER_NOT_ALLOWED, Code.IDEMPOTENCY_MISMATCH, *LIMITS, *STORE,
        ),
    ),
    Route(
        "POST", "/v1/notifications/batch", "notification.batch", notifications.batch,
        "Send many notifications",
        scopes=SEND,
        body=BatchRequest,
        answer=BatchResults,
        description="All good items are accepted in one commit; each item's result says what became of it.",
        problems=STORE,
    ),
    Route(
        "GET", "/v1/notifications", "notification.list", notifications.listing,
        "List notifications",
        scopes=LOOK,
        query=ListQuery,
        answer=NotificationList,
        description="With scope `send` alone: those that the same key posted.",
        problems=(Code.NOT_FOUND, Code.UNAVAILABLE),
    ),
    Route(
        "GET", "/v1/notifications/{id}", "notification.show", notifications.show,
        "Show a notification",
        scopes=LOOK,
        locate=notifications.locate,
        query=ViewQuery,
        answer=NotificationView,
        description="`include=content` takes scope `admin`.",
        problems=(Code.UNAVAILABLE,),
    ),
    Route(
        "POST", "/v1/notifications/{id}/cancel", "notification.cancel", notifications.cancel,
        "Cancel a notification",
        scopes=SEND,
        locate=notifications.locate,
        answer=NotificationView,
        description="What another key posted takes scope `admin`.",
        problems=(Code.ALREADY_FINAL, *STORE),
    ),
    Route(
        "POST", "/v1/notifications/{id}/retry", "notification.retry", notifications.retry,
        "Send a notification again",
        scopes=SEND,
        locate=notifications.locate,
        answer=NotificationView,
        description=(
            "Makes deferred, failed, expired and uncertain recipients due now. What another key posted takes scope "
            "`admin`."
        ),
        problems=(Code.ALREADY_FINAL, Code.CONTENT_GONE, Code.IN_FLIGHT, *STORE),
    ),
)  # fmt: skip

TENANTS: Final = (
    Route(
        "GET", "/v1/tenants/{tenant}/resolution", "tenant.resolution", keys.resolution,
        "Explain which profile and copies a notification would get",
        scopes=READ,
        query=ResolutionQuery,
        answer=keys.ResolutionView,
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/keys", "key.list", keys.listing,
        "List API keys",
        scopes=ADMIN,
        query=PageQuery,
        answer=keys.KeyList,
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/keys", "key.create", keys.create,
        "Make an API key",
        scopes=ADMIN,
        body=KeyRequest,
        status=201,
        answer=keys.NewKeyView,
        description="The answer is the only one that ever shows the key.",
        answer_headers={"Location": "The key."},
        problems=STORE,
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}/keys/{id}", "key.revoke", keys.revoke,
        "Revoke an API key",
        scopes=ADMIN,
        locate=keys.locate,
        status=204,
        problems=STORE,
    ),
)  # fmt: skip

HEALTH: Final = (
    Route("GET", "/livez", "livez", operations.livez, "Is the daemon alive?", answer=operations.HealthView),
    Route(
        "GET", "/readyz", "readyz", operations.readyz,
        "Is the daemon ready, and if not, why?",
        answer=operations.HealthView,
        description="503 with reasons while it is not.",
    ),
)  # fmt: skip


async def _describe(_call: Call) -> Answer:
    return Answer(200, document(ROUTES), {"Content-Type": "application/json"})


ROUTES: Final = (
    *NOTIFICATIONS,
    *TENANTS,
    *HEALTH,
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
