"""Webhooks of real daemons: told whatever dies, told once by several, and never in the way of mail."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.peers.smtp_server import ScriptedRelay
from tests.peers.webhook_endpoint import Reply, WebhookEndpoint
from tests.process.cluster import Lane, cluster
from tests.process.daemon import Daemon, mail, plain
from tests.process.engines import on_both_engines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.peers.postgresql import Postgresql

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HERE = '["127.0.0.1/32"]'
PATH = "/v1/tenants/acme/webhooks"
pytestmark = pytest.mark.timeout(180)


@dataclass
class Hooked:
    """A daemon, and an endpoint that its tenant wants to be told at."""

    daemon: Daemon
    endpoint: WebhookEndpoint

    async def hook(self, *events: str, path: str = PATH, url: str = "") -> str:
        """Make a webhook; where it is."""
        body = {"url": url or self.endpoint.url, "events": events or ["notification.relayed"], "secret": SECRET}
        status, answer = await self.daemon.ask("POST", path, body)
        assert status == 201, answer
        return f"{path}/{answer['id']}"

    async def post(self, count: int = 1) -> list[str]:
        """Post notifications; their ids."""
        async with self.daemon.client() as client:
            answers = await asyncio.gather(*(client.post(mail(str(number))) for number in range(count)))
        assert {status for status, _, _ in answers} == {202}
        return [answer["id"] for _, answer, _ in answers]

    async def waiting(self, count: int) -> None:
        """Wait until the metrics say that so many events wait."""
        line = f"notification_gateway_webhook_events_waiting {count}.0\n"
        async with aiohttp.ClientSession() as session, asyncio.timeout(30):
            while True:
                async with session.get(f"http://127.0.0.1:{self.daemon.metrics}/metrics") as answer:
                    if line in await answer.text():
                        return
                await asyncio.sleep(0.2)


def ids(endpoint: WebhookEndpoint) -> Counter[str]:
    """How often each notification was told, by its id."""
    return Counter(json.loads(one.body)["data"]["id"] for one in endpoint.requests)


@pytest.fixture
async def endpoint() -> AsyncIterator[WebhookEndpoint]:
    async with WebhookEndpoint() as made:
        yield made


@pytest.fixture
def hooked(install: Callable[..., Daemon], relay: ScriptedRelay, endpoint: WebhookEndpoint) -> Hooked:
    """Make an installation whose mail goes to the relay, to be started."""
    return Hooked(install(plain(relay.port), webhooks=HERE), endpoint)


@on_both_engines
async def test_what_was_committed_is_told_after_a_kill(hooked: Hooked) -> None:
    """Killed while nobody had been told yet: every notification that was relayed is told by the next life, signed."""
    held = asyncio.Event()
    hooked.endpoint.usual = Reply(held=held)
    await hooked.daemon.start()
    await hooked.hook()
    posted = await hooked.post(30)
    async with hooked.daemon.client() as client:
        for id_ in posted:
            await client.until(id_, "relayed")
    await hooked.daemon.kill()
    before = len(hooked.endpoint.requests)
    held.set()
    hooked.endpoint.usual = Reply()
    await hooked.daemon.start()
    async with asyncio.timeout(100):  # what was under way is leased for a minute where several share a database
        while set(ids(hooked.endpoint)) < set(posted) or len(hooked.endpoint.requests) < before + 30:
            await asyncio.sleep(0.1)
    again = Counter(one.id for one in hooked.endpoint.requests)

    assert set(ids(hooked.endpoint)) == set(posted)
    assert len(again) == 30  # whatever was told twice was told under the same id
    assert sum(again.values()) <= 30 + before
    assert all(one.verify(SECRET)["type"] == "notification.relayed" for one in hooked.endpoint.requests[before:])


@pytest.mark.parametrize("at", ["result.after_commit"])
async def test_killed_right_behind_the_commit(hooked: Hooked, at: str) -> None:
    """Between the commit that ends a notification and the first attempt to tell: the next life tells."""
    await hooked.daemon.start()
    await hooked.hook()
    await hooked.daemon.stop()
    await hooked.daemon.start(environ={"GATEWAY_FAILPOINT": at})
    async with hooked.daemon.client() as client:
        _, answer, _ = await client.post(mail())
    assert await hooked.daemon.wait() != 0
    assert hooked.endpoint.requests == []
    await hooked.daemon.start()
    [told] = await hooked.endpoint.received(1)
    assert told.verify(SECRET)["data"]["id"] == answer["id"]


async def test_a_dead_endpoint_keeps_no_mail_waiting(hooked: Hooked, relay: ScriptedRelay) -> None:
    """Twenty webhooks that never answer: mail goes as it goes without them, and the tenant is answered."""
    hooked.endpoint.usual = Reply(held=asyncio.Event())
    await hooked.daemon.start()
    for _ in range(20):
        await hooked.hook()
    began = time.monotonic()
    posted = await hooked.post(100)
    async with hooked.daemon.client() as client:
        for id_ in posted:
            await client.until(id_, "relayed", seconds=30)
    took = time.monotonic() - began
    assert len(relay.messages) == 100
    assert took < 20
    assert hooked.endpoint.most_at_once <= 16
    assert await hooked.daemon.stop() == 0


async def test_a_stop_does_not_wait_for_an_endpoint(hooked: Hooked) -> None:
    """It is over long before the endpoint would have answered."""
    hooked.endpoint.usual = Reply(held=asyncio.Event())
    await hooked.daemon.start()
    await hooked.hook()
    await hooked.post()
    await hooked.endpoint.received(1)
    began = time.monotonic()
    assert await hooked.daemon.stop() == 0
    assert time.monotonic() - began < 10
    assert "Traceback" not in hooked.daemon.log


async def test_no_part_of_an_address_but_its_host_is_logged(hooked: Hooked) -> None:
    """Neither the path nor the query, which may be secrets; nor the secret."""
    hooked.endpoint.usual = Reply(500)
    await hooked.daemon.start()
    await hooked.hook()
    await hooked.post()
    await hooked.endpoint.received(1)
    await hooked.daemon.stop()
    assert "webhook_failed" in hooked.daemon.log
    assert not any(word in hooked.daemon.log for word in ("t0ken", "/hook", SECRET))


@on_both_engines
async def test_a_deleted_tenant_is_told_of_no_more(hooked: Hooked) -> None:
    """Its webhooks go with it, and what they were still to be told."""
    hooked.endpoint.usual = Reply(503)
    await hooked.daemon.start()
    assert (await hooked.daemon.ask("POST", "/v1/tenants", {"id": "zoo"}))[0] == 201
    await hooked.hook(path="/v1/tenants/zoo/webhooks")
    key = (await hooked.daemon.ask("POST", "/v1/tenants/zoo/keys", {"scopes": ["send", "read"], "mode": "test"}))[1]
    relayed = {"to": ["ann@example.test"], "subject": "s", "text": "t"}
    main = {
        "name": "main", "host": "127.0.0.1", "port": 2525, "security": "none", "from": "a@zoo.example", "is_default": True,
    }  # fmt: skip
    assert (await hooked.daemon.ask("POST", "/v1/tenants/zoo/profiles", main))[0] == 201
    assert (await hooked.daemon.ask("POST", "/v1/notifications", relayed, key["key"]))[0] == 202
    await hooked.endpoint.received(1)
    await hooked.waiting(1)
    assert (await hooked.daemon.ask("DELETE", "/v1/tenants/zoo"))[0] == 204
    assert (await hooked.daemon.ask("POST", "/v1/tenants", {"id": "zoo"}))[0] == 201
    await hooked.hook(path="/v1/tenants/zoo/webhooks")
    hooked.endpoint.usual = Reply()
    count = len(hooked.endpoint.requests)
    await hooked.waiting(0)
    assert len(hooked.endpoint.requests) == count


async def test_parking_is_told_once_and_once_that_it_is_over(
    install: Callable[..., Daemon], relay: ScriptedRelay, endpoint: WebhookEndpoint
) -> None:
    """Though its relay refuses the sign-in twice; after a resume that works the tenant hears of that."""
    auth = 'auth = {username = "app", credential = {source = "stored", key = "relay"}}'
    hooked = Hooked(install(f"{plain(relay.port)}\n{auth}", webhooks=HERE), endpoint)
    await hooked.daemon.start()
    await hooked.hook("profile.parked", "profile.unparked")
    secret = "/v1/tenants/acme/secrets/relay"
    assert (await hooked.daemon.ask("PUT", secret, {"value": "wrong"}))[0] == 201
    [id_] = await hooked.post()
    await endpoint.received(1)
    assert (await hooked.daemon.ask("POST", "/v1/tenants/acme/profiles/main/resume"))[0] == 200
    await relayed_or_parked(hooked.daemon)
    assert (await hooked.daemon.ask("PUT", secret, {"value": "s3cret"}))[0] == 200
    await hooked.daemon.ask("POST", "/v1/tenants/acme/profiles/main/resume")
    async with hooked.daemon.client() as client:
        await client.until(id_, "relayed")
    told = [one.verify(SECRET) for one in await endpoint.received(2)]

    assert [(one["type"], one["data"]["reason"]) for one in told] == [
        ("profile.parked", "auth_failed"), ("profile.unparked", "auth_failed"),
    ]  # fmt: skip
    assert told[0]["data"].keys() == {"tenant", "profile", "reason", "at"}


async def relayed_or_parked(daemon: Daemon) -> None:
    """Wait until the profile stands still again."""
    async with asyncio.timeout(30):
        while True:
            _, queue = await daemon.ask("GET", "/v1/queue")
            if any(line["state"].startswith("parked") for line in queue["items"]):
                return
            await asyncio.sleep(0.05)


async def test_two_daemons_tell_each_event_once(tmp_path: Path, newest: Postgresql, endpoint: WebhookEndpoint) -> None:
    """Whoever relayed it, both look for what is to be told; both tell, and nothing twice."""
    async with cluster(tmp_path, newest, [Lane("main"), Lane("spare"), Lane("third")], size=2, webhooks=HERE) as made:
        await made.start()
        here, there = made.daemons
        hooked = Hooked(here, endpoint)
        await hooked.hook()
        endpoint.usual = Reply(503, {"Retry-After": "5"})
        posted: list[str] = []
        for daemon in (here, there):
            async with daemon.client() as client:
                for number in range(30):
                    _, answer, _ = await client.post(mail(str(number), profile=("main", "spare", "third")[number % 3]))
                    posted.append(answer["id"])
        await made.emptied()
        endpoint.usual = Reply()
        failed = len(endpoint.requests)
        async with asyncio.timeout(60):
            while set(ids(endpoint)) != set(posted) or await made.one("SELECT count(*) FROM webhook_event"):
                await asyncio.sleep(0.1)
        good = Counter(one.id for one in endpoint.requests[failed:])
    assert len(good) >= 60 - failed
    assert set(good.values()) == {1}


async def test_another_daemon_tells_what_a_dead_one_held(
    tmp_path: Path, newest: Postgresql, endpoint: WebhookEndpoint
) -> None:
    """Killed in the middle of a request: the other one makes it again, under the same id, once the lease is over."""
    async with cluster(tmp_path, newest, [Lane("main")], size=2, webhooks=HERE) as made:
        await made.start()
        hooked = Hooked(made.daemons[0], endpoint)
        await hooked.hook()
        endpoint.usual = Reply(held=asyncio.Event())
        await hooked.post()
        await endpoint.received(1)
        endpoint.usual = Reply()
        # Whoever is at it, one of them dies; if it was the other, nothing is lost either.
        await made.daemons[0].kill()
        async with asyncio.timeout(100):
            while await made.one("SELECT count(*) FROM webhook_event"):
                await asyncio.sleep(0.2)
    assert len({one.id for one in endpoint.requests}) == 1
