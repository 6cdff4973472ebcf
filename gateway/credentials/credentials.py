"""From a profile's credential to its secret: the one place where all sources meet.

Who may use what is checked before every use, also of what is cached. Plaintext and stored secrets are opened from
the database; files and variables are this machine's; the others come from the operator's connections.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, assert_never

from gateway.credentials.cache import Cache, Held, Line, Terms
from gateway.credentials.connections import Connections, Wanted
from gateway.credentials.local import FILE_SECONDS, LocalSecrets
from gateway.credentials.provider import PASSWORD, CredentialError, Fetched, Kind, Why
from gateway.credentials.reference import Credential
from gateway.credentials.sealed import Seal, SealError
from gateway.credentials.secret import Secret

FILES: Final = Terms(fresh=FILE_SECONDS)
PINNED: Final = Terms(fresh=10 * 365 * 86_400.0)  # a version never changes


class Stored(NamedTuple):
    """A secret of the built-in store, as it is kept."""

    sealed: str
    version: int


class Found(NamedTuple):
    """What signs in: the secret, a user name if it came along, which version it is, and the one before for a while."""

    secret: Secret
    username: Secret | None = None
    version: str = ""
    stale: bool = False
    previous: Secret | None = None


@dataclass(slots=True)
class Credentials:
    """Fetches secrets for profiles. `stored` finds a tenant's secret in the built-in store, by tenant and name."""

    seal: Seal
    stored: Callable[[str, str], Stored | None]
    local: LocalSecrets = field(default_factory=LocalSecrets)
    connections: Connections = field(default_factory=Connections)
    cache: Cache = field(default_factory=lambda: Cache(_seconds))
    _files: Line = field(default_factory=lambda: Line(_seconds, "files"))

    async def find(
        self, owner: str, host: str, place: tuple[str, ...], credential: Credential, *, why: Why = Why.USE
    ) -> Found:
        """Give what a credential of the owner's profile for this relay refers to. Raises `CredentialError`.

        `place` is where a plaintext one is sealed for; `why` may ask past what is cached.
        """
        if credential.dropped:
            raise CredentialError(Kind.NOT_FOUND, "the password was dropped with a change, and not given anew")
        match credential.source:
            case "plaintext":
                return Found(self._opened(credential.sealed or "", place))
            case "stored":
                return self._stored(owner, credential.key or "")
            case "env" | "file":
                return await self._local(owner, credential, why=why)
            case "vault" | "azure_key_vault" | "cyberark" | "conjur":
                return await self._connected(self.connections.find(owner, host, credential), credential, why=why)
            case _:
                assert_never(credential.source)

    def _opened(self, sealed: str, place: tuple[str, ...]) -> Secret:
        try:
            return self.seal.open(sealed, place)
        except SealError as error:
            raise CredentialError(Kind.DENIED, str(error)) from None

    def _stored(self, owner: str, name: str) -> Found:
        kept = self.stored(owner, name)
        if kept is None:
            raise CredentialError(Kind.NOT_FOUND, "the tenant has no stored secret of this name")
        secret = self._opened(kept.sealed, stored_place(owner, name, kept.version))
        return Found(secret, version=str(kept.version))

    async def _local(self, owner: str, credential: Credential, *, why: Why) -> Found:
        key = credential.key or ""
        if not self.local.permits(owner, credential.source, key):
            raise CredentialError(Kind.POLICY, "the operator does not lend this secret to the tenant")
        if credential.source == "env":
            return _picked(Held(self.local.read_variable(key)), PASSWORD, None)
        held = await self.cache.get(("file", key), self._files, FILES, lambda: self.local.read_file(key), why=why)
        return _picked(held, PASSWORD, None)

    async def _connected(self, wanted: Wanted, credential: Credential, *, why: Why) -> Found:
        """Fetch a whole secret and take its parts, so that a user name and its password are of one version."""
        connection, key, name, version = wanted
        provider = connection.provider
        held = await self.cache.get(
            (connection.name, key, version),
            connection.line,
            connection.terms if version is None else PINNED,
            lambda: provider.fetch(key, version),
            why=why,
        )
        return _picked(held, name or PASSWORD, credential.username_property)


def _seconds() -> float:
    return asyncio.get_running_loop().time()


def stored_place(owner: str, name: str, version: int) -> tuple[str, ...]:
    """Where a secret of the built-in store is sealed for: another version is another place."""
    return "secret", owner, name, str(version)


def _picked(held: Held, wanted: str, user: str | None) -> Found:
    username = None if user is None else _field(held.fetched, user)
    previous = None if held.previous is None else held.previous.fields.get(wanted)
    return Found(_field(held.fetched, wanted), username, held.fetched.version, held.stale, previous)


def _field(fetched: Fetched, name: str) -> Secret:
    secret = fetched.fields.get(name)
    if secret is None:
        raise CredentialError(Kind.MALFORMED, f"the secret has no field {name}")
    return secret
