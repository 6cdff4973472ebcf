"""What there is so much of, shared by owners: connections to relays, and memory for large messages.

Whoever holds a quarter of all leaves the last quarter to others: a relay that never answers keeps what it was given for
ten minutes, and must not keep everybody's.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple


class _Turn(NamedTuple):
    """Somebody waits for so many slots."""

    slots: int
    given: "asyncio.Future[None]"


class Slots:
    """`total` slots; owners who wait are served in turn, past those who hold too many, or want more than is free."""

    def __init__(self, total: int) -> None:
        """Begin with all of them free."""
        self._total = self._free = total
        self._share = max(1, total // 4)
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[_Turn]] = OrderedDict()  # by owner, who is next first

    @asynccontextmanager
    async def one(self, owner: str) -> AsyncIterator[None]:
        """Hold a slot for as long as the block lasts."""
        await self.take(owner)
        try:
            yield
        finally:
            self.give(owner)

    async def take(self, owner: str, slots: int = 1) -> None:
        """Wait for so many slots, to be given back; all there are will do for whoever wants more."""
        turn = _Turn(min(slots, self._total), asyncio.get_running_loop().create_future())
        self._waiting.setdefault(owner, deque()).append(turn)
        self._serve()
        try:
            await turn.given
        except BaseException:
            if turn.given.done() and not turn.given.cancelled():
                self.give(owner, slots)
            else:
                self._forget(owner, turn)
            raise

    def give(self, owner: str, slots: int = 1) -> None:
        """Give back what was taken."""
        slots = min(slots, self._total)
        self._free += slots
        self._held[owner] -= slots
        if not self._held[owner]:
            del self._held[owner]
        self._serve()

    def _forget(self, owner: str, turn: _Turn) -> None:
        """Wait no more."""
        turn.given.cancel()
        turns = self._waiting.get(owner)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[owner]
        self._serve()

    def _serve(self) -> None:
        """Give what is free to those who wait for it and may have it."""
        while (owner := self._next()) is not None:
            turns = self._waiting[owner]
            slots, given = turns.popleft()
            self._waiting.move_to_end(owner)
            if not turns:
                del self._waiting[owner]
            if not given.cancelled():
                self._free -= slots
                self._held[owner] += slots
                given.set_result(None)

    def _next(self) -> str | None:
        """Find who is served next: the first for whom there is enough, and who leaves enough if it holds much."""
        if not self._free:
            return None
        for owner, turns in self._waiting.items():
            kept = self._share if self._held[owner] >= self._share else 0
            if self._free - turns[0].slots >= kept:
                return owner
        return None
