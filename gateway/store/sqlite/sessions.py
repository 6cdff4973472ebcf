"""Sessions of the pages on SQLite: who is signed in, and the links that sign somebody in once."""

from typing import Final

import apsw

from gateway.store.rows import SessionKind, SessionRow, session

_COLUMNS: Final = "token_sha256, kind, who, name, began_at, used_at, ends_at"


def begin(db: apsw.Connection, row: SessionRow) -> None:
    """Insert a session or a link; one that is there already stays as it is."""
    db.execute(f"INSERT OR IGNORE INTO sessions ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)", row)


def find(db: apsw.Connection, token_sha256: bytes) -> SessionRow | None:
    """Read the session or the link of a token."""
    return _one(db, f"SELECT {_COLUMNS} FROM sessions WHERE token_sha256=?", token_sha256)


def use(db: apsw.Connection, token_sha256: bytes, used_at: int) -> None:
    """Note that it was used then, unless it was later."""
    db.execute("UPDATE sessions SET used_at=?2 WHERE token_sha256=?1 AND used_at<?2", (token_sha256, used_at))


def end(db: apsw.Connection, token_sha256: bytes, kind: SessionKind) -> SessionRow | None:
    """Take it away if it is of this kind, and give it back."""
    sql = f"DELETE FROM sessions WHERE token_sha256=? AND kind=? RETURNING {_COLUMNS}"
    return _one(db, sql, token_sha256, kind.value)


def end_all_of(db: apsw.Connection, who: str) -> int:
    """Delete all of a person's; answers how many."""
    db.execute("DELETE FROM sessions WHERE who=?", (who,))
    return db.changes()


def end_all(db: apsw.Connection) -> None:
    """Delete everybody's."""
    db.execute("DELETE FROM sessions")


def prune(db: apsw.Connection, now: int, unused_since: int, limit: int) -> int:
    """Delete up to `limit` that are over, or sessions last used before; answers how many."""
    db.execute(
        "DELETE FROM sessions WHERE token_sha256 IN"
        " (SELECT token_sha256 FROM sessions WHERE ends_at<=? OR kind=? AND used_at<? LIMIT ?)",
        (now, SessionKind.SESSION.value, unused_since, limit),
    )
    return db.changes()


def _one(db: apsw.Connection, sql: str, *values: bytes | str) -> SessionRow | None:
    return next((session(row) for row in db.execute(sql, values).fetchall()), None)
