"""What follows from an outcome: pure functions from values to values, with the time and the dice passed in.

`judge` decides for one recipient; nothing else in the gateway decides about trying again. `consequence` decides what
a fault, or an answer that concerns more than its message, means for the profile's lane. The reply tables follow RFC
5321 §4.2 and §4.5.4, RFC 3463 and RFC 4954; an enhanced code refines a label and never turns a 5yz into a retry.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

from gateway.message.notification import OnAmbiguous
from gateway.outbox.states import Recipient, State
from gateway.smtp.outcome import (
    Fault,
    Phase,
    RecipientOutcome,
    Refused,
    Rejected,
    Relayed,
    Trouble,
    Unknown,
    Untaken,
)
from gateway.smtp.reply import Reply, is_greylisting
from gateway.smtp.transaction import LEASE_LOST

AMBIGUOUS_WAIT: Final = 600_000  # ms before a copy whose fate is unknown is sent again
AMBIGUOUS_RETRIES: Final = 2
JITTER: Final = 0.2
HINT_CAP: Final = 3_600.0  # seconds a relay may ask us to stay away
UNTAKEN_WAIT: Final = 1_000  # ms before a conversation that was cut short is tried again
UNTAKEN_PATIENCE: Final = 3  # cut conversations in a row before the schedule applies

_HINT: Final = re.compile(r"(\d{1,5}) ?(s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to try again: seconds by number of attempts (the last repeats), and after greylisting."""

    retry_seconds: tuple[int, ...]
    greylist_seconds: int

    def delay(self, attempts: int, reply: Reply | None, dice: Callable[[], float]) -> int:
        """Milliseconds to wait after the attempts so far, ± 20 %; `dice` gives 0 ≤ x < 1.

        Greylisting: never less than its own pause, because what comes too early is put off once more.
        """
        seconds, least = self.retry_seconds[min(max(attempts, 1), len(self.retry_seconds)) - 1], 0
        if reply is not None and is_greylisting(reply):
            least = self.greylist_seconds
            seconds = max(least, seconds) if attempts > 1 else least
        return max(round(seconds * 1000 * (1 - JITTER + 2 * JITTER * dice())), least * 1000)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One recipient as it shall be, and the line its history gets ("" for none)."""

    recipient: Recipient
    event: str
    detail: str


@dataclass(frozen=True, slots=True)
class Circumstances:
    """All that a judgement depends on besides the outcome. `now` is in milliseconds."""

    now: int
    schedule: Schedule
    on_ambiguous: OnAmbiguous
    dice: Callable[[], float]
    siblings_taken: bool = False  # did the same transaction accept another recipient?
    by: str = ""  # whose profile carried it


def judge(recipient: Recipient, outcome: RecipientOutcome, given: Circumstances) -> Judgement:
    """Decide what becomes of one recipient."""
    match outcome:
        case Relayed(reply):
            relayed = Recipient(
                recipient.address, recipient.role, State.RELAYED, recipient.attempts + 1, None, reply,
                recipient.unanswered, by=given.by,
            )  # fmt: skip
            return Judgement(relayed, "relayed", str(reply))
        case Refused(phase, reply):
            return _refused(recipient, phase, reply, given)
        case Rejected(reply):
            failed = replace(recipient, state=State.FAILED, next_attempt_at=None, reply=reply)
            return Judgement(failed, "failed", str(reply))
        case Untaken(detail, reply):
            return _untaken(recipient, detail, reply, given)
        case Unknown(detail):
            return _unknown(recipient, detail, given)
        case _:
            assert_never(outcome)


def _refused(recipient: Recipient, phase: Phase, reply: Reply, given: Circumstances) -> Judgement:
    if phase is Phase.RECIPIENT and given.siblings_taken and _too_many(reply):
        # RFC 5321 §4.5.3.1.10: the others went; this one goes in the next transaction, at once.
        return Judgement(replace(recipient, next_attempt_at=given.now), "", "")
    tried = replace(recipient, attempts=recipient.attempts + 1, cuts=0, reply=reply)
    if reply.transient:
        wait = given.schedule.delay(tried.attempts, reply, given.dice)
        deferred = replace(tried, state=State.DEFERRED, next_attempt_at=given.now + wait)
        return Judgement(deferred, "deferred", f"{phase}: {reply}")
    failed = replace(tried, state=State.FAILED, next_attempt_at=None)
    return Judgement(failed, "failed", f"{phase}: {_label(phase, reply)}: {reply}")


def _too_many(reply: Reply) -> bool:
    """Is it "too many recipients"? Some say 552 for it, as RFC 821 did (RFC 5321 §4.5.3.1.10)."""
    if reply.code == 552:
        return reply.enhanced in (None, "5.5.3")
    return reply.code == 452 and reply.enhanced in (None, "4.5.3", "4.5.0")


def _label(phase: Phase, reply: Reply) -> str:
    """A word for operators; it changes nothing."""
    if reply.enhanced in ("5.3.4", "5.2.3") or (reply.code == 552 and phase is not Phase.RECIPIENT):
        return "too_large"
    if reply.enhanced == "5.2.2" or reply.code == 552:
        return "mailbox_full"
    if reply.code in (500, 501, 502, 503, 504) and (reply.enhanced or "5.5.0").startswith("5.5."):
        return "protocol"
    match phase:
        case Phase.SENDER:
            return "sender_rejected"
        case Phase.RECIPIENT:
            return "recipient_rejected"
        case _:
            return "content_rejected"


def _untaken(recipient: Recipient, detail: str, reply: Reply | None, given: Circumstances) -> Judgement:
    """Certainly not accepted and nobody's fault: soon again, without an attempt on the recipient's account.

    A message that ends its conversation every time must not do so for ever at full speed: after a few cuts in a row
    the schedule applies.
    """
    cuts = recipient.cuts + 1
    late = cuts - UNTAKEN_PATIENCE + 1
    wait = UNTAKEN_WAIT if late < 1 else given.schedule.delay(late, reply, given.dice)
    deferred = replace(
        recipient, state=State.DEFERRED, cuts=cuts, next_attempt_at=given.now + wait, reply=reply or recipient.reply
    )
    return Judgement(deferred, "deferred", detail)


def _unknown(recipient: Recipient, detail: str, given: Circumstances) -> Judgement:
    tried = replace(recipient, attempts=recipient.attempts + 1, cuts=0, unanswered=recipient.unanswered + 1)
    match given.on_ambiguous:
        case OnAmbiguous.FAIL:
            return Judgement(replace(tried, state=State.FAILED, next_attempt_at=None), "outcome_unknown", detail)
        case OnAmbiguous.HOLD:
            return Judgement(replace(tried, state=State.UNCERTAIN, next_attempt_at=None), "uncertain", detail)
        case OnAmbiguous.RETRY:
            again = given.now + AMBIGUOUS_WAIT if tried.unanswered <= AMBIGUOUS_RETRIES else None
            return Judgement(replace(tried, state=State.UNCERTAIN, next_attempt_at=again), "uncertain", detail)
        case _:
            assert_never(given.on_ambiguous)


# Lanes.


@dataclass(frozen=True, slots=True)
class Trip:
    """The relay is in trouble: count it, and stay away once it happened `after` times in a row.

    `seconds` is how long at the least, if the relay said so. `pause`: does even the first one keep others away for a
    moment? Not when it came of a message, or one sender could slow the others down.
    """

    after: int = 3
    seconds: float | None = None
    pause: bool = True


@dataclass(frozen=True, slots=True)
class Park:
    """The profile is in trouble: keep its mail and stop using it until something changes; look again in `seconds`."""

    reason: str
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Rest:
    """The account is asked to pause, or we ourselves do, or its secret cannot be had now: wait, longer each time."""

    seconds: tuple[float, ...]
    reason: str = Trouble.AUTH_DEFERRED


@dataclass(frozen=True, slots=True)
class Halve:
    """The relay has too many of our connections: use half of them for a while."""

    seconds: float = 600.0


Consequence = Trip | Park | Rest | Halve

A_MOMENT: Final = (5.0,)
TEN_MINUTES: Final = (600.0,)
SLOW_PROBES: Final = (900.0, 3_600.0, 21_600.0)  # 15 min, 1 h, then every 6 h


def consequence(fault: Fault) -> Consequence:
    """Decide what a fault means for the lane; no message is ever blamed for one."""
    match fault.trouble:
        case Trouble.UNREACHABLE | Trouble.TLS_DEFERRED | Trouble.AUTH_DROPPED | Trouble.PROTOCOL | Trouble.TLS_FAILED:
            return Trip()
        case Trouble.NAME_UNKNOWN:
            return Trip(after=1, seconds=600.0)
        case Trouble.CROWDED:
            return Halve()
        case Trouble.GREETING_DEFERRED:
            return Trip(seconds=hinted_seconds(fault.reply))
        case Trouble.SECRET_UNAVAILABLE:  # no fault of the relay, which others reach with secrets from elsewhere
            return Rest(TEN_MINUTES, fault.trouble)
        case Trouble.AUTH_DEFERRED:
            return Rest((900.0, 1_800.0, 3_600.0))
        case Trouble.AUTH_HELD_BACK:
            return Rest(A_MOMENT, fault.trouble)
        case Trouble.GREETING_REFUSED | Trouble.TLS_UNVERIFIED:
            return Park(fault.trouble, TEN_MINUTES)
        case (
            Trouble.SECRET_DENIED | Trouble.SECRET_MISSING | Trouble.EGRESS_REFUSED | Trouble.EHLO_REFUSED
            | Trouble.TLS_REQUIRED | Trouble.AUTH_UNAVAILABLE | Trouble.AUTH_FAILED | Trouble.AUTH_TRANSITION
            | Trouble.AUTH_CONFIG | Trouble.AUTH_DISABLED | Trouble.CERTIFICATE_UNREADABLE | Trouble.DKIM_KEY
        ):  # fmt: skip
            return Park(fault.trouble, SLOW_PROBES)
        case _:
            assert_never(fault.trouble)


def beyond_the_message(outcomes: Sequence[RecipientOutcome]) -> Consequence | None:
    """Find the answer that concerns the profile, not only its message."""
    for outcome in outcomes:
        match outcome:
            case Refused(_, Reply(code=530)) if _for_all(outcome, outcomes):
                return Park(Trouble.AUTH_CONFIG, SLOW_PROBES)
            case Refused(Phase.SENDER, Reply(code=550, enhanced="5.7.30")):
                return Park(Trouble.AUTH_DISABLED, SLOW_PROBES)
            case Refused(_, Reply(code=432)) | Refused(_, Reply(enhanced="4.3.2")):
                return Halve()
            case Refused(Phase.SENDER, reply) if reply.transient:
                return Trip(after=5, pause=False)
            case Untaken(detail, _) if detail != LEASE_LOST:
                return Trip(after=5, pause=False)
            case _:
                pass
    return None


def burns_no_attempt(outcomes: Sequence[RecipientOutcome]) -> bool:
    """Is it the profile that was refused, so that the message goes back as if untouched?

    530: sign in first. 550 5.7.30: Microsoft 365 takes no mail any more from who signed in with a password.
    """
    return any(isinstance(o, Refused) and _blames_the_account(o, outcomes) for o in outcomes)


def _blames_the_account(refused: Refused, outcomes: Sequence[RecipientOutcome]) -> bool:
    match refused:
        case Refused(_, Reply(code=530)):
            return _for_all(refused, outcomes)
        case Refused(Phase.SENDER, Reply(code=550, enhanced="5.7.30")):
            return True
        case _:
            return False


def _for_all(refused: Refused, outcomes: Sequence[RecipientOutcome]) -> bool:
    """Does this 530 concern whoever the mail is for (RFC 4954 §6)?

    Some relays ask for a sign-in no sooner than at RCPT or DATA. Said of some recipients only it is about those.
    """
    if refused.phase is not Phase.RECIPIENT:
        return True
    if refused is not outcomes[0]:  # which has been asked, and answers for all: there may be a thousand
        return False
    return all(isinstance(o, Refused) and o.reply.code == 530 for o in outcomes)


def hinted_seconds(reply: Reply | None) -> float | None:
    """Read "try again in 5 minutes" out of a reply, at most an hour."""
    if reply is None or (found := _HINT.search(reply.text)) is None:
        return None
    seconds = float(found[1]) * (60 if found[2].lower().startswith("m") else 1)
    return min(seconds, HINT_CAP)
