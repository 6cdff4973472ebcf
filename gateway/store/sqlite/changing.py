"""What is written to notifications one by one on SQLite: the final dot, leases that go on or end, what people change.

What comes in numbers (new rows, claims, results) is `group`'s.
"""

from collections.abc import Sequence

import apsw

from gateway.store.rows import Change, Flow, LeasedRow, leased
from gateway.store.sqlite import group
from gateway.store.sqlite.chunks import chunks


def dot(db: apsw.Connection, seq: int, lease_token: int, dotted_for: str) -> bool:
    """Write that the final dot is about to be sent; False if the lease was lost or the row cancelled."""
    db.execute(
        "UPDATE notification SET dotted=1, dotted_for=? WHERE seq=? AND stage=1 AND lease_token=? AND cancelled=0",
        (dotted_for, seq, lease_token),
    )
    return db.changes() == 1


def renew(db: apsw.Connection, lease_tokens: Sequence[int], lease_until: int) -> set[int]:
    """Prolong leases that are still held; answers which."""
    held: set[int] = set()
    for chunk in chunks(lease_tokens):
        sql = "UPDATE notification SET lease_until=? WHERE stage=1 AND lease_token IN ("
        sql += ",".join("?" * len(chunk)) + ") RETURNING lease_token"
        held.update(int(str(token)) for (token,) in db.execute(sql, (lease_until, *chunk)))
    return held


def release_expired(db: apsw.Connection, now: int) -> tuple[list[tuple[Flow, int]], list[LeasedRow]]:
    """End leases that ran out; answers the flows that are ready again, and the rows whose outcome is unknown."""
    released = [
        (Flow(str(tenant), str(profile)), int(str(due_at)))
        for tenant, profile, due_at in db.execute(
            "UPDATE notification SET stage=0, lease_token=NULL, lease_until=NULL"
            " WHERE stage=1 AND lease_until<=? AND dotted=0 RETURNING tenant, profile, due_at",
            (now,),
        )
    ]
    unknown = [
        leased(row)
        for row in db.execute(
            f"SELECT {group.LEASED} FROM notification n LEFT JOIN content c USING (seq)"
            " WHERE n.stage=1 AND n.lease_until<=? AND n.dotted=1",
            (now,),
        )
    ]
    return released, unknown


def change(db: apsw.Connection, wanted: Change) -> bool:
    """Write the row if it is still as `wanted.before` says; False if it moved."""
    before = wanted.before
    db.execute(
        "UPDATE notification SET stage=?, status=?, due_at=?, expires_at=?, finished_at=?, recipients=?,"
        " events=events || ?, cancelled=? WHERE seq=? AND stage=? AND recipients=? AND lease_token IS ?",
        (
            int(wanted.stage), wanted.status, wanted.due_at, wanted.expires_at, wanted.finished_at,
            wanted.recipients, wanted.events, int(wanted.cancelled),
            before.seq, int(before.stage), before.recipients, before.lease_token,
        ),
    )  # fmt: skip
    changed = db.changes() == 1
    if changed and wanted.erase:
        db.execute("DELETE FROM content WHERE seq=?", (before.seq,))
    if changed and wanted.told is not None:
        group.tell(db, wanted.told)
    return changed
