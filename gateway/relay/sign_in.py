"""A profile becomes what a session is: where to, how protected, and with which secret as whom.

Guards accounts against being locked: after three refused logins within half an hour nobody tries again until one of
them is long enough ago, or a person says so. The account counts, not the profile or its owner, because the relay
locks accounts.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.credentials.credentials import Credentials, Found
from gateway.credentials.provider import CredentialError, Kind
from gateway.directory.directory import seal_place
from gateway.directory.shapes import Profile
from gateway.observe.failpoint import failpoint
from gateway.smtp.outcome import Fault, Phase, Trouble
from gateway.smtp.session import Login, Method, Relay, Security, TlsPolicy

MOST_REFUSALS: Final = 3
WITHIN: Final = 1_800.0  # seconds

_TROUBLES: Final = {
    Kind.NOT_FOUND: Trouble.SECRET_MISSING,
    Kind.MALFORMED: Trouble.SECRET_MISSING,
    Kind.DENIED: Trouble.SECRET_DENIED,
    Kind.POLICY: Trouble.SECRET_DENIED,
    Kind.UNREACHABLE: Trouble.SECRET_UNAVAILABLE,
    Kind.THROTTLED: Trouble.SECRET_UNAVAILABLE,
    Kind.ROTATING: Trouble.SECRET_UNAVAILABLE,
}


@dataclass(slots=True)
class SignIns:
    """Makes relays of profiles, and remembers who was refused where. `clock` is in seconds."""

    credentials: Credentials
    clock: Callable[[], float]
    _refused: defaultdict[tuple[str, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))

    async def relays(self, profile: Profile, *, forced: bool = False) -> list[Relay] | Fault:
        """What to try for a profile, best first: the present secret, and for a while the one before."""
        if (missing := unsupported(profile)) is not None:
            return missing
        tls = TlsPolicy(
            profile.tls.verify, profile.tls.allow_auth_unverified, profile.tls.ca_certificates, profile.tls.min_version
        )
        relay = Relay(profile.host, profile.port, Security(profile.security), tls)
        if profile.auth.anonymous:
            return [relay]
        if profile.auth.credential is None:
            return Fault(Phase.SECRET, Trouble.SECRET_MISSING, "the profile has no password")
        try:
            found = await self.credentials.find(
                profile.tenant, profile.host, seal_place(profile), profile.auth.credential, forced=forced
            )
        except CredentialError as error:
            return Fault(Phase.SECRET, _TROUBLES[error.kind], error.detail)
        failpoint("secret.fetched")
        return [replace(relay, login=login) for login in _logins(profile, found)]

    def may_try(self, relay: Relay) -> bool:
        """Would one more refusal be bearable for the account?"""
        if relay.login is None:
            return True
        refused = self._refused.get((relay.host, relay.login.username))
        while refused and refused[0] <= self.clock() - WITHIN:
            refused.popleft()
        return not refused or len(refused) < MOST_REFUSALS

    def refused(self, relay: Relay) -> None:
        """The relay refused this login."""
        if relay.login is not None:
            self._refused[relay.host, relay.login.username].append(self.clock())

    def forgive(self, profile: Profile) -> None:
        """A person says that it may be tried again: once, and then the guard stands as before."""
        for (host, _), times in self._refused.items():
            if host == profile.host and times:
                times.popleft()


def _logins(profile: Profile, found: Found) -> list[Login]:
    username = found.username.reveal() if found.username is not None else profile.auth.username or ""
    method = Method(profile.auth.method)
    values = [found.secret] if found.previous in (None, found.secret) else [found.secret, found.previous]
    return [Login(method, username, value) for value in values if value is not None]


def unsupported(profile: Profile) -> Fault | None:
    """What a profile asks for and nobody here can do yet keeps its mail waiting, rather than go without it."""
    for wanted, what in (
        (profile.auth.method not in set(Method), f"signing in by {profile.auth.method}"),
        (profile.auth.oauth is not None, "signing in by OAuth"),
        (profile.auth.domain is not None, "signing in with a domain"),
        (profile.tls.client_certificate is not None, "a client certificate"),
        (profile.connector is not None, "a connector"),
        (profile.dkim is not None, "signing with DKIM"),
    ):
        if wanted:
            return Fault(Phase.AUTH, Trouble.AUTH_UNAVAILABLE, f"{what} is not supported yet")
    return None
