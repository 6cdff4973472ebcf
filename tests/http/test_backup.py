"""A backup over HTTP: whole and checked before its first octet, one at a time, and gone whatever becomes of the client."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import aiohttp
import pytest

from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.http.values import parse_time
from gateway.store.postgresql import PostgresqlStore
from gateway.store.postgresql.server import Server
from gateway.store.protocol import CopyRunning
from gateway.store.sqlite.copying import Copier
from tests.http.world import running
from tests.store.building import put, row

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.world import World
    from tests.peers.postgresql import Postgresql

SQLITE = "application/vnd.sqlite3"
LARGE = f'{{"text":"{"x" * 100_000}"}}'


async def fetched(world: World, folder: Path) -> Path:
    """Fetch a backup as the operator, once nobody else does."""
    headers = {"Authorization": f"Bearer {await world.key_for('system')}"}
    file = folder / "fetched.db"
    async with asyncio.timeout(10):
        while True:
            async with world.session.get(world.url + "/v1/backup", headers=headers) as response:
                whole = await response.read()
                if response.status != 409:
                    break
    assert (response.status, response.headers["Content-Type"]) == (200, SQLITE)
    assert int(response.headers["Content-Length"]) == len(whole)
    file.write_bytes(whole)
    return file


async def _free(world: World) -> None:
    """Wait until the daemon has done with the backup before."""
    async with asyncio.timeout(10):
        while True:
            with suppress(CopyRunning):
                async with world.store.copier.copy():
                    return
            await asyncio.sleep(0.01)


async def test_it_is_the_database(world: World, tmp_path: Path) -> None:
    """What was accepted is in it."""
    id_ = await world.posted()
    file = await fetched(world, tmp_path)
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT id FROM notification").fetchall() == [(id_,)]


async def test_it_is_on_record_and_known_to_the_doctor(world: World, tmp_path: Path) -> None:
    """The log names who had everything, and the doctor since when there is a backup."""
    before = (await world.call("GET", "/v1/doctor", "system")).json["store"]["last_backup_at"]
    await fetched(world, tmp_path)
    after = (await world.call("GET", "/v1/doctor", "system")).json["store"]["last_backup_at"]
    log = (await world.call("GET", "/v1/tenants/system/audit", "system")).json["items"]

    assert before is None
    assert abs(parse_time(after) - world.outbox.clock()) < 60_000
    assert (log[0]["action"], log[0]["actor"].partition(":")[0]) == ("backup", "key")


async def test_one_at_a_time(world: World, tmp_path: Path) -> None:
    """Who comes while another fetches one is told so, and may come again."""
    async with world.store.copier.copy():
        refused = await world.call("GET", "/v1/backup", "system")
    assert (refused.status, refused.code) == (409, "backup_running")
    await fetched(world, tmp_path)


async def test_a_client_that_goes_away_leaves_nothing(world: World, tmp_path: Path) -> None:
    """Half of it read, then nothing: it counts as none, and the next one is whole."""
    await put(world.store, *(row(content=LARGE) for _ in range(300)))
    headers = {"Authorization": f"Bearer {await world.key_for('system')}"}
    async with world.session.get(world.url + "/v1/backup", headers=headers) as response:
        await response.content.readexactly(100_000)
        busy = await world.call("GET", "/v1/backup", "system")
        response.close()
    await _free(world)
    noted = (await world.call("GET", "/v1/doctor", "system")).json["store"]["last_backup_at"]
    file = await fetched(world, tmp_path)
    later = (await world.call("GET", "/v1/doctor", "system")).json["store"]["last_backup_at"]

    assert (busy.status, busy.code) == (409, "backup_running")
    assert (noted is None, later is None) == (True, False)
    assert file.stat().st_size > 30_000_000


async def _read_into(rest: bytearray, response: aiohttp.ClientResponse) -> None:
    async for piece in response.content.iter_any():
        rest += piece


async def test_one_that_is_being_sent_ends_with_the_daemon(world: World) -> None:
    """A client that takes nothing is cut off when copying stops; nothing counts as a backup, and none is made any more."""
    await put(world.store, *(row(content=LARGE) for _ in range(300)))
    headers = {"Authorization": f"Bearer {await world.key_for('system')}"}
    async with world.session.get(world.url + "/v1/backup", headers=headers) as response:
        await response.content.readexactly(100_000)
        world.store.copier.stop()
        rest = bytearray()
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(_read_into(rest, response), 5)
    refused = await world.call("GET", "/v1/backup", "system")
    noted = (await world.call("GET", "/v1/doctor", "system")).json["store"]["last_backup_at"]
    assert (refused.status, refused.code, noted) == (503, "unavailable", None)
    assert b"HTTP/1.1" not in rest


async def test_one_that_is_being_made_ends_with_the_daemon(world: World) -> None:
    """Nobody has an octet of it yet: 503, and nothing is left of it."""
    await put(world.store, *(row(content=LARGE) for _ in range(300)))
    copy = world.store.path.with_name("gateway.db.copy")
    asked = asyncio.ensure_future(world.call("GET", "/v1/backup", "system"))
    async with asyncio.timeout(10):
        while not copy.exists():
            await asyncio.sleep(0)
    world.store.copier.stop()
    refused = await asyncio.wait_for(asked, 5)
    assert (refused.status, refused.code, copy.exists()) == (503, "unavailable", False)


async def test_no_room(world: World, tmp_path: Path) -> None:
    """Where a copy would take the room that mail needs there is none: 503, and mail is taken."""
    world.store.copier = Copier(world.store.path, 1 << 60)
    refused = await world.call("GET", "/v1/backup", "system")
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "storage_full", "30")
    await world.posted()


async def test_only_what_is_asked_for_is_made(world: World) -> None:
    """HEAD makes no copy: it answers while one is being made."""
    async with world.store.copier.copy():
        answered = await world.call("HEAD", "/v1/backup", "system")
    assert (answered.status, answered.headers["Content-Type"]) == (200, SQLITE)


async def test_no_secret_is_in_it_in_clear(world: World, tmp_path: Path) -> None:
    """A stored secret is sealed, and of keys there are hashes."""
    await world.directory.put_secret(OPERATOR, "acme", "relay", Secret("canary-7f3-of-the-store"))
    body = {"username": "app", "credential": {"source": "plaintext", "value": "canary-7f3-of-a-profile"}}
    saved = await world.call("PATCH", "/v1/tenants/acme/profiles/own", "system", json={"auth": body})
    key = await world.key_for("acme:send,canary")
    whole = (await fetched(world, tmp_path)).read_bytes()

    assert saved.status == 200
    assert b"relay" in whole
    assert b"canary-7f3" not in whole
    assert key.split("_", 2)[2].encode() not in whole


async def test_a_server_makes_its_own(tmp_path: Path, postgresql: Postgresql, schema: str) -> None:
    """On PostgreSQL there is none, and the answer says what to do."""
    async with running(tmp_path, on=PostgresqlStore(Server(postgresql.url, schema=schema))) as world:
        refused = await world.call("GET", "/v1/backup", "system")
    assert (refused.status, refused.code) == (409, "backup_by_server")
    assert "pg_dump" in refused.json["detail"]
