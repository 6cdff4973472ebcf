"""The store on SQLite: the contract of every store, and what happens when the file or the disk misbehaves."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import apsw
import pytest

from gateway.store.protocol import Store, StoreBroken, StoreBusy, StoreError
from gateway.store.rows import Claim, Flow, Stage
from gateway.store.sqlite import SqliteStore, forgetting
from gateway.store.sqlite.file import MIGRATIONS
from tests.in_process import SETTINGS
from tests.store.building import HOUR, NOW, Reopen, key, put, read, result, row, take
from tests.store.contract import AcceptContract, ChangeContract, ClaimContract, DurabilityContract, LeaseContract
from tests.store.contract_audit import AuditContract
from tests.store.contract_events import EventContract
from tests.store.contract_logins import LoginContract
from tests.store.contract_reading import DirectoryContract, PruneContract, ReadingContract
from tests.store.contract_sessions import SESSION, SessionContract, session, token


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file in a folder that does not exist yet."""
    return tmp_path / "var" / "gateway.db"


@pytest.fixture
async def opened(path: Path) -> AsyncIterator[list[SqliteStore]]:
    """Open a store; the last of the list is the one that is open."""
    stores = [SqliteStore(path)]
    await stores[0].__aenter__()
    yield stores
    await stores[-1].__aexit__()


@pytest.fixture
def store(opened: list[SqliteStore]) -> SqliteStore:
    """Give the open store."""
    return opened[0]


@pytest.fixture
def reopen(opened: list[SqliteStore], path: Path) -> Reopen:
    """Close the store and open its file again."""

    @asynccontextmanager
    async def again() -> AsyncIterator[Store]:
        await opened[-1].__aexit__()
        opened.append(SqliteStore(path))
        yield await opened[-1].__aenter__()

    return again


class TestContract(
    AcceptContract,
    ClaimContract,
    LeaseContract,
    ChangeContract,
    DurabilityContract,
    ReadingContract,
    PruneContract,
    DirectoryContract,
    AuditContract,
    LoginContract,
    EventContract,
    SessionContract,
):
    """Every case of the contract, on SQLite."""


# Opening.


async def test_second_opener_is_refused(path: Path, store: SqliteStore) -> None:
    """While one store holds the file another one is `StoreBusy`, and the first goes on."""
    with pytest.raises(StoreBusy, match="another daemon"):
        await SqliteStore(path).__aenter__()
    await put(store, row())


async def test_second_process_is_refused(path: Path, store: SqliteStore) -> None:
    """The lock holds against another process, too."""
    script = (
        "import asyncio, sys, pathlib\nfrom gateway.store.protocol import StoreBusy\n"
        "from gateway.store.sqlite import SqliteStore\n"
        "try: asyncio.run(SqliteStore(pathlib.Path(sys.argv[1])).__aenter__())\n"
        "except StoreBusy: print('busy')\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(path), stdout=subprocess.PIPE)
    assert (await asyncio.wait_for(process.communicate(), 30))[0] == b"busy\n"


async def test_closed_file_can_be_opened_again_at_once(path: Path) -> None:
    """Closing gives the lock back."""
    for _ in range(2):
        async with SqliteStore(path) as store:
            await store.check()


async def test_database_is_for_its_owner_only(path: Path, store: SqliteStore) -> None:
    """No other user may read the file, its log or its lock."""
    await put(store, row())
    assert {one.name: oct(one.stat().st_mode & 0o777) for one in path.parent.iterdir()} == {
        f"gateway.db{suffix}": "0o600" for suffix in ("", "-wal", "-shm", ".lock")
    }


async def test_newer_schema_is_refused(path: Path) -> None:
    """A file that a newer version wrote is not touched, and the message says why."""
    async with SqliteStore(path):
        pass
    with closing(apsw.Connection(str(path))) as db:
        db.execute("PRAGMA user_version=99")
    for _ in range(2):  # the second time tells that the first one left no lock behind
        with pytest.raises(StoreBroken, match=r"newer version.*99"):
            await SqliteStore(path).__aenter__()


async def test_daemon_that_cannot_open_its_file_says_so(tmp_path: Path) -> None:
    """The log names the file in one line, and the exit code is 1."""
    (tmp_path / "gateway.db").mkdir()
    settings = tmp_path / "gateway.toml"
    settings.write_text(SETTINGS)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", "-c", str(settings), stderr=subprocess.PIPE
    )
    _, log = await asyncio.wait_for(process.communicate(), 60)
    [told] = [json.loads(line) for line in log.splitlines()]
    assert (process.returncode, told["event"]) == (1, "start_failed")
    assert str(tmp_path / "gateway.db") in told["detail"]


async def test_file_without_sessions_is_migrated(path: Path) -> None:
    """A file of schema 4 keeps its rows, and people sign in."""
    path.parent.mkdir()
    with closing(apsw.Connection(str(path))) as db:
        for number in range(1, 5):
            db.execute((MIGRATIONS / f"sqlite-{number:04}.sql").read_text())
        db.execute("INSERT INTO webhook_event VALUES ('e1', 'acme', 'hook', 1, 2, 0, NULL, '{}', NULL)")
        db.execute("PRAGMA user_version=4")
    async with SqliteStore(path) as store:
        await store.begin_session(session("a"))
        assert await store.session(token("a")) == session("a")
        assert [one.webhook for one in await store.due_events()] == ["hook"]


async def test_ended_session_leaves_nothing_in_the_file(
    path: Path, store: SqliteStore, opened: list[SqliteStore]
) -> None:
    """Of a token the file has the hash alone, and whose it was; of one that is ended not even that."""
    await store.begin_session(session("a-token"))
    await store.begin_session(session("kept-token", who="kept"))
    files = [path, Path(f"{path}-wal")]
    begun = b"".join(one.read_bytes() for one in files)
    assert await store.end_session(token("a-token"), SESSION) is not None
    await store.__aexit__()
    ended = path.read_bytes()
    opened.append(await SqliteStore(path).__aenter__())

    assert [part in begun for part in (token("a-token"), b"key:k1", b"a-token")] == [True, True, False]
    assert [part in ended for part in (token("kept-token"), token("a-token"), b"key:k1")] == [True, False, False]


async def _crash_image(store: SqliteStore, to: Path) -> Path:
    """Copy the files of an open store as a power cut would leave them."""
    to.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{store.path}{suffix}", f"{to / 'gateway.db'}{suffix}")
    return to / "gateway.db"


async def test_unclean_end_is_recovered(store: SqliteStore, tmp_path: Path) -> None:
    """What was answered before a power cut is there after it, and what was held is ready at once."""
    new = row()
    await put(store, new)
    await take(store)
    async with SqliteStore(await _crash_image(store, tmp_path / "after")) as after:
        assert (await read(after, new.id)).stage is Stage.READY
        assert (await take(after)).id == new.id


@pytest.mark.parametrize("page", [1, 4], ids=["header", "tables"])
async def test_damaged_file_is_refused_after_an_unclean_end(path: Path, tmp_path: Path, page: int) -> None:
    """A file with a broken page is `StoreBroken` and says what to do, not once but every time."""
    async with SqliteStore(path) as store:
        await put(store, *(row(idempotency=key(str(number))) for number in range(300)))
    async with SqliteStore(path) as store:
        await store.check()
        damaged = await _crash_image(store, tmp_path / "after")
    with damaged.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    for _ in range(2):
        assert Path(f"{damaged}-wal").stat().st_size > 0
        with pytest.raises(StoreBroken, match=r"gateway\.db is damaged: .*; restore it from a backup"):
            await SqliteStore(damaged).__aenter__()


async def test_calls_after_closing_fail(path: Path) -> None:
    """A call that comes too late is refused instead of waiting for ever."""
    async with SqliteStore(path) as store:
        pass
    with pytest.raises(StoreError, match="closed"):
        await asyncio.wait_for(store.check(), 5)


async def test_calls_before_closing_are_answered(path: Path) -> None:
    """Closing finishes what was asked for."""
    new = [row() for _ in range(50)]
    async with SqliteStore(path) as store:
        calls = [asyncio.ensure_future(store.accept([one], NOW)) for one in new]
        await asyncio.sleep(0)
    assert len(await asyncio.gather(*calls)) == 50
    async with SqliteStore(path) as store:
        assert await store.unfinished() == {"acme": 50}


# Pruning.


async def test_pruning_looks_at_a_part_of_what_stays(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where much waits, one commit looks at so much of it; the next goes on behind that, and in the end begins anew."""
    monkeypatch.setattr(forgetting, "MOST_KEPT", 10)
    await put(store, *(row(due_at=NOW + HOUR) for _ in range(25)), *(row(stage=Stage.FINAL) for _ in range(3)))
    assert [await store.prune(NOW, NOW + 1, 4) for _ in range(4)] == [0, 0, 3, 0]


async def test_what_ended_behind_the_place_goes_with_the_next_round(store: SqliteStore) -> None:
    """A round goes on where the call before it ended, so what it has passed waits for the next."""
    late = row(flow=Flow("acme", "late"))
    await put(store, late, *(row(stage=Stage.FINAL) for _ in range(6)))
    pruned = [await store.prune(NOW, NOW + 1, 4)]
    assert await store.settle(result(await take(store, late.flow)))
    pruned += [await store.prune(NOW, NOW + 1, 4) for _ in range(3)]

    assert pruned == [4, 2, 1, 0]


async def test_rows_of_a_clock_that_was_ahead_do_not_end_the_round(store: SqliteStore) -> None:
    """What was accepted at a time that is still to come does not say that what follows is young, however much it is."""
    await put(store, *(row(accepted_at=NOW + HOUR, due_at=NOW + HOUR) for _ in range(10)))
    await put(store, *(row(accepted_at=NOW - HOUR, stage=Stage.FINAL) for _ in range(4)))
    assert [await store.prune(NOW, NOW, 2) for _ in range(3)] == [2, 2, 0]


# Committing.


@pytest.fixture
def blocker(path: Path, store: SqliteStore) -> Iterator[apsw.Connection]:
    """Hold the database's write lock, so that the writer waits with its first job; COMMIT lets it go on."""
    with closing(apsw.Connection(str(path))) as db:
        db.execute("BEGIN IMMEDIATE")
        yield db


async def test_concurrent_calls_share_a_commit(store: SqliteStore, blocker: apsw.Connection) -> None:
    """Calls that arrive during a commit go into the next one together."""
    before = store.writer.commits
    first = asyncio.ensure_future(store.check())
    calls = [asyncio.ensure_future(store.accept([row()], NOW)) for _ in range(100)]
    await asyncio.sleep(0)
    blocker.execute("COMMIT")
    await asyncio.gather(first, *calls)
    assert store.writer.commits - before <= 2
    assert store.writer.committed_jobs >= 101


async def test_claim_sees_what_came_with_it(store: SqliteStore, blocker: apsw.Connection) -> None:
    """In a shared commit claims come last, so that they find what was just accepted."""
    first = asyncio.ensure_future(store.check())
    await asyncio.sleep(0)
    claiming = asyncio.ensure_future(take(store))
    await asyncio.sleep(0)
    new = row()
    accepting = asyncio.ensure_future(store.accept([new], NOW))
    await asyncio.sleep(0)
    blocker.execute("COMMIT")
    await asyncio.gather(first, accepting)
    assert (await claiming).id == new.id


async def test_claims_of_many_flows_bring_no_more_than_a_text_can_hold(store: SqliteStore) -> None:
    """All are served, over several commits; SQLite's limit for a text is a thousand times what it is lowered to here."""
    flows = [Flow(f"t{number}", "") for number in range(40)]
    await store.accept([row(flow=flow, content="x" * 50_000) for flow in flows], NOW)
    store._db.limit(apsw.SQLITE_LIMIT_LENGTH, 1_000_000)
    claimed = await asyncio.gather(*(store.claim(Claim(flow, 1, NOW, NOW + 1)) for flow in flows))
    assert [len(one.rows) for one in claimed] == [1] * len(flows)


async def test_cancelled_caller_does_not_disturb_the_others(store: SqliteStore, blocker: apsw.Connection) -> None:
    """A caller that went away while it waited takes nobody's answer along."""
    gone, stays = (asyncio.ensure_future(store.accept([row()], NOW)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    blocker.execute("COMMIT")
    await stays
    assert await store.unfinished() == {"acme": 2}


async def test_unwritable_value_is_refused_alone(store: SqliteStore, blocker: apsw.Connection) -> None:
    """A value that no column can hold fails its own call, not those beside it, and not the store."""
    first = asyncio.ensure_future(store.check())
    await asyncio.sleep(0)
    bad = asyncio.ensure_future(store.accept([row(idempotency=key("\udcff"))], NOW))
    good = asyncio.ensure_future(store.accept([row()], NOW))
    await asyncio.sleep(0)
    blocker.execute("COMMIT")
    await asyncio.wait_for(asyncio.gather(first, good), 10)
    with pytest.raises(StoreError, match="refused"):
        await bad
    await asyncio.wait_for(store.check(), 10)
    assert await store.unfinished() == {"acme": 1}
