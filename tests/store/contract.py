"""What every engine behind `Store` must do: accepting, claiming, leases, results and changes.

An engine's test module subclasses these cases and gives them two fixtures: `store`, an empty open store, and `reopen`,
which closes it and opens the same rows again.
"""

import asyncio

import pytest

from gateway.store.protocol import RevisionConflict, Store
from gateway.store.rows import LIGHT, Entry, Flow, Inserted, Mismatched, Replayed, Stage
from tests.store.building import (
    FLOW,
    HOUR,
    NOW,
    OTHER,
    Reopen,
    changed,
    claim,
    key,
    put,
    read,
    result,
    row,
    take,
)


class AcceptContract:
    """Rows get in once per key."""

    async def test_accepted_row_is_read_back_whole(self, store: Store) -> None:
        """Every column of an accepted row comes back, with the content."""
        new = row(priority=2, category="account.reset", key_id="k7")
        await put(store, new)
        stored = await read(store, new.id)
        assert (stored.id, stored.flow, stored.category, stored.key_id) == (new.id, FLOW, "account.reset", "k7")
        assert (stored.priority, stored.stage, stored.status) == (2, Stage.READY, "queued")
        assert (stored.due_at, stored.expires_at, stored.accepted_at) == (NOW, NOW + 24 * HOUR, NOW)
        assert (stored.finished_at, stored.lease_token, stored.cancelled) == (None, None, False)
        assert (stored.recipients, stored.events, stored.envelope) == (new.recipients, "", new.envelope)
        assert stored.content == new.content

    async def test_no_rows_are_accepted_as_none(self, store: Store) -> None:
        """Accepting nothing answers nothing."""
        assert await store.accept([], NOW) == []

    async def test_many_rows_are_accepted_together(self, store: Store) -> None:
        """A batch larger than any statement goes in whole."""
        rows = [row() for _ in range(500)]
        await put(store, *rows)
        assert await store.unfinished() == {"acme": 500}

    async def test_final_row_is_accepted_with_its_end(self, store: Store) -> None:
        """A row that is final when it comes ended when it was accepted."""
        new = row(stage=Stage.FINAL, status="relayed", accepted_at=NOW - 5)
        await put(store, new)
        assert (await read(store, new.id)).finished_at == NOW - 5

    async def test_row_may_come_without_content(self, store: Store) -> None:
        """A row whose content nobody will need has none from the start."""
        new = row(stage=Stage.FINAL, content=None)
        await put(store, new)
        assert (await read(store, new.id)).content is None

    async def test_same_key_and_body_replays_the_first_answer(self, store: Store) -> None:
        """A repeat writes nothing and answers what was answered first."""
        first, again = row(idempotency=key("a")), row(idempotency=key("a"))
        await put(store, first)
        assert await store.accept([again], NOW) == [Replayed(first.answer)]
        assert await store.get(again.id) is None

    async def test_same_key_and_other_body_is_mismatched(self, store: Store) -> None:
        """A key that was used for something else writes nothing."""
        other = row(idempotency=key("a", b"other"))
        await put(store, row(idempotency=key("a")))
        assert await store.accept([other], NOW) == [Mismatched()]
        assert await store.get(other.id) is None

    async def test_duplicates_in_one_batch_are_told_apart(self, store: Store) -> None:
        """Within one batch the first use of a key counts, and the others are judged against it."""
        first, same, other = (row(idempotency=key("a", body)) for body in (b"a", b"a", b"b"))
        assert await store.accept([first, same, other], NOW) == [Inserted(), Replayed(first.answer), Mismatched()]

    async def test_concurrent_repeats_insert_once(self, store: Store) -> None:
        """Of calls with one key that run at the same time one inserts, and the others replay its answer."""
        rows = [row(idempotency=key("a")) for _ in range(20)]
        results = [one for (one,) in await asyncio.gather(*(store.accept([new], NOW) for new in rows))]
        winner = rows[results.index(Inserted())]
        assert sorted(map(str, results)) == sorted([str(Inserted()), *[str(Replayed(winner.answer))] * 19])

    async def test_keys_belong_to_the_tenant(self, store: Store) -> None:
        """Another tenant's key of the same name is another key."""
        await put(store, row(idempotency=key("a")), row(flow=Flow("other", "main"), idempotency=key("a", b"b")))

    async def test_forgotten_key_is_new_again(self, store: Store) -> None:
        """A key past its time means whatever its next use says."""
        await put(store, row(idempotency=key("a", forget_at=NOW)))
        again = row(idempotency=key("a", b"other"))
        await put(store, again)
        assert await store.accept([row(idempotency=key("a", b"other"))], NOW) == [Replayed(again.answer)]


class ClaimContract:
    """Due rows are taken most urgent first, within limits."""

    async def test_urgent_rows_come_first_then_the_longest_due(self, store: Store) -> None:
        """Priority goes before the time at which a row fell due."""
        low, late, early, high = (
            row(priority=2, due_at=NOW - 9), row(due_at=NOW), row(due_at=NOW - 5), row(priority=0, due_at=NOW),
        )  # fmt: skip
        await put(store, low, late, early, high)
        claimed = await store.claim(claim())
        assert [taken.id for taken in claimed.rows] == [high.id, early.id, late.id, low.id]

    async def test_rows_not_due_stay(self, store: Store) -> None:
        """A claim takes nothing that falls due later."""
        await put(store, row(due_at=NOW + 1))
        assert (await store.claim(claim())).rows == []

    async def test_rows_of_other_flows_stay(self, store: Store) -> None:
        """A claim takes nothing of the tenant's other profiles, nor of other tenants."""
        await put(store, row(flow=OTHER), row(flow=Flow("other", "main")))
        assert (await store.claim(claim())).rows == []

    async def test_claimed_row_carries_what_delivery_needs(self, store: Store) -> None:
        """A leased row has its columns, content and a token."""
        new = row(priority=0, category="x")
        await put(store, new)
        taken = await take(store)
        assert (taken.id, taken.flow, taken.category, taken.priority) == (new.id, FLOW, "x", 0)
        assert (taken.due_at, taken.expires_at, taken.accepted_at) == (NOW, new.expires_at, NOW)
        assert (taken.recipients, taken.envelope, taken.content) == (new.recipients, new.envelope, new.content)
        assert not taken.cancelled
        assert (await read(store, new.id)).lease_token == taken.lease_token

    async def test_claim_takes_at_most_its_limit(self, store: Store) -> None:
        """The limit holds over all priorities together."""
        await put(store, *(row(priority=priority) for priority in (0, 0, 1, 1, 2)))
        assert [taken.priority for taken in (await store.claim(claim(limit=3))).rows] == [0, 0, 1]

    async def test_claim_stops_at_its_bytes(self, store: Store) -> None:
        """A claim ends with the row that fills it, and takes at least one."""
        await put(store, *(row(content="x" * 600) for _ in range(3)))
        assert [len((await store.claim(claim(max_bytes=size))).rows) for size in (1000, 1)] == [2, 1]

    @pytest.mark.parametrize("letter", ["x", "é"])
    async def test_large_content_does_not_come_along(self, store: Store, letter: str) -> None:
        """From one octet over the limit on a claim tells its size alone, and counts nothing for it; it can be read."""
        fits = letter * (LIGHT // len(letter.encode()))
        await put(store, row(content=fits), *(row(content=fits + "y") for _ in range(2)))
        claimed = await store.claim(claim(max_bytes=LIGHT + 1))
        assert [(one.content, one.size) for one in claimed.rows] == [(fits, LIGHT), *[(None, LIGHT + 1)] * 2]
        whole = await store.get(claimed.rows[1].id, content=True)
        assert whole is not None
        assert whole.content == fits + "y"

    async def test_claimed_row_is_not_claimed_again(self, store: Store) -> None:
        """Two claims never share a row."""
        await put(store, row())
        both = await asyncio.gather(store.claim(claim()), store.claim(claim()))
        assert sorted(len(claimed.rows) for claimed in both) == [0, 1]

    async def test_next_due_is_told(self, store: Store) -> None:
        """A claim answers when the earliest of the remaining rows falls due, whatever its priority."""
        await put(store, row(), row(due_at=NOW + 50), row(priority=2, due_at=NOW + 20), row(flow=OTHER))
        assert (await store.claim(claim())).next_due_at == NOW + 20

    async def test_next_due_counts_rows_beyond_the_limit(self, store: Store) -> None:
        """A claim that was cut by its limit answers that more is due already."""
        await put(store, row(due_at=NOW - 9), row(due_at=NOW - 3))
        assert (await store.claim(claim(limit=1))).next_due_at == NOW - 3

    async def test_nothing_left_is_told(self, store: Store) -> None:
        """A claim that took the last row answers that there is no more."""
        await put(store, row())
        assert (await store.claim(claim())).next_due_at is None


class LeaseContract:
    """Only the holder of a lease writes a row's result."""

    async def test_result_is_written_under_its_lease(self, store: Store) -> None:
        """A settled row has its new stage, status, recipients, history and end, and no lease."""
        await put(store, row())
        taken = await take(store)
        assert await store.settle(result(taken, recipients='["done"]', events="one\n", at=NOW + 5))
        stored = await read(store, taken.id)
        assert (stored.stage, stored.status, stored.lease_token) == (Stage.FINAL, "relayed", None)
        assert (stored.recipients, stored.events, stored.finished_at) == ('["done"]', "one\n", NOW + 5)

    async def test_history_grows(self, store: Store) -> None:
        """A second result's events follow the first's."""
        await put(store, row())
        await store.settle(result(await take(store), Stage.READY, events="one\n"))
        taken = await take(store)
        await store.settle(result(taken, events="two\n"))
        assert (await read(store, taken.id)).events == "one\ntwo\n"

    async def test_result_under_another_token_is_refused(self, store: Store) -> None:
        """A token that does not hold the row changes nothing of it."""
        await put(store, row())
        taken = await take(store)
        before = await read(store, taken.id)
        assert not await store.settle(result(taken, token=taken.lease_token + 1, erase=True))
        assert await read(store, taken.id) == before

    async def test_result_after_the_lease_is_refused(self, store: Store) -> None:
        """Once a lease was ended its holder writes nothing, also while the row is leased to somebody else."""
        await put(store, row())
        first = await take(store)
        await store.release_expired(NOW + HOUR)
        assert not await store.settle(result(first))
        second = await take(store, now=NOW + HOUR)
        assert not await store.settle(result(first))
        assert await store.settle(result(second))

    async def test_stale_result_beside_the_valid_one_is_refused(self, store: Store) -> None:
        """A stale and a valid result in the same moment: one is written, and the stale one erases nothing."""
        await put(store, row(content="body"))
        stale = await take(store)
        await store.release_expired(NOW + HOUR)
        valid = await take(store, now=NOW + HOUR)
        wrote = await asyncio.gather(
            store.settle(result(stale, recipients="stale", erase=True)),
            store.settle(result(valid, Stage.READY, recipients="valid")),
            store.settle(result(stale, recipients="stale", erase=True)),
        )
        stored = await read(store, valid.id)
        assert (list(wrote), stored.recipients, stored.content) == ([False, True, False], "valid", "body")

    async def test_result_is_written_once(self, store: Store) -> None:
        """The lease ends with its first result."""
        await put(store, row())
        taken = await take(store)
        assert sorted(await asyncio.gather(store.settle(result(taken)), store.settle(result(taken)))) == [False, True]

    async def test_many_results_are_written_together(self, store: Store) -> None:
        """Results that come at once each reach their own row."""
        await put(store, *(row() for _ in range(100)))
        rows = (await store.claim(claim())).rows
        wrote = await asyncio.gather(*(store.settle(result(taken, recipients=taken.id)) for taken in rows))
        assert all(wrote)
        assert [(await read(store, taken.id)).recipients for taken in rows] == [taken.id for taken in rows]

    async def test_content_is_erased_on_demand_only(self, store: Store) -> None:
        """A result erases the content when it says so, and keeps it otherwise."""
        await put(store, row(), row())
        first, second = (await store.claim(claim())).rows
        await store.settle(result(first, erase=True))
        await store.settle(result(second))
        assert (await read(store, first.id)).content is None
        assert (await read(store, second.id)).content == second.content

    async def test_dot_needs_the_lease(self, store: Store) -> None:
        """The dot is committed for the holder of the lease and for nobody else."""
        await put(store, row())
        taken = await take(store)
        assert not await store.dot(taken.seq, taken.lease_token + 1, "[0]")
        assert await store.dot(taken.seq, taken.lease_token, "[0]")

    async def test_dot_is_refused_to_a_cancelled_row(self, store: Store) -> None:
        """What was cancelled before its dot is not sent."""
        await put(store, row())
        taken = await take(store)
        assert await store.change(changed(await read(store, taken.id), Stage.LEASED, cancelled=True))
        assert not await store.dot(taken.seq, taken.lease_token, "[0]")

    async def test_dot_ends_with_the_result(self, store: Store) -> None:
        """A row that was settled after its dot starts afresh with the next lease."""
        await put(store, row())
        taken = await take(store)
        await store.dot(taken.seq, taken.lease_token, "[0]")
        await store.settle(result(taken, Stage.READY))
        await take(store)
        assert await store.release_expired(NOW + HOUR) == ([(FLOW, NOW)], [])

    async def test_expired_leases_are_released(self, store: Store) -> None:
        """A lease that ran out gives its row back, and tells its flow and when it is due."""
        await put(store, row(due_at=NOW - 7))
        taken = await take(store)
        assert await store.release_expired(NOW + 120_000) == ([(FLOW, NOW - 7)], [])
        stored = await read(store, taken.id)
        assert (stored.stage, stored.lease_token) == (Stage.READY, None)

    async def test_live_leases_are_kept(self, store: Store) -> None:
        """A lease holds until its time."""
        await put(store, row())
        await take(store)
        assert await store.release_expired(NOW + 119_999) == ([], [])

    async def test_dotted_rows_are_told_apart(self, store: Store) -> None:
        """A lease that ran out after its dot stays until somebody judges the unknown outcome under its token."""
        await put(store, row())
        taken = await take(store)
        await store.dot(taken.seq, taken.lease_token, "[0]")
        released, unknown = await store.release_expired(NOW + HOUR)
        assert (released, unknown) == ([], [taken._replace(dotted_for="[0]")])
        assert await store.settle(result(unknown[0]))

    async def test_renewed_lease_lasts_longer(self, store: Store) -> None:
        """Of two leases the renewed one outlives the other."""
        await put(store, row(), row(flow=OTHER))
        kept, _ = await take(store), await take(store, OTHER)
        assert await store.renew([kept.lease_token], NOW + 2 * HOUR) == {kept.lease_token}
        assert await store.release_expired(NOW + HOUR) == ([(OTHER, NOW)], [])

    async def test_lost_lease_is_not_renewed(self, store: Store) -> None:
        """Renewing does not bring a lost lease back, and tells so."""
        await put(store, row())
        taken = await take(store)
        await store.release_expired(NOW + HOUR)
        assert await store.renew([taken.lease_token], NOW + 2 * HOUR) == set()
        assert (await read(store, taken.id)).stage is Stage.READY


class ChangeContract:
    """People's changes apply to what they saw, or not at all."""

    async def test_change_is_written(self, store: Store) -> None:
        """An unmoved row takes on everything that the change says."""
        new = row()
        await put(store, new)
        before = await read(store, new.id)
        assert await store.change(changed(before, Stage.FINAL, recipients="[1]", events="x\n", erase=True))
        after = await read(store, new.id)
        assert (after.stage, after.status, after.recipients, after.events) == (Stage.FINAL, "changed", "[1]", "x\n")
        assert (after.expires_at, after.finished_at, after.content) == (before.expires_at + 1, NOW, None)

    async def test_change_of_a_claimed_row_fails(self, store: Store) -> None:
        """A row that was claimed since it was read is left alone."""
        new = row()
        await put(store, new)
        before = await read(store, new.id)
        await take(store)
        assert not await store.change(changed(before, Stage.FINAL, erase=True))
        assert (await read(store, new.id)).stage is Stage.LEASED
        assert (await read(store, new.id)).content == new.content

    async def test_change_under_another_lease_fails(self, store: Store) -> None:
        """A row that was given back and claimed again has moved."""
        await put(store, row())
        before = await read(store, (await take(store)).id)
        await store.release_expired(NOW + HOUR)
        await take(store, now=NOW + HOUR)
        assert not await store.change(changed(before, Stage.LEASED, cancelled=True))

    async def test_change_of_other_recipients_fails(self, store: Store) -> None:
        """A row whose recipients changed since it was read has moved."""
        new = row()
        await put(store, new)
        before = await read(store, new.id)
        assert await store.change(changed(before, Stage.READY, recipients="[1]"))
        assert not await store.change(changed(before, Stage.READY, recipients="[2]"))

    async def test_cancel_mark_reaches_the_next_claim(self, store: Store) -> None:
        """A row that was marked while leased is claimed with the mark."""
        await put(store, row())
        taken = await take(store)
        await store.change(changed(await read(store, taken.id), Stage.LEASED, cancelled=True))
        await store.release_expired(NOW + HOUR)
        assert (await take(store, now=NOW + HOUR)).cancelled

    async def test_final_row_can_be_made_ready(self, store: Store) -> None:
        """A change leads out of the end again, and the row is claimed when due."""
        await put(store, row())
        taken = await take(store)
        await store.settle(result(taken))
        assert await store.change(changed(await read(store, taken.id), Stage.READY, due_at=NOW + 1))
        assert (await take(store, now=NOW + 1)).id == taken.id


class DurabilityContract:
    """What was answered is there in the next life."""

    async def test_rows_and_keys_survive(self, store: Store, reopen: Reopen) -> None:
        """Accepted rows, results and idempotency keys are there after reopening."""
        first, second = row(idempotency=key("a")), row(due_at=NOW + 1)
        await put(store, first, second)
        await store.settle(result(await take(store), recipients="[1]"))
        before = [await read(store, new.id) for new in (first, second)]
        async with reopen() as again:
            assert [await read(again, new.id) for new in (first, second)] == before
            assert await again.accept([row(idempotency=key("a"))], NOW) == [Replayed(first.answer)]

    async def test_directory_survives(self, store: Store, reopen: Reopen) -> None:
        """Directory entries and their revision are there after reopening."""
        entry = Entry("tenant", "acme", "", "{}", "api")
        assert await store.change_directory(0, [entry], []) == 1
        async with reopen() as again:
            assert await again.directory() == (1, [entry])

    async def test_stale_revision_is_refused(self, store: Store) -> None:
        """A change to a directory that somebody else changed meanwhile writes nothing."""
        await store.change_directory(0, [Entry("tenant", "acme", "", "{}", "api")], [])
        with pytest.raises(RevisionConflict):
            await store.change_directory(0, [Entry("tenant", "other", "", "{}", "api")], [])
        assert [entry.tenant for entry in (await store.directory())[1]] == ["acme"]
