"""How a connection test is told: its phases by name, which group of the profile's form mends it, what a code means.

The owner of a profile is told the relay's words and what to do by the API. Who only inherits it is told a code; what
stands here about codes is true of every relay, and says nothing of this one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.smtp.outcome import Phase, Trouble
from gateway.ui.forms import Document

PHASES: Final = {
    Phase.SECRET: "Get the secret",
    Phase.RESOLVE: "Look up the host",
    Phase.CONNECT: "Connect",
    Phase.GREETING: "Hear the relay's greeting",
    Phase.TLS: "Encrypt with TLS",
    Phase.AUTH: "Sign in",
    Phase.SENDER: "Name the sender",
    Phase.RECIPIENT: "Name the recipient",
    Phase.CONTENT: "Hand over the message",
}


@dataclass(frozen=True, slots=True)
class Mend:
    """A group of the profile's form by its anchor, and when it is the one to look at: codes count before phases."""

    anchor: str
    words: str
    phases: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()


MENDS: Final = (
    Mend(
        "where", "Change host, port or security", (Phase.RESOLVE, Phase.CONNECT, Phase.GREETING, Phase.TLS),
        (Trouble.TLS_REQUIRED,),
    ),
    Mend("tls", "Change what TLS wants", (), (Trouble.TLS_UNVERIFIED, Trouble.CERTIFICATE_UNREADABLE)),
    Mend(
        "auth", "Change how the profile signs in", (Phase.SECRET, Phase.AUTH),
        ("auth_required", "relay_denied", Trouble.AUTH_DISABLED),
    ),
    Mend("sender", "Change the sender", (Phase.SENDER,), ("send_as_denied",)),
    Mend("limits", "Change the limits", (), (Trouble.CROWDED, "too_large", "not_sendable")),
    Mend("dkim", "Change the DKIM key", (), (Trouble.DKIM_KEY,)),
)  # fmt: skip


def mend(phase: str, code: str) -> Mend | None:
    """Name the group of the form to look at; None if nothing in the profile mends it."""
    of_code = next((one for one in MENDS if code in one.codes), None)
    return of_code or next((one for one in MENDS if phase in one.phases), None)


_SECRET: Final = "The profile's secret cannot be had."  # noqa: S105 - a sentence
_REACH: Final = "The relay cannot be reached."
_TALK: Final = "What answered does not talk as a relay does."
_REFUSES: Final = "The relay takes nothing from this gateway."
_TLS: Final = "There is no safe connection to the relay."
_SIGN_IN: Final = "The relay does not let the profile sign in."
_SENDER: Final = "The relay takes no mail from the profile's sender."
_RECIPIENT: Final = "The relay takes no mail for this recipient. Test with another one."
_CONTENT: Final = "The relay takes no such message."
_LATER: Final = "The relay is busy or puts senders off. Test again in a few minutes."
_MAYBE: Final = "The message was sent, and no answer came. Look into the mailbox before you test again."

MEANINGS: Final[Mapping[str, str]] = {
    Trouble.SECRET_UNAVAILABLE: _SECRET,
    Trouble.SECRET_DENIED: _SECRET,
    Trouble.SECRET_MISSING: _SECRET,
    Trouble.EGRESS_REFUSED: "The operator does not let profiles connect there.",
    Trouble.NAME_UNKNOWN: _REACH,
    Trouble.UNREACHABLE: _REACH,
    Trouble.CROWDED: "Too many connections to the relay are open. Test again in a few minutes.",
    Trouble.GREETING_DEFERRED: _LATER,
    Trouble.GREETING_REFUSED: _REFUSES,
    Trouble.EHLO_REFUSED: _TALK,
    Trouble.TLS_REQUIRED: _TLS,
    Trouble.TLS_DEFERRED: _LATER,
    Trouble.TLS_UNVERIFIED: _TLS,
    Trouble.TLS_FAILED: _TLS,
    Trouble.AUTH_UNAVAILABLE: _SIGN_IN,
    Trouble.AUTH_FAILED: _SIGN_IN,
    Trouble.AUTH_TRANSITION: _SIGN_IN,
    Trouble.AUTH_CONFIG: _SIGN_IN,
    Trouble.AUTH_DISABLED: _SIGN_IN,
    Trouble.CERTIFICATE_UNREADABLE: _TLS,
    Trouble.DKIM_KEY: "The profile's mail cannot be signed.",
    Trouble.AUTH_DEFERRED: _LATER,
    Trouble.AUTH_DROPPED: _SIGN_IN,
    Trouble.AUTH_HELD_BACK: "Nothing was tried, so that the account is not locked. Test again in a moment.",
    Trouble.PROTOCOL: _TALK,
    "auth_required": _SIGN_IN,
    "send_as_denied": _SENDER,
    "sender_rejected": _SENDER,
    "relay_denied": _RECIPIENT,
    "mailbox_full": _RECIPIENT,
    "no_such_mailbox": _RECIPIENT,
    "recipient_rejected": _RECIPIENT,
    "content_rejected": _CONTENT,
    "policy": _CONTENT,
    "too_large": _CONTENT,
    "not_sendable": _CONTENT,
    "greylisted": _LATER,
    "deferred": _LATER,
    "cut_short": "The conversation with the relay was cut short. Test again in a few minutes.",
    "no_answer": _MAYBE,
    "timed_out": "The relay answers too slowly to be of use.",
}
"""What each code of a test means, whosever relay it is."""
UNKNOWN: Final = "The relay did not take the message."


def meaning(code: str) -> str:
    """Tell what a code means."""
    return MEANINGS.get(code, UNKNOWN)


def parts(form: str, *, inherited: bool = False) -> dict[str, object]:
    """Give what `testing/parts.html` needs; `form` is the path of the profile's form."""
    return {
        "phases": [(str(phase), words) for phase, words in PHASES.items()],
        "mends": () if inherited else [(one, f"{form}#{one.anchor}") for one in MENDS],
        "meanings": sorted(MEANINGS.items()) if inherited else (),
        "unknown": UNKNOWN,
    }


def outcome(told: Document, form: str) -> Document:
    """Put what the API told of a test, of an own or an inherited profile, into what the page shows."""
    error = told["error"]
    steps = [
        {"milliseconds": None, "detail": "", **one, "words": PHASES[Phase(one["phase"])]} for one in told["phases"]
    ]
    if error is None:
        return {"ok": True, "steps": steps}
    failed = {"code": error["code"], "failed": "", "detail": meaning(error["code"]), "hint": "", "mend": None}
    if "detail" in error:
        found = mend(error["phase"], error["code"])
        failed |= {"detail": error["detail"], "hint": error["hint"], "failed": PHASES[Phase(error["phase"])]}
        failed["mend"] = None if found is None else (found.words, f"{form}#{found.anchor}")
    elif steps:
        failed["failed"] = steps[-1]["words"]
    return {"ok": False, "steps": steps, **failed}
