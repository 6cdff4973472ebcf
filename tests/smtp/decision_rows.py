"""The rows of the decision table: what the relay does, and what shall follow. The id of a row begins with its number."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.outbox.states import State
from gateway.outbox.verdict import SLOW_PROBES, TEN_MINUTES, Consequence, Halve, Park, Rest, Trip
from gateway.smtp.outcome import Phase, Trouble
from gateway.smtp.session import Security
from gateway.smtp.transaction import Timeouts
from tests.peers.smtp_server import AcceptThen, Action, Close, Endless, Raw, Reply, Reset, Rule, Silence
from tests.smtp.talking import ANN, BOB, PATIENT

LATER = (24_000, 36_000)  # the first pause of 30 s, ± 20 %
GREYLISTED = (300_000, 360_000)
RESTS = Rest((900.0, 1_800.0, 3_600.0))


# The profile's rows: a session cannot be had.


@dataclass(frozen=True)
class Profile:
    """A row whose scope is the profile: what the relay does, and what the fault and its consequence are."""

    id: str
    meaning: str
    script: dict[str, Action]
    phase: Phase
    trouble: Trouble
    follows: Consequence
    security: Security = Security.NONE
    password: str | None = None
    offers_tls: bool = True
    users: bool = True


STARTTLS = Security.STARTTLS


def _login(id_: str, meaning: str, reply: Action, trouble: Trouble, follows: Consequence) -> Profile:
    return Profile(id_, meaning, {"auth": reply}, Phase.AUTH, trouble, follows, password="right")


PROFILE = [
    Profile(
        "row03-greeting-421", "a greeting of 4yz: come back, and when, if it says so",
        {"connect": Reply("421 4.3.2 too busy, try again in 5 minutes")},
        Phase.GREETING, Trouble.GREETING_DEFERRED, Trip(seconds=300.0),
    ),
    Profile(
        "row03-greeting-450-hint-capped", "a relay is not allowed to send us away for more than an hour",
        {"connect": Reply("450 4.7.0 wait 99999 seconds")},
        Phase.GREETING, Trouble.GREETING_DEFERRED, Trip(seconds=3_600.0),
    ),
    Profile(
        "row03-ehlo-421", "EHLO put off counts like a greeting put off", {"ehlo": Reply("421 4.3.2 shutting down")},
        Phase.GREETING, Trouble.GREETING_DEFERRED, Trip(),
    ),
    Profile(
        "row04-greeting-554", "the relay does not want us: park, look again every ten minutes",
        {"connect": Reply("554 5.7.1 no")}, Phase.GREETING, Trouble.GREETING_REFUSED,
        Park("relay_rejects_us", TEN_MINUTES),
    ),
    Profile(
        "row04-greeting-521", "a host that takes no mail", {"connect": Reply("521 no mail here")},
        Phase.GREETING, Trouble.GREETING_REFUSED, Park("relay_rejects_us", TEN_MINUTES),
    ),
    Profile(
        "row05-ehlo-refused", "EHLO refused where a password is due: park, say HELO to nobody",
        {"ehlo": Reply("502 5.5.1 what?")}, Phase.GREETING, Trouble.EHLO_REFUSED,
        Park("capability", SLOW_PROBES), password="right",
    ),
    Profile(
        "row06-starttls-missing", "STARTTLS is demanded and not offered: park, never go on in clear", {},
        Phase.TLS, Trouble.TLS_REQUIRED, Park("tls_required", SLOW_PROBES), STARTTLS, "right", offers_tls=False,
    ),
    Profile(
        "row07-starttls-454", "TLS is out of order for the moment", {"starttls": Reply("454 4.7.0 not now")},
        Phase.TLS, Trouble.TLS_DEFERRED, Trip(), STARTTLS,
    ),
    Profile(
        "row08-certificate-untrusted", "a certificate that nobody vouches for: park, look again every ten minutes", {},
        Phase.TLS, Trouble.TLS_UNVERIFIED, Park("tls_verify", TEN_MINUTES), STARTTLS,
    ),
    Profile(
        "row09-handshake-reset", "the handshake breaks", {"handshake": Reset()},
        Phase.TLS, Trouble.TLS_FAILED, Trip(), STARTTLS,
    ),
    Profile(
        "row09-handshake-garbage", "the handshake is no TLS", {"handshake": Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")},
        Phase.TLS, Trouble.TLS_FAILED, Trip(), STARTTLS,
    ),
    Profile(
        "row10-auth-not-offered", "no way to sign in is offered", {},
        Phase.AUTH, Trouble.AUTH_UNAVAILABLE, Park("auth_unavailable", SLOW_PROBES), password="right", users=False,
    ),
    Profile(
        "row11-auth-535", "the password is wrong: park, so that nobody gets locked out", {},
        Phase.AUTH, Trouble.AUTH_FAILED, Park("auth_failed", SLOW_PROBES), password="wrong",
    ),
    _login("row11-auth-535-other-words", "535 whatever the enhanced code", Reply("535 5.7.139 basic auth is disabled"),
           Trouble.AUTH_FAILED, Park("auth_failed", SLOW_PROBES)),
    _login("row12-auth-534", "the mechanism is too weak", Reply("534 5.7.9 application password required"),
           Trouble.AUTH_CONFIG, Park("auth_config", SLOW_PROBES)),
    _login("row13-auth-538", "encryption is required first", Reply("538 5.7.11 encryption required"),
           Trouble.TLS_REQUIRED, Park("tls_required", SLOW_PROBES)),
    _login("row13-auth-530", "must issue STARTTLS first", Reply("530 5.7.0 Must issue a STARTTLS command first"),
           Trouble.TLS_REQUIRED, Park("tls_required", SLOW_PROBES)),
    _login("row14-auth-454", "too many logins: the whole profile rests, 15 min to 1 h",
           Reply("454 4.7.0 Too many login attempts"), Trouble.AUTH_DEFERRED, RESTS),
    _login("row14-auth-421", "any other 4yz likewise", Reply("421 4.7.0 later"), Trouble.AUTH_DEFERRED, RESTS),
    _login("row15-auth-432", "a password transition is needed", Reply("432 4.7.12 transition needed"),
           Trouble.AUTH_TRANSITION, Park("auth_transition", SLOW_PROBES)),
    *(
        _login(f"row16-auth-{code}", "the mechanism is not really there", Reply(f"{code} 5.5.4 what?"),
               Trouble.AUTH_CONFIG, Park("auth_config", SLOW_PROBES))
        for code in (500, 501, 502, 504)
    ),
    _login("row17-auth-dropped", "the relay hangs up during the login", Close(), Trouble.AUTH_DROPPED, Trip()),
    _login("row17-auth-reset", "the relay hangs up during the login, rudely", Reset(), Trouble.AUTH_DROPPED, Trip()),
    Profile(
        "row41-greeting-endless-line", "a greeting without end: no SMTP, breaker", {"connect": Endless(1)},
        Phase.GREETING, Trouble.PROTOCOL, Trip(),
    ),
    Profile(
        "row41-greeting-garbage", "a greeting that is no reply", {"connect": Reply("SSH-2.0-OpenSSH_9.2")},
        Phase.GREETING, Trouble.PROTOCOL, Trip(),
    ),
    _login("row41-auth-garbage", "an answer to AUTH that is no reply", Reply("?"), Trouble.PROTOCOL, Trip()),
]  # fmt: skip


# The message's rows.


@dataclass(frozen=True)
class Fate:
    """What a recipient's copy is afterwards: state, attempts, and when it is due, as a range from now (None: never)."""

    state: State
    attempts: int
    due: tuple[int, int] | None = None
    says: str = ""


DONE = Fate(State.RELAYED, 1)
CUT = Fate(State.DEFERRED, 0, (1_000, 1_000))
PUT_OFF = Fate(State.DEFERRED, 1, LATER)
NEXT = Fate(State.QUEUED, 0, (0, 0))
UNSURE = Fate(State.UNCERTAIN, 1, (600_000, 600_000))
AGAIN = Trip(after=5, pause=False)


def failed(label: str) -> Fate:
    """Failed for good, with this word for operators."""
    return Fate(State.FAILED, 1, None, label)


@dataclass(frozen=True)
class Row:
    """A row about messages: the script, the fates of its recipients in order, the profile's part, the session's."""

    id: str
    meaning: str
    script: list[Rule]
    fates: list[Fate]
    beyond: Consequence | None = None
    usable: bool = True
    taken: int = 0  # messages in the relay's ledger
    timeouts: Timeouts = PATIENT
    released: bool = False  # goes back as if untouched


def at(step: str, action: Action, match: str | None = None) -> Rule:
    """A rule at a step."""
    return Rule(step, action, match=match)  # type: ignore[arg-type]


def everywhere(id_: str, reply: str, *fates: Fate, meaning: str, beyond: Consequence | None = None) -> Row:
    """The same reply to every RCPT."""
    return Row(id_, meaning, [at("rcpt", Reply(reply))], list(fates), beyond)


def sender(id_: str, reply: str, fate: Fate, meaning: str, beyond: Consequence | None = None) -> Row:
    """A reply to MAIL, for two recipients."""
    return Row(id_, meaning, [at("mail", Reply(reply))], [fate, fate], beyond)


def bob(id_: str, reply: str, fate: Fate, meaning: str, beyond: Consequence | None = None) -> Row:
    """A reply to the RCPT of the second of three."""
    return Row(id_, meaning, [at("rcpt", Reply(reply), BOB)], [DONE, fate, DONE], beyond, taken=1)


def final(id_: str, action: Action, fate: Fate, meaning: str, taken: int = 0, **more: object) -> Row:
    """An answer to the final dot, with Bob refused before it."""
    refused = failed("recipient_rejected")
    script = [at("rcpt", Reply("550 5.1.1 unknown"), BOB), at("final", action)]
    return Row(id_, meaning, script, [fate, refused, fate], taken=taken, **more)  # type: ignore[arg-type]


MESSAGE = [
    Row("row20-mail-250", "the sender is accepted", [], [DONE, DONE], taken=1),
    sender("row21-mail-451", "451 4.3.0 later", PUT_OFF, "the sender is put off: the message waits; the breaker counts",
           AGAIN),
    sender("row21-mail-452", "452 4.3.1 no space", PUT_OFF, "likewise for any 4yz", AGAIN),
    Row("row22-mail-530", "sign in first: the profile's trouble, and the message goes back untouched",
        [at("mail", Reply("530 5.7.0 Authentication required"))], [failed("sender"), failed("sender")],
        Park("auth_config", SLOW_PROBES), released=True),
    Row("row22-rcpt-530", "said of everybody the mail is for, it is about the profile too",
        [at("rcpt", Reply("530 5.7.0 Authentication required"))], [failed("recipient"), failed("recipient")],
        Park("auth_config", SLOW_PROBES), released=True),
    Row("row22-data-530", "and so it is at DATA, whoever was refused before",
        [at("rcpt", Reply("550 5.1.1 unknown"), BOB), at("data", Reply("530 5.7.0 Authentication required"))],
        [failed("content"), failed("recipient")], Park("auth_config", SLOW_PROBES), released=True),
    *(
        sender(f"row23-mail-{reply[:9].replace(' ', '-')}", reply, failed("sender_rejected"),
               "the sender may not: the message fails for everyone")
        for reply in ("550 5.7.1 no", "553 5.7.60 send as denied", "501 5.1.7 bad sender", "550 no")
    ),
    sender("row24-mail-552-5.3.4", "552 5.3.4 too big", failed("too_large"), "the message is too large"),
    sender("row24-mail-552-5.2.3", "552 5.2.3 too big", failed("too_large"), "the message is too large"),
    *(
        bob(f"row25-rcpt-{reply[:3]}", reply, DONE, "any 2yz is a yes")
        for reply in ("250 2.1.5 ok", "251 2.1.5 will forward", "252 2.1.5 cannot verify")
    ),
    bob("row26-rcpt-450-4.2.0", "450 4.2.0 busy", PUT_OFF, "only this recipient waits"),
    bob("row26-rcpt-451-4.7.1", "451 4.7.1 come back", Fate(State.DEFERRED, 1, GREYLISTED), "greylisted: five minutes"),
    bob("row26-rcpt-450-words", "450 4.2.0 Greylisted", Fate(State.DEFERRED, 1, GREYLISTED), "greylisted in words"),
    bob("row27-rcpt-452-4.5.3", "452 4.5.3 too many", NEXT, "too many recipients: the rest goes next, at once"),
    bob("row27-rcpt-452", "452 too many", NEXT, "likewise without an enhanced code"),
    everywhere("row27-rcpt-452-everyone", "452 4.5.3 too many", PUT_OFF, PUT_OFF,
               meaning="nobody got through, so at once would be for ever"),
    bob("row28-rcpt-552-after-250", "552 too many", NEXT, "552 for too many, as it was before RFC 5321"),
    everywhere("row28-rcpt-552-everyone", "552 too many", failed("mailbox_full"),
               meaning="without an accepted recipient it is no such thing"),
    bob("row29-rcpt-452-4.2.2", "452 4.2.2 full", PUT_OFF, "a full mailbox may be emptied"),
    bob("row29-rcpt-552-5.2.2", "552 5.2.2 full", failed("mailbox_full"), "a full mailbox, for good"),
    *(
        bob(f"row30-rcpt-{reply[:9].replace(' ', '-')}", reply, failed("recipient_rejected"),
            "this recipient fails, the others go on")
        for reply in ("550 5.1.1 unknown", "551 5.1.6 moved", "553 5.1.3 bad", "554 5.7.1 blocked", "501 5.1.3 bad")
    ),
    bob("row30-rcpt-530", "530 5.7.0 Authentication required", failed("recipient_rejected"),
        "not without signing in, but the others did: it is about this one"),
    everywhere("row31-rcpt-503-everyone", "503 5.5.1 bad sequence", failed("protocol"), failed("protocol"),
               meaning="we do not understand each other"),
    everywhere("row31-rcpt-501-everyone", "501 syntax", failed("protocol"), failed("protocol"),
               meaning="we do not understand each other"),
    Row("row32-rcpt-421", "the relay closes at the second of three: what it refused stands, the rest comes again",
        [at("rcpt", Reply("550 5.1.1 unknown"), ANN), at("rcpt", Reply("421 4.3.2 bye", then=Close()), BOB)],
        [failed("recipient_rejected"), CUT, CUT], AGAIN, usable=False),
    Row("row32-rcpt-drop", "the same without a word",
        [at("rcpt", Reply("550 5.1.1 unknown"), ANN), at("rcpt", Close(), BOB)],
        [failed("recipient_rejected"), CUT, CUT], AGAIN, usable=False),
    Row("row32-mail-421", "the relay closes at MAIL", [at("mail", Reply("421 4.3.2 bye", then=Close()))],
        [CUT, CUT], AGAIN, usable=False),
    Row("row33-data-354", "the body may come", [at("data", Reply("354 "))], [DONE], taken=1),
    Row("row34-data-451", "DATA put off: those whom it concerns wait",
        [at("rcpt", Reply("550 5.1.1 unknown"), BOB), at("data", Reply("451 4.3.0 later"))],
        [PUT_OFF, failed("recipient_rejected"), PUT_OFF]),
    Row("row34-data-554", "DATA refused: they fail",
        [at("rcpt", Reply("450 4.2.0 busy"), BOB), at("data", Reply("554 5.7.1 no"))],
        [failed("content_rejected"), PUT_OFF, failed("content_rejected")]),
    Row("row35-data-250", "a 2yz to DATA is no success: hang up, come again",
        [at("data", Reply("250 2.0.0 Ok: queued"))], [CUT, CUT], AGAIN, usable=False),
    Row("row35-data-garbage", "nor is garbage", [at("data", Reply("ok"))], [CUT], AGAIN, usable=False),
    *(
        final(f"row37-final-{reply[:3]}", Reply(reply), DONE, "any 2yz takes responsibility", taken=1)
        for reply in ("250 2.0.0 Ok: queued as 4711", "200 fine", "251 forwarded")
    ),
    final("row38-final-451", Reply("451 4.3.0 later"), PUT_OFF, "the message is put off"),
    final("row38-final-452", Reply("452 4.3.1 no space"), PUT_OFF, "the message is put off"),
    final("row38-final-421", Reply("421 4.3.0 closing"), PUT_OFF, "the message is put off, the session over",
          usable=False),
    final("row38-final-432-halve", Reply("432 4.3.2 Concurrent connections limit exceeded"), PUT_OFF,
          "too many connections: use half of them for ten minutes", beyond=Halve(600.0)),
    *(
        final(f"row39-final-{reply[:9].replace(' ', '-')}", Reply(reply), failed(label), "the content is refused")
        for reply, label in (
            ("554 5.6.0 content", "content_rejected"), ("552 5.3.4 size", "too_large"), ("550 5.7.1 policy", "content_rejected"),
        )
    ),
    final("row40-final-silence", Silence(), UNSURE, "no answer in time", usable=False,
          timeouts=Timeouts(command=10, block=10, final=0.05)),
    final("row40-final-eof", Close(), UNSURE, "the link is closed", usable=False),
    final("row40-final-eof-accepted", AcceptThen(Close()), UNSURE, "the link is closed and the mail is taken", 1,
          usable=False),
    final("row40-final-reset", AcceptThen(Reset()), UNSURE, "the link is reset", 1, usable=False),
    final("row40-final-unparsable", Reply("yes"), UNSURE, "no SMTP", usable=False),
    final("row41-final-line-too-long", Endless(1), UNSURE, "ambiguous, because it is after the dot", usable=False),
    Row("row41-rcpt-line-too-long", "a line without end, before the dot", [at("rcpt", Endless(1))], [CUT], AGAIN,
        usable=False),
    Row("row41-mail-endless", "a reply without end", [at("mail", Endless.continuation(1))], [CUT], AGAIN, usable=False),
    Row("row41-mail-code-mismatch", "a reply that changes its code", [at("mail", Reply("250-a\n550 b"))], [CUT], AGAIN,
        usable=False),
    bob("row42-rcpt-unknown-4yz", "499 what", PUT_OFF, "an unknown code: the first digit decides"),
    bob("row42-rcpt-unknown-5yz", "599 what", failed("recipient_rejected"), "an unknown code: the first digit decides"),
    bob("row42-rcpt-550-4.7.1", "550 4.7.1 greylisted", failed("recipient_rejected"),
        "an enhanced code of another class does not count"),
    bob("row42-rcpt-450-5.1.1", "450 5.1.1 unknown", PUT_OFF, "an enhanced code of another class does not count"),
]  # fmt: skip
