"""Our side and the servers of the world: Postfix (with Dovecot's SASL), Exim and OpenSMTPD, as Debian ships them.

Each is a submission service with TLS and AUTH that forwards to a sink, so what arrives there went through our opener and
our engine, over a real TLS, past a real parser, and was read back from a real queue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import count, pairwise

import pytest
import pytest_asyncio

from gateway.credentials.secret import Secret
from gateway.smtp.outcome import Fault, Phase, Refused, Rejected, Relayed, Trouble
from gateway.smtp.sasl import Login, Method
from gateway.smtp.session import Relay, Security
from gateway.smtp.tls import TlsPolicy
from gateway.smtp.transaction import Engine, Envelope
from tests.peers.dovecot import DovecotAuth, dovecot_available
from tests.peers.exim import EximRelay, exim_available
from tests.peers.opensmtpd import OpenSmtpdRelay, opensmtpd_available
from tests.peers.postfix import PostfixRelay, postfix_available
from tests.peers.requirements import require
from tests.peers.smtp_server import Caught, ScriptedRelay
from tests.smtp.talking import ANN, kinds, letter, opener, reply_code

pytestmark = pytest.mark.asyncio(loop_scope="module")  # the sinks live as long as the servers: no mail waits for one

SIZE_LIMIT = 100_000
REFUSED = "refused@example.test"
AWKWARD = (
    b".a line that begins with a dot\r\n..and with two\r\n.\r\n" + b"x" * 998 + b"\r\n" + b"." * 998 + b"\r\n"
    b"\r\n\ttabs, trailing space \r\nFrom the beginning of a line\r\n\r\n.\r\n"
)


@dataclass(frozen=True)
class Server:
    """A running server: where each way in is, whom it knows, and what is true of it."""

    starttls: int
    implicit_tls: int
    lock_step: int
    sink: ScriptedRelay
    ca_pem: str
    pipelining: bool = True
    smtputf8: bool = True
    dovecot: DovecotAuth | None = None
    exim: EximRelay | None = None

    def relay(self, way: str = "starttls", login: Login | None = None, certificate: str | None = None) -> Relay:
        """Give the way to it."""
        security = Security.IMPLICIT_TLS if way == "implicit_tls" else Security.STARTTLS
        shown = None if certificate is None else Secret(certificate)
        policy = TlsPolicy(ca_certificates=self.ca_pem, client_certificate=shown)
        return Relay("127.0.0.1", getattr(self, way), security, policy, login or password(Method.AUTO))

    async def arrived(self, *letters: Envelope) -> list[Caught]:
        """Wait for these at the sink, and give what came of each, once."""
        wanted = [letter.message.partition(b"\r\n")[0].removeprefix(b"Message-ID: ").decode() for letter in letters]

        def found() -> dict[str | None, Caught]:
            return {caught.message_id: caught for caught in self.sink.messages}

        await self.sink.wait(lambda: found().keys() >= set(wanted), timeout=20)
        came = [caught.message_id for caught in self.sink.messages if caught.message_id in wanted]
        assert sorted(map(str, came)) == sorted(wanted)
        assert self.sink.violations == []
        return [found()[one] for one in wanted]


def password(method: Method, text: str = "s3cret") -> Login:
    """The account that all of them know."""
    return Login(method, "app", Secret(text))


async def start(name: str, stack: AsyncExitStack) -> Server:
    """Start one of the servers, and the sink behind it."""
    sink = await stack.enter_async_context(ScriptedRelay())
    match name:
        case "postfix":
            require("postfix as root", postfix_available())
            require("dovecot (tests/peers/fetch.sh)", dovecot_available())
            dovecot = stack.enter_context(DovecotAuth())
            settings = {
                "message_size_limit": str(SIZE_LIMIT),
                "smtpd_recipient_restrictions": f"check_recipient_access inline:{{ {{ {REFUSED} = REJECT }} }}, permit",
            }
            lock_step = {"lock_step": {"smtpd_discard_ehlo_keywords": "pipelining"}}
            postfix = stack.enter_context(
                PostfixRelay(sink.port, settings=settings, services=lock_step, sasl_socket=dovecot.socket)
            )
            return Server(
                postfix.port, postfix.tls_port, postfix.ports["lock_step"], sink, postfix.ca_pem, dovecot=dovecot
            )
        case "exim":
            require("exim (tests/peers/fetch.sh)", exim_available())
            exim = stack.enter_context(EximRelay(sink.port, size_limit=SIZE_LIMIT, refused=REFUSED))
            return Server(exim.port, exim.tls_port, exim.lock_step_port, sink, exim.ca_pem, exim=exim)
        case _:
            require("opensmtpd (tests/peers/fetch.sh) as root", opensmtpd_available())
            opensmtpd = stack.enter_context(OpenSmtpdRelay(sink.port, size_limit=SIZE_LIMIT, refused=REFUSED))
            port = opensmtpd.port
            return Server(port, opensmtpd.tls_port, port, sink, opensmtpd.ca_pem, pipelining=False, smtputf8=False)


class Servers:
    """The servers of this module, each started when it is first asked for."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._started: dict[str, Server] = {}

    async def __call__(self, name: str) -> Server:
        if name not in self._started:
            self._started[name] = await start(name, self._stack)
        return self._started[name]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[Servers]:
    """All that this machine has."""
    async with AsyncExitStack() as stack:
        yield Servers(stack)


EACH = pytest.mark.parametrize("name", ["postfix", "exim", "opensmtpd"])


@asynccontextmanager
async def session(relay: Relay) -> AsyncIterator[Engine]:
    """An engine on a fresh session; it takes leave as it should."""
    engine = await opener().open(relay)
    assert isinstance(engine, Engine), engine
    try:
        yield engine
        assert engine.usable
        await engine.quit()
    finally:
        engine.abort()


NUMBERS = count(1)


def fresh(*recipients: str, body: bytes = b"hello\r\n") -> Envelope:
    """An envelope around a message like no other; to Ann, unless it is said otherwise."""
    return letter(next(NUMBERS), *recipients, body=body)


# What arrives.


@EACH
@pytest.mark.parametrize("way", ["starttls", "implicit_tls", "lock_step"])
async def test_a_message_arrives_as_it_was(name: str, way: str, servers: Servers) -> None:
    """Dots at the beginning of lines, lines of 998 octets, blanks at their ends: every octet of the body comes back."""
    server = await servers(name)
    sent = fresh(body=AWKWARD)
    async with session(server.relay(way)) as engine:
        assert engine.capabilities.pipelining is (server.pipelining and way != "lock_step")
        assert kinds(await engine.transact(sent)) == [Relayed]

    (caught,) = await server.arrived(sent)
    assert caught.data.partition(b"\r\n\r\n")[2] == AWKWARD
    assert (caught.mail_from, caught.rcpt_tos) == (sent.sender, sent.recipients)


@EACH
@pytest.mark.parametrize("way", ["starttls", "lock_step"])
async def test_many_messages_on_one_session(name: str, way: str, servers: Servers) -> None:
    """Each envelope travels behind the message before it, where the server takes that, and none is lost or doubled."""
    server = await servers(name)
    sent = [fresh(body=b"%d\r\n" % number * number * 100) for number in range(12)]
    async with session(server.relay(way)) as engine:
        for this, following in pairwise([*sent, None]):
            assert this is not None
            assert kinds(await engine.transact(this, follow=lambda following=following: following)) == [Relayed]

    for this, caught in zip(sent, await server.arrived(*sent), strict=True):
        assert caught.data.partition(b"\r\n\r\n")[2] == this.message.partition(b"\r\n\r\n")[2]


@EACH
@pytest.mark.parametrize("way", ["starttls", "lock_step"])
async def test_a_refused_recipient(name: str, way: str, servers: Servers) -> None:
    """It is refused for itself: among others, alone (whatever the server then says to DATA), and the session goes on."""
    server = await servers(name)
    sent = [fresh(ANN, REFUSED), fresh(REFUSED), fresh(REFUSED), fresh(REFUSED, ANN)]
    outcomes = []
    async with session(server.relay(way)) as engine:
        for this, following in pairwise([*sent, None]):
            assert this is not None
            done = await engine.transact(this, follow=lambda following=following: following)
            outcomes.append([(type(one), reply_code(one)) for one in done.outcomes])

    taken, refused = (Relayed, 250), (Refused, 554 if name == "postfix" else 550)
    assert outcomes == [[taken, refused], [refused], [refused], [refused, taken]]
    assert [caught.rcpt_tos for caught in await server.arrived(sent[0], sent[3])] == [(ANN,), (ANN,)]


@EACH
async def test_the_size_that_is_announced(name: str, servers: Servers) -> None:
    """What is small enough arrives; what is too big is not even begun, and would be refused."""
    server = await servers(name)
    line = b"x" * 70 + b"\r\n"
    small, big = (fresh(body=line * (octets // len(line))) for octets in (SIZE_LIMIT - 2000, SIZE_LIMIT + 2000))
    async with session(server.relay()) as engine:
        assert engine.capabilities.size == SIZE_LIMIT
        assert kinds(await engine.transact(small)) == [Relayed]
        assert kinds(await engine.transact(big)) == [Rejected]
        engine.capabilities = replace(engine.capabilities, size=0)
        (refused,) = (await engine.transact(big)).outcomes

    assert isinstance(refused, Refused)
    assert refused.reply.code in (552, 554)
    await server.arrived(small)


@EACH
async def test_a_recipient_beyond_ascii(name: str, servers: Servers) -> None:
    """SMTPUTF8 goes all the way where it is offered, and not a step where it is not."""
    server = await servers(name)
    sent = replace(fresh("jörg@exämple.test", body="Grüße\r\n".encode()), smtputf8=True)
    async with session(server.relay()) as engine:
        assert engine.capabilities.smtputf8 is server.smtputf8
        assert kinds(await engine.transact(sent)) == [Relayed if server.smtputf8 else Rejected]

    if server.smtputf8:
        (caught,) = await server.arrived(sent)
        assert caught.rcpt_tos == sent.recipients
        assert caught.data.endswith("\r\n\r\nGrüße\r\n".encode())
        assert "SMTPUTF8" in caught.mail_parameters


# Signing in.

PASSWORDS = pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("postfix", method) for method in (Method.PLAIN, Method.LOGIN, Method.CRAM_MD5)),
        ("postfix", Method.SCRAM_SHA_256),
        *(("exim", method) for method in (Method.PLAIN, Method.LOGIN, Method.CRAM_MD5, Method.NTLM)),
        *(("opensmtpd", method) for method in (Method.PLAIN, Method.LOGIN)),
    ],
)


@pytest.fixture(autouse=True)
def ntlm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speak version 1 of NTLM, which is all that Exim knows; the exchange is the same."""
    if "method" in request.fixturenames and request.getfixturevalue("method") is Method.NTLM:
        require("the package extra ntlm", find_spec("spnego"))
        monkeypatch.setenv("LM_COMPAT_LEVEL", "0")


@PASSWORDS
@pytest.mark.parametrize("way", ["starttls", "implicit_tls"])
async def test_the_right_password(name: str, method: Method, way: str, servers: Servers) -> None:
    """The server says 235, and takes a recipient that it takes from nobody else."""
    server = await servers(name)
    sent = fresh()
    async with session(server.relay(way, password(method))) as engine:
        assert kinds(await engine.transact(sent)) == [Relayed]

    await server.arrived(sent)


@PASSWORDS
async def test_a_wrong_password(name: str, method: Method, servers: Servers) -> None:
    """It is known as one, by whatever way it was told."""
    server = await servers(name)
    fault = await opener().open(server.relay(login=password(method, "wrong")))

    assert isinstance(fault, Fault)
    assert (fault.phase, fault.trouble) == (Phase.AUTH, Trouble.AUTH_FAILED)


@EACH
async def test_without_signing_in(name: str, servers: Servers) -> None:
    """Without signing in there is a session, and no recipient; otherwise the rows above would show nothing."""
    server = await servers(name)
    async with session(replace(server.relay(), login=None)) as engine:
        (refused,) = (await engine.transact(fresh())).outcomes

    assert isinstance(refused, Refused)
    assert refused.phase in (Phase.SENDER, Phase.RECIPIENT)


TOKENS = pytest.mark.parametrize("method", [Method.XOAUTH2, Method.OAUTHBEARER])


@TOKENS
async def test_an_access_token(method: Method, servers: Servers) -> None:
    """Dovecot checks its signature, its time and whose it is."""
    server = await servers("postfix")
    assert server.dovecot is not None
    login = Login(method, "app", Secret(server.dovecot.token("app")), bearer=True)
    sent = fresh()
    async with session(server.relay(login=login)) as engine:
        assert kinds(await engine.transact(sent)) == [Relayed]

    await server.arrived(sent)


@TOKENS
@pytest.mark.parametrize("what", ["expired", "another's", "nonsense"])
async def test_an_access_token_that_does_not_hold(method: Method, what: str, servers: Servers) -> None:
    """The reason comes in a challenge; answered as the mechanism wants, it ends in 535."""
    server = await servers("postfix")
    assert server.dovecot is not None
    tokens = {
        "expired": server.dovecot.token("app", seconds=-60),
        "another's": server.dovecot.token("someone"),
        "nonsense": "bm9uc2Vuc2U",
    }
    fault = await opener().open(server.relay(login=Login(method, "app", Secret(tokens[what]), bearer=True)))

    assert isinstance(fault, Fault)
    assert (fault.phase, fault.trouble) == (Phase.AUTH, Trouble.AUTH_FAILED)


@pytest.mark.parametrize("way", ["starttls", "implicit_tls"])
async def test_a_client_certificate(way: str, servers: Servers) -> None:
    """Exim offers EXTERNAL only to who shows one of its authority, and lets in whom it names."""
    server = await servers("exim")
    assert server.exim is not None
    login = Login(Method.EXTERNAL, "app@example.test", None)
    shown = server.relay(way, login, server.exim.client_pem("app@example.test"))
    sent = fresh()
    async with session(shown) as engine:
        assert kinds(await engine.transact(sent)) == [Relayed]

    await server.arrived(sent)


@pytest.mark.parametrize(
    ("named", "trouble"), [("other@example.test", Trouble.AUTH_FAILED), (None, Trouble.AUTH_UNAVAILABLE)]
)
async def test_not_the_right_client_certificate(named: str | None, trouble: Trouble, servers: Servers) -> None:
    """Another's does not let in, and without one EXTERNAL is not even offered."""
    server = await servers("exim")
    assert server.exim is not None
    certificate = None if named is None else server.exim.client_pem(named)
    login = Login(Method.EXTERNAL, "app@example.test", None)
    fault = await opener().open(server.relay("starttls", login, certificate))

    assert isinstance(fault, Fault)
    assert (fault.phase, fault.trouble) == (Phase.AUTH, trouble)
