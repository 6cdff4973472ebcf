"""Signing in: one SASL mechanism, one exchange (RFC 4954, RFC 4422).

A mechanism is a generator: it yields what the client says and is sent what the relay said to that. The exchange
around it is the same for all. Exactly one mechanism is tried per login, because each rejection counts towards the
account's lock-out; which one is decided by what the relay offers, what the profile asks for, and how well the
connection is protected.
"""

import base64
import binascii
import hmac
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import jwt
import scramp

from gateway.credentials.secret import Secret
from gateway.smtp.aside import Aside

GO_ON: Final = 334
ACCEPTED: Final = 235
MOST_ITERATIONS: Final = 1_000_000  # of a password's hash that a relay may ask for: half a second
CANCEL: Final = b"*"  # RFC 4954 §4
_aside: Final = Aside("sasl")

Exchange = Generator[bytes | None, str, None]
"""Yields responses, not yet in base64, None where the relay speaks first; is sent challenges as they came."""


class Method(StrEnum):
    """How to sign in, as a profile says it."""

    AUTO = "auto"
    NONE = "none"
    PLAIN = "plain"
    LOGIN = "login"
    CRAM_MD5 = "cram-md5"
    SCRAM_SHA_256 = "scram-sha-256"
    NTLM = "ntlm"
    XOAUTH2 = "xoauth2"
    OAUTHBEARER = "oauthbearer"
    EXTERNAL = "external"


SHOWING: Final = (Method.PLAIN, Method.LOGIN)
HIDING: Final = (Method.SCRAM_SHA_256, Method.CRAM_MD5)
BEARING: Final = (Method.XOAUTH2, Method.OAUTHBEARER)


@dataclass(frozen=True, slots=True)
class Login:
    """Who signs in, and with what: a password, an access token (`bearer`), or the client certificate (None)."""

    method: Method
    username: str
    secret: Secret | None
    domain: str | None = None
    bearer: bool = False

    @property
    def account(self) -> str:
        """The user with the domain; a name that says itself where it is from needs none."""
        if self.domain is None or "\\" in self.username or "@" in self.username:
            return self.username
        return f"{self.domain}\\{self.username}"


class SaslError(Exception):
    """The exchange came to nothing though the relay refused nothing; the text is ours."""


class Answer(Protocol):
    """A relay's reply, as the client library gives it."""

    @property
    def code(self) -> int:
        """Three digits."""

    @property
    def message(self) -> str:
        """The text, of several lines perhaps."""


class Client(Protocol):
    """What an exchange needs of the client library."""

    async def execute_command(self, *args: bytes) -> Answer:
        """Say a line and give the reply."""


def choose(login: Login, offered: Collection[str], *, protected: bool) -> Method | None:
    """Pick the one mechanism to try; None if the relay offers none of those that are configured.

    Over a connection that is `protected` (verified TLS) those come first that work with every kind of stored
    password; elsewhere those that do not show it. NTLM is what is left when nothing else is offered.
    """
    names = {name.lower() for name in offered}
    if login.method is not Method.AUTO:
        return login.method if login.method in names else None
    if login.bearer:
        wanted: tuple[Method, ...] = BEARING
    elif protected:
        wanted = (*SHOWING, *HIDING, Method.NTLM)
    else:
        wanted = (*HIDING, *SHOWING, Method.NTLM)
    return next((method for method in wanted if method in names), None)


async def sign_in(client: Client, method: Method, login: Login) -> Answer:
    """Run the exchange; answers the reply that ended it, 235 or a refusal. Raises `SaslError`.

    An exchange that goes wrong is cancelled (RFC 4954 §4), so that the relay does not count it as a wrong password.
    """
    exchange = MECHANISMS[method](login)
    first = await _next(method, exchange, None)
    answer = await client.execute_command(b"AUTH", method.upper().encode(), *_initial(first))
    challenges = 0
    while answer.code == GO_ON:
        challenges += 1
        try:
            response = await _next(method, exchange, answer.message)
        except SaslError:
            await client.execute_command(CANCEL)
            raise
        answer = await client.execute_command(base64.b64encode(response or b""))
    if answer.code == ACCEPTED and challenges < PROOF.get(method, 0):
        raise SaslError("the relay did not prove that it knows the password")
    return answer


async def _next(method: Method, exchange: Exchange, challenge: str | None) -> bytes | None:
    if method in COSTLY:
        return await _aside(_respond, exchange, challenge)
    return _respond(exchange, challenge)


def _respond(exchange: Exchange, challenge: str | None) -> bytes | None:
    try:
        return next(exchange) if challenge is None else exchange.send(challenge)
    except StopIteration:
        raise SaslError("the relay asks more than the mechanism has answers to") from None


def _initial(first: bytes | None) -> tuple[bytes, ...]:
    """The initial response; an empty one is "=" (RFC 4954 §4)."""
    if first is None:
        return ()
    return (base64.b64encode(first) or b"=",)


def _decoded(challenge: str) -> bytes:
    try:
        return base64.b64decode(challenge.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise SaslError("the relay's challenge is not base64") from None


def _revealed(login: Login) -> str:
    if login.secret is None:
        raise SaslError("there is no password to sign in with")
    return login.secret.reveal()


def _plain(login: Login) -> Exchange:
    """RFC 4616."""
    if "\0" in login.account or "\0" in _revealed(login):
        raise SaslError("user name or password has a NUL, which PLAIN has no room for")
    yield f"\0{login.account}\0{_revealed(login)}".encode()


def _login(login: Login) -> Exchange:
    """draft-murchison-sasl-login: name and password each when asked for; not all relays take the name any sooner."""
    yield None
    yield login.account.encode()
    yield _revealed(login).encode()


def _cram_md5(login: Login) -> Exchange:
    """RFC 2195."""
    challenge = yield None
    digest = hmac.new(_revealed(login).encode(), _decoded(challenge or ""), "md5").hexdigest()
    yield f"{login.username} {digest}".encode()


def _scram_sha_256(login: Login) -> Exchange:
    """RFC 5802, RFC 7677: the relay proves that it knows the password too, in a challenge of its own."""
    try:
        client = scramp.ScramClient(["SCRAM-SHA-256"], login.username, _revealed(login))
        server_first = yield client.get_client_first().encode()
        client.set_server_first(_decoded(server_first).decode())
        if int(client.iterations) > MOST_ITERATIONS:
            raise SaslError("the relay asks for too many iterations of SCRAM-SHA-256")
        server_final = yield client.get_client_final().encode()
        client.set_server_final(_decoded(server_final).decode())
    except (scramp.ScramException, ValueError):  # ValueError: not UTF-8, or a name that SASLprep forbids
        raise SaslError("the relay's side of SCRAM-SHA-256 does not hold") from None
    yield b""


def _ntlm(login: Login) -> Exchange:
    """[MS-SMTPNTLM], with the domain of the profile, never one that the relay names."""
    try:
        import spnego
    except ImportError:
        raise SaslError("signing in by NTLM needs the package extra ntlm") from None

    try:
        context = spnego.client(login.account, _revealed(login), protocol="ntlm")
        challenge = yield context.step() or b""
        while not context.complete:
            challenge = yield context.step(_decoded(challenge)) or b""
    except SaslError:
        raise
    except Exception:  # noqa: BLE001 - its parser raises whatever the relay's octets lead to
        raise SaslError("the relay's side of NTLM does not hold") from None


def _xoauth2(login: Login) -> Exchange:
    """Google's and Microsoft's: a refusal is told in a challenge, to which one says nothing."""
    yield f"user={login.username}\x01auth=Bearer {_revealed(login)}\x01\x01".encode()
    yield b""


def _oauthbearer(login: Login) -> Exchange:
    """RFC 7628: a refusal is told in a challenge, to which one says ^A (§3.2.3)."""
    name = login.username.replace("=", "=3D").replace(",", "=2C")
    yield f"n,a={name},\x01auth=Bearer {_revealed(login)}\x01\x01".encode()
    yield b"\x01"


def _external(login: Login) -> Exchange:
    """RFC 4422 appendix A: the certificate says who it is; a name only asks to act as that one."""
    yield login.username.encode()


def permissions(token: Secret) -> frozenset[str] | None:
    """Which application permissions an access token says it carries (`roles`); None if it does not say so.

    Read to explain a refusal, never to decide anything: the signature is the relay's to check.
    """
    try:
        claims = jwt.decode(token.reveal(), options={"verify_signature": False})
        return frozenset(map(str, claims["roles"]))
    except (jwt.InvalidTokenError, LookupError, TypeError):
        return None


MECHANISMS: Final[dict[Method, Callable[[Login], Exchange]]] = {
    Method.PLAIN: _plain,
    Method.LOGIN: _login,
    Method.CRAM_MD5: _cram_md5,
    Method.SCRAM_SHA_256: _scram_sha_256,
    Method.NTLM: _ntlm,
    Method.XOAUTH2: _xoauth2,
    Method.OAUTHBEARER: _oauthbearer,
    Method.EXTERNAL: _external,
}
COSTLY: Final = frozenset({Method.SCRAM_SHA_256, Method.NTLM})  # hashes for long, or imports much
PROOF: Final = {Method.SCRAM_SHA_256: 2}
"""Challenges without which an acceptance is worth nothing."""
