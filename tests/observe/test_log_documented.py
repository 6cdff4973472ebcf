"""Every event of the log stands in the README, with its level and its fields, and none stands there that is not."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import NamedTuple

from gateway.observe import facts

README = Path(__file__).parents[2] / "README.md"
FACTS = Path(facts.__file__).parent
SHARED = {  # what helpers add to a line's fields
    "_placed": {"owner", "profile"}, "_traced": {"trace_id"}, "_said": {"code", "enhanced"},
}  # fmt: skip


class Event(NamedTuple):
    """An event as code or README has it."""

    name: str
    level: str
    fields: frozenset[str]


def written() -> set[Event]:
    """What the code writes: every call of the logger, with all that a conditional expression may choose."""
    found = set()
    for call in (node for file in FACTS.glob("*.py") for node in ast.walk(ast.parse(file.read_text("utf-8")))):
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="_log"), attr=method)):
                found |= set(_events(method, call))
    return found


def _events(method: str, call: ast.Call) -> list[Event]:
    fields = frozenset().union(*map(_fields, call.keywords))
    if method != "log":
        return [Event(name, method, fields) for name in _constants(call.args[0])]
    levels, names = call.args[:2]
    if isinstance(names, ast.Name):  # one of a table
        return [Event(name, logging.getLevelName(level).lower(), fields) for name, level in facts.OUTCOMES.items()]
    if isinstance(levels, ast.Name):  # as its source says
        return [Event(name, "any", fields) for name in _constants(names)]
    pairs = zip(_branches(levels), _constants(names), strict=True)
    return [Event(name, level.attr.lower(), fields) for level, name in pairs]


def _branches(node: ast.expr) -> list[ast.expr]:
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def _constants(node: ast.expr) -> list[str]:
    return [ast.literal_eval(branch) for branch in _branches(node)]


def _fields(keyword: ast.keyword) -> set[str]:
    if keyword.arg is not None:
        return {"exception" if keyword.arg == "exc_info" else keyword.arg}
    assert isinstance(keyword.value, ast.Call)
    assert isinstance(keyword.value.func, ast.Name)
    return SHARED[keyword.value.func.id]


def documented() -> set[Event]:
    """What the README's table says: `| event | level | fields | meaning | what to do |`."""
    rows = README.read_text("utf-8").split("| event | level | fields |", 1)
    assert len(rows) == 2, "the README has no table of events"
    found = set()
    for row in rows[1].split("\n")[2:]:
        if not row.startswith("|"):
            break
        names, level, fields, meaning, _todo = (cell.strip() for cell in row.strip("|").split(" | "))
        assert meaning
        named = frozenset(field.strip("` ") for field in fields.split(",") if field.strip(" –"))
        found |= {Event(name.strip("` "), level, named) for name in names.split(",")}
    return found


def test_every_event_is_documented() -> None:
    """By name, level and fields; a new one is explained to operators before it is written."""
    assert sorted(written() - documented()) == []


def test_nothing_else_is() -> None:
    """What is not written any more is not explained."""
    assert sorted(documented() - written()) == []


def test_whatever_comes_of_a_recipient_can_be_told() -> None:
    """Every word that a judgement gives the history is one of those that have a level."""
    root = FACTS.parents[1]
    words = set()
    for file in ("outbox/verdict.py", "outbox/judgements.py", "outbox/outbox.py"):
        for call in ast.walk(ast.parse((root / file).read_text("utf-8"))):
            match call:
                case ast.Call(func=ast.Name(id="Judgement"), args=[_, ast.Constant(value=str(word)), _]):
                    words.add(word)
    assert {"relayed", "failed", "expired"} <= words
    assert words - set(facts.OUTCOMES) <= {"", "retried"}  # which a person did


def test_nobody_else_writes() -> None:
    """Outside of `observe` no module has a logger of its own."""
    root = FACTS.parents[1]
    strangers = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "structlog" in path.read_text("utf-8") and "observe" not in path.relative_to(root).parts
    ]
    assert strangers == []
