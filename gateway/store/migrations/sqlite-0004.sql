-- What webhooks are still to be told. A claim moves `due_at` to where its lease ends: whoever dies at an event leaves
-- it due again by then.
CREATE TABLE webhook_event (
  id          TEXT    PRIMARY KEY,
  tenant      TEXT    NOT NULL,
  webhook     TEXT    NOT NULL,
  due_at      INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,            -- from then on nobody is told any more
  attempts    INTEGER NOT NULL DEFAULT 0,
  lease_token INTEGER,
  body        TEXT    NOT NULL,
  traceparent TEXT
) STRICT;
CREATE INDEX webhook_event_due    ON webhook_event (tenant, webhook, due_at, expires_at);
CREATE INDEX webhook_event_leased ON webhook_event (lease_token) WHERE lease_token IS NOT NULL;
