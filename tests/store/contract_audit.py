"""What every engine behind `Store` must do: the audit log."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.store.audit import GENESIS, digest
from gateway.store.protocol import RevisionConflict, Store, StoreError
from gateway.store.rows import AuditRow, Entry, Happening
from tests.store.building import NOW, Reopen, happening, put, row

ENTRY = Entry("tenant", "acme", "", "1", "api")


async def log(store: Store, happened: Sequence[Happening], *, now: int = NOW) -> None:
    """Tell of a change on top of whatever there is."""
    revision, _ = await store.directory()
    await store.change_directory(revision, [], [], happened, now)


async def whole(store: Store, tenant: str = "acme") -> list[AuditRow]:
    """Read a log from its start."""
    return (await store.audit(tenant, before=None, limit=1_000_000))[::-1]


class AuditContract:
    """What happened is told for good, in the commit in which it happened."""

    async def test_audit_starts_empty(self, store: Store) -> None:
        """A tenant to which nothing happened has a log without rows, and it is whole."""
        assert await store.audit("acme", before=None, limit=10) == []
        assert (await store.audit_length("acme"), await store.audit_broken("acme")) == (0, None)

    async def test_change_is_told(self, store: Store) -> None:
        """A row says what happened when, whole, and its hash is that of a first row."""
        happened = Happening("acme", "key:abc", "root", "profile.update", "main", '{"host":["ä",null]}')
        assert await store.change_directory(0, [ENTRY], [], [happened], NOW) == 1
        (told,) = await whole(store)
        assert told[:-1] == ("acme", 1, NOW, "key:abc", "root", "profile.update", "main", '{"host":["ä",null]}')
        assert told.hash == digest(GENESIS, told)

    async def test_change_without_news_is_not_told(self, store: Store) -> None:
        """A change that names no happening leaves no row."""
        await store.change_directory(0, [ENTRY], [])
        assert await store.audit_length("acme") == 0

    async def test_rows_go_on_from_change_to_change(self, store: Store) -> None:
        """Numbers and hashes continue, within a change and from one to the next."""
        for change in range(3):
            await log(store, [happening(object=f"{change}.{place}") for place in range(3)], now=NOW + change)
        rows = await whole(store)
        assert [(one.number, one.at, one.object) for one in rows] == [
            (3 * change + place + 1, NOW + change, f"{change}.{place}") for change in range(3) for place in range(3)
        ]
        assert (await store.audit_length("acme"), await store.audit_broken("acme")) == (9, None)

    async def test_rows_go_on_in_the_next_life(self, store: Store, reopen: Reopen) -> None:
        """The log is there after reopening, and goes on."""
        await log(store, [happening(), happening()])
        before = await whole(store)
        async with reopen() as again:
            await log(again, [happening()])
            assert (await whole(again))[:2] == before
            assert (await again.audit_length("acme"), await again.audit_broken("acme")) == (3, None)

    async def test_logs_of_tenants_are_independent(self, store: Store) -> None:
        """Each tenant has numbers and hashes of its own, as if there were no other."""
        await log(store, [happening("acme"), happening("other"), happening("acme"), happening("")])
        await log(store, [happening("other")])
        for tenant, length in (("acme", 2), ("other", 2), ("", 1), ("acm", 0)):
            rows = await whole(store, tenant)
            assert [(one.tenant, one.number) for one in rows] == [(tenant, 1 + place) for place in range(length)]
            assert (await store.audit_length(tenant), await store.audit_broken(tenant)) == (length, None)
            assert rows == [] or rows[0].hash == digest(GENESIS, rows[0])

    async def test_pages_show_newest_first(self, store: Store) -> None:
        """Going on from the last number shows every row once, also when new ones come meanwhile."""
        await log(store, [happening()] * 5)
        seen: list[int] = []
        before: int | None = None
        while page := await store.audit("acme", before=before, limit=2):
            seen += [one.number for one in page]
            before = seen[-1]
            await log(store, [happening()])
        assert seen == [5, 4, 3, 2, 1]

    async def test_refused_change_is_not_told(self, store: Store) -> None:
        """What did not happen leaves no row."""
        with pytest.raises(RevisionConflict):
            await store.change_directory(7, [ENTRY], [], [happening()], NOW)
        assert await store.audit_length("acme") == 0

    async def test_change_that_cannot_be_told_does_not_happen(self, store: Store) -> None:
        """A text that no column can hold refuses the whole change, and nothing beside it."""
        new = row()
        results = await asyncio.gather(
            store.change_directory(0, [ENTRY], [], [happening(), happening(object="\udcff")], NOW),
            store.accept([new], NOW),
            return_exceptions=True,
        )
        assert isinstance(results[0], StoreError)
        assert await store.get(new.id) is not None
        assert (await store.directory(), await store.audit_length("acme")) == ((0, []), 0)

    async def test_what_changed_nothing_is_told(self, store: Store) -> None:
        """In the same chain as changes, whoever waits, and without another revision of the directory."""
        await log(store, [happening(object="0")])
        ignored = store.log([happening(object="1"), happening("other")], NOW + 1)
        await store.log([happening(object="2")], NOW + 2)
        await log(store, [happening(object="3")])

        assert ignored.done()
        assert [(one.number, one.object) for one in await whole(store)] == [(1, "0"), (2, "1"), (3, "2"), (4, "3")]
        assert ((await store.directory())[0], await store.audit_length("other")) == (2, 1)
        assert await store.audit_broken("acme") is None

    async def test_what_cannot_be_told_is_an_error(self, store: Store) -> None:
        """A text that no column can hold takes all that was to be told with it, and nothing beside it."""
        refused = store.log([happening(), happening(object="\udcff")], NOW)
        await store.log([happening(object="1")], NOW)

        with pytest.raises(StoreError):
            await refused
        assert [one.object for one in await whole(store)] == ["1"]

    async def test_concurrent_changes_make_one_chain(self, store: Store) -> None:
        """Of changes in the same moment each one that was written is told once, and the log is whole."""
        results = await asyncio.gather(
            *(store.change_directory(at // 2, [], [], [happening(object=str(at))], NOW) for at in range(10)),
            *(put(store, row()) for _ in range(10)),
            return_exceptions=True,
        )
        written = [str(at) for at, one in enumerate(results[:10]) if isinstance(one, int)]
        assert [one.object for one in await whole(store)] == written
        assert [int(one) // 2 for one in written] == list(range(len(written))) != []
        assert await store.audit_broken("acme") is None

    async def test_big_change_is_written_whole(self, store: Store) -> None:
        """Thousands of entries and rows go in together, and are checked by pages."""
        entries = [Entry("profile", "acme", f"{number:05}", "{}", "api") for number in range(5000)]
        told = [happening(object=entry.name) for entry in entries]
        assert await store.change_directory(0, entries, [], told, NOW) == 1
        assert await store.directory() == (1, entries)
        assert (await store.audit_length("acme"), await store.audit_broken("acme")) == (5000, None)
        assert await store.change_directory(1, [], entries) == 2
        assert await store.directory() == (2, [])
