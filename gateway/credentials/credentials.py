"""From a profile's credential to its secret: the one place where all sources meet.

Who may use what is checked before every use, also of what is cached. Plaintext and stored secrets are opened from
the database; files and variables are this machine's; the others come from the operator's connections.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, assert_never

from gateway.credentials.cache import Cache, Held, Known, Line, State, Terms
from gateway.credentials.connections import Connections, Wanted
from gateway.credentials.local import FILE_SECONDS, LocalSecrets
from gateway.credentials.provider import PASSWORD, CredentialError, Fetched, Kind, Why
from gateway.credentials.reference import Credential
from gateway.credentials.sealed import Seal, SealError
from gateway.credentials.secret import Secret
from gateway.observe import facts

FILES_NAME: Final = "files"  # in metrics, where connections have theirs
FILES: Final = Terms(fresh=FILE_SECONDS)
PINNED: Final = Terms(fresh=10 * 365 * 86_400.0)  # a version never changes
_MISSING: Final = Known(State.NEGATIVE, error=Kind.NOT_FOUND)


class Stored(NamedTuple):
    """A secret of the built-in store, as it is kept."""

    sealed: str
    version: int


class Found(NamedTuple):
    """What signs in: the secret, a user name if it came along, which version it is.

    For a while also the `previous` one, with the user name that came along with it: a pair is of one version. Where the
    present version lacks one of the two, that while is the previous one's, `stale`.
    """

    secret: Secret
    username: Secret | None = None
    version: str = ""
    stale: bool = False
    previous: "Found | None" = None


@dataclass(slots=True)
class Credentials:
    """Fetches secrets for profiles. `stored` finds a tenant's secret in the built-in store, by tenant and name.

    `on_denied` is told whose profile for which relay wanted which credential, where, and may not have it.
    """

    seal: Seal
    stored: Callable[[str, str], Stored | None]
    local: LocalSecrets = field(default_factory=LocalSecrets)
    connections: Connections = field(default_factory=Connections)
    cache: Cache = field(default_factory=lambda: Cache(_seconds))
    on_denied: Callable[[str, str, tuple[str, ...], Credential], None] = lambda _owner, _host, _place, _wanted: None
    _files: Line = field(default_factory=lambda: Line(_seconds, FILES_NAME))

    async def find(
        self, owner: str, host: str, place: tuple[str, ...], credential: Credential, *, why: Why = Why.USE
    ) -> Found:
        """Give what a credential of the owner's profile for this relay refers to. Raises `CredentialError`.

        `place` is where a plaintext one is sealed for; `why` may ask past what is cached.
        """
        try:
            return await self._find(owner, host, place, credential, why)
        except CredentialError as error:
            if error.kind is Kind.POLICY:
                self.on_denied(owner, host, place, credential)
            raise

    async def _find(self, owner: str, host: str, place: tuple[str, ...], credential: Credential, why: Why) -> Found:
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
                return await self._connected(self._wanted(owner, host, credential), why=why)
            case _:
                assert_never(credential.source)

    def known(self, owner: str, host: str, credential: Credential) -> Known:
        """Say what is known of a credential's secret; no source is asked, and the value is not told.

        What the owner may not have at this relay is `negative` by `policy`, whatever is cached of it for others.
        """
        if credential.dropped:
            return _MISSING
        match credential.source:
            case "plaintext":
                return Known(State.FRESH)
            case "stored":
                kept = self.stored(owner, credential.key or "")
                return _MISSING if kept is None else Known(State.FRESH, str(kept.version))
            case "env" | "file":
                return self._known_here(owner, credential.source, credential.key or "")
            case "vault" | "azure_key_vault" | "cyberark" | "conjur":
                try:
                    wanted = self.connections.find(owner, host, credential)
                except CredentialError as error:
                    return Known(State.NEGATIVE, error=error.kind)
                return self.cache.known(_place(wanted), _terms(wanted))
            case _:
                assert_never(credential.source)

    def _known_here(self, owner: str, source: Literal["env", "file"], key: str) -> Known:
        if not self.local.permits(owner, source, key):
            return Known(State.NEGATIVE, error=Kind.POLICY)
        if source == "file":
            return self.cache.known(("file", key), FILES)
        return Known(State.FRESH) if key in self.local.environ else _MISSING

    def _wanted(self, owner: str, host: str, credential: Credential) -> Wanted:
        try:
            return self.connections.find(owner, host, credential)
        except CredentialError:
            named = credential.connection
            facts.secret_denied(owner, named if named is not None and named in self.connections.by_name else "none")
            raise

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
            facts.secret_denied(owner, self._files.name)
            raise CredentialError(Kind.POLICY, "the operator does not lend this secret to the tenant")
        if credential.source == "env":
            return _picked(Held(self.local.read_variable(key)))
        held = await self.cache.get(("file", key), self._files, FILES, lambda: self.local.read_file(key), why=why)
        return _picked(held)

    async def _connected(self, wanted: Wanted, *, why: Why) -> Found:
        """Fetch a whole secret and take its parts, so that a user name and its password are of one version."""
        connection = wanted.connection
        if why is Why.PERSON:
            connection.line.logins.forgive()
        provider, name, user = connection.provider, wanted.property or PASSWORD, wanted.username_property
        held = await self.cache.get(
            _place(wanted),
            connection.line,
            _terms(wanted),
            lambda: provider.fetch(wanted.key, wanted.version),
            why=why,
            fields=(name,) if user is None else (name, user),
        )
        return _picked(held, name, user)


def _place(wanted: Wanted) -> tuple[str, str, str | None]:
    """Where the cache keeps it: the whole secret, whichever of its fields is wanted, whoever wants it."""
    return wanted.connection.name, wanted.key, wanted.version


def _terms(wanted: Wanted) -> Terms:
    return wanted.connection.terms if wanted.version is None else PINNED


def _seconds() -> float:
    return asyncio.get_running_loop().time()


def stored_place(owner: str, name: str, version: int) -> tuple[str, ...]:
    """Where a secret of the built-in store is sealed for: another version is another place."""
    return "secret", owner, name, str(version)


def _picked(held: Held, wanted: str = PASSWORD, user: str | None = None) -> Found:
    previous = None
    if held.previous is not None:
        with suppress(CredentialError):  # without one of its parts it signs nobody in
            previous = _pair(held.previous, wanted, user)
    try:
        found = _pair(held.fetched, wanted, user)
    except CredentialError:  # a name that was misspelt at the source must not stop mail at once
        if previous is None:
            raise
        return previous._replace(stale=True)
    return found._replace(stale=held.stale, previous=previous)


def _pair(fetched: Fetched, wanted: str, user: str | None) -> Found:
    username = None if user is None else _field(fetched, user)
    return Found(_field(fetched, wanted), username, fetched.version)


def _field(fetched: Fetched, name: str) -> Secret:
    secret = fetched.fields.get(name)
    if secret is None:
        raise CredentialError(Kind.MALFORMED, f"the secret has no field {name}")
    return secret
