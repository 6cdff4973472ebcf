"""Routes that take what Alertmanager's and Grafana's webhooks post."""

from typing import Final

from gateway.http import receivers
from gateway.http.receivers.payload import AlertGroup
from gateway.http.routes.vocabulary import ACCEPTANCE, ACCEPTED, SEND
from gateway.http.routing import Route
from gateway.http.schema import ReceiverQuery
from gateway.http.views import NotificationAccepted

RECEIVER_NOTE: Final = (
    "The words are those of the tenant's template of this name, or of the one that `template` names, filled with the "
    "payload; without one, and where it cannot be filled, they are ours. Fields that are not described are ignored. "
    "The severity is the gravest that a firing alert's label `severity` says, and `info` once all is resolved. The same "
    "query and body of the same key are one notification within five minutes, and another one after that."
)
RECEIVER_KEY_HEADER: Final = {
    "Idempotency-Key": "Instead of the five minutes: the same key, query and body are one notification."
}

ROUTES: Final = (
    Route(
        "POST", "/v1/receivers/alertmanager", "receiver.alertmanager", receivers.alertmanager,
        "Send what Alertmanager's webhook posts as one notification",
        scopes=SEND,
        query=ReceiverQuery,
        body=AlertGroup,
        status=202,
        answer=NotificationAccepted,
        description=f"Category `alerts.alertmanager`, template `alertmanager`. {RECEIVER_NOTE}",
        request_headers=RECEIVER_KEY_HEADER,
        answer_headers=ACCEPTED,
        problems=ACCEPTANCE,
    ),
    Route(
        "POST", "/v1/receivers/grafana", "receiver.grafana", receivers.grafana,
        "Send what Grafana's webhook contact point posts as one notification",
        scopes=SEND,
        query=ReceiverQuery,
        body=AlertGroup,
        status=202,
        answer=NotificationAccepted,
        description=f"Category `alerts.grafana`, template `grafana`. {RECEIVER_NOTE}",
        request_headers=RECEIVER_KEY_HEADER,
        answer_headers=ACCEPTED,
        problems=ACCEPTANCE,
    ),
)  # fmt: skip
