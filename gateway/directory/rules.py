"""The relations that hold between the directory's objects, whoever changes it: pure functions over a snapshot.

`faults` looks at a whole snapshot; a change is committed only if what comes of it has none.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from gateway.directory.shapes import Link, Profile
from gateway.directory.snapshot import DEPTH, ROOT, Snapshot
from gateway.message.address import address_key
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.session import Security


@dataclass(frozen=True, slots=True)
class RuleFault:
    """A relation that does not hold: of which object, its stable code, and one sentence."""

    kind: str
    tenant: str
    name: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator allows profiles to do."""

    egress: EgressPolicy
    plaintext_auth: tuple[str, ...] = ()


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


def faults(snapshot: Snapshot, policy: Policy) -> list[RuleFault]:
    """All relations that do not hold."""
    found = [*_tree(snapshot), *_defaults(snapshot), *_duplicates(snapshot)]
    for profile in snapshot.profiles.values():
        found += _profile(snapshot, profile, policy)
    for link in snapshot.links:
        found += _link(snapshot, link)
    for kind, tenants in (
        ("preferences", [preferences.tenant for preferences in snapshot.preferences.values()]),
        ("key", [key.tenant for key in snapshot.key_shapes.values()]),
    ):
        found += [_unknown(kind, tenant) for tenant in tenants if tenant not in snapshot.tenants]
    return found


def _unknown(kind: str, tenant: str, name: str = "") -> RuleFault:
    return RuleFault(kind, tenant, name, "unknown_tenant", "the tenant does not exist")


def _tree(snapshot: Snapshot) -> Iterator[RuleFault]:
    for tenant in snapshot.tenants.values():
        line = snapshot.ancestry(tenant.id)
        if tenant.id == ROOT:
            if tenant.parent is not None:
                yield RuleFault("tenant", ROOT, "", "root_has_no_parent", "system is the root of the tree")
        elif tenant.parent not in snapshot.tenants:
            yield RuleFault("tenant", tenant.id, "", "unknown_parent", "the parent does not exist")
        elif line[-1] != ROOT:
            yield RuleFault("tenant", tenant.id, "", "cycle", "the line of parents does not lead to system")
        elif len(line) > DEPTH:
            yield RuleFault("tenant", tenant.id, "", "too_deep", f"the tree is at most {DEPTH} levels deep")


def _defaults(snapshot: Snapshot) -> Iterator[RuleFault]:
    marks = Counter(profile.tenant for profile in snapshot.profiles.values() if profile.is_default)
    marks.update(link.child for link in snapshot.links if link.is_default)
    for tenant, count in marks.items():
        if count > 1:
            yield RuleFault("tenant", tenant, "", "several_defaults", "a tenant has one default profile")


def _duplicates(snapshot: Snapshot) -> Iterator[RuleFault]:
    seen: dict[tuple[str, str, str | None], str] = {}
    for profile in snapshot.profiles.values():
        key = (profile.tenant, profile.host, _account(profile))
        if key in seen:
            yield RuleFault(
                "profile", profile.tenant, profile.name, "duplicate_profile",
                f"profile {seen[key]} has the same host and username",
            )  # fmt: skip
        seen[key] = profile.name


def _account(profile: Profile) -> str | None:
    credential = profile.auth.credential
    if credential is not None and credential.username_property is not None:
        return f"{credential.source}:{credential.connection}:{credential.key or credential.entry}"
    return profile.auth.username


def _profile(snapshot: Snapshot, profile: Profile, policy: Policy) -> Iterator[RuleFault]:
    def fault(code: str, detail: str) -> RuleFault:
        return RuleFault("profile", profile.tenant, profile.name, code, detail)

    if profile.tenant not in snapshot.tenants:
        yield _unknown("profile", profile.tenant, profile.name)
    if not profile.auth.anonymous:
        if profile.security is Security.NONE and profile.host not in policy.plaintext_auth:
            yield fault("plaintext_auth", "a password without TLS needs the host in [egress] plaintext_auth")
        if profile.security is not Security.NONE and not (profile.tls.verify or profile.tls.allow_auth_unverified):
            yield fault("auth_unverified", "a password over unverified TLS needs tls.allow_auth_unverified")
    if profile.auth.credential is not None and profile.auth.credential.source != "plaintext":
        yield fault("source_unavailable", "only plaintext credentials can be resolved so far")
    if _refused(profile, policy.egress):
        yield fault("egress_refused", "the operator's egress policy does not permit this address and port")


def _refused(profile: Profile, egress: EgressPolicy) -> bool:
    """Is a literal address, or the port of any name, refused? What a name resolves to is asked when it is dialled."""
    try:
        return not egress.permits(ip_address(profile.host), profile.port)
    except ValueError:
        return profile.port not in egress.ports and not any(rule.port in (None, profile.port) for rule in egress.allow)


def _link(snapshot: Snapshot, link: Link) -> Iterator[RuleFault]:
    def fault(code: str, detail: str) -> RuleFault:
        return RuleFault("link", link.tenant, f"{link.profile}/{link.child}", code, detail)

    if (link.tenant, link.profile) not in snapshot.profiles:
        yield fault("not_owned", "the pushing tenant owns no such profile")
    child = snapshot.tenants.get(link.child)
    if child is None or child.parent != link.tenant:
        yield fault("not_a_child", "a profile is pushed to direct children only")
    if (link.child, link.profile) in snapshot.profiles:
        yield fault("name_taken", "the child has a profile of this name")
    same = [other for other in snapshot.links_to(link.child) if other.profile == link.profile]
    if len(same) > 1:
        yield fault("already_inherited", "a profile reaches a child once")
