"""How a profile stands, in words: why it does not send at the moment, and what a person can do about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.smtp.outcome import Trouble

PARKED: Final = "parked:"


@dataclass(frozen=True, slots=True)
class Why:
    """What is wrong, and what to do, a sentence each."""

    wrong: str
    mend: str


_GONE_WRONG: Final[Mapping[Trouble, Why]] = {
    Trouble.AUTH_FAILED: Why(
        "The relay refuses user name and password.",
        "Correct the password here or at its source; a new one there is found by itself.",
    ),
    Trouble.AUTH_HELD_BACK: Why(
        "The account was tried several times without success, so it is left alone for a while.",
        "Correct the password and resume, or wait.",
    ),
    Trouble.AUTH_CONFIG: Why(
        "The relay wants another way to sign in.", "See the method, and whether it asks for an application's password."
    ),
    Trouble.AUTH_DISABLED: Why(
        "The relay takes no passwords from this mailbox any more.",
        "Sign in by OAuth, or have passwords switched on for the mailbox.",
    ),
    Trouble.AUTH_UNAVAILABLE: Why(
        "The relay offers no way to sign in that the profile allows.", "See security, port and method."
    ),
    Trouble.AUTH_TRANSITION: Why(
        "The relay wants the password changed first.", "Change it at the relay, then give it here."
    ),
    Trouble.AUTH_DEFERRED: Why("The relay puts sign-ins off.", "Wait; it goes on by itself."),
    Trouble.AUTH_DROPPED: Why(
        "The relay hung up during the sign-in.", "See at the relay whether the account or this machine is blocked."
    ),
    Trouble.TLS_REQUIRED: Why(
        "TLS cannot be had: the relay does not offer STARTTLS, or wants it sooner.",
        "See host, port and security; switching TLS off is no way out.",
    ),
    Trouble.TLS_UNVERIFIED: Why(
        "The relay's certificate is for another name, has ended, or comes from an unknown authority.",
        "Give its authority's certificate under TLS, or have it renewed.",
    ),
    Trouble.TLS_FAILED: Why("The TLS handshake fails.", "See the oldest TLS version that the profile allows."),
    Trouble.TLS_DEFERRED: Why("The relay cannot do TLS at the moment.", "Wait; it goes on by itself."),
    Trouble.CERTIFICATE_UNREADABLE: Why(
        "The client certificate cannot be read.", "Give certificate and bare key in one PEM text."
    ),
    Trouble.SECRET_MISSING: Why("The profile's password or key is missing.", "Give it again."),
    Trouble.SECRET_DENIED: Why(
        "The secret's source refuses it, or the operator does not lend it.", "See the reference, or ask the operator."
    ),
    Trouble.SECRET_UNAVAILABLE: Why("The secret's source cannot be reached.", "Bring the source back."),
    Trouble.EGRESS_REFUSED: Why(
        "The operator does not let profiles connect to this address.", "Use another host or port, or ask the operator."
    ),
    Trouble.NAME_UNKNOWN: Why("The host's name does not resolve.", "See how the host is written."),
    Trouble.UNREACHABLE: Why("Nobody answers at the relay's address.", "See host and port, network and firewall."),
    Trouble.GREETING_REFUSED: Why(
        "The relay takes nothing from this machine.", "Its operator knows why: an address list, a reputation."
    ),
    Trouble.GREETING_DEFERRED: Why("The relay is busy, or puts us off.", "Wait; it goes on by itself."),
    Trouble.CROWDED: Why("The relay has too many of our connections.", "Allow fewer connections under limits."),
    Trouble.EHLO_REFUSED: Why("What answers does not speak SMTP as it should.", "See host and port."),
    Trouble.PROTOCOL: Why("What answers does not speak SMTP as it should.", "See host and port."),
    Trouble.DKIM_KEY: Why("The DKIM key cannot be read.", "Give the key as PEM, without a passphrase."),
}
_UNKNOWN: Final = Why("Something is wrong that this page has no words for.", "Test the profile: that tells what it is.")
_OTHERS: Final[Mapping[str, Why]] = {
    "open": Why("The relay did not answer lately.", "It is tried again by itself in a while."),
    "paused": Why("Somebody paused it.", "Its mail waits until it is resumed."),
    "disabled": Why("It is switched off.", "Nothing is sent by it until it is enabled."),
}


def why(state: str) -> Why | None:
    """Tell why a profile in this state does not send; None if it does."""
    if state.startswith(PARKED):
        reason = state.removeprefix(PARKED)
        return _GONE_WRONG[Trouble(reason)] if reason in list(Trouble) else _UNKNOWN
    return _OTHERS.get(state)
