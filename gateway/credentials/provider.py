"""What a source of secrets is: one attempt to fetch, and one word for how it failed.

A provider neither retries nor remembers; caching, waiting and giving up are done once, above them all, by `cache`.
An error's detail is ours, for the profile's owner; it never quotes what a server answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, NamedTuple, Protocol

from gateway.credentials.secret import Secret

PASSWORD = "password"  # noqa: S105 - the field that a secret has unless its reference names another
LONGEST_PAUSE: Final = 3600.0  # seconds that a source may keep us away


class Kind(StrEnum):
    """How fetching failed."""

    NOT_FOUND = "not_found"
    DENIED = "denied"
    UNREACHABLE = "unreachable"
    THROTTLED = "throttled"
    MALFORMED = "malformed"
    ROTATING = "rotating"
    POLICY = "policy"


class Why(Enum):
    """Why a secret is wanted: to be used, because the one known was refused, for a test, or because a person says so.

    The latter three look past the cache; only a person's word makes good for sign-ins at the store that failed.
    """

    USE = 1
    REFUSED = 2
    TEST = 3
    PERSON = 4


class CredentialError(Exception):
    """A secret could not be had. `retry_after` is in seconds, if the source said so."""

    def __init__(self, kind: Kind, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after


class NoIdentity(CredentialError):
    """What the daemon itself signs in with cannot be had; the source was not asked.

    `str()` tells operators from where; `detail` is for the owners of profiles, whom that does not concern.
    """

    def __init__(self, trouble: str) -> None:
        super().__init__(Kind.DENIED, "the daemon has nothing to sign in with at the secret's source")
        self.args = (trouble,)


def read_retry_after(told: str) -> float | None:
    """Read a Retry-After (RFC 9110 §10.2.3): seconds, an hour at most; None if it says none.

    Its other form, a date, depends on two clocks; without a number the cache has its own pause.
    """
    return min(float(told), LONGEST_PAUSE) if told.isascii() and told.isdecimal() else None


class Fetched(NamedTuple):
    """A whole secret, so that a user name and its password are of one version.

    `lasts` is for how many seconds the source vouches for it, None if it does not say. `expires_at` is the Unix time
    after which somebody meant it not to be used; the source hands it out all the same.
    """

    fields: Mapping[str, Secret]
    version: str
    lasts: float | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds for a connection to be made, for a whole answer, for a whole sign-in, and for taking leave."""

    connect: float = 2.0
    total: float = 5.0
    login: float = 10.0
    leave: float = 2.0


MAX_OCTETS: Final = 65_536
"""Of a secret's whole answer; what is longer is none."""


class Provider(Protocol):
    """A source of secrets."""

    async def fetch(self, key: str, version: str | None) -> Fetched:
        """Fetch a secret by its key, perhaps one pinned version of it. Raises `CredentialError`, and nothing else."""

    async def close(self) -> None:
        """Give back the token that was signed in for, and let go of connections; within `Deadlines.leave`."""
