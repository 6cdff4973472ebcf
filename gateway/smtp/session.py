"""An open, secured, authenticated session with a relay: greeting, EHLO, STARTTLS, AUTH (RFC 5321, 3207, 4954).

aiosmtplib opens the session, one step at a time; then the wire engine takes the transport over. Every exception the
library can raise becomes a `Fault` here and nowhere else.

Security is a stated policy: with `starttls` a relay that does not offer it is a fault, never a reason to go on in
clear. A password goes over an unverified or missing TLS only where the profile says so. Exactly one mechanism is
tried per login, because each rejection counts towards the account's lock-out.
"""

import asyncio
import ssl
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never, cast

import aiosmtplib

from gateway.credentials.secret import Secret
from gateway.observe.failpoint import failpoint
from gateway.smtp.dial import Dialer
from gateway.smtp.outcome import Fault, Phase, Trouble
from gateway.smtp.reply import Reply, reply
from gateway.smtp.transaction import Capabilities, Engine, Timeouts

MECHANISMS: Final = ("PLAIN", "LOGIN")  # in order of preference for `auto`


class Security(StrEnum):
    """How the connection is protected: a policy, with no fallback."""

    STARTTLS = "starttls"
    IMPLICIT_TLS = "implicit_tls"
    NONE = "none"


class Method(StrEnum):
    """How to sign in."""

    AUTO = "auto"
    NONE = "none"
    PLAIN = "plain"
    LOGIN = "login"


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What is asked of the relay's certificate and protocol."""

    verify: bool = True
    allow_auth_unverified: bool = False
    ca_certificates: str | None = None
    min_version: str = "1.2"


@dataclass(frozen=True, slots=True)
class Login:
    """Who signs in, and with what."""

    method: Method
    username: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Relay:
    """Where to, how protected, and as whom: all that decides what a session is."""

    host: str
    port: int
    security: Security
    tls: TlsPolicy = TlsPolicy()
    login: Login | None = None


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens sessions: the dialer, the name we give in EHLO, and how long we wait."""

    dialer: Dialer
    ehlo_name: str
    timeouts: Timeouts = Timeouts()

    async def open(self, relay: Relay) -> Engine | Fault:
        """Open a session ready for MAIL, or say what stood in the way."""
        try:
            context = None if relay.security is Security.NONE else tls_context(relay.tls)
        except (ssl.SSLError, TypeError, ValueError):
            return Fault(Phase.TLS, Trouble.TLS_UNVERIFIED, "the profile's CA certificates cannot be read")
        sock = await self.dialer.dial(relay.host, relay.port)
        if isinstance(sock, Fault):
            return sock
        failpoint("smtp.connected")
        client = aiosmtplib.SMTP(
            hostname=relay.host,
            sock=sock,
            use_tls=relay.security is Security.IMPLICIT_TLS,
            start_tls=False,
            tls_context=context,
            local_hostname=self.ehlo_name,
            timeout=self.timeouts.command,
        )
        try:
            fault = await _Opening(client, relay).run()
        except BaseException:
            client.close()
            sock.close()
            raise
        if fault is not None:
            client.close()
            return fault
        if client.transport is None:
            return Fault(Phase.AUTH, Trouble.UNREACHABLE, "the relay closed the connection")
        return Engine(cast("asyncio.Transport", client.transport), _capabilities(client), self.timeouts)


@dataclass(slots=True)
class _Opening:
    """One opening under way; `phase` says what an exception was raised in."""

    client: aiosmtplib.SMTP
    relay: Relay
    phase: Phase = Phase.GREETING

    async def run(self) -> Fault | None:
        try:
            return await self._steps()
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            return fault_of(error, self.phase)

    async def _steps(self) -> Fault | None:
        client, relay = self.client, self.relay
        await client.connect()
        if (fault := await self._hello()) is not None:
            return fault
        if relay.security is Security.STARTTLS:
            self.phase = Phase.TLS
            if not client.supports_extension("starttls"):
                return Fault(Phase.TLS, Trouble.TLS_REQUIRED, "the relay does not offer STARTTLS")
            await client.starttls()
            if (fault := await self._hello()) is not None:
                return fault
        self.phase = Phase.AUTH
        return None if relay.login is None else await self._sign_in(relay.login)

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
        if self.relay.security is not Security.NONE and not (tls.verify or tls.allow_auth_unverified):
            return Fault(
                Phase.AUTH, Trouble.TLS_UNVERIFIED, "no password is sent to a relay whose certificate is not checked"
            )
        mechanism = _choose(login.method, self.client.server_auth_methods)
        if mechanism is None:
            return Fault(
                Phase.AUTH, Trouble.AUTH_UNAVAILABLE, "the relay does not offer a way to sign in that is configured"
            )
        match mechanism:
            case "PLAIN":
                await self.client.auth_plain(login.username, login.password.reveal())
            case _:
                await self.client.auth_login(login.username, login.password.reveal())
        return None


def _choose(method: Method, offered: list[str]) -> str | None:
    """Pick exactly one mechanism of those the relay offers."""
    names = {name.upper() for name in offered}
    match method:
        case Method.AUTO:
            return next((mechanism for mechanism in MECHANISMS if mechanism in names), None)
        case Method.PLAIN | Method.LOGIN:
            return method.upper() if method.upper() in names else None
        case Method.NONE:
            return None
        case _:
            assert_never(method)


def tls_context(policy: TlsPolicy) -> ssl.SSLContext:
    """Make the TLS settings of a profile; without `verify` neither chain nor name is checked."""
    context = ssl.create_default_context(cadata=policy.ca_certificates)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if policy.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    if not policy.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _capabilities(client: aiosmtplib.SMTP) -> Capabilities:
    size = client.esmtp_extensions.get("size")
    return Capabilities(
        pipelining=client.supports_extension("pipelining"),
        smtputf8=client.supports_extension("smtputf8"),
        eightbitmime=client.supports_extension("8bitmime"),
        size=None if size is None else (int(size) if size.isdigit() else 0),
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
            if said.code < 400:
                trouble = Trouble.PROTOCOL
            return Fault(phase, trouble, f"greeting: {said}", said)
        case Phase.TLS:
            trouble = Trouble.TLS_DEFERRED if said.transient else Trouble.TLS_REQUIRED
            return Fault(phase, trouble, f"STARTTLS: {said}", said)
        case _:
            bare = Reply(said.code, said.enhanced, "")
            return Fault(phase, _auth_trouble(said.code), f"sign-in refused: {bare}", bare)


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
