"""Rows as values: what goes into the store and what comes out of it.

Times are milliseconds since the epoch. `recipients`, `events`, `envelope` and `content` are text that the outbox
writes and reads, as `body` and `changes` are the directory's; the store keeps them and looks at none of it. `told` is a
JSON array of webhook events, each an array of a `WebhookEvent`'s fields in their order: they are inserted in the very
commit that writes what they tell of, or not at all.

A notification row is in one of four stages:

    READY ──claim──▶ LEASED ──settle──▶ READY | RESTING | FINAL
      ▲                │
      └─lease expired──┘            READY, RESTING ──cancel, expire, retry──▶ FINAL | READY

READY has `due_at` and is claimed once that has come. LEASED belongs to whoever holds `lease_token`; nobody else may
write its result. RESTING waits for a person (an outcome nobody knows, held). FINAL never changes but by `retry`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum, StrEnum
from typing import Any, Final, NamedTuple

LIGHT: Final = 1 << 16  # octets of content that come along with a claim; what is larger is read when its turn comes
BROUGHT: Final = 1 << 20  # octets of content after which a claim brings no more


class Stage(IntEnum):
    """Where a notification row stands; the drawing is in the module's docstring."""

    READY = 0
    LEASED = 1
    RESTING = 2
    FINAL = 3


class Flow(NamedTuple):
    """Mail of one tenant for one named profile ("" is the tenant's default): what fairness and routing go by."""

    tenant: str
    profile: str


class Idempotency(NamedTuple):
    """A caller's promise that the same key means the same request."""

    key: str
    sha256: bytes
    forget_at: int


class NewRow(NamedTuple):
    """An accepted notification on its way to stable storage. `content` is None if nothing will need it.

    `id` begins with `accepted_at` in 12 hex digits, by which lists find their time.
    `per_minute` is how many its tenant may send (None: any number); a store that is one daemon's alone does not look.
    """

    id: str
    flow: Flow
    category: str
    key_id: str
    priority: int
    due_at: int
    expires_at: int
    accepted_at: int
    recipients: str
    envelope: str
    content: str | None
    answer: str
    stage: Stage = Stage.READY
    status: str = "queued"
    idempotency: Idempotency | None = None
    per_minute: int | None = None
    told: str | None = None


@dataclass(frozen=True, slots=True)
class Inserted:
    """The row is on stable storage."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The idempotency key was used for the same request; `answer` is what was answered then."""

    answer: str


@dataclass(frozen=True, slots=True)
class Mismatched:
    """The idempotency key was used for another request."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The API key is revoked or the tenant deleted, which this daemon may not know yet; `what` is "key" or "tenant"."""

    what: str


@dataclass(frozen=True, slots=True)
class Limited:
    """The tenant has spent its rate, over all daemons; one more is allowed after `wait` (ms)."""

    wait: int


Acceptance = Inserted | Replayed | Mismatched | Withdrawn | Limited


@dataclass(frozen=True, slots=True)
class Claim:
    """A wish for due rows of one flow, at most `limit` of them, with about `max_bytes` of content that comes along."""

    flow: Flow
    limit: int
    now: int
    lease_until: int
    max_bytes: int = BROUGHT


class LeasedRow(NamedTuple):
    """A row under our lease: nobody else delivers it until `lease_until`.

    Of its content's `size` in octets nothing has come along if that is more than `LIGHT`.
    """

    seq: int
    id: str
    flow: Flow
    category: str
    priority: int
    due_at: int
    expires_at: int
    accepted_at: int
    recipients: str
    envelope: str
    content: str | None
    lease_token: int
    cancelled: bool
    status: str
    dotted_for: str | None = None
    size: int = 0


def leased(columns: Sequence[Any]) -> LeasedRow:
    """Make a leased row of its columns as the engines read them, the flow in two."""
    (
        seq, id_, tenant, profile, category, priority, due_at, expires_at, accepted_at, recipients, envelope, body,
        token, cancelled, status, dotted_for, size,
    ) = columns  # fmt: skip
    return LeasedRow(
        seq, id_, Flow(tenant, profile), category, priority, due_at, expires_at, accepted_at, recipients, envelope,
        body, token, bool(cancelled), status, dotted_for, size,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim brought, and when the flow's next row falls due (None: it has no more)."""

    rows: list[LeasedRow]
    next_due_at: int | None


class Settlement(NamedTuple):
    """The result of one delivery; written only if the row is still under `lease_token`."""

    seq: int
    lease_token: int
    stage: Stage
    status: str
    due_at: int
    finished_at: int | None
    recipients: str
    events: str
    erase: bool
    told: str | None = None


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A whole notification row, as read for an answer."""

    seq: int
    id: str
    flow: Flow
    category: str
    key_id: str
    priority: int
    stage: Stage
    status: str
    due_at: int
    expires_at: int
    accepted_at: int
    finished_at: int | None
    lease_token: int | None
    cancelled: bool
    recipients: str
    events: str
    envelope: str
    content: str | None = field(default=None, repr=False)


def stored(columns: Sequence[Any]) -> StoredRow:
    """Make a whole row of its columns as the engines read them, the flow in two; the body, or whether there is one."""
    (
        seq, id_, tenant, profile, category, key_id, priority, stage, status, due_at, expires_at, accepted_at,
        finished_at, lease_token, cancelled, recipients, events, envelope, body,
    ) = columns  # fmt: skip
    return StoredRow(
        seq, id_, Flow(tenant, profile), category, key_id, priority, Stage(stage), status, due_at, expires_at,
        accepted_at, finished_at, lease_token, bool(cancelled), recipients, events, envelope,
        body if isinstance(body, str) else ("" if body else None),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """A row as it shall be, provided that its stage and recipients are still as they were read.

    And that the API key `key_id`, if a caller asked for it with one, is not revoked.
    """

    before: StoredRow
    stage: Stage
    status: str
    due_at: int
    expires_at: int
    finished_at: int | None
    recipients: str
    events: str
    cancelled: bool = False
    erase: bool = False
    key_id: str | None = None
    told: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of notifications, newest first; None means: any."""

    tenants: tuple[str, ...] | None
    limit: int
    before_id: str | None = None
    key_id: str | None = None
    category: str | None = None
    since: int | None = None
    until: int | None = None


def first_id(accepted_at: int) -> str:
    """Begin as the ids of that time do: what was accepted before (ms) has a lesser id, what was then or later a greater."""
    return f"{max(accepted_at, 0):012x}"


class FlowBacklog(NamedTuple):
    """A flow that has ready rows, and when the first falls due."""

    flow: Flow
    next_due_at: int


class FlowDepth(NamedTuple):
    """What one flow has that is not final: rows, how many were put off, or rest till somebody decides; since when."""

    flow: Flow
    waiting: int
    deferred: int
    resting: int
    oldest_at: int


class Wait(StrEnum):
    """How a notification that is not final waits: to be sent now, or later, put off, claimed, or left to a person."""

    READY = "ready"
    SCHEDULED = "scheduled"
    DEFERRED = "deferred"
    LEASED = "leased"
    RESTING = "resting"


class FlowCensus(NamedTuple):
    """How many rows of one flow wait so, when the oldest of them was accepted, and when the first falls due."""

    flow: Flow
    wait: Wait
    rows: int
    oldest_at: int
    due_at: int


class WebhookEvent(NamedTuple):
    """Something that a tenant's webhook shall be told, the first time at `due_at`, and not after `expires_at`."""

    id: str
    tenant: str
    webhook: str
    due_at: int
    expires_at: int
    body: str
    traceparent: str | None = None


class EventWish(NamedTuple):
    """A wish for due events of one webhook, at most `most` of them."""

    tenant: str
    webhook: str
    most: int


class LeasedEvent(NamedTuple):
    """An event in our hands, until the time at which it falls due again; `attempts` were made before."""

    id: str
    tenant: str
    webhook: str
    expires_at: int
    attempts: int
    lease_token: int
    body: str
    traceparent: str | None


class EventResult(NamedTuple):
    """What becomes of an event under its lease: it is due again at `due_at`, or over (None)."""

    id: str
    lease_token: int
    due_at: int | None
    attempts: int


class EventsDue(NamedTuple):
    """A webhook that has events, and when the first falls due."""

    tenant: str
    webhook: str
    due_at: int


class EventBacklog(NamedTuple):
    """A webhook that has events: how many, when the first falls due, which ends first, and the octets of all bodies."""

    tenant: str
    webhook: str
    waiting: int
    due_at: int
    expires_at: int
    octets: int


class StoreHealth(NamedTuple):
    """How a store is: bytes of the database, of its log, free on its disk, and below which nothing is accepted.

    None where only its server knows. `backed_up_at` is when the last copy was made here that somebody has whole.
    """

    schema: int
    size: int | None
    log: int | None = None
    free: int | None = None
    floor: int | None = None
    backed_up_at: int | None = None


class Entry(NamedTuple):
    """One directory object as stored: `kind` tenant, profile, link, preferences or key; `body` is JSON."""

    kind: str
    tenant: str
    name: str
    body: str
    origin: str


class News(NamedTuple):
    """What became of the directory up to `revision`: `whole` if `put` is all there is, and not only what is new."""

    revision: int
    put: list[Entry]
    drop: list[Entry]
    whole: bool = False


Place = tuple[str, str]
"""Whose profile a lane belongs to, and the profile's name."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a daemon learns when it beats: `alive` are the ids of all that live, in order, `me` its own among them.

    `reborn`: it had been given up for dead and is a new one now; whatever it held is others'. `others` tells how
    lanes stand that are not in order, `resumes` how often a person let each of them go on.
    """

    me: int
    alive: tuple[int, ...]
    revision: int
    reborn: bool
    others: dict[Place, str]
    resumes: dict[Place, int]


class DaemonRow(NamedTuple):
    """A daemon that lives: the name of its machine, since when, how many lanes it has, and whether it is this one.

    One of a version that did not tell has no `host`, and perhaps no `began_at` (ms). A `retiring` one takes no lanes.
    """

    host: str | None
    began_at: int | None
    lanes: int
    retiring: bool
    here: bool


class SignIn(NamedTuple):
    """A `tenant` signs in at a relay; what that locks is the account (`host`, `user_hash`), whoever tries it."""

    host: str
    user_hash: str
    tenant: str


class Permission(Enum):
    """May a login be tried? LATER: others are at it, and what they are told decides."""

    GIVEN = "given"
    LATER = "later"
    REFUSED = "refused"


class Ending(Enum):
    """What came of a login. UNTRIED: the relay never saw it, or what it said tells nothing about it."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNTRIED = "untried"


class SessionKind(StrEnum):
    """What a token of the pages is good for: a session until it ends, a link to sign in once."""

    SESSION = "session"
    LINK = "link"


class SessionRow(NamedTuple):
    """One sign-in of a person to the pages, or the promise of one; only the token's hash is known.

    `token_sha256` has 32 octets. `who` is whose it is: "key:<id>", "oidc:<subject>" or "socket"; `name` is what that
    person is called on the page. It is over at `ends_at` in any case.
    """

    token_sha256: bytes
    kind: SessionKind
    who: str
    name: str
    began_at: int
    used_at: int
    ends_at: int


def session(columns: Sequence[Any]) -> SessionRow:
    """Make a session of its columns as the engines read them."""
    token_sha256, kind, *rest = columns
    return SessionRow(token_sha256, SessionKind(kind), *rest)


class Happening(NamedTuple):
    """What the audit log shall tell of a change: `tenant` is whose log it is, `changes` JSON."""

    tenant: str
    actor: str
    actor_tenant: str
    action: str
    object: str
    changes: str


class AuditRow(NamedTuple):
    """A row of a tenant's audit log: `number` counts from 1 within the tenant, `hash` is 32 bytes (see `audit`)."""

    tenant: str
    number: int
    at: int
    actor: str
    actor_tenant: str
    action: str
    object: str
    changes: str
    hash: bytes
