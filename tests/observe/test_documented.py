"""The README knows every metric, with its type and labels, and what to do about every alert."""

from __future__ import annotations

import re
from pathlib import Path

from tests.observe.expressions import known
from tests.observe.test_alerts import PREFIX, alerts

README = Path(__file__).parents[2] / "README.md"
ROW = re.compile(r"^\| `([a-z_]+)(?:\{([a-z_, ]+)\})?` \| (counter|gauge|histogram) \| \S", re.MULTILINE)
SECTION = re.compile(r"^#### (Gateway\w+)\n(.*?)(?=^#{1,4} |\Z)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^    \S.*$", re.MULTILINE)


def test_each_metric_is_in_the_readme() -> None:
    """And nothing else, with the type and the labels that it has."""
    shown = {
        (PREFIX + name, kind, frozenset(re.findall(r"\w+", labels)))
        for name, labels, kind in ROW.findall(README.read_text())
    }
    there = {(one.name, one.type, frozenset(one.labels) - {"le"}) for one in known().values()}
    assert shown == there


def test_the_readme_says_what_to_do_about_each_alert() -> None:
    """And about nothing else: what it means, one command, and what then."""
    sections = SECTION.findall(README.read_text())
    assert sorted(name for name, _ in sections) == sorted(alert["alert"] for alert in alerts())
    for name, text in sections:
        [command] = COMMAND.findall(text)
        before, after = text.split(command)
        assert before.strip(), name
        assert after.strip(), name
