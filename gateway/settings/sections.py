"""The sections of the settings file whose names are fixed, each with its keys, their ranges and their defaults.

This is the only place where a default lives. What a section promises holds for every value of it, also for one
built in code.
"""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from gateway.settings.faults import refusal, refuse
from gateway.settings.kinds import (
    AnyPath,
    AtLeastOne,
    Cidr,
    Contradictions,
    ExistingFile,
    ExistingFolder,
    Host,
    Listens,
    LocalTcp,
    Many,
    Name,
    Port,
    Rule,
    SecretSource,
    SecretUrl,
    Section,
    StoreLocation,
    Table,
    TenantOrAny,
    Text,
    VariablePattern,
    WebUrl,
    both_or_neither,
)
from gateway.settings.pem import CertificateFile, key_of
from gateway.settings.values import ListenAddress, SqliteUrl, SystemdSocket, TcpAddress, is_domain, parse_host, text

DAY_SECONDS = 86_400


def _ehlo_name(value: object) -> str:
    written = text(value)
    if written.startswith("[") and written.endswith("]"):
        address = parse_host(written.removeprefix("[IPv6:").removeprefix("[").removesuffix("]"))
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
    return parse_host(written)


def _host_name() -> str:
    # A relay may refuse an EHLO that is no domain name, and host names with underscores are common in containers.
    name = socket.gethostname().rstrip(".").lower()
    return name if is_domain(name) and not name.rpartition(".")[2].isdigit() else "localhost"


def _recipient(value: object) -> str:
    if not re.fullmatch(r"[^@\s]{1,64}@[^@\s]+\.[^@\s]+", text(value)):
        refuse("is not a mail address", 'write a bare address such as "ann@example.test"')
    return str(value)


def _oidc_scope(value: object) -> str:
    if not re.fullmatch(r"[!#-\[\]-~]{1,64}", text(value)):
        refuse("is not a scope", "write one scope, without spaces, quotes and backslashes")
    return str(value)


def _bound_by_us(addresses: tuple[ListenAddress, ...]) -> tuple[ListenAddress, ...]:
    if SystemdSocket() in addresses:
        remedy = 'write "127.0.0.1:9025", or "unix:/run/…/metrics.sock"'
        refuse("names the sockets that systemd passes, where the API is", remedy)
    return addresses


OidcScope = Annotated[str, PlainValidator(_oidc_scope)]
EhloName = Annotated[str, PlainValidator(_ehlo_name)]
Recipient = Annotated[str, PlainValidator(_recipient)]
Seconds = Annotated[int, Field(ge=1, le=DAY_SECONDS)]


class Paths(Section):
    """Where relative paths start: `base`, itself relative to the settings file's folder."""

    base: ExistingFolder = Path()


class Http(Section):
    """The API and the pages. With `tls_certificate` and `tls_key` (PEM files) it speaks TLS.

    Peers within `trusted_proxies` are believed when they say for whom they ask.
    """

    listen: Annotated[Listens, AtLeastOne] = (TcpAddress("127.0.0.1", 8025),)
    tls_certificate: CertificateFile | None = None
    tls_key: Annotated[ExistingFile, key_of("tls_certificate")] | None = None
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 36_700_160
    header_timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 30
    body_timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 15
    trusted_proxies: Many[Cidr] = ()

    @classmethod
    def contradictions(cls, keys: Mapping[str, object]) -> Contradictions:
        """Refuse a certificate without its key, and the reverse."""
        return both_or_neither(keys, "tls_certificate", "tls_key")


class Metrics(Section):
    """The metrics listener (an empty list: none), and whether metrics are told apart by tenant."""

    listen: Annotated[Listens, AfterValidator(_bound_by_us)] = (TcpAddress("127.0.0.1", 9025),)
    tenant_label: bool = False


class Admin(Section):
    """The Unix socket for the command line, the only one that gives rights by peer credentials."""

    socket: AnyPath = Path("var/admin.sock")


class Oidc(Section):
    """Sign-in to the pages through an OpenID provider; members of `admin_group` are system administrators.

    `scopes` are asked for beside `openid`; `ca_certificates`, if given, are the only ones trusted.
    """

    issuer: SecretUrl
    client_id: Text
    client_secret_file: AnyPath
    admin_group: Text
    groups_claim: Text = "groups"
    scopes: Many[OidcScope] = ("profile", "email")
    ca_certificates: CertificateFile | None = None


class Ui(Section):
    """The pages. `public_url` is the address that browsers use; without `oidc` one signs in with an API key."""

    public_url: WebUrl | None = None
    session_idle_minutes: Annotated[int, Field(ge=1, le=1440)] = 30
    session_absolute_hours: Annotated[int, Field(ge=1, le=168)] = 12
    oidc: Oidc | None = None

    @classmethod
    def contradictions(cls, keys: Mapping[str, object]) -> Contradictions:
        """Refuse OpenID sign-in without the address to which the provider sends the browser back, and one with a path."""
        if keys.get("oidc") is not None and keys.get("public_url") is None:
            yield ("public_url",), refusal("is missing, while oidc is given", "give the address that browsers use")
        url = keys.get("public_url")
        if isinstance(url, str) and "/" in url.partition("://")[2].rstrip("/"):
            yield (
                ("public_url",),
                refusal("has a path, but the pages are at /ui/ of a host", 'write only "https://host"'),
            )


class Store(Section):
    """The database. Below `disk_floor_bytes` of free disk no notification is accepted; 0 switches that off.

    `password` is where PostgreSQL's password lies, if not in the URL.
    """

    url: StoreLocation = SqliteUrl(Path("var/gateway.db"))
    password: SecretSource | None = None
    disk_floor_bytes: Annotated[int, Field(ge=0)] = 268_435_456


class MasterKey(Section):
    """What seals stored secrets: either `file`, or `keys`, of which the first seals and all open."""

    file: AnyPath | None = None
    keys: Annotated[Many[SecretSource], AtLeastOne] | None = None

    @classmethod
    def contradictions(cls, keys: Mapping[str, object]) -> Contradictions:
        """Refuse both ways of naming the key at once."""
        if keys.get("file") is not None and keys.get("keys") is not None:
            yield ("file",), refusal("contradicts keys, which is given too", "give either file or keys")

    @model_validator(mode="before")
    @classmethod
    def _default_file(cls, data: object) -> object:
        if isinstance(data, Mapping) and data.get("file") is None and data.get("keys") is None:
            return {**data, "file": "var/master.key"}
        return data

    @property
    def sources(self) -> tuple[SecretSource, ...]:
        """The sources of all keys, the sealing one first."""
        return self.keys if self.keys is not None else (SecretSource(file=self.file),)


class Retention(Section):
    """How long finished notifications stay, and when their content is erased.

    `until_final` erases content as soon as every recipient is relayed or cancelled, `finished_days` keeps it as long
    as the notification.
    """

    finished_days: Annotated[int, Field(ge=0, le=3650)] = 7
    content: Literal["until_final", "finished_days"] = "until_final"


class Tenants(Section):
    """What a tenant directly below `system`, with all tenants below it, may keep in the directory; 0 is no limit.

    Profiles, templates, secrets and all else that its administrators define count as their JSON and 1 KiB each.
    """

    quota_bytes: Annotated[int, Field(ge=0)] = 268_435_456


class Relay(Section):
    """Sending. `retry_seconds` are the pauses between attempts, of which the last repeats.

    `connections` is the ceiling over all profiles; `drain_seconds` is how long a stop waits for mail in flight.
    """

    connections: Annotated[int, Field(ge=1, le=10_000)] = 64
    default_ttl_seconds: Annotated[int, Field(ge=60, le=5 * DAY_SECONDS)] = DAY_SECONDS
    retry_seconds: Annotated[Many[Seconds], AtLeastOne] = (30, 60, 120, 300, 600, 1200, 1800, 3600)
    greylist_seconds: Seconds = 300
    ehlo_name: EhloName = Field(default_factory=_host_name)
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 60


class Webhooks(Section):
    """Where webhooks may go: public addresses on `ports`, and whatever `allow` adds."""

    ports: Many[Port] = (443,)
    allow: Many[Rule] = ()


class Egress(Section):
    """Where tenants' profiles may connect: `ports`, more through `allow`, never what `deny` covers.

    `plaintext_auth` lists the hosts to which a password may go without TLS.
    """

    ports: Many[Port] = (25, 465, 587, 2525)
    allow: Many[Rule] = ()
    deny: Many[Rule] = ()
    plaintext_auth: Many[Host] = ()
    webhooks: Webhooks = Field(default_factory=Webhooks)


class LocalSecrets(Section):
    """Files of `directory` and variables matching `env` that tenants may name as credentials.

    `allow` maps a tenant (`*`: any) to beginnings of file and variable names; a tenant without an entry may use none.
    """

    directory: AnyPath = Path("secrets")
    env: Many[VariablePattern] = ("SMTP_*",)
    allow: Table[TenantOrAny, Many[str]] = Field(default_factory=dict)


class Provision(Section):
    """Declarative files that are applied at start and on reload."""

    files: Many[ExistingFile] = ()


class Log(Section):
    """The daemon's log on standard error."""

    format: Literal["json", "text", "journal"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MailCatcher(Section):
    """The mail catcher for development; `listen` is None when it is off."""

    listen: LocalTcp | None = None


class Demo(Section):
    """What `make run` adds: it sends one notification to `to` with the key of `tenant` that lies in `key_file`."""

    tenant: Name
    key_file: AnyPath
    to: Recipient
