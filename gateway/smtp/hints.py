"""What went wrong, in one plain sentence, and what a person can do about it.

A table over outcomes: a `Fault`, or a relay's refusal. What the relay said stands in the sentence only where it may be
quoted: cleaned, cut, and never of the AUTH phase. A `Look` is what a second connection showed that trusts anything and
signs in nowhere.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from gateway.credentials.secret import Secret
from gateway.smtp import certificate
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
from gateway.smtp.sasl import permissions
from gateway.smtp.session import Relay, Security

MICROSOFT_PERMISSION: Final = "SMTP.SendAsApp"
IMPLICIT_PORT: Final = 465


class Advice(NamedTuple):
    """What a person is told: a stable code, a sentence, and what to do."""

    code: str
    detail: str
    hint: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a second, careless look at a relay showed: which security it takes there, and its certificate."""

    security: Security
    starttls: bool = False
    certificate: bytes | None = None


def of_fault(fault: Fault, relay: Relay | None, provider: str = "generic", look: Look | None = None) -> Advice:
    """Explain why a session could not be had; `relay` is None if there was none to try."""
    code, detail = str(fault.trouble), fault.detail
    if fault.trouble is Trouble.EGRESS_REFUSED and detail == code:
        return Advice(code, "The operator does not let profiles connect there.", _EGRESS)
    sentence = f"{detail[:1].upper()}{detail[1:]}".rstrip(".") + "."
    if relay is None:
        return Advice(code, sentence, _HINTS[fault.trouble])
    return Advice(code, sentence, _at_relay(fault, relay, provider, look))


def _at_relay(fault: Fault, relay: Relay, provider: str, look: Look | None) -> str:
    match fault.trouble:
        case Trouble.TLS_UNVERIFIED if fault.phase is Phase.TLS:
            return _certificate(relay, look, fault.detail)
        case Trouble.UNREACHABLE | Trouble.TLS_FAILED | Trouble.PROTOCOL if told := _security(relay, look):
            return told
        case Trouble.TLS_REQUIRED if fault.phase is Phase.TLS and fault.reply is None:
            return _no_starttls(relay)
        case Trouble.TLS_REQUIRED if fault.phase is Phase.AUTH and fault.reply is None:
            return _IN_CLEAR
        case Trouble.AUTH_FAILED | Trouble.AUTH_CONFIG | Trouble.AUTH_DISABLED:
            return _sign_in(fault, relay, provider)
        case _:
            return _HINTS[fault.trouble]


def _security(relay: Relay, look: Look | None) -> str:
    """Is it only that the profile expects another security at this port?"""
    if look is not None and look.security is Security.IMPLICIT_TLS and relay.security is not look.security:
        return (
            f"This port expects TLS from the first octet: choose security implicit_tls, or port {_other(relay.port)}."
        )
    if look is not None and look.security is Security.NONE and relay.security is Security.IMPLICIT_TLS:
        other = "choose security starttls" if look.starttls else "and does not offer STARTTLS: try port 465"
        return f"This port greets in clear, without TLS: {other}."
    if relay.port == IMPLICIT_PORT and relay.security is not Security.IMPLICIT_TLS:
        return "Port 465 usually expects security implicit_tls."
    if relay.port in (25, 587) and relay.security is Security.IMPLICIT_TLS:
        return f"Port {relay.port} usually expects security starttls."
    return ""


def _other(port: int) -> str:
    return "587 with starttls" if port != 587 else "25"


def _no_starttls(relay: Relay) -> str:
    if relay.port == IMPLICIT_PORT:
        return "Port 465 usually expects security implicit_tls."
    return (
        "Nothing is sent in clear. Ask the relay's administrator to switch STARTTLS on, or try port 465 with"
        " implicit_tls; if it worked before, somebody between here and the relay may be taking the offer away."
    )


def _certificate(relay: Relay, look: Look | None, detail: str) -> str:
    der = None if look is None else look.certificate
    if der is None:
        return _HINTS[Trouble.TLS_UNVERIFIED]
    now, begins, ends = datetime.now(UTC), certificate.begins(der), certificate.ends(der)
    if ends is not None and ends < now:
        return (
            f"It ended on {ends:%Y-%m-%d}; this machine's clock says {now:%Y-%m-%d %H:%M} UTC. Renew the certificate."
        )
    if begins is not None and begins > now:
        return (
            f"It begins on {begins:%Y-%m-%d %H:%M} UTC; this machine's clock says {now:%Y-%m-%d %H:%M}. Set the clock."
        )
    if _MISMATCH.search(detail):
        named = ", ".join(certificate.names(der)) or "no host at all"
        return f"The certificate is for {named}, not for {relay.host}: use one of its names as host."
    return (
        f"It is signed by {certificate.issuer(der)}, whom this machine does not trust: put that authority's certificate"
        " (PEM) into tls.ca_certificates."
    )


def _sign_in(fault: Fault, relay: Relay, provider: str) -> str:
    provider = provider if provider in _PROVIDERS else _provider(relay.host)
    login = relay.login
    if login is not None and login.bearer and provider == "microsoft365":
        return _microsoft_token(fault, login.secret)
    if fault.trouble is Trouble.AUTH_CONFIG and fault.reply is None:
        return _HINTS[Trouble.AUTH_CONFIG]
    return _PROVIDERS.get(provider, _GENERIC)


def _provider(host: str) -> str:
    return next((name for name, ending in _HOSTS.items() if host == ending or host.endswith("." + ending)), "generic")


def _microsoft_token(fault: Fault, token: Secret | None) -> str:
    """The four usual mistakes: the token shows the first, the relay's code the fourth, and the others are left."""
    enhanced = fault.reply.enhanced if fault.reply is not None else None
    if token is not None and (granted := permissions(token)) is not None and MICROSOFT_PERMISSION not in granted:
        return (
            f"The application has no permission {MICROSOFT_PERMISSION}: add it under API permissions, Office 365"
            " Exchange Online, application permissions, and have an administrator consent to it."
        )
    if fault.trouble is Trouble.AUTH_DISABLED or enhanced == "5.7.139":
        return (
            "SMTP AUTH is switched off for this mailbox: Set-CASMailbox <mailbox> -SmtpClientAuthenticationDisabled"
            " $false, and see that no security default or authentication policy forbids it."
        )
    return (
        "The token is good, Exchange does not know its application or gives it no mailbox. Register it with"
        " New-ServicePrincipal and the object id of the ENTERPRISE application (not that of the app registration), then"
        " Add-MailboxPermission <mailbox> -User <that service principal> -AccessRights FullAccess; and let SMTP AUTH be"
        " on for the mailbox. It may take half an hour to hold."
    )


# What a relay said to the message.


def of_outcome(outcome: RecipientOutcome) -> Advice | None:
    """Explain why a message did not go; None if it did."""
    match outcome:
        case Relayed():
            return None
        case Refused(phase, reply):
            return _refusal(phase, reply)
        case Rejected(reply):
            return of_rejected(reply)
        case Untaken(detail, _):
            return Advice("cut_short", f"The conversation was cut short: {detail}.", _AGAIN)
        case Unknown(detail):
            return Advice("no_answer", f"The message was sent, and no answer came: {detail}.", _MAYBE)


def of_rejected(reply: Reply) -> Advice:
    """Explain why we send no such message."""
    return Advice("not_sendable", f"The message cannot be sent there: {reply.text}.", _CHANGE)


def _refusal(phase: Phase, reply: Reply) -> Advice:
    said = f"The relay said: {reply}."
    for code, phases, fits, hint in _REFUSALS:
        if phase in phases and fits(reply):
            return Advice(code, said, hint)
    if reply.transient:
        return Advice("deferred", said, _AGAIN)
    return Advice(f"{phase}_rejected", said, _REJECTED[phase])


def _says(*words: str) -> Callable[[Reply], bool]:
    found = re.compile("|".join(words), re.IGNORECASE)
    return lambda reply: found.search(reply.text) is not None


def _has(*enhanced: str) -> Callable[[Reply], bool]:
    return lambda reply: reply.enhanced in enhanced


_ANY: Final = (Phase.SENDER, Phase.RECIPIENT, Phase.CONTENT)
_MISMATCH: Final = re.compile(r"hostname mismatch|IP address mismatch", re.IGNORECASE)
_SEND_AS: Final = _says(
    r"send ?as ?denied", r"not allowed to send as", r"not owned by user", r"sender address rejected: not"
)
_REFUSALS: Final[tuple[tuple[str, tuple[Phase, ...], Callable[[Reply], bool], str], ...]] = (
    (
        "basic_auth_disabled", _ANY, _has("5.7.30"),
        "Microsoft 365 takes no passwords any more: let the profile sign in by OAuth (auth.oauth).",
    ),
    (
        "auth_required", _ANY, lambda reply: reply.code == 530,
        "The relay wants to know who sends: give the profile a user name and a password, or OAuth.",
    ),
    (
        "send_as_denied", _ANY, lambda reply: reply.enhanced in ("5.2.252", "5.7.60") or _SEND_AS(reply),
        "Who signed in may not send as this sender: use that account's own address as from, or grant it Send As.",
    ),
    (
        "greylisted", _ANY, is_greylisting,
        "The relay puts strangers off for some minutes. Sending tries again by itself; test again in five minutes.",
    ),
    (
        "relay_denied", (Phase.RECIPIENT, Phase.CONTENT), _says(r"\brelay", r"not permitted to send", r"\bauthenticat"),
        "The relay forwards nothing for us to that domain: sign in there, or have it permit this machine's address.",
    ),
    (
        "too_large", _ANY, lambda reply: reply.code == 552 and reply.enhanced != "5.2.2",
        "The relay takes no message of this size.",
    ),
    (
        "mailbox_full", _ANY, lambda reply: reply.enhanced in ("5.2.2", "4.2.2"),
        "The recipient's mailbox is full: test with another one.",
    ),
    (
        "no_such_mailbox", (Phase.RECIPIENT,), lambda reply: reply.enhanced in ("5.1.1", "5.1.10"),
        "There is no such recipient: look at the address.",
    ),
    (
        "policy", (Phase.CONTENT,), lambda reply: (reply.enhanced or "").startswith("5.7."),
        "A rule of the relay or of the recipient forbids the message: see SPF, DKIM and DMARC of the sender's domain.",
    ),
)  # fmt: skip
_AGAIN: Final = "Sending tries again by itself; test again in a few minutes."
_CHANGE: Final = "Change the message or the profile's limits."
_MAYBE: Final = "It may have been delivered: look into the mailbox before you test again."
_EGRESS: Final = "Ask the operator to permit it in [egress], or use another relay."
_IN_CLEAR: Final = (
    "Choose security starttls or implicit_tls, or ask the operator to name the host in [egress] plaintext_auth."
)
_REJECTED: Final = {
    Phase.SENDER: "The relay takes no mail from this sender: see the profile's from and return_path.",
    Phase.RECIPIENT: "The relay takes no mail for this recipient: test with another one.",
    Phase.CONTENT: "The relay takes no such message: its administrator can say why.",
}
_HOSTS: Final = {
    "microsoft365": "office365.com",
    "gmail": "gmail.com",
    "amazon_ses": "amazonaws.com",
    "sendgrid": "sendgrid.net",
    "mailgun": "mailgun.org",
    "postmark": "postmarkapp.com",
    "brevo": "brevo.com",
}
_GENERIC: Final = (
    "See user name and password, and whether the account may send by SMTP at all; some relays want the user name with"
    " its domain. Each further wrong try counts towards the account's lock-out."
)
_PROVIDERS: Final = {
    "microsoft365": (
        "Microsoft 365 is switching passwords off: let the profile sign in by OAuth. Until then SMTP AUTH has to be on"
        " for the mailbox, security defaults off, and with multi-factor sign-in an app password is needed."
    ),
    "gmail": "Google wants an app password (with 2-step verification on), or OAuth; never the account's own password.",
    "amazon_ses": (
        "Amazon SES wants SMTP credentials of the very region, made in its console; the keys of an IAM user are none."
    ),
    "sendgrid": "SendGrid's user name is the word apikey, and the password an API key with Mail Send.",
    "mailgun": "Mailgun's user name is postmaster@ the sending domain, with the SMTP password of that domain's region.",
    "postmark": "Postmark's user name and password are both the server's API token, not the account's.",
    "brevo": "Brevo's password is an SMTP key, not an API key; its user name is shown beside it.",
}
_HINTS: Final = {
    Trouble.SECRET_UNAVAILABLE: "The secret's source does not answer: see its connection; mail waits meanwhile.",
    Trouble.SECRET_DENIED: "See who may read the secret, in the operator's settings and at its source.",
    Trouble.SECRET_MISSING: "Give the secret anew, or see the key it is looked for by.",
    Trouble.EGRESS_REFUSED: _EGRESS,
    Trouble.NAME_UNKNOWN: "See how the host is written, and whether this machine's name server knows it.",
    Trouble.UNREACHABLE: "See host and port, and whether a firewall lets this machine out; many networks close port 25.",
    Trouble.CROWDED: "Let the profile use fewer connections (limits.connections), or close what else uses the account.",
    Trouble.GREETING_DEFERRED: "The relay is busy or puts us off: test again in a few minutes.",
    Trouble.GREETING_REFUSED: "The relay takes nothing from this machine: see whether its address is on a block list.",
    Trouble.EHLO_REFUSED: "The relay speaks no ESMTP, or does not like our name: see [relay] ehlo_name.",
    Trouble.TLS_REQUIRED: "The relay wants TLS before this: choose security starttls or implicit_tls.",
    Trouble.TLS_DEFERRED: "The relay cannot do TLS at the moment: test again in a few minutes.",
    Trouble.TLS_UNVERIFIED: "Put the certificate of the relay's authority (PEM) into tls.ca_certificates.",
    Trouble.TLS_FAILED: "See tls.min_version, and whether the relay speaks TLS 1.2 or newer.",
    Trouble.CERTIFICATE_UNREADABLE: "Give certificate and key in one PEM, the key without a passphrase.",
    Trouble.DKIM_KEY: "Give an RSA key of 1024 to 4096 bits or an Ed25519 key as PEM, without a passphrase.",
    Trouble.AUTH_UNAVAILABLE: "Choose one of those as auth.method; some relays offer signing in only after TLS.",
    Trouble.AUTH_FAILED: _GENERIC,
    Trouble.AUTH_TRANSITION: "The relay wants the password changed, or used once in clear, first.",
    Trouble.AUTH_CONFIG: "See auth.method, and whether relay and account take it.",
    Trouble.AUTH_DISABLED: "Let the profile sign in by OAuth (auth.oauth), or have passwords switched on again.",
    Trouble.AUTH_DEFERRED: "The relay cannot check sign-ins at the moment: test again in a few minutes.",
    Trouble.AUTH_DROPPED: "The relay hung up while we signed in: it may have blocked the account or this machine.",
    Trouble.AUTH_HELD_BACK: "Nothing was tried, and mail goes on by itself: test again in a moment.",
    Trouble.PROTOCOL: "See whether an SMTP relay listens at this host and port.",
}
