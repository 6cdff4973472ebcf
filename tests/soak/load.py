"""The load: callers that post, read, repeat, cancel, get it wrong and go away, each at its own moment.

An open loop: what is due is sent whatever the daemon does, and latency counts from the moment at which it was due. Every
202 is written down with its recipients, whose addresses nobody else has, so that each copy can be told at the relay.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

from tests.soak.place import GONE, GREY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.soak.place import Place

TICK: Final = 0.02  # seconds
PATIENCE: Final = 60.0  # seconds for an answer, of a machine on which others work too
MOST_AT_ONCE: Final = 400
POOL: Final = 8  # connections of a caller
BATCH: Final = 10
RECALLED: Final = 2_000  # notifications that are still remembered to be read, repeated or cancelled
ROUTES_THAT_ARE_NOT: Final = ("/v1/{}", "/v1/tenants/{}", "/v1/notifications/{}", "/{}", "/v1/tenants/acme/profiles/{}")


@dataclass(frozen=True, slots=True)
class Promise:
    """A 202: the recipients that were asked for, and what else is known of it."""

    recipients: tuple[str, ...]
    simulated: bool = False
    stuck: bool = False  # by a profile that leads nowhere


@dataclass
class Ledger:
    """What the callers know."""

    promised: dict[str, Promise] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    abandoned: set[str] = field(default_factory=set)  # recipients of requests whose answer nobody waited for
    surprises: Counter[str] = field(default_factory=Counter)  # answers that should not have been
    answers: Counter[str] = field(default_factory=Counter)
    keyed: int = 0
    late: int = 0  # requests that were not sent, because too many were under way
    latencies: list[float] = field(default_factory=list)  # seconds, of single posts, since somebody took them away


@dataclass
class Load:
    """Callers of one daemon. `rate` is notifications a second; nothing is sent outside of `async with`."""

    place: Place
    rate: float
    dice: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    _sessions: dict[str, aiohttp.ClientSession] = field(default_factory=dict)
    _recent: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=RECALLED))  # caller and id
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)
    _serial: int = 0

    async def __aenter__(self) -> Self:
        """Open a session for each key, on kept connections."""
        for name in ("app", "emea", "beta", "metered", "admin"):
            self.add_caller(name, self.place.key(name))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up."""
        for session in self._sessions.values():
            await session.close()

    def add_caller(self, name: str, key: str) -> None:
        """Let there be one key more."""
        self._sessions[name] = self.session(key)

    def session(self, key: str, **more: Any) -> aiohttp.ClientSession:
        """Talk under this key."""
        connector = aiohttp.TCPConnector(limit=POOL, keepalive_timeout=5, **more)
        headers = {"Authorization": f"Bearer {key}"}
        return aiohttp.ClientSession(self.place.daemon.url, headers=headers, connector=connector)

    async def connect(self) -> None:
        """Open all connections that callers may have.

        Each is used in its turn and so kept: pools that grow with every stall, for hours, would look like a leak.
        """
        for name in self._sessions:
            await asyncio.gather(*(self.ask("GET", "/livez", name, 200) for _ in range(POOL)))

    async def run(self) -> None:
        """Send what is due until cancelled; then wait for what is under way."""
        deeds, weights, cost = self._deeds()
        per_second = self.rate * sum(weights) / cost
        began, sent = time.monotonic(), 0
        try:
            while True:
                while (due := began + sent / per_second) <= time.monotonic():
                    sent += 1
                    self._begin(self.dice.choices(deeds, weights)[0], due)
                await asyncio.sleep(max(TICK, due - time.monotonic()))
        finally:
            if self._under_way:
                await asyncio.wait(self._under_way)

    def _deeds(self) -> tuple[list[Callable[[float], Awaitable[None]]], list[float], float]:
        """What is done, how often, and how many notifications all of it together is."""
        table: list[tuple[Callable[[float], Awaitable[None]], float, int]] = [
            (self._single, 45, 1),
            (self._batch, 2, BATCH),
            (self._repeated, 8, 1),
            (self._from_template, 8, 1),
            (self._attached, 3, 1),
            (self._scheduled, 4, 1),
            (self._simulated, 2, 1),
            (self._metered, 2, 1),
            (self._live, 4, 1),
            (self._stuck, 0.5, 1),
            (self._fresh, 3, 1),
            (self._abandon, 0.5, 1),
            (self._dribble, 0.2, 1),
            (self._read, 12, 0),
            (self._list, 2, 0),
            (self._wrong_key, 2, 0),
            (self._nowhere, 3, 0),
            (self._nonsense, 2, 0),
        ]
        deeds, weights, notifications = zip(*table, strict=True)
        return list(deeds), list(weights), sum(w * n for w, n in zip(weights, notifications, strict=True))

    def _begin(self, deed: Callable[[float], Awaitable[None]], due: float) -> None:
        if len(self._under_way) >= MOST_AT_ONCE:
            self.ledger.late += 1
            return
        task = asyncio.ensure_future(self._do(deed, due))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _do(self, deed: Callable[[float], Awaitable[None]], due: float) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await deed(due)
        except (aiohttp.ClientError, OSError) as error:  # a timeout is one
            self.ledger.surprises[f"{deed.__name__}: {type(error).__name__}"] += 1

    # What is sent.

    def word(self) -> str:
        """Give a word that was never said before."""
        return f"{self.dice.getrandbits(48):x}"

    def address(self) -> str:
        """Give one of a few hundred addresses of this machine: what the daemon remembers of each shall be full soon."""
        return f"127.0.{self.dice.randint(1, 8)}.{self.dice.randint(1, 32)}"

    def _recipients(self, count: int = 1) -> list[str]:
        """Addresses that nobody had before; what becomes of a few of them stands in their names."""
        made = []
        for _ in range(count):
            self._serial += 1
            kind = self.dice.choices(("to-", GONE, GREY), (200, 1, 1))[0]
            made.append(f"{kind}{self._serial}@{self.word()}.example.test")
        return made

    def _mail(self, **more: Any) -> dict[str, Any]:
        """A notification like most, with words that were never said before where callers choose them."""
        body = {
            "category": f"soak.{self.word()}" if self.dice.random() < 0.2 else "security.login",
            "severity": self.dice.choice(("info", "info", "info", "warning", "critical")),
            "to": self._recipients(self.dice.choice((1, 1, 1, 2))),
            "subject": f"Soak {self.word()}",
            "text": "A line of some length that stands for what people write.\n" * self.dice.randint(1, 40),
            "metadata": {"order": self.word(), self.word(): "x"},
            "headers": {f"X-{self.word()}": self.word()},
        }
        if self.dice.random() < 0.3:
            body["html"] = f"<p>{body['text']}</p>"
        return {**body, **more}

    async def _post(self, caller: str, body: dict[str, Any], *expected: int, **more: Any) -> tuple[int, dict[str, Any]]:
        status, answer = await self.ask("POST", "/v1/notifications", caller, *(expected or (202,)), json=body, **more)
        if status == 202:
            self._promised(caller, answer["id"], body)
        return status, answer

    async def ask(self, method: str, path: str, caller: str, *expected: int, **more: Any) -> tuple[int, Any]:
        """Ask the API; another status than was expected is written down."""
        session = self._sessions[caller]
        async with session.request(method, path, **more) as response:
            answer = await response.json(content_type=None) if response.content_length else None
            self._answered(method, path, response.status, expected, answer)
            return response.status, answer

    def _answered(self, method: str, path: str, status: int, expected: Sequence[int], answer: Any) -> None:
        self.ledger.answers[f"{status}"] += 1
        if status not in expected:
            code = answer.get("code") if isinstance(answer, dict) else ""
            self.ledger.surprises[f"{method} {path[:24]} {status} {code}"] += 1

    def _promised(self, caller: str, id_: str, body: dict[str, Any], *, simulated: bool = False) -> None:
        self.ledger.promised[id_] = Promise(tuple(body["to"]), simulated, "profile" in body)
        self._recent.append((caller, id_))

    def _caller(self) -> str:
        return self.dice.choice(("app", "app", "emea", "beta"))

    async def _single(self, due: float) -> None:
        await self._post(self._caller(), self._mail())
        self.ledger.latencies.append(time.monotonic() - due)

    async def _batch(self, _: float) -> None:
        caller, bodies = self._caller(), [self._mail() for _ in range(BATCH)]
        _, answer = await self.ask(
            "POST", "/v1/notifications/batch", caller, 200, json={"notifications": [*bodies, {"to": ["nobody"]}]}
        )
        for body, result in zip(bodies, answer["results"], strict=False):
            if result["status"] == 202:
                self._promised(caller, result["id"], body)
            else:
                self.ledger.surprises[f"batch {result['status']} {result['problem']['code']}"] += 1

    async def _repeated(self, _: float) -> None:
        """Once, and once more a moment later or at the same time: one notification."""
        caller, body, headers = self._caller(), self._mail(), {"Idempotency-Key": f"soak-{self.word()}"}
        self.ledger.keyed += 1
        first = asyncio.ensure_future(self._post(caller, body, headers=headers))
        await asyncio.sleep(self.dice.choice((0, 0.5, 2)))
        (_, one), (_, other) = await asyncio.gather(first, self._post(caller, body, headers=headers))
        if one["id"] != other["id"]:
            self.ledger.surprises["a repeated request is another notification"] += 1
        if self.dice.random() < 0.1:
            await self._post(caller, {**body, "subject": "another"}, 422, headers=headers)

    async def _from_template(self, _: float) -> None:
        lines = [self.word() for _ in range(self.dice.randint(0, 20))]
        body = {"to": self._recipients(), "template": "welcome", "data": {"name": self.word(), "lines": lines}}
        await self._post("app", body)

    async def _attached(self, _: float) -> None:
        content = base64.b64encode(self.dice.randbytes(int(10 ** self.dice.uniform(2, 5.7)))).decode()
        attachment = {"filename": f"{self.word()}.pdf", "content_type": "application/pdf", "content": content}
        await self._post(self._caller(), self._mail(html="<p>See below</p>", attachments=[attachment]))

    async def _scheduled(self, _: float) -> None:
        """For a few seconds later; every other one is cancelled before that, or a moment too late."""
        seconds = self.dice.uniform(1, 8)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        caller = self._caller()
        status, accepted = await self._post(caller, self._mail(send_at=at))
        if status == 202 and self.dice.random() < 0.5:
            await asyncio.sleep(self.dice.uniform(0, seconds))
            await self.cancel(caller, accepted["id"])

    async def cancel(self, caller: str, id_: str) -> None:
        """Cancel what is not over yet."""
        status, _ = await self.ask("POST", f"/v1/notifications/{id_}/cancel", caller, 200, 404, 409)
        if status != 409:  # finished mail is forgotten at once here, cancelled mail even before its answer is written
            self.ledger.cancelled.add(id_)

    async def send_for(self, tenant: str) -> None:
        """Post one notification of a tenant that is just there."""
        await self._post("admin", self._mail(tenant=tenant))

    async def _simulated(self, _: float) -> None:
        """With a test key nothing leaves."""
        body = self._mail()
        status, answer = await self.ask("POST", "/v1/notifications", "test", 202, json=body)
        if status == 202:
            self._promised("test", answer["id"], body, simulated=True)

    async def _metered(self, _: float) -> None:
        await self._post("metered", self._mail(), 202, 429)

    async def _live(self, _: float) -> None:
        """By a profile that is edited, paused, lent and tested meanwhile."""
        await self._post("admin", self._mail(tenant="live"))

    async def _stuck(self, _: float) -> None:
        """By a profile that leads nowhere, with the shortest of lives."""
        await self._post("admin", self._mail(tenant="live", profile="scratch", ttl_seconds=60))

    async def _fresh(self, _: float) -> None:
        """On a connection of its own, from an address of its own."""
        body = self._mail()
        async with (
            self.session(self.place.key("beta"), local_addr=(self.address(), 0)) as session,
            session.post("/v1/notifications", json=body) as response,
        ):
            answer = await response.json()
            self._answered("POST", "fresh", response.status, (202,), answer)
            if response.status == 202:
                self._promised("beta", answer["id"], body)

    async def _abandon(self, _: float) -> None:
        """Go away in the middle of the head, of the body, or before the answer; of this nobody is to get a copy.

        If it was accepted after all, and its own recipient refused, a copy would be mail that nobody seems to have sent.
        """
        body = self._mail(severity="info")
        self.ledger.abandoned.update(body["to"])
        octets = self._octets(body)
        _, writer = await asyncio.open_connection("127.0.0.1", self.place.daemon.http)
        writer.write(octets[: self.dice.choice((20, len(octets) // 2, len(octets)))])
        await writer.drain()
        if self.dice.random() < 0.5:
            await asyncio.sleep(self.dice.uniform(0, 0.05))
        writer.transport.abort()

    async def _dribble(self, due: float) -> None:
        """A body that takes some seconds, in pieces."""
        body = self._mail()
        octets = self._octets(body)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.place.daemon.http)
        try:
            for start in range(0, len(octets), max(1, len(octets) // 8)):
                writer.write(octets[start : start + max(1, len(octets) // 8)])
                await writer.drain()
                await asyncio.sleep(0.5)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            self._answered("POST", "dribble", status, (202,), None)
            if status == 202:
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self._promised("app", json.loads(await reader.readexactly(length))["id"], body)
        finally:
            writer.close()

    def _octets(self, body: dict[str, Any]) -> bytes:
        document = json.dumps(body).encode()
        head = (
            f"POST /v1/notifications HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.place.key('app')}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(document)}\r\n\r\n"
        )
        return head.encode() + document

    # What else is asked.

    async def _read(self, _: float) -> None:
        if not self._recent:
            return
        caller, id_ = self.dice.choice(self._recent)
        await self.ask("GET", f"/v1/notifications/{id_}", caller, 200, 404)

    async def _list(self, _: float) -> None:
        query = self.dice.choice((f"category=soak.{self.word()}", "status=deferred", "limit=200", "status=failed"))
        await self.ask("GET", f"/v1/notifications?{query}", self._caller(), 200)

    async def _wrong_key(self, _: float) -> None:
        """A key that does not exist, from an address of its own, or a word that is none."""
        key = self.dice.choice((f"ngw_{self.word()}_{self.word()}", self.word(), f"ngw_{self.word():0>12}_" + "a" * 43))
        async with (
            self.session(key, local_addr=(self.address(), 0)) as session,
            session.get(f"/v1/notifications/{self.word()}") as response,
        ):
            self._answered("GET", "wrong key", response.status, (401, 429), None)

    async def _nowhere(self, _: float) -> None:
        path = self.dice.choice(ROUTES_THAT_ARE_NOT).format(self.word())
        method = self.dice.choice(("GET", "GET", "POST", "DELETE", "PATCH", "PUT"))
        await self.ask(method, path, "app", 403, 404, 405)

    async def _nonsense(self, _: float) -> None:
        """A body that is none, or has everything wrong with it."""
        bodies: tuple[tuple[dict[str, Any], int], ...] = (
            ({"data": b"{" + self.word().encode()}, 415),
            ({"data": b"[" * 50, "headers": {"Content-Type": "application/json"}}, 400),
            ({"json": {self.word(): 1, "to": [self.word()], "subject": "\n", "priority": self.word()}}, 422),
            ({"json": self._mail(tenant=f"t-{self.word()}")}, 404),
            ({"json": self._mail(profile=f"p-{self.word()}")}, 409),
            ({"json": {**self._mail(), "template": self.word(), "subject": None}}, 422),
        )
        more, expected = self.dice.choice(bodies)
        await self.ask("POST", "/v1/notifications", "beta", expected, 422, **more)
