"""The directory and its audit log on SQLite: what the writer and the reader run."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import apsw

from gateway.store import audit
from gateway.store.protocol import RevisionConflict, StoreError
from gateway.store.rows import AuditRow, Entry, Happening
from gateway.store.sqlite.chunks import chunks

_AUDITED: Final = "SELECT tenant, number, at, actor, actor_tenant, action, object, changes, hash FROM audit"
_NO_LIMIT: Final = -1


def read(db: apsw.Connection) -> tuple[int, list[Entry]]:
    """Read the directory's revision and all of its entries."""
    entries = [
        Entry(*map(str, row))
        for row in db.execute("SELECT kind, tenant, name, body, origin FROM directory ORDER BY 1, 2, 3")
    ]
    return _revision(db), entries


def change(
    db: apsw.Connection,
    revision: int,
    put: Sequence[Entry],
    drop: Sequence[Entry],
    happened: Sequence[Happening],
    now: int,
) -> int:
    """Replace and delete entries if the revision still stands, and log what happened; answers the new revision."""
    if _revision(db) != revision:
        raise RevisionConflict
    db.executemany("DELETE FROM directory WHERE kind=? AND tenant=? AND name=?", (entry[:3] for entry in drop))
    db.executemany("INSERT OR REPLACE INTO directory VALUES (?,?,?,?,?)", put)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('directory_revision', ?)", (str(revision + 1),))
    log(db, happened, now)
    return revision + 1


def log(db: apsw.Connection, happened: Sequence[Happening], now: int) -> None:
    """Continue the chain of each tenant to which something happened.

    What the log refuses takes only its own change along: neither error ends the engine's transaction.
    """
    last: dict[str, AuditRow | None] = {}
    rows: list[AuditRow] = []
    try:
        for one in happened:
            if one.tenant not in last:
                last[one.tenant] = next(iter(newest(db, one.tenant, audit.AFTER_ALL, 1)), None)
            rows.append(audit.following(last[one.tenant], one, now))
            last[one.tenant] = rows[-1]
        # Few statements, as one with triggers walks the whole undo journal; tenant by tenant, as pages are then near.
        for chunk in chunks(sorted(rows)):
            values = ",".join(("(?,?,?,?,?,?,?,?,?)",) * len(chunk))
            db.execute(f"INSERT INTO audit VALUES {values}", tuple(itertools.chain.from_iterable(chunk)))
    except (apsw.SQLError, apsw.ConstraintError) as error:
        raise StoreError(f"the audit log cannot be written: {error}") from error


def newest(db: apsw.Connection, tenant: str, below: int, limit: int) -> list[AuditRow]:
    """Read a tenant's audit rows below a number, newest first."""
    sql = f"{_AUDITED} WHERE tenant=? AND number<? ORDER BY number DESC LIMIT ?"
    return [AuditRow._make(row) for row in db.execute(sql, (tenant, below, limit))]


def origin(db: apsw.Connection, tenant: str) -> int:
    """Read the number under which the tenant itself was made last; 0 if its log does not say."""
    sql = "SELECT coalesce(max(number), 0) FROM audit WHERE tenant=? AND action='tenant.create' AND object=?"
    return int(str(db.execute(sql, (tenant, tenant)).fetchall()[0][0]))


def audited(db: apsw.Connection, tenant: str, after: int) -> list[AuditRow]:
    """Read the page of a tenant's audit rows that comes after a number."""
    return list(_after(db, tenant, after, audit.PAGE))


def audit_fault(db: apsw.Connection, tenant: str) -> int | None:
    """Check a tenant's whole audit log; answers the first number that is missing or wrong, None if all is well."""
    return audit.broken(_after(db, tenant, audit.BEFORE_ALL, _NO_LIMIT))


def _after(db: apsw.Connection, tenant: str, number: int, limit: int) -> Iterator[AuditRow]:
    sql = f"{_AUDITED} WHERE tenant=? AND number>? ORDER BY number LIMIT ?"
    return map(AuditRow._make, db.execute(sql, (tenant, number, limit)))


def _revision(db: apsw.Connection) -> int:
    rows = db.execute("SELECT value FROM meta WHERE name='directory_revision'").fetchall()
    return int(str(rows[0][0])) if rows else 0
