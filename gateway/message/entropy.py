"""Random hex digits from the system's generator, bought in bulk.

A system call hands the interpreter to another thread, and under load it takes ten times as long to get it back as the
call itself; one call for many ids costs nothing.
"""

import os
from typing import Final

_BULK: Final = 4096


class _Buffer:
    """What is left of the last call."""

    def __init__(self) -> None:
        self._hex = ""
        self._at = 0

    def take(self, digits: int) -> str:
        """Give digits that were never given before."""
        end = self._at + digits
        if end > len(self._hex):
            self._hex, self._at, end = os.urandom(_BULK).hex(), 0, digits
        taken = self._hex[self._at : end]
        self._at = end
        return taken


random_hex: Final = _Buffer().take
