"""What newer code wrote into the directory, beside which this one works on: it counts as not there, and all else stays."""

from __future__ import annotations

from typing import Final

import pytest

from gateway.directory.entries import API, changed, entry, snapshot_of
from gateway.directory.shapes import Key, Link, Pause, Preferences, Profile, StoredSecret, Template, Tenant
from gateway.directory.snapshot import ROOT, Snapshot
from gateway.message.notification import Severity
from gateway.store.rows import Entry

DAY: Final = 86_400_000
ITEMS: Final = (
    Tenant(id="acme"),
    Tenant(id="emea", parent="acme"),
    Profile.model_validate({"tenant": "acme", "name": "main", "host": "relay.example", "from": "a@acme.example"}),
    Link(tenant="acme", profile="main", child="emea"),
    Preferences(tenant="acme", cc=["office@acme.example"]),
    Template.model_validate({"tenant": "acme", "name": "hello", "subject": "Hello", "text": "Hello"}),
    StoredSecret.model_validate(
        {"tenant": "acme", "name": "token", "sealed": "x", "version": 1, "created_at": DAY, "updated_at": DAY}
    ),
    Pause(tenant="acme", profile="main"),
    Key.model_validate(
        {
            "tenant": "acme",
            "id": "key00001",
            "name": "k",
            "scopes": ["send"],
            "sha256_hex": "00" * 32,
            "created_at": DAY,
        }
    ),
)
ENTRIES: Final = [entry(item, API) for item in ITEMS]
KINDS: Final = [one.kind for one in ENTRIES]


def newer(of: Entry) -> Entry:
    """Write an object as newer code does: with a field more."""
    return of._replace(body=of.body.removesuffix("}") + ', "since_next_year": 1}')


def told(snapshot: Snapshot) -> dict[str, object]:
    """Tell what a directory has; an index may keep an owner who has nothing left."""
    beside = {"revision", "unreadable", "_routes"}
    tables = {name: getattr(snapshot, name) for name in snapshot.__dataclass_fields__ if name not in beside}
    indexes = {
        name: {key: list(of) for key, of in tables.pop(name).items() if of} for name in [*tables] if name[0] == "_"
    }
    return tables | indexes


def test_it_is_known_that_something_was_left_out() -> None:
    """From the first entry that cannot be read on, also when that goes; not before."""
    known = snapshot_of(1, ENTRIES)
    missing = changed(known, 2, [newer(ENTRIES[0])], [])
    assert [one.unreadable for one in (known, missing, changed(missing, 3, [], [ENTRIES[0]]))] == [False, True, True]


@pytest.mark.parametrize("unreadable", [*ENTRIES], ids=KINDS)
def test_an_object_with_a_field_more_counts_as_not_there(unreadable: Entry) -> None:
    """The directory is what it would be without it, wherever it stands among the others."""
    others = [one for one in ENTRIES if one != unreadable]
    without = told(snapshot_of(1, others))

    assert told(snapshot_of(1, [newer(unreadable), *others])) == without
    assert told(snapshot_of(1, [*others, newer(unreadable)])) == without
    assert told(snapshot_of(1, ENTRIES)) != without


@pytest.mark.parametrize("body", ["", "[]", "null", "{}", "what?"])
def test_an_object_that_is_no_object_counts_as_not_there(body: str) -> None:
    """However it is broken."""
    broken = Entry("profile", "acme", "other", body, API)

    assert told(snapshot_of(1, [*ENTRIES, broken])) == told(snapshot_of(1, ENTRIES))


def test_a_kind_that_nobody_knows_counts_as_not_there() -> None:
    """Read with everything, put later, and dropped: each is nothing."""
    unknown = Entry("queue", "acme", "main", '{"tenant": "acme"}', "provision")
    known = snapshot_of(1, ENTRIES)

    assert told(snapshot_of(1, [unknown, *ENTRIES])) == told(known)
    assert told(changed(known, 2, [unknown], [])) == told(known)
    assert told(changed(known, 2, [], [unknown])) == told(known)
    assert changed(known, 2, [], [unknown]).revision == 2


@pytest.mark.parametrize("replaced", [*ENTRIES], ids=KINDS)
def test_an_object_that_becomes_unreadable_is_taken_away(replaced: Entry) -> None:
    """What it said before does not count any more: newer code says something else, and this one does not know what."""
    others = [one for one in ENTRIES if one != replaced]
    after = changed(snapshot_of(1, ENTRIES), 2, [newer(replaced)], [])

    assert told(after) == told(snapshot_of(2, others))
    assert told(changed(after, 3, [replaced], [])) == told(snapshot_of(3, [*others, replaced]))


@pytest.mark.parametrize("unreadable", [*ENTRIES], ids=KINDS)
def test_who_is_left_without_something_can_be_asked_for(unreadable: Entry) -> None:
    """A child without its parent, a link without its profile: whatever is asked of them is answered."""
    directory = changed(snapshot_of(1, ENTRIES), 2, [newer(unreadable)], [])
    for tenant in ("emea", "acme", ROOT):
        assert directory.ancestry(tenant)[:1] in ((), (tenant,))
        assert tenant not in directory.reach(tenant) or tenant in directory.tenants
        for name in (None, "main"):
            owner = directory.resolve(tenant, name, "general", Severity.INFO).owner
            assert owner is None or (unreadable.kind, unreadable.tenant) != ("profile", owner)


def test_the_root_stays_though_nobody_can_read_what_is_said_of_it() -> None:
    """There is a root in every directory, and the next tenants have a parent."""
    root = newer(entry(Tenant(id=ROOT, parent=None, name="us"), API))
    directory = snapshot_of(1, [root, *ENTRIES])

    assert directory.tenants[ROOT] == Tenant(id=ROOT, parent=None)
    assert told(changed(directory, 2, [root], [])) == told(directory)
