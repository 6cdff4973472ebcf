"""The whole directory at one moment, immutable: every question of the main way through is answered from it.

A change makes a new snapshot and swaps one reference, so a request sees one truth from beginning to end and nothing
on that path waits for a database.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, NamedTuple

from gateway.directory.shapes import Link, Pause, Preferences, Profile, Rule, StoredSecret, Template, Tenant, Webhook
from gateway.message.notification import Severity

ROOT = "system"
DEPTH = 8
API = "api"
PROVISION = "provision"

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
    file: str | None = None


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
        pushed = (profile.tenant, profile.name, self.tenant) in self.snapshot.links
        return pushed or self.snapshot.within(profile.tenant, root)


Place = tuple[str, str, str]
"""Where an object stands: kind, tenant, name."""

EVERYTHING: Place = ("pause", ROOT, "")
"""Where the pause of all sending stands."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Tenants, profiles, links, preferences, templates, webhooks, pauses and keys; `all_paused` stands if nothing may be sent.

    `origins` names who made an object, where that is not the API. `own_bytes` is what a tenant's own objects count
    against the quota of its organisation, as `entries` weighs them. `unreadable`: newer code wrote something that counts
    as not there, so that nobody should send by this snapshot. A change copies the tables that it touches, and of
    those only the outermost: with 100,000 tenants it still takes milliseconds.
    """

    revision: int = 0
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    profiles: Mapping[tuple[str, str], Profile] = field(default_factory=dict)
    links: Mapping[tuple[str, str, str], Link] = field(default_factory=dict)
    preferences: Mapping[str, Preferences] = field(default_factory=dict)
    templates: Mapping[tuple[str, str], Template] = field(default_factory=dict)
    secrets: Mapping[tuple[str, str], StoredSecret] = field(default_factory=dict)
    webhooks: Mapping[tuple[str, str], Webhook] = field(default_factory=dict)
    paused: frozenset[tuple[str, str]] = frozenset()
    all_paused: Pause | None = None
    keys: Mapping[str, Key] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()
    origins: Mapping[Place, str] = field(default_factory=dict)
    own_bytes: Mapping[str, int] = field(default_factory=dict)
    unreadable: bool = False
    _children: Mapping[str, Collection[str]] = field(default_factory=dict)
    _own: Mapping[str, Collection[str]] = field(default_factory=dict)
    _inherited: Mapping[str, Collection[tuple[str, str, str]]] = field(default_factory=dict)
    _pushed: Mapping[str, Collection[tuple[str, str, str]]] = field(default_factory=dict)
    _webhooks: Mapping[str, Collection[str]] = field(default_factory=dict)
    _routes: dict[tuple[str, str | None], Route] = field(default_factory=dict)

    def provisioned(self, place: Place) -> bool:
        """Is the object defined in the operator's files?"""
        return self.origins.get(place) == PROVISION

    def find(self, place: Place) -> object | None:
        """Find an object by where it stands; of keys and pauses only whether they are there."""
        kind, tenant, name = place
        match kind:
            case "tenant":
                return self.tenants.get(tenant)
            case "profile":
                return self.profiles.get((tenant, name))
            case "link":
                profile, _, child = name.partition("/")
                return self.links.get((tenant, profile, child))
            case "preferences":
                return self.preferences.get(tenant)
            case "template":
                return self.templates.get((tenant, name))
            case "secret":
                return self.secrets.get((tenant, name))
            case "webhook":
                return self.webhooks.get((tenant, name))
            case "pause" if place == EVERYTHING:
                return self.all_paused
            case "pause":
                return place if (tenant, name) in self.paused else None
            case _:
                return self.keys.get(name)

    def is_paused(self, owner: str, profile: str) -> bool:
        """Does a person keep this profile's mail from leaving, with all other mail or alone?"""
        return self.all_paused is not None or (owner, profile) in self.paused

    # Tenants.

    def tenant(self, tenant: str) -> Tenant | None:
        """Find a tenant."""
        return self.tenants.get(tenant)

    def ancestry(self, tenant: str) -> tuple[str, ...]:
        """The tenant, its parent, … up to `system`; stops where a parent is missing, and one beyond the deepest."""
        line: list[str] = []
        at: str | None = tenant
        while at is not None and len(line) <= DEPTH and (found := self.tenants.get(at)) is not None:
            line.append(at)
            at = None if at == ROOT else found.parent
        return tuple(line)

    def within(self, tenant: str, root: str) -> bool:
        """Is the tenant `root` or below it?"""
        return (tenant == root and tenant in self.tenants) or root in self.ancestry(tenant)

    def reach(self, root: str) -> tuple[str, ...]:
        """`root` and all below it, in the order of their ids."""
        if root == ROOT:
            return tuple(sorted(self.tenants))
        found, waiting = [], [root] if root in self.tenants else []
        while waiting:
            tenant = waiting.pop()
            found.append(tenant)
            waiting += self.children(tenant)
        return tuple(sorted(found))

    def children(self, tenant: str) -> tuple[str, ...]:
        """The tenants directly below."""
        return tuple(self._children.get(tenant, ()))

    def organisation(self, tenant: str) -> str:
        """The tenant directly below `system` that this one is, or is below; `system` itself is its own."""
        line = self.ancestry(tenant)
        return line[-2] if len(line) > 1 else tenant

    def kept(self, root: str) -> int:
        """What is the own of `root` and all below it, in bytes."""
        kept, waiting = 0, [root]
        while waiting:
            tenant = waiting.pop()
            kept += self.own_bytes.get(tenant, 0)
            waiting += self._children.get(tenant, ())
        return kept

    # Profiles.

    def links_to(self, child: str) -> list[Link]:
        """The profiles pushed to this tenant."""
        return [self.links[place] for place in self._inherited.get(child, ())]

    def links_from(self, owner: str, profile: str | None = None) -> list[Link]:
        """What this tenant pushed: one profile, or all."""
        links = (self.links[place] for place in self._pushed.get(owner, ()))
        return [link for link in links if profile in (None, link.profile)]

    def own_profiles(self, tenant: str) -> list[Profile]:
        """The profiles that the tenant owns."""
        return [self.profiles[tenant, name] for name in self._own.get(tenant, ())]

    def inherited(self, tenant: str, name: str) -> Link | None:
        """Find a profile that was pushed to the tenant, by its name; nobody but its parent pushes."""
        known = self.tenants.get(tenant)
        return None if known is None or known.parent is None else self.links.get((known.parent, name, tenant))

    def _listed(self, tenant: Tenant) -> Iterator[tuple[Profile, bool]]:
        """The tenant's usable list: own profiles unless locked by the parent, and inherited; with the default mark."""
        if tenant.own_profiles:
            for profile in self.own_profiles(tenant.id):
                yield profile, profile.is_default
        for link in self.links_to(tenant.id):
            if (pushed := self.profiles.get((link.tenant, link.profile))) is not None:
                yield pushed, link.is_default

    # Resolution (who sends for whom).

    def route(self, tenant: str, profile: str | None) -> Route:
        """Find the profile for a tenant's mail: the named one and no other, or the nearest default."""
        known = self._routes.get((tenant, profile))
        if known is None:
            known = self._named(tenant, profile) if profile else self._default(tenant)
            if known.profile is not None or profile is None:  # names that nobody has are without number
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

    def templates_of(self, tenant: str) -> list[Template]:
        """The tenant's templates."""
        return [template for (owner, _), template in self.templates.items() if owner == tenant]

    def secrets_of(self, tenant: str) -> list[StoredSecret]:
        """The tenant's secrets in the built-in store."""
        return [secret for (owner, _), secret in self.secrets.items() if owner == tenant]

    def webhooks_of(self, tenant: str) -> list[Webhook]:
        """The tenant's webhooks."""
        return [self.webhooks[tenant, id_] for id_ in self._webhooks.get(tenant, ())]

    def users_of(self, tenant: str, secret: str) -> list[str]:
        """The tenant's profiles that refer to a secret of the built-in store."""
        return [
            profile.name
            for profile in self.own_profiles(tenant)
            if any(one.source == "stored" and one.key == secret for _, one in profile.credentials())
        ]

    # Keys.

    def key(self, key_id: str) -> Key | None:
        """Find a key that is not revoked."""
        return None if key_id in self.revoked else self.keys.get(key_id)

    def keys_of(self, tenant: str) -> tuple[Key, ...]:
        """The tenant's keys that are not revoked."""
        return tuple(key for key in self.keys.values() if key.tenant == tenant and key.id not in self.revoked)


def _matches(rule: Rule, category: str, severity: Severity) -> bool:
    if severity.rank < rule.min_severity.rank:
        return False
    if rule.category in ("*", category):
        return True
    prefix = rule.category.removesuffix(".*")
    return rule.category.endswith(".*") and (category == prefix or category.startswith(prefix + "."))
