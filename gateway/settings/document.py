"""`Settings`, the whole settings file as one value, and what must hold between its sections."""

import ipaddress
from collections.abc import Iterator, Mapping
from itertools import combinations

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from gateway.settings.connections import BUILT_IN_OAUTH, Connection, Connector, OAuthProvider
from gateway.settings.faults import refusal
from gateway.settings.kinds import Contradictions, Name, Section, Table, expect_table
from gateway.settings.sections import (
    Admin,
    Demo,
    Egress,
    Http,
    LocalSecrets,
    Log,
    MailCatcher,
    MasterKey,
    Metrics,
    Paths,
    Provision,
    Relay,
    Retention,
    Store,
    Tenants,
    Ui,
)
from gateway.settings.values import ListenAddress, TcpAddress, parse_listen

NAMED = frozenset({"connectors", "connections", "oauth"})
"""The sections whose tables the operator names."""

_LISTENERS: Mapping[str, type[Section]] = {"http": Http, "metrics": Metrics, "mail_catcher": MailCatcher}
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 - compared with, not listened on


class Settings(Section):
    """The whole settings file: immutable, complete, every path absolute."""

    paths: Paths
    http: Http
    metrics: Metrics
    admin: Admin
    ui: Ui
    store: Store
    master_key: MasterKey
    retention: Retention
    tenants: Tenants
    relay: Relay
    egress: Egress
    local_secrets: LocalSecrets
    provision: Provision
    connectors: Table[Name, Connector] = Field(default_factory=dict)
    connections: Table[Name, Connection] = Field(default_factory=dict)
    oauth: Table[Name, OAuthProvider] = Field(default_factory=dict)
    log: Log
    mail_catcher: MailCatcher
    demo: Demo | None = None

    @classmethod
    def contradictions(cls, keys: Mapping[str, object]) -> Contradictions:
        """Refuse listeners in each other's way, and tables that need another one which is not there."""
        yield from _clashing_listeners(keys)
        yield from _unknown_connections(keys)
        yield from _misplaced_token_addresses(keys)

    @model_validator(mode="before")
    @classmethod
    def _with_every_section(cls, data: object) -> object:
        # An absent section is validated as an empty one, for its default paths to be resolved like written ones.
        if not isinstance(data, Mapping):
            return data
        fixed = (name for name, field in cls.model_fields.items() if field.is_required())
        return {**{name: {} for name in fixed}, **data}


def _clashing_listeners(keys: Mapping[str, object]) -> Contradictions:
    addresses = [(section, address) for section in _LISTENERS for address in _listens(keys, section)]
    for (_, one), (section, other) in combinations(addresses, 2):
        if _clash(one, other):
            problem = "names an address that another listener has too"
            yield (section, "listen"), refusal(problem, "give each listener its own address")


def _listens(keys: Mapping[str, object], section: str) -> Iterator[ListenAddress]:
    default = _LISTENERS[section].model_fields["listen"].default
    written = expect_table(keys.get(section)).get("listen", default)
    for one in written if isinstance(written, list | tuple) else [written]:
        try:
            yield parse_listen(one)
        except PydanticCustomError:
            continue  # told where the key itself is validated


def _clash(one: ListenAddress, other: ListenAddress) -> bool:
    if not isinstance(one, TcpAddress) or not isinstance(other, TcpAddress):
        return one == other
    if one.port != other.port or one.port == 0:
        return False
    same_family = _family(one) == _family(other)
    return one.host == other.host or (same_family and not _WILDCARDS.isdisjoint((one.host, other.host)))


def _family(address: TcpAddress) -> int | None:
    try:
        return ipaddress.ip_address(address.host).version
    except ValueError:
        return None


def _unknown_connections(keys: Mapping[str, object]) -> Contradictions:
    known = expect_table(keys.get("connections"))
    for name, connector in expect_table(keys.get("connectors")).items():
        wanted = expect_table(expect_table(connector).get("credential")).get("connection")
        if isinstance(wanted, str) and wanted not in known:
            problem = "names a connection that is not defined"
            yield ("connectors", name, "credential", "connection"), refusal(problem, "define it under [connections]")


def _misplaced_token_addresses(keys: Mapping[str, object]) -> Contradictions:
    for name, provider in expect_table(keys.get("oauth")).items():
        if not isinstance(provider, Mapping):
            continue
        if "token_url" not in provider and name not in BUILT_IN_OAUTH:
            problem = "is missing, and the daemon does not know this provider"
            yield ("oauth", name, "token_url"), refusal(problem, "give the address where its tokens are fetched")
        if name == "microsoft365" and "token_url" in provider:
            yield ("oauth", name, "token_url"), refusal("depends on the directory here", "give authority")
        if name != "microsoft365" and "authority" in provider:
            yield ("oauth", name, "authority"), refusal("is for microsoft365 only", "give token_url")
