"""What is told about a template that cannot be used."""

from typing import Final, Literal

Part = Literal["subject", "text", "html", "data"]

CHARGE: Final = "__charge"  # no template can say these two: names with two leading underscores are refused
TOUCH: Final = "__touch"
TOO_LONG: Final = "the result is too long"
TOO_MUCH: Final = "the template takes too many steps"
UNSUITABLE: Final = "an operation does not suit the values it is given"
NO_LITERALS: Final = "lists, tuples and assignments cannot be written in a template"


class TemplateError(ValueError):
    """A template that cannot be used; `str()` is one sentence for its author, `line` counts from 1 if known.

    `part` is "subject", "text" or "html", or "data" when the data would suit no template.
    """

    def __init__(self, part: Part, detail: str, line: int | None = None) -> None:
        where = part if line is None else f"{part}, line {line}"
        super().__init__(f"In the {where}: {detail}.")
        self.part = part
        self.line = line
