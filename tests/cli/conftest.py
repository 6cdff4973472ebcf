"""The command line in front of a real daemon, one for each module, over its Unix socket."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from gateway.cli import cli
from tests.process.daemon import Daemon, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

_numbers = itertools.count(1)


@dataclass
class Shell:
    """Somebody at the command line."""

    daemon: Daemon

    def run(self, *words: str, text: str | None = None) -> Result:
        """Run a command."""
        return CliRunner().invoke(cli, ["-c", str(self.daemon.folder / "gateway.toml"), *words], input=text)

    def good(self, *words: str, text: str | None = None) -> str:
        """Run a command that succeeds; what it said."""
        result = self.run(*words, text=text)
        assert result.exit_code == 0, result.output
        return result.stdout

    def told(self, *words: str) -> Any:
        """Run a command that succeeds; the API's answer."""
        return json.loads(self.good(*words, "--json"))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A command line with a daemon that runs while the module's tests do."""
    daemon = Daemon(tmp_path_factory.mktemp("gateway"), plain(2525))
    with asyncio.Runner() as runner:
        runner.run(daemon.start())
        yield Shell(daemon)
        runner.run(daemon.kill())


@pytest.fixture
def tenant(shell: Shell) -> str:
    """A tenant that no other test knows."""
    name = f"zoo-{next(_numbers)}"
    shell.good("tenants", "set", name, "--name", "Zoo")
    return name


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a file; its path."""

    def writing(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return writing
