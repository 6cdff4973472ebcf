"""How often the daemon may sign in at one secret store: a failure is followed by a pause, so that no account is locked.

The pause is a second, and twice as long after each further failure, up to five minutes; a refusal costs a minute at
once, because stores lock accounts after a few of them. A person's word lifts the pause for one attempt, but only once
a minute: any tenant's people can give theirs, and the account is everybody's.

Owns also what is known of the token that the last sign-in brought: until when it lasts.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.credentials.provider import CredentialError, Kind, NoIdentity
from gateway.observe import facts

SHORTEST: Final = 1.0  # seconds
REFUSED: Final = 60.0
LONGEST: Final = 300.0
JITTER: Final = 0.1


@dataclass(slots=True)
class Logins:
    """The sign-ins at one store, under the name of its connection. The clock counts seconds.

    Those that are on their way together fail together. So whoever begins one beside others notes how many failures had
    `counted`: the first to fail counts, and for what the others say no pause grows.
    """

    clock: Callable[[], float]
    name: str = ""
    dice: Callable[[], float] = random.random
    counted: int = 0
    _failures: int = 0
    _closed_until: float = float("-inf")
    _error: CredentialError | None = None
    _token_until: float | None = None
    _forgiven_at: float = float("-inf")

    def trouble(self) -> CredentialError | None:
        """Why nobody should sign in now, and for how many seconds; None if one may."""
        wait = self._closed_until - self.clock()
        if wait <= 0 or self._error is None:
            return None
        return CredentialError(self._error.kind, self._error.detail, wait)

    @property
    def failure(self) -> str | None:
        """How the last sign-in failed: by its kind, or `no_identity` if there is nothing to show; None if it did not."""
        return None if self._error is None else _word(self._error)

    def succeeded(self, lasts: float | None = None) -> None:
        """The store let us in, with a token that lasts so many seconds; None: it has no end, or there is none."""
        self._failures, self._closed_until, self._error = 0, float("-inf"), None
        self.lasts(lasts)
        facts.secret_login(self.name, "ok")

    def lasts(self, seconds: float | None) -> None:
        """The token lasts so many seconds from now on, for example because it was renewed."""
        self._token_until = None if seconds is None else self.clock() + seconds

    def failed(self, error: CredentialError, begun: int | None = None) -> None:
        """The store did not let us in; None for `begun`: no other sign-in was on its way."""
        if begun is None or begun == self.counted:
            self.counted += 1
            self._failures += 1
        first = REFUSED if error.kind is Kind.DENIED else SHORTEST
        pause = min(first * 2.0 ** min(max(self._failures - 1, 0), 10), LONGEST) * (1 + JITTER * (2 * self.dice() - 1))
        until = self.clock() + max(pause, error.retry_after or 0.0)
        if until >= self._closed_until:
            self._closed_until, self._error = until, error
        facts.secret_login(self.name, _word(error), str(error))

    def doubted(self, error: CredentialError) -> None:
        """What we show there was refused, and has never been good for anything: as if it did not let us in, but no pause."""
        self._error = error
        facts.secret_login(self.name, _word(error), str(error))

    def forgive(self) -> None:
        """A person says that it may be tried again at once; if that fails too, the pause goes on growing."""
        now = self.clock()
        if now < self._closed_until and now - self._forgiven_at >= REFUSED:
            self._closed_until, self._forgiven_at = float("-inf"), now

    def token_left(self) -> float | None:
        """Seconds that the token lasts, 0 if it is over; None if there is none, or it has no end."""
        return None if self._token_until is None else max(0.0, self._token_until - self.clock())


def _word(error: CredentialError) -> str:
    return "no_identity" if isinstance(error, NoIdentity) else error.kind.value
