"""The directory's rules once more, as plainly as they can be said: dictionaries, and steps that change them.

Written from what was promised, not from the code: a step answers the codes with which it may be refused (none: it is
done). Where several reasons of the state of things (409) hold, any of them may be told; faults of a request (422) are
told together, and have a code of their own only if they are all of one kind.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

ROOT: Final = "system"
DEPTH: Final = 8
PARENTS_FIELDS: Final = ("parent", "enabled", "own_profiles")
DONE: Final[frozenset[str]] = frozenset()
NOT_FOUND: Final = frozenset({"not_found"})
INVALID: Final = frozenset({"invalid"})

Fields = dict[str, Any]


@dataclass(frozen=True)
class CreateTenant:
    id: str
    parent: str
    actor: str


@dataclass(frozen=True)
class EditTenant:
    id: str
    field: str
    value: Any
    actor: str


@dataclass(frozen=True)
class DeleteTenant:
    id: str
    actor: str
    unfinished: int


@dataclass(frozen=True)
class CreateProfile:
    tenant: str
    name: str
    host: str
    username: str | None
    is_default: bool


@dataclass(frozen=True)
class EditProfile:
    tenant: str
    name: str
    field: str
    value: Any


@dataclass(frozen=True)
class Push:
    owner: str
    children: tuple[str, ...]
    profiles: tuple[str, ...]
    default: str | None


@dataclass(frozen=True)
class Mark:
    child: str
    name: str
    is_default: bool


@dataclass(frozen=True)
class DeleteProfile:
    tenant: str
    name: str


@dataclass(frozen=True)
class Pause:
    tenant: str
    name: str
    on: bool


Step = CreateTenant | EditTenant | DeleteTenant | CreateProfile | EditProfile | Push | Mark | DeleteProfile | Pause


@dataclass
class Model:
    """What must be so."""

    tenants: dict[str, Fields] = field(default_factory=lambda: {ROOT: new_tenant(None)})
    profiles: dict[tuple[str, str], Fields] = field(default_factory=dict)
    links: dict[tuple[str, str, str], bool] = field(default_factory=dict)  # owner, profile, child: is it the default?
    paused: set[tuple[str, str]] = field(default_factory=set)

    def copy(self) -> "Model":
        return deepcopy(self)

    # The tree.

    def line(self, tenant: str) -> list[str] | None:
        """The tenant and all above it; None if they do not end at the root."""
        found = []
        at: str | None = tenant
        while at is not None:
            if at in found or at not in self.tenants:
                return None
            found.append(at)
            at = self.tenants[at]["parent"]
        return found

    def within(self, tenant: str, root: str) -> bool:
        return root in (self.line(tenant) or ())

    def children(self, tenant: str) -> list[str]:
        return sorted(one for one, fields in self.tenants.items() if fields["parent"] == tenant)

    def is_tree(self) -> bool:
        lines = [self.line(tenant) for tenant in self.tenants]
        return all(line is not None and line[-1] == ROOT and len(line) <= DEPTH for line in lines)

    # Lists of profiles.

    def own(self, tenant: str) -> list[str]:
        return sorted(name for owner, name in self.profiles if owner == tenant)

    def inherited(self, tenant: str) -> dict[str, tuple[str, str, str]]:
        """The links that reach a tenant, by the profile's name."""
        return {link[1]: link for link in self.links if link[2] == tenant}

    def unmark(self, tenant: str) -> None:
        """Take the default mark from whatever has it."""
        for name in self.own(tenant):
            self.profiles[tenant, name]["is_default"] = False
        for link in self.inherited(tenant).values():
            self.links[link] = False

    def duplicates(self, tenant: str) -> bool:
        accounts = [(one["host"], one["username"]) for (owner, _), one in self.profiles.items() if owner == tenant]
        return len(set(accounts)) < len(accounts)

    # Steps.

    def take(self, step: Step) -> frozenset[str]:
        """Do a step, or nothing; answers the codes with which it may be refused."""
        after = self.copy()
        refused: frozenset[str] = getattr(after, f"_{type(step).__name__}")(step)
        if not refused:
            self.__dict__.update(after.__dict__)
        return refused

    def _CreateTenant(self, step: CreateTenant) -> frozenset[str]:  # noqa: N802 - named as the step is
        if not self.within(step.parent, step.actor):
            return NOT_FOUND
        if step.id in self.tenants:
            return frozenset({"name_taken"})
        self.tenants[step.id] = new_tenant(step.parent)
        return DONE if self.is_tree() else INVALID

    def _EditTenant(self, step: EditTenant) -> frozenset[str]:  # noqa: N802
        if step.id not in self.tenants:
            return NOT_FOUND
        before = self.tenants[step.id][step.field]
        if before == step.value:
            return DONE
        above = step.actor != step.id and self.within(step.id, step.actor)
        if step.field in PARENTS_FIELDS and step.id != ROOT and not above:
            return frozenset({"locked_by_parent"})
        if step.field == "parent":
            if step.id != ROOT and not self.within(step.value, step.actor):
                return NOT_FOUND
            for link in self.inherited(step.id).values():
                del self.links[link]
        self.tenants[step.id][step.field] = step.value
        return DONE if self.is_tree() else INVALID

    def _DeleteTenant(self, step: DeleteTenant) -> frozenset[str]:  # noqa: N802
        if step.id not in self.tenants:
            return NOT_FOUND
        if step.id != ROOT and (step.actor == step.id or not self.within(step.id, step.actor)):
            return frozenset({"locked_by_parent"})
        if step.id == ROOT or self.children(step.id) or self.inherited(step.id) or step.unfinished:
            return frozenset({"tenant_in_use"})
        del self.tenants[step.id]
        for name in self.own(step.id):
            del self.profiles[step.id, name]
            self.paused.discard((step.id, name))
        return DONE

    def _CreateProfile(self, step: CreateProfile) -> frozenset[str]:  # noqa: N802
        if step.tenant not in self.tenants:
            return INVALID
        if not self.tenants[step.tenant]["own_profiles"]:
            return frozenset({"locked_by_parent"})
        reasons = set()
        if step.name in (*self.own(step.tenant), *self.inherited(step.tenant)):
            reasons.add("name_taken")
        if step.is_default:
            self.unmark(step.tenant)
        others = [(one["host"], one["username"]) for (owner, _), one in self.profiles.items() if owner == step.tenant]
        if (step.host, step.username) in others:
            reasons.add("duplicate_profile")
        made = {"host": step.host, "username": step.username, "is_default": step.is_default, "enabled": True}
        self.profiles[step.tenant, step.name] = made
        return frozenset(reasons)

    def _EditProfile(self, step: EditProfile) -> frozenset[str]:  # noqa: N802
        profile = self.profiles.get((step.tenant, step.name))
        if profile is None:
            return NOT_FOUND
        if step.field == "is_default" and step.value and not profile["is_default"]:
            self.unmark(step.tenant)
        profile[step.field] = step.value
        return frozenset({"duplicate_profile"}) if self.duplicates(step.tenant) else DONE

    def _Push(self, step: Push) -> frozenset[str]:  # noqa: N802
        if step.owner in self.tenants and not self.tenants[step.owner]["own_profiles"]:
            return frozenset({"locked_by_parent"})
        below = self.children(step.owner)
        faults = {"not_a_child" for child in step.children if child not in below}
        faults |= {"not_owned" for name in step.profiles if (step.owner, name) not in self.profiles}
        if step.default is not None and step.default not in step.profiles:
            faults.add("invalid_default")
        if faults:
            return frozenset(faults) if len(faults) == 1 else INVALID
        reasons = set()
        for child in step.children:
            if step.default is not None:
                self.unmark(child)
            for name in step.profiles:
                link = (step.owner, name, child)
                if link in self.links:
                    reasons.add("already_inherited")
                elif name in (*self.own(child), *self.inherited(child)):
                    reasons.add("name_taken")
                self.links[link] = name == step.default
        return frozenset(reasons)

    def _Mark(self, step: Mark) -> frozenset[str]:  # noqa: N802
        link = self.inherited(step.child).get(step.name)
        if link is None:
            return NOT_FOUND
        if step.is_default:
            self.unmark(step.child)
        self.links[link] = step.is_default
        return DONE

    def _DeleteProfile(self, step: DeleteProfile) -> frozenset[str]:  # noqa: N802
        place = (step.tenant, step.name)
        if place in self.profiles:
            if any(link[:2] == place for link in self.links):
                return frozenset({"profile_in_use"})
            del self.profiles[place]
            self.paused.discard(place)
            return DONE
        link = self.inherited(step.tenant).get(step.name)
        if link is None:
            return NOT_FOUND
        del self.links[link]
        return DONE

    def _Pause(self, step: Pause) -> frozenset[str]:  # noqa: N802
        place = (step.tenant, step.name)
        if place not in self.profiles:
            return frozenset({"not_owner"}) if step.name in self.inherited(step.tenant) else NOT_FOUND
        if step.on:
            self.paused.add(place)
        else:
            self.paused.discard(place)
        return DONE

    # Resolution.

    def route(self, tenant: str, name: str | None) -> tuple[str, str] | None:
        """Find the profile that a tenant's mail leaves by."""
        if name is not None:
            place = self._usable_list(tenant).get(name, (None, False))[0]
            return place if place is not None and self._enabled(place) else None
        for at in self.line(tenant) or ():
            place = next((place for place, marked in self._usable_list(at).values() if marked), None)
            passed_over = at != tenant and not (self.tenants[at]["enabled"] and self.tenants[at]["share_default"])
            if place is not None and not passed_over and self._enabled(place):
                return place
            if at == tenant and self.tenants[at]["fallback"] == "none":
                return None
        return None

    def _usable_list(self, tenant: str) -> dict[str, tuple[tuple[str, str], bool]]:
        """A tenant's profiles by name, with the default mark; own ones only if it may have any."""
        found = {name: (link[:2], self.links[link]) for name, link in self.inherited(tenant).items()}
        if self.tenants[tenant]["own_profiles"]:
            found |= {name: ((tenant, name), self.profiles[tenant, name]["is_default"]) for name in self.own(tenant)}
        return found

    def _enabled(self, place: tuple[str, str]) -> bool:
        enabled: bool = self.profiles[place]["enabled"] and self.tenants[place[0]]["enabled"]
        return enabled


def new_tenant(parent: str | None) -> Fields:
    return {"parent": parent, "enabled": True, "fallback": "inherit", "share_default": True, "own_profiles": True}
