"""Documents of the API from a command's options and from files.

A command that saves something has a table of fields; each is an option and the place in the document where its value
goes. A field that was not given is not in the document; one that was given empty takes its value away. `-` in the
place of a file is standard input.
"""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from enum import Enum
from pathlib import Path
from typing import IO, Any, Final

import click

Document = dict[str, Any]


class Kind(Enum):
    """What an option takes."""

    TEXT = "a text that cannot be taken away"
    OPTIONAL = "a text; empty takes it away"
    NUMBER = "a number"
    LIMIT = "a number; 0 takes the limit away"
    FLAG = "yes or no"
    MANY = "texts; one empty text takes all of them away"
    FILE = "a file, whose text is the value"


_ATTRIBUTES: Final[Mapping[Kind, Document]] = {
    Kind.TEXT: {},
    Kind.OPTIONAL: {},
    Kind.NUMBER: {"type": int},
    Kind.LIMIT: {"type": click.IntRange(min=0)},
    Kind.FLAG: {"default": None},
    Kind.MANY: {"multiple": True},
    Kind.FILE: {"type": click.File(encoding="utf-8")},
}


@dataclass(frozen=True, slots=True)
class Field:
    """An option, and the dotted place where its value goes; `choices`, unless empty, are all that it takes."""

    option: str
    place: str
    kind: Kind = Kind.TEXT
    help: str = ""
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How the value is handed to the command."""
        return self.place.replace(".", "__")

    def value(self, given: Any) -> Any:
        """Read what was given; None takes away."""
        match self.kind:
            case Kind.OPTIONAL | Kind.LIMIT:
                return given or None
            case Kind.MANY:
                return None if given == ("",) else list(given)
            case Kind.FILE:
                return read(given)
            case _:
                return given


def options(fields: Sequence[Field]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of a table."""

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(fields):
            attributes = {**_ATTRIBUTES[field.kind], **({"type": click.Choice(field.choices)} if field.choices else {})}
            command = click.option(field.option, field.name, help=field.help, **attributes)(command)
        return command

    return give


def document(fields: Sequence[Field], given: Mapping[str, Any], base: Document | None = None) -> Document:
    """Make a document of the fields that were given, on top of one from a file."""
    whole: Document = base if base is not None else {}
    for field in fields:
        value = given[field.name]
        if value is not None and value != ():
            put(whole, field.place, field.value(value))
    return whole


def put(whole: Document, place: str, value: Any) -> None:
    """Put a value at its dotted place."""
    *above, last = place.split(".")
    for name in above:
        part = whole.get(name)
        if not isinstance(part, dict):
            # What stands there as a text is an address, which may also be written with its name.
            part = whole[name] = {"address": part} if isinstance(part, str) else {}
        whole = part
    whole[last] = value


# Files.


def read(file: IO[str]) -> str:
    """Read a file that an option named."""
    try:
        return file.read()
    except UnicodeDecodeError:
        raise click.UsageError(f"{file.name}: is not UTF-8") from None


def load(file: Path) -> Document:
    """Read a TOML file, or by its name a JSON file, as the JSON that the API takes; tells what keeps it from being one.

    Times become RFC 3339 text.
    """
    try:
        text = file.read_text(encoding="utf-8")
        whole = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
        told = json.loads(json.dumps(whole, default=_time, allow_nan=False))
    except OSError as error:
        raise click.UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{file}: is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"{file}: is not TOML: {error}") from None
    except ValueError as error:
        raise click.UsageError(f"{file}: is not JSON: {error}") from None
    if not isinstance(told, dict):
        raise click.UsageError(f"{file}: is not an object of fields")
    return told


def _time(value: object) -> str:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    raise TypeError(type(value).__name__)


FILE: Final = click.option("--file", type=click.Path(path_type=Path), help="TOML or JSON with the API's fields")
