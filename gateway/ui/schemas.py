"""JSON Schema as people read it: the members of an object, what each may be, and what is inside.

Reads what pydantic writes of our models, and nothing more of the standard. References are followed, and each schema is
opened where it is used, but for one that holds itself: it is named there and not opened again. Where many use the same
ones, objects can be named instead, between backticks, and told once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Schema = Mapping[str, Any]

LONGEST_DEFAULT: Final = 60  # characters: what is longer stands in the members themselves
NULL: Final = "null"
ANYTHING: Final = "any JSON value"


@dataclass(frozen=True, slots=True)
class Value:
    """What a value may be: its kind, its limits in words, all that it can be if that is a choice, and what is inside."""

    kind: str
    limits: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    members: tuple["Member", ...] = ()
    told: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object, or a parameter; `default` is JSON, empty if there is none that is worth telling."""

    name: str
    value: Value
    told: str
    required: bool
    default: str


class Schemas:
    """Reads schemas whose references are to these, by name."""

    def __init__(self, named: Mapping[str, Schema], *, by_name: bool = False) -> None:
        self._named = named
        self._by_name = by_name
        self._met: dict[str, None] = {}

    def read(self, schema: Schema) -> Value:
        """Tell what a value of this schema may be."""
        return self._read(schema, frozenset())

    def met(self) -> Iterator[tuple[str, Value]]:
        """Tell of all objects that were only named, and of those that are named by these."""
        told: set[str] = set()
        while ahead := sorted(self._met.keys() - told):
            for name in ahead:
                told.add(name)
                yield name, self._read(self._named[name], frozenset())

    def member(self, name: str, schema: Schema, *, required: bool, told: str = "") -> Member:
        """Tell of one member."""
        return self._member(name, schema, required, frozenset(), told)

    def example(self, schema: Schema) -> object:
        """Give the first example of a schema."""
        while "$ref" in schema:
            schema = self._named[schema["$ref"].rpartition("/")[2]]
        return schema["examples"][0]

    def _member(self, name: str, schema: Schema, required: bool, seen: frozenset[str], told: str = "") -> Member:  # noqa: FBT001 - private
        value = self._read(schema, seen)
        return Member(name, value, told or value.told, required, _default(schema))

    def _read(self, schema: Schema, seen: frozenset[str]) -> Value:
        if "$ref" in schema:
            return self._referred(schema, seen)
        told = schema.get("description", "")
        variants = [one for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ())) if not _is_rule(one)]
        if variants:
            return _joined([self._read(one, seen) for one in variants], told)
        if "const" in schema or "enum" in schema:
            choices = schema.get("enum", [schema.get("const")])
            return Value(schema.get("type", "string"), (), tuple(map(_plain, choices)), (), told)
        match schema.get("type"):
            case "array":
                item = self._read(schema.get("items", {}), seen)
                limits = (*_limits(schema), *(f"each {limit}" for limit in item.limits))
                return Value(f"list of {item.kind}", limits, item.choices, item.members, told)
            case "object":
                return self._object(schema, seen, told)
            case None:
                return Value(ANYTHING, told=told)
            case kind:
                return Value(str(kind), tuple(_limits(schema)), (), (), told)

    def _referred(self, schema: Schema, seen: frozenset[str]) -> Value:
        name = schema["$ref"].rpartition("/")[2]
        if name in seen:
            return Value(name)
        if self._by_name and self._named[name].get("type") == "object":
            self._met[name] = None
            return Value(f"`{name}`", told=self._named[name].get("description", ""))
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return self._read({**self._named[name], **rest}, seen | {name})

    def _object(self, schema: Schema, seen: frozenset[str], told: str) -> Value:
        required = schema.get("required", ())
        members = tuple(
            self._member(name, inner, name in required, seen) for name, inner in schema.get("properties", {}).items()
        )
        by_name = schema.get("additionalProperties")
        if not members and isinstance(by_name, Mapping):
            inner = self._read(by_name, seen)
            limits = (*_limits(schema), *(f"each {limit}" for limit in inner.limits))
            return Value(f"object of {inner.kind}", limits, inner.choices, inner.members, told)
        return Value("object", (*_limits(schema), *_rules(schema)), (), members, told)


def _is_rule(variant: Schema) -> bool:
    """Does it only say which members go together?"""
    return set(variant) == {"required"}


def _rules(schema: Schema) -> Iterator[str]:
    ways = [" and ".join(one["required"]) for one in schema.get("anyOf", ()) if _is_rule(one)]
    if ways:
        yield "with " + ", or ".join(ways)


def _joined(values: list[Value], told: str) -> Value:
    """Make one of variants; objects of several forms are told one after the other."""
    formed = [value for value in values if value.members]
    members = formed[0].members if len(formed) == 1 else tuple(_form(value) for value in formed)
    return Value(
        " or ".join(dict.fromkeys(value.kind for value in values)),
        _unique(limit for value in values for limit in value.limits),
        _unique(choice for value in values for choice in value.choices),
        members,
        told or " ".join(_unique(value.told for value in values if value.told)),
    )


def _form(value: Value) -> Member:
    return Member("", value, value.told, required=False, default="")


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _default(schema: Schema) -> str:
    if schema.get("default") in (None, [], {}):
        return ""
    text = _plain(schema["default"]) if isinstance(schema["default"], str) else json.dumps(schema["default"])
    return text if len(text) <= LONGEST_DEFAULT else ""


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _limits(schema: Schema) -> Iterator[str]:
    for least, most, unit in (
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " members"),
        ("minimum", "maximum", ""),
    ):
        if text := _between(schema.get(least), schema.get(most), unit):
            yield text
    if "format" in schema:
        yield str(schema["format"])
    if "pattern" in schema:
        yield f"like `{schema['pattern']}`"


def _between(least: float | None, most: float | None, unit: str) -> str:
    if most is None:
        return "" if least is None else f"at least {least}{unit}"
    return f"at most {most}{unit}" if not least else f"{least} to {most}{unit}"
