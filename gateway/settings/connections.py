"""The tables that an operator names: secret connections, connectors (proxies) and OAuth providers.

A connection holds the daemon's own identity at a secret store, told apart by `kind`, its sign-in by `auth.method`.
None of them holds a secret itself: an identity's secret is a `SecretSource`, a proxy's password a `Credential`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, SecretStr

from gateway.settings.faults import refusal
from gateway.settings.kinds import (
    AnyPath,
    Contradictions,
    ExistingFile,
    Host,
    Many,
    Name,
    RemoteTcp,
    Rule,
    SecretSource,
    SecretUrl,
    Section,
    Table,
    TenantOrAny,
    Text,
    both_or_neither,
    expect_table,
)
from gateway.settings.pem import CertificateFile, key_of
from gateway.settings.values import text

BUILT_IN_OAUTH = frozenset({"microsoft365", "google"})
"""Providers whose token addresses the daemon knows; a table of that name only adds to them."""

ClientKey = Annotated[ExistingFile, key_of("client_certificate")]


class VaultAuth(Section):
    """What all sign-ins to Vault share: where the method is mounted (None: its usual place), the login's namespace."""

    mount: Text | None = None
    namespace: Text | None = None


class VaultAppRole(VaultAuth):
    """AppRole; with `wrapped` the secret id is a wrapping token that is unwrapped first."""

    method: Literal["approle"]
    role_id: Text
    secret_id: SecretSource
    wrapped: bool = False


class VaultToken(VaultAuth):
    """A token made elsewhere."""

    method: Literal["token"]
    token: SecretSource


class VaultKubernetes(VaultAuth):
    """The pod's service account; the token file is read anew at every login, because it rotates."""

    method: Literal["kubernetes"]
    role: Text
    jwt_file: AnyPath = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class VaultJwt(VaultAuth):
    """A JWT in a file, read anew at every login."""

    method: Literal["jwt"]
    role: Text
    jwt_file: AnyPath


class VaultCert(VaultAuth):
    """A TLS client certificate (PEM files); `name` picks one of the server's certificate roles."""

    method: Literal["cert"]
    client_certificate: CertificateFile
    client_key: ClientKey
    name: Text | None = None


class VaultPassword(VaultAuth):
    """A user of Vault itself or of a directory behind it."""

    method: Literal["userpass", "ldap"]
    username: Text
    password: SecretSource


class ManagedIdentity(Section):
    """The machine's Azure identity; `client_id` is needed where it has several."""

    method: Literal["managed_identity"]
    client_id: Text | None = None


class AzureIdentity(Section):
    """What every application identity has: the directory (`tenant_id`), the application, the authority."""

    tenant_id: Text
    client_id: Text
    authority: SecretUrl = "https://login.microsoftonline.com"


class WorkloadIdentity(AzureIdentity):
    """A federated token in a file, as AKS projects it."""

    method: Literal["workload_identity"]
    token_file: AnyPath = Path("/var/run/secrets/azure/tokens/azure-identity-token")


class AzureClientSecret(AzureIdentity):
    """An application's client secret."""

    method: Literal["client_secret"]
    client_secret: SecretSource


class AzureCertificate(AzureIdentity):
    """An application's certificate: a PEM file with its private key, which `password` may protect."""

    method: Literal["certificate"]
    certificate: ExistingFile
    password: SecretSource | None = None


class ConjurApiKey(Section):
    """A Conjur user, or a host (`login = "host/app"`), with its API key."""

    method: Literal["api_key"]
    login: Text
    api_key: SecretSource


class ConjurJwt(Section):
    """A JWT in a file, read anew at every login; `login` only where the token does not name the host."""

    method: Literal["jwt"]
    service_id: Text
    jwt_file: AnyPath
    login: Text | None = None


class ConjurAzure(Section):
    """The machine's Azure identity."""

    method: Literal["azure"]
    service_id: Text
    login: Text
    client_id: Text | None = None


class Entry(Section):
    """A secret that the operator offers by name: its key, the field of it, the tenants that see it.

    `username_property` is the field that signs in as the account's name, instead of the profile's `username`. Tenants
    cannot name other fields of it, nor an older version.
    """

    key: Text
    property: Text | None = None
    username_property: Text | None = None
    tenants: Many[TenantOrAny] = ()


class SecretConnection(Section):
    """What all secret connections have.

    `allow` maps a tenant (`*`: any) to beginnings of keys; a tenant without an entry may use none. `hosts` limits the
    relays to which the secrets may go; empty means any. A secret is fresh for `ttl_seconds` (0: fetched at each use),
    and still served for `max_stale_seconds` while the store cannot be reached.
    """

    url: SecretUrl
    ca_certificates: CertificateFile | None = None
    allow: Table[TenantOrAny, Many[str]] = Field(default_factory=dict)
    hosts: Many[Host] = ()
    entries: Table[str, Entry] = Field(default_factory=dict)
    ttl_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    max_stale_seconds: Annotated[int, Field(ge=0, le=2_592_000)] = 86_400


class VaultConnection(SecretConnection):
    """HashiCorp Vault or OpenBao: one key-value engine, at `mount`."""

    kind: Literal["vault"]
    namespace: Text | None = None
    mount: Text = "secret"
    kv_version: Literal[1, 2] = 2
    auth: Annotated[
        VaultAppRole | VaultToken | VaultKubernetes | VaultJwt | VaultCert | VaultPassword,
        Field(discriminator="method"),
    ]


class AzureKeyVaultConnection(SecretConnection):
    """Azure Key Vault; `api_version` None means the newest that the library knows.

    `verify_challenge_resource` is for test doubles only: without it a hostile vault can ask for tokens of another.
    """

    kind: Literal["azure_key_vault"]
    api_version: Text | None = None
    verify_challenge_resource: bool = True
    auth: Annotated[
        ManagedIdentity | WorkloadIdentity | AzureClientSecret | AzureCertificate, Field(discriminator="method")
    ]


class CyberArkConnection(SecretConnection):
    """CyberArk's Central Credential Provider, whose web service is named `application` on its server.

    `reason` lands in CyberArk's audit.
    """

    kind: Literal["cyberark"]
    app_id: Text
    application: Text = "AIMWebService"
    client_certificate: CertificateFile | None = None
    client_key: ClientKey | None = None
    reason: Text | None = None

    @classmethod
    def contradictions(cls, keys: Mapping[str, object]) -> Contradictions:
        """Refuse a client certificate without its key, and the reverse."""
        return both_or_neither(keys, "client_certificate", "client_key")


class ConjurConnection(SecretConnection):
    """CyberArk Conjur."""

    kind: Literal["conjur"]
    account: Text
    auth: Annotated[ConjurApiKey | ConjurJwt | ConjurAzure, Field(discriminator="method")]


Connection = Annotated[
    VaultConnection | AzureKeyVaultConnection | CyberArkConnection | ConjurConnection, Field(discriminator="kind")
]


def _version(value: object) -> str:
    # Vault counts versions, Azure names them.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value)


Version = Annotated[str, PlainValidator(_version)]

_SOURCE_KEYS = {
    "plaintext": ("value",),
    "stored": ("key",),
    "file": ("key",),
    "env": ("key",),
    "vault": ("connection", "key"),
    "azure_key_vault": ("connection", "key"),
    "cyberark": ("connection", "key"),
    "conjur": ("connection", "key"),
}


class Credential(Section):
    """A credential in the shape that the API uses, of which `source` says which keys it needs."""

    source: Literal["plaintext", "stored", "file", "env", "vault", "azure_key_vault", "cyberark", "conjur"]
    value: SecretStr | None = None
    connection: Name | None = None
    key: Text | None = None
    property: Text | None = None
    username_property: Text | None = None
    version: Version | None = None

    @classmethod
    def contradictions(cls, keys: Mapping[str, object]) -> Contradictions:
        """Refuse a reference that lacks what its source needs."""
        for needed in _SOURCE_KEYS.get(str(keys.get("source")), ()):
            if keys.get(needed) is None:
                yield (needed,), refusal("is missing, and this source needs it", f"give {needed}")


class Connector(Section):
    """A proxy through which profiles of the tenants in `allow` (`*`: any) may leave, towards `targets` only.

    With `remote_dns` the proxy resolves names; else the daemon does, and `targets` holds for the address it found.
    """

    kind: Literal["socks5", "http_connect"]
    address: RemoteTcp
    username: Text | None = None
    credential: Credential | None = None
    allow: Many[TenantOrAny] = ()
    targets: Many[Rule] = ()
    remote_dns: bool = False

    @classmethod
    def contradictions(cls, keys: Mapping[str, object]) -> Contradictions:
        """Refuse a user name without its password, and the reverse unless the credential brings the name along."""
        if expect_table(keys.get("credential")).get("username_property") is None:
            yield from both_or_neither(keys, "username", "credential")


class OAuthProvider(Section):
    """An OAuth provider: where tokens are fetched, for which scope, for which tenants (`*`: any).

    `token_url` is None only for a provider that the daemon knows; its table then says which tenants may use the
    machine's own identity there, and where a sovereign cloud is: `authority` is Microsoft's, before the directory.
    `hosts` limits the relays to which its tokens may go; empty means any, but for a machine's own identity Microsoft's.
    `scope` None means the usual one of a provider that is known, none of another. `client_authentication` says how the
    client's secret travels (RFC 6749 §2.3.1).
    """

    token_url: SecretUrl | None = None
    authority: SecretUrl | None = None
    scope: Text | None = None
    client_authentication: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    ca_certificates: CertificateFile | None = None
    allow: Many[TenantOrAny] = ()
    hosts: Many[Host] = ()

    @classmethod
    def contradictions(cls, keys: Mapping[str, object]) -> Contradictions:
        """Refuse an authority without TLS, where Microsoft's client does not go."""
        authority = keys.get("authority")
        if isinstance(authority, str) and authority.startswith("http://"):
            yield ("authority",), refusal("is spoken to over TLS only", "use https")
