"""How the pages are reached: safely enough for a cookie, and from where a form may come.

A session's cookie travels over TLS, or within this machine. Whether it is TLS is what our own listener sees or what
`[ui] public_url` says, never what a request claims. Without TLS both ends must be this machine: the client's address,
and the name it asked for, so that no page elsewhere reaches us by a name of its own that points here.

What changes something comes from our own pages: browsers say so in `Sec-Fetch-Site`, older ones in `Origin` (Fetch
Standard §3.2; the OWASP cheat sheet on request forgery). Who sends neither is no browser, and has no cookie to abuse.
"""

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from aiohttp import web

from gateway.http.client import client_address
from gateway.settings import Settings

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
FORWARDED: Final = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "via"})
COOKIE: Final = "notification-gateway"


class Footing(NamedTuple):
    """How a cookie travels."""

    secure: bool

    @property
    def cookie(self) -> str:
        """What the session's cookie is called: a browser binds a name with this prefix to TLS, to us and to no path."""
        return f"__Host-{COOKIE}" if self.secure else COOKIE

    def set(self, value: str, *, seconds: int | None = None, name: str = "", lax: bool = False) -> str:
        """Write a Set-Cookie header's value; without `seconds` the cookie goes when the browser does."""
        parts = [f"{self.cookie}{name}={value}", "Path=/", "HttpOnly", f"SameSite={'Lax' if lax else 'Strict'}"]
        if self.secure:
            parts.append("Secure")
        if seconds is not None:
            parts.append(f"Max-Age={seconds}")
        return "; ".join(parts)


def footing(request: web.BaseRequest, settings: Settings) -> Footing | None:
    """Tell how a cookie may travel with this client; None: not at all."""
    transport = request.transport
    if transport is not None and transport.get_extra_info("ssl_object") is not None:
        return Footing(secure=True)
    host = request.headers.get("Host", "").lower()
    public = urlsplit(settings.ui.public_url or "")
    if public.scheme == "https" and host == public.netloc.lower().removesuffix(":443"):
        return Footing(secure=True)
    if not FORWARDED.isdisjoint(name.lower() for name in request.headers):
        return None  # somebody stands between, who did not say that it is TLS from there on
    address = client_address(request, settings.http.trusted_proxies)
    if address is not None and address.is_loopback and host_name(host) in LOOPBACK_NAMES:
        return Footing(secure=False)
    return None


def host_name(host: str) -> str:
    """Take the port off a Host header."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def from_elsewhere(request: web.BaseRequest) -> bool:
    """Does a request that changes something come from a page that is not ours?"""
    if request.method in SAFE_METHODS:
        return False
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is not None and origin.lower().partition("://")[2] != request.headers.get("Host", "").lower()
