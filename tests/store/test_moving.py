"""A move from SQLite to PostgreSQL: everything arrives unchanged, and never can both be started."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import apsw
import asyncpg
import pytest

from gateway.store import moving
from gateway.store.moving import move
from gateway.store.postgresql import PostgresqlStore
from gateway.store.postgresql.server import Server
from gateway.store.protocol import StoreBroken, StoreBusy, StoreError
from gateway.store.rows import Ending, Entry, EventResult, Flow, Listing, Permission, Replayed, SignIn, Stage
from gateway.store.sqlite import SqliteStore
from tests.store.building import NOW, changed, claim, happening, key, pending, put, read, result, row, take
from tests.store.contract_events import claimed, event
from tests.store.contract_sessions import session, token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from gateway.store.protocol import Store
    from gateway.store.rows import AuditRow, Claimed, EventBacklog, News, StoredRow
    from tests.peers.postgresql import Postgresql

NAME = "postgresql://gateway@db.example.test/gateway"
SECOND = Flow("acme", "second")
REFUSED = SignIn("relay.example.test", "a" * 64, "acme")
ACCEPTED = SignIn("relay.example.test", "b" * 64, "acme")
TENANTS = ("acme", "acme-emea", "system")


@dataclass
class Hook:
    """Listens to a move, and does something at its moments."""

    at_page: Callable[[str, int], None] = lambda _part, _rows: None
    at_comparison: Callable[[], None] = lambda: None
    heard: list[tuple[str, int]] = field(default_factory=list)
    after: int | None = None
    anew: bool = False

    def resumed(self, rows: int, of: int) -> None:
        assert rows <= of
        self.after = rows

    def began_anew(self) -> None:
        self.anew = True

    def copied(self, part: str, rows: int, of: int) -> None:
        assert rows <= of
        self.heard.append((part, rows))
        self.at_page(part, rows)

    def compares(self) -> None:
        self.at_comparison()


class KilledError(Exception):
    """The move ends here."""


def dies_at(part: str, rows: int) -> Hook:
    """End a move once a part is copied so far."""

    def die(told: str, copied: int) -> None:
        if told == part and copied >= rows:
            raise KilledError

    return Hook(at_page=die)


def meanwhile(work: Callable[[], None]) -> None:
    """Do something while a move waits for its listener."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name the SQLite file."""
    return tmp_path / "gateway.db"


@pytest.fixture
def server(postgresql: Postgresql, schema: str) -> Callable[[], Server]:
    """Give a server that is not open yet, as often as one is needed."""
    return lambda: Server(postgresql.url, schema=schema)


async def fill(store: SqliteStore) -> dict[str, str]:
    """Write rows in every state there is; answers their ids by what they are."""
    rows = {
        "scheduled": row(due_at=NOW + 1_000_000),
        "urgent": row(priority=0, idempotency=key("urgent")),
        "resting": row(stage=Stage.RESTING, status="held"),
        "ended": row(stage=Stage.FINAL, content=None, status="failed", idempotency=key("ended", b"b")),
    }
    await put(store, *rows.values())
    await put(store, dotted := row(flow=SECOND), leased := row(flow=SECOND, content='{"subject":"Grüße 🎉"}'))
    first, _ = (await store.claim(claim(SECOND))).rows
    assert await store.dot(first.seq, first.lease_token, "[0]")
    deferred, relayed, cancelled = (row(flow=Flow("acme", name)) for name in ("third", "fourth", "fifth"))
    await put(store, deferred, relayed, cancelled)
    late = await take(store, Flow("acme", "third"))
    assert await store.settle(result(late, Stage.READY, due_at=NOW + 5, recipients="[[1]]", events="deferred\n"))
    done = await take(store, Flow("acme", "fourth"))
    assert await store.settle(result(done, erase=True, events="relayed\n", at=NOW + 7))
    await take(store, Flow("acme", "fifth"))
    assert await store.change(changed(await read(store, cancelled.id), Stage.LEASED, cancelled=True))
    made = [Entry("tenant", tenant, "", '{"n":1}', "api") for tenant in TENANTS]
    marks = [Entry("key", "acme", "k1", "{}", "provision"), Entry("revoked", "acme", "k2", "", "provision")]
    revision = await store.change_directory(0, [*made, *marks], [], [happening("acme"), happening("acme-emea")], NOW)
    for number in range(3):
        revision = await store.change_directory(revision, [marks[0]], [], [happening("acme", object=str(number))], NOW)
    await store.change_directory(revision, [], [made[1]], [happening("system")], NOW)
    for ticket in range(2):
        await store.try_login(REFUSED, ticket, NOW, forget_at=NOW + 1_000, most=3)
    await store.end_login(REFUSED, 0, Ending.REFUSED, forget_at=NOW + 1_000)
    await store.try_login(ACCEPTED, 2, NOW, forget_at=NOW + 1_000, most=3)
    await store.end_login(ACCEPTED, 2, Ending.ACCEPTED, forget_at=NOW + 1_000)
    await store.add_events([event(f"e{number}", body='{"text":"Grüße 🎉"}') for number in range(3)])
    [failed, _] = await claimed(store, 2)
    await store.settle_events([EventResult(failed.id, failed.lease_token, NOW + 5_000, 1)])
    rows |= {"dotted": dotted, "leased": leased, "deferred": deferred, "relayed": relayed, "cancelled": cancelled}
    return {name: made.id for name, made in rows.items()}


async def many(path: Path, count: int) -> None:
    """Write an SQLite database with many queued rows."""
    async with SqliteStore(path) as store:
        await put(store, *(row(idempotency=key(f"k{number}")) for number in range(count)))


@dataclass(frozen=True)
class Everything:
    """All that a store tells of what it holds."""

    rows: list[StoredRow | None]
    news: News
    logs: list[list[AuditRow]]
    recalled: list[tuple[bytes, str] | None]
    waiting: object
    claimed: Claimed
    backlog: list[EventBacklog]
    events: list[tuple[object, ...]]


async def everything(store: Store, ids: list[str]) -> Everything:
    """Ask a store for all it holds; the last question takes a lease."""
    rows = [await store.get(id_, content=True) for id_ in ids]
    waiting = [
        await store.unfinished(), sorted(await store.backlog()), sorted(await store.depths()),
        sorted(found.id for found in await store.expired(NOW + (1 << 40), 10_000)),
        [found.id for found in await store.page(Listing(("acme",), 100))],
    ]  # fmt: skip
    _, unknown = await store.release_expired(NOW)
    return Everything(
        rows,
        await store.directory_since(0),
        [await store.audit(tenant, before=None, limit=100) for tenant in TENANTS],
        [await store.recall("acme", name, NOW) for name in ("urgent", "ended", "unused")],
        [*waiting, unknown],
        _untied(await store.claim(claim(SECOND))),
        await pending(store),
        sorted((*one[:5], *one[6:]) for one in await claimed(store, now=NOW + 5_000)),
    )


def _untied(claimed: Claimed) -> Claimed:
    return type(claimed)([one._replace(lease_token=0) for one in claimed.rows], claimed.next_due_at)


async def test_everything_is_the_same_on_the_other_side(path: Path, server: Callable[[], Server]) -> None:
    """Rows of every stage, contents, keys, directory and audit log read alike; leases are over, dots are known."""
    async with SqliteStore(path) as store:
        ids = await fill(store)
    moved = await move(path, server(), NAME, Hook())
    async with SqliteStore(path, for_move=True) as here, PostgresqlStore(server()) as there:
        before, after = await everything(here, list(ids.values())), await everything(there, list(ids.values()))
        broken = [await there.audit_broken(tenant) for tenant in TENANTS]

    assert after == before
    assert broken == [None, None, None]
    assert moved.counts == {
        "notifications": 9, "queued": 7, "ready": 5, "leased": 1, "resting": 1, "contents": 7, "idempotency keys": 2,
        "directory entries": 4, "directory revision": 5, "audit rows": 6, "refused sign-ins": 2, "accounts signed in to": 1,
        "webhook events": 3,
    }  # fmt: skip
    assert not moved.already


async def test_new_mail_comes_after_what_was_moved(path: Path, server: Callable[[], Server]) -> None:
    """Numbers go on behind the old ones, and an old idempotency key still answers as it did."""
    async with SqliteStore(path) as store:
        ids = await fill(store)
        old = await read(store, ids["urgent"])
    await move(path, server(), NAME, Hook())
    async with PostgresqlStore(server()) as there:
        (answer,) = await there.accept([row(idempotency=key("urgent"))], NOW)
        await put(there, new := row())
        numbers = [(await read(there, id_)).seq for id_ in (*ids.values(), new.id)]

    assert answer == Replayed(f'{{"id":"{old.id}"}}')
    assert numbers[-1] > max(numbers[:-1])


async def test_a_relay_is_not_tried_more_often_for_a_move(path: Path, server: Callable[[], Server]) -> None:
    """Refused logins count on, of those without an answer too; who has signed in before is not kept out."""
    async with SqliteStore(path) as store:
        await fill(store)
    await move(path, server(), NAME, Hook())
    async with PostgresqlStore(server()) as there:
        third, fourth = [await there.try_login(REFUSED, n, NOW, forget_at=NOW + 1_000, most=3) for n in (7, 8)]
        await there.try_login(ACCEPTED._replace(tenant="zoo"), 9, NOW, forget_at=NOW + 1_000, most=1)
        proven = await there.try_login(ACCEPTED, 10, NOW, forget_at=NOW + 1_000, most=1)

    assert (third, proven) == (Permission.GIVEN, Permission.GIVEN)
    assert fourth is not Permission.GIVEN


async def test_nobody_is_signed_in_on_the_other_side(path: Path, server: Callable[[], Server]) -> None:
    """Neither who was signed in here, nor who was there while it was empty."""
    await many(path, 1)
    async with SqliteStore(path) as store:
        await store.begin_session(session("here"))
    async with PostgresqlStore(server()) as there:
        await there.begin_session(session("there"))
    await move(path, server(), NAME, Hook())
    async with PostgresqlStore(server()) as there:
        assert [await there.session(token(name)) for name in ("here", "there")] == [None, None]
        assert await there.unfinished() == {"acme": 1}


async def test_no_daemon_starts_on_what_was_moved(path: Path, server: Callable[[], Server]) -> None:
    """The file says where its mail is now, and not by which password; without its mark it opens again."""
    await many(path, 1)
    await move(path, server(), NAME, Hook())
    with pytest.raises(StoreBroken, match=f"was moved to {NAME}: from here its mail would be sent twice") as refused:
        await SqliteStore(path).__aenter__()
    apsw.Connection(str(path)).execute(str(refused.value).rpartition("db ")[2].strip('"'))
    async with SqliteStore(path) as store:
        assert await store.unfinished() == {"acme": 1}


async def test_while_it_is_not_finished_only_the_file_can_be_started(path: Path, server: Callable[[], Server]) -> None:
    """After a move that died PostgreSQL refuses, and tells what to do; the file opens."""
    await many(path, 2_500)
    with pytest.raises(KilledError):
        await move(path, server(), NAME, dies_at("notifications", 1_000))
    with pytest.raises(StoreBroken, match="run `store migrate-from` again"):
        await PostgresqlStore(server()).__aenter__()
    async with SqliteStore(path) as store:
        assert await store.unfinished() == {"acme": 2_500}


async def test_a_daemon_that_comes_while_a_move_begins_goes_again(
    server: Callable[[], Server], postgresql: Postgresql, schema: str
) -> None:
    """It saw no mark, and the move did not see it: it looks again once it can be seen."""
    async with PostgresqlStore(server()):
        pass
    connection = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema})
    async with connection.transaction():
        await connection.execute("LOCK TABLE daemon IN SHARE MODE")
        opening = asyncio.ensure_future(PostgresqlStore(server()).__aenter__())
        async with asyncio.timeout(20):
            while not await connection.fetchval(
                "SELECT count(*) FROM pg_locks WHERE relation = 'daemon'::regclass AND NOT granted"
            ):
                await asyncio.sleep(0.01)
        await connection.execute("INSERT INTO meta VALUES ('moving_from', 'a file')")
    with pytest.raises(StoreBroken, match="is being moved"):
        await opening
    await connection.close()


@pytest.mark.parametrize(("part", "rows"), [("notifications", 2_000), ("idempotency keys", 1_000), ("audit rows", 1)])
async def test_it_goes_on_where_it_was(path: Path, server: Callable[[], Server], part: str, rows: int) -> None:
    """What was copied is not copied again, and nothing is missing."""
    async with SqliteStore(path) as store:
        await fill(store)
        await put(store, *(row(idempotency=key(f"k{number}")) for number in range(2_500)))
    dying, again = dies_at(part, rows), Hook()
    with pytest.raises(KilledError):
        await move(path, server(), NAME, dying)
    moved = await move(path, server(), NAME, again)
    copied = {**dict(dying.heard)}

    assert again.after == moved.resumed_after == sum(copied.values())
    assert not again.anew
    assert all(rows > copied.get(part, 0) for part, rows in again.heard)
    assert moved.counts["notifications"] == 2_509


async def test_a_file_that_was_used_meanwhile_is_copied_anew(path: Path, server: Callable[[], Server]) -> None:
    """A daemon worked on the file after a move had died: what it changed is moved as it is now."""
    async with SqliteStore(path) as store:
        ids = await fill(store)
        await put(store, *(row(flow=SECOND) for _ in range(1_500)))
    with pytest.raises(KilledError):
        await move(path, server(), NAME, dies_at("audit rows", 1))
    async with SqliteStore(path) as store:
        await store.change(changed(await read(store, ids["urgent"]), Stage.FINAL, erase=True))
        await store.log([happening("acme"), happening("acme-new")], NOW)
        await store.prune(NOW, NOW + 1, 100)
    again = Hook()
    moved = await move(path, server(), NAME, again)
    async with SqliteStore(path, for_move=True) as here, PostgresqlStore(server()) as there:
        before, after = await everything(here, list(ids.values())), await everything(there, list(ids.values()))

    assert again.anew
    assert moved.resumed_after == 0
    assert after == before
    assert after.rows[list(ids).index("ended")] is None


async def test_it_is_done_once(path: Path, server: Callable[[], Server]) -> None:
    """Run again after the end, also beside a daemon that works there now, it says so and changes nothing."""
    await many(path, 3)
    first = await move(path, server(), NAME, Hook())
    async with PostgresqlStore(server()) as there:
        await put(there, row())
        second = await move(path, server(), NAME, Hook())
        waiting = await there.unfinished()

    assert (first.already, second.already) == (False, True)
    assert second.counts == first.counts
    assert waiting == {"acme": 4}


# What is refused.


async def test_a_file_that_a_daemon_works_on_is_refused(path: Path, server: Callable[[], Server]) -> None:
    """Its lock is held."""
    async with SqliteStore(path):
        with pytest.raises(StoreBusy):
            await move(path, server(), NAME, Hook())


async def test_a_file_that_is_not_there_is_not_made(path: Path, server: Callable[[], Server]) -> None:
    """A wrong path is an error, not an empty installation."""
    with pytest.raises(StoreError, match="no database"):
        await move(path, server(), NAME, Hook())

    assert not path.exists()


async def test_a_database_that_a_daemon_works_on_is_refused(path: Path, server: Callable[[], Server]) -> None:
    """However empty it is; and that daemon goes on."""
    await many(path, 1)
    async with PostgresqlStore(server()) as there:
        with pytest.raises(StoreError, match="1 daemon works on the database"):
            await move(path, server(), NAME, Hook())
        await put(there, row())
    async with SqliteStore(path):
        pass


async def _own_mail(store: PostgresqlStore) -> None:
    await put(store, row(idempotency=key("other")))


async def _own_directory(store: PostgresqlStore) -> None:
    await store.change_directory(0, [Entry("tenant", "zoo", "", "{}", "api")], [], [happening("zoo")], NOW)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (_own_mail, "notifications, queued rows, contents, idempotency keys; name an empty one"),
        (_own_directory, "directory entries, audit rows; name an empty one"),
    ],
)
async def test_a_database_that_is_in_use_is_refused(
    path: Path, server: Callable[[], Server], use: Callable[[PostgresqlStore], Awaitable[None]], told: str
) -> None:
    """It tells what it holds, and stays as it is."""
    await many(path, 1)
    async with PostgresqlStore(server()) as there:
        await use(there)
    with pytest.raises(StoreError, match=told):
        await move(path, server(), NAME, Hook())
    async with PostgresqlStore(server()):
        pass


@pytest.mark.parametrize("finished", [True, False])
async def test_two_files_do_not_get_into_one_database(
    path: Path, tmp_path: Path, server: Callable[[], Server], *, finished: bool
) -> None:
    """Whether the other's move is over or not."""
    await many(path, 1)
    await many(tmp_path / "other.db", 1)
    if finished:
        await move(tmp_path / "other.db", server(), NAME, Hook())
    else:
        with pytest.raises(KilledError):
            await move(tmp_path / "other.db", server(), NAME, dies_at("notifications", 1))
    with pytest.raises(StoreError, match="moved from another file" if finished else "another file .* is not finished"):
        await move(path, server(), NAME, Hook())


async def test_a_file_is_not_moved_to_two_databases(
    path: Path, server: Callable[[], Server], postgresql: Postgresql
) -> None:
    """It is told where it went before."""
    await many(path, 1)
    await move(path, server(), NAME, Hook())
    other = await postgresql.make_schema()
    with pytest.raises(StoreError, match=f"was moved to {NAME} before"):
        await move(path, Server(postgresql.url, schema=other), "postgresql://other", Hook())
    await postgresql.execute(f"DROP SCHEMA {other} CASCADE")


async def test_a_file_that_was_taken_back_is_not_moved_over_what_happened_since(
    path: Path, server: Callable[[], Server]
) -> None:
    """Both have a life of their own then."""
    await many(path, 1)
    await move(path, server(), NAME, Hook())
    apsw.Connection(str(path)).execute("DELETE FROM meta WHERE name = 'moved_to'")
    with pytest.raises(StoreError, match="used again since"):
        await move(path, server(), NAME, Hook())


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE audit SET actor = 'nobody' WHERE tenant = 'acme' AND number = 2",
        "DELETE FROM audit WHERE tenant = 'acme' AND number = 2",
    ],
)
async def test_an_audit_log_that_is_not_whole_is_told_before_anything_happens(
    path: Path, server: Callable[[], Server], harm: str
) -> None:
    """Somebody went round the database's own guard: the log's row is named, PostgreSQL stays usable."""
    async with SqliteStore(path) as store:
        await fill(store)
    file = apsw.Connection(str(path))
    file.execute(f"DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete; {harm}")
    file.close()
    with pytest.raises(StoreError, match="the audit log of tenant acme is not whole: see its number 2"):
        await move(path, server(), NAME, Hook())
    async with PostgresqlStore(server()):
        pass


async def test_what_postgresql_cannot_hold_is_named(path: Path, server: Callable[[], Server]) -> None:
    """A text with a NUL: which rows, and nothing is opened."""
    await many(path, 2)
    file = apsw.Connection(str(path))
    file.execute("UPDATE content SET body = 'a' || char(0) WHERE seq = 2")
    file.close()
    with pytest.raises(StoreError, match=r"cannot hold one of the notifications from \(1,\) to \(2,\)"):
        await move(path, server(), NAME, Hook())
    async with SqliteStore(path):
        pass


async def test_a_damaged_file_is_not_moved_in_part(path: Path, server: Callable[[], Server]) -> None:
    """What cannot be read in the middle of the file ends the move; PostgreSQL has nothing of it."""
    async with SqliteStore(path) as store:
        await put(store, *(row(content="x" * 3_000) for _ in range(3_000)))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096 * 20)
    with pytest.raises(StoreBroken, match=r"gateway\.db could not be read"):
        await move(path, server(), NAME, Hook())
    async with PostgresqlStore(server()) as there:
        assert await there.unfinished() == {}


# The comparison, and the end.

HARM = (
    "UPDATE notification SET recipients = '[]' WHERE seq = 1",
    "UPDATE notification SET cancelled = true WHERE seq = 1",
    "UPDATE queue SET due_at = due_at + 1 WHERE seq = 1",
    "UPDATE queue SET stage = 2 WHERE seq = 1",
    "UPDATE queue SET dotted_for = '[]' WHERE stage = 1",
    "DELETE FROM queue WHERE seq = 1",
    "DELETE FROM content WHERE seq = 1",
    "INSERT INTO content VALUES (1000, '')",
    "UPDATE idempotency SET answer = ''",
    "INSERT INTO idempotency VALUES ('zoo', 'a', '', '', 0)",
    "UPDATE directory SET origin = 'api'",
    "UPDATE refused_login SET forget_at = 0",
    "DELETE FROM signed_in",
    "DELETE FROM notification WHERE seq = 4",
    "UPDATE meta SET value = '6' WHERE name = 'directory_revision'",
)


@pytest.mark.parametrize("harm", HARM)
async def test_a_copy_that_is_not_the_same_is_not_opened(
    path: Path, server: Callable[[], Server], postgresql: Postgresql, schema: str, harm: str
) -> None:
    """Whatever differs: an error, PostgreSQL stays closed, the file usable; and the next run makes it good."""
    async with SqliteStore(path) as store:
        await fill(store)

    async def change() -> None:
        connection = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema})
        await connection.execute(harm)
        await connection.close()

    hook = Hook(at_comparison=lambda: meanwhile(lambda: asyncio.run(change())))
    with pytest.raises(StoreError, match="the copy is not the same"):
        await move(path, server(), NAME, hook)
    with pytest.raises(StoreBroken):
        await PostgresqlStore(server()).__aenter__()
    again = Hook()
    moved = await move(path, server(), NAME, again)

    assert again.anew
    assert moved.counts["notifications"] == 9


async def test_a_log_that_was_changed_on_the_way_is_not_opened(
    path: Path, server: Callable[[], Server], postgresql: Postgresql, schema: str
) -> None:
    """A row of the copied audit log is another."""
    async with SqliteStore(path) as store:
        await fill(store)

    async def change() -> None:
        connection = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema})
        await connection.execute("ALTER TABLE audit DISABLE TRIGGER USER; UPDATE audit SET actor = 'nobody'")
        await connection.close()

    hook = Hook(at_comparison=lambda: meanwhile(lambda: asyncio.run(change())))
    with pytest.raises(StoreError, match="audit rows between"):
        await move(path, server(), NAME, hook)
    with pytest.raises(StoreBroken):
        await PostgresqlStore(server()).__aenter__()


async def test_between_the_two_last_marks_neither_can_be_started(
    path: Path, server: Callable[[], Server], postgresql: Postgresql, schema: str
) -> None:
    """The move dies after the file was marked: neither opens, and running it again ends it."""
    await many(path, 3)
    refusal = "BEGIN RAISE EXCEPTION 'not now'; END"

    async def trap() -> None:
        connection = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema})
        await connection.execute(
            f"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS '{refusal.replace(chr(39), chr(39) * 2)}';"
            " CREATE TRIGGER no BEFORE DELETE ON meta FOR EACH ROW EXECUTE FUNCTION no()"
        )
        await connection.close()

    hook = Hook(at_comparison=lambda: meanwhile(lambda: asyncio.run(trap())))
    with pytest.raises(StoreBroken, match="not now"):
        await move(path, server(), NAME, hook)
    for store in (PostgresqlStore(server()), SqliteStore(path)):
        with pytest.raises(StoreBroken):
            await store.__aenter__()
    await postgresql.execute(f"DROP TRIGGER no ON {schema}.meta")
    moved = await move(path, server(), NAME, Hook())
    async with PostgresqlStore(server()) as there:
        waiting = await there.unfinished()

    assert (moved.already, waiting) == (False, {"acme": 3})


async def test_long_contents_go_in_small_pages(path: Path, server: Callable[[], Server]) -> None:
    """A page has no more text than a fixed amount, but one row at least."""
    async with SqliteStore(path) as store:
        await put(store, *(row(content="x" * (moving.PAGE_CHARACTERS // 2)) for _ in range(4)))
        await put(store, row(content="x" * (moving.PAGE_CHARACTERS + 1)))
    hook = Hook()
    await move(path, server(), NAME, hook)

    assert hook.heard == [
        ("notifications", 1),
        ("notifications", 2),
        ("notifications", 3),
        ("notifications", 4),
        ("notifications", 5),
    ]
