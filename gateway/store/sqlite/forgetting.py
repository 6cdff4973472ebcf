"""What is deleted of notifications on SQLite: what is old, and all that a tenant had."""

from collections.abc import Sequence
from typing import Final

import apsw

from gateway.store.rows import Stage
from gateway.store.sqlite import events
from gateway.store.sqlite.chunks import chunks
from gateway.store.sqlite.group import Value

MOST_KEPT: Final = 10_000  # rows that stay, looked at in one commit: it holds up all others


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


def prune(db: apsw.Connection, now: int, finished_before: int, limit: int, after: int) -> tuple[int, int]:
    """Delete up to `limit` final rows that ended before, and as many idempotency keys past their time.

    Answers the larger of both numbers, and after which row to go on: 0 if all were seen that came `after` the one given.
    """
    db.execute("DELETE FROM refused_login WHERE forget_at<=?", (now,))
    old, seen = _old(db, now, finished_before, limit, after)
    _delete(db, old)
    db.execute(
        "DELETE FROM idempotency WHERE (tenant, key) IN"
        " (SELECT tenant, key FROM idempotency WHERE forget_at<=? LIMIT ?)",
        (now, limit),
    )
    return max(len(old), db.changes()), seen


def _old(db: apsw.Connection, now: int, finished_before: int, limit: int, after: int) -> tuple[list[int], int]:
    old: list[int] = []
    young = kept = 0
    for seq, stage, accepted_at, finished_at in db.execute(
        "SELECT seq, stage, accepted_at, finished_at FROM notification WHERE seq>? ORDER BY seq", (after,)
    ):
        if stage == Stage.FINAL and int(str(finished_at)) < finished_before:
            old.append(int(str(seq)))
        else:
            kept += 1
        young += finished_before <= int(str(accepted_at)) <= now  # a clock that was ahead says nothing of what follows
        if young == limit:
            break
        if len(old) == limit or kept == MOST_KEPT:
            return old, int(str(seq))
    return old, 0


def _delete(db: apsw.Connection, seqs: Sequence[Value]) -> None:
    for table in ("content", "notification"):
        for chunk in chunks(seqs):
            db.execute(f"DELETE FROM {table} WHERE seq IN ({','.join('?' * len(chunk))})", chunk)
