"""What an outbox stands on: a file or a schema, on which one daemon comes after another, and what a power cut leaves."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import apsw
import asyncpg

from gateway.store.postgresql import PostgresqlStore
from gateway.store.postgresql.server import Server
from gateway.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

NAME: Final = "daemon"  # the daemon that comes next is the one that died
OpenStore = SqliteStore | PostgresqlStore


class Ground(Protocol):
    """Where a daemon's rows are."""

    def store(self) -> OpenStore:
        """Make a store of them, to be opened."""

    def after_power_cut(self, store: OpenStore) -> Ground:
        """Cut the power of the daemon that has this store open; answers what the next daemon finds."""

    def busy(self) -> AbstractAsyncContextManager[None]:
        """Let nothing be committed for the length of the block."""

    async def erase(self) -> None:
        """Delete what the messages say."""

    async def write(self, notification_id: str, column: str, value: str) -> None:
        """Write into a notification, past the daemon."""


@dataclass(frozen=True, slots=True)
class File:
    """A SQLite file. A power cut is a copy of it as it is at the moment."""

    path: Path

    def store(self) -> SqliteStore:
        """Make a store of the file."""
        return SqliteStore(self.path)

    def after_power_cut(self, store: OpenStore) -> File:
        """Copy the files; the daemon goes on with its own, and is to be closed."""
        image = self.path.with_name(f"{self.path.stem}-{self.path.suffix}")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{self.path}{suffix}", f"{image}{suffix}")
        return File(image)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Hold the file's lock."""
        with closing(apsw.Connection(str(self.path))) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            yield
            blocker.execute("COMMIT")

    async def erase(self) -> None:
        """Delete what the messages say."""
        with closing(apsw.Connection(str(self.path))) as other:
            other.execute("DELETE FROM content")

    async def write(self, notification_id: str, column: str, value: str) -> None:
        """Write into a notification, past the daemon."""
        with closing(apsw.Connection(str(self.path))) as other:
            other.execute(f"UPDATE notification SET {column} = ? WHERE id = ?", (value, notification_id))


@dataclass(frozen=True, slots=True)
class Schema:
    """A PostgreSQL schema. A power cut ends the daemon's connections without a word."""

    url: str
    name: str

    def store(self) -> PostgresqlStore:
        """Make a store of the schema."""
        return PostgresqlStore(Server(self.url, schema=self.name), NAME)

    def after_power_cut(self, store: OpenStore) -> Schema:
        """Hang up."""
        assert isinstance(store, PostgresqlStore)
        store.server._pool.terminate()
        return self

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Hold a lock on the queue."""
        connection = await asyncpg.connect(self.url, server_settings={"search_path": self.name})
        async with connection.transaction():
            await connection.execute("LOCK TABLE queue IN EXCLUSIVE MODE")
            yield
        await connection.close()

    async def erase(self) -> None:
        """Delete what the messages say."""
        await self._delete("content")

    async def write(self, notification_id: str, column: str, value: str) -> None:
        """Write into a notification, past the daemon."""
        connection = await asyncpg.connect(self.url, server_settings={"search_path": self.name})
        await connection.execute(f"UPDATE notification SET {column} = $1 WHERE id = $2", value, notification_id)
        await connection.close()

    async def empty(self) -> None:
        """Forget all notifications, and who worked here."""
        await self._delete("notification", "queue", "content", "idempotency", "daemon", "lane")

    async def _delete(self, *tables: str) -> None:
        connection = await asyncpg.connect(self.url, server_settings={"search_path": self.name})
        await connection.execute(";".join(f"DELETE FROM {table}" for table in tables))
        await connection.close()
