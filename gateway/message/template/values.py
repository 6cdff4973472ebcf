"""The data as a template sees it, and the filters: every step through either is metered."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import quote

from gateway.message.template.faults import CHARGE, TOO_LONG, TOO_MUCH, TOUCH, TemplateError

_MAX_VALUES: Final = 20_000
_MAX_CHARS: Final = 100_000
_MAX_DATA_DEPTH: Final = 30
_UNPRINTABLE: Final = "only strings, numbers and booleans can be printed, not a list, a mapping or null"
# What things cost beside their characters, of which one is one. The engine asks a container what it is at every use.
_CALL: Final = 4
_SCALAR: Final = 2
_CONTAINER: Final = 6


# The meter: one a rendering. Whatever the engine does with the data, it does through the classes and functions
# below, so they are where work is counted. What is raised in a class the engine drops, and goes on with undefined; the
# next variable, filter or output ends the rendering then.


class _Stop(Exception):
    """Ends a rendering; the meter holds the sentence."""


@dataclass(slots=True)
class Meter:
    """What a rendering may still do, and one of its parts still say. `fault` is a sentence once it has to end."""

    work: int
    room: int = 0
    fault: str = ""

    def spend(self, amount: int) -> None:
        """Count elements or characters touched; raises `_Stop`."""
        self.work -= amount
        if self.work < 0:
            self.stop(TOO_MUCH)

    def emit(self, chars: int) -> None:
        """Count characters of output; raises `_Stop`."""
        self.room -= chars
        if self.room < 0:
            self.stop(TOO_LONG)

    def stop(self, fault: str) -> NoReturn:
        """End the rendering with a sentence for the author, without its full stop."""
        self.fault = self.fault or fault
        raise _Stop


meter: ContextVar[Meter] = ContextVar("template_meter")


def charge(chars: int) -> str:
    """Count text that a loop emits; the gate calls it from within templates."""
    meter.get().emit(chars)
    return ""


def touch(value: object) -> bool:
    """Count a variable, and the characters of one that is a string: the engine works on those unmetered."""
    meter.get().spend(_CALL + (len(value) if isinstance(value, str) else 0))
    return True


def printed(value: object) -> object:
    """Let the engine print strings, numbers and booleans, and count them."""
    meter.get().spend(_CALL)
    if isinstance(value, str):
        meter.get().emit(len(value))
    elif isinstance(value, bool | int | float):
        meter.get().emit(len(str(value)))
    else:
        meter.get().stop(_UNPRINTABLE)
    return NotImplemented


class _Container:
    """A part of the data that is no text: what is joined to a string with `~` ends the rendering."""

    __slots__ = ()

    def __str__(self) -> str:
        current = meter.get()
        current.fault = current.fault or _UNPRINTABLE  # raised here it would be written to stderr, and dropped
        return ""


class _List(_Container):
    """A JSON array as the engine sees it: items, a length, and no attribute to reach."""

    __slots__ = ("_items",)

    def __init__(self, items: Sequence[object]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> object:
        value = self._items[index]
        meter.get().spend(_weight(value))
        return value


Sequence.register(_List)  # the engine asks for one; inheriting would add attributes


class _Map(_Container):
    """A JSON object as the engine sees it. The engine tells mappings by their having `items`."""

    __slots__ = ("_items", "_missed", "_walk")

    def __init__(self, items: Mapping[str, object]) -> None:
        self._items = items
        self._missed = False
        self._walk = sum(map(_weight, items))

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[str]:
        meter.get().spend(self._walk)
        return iter(self._items)

    def __getitem__(self, key: str) -> object:
        self._missed = key == "items" and key not in self._items
        value = self._items[key]
        meter.get().spend(_weight(value))
        return value

    @property
    def items(self) -> None:
        """Exist, except when the engine asks because there is no item of this name."""
        if self._missed:
            self._missed = False
            raise AttributeError


def _weight(value: object) -> int:
    if isinstance(value, str):
        return _SCALAR + len(value)
    return _CONTAINER if isinstance(value, _Container) else _SCALAR


class Loader:
    """Copies JSON into what the engine may see, and counts it."""

    def __init__(self) -> None:
        self._values = _MAX_VALUES
        self._chars = _MAX_CHARS

    def top(self, data: Mapping[str, object]) -> dict[str, object]:
        """Return the template's variables; raises `TemplateError` with the part "data"."""
        values = {self._key(key): self._load(value, 1) for key, value in data.items()}
        for name in (CHARGE, TOUCH):  # no template could name them, but they would hide the meter
            values.pop(name, None)
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
        if not encodable(text):
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


def encodable(text: str) -> bool:
    """Tell whether text has a UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# The filters are written here because the engine's own are neither metered nor bounded.


def _string(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        meter.get().stop("a filter for text is given something else")
    text = str(value)
    meter.get().spend(_CALL + len(text))
    return text


def _sequence(value: object) -> list[object]:
    if not isinstance(value, _List):
        meter.get().stop("a filter for lists is given something else")
    meter.get().spend(_CALL)
    return [value[index] for index in range(len(value))]


def _attributes(values: Sequence[object], name: object) -> list[object]:
    found: list[object] = []
    for value in values:
        if not isinstance(value, _Map) or name not in value:
            meter.get().stop("an attribute is missing from an item of a list")
        found.append(value[str(name)])
    return found


def _join(value: object, separator: object = "", *, attribute: object = None) -> str:
    items = _sequence(value)
    texts = [_string(item) for item in (items if attribute is None else _attributes(items, attribute))]
    glue = _string(separator)
    meter.get().spend(len(glue) * len(texts))
    return glue.join(texts)


def _sort(value: object, *, attribute: object = None, reverse: object = False) -> _List:
    items = _sequence(value)
    keys = items if attribute is None else _attributes(items, attribute)
    if not (all(isinstance(key, str) for key in keys) or all(isinstance(key, int | float) for key in keys)):
        meter.get().stop("a list to sort holds neither strings alone nor numbers alone")
    meter.get().spend(_SCALAR * len(items))  # bringing them into order takes as long as taking them
    order = sorted(range(len(items)), key=lambda index: keys[index], reverse=bool(reverse))  # type: ignore[arg-type,return-value]
    return _List([items[index] for index in order])


def _items(value: object) -> _List:
    if not isinstance(value, _Map):
        meter.get().stop("a filter for mappings is given something else")
    return _List([_List([key, value[key]]) for key in value])


def _edge(index: int) -> Callable[[object], object]:
    def edge(value: object) -> object:
        if not isinstance(value, _List) or not len(value):
            meter.get().stop("an item is taken from an empty list, or from something else")
        meter.get().spend(_CALL)
        return value[index]

    return edge


def _replace(value: object, old: object, new: object) -> str:
    text, found, put = _string(value), _string(old), _string(new)
    meter.get().spend(text.count(found) * len(put))
    return text.replace(found, put)


def _round(value: object, digits: object = 0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        meter.get().stop("a filter for numbers is given something else")
    if not isinstance(digits, int) or not 0 <= digits <= 15:
        meter.get().stop("a number is rounded to 0 to 15 digits")
    meter.get().spend(_CALL)
    return round(float(value), digits)


def _text_filter(function: Callable[[str], str]) -> Callable[[object], str]:
    def filtered(value: object) -> str:
        text = _string(value)
        result = function(text)
        meter.get().spend(max(0, len(result) - len(text)))
        return result

    return filtered


FILTERS: Final[dict[str, Callable[..., object]]] = {
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
NATIVE_FILTERS: Final = frozenset({"default", "length"})  # both take one step, and only the engine knows undefined
