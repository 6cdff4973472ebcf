-- How much of its rate a tenant with a limit has spent, whichever daemon took its mail.
CREATE TABLE tenant_rate (
  tenant     text   COLLATE "C" PRIMARY KEY,
  per_minute bigint NOT NULL,
  at         bigint NOT NULL,
  missing    bigint NOT NULL,                 -- of its budget at that time, in sixty-thousandths of a notification
  granted    bigint NOT NULL                  -- notifications, by the statement that wrote the row
) WITH (fillfactor = 50);

-- For people. Who came by code that does not tell them is told by its time alone, or not at all.
ALTER TABLE daemon ADD COLUMN host text, ADD COLUMN began_at bigint;
ALTER TABLE daemon ALTER COLUMN began_at SET DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
