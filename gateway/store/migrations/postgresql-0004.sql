-- Who is signed in to the pages, and what signs somebody in once. Of a token only its hash is known.
CREATE TABLE sessions (
  token_sha256 bytea  PRIMARY KEY,
  kind         text   NOT NULL,               -- 'session', or 'link': it signs in once
  who          text   COLLATE "C" NOT NULL,   -- 'key:' with its id, 'oidc:' with the subject, 'socket'
  name         text   NOT NULL,               -- for people
  began_at     bigint NOT NULL,
  used_at      bigint NOT NULL,
  ends_at      bigint NOT NULL                -- in any case
);
