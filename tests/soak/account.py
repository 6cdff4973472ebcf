"""The account that is settled at the end: what became of every 202, by those who know it.

Each requested recipient is in the relays' ledger, or was refused there for good, or cancelled, or simulated. What is none
of these must have had a profile that leads nowhere, and has expired: the daemon's own count of expired recipients must be
the same number. What is in the relays' ledger more than once must have been taken at a moment when a fault may have
swallowed the answer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.soak.load import Ledger
    from tests.soak.place import Relayed


@dataclass(frozen=True, slots=True)
class Account:
    """How it came out: recipients by their fates, copies too many, and ids of notifications that are to be looked at."""

    fates: Counter[str]
    lost: tuple[str, ...]  # nobody knows what became of them
    copies: int
    unexplained: tuple[str, ...]  # went twice, and no fault says why
    unasked: tuple[str, ...]  # nobody was promised them

    @classmethod
    def of(cls, ledger: Ledger, relayed: Relayed) -> Account:
        """Settle it."""
        fates: Counter[str] = Counter()
        lost: list[str] = []
        for id_, promise in ledger.promised.items():
            for recipient in promise.recipients:
                fate = _fate(id_, recipient, ledger, relayed)
                fates[fate] += 1
                if fate == "lost":
                    lost.append(id_)
        twice = [(id_, count - 1) for (id_, _), count in relayed.copies.items() if count > 1]
        unexplained = tuple(id_ for id_, _ in twice if id_ not in relayed.unanswered)
        return cls(fates, tuple(lost), sum(count for _, count in twice), unexplained, _unasked(ledger, relayed))


def _fate(id_: str, recipient: str, ledger: Ledger, relayed: Relayed) -> str:
    promise = ledger.promised[id_]
    if promise.simulated:
        return "simulated"
    if (id_, recipient) in relayed.copies:
        return "relayed"
    if recipient in relayed.refused:
        return "refused"
    if id_ in ledger.cancelled:
        return "cancelled"
    return "expired" if promise.stuck else "lost"


def _unasked(ledger: Ledger, relayed: Relayed) -> tuple[str, ...]:
    """Mail of notifications that nobody was promised; a caller that went away may have been."""
    strangers: dict[str, list[str]] = {}
    for id_, address in relayed.copies:
        if id_ not in ledger.promised or ledger.promised[id_].simulated:
            strangers.setdefault(id_, []).append(address)
    return tuple(id_ for id_, addresses in strangers.items() if ledger.abandoned.isdisjoint(addresses))
