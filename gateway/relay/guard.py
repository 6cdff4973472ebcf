"""Guards accounts against being locked: after three refused logins within half an hour nobody tries again.

Until one of them is long enough ago, or a person says so. The account counts, not the profile or its owner, because
the relay locks accounts; but whoever has signed in there is not kept out by what others got wrong.

Promises: a login is counted in the store before it is tried, and taken back if it did no harm; so the count holds for
all daemons together, and what a crash leaves counted stays counted. A login that this process saw accepted costs no
question until it is refused. While the store is away no other is tried.
"""

import asyncio
import secrets
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from gateway.smtp.outcome import Fault, Phase, Trouble, Watch, unwatched
from gateway.smtp.sasl import Login
from gateway.smtp.session import Opener, Relay, Security
from gateway.smtp.transaction import Engine
from gateway.store.protocol import Store, StoreError, StoreUnavailable
from gateway.store.rows import Ending, Permission, SignIn

K = TypeVar("K")
T = TypeVar("T")

MOST_REFUSALS: Final = 3
WITHIN: Final = 1_800_000  # ms
ASK_AGAIN: Final = 0.25  # seconds, while others are at the account …
ASKS: Final = 40  # … and so often
MOST: Final = 10_000  # accounts of which something is remembered: users are for callers to name
TOO_OFTEN: Final = Fault(
    Phase.AUTH,
    Trouble.AUTH_FAILED,
    "this account was refused too often; nobody tries for half an hour, unless a person lets the profile go on",
)
OTHERS_FIRST: Final = Fault(
    Phase.AUTH, Trouble.AUTH_HELD_BACK, "others are signing in to this account, and what they are told is waited for"
)
UNCOUNTABLE: Final = Fault(
    Phase.AUTH, Trouble.AUTH_HELD_BACK, "the gateway's own store is away, and no login is tried that it cannot count"
)
DUBIOUS: Final = frozenset({Trouble.AUTH_DROPPED, Trouble.AUTH_CONFIG, Trouble.AUTH_DEFERRED})
"""How a relay may refuse a password too; of one that it took before it means something else."""


class Guard:
    """Opens sessions for as long as their accounts bear one more refusal."""

    def __init__(self, store: Store) -> None:
        """`store` keeps the count."""
        self._store = store
        self._accepted: dict[SignIn, Login] = {}
        self._forgiven: dict[SignIn, None] = {}
        self._unsettled: dict[SignIn, int] = {}  # tickets that may be counted though they are for nothing
        self._turns: WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = WeakValueDictionary()

    def proven(self, owner: str, relay: Relay) -> bool:
        """Is this the very login that the relay took last?"""
        login = relay.login
        return login is not None and self._accepted.get(_sign_in(owner, relay.host, login.username)) == login

    def turn(self, owner: str, relay: Relay) -> AbstractAsyncContextManager[object]:
        """Wait for the owner's others at an account, unless this very login was accepted: else all try a wrong one at once.

        Of several owners none waits for another's relay: how many may try at once is the store's to say.
        """
        if relay.login is None or self.proven(owner, relay):
            return nullcontext()
        return self._turns.setdefault((owner, relay.host, relay.login.username), asyncio.Lock())

    def forgive(self, owner: str, host: str, username: str) -> None:
        """A person says that it may be tried again: once, and then the guard stands as before."""
        sign_in = _sign_in(owner, host, username)
        if sign_in not in self._accepted:
            remember(self._forgiven, sign_in, None)

    async def open(self, owner: str, relay: Relay, opener: Opener, watch: Watch = unwatched) -> Engine | Fault:
        """Open a session if its login may be tried; else `TOO_OFTEN`, or a fault that is over in a moment."""
        if relay.login is None:
            return await opener.open(relay, watch)
        sign_in = _sign_in(owner, relay.host, relay.login.username)
        if self.proven(owner, relay):
            return await self._open_proven(sign_in, relay, opener, watch)
        attempt = self._begin(sign_in)
        fault = await self._held_back(attempt)
        return await self._open_counted(attempt, relay, opener, watch) if fault is None else fault

    async def _open_proven(self, sign_in: SignIn, relay: Relay, opener: Opener, watch: Watch) -> Engine | Fault:
        opened = await opener.open(relay, watch)
        if isinstance(opened, Fault) and opened.trouble is Trouble.AUTH_FAILED:
            if self.proven(sign_in.tenant, relay):
                del self._accepted[sign_in]
            await self._end(_Attempt(sign_in, _new_ticket()), Ending.REFUSED)
        return opened

    async def _open_counted(self, attempt: "_Attempt", relay: Relay, opener: Opener, watch: Watch) -> Engine | Fault:
        steps = _Steps(relay.security, watch)
        try:
            opened = await opener.open(relay, steps)
        except (Exception, asyncio.CancelledError):
            await self._end(attempt, Ending.REFUSED if steps.told else Ending.UNTRIED)
            raise
        try:
            await self._end(attempt, _ending(opened))
        except BaseException:
            if isinstance(opened, Engine):
                opened.abort()
            raise
        if not isinstance(opened, Fault) and relay.login is not None:
            remember(self._accepted, attempt.sign_in, relay.login)
            self._forgiven.pop(attempt.sign_in, None)
        return opened

    # Counting.

    def _begin(self, sign_in: SignIn) -> "_Attempt":
        """Use what earlier attempts left over: a ticket, and a person's word."""
        ticket = self._unsettled.pop(sign_in, None) or _new_ticket()
        forgiven = sign_in in self._forgiven
        self._forgiven.pop(sign_in, None)
        return _Attempt(sign_in, ticket, forgiven)

    def _leave_over(self, attempt: "_Attempt") -> None:
        remember(self._unsettled, attempt.sign_in, attempt.ticket)
        if attempt.forgiven:
            remember(self._forgiven, attempt.sign_in, None)

    async def _held_back(self, attempt: "_Attempt") -> Fault | None:
        """Have an attempt counted; answers why it must not be made, if so."""
        permission = Permission.LATER
        try:
            permission = await self._asked(attempt)
        except StoreUnavailable:
            return UNCOUNTABLE
        finally:
            if permission is not Permission.GIVEN:
                self._leave_over(attempt)
        if permission is Permission.REFUSED:
            return TOO_OFTEN
        return OTHERS_FIRST if permission is Permission.LATER else None

    async def _asked(self, attempt: "_Attempt") -> Permission:
        """Ask until the others at the account have their answers, but not for ever."""
        most = None if attempt.forgiven else MOST_REFUSALS
        for _ in range(ASKS):
            now = self._store.clock()
            permission = await self._store.try_login(
                attempt.sign_in, attempt.ticket, now, forget_at=now + WITHIN, most=most
            )
            if permission is not Permission.LATER:
                return permission
            await asyncio.sleep(ASK_AGAIN)
        return Permission.LATER

    async def _end(self, attempt: "_Attempt", ending: Ending) -> None:
        """Write down what came of an attempt; what cannot be written stays counted."""
        forget_at = self._store.clock() + WITHIN
        try:
            with suppress(StoreError):
                await self._store.end_login(attempt.sign_in, attempt.ticket, ending, forget_at=forget_at)
        finally:
            if ending is not Ending.REFUSED:
                self._leave_over(attempt)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A login that is to be counted under its ticket; `forgiven` by a person, whatever the count."""

    sign_in: SignIn
    ticket: int
    forgiven: bool = False


class _Steps:
    """Watches an opening: could the relay know the login by the time that it broke off?"""

    def __init__(self, security: Security, watch: Watch) -> None:
        self.told = False
        self._before = Phase.TLS if security is Security.STARTTLS else Phase.GREETING
        self._watch = watch

    def __call__(self, phase: Phase, what: object) -> None:
        self.told = self.told or phase is self._before
        self._watch(phase, what)


def _ending(opened: Engine | Fault) -> Ending:
    if not isinstance(opened, Fault):
        return Ending.ACCEPTED
    refused = opened.trouble is Trouble.AUTH_FAILED or opened.trouble in DUBIOUS
    return Ending.REFUSED if refused else Ending.UNTRIED


def _sign_in(owner: str, host: str, username: str) -> SignIn:
    """Name an account and who uses it; the user's name may come from a secret store, and is kept nowhere."""
    return SignIn(host, sha256(username.encode(errors="surrogatepass")).hexdigest(), owner)


def remember(table: dict[K, T], about: K, what: T) -> None:
    """Keep what is new; the oldest goes, which costs a question to the store, a count for half an hour, or a word again."""
    table.pop(about, None)
    table[about] = what
    if len(table) > MOST:
        del table[next(iter(table))]


def _new_ticket() -> int:
    return secrets.randbits(62)
