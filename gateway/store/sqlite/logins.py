"""Logins that relays refused, counted on SQLite: a login is counted before it is tried."""

import apsw

from gateway.store.rows import Ending, Permission, SignIn


def attempt(
    db: apsw.Connection, sign_in: SignIn, ticket: int, now: int, *, forget_at: int, most: int | None
) -> Permission:
    """Count a login that is about to be tried, unless `most` are counted already; times are ms."""
    db.execute("DELETE FROM refused_login WHERE forget_at<=?", (now,))
    ((counted, refused),) = db.execute(
        "SELECT count(*), count(*) FILTER (WHERE trying=0) FROM refused_login"
        " WHERE host=?1 AND user_hash=?2 AND ticket<>?4"
        " AND (tenant=?3 OR (?1, ?2, ?3) NOT IN (SELECT host, user_hash, tenant FROM signed_in))",
        (*sign_in, ticket),
    ).fetchall()
    if most is not None and int(str(counted)) >= most:
        return Permission.REFUSED if int(str(refused)) >= most else Permission.LATER
    db.execute("INSERT OR REPLACE INTO refused_login VALUES (?,?,?,?,?,1)", (ticket, *sign_in, forget_at))
    return Permission.GIVEN


def end(db: apsw.Connection, sign_in: SignIn, ticket: int, ending: Ending, *, forget_at: int) -> None:
    """Write down what came of a login."""
    if ending is Ending.REFUSED:
        db.execute("INSERT OR REPLACE INTO refused_login VALUES (?,?,?,?,?,0)", (ticket, *sign_in, forget_at))
        return
    db.execute("DELETE FROM refused_login WHERE ticket=?", (ticket,))
    if ending is Ending.ACCEPTED:
        db.execute("INSERT OR IGNORE INTO signed_in VALUES (?,?,?)", sign_in)
