"""Through the operator's proxies: what they are asked, what they answer, and who decides where mail may go."""

from __future__ import annotations

import pytest

from gateway.credentials.secret import Secret
from gateway.smtp.dial import Dialer, Proxy, ProxyKind
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.outcome import Fault, Phase, Trouble
from gateway.smtp.session import Opener, Relay, Security
from gateway.smtp.tls import TlsPolicy
from gateway.smtp.transaction import Engine
from tests.peers.scripted_proxy import ScriptedProxy
from tests.peers.smtp_server import ScriptedRelay, issue_tls
from tests.smtp.talking import LOOPBACK, PATIENT, letter, rules

KINDS = ("socks5", "http_connect")
ANYWHERE = tuple(rules("127.0.0.0/8", "::1/128"))
NOWHERE = EgressPolicy(ports=())


def through(proxy: ScriptedProxy, **more: object) -> Proxy:
    """The settings of this proxy."""
    given = {"targets": ANYWHERE, **more}
    return Proxy(ProxyKind(proxy.kind), proxy.host, proxy.port, **given)  # type: ignore[arg-type]


async def opened(
    relay: ScriptedRelay,
    proxy: Proxy,
    security: Security = Security.NONE,
    *,
    policy: EgressPolicy = NOWHERE,
    host: str = "127.0.0.1",
    ca: str | None = None,
) -> Engine | Fault:
    """Open a session by way of the proxy."""
    opener = Opener(Dialer(policy, connect_seconds=5), "client.example.test", PATIENT)
    return await opener.open(Relay(host, relay.port, security, TlsPolicy(ca_certificates=ca), None, proxy))


async def carried(relay: ScriptedRelay, proxy: Proxy, *args: object, **more: object) -> None:
    """Send one message by way of the proxy."""
    engine = await opened(relay, proxy, *args, **more)  # type: ignore[arg-type]
    assert isinstance(engine, Engine), engine
    await engine.transact(letter(1))
    engine.abort()
    assert len(relay.messages) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("glued", [False, True])
async def test_mail_goes_through(kind: str, glued: bool) -> None:
    """Also where the relay's greeting comes in the same segment as the proxy's answer: no octet of it is lost."""
    async with ScriptedRelay() as relay, ScriptedProxy(kind, glued=glued) as proxy:
        await carried(relay, through(proxy))
        assert proxy.asked == [f"127.0.0.1:{relay.port}"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("security", [Security.STARTTLS, Security.IMPLICIT_TLS])
async def test_tls_is_verified_on_the_name_of_the_relay(kind: str, security: Security) -> None:
    """The proxy sees none of it: right name in, wrong name out."""
    issued = issue_tls("relay.test")
    implicit = security is Security.IMPLICIT_TLS
    async with (
        ScriptedRelay(tls=issued.context, implicit_tls=implicit) as relay,
        ScriptedProxy(kind, names={"relay.test": "127.0.0.1", "other.test": "127.0.0.1"}) as proxy,
    ):
        way = through(proxy, remote_dns=True, targets=tuple(rules("0.0.0.0/0")))
        await carried(relay, way, security, host="relay.test", ca=issued.ca_pem)
        told = await opened(relay, way, security, host="other.test", ca=issued.ca_pem)

    assert isinstance(told, Fault)
    assert told.trouble is Trouble.TLS_UNVERIFIED
    assert proxy.asked == [f"relay.test:{relay.port}", f"other.test:{relay.port}"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_with_a_password(kind: str) -> None:
    """The right one lets us in; with a wrong one, or none, the proxy does not."""
    async with ScriptedRelay() as relay, ScriptedProxy(kind, login=("gw", "pr0xy:pw")) as proxy:
        await carried(relay, through(proxy, username="gw", password=Secret("pr0xy:pw")))
        for wrong in ({"username": "gw", "password": Secret("guess")}, {}):
            told = await opened(relay, through(proxy, **wrong))
            assert isinstance(told, Fault)
            assert (told.phase, told.trouble) == (Phase.CONNECT, Trouble.UNREACHABLE)
            assert "does not let us in" in told.detail


@pytest.mark.parametrize(
    ("kind", "answer", "told"),
    [
        ("http_connect", b"HTTP/1.1 403 Forbidden\r\n\r\n", "refuses this target"),
        ("http_connect", b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "does not reach the target (HTTP 503)"),
        ("http_connect", b"220 smtp.example.test ESMTP\r\n\r\n", "no answer that is HTTP"),
        ("http_connect", b"HTTP/1.1 200 OK\r\n", "no answer that is HTTP"),
        ("http_connect", b"x" * 100_000, "no answer that is HTTP"),
        ("socks5", b"\x05\x02\x00\x01" + bytes(6), "refuses this target"),
        ("socks5", b"\x05\x04\x00\x01" + bytes(6), "does not reach the target"),
        ("socks5", b"\x05\x05\x00\x01" + bytes(6), "refuses the proxy's connection"),
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n", "no SOCKS5 proxy"),
        ("socks5", b"", "no SOCKS5 proxy"),
    ],
)
async def test_a_proxy_that_does_not_connect_us(kind: str, answer: bytes, told: str) -> None:
    """Each answer is a fault of phase connect in our own words."""
    async with ScriptedRelay() as relay, ScriptedProxy(kind, answer=answer) as proxy:
        fault = await opened(relay, through(proxy))

        assert isinstance(fault, Fault)
        assert (fault.phase, fault.trouble) == (Phase.CONNECT, Trouble.UNREACHABLE)
        assert told in fault.detail


async def test_a_proxy_that_is_not_there() -> None:
    """A fault of phase connect, for each kind."""
    async with ScriptedRelay() as relay:
        for kind in KINDS:
            proxy = ScriptedProxy(kind)
            async with proxy:
                pass
            fault = await opened(relay, through(proxy))
            assert isinstance(fault, Fault)
            assert fault.detail == "the proxy cannot be reached"


@pytest.mark.parametrize("kind", KINDS)
async def test_targets_are_all_that_a_connector_reaches(kind: str) -> None:
    """The address that we resolved is judged by them, whatever egress permits; nothing is asked of the proxy."""
    async with ScriptedRelay() as relay, ScriptedProxy(kind) as proxy:
        for host in ("127.0.0.1", "localhost"):
            told = await opened(relay, through(proxy, targets=tuple(rules("10.0.0.0/8"))), policy=LOOPBACK, host=host)
            assert isinstance(told, Fault)
            assert (told.phase, told.trouble) == (Phase.RESOLVE, Trouble.EGRESS_REFUSED)
        wrong_port = tuple(rules(f"127.0.0.0/8 {relay.port + 1}"))
        assert isinstance(await opened(relay, through(proxy, targets=wrong_port), policy=LOOPBACK), Fault)
        assert proxy.asked == []


@pytest.mark.parametrize("kind", KINDS)
async def test_without_targets_egress_holds(kind: str) -> None:
    """A connector that names none is no way around the policy."""
    async with ScriptedRelay() as relay, ScriptedProxy(kind) as proxy:
        told = await opened(relay, through(proxy, targets=()), policy=NOWHERE)
        assert isinstance(told, Fault)
        assert told.trouble is Trouble.EGRESS_REFUSED
        await carried(relay, through(proxy, targets=()), policy=LOOPBACK)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_name_is_left_to_the_proxy_only_if_the_operator_says_so(kind: str) -> None:
    """With `remote_dns` it gets the name, at a port that may be dialled; a literal address is judged all the same."""
    async with ScriptedRelay() as relay, ScriptedProxy(kind, names={"only.there.test": "127.0.0.1"}) as proxy:
        way = through(proxy, remote_dns=True, targets=tuple(rules(f"10.0.0.0/8 {relay.port}")))
        await carried(relay, way, host="only.there.test")
        assert isinstance(await opened(relay, way, host="127.0.0.1"), Fault)
        closed = through(proxy, remote_dns=True, targets=tuple(rules("10.0.0.0/8 25")))
        assert isinstance(await opened(relay, closed, host="only.there.test"), Fault)
        unresolved = await opened(relay, through(proxy), host="only.there.invalid")

    assert isinstance(unresolved, Fault)
    assert unresolved.trouble is Trouble.NAME_UNKNOWN
    assert proxy.asked == [f"only.there.test:{relay.port}"]
