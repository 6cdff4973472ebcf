"""From a leased notification and its profile to an envelope: who it is from, who gets it, and the bytes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.directory.rules import sender_allowed
from gateway.directory.shapes import Footnote, Profile
from gateway.message.address import Mailbox, needs_smtputf8
from gateway.message.compose import Draft, compose
from gateway.message.notification import Content
from gateway.message.template import Rendered, TemplateError
from gateway.outbox.delivery import Delivery
from gateway.smtp.outcome import Rejected
from gateway.smtp.reply import Reply
from gateway.smtp.transaction import Envelope, Reports

_UP_TO_BODY_END: Final = re.compile(".*(?=</body>)", re.IGNORECASE | re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A delivery ready for the wire: the recipients at `indexes`, in the envelope's order."""

    delivery: Delivery
    indexes: list[int]
    envelope: Envelope


class Held(Exception):
    """A person has to change something first: the sender is not allowed any more, the template gone, or too slow."""


Fill = Callable[[str, str, Mapping[str, object]], Rendered]
"""Fills a tenant's template, by its name, with data. Raises `TemplateError`, or `Held` if that cannot be tried now."""


def render(delivery: Delivery, profile: Profile, fill: Fill, now: int) -> Prepared | Rejected:
    """Compose what goes to the recipients that are due; Rejected if no correct message can be made of it.

    Raises `Held`.

    Recipients with a non-ASCII local part are a transaction of their own (RFC 6531 §3.4: it needs SMTPUTF8).
    """
    indexes = delivery.due(now, len(delivery.recipients))
    utf8 = needs_smtputf8(delivery.recipients[indexes[0]].address)
    if len(indexes) > 1:
        indexes = [i for i in indexes if needs_smtputf8(delivery.recipients[i].address) is utf8]
        indexes = indexes[: profile.limits.recipients]
    sender = _sender(delivery, profile)
    try:
        draft = _draft(delivery, profile, fill, sender)
    except TemplateError as error:
        return Rejected(Reply(554, "5.6.0", str(error)))
    recipients = tuple([delivery.recipients[index].address for index in indexes])
    envelope = enclosed(draft, profile, recipients, delivery.row.id, utf8=utf8)
    return envelope if isinstance(envelope, Rejected) else Prepared(delivery, indexes, envelope)


def enclosed(
    draft: Draft, profile: Profile, recipients: tuple[str, ...], report_id: str, *, utf8: bool
) -> Envelope | Rejected:
    """Write a draft and put it into its envelope; Rejected if no correct message can be made of it."""
    return_path = profile.return_path or draft.sender.address
    utf8 = utf8 or needs_smtputf8(return_path)
    try:
        message = compose(draft, smtputf8=utf8)
    except ValueError as error:
        return Rejected(Reply(554, "5.6.0", str(error)))
    if len(message) > profile.limits.bytes:
        return Rejected(Reply(552, "5.3.4", "message exceeds the profile's size limit"))
    return Envelope(return_path, recipients, message, utf8, _reports(profile, report_id))


_RETURNED: Final = {"full": "FULL", "headers": "HDRS", None: None}


def _reports(profile: Profile, report_id: str) -> Reports | None:
    """Which delivery reports the profile asks for; they come back with the notification's id."""
    if profile.dsn is None:
        return None
    notify = tuple(word.upper() for word in profile.dsn.notify)
    return Reports(_RETURNED[profile.dsn.returned], report_id, notify)


def _sender(delivery: Delivery, profile: Profile) -> Mailbox:
    asked = delivery.envelope.sender
    if asked is None or profile.force_sender:
        return profile.sender
    if not sender_allowed(profile, asked.address):
        raise Held("sender_not_allowed")
    return asked


def _draft(delivery: Delivery, profile: Profile, fill: Fill, sender: Mailbox) -> Draft:
    content = delivery.content
    subject, text, html = content.subject, content.text, content.html
    if content.template is not None:
        filled = fill(delivery.row.flow.tenant, content.template, content.data or {})
        subject, text, html = filled.subject, filled.text, filled.html
    text, html = with_footnote(text, html, profile.footnote)
    return Draft(
        message_id=delivery.envelope.message_id,
        date=delivery.row.accepted_at // 1000,
        sender=sender,
        to=content.to,
        cc=content.cc,
        reply_to=profile.reply_to if profile.force_sender or not content.reply_to else content.reply_to,
        subject=subject,
        text=text,
        html=html,
        attachments=content.attachments,
        headers=content.headers,
        receipt_to=_receipt_to(content, profile, sender),
    )


def _receipt_to(content: Content, profile: Profile, sender: Mailbox) -> str | None:
    """Whom to tell that the message was read (RFC 8098 §2.1): the profile decides alone if it forces its sender."""
    asked = profile.request_read_receipt or (content.read_receipt and not profile.force_sender)
    return (profile.read_receipt_to or sender.address) if asked else None


def with_footnote(text: str | None, html: str | None, footnote: Footnote | None) -> tuple[str | None, str | None]:
    """Append each part's own footnote; inside the HTML body, if the page says where that ends."""
    if footnote is None or not footnote.enabled:
        return text, html
    if text is not None and footnote.text:
        text = f"{text.rstrip()}\n\n-- \n{footnote.text}\n"
    if html is not None and footnote.html:
        before = _UP_TO_BODY_END.match(html)  # from behind: a page may say a million times where it ends
        at = len(html) if before is None else before.end()
        html = f"{html[:at]}{footnote.html}{html[at:]}"
    return text, html
