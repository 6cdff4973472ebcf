"""Who sends for whom: resolution by table, copies by rule, and what a caller may be told."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.directory.entries import API, Item, entry, snapshot_of
from gateway.directory.shapes import Link, Preferences, Profile, Tenant
from gateway.directory.snapshot import Snapshot
from gateway.message.notification import Severity


def profile(tenant: str, name: str, **more: Any) -> Profile:
    """A profile that nobody will ever connect to."""
    document = {"tenant": tenant, "name": name, "host": f"{name}.{tenant}.example", "from": f"{name}@{tenant}.example"}
    return Profile.model_validate({**document, **more})


def default(tenant: str, name: str = "main", **more: Any) -> Profile:
    """A tenant's default profile."""
    return profile(tenant, name, is_default=True, **more)


def snapshot(*items: Item) -> Snapshot:
    """A directory with system ─ acme ─ emea ─ paris, each replaced by an item of its own if there is one."""
    tenants = [Tenant(id="acme"), Tenant(id="emea", parent="acme"), Tenant(id="paris", parent="emea")]
    given = {item.id for item in items if isinstance(item, Tenant)}
    whole = [*(tenant for tenant in tenants if tenant.id not in given), *items]
    return snapshot_of(1, [entry(item, API) for item in whole])


def acme(**more: Any) -> Tenant:
    return Tenant(id="acme", **more)


def emea(**more: Any) -> Tenant:
    return Tenant(id="emea", parent="acme", **more)


def paris(**more: Any) -> Tenant:
    return Tenant(id="paris", parent="emea", **more)


LENT = (profile("emea", "lent"), Link(tenant="emea", profile="lent", child="paris"))
LENT_AS_DEFAULT = (profile("emea", "lent"), Link(tenant="emea", profile="lent", child="paris", is_default=True))
ABOVE = (default("emea"), default("acme"), default("system"))

# What there is, the profile that paris names, and what it gets: owner/name, via, and the verdicts on the way.
TABLE: dict[str, tuple[tuple[Item, ...], str | None, str | None, str | None, str]] = {
    "named: own": ((profile("paris", "a"), *ABOVE), "a", "paris/a", "named", "used"),
    "named: inherited": ((*LENT, *ABOVE), "lent", "emea/lent", "named", "used"),
    "named: missing is not replaced": ((default("paris"), *ABOVE), "a", None, None, "missing"),
    "named: an ancestor's is none of mine": ((*ABOVE,), "main", None, None, "missing"),
    "named: disabled is not replaced": (
        (profile("paris", "a", enabled=False), default("paris"), *ABOVE), "a", None, None, "disabled",
    ),
    "named: inherited from a disabled owner": (
        (emea(enabled=False), *LENT, default("paris")), "lent", None, None, "disabled",
    ),
    "named: own, but the parent locked own ones": (
        (paris(own_profiles=False), profile("paris", "a"), *ABOVE), "a", None, None, "missing",
    ),
    "named: inherited, though own ones are locked": (
        (paris(own_profiles=False), *LENT), "lent", "emea/lent", "named", "used",
    ),
    "named: fallback does not matter": (
        (paris(fallback="none"), profile("paris", "a")), "a", "paris/a", "named", "used",
    ),
    "default: own": ((default("paris"), *ABOVE), None, "paris/main", "default", "used"),
    "default: own, that is not marked": ((profile("paris", "a"),), None, None, None, "no_default " * 4),
    "default: inherited": ((*LENT_AS_DEFAULT, *ABOVE), None, "emea/lent", "default", "used"),
    "default: inherited without the mark": ((*LENT, default("acme")), None, "acme/main", "ancestor", "no_default " * 2 + "used"),
    "default: inherited, though the owner shares none": (
        (emea(share_default=False), *LENT_AS_DEFAULT), None, "emea/lent", "default", "used",
    ),
    "default: inherited from a disabled owner": (
        (emea(enabled=False), *LENT_AS_DEFAULT, default("acme")), None, "acme/main", "ancestor",
        "disabled tenant_disabled used",
    ),
    "default: own, that is disabled": (
        (default("paris", enabled=False), default("emea")), None, "emea/main", "ancestor", "disabled used",
    ),
    "default: own, but own ones are locked": (
        (paris(own_profiles=False), default("paris"), default("emea")), None, "emea/main", "ancestor", "no_default used",
    ),
    "ancestor: the nearest": ((*ABOVE,), None, "emea/main", "ancestor", "no_default used"),
    "ancestor: does not share": (
        (emea(share_default=False), *ABOVE), None, "acme/main", "ancestor", "no_default not_shared used",
    ),
    "ancestor: disabled is passed over": (
        (emea(enabled=False), *ABOVE), None, "acme/main", "ancestor", "no_default tenant_disabled used",
    ),
    "ancestor: its disabled profile is passed over": (
        (default("emea", enabled=False), default("acme")), None, "acme/main", "ancestor", "no_default disabled used",
    ),
    "ancestor: what it inherited": (
        (profile("acme", "lent"), Link(tenant="acme", profile="lent", child="emea", is_default=True)),
        None, "acme/lent", "ancestor", "no_default used",
    ),
    "ancestor: own ones locked there": (
        (emea(own_profiles=False), default("emea"), default("acme")), None, "acme/main", "ancestor",
        "no_default no_default used",
    ),
    "ancestor: its own fallback does not matter": (
        (emea(fallback="none"), default("acme")), None, "acme/main", "ancestor", "no_default no_default used",
    ),
    "fallback none: nothing above": ((paris(fallback="none"), *ABOVE), None, None, None, "no_default"),
    "fallback none: own all the same": (
        (paris(fallback="none"), default("paris")), None, "paris/main", "default", "used",
    ),
    "system: the last": ((default("system"),), None, "system/main", "system", "no_default " * 3 + "used"),
    "system: does not share": (
        (Tenant(id="system", share_default=False), default("system")), None, None, None, "no_default " * 3 + "not_shared",
    ),
    "nothing anywhere": ((), None, None, None, "no_default " * 4),
}  # fmt: skip


@pytest.mark.parametrize(("items", "name", "found", "via", "verdicts"), TABLE.values(), ids=TABLE.keys())
def test_resolution(
    items: tuple[Item, ...], name: str | None, found: str | None, via: str | None, verdicts: str
) -> None:
    """The named profile and no other, else the nearest default, as the table says."""
    route = snapshot(*items).route("paris", name)

    assert (None if route.profile is None else f"{route.profile.tenant}/{route.profile.name}") == found
    assert (route.owner, route.via) == (None if found is None else found.partition("/")[0], via)
    assert [step.verdict for step in route.chain] == verdicts.split()


def test_the_chain_names_each_tenant_that_was_asked() -> None:
    """From the sender upwards, with the profile that was looked at."""
    chain = snapshot(emea(share_default=False), *ABOVE).route("paris", None).chain

    assert [(step.tenant, step.profile) for step in chain] == [("paris", None), ("emea", "main"), ("acme", "main")]


def test_the_roots_own_default_is_no_fallback() -> None:
    """For system itself its default is its default."""
    assert snapshot(default("system")).route("system", None).via == "default"


def test_an_unknown_tenant_has_no_route() -> None:
    """Nobody sends for whom nobody knows."""
    of = snapshot(default("system"))

    assert (of.route("nobody", None).profile, of.route("nobody", "main").profile) == (None, None)


# Copies.

EVERYBODY = (("cc@acme.example",), ("bcc@acme.example",))
NOBODY: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
CC, BCC = (EVERYBODY[0], ()), ((), EVERYBODY[1])
ANY_CC = {"cc": True}

COPIES: dict[str, tuple[list[dict[str, Any]], str, Severity, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "no rules": ([], "general", Severity.CRITICAL, NOBODY),
    "a rule that copies nobody": ([{}], "general", Severity.CRITICAL, NOBODY),
    "the defaults match everything": ([ANY_CC], "a.b", Severity.INFO, CC),
    "star": ([{"category": "*", "bcc": True}], "a.b", Severity.INFO, BCC),
    "exact": ([{"category": "a.b", **ANY_CC}], "a.b", Severity.INFO, CC),
    "exact is not its children": ([{"category": "a", **ANY_CC}], "a.b", Severity.INFO, NOBODY),
    "prefix": ([{"category": "a.*", **ANY_CC}], "a.b", Severity.INFO, CC),
    "prefix at any depth": ([{"category": "a.*", **ANY_CC}], "a.b.c", Severity.INFO, CC),
    "prefix itself": ([{"category": "a.*", **ANY_CC}], "a", Severity.INFO, CC),
    "prefix ends at a dot": ([{"category": "a.*", **ANY_CC}], "ab.c", Severity.INFO, NOBODY),
    "prefix is not its parent": ([{"category": "a.b.*", **ANY_CC}], "a", Severity.INFO, NOBODY),
    "below the severity": ([{"min_severity": "error", **ANY_CC}], "a", Severity.WARNING, NOBODY),
    "at the severity": ([{"min_severity": "error", **ANY_CC}], "a", Severity.ERROR, CC),
    "above the severity": ([{"min_severity": "error", **ANY_CC}], "a", Severity.CRITICAL, CC),
    "matching rules add up": ([ANY_CC, {"bcc": True}], "a", Severity.INFO, EVERYBODY),
    "a rule takes nothing away": ([ANY_CC, {"cc": False}], "a", Severity.INFO, CC),
    "others do not count": ([{"category": "b", **ANY_CC}, {"bcc": True}], "a", Severity.INFO, BCC),
}


@pytest.mark.parametrize(("rules", "category", "severity", "copied"), COPIES.values(), ids=COPIES.keys())
def test_copies(
    rules: list[dict[str, Any]], category: str, severity: Severity, copied: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    """All rules that match the category and the severity add up."""
    preferences = {"tenant": "acme", "cc": EVERYBODY[0], "bcc": EVERYBODY[1], "rules": rules}
    resolution = snapshot(Preferences.model_validate(preferences)).resolve("acme", None, category, severity)

    assert (resolution.cc, resolution.bcc) == copied


def test_children_do_not_inherit_preferences() -> None:
    """A parent's copies are of the parent's mail."""
    preferences = Preferences.model_validate({"tenant": "acme", "cc": EVERYBODY[0], "rules": [ANY_CC]})

    assert snapshot(preferences).copies("emea", "a", Severity.CRITICAL) == NOBODY


# Who may be told.

VISIBLE: dict[str, tuple[tuple[Item, ...], str | None, str, bool]] = {
    "own": ((default("paris"),), None, "paris", True),
    "an ancestor's, from below": ((default("emea"),), None, "paris", False),
    "an ancestor's, from there": ((default("emea"),), None, "emea", True),
    "an ancestor's, from above": ((default("emea"),), None, "acme", True),
    "an ancestor's, from beside": ((Tenant(id="globex"), default("emea")), None, "globex", False),
    "pushed to the sender": ((*LENT_AS_DEFAULT,), None, "paris", True),
    "pushed and named": ((*LENT,), "lent", "paris", True),
    "pushed to another": (
        (default("acme"), Link(tenant="acme", profile="main", child="emea")), None, "paris", False,
    ),
    "system's, from below": ((default("system"),), None, "acme", False),
    "system's, from system": ((default("system"),), None, "system", True),
    "none": ((), None, "system", False),
}  # fmt: skip


@pytest.mark.parametrize(("items", "name", "root", "visible"), VISIBLE.values(), ids=VISIBLE.keys())
def test_visible(items: tuple[Item, ...], name: str | None, root: str, visible: bool) -> None:
    """A profile's name is told to those whose reach holds its owner, and to whom it was pushed."""
    assert snapshot(*items).resolve("paris", name, "general", Severity.INFO).visible(root) is visible


def test_the_root_is_stored_without_a_parent() -> None:
    """An item for system stays the root, whatever way it is written and read."""
    of = snapshot(Tenant(id="system", name="us"))

    assert (of.tenants["system"].parent, of.ancestry("paris")) == (None, ("paris", "emea", "acme", "system"))
