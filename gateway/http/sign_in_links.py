"""Links that sign somebody in to the pages: each once, within five minutes, as whoever asked for it.

A link is a promise of a session that lies in the store under the hash of its token; the token is in the answer and
nowhere else. Opening it asks, and only a button takes it, so that whoever looks at links on their way (a mail scanner,
a preview) does not use them up. What the session may do is looked up when it is used, as of every session.
"""

import hashlib
import secrets
from typing import Final
from urllib.parse import urlencode

from pydantic import Field

from gateway.http.call import SOCKET_CALLER, Answer, Call, Caller, json_answer
from gateway.http.resources import actor
from gateway.http.values import ShownTime, show_time
from gateway.http.views import View
from gateway.problems import Code, Problem
from gateway.settings import Settings, TcpAddress
from gateway.store.rows import Happening, SessionKind, SessionRow

LIFE: Final = 5 * 60_000  # ms
TOKEN_OCTETS: Final = 32
PATH: Final = "/ui/sign-in/link"


class SignInLinkView(View):
    """A link that was just made; it is shown this once."""

    url: str = Field(examples=["https://notify.example.test/ui/sign-in/link?token=…"])
    expires_at: ShownTime


async def create(call: Call) -> Answer:
    """Make a link that signs in once, as the caller."""
    call.no_query()
    address = pages_address(call.services.settings)
    if address is None:
        raise Problem(Code.UNAVAILABLE, "Nobody knows where browsers find the pages: set [ui] public_url.")
    who = who_is(call.caller)
    call.services.admission.signing_in(who, call.now)
    token, sha256 = new_token()
    asked = actor(call)
    await call.services.store.log(
        [Happening(call.caller.tenant, asked.name, asked.tenant, "sign_in_link.create", "", "[]")], call.now
    )
    name = _name(call)
    await call.services.store.begin_session(
        SessionRow(sha256, SessionKind.LINK, who, name, call.now, call.now, call.now + LIFE)
    )
    url = f"{address}{PATH}?{urlencode({'token': token})}"
    return json_answer({"url": url, "expires_at": show_time(call.now + LIFE)}, 201)


def who_is(caller: Caller) -> str:
    """Name a caller as sessions do."""
    return caller.key_id if caller.name else f"key:{caller.key_id}"


def _name(call: Call) -> str:
    if call.caller is SOCKET_CALLER:
        return "administrator"
    if call.caller.name:
        return call.caller.name.removeprefix("oidc:")
    key = call.snapshot.key(call.caller.key_id)
    return (key.name if key is not None else "") or call.caller.key_id


def new_token() -> tuple[str, bytes]:
    """Make a token that nobody can guess, and the hash under which it is kept."""
    token = secrets.token_urlsafe(TOKEN_OCTETS)
    return token, hash_of(token)


def hash_of(token: str) -> bytes:
    """Hash a token, as whoever shows it is looked up."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def pages_address(settings: Settings) -> str | None:
    """Say where browsers find the pages: where the operator says, else at our first TCP listener, from this machine."""
    if settings.ui.public_url is not None:
        return settings.ui.public_url
    listener = next((one for one in settings.http.listen if isinstance(one, TcpAddress)), None)
    if listener is None:
        return None
    scheme = "http" if settings.http.tls_certificate is None else "https"
    return f"{scheme}://{_reached(listener.host)}:{listener.port}"


def _reached(host: str) -> str:
    """Name a host as this machine reaches it: an address that stands for all of them is reached over loopback."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - what somebody listens on, not we
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"[{host}]" if ":" in host else host
