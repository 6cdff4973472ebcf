"""The writes of one commit as one SQL statement.

A statement hands the interpreter lock over at every step, and to get it back from a busy event loop costs more than
the SQL. So the jobs of a group are rows of a temporary view, inserted all at once; the view's triggers, one for each
kind of job, carry them out row by row, in their order. Outside of a transaction that statement is one, its sync
included. What came of it is read from temporary tables, again by one statement, as JSON.
"""

import itertools
import json
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import apsw

from gateway.store.rows import LIGHT, Claim, Claimed, NewRow, Settlement, Stage, leased

Value = str | int | float | bytes | None
Job = tuple[Value, ...]

LARGEST: Final = 256  # jobs a statement
PRIORITIES: Final = (0, 1, 2)
NEVER: Final = 1 << 62

COLUMNS: Final = (
    "kind, place, seq, token, until, stage, status, due_at, finished_at, recipients, events, erase,"
    " id, tenant, profile, category, key_id, priority, expires_at, accepted_at, envelope, body,"
    " key, sha256, answer, forget_at, most, bytes"
)
NOTHING, BEGIN, SETTLE, ACCEPT, CLAIM, TELL = range(6)

_WIDTH: Final = COLUMNS.count(",") + 1
_IDLE: Final[Job] = (NOTHING, *(None,) * (_WIDTH - 1))
_FIRST: Final[Job] = (BEGIN, *(None,) * (_WIDTH - 1))
_REST_OF_SETTLE: Final = (None,) * 16
_BEFORE_CLAIM: Final = (None,) * 5
_AMID_CLAIM: Final = (None,) * 11
_BEFORE_TOLD: Final = (None,) * 19
_REST_OF_TELL: Final = (None,) * 6

LEASED: Final = (
    "n.seq, n.id, n.tenant, n.profile, n.category, n.priority, n.due_at, n.expires_at, n.accepted_at, n.recipients,"
    f" n.envelope, CASE WHEN octet_length(c.body) <= {LIGHT} THEN c.body END, n.lease_token, n.cancelled, n.status,"
    " n.dotted_for, coalesce(octet_length(c.body), 0)"
)

_DUE_OF_PRIORITY: Final = f"""
      SELECT * FROM (
        SELECT n.seq, n.priority, n.due_at,
               CASE WHEN octet_length(c.body) <= {LIGHT} THEN octet_length(c.body) ELSE 0 END AS size
          FROM notification n LEFT JOIN content c USING (seq)
         WHERE n.stage=0 AND n.tenant=NEW.tenant AND n.profile=NEW.profile AND n.priority={{}} AND n.due_at<=NEW.due_at
         ORDER BY n.due_at LIMIT NEW.most)"""
_NEXT_OF_PRIORITY: Final = (
    "coalesce((SELECT due_at FROM notification WHERE stage=0 AND tenant=NEW.tenant AND profile=NEW.profile"
    f" AND priority={{}} ORDER BY due_at LIMIT 1), {NEVER})"
)

_TELL: Final = (
    "INSERT OR IGNORE INTO webhook_event (id, tenant, webhook, due_at, expires_at, body, traceparent)"
    " SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6 FROM json_each({told})"
)

_SCHEMA: Final = f"""
CREATE TEMP TABLE lost (place INTEGER PRIMARY KEY);  -- results whose lease was over
CREATE TEMP TABLE claimed (token INTEGER, seq INTEGER);
CREATE TEMP TABLE upcoming (token INTEGER, due_at INTEGER);  -- when the next row of a claim's flow falls due

CREATE TEMP VIEW job AS SELECT {", ".join(f"NULL AS {column}" for column in COLUMNS.split(", "))};

CREATE TEMP TRIGGER begin INSTEAD OF INSERT ON job WHEN NEW.kind={BEGIN} BEGIN
  DELETE FROM lost;
  DELETE FROM claimed;
  DELETE FROM upcoming;
END;

CREATE TEMP TRIGGER settle INSTEAD OF INSERT ON job WHEN NEW.kind={SETTLE} BEGIN
  UPDATE notification SET stage=NEW.stage, status=NEW.status, due_at=NEW.due_at, finished_at=NEW.finished_at,
         recipients=NEW.recipients, events=events || NEW.events, lease_token=NULL, lease_until=NULL, dotted=0,
         dotted_for=NULL
   WHERE seq=NEW.seq AND stage={Stage.LEASED} AND lease_token=NEW.token;
  INSERT INTO lost SELECT NEW.place WHERE changes()=0;
  DELETE FROM content WHERE seq=NEW.seq AND NEW.erase AND NOT EXISTS (SELECT 1 FROM lost WHERE place=NEW.place);
END;

-- Behind what it tells of, and only if that was written.
CREATE TEMP TRIGGER tell INSTEAD OF INSERT ON job WHEN NEW.kind={TELL} BEGIN
  {_TELL.format(told="NEW.body")}
   WHERE NOT EXISTS (SELECT 1 FROM lost WHERE place=NEW.place);
END;

CREATE TEMP TRIGGER accept INSTEAD OF INSERT ON job WHEN NEW.kind={ACCEPT} BEGIN
  INSERT INTO notification (seq, id, tenant, profile, category, key_id, priority, stage, status, due_at, expires_at,
         accepted_at, finished_at, recipients, envelope)
  VALUES (NEW.seq, NEW.id, NEW.tenant, NEW.profile, NEW.category, NEW.key_id, NEW.priority, NEW.stage, NEW.status,
         NEW.due_at, NEW.expires_at, NEW.accepted_at, NEW.finished_at, NEW.recipients, NEW.envelope);
  INSERT INTO content SELECT NEW.seq, NEW.body WHERE NEW.body IS NOT NULL;
  INSERT OR REPLACE INTO idempotency
  SELECT NEW.tenant, NEW.key, NEW.sha256, NEW.answer, NEW.forget_at WHERE NEW.key IS NOT NULL;
END;

-- Most urgent first, up to the limit, until there is content enough.
CREATE TEMP TRIGGER claim INSTEAD OF INSERT ON job WHEN NEW.kind={CLAIM} BEGIN
  INSERT INTO claimed SELECT NEW.token, seq FROM (
    SELECT seq, sum(size) OVER (ORDER BY priority, due_at, seq ROWS UNBOUNDED PRECEDING) - size AS ahead FROM (
{"      UNION ALL".join(_DUE_OF_PRIORITY.format(priority) for priority in PRIORITIES)}
    ) ORDER BY priority, due_at, seq LIMIT NEW.most
  ) WHERE ahead < NEW.bytes;
  UPDATE notification SET stage={Stage.LEASED}, lease_token=NEW.token, lease_until=NEW.until
   WHERE seq IN (SELECT seq FROM claimed WHERE token=NEW.token);
  INSERT INTO upcoming SELECT NEW.token, nullif(min(
    {", ".join(_NEXT_OF_PRIORITY.format(priority) for priority in PRIORITIES)}), {NEVER});
END;
"""

_REPORT: Final = f"""
SELECT (SELECT json_group_array(place) FROM lost),
       (SELECT json_group_array(json_array({LEASED}))
          FROM claimed CROSS JOIN notification n USING (seq) LEFT JOIN content c USING (seq)),
       (SELECT json_group_array(json_array(token, due_at)) FROM upcoming)
"""


class Report(NamedTuple):
    """What came of a group: the places of the results that were too late, and what each claim brought, by token."""

    lost: frozenset[int]
    claimed: dict[int, Claimed]


def prepare(db: apsw.Connection) -> None:
    """Make what groups are written through; it is the connection's own and leaves no trace in the file."""
    db.execute(_SCHEMA)


def settling(place: int, settlement: Settlement) -> Job:
    """A delivery's result, written only under its lease; `place` is where the report names it."""
    return (
        SETTLE, place, settlement.seq, settlement.lease_token, None, int(settlement.stage), settlement.status,
        settlement.due_at, settlement.finished_at, settlement.recipients, settlement.events, settlement.erase,
        *_REST_OF_SETTLE,
    )  # fmt: skip


def accepting(seq: int, row: NewRow) -> Job:
    """A new row, and the answer that its idempotency key stands for."""
    key, sha256, forget_at = row.idempotency or (None, None, None)
    return (
        ACCEPT, None, seq, None, None, int(row.stage), row.status, row.due_at,
        row.accepted_at if row.stage is Stage.FINAL else None, row.recipients, None, None, row.id, row.flow.tenant,
        row.flow.profile, row.category, row.key_id, row.priority, row.expires_at, row.accepted_at, row.envelope,
        row.content, key, sha256, row.answer, forget_at, None, None,
    )  # fmt: skip


def claiming(token: int, claim: Claim) -> Job:
    """A claim under a lease of this token."""
    tenant, profile = claim.flow
    return (
        CLAIM, None, None, token, claim.lease_until, None, None, claim.now, *_BEFORE_CLAIM, tenant, profile,
        *_AMID_CLAIM, claim.limit, claim.max_bytes,
    )  # fmt: skip


def telling(place: int | None, told: str) -> Job:
    """Events for webhooks; `place` is that of the result they tell of, behind which they stand (None: of a new row)."""
    return (TELL, place, *_BEFORE_TOLD, told, *_REST_OF_TELL)


def tell(db: apsw.Connection, told: str) -> None:
    """Insert events for webhooks."""
    db.execute(_TELL.format(told="?"), (told,))


def new_token() -> int:
    """Make a lease token that nobody had before."""
    return secrets.randbits(62)


def write(db: apsw.Connection, jobs: Sequence[Job], *, first: bool = True) -> None:
    """Carry jobs out in their order. Up to `LARGEST` - 1 of them are one statement, and so one transaction if none is open."""
    if first:
        jobs = [_FIRST, *jobs]
    for start in range(0, len(jobs), LARGEST):
        chunk = jobs[start : start + LARGEST]
        size = 1 << (len(chunk) - 1).bit_length()
        chunk = [*chunk, *(_IDLE,) * (size - len(chunk))]
        db.execute(_insert(size), tuple(itertools.chain.from_iterable(chunk)))


@lru_cache
def _insert(size: int) -> str:
    """Few sizes, so that each statement is prepared once."""
    row = "(" + ",".join("?" * _WIDTH) + ")"
    return f"INSERT INTO job ({COLUMNS}) VALUES " + ",".join((row,) * size)


def report(db: apsw.Connection) -> Report:
    """Read what came of the last group."""
    ((lost, claimed, upcoming),) = db.execute(_REPORT).fetchall()
    claims = {token: Claimed([], due_at) for token, due_at in json.loads(str(upcoming))}
    for row in json.loads(str(claimed)):
        one = leased(row)
        claims[one.lease_token].rows.append(one)
    return Report(frozenset(json.loads(str(lost))), claims)
