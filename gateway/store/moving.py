"""Moves an installation from the embedded store to PostgreSQL: everything but the sessions, unchanged, and once.

No daemon may work on either meanwhile. The file's lock proves that for SQLite. On PostgreSQL the mark `moving_from`
stands from the first moment until the end, and no daemon opens a database that has it. Rows are copied page by page,
each page in one transaction with how far the move is, so that it goes on where it was, whatever was killed. A daemon
that opens the file in between takes the move's mark there away: then what was copied is copied anew.

At the end both sides are counted and compared row by row, and the audit log's hashes are checked. Only then the file
is marked as moved, and only after that PostgreSQL is opened: whatever dies, never can both be started.
"""

import asyncio
import itertools
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

import apsw

from gateway.store import audit
from gateway.store.parts import AUDIT, COUNTS_EMBEDDED, COUNTS_SHARED, PAGE_CHARACTERS, PAGE_ROWS, PARTS, Key, Part, Row
from gateway.store.postgresql.migrations import migrate
from gateway.store.postgresql.restoring import refuse_daemons
from gateway.store.postgresql.server import Connection, Server, ValueRefused
from gateway.store.postgresql.store import MOVING_FROM
from gateway.store.protocol import StoreBroken, StoreError
from gateway.store.rows import AuditRow
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite.copying import COPIED_AT
from gateway.store.sqlite.file import MOVED_TO, MOVING

MOVED_FROM: Final = "moved_from"
INSTANCE: Final = "instance"
PROGRESS: Final = "move_progress"
COUNTING_SECONDS: Final = 600.0
# Not the audit log: it only grows, so what is there of it stays right.
COPIED_ANEW: Final = "notification, queue, content, idempotency, directory, refused_login, signed_in, webhook_event"


class Listener(Protocol):
    """Hears how a move goes."""

    def resumed(self, rows: int, of: int) -> None:
        """It goes on where an earlier run was."""

    def began_anew(self) -> None:
        """An earlier run was for nothing: a daemon worked on the file since."""

    def copied(self, part: str, rows: int, of: int) -> None:
        """One more page of a part is copied."""

    def compares(self) -> None:
        """All is copied; now both sides are compared."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved, by name; `resumed_after` rows that an earlier run had copied. `already`: it was all done before."""

    counts: dict[str, int]
    resumed_after: int = 0
    already: bool = False


@dataclass(slots=True)
class Progress:
    """How far a move is: for each part the last key that was copied, and how many rows. `attempt` is the file's mark."""

    attempt: str
    after: dict[str, Key] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def on(self, part: Part, rows: list[Row]) -> Self:
        """Go on by a page."""
        self.after[part.name] = rows[-1][: len(part.first)]
        self.rows[part.name] = self.rows.get(part.name, 0) + len(rows)
        return self

    def text(self) -> str:
        """Write it down."""
        return json.dumps([self.attempt, self.after, self.rows])

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what was written down."""
        attempt, after, rows = json.loads(text)
        return cls(attempt, {name: tuple(key) for name, key in after.items()}, rows)


async def move(path: Path, server: Server, name: str, listener: Listener) -> Moved:
    """Move the file's rows to the server, which `name` names without a secret; answers what is there then.

    Raises `StoreError` if it may not be, or could not be done: then nothing but the file can be started, or nothing;
    called again it goes on.
    """
    if not await asyncio.to_thread(path.is_file):
        raise StoreError(f"there is no database at {path}")
    try:
        async with SqliteStore(path, for_move=True) as store, _Target(server) as target:
            copied = await store.copied()
            with _Source(path) as source:
                if copied is not None:  # whoever opens it there has to look first
                    source.mark(COPIED_AT, str(store.clock()), keep=True)
                return await _move(source, target, name, listener)
    except (apsw.Error, OSError) as error:
        raise StoreBroken(f"{path} could not be read: {type(error).__name__}: {error}") from error


async def _move(source: "_Source", target: "_Target", name: str, listener: Listener) -> Moved:
    if await target.has_all_of(source):
        return Moved(source.counts, already=True)
    _check_log(source)
    progress = await target.begin(source, listener)
    resumed_after = sum(progress.rows.values())
    if resumed_after:
        listener.resumed(resumed_after, sum(source.counts[part.name] for part in PARTS))
    for part in PARTS:
        await _copy(source, target, part, progress, listener)
    listener.compares()
    await _verify(source, target)
    source.mark(MOVED_TO, f"{target.marks[INSTANCE]} {name}")
    await target.open(source)
    return Moved(source.counts, resumed_after)


async def _copy(source: "_Source", target: "_Target", part: Part, progress: Progress, listener: Listener) -> None:
    while rows := source.page(part, progress.after.get(part.name, part.first)):
        await target.write(part, rows, progress.on(part, rows))
        listener.copied(part.name, progress.rows[part.name], source.counts[part.name])


async def _verify(source: "_Source", target: "_Target") -> None:
    """Prove that both sides hold the same; else the next run begins anew."""
    try:
        await target.settle_down()
        here, there = source.counts, await target.counts()
        for name in here:
            if here[name] != there[name]:
                raise _Differs(f"{name}: {here[name]} in the file, {there[name]} in the database")
        for part in PARTS:
            await _compare(source, target, part)
    except _Differs as error:
        source.unmark(MOVING)
        raise StoreError(f"the copy is not the same: {error}. Nothing was opened; run again, it begins anew") from error


class _Differs(Exception):
    """A row or a number is not the same on both sides."""


async def _compare(source: "_Source", target: "_Target", part: Part) -> None:
    after, last = part.first, None
    while rows := source.page(part, after):
        upto = rows[-1][: len(part.first)]
        copied = await target.page(part, after, upto)
        if copied != rows:
            raise _Differs(f"{part.name} between {after} and {upto}")
        if part is AUDIT:
            last = _check_chains(copied, last)
        after = upto


def _check_log(source: "_Source") -> None:
    """Refuse a file whose audit log is not whole: its copy would be no better, and could not tell since when."""
    after, last = AUDIT.first, None
    while rows := source.page(AUDIT, after):
        last = _check_chains(rows, last)
        after = rows[-1][: len(AUDIT.first)]


def _check_chains(rows: Iterable[Row], last: AuditRow | None) -> AuditRow | None:
    """Check the hashes of rows that come after `last`; answers the last of them."""
    for tenant, group in itertools.groupby(map(AuditRow._make, rows), key=lambda row: row.tenant):
        chain = list(group)
        fault = audit.broken(chain, last if last and last.tenant == tenant else None)
        if fault is not None:
            raise StoreError(f"the audit log of tenant {tenant} is not whole: see its number {fault}")
        last = chain[-1]
    return last


class _Source:
    """The file, read and marked beside the store that holds its lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
        self._db.execute("PRAGMA synchronous=FULL")
        self.instance = self.mark(INSTANCE, secrets.token_hex(16), keep=True)
        self.attempt = self.mark(MOVING, secrets.token_hex(16), keep=True)
        self.counts = {str(name): int(str(count)) for name, count in self._db.execute(COUNTS_EMBEDDED)}
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def page(self, part: Part, after: Key) -> list[Row]:
        """Read rows behind a key: a thousand at most, fewer if they are long."""
        rows: list[Row] = []
        room = PAGE_CHARACTERS
        for row in self._db.execute(part.read_embedded(), (*after, PAGE_ROWS)):
            room -= sum(len(value) for value in row if isinstance(value, str))
            if rows and room < 0:
                break
            rows.append(row)
        return rows

    def marked(self, name: str) -> str | None:
        """Read a mark."""
        found = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchall()
        return str(found[0][0]) if found else None

    def mark(self, name: str, value: str, *, keep: bool = False) -> str:
        """Write a mark, on stable storage when this returns; `keep` one that is there. Answers which it is."""
        self._db.execute(f"INSERT OR {'IGNORE' if keep else 'REPLACE'} INTO meta VALUES (?, ?)", (name, value))
        return self.marked(name) or ""

    def unmark(self, name: str) -> None:
        """Take a mark away."""
        self._db.execute("DELETE FROM meta WHERE name = ?", (name,))


class _Target:
    """The database on the server, closed to daemons from `begin` to `open`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.marks: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await self._server.open()
        try:
            await migrate(self._server)
            self.marks = dict(await self._server.fetch("SELECT name, value FROM meta"))
        except BaseException:
            await self._server.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def has_all_of(self, source: _Source) -> bool:
        """Was the move finished before? Raises `StoreError` if the file was moved elsewhere, or used again since."""
        moved_to, _, name = (source.marked(MOVED_TO) or "").partition(" ")
        if moved_to and moved_to != self.marks.get(INSTANCE):
            raise StoreError(f"the file was moved to {name} before")
        if self.marks.get(MOVED_FROM) != source.instance:
            return False
        if not moved_to:
            raise StoreError("the file was moved to this database before, and was used again since")
        return True

    async def begin(self, source: _Source, listener: Listener) -> Progress:
        """Close the database to daemons, and find out how far the move is."""

        async def work(connection: Connection) -> Progress:
            async with connection.transaction():
                await refuse_daemons(connection)  # who comes now finds the mark
                self.marks = dict(await connection.fetch("SELECT name, value FROM meta"))
                await self._refuse_strangers(connection, source)
                progress = Progress.read(self.marks.get(PROGRESS, '["", {}, {}]'))
                if progress.attempt != source.attempt:
                    if progress.rows:
                        listener.began_anew()
                    progress = Progress(source.attempt)
                    # Whoever signed in to it while it was empty is not signed in to what comes.
                    await connection.execute(f"TRUNCATE {COPIED_ANEW}, sessions")
                    await self._close(connection, source, progress)
            return progress

        return await self._server.run(work)

    async def _refuse_strangers(self, connection: Connection, source: _Source) -> None:
        """Refuse a database with anything in it that is not this file's."""
        mover = self.marks.get(MOVING_FROM)
        if mover == source.instance:
            return
        if mover is not None:
            raise StoreError("the move of another file to this database is not finished")
        held = [name for name, holds in zip(_HELD, await connection.fetchrow(_HOLDS), strict=True) if holds]
        if held:
            origin = " that were moved from another file" if MOVED_FROM in self.marks else ""
            raise StoreError(f"the database is in use: it holds {', '.join(held)}{origin}; name an empty one")

    async def _close(self, connection: Connection, source: _Source, progress: Progress) -> None:
        self.marks |= {
            MOVING_FROM: source.instance,
            INSTANCE: self.marks.get(INSTANCE) or secrets.token_hex(16),
            PROGRESS: progress.text(),
            "directory_revision": str(source.counts["directory revision"]),
        }
        await connection.executemany(_MARK, list(self.marks.items()))

    async def write(self, part: Part, rows: list[Row], progress: Progress) -> None:
        """Write a page, and that it is written."""
        try:
            await self._server.fetch(part.write_shared(), *map(list, zip(*rows, strict=True)), progress.text())
        except ValueRefused as error:
            first, last = rows[0][: len(part.first)], rows[-1][: len(part.first)]
            raise StoreError(
                f"PostgreSQL cannot hold one of the {part.name} from {first} to {last}: {error}"
            ) from error

    async def page(self, part: Part, after: Key, last: Key) -> list[Row]:
        """Read rows between two keys."""
        return [tuple(row) for row in await self._server.fetch(part.read_shared(), *after, *last)]

    async def settle_down(self) -> None:
        """Tell the planner what there is now."""
        await self._long(f"ANALYZE {COPIED_ANEW}, audit")

    async def counts(self) -> dict[str, int]:
        """Count everything."""
        found: dict[str, int] = dict(await self._long(COUNTS_SHARED))
        return found

    async def _long(self, sql: str) -> list[Any]:
        return await self._server.run(lambda connection: connection.fetch(sql, timeout=COUNTING_SECONDS))

    async def open(self, source: _Source) -> None:
        """Let daemons in."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(
                    "SELECT setval('notification_seq', 1 + (SELECT coalesce(max(seq), 0) FROM notification), false)"
                )
                await connection.execute(_MARK, MOVED_FROM, source.instance)
                if (copied_at := source.marked(COPIED_AT)) is not None:
                    await connection.execute(_MARK, COPIED_AT, copied_at)
                await connection.execute("DELETE FROM meta WHERE name = ANY($1)", [MOVING_FROM, PROGRESS])

        await self._server.run(work)


_MARK: Final = "INSERT INTO meta VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value"
_HELD: Final = {
    "notifications": "notification",
    "queued rows": "queue",
    "contents": "content",
    "idempotency keys": "idempotency",
    "directory entries": "directory",
    "audit rows": "audit",
    "refused sign-ins": "refused_login",
    "accounts signed in to": "signed_in",
    "webhook events": "webhook_event",
}
_HOLDS: Final = f"SELECT {', '.join(f'EXISTS (SELECT FROM {table})' for table in _HELD.values())}"
