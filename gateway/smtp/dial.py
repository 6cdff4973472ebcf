"""A connected socket for a host name: resolve, drop what egress refuses, dial the rest side by side (RFC 8305).

The address that was judged is the address that is dialled; nothing looks the name up a second time, so an answer
that changes in between (DNS rebinding) changes nothing.
"""

import asyncio
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import cast

import aiohappyeyeballs

from gateway.smtp.egress import EgressPolicy
from gateway.smtp.outcome import Fault, Phase, Trouble

CONNECT_SECONDS = 15.0
ATTEMPT_DELAY_SECONDS = 0.25

_GONE = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
AddressInfo = aiohappyeyeballs.AddrInfoType


@dataclass(frozen=True, slots=True)
class Dialer:
    """Opens sockets under one egress policy."""

    policy: EgressPolicy
    connect_seconds: float = CONNECT_SECONDS

    async def dial(self, host: str, port: int) -> socket.socket | Fault:
        """Connect to one of the host's permitted addresses; a Fault says in which phase it failed and why."""
        addresses = await self._resolve(host, port)
        if isinstance(addresses, Fault):
            return addresses
        try:
            async with asyncio.timeout(self.connect_seconds):
                sock = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=ATTEMPT_DELAY_SECONDS, interleave=1
                )
        except TimeoutError:
            return Fault(Phase.CONNECT, Trouble.UNREACHABLE, f"no answer within {self.connect_seconds:g} s")
        except OSError as error:
            return Fault(Phase.CONNECT, Trouble.UNREACHABLE, _reason(error))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    async def _resolve(self, host: str, port: int) -> list[AddressInfo] | Fault:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.connect_seconds):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except TimeoutError:
            return Fault(Phase.RESOLVE, Trouble.UNREACHABLE, "the name was not resolved in time")
        except (OSError, ValueError) as error:  # ValueError: no host name at all, such as one with a NUL
            if isinstance(error, ValueError) or getattr(error, "errno", None) in _GONE:
                return Fault(Phase.RESOLVE, Trouble.NAME_UNKNOWN, "the name does not exist")
            return Fault(Phase.RESOLVE, Trouble.UNREACHABLE, "the name could not be resolved")
        permitted = [cast("AddressInfo", info) for info in found if self._permits(str(info[4][0]), port)]
        if not permitted:
            return Fault(Phase.RESOLVE, Trouble.EGRESS_REFUSED, "egress_refused")
        return permitted

    def _permits(self, address: str, port: int) -> bool:
        return self.policy.permits(ip_address(address.partition("%")[0]), port)


def _reason(error: OSError) -> str:
    """Say what the system said, without the address."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or "connection failed").lower() if error.errno and error.errno > 0 else "connection failed"
