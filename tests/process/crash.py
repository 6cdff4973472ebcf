"""Load that survives the deaths of daemons, and the account that is settled afterwards.

Callers post with idempotency keys and try again after every lost answer, at any daemon that is up, as a careful
application would. The relay's ledger, written before each final reply, is the oracle.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from tests.process.daemon import Daemon, mail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.process.daemon import Client

CALLERS = 8
KNOCK_AGAIN = 0.05  # seconds; nobody is up, or the daemon asked for patience


@dataclass
class Load:
    """Callers that post until they are told to stop, and only while there is `room`."""

    daemons: Sequence[Daemon]
    body: dict[str, object] = field(default_factory=dict)
    name: str = "crash"
    callers: int = CALLERS
    batch: int = 1
    room: Callable[[int], bool] = lambda _acknowledged: True
    acknowledged: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)  # by 503 with this code, to be tried again
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Post from several callers at once."""
        await asyncio.gather(*(self._caller() for _ in range(self.callers)))

    def stop(self) -> None:
        """Finish what was begun, and post no more."""
        self._stop.set()

    async def _caller(self) -> None:
        while not self._stop.is_set():
            if self.room(len(self.acknowledged)):
                await self._post([next(self._numbers) for _ in range(self.batch)])
            else:
                await asyncio.sleep(KNOCK_AGAIN)

    async def _post(self, numbers: Sequence[int]) -> None:
        """Post until it is accepted, always under the same keys."""
        while True:
            if not (up := [daemon for daemon in self.daemons if daemon.up]):
                await asyncio.sleep(KNOCK_AGAIN)
                continue
            try:
                async with random.choice(up).client() as client:
                    accepted = await (self._one(client, *numbers) if self.batch == 1 else self._many(client, numbers))
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0)
                continue
            if accepted is not None:
                self.acknowledged |= accepted
                return
            await asyncio.sleep(KNOCK_AGAIN)

    def _mail(self, number: int) -> dict[str, object]:
        return {**mail(f"{self.name} {number}"), **self.body}

    async def _one(self, client: Client, number: int) -> set[str] | None:
        """Post a notification; answers its id, None if it is to be tried again."""
        status, answer, _ = await client.post(self._mail(number), f"{self.name}-{number}")
        if status == 503:
            self.refused[answer["code"]] += 1
            return None
        assert status == 202, answer
        return {answer["id"]}

    async def _many(self, client: Client, numbers: Sequence[int]) -> set[str] | None:
        """Post a batch; answers all ids, None if it is to be tried again."""
        batch = [{**self._mail(number), "idempotency_key": f"{self.name}-{number}"} for number in numbers]
        async with client.session.post("/v1/notifications/batch", json={"notifications": batch}) as response:
            answer = await response.json()
            if response.status == 503:
                self.refused[answer["code"]] += 1
                return None
        assert response.status == 200, answer
        assert {result["status"] for result in answer["results"]} == {202}, answer
        return {result["id"] for result in answer["results"]}


@dataclass(frozen=True)
class Account:
    """How often each message stands in the ledgers of the relays."""

    copies: Counter[str]

    @classmethod
    def of(cls, *ledgers: Path) -> Account:
        """Read the ledgers."""
        lines = [line for ledger in ledgers if ledger.exists() for line in ledger.read_text().splitlines()]
        return cls(Counter(json.loads(line)["message_id"] for line in lines))

    def missing(self, acknowledged: set[str]) -> set[str]:
        """Which acknowledged notifications never reached a relay?"""
        there = {message_id.strip("<>").partition("@")[0] for message_id in self.copies}
        return acknowledged - there

    @property
    def duplicates(self) -> int:
        """How many copies too many."""
        return sum(count - 1 for count in self.copies.values())


async def settled(daemon: Daemon, acknowledged: set[str], seconds: float = 60) -> None:
    """Wait until nothing is left to do, and see that every acknowledged notification is relayed."""
    async with asyncio.timeout(seconds):
        while any(line["ready"] or line["deferred"] for line in (await daemon.ask("GET", "/v1/queue"))[1]["items"]):
            await asyncio.sleep(0.05)
    relayed: set[str] = set()
    path = listing = "/v1/notifications?limit=200&status=relayed"
    while path:
        _, page = await daemon.ask("GET", path)
        relayed |= {shown["id"] for shown in page["items"]}
        path = f"{listing}&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert acknowledged <= relayed
