"""A document of the API as fields of a form, and back; and each fault beside the field that it is about.

A field is named by the JSON pointer of its member (`/auth/username`). A list is one text with a line for each item. What
is left empty is left out, so that the API's own default stands. Nothing is judged here: what makes no sense as its
kind goes to the API as it was written, and comes back as the API's fault.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl

from gateway.problems import Code, Fault, Problem
from gateway.ui.words import mailbox

Document = dict[str, Any]

MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
MAX_OCTETS: Final = 2_000_000
MAX_FIELDS: Final = 5_000
ON: Final = "on"


class Form:
    """What a browser sent: names with their values, in order; line ends are LF."""

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        self._pairs = [(name, value.replace("\r\n", "\n")) for name, value in pairs]

    def all(self, name: str) -> list[str]:
        """All values of a name."""
        return [value for one, value in self._pairs if one == name]

    def get(self, name: str, default: str = "") -> str:
        """The last value of a name: a box that is ticked comes after the one that stands for its absence."""
        return next((value for one, value in reversed(self._pairs) if one == name), default)

    def __contains__(self, name: str) -> bool:
        return any(one == name for one, _ in self._pairs)

    def named(self, beginning: str) -> dict[str, str]:
        """All names that begin so, without the beginning, each with its last value."""
        return {name.removeprefix(beginning): value for name, value in self._pairs if name.startswith(beginning)}


def read_form(body: bytes) -> Form:
    """Read the body of a form. Raises `bad_request` if it is none."""
    try:
        return Form(
            parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=MAX_FIELDS)
        )
    except ValueError:
        raise Problem(Code.BAD_REQUEST, "The form could not be read.") from None


class Kind(StrEnum):
    """What a field's text stands for."""

    TEXT = "text"
    SECRET = "secret"  # noqa: S105 - a kind of field: text that is never shown again
    NUMBER = "number"
    SWITCH = "switch"
    LINES = "lines"
    MAILBOX = "mailbox"
    MAILBOXES = "mailboxes"


@dataclass(frozen=True, slots=True)
class Field:
    """One field, by its member's pointer."""

    pointer: str
    kind: Kind = Kind.TEXT

    @property
    def steps(self) -> list[str]:
        """The members on the way."""
        return self.pointer.split("/")[1:]


def document(fields: Iterable[Field], form: Form) -> Document:
    """Make the document that a form describes; fields that it does not have, or has empty, are left out."""
    made: Document = {}
    for field in fields:
        if field.pointer in form and (value := _value(field.kind, form.get(field.pointer))) is not None:
            put(made, field.steps, value)
    return made


def _value(kind: Kind, text: str) -> object | None:
    match kind:
        case Kind.SWITCH:
            return text == ON
        case Kind.SECRET:
            return text or None
        case Kind.NUMBER:
            return _number(text.strip())
        case Kind.LINES:
            return lines(text) or None
        case Kind.MAILBOX:
            return read_mailbox(text.strip()) if text.strip() else None
        case Kind.MAILBOXES:
            return [read_mailbox(line) for line in lines(text)] or None
        case Kind.TEXT:
            return text.strip() or None


def _number(text: str) -> object | None:
    try:
        return int(text) if text else None
    except ValueError:
        return text


def lines(text: str) -> list[str]:
    """The lines of a text that are not empty."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_mailbox(text: str) -> str | dict[str, str]:
    """Read `Ann <ann@example.test>`, or a bare address."""
    name, angle, rest = text.rpartition("<")
    if not angle or not rest.endswith(">"):
        return text
    address, name = rest[:-1].strip(), name.strip().strip('"')
    return {"name": name, "address": address} if name else address


def put(made: Document, steps: Sequence[str], value: object) -> None:
    """Put a value at its place, with the members on the way."""
    at = made
    for step in steps[:-1]:
        at = at.setdefault(step, {})
    at[steps[-1]] = value


def values(fields: Iterable[Field], shown: Mapping[str, Any]) -> dict[str, object]:
    """Give each field the text, or the switch's position, that stands for what a document says."""
    return {field.pointer: _text(field.kind, _at(shown, field.steps)) for field in fields}


def _at(shown: object, steps: Sequence[str]) -> object:
    for step in steps:
        shown = shown.get(step) if isinstance(shown, Mapping) else None
    return shown


def _text(kind: Kind, value: Any) -> object:
    match kind:
        case Kind.SWITCH:
            return bool(value)
        case Kind.SECRET:
            return ""
        case _ if value is None:
            return ""
        case Kind.LINES:
            return "\n".join(map(str, value))
        case Kind.MAILBOX:
            return mailbox(value)
        case Kind.MAILBOXES:
            return "\n".join(map(mailbox, value))
        case Kind.NUMBER | Kind.TEXT:
            return str(value)


def as_written(fields: Iterable[Field], form: Form) -> dict[str, object]:
    """Give each field what somebody wrote, to be shown again beside its faults; secrets are written anew."""
    return {
        field.pointer: form.get(field.pointer) == ON
        if field.kind is Kind.SWITCH
        else ""
        if field.kind is Kind.SECRET
        else form.get(field.pointer)
        for field in fields
    }


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong, by field (`beside`), and what is about no field of the form (`rest`)."""

    beside: Mapping[str, list[str]]
    rest: Sequence[str]


NO_FAULTS: Final = Faults({}, ())
CHANGED: Final = (
    "Somebody changed this meanwhile. What you wrote is still here; open the page anew to see what is so now."
)
NO_ROOM: Final = "The gateway's disk is nearly full, so nothing was saved. What you wrote is still here."
LATER: Final = (
    "The gateway cannot save anything at the moment. What you wrote is still here: send it again in a moment."
)
_OF_THE_WHOLE: Final[Mapping[Code, str]] = {
    Code.PRECONDITION_FAILED: CHANGED,
    Code.STORAGE_FULL: NO_ROOM,
    Code.UNAVAILABLE: LATER,
}


def status_of(problem: Problem | None) -> int:
    """Tell with which status a form is shown, again or for the first time."""
    return 200 if problem is None else problem.code.status


def of_the_whole(problem: Problem) -> str:
    """Tell a problem that is about no field, to somebody who sees again what they wrote."""
    return _OF_THE_WHOLE.get(problem.code, problem.detail)


def placed(problem: Problem | None, pointers: Iterable[str]) -> Faults:
    """Put each fault of a problem beside its field: the one of its member, or of the member that this is part of."""
    if problem is None:
        return NO_FAULTS
    known = set(pointers)
    beside: dict[str, list[str]] = {}
    rest: list[str] = []
    for fault in problem.errors:
        place = _field_of(fault, known)
        if place is None:
            rest.append(f"{fault.pointer}: {fault.detail}" if fault.pointer else fault.detail)
        else:
            beside.setdefault(place, []).append(_sentence(fault, place))
    if not problem.errors:
        rest.append(of_the_whole(problem))
    return Faults(beside, rest)


def _field_of(fault: Fault, known: set[str]) -> str | None:
    place = fault.pointer
    while place and place not in known:
        place = place.rpartition("/")[0]
    return place or None


def _sentence(fault: Fault, place: str) -> str:
    """Tell which line of a list is meant."""
    index = fault.pointer.removeprefix(place).split("/")
    return f"Line {int(index[1]) + 1}: {fault.detail}" if len(index) > 1 and index[1].isdigit() else fault.detail
