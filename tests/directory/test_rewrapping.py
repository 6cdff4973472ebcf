"""Rewrapping: what an older master key sealed opens without it afterwards, and nobody notices but the operator."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.credentials.credentials import stored_place
from gateway.credentials.sealed import Seal, SealError
from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR, Actor, Change
from gateway.directory.directory import Directory, seal_place
from gateway.directory.entries import entry, place
from gateway.directory.rewrapping import BATCH, FIRST, rewrap
from gateway.directory.rules import Policy
from gateway.directory.shapes import SLOTS, Profile, Tenant, Webhook
from gateway.directory.snapshot import API
from gateway.problems import Problem
from gateway.smtp.egress import EgressPolicy
from gateway.store.clock import wall_clock
from tests.directory.provisioning import ACME, bench, profile, signed_in

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.directory.entries import Item
    from gateway.directory.snapshot import Snapshot
    from tests.directory.provisioning import Bench

OLD, NEW = b"o" * 32, b"n" * 32
BEFORE, BOTH, AFTER = Seal([OLD]), Seal([NEW, OLD]), Seal([NEW])
WHO = Actor("key:abc", "system", frozenset({"admin"}))
PROVISIONED = ACME + profile("main", "acme", signed_in("from-file"))


def plain(name: str, value: str = "hunter2", **more: Any) -> Profile:
    """A profile with a password."""
    credential = {"source": "plaintext", "value": value}
    document = {"tenant": "acme", "name": name, "host": f"{name}.example", "from": "a@acme.example"}
    return Profile.model_validate({**document, "auth": {"username": "u", "credential": credential}, **more})


async def put(directory: Directory, *items: Item) -> None:
    """Make or replace objects."""
    await directory.change(OPERATOR, lambda _snapshot: Change(list(items)))


def values(snapshot: Snapshot, seal: Seal) -> dict[tuple[str, ...], Secret]:
    """Open everything, by the place that it is sealed for."""
    found = {
        seal_place(one, slot): seal.open(credential.sealed, seal_place(one, slot))
        for one in snapshot.profiles.values()
        for slot, credential in one.credentials()
        if credential.sealed is not None
    }
    for secret in snapshot.secrets.values():
        bound = stored_place(secret.tenant, secret.name, secret.version)
        found[bound] = seal.open(secret.sealed, bound)
    return found


def sealed_by(snapshot: Snapshot, seal: Seal) -> int:
    """How many profiles' passwords this ring's first key sealed."""
    credentials = [one.auth.credential for one in snapshot.profiles.values()]
    return sum(one is not None and one.sealed is not None and seal.is_current(one.sealed) for one in credentials)


async def furnish(folder: Path) -> dict[tuple[str, ...], Secret]:
    """Seal one of everything with the old key; answers what is sealed where."""
    async with bench(folder, BEFORE) as b:
        await b.provision(PROVISIONED)
        await put(b.directory, Tenant(id="globex"), Tenant(id="emea", parent="acme"))
        whole = plain("whole")
        for number, slot in enumerate(SLOTS):
            value = {"source": "plaintext", "value": f"in-slot-{number}"}
            part = {"dkim": {"domain": "acme.example", "selector": "s1"}}.get(slot[0], whole.model_dump()[slot[0]])
            whole = Profile.model_validate(
                {**whole.model_dump(by_alias=True, exclude_none=True), slot[0]: {**part, slot[1]: value}}
            )
        await put(b.directory, whole)
        for tenant in ("system", "acme", "emea", "globex"):
            for version in range(3):
                await b.directory.put_secret(OPERATOR, tenant, "relay", Secret(f"{tenant}-{version}"))
        return values(b.snapshot, BEFORE)


async def rows(b: Bench, tenant: str = "system") -> list[tuple[str, str, Any]]:
    """What a tenant's log tells of rewrapping: who, what about, and which fields."""
    log = await b.store.audit(tenant, before=None, limit=100)
    return [(one.actor, one.object, json.loads(one.changes)) for one in log if one.action == "secret.rewrap"]


async def test_the_older_key_can_go(tmp_path: Path) -> None:
    """After it everything opens in a life that knows the new key alone: all slots and stored secrets of all tenants."""
    before = await furnish(tmp_path)
    async with bench(tmp_path, BOTH) as b:
        page = await rewrap(b.directory, WHO)
        now = values(b.snapshot, AFTER)
    async with bench(tmp_path, AFTER) as b:
        later = values(b.snapshot, AFTER)
        with pytest.raises(SealError):
            values(b.snapshot, BEFORE)

    assert len(before) == 4 + 4
    assert before == now == later
    assert (page.checked, page.profiles, page.secrets, page.unreadable, page.last) == (6, 2, 4, [], None)


async def test_nothing_else_changes(tmp_path: Path) -> None:
    """Not a version, a time, or whose file an object is of; and that file then finds nothing to change."""
    await furnish(tmp_path)
    async with bench(tmp_path, BOTH) as b:
        was = b.snapshot
        await rewrap(b.directory, WHO)
        shown = [
            [{**one.model_dump(), "sealed": None} for one in snapshot.secrets.values()]
            for snapshot in (was, b.snapshot)
        ]
        revision = b.snapshot.revision
        await b.provision(PROVISIONED)

        assert shown[0] == shown[1]
        assert was.origins == b.snapshot.origins
        assert b.snapshot.provisioned(("profile", "acme", "main"))
        assert b.snapshot.revision == revision


async def test_the_log_says_who_and_how_many(tmp_path: Path) -> None:
    """One row, in the log of `system`."""
    await furnish(tmp_path)
    async with bench(tmp_path, BOTH) as b:
        await rewrap(b.directory, WHO)
        told = await rows(b)
        others = [await rows(b, tenant) for tenant in ("acme", "emea", "globex")]
        broken = await b.store.audit_broken("system")

    counts = {"profiles": 2, "secrets": 4, "webhooks": 0}
    assert told == [("key:abc", "", [{"field": name, "after": count} for name, count in counts.items()])]
    assert (others, broken) == ([[], [], []], None)


async def test_both_secrets_of_a_webhook_are_sealed_anew(tmp_path: Path) -> None:
    """The one that signs, and the one before; nothing else of the webhook changes, and one that does not open is named."""
    where = ("webhook", "acme", "a1b2c3d4")
    webhook = Webhook(
        tenant="acme", id="a1b2c3d4", url="https://hook.example/", events=("notification.failed",), created_at=1,
        sealed=BEFORE.close(Secret("now"), where), previous=BEFORE.close(Secret("before"), where), rotated_at=wall_clock(),
    )  # fmt: skip
    damaged = webhook.model_copy(update={"id": "b1b2c3d4"})
    async with bench(tmp_path, BEFORE) as b:
        await put(b.directory, Tenant(id="acme"), webhook, damaged)
    async with bench(tmp_path, BOTH) as b:
        page = await rewrap(b.directory, WHO)
        after = b.snapshot.webhooks["acme", "a1b2c3d4"]

    assert after.previous is not None
    assert [AFTER.open(one, where) for one in (after.sealed, after.previous)] == [Secret("now"), Secret("before")]
    assert after.model_copy(update={"sealed": webhook.sealed, "previous": webhook.previous}) == webhook
    assert (page.checked, page.webhooks) == (2, 1)
    assert [one[:4] for one in page.unreadable] == [
        ("webhook", "acme", "b1b2c3d4", "secret"), ("webhook", "acme", "b1b2c3d4", "previous"),
    ]  # fmt: skip


async def test_what_a_webhook_signs_with_no_more_is_dropped(tmp_path: Path) -> None:
    """A day after a secret was replaced nobody needs it: that it does not open any more keeps no master key alive."""
    where = ("webhook", "acme", "a1b2c3d4")
    webhook = Webhook(
        tenant="acme", id="a1b2c3d4", url="https://hook.example/", events=("notification.failed",), created_at=1,
        sealed=AFTER.close(Secret("now"), where), previous=BEFORE.close(Secret("before"), where),
        rotated_at=wall_clock() - 86_400_000,
    )  # fmt: skip
    async with bench(tmp_path, AFTER) as b:
        await put(b.directory, Tenant(id="acme"), webhook)
        page = await rewrap(b.directory, WHO)
        after = b.snapshot.webhooks["acme", "a1b2c3d4"]

    assert page.unreadable == []
    assert after == webhook.model_copy(update={"previous": None})


async def test_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    """It looks at everything, writes nothing, and is not told."""
    await furnish(tmp_path)
    async with bench(tmp_path, BOTH) as b:
        await rewrap(b.directory, WHO)
        stored = await b.store.directory()
        page = await rewrap(b.directory, WHO)

        assert (page.checked, page.profiles, page.secrets) == (6, 0, 0)
        assert await b.store.directory() == stored
        assert len(await rows(b)) == 1


async def test_pages_cover_everything_once(tmp_path: Path) -> None:
    """Whatever their size; where one ends the next begins."""
    await furnish(tmp_path)
    async with bench(tmp_path, BOTH) as b:
        pages = [await rewrap(b.directory, WHO, FIRST, 4)]
        while (last := pages[-1].last) is not None:
            pages.append(await rewrap(b.directory, WHO, last, 4))
        opened = values(b.snapshot, AFTER)

    assert [(page.checked, page.profiles + page.secrets) for page in pages] == [(4, 4), (2, 2)]
    assert len(opened) == 8


async def test_a_run_that_was_broken_off_is_finished_by_the_next(tmp_path: Path) -> None:
    """After part of it everything opens with both keys, and the next run does the rest."""
    before = await furnish(tmp_path)
    async with bench(tmp_path, BOTH) as b:
        await rewrap(b.directory, WHO, FIRST, 3)
    async with bench(tmp_path, BOTH) as b:
        half = values(b.snapshot, BOTH)
        with pytest.raises(SealError):
            values(b.snapshot, AFTER)
        page = await rewrap(b.directory, WHO)
        whole = values(b.snapshot, AFTER)

    assert before == half == whole
    assert (page.checked, page.profiles + page.secrets) == (6, 3)


async def test_what_is_edited_meanwhile_stays_edited(tmp_path: Path) -> None:
    """Between two transactions: a new password, another field, a deletion, and a stored secret's next version."""
    names = [f"p{number:03}" for number in range(3 * BATCH)]
    async with bench(tmp_path, BEFORE) as b:
        await put(b.directory, Tenant(id="acme"), *map(plain, names))
        await b.directory.put_secret(OPERATOR, "acme", "relay", Secret("one"))
    async with bench(tmp_path, BOTH) as b:
        edits: list[asyncio.Future[Any]] = []

        def work(snapshot: Snapshot) -> Change:
            moved = snapshot.profiles["acme", names[-2]].model_copy(update={"port": 25})
            return Change([plain(names[-1], "changed"), moved], [("profile", "acme", names[-3])])

        def began() -> None:
            if not edits:  # they wait for the second transaction, and come before the third
                edits.append(asyncio.ensure_future(b.directory.change(OPERATOR, work)))
                edits.append(asyncio.ensure_future(b.directory.put_secret(OPERATOR, "acme", "relay", Secret("two"))))

        b.directory.on_change.append(began)
        page = await rewrap(b.directory, WHO)
        await asyncio.gather(*edits)
        opened, told = values(b.snapshot, AFTER), await rows(b)
    async with bench(tmp_path, AFTER) as again:
        assert values(again.snapshot, AFTER) == opened

    assert opened["profile", "acme", names[-1], "auth.credential"] == Secret("changed")
    assert again.snapshot.profiles["acme", names[-2]].port == 25
    assert ("acme", names[-3]) not in again.snapshot.profiles
    assert opened["secret", "acme", "relay", "2"] == Secret("two")
    assert len(opened) == 3 * BATCH
    assert (page.profiles, page.secrets) == (3 * BATCH - 2, 0)
    assert len(told) == 1


async def test_two_runs_at_once_do_no_harm(tmp_path: Path) -> None:
    """What one has done the other leaves; together they do each object once."""
    before = await furnish(tmp_path)
    async with bench(tmp_path, BOTH) as b:
        pages = await asyncio.gather(*(rewrap(b.directory, WHO) for _ in range(3)))
        opened = values(b.snapshot, AFTER)

    assert opened == before
    assert sum(page.profiles + page.secrets for page in pages) == 6


async def test_another_daemons_change_is_kept(tmp_path: Path) -> None:
    """If the store's directory has moved on, the batch is worked out again on what stands there."""
    await furnish(tmp_path)
    async with bench(tmp_path, BOTH) as b:
        revision, _ = await b.store.directory()
        await b.store.change_directory(revision, [entry(Tenant(id="globex", name="Globex"), API)], [])
        page = await rewrap(b.directory, WHO)

        assert page.profiles + page.secrets == 6
        assert b.snapshot.tenants["globex"].name == "Globex"
        assert len(values(b.snapshot, AFTER)) == 8


async def test_what_does_not_open_is_named_and_left(tmp_path: Path) -> None:
    """Swapped, flipped, or sealed with a key that is gone: each is told without its value, and all the rest is done."""
    async with bench(tmp_path, BEFORE) as b:
        await put(b.directory, Tenant(id="acme"), *(plain(name, f"of-{name}") for name in ("a", "b", "c", "d")))
        for name in ("x", "y"):
            await b.directory.put_secret(OPERATOR, "acme", name, Secret(f"of-{name}"))
        profiles, secrets = b.snapshot.profiles, b.snapshot.secrets
        slot = ("auth", "credential")
        a, c = profiles["acme", "a"], profiles["acme", "c"]
        swapped, other = (profiles["acme", name].auth.credential for name in "ab")
        assert swapped is not None
        assert other is not None
        flipped = secrets["acme", "x"]
        lost = Seal([b"l" * 32]).close(Secret("of-c"), seal_place(c))
        damaged = [
            a.with_credential(slot, other),
            profiles["acme", "b"].with_credential(slot, swapped),
            c.with_credential(slot, swapped.model_copy(update={"sealed": lost})),
            flipped.model_copy(update={"sealed": flipped.sealed[:-5] + ("A" if flipped.sealed[-5] != "A" else "B") + flipped.sealed[-4:]}),
        ]  # fmt: skip
        revision, _ = await b.store.directory()
        await b.store.change_directory(revision, [entry(one, API) for one in damaged], [])
    async with bench(tmp_path, BOTH) as b:
        page = await rewrap(b.directory, WHO)
        left = [b.snapshot.find(place(one)) for one in damaged]
        again = await rewrap(b.directory, WHO)
        opened = [
            AFTER.open(credential.sealed, seal_place(b.snapshot.profiles["acme", "d"]))
            for _, credential in b.snapshot.profiles["acme", "d"].credentials()
            if credential.sealed is not None
        ]
        opened.append(AFTER.open(b.snapshot.secrets["acme", "y"].sealed, stored_place("acme", "y", 1)))

    assert left == damaged
    assert opened == [Secret("of-d"), Secret("of-y")]
    changed, gone = (
        "the sealed value was changed, or belongs elsewhere",
        "sealed with a master key that is not configured",
    )
    assert list(map(tuple, page.unreadable)) == [
        ("profile", "acme", "a", "auth.credential", changed),
        ("profile", "acme", "b", "auth.credential", changed),
        ("profile", "acme", "c", "auth.credential", gone),
        ("secret", "acme", "x", None, changed),
    ]
    assert (page.checked, page.profiles, page.secrets) == (6, 1, 1)
    assert (again.profiles, again.secrets, again.unreadable) == (0, 0, page.unreadable)


async def test_a_profile_that_would_not_be_allowed_any_more_keeps_its_secret(tmp_path: Path) -> None:
    """The operator's policy is for saving and for sending; a master key goes away for all."""
    await furnish(tmp_path)
    async with bench(tmp_path, BOTH) as b:
        strict = Directory(b.store, Policy(EgressPolicy(())), BOTH)
        await strict.load()
        page = await rewrap(strict, WHO)

        assert (page.profiles, page.secrets) == (2, 4)
        assert len(values(strict.snapshot, AFTER)) == 8


async def test_a_caller_whose_key_is_revoked_goes_no_further(tmp_path: Path) -> None:
    """The key is looked at before each transaction."""
    await furnish(tmp_path)
    async with bench(tmp_path, BOTH) as b:
        stored = await b.store.directory()
        with pytest.raises(Problem):
            await rewrap(b.directory, Actor("key:gone", "system", frozenset({"admin"}), "gone"))

        assert await b.store.directory() == stored
