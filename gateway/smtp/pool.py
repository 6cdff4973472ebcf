"""Sessions that wait for the next message of the same profile.

A session is lent out under exactly the key it was opened with: profile (with its tenant), its version, the
fingerprint of the secret, and everything else that decides what the session is. A session that is not fit any more
is dropped, never lent. What lies idle longer than a moment takes its leave; so does one that is old.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from gateway.smtp.transaction import Engine


@dataclass(slots=True, eq=False)
class Session:
    """An engine with its key and its birth, on the loop's clock."""

    engine: Engine
    key: Hashable
    born: float
    idle_since: float = 0.0


@dataclass(slots=True)
class Pool:
    """Idle sessions by key."""

    idle_seconds: float = 15.0
    life_seconds: float = 300.0
    _idle: defaultdict[Hashable, deque[Session]] = field(default_factory=lambda: defaultdict(deque))
    _leaving: dict["asyncio.Task[None]", Session] = field(default_factory=dict)

    def take(self, key: Hashable) -> Session | None:
        """Lend a session of this key, the one used last."""
        now = asyncio.get_running_loop().time()
        waiting = self._idle.get(key)
        while waiting:
            session = waiting.pop()
            if session.engine.usable and self._fresh(session, now):
                return session
            self._leave(session)
        return None

    def give(self, session: Session, *, keep: bool = True) -> None:
        """Take a session back; one that is unusable, unwanted or old is closed."""
        now = asyncio.get_running_loop().time()
        session.idle_since = now
        if keep and session.engine.usable and session.engine.ahead is None and now - session.born < self.life_seconds:
            self._idle[session.key].append(session)
        else:
            self._leave(session)

    def _fresh(self, session: Session, now: float) -> bool:
        return now - session.idle_since < self.idle_seconds and now - session.born < self.life_seconds

    def _leave(self, session: Session) -> None:
        task = asyncio.get_running_loop().create_task(session.engine.quit())
        self._leaving[task] = session
        task.add_done_callback(self._leaving.pop)

    def sweep(self) -> None:
        """Close what has been idle for too long."""
        now = asyncio.get_running_loop().time()
        for key, waiting in list(self._idle.items()):
            while waiting and not (waiting[0].engine.usable and self._fresh(waiting[0], now)):
                self._leave(waiting.popleft())
            if not waiting:
                del self._idle[key]

    def drop(self, owner: Hashable) -> None:
        """Close every idle session whose key begins with this owner (a profile that changed or was parked)."""
        for key in [key for key in self._idle if _of(key, owner)]:
            for session in self._idle.pop(key):
                self._leave(session)

    def leaving(self, owner: Hashable) -> bool:
        """Is a session of this owner idle, or not closed yet?"""
        closing = (session.key for session in self._leaving.values())
        return any(_of(key, owner) for key in (*self._idle, *closing))

    def hang_up(self, owner: Hashable) -> None:
        """Close every session of this owner that idles or takes its leave, at once."""
        self.drop(owner)
        for session in self._leaving.values():
            if _of(session.key, owner):
                session.engine.abort()

    def __len__(self) -> int:
        """How many sessions lie idle."""
        return sum(map(len, self._idle.values()))

    async def close(self) -> None:
        """Close everything and wait until it is closed."""
        for waiting in self._idle.values():
            for session in waiting:
                self._leave(session)
        self._idle.clear()
        if self._leaving:
            await asyncio.wait(self._leaving)


def _of(key: Hashable, owner: Hashable) -> bool:
    return isinstance(key, tuple) and key[:1] == (owner,)
