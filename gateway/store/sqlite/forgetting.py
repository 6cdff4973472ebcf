"""What is deleted of notifications on SQLite: what is old, and all that a tenant had."""

from collections.abc import Sequence

import apsw

from gateway.store.rows import Stage
from gateway.store.sqlite import events
from gateway.store.sqlite.chunks import chunks
from gateway.store.sqlite.group import Value


def forget(db: apsw.Connection, tenant: str, limit: int) -> int:
    """Delete up to `limit` notifications, idempotency keys and webhook events of a tenant; answers how many.

    Where it signed in goes at once.
    """
    sql = "SELECT seq FROM notification WHERE tenant=? LIMIT ?"
    gone = [seq for (seq,) in db.execute(sql, (tenant, limit))]
    _delete(db, gone)
    count = len(gone)
    db.execute(
        "DELETE FROM idempotency WHERE (tenant, key) IN (SELECT tenant, key FROM idempotency WHERE tenant=? LIMIT ?)",
        (tenant, limit - count),
    )
    count += db.changes()
    db.execute("DELETE FROM signed_in WHERE tenant=?", (tenant,))
    return count + events.forget(db, tenant, limit - count)


def prune(db: apsw.Connection, now: int, finished_before: int, limit: int) -> int:
    """Delete up to `limit` final rows that ended before, and as many idempotency keys past their time."""
    db.execute("DELETE FROM refused_login WHERE forget_at<=?", (now,))
    old = _old(db, finished_before, limit)
    _delete(db, old)
    db.execute(
        "DELETE FROM idempotency WHERE (tenant, key) IN"
        " (SELECT tenant, key FROM idempotency WHERE forget_at<=? LIMIT ?)",
        (now, limit),
    )
    return max(len(old), db.changes())


def _old(db: apsw.Connection, finished_before: int, limit: int) -> list[int]:
    old: list[int] = []
    young = 0
    for seq, stage, accepted_at, finished_at in db.execute(
        "SELECT seq, stage, accepted_at, finished_at FROM notification ORDER BY seq"
    ):
        if stage == Stage.FINAL and int(str(finished_at)) < finished_before:
            old.append(int(str(seq)))
        young += int(str(accepted_at)) >= finished_before
        if limit in (len(old), young):
            break
    return old


def _delete(db: apsw.Connection, seqs: Sequence[Value]) -> None:
    for table in ("content", "notification"):
        for chunk in chunks(seqs):
            db.execute(f"DELETE FROM {table} WHERE seq IN ({','.join('?' * len(chunk))})", chunk)
