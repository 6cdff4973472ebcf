"""Opening a session: TLS as the profile says, one login, and every fault in its place."""

from __future__ import annotations

import base64
import datetime as dt
import inspect
import ssl

import aiosmtplib.errors
import pytest
import trustme

from gateway.smtp.outcome import Fault, Phase, Relayed, Trouble
from gateway.smtp.session import Method, Security, fault_of
from gateway.smtp.tls import TlsPolicy, tls_context
from gateway.smtp.transaction import Engine
from tests.peers.smtp_server import (
    Action,
    Close,
    Features,
    IssuedTls,
    Raw,
    Reply,
    Reset,
    ScriptedRelay,
    Silence,
    issue_tls,
)
from tests.smtp.talking import HASTY, fault, letter, opener, relay_at

USERS = {"app": "right"}
CANARY = "canary-Zq7-never-shown"
TLS = pytest.mark.parametrize("security", [Security.STARTTLS, Security.IMPLICIT_TLS])


@pytest.fixture(scope="module")
def tls() -> IssuedTls:
    """One certificate for the module."""
    return issue_tls()


def expired() -> IssuedTls:
    """A certificate whose time was over yesterday."""
    authority = trustme.CA()
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    cert = authority.issue_cert("127.0.0.1", not_before=yesterday - dt.timedelta(days=9), not_after=yesterday)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(context)
    return IssuedTls(context, authority.cert_pem.bytes().decode(), "", "")


async def opened(relay: ScriptedRelay, security: Security, **more: object) -> Engine:
    """A session that could be had."""
    engine = await opener().open(relay_at(relay.port, security, **more))  # type: ignore[arg-type]
    assert isinstance(engine, Engine), engine
    return engine


# TLS.


@TLS
async def test_over_tls(security: Security, tls: IssuedTls) -> None:
    """Password and message travel encrypted; in clear there is nothing but EHLO and STARTTLS."""
    implicit = security is Security.IMPLICIT_TLS
    async with ScriptedRelay(tls=tls.context, implicit_tls=implicit, users=USERS, require_auth=True) as relay:
        engine = await opened(relay, security, ca=tls.ca_pem, password="right")
        transaction = await engine.transact(letter(1, body=b"x" * 70 + b"\r\n"))
        await engine.quit()

        assert isinstance(transaction.outcomes[0], Relayed)
        assert relay.messages[0].tls
        assert relay.messages[0].username == "app"
        in_clear = [] if implicit else ["EHLO client.example.test", "STARTTLS"]
        assert relay.sessions[0].in_clear == in_clear
        assert relay.violations == []


@TLS
async def test_a_long_body_over_tls(security: Security, tls: IssuedTls) -> None:
    """Megabytes go through the record layer whole, one message behind the other."""
    implicit = security is Security.IMPLICIT_TLS
    body = b"".join(b"%06d %s\r\n" % (n, b"y" * 60) for n in range(50_000))
    async with ScriptedRelay(tls=tls.context, implicit_tls=implicit) as relay:
        engine = await opened(relay, security, ca=tls.ca_pem)
        first, second = letter(1, body=body), letter(2, body=body)
        await engine.transact(first, follow=lambda: second)
        await engine.transact(second)
        await engine.quit()

        assert [caught.data for caught in relay.messages] == [first.message, second.message]
        assert relay.violations == []


async def test_without_tls() -> None:
    """`none` means none: STARTTLS is not used though it is offered."""
    async with ScriptedRelay(tls=issue_tls().context) as relay:
        engine = await opened(relay, Security.NONE)
        engine.abort()

        assert relay.sessions[0].verbs == ["EHLO"]


@TLS
@pytest.mark.parametrize(
    ("case", "says"), [("untrusted", "self-signed"), ("wrong name", "mismatch"), ("expired", "expired")]
)
async def test_a_certificate_that_is_not_accepted(case: str, says: str, security: Security) -> None:
    """Untrusted, for another name, or expired: a fault that says which, and not a word after the handshake."""
    shown = expired() if case == "expired" else issue_tls("other.example.test") if case == "wrong name" else issue_tls()
    trusted = issue_tls().ca_pem if case == "untrusted" else shown.ca_pem
    async with ScriptedRelay(tls=shown.context, implicit_tls=security is Security.IMPLICIT_TLS, users=USERS) as relay:
        told = await fault(relay_at(relay.port, security, ca=trusted, password="right"))
        await relay.wait(lambda: relay.sessions[0].closed)

        assert (told.phase, told.trouble) == (Phase.TLS, Trouble.TLS_UNVERIFIED)
        assert says in told.detail or case == "untrusted"
        assert relay.sessions[0].logins == []
        assert "AUTH" not in relay.sessions[0].verbs


@TLS
async def test_an_unverified_certificate_is_taken_where_the_profile_says_so(security: Security) -> None:
    """Without `verify` mail goes to a relay whose certificate nobody vouches for."""
    async with ScriptedRelay(tls=issue_tls("x").context, implicit_tls=security is Security.IMPLICIT_TLS) as relay:
        engine = await opened(relay, security, tls=TlsPolicy(verify=False))
        engine.abort()

        assert relay.sessions[0].tls


@TLS
@pytest.mark.parametrize("allowed", [True, False])
async def test_a_password_over_unverified_tls_needs_a_second_switch(allowed: bool, security: Security) -> None:
    """A man in the middle with a certificate of his own gets no password, unless the profile allows even that."""
    policy = TlsPolicy(verify=False, allow_auth_unverified=allowed)
    async with ScriptedRelay(
        tls=issue_tls("x").context, implicit_tls=security is Security.IMPLICIT_TLS, users=USERS
    ) as relay:
        came = await opener().open(relay_at(relay.port, security, tls=policy, password="right"))

        if isinstance(came, Engine):
            came.abort()
        assert isinstance(came, Engine) is allowed
        assert len(relay.sessions[0].logins) == allowed
        assert isinstance(came, Engine) or came.trouble is Trouble.TLS_UNVERIFIED


async def test_starttls_is_not_offered(tls: IssuedTls) -> None:
    """Stripped or missing, the end is the same: a fault, and neither AUTH nor MAIL on the wire."""
    async with ScriptedRelay(users=USERS) as relay:
        told = await fault(relay_at(relay.port, Security.STARTTLS, ca=tls.ca_pem, password="right"))
        await relay.wait(lambda: relay.sessions[0].closed)

        assert (told.phase, told.trouble) == (Phase.TLS, Trouble.TLS_REQUIRED)
        assert relay.sessions[0].verbs == ["EHLO"]
        assert relay.sessions[0].logins == []


@pytest.mark.parametrize("code", [454, 500, 501, 554])
async def test_starttls_is_refused(code: int, tls: IssuedTls) -> None:
    """454 passes, the rest is for a person; nobody goes on in clear."""
    async with ScriptedRelay({"starttls": Reply(f"{code} 4.7.0 no")}, tls=tls.context, users=USERS) as relay:
        told = await fault(relay_at(relay.port, Security.STARTTLS, ca=tls.ca_pem, password="right"))

        assert told.trouble is (Trouble.TLS_DEFERRED if code == 454 else Trouble.TLS_REQUIRED)
        assert relay.sessions[0].verbs == ["EHLO", "STARTTLS"]


async def test_what_was_injected_before_the_handshake_is_not_believed(tls: IssuedTls) -> None:
    """Replies in the segment of the 220, in clear, are no answer to what is asked over TLS afterwards."""
    forged = b"250-evil.test\r\n250-PIPELINING\r\n250-SIZE 7\r\n250 AUTH PLAIN\r\n"
    async with ScriptedRelay(
        {"starttls": Reply("220 go", forged)},
        tls=tls.context,
        features=Features(pipelining=False, auth=("LOGIN",)),
        users=USERS,
    ) as relay:
        engine = await opened(relay, Security.STARTTLS, ca=tls.ca_pem, password="right")
        transaction = await engine.transact(letter(1))
        engine.abort()

        assert isinstance(transaction.outcomes[0], Relayed)
        assert not engine.capabilities.pipelining
        assert engine.capabilities.size != 7
        assert [login.mechanism for login in relay.sessions[0].logins] == ["LOGIN"]
        assert relay.sessions[0].verbs[:3] == ["EHLO", "STARTTLS", "EHLO"]


async def test_ehlo_is_refused_over_tls(tls: IssuedTls) -> None:
    """A relay that knows EHLO only in clear has no session for us, and that is not called a missing STARTTLS."""
    async with ScriptedRelay(tls=tls.context) as relay:
        relay.on("ehlo", Reply("502 5.5.1 what?"), nth=2)
        told = await fault(relay_at(relay.port, Security.STARTTLS, ca=tls.ca_pem))

        assert told.trouble is Trouble.EHLO_REFUSED
        assert relay.sessions[0].verbs == ["EHLO", "STARTTLS", "EHLO"]


@pytest.mark.parametrize(
    "action", [Close(), Reset(), Raw(b"nonsense\r\n"), Silence()], ids=["fin", "rst", "raw", "silence"]
)
@TLS
async def test_the_handshake_breaks(security: Security, action: Action, tls: IssuedTls) -> None:
    """However it breaks, it is a fault of the profile's relay and no password was sent."""
    async with ScriptedRelay(
        {"handshake": action}, tls=tls.context, implicit_tls=security is Security.IMPLICIT_TLS, users=USERS
    ) as relay:
        told = await fault(relay_at(relay.port, security, ca=tls.ca_pem, password="right"), HASTY)

        assert told.trouble in (Trouble.TLS_FAILED, Trouble.UNREACHABLE)
        assert relay.sessions[0].logins == []


async def test_certificates_that_cannot_be_read_are_a_fault() -> None:
    """A profile with nonsense for `ca_certificates` ends in a fault before anything is dialled."""
    async with ScriptedRelay() as relay:
        for nonsense in ("nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "ü"):
            told = await fault(relay_at(relay.port, Security.STARTTLS, ca=nonsense))
            assert told.trouble is Trouble.TLS_UNVERIFIED

        assert relay.sessions == []


@pytest.mark.parametrize("policy", [TlsPolicy(), TlsPolicy(verify=False), TlsPolicy(min_version="1.3")])
def test_no_relay_chooses_the_prime(policy: TlsPolicy) -> None:
    """Keys are agreed on by elliptic curves: with DHE the relay would say how long the handshake takes us."""
    ciphers = tls_context(policy).get_ciphers()

    assert {cipher["protocol"] for cipher in ciphers} == {"TLSv1.2", "TLSv1.3"}
    assert {cipher["kea"] for cipher in ciphers} == {"kx-ecdhe", "kx-any"}  # any: TLS 1.3 says it elsewhere


# Signing in.


@pytest.mark.parametrize(
    ("method", "offered", "used"),
    [
        (Method.AUTO, ("PLAIN", "LOGIN"), "PLAIN"),
        (Method.AUTO, ("LOGIN", "PLAIN"), "PLAIN"),
        (Method.AUTO, ("GSSAPI", "LOGIN"), "LOGIN"),
        (Method.PLAIN, ("LOGIN", "PLAIN"), "PLAIN"),
        (Method.LOGIN, ("PLAIN", "LOGIN"), "LOGIN"),
    ],
)
async def test_the_mechanism(method: Method, offered: tuple[str, ...], used: str) -> None:
    """One of those offered: what the profile says, or PLAIN before LOGIN; user name and password arrive as they are."""
    users = {"jörg:ß": "pä ss\twörd\0".replace("\0", "!")}
    ((username, password),) = users.items()
    async with ScriptedRelay(features=Features(auth=offered), users=users) as relay:
        engine = await opened(relay, Security.NONE, method=method, username=username, password=password)
        engine.abort()

        (login,) = relay.sessions[0].logins
        assert (login.mechanism, login.username, login.password, login.accepted) == (used, username, password, True)


@pytest.mark.parametrize(
    ("method", "offered"),
    [(Method.AUTO, ("GSSAPI", "XOAUTH2")), (Method.PLAIN, ("LOGIN",)), (Method.LOGIN, ("PLAIN",)), (Method.AUTO, ())],
)
async def test_no_mechanism_in_common(method: Method, offered: tuple[str, ...]) -> None:
    """What is not offered is not tried."""
    async with ScriptedRelay(features=Features(auth=offered), users=USERS) as relay:
        told = await fault(relay_at(relay.port, method=method, password="right"))

        assert (told.phase, told.trouble) == (Phase.AUTH, Trouble.AUTH_UNAVAILABLE)
        assert relay.sessions[0].verbs == ["EHLO"]


@pytest.mark.parametrize("code", [421, 432, 454, 500, 504, 530, 534, 535, 538, 550])
async def test_one_login_and_no_second(code: int) -> None:
    """Whatever the relay says to it, one opening costs one attempt: each counts towards the account's lock-out."""
    async with ScriptedRelay({"auth": Reply(f"{code} no")}, users=USERS) as relay:
        await fault(relay_at(relay.port, password="wrong"))
        await relay.wait(lambda: relay.sessions[0].closed)

        assert len(relay.sessions) == 1
        assert len(relay.sessions[0].logins) == 1
        assert relay.sessions[0].verbs == ["EHLO", "AUTH"]


@pytest.mark.parametrize("method", [Method.PLAIN, Method.LOGIN])
@pytest.mark.parametrize("code", [334, 421, 432, 454, 501, 534, 535, 550])
async def test_what_the_relay_says_about_a_login_is_quoted_nowhere(code: int, method: Method) -> None:
    """A relay may echo the credential; the fault holds the code, never the text."""
    echo = base64.b64encode(f"\0app\0{CANARY}".encode()).decode()
    async with ScriptedRelay(
        {"auth": Reply(f"{code}-5.7.8 {CANARY}\n{code} 5.7.8 {echo}")}, users={"app": CANARY}
    ) as relay:
        told = await fault(relay_at(relay.port, method=method, password=CANARY))

        assert relay.sessions[0].logins[0].password == CANARY
        assert CANARY not in repr(told)
        assert echo not in repr(told)


async def test_garbage_about_a_login_is_quoted_nowhere() -> None:
    """Not even where it is no reply at all."""
    async with ScriptedRelay({"auth": Raw(f"{CANARY} {CANARY}\r\n".encode())}, users={"app": CANARY}) as relay:
        told = await fault(relay_at(relay.port, password=CANARY))

        assert told.trouble is Trouble.PROTOCOL
        assert CANARY not in repr(told)


# Greeting and EHLO.


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        (421, Trouble.GREETING_DEFERRED), (450, Trouble.GREETING_DEFERRED), (521, Trouble.GREETING_REFUSED),
        (554, Trouble.GREETING_REFUSED), (250, Trouble.PROTOCOL), (354, Trouble.PROTOCOL),
    ],
)  # fmt: skip
async def test_greetings(code: int, trouble: Trouble) -> None:
    """4yz passes, 5yz is a refusal, and nothing but 220 is a greeting."""
    async with ScriptedRelay({"connect": Reply(f"{code} hello")}) as relay:
        told = await fault(relay)

        assert (told.phase, told.trouble) == (Phase.GREETING, trouble)
        assert relay.sessions[0].verbs == []


@pytest.mark.parametrize("code", [500, 502, 504, 550])
@pytest.mark.parametrize("needs", ["nothing", "login", "tls"])
async def test_ehlo_is_refused(code: int, needs: str, tls: IssuedTls) -> None:
    """HELO is said only where neither TLS nor a login is asked for."""
    async with ScriptedRelay({"ehlo": Reply(f"{code} 5.5.1 what?")}, tls=tls.context, users=USERS) as relay:
        came = await opener().open(
            relay_at(
                relay.port,
                Security.STARTTLS if needs == "tls" else Security.NONE,
                password="right" if needs == "login" else None,
            )
        )

        if isinstance(came, Engine):
            came.abort()
        assert isinstance(came, Engine) is (needs == "nothing")
        assert relay.sessions[0].verbs == ["EHLO", "HELO"][: 2 if needs == "nothing" else 1]
        assert isinstance(came, Engine) or came.trouble is Trouble.EHLO_REFUSED


@pytest.mark.parametrize("step", ["connect", "ehlo"])
async def test_silence(step: str) -> None:
    """A relay that says nothing is unreachable, and the fault says why."""
    async with ScriptedRelay({step: Silence()}) as relay:
        told = await fault(relay, HASTY)

        assert (told.trouble, told.detail) == (Trouble.UNREACHABLE, "the relay did not answer in time")
        await relay.wait(lambda: relay.sessions[0].closed)


# Exceptions.


def _instance(kind: type[BaseException]) -> BaseException:
    """One of this kind, with arguments such as the library gives."""
    if issubclass(kind, aiosmtplib.errors.SMTPResponseException):
        more = ("someone@example.test",) if len(inspect.signature(kind).parameters) == 3 else ()
        return kind(535, "5.7.8 said", *more)
    if kind is aiosmtplib.errors.SMTPRecipientsRefused:
        return kind([])
    return kind("a message")


KINDS = sorted(
    (
        kind
        for _, kind in inspect.getmembers(aiosmtplib.errors, inspect.isclass)
        if issubclass(kind, BaseException) and kind.__module__ == "aiosmtplib.errors"
    ),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("phase", [Phase.GREETING, Phase.TLS, Phase.AUTH])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_exception_of_the_library_is_a_fault(kind: type[BaseException], phase: Phase) -> None:
    """By its kind: an answer by its code, a broken link, a time-out; what has no place is `protocol`."""
    told = fault_of(_instance(kind), phase)

    answers = {
        Phase.GREETING: Trouble.GREETING_REFUSED,
        Phase.TLS: Trouble.TLS_REQUIRED,
        Phase.AUTH: Trouble.AUTH_FAILED,
    }
    broken = {Phase.GREETING: Trouble.UNREACHABLE, Phase.TLS: Trouble.TLS_FAILED, Phase.AUTH: Trouble.AUTH_DROPPED}
    unspecific = ("SMTPException", "SMTPNotSupported", "SMTPRecipientsRefused")
    if issubclass(kind, aiosmtplib.errors.SMTPResponseException):
        assert told.trouble is answers[phase]
    elif issubclass(kind, OSError):
        assert told.trouble is broken[phase]
        assert ("in time" in told.detail) is issubclass(kind, TimeoutError)
    else:
        assert kind.__name__ in unspecific, "a new exception of the library: say what it means"
        assert told == Fault(phase, Trouble.PROTOCOL, "the relay does not speak SMTP as we know it")


def test_the_library_has_the_exceptions_that_we_know() -> None:
    """The walk above found them."""
    assert len(KINDS) >= 15
