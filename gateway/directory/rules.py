"""The relations that hold within and between the directory's objects, whoever changes it: pure functions.

`faults` looks at what a change touches; it is committed only if what comes of it has none. A fault knows its object
and the field's JSON pointer, so that a caller, a file and a page can each be told where to look.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from ipaddress import ip_address
from typing import Final, assert_never

from gateway.credentials.connections import Connections
from gateway.credentials.local import LocalSecrets, lent_to
from gateway.credentials.oauth.source import MACHINE, is_directory
from gateway.credentials.provider import CredentialError
from gateway.credentials.reference import Credential
from gateway.directory.entries import Item, place
from gateway.directory.shapes import (
    OAUTH_METHODS,
    PASSWORD_METHODS,
    Key,
    Link,
    OAuth,
    Preferences,
    Profile,
    Template,
    Tenant,
    Webhook,
)
from gateway.directory.snapshot import DEPTH, ROOT, Place, Snapshot
from gateway.message import template
from gateway.message.address import address_key
from gateway.problems import Code, Fault, Problem
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.session import Security
from gateway.smtp.tls import AuthoritiesError, authorities

KNOWN_OAUTH: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "microsoft365": {
        "client_secret": ("directory", "client_id"),
        "certificate": ("directory", "client_id"),
        MACHINE: (),
    },
    "google": {"service_account": ("mailbox",), "refresh_token": ("client_id",)},
}
"""By which ways the providers that the daemon knows give tokens, and what each way needs."""
OTHER_OAUTH: Final[Mapping[str, tuple[str, ...]]] = {"client_secret": ("client_id",), "refresh_token": ("client_id",)}
USUAL_PORTS: Final = {Security.IMPLICIT_TLS: (465,), Security.STARTTLS: (587, 25, 2525), Security.NONE: (25, 2525)}
WELL_KNOWN: Final = frozenset({25, 465, 587})
MOST_WEBHOOKS: Final = 20
ONE_TEXT: Final = frozenset({"stored", "file", "env"})
"""The sources whose secrets have no fields."""


@dataclass(frozen=True, slots=True)
class RuleFault:
    """A relation that does not hold: of which object, its stable code, one sentence, and the field."""

    kind: str
    tenant: str
    name: str
    code: str
    detail: str
    pointer: str = ""

    @property
    def place(self) -> Place:
        """Where the object stands."""
        return self.kind, self.tenant, self.name

    def told(self) -> Fault:
        """The fault alone, as its object's caller is told."""
        return Fault(self.pointer, self.code, self.detail)


@dataclass(frozen=True, slots=True)
class Denial(Fault):
    """A credential that the operator does not lend: in whose profile and which slot, what it asks for, and why not.

    `key` is an entry's name where one was picked. `rule` is the setting that gives no leave, and nothing for tenants.
    """

    owner: str
    profile: str
    slot: str
    source: str
    connection: str
    key: str
    rule: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator allows tenants to do; connectors and OAuth providers with those that may use them.

    `quota_bytes` is what a tenant below `system` and all below it may keep together, by `Snapshot.kept`; 0: no limit.
    """

    egress: EgressPolicy
    plaintext_auth: tuple[str, ...] = ()
    connectors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    oauth: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    local: LocalSecrets = field(default_factory=LocalSecrets)
    connections: Connections = field(default_factory=Connections)
    webhooks: EgressPolicy = field(default_factory=lambda: EgressPolicy((443,), public=True))
    quota_bytes: int = 0


def sender_allowed(profile: Profile, address: str) -> bool:
    """May a request through this profile be From this address?"""
    key = address_key(address)
    if key == address_key(profile.sender.address):
        return True
    for pattern in profile.allowed_senders or ():
        if pattern.startswith("*@"):
            if key.endswith(pattern[1:]):
                return True
        elif key == address_key(pattern):
            return True
    return False


def faults(snapshot: Snapshot, put: Iterable[Item], drop: Iterable[Place], policy: Policy) -> list[RuleFault]:
    """All relations that do not hold in a snapshot since these objects were put into it, and those taken away."""
    put = list(put)
    owners = cache(lambda: _owners(snapshot))
    found = [fault for place in drop for fault in _left_behind(snapshot, place, owners)]
    told = {item.id for item in put if isinstance(item, Tenant)}
    links = {place(item) for item in put if isinstance(item, Link)}
    reaching = cache(lambda child: Counter(link.profile for link in snapshot.links_to(child)))
    lists: dict[str, None] = {}  # tenants whose list of profiles is not what it was
    for item in put:
        match item:
            case Tenant():
                found += _tree(snapshot, item, told)
                found += [fault for link in snapshot.links_to(item.id) for fault in _link(snapshot, link, reaching)]
            case Profile():
                lists[item.tenant] = None
                found += _unknown(snapshot, "profile", item.tenant, item.name)
                found += _profile(snapshot, item, policy)
                link = snapshot.inherited(item.tenant, item.name)
                if link is not None and place(link) not in links:
                    found.append(_taken(item))
            case Link():
                lists[item.child] = None
                found += _link(snapshot, item, reaching)
            case Preferences() | Template() | Webhook() | Key():
                found += _unknown(snapshot, *place(item))
                found += _alone(snapshot, item, policy)
            case _:
                pass
    for tenant in lists:
        found += _defaults(snapshot, tenant)
        found += _duplicates(snapshot, tenant)
    return list(dict.fromkeys(found))  # a link may be reached by its own way and by its child's


def check_quota(before: Snapshot, after: Snapshot, put: Iterable[Item], quota_bytes: int) -> None:
    """Raise if a change lets an organisation keep more than its quota, and more than before.

    An organisation is a tenant directly below `system` with all below it: whoever could evade a quota by making tenants
    below its own would have none.
    """

    def own(snapshot: Snapshot, tenant: str) -> int:
        return snapshot.own_bytes.get(tenant, 0)

    grown = {tenant for _, tenant, _ in map(place, put) if own(after, tenant) > own(before, tenant)}
    for top in {after.organisation(tenant) for tenant in grown} if quota_bytes else ():
        kept = after.kept(top)
        if kept > quota_bytes and kept > before.kept(top):
            raise Problem(Code.QUOTA_EXCEEDED)


def _alone(snapshot: Snapshot, item: Preferences | Template | Webhook | Key, policy: Policy) -> Iterator[RuleFault]:
    """What is wrong with an object to which no other refers."""
    match item:
        case Template():
            yield from _template(item)
        case Webhook():
            yield from _webhook(snapshot, item, policy.webhooks)
        case Preferences() | Key():
            pass
        case _:
            assert_never(item)


def _owners(snapshot: Snapshot) -> frozenset[str]:
    """Name the tenants that have keys or templates, which nobody has sorted by tenant."""
    keys = (key.tenant for key in snapshot.keys.values() if key.id not in snapshot.revoked)
    return frozenset(keys) | {tenant for tenant, _ in snapshot.templates}


def _left_behind(snapshot: Snapshot, place: Place, owners: Callable[[], Collection[str]]) -> Iterator[RuleFault]:
    """Nothing may refer to what is gone; `owners` are asked for only where a tenant goes."""
    kind, tenant, name = place
    if kind == "profile" and place[1:] not in snapshot.profiles and snapshot.links_from(tenant, name):
        yield RuleFault(kind, tenant, name, "profile_in_use", "The profile is linked to children.")
    if kind == "tenant" and tenant not in snapshot.tenants:
        used = snapshot.children(tenant) or snapshot.links_to(tenant) or snapshot.own_profiles(tenant)
        if used or snapshot.webhooks_of(tenant) or tenant in snapshot.preferences or tenant in owners():
            yield RuleFault(kind, tenant, name, "tenant_in_use", "The tenant has children or belongings.")


def _unknown(snapshot: Snapshot, kind: str, tenant: str, name: str = "") -> Iterator[RuleFault]:
    if tenant not in snapshot.tenants:
        yield RuleFault(kind, tenant, name, "unknown_tenant", "The tenant does not exist.", "/tenant")


def _tree(snapshot: Snapshot, tenant: Tenant, told: Collection[str]) -> Iterator[RuleFault]:
    """What is wrong with a tenant's place; of those below it, `told` speak for themselves."""

    def fault(code: str, detail: str) -> RuleFault:
        return RuleFault("tenant", tenant.id, "", code, detail, "/parent")

    if tenant.id == ROOT:
        if tenant.parent is not None:
            yield fault("root_has_no_parent", "system is the root of the tree.")
    elif tenant.parent not in snapshot.tenants:
        yield fault("unknown_parent", "The parent does not exist.")
    elif len(set(line := snapshot.ancestry(tenant.id))) < len(line):
        yield fault("cycle", "The line of parents does not lead to system.")
    elif len(line) > DEPTH or _too_low(snapshot, tenant.id, DEPTH - len(line), told):
        yield fault("too_deep", f"The tree is at most {DEPTH} levels deep.")


def _too_low(snapshot: Snapshot, tenant: str, levels: int, told: Collection[str]) -> bool:
    """Are there tenants more than so many levels below, which do not speak for themselves?"""
    level = [tenant]
    for _ in range(levels + 1):
        level = [child for one in level for child in snapshot.children(one)]
    return any(one not in told for one in level)


def _defaults(snapshot: Snapshot, tenant: str) -> Iterator[RuleFault]:
    marks = sum(profile.is_default for profile in snapshot.own_profiles(tenant))
    marks += sum(link.is_default for link in snapshot.links_to(tenant))
    if marks > 1:
        yield RuleFault("tenant", tenant, "", "several_defaults", "A tenant has one default profile.", "/is_default")


def _duplicates(snapshot: Snapshot, tenant: str) -> Iterator[RuleFault]:
    seen: dict[tuple[str, str | None], str] = {}
    for profile in snapshot.own_profiles(tenant):
        key = (profile.host, _account(profile))
        if key in seen:
            detail = f"Profile {seen[key]} has the same host and username."
            yield RuleFault("profile", tenant, profile.name, "duplicate_profile", detail)
        seen[key] = profile.name


def _account(profile: Profile) -> str | None:
    credential, username = profile.auth.credential, profile.auth.username
    if credential is None:
        return username
    brought = username is None if credential.entry is not None else credential.username_property is not None
    return f"{credential.source}:{credential.connection}:{credential.entry or credential.key}" if brought else username


def _profile(snapshot: Snapshot, profile: Profile, policy: Policy) -> Iterator[RuleFault]:
    for fault in profile_faults(profile, policy):
        yield RuleFault("profile", profile.tenant, profile.name, fault.code, fault.detail, fault.pointer)
    for index, name in enumerate(profile.failover):
        known = (profile.tenant, name) in snapshot.profiles or snapshot.inherited(profile.tenant, name) is not None
        if name == profile.name or not known:
            detail = "A failover is another profile of the same tenant."
            yield RuleFault("profile", profile.tenant, profile.name, "unknown_profile", detail, f"/failover/{index}")


def profile_faults(profile: Profile, policy: Policy) -> Iterator[Fault]:
    """What is wrong between the fields of a profile, and with what the operator allows."""
    yield from _sign_in(profile, policy)
    if not profile.auth.anonymous:
        if profile.security is Security.NONE and profile.host not in policy.plaintext_auth:
            yield Fault(
                "/security", "plaintext_auth", "A password without TLS needs the operator's leave for the host."
            )
        if profile.security is not Security.NONE and not (profile.tls.verify or profile.tls.allow_auth_unverified):
            yield Fault("/tls/verify", "auth_unverified", "A password over unverified TLS needs allow_auth_unverified.")
    yield from _references(profile, policy)
    if (pointer := _refused(profile, policy.egress)) is not None:
        yield Fault(pointer, "egress_refused", "The operator's policy does not permit this address and port.")
    if profile.connector is not None and not lent_to(profile.tenant, policy.connectors.get(profile.connector, ())):
        yield Fault("/connector", "unknown_connector", "The tenant may use no such connector.")
    if profile.tls.ca_certificates is not None and (told := _certificates(profile.tls.ca_certificates)):
        yield Fault("/tls/ca_certificates", "bad_certificate", f"These are {told}.")
    if profile.dsn is not None and "never" in profile.dsn.notify and len(profile.dsn.notify) > 1:
        yield Fault("/dsn/notify", "conflict", "never excludes everything else.")


def _references(profile: Profile, policy: Policy) -> Iterator[Fault]:
    for slot, credential in profile.credentials():
        if credential.entry is not None:
            yield from _beside_entry("/".join(("", *slot)), credential)
        if _lacks_username(credential):
            pointer = f"/{'/'.join(slot)}/username_property"
            yield Fault(pointer, "conflict", "A secret from this source has no user name.")
        if not _lent(profile, credential, policy):
            yield denial(profile.tenant, profile.name, profile.host, ".".join(slot), credential, policy)


def _beside_entry(pointer: str, credential: Credential) -> Iterator[Fault]:
    """What an entry already says: a tenant is lent this one field of it, and not the whole secret in all its versions."""
    for name in ("property", "username_property", "version"):
        if getattr(credential, name) is not None and not credential.dropped:
            yield Fault(f"{pointer}/{name}", "conflict", "An entry says itself what of its secret is used.")


def _lacks_username(credential: Credential) -> bool:
    """Is a field asked for of a secret that is one text? The user name would then be empty."""
    return credential.source in ONE_TEXT and credential.username_property is not None and not credential.dropped


def _lent(profile: Profile, credential: Credential, policy: Policy) -> bool:
    if credential.dropped or credential.source in ("plaintext", "stored"):
        return True
    if credential.source in ("file", "env"):
        return policy.local.permits(profile.tenant, credential.source, credential.key or "")
    return policy.connections.permits(profile.tenant, profile.host, credential)


def denial(owner: str, profile: str, host: str, slot: str, credential: Credential, policy: Policy) -> Denial:
    """Tell of a credential that is not lent to the owner's profile for this relay; `slot` is such as `auth.credential`."""
    pointer = f"/{slot.replace('.', '/')}/{'key' if credential.entry is None else 'entry'}"
    return Denial(
        pointer, "secret_not_allowed", "The operator does not lend this to the tenant.", owner, profile, slot,
        credential.source, credential.connection or "", credential.entry or credential.key or "",
        _missing_leave(owner, host, credential, policy),
    )  # fmt: skip


def _missing_leave(owner: str, host: str, credential: Credential, policy: Policy) -> str:
    """Name the setting of `[local_secrets]` or of the connection that would have to give leave, or the table itself."""
    key = credential.key or ""
    if credential.source in ("file", "env"):
        if policy.local.permits(owner, credential.source, key):
            return "directory"  # the file leads out of it
        listed = credential.source == "file" or any(fnmatchcase(key, pattern) for pattern in policy.local.env)
        return "allow" if listed else "env"
    connection = policy.connections.by_name.get(credential.connection or "")
    if connection is None or connection.settings.kind != credential.source:
        return "connections"
    if connection.settings.hosts and host not in connection.settings.hosts:
        return "hosts"
    return "allow" if credential.entry is None else "entries"


def _sign_in(profile: Profile, policy: Policy) -> Iterator[Fault]:
    auth = profile.auth
    if auth.anonymous:
        return
    if auth.method in PASSWORD_METHODS or (auth.method == "auto" and auth.oauth is None):
        if auth.credential is None:
            yield Fault("/auth/credential", "required", "This way to sign in needs a credential.")
        if auth.username is None and not _brings_username(profile, policy):
            yield Fault("/auth/username", "required", "This way to sign in needs a username.")
    if auth.method == "external" and profile.tls.client_certificate is None:
        yield Fault("/tls/client_certificate", "required", "EXTERNAL signs in by a client certificate.")
    if auth.oauth is not None and auth.method not in ("auto", *OAUTH_METHODS):
        yield Fault("/auth/oauth", "conflict", "A token signs in by xoauth2 or oauthbearer, and is no password.")
    if auth.method in OAUTH_METHODS and auth.oauth is None:
        yield Fault("/auth/oauth", "required", "This way to sign in needs oauth.")
    if auth.oauth is not None:
        yield from _oauth(profile, auth.oauth, policy)


def _brings_username(profile: Profile, policy: Policy) -> bool:
    credential = profile.auth.credential
    if credential is None or credential.entry is None:
        return credential is not None and credential.username_property is not None and not _lacks_username(credential)
    try:  # whoever may not pick the entry learns nothing of it
        return policy.connections.find(profile.tenant, profile.host, credential).username_property is not None
    except CredentialError:
        return False


def _oauth(profile: Profile, oauth: OAuth, policy: Policy) -> Iterator[Fault]:
    """What a way to a token needs, and who may go it."""
    lent = lent_to(profile.tenant, policy.oauth.get(oauth.provider) or ())
    if oauth.provider not in KNOWN_OAUTH and not lent:
        yield Fault("/auth/oauth/provider", "unknown_provider", "The tenant may use no such provider.")
        return
    needed = KNOWN_OAUTH.get(oauth.provider, OTHER_OAUTH).get(oauth.grant)
    if needed is None:
        yield Fault("/auth/oauth/grant", "bad_value", "The provider gives no tokens this way.")
        return
    if oauth.grant == MACHINE and not lent:
        yield Fault("/auth/oauth/grant", "not_allowed", "The operator lends the machine's identity to others only.")
    for name in needed:
        if getattr(oauth, name) is None:
            yield Fault(f"/auth/oauth/{name}", "required", "This way to a token needs it.")
    if oauth.grant != MACHINE and profile.auth.credential is None:
        yield Fault("/auth/credential", "required", "This way to a token needs a credential.")
    if oauth.directory is not None and not is_directory(oauth.directory):
        yield Fault("/auth/oauth/directory", "bad_value", "A directory is a GUID or a domain name.")
    if oauth.mailbox is None and profile.auth.username is None:
        yield Fault("/auth/oauth/mailbox", "required", "Who signs in? A mailbox, or a username, is required.")


@lru_cache(256)
def _certificates(pem: str) -> str:
    """Say what they are that they cannot be trusted; nothing of those that can."""
    try:
        authorities(pem)
    except AuthoritiesError as error:
        return str(error)
    return ""


def _refused(profile: Profile, egress: EgressPolicy) -> str | None:
    """Is a literal address, or the port of any name, refused? What a name resolves to is asked when it is dialled."""
    if profile.connector is not None:
        return None  # the connector's targets decide
    try:
        address = ip_address(profile.host)
    except ValueError:
        open_port = profile.port in egress.ports or any(rule.port in (None, profile.port) for rule in egress.allow)
        return None if open_port else "/port"
    return None if egress.permits(address, profile.port) else "/host"


def warnings(snapshot: Snapshot, profile: Profile) -> list[Fault]:
    """What is allowed, and most likely not what was meant."""
    found = [
        Fault(f"/{part}/{name}/key", "unknown_secret", "The tenant has no stored secret of this name yet.")
        for (part, name), credential in profile.credentials()
        if credential.source == "stored" and (profile.tenant, credential.key) not in snapshot.secrets
    ]
    if profile.port in WELL_KNOWN and profile.port not in USUAL_PORTS[profile.security]:
        found.append(Fault("/port", "unusual_port", "Relays at this port usually expect another security."))
    if profile.security is not Security.NONE and not profile.tls.verify:
        found.append(Fault("/tls/verify", "unverified", "Whoever stands between may read and change the mail."))
        if not profile.auth.anonymous:
            detail = "Whoever stands between gets the password."
            found.append(Fault("/tls/allow_auth_unverified", "auth_unverified", detail))
    if profile.auth.domain is not None and not _domain_counts(profile):
        found.append(Fault("/auth/domain", "ignored", "The user name, or the way to sign in, leaves no room for it."))
    return found


def _domain_counts(profile: Profile) -> bool:
    """Does the domain go before the user name? Not where that has one, nor where names are whole addresses or keys."""
    auth = profile.auth
    bare = auth.username is None or not {"@", "\\"} & set(auth.username)
    return bare and auth.oauth is None and auth.method in ("auto", "plain", "login", "ntlm")


def _taken(profile: Profile) -> RuleFault:
    """A name means one profile in each tenant's list: the owner's, and those that it was pushed to."""
    return RuleFault("profile", profile.tenant, profile.name, "name_taken", "The tenant inherits one of this name.")


def _link(snapshot: Snapshot, link: Link, reaching: Callable[[str], Counter[str]]) -> Iterator[RuleFault]:
    def fault(code: str, detail: str) -> RuleFault:
        return RuleFault("link", link.tenant, f"{link.profile}/{link.child}", code, detail)

    if (link.tenant, link.profile) not in snapshot.profiles:
        yield fault("not_owned", "The pushing tenant owns no such profile.")
    child = snapshot.tenants.get(link.child)
    if child is None or child.parent != link.tenant:
        yield fault("not_a_child", "A profile is pushed to direct children only.")
    if (link.child, link.profile) in snapshot.profiles:
        yield fault("name_taken", "The child has a profile of this name.")
    if reaching(link.child)[link.profile] > 1:
        yield fault("already_inherited", "A profile reaches a child once.")


def _template(one: Template) -> Iterator[RuleFault]:
    if one.text is None and one.html is None:
        yield RuleFault("template", one.tenant, one.name, "required", "text or html is required.", "/text")
    for error in template.check(one.subject, one.text, one.html):
        yield RuleFault("template", one.tenant, one.name, "bad_template", str(error), f"/{error.part}")


def _webhook(snapshot: Snapshot, webhook: Webhook, egress: EgressPolicy) -> Iterator[RuleFault]:
    def fault(pointer: str, code: str, detail: str) -> RuleFault:
        return RuleFault("webhook", webhook.tenant, webhook.id, code, detail, pointer)

    if len(snapshot.webhooks_of(webhook.tenant)) > MOST_WEBHOOKS:
        yield fault("", "too_many", f"A tenant has at most {MOST_WEBHOOKS} webhooks.")
    scheme, host, port = webhook.place
    policy = egress.over(scheme)
    try:
        permitted = policy.permits(ip_address(host), port)
    except ValueError:  # a name: where it leads is judged whenever something is sent there
        permitted = policy.permits_port(port)
    if not permitted and webhook.enabled:
        yield fault("/url", "egress_refused", "The operator's policy does not permit this address and port.")
