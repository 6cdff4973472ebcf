"""What a source of access tokens is: one attempt to get one, by one grant.

As with a provider of secrets: it neither retries nor remembers, and says how it failed by a `CredentialError` of our
own words, behind which no other exception hangs.
"""

import re
from typing import Final, NamedTuple, Protocol

from gateway.credentials.provider import CredentialError, Fetched, Kind
from gateway.credentials.secret import Secret

MOST_OF_PEM: Final = 4_000
"""Characters between two rows of dashes: an RSA key of 4096 bits has 3,200; to check a larger one takes seconds."""

MACHINE: Final = "managed_identity"
"""The grant of whoever runs on this machine: nobody's secret is needed, so the operator says who may use it."""

_GUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})+")
_DASHES: Final = re.compile("-----")


class Grant(NamedTuple):
    """By which way whose token is wanted, as a profile says it; `directory` is Microsoft's tenant."""

    provider: str
    type: str
    directory: str | None = None
    client_id: str | None = None
    mailbox: str | None = None


class Source(Protocol):
    """A provider's sign-in service."""

    async def fetch(self, grant: Grant, secret: Secret | None) -> Fetched:
        """Get a token; `lasts` is its life in seconds from the asking. Raises `CredentialError`, and nothing else."""

    async def close(self) -> None:
        """Let go of connections."""


def needed(value: str | None, field: str) -> str:
    """Give a field that this type of grant cannot do without. Raises `CredentialError`."""
    if not value:
        raise CredentialError(Kind.MALFORMED, f"this grant needs {field}")
    return value


def needed_secret(secret: Secret | None) -> Secret:
    """Give the secret that the grant cannot do without. Raises `CredentialError`."""
    if secret is None:
        raise CredentialError(Kind.NOT_FOUND, "this grant needs a credential")
    return secret


def unknown_grant() -> CredentialError:
    """Say that the provider has no such grant."""
    return CredentialError(Kind.MALFORMED, "the provider has no such grant")


def is_pem(text: str) -> bool:
    """Does it look like keys and certificates of a size that is checked within a moment?"""
    return "-----BEGIN " in text and all(len(part) <= MOST_OF_PEM for part in _DASHES.split(text))


def is_directory(text: str) -> bool:
    """Is it the id or a domain of one of Microsoft's directories?

    It becomes a part of a path, and `common` or its like would let the service choose.
    """
    return bool(_GUID.fullmatch(text) or _DOMAIN.fullmatch(text))
