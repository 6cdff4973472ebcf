"""One request in progress, what it works with, who makes it, and what is answered.

`Services` is made once by the composition root and shared by all listeners; the mail catcher in it is named by what
is asked of it, so that neither knows the other. A `Call` is made for a request once its caller is known; a handler
takes it and returns an `Answer`, or raises a `Problem`. What is asked came over the wire as it stands, or is a page's
own question on behalf of a person (`inside`); handlers cannot tell.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.credentials.credentials import Credentials
from gateway.directory.directory import Directory
from gateway.directory.shapes import Profile, Webhook
from gateway.directory.snapshot import Snapshot
from gateway.http.admission import Admission
from gateway.http.faults import NoQuery, S, parse, parse_query
from gateway.observe import tracing
from gateway.outbox.outbox import Outbox
from gateway.problems import Code, Problem
from gateway.settings import Settings
from gateway.smtp.probe import Report, Step, Trial
from gateway.store.protocol import Store
from gateway.store.rows import Flow, StoredRow

Headers = CIMultiDictProxy[str] | CIMultiDict[str]
Query = Sequence[tuple[str, str]]

JSON_HEADERS: Final[Mapping[str, str]] = {"Content-Type": "application/json", "Cache-Control": "no-store"}
SCOPES: Final = frozenset({"send", "read", "profiles", "secrets", "admin"})


class CaughtMail(Protocol):
    """A message that the development mail catcher took. `received_at` is in milliseconds since the epoch."""

    @property
    def number(self) -> int:
        """Its number, counted from 1."""

    @property
    def received_at(self) -> int:
        """When it came."""

    @property
    def sender(self) -> str:
        """The envelope's sender."""

    @property
    def recipients(self) -> Sequence[str]:
        """The envelope's recipients."""

    @property
    def data(self) -> bytes:
        """The message as it came."""


class Catcher(Protocol):
    """The development mail catcher, as the pages see it."""

    def messages(self) -> Sequence[CaughtMail]:
        """What was caught and is still kept, newest first."""


class Tried(Protocol):
    """What came of telling a webhook something."""

    @property
    def ok(self) -> bool:
        """Did it take it?"""

    @property
    def result(self) -> StrEnum:
        """What came of it, in one word."""

    @property
    def status(self) -> int | None:
        """What it answered, if it did."""

    @property
    def milliseconds(self) -> int:
        """How long that took."""


class Pages(Protocol):
    """The web pages, as the listener sees them."""

    def own(self, path: str) -> bool:
        """Is this raw path theirs?"""

    async def answer(self, request: web.BaseRequest, request_id: str) -> "Answer":
        """Answer a request for one of their paths, whatever happens on the way."""


RelayLook = tuple[str, int, str, float | None]
"""A relay (host, port) as one profile's lane sees it: the lane's state, and how many seconds ago it was in order."""

Test = Callable[[Profile, Trial, Callable[[Step], None]], Awaitable[Report]]
"""Sends a test message by a profile; told each phase as it passes."""


async def untested(_profile: Profile, _trial: Trial, _tell: Callable[[Step], None]) -> Report:
    """Test nothing, where nothing is sent."""
    return Report(())


async def untold(_webhook: Webhook) -> Tried:
    """Tell nobody, where nobody is told anything."""
    raise Problem(Code.UNAVAILABLE)


async def _nothing(*_: object) -> None:
    """Do nothing, where nothing stands still and nobody else works."""


@dataclass(frozen=True, slots=True)
class Services:
    """All that the HTTP layer works with.

    `held` tells whether mail of a flow waits for somebody to act; `reasons` why the daemon is not ready (empty: it
    is); `states` how each profile in use stands, `relays` how their relays do; `restart_needed` names the settings that
    wait for a restart; `resume` lets a profile (owner, name) go on that stood still. `lags`
    tells whether another daemon may have changed something of which this one has not heard for too long, and `catch_up`
    hears of it. The hooks are told: an answer (route, status, seconds), an unexpected failure (request id, error), and
    an API key that was refused (client address).
    """

    settings: Settings
    directory: Directory
    outbox: Outbox
    store: Store
    credentials: Credentials
    held: Callable[[Flow], bool] = lambda _flow: False
    reasons: Callable[[], list[str]] = list
    states: Callable[[], dict[tuple[str, str], str]] = dict
    relays: Callable[[], Iterable[RelayLook]] = tuple
    restart_needed: Sequence[str] = ()
    resume: Callable[[tuple[str, str]], Awaitable[None]] = _nothing
    lags: Callable[[], bool] = lambda: False
    catch_up: Callable[[], Awaitable[None]] = _nothing
    test: Test = untested
    test_webhook: Callable[[Webhook], Awaitable[Tried]] = untold
    catcher: Catcher | None = None
    on_answer: Callable[[str, int, float], None] = lambda _route, _status, _seconds: None
    on_failure: Callable[[str, BaseException], None] = lambda _request_id, _error: None
    on_refused: Callable[[str], None] = lambda _address: None  # "" once the log has told of it often enough
    admission: Admission = field(default_factory=Admission)
    last_used: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a tenant's API key, or a person without one, whom the audit calls by `name`."""

    tenant: str
    scopes: frozenset[str]
    key_id: str
    simulated: bool = False
    name: str = ""

    def may(self, scope: str) -> bool:
        """Does the caller hold this scope? `admin` holds them all."""
        return scope in self.scopes or "admin" in self.scopes


SOCKET_CALLER: Final = Caller("system", SCOPES, "socket", name="socket")


@dataclass(slots=True)
class Call:
    """A request whose caller is known, on the snapshot that answers it.

    `request` is what is on the wire. What is asked (method, headers, query, body) is its, or what a page asks instead.
    """

    request: web.BaseRequest
    services: Services
    snapshot: Snapshot
    caller: Caller
    params: Mapping[str, str]
    request_id: str
    method: str
    headers: Headers
    asked: Query = ()
    body: bytes = b""
    row: StoredRow | None = None
    span: tracing.Span | None = None

    def parsed(self, shape: type[S]) -> S:
        """Give the body as a value. Raises a problem with all its faults."""
        return parse(shape, self.body)

    def query(self, shape: type[S]) -> S:
        """Give the query as a value. Raises a problem with all its faults."""
        return parse_query(shape, self.asked)

    def no_query(self) -> None:
        """Refuse a query where there is nothing to ask."""
        if self.asked:
            parse_query(NoQuery, self.asked)

    def within_reach(self, tenant: str) -> None:
        """Raise `not_found` for a tenant that is not there, and likewise for one outside the caller's reach."""
        if not self.snapshot.within(tenant, self.caller.tenant):
            raise Problem(Code.NOT_FOUND)

    @property
    def traceparent(self) -> str | None:
        """The trace of what is accepted here: our own span in it while one is recorded, else what the caller sent."""
        return tracing.given(self.headers) if self.span is None else self.span.traceparent

    @property
    def now(self) -> int:
        """Milliseconds since the epoch."""
        return self.services.outbox.clock()


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON_HEADERS)


def json_answer(document: object, status: int = 200, **headers: str) -> Answer:
    """Answer a JSON document; names of extra headers are given with underscores."""
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps(document, separators=(",", ":")).encode(), {**JSON_HEADERS, **extra})
