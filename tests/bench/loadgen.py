"""The load generator: HTTP/1.1 over kept connections, in a process of its own.

Closed loop: every connection sends its next request when the last one is answered. Open loop (`rate`): requests fall
due at a fixed rate whatever the server does, and latency counts from the due time, so a stall is charged to every
request that it delays. Requests are built before the clock starts.

Run as `python -m tests.bench.loadgen LOAD`, where LOAD is a `Load` as JSON; prints an `Answers` as JSON.
"""

import asyncio
import itertools
import json
import selectors
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import uvloop

from tests.bench.figures import quantile

LINE = "The nightly export of order 4711 has finished; the report is attached below.\n"
TEXT = (LINE * 20)[:1536]
HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length: "


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: `requests` requests, each one notification, or a batch of `batch`."""

    port: int
    path: str
    requests: int
    connections: int
    rate: float | None = None
    batch: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back. Times are monotonic seconds, which all processes of a machine share; latencies milliseconds."""

    accepted: int
    began: float
    ended: float
    p50: float
    p99: float
    p999: float
    refused: Mapping[str, int]
    first_refusal: str

    @property
    def per_second(self) -> float:
        """Notifications accepted in a second."""
        return self.accepted / (self.ended - self.began)


def request_bytes(load: Load, number: int) -> bytes:
    """One request as it goes over the wire."""
    notification = {"to": ["ann@example.test"], "subject": f"Export {number} finished", "text": TEXT, **load.extra}
    document = notification if load.batch is None else {"notifications": [notification] * load.batch}
    body = json.dumps(document, separators=(",", ":")).encode()
    headers = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"POST {load.path} HTTP/1.1", *(f"{name}: {value}" for name, value in {**headers, **load.headers}.items())]
    return "\r\n".join(lines).encode() + HEAD_END + body


class Connection(asyncio.Protocol):
    """A kept connection with at most one request under way."""

    def __init__(self, answered: "Callable[[Connection, int, bytes], None]") -> None:
        self._answered = answered
        self._transport: asyncio.Transport
        self._buffer = b""
        self._expected = 0
        self.since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def send(self, request: bytes, since: float) -> None:
        """Send a request whose latency counts from `since`."""
        self.since = since
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._expected:
            self._expected = _length(self._buffer)
        if self._expected and len(self._buffer) >= self._expected:
            answer, self._buffer, self._expected = self._buffer, b"", 0
            self._answered(self, int(answer[9:12]), answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._answered(self, 0, b"the connection was lost")


def _length(data: bytes) -> int:
    """The length of an answer, 0 while its head is not complete."""
    end = data.find(HEAD_END)
    if end < 0:
        return 0
    head = data[:end].lower() + b"\r\n"
    start = head.index(LENGTH) + len(LENGTH)
    return end + len(HEAD_END) + int(head[start : head.index(b"\r\n", start)])


class Run:
    """One load, from the first request to the last answer."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._unsent = self._requests()
        self._latencies: list[float] = []
        self._statuses: Counter[int] = Counter()
        self._batches: list[bytes] = []
        self._first_refusal = b""
        self._idle: deque[Connection] = deque()
        self._late: deque[float] = deque()
        self._open = load.rate is not None
        self._finished = asyncio.Event()
        self._over = False

    def _requests(self) -> Iterator[bytes]:
        """Built beforehand; large batches are all the same, since memory is finite."""
        load = self._load
        if load.batch is not None:
            return itertools.repeat(request_bytes(load, 0), load.requests)
        return iter([request_bytes(load, number) for number in range(load.requests)])

    async def run(self) -> Answers:
        """Send it all; answers when the last answer is there."""
        loop = asyncio.get_running_loop()
        for _ in range(self._load.connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self._answered), "127.0.0.1", self._load.port
            )
            self._idle.append(connection)
        began = time.monotonic()
        if self._load.rate is None:
            for connection in list(self._idle):
                self._send_next(connection, time.monotonic())
        else:
            self._pace(loop, began, 0)
        await self._finished.wait()
        ended = time.monotonic()
        self._over = True
        return self._answers(began, ended)

    def _pace(self, loop: asyncio.AbstractEventLoop, began: float, sent: int) -> None:
        """Send everything that is due by now, and come back when the next is."""
        rate = self._load.rate or 1.0
        while sent < self._load.requests and (due := began + sent / rate) <= time.monotonic():
            if self._idle:
                self._send_next(self._idle.popleft(), due)
            else:
                self._late.append(due)
            sent += 1
        if sent < self._load.requests:
            loop.call_later(began + sent / rate - time.monotonic(), self._pace, loop, began, sent)

    def _send_next(self, connection: Connection, since: float) -> None:
        request = next(self._unsent, None)
        if request is not None:
            connection.send(request, since)

    def _answered(self, connection: Connection, status: int, answer: bytes) -> None:
        if self._over:
            return
        now = time.monotonic()
        self._latencies.append(now - connection.since)
        self._statuses[status] += 1
        if self._load.batch is not None and status == 200:
            self._batches.append(answer)
        elif status != 202 and not self._first_refusal:
            self._first_refusal = answer
        if len(self._latencies) == self._load.requests or status == 0:
            self._finished.set()
        elif not self._open:
            self._send_next(connection, now)
        elif self._late:
            self._send_next(connection, self._late.popleft())
        else:
            self._idle.append(connection)

    def _answers(self, began: float, ended: float) -> Answers:
        ordered = sorted(self._latencies)
        p50, p99, p999 = (quantile(ordered, share) * 1000 for share in (0.5, 0.99, 0.999))
        refused = {str(status): count for status, count in self._statuses.items() if status not in (200, 202)}
        accepted = self._statuses[202] + sum(map(_accepted_in, self._batches))
        return Answers(accepted, began, ended, p50, p99, p999, refused, self._first_refusal.decode()[-400:])


def _accepted_in(answer: bytes) -> int:
    results = json.loads(answer.partition(HEAD_END)[2])["results"]
    return sum(result["status"] == 202 for result in results)


def precise_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers are exact to microseconds, as select(2) has them; those of epoll and libuv have milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    """Read the load from the command line, print the answers."""
    load = Load(**json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if load.rate is None else precise_loop) as runner:
        answers = runner.run(Run(load).run())
    print(json.dumps(asdict(answers)))


if __name__ == "__main__":
    main()
