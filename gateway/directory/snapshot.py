"""The whole directory at one moment, immutable: every question of the main way through is answered from it.

A change makes a new snapshot and swaps one reference, so a request sees one truth from beginning to end and nothing
on that path waits for a database.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal, NamedTuple

from gateway.directory.shapes import Key as KeyShape
from gateway.directory.shapes import Link, Preferences, Profile, Rule, Tenant
from gateway.message.notification import Severity

ROOT = "system"
DEPTH = 8

Via = Literal["named", "default", "ancestor", "system"]


@dataclass(frozen=True, slots=True)
class Key:
    """A key as authentication needs it."""

    id: str
    tenant: str
    name: str
    scopes: frozenset[str]
    sha256: bytes
    created_at: int
    expires_at: int | None
    cidrs: tuple[IPv4Network | IPv6Network, ...]
    mode: str
    provisioned: bool


class Step(NamedTuple):
    """One tenant that resolution looked at, and what it found there."""

    tenant: str
    profile: str | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Route:
    """How a tenant's mail leaves: the profile, or None, and how it was found."""

    profile: Profile | None
    via: Via | None
    chain: tuple[Step, ...]

    @property
    def owner(self) -> str | None:
        """The tenant that the profile belongs to."""
        return None if self.profile is None else self.profile.tenant


@dataclass(frozen=True, slots=True)
class Resolution:
    """The route of one notification, and who gets a copy of it."""

    route: Route
    cc: tuple[str, ...]
    bcc: tuple[str, ...]
    snapshot: "Snapshot" = field(repr=False)
    tenant: str = ""

    @property
    def profile(self) -> Profile | None:
        """The profile to use, or None."""
        return self.route.profile

    @property
    def owner(self) -> str | None:
        """The tenant that the profile belongs to."""
        return self.route.owner

    @property
    def via(self) -> Via | None:
        """How the profile was found."""
        return self.route.via

    @property
    def chain(self) -> tuple[Step, ...]:
        """What resolution looked at, in order."""
        return self.route.chain

    def visible(self, root: str) -> bool:
        """May a caller whose reach begins at `root` be told the profile's name?

        Yes if the profile belongs to the reach, or was pushed to the tenant that sends.
        """
        profile = self.profile
        if profile is None:
            return False
        return self.snapshot.within(profile.tenant, root) or any(
            link.profile == profile.name and link.tenant == profile.tenant
            for link in self.snapshot.links_to(self.tenant)
        )


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Tenants, profiles, links, preferences and keys."""

    revision: int = 0
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    profiles: Mapping[tuple[str, str], Profile] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    preferences: Mapping[str, Preferences] = field(default_factory=dict)
    key_shapes: Mapping[str, KeyShape] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()
    provisioned: frozenset[tuple[str, str, str]] = frozenset()

    # Tenants.

    def tenant(self, tenant: str) -> Tenant | None:
        """Find a tenant."""
        return self.tenants.get(tenant)

    @cached_property
    def _lines(self) -> dict[str, tuple[str, ...]]:
        """Each tenant's line of ancestors, itself first, up to the root; stops where a parent is missing or seen."""
        lines: dict[str, tuple[str, ...]] = {}
        for tenant in self.tenants:
            line: list[str] = []
            at: str | None = tenant
            while at is not None and at in self.tenants and at not in line:
                line.append(at)
                at = self.tenants[at].parent
            lines[tenant] = tuple(line)
        return lines

    def ancestry(self, tenant: str) -> tuple[str, ...]:
        """The tenant, its parent, … up to `system`."""
        return self._lines.get(tenant, ())

    def within(self, tenant: str, root: str) -> bool:
        """Is the tenant `root` or below it?"""
        return root in self.ancestry(tenant)

    def reach(self, root: str) -> tuple[str, ...]:
        """`root` and all below it."""
        return tuple(tenant for tenant, line in self._lines.items() if root in line)

    def children(self, tenant: str) -> tuple[str, ...]:
        """The tenants directly below."""
        return tuple(child.id for child in self.tenants.values() if child.parent == tenant)

    # Profiles.

    @cached_property
    def _links_by_child(self) -> dict[str, list[Link]]:
        found: dict[str, list[Link]] = {}
        for link in self.links:
            found.setdefault(link.child, []).append(link)
        return found

    def links_to(self, child: str) -> list[Link]:
        """The profiles pushed to this tenant."""
        return self._links_by_child.get(child, [])

    @cached_property
    def _own(self) -> dict[str, list[Profile]]:
        found: dict[str, list[Profile]] = {}
        for profile in self.profiles.values():
            found.setdefault(profile.tenant, []).append(profile)
        return found

    def own_profiles(self, tenant: str) -> list[Profile]:
        """The profiles that the tenant owns."""
        return self._own.get(tenant, [])

    def _listed(self, tenant: Tenant) -> Iterator[tuple[Profile, bool]]:
        """The tenant's usable list: own profiles unless locked by the parent, and inherited; with the default mark."""
        if tenant.own_profiles:
            for profile in self.own_profiles(tenant.id):
                yield profile, profile.is_default
        for link in self.links_to(tenant.id):
            if (pushed := self.profiles.get((link.tenant, link.profile))) is not None:
                yield pushed, link.is_default

    # Resolution (who sends for whom).

    @cached_property
    def _routes(self) -> dict[tuple[str, str | None], Route]:
        return {}

    def route(self, tenant: str, profile: str | None) -> Route:
        """Find the profile for a tenant's mail: the named one and no other, or the nearest default."""
        known = self._routes.get((tenant, profile))
        if known is None:
            known = self._named(tenant, profile) if profile else self._default(tenant)
            self._routes[tenant, profile] = known
        return known

    def _named(self, tenant_id: str, name: str) -> Route:
        tenant = self.tenants.get(tenant_id)
        if tenant is not None:
            for profile, _ in self._listed(tenant):
                if profile.name == name:
                    usable = profile.enabled and self._owner_enabled(profile)
                    step = Step(tenant_id, name, "used" if usable else "disabled")
                    return Route(profile if usable else None, "named" if usable else None, (step,))
        return Route(None, None, (Step(tenant_id, name, "missing"),))

    def _owner_enabled(self, profile: Profile) -> bool:
        owner = self.tenants.get(profile.tenant)
        return owner is not None and owner.enabled

    def _default(self, tenant_id: str) -> Route:
        chain: list[Step] = []
        for at in self.ancestry(tenant_id):
            tenant = self.tenants[at]
            here = at == tenant_id
            profile, step = self._default_of(tenant, own=here)
            chain.append(step)
            if profile is not None:
                via: Via = "default" if here else "system" if at == ROOT else "ancestor"
                return Route(profile, via, tuple(chain))
            if here and tenant.fallback == "none":
                break
        return Route(None, None, tuple(chain))

    def _default_of(self, tenant: Tenant, *, own: bool) -> tuple[Profile | None, Step]:
        if not own and not tenant.enabled:
            return None, Step(tenant.id, None, "tenant_disabled")
        marked = [profile for profile, is_default in self._listed(tenant) if is_default]
        if not marked:
            return None, Step(tenant.id, None, "no_default")
        profile = marked[0]
        if not own and not tenant.share_default:
            return None, Step(tenant.id, profile.name, "not_shared")
        if not profile.enabled or not self._owner_enabled(profile):
            return None, Step(tenant.id, profile.name, "disabled")
        return profile, Step(tenant.id, profile.name, "used")

    def resolve(self, tenant: str, profile: str | None, category: str, severity: Severity) -> Resolution:
        """Find route and copies for one notification."""
        cc, bcc = self.copies(tenant, category, severity)
        return Resolution(self.route(tenant, profile), cc, bcc, self, tenant)

    def copies(self, tenant: str, category: str, severity: Severity) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Who gets a copy: all the tenant's matching rules add up; without rules nobody does."""
        preferences = self.preferences.get(tenant)
        if preferences is None:
            return (), ()
        matching = [rule for rule in preferences.rules if _matches(rule, category, severity)]
        return (
            preferences.cc if any(rule.cc for rule in matching) else (),
            preferences.bcc if any(rule.bcc for rule in matching) else (),
        )

    # Keys.

    @cached_property
    def _keys(self) -> dict[str, Key]:
        return {
            shape.id: Key(
                shape.id,
                shape.tenant,
                shape.name,
                frozenset(shape.scopes),
                bytes.fromhex(shape.sha256_hex),
                shape.created_at,
                shape.expires_at,
                tuple(map(ip_network, shape.cidrs)),
                shape.mode,
                ("key", shape.tenant, shape.id) in self.provisioned,
            )
            for shape in self.key_shapes.values()
            if shape.id not in self.revoked
        }

    def key(self, key_id: str) -> Key | None:
        """Find a key that is not revoked."""
        return self._keys.get(key_id)

    def keys(self, tenant: str) -> tuple[Key, ...]:
        """The tenant's keys that are not revoked."""
        return tuple(key for key in self._keys.values() if key.tenant == tenant)


def _matches(rule: Rule, category: str, severity: Severity) -> bool:
    if severity.rank < rule.min_severity.rank:
        return False
    if rule.category in ("*", category):
        return True
    prefix = rule.category.removesuffix(".*")
    return rule.category.endswith(".*") and (category == prefix or category.startswith(prefix + "."))


def by_key(profiles: Iterable[Profile]) -> dict[tuple[str, str], Profile]:
    """Index profiles by owner and name."""
    return {(profile.tenant, profile.name): profile for profile in profiles}
