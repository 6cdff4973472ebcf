"""Bodies and queries become models, or all of their faults at once.

Owns the translation from the validator's errors to `Fault`s with JSON pointers. Never repeats input: what a fault
says is fixed text, and its pointer names only the place.

Rules between fields are told together with the fields' own faults: what is wrong is taken out, the rest is validated
again, and the rules look at what remains (`Shape.contradictions`). A valid body pays for none of this.

A body may be made of faults alone, and finding and telling them costs more than anything else that is done to it. Of
one with more than `ORDINARY` values, or more than `MOST_ERRORS` faults, each list is therefore left at its first fault, and
a map that is too large not looked into; if there are still more faults than that, only so much is told.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, Generic, TypeVar, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticKnownError, from_json

from gateway.http.density import has_more_values
from gateway.problems import MAX_FAULTS, Code, Fault, Problem, refusal

MAX_POINTER: Final = 200  # characters; names of unknown fields are the caller's own words, and may be long
ORDINARY: Final = 10_000  # values of a body of which all faults are looked for …
MOST_ERRORS: Final = 2_000  # … and the most faults of which the first are told; all of them are written out for that
TOO_MANY: Final = Fault("", "too_many", "The body has more faults than can be told.")

_CODES: Final[Mapping[str, str]] = {
    "missing": "required",
    "extra_forbidden": "unknown_field",
    "too_long": "too_long",
    "string_too_long": "too_long",
    "too_short": "too_short",
    "string_too_short": "too_short",
}
_DETAILS: Final[Mapping[str, str]] = {
    "missing": "This field is required.",
    "extra_forbidden": "There is no such field.",
    "string_pattern_mismatch": "The text does not have the required form.",
    "model_type": "A JSON object is expected.",
    "dict_type": "A JSON object is expected.",
}


class Shape(BaseModel):
    """A body or a query: strict about kinds, without unknown fields, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    def contradictions(self, broken: frozenset[str]) -> Iterable[Fault]:
        """Give the faults between fields; `broken` names the fields that have faults of their own and stand empty."""
        del broken
        return ()


class NoQuery(Shape):
    """No parameters."""


M = TypeVar("M", bound=BaseModel)
S = TypeVar("S", bound=Shape)
S_co = TypeVar("S_co", bound=Shape, covariant=True)


@dataclass(frozen=True, slots=True)
class Reading(Generic[S_co]):
    """What was read: the value, as far as it could be, its faults, and the top-level fields that have them.

    `value` is None if nothing could be made of the input; without faults it is whole.
    """

    value: S_co | None
    faults: tuple[Fault, ...] = ()
    broken: frozenset[str] = frozenset()


def read(shape: type[S], body: bytes) -> Reading[S]:
    """Validate a JSON body. Raises a `bad_json` problem if it is none; everything else is told in the reading."""
    try:
        value = validate(shape, body)
    except ValidationError as error:
        return _faulty(shape, body, error)
    return Reading(value, tuple(value.contradictions(frozenset())))


def validate(shape: type[M], body: bytes, *, strict: bool | None = None) -> M:
    """Validate JSON in bounded time and memory. Raises ValidationError with all faults, or the first of each list."""
    if not has_more_values(body, ORDINARY):
        try:
            return shape.model_validate_json(body, strict=strict)
        except ValidationError as error:
            if error.error_count() <= MOST_ERRORS:
                raise
    value: M = _curt(shape).model_validate_json(body, strict=strict)
    return value


@lru_cache(maxsize=64)  # there are fewer shapes
def _curt(shape: type[M]) -> type[M]:
    """Make the same shape, except that its lists are left at their first fault, and too large maps are not looked into."""
    fields: dict[str, Any] = {}
    for name, field in shape.model_fields.items():
        if get_origin(field.annotation) in (tuple, list):
            fields[name] = Annotated[field.annotation, *field.metadata, FailFast()], field
        elif get_origin(field.annotation) is dict:
            bounds = [_AtMost(one.max_length) for one in field.metadata if hasattr(one, "max_length")]
            fields[name] = Annotated[field.annotation, *field.metadata, *map(BeforeValidator, bounds)], field
    return create_model(shape.__name__, __base__=shape, **fields)


@dataclass(frozen=True, slots=True)
class _AtMost:
    """Refuses a map by its size before anything in it is looked at."""

    most: int

    def __call__(self, value: object) -> object:
        """Give the map; raises PydanticKnownError."""
        if isinstance(value, dict) and len(value) > self.most:
            sizes = {"field_type": "Dictionary", "max_length": self.most, "actual_length": len(value)}
            raise PydanticKnownError("too_long", sizes)
        return value


def parse(shape: type[S], body: bytes) -> S:
    """Validate a JSON body. Raises a problem with all its faults."""
    return whole(read(shape, body))


def parse_query(shape: type[S], query: Sequence[tuple[str, str]]) -> S:
    """Validate a query string's names and values. Raises a problem with all its faults."""
    return whole(read_query(shape, query))


def read_query(shape: type[S], query: Sequence[tuple[str, str]]) -> Reading[S]:
    """Validate a query string's names and values, each of which may be absent. Raises a problem for a repeated one."""
    values = _collected(shape, query)
    try:
        value = shape.model_validate(values, strict=False)
    except ValidationError as error:
        faults, broken = translated(error)
        rest = shape.model_validate({name: given for name, given in values.items() if name not in broken}, strict=False)
        return Reading(rest, (*faults, *rest.contradictions(broken)), broken)
    return Reading(value, tuple(value.contradictions(frozenset())))


def _collected(shape: type[S], query: Sequence[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Give each name its value, or its values where the shape has a list."""
    lists = {name for name, field in shape.model_fields.items() if get_origin(field.annotation) is tuple}
    values: dict[str, str | list[str]] = {}
    for name, value in query:
        known = values.setdefault(name, []) if name in lists else None
        if isinstance(known, list):
            known.append(value)
        elif name in values:
            raise refusal([Fault("", "repeated", "A query parameter is given more than once.")])
        else:
            values[name] = value
    return values


def whole(reading: Reading[S]) -> S:
    """Give the value of a reading without faults. Raises a problem with all faults otherwise."""
    if reading.faults or reading.value is None:
        raise refusal(reading.faults)
    return reading.value


def _faulty(shape: type[S], body: bytes, error: ValidationError) -> Reading[S]:
    faults, broken = translated(error)
    document = _document(body)
    if not broken or not isinstance(document, dict):
        return Reading(None, faults)
    rest = {name: value for name, value in document.items() if name not in broken}
    try:
        value = validate(shape, json.dumps(rest).encode())
    except ValidationError:  # a required field is missing, or wrong: there is no rest to speak of
        return Reading(None, faults, broken)
    return Reading(value, (*faults, *value.contradictions(broken)), broken)


def _document(body: bytes) -> object:
    try:
        document: object = from_json(body)
    except ValueError:
        # The parser's own words name only a line and a column, but which of them is its affair.
        raise Problem(Code.BAD_JSON) from None
    return document


def translated(error: ValidationError) -> tuple[tuple[Fault, ...], frozenset[str]]:
    """Say in our words what the validator found; answers also which top-level fields have faults."""
    if error.error_count() > MOST_ERRORS:
        return (TOO_MANY,), frozenset()
    lines = error.errors(include_url=False, include_context=False, include_input=False)
    return tuple(map(_fault, lines[:MAX_FAULTS])), frozenset(str(line["loc"][0]) for line in lines if line["loc"])


def _fault(line: ErrorDetails) -> Fault:
    kind = line["type"]
    # Kinds with a name of our own are raised by our validators, with a sentence of our own.
    code = _CODES.get(kind) or (kind if kind in OWN_KINDS else "bad_value")
    return Fault(pointer(line["loc"]), code, _DETAILS.get(kind) or _sentence(line["msg"]))


def _sentence(message: str) -> str:
    return message if message.endswith(".") else f"{message}."


def pointer(place: Iterable[int | str]) -> str:
    """Write a place in a document as a JSON pointer (RFC 6901 §3)."""
    steps = [str(step).replace("~", "~0").replace("/", "~1") for step in place if step != "[key]"]
    return "".join(f"/{step}" for step in steps)[:MAX_POINTER]


OWN_KINDS: Final = frozenset({
    "bad_address", "bad_base64", "bad_category", "bad_cidr", "bad_content_type", "bad_cursor", "bad_header", "bad_host",
    "bad_time", "bad_url", "conflict", "control_character", "repeated", "required", "too_long", "too_many",
})  # fmt: skip
