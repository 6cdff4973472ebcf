"""Connections to relays, over all profiles: so many at once, and never all of them for one owner.

Whoever holds a quarter of them already leaves the last quarter to others: a relay that never answers keeps what it was
given for ten minutes, and must not keep everybody's.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """`total` slots; those who wait are served in turn, past those who hold too many."""

    def __init__(self, total: int) -> None:
        """Begin with all of them free."""
        self._free = total
        self._share = max(1, total // 4)
        self._held: Counter[str] = Counter()
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def one(self, owner: str) -> AsyncIterator[None]:
        """Hold a slot for as long as the block lasts."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, turn))
        self._serve()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
                self._held[owner] -= 1
            else:
                turn.cancel()
            self._serve()

    def _serve(self) -> None:
        """Give what is free to those who wait for it and may have it."""
        for _ in range(len(self._waiting)):
            owner, turn = self._waiting.popleft()
            if turn.cancelled():
                continue
            if self._may(owner):
                self._free -= 1
                self._held[owner] += 1
                turn.set_result(None)
            else:
                self._waiting.append((owner, turn))

    def _may(self, owner: str) -> bool:
        return self._free > (0 if self._held[owner] < self._share else self._share)
