"""A leased notification on its way to a relay, and the lease that makes it ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from gateway.message.address import Mailbox
from gateway.message.notification import Content, Notification, OnAmbiguous, compact, decode_content
from gateway.observe.tracing import trace_id
from gateway.outbox.states import Recipient, decode
from gateway.store.rows import LeasedRow

FENCE_MILLISECONDS = 20_000  # of lease that must be left when a body is begun


@dataclass(frozen=True, slots=True)
class Envelope:
    """What of a notification is kept in the hot row besides its columns."""

    message_id: str
    severity: str
    on_ambiguous: OnAmbiguous
    send_at: int | None
    sender: Mailbox | None
    simulated: bool
    metadata: Mapping[str, str]
    traceparent: str | None  # of the trace that its acceptance belongs to (W3C Trace Context)

    @property
    def trace_id(self) -> str | None:
        """The trace's id alone."""
        return None if self.traceparent is None else trace_id(self.traceparent)


def encode_envelope(notification: Notification) -> str:
    """Write the envelope as the store keeps it; trailing defaults are left out."""
    sender = notification.content.sender
    fields: list[object] = [notification.message_id, notification.severity, notification.on_ambiguous]
    fields += [
        notification.send_at,
        None if sender is None else [sender.address, sender.name],
        notification.simulated,
        notification.metadata,
        notification.traceparent,
    ]
    while len(fields) > 3 and not fields[-1]:
        fields.pop()
    return compact(fields)


def decode_envelope(stored: str) -> Envelope:
    """Read what `encode_envelope` wrote."""
    fields: list[Any] = from_json(stored)
    fields += [None] * (8 - len(fields))
    message_id, severity, on_ambiguous, send_at, sender, simulated, metadata, traceparent = fields
    return Envelope(
        message_id,
        severity,
        OnAmbiguous(on_ambiguous),
        send_at,
        Mailbox(*sender) if sender else None,
        bool(simulated),
        metadata or {},
        traceparent,
    )


@dataclass(slots=True)
class Lease:
    """The right to deliver what one claim brought: from a time in milliseconds (0: unknown), until another."""

    token: int
    since: int
    until: int
    held: int


class Delivery:
    """One notification in our hands."""

    __slots__ = (
        "_content", "body", "envelope", "heavy", "lease", "recipients", "revoked", "roomy", "row", "strict",
    )  # fmt: skip

    def __init__(self, row: LeasedRow, lease: Lease) -> None:
        """Read the row; the content is read when it is needed."""
        self.row = row
        self.body = row.content
        self.heavy = row.content is None and row.size > 0  # what it says stayed in the store until it is its turn
        self.roomy = False  # … and has room in memory now
        self.lease = lease
        self.recipients: list[Recipient] = decode(row.recipients)
        self.envelope = decode_envelope(row.envelope)
        self.strict = (
            self.envelope.on_ambiguous is not OnAmbiguous.RETRY
        )  # its final dot is committed before it is sent
        self.revoked = row.cancelled
        self._content: Content | None = None

    @property
    def content(self) -> Content:
        """What the message says; raises `LookupError` if that is not there, as a heavy one's until it is fetched."""
        if self._content is None:
            if self.body is None:
                raise LookupError(self.row.id)
            self._content, self.body = decode_content(self.body), None
        return self._content

    def drop(self) -> None:
        """Forget what the message says: it is composed."""
        self.body = self._content = None

    def due(self, now: int, limit: int) -> list[int]:
        """Indexes of the recipients that are due, at most `limit`."""
        indexes = [
            index
            for index, recipient in enumerate(self.recipients)
            if recipient.due and (recipient.next_attempt_at or 0) <= now
        ]
        return indexes[:limit]

    def live(self, now: int) -> bool:
        """May a body be begun: is the lease long enough, the time not over, and nobody cancelled?"""
        return not self.revoked and self.lease.until - now > FENCE_MILLISECONDS and now < self.row.expires_at
