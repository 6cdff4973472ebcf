"""Routes to see what waits, and to pause all of it."""

from typing import Final

from gateway.http import queue
from gateway.http.directory_views import QueueList, QueuePauseView
from gateway.http.routes.vocabulary import ADMIN, READ, STORE
from gateway.http.routing import Route
from gateway.http.schema import PageQuery
from gateway.problems import Code

ROUTES: Final = (
    Route(
        "GET", "/v1/queue", "queue.list", queue.listing,
        "Show what waits, by profile, and why",
        scopes=READ,
        query=PageQuery,
        answer=QueueList,
        description="States: `active`, `paused`, `parked:<reason>`, `open` (its relay is left alone), `held`.",
        problems=(Code.UNAVAILABLE,),
    ),
    Route(
        "POST", "/v1/queue/pause", "queue.pause", queue.pause,
        "Pause all sending; mail is accepted and kept",
        scopes=ADMIN,
        answer=QueuePauseView,
        description="Of all tenants, so for administrators of `system` alone. What is on the wire gets its final reply.",
        problems=STORE,
    ),
    Route(
        "POST", "/v1/queue/resume", "queue.resume", queue.resume,
        "Let sending go on after all of it was paused",
        scopes=ADMIN,
        answer=QueuePauseView,
        description=(
            "Of all tenants, so for administrators of `system` alone. A profile that was paused by itself stays so."
        ),
        problems=STORE,
    ),
)  # fmt: skip
