"""Debian's Prometheus: the server, scraping what a test tells it to, and promtool."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.peers.fetched import HOST, Daemon, environment, fetched, free_ports, is_fetched
from tests.peers.requirements import require

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTINGS = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: notification-gateway
    static_configs: [{{targets: [{targets}]}}]
"""


def program(name: str) -> Path:
    """Where `prometheus` or `promtool` is; what needs it says so if it is not there."""
    installed = shutil.which(name)
    require(f"{name} (tests/peers/fetch.sh)", installed or is_fetched(f"/usr/bin/{name}"))
    return Path(installed) if installed else fetched(f"/usr/bin/{name}")


def promtool(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run promtool to its end, with something on its standard input."""
    return subprocess.run(
        [program("promtool"), *arguments], input=given, capture_output=True, text=True, timeout=120, env=environment()
    )


class Prometheus(Daemon):
    """A server that scrapes these ports each second, and goes by the rules of a file."""

    def __init__(self, *targets: int, rules: Path) -> None:
        """Nothing runs before the block is entered."""
        [self.port] = free_ports(1, *targets)
        self._program = program("prometheus")
        self._targets, self._rules = targets, rules
        super().__init__(self.port)

    def prepare(self) -> Sequence[str | Path]:  # type: ignore[override]
        """Write its settings."""
        shutil.copy(self._rules, self.home / "rules.yml")
        targets = ", ".join(f'"{HOST}:{port}"' for port in self._targets)
        (self.home / "prometheus.yml").write_text(SETTINGS.format(rules="rules.yml", targets=targets))
        (self.home / "data").mkdir()
        return [
            self._program, "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={HOST}:{self.port}"
        ]  # fmt: skip

    def ask(self, path: str, **query: str) -> Any:
        """Ask its HTTP API; what it answers as `data`."""
        url = f"http://{HOST}:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now."""
        data: dict[str, Any] = self.ask("query", query=expression)
        result: list[dict[str, Any]] = data["result"]
        return result
