"""HashiCorp Vault and OpenBao: the secrets of one key-value engine, fetched with hvac.

Owns the token of one connection: signed in for once and shared by all fetches, renewed by the first fetch after two
thirds of its life, replaced when it is refused and over. Where it is refused and lives, its policies may be old: it is
replaced once an hour at most, and serves on if that fails. What a sign-in shows is read anew each time, TLS files
included; only a secret id that came wrapped is remembered, because it can be unwrapped once: where the answer to that
was lost, it is not tried again. After a sign-in that failed there is a pause (see `login`). A token that was signed in
for is revoked when it is replaced while it lives, and at the end; a configured one is not ours to revoke.

Promises: one attempt a fetch, within its deadlines, however slowly the server drips; nothing of an answer, and no
token, in an error or behind it. hvac blocks, so each call has a thread of its own that nobody waits for: a hung one
holds up neither the event loop, nor another call, nor the end of the process, as those of an executor would.

Never: follows a redirect, reads VAULT_* or ~/.vault-token, ~/.netrc or a proxy from the environment, logs. It serves
no dynamic secrets: each read would make another account, so an answer with a lease of its own is refused.
"""

import asyncio
import json
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote

from gateway.credentials.identity import read_identity
from gateway.credentials.login import Logins
from gateway.credentials.provider import (
    MAX_OCTETS,
    CredentialError,
    Deadlines,
    Fetched,
    Kind,
    NoIdentity,
    read_retry_after,
)
from gateway.credentials.secret import Secret
from gateway.settings import SecretSource, VaultConnection
from gateway.settings.connections import VaultAppRole, VaultCert, VaultJwt, VaultKubernetes, VaultPassword, VaultToken

if TYPE_CHECKING:
    import requests

FORCED_EVERY: Final = 60.0  # seconds between two looks at a token that was refused, and so between sign-ins for that
ANEW_EVERY: Final = 3600.0  # seconds after a sign-in in which a token that lives is not replaced
DUE: Final = 2 / 3  # of its life, when a token is renewed
TRUNCATED: Final = 1 / 2  # of the life before; a renewal that grants less nears the token's last day
MOST_THREADS: Final = 32  # calls at once, hung ones included; the cache above asks eight at a time

_USUAL: Final = Deadlines()
_CHUNK: Final = 16_384
_PASSING: Final = (Kind.UNREACHABLE, Kind.THROTTLED)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._ @-]+")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,9}")
_TOKEN: Final = re.compile(r"[!-~]+")

T = TypeVar("T")
Outcome: TypeAlias = T | CredentialError


class _NotNowError(CredentialError):
    """The server has said that it did nothing with the request."""


class _Token(NamedTuple):
    """What a sign-in brought: `life` in seconds from `since` on, 0 if it does not end.

    Of a `mute` one the server says nothing: it may be over, or have no right but to read secrets.
    """

    secret: Secret
    life: float
    renewable: bool
    since: float
    mute: bool = False

    def spent(self, now: float) -> float:
        return (now - self.since) / self.life if self.life > 0 else 0.0


class VaultProvider:
    """One connection to Vault; hvac is imported by its first fetch."""

    def __init__(
        self,
        settings: VaultConnection,
        environ: Mapping[str, str],
        deadlines: Deadlines = _USUAL,
        *,
        clock: Callable[[], float] = time.monotonic,
        logins: Logins | None = None,
    ) -> None:
        logging.getLogger("urllib3").setLevel(logging.WARNING)  # at DEBUG it tells paths
        self._deadlines = deadlines
        self._clock = clock
        self._server = _Server(settings, environ, deadlines, clock)
        self._versioned = settings.kv_version == 2
        self._lock = asyncio.Lock()
        self._token: _Token | None = None
        self._proven: Secret | None = None  # the mute token that has read something
        self._forced_at = float("-inf")
        self._anew_at = float("-inf")
        self._logins = logins or Logins(clock)
        self._running = 0
        self._leaving: set[asyncio.Future[Outcome[None]]] = set()
        self._closed = False

    async def fetch(self, key: str, version: str | None) -> Fetched:
        """Fetch a secret, or with version 2 of the engine one version of it. Raises `CredentialError`."""
        self._check(key, version)
        token = _given(await self._admitted())
        outcome = await self._read(token, key, version)
        if isinstance(outcome, CredentialError) and outcome.kind is Kind.DENIED:
            another = _given(await self._admitted_anew(token))
            if another is not None:
                outcome = await self._read(another, key, version)
        return _given(outcome)

    async def close(self) -> None:
        """Revoke the tokens that are ours, if the server hears it in time, and close the connections.

        A thread that hangs ends by itself, or with the process.
        """
        self._closed = True
        token, self._token = self._token, None
        if token is not None and not self._server.shows_a_token:
            self._revoke(token)
        await asyncio.gather(*self._leaving)
        self._server.close()

    def _check(self, key: str, version: str | None) -> None:
        # Before any client sees the path: all of them resolve dots, and `..` leads out of the mount.
        for segment in key.split("/"):
            if _SEGMENT.fullmatch(segment) is None or segment in {".", ".."}:
                raise CredentialError(Kind.MALFORMED, "the key is no path of letters, digits and . _ - @ or space")
        if version is not None and not self._versioned:
            raise CredentialError(Kind.MALFORMED, "version 1 of the key-value engine keeps no versions")
        if version is not None and _VERSION.fullmatch(version) is None:
            raise CredentialError(Kind.MALFORMED, "a version is a number from 1 on")

    async def _read(self, token: _Token, key: str, version: str | None) -> Outcome[Fetched]:
        outcome = await self._call(self._deadlines.total, partial(self._server.read, token.secret, key, version))
        if token.mute and token.secret != self._proven:
            self._judge(token, outcome)
        return outcome

    def _judge(self, token: _Token, outcome: Outcome[Fetched]) -> None:
        """Take from a read whether a mute token is good: nothing else tells."""
        if not isinstance(outcome, CredentialError) or outcome.kind is Kind.NOT_FOUND:
            self._proven = token.secret
            self._logins.succeeded()
        elif outcome.kind is Kind.DENIED:
            self._logins.doubted(outcome)

    # The token; whoever holds the lock is the only one to change it.

    async def _admitted(self) -> Outcome[_Token]:
        """Give a token that should be good, renewed or signed in for if it is time."""
        async with self._lock:
            held, now = self._token, self._clock()
            if held is not None and held.spent(now) < DUE:
                return held
            if held is not None and held.renewable and held.spent(now) < 1:
                renewed = await self._call(self._deadlines.total, partial(self._server.renew, held))
                if isinstance(renewed, _Token):
                    self._token = renewed
                    self._logins.lasts(renewed.life or None)
                    return renewed
                if renewed.kind in _PASSING:
                    return held
            outcome = await self._sign_in()
            if isinstance(outcome, CredentialError) and held is not None and held.spent(self._clock()) < 1:
                return held
            return outcome

    async def _admitted_anew(self, refused: _Token) -> Outcome[_Token | None]:
        """Give another token than the refused one; None if it is too early for that, or would be the same.

        A token keeps the policies of its sign-in, so a new one may be let in where a valid old one is not.
        """
        async with self._lock:
            if self._token is not None and self._token.secret != refused.secret:
                return self._token
            if self._clock() - self._forced_at < FORCED_EVERY:
                return None
            if not self._server.shows_a_token:
                trouble = await self._call(self._deadlines.total, partial(self._server.look, refused.secret))
                if trouble is None:
                    self._forced_at = self._clock()
                    return await self._replaced(refused)
                if trouble.kind is not Kind.DENIED:
                    return trouble
            outcome = await self._sign_in()
            if isinstance(outcome, _Token) or outcome.kind not in _PASSING:
                self._forced_at = self._clock()
            return None if isinstance(outcome, _Token) and outcome.secret == refused.secret else outcome

    async def _replaced(self, living: _Token) -> _Token | None:
        """Give a new token instead of one that lives; None if it is too early for that, or none is had."""
        if self._closed or self._clock() < self._anew_at or self._logins.trouble() is not None:
            return None
        self._anew_at = self._clock() + ANEW_EVERY
        outcome = await self._call(self._deadlines.login, self._server.sign_in)
        if isinstance(outcome, CredentialError):
            return None  # no failure of the connection's: nobody needs the token, and a secret id may be good for one
        self._token = outcome
        self._logins.succeeded(outcome.life or None)
        self._revoke(living)  # whoever still shows it is refused, comes back, and finds the new one
        return outcome

    def _revoke(self, token: _Token) -> None:
        leaving = asyncio.ensure_future(self._call(self._deadlines.leave, partial(self._server.revoke, token.secret)))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _sign_in(self) -> Outcome[_Token]:
        if self._closed:
            return CredentialError(Kind.UNREACHABLE, "the connection to the server is closed")
        if (pause := self._logins.trouble()) is not None:
            return pause
        outcome = await self._call(self._deadlines.login, self._server.sign_in)
        if isinstance(outcome, CredentialError):
            self._logins.failed(outcome)
            return outcome
        self._token, self._anew_at = outcome, self._clock() + ANEW_EVERY
        if not outcome.mute:
            self._logins.succeeded(outcome.life or None)
        return outcome

    # Threads.

    async def _call(self, seconds: float, work: Callable[[], T]) -> Outcome[T]:
        if self._running >= MOST_THREADS:
            return CredentialError(Kind.UNREACHABLE, "too many calls to the server hang")
        answer = self._begin(work)
        done, _ = await asyncio.wait([answer], timeout=seconds)
        outcome = answer.result() if done else CredentialError(Kind.UNREACHABLE, "the server did not answer in time")
        if isinstance(outcome, CredentialError) and outcome.kind is Kind.UNREACHABLE:
            self._server.forget_connections()  # idle ones that died unnoticed would fail the next calls one by one
        return outcome

    def _begin(self, work: Callable[[], T]) -> "asyncio.Future[Outcome[T]]":
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome[T]] = loop.create_future()

        def deliver(outcome: Outcome[T]) -> None:
            self._running -= 1
            if not answer.done():
                answer.set_result(outcome)

        def run() -> None:
            outcome: Outcome[T]
            try:
                outcome = _attempt(work)
            except BaseException:  # noqa: BLE001 - without descriptors not even the reason can be found: it is imported
                outcome = CredentialError(Kind.UNREACHABLE, "the machine has no means left to ask the server")
            with suppress(RuntimeError):  # the loop was closed meanwhile, and nobody waits any more
                loop.call_soon_threadsafe(deliver, outcome)

        self._running += 1
        try:
            threading.Thread(target=run, name="vault", daemon=True).start()
        except RuntimeError:
            deliver(CredentialError(Kind.UNREACHABLE, "the machine has no thread left to ask the server"))
        return answer


def _given(outcome: Outcome[T]) -> T:
    # Raised only here, where no other exception is being handled, so that none hangs behind it.
    if isinstance(outcome, CredentialError):
        raise outcome
    return outcome


def _attempt(work: Callable[[], T]) -> Outcome[T]:
    """Do it; an error becomes a new one without a traceback, whose frames would hold the token and the answer."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - whatever hvac or the JSON parser make of a strange answer
        outcome = _trouble(error)
        _forget(error)
        return outcome


def _forget(error: BaseException | None) -> None:
    """Let go of the frames behind an error, and so of their connections: some of them hold the error in turn."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _was_not_taken(error: Exception) -> bool:
    """Is it certain that the server did not act on the request? What was lost on its way back may have been done."""
    from requests.exceptions import ConnectTimeout
    from urllib3.exceptions import NewConnectionError

    if isinstance(error, ImportError | ConnectTimeout | _NotNowError):
        return True
    reason = getattr(_first(error), "reason", None)  # requests puts what urllib3 says there
    return isinstance(reason, NewConnectionError) or isinstance(_first(reason), ssl.SSLCertVerificationError)


def _first(error: BaseException | None) -> object:
    return error.args[0] if error is not None and error.args else None


def _trouble(error: Exception) -> CredentialError:
    if isinstance(error, NoIdentity):
        return NoIdentity(str(error))
    if isinstance(error, CredentialError):
        return CredentialError(error.kind, error.detail, error.retry_after)
    if isinstance(error, ImportError):
        return CredentialError(Kind.UNREACHABLE, "hvac is not installed: install notification-gateway[vault]")
    from requests.exceptions import SSLError
    from urllib3.exceptions import HTTPError

    if isinstance(error, SSLError):
        return CredentialError(Kind.UNREACHABLE, "TLS with the server failed: a certificate is not accepted")
    if isinstance(error, HTTPError | OSError):  # the latter are all of requests', too
        return CredentialError(Kind.UNREACHABLE, "the server cannot be reached, or broke off")
    return CredentialError(Kind.MALFORMED, "the server's answer is not what Vault would say")


@dataclass(slots=True)
class _Server:
    """The calls, each made in a thread; it keeps connections and an unwrapped secret id, and no token."""

    settings: VaultConnection
    environ: Mapping[str, str]
    deadlines: Deadlines
    clock: Callable[[], float]
    _session: "requests.Session | None" = None
    _unwrapped: tuple[Secret, Secret | None] | None = None  # what was unwrapped, and what came out if anything did

    @property
    def shows_a_token(self) -> bool:
        """Is the token the operator's own, and not one that was signed in for?"""
        return isinstance(self.settings.auth, VaultToken)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def forget_connections(self) -> None:
        """Let the next call make new ones, with TLS files as they are then; calls under way keep the old ones."""
        self._session = None

    def read(self, token: Secret, key: str, version: str | None) -> Fetched:
        engines = self._client(token.reveal(), self.settings.namespace).secrets.kv
        mount = self.settings.mount
        if self.settings.kv_version == 1:
            answer = engines.v1.read_secret(key, mount_point=mount)
            return _fetched(answer["data"], "", answer)
        answer = engines.v2.read_secret_version(key, version, mount, raise_on_deleted_version=True)
        number = answer["data"]["metadata"]["version"]
        return _fetched(answer["data"]["data"], str(int(number)), answer)

    def sign_in(self) -> _Token:
        self.forget_connections()
        auth, since = self.settings.auth, self.clock()
        if isinstance(auth, VaultToken):
            return self._look_up(_as_header(read_identity(auth.token, self.environ)), since)
        path = f"/v1/auth/{quote(auth.mount or auth.method)}/login"
        if isinstance(auth, VaultPassword):
            path = f"{path}/{quote(auth.username, safe='')}"
        # Not hvac's own logins: those by password and certificate put names into the path as they are.
        answer = self._client_for_login().adapter.post(path, json=self._proof())
        return _token(answer["auth"], since)

    def renew(self, token: _Token) -> _Token:
        since = self.clock()
        answer = self._client_for_login(token.secret.reveal()).auth.token.renew_self()
        renewed = _token(answer["auth"], since)
        return renewed._replace(renewable=renewed.renewable and renewed.life >= token.life * TRUNCATED)

    def look(self, token: Secret) -> None:
        """Look whether a token lives; denied if it does not, or may not look at itself."""
        self._client_for_login(token.reveal()).auth.token.lookup_self()

    def revoke(self, token: Secret) -> None:
        self._client_for_login(token.reveal()).auth.token.revoke_self()

    def _proof(self) -> dict[str, str]:
        match self.settings.auth:
            case VaultAppRole() as auth:
                return {"role_id": auth.role_id, "secret_id": self._secret_id(auth).reveal()}
            case VaultKubernetes() | VaultJwt() as auth:
                return {
                    "role": auth.role,
                    "jwt": read_identity(SecretSource(file=auth.jwt_file), self.environ).reveal(),
                }
            case VaultPassword() as auth:
                return {"password": read_identity(auth.password, self.environ).reveal()}
            case VaultCert(name=str() as name):
                return {"name": name}
            case _:
                return {}

    def _secret_id(self, auth: VaultAppRole) -> Secret:
        given = read_identity(auth.secret_id, self.environ)
        if not auth.wrapped:
            return given
        if self._unwrapped is None or self._unwrapped[0] != given:
            header = _as_header(given).reveal()
            before, self._unwrapped = self._unwrapped, (given, None)
            try:
                answer = self._client_for_login(header).sys.unwrap()
            except Exception as error:
                if _was_not_taken(error):
                    self._unwrapped = before
                raise
            self._unwrapped = (given, Secret(answer["data"]["secret_id"]))
        if self._unwrapped[1] is None:
            raise CredentialError(
                Kind.DENIED, "the wrapped secret id was tried once, and is of no more use: give another"
            )
        return self._unwrapped[1]

    def _look_up(self, token: Secret, since: float) -> _Token:
        try:
            told = self._client_for_login(token.reveal()).auth.token.lookup_self()["data"]
        except CredentialError as error:
            if error.kind is not Kind.DENIED:
                raise
            return _Token(token, 0.0, renewable=False, since=since, mute=True)
        return _Token(token, float(told["ttl"]), told["renewable"] is True, since)

    def _client_for_login(self, token: str = "") -> Any:
        namespace = self.settings.auth.namespace or self.settings.namespace
        return self._client(token, namespace, signing_in=True)

    def _client(self, token: str, namespace: str | None, *, signing_in: bool = False) -> Any:
        # A client for each call, because threads share none. Without a token hvac looks for one; "" it takes for none.
        session = self._session = self._session or self._open()
        wire = _Wire(session, self.deadlines, signing_in=signing_in)
        hvac = import_module("hvac")  # here, because it takes the time of many calls, and threads have it
        return hvac.Client(self.settings.url, token, session=wire, namespace=namespace, allow_redirects=False)

    def _open(self) -> "requests.Session":
        import requests

        session = requests.Session()
        session.trust_env = False
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        usual, given = ssl.get_default_verify_paths(), self.settings.ca_certificates
        session.verify = str(given) if given is not None else usual.cafile or usual.capath or True
        if isinstance(auth := self.settings.auth, VaultCert):
            session.cert = (str(auth.client_certificate), str(auth.client_key))
        return session


class _Wire:
    """What hvac takes for a session: it bounds the answer, judges its status, and ignores hvac's own settings."""

    verify = cert = proxies = None

    def __init__(self, session: "requests.Session", deadlines: Deadlines, *, signing_in: bool) -> None:
        self._session = session
        self._connect = deadlines.connect
        self._seconds = deadlines.login if signing_in else deadlines.total
        self._signing_in = signing_in

    def request(self, method: str, url: str, headers: Mapping[str, str], **given: Any) -> SimpleNamespace:
        """Make one exchange; only JSON at 200 is an answer, all else raises."""
        until = time.monotonic() + self._seconds
        with self._session.request(
            method,
            url,
            params=given.get("params"),
            json=given.get("json"),
            headers={**headers, "Accept-Encoding": "identity"},
            timeout=(self._connect, self._seconds),
            allow_redirects=False,
            stream=True,
        ) as response:
            error = _refusal(response, signing_in=self._signing_in)
            if error is not None and error.kind in _PASSING:
                raise error
            # Vault's refusals are JSON as well; what is not comes from somebody in between.
            body = json.loads(_bounded(response, until), parse_float=str)  # a number stays as it was written
        if error is not None:
            raise error
        return SimpleNamespace(ok=True, status_code=200, json=lambda: body)


def _bounded(response: "requests.Response", until: float) -> bytes:
    data = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=False):
        data += chunk
        if len(data) > MAX_OCTETS:
            raise CredentialError(Kind.MALFORMED, f"the server's answer has more than {MAX_OCTETS} octets")
        if time.monotonic() > until:
            raise CredentialError(Kind.UNREACHABLE, "the server did not answer in time")
    return bytes(data)


def _refusal(response: "requests.Response", *, signing_in: bool) -> CredentialError | None:
    status = response.status_code
    if status == 200:
        return None
    if status == 429:
        pause = read_retry_after(response.headers.get("Retry-After", ""))
        return _NotNowError(Kind.THROTTLED, "the server asks for a pause", pause)
    if 300 <= status < 400:
        return _NotNowError(Kind.UNREACHABLE, "the server sends us to another host; we stay")
    if status in {412, 472, 473} or status >= 500:
        kept = _NotNowError if status in {412, 472, 473, 503} else CredentialError
        return kept(Kind.UNREACHABLE, f"the server is sealed, on standby or out of order ({status})")
    if signing_in and status in {400, 401, 403, 404}:
        return CredentialError(Kind.DENIED, f"the server refuses the sign-in ({status})")
    if status in {401, 403}:
        return CredentialError(Kind.DENIED, "the server refuses the token, or permission for this path")
    if status == 404:
        return CredentialError(Kind.NOT_FOUND, "there is no such secret or version, or it was deleted")
    return CredentialError(Kind.MALFORMED, f"the server takes the request for a wrong one ({status})")


def _token(auth: Mapping[str, Any], since: float) -> _Token:
    token = auth["client_token"]
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        raise CredentialError(Kind.MALFORMED, "the sign-in brought no token")
    return _Token(Secret(token), float(auth["lease_duration"]), auth["renewable"] is True, since)


def _as_header(token: Secret) -> Secret:
    if _TOKEN.fullmatch(token.reveal()) is None:
        raise CredentialError(Kind.DENIED, "what should be a token is empty or none")
    return token


def _fetched(data: Mapping[str, Any], version: str, answer: Mapping[str, Any]) -> Fetched:
    if answer.get("lease_id"):
        raise CredentialError(Kind.MALFORMED, "this is a dynamic secret; the mount must be a key-value engine")
    fields = {
        name: Secret(str(value))
        for name, value in data.items()
        if isinstance(value, str | int) and not isinstance(value, bool)
    }
    lasts = float(answer.get("lease_duration") or 0)  # version 1: when its writer said to look again
    return Fetched(fields, version, lasts if lasts > 0 else None)
