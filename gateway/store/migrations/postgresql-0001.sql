-- Keys sort by their octets, whatever the database's collation: ids by time, flows as the index has them.
CREATE TABLE meta (
  name  text COLLATE "C" PRIMARY KEY,
  value text NOT NULL
);
INSERT INTO meta VALUES ('directory_revision', '0');

-- What is kept of every notification: written at acceptance, and once for each result. No index holds what a result
-- changes, so that its new version finds room on the same page and no index hears of it.
CREATE TABLE notification (
  seq         bigint   PRIMARY KEY,
  id          text     COLLATE "C" NOT NULL UNIQUE,
  tenant      text     COLLATE "C" NOT NULL,
  profile     text     COLLATE "C" NOT NULL,  -- named by the request; '' = the tenant's default
  category    text     NOT NULL,
  key_id      text     NOT NULL,
  priority    smallint NOT NULL,              -- 0 high, 1 normal, 2 low
  status      text     NOT NULL,
  due_at      bigint   NOT NULL,
  expires_at  bigint   NOT NULL,
  accepted_at bigint   NOT NULL,
  finished_at bigint,                         -- null: it stands in the queue
  cancelled   boolean  NOT NULL DEFAULT false,
  settled_by  bigint,                         -- the lease token of the last result, to know it again
  recipients  text     NOT NULL,
  events      text     NOT NULL DEFAULT '',
  envelope    text     NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE INDEX notification_listing ON notification (tenant, id);
CREATE SEQUENCE notification_seq OWNED BY notification.seq;

-- The hot table: what is not final, and no more of it than finding work takes. A row goes with its end.
CREATE TABLE queue (
  seq         bigint   PRIMARY KEY,
  tenant      text     COLLATE "C" NOT NULL,
  profile     text     COLLATE "C" NOT NULL,
  priority    smallint NOT NULL,
  stage       smallint NOT NULL,              -- 0 ready, 1 leased, 2 resting
  deferred    boolean  NOT NULL DEFAULT false,
  due_at      bigint   NOT NULL,
  expires_at  bigint   NOT NULL,
  accepted_at bigint   NOT NULL,
  lease_token bigint,
  lease_until bigint,
  daemon      integer,                        -- who holds the lease
  dotted_for  text                            -- committed before the final dot: its recipients' indexes, as JSON
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX queue_ready    ON queue (tenant, profile, priority, due_at, seq) WHERE stage = 0;
CREATE INDEX queue_leased   ON queue (lease_until) WHERE stage = 1;
CREATE INDEX queue_expiring ON queue (expires_at) WHERE stage = 0;

-- Bodies apart: erased as soon as nothing can need them any more.
CREATE TABLE content (
  seq  bigint PRIMARY KEY,
  body text   NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);

CREATE TABLE idempotency (
  tenant    text   COLLATE "C" NOT NULL,
  key       text   COLLATE "C" NOT NULL,
  sha256    bytea  NOT NULL,
  answer    text   NOT NULL,
  forget_at bigint NOT NULL,
  PRIMARY KEY (tenant, key)
);
CREATE INDEX idempotency_forget ON idempotency (forget_at);

-- Tenants, profiles, links, preferences, keys: one document each; the rules live in the directory. What is dropped
-- leaves its place and revision, from which other daemons learn of it.
CREATE TABLE directory (
  kind     text   COLLATE "C" NOT NULL,
  tenant   text   COLLATE "C" NOT NULL,
  name     text   COLLATE "C" NOT NULL,
  body     text,                              -- null: it was dropped
  origin   text   NOT NULL,
  revision bigint NOT NULL,
  PRIMARY KEY (kind, tenant, name)
);
CREATE INDEX directory_revision ON directory (revision);
-- Who may not send any more is looked up with every acceptance.
CREATE INDEX directory_withdrawn ON directory (kind, name) WHERE body IS NULL OR kind = 'revoked';

-- Who changed what: one chain of hashes a tenant. The database itself lets nobody but its next row in.
CREATE TABLE audit (
  tenant       text    COLLATE "C" NOT NULL,  -- whose log it is
  number       bigint  NOT NULL,              -- 1, 2, … within the tenant
  at           bigint  NOT NULL,
  actor        text    NOT NULL,
  actor_tenant text    NOT NULL,
  action       text    NOT NULL,
  object       text    NOT NULL,
  changes      text    NOT NULL,
  hash         bytea   NOT NULL CHECK (octet_length(hash) = 32),
  PRIMARY KEY (tenant, number)
);

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' AND NEW.number = 1 + (SELECT coalesce(max(number), 0) FROM audit WHERE tenant = NEW.tenant) THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER audit_only_next BEFORE INSERT OR UPDATE OR DELETE ON audit
  FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit
  FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- Who works here. A daemon whose lease is over is dead to the others, and finds its row gone when it comes back.
CREATE TABLE daemon (
  id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name        text    COLLATE "C" NOT NULL UNIQUE,
  lease_until bigint  NOT NULL,
  retiring    boolean NOT NULL DEFAULT false  -- it takes no lanes any more
) WITH (fillfactor = 50);

-- Which daemon carries the mail of which profile: its connections and its rate are that daemon's to spend, for as long as
-- the daemon lives. Who gives a lane up leaves word how far its rate is spent; of a dead daemon nobody knows.
CREATE TABLE lane (
  tenant      text    COLLATE "C" NOT NULL,
  profile     text    COLLATE "C" NOT NULL,
  daemon      integer,                        -- null: nobody's
  state       text    NOT NULL DEFAULT 'active',
  spent_until bigint,                         -- null: somebody is spending it, or died at it
  resumes     integer NOT NULL DEFAULT 0,     -- how often a person said that it may go on
  PRIMARY KEY (tenant, profile)
) WITH (fillfactor = 50);
CREATE INDEX lane_daemon ON lane (daemon);

-- Sign-ins that a relay refused, or that nobody knows the answer to: whatever daemon tried, the relay counts them.
CREATE TABLE refused_login (
  ticket    bigint PRIMARY KEY,               -- by which whoever tries takes it back
  host      text   COLLATE "C" NOT NULL,
  user_hash text   COLLATE "C" NOT NULL,      -- the name may come from a secret store
  tenant    text   COLLATE "C" NOT NULL,      -- who owns the profile that tried
  forget_at bigint NOT NULL,
  daemon    integer                           -- who waits for the answer; null: it came
);
CREATE INDEX refused_login_account ON refused_login (host, user_hash);

-- Who has signed in where: whatever others get wrong there keeps nobody out who has.
CREATE TABLE signed_in (
  host      text COLLATE "C" NOT NULL,
  user_hash text COLLATE "C" NOT NULL,
  tenant    text COLLATE "C" NOT NULL,
  PRIMARY KEY (host, user_hash, tenant)
);
