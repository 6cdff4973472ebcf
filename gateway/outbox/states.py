"""The states of a recipient, and what a notification's status is, given theirs.

    QUEUED ────┬─ relay took it ──────▶ RELAYED
      ▲        ├─ relay said no ──────▶ FAILED
      │        ├─ relay said later ───▶ DEFERRED ──(due)──▶ attempted like QUEUED
      │        ├─ no answer to the dot ▶ UNCERTAIN ──(due, `retry` only, twice at most)──▶ attempted like QUEUED
      │        ├─ time is over ───────▶ EXPIRED
      │        └─ cancelled ──────────▶ CANCELLED
      └── retry by a person ─ DEFERRED, FAILED, EXPIRED, UNCERTAIN

QUEUED, DEFERRED and UNCERTAIN-with-a-time are *due* some day; UNCERTAIN without a time rests until a person decides.
RELAYED, FAILED, EXPIRED and CANCELLED are final. There is no way out of RELAYED and CANCELLED: the first is the
relay's now, the second was promised to the caller.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pydantic_core import from_json

from gateway.message.notification import Role, compact
from gateway.smtp.reply import Reply


class State(StrEnum):
    """Where one recipient's copy stands."""

    QUEUED = "queued"
    RELAYED = "relayed"
    DEFERRED = "deferred"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNCERTAIN = "uncertain"


class Status(StrEnum):
    """Where the whole notification stands; derived, never set."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    SENDING = "sending"
    DEFERRED = "deferred"
    HELD = "held"
    RELAYED = "relayed"
    PARTIALLY_RELAYED = "partially_relayed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


FINAL: Final = frozenset({State.RELAYED, State.FAILED, State.EXPIRED, State.CANCELLED})
RETRYABLE: Final = frozenset({State.DEFERRED, State.FAILED, State.EXPIRED, State.UNCERTAIN})


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient's copy. `next_attempt_at` is None for a copy that is final, or rests."""

    address: str
    role: Role
    state: State = State.QUEUED
    attempts: int = 0
    next_attempt_at: int | None = None
    reply: Reply | None = None
    unanswered: int = 0  # final dots without a reply so far
    cuts: int = 0  # conversations in a row that ended before the final dot
    by: str = ""  # whose profile the reply came through: "owner/name"

    @property
    def due(self) -> bool:
        """Will it be attempted some day?"""
        return self.state not in FINAL and self.next_attempt_at is not None

    @property
    def final(self) -> bool:
        """Is there nothing more to come, unless a person asks for it?"""
        return self.state in FINAL


def status_of(recipients: Iterable[Recipient], *, sending: bool, scheduled: bool, held: bool) -> Status:
    """Derive the status: the first of the conditions that holds, in this order."""
    everyone = list(recipients)
    states = {recipient.state for recipient in everyone}
    due = any(recipient.due for recipient in everyone)
    if states == {State.CANCELLED}:
        return Status.CANCELLED
    if State.UNCERTAIN in states and not due:
        return Status.HELD
    if sending:
        return Status.SENDING
    if held and due:
        return Status.HELD
    if any(r.state is State.DEFERRED or (r.state is State.UNCERTAIN and r.due) for r in everyone):
        return Status.DEFERRED
    if State.QUEUED in states:
        return Status.SCHEDULED if scheduled else Status.QUEUED
    return _ended(states)


def _ended(states: set[State]) -> Status:
    if states == {State.RELAYED}:
        return Status.RELAYED
    if State.RELAYED in states:
        return Status.PARTIALLY_RELAYED
    return Status.EXPIRED if states == {State.EXPIRED} else Status.FAILED


def encode(recipients: Iterable[Recipient]) -> str:
    """Write recipients as the store keeps them; trailing defaults are left out."""
    return compact([_row(recipient) for recipient in recipients])


def _row(recipient: Recipient) -> list[object]:
    tried = recipient.attempts or recipient.unanswered or recipient.cuts or recipient.reply is not None
    if recipient.state is State.QUEUED and not tried:
        return [recipient.address, recipient.role, recipient.next_attempt_at]
    reply = recipient.reply
    return [
        recipient.address,
        recipient.role,
        recipient.next_attempt_at,
        recipient.state,
        recipient.attempts,
        recipient.unanswered,
        recipient.cuts,
        *(() if reply is None else (reply.code, reply.enhanced, reply.text, recipient.by)),
    ]


def decode(stored: str) -> list[Recipient]:
    """Read what `encode` wrote."""
    recipients = []
    for address, role, next_attempt_at, *rest in from_json(stored):
        recipient = Recipient(address, Role(role), next_attempt_at=next_attempt_at)
        if rest:
            state, attempts, unanswered, cuts, *told = rest
            reply, by = told[:3], told[3:]
            recipient = replace(
                recipient,
                state=State(state),
                attempts=attempts,
                unanswered=unanswered,
                cuts=cuts,
                reply=Reply(*reply) if reply else None,
                by=by[0] if by else "",
            )
        recipients.append(recipient)
    return recipients
