"""A daemon whose log nobody reads, or nobody can write, sends mail all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.process.daemon import mail, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.peers.smtp_server import ScriptedRelay
    from tests.process.daemon import Daemon

    Install = Callable[..., Daemon]


@pytest.mark.parametrize("standard_error", ["2>&-", "2> >(true)", "2>/dev/full"], ids=["closed", "gone", "full"])
async def test_it_works_on(standard_error: str, install: Install, relay: ScriptedRelay) -> None:
    """It starts, sends and ends in order; every line that it could not write is lost, and nothing else."""
    daemon = install(plain(relay.port))
    settings = daemon.folder / "gateway.toml"
    settings.write_text(settings.read_text().replace('level = "info"', 'level = "debug"'))
    await daemon.start(wrapper=("bash", "-c", f'exec "$@" {standard_error}', "sh"))
    async with daemon.client() as client:
        statuses = [(await client.post(mail()))[0] for _ in range(5)]
    await relay.wait_messages(5)

    assert statuses == [202] * 5
    assert await daemon.stop() == 0
    assert daemon.log == ""
