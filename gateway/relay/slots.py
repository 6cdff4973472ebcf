"""Connections to relays, over all profiles: so many at once, and never all of them for one owner.

Whoever holds a quarter of them already leaves the last quarter to others: a relay that never answers keeps what it was
given for ten minutes, and must not keep everybody's.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """`total` slots; owners who wait are served in turn, past the few who hold too many, whatever number waits."""

    def __init__(self, total: int) -> None:
        """Begin with all of them free."""
        self._free = total
        self._share = max(1, total // 4)
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # by owner, who is next first

    @asynccontextmanager
    async def one(self, owner: str) -> AsyncIterator[None]:
        """Hold a slot for as long as the block lasts."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        self._serve()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
                self._held[owner] -= 1
                if not self._held[owner]:
                    del self._held[owner]
            else:
                turn.cancel()
            self._serve()

    def _serve(self) -> None:
        """Give what is free to those who wait for it and may have it."""
        while self._free > 0:
            owner = next(filter(self._may, self._waiting), None)  # past a handful: each of them holds a quarter
            if owner is None:
                return
            turns = self._waiting[owner]
            turn = turns.popleft()
            self._waiting.move_to_end(owner)
            if not turns:
                del self._waiting[owner]
            if not turn.cancelled():
                self._free -= 1
                self._held[owner] += 1
                turn.set_result(None)

    def _may(self, owner: str) -> bool:
        return self._free > (0 if self._held[owner] < self._share else self._share)
