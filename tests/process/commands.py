"""The command line as a process of its own, with the settings of an installation."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from tests.process.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.process.daemon import Daemon


async def command(daemon: Daemon, *words: str, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command to its end; its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "-c", str(daemon.folder / "gateway.toml"), *words,
        cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environ or {})},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
