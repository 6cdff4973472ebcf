"""Somebody on the path, or the relay itself, tries to get a password in clear or to be believed without TLS.

The attacks of "Why TLS is better without STARTTLS" (USENIX Security 2021) that concern a client that submits mail, and
RFC 3207 §5: each is played over a real connection against the real `Opener`, and everything the peer heard is searched
for the password in every form in which a mechanism would have sent it.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import ssl
import warnings
from dataclasses import dataclass

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.smtp.outcome import Fault, Phase, Relayed, Trouble
from gateway.smtp.session import Method, Security
from gateway.smtp.tls import TlsPolicy
from gateway.smtp.transaction import Capabilities, Engine
from tests.peers.listening_sink import Hear, Heard, HearHello, Leave, ListeningSink, Move, Pass, Say, Shake
from tests.peers.smtp_server import Features, IssuedTls, ScriptedRelay, issue_tls
from tests.smtp.talking import HASTY, PATIENT, letter, opener, relay_at

USER, PASSWORD = "app-user@tenant.test", "canary-Zq7/never+in=clear"
METHODS = [Method.AUTO, Method.PLAIN, Method.LOGIN, Method.CRAM_MD5, Method.SCRAM_SHA_256, Method.XOAUTH2]
EVERY = "AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2 OAUTHBEARER NTLM EXTERNAL"
GREETING = Say(b"220 relay.test ESMTP\r\n")
SIGNED_IN = b"235 2.7.0 Authentication successful\r\n"


def offers(*keywords: str) -> bytes:
    """An EHLO answer."""
    lines = ["relay.test", *keywords]
    return "".join(f"250{' ' if n == len(lines) else '-'}{line}\r\n" for n, line in enumerate(lines, 1)).encode()


WITH_TLS, WITHOUT_TLS = offers("STARTTLS", EVERY, "PIPELINING"), offers(EVERY, "PIPELINING", "SIZE 1000000")


# Certificates.


@pytest.fixture(scope="module")
def tls() -> IssuedTls:
    """The certificate of the true relay, by the authority that the profile trusts."""
    return issue_tls()


def lasting(first: dt.timedelta, last: dt.timedelta, authority: trustme.CA) -> ssl.SSLContext:
    """A certificate for 127.0.0.1 with this life, counted from now."""
    now = dt.datetime.now(dt.UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_before=now + first, not_after=now + last).configure_cert(context)
    return context


def self_signed(version: int | None = None) -> IssuedTls:
    """A certificate for 127.0.0.1 that vouches for itself; with `version`, one of a version that does not exist."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    if version is not None:
        der = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes([version - 1]), 1)
    chain = ssl.DER_cert_to_PEM_cert(der)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return IssuedTls(loaded(chain, private), chain, chain, private)


def loaded(chain: str, private: str) -> ssl.SSLContext:
    """A server's context; the library takes nothing but paths."""
    import tempfile

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(chain + private)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def outdated(version: ssl.TLSVersion) -> IssuedTls:
    """A server that speaks nothing newer than this."""
    issued = issue_tls()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        issued.context.minimum_version = version
        issued.context.maximum_version = version
    issued.context.set_ciphers("ALL:@SECLEVEL=0")
    return issued


# What must not be heard.


def traces(username: str, password: str) -> list[bytes]:
    """The password in every form that a mechanism gives it, cut to what does not depend on its neighbours."""
    plain = f"\0{username}\0{password}"
    bearer = f"user={username}\x01auth=Bearer {password}\x01\x01"
    whole = [password, username, plain, bearer]
    found = [text.encode() for text in whole] + [base64.b64encode(text.encode()) for text in whole]
    for shift in range(3):  # base64 of whatever stands before it
        encoded = base64.b64encode(b"\0" * shift + password.encode())
        found.append(encoded[4 if shift else 0 : -4])
    return found


def test_the_traces_are_those_of_the_mechanisms() -> None:
    """The search finds what PLAIN, LOGIN and XOAUTH2 would send."""
    sent = [
        base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()),
        base64.b64encode(PASSWORD.encode()),
        base64.b64encode(f"user={USER}\x01auth=Bearer {PASSWORD}\x01\x01".encode()),
        base64.b64encode(f"n,a={USER},\x01auth=Bearer {PASSWORD}\x01\x01".encode()),
    ]
    for line in sent:
        assert any(trace in line for trace in traces(USER, PASSWORD))


def nothing_leaked(heard: Heard) -> None:
    """Neither the password nor a sign-in nor mail: EHLO, STARTTLS and QUIT are all that was said."""
    for trace in traces(USER, PASSWORD):
        assert not heard.anywhere(trace)
    lines = [*bytes(heard.in_clear).partition(b"\x16\x03")[0].splitlines(), *bytes(heard.under_tls).splitlines()]
    said = {line.split(b" ")[0].upper() for line in lines}
    assert said <= {b"EHLO", b"HELO", b"STARTTLS", b"QUIT"}


async def told(
    sink: ListeningSink, security: Security, method: Method, ca: str | None, *, hasty: bool = False
) -> Fault:
    """The fault that an attack ends in, after the session was dropped and nothing leaked."""
    relay = relay_at(sink.port, security, ca=ca, password=PASSWORD, username=USER, method=method)
    async with asyncio.timeout(20):
        came = await opener(HASTY if hasty else PATIENT).open(relay)
    if isinstance(came, Engine):
        came.abort()
    assert isinstance(came, Fault), came
    await sink.wait_closed()
    for heard in sink.heard:
        nothing_leaked(heard)
    assert not any(trace.decode() in repr(came) for trace in traces(USER, PASSWORD))
    return came


# STARTTLS, and nobody who shakes hands.


@dataclass(frozen=True)
class Attack:
    """What somebody on the path says, and the fault it ends in; a `silent` one is waited for in vain.

    Who speaks `early`, before being asked, may be hung up on for that alone.
    """

    id: str
    moves: tuple[Move, ...]
    phase: Phase
    trouble: Trouble
    silent: bool = False
    early: bool = False


def refused(code: int, trouble: Trouble) -> Attack:
    """STARTTLS is offered, and answered with this."""
    answer = Say(b"%d 2.0.0 no\r\n" % code)
    return Attack(f"answered-{code}", (GREETING, Hear(), Say(WITH_TLS), Hear(), answer), Phase.TLS, trouble)


TO_STARTTLS = (GREETING, Hear(), Say(WITH_TLS), Hear())
STRIPPED = [
    Attack("stripped", (GREETING, Hear(), Say(WITHOUT_TLS)), Phase.TLS, Trouble.TLS_REQUIRED),
    Attack(
        "overwritten", (GREETING, Hear(), Say(offers("XXXXXXXA", EVERY))), Phase.TLS, Trouble.TLS_REQUIRED
    ),
    Attack(
        "in-a-parameter", (GREETING, Hear(), Say(offers("X-HELP STARTTLS", EVERY))), Phase.TLS, Trouble.TLS_REQUIRED
    ),
    Attack(
        "in-the-greeting-line",
        (GREETING, Hear(), Say(b"250-STARTTLS\r\n250 AUTH PLAIN LOGIN\r\n")), Phase.TLS, Trouble.TLS_REQUIRED,
    ),
    Attack(
        "ehlo-unknown", (GREETING, Hear(), Say(b"502 5.5.1 what?\r\n"), Hear(), Say(b"250 hello\r\n")),
        Phase.GREETING, Trouble.EHLO_REFUSED,
    ),
    *[refused(code, Trouble.TLS_REQUIRED) for code in (235, 250, 334, 354, 500, 501, 502, 503, 535, 554)],
    *[refused(code, Trouble.TLS_DEFERRED) for code in (421, 451, 454)],
    Attack(
        "answer-in-clear-after-the-220", (*TO_STARTTLS, Say(b"220 go\r\n"), HearHello(), Say(WITHOUT_TLS)),
        Phase.TLS, Trouble.TLS_FAILED,
    ),
    Attack(
        "signed-in-in-clear-after-the-220", (*TO_STARTTLS, Say(b"220 go\r\n"), HearHello(), Say(SIGNED_IN)),
        Phase.TLS, Trouble.TLS_FAILED,
    ),
    Attack(
        "injected-into-the-handshake", (*TO_STARTTLS, Say(b"220 go\r\n"), Pass(), Say(WITHOUT_TLS), Say(SIGNED_IN)),
        Phase.TLS, Trouble.TLS_FAILED,
    ),
    Attack(
        "injected-behind-the-220", (*TO_STARTTLS, Say(b"220 go\r\n" + WITHOUT_TLS + SIGNED_IN)),
        Phase.TLS, Trouble.TLS_FAILED, silent=True,
    ),
    Attack(
        "half-a-line-behind-the-220", (*TO_STARTTLS, Say(b"220 go\r\n250-AUTH PLA"), HearHello(), Say(b"IN LOGIN\r\n")),
        Phase.TLS, Trouble.TLS_FAILED,
    ),
    Attack("nothing-after-the-220", (*TO_STARTTLS, Say(b"220 go\r\n")), Phase.TLS, Trouble.TLS_FAILED, silent=True),
    Attack("nothing-to-starttls", TO_STARTTLS, Phase.TLS, Trouble.TLS_FAILED, silent=True),
    Attack("closed-after-the-220", (*TO_STARTTLS, Say(b"220 go\r\n"), Leave()), Phase.TLS, Trouble.TLS_FAILED),
    Attack(
        "closed-at-the-hello", (*TO_STARTTLS, Say(b"220 go\r\n"), HearHello(), Leave()), Phase.TLS, Trouble.TLS_FAILED
    ),
    Attack("reset-at-starttls", (*TO_STARTTLS, Leave(reset=True)), Phase.TLS, Trouble.TLS_FAILED),
    Attack("reset-at-ehlo", (GREETING, Hear(), Leave(reset=True)), Phase.GREETING, Trouble.UNREACHABLE),
    Attack("closed-at-ehlo", (GREETING, Hear(), Leave()), Phase.GREETING, Trouble.UNREACHABLE),
    Attack("closed-at-once", (Leave(),), Phase.GREETING, Trouble.UNREACHABLE),
    Attack(
        "no-starttls-said-early", (Say(b"220 hi\r\n" + WITHOUT_TLS), Hear(), Say(WITHOUT_TLS)),
        Phase.TLS, Trouble.TLS_REQUIRED, early=True,
    ),
    Attack(
        "signed-in-said-early", (Say(b"220 hi\r\n" + SIGNED_IN), Hear(), Say(WITH_TLS)),
        Phase.GREETING, Trouble.PROTOCOL,
    ),
    Attack(
        "all-said-early", (Say(b"220 hi\r\n" + WITH_TLS + b"220 go\r\n" + WITHOUT_TLS + SIGNED_IN), Hear(), Say(WITH_TLS)),
        Phase.TLS, Trouble.TLS_FAILED, silent=True, early=True,
    ),
    Attack("a-greeting-that-is-an-answer", (Say(SIGNED_IN),), Phase.GREETING, Trouble.PROTOCOL),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attack", STRIPPED, ids=[one.id for one in STRIPPED])
async def test_nobody_goes_on_in_clear(attack: Attack, method: Method, tls: IssuedTls) -> None:
    """Stripped, refused, faked or broken off: a fault of its kind, no password, no AUTH, no mail, and we hang up."""
    async with ListeningSink(*attack.moves) as sink:
        fault = await told(sink, Security.STARTTLS, method, tls.ca_pem, hasty=attack.silent)

    hung_up = attack.early and (fault.phase, fault.trouble) == (Phase.GREETING, Trouble.PROTOCOL)
    assert hung_up or (fault.phase, fault.trouble) == (attack.phase, attack.trouble)


# STARTTLS, and a handshake.


async def test_a_220_in_two_lines(tls: IssuedTls) -> None:
    """It is a 220 all the same, and what is said over TLS counts."""
    moves = (
        *TO_STARTTLS,
        Say(b"220-ready\r\n220 go\r\n"),
        Shake(tls.context),
        Hear(),
        Say(offers("AUTH PLAIN", "SIZE 77")),
    )
    async with ListeningSink(*moves, Hear(), Say(SIGNED_IN)) as sink:
        relay = relay_at(sink.port, Security.STARTTLS, ca=tls.ca_pem, password=PASSWORD, username=USER)
        engine = await opener().open(relay)

        assert isinstance(engine, Engine)
        engine.abort()
        assert engine.capabilities == Capabilities(size=77)
        assert sink.heard[0].tls
        assert not any(trace in sink.heard[0].in_clear for trace in traces(USER, PASSWORD))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "behind", [WITHOUT_TLS, SIGNED_IN, WITHOUT_TLS + SIGNED_IN, b"250-AUTH PLA", b"334 \r\n", b"\r\n"],
    ids=["offers", "signed in", "both", "half a line", "challenge", "empty line"],
)  # fmt: skip
async def test_what_is_injected_behind_the_220_is_not_believed(behind: bytes, method: Method, tls: IssuedTls) -> None:
    """The true relay's own handshake follows, and it offers no sign-in: then there is none, whatever was injected."""
    moves = (*TO_STARTTLS, Say(b"220 go\r\n" + behind), Shake(tls.context), Hear(), Say(offers("SIZE 77")))
    async with ListeningSink(*moves) as sink:
        fault = await told(sink, Security.STARTTLS, method, tls.ca_pem)

        assert (fault.phase, fault.trouble) == (Phase.AUTH, Trouble.AUTH_UNAVAILABLE)
        assert sink.heard[0].tls


@pytest.mark.parametrize("method", METHODS)
async def test_sign_ins_that_were_offered_in_clear_are_forgotten(method: Method, tls: IssuedTls) -> None:
    """RFC 3207 §4.2: what was known before the handshake is discarded."""
    async with ListeningSink(*TO_STARTTLS, Say(b"220 go\r\n"), Shake(tls.context), Hear(), Say(offers("HELP"))) as sink:
        fault = await told(sink, Security.STARTTLS, method, tls.ca_pem)

    assert fault.trouble is Trouble.AUTH_UNAVAILABLE


async def test_capabilities_that_were_offered_in_clear_are_forgotten(tls: IssuedTls) -> None:
    """Neither PIPELINING nor SIZE nor the others count unless they are offered over TLS."""
    first = offers("STARTTLS", "PIPELINING", "SIZE 5", "SMTPUTF8", "8BITMIME", "DSN")
    moves = (GREETING, Hear(), Say(first), Hear(), Say(b"220 go\r\n"), Shake(tls.context), Hear(), Say(offers()))
    async with ListeningSink(*moves) as sink:
        engine = await opener().open(relay_at(sink.port, Security.STARTTLS, ca=tls.ca_pem))

        assert isinstance(engine, Engine)
        engine.abort()
        assert engine.capabilities == Capabilities()


async def test_starttls_is_said_once(tls: IssuedTls) -> None:
    """A relay that offers it again over TLS is not taken up on it."""
    async with ListeningSink(*TO_STARTTLS, Say(b"220 go\r\n"), Shake(tls.context), Hear(), Say(WITH_TLS)) as sink:
        engine = await opener().open(relay_at(sink.port, Security.STARTTLS, ca=tls.ca_pem))

        assert isinstance(engine, Engine)
        engine.abort()
        await sink.wait_closed()
        assert [line.split()[0] for line in sink.heard[0].under_tls.splitlines()] == [b"EHLO"]


BEFORE_TLS: dict[Security, tuple[Move, ...]] = {
    Security.STARTTLS: (*TO_STARTTLS, Say(b"220 go\r\n")), Security.IMPLICIT_TLS: (),
}  # fmt: skip
TLS = pytest.mark.parametrize("security", list(BEFORE_TLS))
FIRST: dict[Security, tuple[Move, ...]] = {Security.STARTTLS: (), Security.IMPLICIT_TLS: (GREETING,)}


@TLS
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "case", ["other name", "expired", "not yet", "self-signed", "other authority", "TLS 1.0", "TLS 1.1"]
)
async def test_a_handshake_that_does_not_convince(case: str, method: Method, security: Security) -> None:
    """A certificate that proves nothing, or a protocol that does not protect: no password, and not even an EHLO."""
    ours, day = trustme.CA(), dt.timedelta(days=1)
    issued = {"TLS 1.0": ssl.TLSVersion.TLSv1, "TLS 1.1": ssl.TLSVersion.TLSv1_1}
    match case:
        case "other name":
            context = issue_tls("relay.test", "127.0.0.2", authority=ours).context
        case "expired":
            context = lasting(-9 * day, -day, ours)
        case "not yet":
            context = lasting(day, 9 * day, ours)
        case "self-signed":
            context = self_signed().context
        case "other authority":
            context = issue_tls().context
        case _:
            old = outdated(issued[case])
            context, ours_pem = old.context, old.ca_pem
    ca = ours_pem if case in issued else ours.cert_pem.bytes().decode()
    async with ListeningSink(*BEFORE_TLS[security], Shake(context), *FIRST[security], Say(WITHOUT_TLS)) as sink:
        fault = await told(sink, security, method, ca)

        expected = Trouble.TLS_FAILED if case in issued else Trouble.TLS_UNVERIFIED
        assert (fault.phase, fault.trouble) == (Phase.TLS, expected)
        assert sink.heard[0].under_tls == b""


@TLS
@pytest.mark.parametrize("after", ["handshake", "greeting", "ehlo", "auth"])
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_the_relay_hangs_up_under_tls(after: str, reset: bool, security: Security, tls: IssuedTls) -> None:
    """Wherever it goes, a fault tells, and whoever had not been offered a sign-in was told no password."""
    moves: list[Move] = [*BEFORE_TLS[security], Shake(tls.context)]
    if after != "handshake":
        moves += FIRST[security] + ((Hear(),) if after != "greeting" else ())
    if after == "auth":
        moves += (Say(offers("AUTH PLAIN")), Hear())
    async with ListeningSink(*moves, Leave(reset=reset)) as sink:
        relay = relay_at(sink.port, security, ca=tls.ca_pem, password=PASSWORD, username=USER)
        async with asyncio.timeout(20):
            fault = await opener().open(relay)
        await sink.wait_closed()

        assert isinstance(fault, Fault)
        assert fault.trouble in {Trouble.AUTH_DROPPED, Trouble.TLS_FAILED, Trouble.UNREACHABLE}
        assert (fault.trouble is Trouble.AUTH_DROPPED) is (after == "auth")
        if after != "auth":
            nothing_leaked(sink.heard[0])


@TLS
async def test_a_relay_that_does_not_take_leave_is_left_all_the_same(security: Security, tls: IssuedTls) -> None:
    """After a fault the connection is dropped, not kept until the relay agrees to close TLS."""
    moves = (*BEFORE_TLS[security], Shake(tls.context), *FIRST[security], Hear(), Say(offers()))
    async with ListeningSink(*moves, clings=True) as sink:
        relay = relay_at(sink.port, security, ca=tls.ca_pem, password=PASSWORD, username=USER)
        fault = await opener().open(relay)

        assert isinstance(fault, Fault)
        assert fault.trouble is Trouble.AUTH_UNAVAILABLE
        await sink.wait_closed(timeout=2)


# TLS from the first byte.

PLAINTEXT = [
    Attack("a-greeting", (GREETING,), Phase.TLS, Trouble.TLS_FAILED),
    Attack("a-whole-dialogue", (Say(b"220 hi\r\n" + WITHOUT_TLS + SIGNED_IN),), Phase.TLS, Trouble.TLS_FAILED),
    Attack("a-greeting-after-the-hello", (HearHello(), GREETING), Phase.TLS, Trouble.TLS_FAILED),
    Attack("a-503-to-the-hello", (HearHello(), Say(b"500 5.5.2 what?\r\n")), Phase.TLS, Trouble.TLS_FAILED),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attack", PLAINTEXT, ids=[one.id for one in PLAINTEXT])
async def test_a_server_in_clear_behind_the_port_of_tls(attack: Attack, method: Method, tls: IssuedTls) -> None:
    """Who speaks first, and in clear, is not spoken to."""
    async with ListeningSink(*attack.moves) as sink:
        fault = await told(sink, Security.IMPLICIT_TLS, method, tls.ca_pem)

        assert (fault.phase, fault.trouble) == (attack.phase, attack.trouble)
        assert b"EHLO" not in sink.heard[0].raw


async def test_a_silent_server_behind_the_port_of_tls(tls: IssuedTls) -> None:
    """A handshake that nobody answers ends in time."""
    async with ListeningSink() as sink:
        fault = await told(sink, Security.IMPLICIT_TLS, Method.AUTO, tls.ca_pem, hasty=True)

    assert fault.trouble in {Trouble.TLS_FAILED, Trouble.UNREACHABLE}


# A relay that is not checked.


@TLS
@pytest.mark.parametrize("method", METHODS)
async def test_no_password_over_tls_that_is_not_verified(method: Method, security: Security) -> None:
    """A man in the middle with a certificate of his own offers everything, and is told nothing."""
    moves = (*BEFORE_TLS[security], Shake(self_signed().context), *FIRST[security], Hear(), Say(WITHOUT_TLS))
    async with ListeningSink(*moves) as sink:
        relay = relay_at(
            sink.port, security, tls=TlsPolicy(verify=False), password=PASSWORD, username=USER, method=method
        )
        fault = await opener().open(relay)
        await sink.wait_closed()

        assert isinstance(fault, Fault)
        assert (fault.phase, fault.trouble) == (Phase.AUTH, Trouble.TLS_UNVERIFIED)
        nothing_leaked(sink.heard[0])


@TLS
@pytest.mark.parametrize("version", [None, 6], ids=["as it should be", "of a version that does not exist"])
async def test_a_certificate_that_nobody_asked_for_ends_no_opening(security: Security, version: int | None) -> None:
    """Without `verify` anything that OpenSSL reads will do; what we cannot read of it is not told, and that is all."""
    context = self_signed(version).context
    moves = (*BEFORE_TLS[security], Shake(context), *FIRST[security], Hear(), Say(offers()))
    async with ListeningSink(*moves) as sink:
        try:
            came = await opener().open(relay_at(sink.port, security, tls=TlsPolicy(verify=False)))
            if isinstance(came, Engine):
                came.abort()
        finally:
            await sink.wait_closed()

    assert isinstance(came, Engine), came


# In clear, because the profile says so.


async def test_in_clear_nobody_signs_in_unasked() -> None:
    """A profile without a user says no AUTH to a relay that offers it, and even announces that it is done."""
    async with ListeningSink(GREETING, Hear(), Say(WITHOUT_TLS + SIGNED_IN)) as sink:
        engine = await opener().open(relay_at(sink.port))

        assert isinstance(engine, Engine)
        engine.abort()
        await sink.wait_closed()
        assert [line.split()[0] for line in sink.heard[0].lines] == [b"EHLO"]


@pytest.mark.parametrize("method", [Method.AUTO, Method.PLAIN, Method.LOGIN])
async def test_in_clear_with_a_user_the_password_is_sent_once(method: Method) -> None:
    """`none` with a user: one AUTH, as the profile has it, and the mail goes."""
    auth = ("LOGIN",) if method is Method.LOGIN else ("PLAIN",)
    async with ScriptedRelay(users={USER: PASSWORD}, require_auth=True, features=Features(auth=auth)) as relay:
        engine = await opener().open(relay_at(relay.port, password=PASSWORD, username=USER, method=method))

        assert isinstance(engine, Engine), engine
        assert isinstance((await engine.transact(letter(1))).outcomes[0], Relayed)
        engine.abort()
        assert [login.accepted for login in relay.sessions[0].logins] == [True]


@pytest.mark.parametrize("method", METHODS)
async def test_in_clear_nobody_signs_in_where_the_operator_does_not_let_them(method: Method) -> None:
    """`none` with a user, saved while passwords might go there, says no AUTH once they may not."""
    async with ListeningSink(GREETING, Hear(), Say(WITHOUT_TLS)) as sink:
        relay = relay_at(sink.port, password=PASSWORD, username=USER, method=method)
        came = await opener(in_clear=frozenset({"localhost"})).open(relay)
        if isinstance(came, Engine):
            came.abort()
        await sink.wait_closed()

        assert isinstance(came, Fault)
        assert (came.phase, came.trouble) == (Phase.AUTH, Trouble.TLS_REQUIRED)
        nothing_leaked(sink.heard[0])


@pytest.mark.parametrize("method", METHODS)
async def test_an_acceptance_before_the_sign_in_is_none(method: Method) -> None:
    """A 235 that came with the answer to EHLO is not the answer to AUTH."""
    async with ListeningSink(GREETING, Hear(), Say(WITHOUT_TLS + SIGNED_IN), Hear(), Say(b"535 5.7.8 no\r\n")) as sink:
        came = await opener().open(relay_at(sink.port, password=PASSWORD, username=USER, method=method))
        if isinstance(came, Engine):
            came.abort()
        await sink.wait_closed()

    assert isinstance(came, Fault)
