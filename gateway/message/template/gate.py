"""The gate: reads a template ahead of the engine, and lets only the closed language through."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, NoReturn

from gateway.message.template.faults import CHARGE, NO_LITERALS, TOUCH, Part, TemplateError
from gateway.message.template.values import FILTERS, NATIVE_FILTERS

_MAX_JOINS: Final = 10  # "~" and "+" in a tag: what is as big as all the data is repeated no oftener
_MAX_STRINGS: Final = 2_000  # characters of all strings of a tag, which the engine joins and compares unmetered
_MAX_NAME: Final = 200  # characters, which are hashed whenever it is looked up
_MAX_TOKENS: Final = 100  # a tag; the engine's parser recurses over chains, and dies of some ten thousand
_MAX_WORDS: Final = 20_000  # tokens of all tags: what is compiled is kept, and takes a hundred octets for each
_MAX_DEPTH: Final = 50  # blocks inside blocks; every elif counts, as to the engine it is an if inside an else
_TAG: Final = re.compile(r"\{\{[-+]?|\{%[-+]?|\{#")
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<end>[-+]?[}%]\})|(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<name>[^\W\d]\w*)"""
    r"""|(?P<number>[0-9]{1,18}(?:\.[0-9]{1,18})?(?![\w]))|(?P<op>[=!<>]=|//|[.|,()\[\]<>=~+\-/%]))""",
    re.DOTALL,
)
_KEYWORDS: Final = frozenset({"and", "or", "not", "in", "is", "if", "else"})
_CONSTANTS: Final = frozenset({"true", "True", "false", "False", "none", "None"})
_BLOCKS: Final = frozenset({"if", "elif", "else", "endif", "for", "endfor"})
_METERED: Final = 20  # characters: shorter texts are bounded well enough by the fuel

# What leaves through the gate differs from the source in two ways, because the engine works on texts of any length for
# one instruction. There are calls of CHARGE ahead of the texts in loops. And every variable `x` of an expression has
# become `(TOUCH(x) and x)`, which has the same value, also if that is undefined.


class _Token(NamedTuple):
    kind: str
    text: str
    start: int  # where the text begins in the source


_NOTHING: Final = _Token("", "", 0)


class Gate:
    """Reads a template ahead of the engine, refuses what is outside the language, and meters loops and variables.

    Where the two could read a tag differently, this one refuses: it knows no raw blocks, no braces inside
    expressions, no line statements. Grammar it leaves to the engine.
    """

    def __init__(self, part: Part, source: str) -> None:
        self._part = part
        self._source = source
        self._position = 0
        self._open: list[str] = []  # "for", "if", and "elif" on top of its "if"
        self._words = 0
        self._trims = False  # whether the last tag swallows the blanks behind it
        self._pieces: list[str] = []

    def metered(self) -> str:
        """Return the source with its loops and variables metered; raises `TemplateError`."""
        while tag := _TAG.search(self._source, self._position):
            self._text(tag.start())
            self._pieces.append(tag[0])
            self._position = tag.end()
            if tag[0] == "{#":
                self._comment()
            else:
                self._tag(block=tag[0].startswith("{%"))
            # In "{#-#}" the hyphen belongs to the start alone.
            self._trims = self._source[self._position - 3] == "-" and self._position - tag.start() > 5
        self._text(len(self._source))
        return "".join(self._pieces)

    def _text(self, end: int) -> None:
        if "for" in self._open and end - self._position >= _METERED:
            closing = "-}}" if self._trims else "}}"
            self._pieces.append(f"{{{{ {CHARGE}({end - self._position}) {closing}")
        self._pieces.append(self._source[self._position : end])

    def _tag(self, *, block: bool) -> None:
        copied = self._position
        tokens = self._tokens("%}" if block else "}}")
        _check_expression(tokens, self._fail)
        for variable in self._variables(tokens, block=block):
            start, end = variable[0].start, variable[-1].start + len(variable[-1].text)
            text = self._source[start:end]
            self._pieces += self._source[copied:start], f"({TOUCH}({text}) and {text})"
            copied = end
        self._pieces.append(self._source[copied : self._position])
        if block:
            self._block(tokens[0].text)

    def _variables(self, tokens: Sequence[_Token], *, block: bool) -> Iterator[Sequence[_Token]]:
        """Find the variables of an expression: single names, and in a loop `loop` with its attribute."""
        looping = "for" in self._open
        targets = block and tokens[0].text == "for"  # names up to "in" are bound
        for index in range(1 if block else 0, len(tokens) - 1):
            token, after = tokens[index], tokens[index + 1]
            targets = targets and token.text != "in"
            if targets or not _is_variable(tokens, index):
                continue
            if index and (_ends_value(tokens, index - 1) or _is_test(tokens, index - 1)):
                self._fail("a variable follows another value or a test")  # in parentheses it would be an argument
            if not looping or token.text != "loop":
                yield (token,)
            elif after.text == "." and tokens[index + 2].kind == "name":
                yield tokens[index : index + 3]
            else:
                self._fail("in a loop, loop is used with one of its attributes")

    def _comment(self) -> None:
        end = self._source.find("#}", self._position)
        if end < 0:
            self._fail("a comment does not end")
        self._pieces.append(self._source[self._position : end + 2])
        self._position = end + 2

    def _tokens(self, closing: str) -> list[_Token]:
        """Read a tag up to its end, which becomes the last token."""
        tokens: list[_Token] = []
        while len(tokens) <= _MAX_TOKENS:
            match = _TOKEN.match(self._source, self._position)
            if not match:
                self._fail("a tag does not end, or holds a character or number that templates do not have")
            kind = str(match.lastgroup)
            token = _Token(kind, match[kind], match.start(kind))
            if token.kind == "end" and not token.text.endswith(closing):
                self._fail("a tag ends with the wrong bracket")
            self._position = match.end()
            tokens.append(token)
            if token.kind == "end":
                self._words += len(tokens)
                if self._words > _MAX_WORDS:
                    self._fail(f"the tags have more than {_MAX_WORDS} words and signs together")
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
    if sum(len(token.text) for token in tokens if token.kind == "string") > _MAX_STRINGS:
        fail(f"the strings of a tag have more than {_MAX_STRINGS} characters")
    looping = tokens[0].text == "for" and tokens[-1].text.endswith("%}")  # commas are free up to "in"
    before = ("", _NOTHING)  # the last two tokens' texts and kinds, nearest last
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
    if len(name) > _MAX_NAME:
        fail(f"a name is longer than {_MAX_NAME} characters")
    if after == "|" and name not in FILTERS and name not in NATIVE_FILTERS:
        fail(f"there is no filter {name[:40]}")
    if name == "recursive" and after != ".":
        fail("a loop cannot be recursive")


def _bracket(opening: str, previous: _Token, *, before_that: str, fail: Callable[[str], NoReturn]) -> str:
    """Say what a bracket opens: a filter's arguments, a group or a subscript. A call or a list is refused."""
    operand = _is_operand(previous, before_that)
    if opening == "[":
        return "subscript" if operand else fail(NO_LITERALS)
    if previous.kind == "name" and before_that == "|":
        return "arguments"
    return fail("nothing can be called, only filters have arguments") if operand else "group"


def _is_operand(token: _Token, before: str) -> bool:
    """Tell whether a value may end with this token."""
    if token.kind == "name":
        return before == "." or token.text not in _OPERATORS
    return token.kind in {"string", "number"} or token.text in {")", "]"}


def _ends_value(tokens: Sequence[_Token], index: int) -> bool:
    return _is_operand(tokens[index], tokens[index - 1].text if index else "")


def _is_test(tokens: Sequence[_Token], index: int) -> bool:
    """Tell whether a token is the name of a test, which follows `is` or `is not`."""
    before = [token.text for token in tokens[max(0, index - 3) : index]]
    if before[-1:] == ["not"]:
        before.pop()
    return before[-1:] == ["is"] and before[-2:-1] != ["."]


def _is_variable(tokens: Sequence[_Token], index: int) -> bool:
    """Tell whether a token is a name, and not that of an attribute, a filter, a test or an argument."""
    token, before = tokens[index], tokens[index - 1].text if index else ""
    if token.kind != "name" or token.text in _KEYWORDS | _CONSTANTS:
        return False
    return before not in {".", "|"} and tokens[index + 1].text != "=" and not _is_test(tokens, index)


_OPERATORS: Final = _KEYWORDS | {"elif"}
