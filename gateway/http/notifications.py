"""Notifications over HTTP: post one or many, look, list, cancel, send again. Decode, call, answer.

A 202 leaves only after the commit. A client that goes away meanwhile changes nothing: what it sent is accepted, and
its idempotency key finds the answer later.

Who may: `send` posts, and sees, cancels and retries what the same key posted; `read` sees everything in its reach;
cancelling and retrying what another key posted takes `admin`. What a caller may not see is not there (404).
"""

import asyncio
import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final, assert_never

from gateway.directory.snapshot import ROOT
from gateway.http.acceptance import (
    Candidate,
    Promise,
    candidate,
    canonical,
    fill,
    replayed,
)
from gateway.http.admission import rate_limited
from gateway.http.call import JSON_HEADERS, Answer, Call, json_answer
from gateway.http.faults import Reading, read
from gateway.http.schema import (
    BatchEnvelope,
    BatchItem,
    ListQuery,
    NotificationRequest,
    ViewQuery,
)
from gateway.http.values import write_cursor
from gateway.http.views import NotificationList, rendered, status_now, summary, view
from gateway.observe import facts
from gateway.outbox.outbox import Cancellation
from gateway.problems import Code, Fault, Problem
from gateway.store.rows import Acceptance, Inserted, Limited, Listing, Mismatched, Replayed, Stage, StoredRow, Withdrawn

MAX_KEY: Final = 255
WITHDRAWN: Final = {"key": Code.UNAUTHORIZED, "tenant": Code.NOT_FOUND}
SCAN_ROWS: Final = 200  # rows read at once for a list by status …
SCAN_PAGES: Final = 10  # … and how often, before a page is answered as full as it got

Refusal = Mismatched | Withdrawn | Limited


async def post(call: Call) -> Answer:
    """Accept one notification."""
    call.no_query()
    return await accept(call, read(NotificationRequest, call.body), promised(call, call.body))


async def accept(call: Call, reading: Reading[NotificationRequest], promise: Promise | None) -> Answer:
    """Accept what was read as one notification, once under its key. Raises the problem that tells why not."""
    try:
        chosen = candidate(call, reading, promise)
        result = await _commit_one(call, chosen)
    except Problem as problem:
        return _again(call, await _remembered(call, reading, promise, problem), reading.value)
    if isinstance(result, Inserted):
        _tell_accepted(chosen)
        return Answer(202, chosen.submission.answer.encode(), {**JSON_HEADERS, "Location": chosen.href})
    if isinstance(result, Replayed):
        return _again(call, result, reading.value)
    raise _problem(result)


def _tell_accepted(chosen: Candidate) -> None:
    notification, profile = chosen.submission.notification, chosen.resolution.profile
    place = None if profile is None else (profile.tenant, profile.name)
    facts.notification_accepted(notification.id, notification.tenant, place, notification.traceparent)


def _again(call: Call, first: Replayed, request: NotificationRequest | None) -> Answer:
    facts.replayed()
    named = None if request is None else request.profile
    document = replayed(first.answer, call.snapshot, call.caller.tenant, named)
    return json_answer(document, 202, Location=str(document["href"]), Idempotency_Replayed="true")


def _problem(refusal: Refusal) -> Problem:
    """Say why the store did not take a notification."""
    match refusal:
        case Mismatched():
            return Problem(Code.IDEMPOTENCY_MISMATCH)
        case Withdrawn(what):
            return Problem(WITHDRAWN[what])
        case Limited(wait):
            return rate_limited(wait)
        case _:
            assert_never(refusal)


async def _remembered(
    call: Call, reading: Reading[NotificationRequest] | Reading[BatchItem], promise: Promise | None, problem: Problem
) -> Replayed:
    """Find the first answer also when the request would not be accepted any more, or not at the moment.

    Whatever may have changed since keeps nobody from it: the tenant, its limits, a template, who may send as whom. Raises
    the problem if there was no first answer: what is wrong by itself never had one, nor has it one outside the reach.
    """
    request = reading.value
    unfit = request is None or reading.faults or problem.code is Code.NOT_FOUND
    if promise is None or promise.fault is not None or request is None or unfit:
        raise problem
    sha256 = promise.sha256(simulated=call.caller.simulated)
    result = await call.services.outbox.recall(request.tenant or call.caller.tenant, promise.key, sha256)
    if isinstance(result, Replayed):
        return result
    raise _problem(result) if isinstance(result, Mismatched) else problem


def promised(call: Call, octets: bytes) -> Promise | None:
    """Give the request's idempotency key with what it stands for; None if it has no key."""
    keys = call.headers.getall("Idempotency-Key", ())
    if not keys:
        return None
    key = keys[0]
    if len(keys) == 1 and 0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable() and " " not in key:
        return Promise(key, octets)
    detail = f"Idempotency-Key is one header of 1 to {MAX_KEY} visible ASCII characters."
    return Promise("", b"", Fault("", "bad_idempotency_key", detail))


async def _commit_one(call: Call, chosen: Candidate) -> Acceptance:
    services = call.services
    tenant = chosen.tenant
    services.admission.admit(tenant, services.outbox.queued[tenant.id], call.now)
    try:
        fill(call, chosen)
        [result] = await services.outbox.accept((chosen.submission,))
    finally:
        services.admission.leave(tenant.id)
    return result


# Batch.


@dataclass(frozen=True, slots=True)
class _Refused:
    """An item that is not accepted now, and why; it may have been before."""

    problem: Problem
    reading: Reading[BatchItem]
    promise: Promise | None


async def batch(call: Call) -> Answer:
    """Accept many notifications in one commit; each item has its own result."""
    call.no_query()
    if "Idempotency-Key" in call.headers:
        detail = "In a batch each item carries its own idempotency_key."
        raise Problem(Code.INVALID, detail, errors=[Fault("", "bad_idempotency_key", detail)])
    items = call.parsed(BatchEnvelope).notifications
    facts.batch(len(items))
    judged = []
    with ExitStack() as entered:
        for item in items:
            judged.append(_judged(call, item, entered))
            await asyncio.sleep(0)  # a template may take its time, and others are waiting
        submissions = [one.submission for one in judged if isinstance(one, Candidate)]
        accepted = iter(await call.services.outbox.accept(submissions) if submissions else ())
    return json_answer(
        {
            "results": [
                await _refusal(call, index, one)
                if isinstance(one, _Refused)
                else _result(index, one, next(accepted), call.request_id)
                for index, one in enumerate(judged)
            ]
        }
    )


def _judged(call: Call, item: object, entered: ExitStack) -> Candidate | _Refused:
    """Decide about an item. One that may be committed is counted in, and counted out when `entered` is closed."""
    octets = canonical(item)
    reading = read(BatchItem, octets)
    key = None if reading.value is None else reading.value.idempotency_key
    promise = Promise(key, octets) if key else None
    admission = call.services.admission
    try:
        chosen = candidate(call, reading, promise)
        admission.admit(chosen.tenant, call.services.outbox.queued[chosen.tenant.id], call.now)
        with ExitStack() as entry:
            entry.callback(admission.leave, chosen.tenant.id)
            fill(call, chosen)
            entered.push(entry.pop_all())
    except Problem as problem:
        return _Refused(problem, reading, promise)
    return chosen


async def _refusal(call: Call, index: int, one: _Refused) -> dict[str, object]:
    """Answer an item that is refused: with its first answer, if it was accepted under its key before."""
    try:
        return _repeated(index, await _remembered(call, one.reading, one.promise, one.problem))
    except Problem as problem:
        return _refused(index, problem, call.request_id)


def _result(index: int, one: Candidate, result: Acceptance, request_id: str) -> dict[str, object]:
    match result:
        case Inserted():
            _tell_accepted(one)
            return {"index": index, "status": 202, "id": one.submission.notification.id}
        case Replayed():
            return _repeated(index, result)
        case _:
            return _refused(index, _problem(result), request_id)


def _repeated(index: int, first: Replayed) -> dict[str, object]:
    facts.replayed()
    return {"index": index, "status": 202, "id": json.loads(first.answer)["id"]}


def _refused(index: int, problem: Problem, request_id: str) -> dict[str, object]:
    facts.refused(problem.code.code)
    return {"index": index, "status": problem.code.status, "problem": problem.document(request_id)}


# Look.


async def locate(call: Call) -> None:
    """Find the notification of the path. Raises `not_found` for one that the caller may not see."""
    row = await call.services.store.get(call.params["id"])
    if row is None or not call.snapshot.within(row.flow.tenant, call.caller.tenant):
        raise Problem(Code.NOT_FOUND)
    if call.caller.may("send") and not call.caller.may("read") and row.key_id != call.caller.key_id:
        raise Problem(Code.NOT_FOUND)
    call.row = row


async def show(call: Call) -> Answer:
    """Show one notification."""
    row = _located(call)
    with_content = call.query(ViewQuery).include is not None
    if with_content:
        if not call.caller.may("admin"):
            raise Problem(Code.FORBIDDEN, "Content is for administrators.")
        row = await _reread(call, content=True)
    return Answer(200, rendered(view(call, row, with_content=with_content), with_content=with_content))


async def listing(call: Call) -> Answer:
    """List notifications, newest first."""
    query = call.query(ListQuery)
    if query.tenant is not None:
        call.within_reach(query.tenant)
        tenants: tuple[str, ...] | None = (query.tenant,)
    else:
        tenants = None if call.caller.tenant == ROOT else call.snapshot.reach(call.caller.tenant)
    own = None if call.caller.may("read") else call.caller.key_id
    wanted = Listing(
        tenants, 0, query.cursor.hex() if query.cursor else None, own, query.category, query.since, query.until
    )
    rows, more = await _page(call, query, wanted)
    items = tuple(summary(call, row) for row in rows)
    page = NotificationList(items=items, next_cursor=write_cursor(bytes.fromhex(more)) if more else None)
    return Answer(200, page.model_dump_json(by_alias=True).encode())


async def _page(call: Call, query: ListQuery, wanted: Listing) -> tuple[list[StoredRow], str | None]:
    """Read a page, and the id after which the next one begins.

    Status is derived, so rows of one status are picked out here. A page that finds few among many ends early, with
    a cursor, rather than keep its caller waiting.
    """
    size = query.limit + 1 if query.status is None else SCAN_ROWS
    found: list[StoredRow] = []
    before = wanted.before_id
    for _ in range(SCAN_PAGES):
        rows = await call.services.store.page(replace(wanted, limit=size, before_id=before))
        found += (row for row in rows if query.status is None or status_now(call, row) is query.status)
        if len(found) > query.limit:
            return found[: query.limit], found[query.limit - 1].id
        if len(rows) < size:
            return found, None
        before = rows[-1].id
    return found, before


def _located(call: Call) -> StoredRow:
    if call.row is None:
        raise Problem(Code.NOT_FOUND)
    return call.row


async def _reread(call: Call, *, content: bool = False) -> StoredRow:
    row = await call.services.store.get(call.params["id"], content=content)
    if row is None:  # pruned since it was located
        raise Problem(Code.NOT_FOUND)
    return row


# Change.


async def cancel(call: Call) -> Answer:
    """Cancel what is not final. Mail on the wire cannot be called back; what is left of it is not tried again."""
    call.no_query()
    row = _changeable(call)
    match await call.services.outbox.cancel(row.id, call.caller.key_id):
        case None:
            return Answer(200, rendered(view(call, await _reread(call))))
        case Cancellation.FINISHED:
            raise Problem(Code.ALREADY_FINAL)
        case _:
            raise Problem(Code.NOT_FOUND)


async def retry(call: Call) -> Answer:
    """Make deferred, failed, expired and uncertain recipients due now."""
    call.no_query()
    row = _changeable(call)
    ttl = call.services.settings.relay.default_ttl_seconds * 1000
    reason = await call.services.outbox.retry(row.id, ttl, call.caller.key_id)
    row = await _reread(call)
    if reason == Cancellation.MOVED:
        raise Problem(Code.IN_FLIGHT)
    if reason is not None and row.content is None:
        raise Problem(Code.CONTENT_GONE)
    if reason is not None and row.stage is Stage.FINAL:
        raise Problem(Code.ALREADY_FINAL)
    # What is queued is due already: to ask for it is no mistake.
    return Answer(200, rendered(view(call, row)))


def _changeable(call: Call) -> StoredRow:
    row = _located(call)
    own = row.key_id == call.caller.key_id and call.caller.may("send")
    if not own and not call.caller.may("admin"):
        raise Problem(Code.FORBIDDEN, "Only the key that posted it, or an administrator, may do this.")
    return row
