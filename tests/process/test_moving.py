"""A real daemon on SQLite, moved by the real command, and a real daemon on PostgreSQL that goes on with its mail."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from gateway.store.sqlite import SqliteStore
from tests.peers.postgresql import of_our_own
from tests.peers.smtp_server import Reply
from tests.process.daemon import ROOT, DaemonDiedError, mail, plain
from tests.store.building import key, put, row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.peers.postgresql import Postgresql
    from tests.peers.smtp_server import ScriptedRelay
    from tests.process.daemon import Client, Daemon

    Install = Callable[..., Daemon]

QUEUED = 50
SENDER = {"address": "noreply@acme.example.test"}
ROWS = 100_000


@pytest.fixture
async def database(postgresql: Postgresql) -> AsyncIterator[str]:
    """Make a database of the test's own; its URL."""
    name = postgresql.schema()
    await postgresql.execute(f"CREATE DATABASE {name}")
    yield f"{postgresql.url.rpartition('/')[0]}/{name}"
    await postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)")


def soon(**ahead: float) -> str:
    """Tell a time that is near, as the API takes it."""
    return (datetime.now(UTC) + timedelta(**(ahead or {"seconds": 1}))).isoformat()


def uses(daemon: Daemon, url: str) -> None:
    """Have the settings name the new database."""
    settings = daemon.folder / "gateway.toml"
    settings.write_text(settings.read_text().replace("sqlite:///gateway.db", url))


async def command(daemon: Daemon, *words: str) -> tuple[int, str, str]:
    """Run the command line with the daemon's settings; its exit code and what it said."""
    process = await started(daemon, *words)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def started(daemon: Daemon, *words: str) -> asyncio.subprocess.Process:
    """Start the command line."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "-c", str(daemon.folder / "gateway.toml"), *words,
        cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


def migration(daemon: Daemon) -> tuple[str, ...]:
    """The command that moves the daemon's SQLite database."""
    return "store", "migrate-from", f"sqlite:///{daemon.folder / 'gateway.db'}"


async def asked(client: Client, method: str, path: str, **body: Any) -> tuple[int, Any]:
    """Ask the API for anything."""
    async with client.session.request(method, path, json=body or None) as response:
        return response.status, await response.json() if response.status != 204 else None


async def test_an_installation_goes_on_where_it_was(install: Install, relay: ScriptedRelay, database: str) -> None:
    """Queued, deferred, scheduled, held and finished mail, keys, secrets and the audit log come along; mail goes once."""
    profile = f'{plain(relay.port)}\nauth = {{username = "app", credential = {{source = "stored", key = "relay"}}}}'
    daemon = await install(profile, retry="[3600]").start()
    relay.on("rcpt", Reply("452 4.2.2 mailbox full"), match="later@", once=True)
    async with daemon.client() as client, daemon.client(daemon.admin_key) as admin:
        await asked(admin, "PUT", "/v1/tenants/acme/secrets/relay", value="s3cret")
        made = [(await asked(admin, "POST", "/v1/tenants/acme/keys", scopes=["send", "read"]))[1] for _ in range(2)]
        await asked(admin, "DELETE", f"/v1/tenants/acme/keys/{made[1]['id']}")
        finished = (await client.post(mail("finished"), "once"))[1]
        deferred = (await client.post(mail("deferred", to=("later@example.test",))))[1]
        await client.until(finished["id"], "relayed")
        await client.until(deferred["id"], "deferred")
        second = {"name": "second", "host": "127.0.0.1", "port": relay.port, "security": "none", "from": SENDER}
        await asked(admin, "POST", "/v1/tenants/acme/profiles", **second)
        held = (await client.post(mail("held", profile="second", send_at=soon())))[1]
        await asked(admin, "PATCH", "/v1/tenants/acme/profiles/second", enabled=False)
        await client.until(held["id"], "held")
        scheduled = (await client.post(mail("scheduled", send_at=soon(hours=1))))[1]
        await relay.reachable(False)
        queued = [(await client.post(mail(f"queued {n}"), f"queued-{n}"))[1] for n in range(QUEUED)]
        before = [await client.show(one["id"]) for one in (finished, deferred, held, scheduled)]
    assert await daemon.stop() == 0

    sqlite = (daemon.folder / "gateway.toml").read_text()
    uses(daemon, database)
    code, out, err = await command(daemon, *migration(daemon))
    await relay.reachable(True)
    await daemon.start()
    async with daemon.client() as client, daemon.client(made[0]["key"]) as other, daemon.client(made[1]["key"]) as gone:
        after = [await client.show(one["id"]) for one in (finished, deferred, held, scheduled)]
        _, replay, replayed = await client.post(mail("finished"), "once")
        await asked(client, "POST", f"/v1/notifications/{deferred['id']}/retry")
        _, cancelled = await asked(client, "POST", f"/v1/notifications/{scheduled['id']}/cancel")
        fresh = (await other.post(mail("fresh")))[1]
        for one in (*queued, deferred, fresh):
            await client.until(one["id"], "relayed")
        refused, _ = await asked(gone, "GET", "/v1/notifications")
    verified = await command(daemon, "audit", "verify", "--tenant", "acme")
    again = await command(daemon, *migration(daemon), "--json")
    await daemon.stop()
    arrived = Counter((caught.message_id or "").strip("<>").partition("@")[0] for caught in relay.messages)

    assert (code, err.splitlines()[-1]) == (0, "comparing both sides row by row")
    assert "notifications: 54\nqueued: 53\n" in out
    assert after == before
    assert (replayed, replay["id"]) == (True, finished["id"])
    assert arrived == Counter([one["id"] for one in (finished, deferred, fresh, *queued)])
    assert cancelled["status"] == "cancelled"
    assert refused == 401
    assert verified[0] == 0, verified
    assert (again[0], json.loads(again[1])["already"]) == (0, True)

    (daemon.folder / "gateway.toml").write_text(sqlite)
    with pytest.raises(DaemonDiedError):
        await daemon.start()
    assert "its mail would be sent twice" in daemon.log


async def test_nothing_is_moved_beside_a_daemon(install: Install, relay: ScriptedRelay) -> None:
    """The command refuses while a daemon runs on the file, and tells so; in JSON too."""
    daemon = await install(plain(relay.port)).start()
    settings = (daemon.folder / "gateway.toml").read_text()
    uses(daemon, "postgresql://127.0.0.1:1/nothing")
    held = await command(daemon, *migration(daemon), "--json")
    (daemon.folder / "gateway.toml").write_text(settings)
    wrong = await command(daemon, *migration(daemon))

    assert held[0] == 1
    assert "another daemon holds" in json.loads(held[1])["error"]
    assert (wrong[0], "[store] url" in wrong[2]) == (78, True)


@pytest.fixture
def mortal() -> Iterator[Postgresql]:
    """A PostgreSQL that may be killed."""
    with of_our_own("18") as server:
        yield server


async def test_kills_lose_and_double_nothing(install: Install, relay: ScriptedRelay, mortal: Postgresql) -> None:
    """The command is killed at two points and the server at a third; the fourth run goes on where it was, and ends it."""
    daemon = install(plain(relay.port))
    async with SqliteStore(daemon.folder / "gateway.db") as store:
        for first in range(0, ROWS, 5_000):
            await put(store, *(row(idempotency=key(f"k{n}")) for n in range(first, first + 5_000)))
    uses(daemon, mortal.url)
    for part in (1, 2):
        moving = await started(daemon, *migration(daemon))
        await copied(mortal, part * ROWS // 4)
        moving.send_signal(signal.SIGKILL)
        await moving.communicate()
    moving = await started(daemon, *migration(daemon))
    await copied(mortal, 3 * ROWS // 4)
    mortal.kill()
    _, cut = await moving.communicate()
    mortal.start()
    await mortal.wait()
    before = await progress(mortal)
    with pytest.raises(DaemonDiedError):
        await daemon.start()
    code, out, err = await command(daemon, *migration(daemon), "--json")
    told = json.loads(out)
    rows = await asyncpg.connect(mortal.url)
    distinct = await rows.fetchval(
        "SELECT count(DISTINCT n.id) FROM notification n JOIN queue USING (seq) JOIN content USING (seq)"
        " JOIN idempotency i ON i.answer::json ->> 'id' = n.id"
    )
    await rows.close()

    assert moving.returncode == 1
    assert "run it again" in cut.decode()
    assert f"resumed after {before} of {2 * ROWS} rows" in err
    assert ROWS // 2 < before < 2 * ROWS
    assert "is not finished: run `store migrate-from` again" in daemon.log
    assert (code, told["notifications"], told["queued"], told["contents"]) == (0, ROWS, ROWS, ROWS)
    assert told["resumed_after"] == before
    assert distinct == ROWS


async def copied(server: Postgresql, rows: int) -> None:
    """Wait until a move has come so far."""
    async with asyncio.timeout(60):
        while await progress(server) < rows:
            await asyncio.sleep(0.01)


async def progress(server: Postgresql) -> int:
    """Read how many rows a move has copied."""
    connection = await asyncpg.connect(server.url)
    try:
        text = await connection.fetchval("SELECT value FROM meta WHERE name = 'move_progress'")
    except asyncpg.UndefinedTableError:
        return 0
    finally:
        await connection.close()
    return sum(json.loads(text)[2].values()) if text else 0
