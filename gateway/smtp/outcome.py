"""What came of a delivery attempt, as values: nothing in `smtp/` reports a relay's answer by raising.

Either the session could not be had (`Fault`: the profile's trouble, no message is to blame), or a transaction ran
and every recipient has exactly one of four outcomes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from gateway.smtp.reply import Reply


class Phase(StrEnum):
    """The steps of a delivery, in order, as the connection test names them."""

    SECRET = "secret"  # noqa: S105 - the phase in which the credential is fetched
    RESOLVE = "resolve"
    CONNECT = "connect"
    GREETING = "greeting"
    TLS = "tls"
    AUTH = "auth"
    SENDER = "sender"
    RECIPIENT = "recipient"
    CONTENT = "content"


Watch = Callable[[Phase, object], None]
"""Told of each phase that is passed, with what is worth knowing of it, to be shown by `str`."""


def unwatched(_phase: Phase, _what: object) -> None:
    """Watch nothing."""


class Trouble(StrEnum):
    """Why a session could not be had. Closed: the verdict matches on every one of them."""

    SECRET_UNAVAILABLE = "secret_unavailable"  # noqa: S105
    SECRET_DENIED = "secret_denied"  # noqa: S105
    SECRET_MISSING = "secret_missing"  # noqa: S105
    EGRESS_REFUSED = "egress_refused"
    NAME_UNKNOWN = "name_unknown"
    UNREACHABLE = "unreachable"
    CROWDED = "too_many_connections"
    GREETING_DEFERRED = "greeting_deferred"
    GREETING_REFUSED = "relay_rejects_us"
    EHLO_REFUSED = "capability"
    TLS_REQUIRED = "tls_required"
    TLS_DEFERRED = "tls_deferred"
    TLS_UNVERIFIED = "tls_verify"
    TLS_FAILED = "tls_failed"
    AUTH_UNAVAILABLE = "auth_unavailable"
    AUTH_FAILED = "auth_failed"
    AUTH_TRANSITION = "auth_transition"
    AUTH_CONFIG = "auth_config"
    AUTH_DISABLED = "basic_auth_disabled"
    CERTIFICATE_UNREADABLE = "client_certificate"
    DKIM_KEY = "dkim_key"
    AUTH_DEFERRED = "auth_deferred"
    AUTH_DROPPED = "auth_dropped"
    AUTH_HELD_BACK = "auth_held_back"
    PROTOCOL = "protocol"


@dataclass(frozen=True, slots=True)
class Fault:
    """A session could not be had. `detail` is ours to show to the profile's owner; it quotes no AUTH reply."""

    phase: Phase
    trouble: Trouble
    detail: str
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Relayed:
    """The relay took responsibility for this recipient."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """The relay said no: `phase` tells to what (sender, recipient, or the content before or after it was sent)."""

    phase: Phase
    reply: Reply


@dataclass(frozen=True, slots=True)
class Untaken:
    """The conversation ended before the final dot: the relay has certainly not accepted."""

    detail: str
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The final dot left and no answer came: the relay may or may not have accepted (RFC 1047)."""

    detail: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """We ourselves refuse to send this to this recipient, for good: `reply` says why in the relay's language."""

    reply: Reply


RecipientOutcome = Relayed | Refused | Untaken | Unknown | Rejected


def answer_class(outcome: RecipientOutcome) -> str:
    """Name the kind of an outcome, as it is counted."""
    match outcome:
        case Relayed():
            return "relayed"
        case Refused(_, reply):
            return "refused_4yz" if reply.transient else "refused_5yz"
        case Rejected():
            return "rejected"
        case Untaken():
            return "untaken"
        case Unknown():
            return "unknown"
        case _:
            assert_never(outcome)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction's outcomes, in the order of the envelope's recipients."""

    outcomes: tuple[RecipientOutcome, ...]
