"""Where mail may go: every way to spell an address is judged by what would be dialled."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import pytest

from gateway.smtp.dial import Dialer
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.outcome import Fault, Phase, Trouble
from tests.peers.smtp_server import ScriptedRelay
from tests.smtp.talking import rules

MAIL = (25, 465, 587, 2525)
OPEN = EgressPolicy(MAIL)

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
PRIVATE = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12:3456::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]
CLOSED = [
    # loopback
    "127.0.0.1", "127.1.2.3", "127.255.255.255", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "64:ff9b::127.0.0.1",
    "2002:7f00:1::1", "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1",
    # unspecified, this network
    "0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "64:ff9b::", "2002::1",
    # link-local and metadata services
    "169.254.169.254", "169.254.0.1", "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1",
    "fe80::1", "febf::1", "168.63.129.16", "::ffff:168.63.129.16", "100.100.100.200", "64:ff9b::100.100.100.200",
    "192.0.0.192", "fd00:ec2::254", "fd20:ce::254",
    # multicast, broadcast, reserved
    "224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1", "::ffff:224.0.0.1", "255.255.255.255", "240.0.0.1",
    "::ffff:255.255.255.255",
]  # fmt: skip


@pytest.mark.parametrize("port", [25, 587])
@pytest.mark.parametrize("address", PUBLIC + PRIVATE)
def test_relays_are_reached_on_the_mail_ports(address: str, port: int) -> None:
    """Public and private addresses, hidden ones too, are open on the mail ports."""
    assert OPEN.permits(ip_address(address), port)


@pytest.mark.parametrize("address", PUBLIC + PRIVATE)
def test_other_ports_are_closed(address: str) -> None:
    """No address is open on a port that is not for mail."""
    assert not any(OPEN.permits(ip_address(address), port) for port in (22, 80, 443, 6379, 8025))


@pytest.mark.parametrize("address", CLOSED)
def test_special_addresses_are_closed(address: str) -> None:
    """Loopback, link-local, metadata, multicast and reserved ranges are closed, in whatever IPv6 they hide."""
    assert not OPEN.permits(ip_address(address), 25)


@pytest.mark.parametrize("address", [address for address in CLOSED if "." in address and ":" not in address])
def test_allow_opens_what_is_closed_and_no_more(address: str) -> None:
    """An entry opens its network on its port, for the plain address; it opens no neighbour and no other port."""
    policy = EgressPolicy(MAIL, allow=rules(f"{address}/32 2525"))

    assert policy.permits(ip_address(address), 2525)
    assert not policy.permits(ip_address(address), 25)
    assert not policy.permits(ip_address("127.77.77.77"), 2525)


def test_allow_without_a_port_opens_every_port() -> None:
    """A network alone stands for all its ports."""
    policy = EgressPolicy(MAIL, allow=rules("127.0.0.0/8"))

    assert all(policy.permits(ip_address("127.0.0.1"), port) for port in (1, 25, 8025, 65535))


@pytest.mark.parametrize("address", PUBLIC + PRIVATE + CLOSED)
def test_deny_wins(address: str) -> None:
    """What is denied stays closed though it is allowed, and open anyway."""
    network = "::/0" if ":" in address else "0.0.0.0/0"
    policy = EgressPolicy(MAIL, allow=rules("0.0.0.0/0", "::/0"), deny=rules(network))

    assert not policy.permits(ip_address(address), 25)
    assert EgressPolicy(MAIL, allow=rules("0.0.0.0/0", "::/0")).permits(ip_address(address), 25)


@pytest.mark.parametrize("address", ["::ffff:10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::1"])
def test_deny_finds_the_hidden_address(address: str) -> None:
    """An IPv4 network that is denied is denied inside IPv6 too."""
    assert not EgressPolicy(MAIL, deny=rules("10.0.0.0/8")).permits(ip_address(address), 25)
    assert OPEN.permits(ip_address(address), 25)


def test_deny_on_one_port() -> None:
    """An entry with a port leaves the other ports alone."""
    policy = EgressPolicy(MAIL, deny=rules("10.0.0.0/8 25"))

    assert not policy.permits(ip_address("10.0.0.1"), 25)
    assert policy.permits(ip_address("10.0.0.1"), 587)


# Names.


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0",
        "localhost", "LOCALHOST", "127.0.0.1 ", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:0:0:1",
        "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "fe80::1%lo", "::", "①②⑦.⓪.⓪.①",
    ],
)  # fmt: skip
async def test_spellings_of_forbidden_hosts(host: str) -> None:
    """Decimal, octal, hexadecimal, shortened, scoped: nothing is connected to, whatever the resolver makes of it."""
    async with ScriptedRelay() as relay:
        policy = EgressPolicy((relay.port,))
        came = await Dialer(policy, connect_seconds=5).dial(host, relay.port)

        assert isinstance(came, Fault)
        assert came.phase is Phase.RESOLVE
        assert came.trouble in (Trouble.EGRESS_REFUSED, Trouble.NAME_UNKNOWN)
        assert relay.sessions == []


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test", "a\0b", ""])
async def test_names_that_are_none(host: str) -> None:
    """What cannot be a name does not exist."""
    came = await Dialer(OPEN, connect_seconds=5).dial(host, 25)

    assert isinstance(came, Fault)
    assert (came.phase, came.trouble) == (Phase.RESOLVE, Trouble.NAME_UNKNOWN)


class Resolver:
    """Stands in for the system's resolver, and counts how often it is asked."""

    def __init__(self, *answers: list[str] | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def getaddrinfo(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        """Answer like the loop's method of this name."""
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in answer
        ]


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str] | OSError) -> Resolver:
    """Let names resolve to these addresses, one answer after the other."""
    resolver = Resolver(*answers)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
    return resolver


async def test_forbidden_answers_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several addresses only the permitted are dialled."""
    async with ScriptedRelay() as relay:
        resolving(monkeypatch, ["169.254.169.254", "127.0.0.2", "::1", "127.0.0.1"])
        policy = EgressPolicy((), allow=rules("127.0.0.1/32"))
        sock = await Dialer(policy, connect_seconds=5).dial("relay.example.test", relay.port)

        assert isinstance(sock, socket.socket)
        assert sock.getpeername() == ("127.0.0.1", relay.port)
        sock.close()


async def test_no_answer_is_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is a fault that tells nothing about where the name leads."""
    resolving(monkeypatch, ["169.254.169.254", "::1"])
    came = await Dialer(OPEN).dial("relay.example.test", 25)

    assert came == Fault(Phase.RESOLVE, Trouble.EGRESS_REFUSED, "egress_refused")


async def test_a_port_that_is_open_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name server is asked for what could not be dialled."""
    resolver = resolving(monkeypatch, ["192.0.2.1"])
    came = await Dialer(OPEN).dial("relay.example.test", 22)

    assert (came, resolver.asked) == (Fault(Phase.RESOLVE, Trouble.EGRESS_REFUSED, "egress_refused"), [])


async def test_the_judged_address_is_the_dialled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is looked up once a connection: an answer that would change in between changes nothing."""
    async with ScriptedRelay() as relay:
        resolver = resolving(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
        policy = EgressPolicy((), allow=rules("127.0.0.1/32"))
        dialer = Dialer(policy, connect_seconds=5)
        first = await dialer.dial("rebinding.example.test", relay.port)
        second = await dialer.dial("rebinding.example.test", relay.port)

        assert isinstance(first, socket.socket)
        assert first.getpeername()[0] == "127.0.0.1"
        first.close()
        assert second == Fault(Phase.RESOLVE, Trouble.EGRESS_REFUSED, "egress_refused")
        assert resolver.asked == ["rebinding.example.test"] * 2


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Trouble.NAME_UNKNOWN),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), Trouble.UNREACHABLE),
        (socket.gaierror(socket.EAI_FAIL, "Non-recoverable failure"), Trouble.UNREACHABLE),
        (OSError(5, "Input/output error"), Trouble.UNREACHABLE),
    ],
)
async def test_the_resolver_fails(error: OSError, trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not exist is not the same as a resolver in trouble."""
    resolving(monkeypatch, error)
    came = await Dialer(OPEN).dial("relay.example.test", 25)

    assert isinstance(came, Fault)
    assert (came.phase, came.trouble) == (Phase.RESOLVE, trouble)


async def test_the_next_address_when_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses are alternatives: the first that answers is taken."""
    async with ScriptedRelay() as relay:
        resolving(monkeypatch, ["127.0.0.2", "127.0.0.1"])
        policy = EgressPolicy((), allow=rules("127.0.0.0/8"))
        sock = await Dialer(policy, connect_seconds=5).dial("relay.example.test", relay.port)

        assert isinstance(sock, socket.socket)
        assert sock.getpeername()[0] == "127.0.0.1"
        sock.close()


async def test_refused_everywhere_tells_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault says what happened, not where."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        resolving(monkeypatch, ["127.0.0.1", "127.0.0.2"])
        policy = EgressPolicy((), allow=rules("127.0.0.0/8"))
        came = await Dialer(policy, connect_seconds=5).dial("relay.example.test", bound.getsockname()[1])

    assert isinstance(came, Fault)
    assert (came.phase, came.trouble) == (Phase.CONNECT, Trouble.UNREACHABLE)
    assert "127." not in came.detail
