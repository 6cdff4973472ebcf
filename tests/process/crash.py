"""Load that survives a daemon's deaths, and the account that is settled afterwards.

Callers post with idempotency keys and try again after every lost answer, as a careful application would. The relay's
ledger, written before each final reply, is the oracle.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from tests.process.daemon import Daemon, mail

if TYPE_CHECKING:
    from pathlib import Path

CALLERS = 8


@dataclass
class Load:
    """Callers that post until they are told to stop."""

    daemon: Daemon
    body: dict[str, object] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _up: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Post from several callers at once."""
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    def up(self) -> None:
        """The daemon answers again."""
        self._up.set()

    def down(self) -> None:
        """The daemon is dead: wait instead of knocking."""
        self._up.clear()

    def stop(self) -> None:
        """Finish what was begun, and post no more."""
        self._stop.set()
        self._up.set()

    async def _caller(self) -> None:
        while not self._stop.is_set():
            await self._up.wait()
            await self._post(next(self._numbers))

    async def _post(self, number: int) -> None:
        """Post one notification until it is answered, always under the same key."""
        while True:
            await self._up.wait()
            try:
                async with self.daemon.client() as client:
                    status, answer, _ = await client.post({**mail(str(number)), **self.body}, f"crash-{number}")
            except (aiohttp.ClientError, OSError):
                if self.daemon.process is not None and self.daemon.process.returncode is not None:
                    self.down()
                await asyncio.sleep(0)
                continue
            assert status == 202, answer
            self.acknowledged.add(answer["id"])
            return


@dataclass(frozen=True)
class Account:
    """How often each message stands in the relay's ledger."""

    copies: Counter[str]

    @classmethod
    def of(cls, ledger: Path) -> Account:
        """Read the ledger."""
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        return cls(Counter(json.loads(line)["message_id"] for line in lines))

    def missing(self, acknowledged: set[str]) -> set[str]:
        """Which acknowledged notifications never reached the relay?"""
        there = {message_id.strip("<>").partition("@")[0] for message_id in self.copies}
        return acknowledged - there

    @property
    def duplicates(self) -> int:
        """How many copies too many."""
        return sum(count - 1 for count in self.copies.values())


async def settled(daemon: Daemon, acknowledged: set[str], seconds: float = 60) -> None:
    """Wait until every acknowledged notification is relayed."""
    async with daemon.client() as client, asyncio.timeout(seconds):
        for notification_id in acknowledged:
            await client.until(notification_id, "relayed", seconds=seconds)
