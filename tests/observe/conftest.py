"""The log as an operator reads it, in tests that write to it."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from typing import TYPE_CHECKING

import pytest
import structlog

from gateway.observe import log
from gateway.observe.facts import mail
from tests.http.world import World, running
from tests.observe.written import Written

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A gateway without relays, to ask questions of."""
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
def written(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """What is written to standard error; the process is as it was when the test is over."""
    monkeypatch.setattr(log, "live_secrets", log.live_secrets)
    monkeypatch.setattr(log, "_level", log._level)
    monkeypatch.setattr(mail, "_left_out", {})
    monkeypatch.setattr(mail, "_minute", 0.0)
    for hook in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, hook, getattr(sys, hook))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield Written(capfd)
    logging.captureWarnings(False)
    for handler in [one for one in root.handlers if one not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()
