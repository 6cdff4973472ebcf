"""The store on SQLite when the disk is full or fails, with faults that the engine itself meets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from gateway.store.protocol import StoreBroken, StoreError, StoreFull
from gateway.store.rows import Replayed, Stage
from gateway.store.sqlite import SqliteStore
from tests.store.building import NOW, changed, key, put, read, result, row, take

MORE_THAN_ANY_DISK = 1 << 62
FAULTY = "faulty"


class FaultyVFS(apsw.VFS):
    """The operating system's files, of which one kind refuses one kind of call while `broken` says so, with `error`."""

    broken: tuple[str, str] = ("", "")
    error: type[apsw.Error] = apsw.IOError

    def __init__(self) -> None:
        """Register beside the default one."""
        super().__init__(FAULTY, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file that may fail later."""
        return _FaultyFile(self, name, flags)


class _FaultyFile(apsw.VFSFile):
    def __init__(self, vfs: FaultyVFS, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._vfs = vfs
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def _check(self, call: str) -> None:
        suffix, refused = self._vfs.broken
        if call == refused and self._name.endswith(suffix):
            raise self._vfs.error("injected")

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Fail, or do it."""
        self._check("sync")
        super().xSync(flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Fail, or do it."""
        self._check("write")
        super().xWrite(data, offset)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        """Fail, or do it."""
        self._check("read")
        return super().xRead(amount, offset)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file."""
    return tmp_path / "gateway.db"


@pytest.fixture
def vfs() -> FaultyVFS:
    """Register a file system that fails on demand."""
    return FaultyVFS()


@pytest.fixture
async def store(path: Path, vfs: FaultyVFS) -> AsyncIterator[SqliteStore]:
    """Open a store on the file system that fails on demand."""
    async with SqliteStore(path, vfs=FAULTY) as store:
        yield store


# No room.


async def test_below_the_floor_only_accepting_stops(path: Path) -> None:
    """With little room left nothing new is accepted, while results are still written."""
    async with SqliteStore(path) as store:
        await put(store, row())
    async with SqliteStore(path, disk_floor_bytes=MORE_THAN_ANY_DISK) as store:
        with pytest.raises(StoreFull, match="floor"):
            await store.accept([row()], NOW)
        assert store.writer.space_low
        assert await store.settle(result(await take(store)))
        assert not store.writer.failed.is_set()


async def test_low_space_is_seen_without_accepting(path: Path) -> None:
    """Any write notices that room got scarce, so that readiness does not wait for somebody to be refused."""
    async with SqliteStore(path, disk_floor_bytes=MORE_THAN_ANY_DISK) as store:
        await store.check()
        assert store.writer.space_low


async def _fill(store: SqliteStore) -> int:
    """Accept rows until the file may not grow any more; answers how many went in."""
    store._db.execute(f"PRAGMA max_page_count={int(store._db.pragma('page_count')) + 8}")
    for accepted in range(1000):
        try:
            await store.accept([row(content="x" * 3000)], NOW)
        except StoreFull:
            return accepted
    raise AssertionError("the database never got full")


@pytest.fixture
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the free space at every call instead of once a second."""
    monkeypatch.setattr("gateway.store.sqlite.writer.SPACE_CHECK_SECONDS", 0.0)


@pytest.mark.usefixtures("_look_at_once")
async def test_full_disk_loses_nothing_and_passes(store: SqliteStore) -> None:
    """A full disk is `StoreFull`; earlier rows are intact, and once there is room again the store goes on."""
    accepted = await _fill(store)
    assert accepted > 0
    assert await store.unfinished() == {"acme": accepted}
    assert store.writer.space_low
    store._db.execute("PRAGMA max_page_count=1000000")
    await put(store, row())
    assert await store.unfinished() == {"acme": accepted + 1}
    assert not store.writer.space_low
    assert not store.writer.failed.is_set()


@pytest.mark.usefixtures("_look_at_once")
async def test_room_is_seen_again_without_accepting(store: SqliteStore) -> None:
    """Once there is room again any write notices it, so that readiness comes back by itself."""
    await _fill(store)
    store._db.execute("PRAGMA max_page_count=1000000")
    await store.check()
    assert not store.writer.space_low


@pytest.mark.usefixtures("_look_at_once")
async def test_full_disk_in_any_other_write_passes_too(store: SqliteStore) -> None:
    """A change for which there is no room is `StoreFull`, not the end."""
    new = row()
    await put(store, new)
    await _fill(store)
    before = await read(store, new.id)
    with pytest.raises(StoreFull):
        await store.change(changed(before, Stage.READY, recipients="x" * 200_000))
    assert await read(store, new.id) == before
    store._db.execute("PRAGMA max_page_count=1000000")
    assert await store.change(changed(before, Stage.READY, recipients="x" * 200_000))


@pytest.fixture
def full_disk(vfs: FaultyVFS, monkeypatch: pytest.MonkeyPatch) -> FaultyVFS:
    """Make the fault that the file system meets on demand a full disk; a result is tried again at once."""
    monkeypatch.setattr("gateway.store.sqlite.writer.FULL_AGAIN_SECONDS", 0.01)
    vfs.error = apsw.FullError
    return vfs


async def _without_room(store: SqliteStore, vfs: FaultyVFS) -> asyncio.Future[bool]:
    """Let the disk be full when a delivery's result comes; gives what tells whether it was written."""
    await put(store, row())
    taken = await take(store)
    vfs.broken = ("-wal", "write")
    settling = store.settle(result(taken))
    with pytest.raises(StoreFull):
        await store.check()
    return settling


async def test_result_waits_for_room(store: SqliteStore, full_disk: FaultyVFS) -> None:
    """When every other write is refused a result waits on, and is written when there is room."""
    settling = await _without_room(store, full_disk)
    for _ in range(3):
        with pytest.raises(StoreFull):
            await store.check()
    assert not settling.done()
    full_disk.broken = ("", "")
    assert await settling


async def test_result_is_written_if_there_is_room_while_closing(path: Path, full_disk: FaultyVFS) -> None:
    """Closing does not leave what is known nowhere else without another try."""
    store = await SqliteStore(path, vfs=FAULTY).__aenter__()
    settling = await _without_room(store, full_disk)
    closing = asyncio.ensure_future(store.__aexit__())
    await asyncio.sleep(0)
    full_disk.broken = ("", "")
    await closing
    assert settling.done()
    assert settling.result()


async def test_closing_on_a_full_disk_ends(path: Path, full_disk: FaultyVFS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing gives the last results up after a while, and whoever waits for one is told."""
    monkeypatch.setattr("gateway.store.sqlite.writer.GIVE_UP_SECONDS", 0.1)
    store = await SqliteStore(path, vfs=FAULTY).__aenter__()
    settling = await _without_room(store, full_disk)
    await store.__aexit__()
    assert settling.done()
    with pytest.raises(StoreFull):
        settling.result()


@pytest.mark.parametrize(
    ("error", "meaning"), [(apsw.FullError, StoreFull), (apsw.ReadOnlyError, StoreBroken), (apsw.IOError, StoreBroken)]
)
async def test_file_that_cannot_be_opened_is_named(
    path: Path, vfs: FaultyVFS, error: type[apsw.Error], meaning: type[StoreError]
) -> None:
    """Whatever the disk refuses at the start, the error says of which file, and the next start is free to go on."""
    vfs.error, vfs.broken = error, ("gateway.db", "write")
    with pytest.raises(StoreError, match=str(path)) as caught:
        await SqliteStore(path, vfs=FAULTY).__aenter__()
    vfs.broken = ("", "")
    async with SqliteStore(path, vfs=FAULTY) as store:
        await store.check()
    assert type(caught.value) is meaning


# Failing disks.


@pytest.mark.parametrize("fault", [("-wal", "sync"), ("-wal", "write")], ids=" ".join)
async def test_io_error_latches(store: SqliteStore, vfs: FaultyVFS, fault: tuple[str, str]) -> None:
    """After one failed write or sync nothing is written any more, though the disk would, and `failed` tells it."""
    await put(store, row())
    vfs.broken = fault
    with pytest.raises(StoreBroken):
        await store.accept([row()], NOW)
    vfs.broken = ("", "")
    with pytest.raises(StoreBroken):
        await store.accept([row()], NOW)
    await asyncio.wait_for(store.writer.failed.wait(), 5)


async def test_everyone_in_a_failed_commit_is_told(store: SqliteStore, vfs: FaultyVFS) -> None:
    """All calls that shared the failed commit are `StoreBroken`, and those that wait behind it."""
    vfs.broken = ("-wal", "sync")
    calls = [store.accept([row()], NOW) for _ in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(one) for one in results} == {StoreBroken}


async def test_failed_commit_takes_no_other_row_along(path: Path, vfs: FaultyVFS) -> None:
    """What was acknowledged before a failed sync is there after a restart; the key tells what became of the rest."""
    kept, unknown = row(), row(idempotency=key("a"))
    async with SqliteStore(path, vfs=FAULTY) as store:
        await put(store, kept)
        vfs.broken = ("-wal", "sync")
        with pytest.raises(StoreBroken):
            await store.accept([unknown], NOW)
        vfs.broken = ("", "")
    async with SqliteStore(path) as store:
        assert await store.get(kept.id) is not None
        (again,) = await store.accept([row(idempotency=key("a"))], NOW)
        assert (again == Replayed(unknown.answer)) == (await store.get(unknown.id) is not None)


async def test_broken_store_is_checked_when_opened_again(path: Path, vfs: FaultyVFS) -> None:
    """Closing a broken store leaves the log as evidence, so that the next opening checks the file."""
    async with SqliteStore(path, vfs=FAULTY) as store:
        vfs.broken = ("-wal", "sync")
        with pytest.raises(StoreBroken):
            await store.check()
        vfs.broken = ("", "")
    assert Path(f"{path}-wal").stat().st_size > 0


async def test_failed_checkpoint_latches(store: SqliteStore, vfs: FaultyVFS, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses to fold the log back ends the store even if nobody calls any more."""
    monkeypatch.setattr("gateway.store.sqlite.writer.CHECKPOINT_PAGES_IDLE", 1)
    vfs.broken = ("gateway.db", "sync")
    await put(store, row())
    await asyncio.wait_for(store.writer.failed.wait(), 5)
    with pytest.raises(StoreBroken):
        await store.check()


async def test_failed_read_latches(path: Path, vfs: FaultyVFS) -> None:
    """A page that cannot be read is `StoreBroken`, too."""
    async with SqliteStore(path) as store:
        await put(store, new := row())
    async with SqliteStore(path, vfs=FAULTY) as store:
        vfs.broken = ("gateway.db", "read")
        with pytest.raises(StoreBroken):
            await store.get(new.id)
        assert store.writer.failed.is_set()
