-- What webhooks are still to be told. A claim moves `due_at` to where its lease ends: whoever dies at an event leaves
-- it due again by then.
CREATE TABLE webhook_event (
  id          text    COLLATE "C" PRIMARY KEY,
  tenant      text    COLLATE "C" NOT NULL,
  webhook     text    COLLATE "C" NOT NULL,
  due_at      bigint  NOT NULL,
  expires_at  bigint  NOT NULL,                -- from then on nobody is told any more
  attempts    integer NOT NULL DEFAULT 0,
  lease_token bigint,
  body        text    NOT NULL,
  traceparent text
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);
CREATE INDEX webhook_event_due ON webhook_event (tenant, webhook, due_at, expires_at);
