-- A final dot concerns the recipients of its transaction, of which a notification may have several.
ALTER TABLE notification ADD COLUMN dotted_for TEXT;  -- while dotted: their indexes, as JSON

-- Who changed what: one chain of hashes a tenant. The database itself lets nobody but its next row in.
CREATE TABLE audit (
  tenant       TEXT    NOT NULL,           -- whose log it is
  number       INTEGER NOT NULL,           -- 1, 2, … within the tenant
  at           INTEGER NOT NULL,
  actor        TEXT    NOT NULL,
  actor_tenant TEXT    NOT NULL,
  action       TEXT    NOT NULL,
  object       TEXT    NOT NULL,
  changes      TEXT    NOT NULL,
  hash         BLOB    NOT NULL CHECK (length(hash) = 32),
  PRIMARY KEY (tenant, number)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN
  SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN
  SELECT RAISE(ABORT, 'the audit log is append-only');
END;

-- INSERT OR REPLACE deletes without asking the trigger above.
CREATE TRIGGER audit_only_next BEFORE INSERT ON audit
WHEN NEW.number IS NOT 1 + (SELECT coalesce(max(number), 0) FROM audit WHERE tenant = NEW.tenant) BEGIN
  SELECT RAISE(ABORT, 'the audit log is append-only');
END;
