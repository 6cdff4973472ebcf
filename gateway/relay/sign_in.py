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
from gateway.credentials.provider import CredentialError, Kind, Why
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
    _refused: defaultdict[tuple[str, str], deque[tuple[float, str]]] = field(default_factory=lambda: defaultdict(deque))
    _accepted: set[tuple[str, str, str]] = field(default_factory=set)

    async def relays(self, profile: Profile, *, why: Why = Why.USE) -> list[Relay] | Fault:
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
                profile.tenant, profile.host, seal_place(profile), profile.auth.credential, why=why
            )
        except CredentialError as error:
            return Fault(Phase.SECRET, _TROUBLES[error.kind], error.detail)
        failpoint("secret.fetched")
        return [replace(relay, login=login) for login in _logins(profile, found)]

    def may_try(self, owner: str, relay: Relay) -> bool:
        """Would one more refusal be bearable for the account?

        Whoever has signed in before is not kept out by what others got wrong.
        """
        if relay.login is None:
            return True
        account = (relay.host, relay.login.username)
        refused = self._refused[account]
        while refused and refused[0][0] <= self.clock() - WITHIN:
            refused.popleft()
        own = sum(one == owner for _, one in refused)
        proven = (owner, *account) in self._accepted
        return len(refused) < MOST_REFUSALS or (proven and own < MOST_REFUSALS)

    def answered(self, owner: str, relay: Relay, *, accepted: bool) -> None:
        """The relay took or refused this login."""
        if relay.login is None:
            return
        account = (relay.host, relay.login.username)
        if accepted:
            self._accepted.add((owner, *account))
        else:
            self._refused[account].append((self.clock(), owner))

    def forgive(self, profile: Profile) -> None:
        """A person says that it may be tried again: once, and then the guard stands as before."""
        times = self._refused.get((profile.host, profile.auth.username or ""))
        if times:
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
