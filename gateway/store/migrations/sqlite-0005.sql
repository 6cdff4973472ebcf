-- Who is signed in to the pages, and what signs somebody in once. Of a token only its hash is known.
CREATE TABLE sessions (
  token_sha256 BLOB    PRIMARY KEY,
  kind         TEXT    NOT NULL,           -- 'session', or 'link': it signs in once
  who          TEXT    NOT NULL,           -- 'key:' with its id, 'oidc:' with the subject, 'socket'
  name         TEXT    NOT NULL,           -- for people
  began_at     INTEGER NOT NULL,
  used_at      INTEGER NOT NULL,
  ends_at      INTEGER NOT NULL            -- in any case
) STRICT, WITHOUT ROWID;
