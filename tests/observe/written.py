"""Reads what was written to the log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

FORMS = ("json", "text", "journal")


@dataclass
class Written:
    """Standard error of this process."""

    capfd: pytest.CaptureFixture[str]

    def text(self) -> str:
        """What was written since it was last asked for."""
        return self.capfd.readouterr().err

    def lines(self) -> list[dict[str, Any]]:
        """The same, of a log in JSON."""
        return [json.loads(line) for line in self.text().split("\n") if line]

    def events(self) -> list[str]:
        """The same: what happened, in order."""
        return [line["event"] for line in self.lines()]
