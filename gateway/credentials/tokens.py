"""Access tokens for mail, by provider and grant: who may have one, and the cache in front of the sources.

`microsoft365` and `google` are known; others are the operator's, and for the tenants in `allow` only, as is a machine's
own identity. That is asked before every use, also of what is cached. `system` may use all.

A token is refreshed after half of its life or a little later while it is used, forced when a relay has refused it, and
served on while it lives if its endpoint is away, but never longer. Each tenant has its own line to an endpoint, for
each of Microsoft's directories, so that what one provokes there keeps nobody else away.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Final

from gateway.credentials.cache import Cache, Line, Terms
from gateway.credentials.local import lent_to
from gateway.credentials.oauth import google, microsoft
from gateway.credentials.oauth.endpoint import USUAL, Endpoint
from gateway.credentials.oauth.source import MACHINE, Grant, Source
from gateway.credentials.oauth.standard import StandardSource
from gateway.credentials.provider import PASSWORD, CredentialError, Deadlines, Kind, Why
from gateway.credentials.secret import Secret
from gateway.settings import BUILT_IN_OAUTH, OAuthProvider

__all__ = ["Grant", "Tokens"]

TERMS: Final = Terms(fresh=86_400.0, stale=None)
MOST_LINES: Final = 10_000  # a directory is a tenant's to name


class Tokens:
    """Access tokens; `clock` is that of the cache. Nothing is contacted, and no SDK imported, before somebody asks."""

    def __init__(
        self,
        providers: Mapping[str, OAuthProvider],
        cache: Cache,
        clock: Callable[[], float],
        deadlines: Deadlines = USUAL,
    ) -> None:
        known = {name: OAuthProvider() for name in BUILT_IN_OAUTH}
        self._providers = {**known, **providers}
        self._cache = cache
        self._clock = clock
        self._sources = {name: _source(name, one, deadlines) for name, one in self._providers.items()}
        self._lines: OrderedDict[Hashable, Line] = OrderedDict()

    async def find(self, owner: str, host: str, grant: Grant, secret: Secret | None, *, why: Why = Why.USE) -> Secret:
        """Give a token for the owner's profile for this relay; `secret` is what its credential holds.

        Raises `CredentialError`.

        `why` may ask past what is cached: after a refusal every half a minute at most, for a person always.
        """
        if not self._permits(owner, grant):
            raise CredentialError(Kind.POLICY, "the operator lends this way to sign in to others only")
        if not self._goes_to(host, grant):
            raise CredentialError(Kind.POLICY, "the operator does not lend this way to sign in for this relay")
        grant = _reduced(grant)
        secret = None if grant.type == MACHINE else secret
        held = await self._cache.get(
            ("oauth", *grant, owner if secret is None else None, None if secret is None else secret.fingerprint),
            self._line(owner, grant),
            TERMS,
            lambda: self._sources[grant.provider].fetch(grant, secret),
            why=why,
        )
        return held.fetched.fields[PASSWORD]

    async def close(self) -> None:
        """Let go of all connections."""
        await asyncio.gather(*(source.close() for source in self._sources.values()), return_exceptions=True)

    def _permits(self, owner: str, grant: Grant) -> bool:
        provider = self._providers.get(grant.provider)
        if provider is None:
            return False
        if grant.provider in BUILT_IN_OAUTH and grant.type != MACHINE:
            return True
        return lent_to(owner, provider.allow)

    def _goes_to(self, host: str, grant: Grant) -> bool:
        """May a token go to this relay? One of the machine's own identity, which is nobody's to have, not to any."""
        hosts = self._providers[grant.provider].hosts
        if hosts or grant.type != MACHINE:
            return not hosts or host in hosts
        return host.endswith(microsoft.MAIL_HOSTS)

    def _line(self, owner: str, grant: Grant) -> Line:
        place = grant.provider, grant.directory, owner
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = Line(self._clock, grant.provider)
            if len(self._lines) > MOST_LINES:
                self._lines.popitem(last=False)
        self._lines.move_to_end(place)
        return line


def _reduced(grant: Grant) -> Grant:
    """Leave out what the token does not depend on, so that those who differ only in that share it, and its refresh."""
    directory = grant.directory if grant.provider == "microsoft365" else None
    mailbox = grant.mailbox if grant.type == "service_account" else None
    return grant._replace(directory=None if directory is None else directory.lower(), mailbox=mailbox)


def _source(name: str, provider: OAuthProvider, deadlines: Deadlines) -> Source:
    endpoint = Endpoint(provider.ca_certificates, deadlines)
    basic = provider.client_authentication == "client_secret_basic"
    match name:
        case "microsoft365":
            return microsoft.MicrosoftSource(
                endpoint, provider.authority or microsoft.AUTHORITY, provider.scope or microsoft.SCOPE
            )
        case "google":
            url, scope = provider.token_url or google.TOKEN_URL, provider.scope or google.SCOPE
            return google.GoogleSource(endpoint, url, scope, basic=basic)
        case _:
            # The settings refuse another provider without an address; made in code, it reaches nobody.
            return StandardSource(endpoint, provider.token_url or "", provider.scope, basic=basic)
