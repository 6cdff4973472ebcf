"""Webhooks over HTTP: whom a tenant wants to be told what happens, and a try whether they listen.

A secret that signs is shown once, in the answer to the request that had it made; who brings one is shown nothing. A new
one rotates: for a day what is sent is signed with the old one too. Of what an endpoint answers only the status is told.
Path and query of its address may hold a token, so only administrators see them.
"""

import base64
import os
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field

from gateway.credentials.sealed import Seal, SealError
from gateway.credentials.secret import Secret
from gateway.directory import changes
from gateway.directory.changes import Change
from gateway.directory.kinds import SIGNING_PREFIX, DisabledReason, SigningSecret
from gateway.directory.shapes import Shape, Webhook, WebhookFields
from gateway.directory.snapshot import Snapshot
from gateway.http.admission import Tested
from gateway.http.call import JSON_HEADERS, Answer, Call, Caller, json_answer
from gateway.http.resources import (
    NO_CONTENT,
    Document,
    actor,
    answer,
    check_version,
    document,
    etag,
    page,
    parsed,
    wanted,
    writable,
    written,
)
from gateway.http.values import ShownTime
from gateway.http.views import View
from gateway.message.entropy import random_hex
from gateway.message.notification import compact
from gateway.message.times import time_text
from gateway.problems import Code, Problem
from gateway.store.protocol import StoreUnavailable
from gateway.store.rows import Happening

NEW_OCTETS = 32
KEPT: Document = {"set": True}
"""What is shown of a secret, and may be given back."""
NEW: Document = {"disabled_reason": None, "provisioned": False}
"""What read-only members say of a webhook in the making."""
READ_ONLY = ("id", "created_at", "disabled_reason", "provisioned")


class SecretMark(Shape):
    """A secret that is there, and is not shown."""

    set: Literal[True]


class WebhookGiven(WebhookFields):
    """A webhook as it is written, the secret only if it is a new one."""

    secret: SigningSecret | None = Field(None, repr=False)


class WebhookBody(WebhookFields):
    """A webhook to make. Without a secret one is made, and shown in the answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"url": "https://example.test/hook", "events": ["notification.failed", "profile.parked"]}]
        }
    )

    secret: SigningSecret | None = None


class WebhookChange(Shape):
    """A webhook as it shall be (PUT), or what shall change (PATCH); read-only members may be given back."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": True}, {"events": ["notification.failed"]}]})

    url: str | None = None
    events: tuple[str, ...] | None = None
    secret: SigningSecret | SecretMark | None = None
    enabled: bool | None = None
    id: str | None = None
    created_at: str | None = None
    disabled_reason: str | None = None
    provisioned: bool | None = None


class WebhookView(View):
    """A webhook. `disabled_reason` says why the gateway itself tells it nothing any more.

    Who does not hold `admin` sees of `url` where it leads, and `/…`.
    """

    id: str
    url: str
    events: tuple[str, ...]
    secret: SecretMark
    enabled: bool
    disabled_reason: DisabledReason | None
    created_at: ShownTime
    provisioned: bool


class NewWebhookView(WebhookView):
    """A webhook that was just made; a secret that was made for it is shown this once."""

    secret: SecretMark | str = Field(examples=["whsec_…"])  # type: ignore[assignment]


class WebhookList(View):
    """A tenant's webhooks."""

    items: tuple[WebhookView, ...]
    next_cursor: str | None


class WebhookTestView(View):
    """How a test went: the status that was answered, if one was, and what kept it from being good."""

    ok: bool
    status: int | None
    milliseconds: int
    error: str | None = None


def view(caller: Caller, snapshot: Snapshot, webhook: Webhook) -> Document:
    """Show a webhook without its secret, as this caller may see it."""
    return {
        "id": webhook.id,
        "url": webhook.url if caller.may("admin") else _place(webhook.url),
        "events": list(webhook.events),
        "secret": KEPT,
        "enabled": webhook.enabled,
        "disabled_reason": webhook.disabled_reason,
        "created_at": time_text(webhook.created_at),
        "provisioned": snapshot.provisioned(("webhook", webhook.tenant, webhook.id)),
    }


def _place(url: str) -> str:
    """Give scheme, host and port of a web address, and that there is more."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


def _find(call: Call, snapshot: Snapshot) -> Webhook:
    webhook = snapshot.webhooks.get((call.params["tenant"], call.params["id"]))
    if webhook is None:
        raise Problem(Code.NOT_FOUND)
    return webhook


async def locate(call: Call) -> None:
    """Find the webhook of the path."""
    _find(call, call.snapshot)


async def listing(call: Call) -> Answer:
    """List a tenant's webhooks, by id."""
    caller, snapshot = call.caller, call.snapshot
    webhooks = snapshot.webhooks_of(call.params["tenant"])
    return page(call, webhooks, lambda webhook: webhook.id, lambda webhook: view(caller, snapshot, webhook))


async def show(call: Call) -> Answer:
    """Show one webhook."""
    call.no_query()
    return answer(view(call.caller, call.snapshot, _find(call, call.snapshot)))


async def create(call: Call) -> Answer:
    """Make a webhook."""
    call.no_query()
    tenant, directory = call.params["tenant"], call.services.directory
    given, faults = writable(document(call), {**NEW, "tenant": tenant}, ("tenant", *READ_ONLY))
    fields = parsed(WebhookGiven, given, faults)
    secret = fields.secret or SIGNING_PREFIX + base64.b64encode(os.urandom(NEW_OCTETS)).decode()
    id_ = random_hex(16)
    made = Webhook(
        tenant=tenant, id=id_, url=fields.url, events=fields.events, enabled=fields.enabled, created_at=call.now,
        sealed=directory.seal.close(Secret(secret), ("webhook", tenant, id_)),
    )  # fmt: skip
    await directory.change(actor(call), lambda snapshot: changes.save_webhook(snapshot, made))
    seen = view(call.caller, directory.snapshot, made)
    shown = seen if fields.secret is not None else {**seen, "secret": secret}
    where = {"ETag": etag(seen), "Location": f"/v1/tenants/{tenant}/webhooks/{id_}"}
    return Answer(201, written(shown), {**JSON_HEADERS, **where})


async def save(call: Call) -> Answer:
    """Replace or change a webhook."""
    call.no_query()
    directory = call.services.directory

    def work(snapshot: Snapshot) -> Change:
        before = _find(call, snapshot)
        seen = view(call.caller, snapshot, before)
        given, faults = writable(wanted(call, seen), {**seen, "tenant": before.tenant}, ("tenant", *READ_ONLY))
        if given.get("secret") == KEPT:
            del given["secret"]
        fields = parsed(WebhookGiven, given, faults)
        check_version(call, seen)
        return changes.save_webhook(snapshot, _changed(directory.seal, before, fields, call.now))

    await directory.change(actor(call), work)
    return answer(view(call.caller, directory.snapshot, _find(call, directory.snapshot)))


def _changed(seal: Seal, before: Webhook, fields: WebhookGiven, now: int) -> Webhook:
    told: dict[str, object] = {"url": fields.url, "events": fields.events, "enabled": fields.enabled}
    if fields.enabled:
        told["disabled_reason"] = None
    if not before.signs_with_both(now):
        told["previous"] = None
    if fields.secret is not None and not _holds(seal, before, secret := Secret(fields.secret)):
        told |= {"sealed": seal.close(secret, before.sealed_for), "previous": before.sealed, "rotated_at": now}
    return before.model_copy(update=told)


def _holds(seal: Seal, webhook: Webhook, secret: Secret) -> bool:
    try:
        return seal.open(webhook.sealed, webhook.sealed_for) == secret
    except SealError:  # its master key is gone
        return False


async def delete(call: Call) -> Answer:
    """Delete a webhook, and what it was still to be told."""
    call.no_query()

    def work(snapshot: Snapshot) -> Change:
        webhook = _find(call, snapshot)
        check_version(call, view(call.caller, snapshot, webhook))
        return changes.delete_webhook(webhook)

    await call.services.directory.change(actor(call), work)
    with suppress(StoreUnavailable):  # what stays is found to be nobody's
        await call.services.store.drop_events(call.params["tenant"], call.params["id"])
    return NO_CONTENT


async def test(call: Call) -> Answer:
    """Send a test event at once, and say what came of it."""
    call.no_query()
    webhook = _find(call, call.snapshot)
    with call.services.admission.testing(Tested.WEBHOOK, webhook.tenant, call.now):
        tried = await call.services.test_webhook(webhook)
    who = actor(call)
    told = compact([{"field": "ok", "after": tried.ok}])
    await call.services.store.log(
        [Happening(webhook.tenant, who.name, who.tenant, "webhook.test", webhook.id, told)], call.now
    )
    shown: Document = {"ok": tried.ok, "status": tried.status, "milliseconds": tried.milliseconds}
    return json_answer(shown if tried.ok else {**shown, "error": str(tried.result)})
