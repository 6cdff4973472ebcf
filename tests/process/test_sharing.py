"""What is said to one daemon holds at all that share its database, and lanes are one whoever has them."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.cluster import Cluster, Lane, cluster, until
from tests.process.daemon import mail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.peers.postgresql import Postgresql
    from tests.process.daemon import Daemon

HOLDS = 2.0  # seconds, by which what was changed at one daemon holds at all
TOLD = 5.0  # seconds, by which all know how each other's lanes stand
LOOKED = 20.0  # seconds, by which whoever heard nothing has looked
PROFILES = "/v1/tenants/acme/profiles"
MAIN = Lane("main", password=True)


@pytest.fixture
async def pair(tmp_path: Path, newest: Postgresql) -> AsyncIterator[Cluster]:
    """Run two daemons on one database."""
    async with cluster(tmp_path, newest, [MAIN], size=2) as made:
        yield await made.start()


async def post(daemon: Daemon, **body: Any) -> str:
    """Post a notification that is accepted; its id."""
    async with daemon.client() as client:
        status, answer, _ = await client.post(mail(**body))
        assert status == 202, answer
        return str(answer["id"])


async def status_of(daemon: Daemon, id_: str) -> str:
    async with daemon.client() as client:
        return str((await client.show(id_))["status"])


async def state_of(daemon: Daemon, profile: str = "main") -> str:
    """How the queue shows a profile; "" if it does not."""
    _, queue = await daemon.ask("GET", "/v1/queue")
    return next((line["state"] for line in queue["items"] if line["profile"] == profile), "")


async def unready(daemon: Daemon) -> object:
    """Why a daemon is not ready."""
    async with daemon.client() as client, client.session.get("/readyz") as answer:
        return (await answer.json()).get("reasons")


async def relayed(daemon: Daemon, id_: str, seconds: float = 30) -> float:
    """Wait until a notification is relayed; how long it took."""

    async def done() -> bool:
        return await status_of(daemon, id_) == "relayed"

    return await until(done, seconds)


async def holds(says: Callable[[], Any], wanted: object, seconds: float = HOLDS) -> float:
    """Wait until a question is answered like this; how long it took."""

    async def so() -> bool:
        return bool(await says() == wanted)

    return await until(so, seconds)


async def test_daemons_that_cannot_read_the_directory_stand_back(pair: Cluster) -> None:
    """What only newer code can read appears: they say that they are not ready, and leave the mail to others."""
    one, other = pair.daemons
    await relayed(one, await post(one))
    await pair.one("INSERT INTO directory VALUES ('novelty', 'acme', 'x', '{}', 'api', 1000)")
    await pair.one("UPDATE meta SET value = '1000' WHERE name = 'directory_revision'")
    for daemon in (one, other):
        await holds(lambda daemon=daemon: unready(daemon), ["directory_unreadable"])

    async def nobodys() -> bool:
        return await pair.one("SELECT count(*) FROM lane WHERE daemon IS NOT NULL") == 0

    await until(nobodys, 10)
    assert await status_of(other, await post(one)) == "queued"


async def test_daemons_that_start_at_once_on_nothing_are_one_installation(tmp_path: Path, newest: Postgresql) -> None:
    """Three at the same moment on an empty database: one schema, one directory, one log, and all take mail."""
    async with cluster(tmp_path, newest, [MAIN]) as made:
        await made.start()
        ids = [await post(daemon) for daemon in made.daemons]
        for id_ in ids:
            await relayed(made.daemons[0], id_)
        _, log = await made.daemons[0].ask("GET", "/v1/tenants/acme/audit")
        living = await made.one("SELECT count(*) FROM daemon")
        schemas = await made.one("SELECT array_agg(number) FROM schema_version")
        codes = [await daemon.stop() for daemon in made.daemons]
        left = await made.one("SELECT count(*) FROM daemon") + await made.one("SELECT count(daemon) FROM lane")

    assert living == 3
    assert schemas == sorted(set(schemas))
    made_once = [row["object"] for row in log["items"] if row["action"].endswith("create")]
    assert sorted(made_once) == sorted(set(made_once))
    assert made_once
    assert (codes, left) == ([0, 0, 0], 0)


async def test_what_is_made_at_one_daemon_is_there_at_the_other(pair: Cluster) -> None:
    """A tenant, its profile and its key: within two seconds the other takes mail with that key."""
    here, there = pair.daemons
    profile = {
        "name": "own", "host": pair.relays["main"].host, "port": pair.relays["main"].port, "security": "none",
        "from": "a@zoo.example.test", "is_default": True,
    }  # fmt: skip
    made = [
        await here.ask("POST", "/v1/tenants", {"id": "zoo", "parent": "system"}),
        await here.ask("POST", "/v1/tenants/zoo/profiles", profile),
        await here.ask("POST", "/v1/tenants/zoo/keys", {"name": "app", "scopes": ["send", "read"]}),
    ]
    key = made[2][1]["key"]
    seconds = await holds(lambda: answered(there, "GET", "/v1/queue", key=key), 200)
    status, accepted = await there.ask("POST", "/v1/notifications", mail(), key)
    print(f"\na key made elsewhere holds after {seconds:.2f} s")

    assert [code for code, _ in made] == [201, 201, 201]
    assert status == 202
    async with there.client(key) as client:
        await client.until(accepted["id"], "relayed")


async def answered(daemon: Daemon, method: str, path: str, body: object = None, *, key: str | None = None) -> int:
    """Ask, for the status alone."""
    return (await daemon.ask(method, path, body, key))[0]


async def test_a_pause_at_one_daemon_holds_mail_that_the_other_takes(pair: Cluster) -> None:
    """Whichever of them carries the profile; and what was resumed goes."""
    await relayed(pair.daemons[0], await post(pair.daemons[0]))
    relay = pair.relays["main"]
    for here, there in (pair.daemons, pair.daemons[::-1]):
        count = len(relay.messages)
        assert await answered(here, "POST", f"{PROFILES}/main/pause") == 200
        paused = await holds(lambda there=there: state_of(there), "paused")
        ids = [await post(here), await post(there)]
        states = {await status_of(daemon, id_) for daemon in pair.daemons for id_ in ids}
        held = len(relay.messages) == count
        assert await answered(there, "POST", f"{PROFILES}/main/resume") == 200
        resumed = await holds(lambda here=here: state_of(here), "")
        for id_ in ids:
            await relayed(here, id_)
        print(f"\na pause elsewhere holds after {paused:.2f} s, the end of one after {resumed:.2f} s")

        assert states == {"held"}
        assert held


async def test_a_key_that_was_revoked_elsewhere_commits_nothing(pair: Cluster) -> None:
    """In the very next request it neither posts nor changes anything; within two seconds it reads nothing either."""
    here, there = pair.daemons
    for scopes, method, path, body in (
        (["send", "read"], "POST", "/v1/notifications", mail()),
        (["send", "read"], "POST", "/v1/notifications/batch", {"notifications": [mail()]}),
        (["admin"], "POST", "/v1/tenants", {"id": "zoo", "parent": "acme"}),
    ):
        _, made = await here.ask("POST", "/v1/tenants/acme/keys", {"name": "app", "scopes": scopes})
        await holds(lambda key=made["key"]: answered(there, "GET", "/v1/queue", key=key), 200)
        revoked = await answered(here, "DELETE", f"/v1/tenants/acme/keys/{made['id']}")
        status, answer = await there.ask(method, path, body, made["key"])
        seconds = await holds(lambda key=made["key"]: answered(there, "GET", "/v1/queue", key=key), 401)
        print(f"\n{path}: {status} at once, no reading after {seconds:.2f} s")

        assert revoked == 204
        assert refusals(status, answer) == {"unauthorized"}, answer
    assert await answered(here, "GET", "/v1/tenants/zoo") == 404
    assert await pair.one("SELECT count(*) FROM notification") == 0


def refusals(status: int, answer: dict[str, Any]) -> set[str]:
    """Why a request was refused, or each part of it."""
    if "results" in answer:
        return {result["problem"]["code"] for result in answer["results"]}
    return {answer["code"]} if status == 401 else set()


async def test_waiting_mail_follows_a_profile_that_is_changed_elsewhere(pair: Cluster) -> None:
    """Its relay is another one now, said at the daemon that does not carry it; the mail goes there."""
    relay = pair.relays["main"]
    wrong = {
        "name": "moved", "host": "127.0.0.9", "port": relay.port, "security": "none", "from": "a@acme.example.test",
    }  # fmt: skip
    here = pair.daemons[0]
    assert await answered(here, "POST", PROFILES, wrong) == 201
    ids = [await post(here, profile="moved") for _ in range(3)]
    _, other = await pair.other("moved")
    await holds(lambda: answered(other, "GET", f"{PROFILES}/moved"), 200)
    assert await answered(other, "PATCH", f"{PROFILES}/moved", {"host": relay.host}) == 200
    for id_ in ids:
        await relayed(here, id_)

    assert len(relay.messages) == 3


@pytest.mark.parametrize("word", ["resume", "credential/refresh"])
async def test_a_person_may_ask_any_daemon_to_go_on(pair: Cluster, word: str) -> None:
    """A profile is parked at one, and all say so; let go on at the other, its mail is relayed."""
    relay = pair.relays["main"]
    await relayed(pair.daemons[0], await post(pair.daemons[0]))
    relay.users["main"] = "another"
    relay.cut()
    id_ = await post(pair.daemons[0])
    _, other = await pair.other()
    for daemon in pair.daemons:
        await holds(lambda daemon=daemon: state_of(daemon), "parked:auth_failed", 20)
    queues = [(await daemon.ask("GET", "/v1/queue"))[1]["items"] for daemon in pair.daemons]
    relay.users["main"] = "s3cret"
    assert await answered(other, "POST", f"{PROFILES}/main/{word}") == 200
    await relayed(other, id_)
    for daemon in pair.daemons:
        await holds(lambda daemon=daemon: state_of(daemon), "", TOLD)

    assert [(line["ready"], line["deferred"]) for items in queues for line in items] == [(1, 0), (1, 0)]


async def test_mail_goes_whichever_daemon_took_it(pair: Cluster) -> None:
    """The one that carries its profile is told."""
    await relayed(pair.daemons[0], await post(pair.daemons[0]))
    _, other = await pair.other()
    seconds = [await relayed(other, await post(other)) for _ in range(10)]
    print(f"\nrelayed by the other after {min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f} ms")

    assert len(set(pair.relays["main"].carriers())) == 1


async def test_mail_goes_though_no_word_of_it_arrives(tmp_path: Path, mortal: Postgresql) -> None:
    """The connections that listen are open, and dead: whoever carries the profile finds the mail by looking."""
    async with cluster(tmp_path, mortal, [MAIN], size=2) as made:
        await made.start()
        await relayed(made.daemons[0], await post(made.daemons[0]))
        _, other = await made.other()
        deaf = await listening(made)
        for pid in deaf:
            os.kill(pid, signal.SIGSTOP)
        try:
            seconds = [await relayed(other, await post(other), LOOKED) for _ in range(2)]
        finally:
            for pid in deaf:
                os.kill(pid, signal.SIGCONT)
    print(f"\nfound after {seconds[0]:.1f} and {seconds[1]:.1f} s")

    assert len(deaf) == 2


async def test_words_are_heard_again_after_the_listener_was_cut_off(tmp_path: Path, mortal: Postgresql) -> None:
    """A word that was said meanwhile is made up for by looking as soon as it listens again."""
    async with cluster(tmp_path, mortal, [MAIN], size=2) as made:
        await made.start()
        await relayed(made.daemons[0], await post(made.daemons[0]))
        _, other = await made.other()
        cut = await listening(made)
        await made.one("SELECT count(pg_terminate_backend(pid)) FROM unnest($1::integer[]) AS pid", cut)
        seconds = await relayed(other, await post(other))

        async def listens_again() -> bool:
            now = await listening(made)
            return len(now) == 2 and not set(now) & set(cut)

        await until(listens_again, 20)
    print(f"\nrelayed after {seconds:.2f} s")

    assert len(cut) == 2


async def listening(made: Cluster) -> list[int]:
    """Find the server's processes that serve the connections on which daemons listen."""
    async with made.asked() as connection:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'notification-gateway'"
            " AND (query LIKE 'LISTEN%' OR query = 'SELECT')"
        )
    return [pid for (pid,) in rows]


async def test_a_backup_at_another_daemon_stands_in(tmp_path: Path, newest: Postgresql) -> None:
    """While a profile is parked its mail goes by its backup, which another daemon carries; then it comes back."""
    lanes = [Lane("main", password=True, more='failover = ["spare"]\n'), Lane("spare")]
    async with cluster(tmp_path, newest, lanes, size=2) as made:
        await made.start()
        here = made.daemons[0]
        for lane in lanes:
            await relayed(here, await post(here, profile=lane.name))
        apart = await made.held("main") is not await made.held("spare")
        made.relays["main"].users["main"] = "another"
        made.relays["main"].cut()
        ids = [await post(daemon) for daemon in made.daemons for _ in range(5)]
        await asyncio.gather(*(relayed(here, id_) for id_ in ids))
        histories = [(await here.ask("GET", f"/v1/notifications/{id_}"))[1]["events"] for id_ in ids]
        lent = len(made.relays["spare"].messages)
        made.relays["main"].users["main"] = "s3cret"
        assert await answered(made.daemons[1], "POST", f"{PROFILES}/main/resume") == 200
        await holds(lambda: state_of(here), "", TOLD)
        await relayed(here, await post(here))

    assert apart
    assert lent == 11
    assert all("failover" in [event["event"] for event in history] for history in histories)
    assert (len(made.relays["main"].messages), len(made.relays["spare"].messages)) == (2, 11)
