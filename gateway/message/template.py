"""Tenants' notification templates: a small, closed part of Jinja's language, rendered by MiniJinja.

Owns: which templates are accepted (`check`), what one makes of a tenant's data (`render`), and the limits on both.

The language: `{{ expression }}`, `{# comment #}`, `if`/`elif`/`else`, `for`/`else`, whitespace control with `-`.
Expressions have names, attributes, subscripts, strings, numbers, comparisons, `and or not in is`, the inline `if`,
`~ + - / // %`, and the filters of `_FILTERS`. The engine knows far more, and most of the rest is refused here,
before the engine reads it, because its own limits do not hold: it counts instructions ("fuel"), not memory, and
long chains of operators overflow its parser's stack; either ends the process, and no exception can be caught.
What is left cannot make a value that grows: only `for` binds a name, and only to something out of the data.

Promises, for every template and all data, hostile ones included:

- a result or a `TemplateError`, after about a second at worst and within some tens of megabytes;
- an unknown variable is an error, and so is printing a list, a mapping or null;
- data is JSON and nothing else; no method of any object can be reached, and the caller's data is never changed;
- html is escaped, always; subject and text are not; a subject is one line; a body's last line end is kept;
- an error names the part and, where known, the line, may quote the template's own words, and never the data.

Never loads anything: a template stands alone, each in an engine of its own, and no two tenants meet but as equal
source text, whose compiled form holds no data. Compiled templates are kept, as rendering is on the sending path.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple, NoReturn
from urllib.parse import quote

import minijinja

from gateway.message.address import TextError, check_text

Part = Literal["subject", "text", "html", "data"]

_MAX_SOURCE: Final = 100_000  # characters a part
_MAX_OUTPUT: Final = {"subject": 998, "text": 1_000_000, "html": 1_000_000}  # characters
_FUEL: Final = 100_000  # the engine's instructions a part
_WORK: Final = 1_000_000  # elements and characters a part may touch through containers and filters
_MAX_JOINS: Final = 10  # "~" and "+" in a tag: what is as big as all the data is repeated no oftener
_MAX_TOKENS: Final = 100  # a tag; the engine's parser recurses over chains, and dies of some ten thousand
_MAX_DEPTH: Final = 50  # blocks inside blocks; every elif counts, as to the engine it is an if inside an else
_MAX_VALUES: Final = 20_000
_MAX_CHARS: Final = 100_000
_MAX_DATA_DEPTH: Final = 30
_CACHED: Final = 256  # compiled parts

_TAG: Final = re.compile(r"\{\{[-+]?|\{%[-+]?|\{#")
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<end>[-+]?[}%]\})|(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<name>[^\W\d]\w*)"""
    r"""|(?P<number>[0-9]{1,18}(?:\.[0-9]{1,18})?(?![\w]))|(?P<op>[=!<>]=|//|[.|,()\[\]<>=~+\-/%]))""",
    re.DOTALL,
)
_KEYWORDS: Final = frozenset({"and", "or", "not", "in", "is", "if", "else"})
_BLOCKS: Final = frozenset({"if", "elif", "else", "endif", "for", "endfor"})
_METERED: Final = 20  # characters: shorter texts are bounded well enough by the fuel
_CHARGE: Final = "__charge"  # no template can say it: names with two leading underscores are refused

_TOO_LONG: Final = "the result is too long"
_TOO_MUCH: Final = "the template takes too many steps"
_UNSUITABLE: Final = "an operation does not suit the values it is given"
_NO_LITERALS: Final = "lists, tuples and assignments cannot be written in a template"
# What a fault of the engine is called; its own words may quote the data.
_FAULTS: Final = {
    "UndefinedError": "a variable is unknown",
    "OutOfFuel": _TOO_MUCH,
    "UnknownTest": "a test is unknown",
}


class TemplateError(ValueError):
    """A template that cannot be used; `str()` is one sentence for its author, `line` counts from 1 if known.

    `part` is "subject", "text" or "html", or "data" when the data would suit no template.
    """

    def __init__(self, part: Part, detail: str, line: int | None = None) -> None:
        where = part if line is None else f"{part}, line {line}"
        super().__init__(f"In the {where}: {detail}.")
        self.part = part
        self.line = line


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
    values = _Loader().top(data)
    done = {part: _rendered(part, source, values) for part, source in _parts(subject, text, html)}
    try:
        check_text(done["subject"])
    except TextError:
        raise TemplateError("subject", "the result holds a line break or another control character") from None
    return Rendered(done["subject"], done.get("text"), done.get("html"))


def _parts(subject: str, text: str | None, html: str | None) -> list[tuple[Part, str]]:
    parts: list[tuple[Part, str | None]] = [("subject", subject), ("text", text), ("html", html)]
    return [(part, source) for part, source in parts if source is not None]


def _rendered(part: Part, source: str, values: Mapping[str, object]) -> str:
    engine = _compiled(part, source)
    meter = _Meter(_WORK, _MAX_OUTPUT[part])
    token = _meter.set(meter)
    try:
        result = engine.render_template(part, **values)
    except BaseException as error:
        if not _is_fault(error):
            raise
        raise TemplateError(part, *_reason(error, meter)) from None
    finally:
        _meter.reset(token)
    if meter.fault:  # the engine drops what is raised inside a comparison
        raise TemplateError(part, meter.fault)
    if len(result) > _MAX_OUTPUT[part]:  # escaping makes html longer than what was metered
        raise TemplateError(part, _TOO_LONG)
    return result


def _reason(error: BaseException, meter: "_Meter") -> tuple[str, int | None]:
    """Return what to tell about a fault, and its line, which faults of functions written here do not have."""
    if not isinstance(error, minijinja.TemplateError):
        return meter.fault or _UNSUITABLE, None
    return meter.fault or _FAULTS.get(error.kind, _UNSUITABLE), error.line


def _is_fault(error: BaseException) -> bool:
    # The engine's panics are no Exception: nothing up to the event loop would stop one.
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@lru_cache(maxsize=_CACHED)
def _compiled(part: Part, source: str) -> minijinja.Environment:
    """Return an engine that holds this one template and can load no other."""
    if len(source) > _MAX_SOURCE:
        raise TemplateError(part, f"the template is longer than {_MAX_SOURCE} characters")
    if not _encodable(source):
        raise TemplateError(part, "the template holds a lone surrogate")
    engine = _engine()
    try:
        engine.add_template(part, _Gate(part, source).metered())
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
        finalizer=_printed,
        filters=_FILTERS,
    )
    for name in engine.globals:
        engine.remove_global(name)
    engine.add_global(_CHARGE, _charge)
    return engine


# What leaves through the gate differs from the source only by calls of _CHARGE ahead of the texts in loops, because
# the engine emits text of any length for one instruction.


class _Token(NamedTuple):
    kind: str
    text: str


class _Gate:
    """Reads a template ahead of the engine, refuses what is outside the language, and meters the loops.

    Where the two could read a tag differently, this one refuses: it knows no raw blocks, no braces inside
    expressions, no line statements. Grammar it leaves to the engine.
    """

    def __init__(self, part: Part, source: str) -> None:
        self._part = part
        self._source = source
        self._position = 0
        self._open: list[str] = []  # "for", "if", and "elif" on top of its "if"
        self._trims = False  # whether the last tag swallows the blanks behind it
        self._pieces: list[str] = []

    def metered(self) -> str:
        """Return the source with its loops metered; raises `TemplateError`."""
        while tag := _TAG.search(self._source, self._position):
            self._text(tag.start())
            self._position = tag.end()
            if tag[0] == "{#":
                self._comment()
            else:
                self._tag(block=tag[0].startswith("{%"))
            # In "{#-#}" the hyphen belongs to the start alone.
            self._trims = self._source[self._position - 3] == "-" and self._position - tag.start() > 5
            self._pieces.append(self._source[tag.start() : self._position])
        self._text(len(self._source))
        return "".join(self._pieces)

    def _text(self, end: int) -> None:
        if "for" in self._open and end - self._position >= _METERED:
            closing = "-}}" if self._trims else "}}"
            self._pieces.append(f"{{{{ {_CHARGE}({end - self._position}) {closing}")
        self._pieces.append(self._source[self._position : end])

    def _tag(self, *, block: bool) -> None:
        tokens = self._tokens("%}" if block else "}}")
        _check_expression(tokens, self._fail)
        if block:
            self._block(tokens[0].text)

    def _comment(self) -> None:
        end = self._source.find("#}", self._position)
        if end < 0:
            self._fail("a comment does not end")
        self._position = end + 2

    def _tokens(self, closing: str) -> list[_Token]:
        """Read a tag up to its end, which becomes the last token."""
        tokens: list[_Token] = []
        while len(tokens) <= _MAX_TOKENS:
            match = _TOKEN.match(self._source, self._position)
            if not match:
                self._fail("a tag does not end, or holds a character or number that templates do not have")
            token = _Token(str(match.lastgroup), match[str(match.lastgroup)])
            if token.kind == "end" and not token.text.endswith(closing):
                self._fail("a tag ends with the wrong bracket")
            self._position = match.end()
            tokens.append(token)
            if token.kind == "end":
                return tokens
        return self._fail(f"a tag has more than {_MAX_TOKENS} words and signs")

    def _block(self, name: str) -> None:
        if name not in _BLOCKS:
            self._fail("the only block tags are if, elif, else, endif, for and endfor")
        if name in {"if", "elif", "for"}:
            self._open.append(name)
        elif name.startswith("end"):  # the engine sees to it that the right one is closed
            while self._open and self._open.pop() == "elif":
                pass
        if len(self._open) > _MAX_DEPTH:
            self._fail(f"more than {_MAX_DEPTH} blocks are open, counting every elif")

    def _fail(self, detail: str) -> NoReturn:
        raise TemplateError(self._part, detail, self._source.count("\n", 0, self._position) + 1)


def _check_expression(tokens: Sequence[_Token], fail: Callable[[str], NoReturn]) -> None:
    """Refuse calls, literals of lists and tuples, assignments, and filters that are not known here."""
    brackets: list[str] = []
    if sum(token.text in {"~", "+"} for token in tokens) > _MAX_JOINS:
        fail(f"a tag has more than {_MAX_JOINS} of ~ and +")
    looping = tokens[0].text == "for" and tokens[-1].text.endswith("%}")  # commas are free up to "in"
    before = ("", _Token("", ""))  # the last two tokens' texts and kinds, nearest last
    for token in tokens:
        previous = before[1]
        if token.kind == "name":
            _check_name(token.text, after=previous.text, fail=fail)
            looping = looping and token.text != "in"
        elif token.text in {"(", "["}:
            brackets.append(_bracket(token.text, previous, before_that=before[0], fail=fail))
        elif token.text in {")", "]"} and brackets:
            brackets.pop()
        elif token.text in {",", "="} and brackets[-1:] != ["arguments"] and not (looping and token.text == ","):
            fail(_NO_LITERALS)
        before = (previous.text, token)


def _check_name(name: str, *, after: str, fail: Callable[[str], NoReturn]) -> None:
    if name.startswith("__"):
        fail("a name does not begin with two underscores")
    if after == "|" and name not in _FILTERS and name not in _NATIVE_FILTERS:
        fail(f"there is no filter {name[:40]}")
    if name == "recursive" and after != ".":
        fail("a loop cannot be recursive")


def _bracket(opening: str, previous: _Token, *, before_that: str, fail: Callable[[str], NoReturn]) -> str:
    """Say what a bracket opens: a filter's arguments, a group or a subscript. A call or a list is refused."""
    operand = previous.kind in {"string", "number"} or previous.text in {")", "]"}
    operand = operand or (previous.kind == "name" and (before_that == "." or previous.text not in _OPERATORS))
    if opening == "[":
        return "subscript" if operand else fail(_NO_LITERALS)
    if previous.kind == "name" and before_that == "|":
        return "arguments"
    return fail("nothing can be called, only filters have arguments") if operand else "group"


_OPERATORS: Final = _KEYWORDS | {"elif"}


# The meter: one a rendering. Whatever the engine does with the data, it does through the classes and functions
# below, so they are where work is counted.


class _Stop(Exception):
    """Ends a rendering; the meter holds the sentence."""


@dataclass(slots=True)
class _Meter:
    """What a rendering may still do. `fault` is a sentence once it has to end."""

    work: int
    room: int
    fault: str = ""

    def spend(self, amount: int) -> None:
        """Count elements or characters touched; raises `_Stop`."""
        self.work -= amount
        if self.work < 0:
            self.stop(_TOO_MUCH)

    def emit(self, chars: int) -> None:
        """Count characters of output; raises `_Stop`."""
        self.room -= chars
        if self.room < 0:
            self.stop(_TOO_LONG)

    def stop(self, fault: str) -> NoReturn:
        """End the rendering with a sentence for the author, without its full stop."""
        self.fault = self.fault or fault
        raise _Stop


_meter: ContextVar[_Meter] = ContextVar("template_meter")


def _charge(chars: int) -> str:
    _meter.get().emit(chars)
    return ""


def _printed(value: object) -> object:
    """Let the engine print strings, numbers and booleans, and count them."""
    if isinstance(value, str):
        _meter.get().emit(len(value))
    elif isinstance(value, bool | int | float):
        _meter.get().emit(len(str(value)))
    else:
        _meter.get().stop("only strings, numbers and booleans can be printed, not a list, a mapping or null")
    return NotImplemented


class _List:
    """A JSON array as the engine sees it: items, a length, and no attribute to reach."""

    __slots__ = ("_items",)

    def __init__(self, items: Sequence[object]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> object:
        value = self._items[index]
        _meter.get().spend(_weight(value))
        return value


Sequence.register(_List)  # the engine asks for one; inheriting would add attributes


class _Map:
    """A JSON object as the engine sees it. The engine tells mappings by their having `items`."""

    __slots__ = ("_items", "_missed")

    def __init__(self, items: Mapping[str, object]) -> None:
        self._items = items
        self._missed = False

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[str]:
        _meter.get().spend(len(self._items))
        return iter(self._items)

    def __getitem__(self, key: str) -> object:
        self._missed = key == "items" and key not in self._items
        value = self._items[key]
        _meter.get().spend(_weight(value))
        return value

    @property
    def items(self) -> None:
        """Exist, except when the engine asks because there is no item of this name."""
        if self._missed:
            self._missed = False
            raise AttributeError


def _weight(value: object) -> int:
    return 1 + len(value) if isinstance(value, str) else 1


class _Loader:
    """Copies JSON into what the engine may see, and counts it."""

    def __init__(self) -> None:
        self._values = _MAX_VALUES
        self._chars = _MAX_CHARS

    def top(self, data: Mapping[str, object]) -> dict[str, object]:
        """Return the template's variables; raises `TemplateError` with the part "data"."""
        values = {self._key(key): self._load(value, 1) for key, value in data.items()}
        values.pop(_CHARGE, None)  # no template could name it, but it would hide the meter
        return values

    def _load(self, value: object, depth: int) -> object:
        self._values -= 1
        if self._values < 0 or depth > _MAX_DATA_DEPTH:
            raise TemplateError("data", "there are too many values, or they are nested too deep")
        kind = type(value)  # exactly: a subclass may bring methods, or call itself safe html
        if kind is str:
            return self._string(str(value))
        if isinstance(value, dict) and kind is dict:
            return _Map({self._key(key): self._load(item, depth + 1) for key, item in value.items()})
        if isinstance(value, list) and kind is list:
            return _List([self._load(item, depth + 1) for item in value])
        return _scalar(value)

    def _key(self, key: object) -> str:
        if type(key) is not str:
            raise TemplateError("data", "a name is not a string")
        return self._string(key)

    def _string(self, text: str) -> str:
        self._chars -= len(text)
        if self._chars < 0:
            raise TemplateError("data", f"there are more than {_MAX_CHARS} characters")
        if not _encodable(text):
            raise TemplateError("data", "a string holds a lone surrogate")
        return text


def _scalar(value: object) -> object:
    if value is None or type(value) is bool:
        return value
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise TemplateError("data", "a value is not JSON, or is a number of more than 64 bits")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# The filters are written here because the engine's own are neither metered nor bounded.


def _string(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        _meter.get().stop("a filter for text is given something else")
    text = str(value)
    _meter.get().spend(len(text))
    return text


def _sequence(value: object) -> list[object]:
    if not isinstance(value, _List):
        _meter.get().stop("a filter for lists is given something else")
    return [value[index] for index in range(len(value))]


def _attributes(values: Sequence[object], name: object) -> list[object]:
    found: list[object] = []
    for value in values:
        if not isinstance(value, _Map) or name not in value:
            _meter.get().stop("an attribute is missing from an item of a list")
        found.append(value[str(name)])
    return found


def _join(value: object, separator: object = "", *, attribute: object = None) -> str:
    items = _sequence(value)
    texts = [_string(item) for item in (items if attribute is None else _attributes(items, attribute))]
    glue = _string(separator)
    _meter.get().spend(len(glue) * len(texts))
    return glue.join(texts)


def _sort(value: object, *, attribute: object = None, reverse: object = False) -> _List:
    items = _sequence(value)
    keys = items if attribute is None else _attributes(items, attribute)
    if not (all(isinstance(key, str) for key in keys) or all(isinstance(key, int | float) for key in keys)):
        _meter.get().stop("a list to sort holds neither strings alone nor numbers alone")
    order = sorted(range(len(items)), key=lambda index: keys[index], reverse=bool(reverse))  # type: ignore[arg-type,return-value]
    return _List([items[index] for index in order])


def _items(value: object) -> _List:
    if not isinstance(value, _Map):
        _meter.get().stop("a filter for mappings is given something else")
    return _List([_List([key, value[key]]) for key in value])


def _edge(index: int) -> Callable[[object], object]:
    def edge(value: object) -> object:
        if not isinstance(value, _List) or not len(value):
            _meter.get().stop("an item is taken from an empty list, or from something else")
        return value[index]

    return edge


def _replace(value: object, old: object, new: object) -> str:
    text, found, put = _string(value), _string(old), _string(new)
    _meter.get().spend(text.count(found) * len(put))
    return text.replace(found, put)


def _round(value: object, digits: object = 0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _meter.get().stop("a filter for numbers is given something else")
    if not isinstance(digits, int) or not 0 <= digits <= 15:
        _meter.get().stop("a number is rounded to 0 to 15 digits")
    return round(float(value), digits)


def _text_filter(function: Callable[[str], str]) -> Callable[[object], str]:
    return lambda value: function(_string(value))


_FILTERS: Final[dict[str, Callable[..., object]]] = {
    "capitalize": _text_filter(str.capitalize),
    "first": _edge(0),
    "items": _items,
    "join": _join,
    "last": _edge(-1),
    "lower": _text_filter(str.lower),
    "map": lambda value, *, attribute: _List(_attributes(_sequence(value), attribute)),
    "replace": _replace,
    "reverse": lambda value: _List(_sequence(value)[::-1]),
    "round": _round,
    "sort": _sort,
    "title": _text_filter(str.title),
    "trim": _text_filter(str.strip),
    "upper": _text_filter(str.upper),
    "urlencode": _text_filter(lambda text: quote(text, safe="")),
}
_NATIVE_FILTERS: Final = frozenset({"default", "length"})  # both take one step, and only the engine knows undefined
