"""Mail through the proxies of the world, microsocks and Squid, to an Exim behind them: with an account, and without."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio

from gateway.credentials.secret import Secret
from gateway.smtp.dial import Proxy, ProxyKind
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.outcome import Fault, Phase, Relayed, Trouble
from gateway.smtp.session import Relay, Security
from gateway.smtp.transaction import Engine
from tests.peers.exim import EximRelay, exim_available
from tests.peers.postfix import free_port
from tests.peers.proxies import HttpProxy, SocksProxy, http_proxy_available, socks_available
from tests.peers.requirements import require
from tests.peers.smtp_server import ScriptedRelay
from tests.smtp.talking import kinds, letter, opener, relay_at, rules

pytestmark = pytest.mark.asyncio(loop_scope="module")
ACCOUNT = ("way-out", "pr0xy: pass")


@dataclass(frozen=True)
class Behind:
    """A relay, and what arrives behind it."""

    exim: EximRelay
    sink: ScriptedRelay

    def relay(self, proxy: Proxy, security: Security = Security.STARTTLS, host: str = "127.0.0.1") -> Relay:
        """Give the way to it."""
        port = self.exim.tls_port if security is Security.IMPLICIT_TLS else self.exim.port
        return replace(relay_at(port, security, host=host, ca=self.exim.ca_pem, password="s3cret"), proxy=proxy)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind() -> AsyncIterator[Behind]:
    """One relay for the module."""
    require("exim (tests/peers/fetch.sh)", exim_available())
    async with ScriptedRelay() as sink:
        with EximRelay(sink.port) as exim:
            yield Behind(exim, sink)


@pytest.fixture(scope="module", params=["socks5", "http_connect"])
def kind(request: pytest.FixtureRequest) -> ProxyKind:
    """Each kind that this machine has."""
    if request.param == "socks5":
        require("microsocks (tests/peers/fetch.sh)", socks_available())
    else:
        require("squid (tests/peers/fetch.sh)", http_proxy_available())
    return ProxyKind(request.param)


def start(kind: ProxyKind, account: tuple[str, str] | None) -> SocksProxy | HttpProxy:
    """Give a proxy to start."""
    return SocksProxy(account) if kind is ProxyKind.SOCKS5 else HttpProxy(account)


@pytest.fixture(scope="module")
def closed(kind: ProxyKind) -> Iterator[Proxy]:
    """Run a proxy for one account; this is the way through it."""
    with start(kind, ACCOUNT) as proxy:
        yield Proxy(kind, proxy.host, proxy.port, ACCOUNT[0], Secret(ACCOUNT[1]))


@pytest.fixture(scope="module")
def opened(kind: ProxyKind) -> Iterator[Proxy]:
    """Run a proxy for everybody."""
    with start(kind, None) as proxy:
        yield Proxy(kind, proxy.host, proxy.port)


async def fault(relay: Relay) -> Fault:
    """Open in vain."""
    told = await opener().open(relay)
    if isinstance(told, Engine):
        told.abort()
    assert isinstance(told, Fault)
    return told


async def arrives(behind: Behind, relay: Relay, number: str) -> None:
    """Send a message, and see it come out behind the relay."""
    engine = await opener().open(relay)
    assert isinstance(engine, Engine), engine
    assert kinds(await engine.transact(letter(number))) == [Relayed]
    await engine.quit()
    await behind.sink.wait(
        lambda: any(caught.message_id == f"<{number}@example.test>" for caught in behind.sink.messages)
    )


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.IMPLICIT_TLS])
async def test_through_a_proxy_with_an_account(security: Security, closed: Proxy, behind: Behind) -> None:
    """The greeting that comes with the proxy's answer is not lost, and TLS is the relay's, by the relay's name."""
    await arrives(behind, behind.relay(closed, security), f"closed-{closed.kind}-{security}")


async def test_through_a_proxy_for_everybody(opened: Proxy, behind: Behind) -> None:
    """Nothing is said about an account."""
    await arrives(behind, behind.relay(opened), f"opened-{opened.kind}")


async def test_the_proxy_resolves_the_name(opened: Proxy, behind: Behind) -> None:
    """With `remote_dns` it is told the name as it stands; the certificate is checked against the same name."""
    through = replace(opened, remote_dns=True, targets=tuple(rules("127.0.0.0/8")))
    await arrives(behind, behind.relay(through, host="localhost"), f"named-{opened.kind}")


@pytest.mark.parametrize("who", [("way-out", "wrong"), (None, None)], ids=["wrong", "nobody"])
async def test_the_proxy_lets_nobody_else_in(who: tuple[str | None, str | None], closed: Proxy, behind: Behind) -> None:
    """That is no fault of the relay's password, and says whose it is; the proxy's own password is not in it."""
    username, password = who
    through = replace(closed, username=username, password=None if password is None else Secret(password))
    told = await fault(behind.relay(through))

    assert (told.phase, told.trouble) == (Phase.CONNECT, Trouble.UNREACHABLE)
    assert "the proxy does not let us in" in told.detail


async def test_nobody_listens_behind_the_proxy(opened: Proxy, behind: Behind) -> None:
    """The proxy's word on its target is told as such."""
    told = await fault(replace(behind.relay(opened), port=free_port()))

    assert (told.phase, told.trouble) == (Phase.CONNECT, Trouble.UNREACHABLE)
    assert "target" in told.detail


async def test_nobody_is_the_proxy(kind: ProxyKind, behind: Behind) -> None:
    """A proxy that is not there is not got round."""
    told = await fault(behind.relay(Proxy(kind, "127.0.0.1", free_port())))

    assert (told.trouble, told.detail) == (Trouble.UNREACHABLE, "the proxy cannot be reached")


async def test_a_proxy_is_no_way_round_the_egress_policy(opened: Proxy, behind: Behind) -> None:
    """What the policy refuses is refused before the proxy is asked."""
    strict = opener(policy=EgressPolicy(ports=(25,)))
    told = await strict.open(behind.relay(opened))

    assert isinstance(told, Fault)
    assert told.trouble is Trouble.EGRESS_REFUSED
