"""Where a request comes from: the peer, or whom a trusted proxy names.

`X-Forwarded-For` is read from the right, because each proxy appends whom it saw: the first address that is no trusted
proxy is the client's, and whatever stands left of it the client may have made up. A header from a peer that is not
trusted is not looked at.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import web

from gateway.settings import Network

Address = IPv4Address | IPv6Address


def client_address(request: web.BaseRequest, trusted: Sequence[Network]) -> Address | None:
    """Find the client's address; None behind a Unix socket that names nobody."""
    transport = request.transport
    peername = transport.get_extra_info("peername") if transport is not None else None
    peer = parse_ip(peername[0]) if isinstance(peername, tuple) else None
    # Whoever holds the other end of a Unix socket was let in by the file system, which makes it a proxy.
    if not trusted or not (peer is None or is_within(peer, trusted)):
        return peer
    return _forwarded(request.headers.getall("X-Forwarded-For", []), peer, trusted)


def _forwarded(fields: Sequence[str], peer: Address | None, trusted: Sequence[Network]) -> Address | None:
    nearest = peer
    for hop in reversed(",".join(fields).split(",")):
        address = parse_ip(hop.strip())
        if address is None:
            return nearest  # not an address: what stands left of it came through something we do not know
        nearest = address
        if not is_within(address, trusted):
            return nearest
    return nearest


@lru_cache(maxsize=1024)
def parse_ip(text: str) -> Address | None:
    """Read an address, with or without brackets; one that is IPv4 in IPv6's clothes is IPv4. None if it is none."""
    try:
        address = ip_address(text.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def is_within(address: Address, networks: Sequence[Network]) -> bool:
    """Is the address in one of the networks?"""
    return any(address in network for network in networks)


def bucket_name(address: Address | None) -> str:
    """What failed attempts of a client are counted under: an IPv6 customer has a /64 to choose addresses from."""
    if isinstance(address, IPv6Address):
        return address.packed[:8].hex()
    return str(address)
