"""A secret is a type that cannot be printed, formatted, compared to text, pickled or serialised.

`reveal()` is the one way to its text; a test names the files that may call it: those that hand it over.
"""

import hashlib
import hmac
import os
from collections.abc import Iterator
from typing import Final, NoReturn, final
from weakref import WeakValueDictionary

MASK: Final = "Secret(…)"
_KEY: Final = os.urandom(32)  # of this process: nobody can try guesses against a fingerprint that was shown


@final
class Secret:
    """A value from a provider, to be revealed at the socket and nowhere before."""

    __slots__ = ("__text", "__weakref__", "fingerprint")

    def __init__(self, text: str) -> None:
        """Wrap the text; `fingerprint` tells two values apart, in this process. ValueError for a lone surrogate."""
        self.__text = text
        self.fingerprint: Final = hmac.new(_KEY, text.encode(), hashlib.sha256).hexdigest()[:12]
        _living[id(self)] = self

    def reveal(self) -> str:
        """Give the text, to a provider's client or to a relay."""
        return self.__text

    def __repr__(self) -> str:
        """Show nothing."""
        return MASK

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        """Show nothing, whatever is asked for."""
        return MASK

    def __eq__(self, other: object) -> bool:
        """Compare two secrets in constant time; a secret never equals a text."""
        if not isinstance(other, Secret):
            return False
        return hmac.compare_digest(self.__text.encode(), other.__text.encode())

    def __hash__(self) -> int:
        """Hash by the fingerprint, so that the text leaves no trace in a table's layout."""
        return hash(self.fingerprint)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        message = "a secret is not serialised"
        raise TypeError(message)


_living: Final[WeakValueDictionary[int, Secret]] = WeakValueDictionary()  # by identity: two may hold the same text


def living() -> Iterator[str]:
    """Give the texts of all secrets that somebody still has, for the log to look for; none lives longer for it."""
    for reference in _living.valuerefs():  # a list: other threads make secrets meanwhile
        if (secret := reference()) is not None:
            yield secret.reveal()
