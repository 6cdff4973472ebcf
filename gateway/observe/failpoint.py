"""Named places at which a test may kill the daemon.

Each name marks one boundary of the durability argument (before the commit, after the final dot …). With
`GATEWAY_FAILPOINT=name:n` in the environment the process sends itself SIGKILL when it passes the place for the
n-th time, which no handler, `finally` or buffer flush can soften. Without the variable a place costs one comparison.
"""

import os
import signal
from collections import Counter
from typing import Final, Literal, get_args

Place = Literal[
    "http.body_read",
    "accept.before_commit",
    "accept.after_commit",
    "accept.after_reply",
    "claim.after_commit",
    "secret.fetched",
    "smtp.connected",
    "smtp.after_rcpt",
    "smtp.body_written",
    "smtp.before_terminator",
    "smtp.after_terminator",
    "smtp.reply_read",
    "result.after_commit",
    "maint.checkpoint",
    "backup.filled",
    "restore.cleared",
    "life.announced",
    "life.committed",
]
PLACES: Final[tuple[Place, ...]] = get_args(Place)


def _armed() -> tuple[str, int]:
    name, _, nth = os.environ.get("GATEWAY_FAILPOINT", "").partition(":")
    if name and name not in PLACES:
        message = f"GATEWAY_FAILPOINT names no failpoint; there are {', '.join(PLACES)}"
        raise SystemExit(message)
    return name, int(nth or 1)


_name, _nth = _armed()
_passed: Counter[str] = Counter()


def failpoint(place: Place) -> None:
    """Die here by SIGKILL if the environment asked for this place and this passage."""
    if place == _name:
        _passed[place] += 1
        if _passed[place] == _nth:
            os.kill(os.getpid(), signal.SIGKILL)
