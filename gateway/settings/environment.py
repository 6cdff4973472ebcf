"""The environment's say in the settings: NOTIFICATION_GATEWAY_<SECTION>__<KEY> over what the file says.

Only scalar keys of sections with fixed names can be set this way. Values are text; where the key holds a number or
true/false they are read as TOML would read them, and are left as text (to be refused as such) when they are none.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic.fields import FieldInfo

from gateway.settings.document import NAMED, Settings
from gateway.settings.faults import Fault
from gateway.settings.kinds import ONE_OR_MANY, kinds_in, sections_in

PREFIX = "NOTIFICATION_GATEWAY_"
ORIGIN = "environment"
"""What stands in place of the file's name in a fault."""

_INTEGER = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")


@dataclass(frozen=True, slots=True)
class Variable:
    """A setting in the environment: the variable's name, the key it sets, its text."""

    name: str
    section: str
    key: str
    text: str


def overlay(written: Mapping[str, object], environ: Mapping[str, str]) -> tuple[dict[str, object], list[Fault]]:
    """Return the file's tables with the environment's keys set in them, and a fault for each unknown variable."""
    merged, faults = dict(written), []
    for variable in variables(environ):
        field = _scalars().get((variable.section, variable.key))
        if field is None:
            faults.append(_unknown(variable))
            continue
        table = merged.get(variable.section, {})
        if isinstance(table, dict):  # anything else is refused when the section is validated
            merged[variable.section] = {**table, variable.key: _read(variable.text, field)}
    return merged, faults


def variables(environ: Mapping[str, str]) -> Iterator[Variable]:
    """Yield the settings among the variables; a name without a double underscore is none."""
    for name, text in sorted(environ.items()):
        section, separator, key = name.removeprefix(PREFIX).partition("__")
        if name.startswith(PREFIX) and separator:
            yield Variable(name, section.lower(), key.lower(), text)


def _scalars() -> dict[tuple[str, str], FieldInfo]:
    return {
        (section, key): field
        for section, table in Settings.model_fields.items()
        if section not in NAMED
        for model in sections_in(table.annotation)
        for key, field in model.model_fields.items()
        if _is_scalar(field)
    }


def _is_scalar(field: FieldInfo) -> bool:
    return ONE_OR_MANY in field.metadata or not (
        tuple in kinds_in(field.annotation) or any(sections_in(field.annotation))
    )


def _read(text: str, field: FieldInfo) -> object:
    if field.annotation is int and _INTEGER.fullmatch(text):
        return int(text)
    if field.annotation is bool and text in ("true", "false"):
        return text == "true"
    return text


def _unknown(variable: Variable) -> Fault:
    known = [f"{PREFIX}{section}__{key}".upper() for section, key in _scalars()]
    near = get_close_matches(variable.name, known, n=1, cutoff=0.8)
    table = Settings.model_fields.get(variable.section)
    problem, remedy = "is not a setting", "remove it"
    if table and any(variable.key in model.model_fields for model in sections_in(table.annotation)):
        problem, remedy = "sets a list or a table, which the environment cannot", "set it in the settings file"
    elif near:
        remedy = f"did you mean {near[0]}?"
    return Fault(ORIGIN, variable.name, problem, remedy)
