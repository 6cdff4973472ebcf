"""The audit log over HTTP: who changed what, newest first, and whether the log is whole; and what it is told of refusals."""

import asyncio
from typing import Any, Final

from pydantic_core import from_json

from gateway.directory.rules import Denial
from gateway.http.call import Answer, Call, json_answer
from gateway.http.resources import Document, actor, written
from gateway.http.schema import PageQuery
from gateway.http.values import write_cursor
from gateway.message.times import time_text
from gateway.problems import Fault, Problem, refusal
from gateway.store.rows import AuditRow

MAX_DIGITS: Final = 18  # of a number that a column can hold


def _view(call: Call, row: AuditRow) -> Document:
    """Show a row; who stands outside the caller's reach is not named."""
    known = call.snapshot.within(row.actor_tenant, call.caller.tenant)
    changes: list[dict[str, Any]] = [_told(call, change) for change in from_json(row.changes)]
    return {
        "number": row.number,
        "at": time_text(row.at),
        "actor": row.actor if known else "ancestor",
        "action": row.action,
        "object": row.object,
        "changes": changes,
        "hash": row.hash.hex(),
    }


def _told(call: Call, change: dict[str, Any]) -> dict[str, Any]:
    """Tell a change without names of tenants outside the caller's reach."""
    if change["field"] != "parent":
        return change
    return {
        name: value
        for name, value in change.items()
        if name == "field" or call.snapshot.within(str(value), call.caller.tenant)
    }


async def listing(call: Call) -> Answer:
    """List a tenant's audit log, newest first; not what another tenant did who had its name before."""
    query = call.query(PageQuery)
    before = None
    if query.cursor is not None:
        if not query.cursor.isdigit() or len(query.cursor) > MAX_DIGITS:
            raise refusal([Fault("/cursor", "bad_cursor", "The cursor is not one of this list.")])
        before = int(query.cursor)
    store, tenant = call.services.store, call.params["tenant"]
    first = await store.audit_origin(tenant)
    rows = [row for row in await store.audit(tenant, before=before, limit=query.limit) if row.number >= first]
    more = write_cursor(str(rows[-1].number).encode()) if rows and rows[-1].number > first else None
    view = {"items": [_view(call, row) for row in rows], "next_cursor": more if len(rows) == query.limit else None}
    return Answer(200, written(view))


async def verify(call: Call) -> Answer:
    """Tell whether each row of the log still follows from the one before."""
    call.no_query()
    tenant = call.params["tenant"]
    broken = await call.services.store.audit_broken(tenant)
    length = await call.services.store.audit_length(tenant)
    return json_answer({"ok": broken is None, "rows": length, "broken_at": broken})


async def tell_denials(call: Call, problem: Problem) -> None:
    """Tell the log which secrets a caller asked for and was refused; what is refused stays so if it cannot be told."""
    denials = call.services.directory.denials
    told = [denials.tell(fault, actor(call)) for fault in problem.errors if isinstance(fault, Denial)]
    if writing := [one for one in told if one is not None]:
        await asyncio.wait(writing)
