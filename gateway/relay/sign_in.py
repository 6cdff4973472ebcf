"""A profile becomes an open session: where to, by which way, how protected, and with which secrets as whom.

Whether a login may be tried is the `guard`'s to say.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeVar

from gateway.credentials.credentials import Credentials, Found
from gateway.credentials.local import OPERATORS, lent_to
from gateway.credentials.provider import CredentialError, Kind, Why
from gateway.credentials.reference import Credential
from gateway.credentials.secret import Secret
from gateway.credentials.tokens import Grant, Tokens
from gateway.directory.changes import Slot
from gateway.directory.directory import seal_place
from gateway.directory.shapes import Dkim, OAuth, Profile
from gateway.observe import facts
from gateway.observe.failpoint import failpoint
from gateway.relay.guard import TOO_OFTEN, Guard, remember
from gateway.settings import Connector
from gateway.smtp import certificate, dkim
from gateway.smtp.dial import Proxy, ProxyKind
from gateway.smtp.outcome import Fault, Phase, Trouble, Watch, unwatched
from gateway.smtp.sasl import Login, Method
from gateway.smtp.session import Opener, Relay, Security
from gateway.smtp.tls import TlsPolicy
from gateway.smtp.transaction import Engine, Envelope, Timeouts
from gateway.store.rows import Place

T = TypeVar("T")

NOT_LENT: Final = Fault(Phase.CONNECT, Trouble.EGRESS_REFUSED, "the operator lends the tenant no such connector")
UNFORESEEN_SECRET: Final = Fault(
    Phase.SECRET, Trouble.SECRET_UNAVAILABLE, "fetching the secret failed in a way unforeseen"
)
UNFORESEEN_REPLY: Final = Fault(Phase.GREETING, Trouble.PROTOCOL, "the relay said something that we did not foresee")
UNFORESEEN_KEY: Final = Fault(Phase.SECRET, Trouble.DKIM_KEY, "signing failed in a way that we did not foresee")
UNTRIED: Final = Fault(Phase.AUTH, Trouble.AUTH_FAILED, "there is nothing to try")

_TROUBLES: Final = {
    Kind.NOT_FOUND: Trouble.SECRET_MISSING,
    Kind.MALFORMED: Trouble.SECRET_MISSING,
    Kind.DENIED: Trouble.SECRET_DENIED,
    Kind.POLICY: Trouble.SECRET_DENIED,
    Kind.UNREACHABLE: Trouble.SECRET_UNAVAILABLE,
    Kind.THROTTLED: Trouble.SECRET_UNAVAILABLE,
    Kind.ROTATING: Trouble.SECRET_UNAVAILABLE,
}


async def _caught(profile: Profile, work: Awaitable[T], otherwise: Fault) -> T | Fault:
    """Do what secrets and relays of tenants take part in: what nobody foresaw in one must not stop everybody's mail."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001
        facts.opening_failed((profile.tenant, profile.name), error)
        return otherwise


class Opened(NamedTuple):
    """A session, and as what it was opened."""

    engine: Engine
    relay: Relay


@dataclass(slots=True)
class SignIns:
    """Opens sessions for profiles."""

    credentials: Credentials
    tokens: Tokens
    opener: Opener
    guard: Guard
    connectors: Mapping[str, Connector] = field(default_factory=dict)
    # Who would have signed in, had the guard let them: the name may come with the secret, which takes time to fetch.
    _held_back: dict[Place, str] = field(default_factory=dict)

    # What to try.

    async def relays(self, profile: Profile, *, why: Why = Why.USE) -> list[Relay] | Fault:
        """What to try for a profile, best first: the present secret, and for a while the one before.

        What the relay took last comes first: where it changes later than the source, the new secret would else be
        refused once for every session.
        """
        return await _caught(profile, self._relays(profile, why), UNFORESEEN_SECRET)

    async def _relays(self, profile: Profile, why: Why) -> list[Relay] | Fault:
        try:
            shown = await self._certificate(profile, why)
            tls = TlsPolicy(
                profile.tls.verify,
                profile.tls.allow_auth_unverified,
                profile.tls.ca_certificates,
                profile.tls.min_version,
                shown,
            )
            proxy = None if profile.connector is None else await self._proxy(profile.tenant, profile.connector)
            if isinstance(proxy, Fault):
                return proxy
            relay = Relay(profile.host, profile.port, Security(profile.security), tls, None, proxy)
            logins = await self._logins(profile, why)
            if profile.dkim is not None:
                await self._found(profile, ("dkim", "key"), profile.dkim.key, why)  # better missed now than on the way
        except CredentialError as error:
            return Fault(Phase.SECRET, _TROUBLES[error.kind], error.detail)
        failpoint("secret.fetched")
        tries = [replace(relay, login=login) for login in logins]
        return sorted(tries, key=lambda one: not self.guard.proven(profile.tenant, one))

    async def _logins(self, profile: Profile, why: Why) -> list[Login | None]:
        auth, method = profile.auth, Method(profile.auth.method)
        if auth.anonymous:
            return [None]
        if method is Method.EXTERNAL:
            return [Login(method, auth.username or "", None)]
        if auth.oauth is not None:
            token = await self._token(profile, auth.oauth, why)
            return [Login(method, auth.oauth.mailbox or auth.username or "", token, bearer=True)]
        if auth.credential is None:
            raise CredentialError(Kind.NOT_FOUND, "the profile has no password")
        found = await self._found(profile, ("auth", "credential"), auth.credential, why)
        logins: list[Login | None] = []
        for pair in (found, found.previous):
            if pair is not None:
                username = pair.username.reveal() if pair.username is not None else auth.username or ""
                logins.append(Login(method, username, pair.secret, auth.domain))
        return list(dict.fromkeys(logins))

    async def _token(self, profile: Profile, oauth: OAuth, why: Why) -> Secret:
        grant = Grant(oauth.provider, oauth.grant, oauth.directory, oauth.client_id, oauth.mailbox)
        if profile.auth.credential is None:
            return await self.tokens.find(profile.tenant, profile.host, grant, None, why=why)
        found = await self._found(profile, ("auth", "credential"), profile.auth.credential, why)
        try:
            return await self.tokens.find(profile.tenant, profile.host, grant, found.secret, why=why)
        except CredentialError as error:
            before = found.previous
            if error.kind is not Kind.DENIED or before is None or before.secret == found.secret:
                raise
            return await self.tokens.find(profile.tenant, profile.host, grant, before.secret, why=why)

    async def _certificate(self, profile: Profile, why: Why) -> Secret | None:
        if profile.tls.client_certificate is None or profile.security is Security.NONE:
            return None
        return (await self._found(profile, ("tls", "client_certificate"), profile.tls.client_certificate, why)).secret

    async def _found(self, profile: Profile, slot: Slot, credential: Credential, why: Why) -> Found:
        return await self.credentials.find(profile.tenant, profile.host, seal_place(profile, slot), credential, why=why)

    async def _proxy(self, owner: str, name: str) -> Proxy | Fault:
        """The operator's proxy of this name, with its password, if the owner of the profile may use it."""
        connector = self.connectors.get(name)
        if connector is None or not lent_to(owner, connector.allow):
            return NOT_LENT
        address = connector.address
        username, password = connector.username, None
        if connector.credential is not None and connector.credential.value is not None:
            password = Secret(connector.credential.value.get_secret_value())
        elif connector.credential is not None:
            reference = Credential.model_validate(connector.credential.model_dump(exclude_none=True))
            found = await self.credentials.find(OPERATORS, address.host, ("connector", name), reference)
            username = username if found.username is None else found.username.reveal()
            password = found.secret
        kind, targets = ProxyKind(connector.kind), tuple(connector.targets)
        return Proxy(kind, address.host, address.port, username, password, targets, connector.remote_dns)

    # Trying it.

    async def open(
        self, profile: Profile, relays: list[Relay], watch: Watch = unwatched, timeouts: Timeouts | None = None
    ) -> Opened | Fault:
        """Open a session; where a password is refused, with the one that its source has now, or had before.

        What its source has now is put into `relays` too: of those that were refused all stand there in the end.
        """
        async with self.guard.turn(profile.tenant, relays[0]):
            return await _caught(profile, self._open(profile, relays, watch, timeouts), UNFORESEEN_REPLY)

    async def _open(
        self, profile: Profile, relays: list[Relay], watch: Watch, timeouts: Timeouts | None
    ) -> Opened | Fault:
        opener = self.opener if timeouts is None else replace(self.opener, timeouts=timeouts)
        if timeouts is None:
            self._held_back.pop((profile.tenant, profile.name), None)
        tried: list[Relay] = []
        refusal = UNTRIED
        while (relay := next((one for one in relays if one not in tried), None)) is not None:
            opened = await self.guard.open(profile.tenant, relay, opener, watch)
            if not isinstance(opened, Fault):
                kept = timeouts is None and relay.tls.verify  # what is only tested, or anybody's, is nobody's to renew
                if kept and opened.certificate and (ends := certificate.ends(opened.certificate)) is not None:
                    facts.certificate(relay.host, relay.port, ends.timestamp())
                return Opened(opened, relay)
            if opened is TOO_OFTEN and timeouts is None and relay.login is not None:
                remember(self._held_back, (profile.tenant, profile.name), relay.login.username)
            if opened.trouble is not Trouble.AUTH_FAILED or opened is TOO_OFTEN:
                return opened
            refusal = opened
            tried.append(relay)
            renewed = await self.relays(profile, why=Why.REFUSED)
            relays[:0] = [] if isinstance(renewed, Fault) else [one for one in renewed if one not in relays]
        return refusal

    def forgive(self, profile: Profile, refused: Login | None) -> None:
        """A person says that whoever was refused, or held back since, may try again: once; then the guard stands as before."""
        username = profile.auth.username or "" if refused is None else refused.username
        for one in {username, self._held_back.get((profile.tenant, profile.name), username)}:
            self.guard.forgive(profile.tenant, profile.host, one)

    # What belongs to a message.

    async def signed(self, profile: Profile, envelope: Envelope) -> Envelope | Fault:
        """Sign a message as the profile's domain (RFC 6376), if it has one."""
        if profile.dkim is None:
            return envelope
        return await _caught(profile, self._signed(profile, profile.dkim, envelope), UNFORESEEN_KEY)

    async def _signed(self, profile: Profile, wanted: Dkim, envelope: Envelope) -> Envelope | Fault:
        try:
            key = await self._found(profile, ("dkim", "key"), wanted.key, Why.USE)
            message = await dkim.signed(envelope.message, wanted.domain, wanted.selector, key.secret)
        except CredentialError as error:
            return Fault(Phase.SECRET, _TROUBLES[error.kind], error.detail)
        except dkim.DkimError as error:
            return Fault(Phase.SECRET, Trouble.DKIM_KEY, str(error))
        return replace(envelope, message=message)
