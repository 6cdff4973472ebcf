"""What all changeable resources share: versions (`ETag`, and what asks for one), replacing, patching, read-only members, lists.

A document that was read may be written back as it is: members that cannot be changed are accepted as long as they say
what is so. PATCH is a JSON merge patch (RFC 7396) on what the caller reads.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from gateway.directory.changes import Actor
from gateway.http.call import JSON_HEADERS, Answer, Call
from gateway.http.faults import translated, validate
from gateway.http.schema import PageQuery
from gateway.http.values import write_cursor
from gateway.problems import Code, Fault, Problem, refusal

Document = dict[str, Any]
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')
NO_CONTENT: Final = Answer(204, b"", {"Cache-Control": "no-store"})


def actor(call: Call) -> Actor:
    """Who the audit names."""
    caller = call.caller
    about = call.params.get("tenant", "")
    if caller.name:
        return Actor(caller.name, caller.tenant, caller.scopes, about=about)
    return Actor(f"key:{caller.key_id}", caller.tenant, caller.scopes, caller.key_id, about)


# Versions.


def written(view: object) -> bytes:
    """Write a view as it is answered."""
    return json.dumps(view, separators=(",", ":"), ensure_ascii=False).encode()


def etag(view: Document) -> str:
    """Name the version of what the caller sees."""
    return '"' + hashlib.sha256(written(view)).hexdigest()[:32] + '"'


def answer(view: Document, status: int = 200, **headers: str) -> Answer:
    """Answer a resource with its version."""
    return Answer(status, written(view), {**JSON_HEADERS, "ETag": etag(view), **headers})


def check_version(call: Call, view: Document | None) -> None:
    """Raise `precondition_failed` if `If-Match` names other versions than this, or `If-None-Match` names this one.

    `*` is whatever there is; `view` is None where there is nothing. RFC 9110 §13.1.1, §13.1.2: a weak tag never matches in
    the first, and like a strong one in the second.
    """
    wanted, unwanted = (",".join(call.headers.getall(name, ())).strip() for name in ("If-Match", "If-None-Match"))
    if not (wanted or unwanted):
        return
    present = None if view is None else etag(view)
    if wanted and (present is None or (wanted != "*" and present not in _tags(wanted, weak=False))):
        raise Problem(Code.PRECONDITION_FAILED)
    if unwanted and present is not None and (unwanted == "*" or present in _tags(unwanted, weak=True)):
        raise Problem(Code.PRECONDITION_FAILED)


def _tags(listed: str, *, weak: bool) -> set[str]:
    return {tag[0].removeprefix("W/") for tag in _TAG.finditer(listed) if weak or not tag[0].startswith("W/")}


# Writing.


def document(call: Call) -> Document:
    """Read the body as an object."""
    try:
        given = from_json(call.body)
    except ValueError:
        raise Problem(Code.BAD_JSON) from None
    if not isinstance(given, dict):
        raise refusal([Fault("", "bad_value", "A JSON object is expected.")])
    return given


def merged(target: object, patch: object) -> Any:
    """Apply a JSON merge patch (RFC 7396 §2)."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def wanted(call: Call, view: Document) -> Document:
    """Give the document that PUT or PATCH ask for."""
    given = document(call)
    if call.method != "PATCH":
        return given
    patched: Document = merged(view, given)
    return patched


def writable(given: Document, view: Document, fixed: Iterable[str]) -> tuple[Document, list[Fault]]:
    """Leave out the members that cannot be changed; a fault for each that says something else than is so."""
    told = [name for name in fixed if name in given]
    wrong = [name for name in told if _ordered(given[name]) != _ordered(view.get(name))]
    rest = {name: value for name, value in given.items() if name not in told}
    return rest, [Fault(f"/{name}", "read_only", "This member cannot be changed.") for name in wrong]


def _ordered(value: object) -> str:
    """Write a value so that equal JSON is equal text: the order of members says nothing, and 0 is not false."""
    return json.dumps(value, sort_keys=True)


def validated(shape: type[M], given: Document) -> tuple[M | None, list[Fault], frozenset[str]]:
    """Make a value of a document: the value or None, its faults, and the members that have them."""
    try:
        return validate(shape, json.dumps(given).encode(), strict=True), [], frozenset()
    except ValidationError as error:
        faults, broken = translated(error)
        return None, list(faults), broken


def parsed(shape: type[M], given: Document, faults: Sequence[Fault] = ()) -> M:
    """Make a value of a document. Raises the problem that tells all faults, these included."""
    value, found, _ = validated(shape, given)
    if value is None or faults:
        raise refusal([*faults, *found])
    return value


# Lists.


def page(
    call: Call, items: Sequence[T], name: Callable[[T], str], view: Callable[[T], Document], **beside: object
) -> Answer:
    """Answer one page of items, in the order of their names, with other members `beside` them."""
    return page_of(call.query(PageQuery), items, name, view, **beside)


def page_of(
    query: PageQuery, items: Sequence[T], name: Callable[[T], str], view: Callable[[T], Document], **beside: object
) -> Answer:
    """Answer the page that a query asks for, likewise."""
    ordered = sorted(items, key=name)
    if query.cursor is not None:
        try:
            after = query.cursor.decode()
        except UnicodeDecodeError:
            raise refusal([Fault("/cursor", "bad_cursor", "The cursor is not one of this list.")]) from None
        ordered = [item for item in ordered if name(item) > after]
    shown = ordered[: query.limit]
    more = write_cursor(name(shown[-1]).encode()) if len(ordered) > len(shown) else None
    return Answer(200, written({"items": [view(item) for item in shown], "next_cursor": more, **beside}))
