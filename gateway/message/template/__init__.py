"""Tenants' notification templates: a small, closed part of Jinja's language, rendered by MiniJinja.

Owns: which templates are accepted (`check`), what one makes of a tenant's data (`render`), and the limits on both.

The language: `{{ expression }}`, `{# comment #}`, `if`/`elif`/`else`, `for`/`else`, whitespace control with `-`.
Expressions have names, attributes, subscripts, strings, numbers, comparisons, `and or not in is`, the inline `if`,
`~ + - / // %`, tests without a variable behind them, and the filters of `FILTERS`. The engine knows far more, and most of
the rest is refused here, before the engine reads it, because its own limits do not hold: it counts instructions
("fuel"), not memory or the length of what they work on, and long chains of operators overflow its parser's stack, which
ends the process, and no exception can be caught. What is left cannot make a value that grows: only `for` binds a name,
and only to something out of the data. And what it costs is counted here: every variable, by its length, every element,
every filter, every output. The fuel is left to bound what touches nothing.

Promises, for every template and all data, hostile ones included:

- a result or a `TemplateError`, after about a second at worst for all parts together, compiling included, and within
  some tens of megabytes;
- an unknown variable is an error, and so is printing a list, a mapping or null, or joining a list or a mapping;
- data is JSON and nothing else; no method of any object can be reached, and the caller's data is never changed;
- html is escaped, always; subject and text are not; a subject is one line; a body's last line end is kept;
- an error names the part and, where known, the line, may quote the template's own words, and never the data.

Never loads anything: a template stands alone, each in an engine of its own, and no two tenants meet but as equal
source text, whose compiled form holds no data. Compiled templates are kept, as rendering is on the sending path.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import minijinja

from gateway.message.address import TextError, check_text
from gateway.message.template.faults import CHARGE, TOO_LONG, TOO_MUCH, TOUCH, UNSUITABLE, Part, TemplateError
from gateway.message.template.gate import Gate
from gateway.message.template.values import FILTERS, Loader, Meter, charge, encodable, printed, touch
from gateway.message.template.values import meter as current

__all__ = ["Part", "Rendered", "TemplateError", "check", "render"]

_MAX_SOURCE: Final = 100_000  # characters a part
_MAX_OUTPUT: Final = {"subject": 998, "text": 1_000_000, "html": 1_000_000}  # characters
_FUEL: Final = 250_000  # the engine's instructions a part
_WORK: Final = 2_000_000  # what all parts together may touch: characters, and elements by their weight
_CACHED: Final = 256  # compiled parts

_FAULTS: Final = {
    "UndefinedError": "a variable is unknown",
    "OutOfFuel": TOO_MUCH,
    "UnknownTest": "a test is unknown",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a notification says; a part is None exactly if it has no template."""

    subject: str
    text: str | None
    html: str | None


def check(subject: str, text: str | None, html: str | None) -> list[TemplateError]:
    """Return the syntax errors of a template, the first one of each faulty part; an empty list accepts it."""
    errors: list[TemplateError] = []
    for part, source in _parts(subject, text, html):
        try:
            _compiled(part, source)
        except TemplateError as error:
            errors.append(error)
    return errors


def render(subject: str, text: str | None, html: str | None, data: Mapping[str, object]) -> Rendered:
    """Return the parts rendered with `data`, JSON as `json.loads` returns it; raises `TemplateError`."""
    values = Loader().top(data)
    meter = Meter(_WORK)
    done = {part: _rendered(part, source, values, meter) for part, source in _parts(subject, text, html)}
    try:
        check_text(done["subject"])
    except TextError:
        raise TemplateError("subject", "the result holds a line break or another control character") from None
    return Rendered(done["subject"], done.get("text"), done.get("html"))


def _parts(subject: str, text: str | None, html: str | None) -> list[tuple[Part, str]]:
    parts: list[tuple[Part, str | None]] = [("subject", subject), ("text", text), ("html", html)]
    return [(part, source) for part, source in parts if source is not None]


def _rendered(part: Part, source: str, values: Mapping[str, object], meter: Meter) -> str:
    engine = _compiled(part, source)
    meter.room = _MAX_OUTPUT[part]
    token = current.set(meter)
    try:
        result = engine.render_template(part, **values)
    except BaseException as error:
        if not _is_fault(error):
            raise
        raise TemplateError(part, *_reason(error, meter)) from None
    finally:
        current.reset(token)
    if meter.fault:  # the engine drops what is raised inside a comparison
        raise TemplateError(part, meter.fault)
    if len(result) > _MAX_OUTPUT[part]:  # escaping makes html longer than what was metered
        raise TemplateError(part, TOO_LONG)
    return result


def _reason(error: BaseException, meter: Meter) -> tuple[str, int | None]:
    """Return what to tell about a fault, and its line, which faults of functions written here do not have."""
    if not isinstance(error, minijinja.TemplateError):
        return meter.fault or UNSUITABLE, None
    return meter.fault or _FAULTS.get(error.kind, UNSUITABLE), error.line


def _is_fault(error: BaseException) -> bool:
    # The engine's panics are no Exception: nothing up to the event loop would stop one.
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@lru_cache(maxsize=_CACHED)
def _compiled(part: Part, source: str) -> minijinja.Environment:
    """Return an engine that holds this one template and can load no other."""
    if len(source) > _MAX_SOURCE:
        raise TemplateError(part, f"the template is longer than {_MAX_SOURCE} characters")
    if not encodable(source):
        raise TemplateError(part, "the template holds a lone surrogate")
    engine = _engine()
    try:
        engine.add_template(part, Gate(part, source).metered())
    except minijinja.TemplateError as error:
        # The engine's words are about the template alone: it has seen no data.
        raise TemplateError(part, error.detail or "the syntax is wrong", error.line) from None
    except BaseException as error:
        if isinstance(error, Exception) or not _is_fault(error):
            raise
        raise TemplateError(part, "the syntax is wrong") from None
    return engine


def _engine() -> minijinja.Environment:
    engine = minijinja.Environment(
        fuel=_FUEL,
        undefined_behavior="strict",
        auto_escape_callback=lambda name: name == "html",
        keep_trailing_newline=True,
        debug=False,  # debug errors carry the data
        pycompat=False,
        finalizer=printed,
        filters=FILTERS,
    )
    for name in engine.globals:
        engine.remove_global(name)
    engine.add_global(CHARGE, charge)
    engine.add_global(TOUCH, touch)
    return engine
