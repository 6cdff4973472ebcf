"""Routes to see what goes and what waits, and to pause all of it."""

from typing import Final

from gateway.http import queue, traffic
from gateway.http.directory_views import QueueList, QueuePauseView
from gateway.http.routes.vocabulary import ADMIN, READ, STORE
from gateway.http.routing import Route
from gateway.http.schema import QueueQuery
from gateway.problems import Code

ROUTES: Final = (
    Route(
        "GET", "/v1/queue", "queue.list", queue.listing,
        "Show what waits, by profile, and why",
        scopes=READ,
        query=QueueQuery,
        answer=QueueList,
        description="States: `active`, `paused`, `parked:<reason>`, `open` (its relay is left alone), `held`.",
        problems=(Code.NOT_FOUND, Code.UNAVAILABLE),
    ),
    Route(
        "GET", "/v1/traffic", "traffic.show", traffic.show,
        "Show what came of mail in the last hour, minute by minute",
        scopes=READ,
        answer=traffic.TrafficView,
        description=(
            "Recipients of the reach's mail that this daemon carried since it started; several daemons on one database know "
            "each their own. Of more than 1,000 tenants a minute the others are told to `system` alone."
        ),
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
