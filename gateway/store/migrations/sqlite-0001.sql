CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;

-- The hot table is narrow: what is needed to find work and to answer "where is my mail?".
CREATE TABLE notification (
  seq         INTEGER PRIMARY KEY,
  id          TEXT    NOT NULL UNIQUE,
  tenant      TEXT    NOT NULL,
  profile     TEXT    NOT NULL,            -- named by the request; '' = the tenant's default
  category    TEXT    NOT NULL,
  key_id      TEXT    NOT NULL,
  priority    INTEGER NOT NULL,            -- 0 high, 1 normal, 2 low
  stage       INTEGER NOT NULL,            -- 0 ready, 1 leased, 2 resting, 3 final
  status      TEXT    NOT NULL,
  due_at      INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,
  accepted_at INTEGER NOT NULL,
  finished_at INTEGER,
  lease_token INTEGER,
  lease_until INTEGER,
  dotted      INTEGER NOT NULL DEFAULT 0,  -- 1: committed before the final dot, so the outcome is unknown after a crash
  cancelled   INTEGER NOT NULL DEFAULT 0,  -- 1: cancelled while leased; nothing is tried again
  recipients  TEXT    NOT NULL,
  events      TEXT    NOT NULL DEFAULT '',
  envelope    TEXT    NOT NULL
);
CREATE INDEX notification_ready    ON notification (tenant, profile, priority, due_at) WHERE stage = 0;
CREATE INDEX notification_leased   ON notification (lease_until) WHERE stage = 1;
CREATE INDEX notification_expiring ON notification (expires_at) WHERE stage < 3;
CREATE INDEX notification_listing  ON notification (tenant, id);

-- Bodies apart: erased as soon as nothing can need them any more.
CREATE TABLE content (
  seq  INTEGER PRIMARY KEY,
  body TEXT NOT NULL
);

CREATE TABLE idempotency (
  tenant    TEXT    NOT NULL,
  key       TEXT    NOT NULL,
  sha256    BLOB    NOT NULL,
  answer    TEXT    NOT NULL,
  forget_at INTEGER NOT NULL,
  PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_forget ON idempotency (forget_at);

-- Tenants, profiles, links, preferences, keys: one document each; the rules live in the directory.
CREATE TABLE directory (
  kind   TEXT NOT NULL,
  tenant TEXT NOT NULL,
  name   TEXT NOT NULL,
  body   TEXT NOT NULL,
  origin TEXT NOT NULL,                    -- 'api', or 'provision': read-only but for the settings' own files
  PRIMARY KEY (kind, tenant, name)
) WITHOUT ROWID;
