"""The hot path's SQL: each kind of write for many rows at once, in one statement and so in one round trip and commit.

Rows come in as arrays and are joined back by position. Statements lock the rows of `queue` first and in the order of
`seq`, then those of `notification`, so that no two of them wait for each other; claiming and sweeping skip what others
have locked. What a statement locks it reads again as it is by then: a lease that went meanwhile is seen to be gone.
Accepting locks the tenants' budgets first, in the order of tenants, and then the idempotency keys in theirs.
"""

from typing import Final

from gateway.store.rows import LIGHT

PRIORITIES: Final = (0, 1, 2)
ONE: Final = (
    60_000  # what a notification takes from a tenant's budget, to which `per_minute` comes back each millisecond
)

STORED: Final = (
    "n.seq, n.id, n.tenant, n.profile, n.category, n.key_id, n.priority, coalesce(q.stage, 3) AS stage, n.status,"
    " n.due_at, n.expires_at, n.accepted_at, n.finished_at, q.lease_token, n.cancelled, n.recipients, n.events, n.envelope"
)
LEASED: Final = (
    "n.seq, n.id, n.tenant, n.profile, n.category, n.priority, n.due_at, n.expires_at, n.accepted_at, n.recipients,"
    f" n.envelope, CASE WHEN octet_length(c.body) <= {LIGHT} THEN c.body END, q.lease_token, n.cancelled, n.status,"
    " q.dotted_for, coalesce(octet_length(c.body), 0)"
)

WITHDRAWN: Final = """
  EXISTS (SELECT FROM directory d WHERE d.kind = 'key' AND d.name = g.key_id AND d.body IS NULL)
  OR EXISTS (SELECT FROM directory d WHERE d.kind = 'revoked' AND d.name = g.key_id AND d.body IS NOT NULL)"""

# What is told goes in with what it tells of. Most tell nothing: for them the statements have no such part.
_TOLD: Final = """, told AS (
  INSERT INTO webhook_event (id, tenant, webhook, due_at, expires_at, body, traceparent)
  SELECT e->>0, e->>1, e->>2, (e->>3)::bigint, (e->>4)::bigint, e->>5, e->>6
    FROM {of} h CROSS JOIN LATERAL json_array_elements(h.told::json) e
  ON CONFLICT (id) DO NOTHING
)"""


def _silent(statement: str) -> str:
    """Make a statement of its pattern that tells nothing."""
    return statement.format(array="", name="", told="")


def _telling(statement: str, number: int, of: str = "held") -> str:
    """Make a statement of its pattern that also inserts what is told of the rows that were written."""
    return statement.format(array=f", ${number}::text[]", name=", told", told=_TOLD.format(of=of))


# Rows of withdrawn keys and tenants, those beyond their tenant's rate, and those whose idempotency key is in use, come back
# as they were given: not made. A key whose use by another daemon is not committed yet may cost its tenant one in vain.
_ACCEPT: Final = f"""
WITH given AS MATERIALIZED (
  SELECT nextval('notification_seq') AS seq, g.*,
         CASE WHEN {WITHDRAWN} THEN 'key'
              WHEN EXISTS (SELECT FROM directory d WHERE d.kind = 'tenant' AND d.tenant = g.tenant AND d.body IS NULL)
              THEN 'tenant' END AS withdrawn
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::smallint[], $8::text[],
                $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::text[],
                $16::bytea[], $17::text[], $18::bigint[], $19::bigint[]{{array}})
      AS g(id, tenant, profile, category, key_id, priority, stage, status, due_at, expires_at, accepted_at, recipients,
           envelope, body, key, sha256, answer, forget_at, per_minute{{name}})
), limited AS MATERIALIZED (
  SELECT g.seq, g.tenant, g.per_minute, row_number() OVER (PARTITION BY g.tenant ORDER BY g.seq) AS turn FROM given g
   WHERE g.per_minute IS NOT NULL AND g.withdrawn IS NULL
     AND NOT EXISTS (SELECT FROM idempotency i WHERE i.tenant = g.tenant AND i.key = g.key AND i.forget_at > $20)
), spent AS (
  INSERT INTO tenant_rate AS r (tenant, per_minute, at, granted, missing)
  SELECT tenant, per_minute, $20, most, most * {ONE}
    FROM (SELECT tenant, min(per_minute) AS per_minute, least(count(*), min(per_minute)) AS most
            FROM limited GROUP BY tenant) wish
   ORDER BY tenant
  ON CONFLICT (tenant) DO UPDATE SET (per_minute, at, granted, missing) = (
    SELECT e.per_minute, greatest(r.at, $20), g.granted, m.missing + g.granted * {ONE}
      FROM (SELECT EXCLUDED.per_minute, EXCLUDED.granted AS most, greatest($20 - r.at, 0) AS since) e
     CROSS JOIN LATERAL (SELECT greatest(least(r.missing, e.per_minute * {ONE}) - since * e.per_minute, 0) AS missing) m
     CROSS JOIN LATERAL (SELECT least(e.most, (e.per_minute * {ONE} - m.missing) / {ONE}) AS granted) g)
  RETURNING r.tenant, r.per_minute, r.granted, r.missing
), beyond AS MATERIALIZED (
  SELECT l.seq, (s.missing - (s.per_minute - 1) * {ONE} - 1) / s.per_minute + 1 AS wait
    FROM spent s JOIN limited l ON l.tenant = s.tenant WHERE l.turn > s.granted
), let_in AS NOT MATERIALIZED (
  SELECT * FROM given WHERE withdrawn IS NULL AND seq NOT IN (SELECT seq FROM beyond)
), keyed AS (
  INSERT INTO idempotency AS i
  SELECT tenant, key, sha256, answer, forget_at FROM let_in WHERE key IS NOT NULL ORDER BY tenant, key
  ON CONFLICT (tenant, key) DO UPDATE
     SET sha256 = EXCLUDED.sha256, answer = EXCLUDED.answer, forget_at = EXCLUDED.forget_at WHERE i.forget_at <= $20
  RETURNING i.tenant, i.key
), fresh AS MATERIALIZED (
  SELECT g.* FROM let_in g LEFT JOIN keyed k ON k.tenant = g.tenant AND k.key = g.key
   WHERE g.key IS NULL OR k.key IS NOT NULL
), noted AS (
  INSERT INTO notification (seq, id, tenant, profile, category, key_id, priority, status, due_at, expires_at,
                            accepted_at, finished_at, recipients, envelope)
  SELECT seq, id, tenant, profile, category, key_id, priority, status, due_at, expires_at, accepted_at,
         CASE WHEN stage = 3 THEN accepted_at END, recipients, envelope FROM fresh
), queued AS (
  INSERT INTO queue (seq, tenant, profile, priority, stage, due_at, expires_at, accepted_at)
  SELECT seq, tenant, profile, priority, stage, due_at, expires_at, accepted_at FROM fresh WHERE stage < 3
), kept AS (
  INSERT INTO content SELECT seq, body FROM fresh WHERE body IS NOT NULL
){{told}}
SELECT g.id, g.id IN (SELECT id FROM fresh) AS fresh, g.withdrawn, b.wait FROM given g LEFT JOIN beyond b ON b.seq = g.seq"""
ACCEPT: Final = _silent(_ACCEPT)
ACCEPT_AND_TELL: Final = _telling(_ACCEPT, 21, of="fresh")

# Lets whoever is at it finish: an attempt that was given up spends once at most.
SPENDING: Final = "SELECT FROM tenant_rate WHERE tenant = ANY($1) ORDER BY tenant FOR UPDATE"

KNOWN_IDS: Final = "SELECT id FROM notification WHERE id = ANY($1)"
KNOWN_KEYS: Final = """
SELECT i.tenant, i.key, i.sha256, i.answer FROM unnest($1::text[], $2::text[]) AS g(tenant, key)
  JOIN idempotency i ON i.tenant = g.tenant AND i.key = g.key"""

_DUE: Final = """
        (SELECT q.seq, q.priority, q.due_at FROM queue q
          WHERE q.stage = 0 AND q.tenant = w.tenant AND q.profile = w.profile AND q.priority = {} AND q.due_at <= w.now
          ORDER BY q.due_at, q.seq LIMIT w.most)"""
_NEXT: Final = """
        (SELECT q.due_at FROM queue q
          WHERE q.stage = 0 AND q.tenant = w.tenant AND q.profile = w.profile AND q.priority = {}
            AND q.seq NOT IN (SELECT l.seq FROM locked l WHERE l.token = w.token)
          ORDER BY q.due_at, q.seq LIMIT 1)"""

# Most urgent first, up to the limit, until there is content enough; and when the flow's next row falls due.
CLAIM: Final = f"""
WITH wish AS MATERIALIZED (
  SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
    AS w(tenant, profile, most, now, until, bytes, token)
), due AS (
  SELECT w.token, w.until, d.seq FROM wish w CROSS JOIN LATERAL (
    SELECT one.seq, sum(one.size) OVER (ORDER BY one.priority, one.due_at, one.seq ROWS UNBOUNDED PRECEDING) - one.size AS ahead
      FROM (
      SELECT any_.seq, any_.priority, any_.due_at, CASE WHEN octet_length(c.body) <= {LIGHT} THEN octet_length(c.body) ELSE 0 END AS size FROM (
{"        UNION ALL".join(_DUE.format(priority) for priority in PRIORITIES)}
      ) any_ LEFT JOIN content c ON c.seq = any_.seq
      ORDER BY any_.priority, any_.due_at, any_.seq LIMIT w.most
    ) one
  ) d WHERE d.ahead < w.bytes
), locked AS MATERIALIZED (
  SELECT q.seq, due.token, due.until FROM due JOIN queue q ON q.seq = due.seq WHERE q.stage = 0
     FOR UPDATE OF q SKIP LOCKED
), taken AS (
  UPDATE queue q SET stage = 1, lease_token = l.token, lease_until = l.until, daemon = $8
    FROM locked l WHERE q.seq = l.seq RETURNING q.seq, q.lease_token, q.dotted_for
)
SELECT {LEASED} FROM taken q JOIN notification n ON n.seq = q.seq LEFT JOIN content c ON c.seq = q.seq
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, least({", ".join(_NEXT.format(priority) for priority in PRIORITIES)}),
       NULL, NULL, NULL, NULL, NULL, w.token, NULL, NULL, NULL, NULL FROM wish w"""

# After a claim whose answer was lost.
UNCLAIM: Final = """
WITH held AS (SELECT seq FROM queue WHERE stage = 1 AND lease_token = ANY($1) ORDER BY seq FOR UPDATE)
UPDATE queue q SET stage = 0, lease_token = NULL, lease_until = NULL, daemon = NULL FROM held WHERE q.seq = held.seq"""

_SETTLE: Final = """
WITH given AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::text[], $5::bigint[], $6::bigint[], $7::text[],
                       $8::text[], $9::boolean[]{array})
    AS g(seq, token, stage, status, due_at, finished_at, recipients, events, erase{name})
), held AS MATERIALIZED (
  SELECT g.* FROM given g JOIN queue q ON q.seq = g.seq AND q.stage = 1 AND q.lease_token = g.token
   ORDER BY q.seq FOR UPDATE OF q
), ended AS (
  DELETE FROM queue q USING held h WHERE q.seq = h.seq AND h.stage = 3
), back AS (
  UPDATE queue q SET stage = h.stage, due_at = h.due_at, deferred = h.status = 'deferred', lease_token = NULL,
         lease_until = NULL, daemon = NULL, dotted_for = NULL
    FROM held h WHERE q.seq = h.seq AND h.stage < 3
), written AS (
  UPDATE notification n SET status = h.status, due_at = h.due_at, finished_at = h.finished_at, settled_by = h.token,
         recipients = h.recipients, events = n.events || h.events
    FROM held h WHERE n.seq = h.seq
), erased AS (
  DELETE FROM content c USING held h WHERE c.seq = h.seq AND h.erase
){told}
SELECT seq, token FROM held"""
SETTLE: Final = _silent(_SETTLE)
SETTLE_AND_TELL: Final = _telling(_SETTLE, 10)

SETTLED: Final = """
SELECT g.seq, g.token FROM unnest($1::bigint[], $2::bigint[]) AS g(seq, token)
  JOIN notification n ON n.seq = g.seq AND n.settled_by = g.token"""

DOT: Final = """
WITH given AS MATERIALIZED (
  SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS g(seq, token, dotted_for)
), held AS MATERIALIZED (
  SELECT g.* FROM given g JOIN queue q ON q.seq = g.seq AND q.stage = 1 AND q.lease_token = g.token
    JOIN notification n ON n.seq = g.seq WHERE NOT n.cancelled ORDER BY q.seq FOR UPDATE OF q, n
)
UPDATE queue q SET dotted_for = h.dotted_for FROM held h WHERE q.seq = h.seq RETURNING q.seq, h.token"""

# A row that is final stands in `queue` no more; one that is revived comes back into it.
CHANGE: Final = f"""
WITH given AS MATERIALIZED (
  SELECT g.*, {WITHDRAWN} AS withdrawn
    FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::bigint[], $5::smallint[], $6::text[], $7::bigint[],
                $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::boolean[], $13::boolean[], $14::text[],
                $15::text[])
      AS g(seq, old_stage, old_recipients, old_token, stage, status, due_at, expires_at, finished_at, recipients, events,
           cancelled, erase, key_id, told)
), queued AS MATERIALIZED (
  SELECT q.seq, q.stage, q.lease_token FROM given g JOIN queue q ON q.seq = g.seq ORDER BY q.seq FOR UPDATE OF q
), held AS MATERIALIZED (
  SELECT g.*, n.tenant, n.profile, n.priority, n.accepted_at
    FROM given g LEFT JOIN queued q ON q.seq = g.seq JOIN notification n ON n.seq = g.seq
   WHERE NOT g.withdrawn AND coalesce(q.stage, 3) = g.old_stage AND q.lease_token IS NOT DISTINCT FROM g.old_token
     AND n.recipients = g.old_recipients
   ORDER BY n.seq FOR UPDATE OF n
), ended AS (
  DELETE FROM queue q USING held h WHERE q.seq = h.seq AND h.stage = 3
), moved AS (
  UPDATE queue q SET stage = h.stage, due_at = h.due_at, expires_at = h.expires_at, deferred = h.status = 'deferred'
    FROM held h WHERE q.seq = h.seq AND h.stage < 3
), revived AS (
  INSERT INTO queue (seq, tenant, profile, priority, stage, deferred, due_at, expires_at, accepted_at)
  SELECT seq, tenant, profile, priority, stage, status = 'deferred', due_at, expires_at, accepted_at
    FROM held WHERE old_stage = 3 AND stage < 3
), written AS (
  UPDATE notification n SET status = h.status, due_at = h.due_at, expires_at = h.expires_at, finished_at = h.finished_at,
         recipients = h.recipients, events = n.events || h.events, cancelled = h.cancelled
    FROM held h WHERE n.seq = h.seq
), erased AS (
  DELETE FROM content c USING held h WHERE c.seq = h.seq AND h.erase
){_TOLD.format(of="held")}
SELECT seq, false FROM held UNION ALL SELECT seq, true FROM given WHERE withdrawn"""

# After a change whose answer was lost: the row is as the change wanted it, though it may have been claimed since.
CHANGED: Final = """
SELECT g.seq FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[],
                         $8::boolean[])
    AS g(seq, status, due_at, expires_at, finished_at, recipients, events, cancelled)
  JOIN notification n ON n.seq = g.seq
 WHERE (n.status, n.due_at, n.expires_at, n.recipients, n.cancelled)
     = (g.status, g.due_at, g.expires_at, g.recipients, g.cancelled)
   AND n.finished_at IS NOT DISTINCT FROM g.finished_at AND right(n.events, length(g.events)) = g.events"""

RENEW: Final = """
WITH held AS (SELECT seq FROM queue WHERE stage = 1 AND lease_token = ANY($1) ORDER BY seq FOR UPDATE)
UPDATE queue q SET lease_until = $2 FROM held WHERE q.seq = held.seq RETURNING q.lease_token"""

# Leases end with their time, or with the daemon that held them.
_OVER: Final = "q.stage = 1 AND (q.lease_until <= $1 OR NOT EXISTS (SELECT FROM daemon d WHERE d.id = q.daemon))"
RELEASE: Final = f"""
WITH over AS (
  SELECT q.seq FROM queue q WHERE {_OVER} AND q.dotted_for IS NULL ORDER BY q.seq FOR UPDATE SKIP LOCKED
)
UPDATE queue q SET stage = 0, lease_token = NULL, lease_until = NULL, daemon = NULL
  FROM over WHERE q.seq = over.seq RETURNING q.tenant, q.profile, q.due_at"""
UNKNOWN: Final = f"""
SELECT {LEASED} FROM queue q JOIN notification n ON n.seq = q.seq LEFT JOIN content c ON c.seq = q.seq
 WHERE {_OVER} AND q.dotted_for IS NOT NULL"""

# By hopping from flow to flow along the index.
BACKLOG: Final = f"""
WITH RECURSIVE flow(tenant, profile) AS (
  (SELECT q.tenant, q.profile FROM queue q WHERE q.stage = 0 ORDER BY q.tenant, q.profile LIMIT 1)
  UNION ALL
  SELECT after.tenant, after.profile FROM flow f CROSS JOIN LATERAL (
    SELECT q.tenant, q.profile FROM queue q WHERE q.stage = 0 AND (q.tenant, q.profile) > (f.tenant, f.profile)
     ORDER BY q.tenant, q.profile LIMIT 1) after
)
SELECT f.tenant, f.profile, least({
    ", ".join(
        "(SELECT q.due_at FROM queue q WHERE q.stage = 0 AND q.tenant = f.tenant AND q.profile = f.profile"
        f" AND q.priority = {priority} ORDER BY q.due_at LIMIT 1)"
        for priority in PRIORITIES
    )
}) FROM flow f"""
