"""Several stores on one schema of PostgreSQL: what one of them does is seen by the others, and nothing is done twice."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gateway.store.postgresql import PostgresqlStore
from gateway.store.postgresql.server import Server
from gateway.store.protocol import KeyWithdrawn, RevisionConflict
from gateway.store.rows import Entry, Flow, Inserted, LeasedRow, NewRow, News, Replayed, Stage, Withdrawn
from tests.store.building import FLOW, HOUR, NOW, OTHER, changed, claim, happening, key, put, read, result, row, take

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

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
    """Keys in any order, results, releases and changes at once on two daemons: no deadlock, and each key once."""
    stores = (one, two)
    await put(one, *(row(due_at=NOW - 1) for _ in range(600)))
    held = [(store, taken) for store in stores for taken in (await store.claim(claim(limit=200))).rows]
    ready = await asyncio.gather(*(read(one, name) for name in await _ready(one)))

    def same_keys(turn: int) -> list[NewRow]:
        names = [str(number) for number in range(60)]
        ordered = names[turn:] + names[:turn]
        return [row(idempotency=key(name)) for name in (ordered if turn % 2 else reversed(ordered))]

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
    assert (inserted, {type(answer) for batch in answers for answer in batch}) == (60, {Inserted, Replayed})


async def _ready(store: PostgresqlStore) -> list[str]:
    return [
        record[0]
        for record in await store.server.fetch(
            "SELECT n.id FROM queue q JOIN notification n USING (seq) WHERE q.stage = 0"
        )
    ]
