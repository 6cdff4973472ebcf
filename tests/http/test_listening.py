"""The daemon's listeners: which is there before which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.app import daemon
from gateway.http.metrics import MetricsServer
from gateway.http.server import HttpServer
from gateway.settings import load
from tests import in_process

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SETTINGS = f"""{in_process.SETTINGS}
[metrics]
listen = "127.0.0.1:0"
"""


def named(server: HttpServer | MetricsServer) -> str:
    if isinstance(server, MetricsServer):
        return "metrics"
    return "admin" if server._admin_socket else "http"


async def test_callers_are_heard_last_and_sent_away_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hears there that the daemon is ready finds its admin socket and its metrics."""
    told: list[str] = []

    def note(kind: type[HttpServer | MetricsServer], step: str) -> None:
        take = getattr(kind, step)

        async def taken(server: Any, *given: Any) -> None:
            await take(server, *given)
            told.append(f"{step} {named(server)}")

        monkeypatch.setattr(kind, step, taken)

    for kind in (HttpServer, MetricsServer):
        for step in ("start", "stop"):
            note(kind, step)
    (tmp_path / "gateway.toml").write_text(SETTINGS)
    async with daemon(load(tmp_path / "gateway.toml", {}), {}):
        pass
    assert told == ["start admin", "start metrics", "start http", "stop http", "stop metrics", "stop admin"]
