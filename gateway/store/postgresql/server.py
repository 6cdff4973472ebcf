"""Connections to the server: pooled, checked, and alike whatever the server's defaults are.

Every session commits synchronously, reads what is committed, and keeps to the plans that this schema is made for:
nested loops along indexes, prepared once. A planner that saw a table while it was empty would else scan it for ever.

Errors: whatever says that the server is away, starting, going or too busy is `StoreUnavailable`, and so is a race with
somebody else, and a password that cannot be had while it is being replaced; a full disk is `StoreFull`; a value that no
column holds is a `StoreError` of its own; anything else is `StoreBroken`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
from asyncpg import exceptions as pg

from gateway.credentials.provider import CredentialError
from gateway.observe import facts
from gateway.store.protocol import StoreBroken, StoreError, StoreFull, StoreUnavailable

T = TypeVar("T")
Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy

OLDEST: Final = 15
ENCODINGS: Final = ("UTF8", "SQL_ASCII")  # the latter keeps octets as they are
CONNECTIONS: Final = 8
CONNECT_SECONDS: Final = 5.0
STATEMENT_SECONDS: Final = 15.0
NAME: Final = {"application_name": "notification-gateway"}
SESSION: Final = {  # set by a statement, because poolers keep most of them from a connection's start
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "idle_in_transaction_session_timeout": "30s",
}

_AWAY: Final = (
    OSError,
    TimeoutError,
    pg.PostgresConnectionError,
    pg.InterfaceError,
    pg.InternalClientError,  # a session that was ended leaves the client confused
    pg.OperatorInterventionError,
    pg.IdleInTransactionSessionTimeoutError,  # this process was suspended
    pg.InsufficientResourcesError,  # connections, memory, open files; a full disk is told apart before
    pg.ProgramLimitExceededError,  # somebody who listens does not read, and the queue of words is full
    pg.PostgresIOError,  # a disk that could not be read or written
    pg.LockNotAvailableError,
    pg.ReadOnlySQLTransactionError,
    pg.InvalidAuthorizationSpecificationError,  # a password that is being rotated
)
_RACED: Final = (
    pg.TransactionRollbackError,
    pg.UniqueViolationError,  # with an attempt of our own that was given up and got through all the same, or with another daemon
    pg.InvalidCachedStatementError,  # with a migration
)
_POOLED: Final = (pg.DuplicatePreparedStatementError, pg.InvalidSQLStatementNameError)
_VALUE: Final = (pg.DataError, ValueError, TypeError, OverflowError)


class ValueRefused(StoreError):
    """A value that no column can hold."""


class Server:
    """The pool. `schema` is where the tables are; if it is not given, the first of the search path."""

    def __init__(
        self,
        url: str,
        *,
        password: Callable[[], str] | None = None,
        schema: str = "",
        connections: int = CONNECTIONS,
    ) -> None:
        """Name the server by a libpq URL; nothing is opened yet. `password` is asked for at each connection."""
        self.url = url
        self.schema = schema
        self.version = ""
        self.broken: StoreBroken | None = None
        self.failed = asyncio.Event()
        self.trouble: StoreUnavailable | None = None
        self._password = password
        self._connections = connections
        self._whole = self

    def apart(self, connections: int) -> "Server":
        """Name a pool of its own to the same server, for what must not wait behind the rest; trouble is shared."""
        made = Server(self.url, password=self._password, schema=self.schema, connections=connections)
        made._whole = self
        return made

    async def open(self) -> None:
        """Connect and look whether the server keeps its promises.

        Raises `StoreUnavailable` or `StoreBroken`, and `CredentialError` if the password cannot be had.
        """
        try:
            self._pool = await asyncpg.create_pool(
                self.url, password=self._password, min_size=1, max_size=self._connections, max_inactive_connection_lifetime=0,
                timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS, server_settings=NAME,
                max_cached_statement_lifetime=0, statement_cache_size=200, init=self._begin_session, reset=_kept,
            )  # fmt: skip
        except asyncpg.ClientConfigurationError as error:
            raise StoreBroken(f"the database's URL cannot be used: {error}") from error
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
            TimeoutError,
        ) as error:
            raise self._meaning(error) from error
        except ValueError:  # it may show a part of the URL, and that may be the password
            raise StoreBroken("the database's URL cannot be read") from None

    async def close(self) -> None:
        """Hang up."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._pool.close()
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            self._pool.terminate()

    async def listener(self) -> asyncpg.Connection:
        """Open a connection of its own, to listen on."""
        return await asyncpg.connect(
            self.url, password=self._password, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS,
            server_settings=NAME,
        )  # fmt: skip

    async def _begin_session(self, connection: asyncpg.Connection) -> None:
        session = {**SESSION, "search_path": self.schema} if self.schema else SESSION
        await connection.execute(
            "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS g(name, value)",
            list(session), list(session.values()),
        )  # fmt: skip
        await self._check_session(connection)

    async def _check_session(self, connection: asyncpg.Connection) -> None:
        version, number, encoding, fsync, commit, writes, schema = await connection.fetchrow(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::integer,"
            " current_setting('server_encoding'), current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('transaction_read_only'), current_schema()"
        )
        self.version = version.split()[0]
        if schema is None:
            raise StoreBroken("the search path names no schema that there is")
        self.schema = schema
        if number // 10_000 < OLDEST:
            raise StoreBroken(f"the server is PostgreSQL {self.version}; {OLDEST} or newer is needed")
        if encoding not in ENCODINGS:
            raise StoreBroken(
                f"the database's encoding is {encoding}, in which not every text can be kept; UTF8 is needed"
            )
        if fsync != "on":
            raise StoreBroken("the server runs with fsync=off: what it says is committed may be lost")
        if commit != "on":
            raise StoreBroken("the server, or a pooler before it, does not let synchronous_commit be on")
        if writes != "off":
            raise StoreUnavailable("the server takes no writes: it is a standby")

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Work with a connection. What was written may have been committed also where it failed."""
        if self._whole.broken is not None:
            raise self._whole.broken
        try:
            async with self._connected() as connection:
                result = await work(connection)
        except Exception as error:
            meaning = self._meaning(error)
            if isinstance(meaning, StoreUnavailable) and not isinstance(error, _RACED):
                self._whole.trouble = meaning
            if meaning is error:
                raise
            raise meaning from error
        self._whole.trouble = None
        return result

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        connection = await self._pool.acquire(timeout=CONNECT_SECONDS)
        try:
            yield connection
        except pg.ReadOnlySQLTransactionError:  # what was the primary is one no more
            await self._pool.expire_connections()
            raise
        except pg.InternalClientError:
            connection.terminate()
            raise
        finally:
            await self._pool.release(connection, timeout=CONNECT_SECONDS)

    async def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """Run one statement; answers its rows."""
        facts.statements(1)
        rows: list[asyncpg.Record] = await self.run(lambda connection: connection.fetch(sql, *values))
        return rows

    async def fetchval(self, sql: str, *values: object) -> Any:
        """Run one statement; answers the first value of its first row."""
        rows = await self.fetch(sql, *values)
        return rows[0][0] if rows else None

    def _meaning(self, error: Exception) -> StoreError:
        if isinstance(error, StoreError) and not isinstance(error, StoreBroken):
            return error
        if isinstance(error, CredentialError):
            return StoreUnavailable(f"the server's password cannot be had: {error}")
        if isinstance(error, pg.DiskFullError):
            return StoreFull("the server's disk is full")
        if isinstance(error, _RACED):
            return StoreUnavailable(f"somebody else was at it: {type(error).__name__}")
        if isinstance(error, _AWAY):
            return StoreUnavailable(f"the server is away: {_told(error)}")
        if isinstance(error, _VALUE):
            return ValueRefused(f"refused a value that cannot be stored: {type(error).__name__}")
        if isinstance(error, _POOLED):
            error = StoreBroken(
                "a pooler before the server gives each transaction another session; let it pool sessions"
            )
        if not isinstance(error, StoreBroken):
            error = StoreBroken(f"the database could not be used: {_told(error)}")
        self._whole.broken = error
        self._whole.failed.set()
        return error


def _told(error: Exception) -> str:
    """Say what went wrong, without the details of a server's error: they show rows."""
    said = error.args[0] if isinstance(error, asyncpg.PostgresError) and error.args else error
    return f"{type(error).__name__}: {said}".rstrip(": ")


async def _kept(_connection: asyncpg.Connection) -> None:
    """Leave the session as it is: what a reset would undo was never done, and asking costs a round trip."""


def columns(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Turn rows into arrays, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
