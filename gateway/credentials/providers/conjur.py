"""CyberArk Conjur: a short-lived token for the daemon's identity, then variables by their ids.

A key is a variable's id, `smtp/relay-a/password`, sent as one encoded segment. `smtp/relay-a/{password,username}`
names several below one policy, fetched in one answer, so that they are of one moment; they lie where the key's
beginning says, so what permits the beginning permits them all. A value that is a JSON object gives its members too.

A token serves until two thirds of its life are over. One that is refused is replaced once, and at most once a minute:
what is refused then is denied. After a sign-in that failed there is a pause (see `login`). Requests that need a token meanwhile wait for the same one. The daemon's key or JWT is
read anew at every sign-in, and what Conjur answers there is told to nobody.
"""

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlencode

from gateway.credentials.identity import read_identity
from gateway.credentials.login import Logins
from gateway.credentials.provider import PASSWORD, CredentialError, Deadlines, Fetched, Kind
from gateway.credentials.providers.rest import (
    Answer,
    Certificates,
    Rest,
    fingerprint,
    read_object,
    refusal,
    wrapped,
)
from gateway.credentials.secret import Secret
from gateway.settings import ConjurApiKey, ConjurAzure, ConjurConnection, ConjurJwt, SecretSource

if TYPE_CHECKING:
    from azure.identity.aio import ManagedIdentityCredential

USUAL: Final = Deadlines()
TOKEN_LIFE: Final = 480.0  # seconds, unless the token says otherwise
LONGEST_LIFE: Final = 86_400
FORCED_EVERY: Final = 60.0  # seconds between two sign-ins that a refused token asks for
AZURE_SCOPE: Final = "https://management.azure.com/.default"

_FORM: Final = "application/x-www-form-urlencoded"
_BARRED: Final = frozenset("%\\{},")  # in ids: proxies decode the first two, lists of variables are made of the others
_VERSION = re.compile(r"[1-9][0-9]{0,8}")

Clock = Callable[[], float]


class _Shown(NamedTuple):
    """What a sign-in sends: where to, of which media type, and what."""

    path: str
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Token:
    header: Secret
    until: float
    ends: float


@dataclass(slots=True)
class _Tokens:
    """The one token that all requests share."""

    sign_in: Callable[[], Awaitable[_Token]]
    clock: Clock
    logins: Logins
    lock: asyncio.Lock
    token: _Token | None = None
    forced_at: float = float("-inf")

    async def get(self, refused: _Token | None = None) -> _Token:
        """Give a token other than the one that was refused."""
        async with self.lock:
            now = self.clock()
            if refused is not None and self.token is refused:
                if now - self.forced_at < FORCED_EVERY:
                    raise CredentialError(Kind.DENIED, "Conjur refuses the token that it gave us")
                self.forced_at, self.token = now, None
            elif self.token is not None and now < self.token.until:
                return self.token
            try:
                self.token = await self._signed_in()
            except CredentialError:
                if self.token is None or self.clock() >= self.token.ends:
                    raise
            return self.token

    async def _signed_in(self) -> _Token:
        if (pause := self.logins.trouble()) is not None:
            raise pause
        try:
            token = await self.sign_in()
        except CredentialError as error:
            self.logins.failed(error)
            raise
        self.logins.succeeded(token.ends - self.clock())
        return token


class ConjurProvider:
    """Fetches variables of one account. The clock counts seconds."""

    def __init__(
        self,
        settings: ConjurConnection,
        environ: Mapping[str, str],
        deadlines: Deadlines = USUAL,
        *,
        clock: Clock = time.monotonic,
        logins: Logins | None = None,
    ) -> None:
        """Connect to nothing yet."""
        self._account = settings.account
        self._deadlines = deadlines
        self._rest = Rest(settings.url, deadlines.connect, Certificates(settings.ca_certificates))
        self._identity = _Identity(settings, environ, deadlines)
        self._clock = clock
        self._tokens = _Tokens(self._sign_in, clock, logins or Logins(clock), asyncio.Lock())

    async def fetch(self, key: str, version: str | None) -> Fetched:
        """Fetch a variable, or several of one policy. Raises `CredentialError`.

        `malformed` for a key that names none, and for a version that is no number or is asked of several.
        """
        wanted = parse_key(key)
        together = "{" in key
        if version is not None and (together or not _VERSION.fullmatch(version)):
            raise CredentialError(Kind.MALFORMED, "a version is a number, and of one variable")
        return await (self._several(wanted) if together else self._one(wanted[PASSWORD], version))

    async def close(self) -> None:
        """Close the connections, and forget the token."""
        self._tokens.token = None
        await self._rest.close()
        await self._identity.close()

    async def _one(self, variable: str, version: str | None) -> Fetched:
        path = f"/secrets/{_quoted(self._account)}/variable/{_quoted(variable)}"
        answer = await self._ask(path if version is None else f"{path}?version={version}")
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise CredentialError(Kind.MALFORMED, "Conjur's answer is a page")  # of something in between
        text = _text(answer.body)
        fields = wrapped({PASSWORD: text, **(read_object(text) or {})})
        return Fetched(fields, version or fingerprint(text))

    async def _several(self, wanted: Mapping[str, str]) -> Fetched:
        ids = {name: f"{self._account}:variable:{variable}" for name, variable in wanted.items()}
        # Conjur encodes the values only if this is the header's whole text; else it fails at octets that are no text.
        answer = await self._ask(f"/secrets?variable_ids={','.join(map(_quoted, ids.values()))}", "base64")
        told = read_object(answer.body) or {}
        encoded = answer.headers.get("content-encoding", "").lower() == "base64"
        texts = {name: _member(told.get(full), encoded=encoded) for name, full in ids.items()}
        fields = wrapped({PASSWORD: next(iter(texts.values())), **texts})
        return Fetched(fields, fingerprint(*texts.values()))

    async def _ask(self, path: str, encoding: str = "identity") -> Answer:
        token = await self._tokens.get()
        answer = await self._get(path, encoding, token)
        if answer.status == 401:
            answer = await self._get(path, encoding, await self._tokens.get(refused=token))
        if answer.status != 200:
            raise refusal(answer)
        return answer

    async def _get(self, path: str, encoding: str, token: _Token) -> Answer:
        headers = {"Authorization": token.header.reveal(), "Accept-Encoding": encoding}
        return await self._rest.ask("GET", path, within=self._deadlines.total, headers=headers)

    # Signing in.

    async def _sign_in(self) -> _Token:
        now, answer, login = self._clock(), None, self._deadlines.login
        with suppress(TimeoutError):
            async with asyncio.timeout(login):
                shown = await self._identity.show()
                kind = {"Content-Type": shown.kind}
                answer = await self._rest.ask("POST", shown.path, within=login, headers=kind, body=shown.body)
        if answer is None:
            raise CredentialError(Kind.UNREACHABLE, "signing in to Conjur took too long")
        if answer.status in (401, 403, 404):
            raise CredentialError(Kind.DENIED, "Conjur does not let our identity in")
        if answer.status != 200:
            raise refusal(answer)
        token = read_object(answer.body)
        if token is None:
            raise CredentialError(Kind.MALFORMED, "Conjur answered the sign-in with something that is no token")
        header = f'Token token="{base64.b64encode(answer.body).decode()}"'
        life = _life(token)
        return _Token(Secret(header), now + life * 2 / 3, now + life)


@dataclass(slots=True)
class _Identity:
    """Who the daemon is at Conjur, and how it shows that."""

    settings: ConjurConnection
    environ: Mapping[str, str]
    deadlines: Deadlines
    azure: "ManagedIdentityCredential | None" = None

    async def show(self) -> _Shown:
        """Read what is to be shown, anew. Raises `CredentialError`."""
        account = _quoted(self.settings.account)
        match self.settings.auth:
            case ConjurApiKey() as auth:
                key = read_identity(auth.api_key, self.environ)
                path = f"/authn/{account}/{_quoted(auth.login)}/authenticate"
                return _Shown(path, "text/plain", key.reveal().encode())
            case ConjurJwt() as auth:
                jwt = read_identity(SecretSource(file=auth.jwt_file), self.environ).reveal()
                host = "" if auth.login is None else f"/{_quoted(auth.login)}"
                path = f"/authn-jwt/{_quoted(auth.service_id)}/{account}{host}/authenticate"
            case ConjurAzure() as auth:
                jwt = await self._azure(auth.client_id)
                path = f"/authn-azure/{_quoted(auth.service_id)}/{account}/{_quoted(auth.login)}/authenticate"
        return _Shown(path, _FORM, urlencode({"jwt": jwt}).encode())

    async def close(self) -> None:
        """Let go of Azure's client."""
        if self.azure is not None:
            await self.azure.close()
            self.azure = None

    async def _azure(self, client_id: str | None) -> str:
        try:
            from azure.core.exceptions import AzureError
        except ImportError:
            raise CredentialError(Kind.DENIED, "Azure's identity needs the package azure-identity") from None
        with suppress(AzureError, OSError, ValueError):
            self.azure = self.azure or _managed_identity(client_id, self.deadlines)
            token: str = (await self.azure.get_token(AZURE_SCOPE)).token
            return token
        raise CredentialError(Kind.UNREACHABLE, "Azure gives us no token of the machine's identity")


def _managed_identity(client_id: str | None, deadlines: Deadlines) -> "ManagedIdentityCredential":
    from azure.identity.aio import ManagedIdentityCredential

    return ManagedIdentityCredential(
        client_id=client_id,
        connection_timeout=deadlines.connect,
        read_timeout=deadlines.total,
        retry_total=0,
        use_env_settings=False,
        permit_redirects=False,
    )


def _life(token: Mapping[str, object]) -> float:
    """How many seconds a token lives: servers may be set to other than the usual time."""
    payload = token.get("payload")
    try:
        claims = read_object(base64.urlsafe_b64decode(f"{payload}==")) or {}
    except ValueError:
        return TOKEN_LIFE
    issued, expires = claims.get("iat"), claims.get("exp")
    if isinstance(issued, int) and isinstance(expires, int) and expires > issued:
        return float(min(expires - issued, LONGEST_LIFE))
    return TOKEN_LIFE


# Keys and values.


def parse_key(key: str) -> dict[str, str]:
    """Read an id, or `policy/{name,name}`, as ids by the fields that they become; the first is the password.

    Raises `CredentialError` (`malformed`).
    """
    policy, brace, rest = key.partition("{")
    wanted = {PASSWORD: key}
    if brace:
        names = rest.removesuffix("}").split(",")
        wanted = {name: policy + name for name in names if "/" not in name}
        if not rest.endswith("}") or policy[-1:] not in ("", "/") or len(wanted) != len(names):
            raise CredentialError(Kind.MALFORMED, "several variables are named as policy/{name,name}")
    if not all(map(_is_id, wanted.values())):
        raise CredentialError(Kind.MALFORMED, "the key is no variable's id: a part is empty, or has a barred character")
    return wanted


def _is_id(text: str) -> bool:
    return text.isprintable() and not _BARRED & set(text) and not {"", ".", ".."} & set(text.split("/"))


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _member(value: object, *, encoded: bool) -> str:
    if not isinstance(value, str):
        raise CredentialError(Kind.MALFORMED, "Conjur's answer lacks a variable that was asked for")
    if not encoded:
        return value
    with suppress(ValueError):
        return _text(base64.b64decode(value))
    raise CredentialError(Kind.MALFORMED, "Conjur's answer has a value that is no base64")


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise CredentialError(Kind.MALFORMED, "the variable is empty, or no text")
    return text
