"""From a leased notification and its profile to an envelope: who it is from, who gets it, and the bytes."""

from dataclasses import dataclass

from gateway.directory.rules import sender_allowed
from gateway.directory.shapes import Footnote, Profile
from gateway.message.address import Mailbox, needs_smtputf8
from gateway.message.compose import Draft, MessageError, compose
from gateway.outbox.delivery import Delivery
from gateway.smtp.outcome import Rejected
from gateway.smtp.reply import Reply
from gateway.smtp.transaction import Envelope


@dataclass(frozen=True, slots=True)
class Prepared:
    """A delivery ready for the wire: the recipients at `indexes`, in the envelope's order."""

    delivery: Delivery
    indexes: list[int]
    envelope: Envelope


class Held(Exception):
    """The profile does not permit this mail's sender any more."""


def render(delivery: Delivery, profile: Profile, now: int) -> Prepared | Rejected:
    """Compose what goes to the recipients that are due; Rejected if no correct message can be made of it.

    Recipients with a non-ASCII local part are a transaction of their own (RFC 6531 §3.4: it needs SMTPUTF8).
    """
    indexes = delivery.due(now, len(delivery.recipients))
    utf8 = needs_smtputf8(delivery.recipients[indexes[0]].address)
    if len(indexes) > 1:
        indexes = [i for i in indexes if needs_smtputf8(delivery.recipients[i].address) is utf8]
        indexes = indexes[: profile.limits.recipients]
    sender = _sender(delivery, profile)
    return_path = profile.return_path or sender.address
    utf8 = utf8 or needs_smtputf8(return_path)
    try:
        message = compose(_draft(delivery, profile, sender), smtputf8=utf8)
    except (MessageError, ValueError) as error:
        return Rejected(Reply(554, "5.6.0", str(error)))
    if len(message) > profile.limits.bytes:
        return Rejected(Reply(552, "5.3.4", "message exceeds the profile's size limit"))
    recipients = tuple([delivery.recipients[index].address for index in indexes])
    return Prepared(delivery, indexes, Envelope(return_path, recipients, message, utf8))


def _sender(delivery: Delivery, profile: Profile) -> Mailbox:
    asked = delivery.envelope.sender
    if asked is None or profile.force_sender:
        return profile.sender
    if not sender_allowed(profile, asked.address):
        raise Held("sender_not_allowed")
    return asked


def _draft(delivery: Delivery, profile: Profile, sender: Mailbox) -> Draft:
    content = delivery.content
    text, html = _with_footnote(content.text, content.html, profile.footnote)
    return Draft(
        message_id=delivery.envelope.message_id,
        date=delivery.row.accepted_at // 1000,
        sender=sender,
        to=content.to,
        cc=content.cc,
        reply_to=profile.reply_to if profile.force_sender or not content.reply_to else content.reply_to,
        subject=content.subject,
        text=text,
        html=html,
        attachments=content.attachments,
        headers=content.headers,
    )


def _with_footnote(text: str | None, html: str | None, footnote: Footnote | None) -> tuple[str | None, str | None]:
    """Append each part's own footnote; inside the HTML body, if the page says where that ends."""
    if footnote is None or not footnote.enabled:
        return text, html
    if text is not None and footnote.text:
        text = f"{text.rstrip()}\n\n-- \n{footnote.text}\n"
    if html is not None and footnote.html:
        end = html.lower().rfind("</body>")
        at = len(html) if end < 0 else end
        html = f"{html[:at]}{footnote.html}{html[at:]}"
    return text, html
