-- Sign-ins that a relay refused, or that nobody knows the answer to: a relay counts them, also over our restarts.
CREATE TABLE refused_login (
  ticket    INTEGER PRIMARY KEY,           -- by which whoever tries takes it back
  host      TEXT    NOT NULL,
  user_hash TEXT    NOT NULL,              -- the name may come from a secret store
  tenant    TEXT    NOT NULL,              -- who owns the profile that tried
  forget_at INTEGER NOT NULL,
  trying    INTEGER NOT NULL               -- 1: no answer yet
) STRICT;
CREATE INDEX refused_login_account ON refused_login (host, user_hash);

-- Who has signed in where: whatever others get wrong there keeps nobody out who has.
CREATE TABLE signed_in (
  host      TEXT NOT NULL,
  user_hash TEXT NOT NULL,
  tenant    TEXT NOT NULL,
  PRIMARY KEY (host, user_hash, tenant)
) STRICT, WITHOUT ROWID;
