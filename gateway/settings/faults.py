"""What is wrong with the settings, said so that an operator can put it right.

Owns `Fault`, `SettingsError` and the way in which a validator refuses a value. A fault names the key,
the problem and the remedy, and never quotes the value: it may be a password that landed under the wrong key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, time
from typing import NoReturn

from pydantic_core import PydanticCustomError

REFUSAL = "setting"
"""The pydantic error type of everything that this package refuses by itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to put right: where it is, what is wrong with it, what to do."""

    file: str
    key: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        """Give the fault as one line, `file: [section] key: problem; remedy`."""
        return f"{': '.join(filter(None, (self.file, self.key, self.problem)))}; {self.remedy}"


class SettingsError(Exception):
    """The settings cannot be used; `faults` holds every reason, the environment's first."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        """Keep the faults; the message is one line for each."""
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


def counted(faults: Sequence[Fault]) -> str:
    """Say how many they are."""
    return f"{len(faults)} fault" if len(faults) == 1 else f"{len(faults)} faults"


def refusal(problem: str, remedy: str) -> PydanticCustomError:
    """Make the error that refuses a value; neither text may quote it."""
    return PydanticCustomError(REFUSAL, "{problem}; {remedy}", {"problem": problem, "remedy": remedy})


def refuse(problem: str, remedy: str) -> NoReturn:
    """Refuse the value that is being validated; neither text may quote it."""
    raise refusal(problem, remedy)


def refuse_kind(expected: str, found: object) -> NoReturn:
    """Refuse a value of the wrong kind, naming both kinds and not the value."""
    refuse(f"must be {expected}, but is {kind_of(found)}", f"write {expected}")


def kind_of(value: object) -> str:
    """Name the TOML kind of a value in an operator's words."""
    match value:
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a decimal number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case dict():
            return "a table"
        case date() | time():
            return "a date or time"
        case _:
            return "something else"
