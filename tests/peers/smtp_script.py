"""What a scripted relay can be told to do, and what it remembers: values, and the rules that choose between them.

A `Rule` names a step of the dialogue and the `Action` for it; `Session`, `Login` and `Caught` are the relay's memory;
`Features` is what EHLO offers, and `issue_tls` makes the certificate it shows.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import trustme

Step = Literal[
    "connect", "handshake", "ehlo", "helo", "starttls", "challenge", "auth", "mail", "rcpt", "data", "final",
    "rset", "noop", "quit",
]  # fmt: skip
Scope = Literal["relay", "session", "transaction"]


# What the relay can do at a step.


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer with `text` (its lines joined by CRLF, a CRLF at the end), `extra` behind it in the same segment."""

    text: str
    extra: bytes = b""
    then: Action | None = None

    @property
    def payload(self) -> bytes:
        """The bytes on the wire."""
        return "\r\n".join([*self.text.splitlines(), ""]).encode("utf-8", "surrogateescape") + self.extra


@dataclass(frozen=True, slots=True)
class Raw:
    """Write exactly these bytes."""

    payload: bytes
    then: Action | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """Write the chunks one by one, letting the event loop turn in between."""

    chunks: tuple[bytes, ...]
    then: Action | None = None

    @classmethod
    def every(cls, size: int, text: str) -> Split:
        """`text` as a reply, cut every `size` bytes."""
        payload = Reply(text).payload
        return cls(tuple(payload[at : at + size] for at in range(0, len(payload), size)))


@dataclass(frozen=True, slots=True)
class Close:
    """Close with FIN; over TLS with a close_notify unless `notify` is false."""

    notify: bool = True


@dataclass(frozen=True, slots=True)
class Reset:
    """Close with RST."""


@dataclass(frozen=True, slots=True)
class Silence:
    """Never answer; with `reading` false the socket is not even read, so the client's window fills."""

    reading: bool = True


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait for `event`, then do `then` (None: what would have happened without a rule)."""

    event: asyncio.Event
    then: Action | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """Let the event loop turn so often, then do `then` (None: what would have happened without a rule)."""

    turns: int
    then: Action | None = None


@dataclass(frozen=True, slots=True)
class Endless:
    """Stream `mebibytes` of `unit` without end of reply, then stay silent; `Session.streamed` counts what left."""

    mebibytes: int = 100
    unit: bytes = b"2"

    @classmethod
    def continuation(cls, mebibytes: int = 100, code: int = 250) -> Endless:
        """An endless multi-line reply instead of an endless line."""
        return cls(mebibytes, b"%d-and so on\r\n" % code)


@dataclass(frozen=True, slots=True)
class AcceptThen:
    """At "final": accept and record the message, then do something else than say so (RFC 1047's window)."""

    then: Action = Close()


Action = Reply | Raw | Split | Close | Reset | Silence | Hold | Later | Endless | AcceptThen


@dataclass(slots=True)
class Rule:
    """When `step` comes for the `nth` time (counted in `per`, from 1, among those that `match`), do `action`.

    `match` sees the command line ("auth": mechanism and user name, "final": the message); a str means "contains".
    With `once` the rule is spent after its first use.
    """

    step: Step
    action: Action
    nth: int | range | None = None
    match: str | Callable[[str], bool] | None = None
    once: bool = False
    per: Scope = "relay"
    hits: int = 0
    _seen: Counter[tuple[int, ...]] = field(default_factory=Counter, repr=False)

    def __post_init__(self) -> None:
        if self.step not in get_args(Step):
            raise ValueError(f"no such step: {self.step!r}")

    def fits(self, argument: str, scope: tuple[int, ...]) -> bool:
        """Count this occurrence and say whether it is one the rule is for."""
        wanted = self.match
        matched = wanted in argument if isinstance(wanted, str) else wanted is None or wanted(argument)
        if not matched or (self.once and self.hits):
            return False
        self._seen[scope] += 1
        count = self._seen[scope]
        return count == self.nth if isinstance(self.nth, int) else self.nth is None or count in self.nth


# What the relay remembers.


@dataclass(slots=True)
class Login:
    """One attempt to authenticate, decoded."""

    mechanism: str
    username: str
    password: str = field(repr=False)
    tls: bool
    accepted: bool = False


@dataclass(slots=True)
class Session:
    """One connection, as the relay saw it."""

    index: int
    tls: bool = False
    commands: list[str] = field(default_factory=list)
    encrypted_from: int | None = None
    logins: list[Login] = field(default_factory=list)
    username: str | None = None
    streamed: int = 0
    leftover: bytes = b""
    closed: bool = False
    error: str | None = None
    tls_error: str | None = None

    @property
    def verbs(self) -> list[str]:
        """The first word of each command."""
        return [line.partition(" ")[0].upper() for line in self.commands]

    @property
    def in_clear(self) -> list[str]:
        """The commands that came without TLS."""
        return self.commands[: self.encrypted_from]


@dataclass(frozen=True, slots=True)
class Caught:
    """One accepted message; `data` is what the client meant, without transparency dots and terminator."""

    mail_from: str
    rcpt_tos: tuple[str, ...]
    data: bytes
    message_id: str | None
    session_index: int
    tls: bool
    mail_parameters: Mapping[str, str]
    username: str | None
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What EHLO offers; AUTH appears in addition when the relay has users."""

    pipelining: bool = True
    size: int | None = 50 * 1024 * 1024
    eight_bit_mime: bool = True
    smtputf8: bool = True
    enhanced_status_codes: bool = True
    dsn: bool = False
    auth: tuple[str, ...] = ("PLAIN", "LOGIN")
    auth_in_clear: bool = True
    auth_over_tls: bool = True


@dataclass(frozen=True, slots=True)
class IssuedTls:
    """A server's certificate from a throw-away authority, in the forms that servers and clients ask for."""

    context: ssl.SSLContext
    ca_pem: str
    chain_pem: str
    key_pem: str


def issue_tls(*names: str, authority: trustme.CA | None = None) -> IssuedTls:
    """Issue a certificate for `names` (default: localhost and 127.0.0.1)."""
    authority = authority or trustme.CA()
    cert = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(context)
    chain = b"".join(blob.bytes() for blob in cert.cert_chain_pems)
    return IssuedTls(
        context, authority.cert_pem.bytes().decode(), chain.decode(), cert.private_key_pem.bytes().decode()
    )
