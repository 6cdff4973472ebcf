"""Addresses, network rules and store URLs: text in the settings file, values everywhere else.

Every `parse_…` function takes what stood in the file and returns a frozen value, or raises a refusal (a
`ValueError`) that says what to write instead. A value that is parsed already is returned as it is, so that
settings can also be built in code. Nothing here looks at the network or the disk.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import idna
from pydantic import SecretStr

from gateway.settings.faults import refuse, refuse_kind

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HIGHEST_PORT = 65535
LISTEN_FORMS = 'write "127.0.0.1:8025", "[::1]:8025", "unix:/run/…/name.sock" or "systemd"'
RULE_FORMS = 'write "10.0.0.0/8", "10.0.0.0/8:25", "fd00::/8" or "[fd00::/8]:25"'
STORE_FORMS = 'write "sqlite:///var/gateway.db", "sqlite:////var/lib/…/gateway.db" or "postgresql://host/name"'

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (canonical IP literal or lower-case name) and a TCP port; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        """Give `host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix stream socket by its path (absolute once loaded)."""

    path: Path

    def __str__(self) -> str:
        """Give `unix:path`."""
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class SystemdSocket:
    """The socket that systemd passes to the daemon."""

    def __str__(self) -> str:
        """Give `systemd`."""
        return "systemd"


ListenAddress = TcpAddress | UnixAddress | SystemdSocket


@dataclass(frozen=True, slots=True)
class EgressRule:
    """A network, and the port on it that is meant; `None` means every port."""

    network: Network
    port: int | None

    def __str__(self) -> str:
        """Give `CIDR[:port]`, as in the settings file."""
        if self.port is None:
            return str(self.network)
        return f"[{self.network}]:{self.port}" if self.network.version == 6 else f"{self.network}:{self.port}"


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """The embedded store, by the path of its database file (absolute once loaded)."""

    path: Path

    def __str__(self) -> str:
        """Give the URL."""
        return f"sqlite:///{self.path}"


@dataclass(frozen=True, slots=True)
class PostgresqlUrl:
    """The shared store; `url` may hold a password and so does not print itself."""

    url: SecretStr

    def __str__(self) -> str:
        """Give the URL without password and query (which can hold one too)."""
        parts = urlsplit(self.url.get_secret_value())
        login, at, server = parts.netloc.rpartition("@")
        return f"postgresql://{login.partition(':')[0]}{at}{server}{parts.path}"


StoreUrl = SqliteUrl | PostgresqlUrl


def text(value: object) -> str:
    """Return a text that is not empty and holds no control character."""
    if not isinstance(value, str):
        refuse_kind("text", value)
    if not value or any(ord(character) < ord(" ") or ord(character) == 0x7F for character in value):
        refuse("is empty or holds control characters", "write plain text")
    return value


def parse_listen(value: object) -> ListenAddress:
    """Read `host:port`, `unix:path` or `systemd`."""
    if isinstance(value, TcpAddress | UnixAddress | SystemdSocket):
        return value
    written = text(value)
    if written == "systemd":
        return SystemdSocket()
    if written.startswith("unix:"):
        return UnixAddress(Path(text(written.removeprefix("unix:"))))
    return _tcp(written, lowest=0, forms=LISTEN_FORMS)


def parse_local_tcp(value: object) -> TcpAddress:
    """Read the `host:port` to listen on; port 0 is allowed."""
    if isinstance(value, TcpAddress):
        return value
    return _tcp(text(value), lowest=0, forms='write "127.0.0.1:1025" or "[::1]:1025"')


def parse_remote_tcp(value: object) -> TcpAddress:
    """Read the `host:port` to connect to."""
    if isinstance(value, TcpAddress):
        return value
    return _tcp(text(value), lowest=1, forms='write "proxy.example.test:1080" or "[2001:db8::9]:1080"')


def parse_rule(value: object) -> EgressRule:
    """Read `CIDR[:port]`; an IPv6 network with a port stands in brackets."""
    if isinstance(value, EgressRule):
        return value
    written = text(value)
    if written.startswith("["):
        network, bracket, rest = written[1:].partition("]")
        if not bracket or rest[:1] not in ("", ":") or ":" not in network:
            refuse("is not a network", RULE_FORMS)
        port = rest[1:] if rest else None
    elif written.count(":") == 1:
        network, _, port = written.partition(":")
    else:
        network, port = written, None
    return EgressRule(parse_network(network), None if port is None else _port(port, 1, RULE_FORMS))


def parse_network(value: object) -> Network:
    """Read a CIDR without host bits, or one address (which is a network of one)."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    written = text(value)
    network = _network(written, strict=False)
    if network is None or "." in written.partition("/")[2]:
        refuse("is not a network", RULE_FORMS)
    if _network(written, strict=True) is None:
        # Guessing which of the two was meant could open more than the operator wants.
        refuse("has bits set beyond its prefix", "set those bits to zero, or lengthen the prefix")
    return network


def parse_store(value: object) -> StoreUrl:
    """Read the store's URL: three slashes before a relative SQLite path, four before an absolute one."""
    if isinstance(value, SqliteUrl | PostgresqlUrl):
        return value
    written = text(value)
    if written.startswith(("postgresql://", "postgres://")):
        return PostgresqlUrl(SecretStr(written))
    path = written.removeprefix("sqlite:///")
    if path == written or path in ("", "/") or path.endswith("/"):
        refuse("is not the URL of a store", STORE_FORMS)
    if path == ":memory:" or "?" in path or "#" in path:
        refuse("must name a database file, without options", STORE_FORMS)
    return SqliteUrl(Path(path))


def parse_host(value: object) -> str:
    """Return a host in the one form in which hosts are compared: canonical IP literal, or lower-case A-labels."""
    written = text(value)
    try:
        return str(ipaddress.ip_address(written.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    name = written.rstrip(".").lower()
    if not name.isascii():
        name = _a_labels(name)
    if not is_domain(name) or name.rpartition(".")[2].isdigit():
        refuse("is not the name or the address of a host", 'write "mail.example.test" or "192.0.2.1"')
    return name


def is_domain(name: str) -> bool:
    """Tell whether a lower-case name has the syntax of a domain (RFC 5321 §4.1.2), which a single label has too."""
    return len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))


def _network(written: str, *, strict: bool) -> Network | None:
    try:
        return ipaddress.ip_network(written, strict=strict)
    except ValueError:
        return None


def _a_labels(name: str) -> str:
    try:
        return idna.encode(name).decode()
    except idna.IDNAError:
        return ""


def _tcp(written: str, lowest: int, forms: str) -> TcpAddress:
    host, colon, port = written.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or bracketed != (":" in host):
        refuse("is not an address with a port", forms)
    return TcpAddress(parse_host(host), _port(port, lowest, forms))


def _port(written: str, lowest: int, forms: str) -> int:
    if not _PORT.fullmatch(written):
        refuse("has no port number after its colon", forms)
    if not lowest <= int(written) <= HIGHEST_PORT:
        refuse("has a port that is out of range", f"use a port from {lowest} to {HIGHEST_PORT}")
    return int(written)
