"""How the tests of `smtp/` talk to a scripted relay on loopback."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from gateway.credentials.secret import Secret
from gateway.smtp.dial import Dialer
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.outcome import Fault, RecipientOutcome, Refused, Rejected, Relayed, Transaction, Unknown, Untaken
from gateway.smtp.session import Login, Method, Opener, Relay, Security
from gateway.smtp.tls import TlsPolicy
from gateway.smtp.transaction import Engine, Envelope, Timeouts
from tests.peers.smtp_server import ScriptedRelay

PATIENT = Timeouts(command=10, block=10, final=10, quit=1)
HASTY = Timeouts(command=0.05, block=0.05, final=0.05, quit=0.05)
ANN, BOB, CYD = "ann@example.test", "bob@example.test", "cyd@example.test"


@dataclass(frozen=True)
class Rule:
    """An entry of `allow` or `deny`."""

    network: IPv4Network | IPv6Network
    port: int | None = None


def rules(*texts: str) -> list[Rule]:
    """Read `network` or `network port`."""
    parts = [text.split() for text in texts]
    return [Rule(ip_network(network), int(port[0]) if port else None) for network, *port in parts]


LOOPBACK = EgressPolicy(ports=(), allow=rules("127.0.0.0/8"))
IN_CLEAR = frozenset({"127.0.0.1", "localhost"})


def opener(
    timeouts: Timeouts = PATIENT, policy: EgressPolicy = LOOPBACK, in_clear: frozenset[str] = IN_CLEAR
) -> Opener:
    """An opener that may dial loopback, and sign in there without TLS."""
    return Opener(Dialer(policy, connect_seconds=5), "client.example.test", timeouts, in_clear)


def relay_at(
    port: int,
    security: Security = Security.NONE,
    *,
    host: str = "127.0.0.1",
    ca: str | None = None,
    tls: TlsPolicy | None = None,
    password: str | None = None,
    method: Method = Method.AUTO,
    username: str = "app",
) -> Relay:
    """Where to, and as whom."""
    login = None if password is None else Login(method, username, Secret(password))
    return Relay(host, port, security, tls or TlsPolicy(ca_certificates=ca), login)


@asynccontextmanager
async def session(
    relay: ScriptedRelay, timeouts: Timeouts = PATIENT, *, port: int | None = None
) -> AsyncIterator[Engine]:
    """An engine on a fresh session in clear."""
    engine = await opener(timeouts).open(relay_at(port or relay.port))
    assert isinstance(engine, Engine), engine
    try:
        yield engine
    finally:
        engine.abort()


async def fault(target: ScriptedRelay | Relay, timeouts: Timeouts = PATIENT) -> Fault:
    """The fault that opening a session ends in."""
    relay = relay_at(target.port) if isinstance(target, ScriptedRelay) else target
    opened = await opener(timeouts).open(relay)
    if isinstance(opened, Engine):
        opened.abort()
    assert isinstance(opened, Fault), opened
    return opened


def text(number: int | str, body: bytes = b"hello\r\n") -> bytes:
    """A message with a Message-ID of its own."""
    return b"Message-ID: <%s@example.test>\r\nSubject: hi\r\n\r\n" % str(number).encode() + body


def letter(
    number: int | str, *recipients: str, body: bytes = b"hello\r\n", sender: str = "from@example.test"
) -> Envelope:
    """An envelope around it, to Ann unless it is said otherwise."""
    return Envelope(sender, recipients or (ANN,), text(number, body))


def message_ids(relay: ScriptedRelay) -> list[str]:
    """What the relay accepted, by number."""
    return [(caught.message_id or "").removeprefix("<").partition("@")[0] for caught in relay.messages]


def kinds(transaction: Transaction) -> list[type[RecipientOutcome]]:
    """Just the kinds of the outcomes."""
    return [type(outcome) for outcome in transaction.outcomes]


def reply_code(outcome: RecipientOutcome) -> int | None:
    """The code of the reply that an outcome tells of, if any."""
    match outcome:
        case Relayed(reply) | Refused(_, reply) | Rejected(reply):
            return reply.code
        case Untaken(_, said):
            return None if said is None else said.code
        case Unknown():
            return None


def examples(count: int) -> int:
    """How many examples to try: fifty times as many for the long proof."""
    return count * (50 if os.environ.get("GATEWAY_PROOF") == "1" else 1)
