"""A notification as a value: what was accepted, independent of how it came in and how it is stored.

Recipients, Message-ID and Date are fixed at acceptance; profile, From and rendering are decided at sending. Times are
milliseconds since the epoch.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final

from pydantic_core import from_json, to_json

from gateway.message.address import Mailbox
from gateway.message.compose import Attachment
from gateway.message.entropy import random_hex


class Severity(StrEnum):
    """How grave; ordered as written."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info … 3 for critical."""
        return _RANKS[self]


_RANKS: Final = {severity: rank for rank, severity in enumerate(Severity)}


class Priority(IntEnum):
    """What goes first within one tenant's mail for one profile."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Role(StrEnum):
    """How a recipient is addressed. A bcc is in the envelope only."""

    TO = "to"
    CC = "cc"
    BCC = "bcc"


class OnAmbiguous(StrEnum):
    """What to do when the final dot got no answer: send again, wait for a person, or never send twice."""

    RETRY = "retry"
    HOLD = "hold"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Content:
    """What the message says. Erased as soon as nothing can need it any more."""

    sender: Mailbox | None
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    reply_to: tuple[Mailbox, ...]
    subject: str
    text: str | None
    html: str | None
    attachments: tuple[Attachment, ...]
    headers: tuple[tuple[str, str], ...]
    template: str | None
    data: Mapping[str, object] | None
    read_receipt: bool


@dataclass(frozen=True, slots=True)
class Notification:
    """One accepted request."""

    id: str
    tenant: str
    profile: str | None
    key_id: str
    category: str
    severity: Severity
    priority: Priority
    on_ambiguous: OnAmbiguous
    message_id: str
    accepted_at: int
    send_at: int | None
    expires_at: int
    simulated: bool
    metadata: Mapping[str, str]
    recipients: tuple[tuple[str, Role], ...]
    content: Content
    traceparent: str | None = None


def compact(value: object) -> str:
    """Write JSON as the store keeps it; `from_json` reads it. Several times as fast as the standard library."""
    return to_json(value).decode()


def new_id(now: int) -> str:
    """Make an id of 32 hex digits: 48 bits of time, then 80 random ones, so that ids sort by acceptance."""
    return f"{now:012x}{random_hex(20)}"


def href(id_: str) -> str:
    """Tell where a notification is found over HTTP, as callers and webhooks are told."""
    return f"/v1/notifications/{id_}"


def encode_content(content: Content) -> str:
    """Write the content as the store keeps it."""
    document: dict[str, Any] = {"subject": content.subject}
    for name in ("to", "cc", "reply_to"):
        if mailboxes := getattr(content, name):
            document[name] = [[mailbox.address, mailbox.name] for mailbox in mailboxes]
    if content.sender is not None:
        document["from"] = [content.sender.address, content.sender.name]
    for name in ("text", "html", "template", "data"):
        if (value := getattr(content, name)) is not None:
            document[name] = value
    if content.headers:
        document["headers"] = content.headers
    if content.read_receipt:
        document["read_receipt"] = True
    if content.attachments:
        document["attachments"] = [
            [a.filename, a.content_type, b64encode(a.content).decode(), a.inline, a.content_id]
            for a in content.attachments
        ]
    return compact(document)


def decode_content(stored: str) -> Content:
    """Read what `encode_content` wrote."""
    document: dict[str, Any] = from_json(stored)
    sender = document.get("from")
    return Content(
        sender=Mailbox(*sender) if sender else None,
        to=_mailboxes(document.get("to", ())),
        cc=_mailboxes(document.get("cc", ())),
        reply_to=_mailboxes(document.get("reply_to", ())),
        subject=document["subject"],
        text=document.get("text"),
        html=document.get("html"),
        attachments=tuple(
            Attachment(filename, content_type, b64decode(content), inline, content_id)
            for filename, content_type, content, inline, content_id in document.get("attachments", ())
        ),
        headers=tuple((name, value) for name, value in document.get("headers", ())),
        template=document.get("template"),
        data=document.get("data"),
        read_receipt=document.get("read_receipt", False),
    )


def _mailboxes(pairs: list[list[str]]) -> tuple[Mailbox, ...]:
    return tuple(Mailbox(address, name) for address, name in pairs)
