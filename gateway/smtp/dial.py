"""A connected socket for a host name: resolve, drop what egress refuses, dial the rest side by side (RFC 8305).

The address that was judged is the address that is dialled; nothing looks the name up a second time, so an answer
that changes in between (DNS rebinding) changes nothing. That holds through a proxy too, which is told the address:
only with `remote_dns` it is told the name, and resolves it as it likes.
"""

import asyncio
import base64
import socket
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, cast

import aiohappyeyeballs
import python_socks
from python_socks import ProxyConnectionError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy as SocksProxy

from gateway.credentials.secret import Secret
from gateway.smtp.egress import EgressPolicy, Rule
from gateway.smtp.outcome import Fault, Phase, Trouble, Watch, unwatched

CONNECT_SECONDS: Final = 15.0
ATTEMPT_DELAY_SECONDS: Final = 0.25
MOST_HEAD: Final = 8 * 1024  # octets of a proxy's answer

SOCKS_REPLIES: Final = {
    1: "the proxy fails at this target",
    2: "the proxy refuses this target",
    3: "the proxy does not reach the target's network",
    4: "the proxy does not reach the target",
    5: "the target refuses the proxy's connection",
    6: "the proxy does not reach the target in time",
}
"""What a SOCKS5 proxy says about a target (RFC 1928 §6)."""

_GONE: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
AddressInfo = aiohappyeyeballs.AddrInfoType


class ProxyKind(StrEnum):
    """How a proxy is spoken to."""

    SOCKS5 = "socks5"
    HTTP_CONNECT = "http_connect"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy of the operator's: where it is, who signs in there, and what it may be asked to reach.

    `targets` stands in for the egress policy; without any, that policy holds here too.
    """

    kind: ProxyKind
    host: str
    port: int
    username: str | None = None
    password: Secret | None = None
    targets: Sequence[Rule] = ()
    remote_dns: bool = False


class ProxyError(Exception):
    """The proxy does not connect us, at all or to this target; the text is ours."""

    def __init__(self, text: str, *, of_target: bool = False) -> None:
        super().__init__(text)
        self.of_target = of_target


@dataclass(frozen=True, slots=True)
class Dialer:
    """Opens sockets under one egress policy."""

    policy: EgressPolicy
    connect_seconds: float = CONNECT_SECONDS

    async def dial(
        self, host: str, port: int, proxy: Proxy | None = None, watch: Watch = unwatched
    ) -> socket.socket | Fault:
        """Connect to one of the host's permitted addresses; a Fault says in which phase it failed and why."""
        policy = self.policy if proxy is None or not proxy.targets else EgressPolicy((), proxy.targets)
        if not policy.permits_port(port):
            return Fault(Phase.RESOLVE, Trouble.EGRESS_REFUSED, "egress_refused")
        if proxy is not None and proxy.remote_dns and not _is_address(host):
            watch(Phase.RESOLVE, "left to the proxy")
            return await self._connect(_through(proxy, [host], port), watch)
        addresses = await self._resolve(host, port, policy)
        if isinstance(addresses, Fault):
            return addresses
        count = len(addresses)
        watch(Phase.RESOLVE, "1 address" if count == 1 else f"{count} addresses")
        if proxy is None:
            reached = aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=ATTEMPT_DELAY_SECONDS, interleave=1
            )
            return await self._connect(reached, watch)
        return await self._connect(_through(proxy, [str(info[4][0]) for info in addresses], port), watch)

    async def _connect(self, reaching: Coroutine[None, None, socket.socket], watch: Watch) -> socket.socket | Fault:
        try:
            async with asyncio.timeout(self.connect_seconds):
                sock = await reaching
        except TimeoutError:
            return Fault(Phase.CONNECT, Trouble.UNREACHABLE, f"no answer within {self.connect_seconds:g} s")
        except ProxyError as error:
            return Fault(Phase.CONNECT, Trouble.UNREACHABLE, str(error))
        except OSError as error:
            return Fault(Phase.CONNECT, Trouble.UNREACHABLE, _reason(error))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        watch(Phase.CONNECT, "over IPv6" if sock.family is socket.AF_INET6 else "over IPv4")
        return sock

    async def _resolve(self, host: str, port: int, policy: EgressPolicy) -> list[AddressInfo] | Fault:
        try:
            async with asyncio.timeout(self.connect_seconds):
                found = await _addresses(host, port)
        except TimeoutError:
            return Fault(Phase.RESOLVE, Trouble.UNREACHABLE, "the name was not resolved in time")
        except (OSError, ValueError) as error:  # ValueError: no host name at all, such as one with a NUL
            if isinstance(error, ValueError) or getattr(error, "errno", None) in _GONE:
                return Fault(Phase.RESOLVE, Trouble.NAME_UNKNOWN, "the name does not exist")
            return Fault(Phase.RESOLVE, Trouble.UNREACHABLE, "the name could not be resolved")
        permitted = [info for info in found if policy.permits(ip_address(str(info[4][0]).partition("%")[0]), port)]
        if not permitted:
            return Fault(Phase.RESOLVE, Trouble.EGRESS_REFUSED, "egress_refused")
        return permitted


async def _addresses(host: str, port: int) -> list[AddressInfo]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [cast("AddressInfo", info) for info in found]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _reason(error: OSError) -> str:
    """Say what the system said, without the address."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or "connection failed").lower() if error.errno and error.errno > 0 else "connection failed"


# Through a proxy.


async def _through(proxy: Proxy, targets: Sequence[str], port: int) -> socket.socket:
    """Have the proxy connect to the first of the targets that it reaches."""
    ask = _socks5 if proxy.kind is ProxyKind.SOCKS5 else _http_connect
    refusal = ProxyError("the proxy was asked for nothing")
    for target in targets:
        try:
            return await ask(proxy, target, port)
        except ProxyError as error:
            refusal = error
            if not error.of_target:
                break
    raise refusal


async def _socks5(proxy: Proxy, target: str, port: int) -> socket.socket:
    """RFC 1928, RFC 1929."""
    password = None if proxy.password is None else proxy.password.reveal()
    asked = SocksProxy(ProxyType.SOCKS5, proxy.host, proxy.port, proxy.username, password, rdns=True)
    try:
        return await asked.connect(target, port)
    except (ProxyConnectionError, ProxyTimeoutError):
        raise ProxyError("the proxy cannot be reached") from None
    except python_socks.ProxyError as error:
        if error.error_code in SOCKS_REPLIES:
            raise ProxyError(SOCKS_REPLIES[error.error_code], of_target=True) from None
        raise ProxyError("the proxy does not let us in, or is no SOCKS5 proxy") from None


async def _http_connect(proxy: Proxy, target: str, port: int) -> socket.socket:
    """RFC 9110 §9.3.6, octet by octet.

    A relay speaks first, so its greeting may come with the proxy's answer; not one octet of it may be read here,
    which is why this is no library's.
    """
    loop = asyncio.get_running_loop()
    try:
        sock = await aiohappyeyeballs.start_connection(await _addresses(proxy.host, proxy.port))
    except OSError:
        raise ProxyError("the proxy cannot be reached") from None
    try:
        await loop.sock_sendall(sock, _request(proxy, target, port))
        head = bytearray()
        while not head.endswith(b"\r\n\r\n"):
            octet = await loop.sock_recv(sock, 1)
            if not octet or len(head) == MOST_HEAD:
                raise ProxyError("the proxy gives no answer that is HTTP")
            head += octet
        _check_answer(bytes(head))
    except BaseException:
        sock.close()
        raise
    return sock


def _request(proxy: Proxy, target: str, port: int) -> bytes:
    authority = f"[{target}]:{port}" if ":" in target else f"{target}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.username is not None and proxy.password is not None:
        pair = f"{proxy.username}:{proxy.password.reveal()}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


def _check_answer(head: bytes) -> None:
    version, _, rest = head.partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/1.") or not status.isdigit():
        raise ProxyError("the proxy gives no answer that is HTTP")
    match int(status) // 100, int(status):
        case 2, _:
            return
        case _, 407:
            raise ProxyError("the proxy does not let us in")
        case _, 403 | 405:
            raise ProxyError("the proxy refuses this target", of_target=True)
        case _:
            raise ProxyError(f"the proxy does not reach the target (HTTP {int(status)})", of_target=True)
