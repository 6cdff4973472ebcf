"""A private Alertmanager of Debian: `with Alertmanager(configuration, key) as alertmanager`.

It tells of an alert at once and of a change a second later, and belongs to no cluster.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp

from tests.peers.fetched import HOST, Daemon, copy_into, environment, fetched, free_ports, is_fetched

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AMTOOL = fetched("/usr/bin/amtool")
_PROGRAM = "/usr/bin/prometheus-alertmanager"
_HASTE = "  group_wait: 0s\n  group_interval: 1s\n"


def alertmanager_available() -> bool:
    """Whether `Alertmanager` and amtool can run here."""
    return is_fetched(_PROGRAM) and AMTOOL.exists()


class Alertmanager(Daemon):
    """An Alertmanager of one's own; `configuration` names the file of the key, and the key is put there."""

    def __init__(self, configuration: str, key: str) -> None:
        self._configuration, self._key = configuration, key
        [self.port] = free_ports(1)
        super().__init__(self.port)

    def variables(self) -> dict[str, str]:
        """Nothing out of the ordinary."""
        return environment()

    def prepare(self) -> list[str | Path]:
        """Write the configuration and the key."""
        hasty = self._configuration.replace("route:\n", f"route:\n{_HASTE}", 1)
        (self.home / "key").write_text(self._key)
        (self.home / "alertmanager.yml").write_text(
            re.sub(r"(credentials_file: ).*", rf"\g<1>{self.home}/key", hasty, count=1)
        )
        for template in ("default.tmpl", "email.tmpl"):
            copy_into(self.home, fetched(f"/usr/share/prometheus/alertmanager/{template}"), template)
        return [
            fetched(_PROGRAM), f"--config.file={self.home}/alertmanager.yml", f"--storage.path={self.home}/data",
            f"--web.listen-address={HOST}:{self.port}", "--cluster.listen-address=",
            "--log.level=debug",
        ]  # fmt: skip

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://{HOST}:{self.port}"

    async def fire(self, labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
        """Let an alert fire that began now."""
        await self._post(labels, annotations, startsAt=datetime.now(UTC).isoformat())

    async def resolve(self, labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
        """Say that the alert is over since a second."""
        await self._post(labels, annotations, endsAt=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())

    async def _post(self, labels: Mapping[str, str], annotations: Mapping[str, str], **times: str) -> None:
        alert = {"labels": dict(labels), "annotations": dict(annotations), **times}
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.post(f"{self.url}/api/v2/alerts", json=[alert]),
        ):
            pass

    @property
    def successes(self) -> int:
        """How many of its notifications got a good answer, and are remembered as told."""
        return self.log().count('msg="Notify success"')

    async def failures(self) -> int:
        """How many of its requests to a webhook got no good answer."""
        name = "alertmanager_notification_requests_failed_total"
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as answer:
            found = re.search(rf'^{name}{{integration="webhook"}} (\d+)', await answer.text(), re.MULTILINE)
        return int(found[1]) if found else 0
