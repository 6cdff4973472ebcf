"""The way to the provider and back: what a browser is sent there with, and what has to come back with it.

What the sign-in began with (state, nonce, PKCE verifier, where to go then) travels in a cookie that only we can read, so
that nothing of it lies with us, and an answer to a sign-in that this browser did not begin is nobody's. The cookie goes with
the provider's redirect, which is cross-site, and so is `Lax`; the session's is not sent along with that, so what
follows the sign-in is a page that goes on by itself.
"""

import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64encode
from typing import Any, Final, NamedTuple, assert_never
from urllib.parse import quote, unquote, urlencode

from gateway.credentials.sealed import SealError
from gateway.credentials.secret import Secret
from gateway.http.admission import seconds
from gateway.http.call import Answer
from gateway.http.client import bucket_name, client_address
from gateway.observe import facts
from gateway.problems import Code, Problem
from gateway.ui.oidc import id_token
from gateway.ui.oidc.provider import ERROR, OidcError, Provider, Reason
from gateway.ui.page import Page, Stranger
from gateway.ui.rendering import with_cookies
from gateway.ui.sessions import How
from gateway.ui.signing_in import begin, safe_path, sign_in_form

BEGIN: Final = "/ui/sign-in/oidc"
CALLBACK: Final = "/ui/sign-in/oidc/callback"
COOKIE: Final = "-oidc"
FLOW_SECONDS: Final = 600
PLACE: Final = ("ui", "oidc", "flow")
LONGEST_NAME: Final = 100
LONGEST_CODE: Final = 4_096
NAMES: Final = ("preferred_username", "email", "name", "sub")
TRIES: Final = 20  # of one client in a row …
TRY_INTERVAL: Final = 3_000.0  # ms … and how often it gets one back


class Flow(NamedTuple):
    """A sign-in that is under way; `ends_at` in milliseconds."""

    state: str
    nonce: str
    verifier: str
    path: str
    ends_at: int


async def begin_flow(stranger: Stranger) -> Answer:
    """Send the browser to the provider."""
    provider = _provider(stranger)
    _count(stranger, provider)
    try:
        told = await provider.metadata()
    except OidcError as error:
        return _failed(stranger, error)
    path = safe_path(stranger.request.query.get("next", ""))
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    flow = Flow(state, nonce, verifier, path, _now(stranger) + FLOW_SECONDS * 1000)
    challenge = urlsafe_b64encode(hashlib.sha256(flow.verifier.encode()).digest()).decode().rstrip("=")
    asked = {
        "response_type": "code", "client_id": provider.settings.client_id, "redirect_uri": _redirect_uri(stranger),
        "scope": " ".join(("openid", *provider.settings.scopes)), "state": flow.state, "nonce": flow.nonce,
        "code_challenge": challenge, "code_challenge_method": "S256",
    }  # fmt: skip
    where = told.authorization_endpoint
    sealed = stranger.services.directory.seal.close(Secret(json.dumps(flow)), PLACE)
    cookie = stranger.footing.set(quote(sealed, safe=""), seconds=FLOW_SECONDS, name=COOKIE, lax=True)
    return stranger.go(f"{where}{'&' if '?' in where else '?'}{urlencode(asked)}", cookie)


async def callback(stranger: Stranger) -> Answer:
    """Take what the provider sends the browser back with."""
    provider = _provider(stranger)
    _count(stranger, provider)
    forget = stranger.footing.set("", seconds=0, name=COOKIE, lax=True)
    try:
        flow = _flow(stranger)
        found = await _claims(stranger, provider, flow)
    except OidcError as error:
        return with_cookies(_failed(stranger, error), forget)
    name = _name(found)
    if provider.settings.admin_group not in _groups(found.get(provider.settings.groups_claim)):
        return with_cookies(_without_right(stranger, provider, name), forget)
    cookie = await begin(stranger, How.OIDC, f"oidc:{found['sub']}", name)
    return with_cookies(stranger.page("hop.html", {"path": flow.path}), cookie, forget)


def _provider(stranger: Stranger) -> Provider:
    if stranger.provider is None:
        raise Problem(Code.NOT_FOUND)
    return stranger.provider


def _count(stranger: Stranger, provider: Provider) -> None:
    """Let nobody keep the provider busy through us. Raises `rate_limited`."""
    address = bucket_name(client_address(stranger.request, stranger.services.settings.http.trusted_proxies))
    if wait := provider.tries.take(address, _now(stranger), interval=TRY_INTERVAL, burst=TRIES):
        raise Problem(Code.RATE_LIMITED, headers={"Retry-After": seconds(wait)})


def _now(stranger: Stranger) -> int:
    return stranger.services.outbox.clock()


def _redirect_uri(stranger: Stranger) -> str:
    return f"{stranger.services.settings.ui.public_url}{CALLBACK}"


def _flow(stranger: Stranger) -> Flow:
    """Find the sign-in that this answers. Raises `OidcError`."""
    sealed = unquote(stranger.request.cookies.get(f"{stranger.footing.cookie}{COOKIE}", ""))
    try:
        flow = Flow(*json.loads(stranger.services.directory.seal.open(sealed, PLACE).reveal()))
    except (SealError, ValueError, TypeError):
        raise OidcError(Reason.STATE, "no sign-in is under way") from None
    state = stranger.request.query.get("state", "")
    if flow.ends_at <= _now(stranger) or not hmac.compare_digest(flow.state.encode(), state.encode()):
        raise OidcError(Reason.STATE, "no such sign-in is under way")
    return flow


async def _claims(stranger: Stranger, provider: Provider, flow: Flow) -> dict[str, Any]:
    """Find out who it is. Raises `OidcError`."""
    asked = stranger.request.query
    told = await provider.metadata()
    if asked.get("iss", "" if told.names_itself else told.issuer) != told.issuer:
        raise OidcError(Reason.TOKEN, "the answer is another issuer's")
    if "error" in asked:
        error = asked["error"]
        known = f" ({error})" if ERROR.fullmatch(error) else ""
        raise OidcError(Reason.REFUSED, f"the provider signed nobody in{known}")
    code = asked.get("code", "")
    if not 0 < len(code) <= LONGEST_CODE:
        raise OidcError(Reason.MALFORMED, "the provider's answer has no code")
    token = await provider.exchange(code, flow.verifier, _redirect_uri(stranger))
    head = id_token.head(token)
    key = id_token.key_for(head, await provider.keys()) or id_token.key_for(head, await provider.keys(missing=True))
    if key is None:
        raise OidcError(Reason.TOKEN, "the id token is signed by none of the provider's keys")
    client_id = provider.settings.client_id
    try:
        return id_token.claims(token, head, key, issuer=told.issuer, client_id=client_id, nonce=flow.nonce)
    except OidcError:
        provider.doubt_keys()
        raise


def _groups(claim: object) -> list[object]:
    return claim if isinstance(claim, list) else [claim]


def _name(found: dict[str, Any]) -> str:
    """Give what the person is called, in letters that can be shown."""
    for claim in NAMES:
        text = found.get(claim)
        if isinstance(text, str):
            cleaned = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
            if cleaned:
                return cleaned[:LONGEST_NAME]
    return str(found["sub"])


def _without_right(stranger: Stranger, provider: Provider, name: str) -> Answer:
    """Tell somebody whom the provider knows that they have no right here, and how they get it."""
    facts.sign_in_failed(Reason.NO_RIGHT, f"the claim {provider.settings.groups_claim} does not name the admin_group")
    known = {
        "name": name, "group": provider.settings.admin_group, "claim": provider.settings.groups_claim,
        "elsewhere": None if provider.known is None else provider.known.end_session_endpoint,
    }  # fmt: skip
    return stranger.page("no_right.html", known, status=403)


def _failed(stranger: Stranger, error: OidcError) -> Answer:
    """Ask anew, and say in one sentence why."""
    if error.reason is not Reason.STATE:  # which anybody can bring about, and is no fault of anything
        facts.sign_in_failed(error.reason, error.detail)
    status, sentence = _said(error.reason)
    return sign_in_form(stranger, status, sentence)


def _said(reason: Reason) -> tuple[int, str]:
    match reason:
        case Reason.UNREACHABLE | Reason.MALFORMED:
            return 503, "Your organisation's sign-in cannot be reached at the moment, or does not answer as it should."
        case Reason.REFUSED:
            return 403, "Your organisation did not sign you in."
        case Reason.STATE:
            return 400, "This sign-in was not begun in this browser, or took too long. Begin again."
        case Reason.TOKEN:
            return (
                403,
                "What your organisation's sign-in sent cannot be trusted. The operator finds the reason in the log.",
            )
        case Reason.CLIENT_SECRET:
            return 503, "The sign-in is not set up completely. The operator finds the reason in the log."
        case Reason.NO_RIGHT:
            return 403, "Your account has no right here."
    assert_never(reason)


PAGES: Final = (
    Page("GET", BEGIN, stranger=begin_flow),
    Page("GET", CALLBACK, stranger=callback),
)
