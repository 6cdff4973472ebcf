"""Who is signed in: sessions in the store, known by the hash of a token that only the browser has.

A session says who somebody is, never what they may: that is looked up at every request. So a session of an API key
ends when the key is revoked, expires, or is used from outside its networks, and one of an OpenID provider when the
settings name none any more. It also ends when it was not used for `[ui] session_idle_minutes`, and after
`session_absolute_hours` in any case. What a page asks by itself, to stay fresh, is no use.

Tokens are new at every sign-in. Ending all of a person's sessions ends them at every daemon that shares the database.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aiohttp import web

from gateway.directory.snapshot import ROOT
from gateway.http.authentication import caller_of, is_good, used
from gateway.http.call import SCOPES, SOCKET_CALLER, Caller, Services
from gateway.http.sign_in_links import hash_of, new_token
from gateway.message.notification import compact
from gateway.observe import facts
from gateway.problems import Code, Problem
from gateway.store.protocol import StoreUnavailable
from gateway.store.rows import Happening, SessionKind, SessionRow

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
NOTED_EVERY: Final = MINUTE  # a session's use is written no more often than this, nor than a tenth of its idle time
PRUNE_SECONDS: Final = 300.0
PRUNE_ROWS: Final = 1000
LONGEST_TOKEN: Final = 128


class How(StrEnum):
    """By what somebody signed in."""

    KEY = "key"
    LINK = "link"
    OIDC = "oidc"


@dataclass(frozen=True, slots=True)
class Promised:
    """Whom a link signs in."""

    who: str
    name: str
    caller: Caller


@dataclass(frozen=True, slots=True)
class Person:
    """Who is signed in: `who` is theirs over all sessions, `name` what the page calls them, `caller` what they may."""

    who: str
    name: str
    caller: Caller
    session: bytes


class Sessions:
    """Begins, finds and ends them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        ui = services.settings.ui
        self._idle = ui.session_idle_minutes * MINUTE
        self._life = ui.session_absolute_hours * HOUR
        self._noted_every = min(NOTED_EVERY, self._idle // 10)

    async def begin(self, request: web.BaseRequest, how: How, who: str, name: str) -> str:
        """Begin a session; answers its token, which is kept nowhere.

        Raises `rate_limited`, and `forbidden` for somebody who may nothing any more. What the audit cannot be told does
        not happen.
        """
        now = self._now()
        caller = self.caller(request, who, name)
        if caller is None:
            raise Problem(Code.FORBIDDEN)
        self._services.admission.signing_in(who, now)
        await self._tell(caller, "session.begin", compact([{"field": "how", "after": how}]))
        token, sha256 = new_token()
        row = SessionRow(sha256, SessionKind.SESSION, who, name, now, now, now + self._life)
        await self._services.store.begin_session(row)
        facts.signed_in(how, caller.tenant)
        return token

    async def promised(self, request: web.BaseRequest, token: str) -> Promised | None:
        """Tell whom a link signs in, and leave it as it is; None if nobody, or not any more."""
        if not token or len(token) > LONGEST_TOKEN:
            return None
        row = await self._services.store.session(hash_of(token))
        return None if row is None or row.kind is not SessionKind.LINK else self._kept(request, row)

    async def redeem(self, request: web.BaseRequest, token: str) -> Promised | None:
        """Take the promise of a link: of several who ask at once one gets it."""
        if await self.promised(request, token) is None:
            return None
        row = await self._services.store.end_session(hash_of(token), SessionKind.LINK)
        return None if row is None else self._kept(request, row)

    def _kept(self, request: web.BaseRequest, row: SessionRow) -> Promised | None:
        caller = None if row.ends_at <= self._now() else self.caller(request, row.who, row.name)
        return None if caller is None else Promised(row.who, row.name, caller)

    async def person(self, request: web.BaseRequest, token: str, *, by_itself: bool) -> Person | None:
        """Find whose session this is, as long as it lasts; `by_itself`: it is the page that asks."""
        if not token or len(token) > LONGEST_TOKEN:
            return None
        store, now = self._services.store, self._now()
        row = await store.session(hash_of(token))
        if row is None or row.kind is not SessionKind.SESSION:
            return None
        caller = self.caller(request, row.who, row.name)
        if caller is None or row.ends_at <= now or row.used_at + self._idle <= now:
            await store.end_session(row.token_sha256, SessionKind.SESSION)
            return None
        if not by_itself and now - row.used_at >= self._noted_every:
            with suppress(StoreUnavailable):  # on a full disk people may still read; the next use is noted
                await store.use_session(row.token_sha256, now)
        return Person(row.who, row.name, caller, row.token_sha256)

    def caller(self, request: web.BaseRequest, who: str, name: str) -> Caller | None:
        """Tell what somebody may who is known to be so; None: nothing any more."""
        kind, _, rest = who.partition(":")
        match kind:
            case "key":
                snapshot = self._services.directory.snapshot
                key = snapshot.key(rest)
                if key is None or not is_good(key, request, self._services):
                    return None
                used(key, snapshot, self._services)
                return caller_of(key)
            case "oidc" if self._services.settings.ui.oidc is not None:
                return Caller(ROOT, SCOPES, who, name=f"oidc:{name} ({rest})")  # names may be alike, subjects are not
            case "socket":
                return SOCKET_CALLER
            case _:
                return None

    async def end(self, person: Person) -> None:
        """End this session."""
        await self._services.store.end_session(person.session, SessionKind.SESSION)

    async def end_everywhere(self, person: Person) -> None:
        """End all sessions of a person, and what links promise them."""
        await self._services.store.end_sessions(person.who)
        await self._tell(person.caller, "session.end_all", "[]")

    async def keep(self) -> None:
        """Forget now and then what is over, for as long as the daemon lives."""
        while True:
            await asyncio.sleep(PRUNE_SECONDS)
            with suppress(StoreUnavailable):
                while await self._prune() == PRUNE_ROWS:
                    pass

    async def _prune(self) -> int:
        now = self._now()
        return await self._services.store.prune_sessions(now, now - self._idle, PRUNE_ROWS)

    async def _tell(self, caller: Caller, action: str, changes: str) -> None:
        """Tell the audit of a person's tenant."""
        actor = caller.name or f"key:{caller.key_id}"
        await self._services.store.log(
            [Happening(caller.tenant, actor, caller.tenant, action, "", changes)], self._now()
        )

    def _now(self) -> int:
        return self._services.outbox.clock()
