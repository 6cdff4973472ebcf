"""The store on PostgreSQL: the contract of every store, opening, and values that no column holds."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import trustme

from gateway.credentials.identity import read_identity
from gateway.observe import metrics
from gateway.settings import SecretSource
from gateway.store.postgresql import PostgresqlStore, forgetting, migrations, reading, server
from gateway.store.postgresql.migrations import SCHEMA, migrate
from gateway.store.postgresql.restoring import mark_restored
from gateway.store.postgresql.server import Server, ValueRefused
from gateway.store.protocol import Copied, StoreBroken, StoreError, StoreUnavailable
from gateway.store.rows import Flow, Inserted, Listing, Stage
from tests.peers.losing_proxy import LosingProxy
from tests.peers.postfix import free_port
from tests.peers.postgresql import ELSEWHERE, VERSIONS, Postgresql, of_our_own
from tests.store.building import FLOW, HOUR, NOW, claim, put, read, result, row, take
from tests.store.contract import AcceptContract, ChangeContract, ClaimContract, DurabilityContract, LeaseContract
from tests.store.contract_audit import AuditContract
from tests.store.contract_events import EventContract
from tests.store.contract_logins import LoginContract
from tests.store.contract_reading import DirectoryContract, PruneContract, ReadingContract
from tests.store.contract_sessions import SessionContract, session, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from gateway.store.protocol import Store
    from tests.store.building import Reopen

needs_trust = pytest.mark.skipif(
    ELSEWHERE is not None, reason="needs a server that lets new roles in without a password"
)


@pytest.fixture
async def opened(postgresql: Postgresql, schema: str) -> AsyncIterator[list[PostgresqlStore]]:
    """Open a store; the last of the list is the one that is open."""
    stores = [PostgresqlStore(Server(postgresql.url, schema=schema))]
    await stores[0].__aenter__()
    yield stores
    await stores[-1].__aexit__()


@pytest.fixture
def store(opened: list[PostgresqlStore]) -> PostgresqlStore:
    """Give the open store."""
    return opened[0]


@pytest.fixture
def reopen(opened: list[PostgresqlStore], postgresql: Postgresql, schema: str) -> Reopen:
    """Close the store and open its schema again."""

    @asynccontextmanager
    async def again() -> AsyncIterator[Store]:
        await opened[-1].__aexit__()
        opened.append(PostgresqlStore(Server(postgresql.url, schema=schema)))
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
    """Every case of the contract, on PostgreSQL."""


# Opening.


@pytest.fixture(scope="module", params=VERSIONS)
def own(request: pytest.FixtureRequest) -> Iterator[Postgresql]:
    """Run a server to be configured; the role `secretive` has the password `right`."""
    with of_our_own(request.param) as made:
        hba = made.folder / "data" / "pg_hba.conf"
        hba.write_text(f"host all secretive 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")
        asyncio.run(made.execute("CREATE ROLE secretive LOGIN SUPERUSER PASSWORD 'right'", "SELECT pg_reload_conf()"))
        yield made


def secretive(own: Postgresql, password: str) -> str:
    """Name the server as the role that needs a password."""
    return f"postgresql://secretive{password}@127.0.0.1:{own.port}/postgres"


async def refused(url: str, *, schema: str = "public") -> StoreError:
    """Try to open a store that is refused; nothing of it stays."""
    with pytest.raises(StoreError) as caught:
        await PostgresqlStore(Server(url, schema=schema)).__aenter__()
    return caught.value


@asynccontextmanager
async def role(server: Postgresql, **settings: str) -> AsyncIterator[str]:
    """Make a role with settings of its own; gives the URL that it comes by."""
    name = server.schema()
    await server.execute(
        f"CREATE ROLE {name} LOGIN SUPERUSER",
        *(f"ALTER ROLE {name} SET {setting} = {value}" for setting, value in settings.items()),
    )
    parts = urlsplit(server.url)
    yield urlunsplit(parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}"))
    await server.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER", f"DROP ROLE {name}")


@needs_trust
async def test_commits_are_synchronous_whatever_the_default_is(postgresql: Postgresql, schema: str) -> None:
    """Our sessions wait for the disk also where the server's default is not to."""
    async with role(postgresql, synchronous_commit="off") as url:
        assert await setting_of(url, "synchronous_commit") == "off"
        async with PostgresqlStore(Server(url, schema=schema)) as store:
            assert await store.server.fetchval("SELECT current_setting('synchronous_commit')") == "on"


async def setting_of(url: str, name: str) -> str:
    """Read a setting of an ordinary session."""
    connection = await asyncpg.connect(url)
    value = await connection.fetchval("SELECT current_setting($1)", name)
    await connection.close()
    return str(value)


@needs_trust
async def test_session_that_may_not_write_is_refused(postgresql: Postgresql, schema: str) -> None:
    """A server that takes no writes from us may take them later."""
    async with role(postgresql, default_transaction_read_only="on") as url:
        assert isinstance(error := await refused(url, schema=schema), StoreUnavailable)
        assert "standby" in str(error)


async def test_old_server_is_refused(postgresql: Postgresql, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server older than we need is named with its version."""
    monkeypatch.setattr(server, "OLDEST", 99)
    assert isinstance(error := await refused(postgresql.url, schema=schema), StoreBroken)
    assert "99 or newer is needed" in str(error)


async def test_server_without_fsync_is_refused(own: Postgresql) -> None:
    """A server that does not sync would lose what it calls committed."""
    try:
        await reload(own, "ALTER SYSTEM SET fsync = off", "fsync", "off")
        assert isinstance(error := await refused(own.url), StoreBroken)
        assert "fsync=off" in str(error)
    finally:
        await reload(own, "ALTER SYSTEM RESET fsync", "fsync", "on")


async def reload(server: Postgresql, statement: str, name: str, value: str) -> None:
    """Change the server's configuration, and wait until new sessions have it."""
    await server.execute(statement, "SELECT pg_reload_conf()")
    async with asyncio.timeout(20):
        while await setting_of(server.url, name) != value:
            await asyncio.sleep(0.01)


async def test_standby_is_refused_until_it_is_promoted(
    own: Postgresql, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A standby takes no writes; once it is the primary it is as good as any."""
    schema = await own.make_schema()
    standby = Postgresql(own.version, own.folder / "standby")
    standby.make_folder()
    own.run(
        "pg_basebackup",
        "-h",
        "127.0.0.1",
        "-p",
        str(own.port),
        "-U",
        "gateway",
        "-D",
        str(standby.folder / "data"),
        "-R",
        "-c",
        "fast",
    )
    standby.start()
    await standby.wait()
    try:
        assert isinstance(await refused(standby.url, schema=schema), StoreUnavailable)
        await standby.execute("SELECT pg_promote()")
        async with PostgresqlStore(Server(standby.url, schema=schema)) as store:
            await put(store, row())
    finally:
        standby.stop()


async def test_newer_schema_is_refused_by_its_least(postgresql: Postgresql, schema: str) -> None:
    """A schema that was changed by newer code is good for us as long as it says so."""
    async with PostgresqlStore(Server(postgresql.url, schema=schema)) as store:
        await put(store, new := row())
    await postgresql.execute(f"INSERT INTO {schema}.schema_version VALUES ({SCHEMA + 1}, {SCHEMA})")
    async with PostgresqlStore(Server(postgresql.url, schema=schema)) as store:
        assert await store.get(new.id) is not None
    await postgresql.execute(f"INSERT INTO {schema}.schema_version VALUES ({SCHEMA + 2}, {SCHEMA + 1})")
    assert isinstance(error := await refused(postgresql.url, schema=schema), StoreBroken)
    assert "newer version" in str(error)


async def test_daemons_that_start_together_migrate_once(postgresql: Postgresql, schema: str) -> None:
    """Of those who meet an empty schema at once one makes it, and all come up."""
    async with AsyncExitStack() as stack:
        opening = (PostgresqlStore(Server(postgresql.url, schema=schema)) for _ in range(5))
        stores = await asyncio.gather(*(stack.enter_async_context(store) for store in opening))
        assert await stores[0].server.fetchval("SELECT count(*) FROM schema_version") == SCHEMA
        assert len({store.roster.me for store in stores}) == 5
        for store in stores:
            await put(store, row())


async def test_migration_keeps_nobody_waiting_behind_a_reader(
    postgresql: Postgresql, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump holds a table that is to be changed: daemons of the version before beat on, and once it ends it is done."""
    monkeypatch.setattr(migrations, "LOCK_AGAIN", 0.05)
    await make(1, postgresql, schema, monkeypatch)
    reader = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema})
    other = await asyncpg.connect(postgresql.url, server_settings={"search_path": schema})
    store = PostgresqlStore(Server(postgresql.url, schema=schema))
    async with asyncio.timeout(60):
        async with reader.transaction():
            await reader.execute("SELECT FROM daemon")
            opening = asyncio.ensure_future(store.__aenter__())
            while not await other.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'daemon'::regclass"
            ):
                await asyncio.sleep(0.01)
            await other.execute("UPDATE daemon SET lease_until = lease_until + 1")
            early = opening.done()
        await opening
    numbers = await other.fetch("SELECT number FROM schema_version ORDER BY number")
    await store.__aexit__()
    await reader.close()
    await other.close()
    assert not early
    assert [number for (number,) in numbers] == list(range(1, SCHEMA + 1))


async def make(number: int, postgresql: Postgresql, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring a schema no further than an earlier version did."""
    made = Server(postgresql.url, schema=schema)
    await made.open()
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "SCHEMA", number)
        await migrate(made)
    await made.close()


async def test_schema_without_sessions_is_migrated(
    postgresql: Postgresql, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People sign in on what was schema 3, and code of that version still takes it for good."""
    await make(3, postgresql, schema, monkeypatch)
    async with PostgresqlStore(Server(postgresql.url, schema=schema)) as store:
        await store.begin_session(session("a"))
        await make(3, postgresql, schema, monkeypatch)
        assert await store.session(token("a")) == session("a")


# Restored.


async def test_restored_database_has_nobody_signed_in(postgresql: Postgresql, schema: str) -> None:
    """Whoever is signed in to what its server has restored is so no more; after that people sign in as ever."""
    async with PostgresqlStore(Server(postgresql.url, schema=schema)) as store:
        await store.begin_session(session("a"))
    await mark_restored(Server(postgresql.url, schema=schema))
    async with PostgresqlStore(Server(postgresql.url, schema=schema)) as store:
        assert await store.session(token("a")) is None
        await store.begin_session(session("b"))
        await store.settle_in()
        assert await store.session(token("b")) == session("b")


async def test_restored_database_of_an_older_schema_is_marked(
    postgresql: Postgresql, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has no sessions yet is a copy like any other."""
    await make(3, postgresql, schema, monkeypatch)
    assert await mark_restored(Server(postgresql.url, schema=schema)) == 0
    async with PostgresqlStore(Server(postgresql.url, schema=schema)) as store:
        assert await store.copied() is Copied.RESTORED


async def test_missing_database_is_named(postgresql: Postgresql) -> None:
    """A database that is not there is no passing trouble."""
    url = urlunsplit(urlsplit(postgresql.url)._replace(path="/not_there"))
    assert isinstance(error := await refused(url), StoreBroken)
    assert "not_there" in str(error)


async def test_missing_schema_is_named(postgresql: Postgresql) -> None:
    """A schema that is not there is no passing trouble."""
    assert isinstance(await refused(postgresql.url, schema="not_there"), StoreBroken)


async def test_unreachable_server_is_away() -> None:
    """Where nobody listens somebody may listen later."""
    assert isinstance(
        error := await refused(f"postgresql://gateway@127.0.0.1:{free_port()}/postgres"), StoreUnavailable
    )
    assert "away" in str(error)


async def test_silent_server_is_away(postgresql: Postgresql, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts connections and says nothing does not hold the start up."""
    monkeypatch.setattr(server, "CONNECT_SECONDS", 0.3)
    async with LosingProxy(postgresql.url) as proxy:
        proxy.hold()
        assert isinstance(await refused(proxy.url), StoreUnavailable)


@pytest.mark.parametrize(
    "url", ["nonsense", "postgresql://u@127.0.0.1:x/postgres", "postgresql://u@h/p?sslmode=perhaps"]
)
async def test_url_that_is_none_is_refused(url: str) -> None:
    """What cannot be read is said to be so, without showing it: it may have a password in it."""
    assert isinstance(error := await refused(url), StoreBroken)
    assert url not in str(error)


async def test_tls_is_verified(postgresql: Postgresql, schema: str, tmp_path: Path) -> None:
    """The server is who its certificate says, or it is told nothing."""
    authority = trustme.CA()
    for name, one in (("ours", authority), ("other", trustme.CA())):
        one.cert_pem.write_to_path(tmp_path / name)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with LosingProxy(postgresql.url, tls) as proxy:
        verified = f"{proxy.url}?sslmode=verify-full&sslrootcert={tmp_path}"
        async with PostgresqlStore(Server(f"{verified}/ours", schema=schema)) as store:
            await put(store, row())
        assert isinstance(error := await refused(f"{verified}/other", schema=schema), StoreUnavailable)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)


async def test_server_without_tls_is_refused_where_it_is_asked_for(postgresql: Postgresql) -> None:
    """What shall be encrypted is not sent in the clear."""
    if ELSEWHERE:
        pytest.skip("needs a server without TLS")
    assert isinstance(await refused(f"{postgresql.url}?sslmode=require"), StoreUnavailable)


async def test_wrong_password_is_refused(own: Postgresql) -> None:
    """A password that is wrong may be one that is being rotated; the error does not show it."""
    assert isinstance(error := await refused(secretive(own, ":wr0ng-pa55")), StoreUnavailable)
    assert "password" in str(error)
    assert "wr0ng-pa55" not in str(error)


def with_password_file(own: Postgresql, folder: Path, schema: str) -> tuple[Path, Server]:
    """Sign in with what a file says, which is right so far."""
    file = folder / "password"
    file.write_text("right\n")
    kept = SecretSource(file=file)
    return file, Server(secretive(own, ""), password=lambda: read_identity(kept, {}).reveal(), schema=schema)


async def test_rotated_password_is_asked_for_anew(own: Postgresql, tmp_path: Path) -> None:
    """New connections come with the password that the file has by then."""
    schema = await own.make_schema()
    file, server = with_password_file(own, tmp_path, schema)
    async with PostgresqlStore(server) as store:
        await own.execute("ALTER ROLE secretive PASSWORD 'newer'")
        file.write_text("newer\n")
        await own.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'secretive'")
        await put(store, row())
        await own.execute("ALTER ROLE secretive PASSWORD 'right'")


async def test_password_that_is_gone_for_a_moment_ends_nothing(own: Postgresql, tmp_path: Path) -> None:
    """While its file is being replaced the server is as good as away; with the new one all goes on."""
    schema = await own.make_schema()
    file, server = with_password_file(own, tmp_path, schema)
    async with PostgresqlStore(server, patience=0.0) as store:
        file.unlink()
        await store.server._pool.expire_connections()
        with pytest.raises(StoreUnavailable, match="password does not exist"):
            await store.accept([row()], NOW)
        away = store.reasons()
        file.write_text("right\n")
        await put(store, row())
        assert (away, store.reasons(), store.failed.is_set()) == (["store_away"], [], False)


async def in_encoding(own: Postgresql, encoding: str) -> str:
    """Make a database; gives its URL."""
    await own.execute(
        f"CREATE DATABASE in_{encoding} ENCODING {encoding} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    return urlunsplit(urlsplit(own.url)._replace(path=f"/in_{encoding.lower()}"))


async def test_database_that_cannot_keep_every_text_is_refused(own: Postgresql) -> None:
    """It would refuse results that are known nowhere else; its encoding is named at the start."""
    assert isinstance(error := await refused(await in_encoding(own, "WIN1252")), StoreBroken)
    assert "WIN1252" in str(error)


async def test_database_without_an_encoding_keeps_every_text(own: Postgresql) -> None:
    """Octets are what they are there, so what went in in UTF-8 comes out."""
    async with PostgresqlStore(Server(await in_encoding(own, "SQL_ASCII"), schema="public")) as store:
        await put(store, new := row(content="é … 日本"))
        assert (await read(store, new.id)).content == new.content


# Lists.


@pytest.mark.parametrize("tenants", [None, ("acme",), ("acme", "other"), tuple(f"t{number}" for number in range(30))])
async def test_lists_of_a_time_begin_and_end_there(store: PostgresqlStore, tenants: tuple[str, ...] | None) -> None:
    """What was accepted before or after is not read, however much there is of it."""
    statement, values = reading.listed(Listing(tenants, 9, since=NOW, until=NOW + 1))
    plan = await store.server.fetch(f"EXPLAIN {statement}", *values)
    [condition] = [line for (line,) in plan if "Index Cond" in line and "id" in line and "q.seq" not in line]
    assert "id >=" in condition
    assert "id <" in condition


# Values.


@pytest.mark.parametrize("bad", ["nul\0", "lone \ud800"], ids=["nul", "surrogate"])
async def test_value_that_no_column_holds_fails_alone(store: PostgresqlStore, bad: str) -> None:
    """In a batch whoever brought such a value is refused, and everybody else's rows go in."""
    good = [row() for _ in range(30)]
    jobs = [[new] for new in good]
    jobs.insert(17, [row(), row(category=bad)])
    blocker = store.accept([row()], NOW)  # so that the others share a statement
    results = await asyncio.gather(*(store.accept(job, NOW) for job in jobs), return_exceptions=True)
    assert await blocker == [Inserted()]
    (refusal,) = (one for one in results if isinstance(one, BaseException))
    assert (type(refusal), results.index(refusal)) == (ValueRefused, 17)
    assert await store.unfinished() == {"acme": 31}
    assert not store.failed.is_set()


async def test_result_that_no_column_holds_fails_alone(store: PostgresqlStore) -> None:
    """A result with such a value is refused, and the others are written."""
    await put(store, *(row() for _ in range(3)))
    first, bad, last = (await store.claim(claim())).rows
    results = await asyncio.gather(
        store.settle(result(first)),
        store.settle(result(bad, events="\0")),
        store.settle(result(last)),
        return_exceptions=True,
    )
    assert [type(one) for one in results] == [bool, ValueRefused, bool]
    assert await store.settle(result(bad))


# Pruning.


def asked() -> float:
    """Count the statements that were sent."""
    [family] = metrics.STATEMENTS.collect()
    return float(family.samples[0].value)


async def test_round_of_pruning_goes_on_where_it_was(store: PostgresqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not to go is looked at once a round; what ended behind the place goes with the next round."""
    monkeypatch.setattr(forgetting, "PRUNE_PAGE", 5)
    staying = [row(due_at=NOW + HOUR) for _ in range(40)]
    late = row(flow=Flow("acme", "late"))
    await put(store, late, *staying, *(row(stage=Stage.FINAL) for _ in range(30)))
    pruned, cost = [], []
    for _ in range(9):
        before = asked()
        pruned.append(await store.prune(NOW, NOW + 1, 4))
        cost.append(asked() - before)
        if len(pruned) == 3:
            assert await store.settle(result(await take(store, late.flow)))
    left = await store.page(Listing(("acme",), 99))

    assert pruned == [4, 4, 4, 4, 4, 4, 4, 2, 1]
    assert max(cost[1:8]) < cost[0] - 5
    assert sorted(one.id for one in left) == [new.id for new in staying]


async def test_pruning_looks_at_a_part_of_what_stays(store: PostgresqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where much waits, one call looks at so much of it; the next goes on behind that, and in the end begins anew."""
    monkeypatch.setattr(forgetting, "PRUNE_PAGE", 5)
    monkeypatch.setattr(forgetting, "MOST_KEPT", 10)
    await put(store, *(row(due_at=NOW + HOUR) for _ in range(25)), *(row(stage=Stage.FINAL) for _ in range(3)))
    assert [await store.prune(NOW, NOW + 1, 4) for _ in range(4)] == [0, 0, 3, 0]


async def test_page_of_a_clock_that_was_ahead_does_not_end_the_round(
    store: PostgresqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was accepted at a time that is still to come does not say that what follows is young, however much it is."""
    monkeypatch.setattr(forgetting, "PRUNE_PAGE", 5)
    await put(store, *(row(accepted_at=NOW + HOUR, due_at=NOW + HOUR) for _ in range(10)))
    await put(store, *(row(accepted_at=NOW - HOUR, stage=Stage.FINAL) for _ in range(4)))
    assert [await store.prune(NOW, NOW, 2) for _ in range(3)] == [2, 2, 0]


async def test_pruning_forgets_lanes(store: PostgresqlStore) -> None:
    """A lane that was given up long ago is deleted with the old rows."""
    await store.roster.take([FLOW])
    await store.roster.leave([(FLOW, 0)])
    await store.prune(NOW, NOW, 10)
    assert await store.server.fetchval("SELECT count(*) FROM lane") == 0
