"""Routes of webhooks."""

from typing import Final

from gateway.http import webhooks
from gateway.http.routes.vocabulary import ADMIN, IF_MATCH, PATCH_NOTE, READ, STORE, VERSION
from gateway.http.routing import Route
from gateway.http.schema import PageQuery
from gateway.problems import Code

PLACE_NOTE: Final = "Who does not hold `admin` sees of `url` scheme, host and port alone: the rest may hold a token."

ROUTES: Final = (
    Route(
        "GET", "/v1/tenants/{tenant}/webhooks", "webhook.list", webhooks.listing,
        "List a tenant's webhooks",
        scopes=READ,
        query=PageQuery,
        answer=webhooks.WebhookList,
        description=PLACE_NOTE,
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/webhooks", "webhook.create", webhooks.create,
        "Make a webhook",
        scopes=ADMIN,
        body=webhooks.WebhookBody,
        status=201,
        answer=webhooks.NewWebhookView,
        description=(
            "What happens is posted to `url` as Standard Webhooks describes it: headers `webhook-id`, "
            "`webhook-timestamp` and `webhook-signature`. Without a `secret` one is made; this answer alone shows it."
        ),
        answer_headers={**VERSION, "Location": "The webhook."},
        problems=(Code.EGRESS_REFUSED, Code.QUOTA_EXCEEDED, *STORE),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/webhooks/{id}", "webhook.show", webhooks.show,
        "Show a webhook",
        scopes=READ,
        locate=webhooks.locate,
        answer=webhooks.WebhookView,
        description=PLACE_NOTE,
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}/webhooks/{id}", "webhook.replace", webhooks.save,
        "Replace a webhook",
        scopes=ADMIN,
        locate=webhooks.locate,
        body=webhooks.WebhookChange,
        answer=webhooks.WebhookView,
        description="With a new `secret` both that and the one before sign for a day. `enabled` clears the reason.",
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=(Code.EGRESS_REFUSED, Code.QUOTA_EXCEEDED, Code.PRECONDITION_FAILED, *STORE),
    ),
    Route(
        "PATCH", "/v1/tenants/{tenant}/webhooks/{id}", "webhook.patch", webhooks.save,
        "Change a webhook",
        scopes=ADMIN,
        locate=webhooks.locate,
        body=webhooks.WebhookChange,
        answer=webhooks.WebhookView,
        description=PATCH_NOTE,
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=(Code.EGRESS_REFUSED, Code.QUOTA_EXCEEDED, Code.PRECONDITION_FAILED, *STORE),
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}/webhooks/{id}", "webhook.delete", webhooks.delete,
        "Delete a webhook, and what it was still to be told",
        scopes=ADMIN,
        locate=webhooks.locate,
        status=204,
        request_headers=IF_MATCH,
        problems=(Code.PRECONDITION_FAILED, *STORE),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/webhooks/{id}/test", "webhook.test", webhooks.test,
        "Send a test event at once, and say what came of it",
        scopes=ADMIN,
        locate=webhooks.locate,
        answer=webhooks.WebhookTestView,
        description=(
            "200 whether it is good or not. Nothing of what the endpoint answers is shown but its status. At most ten a "
            "minute of a tenant."
        ),
        problems=(Code.RATE_LIMITED, *STORE),
    ),
)  # fmt: skip
