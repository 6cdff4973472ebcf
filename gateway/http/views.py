"""Notifications as answers show them: what was asked, where each recipient stands, and what happened.

Owns redaction. Where the profile belongs to a tenant outside the caller's reach, a reply is only its codes and an
event only its word. So it is where the profile cannot be found any more: nobody can say whose relay it was that spoke.
"""

import base64
from dataclasses import dataclass
from json import loads
from typing import Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from gateway.directory.snapshot import ROOT
from gateway.http.acceptance import visible_profile
from gateway.http.call import Call
from gateway.http.values import ShownAddress, ShownTime
from gateway.message.compose import Attachment
from gateway.message.notification import Content, OnAmbiguous, Priority, Role, Severity, decode_content, href
from gateway.outbox.delivery import Envelope, decode_envelope
from gateway.outbox.states import Recipient, State, Status, decode, status_of
from gateway.smtp.reply import Reply
from gateway.store.rows import Stage, StoredRow

_PRIORITIES: Final[dict[Priority, Literal["high", "normal", "low"]]] = {
    Priority.HIGH: "high",
    Priority.NORMAL: "normal",
    Priority.LOW: "low",
}


class View(BaseModel):
    """Something that is answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NotificationAccepted(View):
    """A notification that is on stable storage."""

    id: str
    status: Literal["queued", "scheduled"]
    tenant: str
    profile: str | None
    accepted_at: ShownTime
    expires_at: ShownTime
    href: str


class ReplyCodesView(View):
    """What a relay outside the caller's reach said."""

    code: int
    enhanced: str | None


class ReplyView(ReplyCodesView):
    """What a relay said."""

    text: str


class RecipientView(View):
    """Where one recipient's copy stands."""

    address: str
    role: Role
    state: State
    attempts: int
    reply: ReplyView | ReplyCodesView | None
    next_attempt_at: ShownTime | None


class EventView(View):
    """Something that happened."""

    at: ShownTime
    event: str
    detail: str


class AttachmentView(View):
    """A file, in Base64."""

    filename: str
    content_type: str
    content: str
    inline: bool
    content_id: str | None


class ContentView(View):
    """What the message says."""

    to: tuple[ShownAddress, ...]
    cc: tuple[ShownAddress, ...]
    reply_to: tuple[ShownAddress, ...]
    subject: str
    text: str | None
    html: str | None
    template: str | None
    data: dict[str, JsonValue] | None
    attachments: tuple[AttachmentView, ...]
    headers: dict[str, str]
    read_receipt: bool


class NotificationSummary(View):
    """A notification in a list."""

    id: str
    status: Status
    tenant: str
    profile: str | None
    category: str
    severity: Severity
    priority: Literal["high", "normal", "low"]
    accepted_at: ShownTime
    send_at: ShownTime | None
    expires_at: ShownTime
    finished_at: ShownTime | None
    simulated: bool
    metadata: dict[str, str]
    recipients: tuple[RecipientView, ...]
    href: str


class NotificationView(NotificationSummary):
    """A notification with its history; `content` only when asked for, null when it was erased."""

    message_id: str
    sender: ShownAddress | None = Field(serialization_alias="from")
    on_ambiguous: OnAmbiguous
    traceparent: str | None
    events: tuple[EventView, ...]
    content: ContentView | None = None


class NotificationList(View):
    """A page of notifications, newest first."""

    items: tuple[NotificationSummary, ...]
    next_cursor: str | None


class ResultView(View):
    """What became of one item of a batch: its id, or its problem."""

    index: int
    status: int
    id: str | None = None
    problem: dict[str, JsonValue] | None = None


class BatchResults(View):
    """What became of each item of a batch."""

    results: tuple[ResultView, ...]


def status_of_row(call: Call, row: StoredRow, envelope: Envelope) -> Status:
    """Derive where a notification stands at this moment."""
    if row.stage is Stage.FINAL:
        return Status(row.status)
    return status_of(
        decode(row.recipients),
        sending=row.stage is Stage.LEASED,
        scheduled=(envelope.send_at or 0) > call.now,
        held=row.status == Status.HELD or call.services.held(row.flow),
    )


def status_now(call: Call, row: StoredRow) -> Status:
    """Derive where a notification stands, for lists that want only some."""
    return status_of_row(call, row, decode_envelope(row.envelope))


@dataclass(frozen=True, slots=True)
class _Known:
    """What a row means in its caller's eyes. `secretive`: its relay is none of the caller's business."""

    envelope: Envelope
    profile: str | None
    secretive: bool


def _known(call: Call, row: StoredRow) -> _Known:
    envelope = decode_envelope(row.envelope)
    route = call.snapshot.resolve(row.flow.tenant, row.flow.profile or None, row.category, Severity(envelope.severity))
    root = call.caller.tenant
    in_reach = route.profile is not None and call.snapshot.within(route.profile.tenant, root)
    named = row.flow.profile or visible_profile(route, root)
    return _Known(envelope, named, not in_reach and root != ROOT)


def summary(call: Call, row: StoredRow) -> NotificationSummary:
    """Show a notification as lists do."""
    known = _known(call, row)
    return NotificationSummary(
        id=row.id,
        status=status_of_row(call, row, known.envelope),
        tenant=row.flow.tenant,
        profile=known.profile,
        category=row.category,
        severity=Severity(known.envelope.severity),
        priority=_PRIORITIES[Priority(row.priority)],
        accepted_at=row.accepted_at,
        send_at=known.envelope.send_at,
        expires_at=row.expires_at,
        finished_at=row.finished_at,
        simulated=known.envelope.simulated,
        metadata=dict(known.envelope.metadata),
        recipients=tuple(_recipient(one, secretive=_secret(call, one.by, known)) for one in decode(row.recipients)),
        href=href(row.id),
    )


def view(call: Call, row: StoredRow, *, with_content: bool = False) -> NotificationView:
    """Show a notification with its history, and with its content if that is wanted."""
    known = _known(call, row)
    listed = summary(call, row)
    return NotificationView(
        **{name: getattr(listed, name) for name in NotificationSummary.model_fields},
        message_id=known.envelope.message_id,
        sender=known.envelope.sender,
        on_ambiguous=known.envelope.on_ambiguous,
        traceparent=known.envelope.traceparent,
        events=_events(call, row, known),
        content=_content(decode_content(row.content)) if with_content and row.content else None,
    )


def rendered(shown: NotificationView, *, with_content: bool = False) -> bytes:
    """Write a notification as JSON; content stands in it only if that was wanted."""
    return shown.model_dump_json(by_alias=True, exclude=None if with_content else {"content"}).encode()


def _recipient(recipient: Recipient, *, secretive: bool) -> RecipientView:
    return RecipientView(
        address=recipient.address,
        role=recipient.role,
        state=recipient.state,
        attempts=recipient.attempts,
        reply=None if recipient.reply is None else _reply(recipient.reply, secretive=secretive),
        next_attempt_at=recipient.next_attempt_at,
    )


def _reply(reply: Reply, *, secretive: bool) -> ReplyView | ReplyCodesView:
    if secretive:
        return ReplyCodesView(code=reply.code, enhanced=reply.enhanced)
    return ReplyView(code=reply.code, enhanced=reply.enhanced, text=reply.text)


def _secret(call: Call, by: str, known: _Known) -> bool:
    """Are a relay's words none of the caller's business? That depends on whose profile carried the mail then."""
    if not by:
        return known.secretive
    root = call.caller.tenant
    return root != ROOT and not call.snapshot.within(by.partition("/")[0], root)


def _events(call: Call, row: StoredRow, known: _Known) -> tuple[EventView, ...]:
    """The history begins with the acceptance, which the row's own columns tell."""
    told = [EventView(at=row.accepted_at, event="accepted", detail="")]
    for line in row.events.split("\n"):
        if line:
            at, event, detail, *by = loads(line)
            secretive = _secret(call, by[0] if by else "", known)
            told.append(EventView(at=at, event=event, detail="" if secretive else detail))
    return tuple(told)


def _content(content: Content) -> ContentView:
    return ContentView(
        to=content.to,
        cc=content.cc,
        reply_to=content.reply_to,
        subject=content.subject,
        text=content.text,
        html=content.html,
        template=content.template,
        data=cast("dict[str, JsonValue] | None", content.data),
        attachments=tuple(map(_attachment, content.attachments)),
        headers=dict(content.headers),
        read_receipt=content.read_receipt,
    )


def _attachment(attachment: Attachment) -> AttachmentView:
    return AttachmentView(
        filename=attachment.filename,
        content_type=attachment.content_type,
        content=base64.b64encode(attachment.content).decode(),
        inline=attachment.inline,
        content_id=attachment.content_id,
    )
