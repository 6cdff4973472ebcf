"""Pydantic's errors in the words of an operator: which key, what is wrong, what to write.

Pydantic's own messages are never shown, because several quote the value; each type of error has its sentence here,
and one that has none (a newer pydantic's) is told without detail.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.settings.document import NAMED, Settings
from gateway.settings.faults import REFUSAL, kind_of
from gateway.settings.kinds import Section, sections_in

Location = tuple[int | str, ...]

_UNKNOWN_WORD = "is none of the words that are known here"

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAPPING_KEY = "[key]"
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "mapping_type": "a table",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_BOUNDS = {
    "greater_than_equal": ("is too small", "ge", "{} at least"),
    "less_than_equal": ("is too large", "le", "{} at most"),
}


def explain(error: ValidationError) -> Iterator[tuple[Location, str, str]]:
    """Yield (location, problem, remedy) for each thing that pydantic found; the location is without union tags."""
    for line in error.errors(include_url=False):
        location = _untagged(line["loc"])
        if line["type"].startswith("union_tag"):
            location = (*location, str(line["ctx"]["discriminator"]).strip("'"))
        yield location, *_sentence(line)


def key_of(location: Location) -> str:
    """Write a location as `[section] key`, as `[section]` for a whole section."""
    depth = 2 if location[:1] and location[0] in NAMED else 1
    section = ".".join(_written(part) for part in location[:depth])
    rest = ""
    for part in location[depth:]:
        rest += f"[{part}]" if isinstance(part, int) else f".{_written(part)}"
    return f"[{section}] {rest.removeprefix('.')}".rstrip()


def _written(part: int | str) -> str:
    shown = str(part)
    return shown if _BARE_KEY.fullmatch(shown) else '"' + shown.encode("unicode_escape").decode() + '"'


def _untagged(location: Location) -> Location:
    # Inside a discriminated union pydantic inserts the tag: connections.<name>.<kind>.auth.<method>.<key>.
    parts = [part for part in location if part != _MAPPING_KEY]
    if parts[0] == "connections" and len(parts) > 2:
        del parts[2]
        if len(parts) > 3 and parts[2] == "auth":
            del parts[3]
    return tuple(parts)


def _sentence(line: ErrorDetails) -> tuple[str, str]:
    context: dict[str, Any] = line.get("ctx", {})
    kind = line["type"]
    sentence = "is not valid", "see the reference of the settings file"
    if kind == REFUSAL:
        sentence = context["problem"], context["remedy"]
    elif kind == "extra_forbidden":
        sentence = "is not a known key", _nearest(line["loc"])
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind]
        sentence = f"must be {expected}, but is {kind_of(line['input'])}", f"write {expected}"
    elif kind in _BOUNDS:
        problem, bound, remedy = _BOUNDS[kind]
        sentence = problem, f"give {remedy.format(context[bound])}"
    elif kind == "literal_error":
        sentence = _UNKNOWN_WORD, f"write {context['expected']}"
    elif kind == "union_tag_invalid":
        sentence = _UNKNOWN_WORD, _tags(line["loc"])
    elif kind == "union_tag_not_found":
        sentence = "is missing", _tags(line["loc"])
    elif kind == "missing":
        sentence = "is missing", "give this key"
    return sentence


def _tags(location: Location) -> str:
    return "write one of " + ", ".join(f"'{tag}'" for model in _sections_at(location) for tag in _tags_of(model))


def _nearest(location: Location) -> str:
    known = [key for section in _sections_at(location[:-1]) for key in section.model_fields]
    near = get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {near[0]}?" if near else "remove it"


def _sections_at(location: Location) -> list[type[Section]]:
    """Find what may stand at a location, which still has its union tags: one section, or the variants of a union."""
    models: list[type[Section]] = [Settings]
    for position, part in enumerate(location):
        if position == 1 and location[0] in NAMED:
            continue  # a name that the operator chose; it may well be spelled like a key
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            models = [section for field in fields for section in sections_in(field.annotation)]
        else:
            models = [model for model in models if part in _tags_of(model)] or models
    return models


def _tags_of(model: type[Section]) -> tuple[str, ...]:
    discriminators = [model.model_fields[key] for key in ("kind", "method") if key in model.model_fields]
    return tuple(tag for field in discriminators for tag in get_args(field.annotation))
