"""Where tenants' traffic may go: the operator's policy over addresses and ports, asked for every address ever dialled.

Public and private addresses are open on the mail ports, to webhooks only public ones; loopback, link-local, metadata services, multicast and
reserved ranges only where `allow` says so; `deny` wins over everything. An IPv4 address hidden in an IPv6 one
(mapped, NAT64, 6to4) is judged as both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, Protocol

Address = IPv4Address | IPv6Address

_NAT64: Final = IPv6Network("64:ff9b::/96")
_METADATA: Final = frozenset(
    ip_address(text)
    for text in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)


class Rule(Protocol):
    """One entry of `allow` or `deny`: a network, and a port or None for every port."""

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """The addresses it speaks of."""

    @property
    def port(self) -> int | None:
        """The port it speaks of."""


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """May this address and port be dialled for a tenant? `public`: of private networks only what `allow` adds."""

    ports: tuple[int, ...]
    allow: Sequence[Rule] = ()
    deny: Sequence[Rule] = ()
    public: bool = False

    def permits(self, address: Address, port: int) -> bool:
        """Judge one address; every IPv4 address inside an IPv6 one must be permitted too."""
        faces = [address, *_embedded(address)]
        if any(_matches(self.deny, face, port) for face in faces):
            return False
        return all(_matches(self.allow, face, port) or self._open(face, port) for face in faces)

    def permits_port(self, port: int) -> bool:
        """Is there an address at which this port may be dialled?"""
        return port in self.ports or any(rule.port in (None, port) for rule in self.allow)

    def over(self, scheme: str) -> "EgressPolicy":
        """Give the policy for a web address of this scheme: without TLS nothing is open but what `allow` says."""
        return self if scheme == "https" else replace(self, ports=())

    def _open(self, address: Address, port: int) -> bool:
        return port in self.ports and not _special(address) and (_public(address) or not self.public)


def _matches(rules: Sequence[Rule], address: Address, port: int) -> bool:
    return any(
        rule.network.version == address.version and address in rule.network and rule.port in (None, port)
        for rule in rules
    )


def _special(address: Address) -> bool:
    """Is it an address at which no relay of a tenant can be?"""
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.sixtofour or address in _NAT64):
        return False  # judged by the IPv4 address inside
    return (
        address in _METADATA
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or (isinstance(address, IPv4Address) and address in IPv4Network("0.0.0.0/8"))
    )


def _public(address: Address) -> bool:
    """Is it reached from everywhere? One that holds an IPv4 address is as public as that, which is judged too."""
    if isinstance(address, IPv6Address) and address.is_site_local:
        return False
    return address.is_global or bool(_embedded(address))


def _embedded(address: Address) -> list[Address]:
    if isinstance(address, IPv4Address):
        return []
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
