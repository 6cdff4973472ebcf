"""Several stores on one schema of PostgreSQL: what one of them does is seen by the others, and nothing is done twice."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

from gateway.store.postgresql import PostgresqlStore
from gateway.store.postgresql.server import Server
from gateway.store.protocol import KeyWithdrawn, RevisionConflict
from gateway.store.rows import (
    Entry,
    Flow,
    Inserted,
    LeasedRow,
    Limited,
    Mismatched,
    NewRow,
    News,
    Replayed,
    Stage,
    Withdrawn,
)
from tests.store.building import FLOW, HOUR, NOW, OTHER, changed, claim, happening, key, put, read, result, row, take
from tests.store.contract_events import claimed, event, names
from tests.store.contract_sessions import LINK, SESSION, session, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from gateway.store.rows import Acceptance
    from tests.peers.postgresql import Postgresql

TENANT = Entry("tenant", "acme", "", "{}", "api")
KEY = Entry("key", "acme", "k1", "{}", "api")
REVOKED = Entry("revoked", "acme", "k1", "{}", "api")


@pytest.fixture
def opening(postgresql: Postgresql, schema: str) -> Callable[[str], PostgresqlStore]:
    """Make stores by name, to be opened."""
    return lambda name: PostgresqlStore(Server(postgresql.url, schema=schema), name)


@pytest.fixture
async def one(opening: Callable[[str], PostgresqlStore]) -> AsyncIterator[PostgresqlStore]:
    """Open the first daemon's store."""
    async with opening("one") as store:
        yield store


@pytest.fixture
async def two(opening: Callable[[str], PostgresqlStore]) -> AsyncIterator[PostgresqlStore]:
    """Open the second daemon's store."""
    async with opening("two") as store:
        yield store


@asynccontextmanager
async def dead(store: PostgresqlStore) -> AsyncIterator[PostgresqlStore]:
    """Open a store that ends without a word."""
    yield await store.__aenter__()
    store.server._pool.terminate()


# Claims and leases.


async def test_claims_never_share_a_row(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """Two daemons that claim the same flow at the same time take each row once, until there is no more."""
    await put(one, *(row() for _ in range(400)))

    async def drain(store: PostgresqlStore) -> list[LeasedRow]:
        rows: list[LeasedRow] = []
        while True:
            claimed = await store.claim(claim(limit=7))
            rows += claimed.rows
            if claimed.next_due_at is None:
                return rows

    first, second = await asyncio.gather(drain(one), drain(two))
    assert len({taken.id for taken in first + second}) == len(first) + len(second) == 400
    assert all(await asyncio.gather(*(two.settle(result(taken)) for taken in second)))
    assert all(await asyncio.gather(*(one.settle(result(taken)) for taken in first)))


async def test_leases_of_the_others_are_respected_until_they_end(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """A daemon gives back what another one holds only when that lease is over."""
    await put(one, row(), row(flow=OTHER))
    early = await take(one)
    later = (await one.claim(replace(claim(OTHER), lease_until=NOW + HOUR))).rows[0]
    assert await two.release_expired(NOW + 120_000) == ([(FLOW, NOW)], [])
    assert not await one.settle(result(early))
    assert await one.settle(result(later))


async def test_mail_of_a_daemon_that_is_gone_is_released_at_once(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """A daemon whose row is gone holds nothing, whatever its leases say; its announced dots are unknown outcomes."""
    await put(one, row(), row(flow=OTHER))
    lost, dotted = await take(one), await take(one, OTHER)
    assert await one.dot(dotted.seq, dotted.lease_token, "[0]")
    await two.server.fetch("DELETE FROM daemon WHERE id = $1", one.roster.me)
    released, unknown = await two.release_expired(NOW)
    assert (released, [left.id for left in unknown]) == ([(FLOW, NOW)], [dotted.id])
    assert not await one.settle(result(lost))


async def test_same_name_takes_over_at_once(two: PostgresqlStore, opening: Callable[[str], PostgresqlStore]) -> None:
    """A daemon that comes back finds what it held ready again, and leaves the others theirs."""
    async with dead(opening("one")) as store:
        await put(store, row(), row(flow=OTHER))
        mine, theirs = await take(store), await take(two, OTHER)
    async with opening("one") as again:
        assert (await read(again, mine.id)).stage is Stage.READY
        assert (await read(again, theirs.id)).stage is Stage.LEASED
        assert (await take(again)).id == mine.id


# What is withdrawn on one daemon.


@pytest.mark.parametrize(("dropped", "what"), [(KEY, "key"), (TENANT, "tenant")], ids=["key", "tenant"])
async def test_what_was_dropped_accepts_nothing(
    one: PostgresqlStore, two: PostgresqlStore, dropped: Entry, what: str
) -> None:
    """Mail of a key or tenant that another daemon dropped is refused, and its idempotency key stays free."""
    await one.change_directory(0, [TENANT, KEY], [])
    await put(two, row())
    await one.change_directory(1, [], [dropped])
    other = row(flow=Flow("other", "main"), key_id="k2")
    assert await two.accept([row(idempotency=key("a")), other], NOW) == [Withdrawn(what), Inserted()]
    await one.change_directory(2, [dropped], [])
    assert await two.accept([row(idempotency=key("a"))], NOW) == [Inserted()]


async def test_revoked_key_accepts_and_changes_nothing(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """A key that another daemon revoked neither sends nor changes, and what it would have changed is as it was."""
    await one.change_directory(0, [TENANT, KEY], [])
    new = row()
    await put(two, new)
    await one.change_directory(1, [REVOKED], [])
    assert await two.accept([row()], NOW) == [Withdrawn("key")]
    before = await read(two, new.id)
    wanted = changed(before, Stage.FINAL, events="x\n", erase=True)
    with pytest.raises(KeyWithdrawn):
        await two.change(replace(wanted, key_id="k1"))
    assert await read(two, new.id) == before
    assert await two.change(replace(wanted, key_id="k2"))


# A tenant's rate.


def many(count: int, *, per_minute: int | None = 7, flow: Flow = FLOW) -> list[NewRow]:
    """Make rows of a tenant that may send so many a minute."""
    return [row(flow=flow, per_minute=per_minute) for _ in range(count)]


async def let_in(store: PostgresqlStore, rows: Sequence[NewRow], now: int = NOW) -> int:
    """Accept rows one at a time; how many went in."""
    answers = await asyncio.gather(*(store.accept([new], now) for new in rows))
    return sum(answer == Inserted() for [answer] in answers)


@pytest.mark.parametrize("per_minute", [1, 7, 60, 97])
async def test_rate_is_one_over_all_daemons(one: PostgresqlStore, two: PostgresqlStore, per_minute: int) -> None:
    """Two daemons that accept at once let exactly a minute's worth in, and as time passes exactly what comes back."""

    async def both(now: int) -> int:
        flood = [many(100, per_minute=per_minute) for _ in range(2)]
        return sum(await asyncio.gather(let_in(one, flood[0], now), let_in(two, flood[1], now)))

    assert await both(NOW) == per_minute
    interval = 60_000 / per_minute
    assert await both(NOW + int(interval) - (per_minute == 1)) == (interval == int(interval) and per_minute > 1)
    assert await both(NOW + HOUR) == per_minute
    assert await both(NOW + HOUR + 30_000) == per_minute // 2
    assert await both(NOW + HOUR + 60_000) == per_minute - per_minute // 2
    assert await both(NOW + HOUR + 59_000) == 0


async def test_first_of_many_go_in(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """Of rows that are too many at once the first are taken, and the others told how long to wait; none is kept."""
    assert await let_in(two, many(2)) == 2
    rows = many(9)
    wait = 8_572  # a seventh of a minute
    assert await one.accept(rows, NOW) == [Inserted()] * 5 + [Limited(wait)] * 4
    assert await two.accept(many(1), NOW + 500) == [Limited(wait - 500)]
    assert await two.accept(many(1), NOW + wait - 1) == [Limited(1)]
    assert await two.accept(many(2), NOW + wait) == [Inserted(), Limited(8_571)]
    assert [await one.get(new.id) is not None for new in rows] == [True] * 5 + [False] * 4
    assert await one.unfinished() == {"acme": 8}


async def test_tenants_are_limited_each_for_itself(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """In one statement each tenant has its own budget, and one without a limit leaves no trace of it."""
    zoo, free = Flow("zoo", "main"), Flow("free", "main")
    rows = [
        new
        for three in zip(many(5), many(5, per_minute=2, flow=zoo), many(5, per_minute=None, flow=free), strict=True)
        for new in three
    ]
    answers = await one.accept(rows, NOW)
    taken = [new.flow.tenant for new, answer in zip(rows, answers, strict=True) if answer == Inserted()]
    assert {tenant: taken.count(tenant) for tenant in ("acme", "zoo", "free")} == {"acme": 5, "zoo": 2, "free": 5}
    assert [tenant for (tenant,) in await two.server.fetch("SELECT tenant FROM tenant_rate ORDER BY 1")] == [
        "acme",
        "zoo",
    ]


async def test_event_that_somebody_is_taking_is_passed_over(
    one: PostgresqlStore, postgresql: Postgresql, schema: str
) -> None:
    """A claim waits for nobody: it takes what is free, and leaves the rest to whoever is at it."""
    await one.add_events([event("taken"), event("free")])
    connection = await asyncpg.connect(postgresql.url)
    try:
        async with connection.transaction():
            await connection.execute(f"SELECT FROM {schema}.webhook_event WHERE id = 'taken' FOR UPDATE")
            assert names(await asyncio.wait_for(claimed(one), 5)) == ["free"]
    finally:
        await connection.close()
    assert names(await claimed(one)) == ["taken"]


async def test_clocks_that_differ_change_nothing(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """A daemon whose clock is behind finds what is left, and gives nothing back twice."""
    assert await let_in(one, many(3), NOW + 20_000) == 3
    assert await let_in(two, many(9), NOW) == 4
    assert await let_in(one, many(1), NOW + 20_000) == 0
    assert await let_in(one, many(9), NOW + 40_000) == 2


async def test_rate_that_is_lowered_holds_at_once(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """What was spent under the old rate counts under the new, up to all of it."""
    assert await let_in(one, many(5, per_minute=10)) == 5
    assert await two.accept(many(1, per_minute=2), NOW) == [Limited(30_000)]
    assert await let_in(two, many(9, per_minute=2), NOW + 30_000) == 1
    assert await let_in(one, many(9, per_minute=10), NOW + 30_000) == 8


async def test_repeats_are_answered_and_spend_nothing(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """A key that was used before is replayed or mismatched on every daemon, with a budget or without."""
    first = row(idempotency=key("a"), per_minute=2)
    await put(one, first)

    async def repeat() -> list[Acceptance]:
        return await two.accept([row(idempotency=key("a", body), per_minute=2) for body in (b"a", b"b")], NOW)

    async def single(body: bytes) -> list[Acceptance]:
        return await two.accept([row(idempotency=key("a", body), per_minute=2)], NOW)

    assert await repeat() == [Replayed(first.answer), Mismatched()]
    assert [await single(b"a"), await single(b"b")] == [[Replayed(first.answer)], [Mismatched()]]
    assert await let_in(two, many(3, per_minute=2)) == 1
    assert await repeat() == [Replayed(first.answer), Mismatched()]
    assert [await single(b"a"), await single(b"b")] == [[Replayed(first.answer)], [Mismatched()]]


async def test_key_of_a_row_beyond_the_rate_stays_free(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """Beyond the rate a key is not used up, nor by its repeat in the same statement; later it is accepted."""
    assert await let_in(one, many(7)) == 7
    rows = [row(idempotency=key("a", body), per_minute=7) for body in (b"a", b"a", b"b")]
    assert await two.accept(rows, NOW) == [Limited(8_572)] * 3
    assert await one.accept(rows[:2], NOW + 60_000) == [Inserted(), Replayed(rows[0].answer)]


async def test_key_that_is_forgotten_spends_like_a_new_one(one: PostgresqlStore) -> None:
    """An idempotency key past its time is used anew, within the rate."""
    await put(one, row(idempotency=key("a", forget_at=NOW + 1), per_minute=1))
    again = row(idempotency=key("a", b"b"), per_minute=1)
    assert await one.accept([again], NOW + 1) == [Limited(59_999)]
    assert await one.accept([again], NOW + 60_000) == [Inserted()]


async def test_what_is_withdrawn_spends_nothing(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """Mail of a revoked key is refused for that, and leaves its tenant's budget as it was."""
    await one.change_directory(0, [TENANT, KEY], [])
    await one.change_directory(1, [REVOKED], [])
    assert await two.accept(many(20), NOW) == [Withdrawn("key")] * 20
    rows = [row(key_id="k2", per_minute=7) for _ in range(8)]
    assert await one.accept(rows, NOW) == [Inserted()] * 7 + [Limited(8_572)]


async def test_nothing_of_a_budget_stays_of_a_tenant_that_is_forgotten(one: PostgresqlStore) -> None:
    """A tenant that is made anew under the name begins with all of it."""
    await let_in(one, many(7))
    await one.forget("acme", 100)
    assert await let_in(one, many(8)) == 7


async def test_budgets_are_locked_in_order_and_before_keys(
    one: PostgresqlStore, two: PostgresqlStore, postgresql: Postgresql, schema: str
) -> None:
    """While a tenant's budget is in use those before it are held, those after it and all keys are free."""
    flows = [Flow(name, "main") for name in ("c", "b", "a")]
    await put(one, *(row(flow=flow, per_minute=7) for flow in flows))
    other = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema, "lock_timeout": "2s"})
    async with other.transaction():
        await other.execute("SELECT FROM tenant_rate WHERE tenant = 'b' FOR UPDATE")
        accepting = one.accept([row(flow=flow, per_minute=7, idempotency=key("k")) for flow in flows], NOW)
        async with asyncio.timeout(20):
            while not await two.server.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
        free = await two.server.fetch("SELECT tenant FROM tenant_rate ORDER BY tenant FOR UPDATE SKIP LOCKED")
        async with other.transaction():
            await other.execute("INSERT INTO idempotency SELECT t, 'k', '', '', 0 FROM unnest('{a,b,c}'::text[]) t")
            await other.execute("DELETE FROM idempotency")
    await other.close()
    assert [tenant for (tenant,) in free] == ["c"]
    assert await accepting == [Inserted()] * 3


# The directory.


async def test_news_are_what_became_of_the_directory(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """News since a revision tell what was put and what was dropped; the whole directory shows no dropped entries."""
    profile = Entry("profile", "acme", "main", '{"a":1}', "api")
    await one.change_directory(0, [TENANT, KEY, profile], [])
    changed_profile = profile._replace(body='{"a":2}')
    await one.change_directory(1, [changed_profile], [])
    await one.change_directory(2, [], [KEY])
    assert await two.directory_since(3) == News(3, [], [])
    assert await two.directory_since(2) == News(3, [], [KEY._replace(body=None)])
    assert await two.directory_since(1) == News(3, [changed_profile], [KEY._replace(body=None)])
    assert await two.directory_since(0) == News(3, [changed_profile, TENANT], [], whole=True)
    assert await two.directory() == (3, [changed_profile, TENANT])


async def test_one_of_two_changes_at_once_is_refused(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """Two daemons that change the same revision: one did, and the other learns of it; the log shows one."""
    entries = [Entry("tenant", name, "", "{}", "api") for name in ("a", "b")]
    results = await asyncio.gather(
        one.change_directory(0, entries[:1], [], [happening(object="a")], NOW),
        two.change_directory(0, entries[1:], [], [happening(object="b")], NOW),
        return_exceptions=True,
    )
    assert {type(done) for done in results} == {RevisionConflict, int}
    won = [isinstance(done, int) for done in results].index(True)
    assert await one.directory() == (1, [entries[won]])
    assert [written.object for written in await two.audit("acme", before=None, limit=9)] == ["ab"[won]]
    assert await two.audit_broken("acme") is None


async def test_audit_log_is_one_chain_over_all_daemons(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """What two daemons log at once stands in one chain."""
    await asyncio.gather(*(store.log([happening(object=str(n))], NOW) for n in range(20) for store in (one, two)))
    assert await one.audit_length("acme") == 40
    assert await two.audit_broken("acme") is None


# Everything at once.


async def test_nobody_waits_for_each_other(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """Keys and tenants in any order, results, releases and changes at once on two daemons: no deadlock, each key once."""
    stores = (one, two)
    await put(one, *(row(due_at=NOW - 1) for _ in range(600)))
    held = [(store, taken) for store in stores for taken in (await store.claim(claim(limit=200))).rows]
    ready = await asyncio.gather(*(read(one, name) for name in await _ready(one)))

    def same_keys(turn: int) -> list[NewRow]:
        names = [str(number) for number in range(60)]
        ordered = names[turn:] + names[:turn]
        keyed = [row(idempotency=key(name)) for name in (ordered if turn % 2 else reversed(ordered))]
        tenants = (f"t{number}" for number in (range(9) if turn % 2 else range(8, -1, -1)))
        return [*keyed, *(row(flow=Flow(tenant, "main"), per_minute=10) for tenant in tenants)]

    accepting = [stores[turn % 2].accept(same_keys(turn), NOW) for turn in range(40)]
    others = [
        *(store.settle(result(taken, Stage.READY if taken.seq % 3 else Stage.FINAL)) for store, taken in held),
        *(stores[stored.seq % 2].change(changed(stored, Stage.FINAL, events="a\n")) for stored in ready),
        *(stores[stored.seq % 2 - 1].change(changed(stored, Stage.RESTING, events="b\n")) for stored in ready),
        *(store.release_expired(NOW) for store in stores * 20),
        *(store.claim(claim(limit=30)) for store in stores * 20),
        *(store.prune(NOW, NOW, 50) for store in stores * 5),
    ]
    async with asyncio.timeout(60):
        answers, _ = await asyncio.gather(asyncio.gather(*accepting), asyncio.gather(*others))
    inserted = sum(isinstance(answer, Inserted) for batch in answers for answer in batch)
    kinds = {type(answer) for batch in answers for answer in batch}
    assert (inserted, kinds) == (60 + 9 * 10, {Inserted, Replayed, Limited})


async def _ready(store: PostgresqlStore) -> list[str]:
    return [
        record[0]
        for record in await store.server.fetch(
            "SELECT n.id FROM queue q JOIN notification n USING (seq) WHERE q.stage = 0"
        )
    ]


# Sessions.


async def test_a_session_counts_at_every_daemon(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """Begun at one it is known at the other; ended there it is ended here."""
    await one.begin_session(session("a"))
    assert await two.session(token("a")) == session("a")
    assert await two.end_session(token("a"), SESSION) == session("a")
    assert await one.session(token("a")) is None


async def test_a_link_signs_in_at_one_daemon(one: PostgresqlStore, two: PostgresqlStore) -> None:
    """Of several daemons that are shown it at once one gets it."""
    for number in range(20):
        await one.begin_session(link := session(str(number), kind=LINK))
        asking = (store.end_session(link.token_sha256, LINK) for store in (one, two, one, two))
        assert sorted(map(str, await asyncio.gather(*asking))) == sorted(map(str, [None, None, None, link]))


async def test_a_session_that_is_being_used_is_not_pruned(
    one: PostgresqlStore, postgresql: Postgresql, schema: str
) -> None:
    """Whoever is at it just then keeps it, and pruning does not wait."""
    await one.begin_session(session("a", used_at=NOW - HOUR))
    user = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema})
    async with user.transaction(), asyncio.timeout(10):
        await user.execute("UPDATE sessions SET used_at = $1", NOW)
        assert await one.prune_sessions(NOW, NOW, 10) == 0
    await user.close()
    assert await one.session(token("a")) == session("a")
