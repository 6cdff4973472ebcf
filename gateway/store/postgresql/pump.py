"""One kind of write: everything that arrived while a statement ran goes into the next one.

So a commit is shared by as many as are waiting, and nobody waits for company. While the server is away jobs wait; when
it is back they are carried out *again*, because nobody knows whether they were: each kind knows its own work when it
meets it. Every job is answered, whatever happens.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from gateway.store.postgresql.server import ValueRefused
from gateway.store.protocol import Committing, StoreError, StoreFull, StoreUnavailable

J = TypeVar("J")
Jobs_contra = TypeVar("Jobs_contra", contravariant=True)

LARGEST: Final = 500  # rows a statement
PATIENCE: Final = 10.0  # seconds that a job waits for a server that is away
AGAIN: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Work(Protocol[Jobs_contra]):
    """Carries jobs out in one statement, perhaps not for the first time; answers what came of each."""

    async def __call__(self, jobs: Jobs_contra, /, *, again: bool) -> Sequence[object]:
        """Do them."""


class _Queued(NamedTuple, Generic[J]):
    job: J
    future: "asyncio.Future[Any]"
    deadline: float


class Pump(Generic[J]):
    """Carries jobs out, one statement at a time."""

    def __init__(
        self,
        work: Work[Sequence[J]],
        *,
        patience: float = PATIENCE,
        lasting: Callable[[J], bool] = lambda _job: False,
        breath: float = 0.0,
        size: Callable[[J], int] = lambda _job: 1,
        on_commit: Callable[[float, int], None] = lambda _seconds, _jobs: None,
    ) -> None:
        """`size` is how many rows a job is; jobs that are `lasting` lose their `patience` (seconds) only at the close.

        Statements begin a `breath` (seconds) apart at least, so that more jobs share each; the first of all at once.
        """
        self._work = work
        self._patience = patience
        self._lasting = lasting
        self._breath = breath
        self._began = -math.inf
        self._size = size
        self._on_commit = on_commit
        self._queue: deque[_Queued[J]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing_at = math.inf

    def submit(self, job: J) -> "asyncio.Future[Any]":
        """Have a job done with the next statement."""
        future = Committing(loop=asyncio.get_running_loop())
        if self._closing_at < math.inf:
            future.set_exception(StoreError("the store is closed"))
            return future
        deadline = math.inf if self._lasting(job) else time.monotonic() + self._patience
        self._queue.append(_Queued(job, future, deadline))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return future

    async def close(self) -> None:
        """Finish what was asked for; the last jobs wait for a server that is away only so long."""
        self._closing_at = time.monotonic() + self._patience
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        batch: list[_Queued[J]] = []
        try:
            while self._queue:
                if (early := self._began + self._breath - time.monotonic()) > 0:
                    await asyncio.sleep(early)
                self._began = time.monotonic()
                batch = self._batch()
                await self._carry_out(batch)
        finally:
            self._task = None
            ended = StoreError("the store ended")  # nobody is left here unless this was cancelled
            _fail([queued for queued in (*batch, *self._queue) if not queued.future.done()], ended)
            self._queue.clear()

    def _batch(self) -> list[_Queued[J]]:
        batch = [self._queue.popleft()]
        rows = self._size(batch[0].job)
        while self._queue and rows + self._size(self._queue[0].job) <= LARGEST:
            batch.append(self._queue.popleft())
            rows += self._size(batch[-1].job)
        return batch

    async def _carry_out(self, batch: list[_Queued[J]], *, again: bool = False) -> None:
        attempt = 0
        while batch:
            began = time.perf_counter()
            try:
                results = await self._work([queued.job for queued in batch], again=again)
                answered = list(zip(batch, results, strict=True))
            except ValueRefused as error:
                await self._divide(batch, error, again=again)
                return
            except StoreUnavailable as error:
                again = True
                batch = self._still_patient(batch, error)
                if batch:
                    await asyncio.sleep(AGAIN[min(attempt, len(AGAIN) - 1)])
                    attempt += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                _fail(batch, error)
                return
            else:
                _answer(answered)
                self._on_commit(time.perf_counter() - began, len(batch))
                return

    async def _divide(self, batch: list[_Queued[J]], error: ValueRefused, *, again: bool) -> None:
        """Have it all done except for whoever is to blame."""
        if len(batch) == 1:
            _fail(batch, error)
            return
        middle = len(batch) // 2
        await self._carry_out(batch[:middle], again=again)
        await self._carry_out(batch[middle:], again=again)

    def _still_patient(self, batch: list[_Queued[J]], error: StoreUnavailable) -> list[_Queued[J]]:
        """Fail what has waited long enough, in the queue too; answers what is left of the batch."""
        now = time.monotonic()
        full = isinstance(error, StoreFull)  # waiting makes no room

        def over(queued: _Queued[J]) -> bool:
            return now >= min(queued.deadline, self._closing_at) or (full and not self._lasting(queued.job))

        _fail([queued for queued in (*batch, *self._queue) if over(queued)], error)
        self._queue = deque(queued for queued in self._queue if not over(queued))
        return [queued for queued in batch if not over(queued)]


def _answer(answered: Iterable[tuple[_Queued[Any], object]]) -> None:
    for queued, result in answered:
        if isinstance(result, Exception):
            queued.future.set_exception(result)
        else:
            queued.future.set_result(result)


def _fail(batch: Iterable[_Queued[Any]], error: Exception) -> None:
    for queued in batch:
        queued.future.set_exception(error)
