"""The daemon's memory is nobody's to look at: no core, and nothing for others of the same user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.process.daemon import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.peers.smtp_server import ScriptedRelay
    from tests.process.daemon import Daemon

    Install = Callable[..., Daemon]


async def test_there_is_no_core_and_no_look_inside(install: Install, relay: ScriptedRelay) -> None:
    """No core is written; its environment and descriptors belong to root alone (prctl(2), PR_SET_DUMPABLE)."""
    daemon = install(plain(relay.port))
    await daemon.start()
    process = Path(f"/proc/{daemon.process.pid}")
    limits = {line[:26].strip(): line.split() for line in (process / "limits").read_text().splitlines()}
    owner = (process / "environ").stat().st_uid
    await daemon.stop()

    assert limits["Max core file size"][4:6] == ["0", "0"]
    assert owner == 0  # of an ordinary user's daemon too
