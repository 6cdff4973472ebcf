"""Signing in and out: with an API key, or by a link that the command line gave; each sign-in has a session of its own."""

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from gateway.http.call import Answer
from gateway.http.sign_in_links import PATH as LINK
from gateway.observe import facts
from gateway.problems import Problem
from gateway.ui.page import Page, Stranger
from gateway.ui.rendering import html, with_cookies
from gateway.ui.sessions import How

HOME: Final = "/ui/"
SIGN_IN: Final = "/ui/sign-in"
SIGN_OUT: Final = "/ui/sign-out"
AWAY: Final = re.compile(r"//|\\|[^!-~]")  # what leads a browser elsewhere, or is no part of an address
GONE: Final = 410


async def ask(stranger: Stranger) -> Answer:
    """Ask who it is; who is known already goes on."""
    if stranger.person is not None:
        return stranger.go(_wanted(stranger))
    return sign_in_form(stranger)


def sign_in_form(stranger: Stranger, status: int = 200, fault: str = "", *, key: bool = False) -> Answer:
    """Show the ways in; a fault is of the `key`, or of the way there was before."""
    known = {"fault": fault, "key": key, "next": _wanted(stranger), "oidc": stranger.provider is not None}
    return stranger.page("sign_in.html", known, status=status)


def _wanted(stranger: Stranger) -> str:
    return safe_path(stranger.form.get("next") or stranger.request.query.get("next", ""))


async def with_key(stranger: Stranger) -> Answer:
    """Sign in with an API key."""
    snapshot = stranger.services.directory.snapshot
    try:
        key = stranger.authenticator.key(stranger.request, snapshot, stranger.form.get("key").strip())
        cookie = await begin(stranger, How.KEY, f"key:{key.id}", key.name or key.id)
    except Problem as problem:
        status = problem.code.status
        fault = "This key is not valid here." if status == 401 else "Too many sign-ins. Try again in a minute."
        asked = sign_in_form(stranger, status, fault, key=True)
        return Answer(status, asked.body, {**asked.headers, **problem.headers})
    return stranger.go(_wanted(stranger), cookie)


async def show_link(stranger: Stranger) -> Answer:
    """Show whom a link signs in, and a button: that somebody looks at it does not use it up."""
    token = stranger.request.query.get("token", "")
    promised = await stranger.sessions.promised(stranger.request, token)
    if promised is None:
        return _no_link(stranger)
    return stranger.page("link.html", {"name": promised.name, "tenant": promised.caller.tenant, "token": token})


async def with_link(stranger: Stranger) -> Answer:
    """Take what a link promises."""
    promised = await stranger.sessions.redeem(stranger.request, stranger.form.get("token"))
    if promised is None:
        return _no_link(stranger)
    return stranger.go(HOME, await begin(stranger, How.LINK, promised.who, promised.name))


def _no_link(stranger: Stranger) -> Answer:
    facts.link_refused()
    return sign_in_form(stranger, GONE, "This link signs nobody in any more: each does so once, within five minutes.")


async def begin(stranger: Stranger, how: How, who: str, name: str) -> str:
    """Begin a session in the place of the one before; answers the cookie that says so."""
    token = await stranger.sessions.begin(stranger.request, how, who, name)
    if stranger.person is not None:
        await stranger.sessions.end(stranger.person)
    return stranger.footing.set(token)


def safe_path(path: str) -> str:
    """Give a path of our own pages, whatever was asked for: nobody is sent elsewhere by a link to us."""
    ours = path.startswith(HOME) and AWAY.search(path) is None and not path.startswith((SIGN_IN, SIGN_OUT))
    return path if ours and not any(unquote(one) in (".", "..") for one in urlsplit(path).path.split("/")) else HOME


async def sign_out(stranger: Stranger) -> Answer:
    """End this session, or all that the person has."""
    person = stranger.person
    end = None
    if person is not None:
        everywhere = "everywhere" in stranger.form
        await (stranger.sessions.end_everywhere(person) if everywhere else stranger.sessions.end(person))
        known = None if stranger.provider is None else stranger.provider.known
        end = known.end_session_endpoint if known is not None and person.who.startswith("oidc:") else None
    cookie = stranger.footing.set("", seconds=0)
    if end is None:
        return html("", 303, {"Location": SIGN_IN, "Set-Cookie": cookie})
    return with_cookies(stranger.page("signed_out.html", {"elsewhere": end}), cookie)


PAGES: Final = (
    Page("GET", SIGN_IN, stranger=ask),
    Page("POST", SIGN_IN, stranger=with_key),
    Page("GET", LINK, stranger=show_link),
    Page("POST", LINK, stranger=with_link),
    Page("POST", SIGN_OUT, stranger=sign_out),
)
