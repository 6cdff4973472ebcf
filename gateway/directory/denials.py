"""Secrets that were asked for and are not lent, told in the audit log.

The owner's log says which profile asked for what. The log of `system` says besides which of the operator's settings
gives no leave: a tenant that knew would find out what there is. Neither names the key. Of what one owner asked for,
each secret is told once an hour, and at most 20 of them, so that neither mail that keeps trying nor somebody who
tries names fills the log. This is counted in memory: a daemon that starts tells anew.
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.directory.changes import Actor
from gateway.directory.rules import Denial
from gateway.directory.snapshot import ROOT
from gateway.message.notification import compact
from gateway.store.protocol import Store
from gateway.store.rows import Happening

ACTION: Final = "secret.deny"
HOUR: Final = 3_600_000
MOST: Final = 20  # secrets an hour that are told for one owner
PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

_Wanted = tuple[str, str, str]  # source, connection, key or entry


@dataclass(slots=True)
class Denials:
    """Tells denials, and remembers which were told. `clock` counts milliseconds since the epoch."""

    store: Store
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    _told: dict[str, dict[_Wanted, int]] = field(default_factory=dict)

    def tell(self, denial: Denial, actor: Actor) -> "asyncio.Future[None] | None":
        """Tell a denial, unless that was done; answers when it is written. What could not be written is told again."""
        now = self.clock()
        wanted = (denial.source, denial.connection, denial.key)
        told = {one: at for one, at in self._told.get(denial.owner, {}).items() if at > now - HOUR}
        self._told[denial.owner] = told
        if wanted in told or len(told) >= MOST:
            return None
        told[wanted] = now
        written = self.store.log(_happenings(denial, actor), now)

        def settled(done: "asyncio.Future[None]") -> None:
            if done.exception() is not None:
                told.pop(wanted, None)

        written.add_done_callback(settled)
        return written


def _happenings(denial: Denial, actor: Actor) -> list[Happening]:
    asked: list[dict[str, Any]] = [{"field": denial.slot}, {"field": "source", "after": denial.source}]
    if denial.connection:
        # Whoever asked wrote the name: only what is plainly one is repeated.
        name = {"after": denial.connection} if PLAIN.fullmatch(denial.connection) else {}
        asked.append({"field": "connection", **name})
    missing = {"field": "rule", "after": denial.rule}
    operators = Happening(
        ROOT, actor.name, actor.tenant, ACTION, f"{denial.owner}/{denial.profile}", compact([*asked, missing])
    )
    if denial.owner == ROOT:
        return [operators]
    owners = Happening(denial.owner, actor.name, actor.tenant, ACTION, denial.profile, compact(asked))
    return [owners, operators]
