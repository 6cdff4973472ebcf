"""The one route table: everything the HTTP listener answers, who may ask, and what can go wrong.

Dispatch works from it and the OpenAPI document is written from it, so the two cannot disagree. Problems that every
route of a kind can answer (no key, no such thing, a bad body) are added where the table is read; a route names only
its own.
"""

from collections.abc import Iterable
from typing import Final

from gateway.directory.shapes import Tenant
from gateway.http import (
    apply,
    audit,
    backup,
    credentials,
    doctor,
    keys,
    notifications,
    operations,
    profiles,
    queue,
    receivers,
    secrets,
    templates,
    tenants,
    testing,
    webhooks,
)
from gateway.http.call import Answer, Call
from gateway.http.directory_views import (
    AnyProfileView,
    ApplyBody,
    ApplyView,
    AuditList,
    AuditVerdict,
    NameList,
    PreferencesBody,
    PreferencesView,
    PresetList,
    ProfileBody,
    ProfileChange,
    ProfileList,
    ProfileView,
    PushView,
    QueueList,
    QueuePauseView,
    RenderedView,
    SecretConnectionList,
    SecretList,
    SecretView,
    TemplateBody,
    TemplateList,
    TemplateView,
    TenantChange,
    TenantList,
    TenantView,
)
from gateway.http.openapi import document
from gateway.http.receivers.payload import AlertGroup
from gateway.http.routing import Route
from gateway.http.schema import (
    ApplyQuery,
    BatchRequest,
    KeyRequest,
    ListQuery,
    NotificationRequest,
    PageQuery,
    PushRequest,
    ReceiverQuery,
    RenderRequest,
    ResolutionQuery,
    RewrapQuery,
    SecretRequest,
    TrialRequest,
    ViewQuery,
)
from gateway.http.views import BatchResults, NotificationAccepted, NotificationList, NotificationView
from gateway.problems import Code

SEND: Final = frozenset({"send"})
LOOK: Final = frozenset({"send", "read"})
READ: Final = frozenset({"read"})
ADMIN: Final = frozenset({"admin"})
PROFILES: Final = frozenset({"profiles"})
SECRET: Final = frozenset({"secrets"})
KEY_HEADER: Final = {
    "Idempotency-Key": "Repeating the request under the same key repeats the answer, and sends nothing."
}
LIMITS: Final = (Code.RATE_LIMITED, Code.QUEUE_FULL)
STORE: Final = (Code.STORAGE_FULL, Code.UNAVAILABLE)
CHANGE: Final = (Code.PRECONDITION_FAILED, Code.PROVISIONED, *STORE)
VERSION: Final = {"ETag": "The version of what the caller sees."}
IF_MATCH: Final = {"If-Match": "The version that the caller means; another one is refused."}
SAVE_PROFILE: Final = (
    Code.LOCKED_BY_PARENT, Code.NAME_TAKEN, Code.DUPLICATE_PROFILE, Code.PLAINTEXT_AUTH, Code.AUTH_UNVERIFIED,
    Code.EGRESS_REFUSED, Code.SECRET_NOT_ALLOWED, *CHANGE,
)  # fmt: skip
TEST_NOTE: Final = (
    "200 whether it is green or red. With `Accept: text/event-stream` each phase comes at once as an event `phase`, and "
    "the answer last as the event `result`. At most ten a minute, and two at once, of a tenant."
)
ACCEPTED: Final = {"Location": "The notification.", "Idempotency-Replayed": "`true` if this repeats an answer."}
ACCEPTANCE: Final = (
    Code.NOT_FOUND, Code.NO_PROFILE, Code.TENANT_DISABLED, Code.NO_RECIPIENT, Code.IDEMPOTENCY_MISMATCH, *LIMITS, *STORE,
)  # fmt: skip
RECEIVER_NOTE: Final = (
    "The words are those of the tenant's template of this name, or of the one that `template` names, filled with the "
    "payload; without one, and where it cannot be filled, they are ours. Fields that are not described are ignored. "
    "The severity is the gravest that a firing alert's label `severity` says, and `info` once all is resolved. The same "
    "query and body of the same key are one notification within five minutes, and another one after that."
)
RECEIVER_KEY_HEADER: Final = {
    "Idempotency-Key": "Instead of the five minutes: the same key, query and body are one notification."
}
PATCH_NOTE: Final = "A JSON merge patch (RFC 7396) on what GET answers."

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

RECEIVERS: Final = (
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

TREE: Final = (
    Route(
        "GET", "/v1/tenants", "tenant.list", tenants.listing,
        "List the tenants in reach",
        scopes=READ,
        query=PageQuery,
        answer=TenantList,
    ),
    Route(
        "POST", "/v1/tenants", "tenant.create", tenants.create,
        "Make a tenant",
        scopes=ADMIN,
        body=Tenant,
        status=201,
        answer=TenantView,
        description="`parent` is the caller's own tenant, unless told otherwise.",
        answer_headers={**VERSION, "Location": "The tenant."},
        problems=(Code.NAME_TAKEN, Code.NOT_FOUND, *STORE),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}", "tenant.show", tenants.show,
        "Show a tenant",
        scopes=READ,
        answer=TenantView,
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}", "tenant.replace", tenants.save,
        "Replace a tenant",
        scopes=ADMIN,
        body=TenantChange,
        answer=TenantView,
        description="`parent`, `enabled`, `own_profiles` and `limits` are for an administrator of a tenant above.",
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=(Code.LOCKED_BY_PARENT, *CHANGE),
    ),
    Route(
        "PATCH", "/v1/tenants/{tenant}", "tenant.patch", tenants.save,
        "Change a tenant",
        scopes=ADMIN,
        body=TenantChange,
        answer=TenantView,
        description=PATCH_NOTE,
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=(Code.LOCKED_BY_PARENT, *CHANGE),
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}", "tenant.delete", tenants.delete,
        "Delete a tenant that nothing depends on",
        scopes=ADMIN,
        status=204,
        request_headers=IF_MATCH,
        problems=(Code.TENANT_IN_USE, Code.LOCKED_BY_PARENT, *CHANGE),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/preferences", "preferences.show", tenants.show_preferences,
        "Show whom the tenant copies",
        scopes=READ,
        answer=PreferencesView,
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}/preferences", "preferences.replace", tenants.save_preferences,
        "Replace whom the tenant copies",
        scopes=PROFILES,
        body=PreferencesBody,
        answer=PreferencesView,
        description="All matching rules add up; without rules nobody gets a copy.",
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=CHANGE,
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/audit", "audit.list", audit.listing,
        "List who changed what, newest first",
        scopes=ADMIN,
        query=PageQuery,
        answer=AuditList,
        problems=(Code.UNAVAILABLE,),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/audit/verify", "audit.verify", audit.verify,
        "Check that the audit log is whole",
        scopes=ADMIN,
        answer=AuditVerdict,
        problems=(Code.UNAVAILABLE,),
    ),
    Route(
        "POST", "/v1/apply", "apply", apply.apply,
        "Make tenants, profiles, links, preferences and templates what files say",
        scopes=ADMIN,
        query=ApplyQuery,
        body=ApplyBody,
        answer=ApplyView,
        description="All of it in one change, or nothing. `dry_run` only tells what would change.",
        problems=(
            Code.NOT_FOUND, Code.NOT_A_CHILD, Code.NOT_OWNED, Code.ALREADY_INHERITED, Code.PROFILE_IN_USE,
            Code.TENANT_IN_USE, *SAVE_PROFILE,
        ),
    ),
)  # fmt: skip

PROFILE: Final = (
    Route(
        "GET", "/v1/tenants/{tenant}/profiles", "profile.list", profiles.listing,
        "List a tenant's profiles, own and inherited",
        scopes=READ,
        query=PageQuery,
        answer=ProfileList,
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles", "profile.create", profiles.create,
        "Make a profile",
        scopes=PROFILES,
        body=ProfileBody,
        status=201,
        answer=ProfileView,
        description="A preset fills what is left open.",
        answer_headers={**VERSION, "Location": "The profile."},
        problems=SAVE_PROFILE,
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/push", "profile.push", profiles.push,
        "Lend profiles to direct children",
        scopes=PROFILES,
        body=PushRequest,
        answer=PushView,
        description="All of them to all children, or none.",
        problems=(
            Code.NOT_OWNED, Code.NOT_A_CHILD, Code.INVALID_DEFAULT, Code.ALREADY_INHERITED, Code.NAME_TAKEN, *CHANGE,
        ),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/test", "profile.test_unsaved", testing.unsaved,
        "Test a profile that is not saved",
        scopes=PROFILES,
        body=testing.UnsavedTrialRequest,
        answer=testing.TrialView,
        events=True,
        description=(
            f"Checks the profile as saving does, but for its name being taken. {TEST_NOTE} A secret that it refers to "
            "takes scope `secrets`; a password that is there already, given back as it was read, goes nowhere else."
        ),
        problems=(
            Code.NO_PROFILE, Code.TENANT_DISABLED, Code.LOCKED_BY_PARENT, Code.DUPLICATE_PROFILE, Code.PLAINTEXT_AUTH,
            Code.AUTH_UNVERIFIED, Code.EGRESS_REFUSED, Code.SECRET_NOT_ALLOWED, *STORE,
        ),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/profiles/{name}", "profile.show", profiles.show,
        "Show a profile",
        scopes=READ,
        locate=profiles.locate,
        answer=AnyProfileView,
        description="Of an inherited one: its name, its default mark, and that it is inherited.",
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}/profiles/{name}", "profile.replace", profiles.save,
        "Replace a profile",
        scopes=PROFILES,
        locate=profiles.locate,
        body=ProfileChange,
        answer=AnyProfileView,
        description="Of an inherited one only `is_default` changes. A password is dropped if it would go elsewhere.",
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=(Code.NOT_OWNER, *SAVE_PROFILE),
    ),
    Route(
        "PATCH", "/v1/tenants/{tenant}/profiles/{name}", "profile.patch", profiles.save,
        "Change a profile",
        scopes=PROFILES,
        locate=profiles.locate,
        body=ProfileChange,
        answer=AnyProfileView,
        description=PATCH_NOTE,
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=(Code.NOT_OWNER, *SAVE_PROFILE),
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}/profiles/{name}", "profile.delete", profiles.delete,
        "Delete a profile, or the link to an inherited one",
        scopes=PROFILES,
        locate=profiles.locate,
        status=204,
        request_headers=IF_MATCH,
        problems=(Code.PROFILE_IN_USE, *CHANGE),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/{name}/test", "profile.test", testing.saved,
        "Send a test message, and tell how each phase goes",
        scopes=PROFILES,
        locate=profiles.locate,
        body=TrialRequest,
        answer=testing.AnyTrialView,
        events=True,
        description=f"{TEST_NOTE} Of an inherited profile each phase says only whether it passed, and the error its code.",
        problems=(Code.NO_PROFILE, Code.TENANT_DISABLED, Code.LOCKED_BY_PARENT, *STORE),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/{name}/pause", "profile.pause", profiles.pause,
        "Stop a profile; its mail is held",
        scopes=PROFILES,
        locate=profiles.locate,
        answer=ProfileView,
        problems=(Code.NOT_OWNER, *STORE),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/{name}/resume", "profile.resume", profiles.resume,
        "Let a profile go on that was paused or stood still",
        scopes=PROFILES,
        locate=profiles.locate,
        answer=ProfileView,
        problems=(Code.NOT_OWNER, *STORE),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/connectors", "connector.list", profiles.connectors,
        "List the proxies that the tenant's profiles may name",
        scopes=READ,
        answer=NameList,
    ),
    Route("GET", "/v1/presets", "preset.list", profiles.presets, "List presets", scopes=READ, answer=PresetList),
)  # fmt: skip

TEMPLATES: Final = (
    Route(
        "GET", "/v1/tenants/{tenant}/templates", "template.list", templates.listing,
        "List a tenant's templates",
        scopes=READ,
        query=PageQuery,
        answer=TemplateList,
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/templates/{name}", "template.show", templates.show,
        "Show a template",
        scopes=READ,
        locate=templates.locate,
        answer=TemplateView,
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}/templates/{name}", "template.replace", templates.save,
        "Make or replace a template",
        scopes=PROFILES,
        body=TemplateBody,
        makes=True,
        answer=TemplateView,
        description="201 if it is new.",
        request_headers=IF_MATCH,
        answer_headers=VERSION,
        problems=CHANGE,
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}/templates/{name}", "template.delete", templates.delete,
        "Delete a template",
        scopes=PROFILES,
        locate=templates.locate,
        status=204,
        request_headers=IF_MATCH,
        problems=CHANGE,
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/templates/{name}/render", "template.render", templates.preview,
        "Show what a template makes of data",
        scopes=frozenset({"profiles", "read"}),
        locate=templates.locate,
        body=RenderRequest,
        answer=RenderedView,
    ),
)  # fmt: skip

SECRETS: Final = (
    Route(
        "GET", "/v1/tenants/{tenant}/secrets", "secret.list", secrets.listing,
        "List a tenant's stored secrets, without their values",
        scopes=SECRET,
        query=PageQuery,
        answer=SecretList,
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/secrets/{name}", "secret.show", secrets.show,
        "Show a stored secret, without its value",
        scopes=SECRET,
        locate=secrets.locate,
        answer=SecretView,
        answer_headers=VERSION,
    ),
    Route(
        "PUT", "/v1/tenants/{tenant}/secrets/{name}", "secret.replace", secrets.save,
        "Keep a secret, or its next version",
        scopes=SECRET,
        body=SecretRequest,
        makes=True,
        answer=SecretView,
        description="201 if it is new. Profiles that stand still for it go on by themselves.",
        answer_headers=VERSION,
        problems=STORE,
    ),
    Route(
        "DELETE", "/v1/tenants/{tenant}/secrets/{name}", "secret.delete", secrets.delete,
        "Delete a secret that no profile refers to",
        scopes=SECRET,
        locate=secrets.locate,
        status=204,
        problems=(Code.SECRET_IN_USE, *STORE),
    ),
    Route(
        "POST", "/v1/secrets/rewrap", "secret.rewrap", secrets.rewrap,
        "Seal with the present master key what older ones sealed",
        scopes=ADMIN,
        query=RewrapQuery,
        answer=secrets.RewrapView,
        description=(
            "Of all tenants, so for administrators of `system` alone. Everything sealed is opened: once a run from the "
            "start to the last `next_cursor` finds nothing `unreadable`, the older keys can go."
        ),
        problems=STORE,
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/secret-connections", "secret_connection.list", secrets.connections,
        "List the secret stores that the tenant's profiles may name",
        scopes=frozenset({"read", "secrets"}),
        answer=SecretConnectionList,
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/{name}/credential/check", "credential.check", credentials.check,
        "Say whether a profile's credentials can be had, and how they stand",
        scopes=SECRET,
        locate=profiles.locate,
        answer=credentials.CredentialVerdict,
        problems=(Code.NOT_OWNER,),
    ),
    Route(
        "POST", "/v1/tenants/{tenant}/profiles/{name}/credential/refresh", "credential.refresh", credentials.refresh,
        "Fetch a profile's credentials anew, and let the profile go on",
        scopes=SECRET,
        locate=profiles.locate,
        answer=credentials.CredentialVerdict,
        problems=(Code.NOT_OWNER,),
    ),
)  # fmt: skip

WEBHOOKS: Final = (
    Route(
        "GET", "/v1/tenants/{tenant}/webhooks", "webhook.list", webhooks.listing,
        "List a tenant's webhooks",
        scopes=ADMIN,
        query=PageQuery,
        answer=webhooks.WebhookList,
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
        problems=(Code.EGRESS_REFUSED, *STORE),
    ),
    Route(
        "GET", "/v1/tenants/{tenant}/webhooks/{id}", "webhook.show", webhooks.show,
        "Show a webhook",
        scopes=ADMIN,
        locate=webhooks.locate,
        answer=webhooks.WebhookView,
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
        problems=(Code.EGRESS_REFUSED, Code.PRECONDITION_FAILED, *STORE),
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
        problems=(Code.EGRESS_REFUSED, Code.PRECONDITION_FAILED, *STORE),
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
        description="200 whether it is good or not. Nothing of what the endpoint answers is shown but its status.",
        problems=(Code.RATE_LIMITED, *STORE),
    ),
)  # fmt: skip

QUEUE: Final = (
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

HEALTH: Final = (
    Route(
        "GET", "/v1/doctor", "doctor", doctor.show,
        "Show how the daemon is, and what is not in order",
        scopes=ADMIN,
        answer=doctor.DoctorView,
        description="Of all tenants, so for administrators of `system` alone.",
    ),
    Route(
        "GET", "/v1/backup", "backup", backup.backup,
        "Fetch a consistent copy of the database",
        scopes=ADMIN,
        media_type=backup.MEDIA_TYPE,
        description=(
            "Of all tenants, so for administrators of `system` alone. Only where the database is SQLite; the master key is "
            "not in it. Wherever the copy is opened, sending is paused until somebody resumes it."
        ),
        answer_headers={"Content-Disposition": "A name for the file, with the time as of which it is."},
        problems=(Code.BACKUP_RUNNING, Code.BACKUP_BY_SERVER, *STORE),
    ),
    Route("GET", "/livez", "livez", operations.livez, "Is the daemon alive?", answer=operations.HealthView),
    Route(
        "GET", "/readyz", "readyz", operations.readyz,
        "Is the daemon ready, and if not, why?",
        answer=operations.HealthView,
        description="503 with reasons while it is not.",
    ),
)  # fmt: skip


async def _describe(call: Call) -> Answer:
    routes = reachable(ROUTES, catcher=call.services.catcher is not None)
    return Answer(200, document(routes), {"Content-Type": "application/json"})


ROUTES: Final = (
    *NOTIFICATIONS,
    *RECEIVERS,
    *QUEUE,
    *SECRETS,
    *TREE,
    *PROFILE,
    *TEMPLATES,
    *WEBHOOKS,
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
