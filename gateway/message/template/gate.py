"""The gate: reads a template ahead of the engine, and lets only the closed language through."""

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, NoReturn

from gateway.message.template.faults import CHARGE, NO_LITERALS, Part, TemplateError
from gateway.message.template.values import FILTERS, NATIVE_FILTERS

_MAX_JOINS: Final = 10  # "~" and "+" in a tag: what is as big as all the data is repeated no oftener
_MAX_TOKENS: Final = 100  # a tag; the engine's parser recurses over chains, and dies of some ten thousand
_MAX_DEPTH: Final = 50  # blocks inside blocks; every elif counts, as to the engine it is an if inside an else
_TAG: Final = re.compile(r"\{\{[-+]?|\{%[-+]?|\{#")
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<end>[-+]?[}%]\})|(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<name>[^\W\d]\w*)"""
    r"""|(?P<number>[0-9]{1,18}(?:\.[0-9]{1,18})?(?![\w]))|(?P<op>[=!<>]=|//|[.|,()\[\]<>=~+\-/%]))""",
    re.DOTALL,
)
_KEYWORDS: Final = frozenset({"and", "or", "not", "in", "is", "if", "else"})
_BLOCKS: Final = frozenset({"if", "elif", "else", "endif", "for", "endfor"})
_METERED: Final = 20  # characters: shorter texts are bounded well enough by the fuel

# What leaves through the gate differs from the source only by calls of CHARGE ahead of the texts in loops, because
# the engine emits text of any length for one instruction.


class _Token(NamedTuple):
    kind: str
    text: str


class Gate:
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
            self._pieces.append(f"{{{{ {CHARGE}({end - self._position}) {closing}")
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
            fail(NO_LITERALS)
        before = (previous.text, token)


def _check_name(name: str, *, after: str, fail: Callable[[str], NoReturn]) -> None:
    if name.startswith("__"):
        fail("a name does not begin with two underscores")
    if after == "|" and name not in FILTERS and name not in NATIVE_FILTERS:
        fail(f"there is no filter {name[:40]}")
    if name == "recursive" and after != ".":
        fail("a loop cannot be recursive")


def _bracket(opening: str, previous: _Token, *, before_that: str, fail: Callable[[str], NoReturn]) -> str:
    """Say what a bracket opens: a filter's arguments, a group or a subscript. A call or a list is refused."""
    operand = previous.kind in {"string", "number"} or previous.text in {")", "]"}
    operand = operand or (previous.kind == "name" and (before_that == "." or previous.text not in _OPERATORS))
    if opening == "[":
        return "subscript" if operand else fail(NO_LITERALS)
    if previous.kind == "name" and before_that == "|":
        return "arguments"
    return fail("nothing can be called, only filters have arguments") if operand else "group"


_OPERATORS: Final = _KEYWORDS | {"elif"}
