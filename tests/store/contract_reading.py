"""What every engine behind `Store` must do: reading, counting, pruning and the directory."""

import asyncio

import pytest

from gateway.store.protocol import RevisionConflict, Store
from gateway.store.rows import Entry, Flow, FlowBacklog, FlowCensus, FlowDepth, Listing, NewRow, Stage, Wait
from tests.store.building import (
    FLOW,
    HOUR,
    NOW,
    OTHER,
    changed,
    key,
    put,
    read,
    result,
    row,
    take,
)


async def rest(store: Store, new: NewRow) -> None:
    """Make an accepted row wait for a person."""
    assert await store.change(changed(await read(store, new.id), Stage.RESTING))


async def finish(store: Store, new: NewRow, at: int) -> None:
    """Deliver an accepted row of a flow of its own."""
    assert await store.settle(result(await take(store, new.flow, now=NOW), at=at))


class ReadingContract:
    """Rows are read one by one and by pages."""

    async def test_unknown_id_reads_as_nothing(self, store: Store) -> None:
        """There is no row of an id that was never accepted."""
        assert await store.get("f" * 32) is None

    async def test_id_with_a_nul_reads_as_nothing(self, store: Store) -> None:
        """An id that no engine could hold is one that was never accepted, also if a known one is its beginning."""
        new = row()
        await put(store, new)
        assert [await store.get(bad) for bad in ("\0", f"{new.id}\0", f"{new.id}\0x")] == [None] * 3

    async def test_content_comes_on_demand(self, store: Store) -> None:
        """Without being asked for it, a read tells only that there is content."""
        new = row(content="secret")
        await put(store, new)
        without, with_content = await store.get(new.id), await store.get(new.id, content=True)
        assert without is not None
        assert with_content is not None
        assert (without.content, with_content.content) == ("", "secret")

    async def test_page_shows_newest_first(self, store: Store) -> None:
        """A page is in the reverse order of ids, without content."""
        rows = [row() for _ in range(3)]
        await put(store, *rows)
        page = await store.page(Listing(("acme",), 10))
        assert [(found.id, found.content) for found in page] == [(new.id, None) for new in reversed(rows)]

    async def test_pages_follow_one_another(self, store: Store) -> None:
        """Going on from the last id shows every row once, also when new ones come meanwhile."""
        rows = [row() for _ in range(5)]
        await put(store, *rows)
        seen: list[str] = []
        before: str | None = None
        while page := await store.page(Listing(("acme",), 2, before_id=before)):
            seen += [found.id for found in page]
            before = seen[-1]
            await put(store, row())
        assert seen == [new.id for new in reversed(rows)]

    @pytest.mark.parametrize(
        ("listing", "expected"),
        [
            (Listing(("acme",), 9), [3, 2, 1, 0]),
            (Listing(("other",), 9), [4]),
            (Listing(("acme", "other"), 9), [4, 3, 2, 1, 0]),
            (Listing((), 9), []),
            (Listing(("nobody",), 9), []),
            (Listing(("acme",), 9, key_id="k2"), [1]),
            (Listing(("acme",), 9, category="b"), [2]),
            (Listing(("acme",), 9, since=NOW + 1), [3]),
            (Listing(("acme",), 9, until=NOW + 1), [2, 1, 0]),
            (Listing(("acme",), 9, since=NOW, until=NOW + 1, category="a", key_id="k1"), [0]),
            (Listing(("acme", "other"), 2), [4, 3]),
        ],
    )
    async def test_filters_of_a_page_add_up(self, store: Store, listing: Listing, expected: list[int]) -> None:
        """Every filter narrows the page, and `since` is included where `until` is not."""
        rows = [
            row(category="a"),
            row(category="a", key_id="k2"),
            row(category="b"),
            row(accepted_at=NOW + 1),
            row(flow=Flow("other", "main"), accepted_at=NOW + 1),
        ]
        await put(store, *rows)
        assert [found.id for found in await store.page(listing)] == [rows[index].id for index in expected]

    async def test_expired_shows_what_is_ready(self, store: Store) -> None:
        """Ready rows out of time are shown; leased, resting and final ones and those with time left are not."""
        flows = [Flow("acme", name) for name in "abcde"]
        ready, resting, leased, final, later = (
            row(flow=flow, expires_at=NOW + (5 if flow.profile == "e" else 4)) for flow in flows
        )
        await put(store, ready, resting, leased, final, later)
        await rest(store, resting)
        await store.change(changed(await read(store, resting.id), Stage.RESTING))
        await take(store, leased.flow)
        await finish(store, final, NOW)
        found = await store.expired(NOW + 6, 10)
        assert {one.id for one in found} == {ready.id, later.id}
        assert [one.id for one in await store.expired(NOW + 4, 10)] == [ready.id]

    async def test_expired_has_a_limit(self, store: Store) -> None:
        """No more rows are read than asked for."""
        await put(store, *(row(expires_at=NOW) for _ in range(5)))
        assert len(await store.expired(NOW, 3)) == 3

    async def test_expired_goes_on_behind_a_row(self, store: Store) -> None:
        """Page after page comes in the order in which times were over, whatever became of the rows of the one before."""
        rows = [row(expires_at=NOW + expires_at) for expires_at in (2, 1, 1, 1, 2, 0)]
        await put(store, *rows)
        first = await store.expired(NOW + 2, 3)
        assert await store.change(changed(first[2], Stage.FINAL))
        second = await store.expired(NOW + 2, 3, first[2])
        third = await store.expired(NOW + 2, 3, second[2])

        assert [one.id for one in (*first, *second, *third)] == [rows[index].id for index in (5, 1, 2, 3, 0, 4)]

    async def test_backlog_tells_every_flow_with_ready_rows(self, store: Store) -> None:
        """Each flow is told once, with its number of ready rows and the first due time."""
        await put(
            store,
            row(due_at=NOW + 9), row(due_at=NOW + 3, priority=2), row(flow=OTHER, due_at=NOW + 7),
            row(flow=Flow("b", "")), row(flow=Flow("a-z", "x"), stage=Stage.FINAL),
        )  # fmt: skip
        await take(store, Flow("b", ""))
        found = await store.backlog()
        assert sorted(found, key=lambda one: one.flow) == [
            FlowBacklog(OTHER, NOW + 7),
            FlowBacklog(FLOW, NOW + 3),
        ]

    async def test_census_counts_what_is_not_final_by_how_it_waits(self, store: Store) -> None:
        """Each flow for itself, with when the oldest was accepted; what is final is not in it."""
        held, done = row(), row()
        await put(store, row(), held, done)
        assert await store.settle(result(await take(store), Stage.READY, due_at=NOW + 5))
        await rest(store, held)
        assert await store.change(changed(await read(store, done.id), Stage.FINAL))
        await put(store, row(accepted_at=NOW - 3))
        await take(store)
        later = row(due_at=NOW + HOUR, accepted_at=NOW - 1)
        await put(store, row(due_at=NOW - 4), row(accepted_at=NOW - 2), later, row(flow=OTHER))

        assert sorted(await store.census(NOW)) == sorted(
            [
                FlowCensus(FLOW, Wait.READY, 2, NOW - 2, NOW - 4),
                FlowCensus(FLOW, Wait.SCHEDULED, 1, NOW - 1, NOW + HOUR),
                FlowCensus(FLOW, Wait.DEFERRED, 1, NOW, NOW + 5),
                FlowCensus(FLOW, Wait.LEASED, 1, NOW - 3, NOW),
                FlowCensus(FLOW, Wait.RESTING, 1, NOW, NOW),
                FlowCensus(OTHER, Wait.READY, 1, NOW, NOW),
            ]
        )

    async def test_depths_tell_what_is_put_off_and_what_rests(self, store: Store) -> None:
        """Each flow for itself, in all and of that, with when the oldest was accepted; what is final is not in it."""
        held, done = row(), row()
        await put(store, row(), held, done)
        assert await store.settle(result(await take(store), Stage.READY, due_at=NOW + 5))
        await rest(store, held)
        assert await store.change(changed(await read(store, done.id), Stage.FINAL))
        await put(store, row(accepted_at=NOW - 3), row(flow=OTHER))
        await take(store, OTHER)

        assert sorted(await store.depths()) == [FlowDepth(OTHER, 1, 0, 0, NOW), FlowDepth(FLOW, 3, 1, 1, NOW - 3)]

    async def test_unfinished_counts_all_but_final(self, store: Store) -> None:
        """Ready, leased and resting rows count, by tenant."""
        flows = [Flow("acme", name) for name in "abcd"]
        rows = [row(flow=flow) for flow in flows]
        await put(store, *rows, row(flow=Flow("other", "")))
        await rest(store, rows[1])
        await take(store, flows[2])
        await finish(store, rows[3], NOW)
        assert await store.unfinished() == {"acme": 3, "other": 1}


class PruneContract:
    """Old rows and keys go, everything else stays."""

    async def test_old_final_rows_go_with_their_content(self, store: Store) -> None:
        """A row that ended before the limit in time is no more."""
        new = row()
        await put(store, new)
        await finish(store, new, NOW + 4)
        assert await store.prune(NOW + 9, NOW + 5, 10) == 1
        assert await store.get(new.id, content=True) is None

    async def test_young_and_unfinished_rows_stay(self, store: Store) -> None:
        """What ended at the limit in time or later, or did not end, is kept."""
        young, ready, resting = row(flow=Flow("acme", "a")), row(due_at=NOW + 1), row(due_at=NOW + 1)
        await put(store, young, ready, resting)
        await finish(store, young, NOW + 5)
        await rest(store, resting)
        assert await store.prune(NOW + 9, NOW + 5, 10) == 0
        assert len(await store.page(Listing(("acme",), 10))) == 3

    async def test_prune_has_a_limit(self, store: Store) -> None:
        """No more rows go than asked for, and the answer tells that there may be more."""
        rows = [row(stage=Stage.FINAL) for _ in range(5)]
        await put(store, *rows)
        assert [await store.prune(NOW, NOW + 1, 2) for _ in range(4)] == [2, 2, 1, 0]

    async def test_old_unfinished_rows_do_not_shelter_later_ones(self, store: Store) -> None:
        """Rows accepted first that are far from their end do not keep the pruning from those behind them."""
        await put(store, *(row(due_at=NOW + HOUR) for _ in range(10)), *(row(stage=Stage.FINAL) for _ in range(4)))
        assert [await store.prune(NOW, NOW + 1, 2) for _ in range(3)] == [2, 2, 0]

    async def test_forgotten_keys_go(self, store: Store) -> None:
        """Keys past their time are deleted up to the limit, and the answer tells that there may be more."""
        await put(store, *(row(idempotency=key(str(number), forget_at=NOW + 1)) for number in range(5)))
        assert [await store.prune(NOW + 1, NOW, 2) for _ in range(4)] == [2, 2, 1, 0]

    async def test_remembered_keys_stay(self, store: Store) -> None:
        """A key outlives its pruned row until its own time is over."""
        new = row(idempotency=key("a"), stage=Stage.FINAL)
        await put(store, new)
        assert await store.prune(NOW, NOW + 1, 10) == 1
        assert await store.accept([row(idempotency=key("a", b"other"))], NOW) != []
        assert await store.unfinished() == {}


class DirectoryContract:
    """Entries change all together, on top of what was read."""

    async def test_directory_starts_empty(self, store: Store) -> None:
        """A new store has revision 0 and no entry."""
        assert await store.directory() == (0, [])

    async def test_entries_are_put_replaced_and_dropped(self, store: Store) -> None:
        """One change replaces, adds and deletes, and answers the next revision."""
        old, gone = Entry("tenant", "a", "", "1", "api"), Entry("profile", "a", "main", "{}", "api")
        revision = await store.change_directory(0, [old, gone], [])
        new, added = old._replace(body="2", origin="provision"), Entry("tenant", "b", "", "1", "api")
        assert await store.change_directory(revision, [new, added], [gone]) == 2
        assert await store.directory() == (2, [new, added])

    async def test_entry_moves_by_drop_and_put(self, store: Store) -> None:
        """An entry that is dropped and put in one change is there afterwards."""
        entry = Entry("tenant", "a", "", "1", "api")
        await store.change_directory(0, [entry], [])
        await store.change_directory(1, [entry._replace(body="2")], [entry])
        assert await store.directory() == (2, [entry._replace(body="2")])

    async def test_one_of_two_concurrent_changes_wins(self, store: Store) -> None:
        """Of two changes on top of one revision one is written, and the other is told so."""
        results = await asyncio.gather(
            *(store.change_directory(0, [Entry("tenant", name, "", "1", "api")], []) for name in "ab"),
            return_exceptions=True,
        )
        assert sorted(str(type(one)) for one in results) == [str(RevisionConflict), str(int)]
        assert len((await store.directory())[1]) == 1

    async def test_refused_change_does_not_touch_its_company(self, store: Store) -> None:
        """A row that was accepted in the moment of a conflict is accepted all the same."""
        new = row()
        results = await asyncio.gather(
            store.change_directory(7, [], []), store.accept([new], NOW), store.check(), return_exceptions=True
        )
        assert isinstance(results[0], RevisionConflict)
        assert await store.get(new.id) is not None
