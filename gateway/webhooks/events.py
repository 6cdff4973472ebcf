"""What webhooks are told: composed from what the outbox and the lanes bring about, for whoever wants to hear of it.

A tenant is told what it could read itself, and nothing of a profile that is not its own but the name it was lent under:
then a reply is its codes alone. One event names all recipients that came to the same end in one commit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from gateway.directory.directory import Directory
from gateway.directory.kinds import EventType
from gateway.directory.shapes import Webhook
from gateway.directory.snapshot import Snapshot
from gateway.message.notification import compact, href, new_id
from gateway.message.times import time_text
from gateway.outbox.delivery import Envelope, decode_envelope
from gateway.outbox.outbox import Row
from gateway.outbox.states import Recipient, State, Status
from gateway.outbox.verdict import Judgement
from gateway.smtp.reply import Reply
from gateway.store.rows import Place, WebhookEvent
from gateway.webhooks.backlog import Backlog

LIFE: Final = 72 * 3_600_000  # ms after which nobody is told any more
TEST: Final = "webhook.test"
KINDS: Final[Mapping[State, EventType]] = {
    State.RELAYED: "notification.relayed",
    State.FAILED: "notification.failed",
    State.EXPIRED: "notification.expired",
}


def body(kind: str, at: int, data: Mapping[str, object]) -> str:
    """Write a payload as Standard Webhooks has it."""
    return compact({"type": kind, "timestamp": time_text(at), "data": data})


def event(webhook: Webhook, at: int, payload: str, traceparent: str | None = None) -> WebhookEvent:
    """Make an event of a payload, due at once."""
    return WebhookEvent(f"msg_{new_id(at)}", webhook.tenant, webhook.id, at, at + LIFE, payload, traceparent)


class Composer:
    """Makes events for the webhooks that there are; it sends nothing."""

    def __init__(self, directory: Directory, clock: Callable[[], int], backlog: Backlog) -> None:
        """Look at the directory as it is at the moment; the clock is the store's, and the backlog who has too much."""
        self._directory = directory
        self._backlog = backlog
        self._clock = clock

    def ended(self, row: Row, judgements: Sequence[tuple[int, Judgement]], status: Status) -> str | None:
        """Write the events of a commit that ends recipients, to go into it; None if nobody is to be told."""
        snapshot = self._directory.snapshot
        webhooks = snapshot.webhooks_of(row.flow.tenant)
        if not webhooks:
            return None
        ended: dict[EventType, dict[int, Recipient]] = {}
        for index, judgement in judgements:
            if (kind := KINDS.get(judgement.recipient.state)) is not None:
                ended.setdefault(kind, {})[index] = judgement.recipient
        try:
            envelope = decode_envelope(row.envelope)
        except (ValueError, TypeError):  # newer code wrote it; what it says cannot be told, and it ends all the same
            return None
        now, told = self._clock(), list[WebhookEvent]()
        for kind, recipients in ended.items():
            if listening := self._listening(webhooks, kind):
                payload = body(kind, now, _notification(snapshot, row, envelope, list(recipients.values()), status))
                told += self._events(listening, now, payload, envelope.traceparent)
        return compact(told) if told else None

    def parked(self, place: Place, reason: str) -> list[WebhookEvent]:
        """Make the events of a profile that is not used until something changes."""
        return self._profile("profile.parked", place, reason)

    def unparked(self, place: Place, reason: str) -> list[WebhookEvent]:
        """Make the events of a parked profile that works again; the reason is what it stood still for."""
        return self._profile("profile.unparked", place, reason)

    def _profile(self, kind: EventType, place: Place, reason: str) -> list[WebhookEvent]:
        tenant, name = place
        now = self._clock()
        listening = self._listening(self._directory.snapshot.webhooks_of(tenant), kind)
        payload = body(kind, now, {"tenant": tenant, "profile": name, "reason": reason, "at": time_text(now)})
        return self._events(listening, now, payload)

    def _listening(self, webhooks: Iterable[Webhook], kind: EventType) -> list[Webhook]:
        crowded = self._backlog.crowded
        return [one for one in webhooks if one.enabled and kind in one.events and (one.tenant, one.id) not in crowded]

    def _events(
        self, listening: Iterable[Webhook], at: int, payload: str, traceparent: str | None = None
    ) -> list[WebhookEvent]:
        """Make an event for each webhook that may have one more."""
        octets = len(payload.encode())
        return [
            event(webhook, at, payload, traceparent)
            for webhook in listening
            if self._backlog.takes((webhook.tenant, webhook.id), octets)
        ]


def _notification(
    snapshot: Snapshot, row: Row, envelope: Envelope, recipients: Sequence[Recipient], status: Status
) -> dict[str, object]:
    route = snapshot.route(row.flow.tenant, row.flow.profile or None).profile
    found = ("", "") if route is None else (route.tenant, route.name)
    carriers = [_carrier(recipient, found) for recipient in recipients]
    return {
        "id": row.id,
        "tenant": row.flow.tenant,
        "category": row.category,
        "severity": envelope.severity,
        "profile": row.flow.profile or _name(snapshot, row.flow.tenant, carriers[0]),
        "status": status,
        "simulated": envelope.simulated,
        "metadata": envelope.metadata,
        "accepted_at": time_text(row.accepted_at),
        "href": href(row.id),
        "recipients": [
            {
                "address": recipient.address,
                "role": recipient.role,
                "state": recipient.state,
                "attempts": recipient.attempts,
                "reply": _reply(recipient.reply, own=owner == row.flow.tenant),
            }
            for recipient, (owner, _) in zip(recipients, carriers, strict=True)
        ],
    }


def _carrier(recipient: Recipient, found: Place) -> Place:
    """Whose profile spoke with the relay, and its name; where none did, the one by which the mail would go."""
    owner, _, name = recipient.by.partition("/")
    return (owner, name) if recipient.by else found


def _name(snapshot: Snapshot, tenant: str, carrier: Place) -> str | None:
    """Give the profile's name if it is the tenant's own, or was lent to it under that."""
    owner, name = carrier
    return name if owner == tenant or (owner, name, tenant) in snapshot.links else None


def _reply(reply: Reply | None, *, own: bool) -> dict[str, object] | None:
    if reply is None:
        return None
    codes: dict[str, object] = {"code": reply.code, "enhanced": reply.enhanced}
    return {**codes, "text": reply.text} if own else codes
