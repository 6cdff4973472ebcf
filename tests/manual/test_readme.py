"""The README is the manual: what it lists is what there is, both ways."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from gateway import lifecycle
from gateway.cli import cli
from gateway.http.faults import _CODES
from gateway.message.notification import compact
from gateway.outbox.states import State
from gateway.outbox.verdict import Judgement
from gateway.problems import Code
from gateway.settings import Settings
from gateway.smtp.outcome import Trouble

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PARTS = re.split(r"^(#{2,4} .*)$", README, flags=re.MULTILINE)
FIXED = re.compile(r"[a-z_]+(\.[a-z_]+)+")
SECTIONS = {title.lstrip("# "): text for title, text in zip(PARTS[1::2], PARTS[2::2], strict=True)}


def rows(section: str) -> list[list[str]]:
    """The rows of all tables of a section, each as its cells, without the heads."""
    found: list[list[str]] = []
    lines = SECTIONS[section].splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("|") and not line.startswith("| ---") and not below.startswith("| ---"):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))])
    return found


def words(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def fixed_keys() -> Iterator[tuple[str, Any]]:
    """Every key of the sections with fixed names, and its field."""
    for section, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(section, field.annotation)
    yield from (("demo." + key, None) for key in ("tenant", "key_file", "to"))


def _keys(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            if key != "password":
                yield from _keys(f"{prefix}.{key}", field.annotation)
        else:
            yield f"{prefix}.{key}", field


def test_every_setting_is_in_the_manual() -> None:
    """Whoever reads the table of settings has read them all, and finds none that is not there."""
    told = [key for row in rows("Settings") for key in words(row[0]) if FIXED.fullmatch(key)]
    assert sorted(told) == sorted(key for key, _ in fixed_keys())


def test_the_manual_tells_the_defaults_of_settings() -> None:
    """A default in the table is the one that the code has, written as in the file."""
    example = tomllib.loads((ROOT / "config/gateway.example.toml").read_text())
    told = {key: row[1] for row in rows("Settings") for key in words(row[0])[:1] if FIXED.fullmatch(key)}
    wrong = []
    for key, default in told.items():
        value: Any = example
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        written = "–" if value is None else f"`{compact(value).replace(',', ', ')}`"
        if default not in (written, "this machine's name"):
            wrong.append((key, default, written))
    assert not wrong


def test_the_keys_that_a_reload_changes_are_marked() -> None:
    """↻ stands at the keys that `lifecycle` puts into force, and at no others."""
    marked = {key for row in rows("Settings") if "↻" in row[0] for key in words(row[0])}
    reloaded = {key for key, _ in fixed_keys() if key in lifecycle.RELOADED or key.split(".")[0] in lifecycle.RELOADED}
    assert marked == reloaded


@pytest.mark.parametrize("table", ["connections", "connectors", "oauth"])
def test_every_key_of_the_operators_tables_is_in_the_manual(table: str) -> None:
    """Every key of every kind of connection, connector and OAuth provider is told."""
    told = set(words(SECTIONS["Settings"]))
    assert not {key for key in _table_keys(table) if key not in told}


def _table_keys(table: str) -> set[str]:
    import typing

    def models(kind: Any) -> Iterator[type[BaseModel]]:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        for argument in typing.get_args(kind):
            yield from models(argument)

    found: set[str] = set()
    for model in models(Settings.model_fields[table].annotation):
        found |= set(model.model_fields)
        for field in model.model_fields.values():
            found |= {key for auth in models(field.annotation) for key in auth.model_fields}
    return found - {"environ", "method"}


def test_every_error_code_is_in_the_manual() -> None:
    """The catalogue and the manual have the same codes under the same status."""
    told = {
        (int(status), code)
        for row in rows("Error codes")
        if re.match(r"\d", row[0])
        for code in words(row[1])
        if "_" in code or code in {one.code for one in Code}
        for status in re.findall(r"\d+", row[0])
    }
    assert {(code.status, code.code) for code in Code} <= told
    assert {code for _, code in told} - {"request_id"} == {code.code for code in Code}


def test_every_fault_code_is_in_the_manual() -> None:
    """Codes that stand only within `errors` are told too, each that the code makes."""
    told = set(words(SECTIONS["Error codes"]))
    assert not _fault_codes() - told


def _fault_codes() -> set[str]:
    """Codes of faults as the sources write them: the second argument of a fault, the first of a refusal."""
    found = set(_CODES.values()) | {"bad_value"}
    for path in (ROOT / "gateway").rglob("*.py"):
        if "settings" in path.parts or "smtp" in path.parts or "relay" in path.parts:
            continue  # other kinds of faults
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                place = {"Fault": 1, "refuse": 0}.get(node.func.id)
                if place is not None and len(node.args) > place:
                    code = node.args[place]
                    if isinstance(code, ast.Constant) and re.fullmatch(r"[a-z_]+", str(code.value)):
                        found.add(code.value)
    return found


def test_every_exit_code_is_in_the_manual() -> None:
    """The table of exit codes has those that the code ends with."""
    told = {int(row[0]) for row in rows("The command line") if row[0].isdigit()}
    assert told == {lifecycle.EXIT_OK, lifecycle.EXIT_FAILED, 2, lifecycle.EXIT_CONFIG}


def test_every_command_is_in_the_manual() -> None:
    """The table of commands has every command and every subcommand."""
    told: dict[str, set[str]] = {}
    for row in rows("The command line"):
        if row[0].startswith("`"):
            first, *others = words(row[0])
            name, *subcommand = first.split(" ")
            told[name] = {*subcommand, *others}
    assert told == {
        name: set(command.commands) if isinstance(command, click.Group) else set()
        for name, command in cli.commands.items()
    }


def test_every_event_of_a_history_is_in_the_manual() -> None:
    """What a notification's history can say is explained."""
    told = {event for row in rows("What the history tells") for event in words(row[0])}
    assert told == _history_events()


def _history_events() -> set[str]:
    found = {"accepted", "claimed", "failover", "held"}
    for path in (ROOT / "gateway/outbox").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == Judgement.__name__:
                event = node.args[1]
                if isinstance(event, ast.Constant) and event.value:
                    found.add(event.value)
    return found | {State.CANCELLED.value, State.EXPIRED.value}


def test_every_reason_to_park_a_profile_is_in_the_manual() -> None:
    """Whoever finds `parked:<reason>` finds the reason, and what to do."""
    told = {reason for row in rows("Why a profile is parked") for reason in words(row[0])}
    assert told == {trouble.value for trouble in Trouble}


def test_links_within_the_manual_lead_somewhere() -> None:
    """Every anchor in README, alerts and the sources' texts is a heading of the README."""
    anchors = {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in (re.sub(r"`", "", heading) for heading in SECTIONS)
    }
    asked = set(re.findall(r"\]\(#([^)]+)\)", README))
    for path in (ROOT / "config").rglob("*.yml"):
        asked |= set(re.findall(r"README\.md#([\w-]+)", path.read_text()))
    assert asked
    assert not asked - anchors


def test_paths_named_in_the_manual_are_there() -> None:
    """A file of ours that the README names exists."""
    named = set(re.findall(r"`((?:config|systemd|tests|gateway)/[\w./@-]+)`", README))
    assert not [path for path in named if not (ROOT / path).exists()]
