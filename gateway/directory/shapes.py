"""The directory's objects as callers, files and the store write them: one shape each, checked field by field.

Relations within and between objects are not looked at here; they are `rules`. Unknown fields are refused everywhere.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict

from gateway.credentials.reference import Credential
from gateway.directory.kinds import (
    AddressOfMailbox,
    BareAddress,
    CategoryPattern,
    DisabledReason,
    EventTypes,
    Host,
    Line,
    Mailboxes,
    MailboxField,
    NetworkText,
    ObjectName,
    ProfileName,
    Scope,
    SenderPattern,
    TenantId,
    WebPlace,
    WebUrl,
    Word,
    web_place,
)
from gateway.message.notification import Severity
from gateway.smtp.session import Security

DEFAULT_PORTS: Final = {Security.STARTTLS: 587, Security.IMPLICIT_TLS: 465, Security.NONE: 25}
PASSWORD_METHODS: Final = frozenset({"plain", "login", "cram-md5", "scram-sha-256", "ntlm"})
OAUTH_METHODS: Final = frozenset({"xoauth2", "oauthbearer"})

MOST: Final = 1_000_000  # of anything that is counted a minute, or on a connection

Preset = Literal[
    "generic", "microsoft365", "gmail", "amazon_ses", "sendgrid", "mailgun", "postmark", "brevo", "postfix"
]
AuthMethod = Literal[
    "auto", "none", "plain", "login", "cram-md5", "scram-sha-256", "ntlm", "xoauth2", "oauthbearer", "external"
]


class Shape(BaseModel):
    """A strict, immutable object."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True)


class TenantLimits(Shape):
    """What a tenant may put in; None is unlimited."""

    per_minute: Annotated[int, Field(ge=1, le=MOST)] | None = None
    queued: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None


class Tenant(Shape):
    """An organisation; `system` is the root and has no parent."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "acme-emea", "name": "Acme EMEA", "parent": "acme"}]}
    )

    id: TenantId
    name: Line = ""
    parent: TenantId | None = "system"
    enabled: bool = True
    fallback: Literal["inherit", "none"] = "inherit"
    share_default: bool = True
    own_profiles: bool = True
    limits: TenantLimits = TenantLimits()

    @model_validator(mode="after")
    def _root_has_no_parent(self) -> Self:
        if self.id == "system" and "parent" not in self.model_fields_set:
            object.__setattr__(self, "parent", None)  # it is still in the making
        return self


class Tls(Shape):
    """What is asked of the relay's certificate, and what is shown to it."""

    verify: bool = True
    allow_auth_unverified: bool = False
    ca_certificates: Annotated[str, StringConstraints(max_length=262_144)] | None = None
    min_version: Literal["1.2", "1.3"] = "1.2"
    client_certificate: Credential | None = None


class OAuth(Shape):
    """Whose token signs in; the addresses where tokens are fetched are the operator's."""

    provider: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    directory: Word | None = None
    client_id: Word | None = None
    grant: Literal["client_secret", "certificate", "managed_identity", "service_account", "refresh_token"]
    mailbox: BareAddress | None = None


class Auth(Shape):
    """How to sign in."""

    method: AuthMethod = "auto"
    username: Word | None = None
    domain: Word | None = None
    credential: Credential | None = None
    oauth: OAuth | None = None

    @property
    def anonymous(self) -> bool:
        """Is nobody to be signed in?"""
        return self.method == "none" or (
            self.method == "auto" and self.username is None and self.credential is None and self.oauth is None
        )


class ProfileLimits(Shape):
    """What the relay is spared; `per_minute` None is unlimited, `bytes` and `recipients` are for one message."""

    connections: Annotated[int, Field(ge=1, le=1000)] = 4
    per_minute: Annotated[int, Field(ge=1, le=MOST)] | None = None
    messages_per_connection: Annotated[int, Field(ge=1, le=MOST)] = 100
    recipients: Annotated[int, Field(ge=1, le=1000)] = 50
    bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 26_214_400


class Footnote(Shape):
    """What is appended to every message of the profile: to the text the text, to the HTML the HTML."""

    enabled: bool = True
    text: Annotated[str, StringConstraints(max_length=10_000)] | None = None
    html: Annotated[str, StringConstraints(max_length=50_000)] | None = None


class Dsn(Shape):
    """Which delivery reports are asked for (RFC 3461)."""

    notify: Annotated[tuple[Literal["never", "success", "failure", "delay"], ...], Field(max_length=3)] = ()
    returned: Literal["full", "headers"] | None = Field(None, alias="return")


class Dkim(Shape):
    """How messages are signed (RFC 6376)."""

    domain: Host
    selector: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
    key: Credential


def _port_of_security(schema: JsonDict) -> None:
    """What stands here while nobody has said it is nobody's business: it is filled in before anything is checked."""
    schema.pop("default", None)
    schema["description"] = "587, 465 or 25 by security, unless it is said."


class ProfileFields(Shape):
    """How mail leaves."""

    name: ProfileName
    enabled: bool = True
    is_default: bool = False
    preset: Preset = "generic"
    host: Host
    port: int = Field(0, ge=1, le=65535, json_schema_extra=_port_of_security)
    security: Security = Security.STARTTLS
    tls: Tls = Tls()
    auth: Auth = Auth()
    sender: MailboxField = Field(alias="from")
    force_sender: bool = False
    allowed_senders: Annotated[tuple[SenderPattern, ...], Field(max_length=100)] | None = None
    reply_to: Mailboxes = ()
    return_path: BareAddress | None = None
    read_receipt_to: BareAddress | None = None
    request_read_receipt: bool = False
    to: Mailboxes = ()
    footnote: Footnote | None = None
    connector: ObjectName | None = None
    limits: ProfileLimits = ProfileLimits()
    failover: Annotated[tuple[ProfileName, ...], Field(max_length=5)] = ()
    dsn: Dsn | None = None
    dkim: Dkim | None = None

    @model_validator(mode="after")
    def _fill_port(self) -> Self:
        if self.port == 0:
            object.__setattr__(self, "port", DEFAULT_PORTS[self.security])  # it is still in the making
        return self


class Profile(ProfileFields):
    """How mail leaves, and whose it is."""

    tenant: TenantId

    def credentials(self) -> Iterator[tuple[tuple[str, str], Credential]]:
        """All that the profile refers to, by its place."""
        if self.auth.credential is not None:
            yield ("auth", "credential"), self.auth.credential
        if self.tls.client_certificate is not None:
            yield ("tls", "client_certificate"), self.tls.client_certificate
        if self.dkim is not None:
            yield ("dkim", "key"), self.dkim.key

    def with_credential(self, place: tuple[str, str], credential: Credential) -> "Profile":
        """Give the same profile with another credential at this place."""
        part, name = place
        return self.model_copy(update={part: getattr(self, part).model_copy(update={name: credential})})


SLOTS: Final = (("auth", "credential"), ("tls", "client_certificate"), ("dkim", "key"))
"""Where a profile may have a credential."""


class Link(Shape):
    """A profile that its owner pushed to a direct child."""

    tenant: TenantId
    profile: ProfileName
    child: TenantId
    is_default: bool = False


class Rule(Shape):
    """Which notifications are copied to a tenant's lists."""

    category: CategoryPattern = "*"
    min_severity: Severity = Severity.INFO
    cc: bool = False
    bcc: bool = False


class Preferences(Shape):
    """A tenant's copies; of addresses that come with a name the name is not kept."""

    tenant: TenantId
    cc: Annotated[tuple[AddressOfMailbox, ...], Field(max_length=50)] = ()
    bcc: Annotated[tuple[AddressOfMailbox, ...], Field(max_length=50)] = ()
    rules: Annotated[tuple[Rule, ...], Field(max_length=100)] = ()


class Template(Shape):
    """A message with places for the request's `data`."""

    tenant: TenantId
    name: ObjectName
    subject: Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
    text: Annotated[str, StringConstraints(max_length=200_000)] | None = None
    html: Annotated[str, StringConstraints(max_length=500_000)] | None = None


class StoredSecret(Shape):
    """A tenant's own secret in the built-in store, sealed for its place and version."""

    tenant: TenantId
    name: ObjectName
    sealed: str = Field(repr=False)
    version: Annotated[int, Field(ge=1)]
    created_at: int
    updated_at: int


ROTATION: Final = 86_400_000  # ms for which the secret before signs too


class WebhookFields(Shape):
    """What a tenant says of an endpoint that shall be told what happens."""

    url: WebUrl = Field(repr=False)
    events: EventTypes
    enabled: bool = True


class Webhook(WebhookFields):
    """An endpoint of a tenant's that is told what happens. What it is told is signed with a secret, which is sealed.

    `previous` is the secret before it, `rotated_at` (ms) when that was replaced: for a day both sign. The URL's path
    and query may hold a token, so they are shown to nobody but the tenant's administrators.
    """

    tenant: TenantId
    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{8,32}$")]
    disabled_reason: DisabledReason | None = None
    sealed: str = Field(repr=False)
    previous: str | None = Field(None, repr=False)
    rotated_at: int = 0
    created_at: int

    def signs_with_both(self, now: int) -> bool:
        """Does the secret before still sign too, at this time (ms)?"""
        return self.previous is not None and now - self.rotated_at < ROTATION

    @property
    def place(self) -> WebPlace:
        """Whom it leads to."""
        return web_place(self.url)

    @property
    def sealed_for(self) -> tuple[str, str, str]:
        """Where its secrets belong."""
        return "webhook", self.tenant, self.id


PauseReason = Literal["operator", "restored", "cloned"]


class Pause(Shape):
    """A profile that a person has stopped for a while; of `system` and without a profile, all sending.

    Of all sending also since when, in milliseconds, and why: a person wanted it so, or the database is a copy.
    """

    tenant: TenantId
    profile: ProfileName | Literal[""] = ""
    since: int = 0
    reason: PauseReason = "operator"


class Key(Shape):
    """An API key: its id is public, of its secret only the SHA-256 is kept."""

    tenant: TenantId
    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{8,32}$")]
    name: Line = ""
    scopes: tuple[Scope, ...]
    sha256_hex: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(repr=False)
    created_at: int
    expires_at: int | None = None
    cidrs: tuple[NetworkText, ...] = ()
    mode: Literal["live", "test"] = "live"
    file: str | None = None


class DeclaredKey(Shape):
    """A key that a provisioning file asks for; the key itself is in `file`."""

    tenant: TenantId
    name: Line
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    file: str
    expires_at: int | None = None
    cidrs: tuple[NetworkText, ...] = ()
    mode: Literal["live", "test"] = "live"
