"""The store on PostgreSQL when the server goes away, comes back, or its answers are lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from gateway.store.postgresql import PostgresqlStore, server
from gateway.store.postgresql.server import Server
from gateway.store.protocol import StoreError, StoreFull, StoreUnavailable
from gateway.store.rows import Inserted, Limited, Mismatched, Replayed, Stage
from tests.peers.losing_proxy import LosingProxy
from tests.peers.postgresql import ELSEWHERE, VERSIONS, of_our_own
from tests.store.building import NOW, changed, claim, key, put, read, result, row, take

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.peers.postgresql import Postgresql

PATIENT = 60.0  # seconds: more than any server takes to come back
LOST_TWICE = pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])


@pytest.fixture
async def proxy(postgresql: Postgresql) -> AsyncIterator[LosingProxy]:
    """Put a proxy before the server."""
    async with LosingProxy(postgresql.url) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: LosingProxy, schema: str) -> AsyncIterator[PostgresqlStore]:
    """Open a store through the proxy."""
    async with PostgresqlStore(Server(proxy.url, schema=schema), patience=PATIENT) as store:
        yield store


@asynccontextmanager
async def impatient(proxy: LosingProxy, schema: str) -> AsyncIterator[PostgresqlStore]:
    """Open a store that gives a server up as soon as it is away."""
    async with PostgresqlStore(Server(proxy.url, schema=schema), patience=0.0) as store:
        yield store
        await proxy.come()


# Answers that were lost.


@LOST_TWICE
async def test_accept_whose_answer_was_lost_is_inserted(store: PostgresqlStore, proxy: LosingProxy, times: int) -> None:
    """Rows that went in without the caller knowing are answered as inserted, with or without a key, and are there once."""
    rows = [row(idempotency=key("a")), row(), row(idempotency=key("b")), row(category="end", due_at=NOW + 1)]
    proxy.lose(rows[0].id, times)
    assert await store.accept(rows, NOW) == [Inserted()] * 4
    assert proxy.lost == times
    assert await store.unfinished() == {"acme": 4}


async def test_keys_are_judged_also_after_a_lost_answer(store: PostgresqlStore, proxy: LosingProxy) -> None:
    """Beside a row whose answer was lost a replay stays a replay, and a mismatch a mismatch."""
    first = row(idempotency=key("old"))
    await put(store, first)
    new, same = row(idempotency=key("new")), row(idempotency=key("new"))
    replay, mismatch = row(idempotency=key("old")), row(idempotency=key("old", b"other"))
    proxy.lose(new.id)
    answers = await store.accept([new, same, replay, mismatch], NOW)
    assert answers == [Inserted(), Replayed(new.answer), Replayed(first.answer), Mismatched()]
    assert (proxy.lost, await store.unfinished()) == (1, {"acme": 2})


@pytest.mark.parametrize("keyless", [0, 1], ids=["keyed", "mixed"])
async def test_accept_that_gets_through_late_is_inserted(
    store: PostgresqlStore, proxy: LosingProxy, postgresql: Postgresql, schema: str, keyless: int
) -> None:
    """An attempt that was given up, and is carried out while the next is on its way, counts as that one."""
    rows = [row(idempotency=key("a")), row(idempotency=key("b")), *(row() for _ in range(keyless))]
    blocker = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema})
    block = blocker.transaction()
    await block.start()
    await blocker.execute("INSERT INTO idempotency VALUES ('acme', 'b', '', '', 0)")
    accepting = store.accept(rows, NOW)
    await _stuck(postgresql, 1)
    await proxy.leave()
    await proxy.come()
    await _stuck(postgresql, 2)
    await block.rollback()
    await blocker.close()
    assert await accepting == [Inserted()] * len(rows)
    assert await store.unfinished() == {"acme": len(rows)}


@LOST_TWICE
async def test_accept_whose_answer_was_lost_spends_once(store: PostgresqlStore, proxy: LosingProxy, times: int) -> None:
    """Rows that went in without the caller knowing are not paid for again by the next attempt."""
    rows = [row(per_minute=7, idempotency=key(name) if name else None) for name in ("a", "", "b", "")]
    proxy.lose(rows[0].id, times)
    assert await store.accept(rows, NOW) == [Inserted()] * 4
    assert proxy.lost == times
    assert await store.accept([row(per_minute=7) for _ in range(4)], NOW) == [Inserted()] * 3 + [Limited(8_572)]


async def test_refusal_whose_answer_was_lost_is_told_again(store: PostgresqlStore, proxy: LosingProxy) -> None:
    """Of rows beyond the rate the same are refused by the next attempt, and none is made."""
    rows = [row(per_minute=2) for _ in range(3)]
    proxy.lose(rows[0].id)
    assert await store.accept(rows, NOW) == [Inserted(), Inserted(), Limited(30_000)]
    assert (proxy.lost, await store.unfinished()) == (1, {"acme": 2})


async def test_accept_that_gets_through_late_spends_once(
    store: PostgresqlStore, proxy: LosingProxy, postgresql: Postgresql, schema: str
) -> None:
    """While an attempt that was given up is still at it the next one waits, and finds that all is done."""
    await put(store, row(per_minute=7))
    rows = [row(per_minute=7, idempotency=key(name)) for name in ("a", "b", "c", "d")]
    blocker = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema})
    block = blocker.transaction()
    await block.start()
    await blocker.execute("INSERT INTO idempotency VALUES ('acme', 'b', '', '', 0)")
    accepting = store.accept(rows, NOW)
    await _stuck(postgresql, 1)
    await proxy.leave()
    await proxy.come()
    await _stuck(postgresql, 2)
    await block.rollback()
    await blocker.close()
    assert await accepting == [Inserted()] * 4
    assert await store.accept([row(per_minute=7) for _ in range(3)], NOW) == [Inserted()] * 2 + [Limited(8_572)]


async def _stuck(postgresql: Postgresql, count: int) -> None:
    """Wait until so many statements wait for others' transactions."""
    watch = await asyncpg.connect(postgresql.url)
    async with asyncio.timeout(20):
        while count > await watch.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        ):
            await asyncio.sleep(0.01)
    await watch.close()


@LOST_TWICE
async def test_result_whose_answer_was_lost_was_written(store: PostgresqlStore, proxy: LosingProxy, times: int) -> None:
    """A result that was written without anybody knowing is told as written, once."""
    await put(store, row())
    taken = await take(store)
    proxy.lose("delivered", times)
    assert await store.settle(result(taken, events="delivered\n"))
    assert (await read(store, taken.id)).events == "delivered\n"
    assert proxy.lost == times


async def test_stale_result_stays_refused_after_a_lost_answer(store: PostgresqlStore, proxy: LosingProxy) -> None:
    """A result under a lost lease is refused however often it is tried."""
    await put(store, row())
    taken = await take(store)
    proxy.lose("delivered")
    assert not await store.settle(result(taken, token=taken.lease_token + 1, events="delivered\n"))
    assert (proxy.lost, (await read(store, taken.id)).events) == (1, "")


@LOST_TWICE
async def test_claim_whose_answer_was_lost_leaves_nothing_leased(
    store: PostgresqlStore, proxy: LosingProxy, times: int
) -> None:
    """What a claim took without anybody knowing is taken by its next attempt."""
    await put(store, *(row() for _ in range(3)))
    proxy.lose("acme", times)
    claimed = await store.claim(claim())
    assert (len(claimed.rows), proxy.lost) == (3, times)
    assert len({taken.lease_token for taken in claimed.rows}) == 1
    assert {(await read(store, taken.id)).lease_token for taken in claimed.rows} == {claimed.rows[0].lease_token}


async def test_claim_that_was_given_up_leaves_nothing_leased(proxy: LosingProxy, schema: str) -> None:
    """What a claim took that was not answered at all is taken by the next claim."""
    async with impatient(proxy, schema) as store:
        await put(store, row())
        proxy.lose("acme")
        with pytest.raises(StoreUnavailable):
            await store.claim(claim())
        assert len((await store.claim(claim())).rows) == 1


@LOST_TWICE
@pytest.mark.parametrize("stage", [Stage.READY, Stage.RESTING, Stage.FINAL])
async def test_change_whose_answer_was_lost_was_made(
    store: PostgresqlStore, proxy: LosingProxy, times: int, stage: Stage
) -> None:
    """A change that was made without anybody knowing is told as made, once."""
    new = row()
    await put(store, new)
    proxy.lose("by hand", times)
    assert await store.change(
        changed(await read(store, new.id), stage, recipients="[1]", events="by hand\n", erase=True)
    )
    after = await read(store, new.id)
    assert (after.stage, after.recipients, after.events, proxy.lost) == (stage, "[1]", "by hand\n", times)


async def test_change_of_what_moved_stays_refused_after_a_lost_answer(
    store: PostgresqlStore, proxy: LosingProxy
) -> None:
    """A change of a row that moved is refused however often it is tried."""
    new = row()
    await put(store, new)
    before = await read(store, new.id)
    await take(store)
    proxy.lose("by hand")
    assert not await store.change(changed(before, Stage.FINAL, events="by hand\n"))
    assert (proxy.lost, (await read(store, new.id)).events) == (1, "")


async def test_dot_whose_answer_was_lost_was_committed(store: PostgresqlStore, proxy: LosingProxy) -> None:
    """A dot that was committed without anybody knowing may be sent."""
    await put(store, row())
    taken = await take(store)
    proxy.lose("[0,7]")
    assert await store.dot(taken.seq, taken.lease_token, "[0,7]")
    assert proxy.lost == 1


# A server that is away.


async def test_trouble_is_told_while_it_lasts(proxy: LosingProxy, schema: str) -> None:
    """A write gives up after its patience; `reasons` says so until something is done again."""
    async with impatient(proxy, schema) as store:
        assert store.reasons() == []
        await proxy.leave()
        with pytest.raises(StoreUnavailable):
            await store.accept([row()], NOW)
        assert store.reasons() == ["store_away"]
        await proxy.come()
        await put(store, row())
        assert (store.reasons(), store.failed.is_set()) == ([], False)


async def test_results_wait_for_the_server(proxy: LosingProxy, schema: str) -> None:
    """When every other write gives up a result waits on, and is written when the server is back."""
    async with impatient(proxy, schema) as store:
        await put(store, row())
        taken = await take(store)
        await proxy.leave()
        settling = store.settle(result(taken))
        for giving_up in (
            store.accept([row()], NOW),
            store.claim(claim()),
            store.dot(taken.seq, taken.lease_token, "[]"),
        ):
            with pytest.raises(StoreUnavailable):
                await giving_up
        assert not settling.done()
        await proxy.come()
        assert await settling


TROUBLE = {"53000": StoreUnavailable, "54000": StoreUnavailable, "58030": StoreUnavailable, "53100": StoreFull}


@pytest.mark.parametrize(("code", "meaning"), TROUBLE.items(), ids=["resources", "limit", "io", "disk"])
async def test_trouble_of_the_server_ends_nothing(
    proxy: LosingProxy, postgresql: Postgresql, schema: str, code: str, meaning: type[StoreError]
) -> None:
    """A server that lacks something or cannot read its disk is as good as away, and good again once it is over."""
    async with impatient(proxy, schema) as store:
        await postgresql.execute(
            f"CREATE FUNCTION {schema}.trouble() RETURNS trigger LANGUAGE plpgsql"
            f" AS $$BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = '{code}'; END$$",
            f"CREATE TRIGGER trouble BEFORE INSERT ON {schema}.notification EXECUTE FUNCTION {schema}.trouble()",
        )
        with pytest.raises(StoreError) as caught:
            await store.accept([row()], NOW)
        await postgresql.execute(f"DROP TRIGGER trouble ON {schema}.notification")
        await put(store, row())
        assert (type(caught.value), store.failed.is_set(), store.reasons()) == (meaning, False, [])


async def test_those_who_wait_behind_give_up_too(proxy: LosingProxy, schema: str) -> None:
    """Nobody waits for the turn of others when their own patience is over."""
    async with impatient(proxy, schema) as store:
        await proxy.leave()
        many = [store.accept([row() for _ in range(400)], NOW) for _ in range(20)]
        results = await asyncio.gather(*many, return_exceptions=True)
        assert {type(one) for one in results} == {StoreUnavailable}
        assert all(one is results[0] for one in results)


async def test_closing_without_a_server_ends(proxy: LosingProxy, schema: str) -> None:
    """Closing gives the last results up, and every one of those who wait is told."""
    store = await PostgresqlStore(Server(proxy.url, schema=schema), patience=0.0).__aenter__()
    await put(store, row())
    taken = await take(store)
    await proxy.leave()
    settling = store.settle(result(taken))
    await store.__aexit__()
    with pytest.raises(StoreUnavailable):
        await settling
    with pytest.raises(StoreError, match="closed"):
        await store.accept([row()], NOW)


async def test_server_that_says_nothing_is_away(
    proxy: LosingProxy, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that keeps its connections and answers nothing holds nobody up, also at closing."""
    monkeypatch.setattr(server, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(server, "STATEMENT_SECONDS", 0.3)
    store = await PostgresqlStore(Server(proxy.url, schema=schema), patience=0.0).__aenter__()
    proxy.hold()
    with pytest.raises(StoreUnavailable):
        await store.accept([row()], NOW)
    assert store.reasons() == ["store_away"]
    async with asyncio.timeout(30):
        await store.__aexit__()


async def test_cancelled_pump_answers_everybody(store: PostgresqlStore, postgresql: Postgresql, schema: str) -> None:
    """Whatever ends a pump, nobody waits for ever, and the next job starts it anew."""
    async with held(postgresql, schema, "queue") as waiting:
        first = store.accept([row()], NOW)
        await waiting(1)
        behind = store.accept([row()], NOW)
        assert store._accepts._task is not None
        store._accepts._task.cancel()
        for future in (first, behind):
            with pytest.raises(StoreError, match="ended"):
                await future
    await put(store, row())


@pytest.mark.skipif(ELSEWHERE is not None, reason="would end the sessions of others")
async def test_closed_sessions_lose_nothing(store: PostgresqlStore, postgresql: Postgresql) -> None:
    """An operator who ends our sessions in the midst of writing loses nothing and doubles nothing."""
    rows = [row(idempotency=key(str(number))) for number in range(300)]

    async def deliver() -> None:
        while True:
            claimed = await store.claim(claim(limit=25))
            assert all(await asyncio.gather(*(store.settle(result(taken, events="once\n")) for taken in claimed.rows)))
            if claimed.next_due_at is None:
                return

    async def write() -> None:
        answers = await asyncio.gather(*(store.accept([new], NOW) for new in rows))
        assert answers == [[Inserted()]] * 300
        await asyncio.gather(*(deliver() for _ in range(5)))

    operator = await asyncpg.connect(postgresql.url)
    writing = asyncio.ensure_future(write())
    ended = 0
    while not writing.done():
        ended += await operator.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'notification-gateway'"
        )
        await asyncio.wait([writing], timeout=0.2)
    await writing
    await operator.close()
    assert ended > 0
    assert [(await read(store, new.id)).events for new in rows] == ["once\n"] * 300


# A server that dies.


@pytest.fixture(scope="module", params=VERSIONS)
def mortal(request: pytest.FixtureRequest) -> Iterator[Postgresql]:
    """Run a server that may be killed."""
    with of_our_own(request.param) as made:
        yield made


async def test_killed_server_loses_nothing(mortal: Postgresql) -> None:
    """Writes that were on their way when the server was killed are done when it is back, each of them once."""
    schema = await mortal.make_schema()
    async with PostgresqlStore(Server(mortal.url, schema=schema), patience=PATIENT) as store:
        before = [row(idempotency=key(f"before {number}")) for number in range(100)]
        await put(store, *before)
        taken = (await store.claim(claim(limit=50))).rows
        rows = [row(idempotency=key(str(number)), content="x" * 5_000) for number in range(2_000)]
        accepting = [store.accept([new], NOW) for new in rows]
        settling = [store.settle(result(one, events="once\n")) for one in taken]
        claiming = asyncio.ensure_future(store.claim(claim(limit=20)))
        await asyncio.wait(accepting, return_when=asyncio.FIRST_COMPLETED)
        mortal.kill()
        mortal.start()
        assert {one for (one,) in await asyncio.gather(*accepting)} == {Inserted()}
        assert all(await asyncio.gather(*settling))
        assert len((await claiming).rows) == 20
        assert store.reasons() == []
        assert await store.unfinished() == {"acme": 2_050}
        assert [(await read(store, one.id)).events for one in taken] == ["once\n"] * 50


@asynccontextmanager
async def held(postgresql: Postgresql, schema: str, table: str) -> AsyncIterator:
    """Hold a table; gives a function that waits until so many statements wait for it."""
    blocker = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema})
    watch = await asyncpg.connect(postgresql.url)

    async def waiting(count: int) -> None:
        async with asyncio.timeout(20):
            while count > await watch.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::regclass", f"{schema}.{table}"
            ):
                await asyncio.sleep(0.01)

    async with blocker.transaction():
        await blocker.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        yield waiting
    await blocker.close()
    await watch.close()
