"""An open, secured, authenticated session with a relay: greeting, EHLO, STARTTLS, AUTH (RFC 5321, 3207, 4954).

aiosmtplib opens the session, one step at a time; then the wire engine takes the transport over. Every exception the
library can raise becomes a `Fault` here and nowhere else.

Security is a stated policy: with `starttls` a relay that does not offer it is a fault, never a reason to go on in
clear. A password goes over an unverified or missing TLS only where the profile says so.
"""

import asyncio
import re
import ssl
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, cast

import aiosmtplib.smtp
from aiosmtplib.protocol import SMTPProtocol

from gateway.observe import facts
from gateway.observe.failpoint import failpoint
from gateway.smtp import certificate
from gateway.smtp.dial import Dialer, Proxy
from gateway.smtp.outcome import Fault, Phase, Trouble, Watch, unwatched
from gateway.smtp.reply import MAX_LINES, Reply, reply
from gateway.smtp.sasl import ACCEPTED, Login, Method, SaslError, choose, sign_in
from gateway.smtp.tls import AuthoritiesError, ClientCertificateError, Contexts, TlsPolicy
from gateway.smtp.transaction import Capabilities, Engine, Timeouts

_CROWDED: Final = re.compile(r"too many .{0,40}(?:connections|sessions)|connections? .{0,20}limit", re.IGNORECASE)
SIZE: Final = re.compile(r"[0-9]{1,20}")  # RFC 1870 §4


class Security(StrEnum):
    """How the connection is protected: a policy, with no fallback."""

    STARTTLS = "starttls"
    IMPLICIT_TLS = "implicit_tls"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Relay:
    """Where to, by which way, how protected, and as whom: all that decides what a session is."""

    host: str
    port: int
    security: Security
    tls: TlsPolicy = TlsPolicy()
    login: Login | None = None
    proxy: Proxy | None = None

    @property
    def protected(self) -> bool:
        """Is nobody between us and the relay, as far as TLS can tell?"""
        return self.security is not Security.NONE and self.tls.verify


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens sessions: the dialer, the name we give in EHLO, and how long we wait.

    Without TLS nobody signs in but at the hosts of `plaintext_auth`, written as in `Relay.host`.
    """

    dialer: Dialer
    ehlo_name: str
    timeouts: Timeouts = Timeouts()
    plaintext_auth: frozenset[str] = frozenset()
    contexts: Contexts = field(default_factory=Contexts)

    async def open(self, relay: Relay, watch: Watch = unwatched) -> Engine | Fault:
        """Open a session ready for MAIL, or say what stood in the way; `watch` is told each phase that is passed."""
        context = None if relay.security is Security.NONE else await self._context(relay.tls)
        if isinstance(context, Fault):
            return context
        timed = _Timed(watch, anonymous=relay.login is None)
        sock = await self.dialer.dial(relay.host, relay.port, relay.proxy, timed)
        if isinstance(sock, Fault):
            return sock
        failpoint("smtp.connected")
        client = _Client(
            hostname=relay.host,
            sock=sock,
            use_tls=relay.security is Security.IMPLICIT_TLS,
            start_tls=False,
            tls_context=context,
            local_hostname=self.ehlo_name,
            timeout=self.timeouts.command,
        )
        opening = _Opening(client, relay, timed, in_clear=relay.host in self.plaintext_auth)
        try:
            fault = await opening.run()
        except BaseException:
            client.drop()
            sock.close()
            raise
        if fault is not None:
            client.drop()
            return fault
        if client.transport is None:
            return Fault(Phase.AUTH, Trouble.UNREACHABLE, "the relay closed the connection")
        engine = Engine(cast("asyncio.Transport", client.transport), _capabilities(client), self.timeouts, watch)
        engine.certificate = opening.certificate
        return engine

    async def _context(self, policy: TlsPolicy) -> ssl.SSLContext | Fault:
        try:
            return await self.contexts.of(policy)
        except ClientCertificateError as error:
            return Fault(Phase.TLS, Trouble.CERTIFICATE_UNREADABLE, str(error))
        except AuthoritiesError as error:
            return Fault(Phase.TLS, Trouble.TLS_UNVERIFIED, f"the profile's CA certificates are {error}")
        except (ssl.SSLError, ValueError):
            return Fault(Phase.TLS, Trouble.TLS_UNVERIFIED, "the profile's CA certificates cannot be read")


class _Timed:
    """Watches an opening on behalf of another: how long did each phase take?"""

    def __init__(self, watch: Watch, *, anonymous: bool) -> None:
        self._watch = watch
        self._untimed = Phase.AUTH if anonymous else None
        self._since = time.perf_counter()

    def __call__(self, phase: Phase, what: object) -> None:
        since, self._since = self._since, time.perf_counter()
        if phase is not self._untimed:
            facts.phase_passed(phase, self._since - since)
        self._watch(phase, what)


class _Protocol(SMTPProtocol):
    """The library's protocol, for replies of so many lines and no more: with each that comes it reads all from the first."""

    def _read_response_from_buffer(self) -> aiosmtplib.SMTPResponse | None:
        waiting = self._buffer.count(b"\n")
        said = super()._read_response_from_buffer()
        lines = waiting if said is None else waiting - self._buffer.count(b"\n") - 1
        if lines > MAX_LINES:  # besides the last
            raise aiosmtplib.SMTPResponseException(aiosmtplib.SMTPStatus.invalid_response, "endless reply")
        return said


aiosmtplib.smtp.SMTPProtocol = _Protocol  # type: ignore[attr-defined]  # the library has no way to be told which to use


class _Client(aiosmtplib.SMTP):
    """The library's client, which also tells that the connection stands, before it waits for the greeting."""

    def connection_made(self) -> None:
        """The transport is there, behind TLS if that comes first; `_Opening` replaces this."""

    @property
    def transport(self) -> asyncio.BaseTransport | None:
        """What the session runs on."""
        return self._made

    @transport.setter
    def transport(self, made: asyncio.BaseTransport | None) -> None:
        self._made = made
        if made is not None:
            self.connection_made()

    def drop(self) -> None:
        """Hang up at once: to take leave of TLS in order would leave it to the relay when the connection ends."""
        made = self.transport
        self.close()
        if made is not None:
            cast("asyncio.Transport", made).abort()

    async def execute_command(self, *args: bytes, **more: Any) -> aiosmtplib.SMTPResponse:
        """Say a line; what the relay said before it was asked is no answer to it, as the library would take it."""
        if self.protocol is not None and self.protocol._buffer:  # noqa: SLF001 - there is no other way to know
            raise aiosmtplib.SMTPException("the relay spoke before it was asked")
        return await super().execute_command(*args, **more)


@dataclass(slots=True)
class _Opening:
    """One opening under way; `phase` says what an exception was raised in. `in_clear`: may one sign in without TLS?"""

    client: _Client
    relay: Relay
    watch: Watch
    in_clear: bool
    phase: Phase = field(default=Phase.GREETING)
    certificate: bytes | None = None

    async def run(self) -> Fault | None:
        try:
            return await self._steps()
        except SaslError as error:
            return Fault(Phase.AUTH, Trouble.AUTH_CONFIG, str(error))
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            return fault_of(error, self.phase)

    async def _steps(self) -> Fault | None:
        client, relay = self.client, self.relay
        if relay.security is Security.IMPLICIT_TLS:
            client.connection_made = self._secured  # type: ignore[method-assign]
        await client.connect()
        if (fault := await self._hello()) is not None:
            return fault
        self.watch(Phase.GREETING, _offers(client))
        if relay.security is Security.STARTTLS:
            self.phase = Phase.TLS
            if not client.supports_extension("starttls"):
                return Fault(Phase.TLS, Trouble.TLS_REQUIRED, "the relay does not offer STARTTLS")
            await client.starttls()
            self._secured()
            if (fault := await self._hello()) is not None:
                return fault
        self.phase = Phase.AUTH
        if relay.login is not None:
            return await self._sign_in(relay.login)
        self.watch(Phase.AUTH, "nobody signs in")
        return None

    def _secured(self) -> None:
        """TLS stands: keep the relay's certificate, and tell what was agreed on."""
        tls = cast("ssl.SSLObject", self.client.get_transport_info("ssl_object"))
        self.certificate = tls.getpeercert(binary_form=True)
        cipher = tls.cipher()
        agreed = f"{tls.version()}, {cipher[0] if cipher else 'no cipher'}"
        if self.certificate is not None and (ends := certificate.ends(self.certificate)) is not None:
            agreed += f", certificate valid until {ends:%Y-%m-%d}"
        self.watch(Phase.TLS, agreed if self.relay.tls.verify else f"{agreed}, NOT VERIFIED")

    async def _hello(self) -> Fault | None:
        """Say EHLO; to a relay that knows only HELO say that, if neither TLS nor AUTH is needed."""
        try:
            await self.client.ehlo()
        except aiosmtplib.SMTPHeloError as error:
            if error.code < 500:
                raise
            if self.relay.security is not Security.NONE or self.relay.login is not None:
                said = reply(error.code, error.message)
                return Fault(Phase.GREETING, Trouble.EHLO_REFUSED, f"EHLO refused: {said}", said)
            await self.client.helo()
        return None

    async def _sign_in(self, login: Login) -> Fault | None:
        tls = self.relay.tls
        if self.relay.security is Security.NONE and not self.in_clear:
            return Fault(Phase.AUTH, Trouble.TLS_REQUIRED, "the operator lets no password go to this host without TLS")
        if self.relay.security is not Security.NONE and not (tls.verify or tls.allow_auth_unverified):
            return Fault(
                Phase.AUTH, Trouble.TLS_UNVERIFIED, "no password is sent to a relay whose certificate is not checked"
            )
        offered = self.client.server_auth_methods
        method = choose(login, offered, protected=self.relay.protected)
        if method is None:
            known = ", ".join(sorted({name.upper() for name in offered} & KNOWN)) or "none"
            detail = (
                f"the relay does not offer a way to sign in that is configured; of those we know it offers: {known}"
            )
            return Fault(Phase.AUTH, Trouble.AUTH_UNAVAILABLE, detail)
        answer = await sign_in(self.client, method, login)
        if answer.code != ACCEPTED:
            raise aiosmtplib.SMTPAuthenticationError(answer.code, answer.message)
        self.watch(Phase.AUTH, f"signed in by {method.upper()}")
        return None


KNOWN: Final = frozenset(method.upper() for method in Method) - {"AUTO", "NONE"}


def _offers(client: aiosmtplib.SMTP) -> str:
    offered = sorted(name.upper() for name in client.esmtp_extensions if name.isascii() and name.isalnum())
    return "offers " + ", ".join(offered[:20]) if offered else "offers no extensions"


def _capabilities(client: aiosmtplib.SMTP) -> Capabilities:
    size = client.esmtp_extensions.get("size")
    return Capabilities(
        pipelining=client.supports_extension("pipelining"),
        smtputf8=client.supports_extension("smtputf8"),
        eightbitmime=client.supports_extension("8bitmime"),
        dsn=client.supports_extension("dsn"),
        starttls=client.supports_extension("starttls"),
        size=None if size is None else (int(size) if SIZE.fullmatch(size) else 0),
    )


def fault_of(error: BaseException, phase: Phase) -> Fault:
    """Say what an exception of the library or the system means. No relay text of the AUTH phase is quoted."""
    tls = _tls_fault(error)
    if tls is not None:
        return tls
    if isinstance(error, aiosmtplib.SMTPResponseException) and 200 <= error.code < 600:
        return _answer_fault(reply(error.code, error.message), phase)
    if isinstance(error, TimeoutError):  # first: aiosmtplib's is a ConnectionError too
        return _broken(phase, "the relay did not answer in time")
    if isinstance(error, aiosmtplib.SMTPServerDisconnected | aiosmtplib.SMTPConnectError | ConnectionError):
        return _broken(phase, "the relay closed the connection")
    if isinstance(error, OSError):
        return _broken(phase, "the connection failed")
    return Fault(phase, Trouble.PROTOCOL, "the relay does not speak SMTP as we know it")


def _broken(phase: Phase, detail: str) -> Fault:
    match phase:
        case Phase.AUTH:
            return Fault(phase, Trouble.AUTH_DROPPED, detail)
        case Phase.TLS:
            return Fault(phase, Trouble.TLS_FAILED, detail)
        case _:
            return Fault(phase, Trouble.UNREACHABLE, detail)


def _tls_fault(error: BaseException) -> Fault | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Fault(Phase.TLS, Trouble.TLS_UNVERIFIED, f"certificate not accepted: {cause.verify_message}")
    if isinstance(cause, ssl.SSLError):
        return Fault(Phase.TLS, Trouble.TLS_FAILED, f"TLS handshake failed: {cause.reason or 'connection closed'}")
    return None


def _answer_fault(said: Reply, phase: Phase) -> Fault:
    match phase:
        case Phase.GREETING:
            trouble = Trouble.GREETING_DEFERRED if said.transient else Trouble.GREETING_REFUSED
            if said.transient and _CROWDED.search(said.text):
                trouble = Trouble.CROWDED
            if said.code < 400:
                trouble = Trouble.PROTOCOL
            return Fault(phase, trouble, f"greeting: {said}", said)
        case Phase.TLS:
            trouble = Trouble.TLS_DEFERRED if said.transient else Trouble.TLS_REQUIRED
            return Fault(phase, trouble, f"STARTTLS: {said}", said)
        case _:
            return _auth_fault(said)


def _auth_fault(said: Reply) -> Fault:
    """A refused sign-in in our own words: a relay may repeat in its text what it was told."""
    trouble, words, text = _auth_trouble(said.code), "sign-in refused", said.text.lower()
    match said.enhanced:
        case "5.7.30":
            trouble, words = Trouble.AUTH_DISABLED, "the relay takes no passwords any more; Microsoft 365 wants OAuth"
        case "5.7.139" if "smtpclientauthentication is disabled" in text:
            trouble, words = Trouble.AUTH_DISABLED, "SMTP AUTH is switched off for the mailbox or its organisation"
        case "5.7.139" if "basic authentication is disabled" in text:
            trouble, words = Trouble.AUTH_DISABLED, "signing in with a password is switched off for the organisation"
        case "5.7.139":
            words = "sign-in refused, by the password or by a rule of the organisation"
        case "4.3.2":
            trouble, words = Trouble.CROWDED, "the account has too many connections"
        case "5.7.3":
            words = "sign-in refused: user, password or token, or what the token may do"
        case _:
            pass
    bare = Reply(said.code, said.enhanced, "")
    return Fault(Phase.AUTH, trouble, f"{words}: {bare}", bare)


def _auth_trouble(code: int) -> Trouble:
    match code:
        case 535:
            return Trouble.AUTH_FAILED
        case 432:
            return Trouble.AUTH_TRANSITION
        case 538 | 530:
            return Trouble.TLS_REQUIRED
        case _ if 400 <= code < 500:
            return Trouble.AUTH_DEFERRED
        case _:
            return Trouble.AUTH_CONFIG
