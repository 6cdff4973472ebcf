"""The directory's objects as callers, files and the store write them: one shape each, checked field by field.

Relations between objects are not looked at here; they are `rules`. Unknown fields are refused everywhere.
"""

from ipaddress import ip_address, ip_network
from typing import Annotated, Literal, Self

import idna
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from gateway.credentials.reference import Credential
from gateway.message.address import Mailbox, check_text, parse_address
from gateway.message.notification import Severity
from gateway.smtp.session import Method, Security

DEFAULT_PORTS = {Security.STARTTLS: 587, Security.IMPLICIT_TLS: 465, Security.NONE: 25}


class Shape(BaseModel):
    """A strict, immutable object."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _host(text: str) -> str:
    """Accept a DNS name, kept as lower-case A-labels without the final dot, or a canonical IP literal."""
    try:
        return str(ip_address(text))
    except ValueError:
        pass
    name = text.removesuffix(".")
    try:
        name = name.lower() if name.isascii() else idna.encode(name).decode()
    except idna.IDNAError:
        raise ValueError("not a host name") from None
    labels = name.split(".")
    bad = any(
        not 1 <= len(part) <= 63 or not part.replace("-", "a").isalnum() or "-" in (part[0], part[-1])
        for part in labels
    )
    if bad or len(name) > 253 or labels[-1].isdigit() or labels[-1].startswith("0x"):
        raise ValueError("not a host name, nor an IP address in its usual form")
    return name


def _mailbox(value: object) -> object:
    """Accept `"ann@example.test"` and `{"name": "Ann", "address": "ann@example.test"}`."""
    if isinstance(value, str):
        return Mailbox(parse_address(value))
    if isinstance(value, dict) and isinstance(value.get("address"), str) and value.keys() <= {"address", "name"}:
        name = value.get("name", "")
        if not isinstance(name, str) or len(name) > 200:
            raise ValueError("a display name is a text of at most 200 characters")
        check_text(name)
        return Mailbox(parse_address(value["address"]), name)
    if isinstance(value, Mailbox):
        return value
    raise ValueError('an address is "ann@example.test" or {"name": "Ann", "address": "ann@example.test"}')


def _pattern(text: str) -> str:
    """Accept an address, or `*@domain`."""
    if text.startswith("*@"):
        parse_address("x" + text[1:])
        return text.lower()
    return parse_address(text)


def _network(text: str) -> str:
    return str(ip_network(text))


def _not_reserved(name: str) -> str:
    if name in ("test", "push"):
        raise ValueError("this name is taken by the API")
    return name


TenantId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
ProfileName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"), AfterValidator(_not_reserved)
]
Host = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_host)]
MailboxField = Annotated[Mailbox, BeforeValidator(_mailbox)]
BareAddress = Annotated[str, AfterValidator(parse_address)]
Line = Annotated[str, StringConstraints(max_length=200), AfterValidator(lambda text: check_text(text) or text)]
Category = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$", max_length=100)]
Scope = Literal["send", "read", "profiles", "secrets", "admin"]


class TenantLimits(Shape):
    """What a tenant may put in; None is unlimited."""

    per_minute: Annotated[int, Field(ge=1)] | None = None
    queued: Annotated[int, Field(ge=1)] | None = None


class Tenant(Shape):
    """An organisation; `system` is the root and has no parent."""

    id: TenantId
    name: Line = ""
    parent: TenantId | None = "system"
    enabled: bool = True
    fallback: Literal["inherit", "none"] = "inherit"
    share_default: bool = True
    own_profiles: bool = True
    limits: TenantLimits = TenantLimits()

    @model_validator(mode="before")
    @classmethod
    def _root_has_no_parent(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("id") == "system" and "parent" not in given:
            return {**given, "parent": None}
        return given


class Tls(Shape):
    """What is asked of the relay's certificate."""

    verify: bool = True
    allow_auth_unverified: bool = False
    ca_certificates: Annotated[str, StringConstraints(max_length=262_144)] | None = None
    min_version: Literal["1.2", "1.3"] = "1.2"


class Auth(Shape):
    """How to sign in."""

    method: Method = Method.AUTO
    username: Line | None = None
    domain: Line | None = None
    credential: Credential | None = None

    @property
    def anonymous(self) -> bool:
        """Is nobody to be signed in?"""
        return self.method is Method.NONE or (
            self.method is Method.AUTO and self.username is None and self.credential is None
        )


class ProfileLimits(Shape):
    """What the relay is spared; `per_minute` None is unlimited, `bytes` and `recipients` are for one message."""

    connections: Annotated[int, Field(ge=1, le=1000)] = 4
    per_minute: Annotated[int, Field(ge=1)] | None = None
    messages_per_connection: Annotated[int, Field(ge=1)] = 100
    recipients: Annotated[int, Field(ge=1, le=1000)] = 50
    bytes: Annotated[int, Field(ge=1024)] = 26_214_400


class Footnote(Shape):
    """What is appended to every message of the profile."""

    enabled: bool = True
    text: Annotated[str, StringConstraints(max_length=10_000)] | None = None
    html: Annotated[str, StringConstraints(max_length=50_000)] | None = None


class Profile(Shape):
    """How mail leaves."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, populate_by_name=True)

    tenant: TenantId
    name: ProfileName
    enabled: bool = True
    is_default: bool = False
    host: Host
    port: Annotated[int, Field(ge=1, le=65535)] = 0
    security: Security = Security.STARTTLS
    tls: Tls = Tls()
    auth: Auth = Auth()
    sender: MailboxField = Field(alias="from")
    force_sender: bool = False
    allowed_senders: tuple[Annotated[str, AfterValidator(_pattern)], ...] | None = None
    reply_to: tuple[MailboxField, ...] = ()
    return_path: BareAddress | None = None
    to: Annotated[tuple[MailboxField, ...], Field(max_length=100)] = ()
    footnote: Footnote | None = None
    limits: ProfileLimits = ProfileLimits()

    @model_validator(mode="before")
    @classmethod
    def _port_of_security(cls, given: object) -> object:
        if isinstance(given, dict) and "port" not in given:
            security = given.get("security", "starttls")
            if security in set(Security):
                return {**given, "port": DEFAULT_PORTS[Security(security)]}
        return given

    @model_validator(mode="after")
    def _sign_in_is_complete(self) -> Self:
        auth = self.auth
        if auth.anonymous:
            return self
        if auth.credential is None:
            raise ValueError("auth: a credential is required")
        if auth.username is None and auth.credential.username_property is None:
            raise ValueError("auth: a username is required")
        return self


class Link(Shape):
    """A profile that its owner pushed to a direct child."""

    tenant: TenantId
    profile: ProfileName
    child: TenantId
    is_default: bool = False


class Rule(Shape):
    """Which notifications are copied to a tenant's lists."""

    category: Category = "*"
    min_severity: Severity = Severity.INFO
    cc: bool = False
    bcc: bool = False


class Preferences(Shape):
    """A tenant's copies."""

    tenant: TenantId
    cc: Annotated[tuple[BareAddress, ...], Field(max_length=50)] = ()
    bcc: Annotated[tuple[BareAddress, ...], Field(max_length=50)] = ()
    rules: Annotated[tuple[Rule, ...], Field(max_length=100)] = ()


class Key(Shape):
    """An API key: its id is public, of its secret only the SHA-256 is kept."""

    tenant: TenantId
    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{8,32}$")]
    name: Line = ""
    scopes: tuple[Scope, ...]
    sha256_hex: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(repr=False)
    created_at: int
    expires_at: int | None = None
    cidrs: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    mode: Literal["live", "test"] = "live"
    file: str | None = None


class DeclaredKey(Shape):
    """A key that a provisioning file asks for; the key itself is in `file`."""

    tenant: TenantId
    name: Line
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    file: str
    expires_at: int | None = None
    cidrs: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    mode: Literal["live", "test"] = "live"
