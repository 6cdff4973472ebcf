"""What people do to the directory, as pure functions: from a snapshot to the objects that shall be put and dropped.

Each raises the one `Problem` that keeps it from being done. Relations that must hold whatever was done are `rules`;
what is decided here depends on who asks, or on how things were before. Nothing here writes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from gateway.directory.entries import Item, place
from gateway.directory.kinds import DisabledReason
from gateway.directory.shapes import Link, Pause, PauseReason, Preferences, Profile, Template, Tenant, Webhook
from gateway.directory.snapshot import API, DEPTH, EVERYTHING, ROOT, Place, Snapshot
from gateway.problems import Code, Fault, Problem, refusal

PARENTS_FIELDS: Final = ("parent", "enabled", "own_profiles", "limits")
MOST_LINKS: Final = 2_000
Slot = tuple[str, str]


class Actor(NamedTuple):
    """Who changes something: a name for the audit, where their reach begins, and what they may."""

    name: str
    tenant: str
    scopes: frozenset[str] = frozenset()
    key: str = ""  # the API key in use, if it is one
    about: str = ""  # the tenant that is to be changed, if the caller named one

    def stands(self, snapshot: Snapshot) -> bool:
        """Is the actor still somebody? A key may have been revoked while its request waited."""
        return not self.key or snapshot.key(self.key) is not None

    def above(self, snapshot: Snapshot, tenant: str) -> bool:
        """Does the actor stand above this tenant?"""
        return tenant != self.tenant and snapshot.within(tenant, self.tenant)

    @property
    def handles_secrets(self) -> bool:
        """May the actor send a referenced secret somewhere else?"""
        return not self.scopes.isdisjoint(("secrets", "admin"))


OPERATOR: Final = Actor("operator", ROOT, frozenset({"admin"}))
"""Who wrote the settings' own files."""
GATEWAY: Final = Actor("gateway", ROOT, frozenset({"admin"}))
"""The daemon itself, where it pauses or disables what does harm."""


class Misplaced(Problem):
    """A problem with one object among many, and where that stands."""

    def __init__(self, problem: Problem, where: Place) -> None:
        super().__init__(problem.code, problem.detail, errors=problem.errors)
        self.where = where


@dataclass(slots=True)
class Change:
    """Objects to put, in the place of what stands there, and places to empty.

    `origin` is that of new objects; what stands `owned` gets it in any case.
    """

    put: list[Item] = field(default_factory=list)
    drop: list[Place] = field(default_factory=list)
    origin: str = API
    owned: Collection[Place] = ()


def _check_ours(snapshot: Snapshot, *places: Place) -> None:
    if any(map(snapshot.provisioned, places)):
        raise Problem(Code.PROVISIONED)


# Tenants.


def create_tenant(snapshot: Snapshot, actor: Actor, tenant: Tenant) -> Change:
    """Make a tenant below the actor's own."""
    if tenant.parent is None or not snapshot.within(tenant.parent, actor.tenant):
        raise refusal([Fault("/parent", "not_found", "There is no such tenant.")])
    if tenant.id in snapshot.tenants:
        raise Problem(Code.NAME_TAKEN)
    return Change([tenant])


def save_tenant(snapshot: Snapshot, actor: Actor, before: Tenant, after: Tenant) -> Change:
    """Change a tenant; what only its ancestors set takes one of their administrators.

    A tenant that moves loses what its old parent had pushed to it.
    """
    if before == after:
        return Change()
    changed = [name for name in PARENTS_FIELDS if getattr(before, name) != getattr(after, name)]
    if changed and before.id != ROOT and not actor.above(snapshot, before.id):
        raise Problem(Code.LOCKED_BY_PARENT)
    moved = "parent" in changed and before.id != ROOT
    if moved and (after.parent is None or not snapshot.within(after.parent, actor.tenant)):
        raise refusal([Fault("/parent", "not_found", "There is no such tenant.")])
    links = [place(link) for link in snapshot.links_to(before.id)] if moved else []
    _check_ours(snapshot, place(before), *links)
    return Change([after], links)


def delete_tenant(snapshot: Snapshot, actor: Actor, tenant: Tenant, unfinished: int) -> Change:
    """Delete a tenant without children, links and unfinished mail, with all that is its own."""
    if tenant.id != ROOT and not actor.above(snapshot, tenant.id):
        raise Problem(Code.LOCKED_BY_PARENT)
    if tenant.id == ROOT or snapshot.children(tenant.id) or snapshot.links_to(tenant.id) or unfinished > 0:
        raise Problem(Code.TENANT_IN_USE)
    belongings = [place(tenant), *_belongings(snapshot, [tenant.id])]
    _check_ours(snapshot, *belongings)
    return Change(drop=belongings)


def _belongings(snapshot: Snapshot, tenants: Collection[str]) -> Iterator[Place]:
    """All that is these tenants' own: what nobody has sorted by tenant is gone through once for all of them."""
    if not tenants:
        return
    theirs = frozenset(tenants)
    for tenant in tenants:
        yield from map(place, snapshot.own_profiles(tenant))
        if tenant in snapshot.preferences:
            yield "preferences", tenant, ""
        yield from map(place, snapshot.webhooks_of(tenant))
    named: Mapping[str, Collection[tuple[str, str]]] = {
        "template": snapshot.templates, "pause": snapshot.paused, "secret": snapshot.secrets,
    }  # fmt: skip
    for kind, places in named.items():
        yield from ((kind, tenant, name) for tenant, name in places if tenant in theirs)
    for key in snapshot.keys.values():
        if key.tenant in theirs and key.id not in snapshot.revoked:
            yield "key", key.tenant, key.id


def from_scratch(snapshot: Snapshot, change: Change) -> Change:
    """Let a new tenant begin with nothing: code that did not know of it may have left something of the former's there."""
    kept = {place(item) for item in change.put}
    made = [item.id for item in change.put if isinstance(item, Tenant) and item.id not in snapshot.tenants]
    left = [where for where in _belongings(snapshot, made) if where not in kept]
    return replace(change, drop=[*change.drop, *left]) if left else change


def complete(snapshot: Snapshot, change: Change) -> Change:
    """Add to a change what follows from it, whoever wanted it."""
    change = from_scratch(snapshot, change)
    left = _without_gone_failovers(snapshot, change)
    return replace(change, put=[*change.put, *left]) if left else change


def _without_gone_failovers(snapshot: Snapshot, change: Change) -> list[Profile]:
    """Let no profile fail over to what leaves its tenant's list; what the operator's files say stays said."""
    spoken_of = {*change.drop, *map(place, change.put)}
    gone = {listed for where in change.drop if (listed := _listed(where))}
    gone -= {listed for item in change.put if (listed := _listed(place(item)))}
    left: list[Profile] = []
    for tenant in sorted({tenant for tenant, _ in gone}):
        for profile in snapshot.own_profiles(tenant):
            stay = tuple(name for name in profile.failover if (tenant, name) not in gone)
            where = place(profile)
            if stay != profile.failover and where not in spoken_of and not snapshot.provisioned(where):
                left.append(profile.model_copy(update={"failover": stay}))
    return left


def _listed(where: Place) -> tuple[str, str] | None:
    """In whose list of profiles, and under which name, one stands for its tenant to use."""
    kind, tenant, name = where
    if kind == "link":
        profile, _, child = name.partition("/")
        return child, profile
    return (tenant, name) if kind == "profile" else None


# Profiles.


def save_profile(
    snapshot: Snapshot, actor: Actor, before: Profile | None, after: Profile, supplied: Collection[Slot]
) -> Change:
    """Make or change a profile. `supplied`: where the request gave a password anew."""
    if before == after:
        return Change()
    if before is None:
        _check_room(snapshot, after)
        after = _without_unlent(actor, None, after)
    else:
        _check_ours(snapshot, place(before))
        after = _kept(actor, before, _without_unlent(actor, before, after), supplied)
    change = Change([after])
    if after.is_default and not (before is not None and before.is_default):
        change.put += unmarked(snapshot, after.tenant)
    return change


def _check_own(snapshot: Snapshot, owner: str) -> None:
    """May the tenant make profiles, and lend them?"""
    tenant = snapshot.tenant(owner)
    if tenant is not None and not tenant.own_profiles:
        raise Problem(Code.LOCKED_BY_PARENT)


def _check_room(snapshot: Snapshot, profile: Profile) -> None:
    _check_own(snapshot, profile.tenant)
    if (profile.tenant, profile.name) in snapshot.profiles or snapshot.inherited(profile.tenant, profile.name):
        raise Problem(Code.NAME_TAKEN)


def _without_unlent(actor: Actor, before: Profile | None, after: Profile) -> Profile:
    """Who may edit profiles alone sets no reference: with a host of their own they would be sent what it stands for."""
    if actor.handles_secrets:
        return after
    known = dict(before.credentials()) if before is not None else {}
    for slot, credential in list(after.credentials()):
        if credential.source != "plaintext" and credential != known.get(slot):
            after = after.with_credential(slot, credential.without_secret())
    return after


def _kept(actor: Actor, before: Profile, after: Profile, supplied: Collection[Slot]) -> Profile:
    """Take the password away if it would go elsewhere now: who may change the host may not thereby learn it."""
    slot = ("auth", "credential")
    credential = after.auth.credential
    if credential is None or slot in supplied or _goes(before) == _goes(after):
        return after
    if credential.source != "plaintext" and actor.handles_secrets:
        return after
    return after.with_credential(slot, credential.without_secret())


def _goes(profile: Profile) -> tuple[object, ...]:
    """All that decides where a password goes, and as whose."""
    auth = profile.auth
    tls = profile.tls.model_copy(update={"client_certificate": None})
    return (
        profile.host, profile.port, profile.security, tls, profile.connector, auth.method, auth.domain, auth.username,
        auth.oauth,
    )  # fmt: skip


def unmarked(snapshot: Snapshot, tenant: str) -> list[Item]:
    """Take the default mark from whatever of the tenant's profiles has it."""
    found = marked(snapshot, tenant)
    _check_ours(snapshot, *map(place, found))
    return [cleared(one) for one in found]


def marked(snapshot: Snapshot, tenant: str) -> list[Profile | Link]:
    """Find what has the default mark in a tenant's list."""
    found: list[Profile | Link] = [profile for profile in snapshot.own_profiles(tenant) if profile.is_default]
    return found + [link for link in snapshot.links_to(tenant) if link.is_default]


def cleared(one: Profile | Link) -> Item:
    """Give the same without the default mark."""
    return one.model_copy(update={"is_default": False})


def mark_inherited(snapshot: Snapshot, link: Link, *, is_default: bool) -> Change:
    """Make an inherited profile the child's default, or no longer."""
    if link.is_default == is_default:
        return Change()
    _check_ours(snapshot, place(link))
    others = unmarked(snapshot, link.child) if is_default else []
    return Change([*others, link.model_copy(update={"is_default": is_default})])


def delete_profile(snapshot: Snapshot, profile: Profile) -> Change:
    """Delete a profile that nobody inherits."""
    if links := snapshot.links_from(profile.tenant, profile.name):
        children = ", ".join(sorted(link.child for link in links))
        raise Problem(Code.PROFILE_IN_USE, f"The profile is linked to {children}.")
    _check_ours(snapshot, place(profile))
    pause = [("pause", profile.tenant, profile.name)] if (profile.tenant, profile.name) in snapshot.paused else []
    return Change(drop=[place(profile), *pause])


def unlink(snapshot: Snapshot, link: Link) -> Change:
    """Take an inherited profile from its child; the profile stays."""
    _check_ours(snapshot, place(link))
    return Change(drop=[place(link)])


def push(
    snapshot: Snapshot, owner: str, children: Sequence[str], profiles: Sequence[str], default: str | None
) -> Change:
    """Lend profiles to direct children, all of them to all, perhaps one as their default."""
    _check_own(snapshot, owner)
    faults = list(_push_faults(snapshot, owner, children, profiles, default))
    if faults:
        raise refusal(faults)
    change = Change()
    for child in children:
        own = {profile.name for profile in snapshot.own_profiles(child)}
        for name in profiles:
            if (owner, name, child) in snapshot.links:
                raise Problem(Code.ALREADY_INHERITED)
            if name in own or snapshot.inherited(child, name) is not None:
                raise Problem(Code.NAME_TAKEN)
        if default is not None:
            change.put += unmarked(snapshot, child)
        change.put += [Link(tenant=owner, profile=name, child=child, is_default=name == default) for name in profiles]
    return change


def _push_faults(
    snapshot: Snapshot, owner: str, children: Sequence[str], profiles: Sequence[str], default: str | None
) -> Iterator[Fault]:
    if len(children) * len(profiles) > MOST_LINKS:
        yield Fault("/children", "too_many", f"One push makes at most {MOST_LINKS} links.")
        return
    yield from _named_once("children", children)
    yield from _named_once("profiles", profiles)
    below = set(snapshot.children(owner))
    for index, child in enumerate(children):
        if child not in below:
            yield Fault(f"/children/{index}", Code.NOT_A_CHILD.code, Code.NOT_A_CHILD.title)
    for index, profile in enumerate(profiles):
        if (owner, profile) not in snapshot.profiles:
            yield Fault(f"/profiles/{index}", Code.NOT_OWNED.code, Code.NOT_OWNED.title)
    if default is not None and default not in profiles:
        yield Fault("/default", Code.INVALID_DEFAULT.code, Code.INVALID_DEFAULT.title)


def _named_once(name: str, given: Sequence[str]) -> Iterator[Fault]:
    if not given:
        yield Fault(f"/{name}", "required", "Name at least one.")
    seen: set[str] = set()
    for index, one in enumerate(given):
        if one in seen:
            yield Fault(f"/{name}/{index}", "repeated", "It is named twice.")
        seen.add(one)


def pause(profile: Profile) -> Change:
    """Stop a profile until a person resumes it; its mail is held."""
    return Change([Pause(tenant=profile.tenant, profile=profile.name)])


def resume(snapshot: Snapshot, profile: Profile) -> Change:
    """Let a profile go on."""
    paused = (profile.tenant, profile.name) in snapshot.paused
    return Change(drop=[("pause", profile.tenant, profile.name)] if paused else [])


def pause_all(snapshot: Snapshot, since: int, reason: PauseReason = "operator") -> Change:
    """Stop all sending until a person resumes it. That the database is a copy counts for more than a person's wish."""
    stands = snapshot.all_paused
    if stands is not None and reason in ("operator", stands.reason):
        return Change()
    return Change([Pause(tenant=ROOT, since=since, reason=reason)])


def resume_all(snapshot: Snapshot) -> Change:
    """Let sending go on; a profile that was paused by itself stays so."""
    return Change(drop=[EVERYTHING] if snapshot.all_paused else [])


# The rest.


def save(snapshot: Snapshot, item: Preferences | Template) -> Change:
    """Put preferences or a template in their place."""
    before = snapshot.find(place(item))
    if before == item:
        return Change()
    _check_ours(snapshot, place(item))
    return Change([item])


def delete_template(snapshot: Snapshot, template: Template) -> Change:
    """Delete a template; mail that names it and still waits will fail."""
    _check_ours(snapshot, place(template))
    return Change(drop=[place(template)])


def delete_secret(snapshot: Snapshot, tenant: str, name: str) -> Change:
    """Delete a secret of the built-in store that no profile refers to."""
    if snapshot.users_of(tenant, name):
        raise Problem(Code.SECRET_IN_USE)
    return Change(drop=[("secret", tenant, name)])


def save_webhook(snapshot: Snapshot, webhook: Webhook) -> Change:
    """Make or change a webhook."""
    return Change([] if snapshot.find(place(webhook)) == webhook else [webhook])


def disable_webhook(
    snapshot: Snapshot, where: tuple[str, str], reason: DisabledReason, asked: Webhook | None = None
) -> Change:
    """Tell a webhook (tenant, id) nothing any more, until a person enables it again.

    `asked`: only if nobody has written it since this was read of a snapshot. One that looks the same may have been
    disabled and enabled again.
    """
    webhook = snapshot.webhooks.get(where)
    if webhook is None or not webhook.enabled or (asked is not None and asked is not webhook):
        return Change()
    return Change([webhook.model_copy(update={"enabled": False, "disabled_reason": reason})])


def delete_webhook(webhook: Webhook) -> Change:
    """Delete a webhook; what it was still to be told goes with it."""
    return Change(drop=[place(webhook)])


def declare(
    snapshot: Snapshot,
    actor: Actor,
    items: Iterable[Item],
    origin: str,
    supplied: Mapping[Place, Collection[Slot]],
    drop: Iterable[Place] = (),
) -> Change:
    """Make objects what files say, within the actor's reach, and take defaults over for those that the files mark.

    `supplied`: where a profile's password was given anew; `drop`: what goes at the same time.
    """
    wanted = {place(item): item for item in items}
    ours = reached(snapshot, actor, {item.id: item.parent for item in wanted.values() if isinstance(item, Tenant)})
    change = Change(drop=list(drop), origin=origin)
    for where, item in wanted.items():
        if not ours.issuperset(_concerned(item)):  # before anything else, or an equal guess would be told apart
            raise Misplaced(Problem(Code.NOT_FOUND, "There is no such tenant in your reach."), where)
        before = snapshot.find(where)
        if before == item:
            continue
        try:
            _declare(snapshot, actor, before, item, supplied.get(where, ()), change)
        except Problem as problem:
            raise Misplaced(problem, where) from None
    others = overtaken(snapshot, change.put, {*wanted, *change.drop})
    _check_ours(snapshot, *map(place, others))
    change.put += map(cleared, others)
    return change


def _declare(
    snapshot: Snapshot, actor: Actor, before: object | None, item: Item, supplied: Collection[Slot], change: Change
) -> None:
    _check_ours(snapshot, place(item))
    match item, before:
        case Tenant(), Tenant():
            made = save_tenant(snapshot, actor, before, item)
            change.put += made.put
            change.drop += made.drop
        case Tenant(), _ if item.id in snapshot.tenants:
            raise Problem(Code.NAME_TAKEN)
        case Profile(), Profile():
            change.put.append(_kept(actor, before, item, supplied))
        case Profile(), _:
            _check_room(snapshot, item)
            change.put.append(item)
        case Link(), None:
            _check_own(snapshot, item.tenant)
            change.put.append(item)
        case _:
            change.put.append(item)


def reached(snapshot: Snapshot, actor: Actor, made: Mapping[str, str | None]) -> set[str]:
    """The tenants in reach, with those that the same files make below them: each with its parent."""
    ours = set(snapshot.reach(actor.tenant))
    waiting = {tenant: parent for tenant, parent in made.items() if tenant not in snapshot.tenants}
    for _ in range(DEPTH):
        found = {tenant for tenant, parent in waiting.items() if parent in ours}
        if not found:
            break
        ours |= found
        waiting = {tenant: parent for tenant, parent in waiting.items() if tenant not in found}
    return ours


def _concerned(item: Item) -> tuple[str, ...]:
    if isinstance(item, Tenant):
        return (item.id,)
    return (item.tenant, item.child) if isinstance(item, Link) else (item.tenant,)


def cleared_out(snapshot: Snapshot, places: Iterable[Place], unfinished: Callable[[str], int]) -> list[Place]:
    """Name all that goes with what files do not speak of any more, under the rules that a caller meets too."""
    gone: dict[Place, None] = dict.fromkeys(places)
    tenants = [where for where in gone if where[0] == "tenant"]
    for where in tenants:
        if unfinished(where[1]) > 0:
            raise Misplaced(Problem(Code.TENANT_IN_USE), where)
    pauses = [("pause", tenant, name) for kind, tenant, name in gone if kind == "profile"]
    gone.update(dict.fromkeys(pause for pause in pauses if pause[1:] in snapshot.paused))
    gone.update(dict.fromkeys(_belongings(snapshot, [tenant for _, tenant, _ in tenants])))
    return list(gone)


def prune(
    snapshot: Snapshot, actor: Actor, wanted: Collection[Place], origin: str, unfinished: Callable[[str], int]
) -> list[Place]:
    """Name all that goes because the same files made it before, and do not speak of it any more."""
    reach = set(snapshot.reach(actor.tenant))
    gone = [
        where
        for where, made in snapshot.origins.items()
        if made == origin and where not in wanted and where[1] in reach
    ]
    for where in gone:
        if where[0] == "tenant" and not actor.above(snapshot, where[1]):
            raise Misplaced(Problem(Code.LOCKED_BY_PARENT), where)
    going = cleared_out(snapshot, gone, unfinished)
    for where in going:
        if snapshot.provisioned(where):
            raise Misplaced(Problem(Code.PROVISIONED), where)
    return going


def overtaken(snapshot: Snapshot, put: Iterable[Item], wanted: Collection[Place]) -> list[Profile | Link]:
    """Find whose default mark goes to one of these objects, and is not spoken of itself."""
    tenants = {
        item.child if isinstance(item, Link) else item.tenant
        for item in put
        if isinstance(item, Profile | Link) and item.is_default
    }
    return [one for tenant in sorted(tenants) for one in marked(snapshot, tenant) if place(one) not in wanted]
