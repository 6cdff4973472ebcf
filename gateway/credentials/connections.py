"""The operator's connections to secret stores: who may fetch what through them, and how they are.

A tenant names a connection and a key; address, identity and mount are the operator's. `allow` maps the tenant that
owns a profile (`*`: any) to beginnings of keys: of paths whole segments, of Azure's names the letters, of CyberArk's
keys their parts. It is asked when a profile is saved and before every use. `system` may use every connection; but
nobody a key that CyberArk would not be asked for.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, assert_never

from gateway.credentials.cache import Line, Terms
from gateway.credentials.local import ANYBODY, OPERATORS, begins, lent_to
from gateway.credentials.login import Logins
from gateway.credentials.provider import CredentialError, Kind, Provider
from gateway.credentials.reference import Credential
from gateway.settings import Connection as ConnectionSettings

UNKNOWN: Final = "the operator does not lend this secret to the tenant"


class Wanted(NamedTuple):
    """What of a connection a credential asks for; None: the usual field, no user name, the newest version."""

    connection: "Connection"
    key: str
    property: str | None
    username_property: str | None
    version: str | None


@dataclass(slots=True)
class Connection:
    """One secret store with the daemon's identity there; its client is made when it is first used."""

    name: str
    settings: ConnectionSettings
    make: Callable[[ConnectionSettings], Provider]
    line: Line
    terms: Terms = field(init=False)
    _provider: Provider | None = None

    def __post_init__(self) -> None:
        """Work out how long its secrets are kept."""
        self.terms = Terms(float(self.settings.ttl_seconds), float(self.settings.max_stale_seconds))

    @property
    def provider(self) -> Provider:
        """The client."""
        if self._provider is None:
            self._provider = self.make(self.settings)
        return self._provider

    @property
    def used(self) -> bool:
        """Was it ever asked?"""
        return self._provider is not None

    async def close(self) -> None:
        """Let go of the client, and of the token that it has."""
        if self._provider is not None:
            await self._provider.close()

    def permits(self, owner: str, key: str) -> bool:
        """May profiles of this tenant have this key?"""
        if self.settings.kind == "cyberark" and not _names_account(key):
            return False
        if owner == OPERATORS:
            return True
        allow = self.settings.allow
        beginnings = (*allow.get(owner, ()), *allow.get(ANYBODY, ()))
        match self.settings.kind:
            case "azure_key_vault":
                return any(key.startswith(one) for one in beginnings)
            case "cyberark":
                return any(_has_parts(key, one) for one in beginnings)
            case _:
                return begins(key, beginnings)

    def entries_for(self, owner: str) -> list[str]:
        """The operator's ready-made entries that this tenant may pick from."""
        return sorted(name for name, entry in self.settings.entries.items() if lent_to(owner, entry.tenants))

    def health(self) -> str:
        """How it is: `unused`, `ok`, what keeps everybody away, or `login_` and how our last sign-in there failed."""
        error, login = self.line.error, self.line.logins.failure
        if error is not None:
            return error.kind.value
        if login is not None:
            return f"login_{login}"
        return "ok" if self.used else "unused"

    @property
    def answered_seconds(self) -> float | None:
        """How long ago it last answered; None if it never did."""
        return None if self.line.answered_at is None else self.line.clock() - self.line.answered_at


def _names_account(key: str) -> bool:
    """Is a CyberArk key made of parts that there are, each of them once?"""
    from gateway.credentials.providers.cyberark import parse_key

    try:
        parse_key(key)
    except CredentialError:
        return False
    return True


def _has_parts(key: str, wanted: str) -> bool:
    """Does a CyberArk key have all these parts, each as it is written there?"""
    return _parts(wanted).items() <= _parts(key).items()


def _parts(key: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in key.split(";") if part)
    return {name.strip().lower(): value for name, _, value in pairs}


def made(
    settings: Mapping[str, ConnectionSettings], environ: Mapping[str, str], clock: Callable[[], float]
) -> "Connections":
    """Make the operator's connections; nothing is contacted, and no SDK imported, before somebody asks."""

    def connected(name: str, one: ConnectionSettings) -> Connection:
        line = Line(clock, name)
        return Connection(name, one, lambda given: _provider(given, environ, line.logins), line)

    return Connections({name: connected(name, one) for name, one in settings.items()})


def _provider(settings: ConnectionSettings, environ: Mapping[str, str], logins: Logins) -> Provider:
    match settings.kind:
        case "vault":
            from gateway.credentials.providers.vault import VaultProvider

            return VaultProvider(settings, environ, logins=logins)
        case "azure_key_vault":
            from gateway.credentials.providers.azure_key_vault import AzureKeyVaultProvider

            return AzureKeyVaultProvider(settings, environ, logins=logins)
        case "cyberark":
            from gateway.credentials.providers.cyberark import CyberArkProvider

            return CyberArkProvider(settings, environ)
        case "conjur":
            from gateway.credentials.providers.conjur import ConjurProvider

            return ConjurProvider(settings, environ, logins=logins)
        case _:
            assert_never(settings)


@dataclass(slots=True)
class Connections:
    """All connections, by name."""

    by_name: Mapping[str, Connection] = field(default_factory=dict)

    def find(self, owner: str, host: str, credential: Credential) -> Wanted:
        """Find what a credential asks for, if the tenant may have it at this relay; else `policy`, whatever is wrong.

        Of an entry everything is as the operator says, whatever else the credential names.
        """
        connection = self.by_name.get(credential.connection or "")
        if connection is None or connection.settings.kind != credential.source:
            raise CredentialError(Kind.POLICY, UNKNOWN)
        if connection.settings.hosts and host not in connection.settings.hosts:
            raise CredentialError(Kind.POLICY, "the operator does not lend this secret for this relay")
        if credential.entry is not None:
            return self._entry(connection, owner, credential.entry)
        key = credential.key or ""
        if not connection.permits(owner, key):
            raise CredentialError(Kind.POLICY, UNKNOWN)
        version = None if credential.version is None else str(credential.version)
        return Wanted(connection, key, credential.property, credential.username_property, version)

    @staticmethod
    def _entry(connection: Connection, owner: str, name: str) -> Wanted:
        if name not in connection.entries_for(owner):
            raise CredentialError(Kind.POLICY, UNKNOWN)
        entry = connection.settings.entries[name]
        return Wanted(connection, entry.key, entry.property, entry.username_property, None)

    def permits(self, owner: str, host: str, credential: Credential) -> bool:
        """May the tenant's profile for this relay have this credential?"""
        try:
            self.find(owner, host, credential)
        except CredentialError:
            return False
        return True

    def usable_by(self, owner: str) -> Iterable[Connection]:
        """Those that lend something to this tenant."""
        for connection in self.by_name.values():
            allow = connection.settings.allow
            if owner == OPERATORS or allow.get(owner) or allow.get(ANYBODY) or connection.entries_for(owner):
                yield connection

    async def close(self) -> None:
        """Let go of all clients, at once: each may take its time to give back a token."""
        await asyncio.gather(*(connection.close() for connection in self.by_name.values()), return_exceptions=True)
