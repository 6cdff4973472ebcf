"""Routes to send notifications, to look at them, and to cancel or repeat them."""

from typing import Final

from gateway.http import notifications
from gateway.http.routes.vocabulary import ACCEPTANCE, ACCEPTED, LOOK, SEND, STORE
from gateway.http.routing import Route
from gateway.http.schema import BatchRequest, ListQuery, NotificationRequest, ViewQuery
from gateway.http.views import BatchResults, NotificationAccepted, NotificationList, NotificationView
from gateway.problems import Code

KEY_HEADER: Final = {
    "Idempotency-Key": "Repeating the request under the same key repeats the answer, and sends nothing."
}

ROUTES: Final = (
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
        answer_headers=ACCEPTED,
        problems=(Code.SENDER_FORCED, Code.SENDER_NOT_ALLOWED, *ACCEPTANCE),
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
