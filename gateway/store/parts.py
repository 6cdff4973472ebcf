"""What an installation's rows are, read alike on SQLite and on PostgreSQL.

A part is rows of one kind. On both engines it is read in pages, in the order of its key, with which each row begins;
what is read is equal if and only if what is stored is. Leases are told only of rows that are not final, and a final
dot only of rows whose outcome nobody knows. Nothing here reads or writes: this is what is said to the engines.
"""

from dataclasses import dataclass
from typing import Final

from gateway.store.sqlite.group import Value

Row = tuple[Value, ...]
Key = tuple[Value, ...]

PAGE_ROWS: Final = 1_000
PAGE_CHARACTERS: Final = 8 << 20  # of text; a page has one row at least
_LEAST: Final = -1 << 63


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of rows: how they are read here and there, and how a page of them is written.

    `key` names the first columns; `first` is below all keys. `columns` are the page's arrays as `unnest` takes them.
    `insert` writes what stands in `given`, as one or several parts of a WITH.
    """

    name: str
    key: str
    first: Key
    embedded: str
    shared: str
    columns: str
    insert: str

    def read_embedded(self) -> str:
        """Read a page on SQLite: what comes after a key, up to a number of rows."""
        return f"{self.embedded} WHERE ({self.key}) > ({', '.join('?' * len(self.first))}) ORDER BY {self.key} LIMIT ?"

    def read_shared(self) -> str:
        """Read on PostgreSQL what comes after a key, up to and including another."""
        width = len(self.first)
        after, last = _numbered(1, width), _numbered(1 + width, width)
        return f"{self.shared} WHERE ({self.key}) > ({after}) AND ({self.key}) <= ({last}) ORDER BY {self.key}"

    def write_shared(self) -> str:
        """Write a page on PostgreSQL, and in the same transaction how far the move is by then."""
        types = [column.split()[1] for column in self.columns.split(", ")]
        names = ", ".join(column.split()[0] for column in self.columns.split(", "))
        arrays = ", ".join(f"${number}::{type_}[]" for number, type_ in enumerate(types, 1))
        return (
            f"WITH given AS MATERIALIZED (SELECT * FROM unnest({arrays}) AS g({names})), {self.insert}"
            f" UPDATE meta SET value = ${len(types) + 1} WHERE name = 'move_progress'"
        )


def _numbered(first: int, count: int) -> str:
    return ", ".join(f"${number}" for number in range(first, first + count))


_TOLD: Final = (
    "n.status, n.due_at, n.expires_at, n.accepted_at, n.finished_at, {cancelled}, n.recipients, n.events, n.envelope"
)
NOTIFICATIONS: Final = Part(
    name="notifications",
    key="n.seq",
    first=(_LEAST,),
    embedded=(
        "SELECT n.seq, n.id, n.tenant, n.profile, n.category, n.key_id, n.priority, n.stage,"
        f" {_TOLD.format(cancelled='n.cancelled')},"
        " iif(n.stage < 3, n.lease_token, NULL), iif(n.stage < 3, n.lease_until, NULL),"
        " iif(n.stage = 1 AND n.dotted, coalesce(n.dotted_for, ''), NULL), c.body"
        " FROM notification n LEFT JOIN content c USING (seq)"
    ),
    shared=(
        "SELECT n.seq, n.id, n.tenant, n.profile, n.category, n.key_id, n.priority, coalesce(q.stage, 3),"
        f" {_TOLD.format(cancelled='n.cancelled::integer')}, q.lease_token, q.lease_until, q.dotted_for, c.body"
        " FROM notification n LEFT JOIN queue q ON q.seq = n.seq LEFT JOIN content c ON c.seq = n.seq"
    ),
    columns=(
        "seq bigint, id text, tenant text, profile text, category text, key_id text, priority smallint, stage smallint,"
        " status text, due_at bigint, expires_at bigint, accepted_at bigint, finished_at bigint, cancelled smallint,"
        " recipients text, events text, envelope text, lease_token bigint, lease_until bigint, dotted_for text, body text"
    ),
    insert="""
noted AS (
  INSERT INTO notification (seq, id, tenant, profile, category, key_id, priority, status, due_at, expires_at,
                            accepted_at, finished_at, cancelled, recipients, events, envelope)
  SELECT seq, id, tenant, profile, category, key_id, priority, status, due_at, expires_at, accepted_at, finished_at,
         cancelled <> 0, recipients, events, envelope FROM given
), queued AS (
  INSERT INTO queue (seq, tenant, profile, priority, stage, deferred, due_at, expires_at, accepted_at, lease_token,
                     lease_until, dotted_for)
  SELECT seq, tenant, profile, priority, stage, status = 'deferred', due_at, expires_at, accepted_at, lease_token,
         lease_until, dotted_for FROM given WHERE stage < 3
), kept AS (
  INSERT INTO content SELECT seq, body FROM given WHERE body IS NOT NULL
)""",
)

_KEYS: Final = "SELECT tenant, key, sha256, answer, forget_at FROM idempotency"
IDEMPOTENCY: Final = Part(
    name="idempotency keys",
    key="tenant, key",
    first=("", ""),
    embedded=_KEYS,
    shared=_KEYS,
    columns="tenant text, key text, sha256 bytea, answer text, forget_at bigint",
    insert="kept AS (INSERT INTO idempotency SELECT * FROM given)",
)

_ENTRIES: Final = "SELECT kind, tenant, name, body, origin FROM directory"
DIRECTORY: Final = Part(
    name="directory entries",
    key="kind, tenant, name",
    first=("", "", ""),
    embedded=_ENTRIES,
    shared=_ENTRIES,
    columns="kind text, tenant text, name text, body text, origin text",
    insert="""
made AS (
  INSERT INTO directory (kind, tenant, name, body, origin, revision)
  SELECT g.*, m.value::bigint FROM given g, meta m WHERE m.name = 'directory_revision'
)""",
)

_HAPPENED: Final = "SELECT tenant, number, at, actor, actor_tenant, action, object, changes, hash FROM audit"
AUDIT: Final = Part(
    name="audit rows",
    key="tenant, number",
    first=("", _LEAST),
    embedded=_HAPPENED,
    shared=_HAPPENED,
    columns=(
        "tenant text, number bigint, at bigint, actor text, actor_tenant text, action text, object text, changes text,"
        " hash bytea"
    ),
    # The log only grows, and nothing is ever taken out of it: what is there already need not come again.
    insert="""
logged AS (
  INSERT INTO audit SELECT * FROM given g
   WHERE NOT EXISTS (SELECT FROM audit a WHERE a.tenant = g.tenant AND a.number = g.number) ORDER BY tenant, number
)""",
)

_REFUSED: Final = "SELECT ticket, host, user_hash, tenant, forget_at FROM refused_login"
REFUSED: Final = Part(
    name="refused sign-ins",
    key="ticket",
    first=(_LEAST,),
    embedded=_REFUSED,
    shared=_REFUSED,
    columns="ticket bigint, host text, user_hash text, tenant text, forget_at bigint",
    insert="kept AS (INSERT INTO refused_login (ticket, host, user_hash, tenant, forget_at) SELECT * FROM given)",
)

_SIGNED_IN: Final = "SELECT host, user_hash, tenant FROM signed_in"
SIGNED_IN: Final = Part(
    name="accounts signed in to",
    key="host, user_hash, tenant",
    first=("", "", ""),
    embedded=_SIGNED_IN,
    shared=_SIGNED_IN,
    columns="host text, user_hash text, tenant text",
    insert="kept AS (INSERT INTO signed_in SELECT * FROM given)",
)

_EVENTS: Final = "SELECT id, tenant, webhook, due_at, expires_at, attempts, body, traceparent FROM webhook_event"
EVENTS: Final = Part(
    name="webhook events",
    key="id",
    first=("",),
    embedded=_EVENTS,
    shared=_EVENTS,
    columns=(
        "id text, tenant text, webhook text, due_at bigint, expires_at bigint, attempts integer, body text,"
        " traceparent text"
    ),
    insert="""
kept AS (
  INSERT INTO webhook_event (id, tenant, webhook, due_at, expires_at, attempts, body, traceparent) SELECT * FROM given
)""",
)

PARTS: Final = (NOTIFICATIONS, IDEMPOTENCY, DIRECTORY, AUDIT, REFUSED, SIGNED_IN, EVENTS)

# The same names on both engines. On PostgreSQL a row stands in `queue` besides, and has to say the same there.
COUNTS_EMBEDDED: Final = """
SELECT 'notifications', count(*) FROM notification
UNION ALL SELECT 'queued', count(*) FROM notification WHERE stage < 3
UNION ALL SELECT 'ready', count(*) FROM notification WHERE stage = 0
UNION ALL SELECT 'leased', count(*) FROM notification WHERE stage = 1
UNION ALL SELECT 'resting', count(*) FROM notification WHERE stage = 2
UNION ALL SELECT 'contents', count(*) FROM notification JOIN content USING (seq)
UNION ALL SELECT 'idempotency keys', count(*) FROM idempotency
UNION ALL SELECT 'directory entries', count(*) FROM directory
UNION ALL SELECT 'directory revision', coalesce(max(value), 0) + 0 FROM meta WHERE name = 'directory_revision'
UNION ALL SELECT 'audit rows', count(*) FROM audit
UNION ALL SELECT 'refused sign-ins', count(*) FROM refused_login
UNION ALL SELECT 'accounts signed in to', count(*) FROM signed_in
UNION ALL SELECT 'webhook events', count(*) FROM webhook_event"""
COUNTS_SHARED: Final = """
SELECT 'notifications', count(*) FROM notification
UNION ALL SELECT 'queued', count(*) FROM queue q JOIN notification n ON n.seq = q.seq AND n.finished_at IS NULL
  AND (q.tenant, q.profile, q.priority, q.deferred, q.due_at, q.expires_at, q.accepted_at)
    = (n.tenant, n.profile, n.priority, n.status = 'deferred', n.due_at, n.expires_at, n.accepted_at)
UNION ALL SELECT 'ready', count(*) FROM queue WHERE stage = 0
UNION ALL SELECT 'leased', count(*) FROM queue WHERE stage = 1
UNION ALL SELECT 'resting', count(*) FROM queue WHERE stage = 2
UNION ALL SELECT 'contents', count(*) FROM content
UNION ALL SELECT 'idempotency keys', count(*) FROM idempotency
UNION ALL SELECT 'directory entries', count(*) FROM directory
UNION ALL SELECT 'directory revision', value::bigint FROM meta WHERE name = 'directory_revision'
UNION ALL SELECT 'audit rows', count(*) FROM audit
UNION ALL SELECT 'refused sign-ins', count(*) FROM refused_login
UNION ALL SELECT 'accounts signed in to', count(*) FROM signed_in
UNION ALL SELECT 'webhook events', count(*) FROM webhook_event"""
