"""What answers for `/ui/` and `/docs`: finds the page, knows the person, and turns what goes wrong into a page.

What is decided first: whether the way to us is safe (403), whether a change comes from our own pages (403), whether there
is such a page (404), then who asks: nobody is sent to sign in, and afterwards back to where they wanted to go. Whoever
sends a form when their session is over stays where it stands: it proves itself by where it comes from, not by the session,
so it is good again once they signed in anywhere in the same browser.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from aiohttp import web

from gateway.http.authentication import Authenticator
from gateway.http.body import read_octets
from gateway.http.call import Answer, Services
from gateway.http.inside import Inside, meaning, method_not_allowed
from gateway.http.routes import ROUTES, reachable
from gateway.http.routing import Router
from gateway.problems import Code, Problem
from gateway.store.protocol import KeyWithdrawn
from gateway.ui.assets import PREFIX, static
from gateway.ui.forms import MAX_OCTETS, MEDIA_TYPE, Form, read_form
from gateway.ui.oidc.provider import Provider
from gateway.ui.origin import SAFE_METHODS, Footing, footing, from_elsewhere
from gateway.ui.page import Page, Stranger
from gateway.ui.rendering import html, rendered
from gateway.ui.sessions import Person, Sessions
from gateway.ui.signing_in import HOME, SIGN_IN, safe_path
from gateway.ui.subjects.docs import PATH as DOCS
from gateway.ui.subjects.docs import docs
from gateway.ui.table import PAGES
from gateway.ui.visit import Visit, takes_packed

STRANGERS_OCTETS: Final = 16_384  # of a form that comes from somebody who is not known
FOR_A_WHILE: Final = frozenset({Code.UNAVAILABLE, Code.STORAGE_FULL})
ENTRANCES: Final = frozenset({"/", "/ui"})


class Pages:
    """Answers for every path under `/ui/`, and for the page about the API."""

    def __init__(self, services: Services, pages: Iterable[Page] = PAGES) -> None:
        self._services = services
        self._routes = reachable(ROUTES, catcher=services.catcher is not None)
        self._inside = Inside(services, Router(self._routes))
        self._authenticator = Authenticator(services)
        self._router = Router(pages)
        oidc = services.settings.ui.oidc
        self._provider = None if oidc is None else Provider(oidc)
        self.sessions = Sessions(services)

    def own(self, path: str) -> bool:
        """Is this raw path theirs?"""
        return path.startswith(HOME) or path in ENTRANCES or path == DOCS

    async def answer(self, request: web.BaseRequest, request_id: str) -> Answer:
        """Answer a request for one of the paths, whatever happens on the way."""
        try:
            return await self._answer(request, request_id)
        except Problem as problem:
            return _failed(request, problem, request_id)
        except Exception as error:  # noqa: BLE001 - the last place at which a failure can become a page
            return _failed(request, meaning(error, self._services, request_id), request_id)

    async def _answer(self, request: web.BaseRequest, request_id: str) -> Answer:
        path = request.rel_url.raw_path
        if path.startswith(PREFIX):
            file = static(path, packed=takes_packed(request))
            if file is None or request.method not in SAFE_METHODS:
                raise Problem(Code.NOT_FOUND)
            return file
        if path in ENTRANCES:
            return html("", 303, {"Location": HOME})
        if path == DOCS:
            return await self._docs(request)
        way = footing(request, self._services.settings)
        if way is None:
            return html(rendered("unsafe.html", public_url=self._services.settings.ui.public_url), 403)
        if from_elsewhere(request):
            raise Problem(Code.FORBIDDEN, "This was sent by a page that is not the gateway's.")
        found = self._router.find(path)
        page = None if found is None else found[0].route(request.method)
        if found is None:
            raise Problem(Code.NOT_FOUND)
        if page is None:
            raise method_not_allowed(found[0])
        return await self._shown(request, request_id, way, page, found[1])

    async def _docs(self, request: web.BaseRequest) -> Answer:
        """Show the page about the API, which needs no cookie and so no safe way."""
        if request.method not in SAFE_METHODS:
            raise Problem(Code.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD"})
        return await asyncio.to_thread(docs, self._routes, packed=takes_packed(request))  # the first one is being made

    async def _shown(
        self, request: web.BaseRequest, request_id: str, way: Footing, page: Page, params: Mapping[str, str]
    ) -> Answer:
        if self._services.lags():
            await self._services.catch_up()  # a key may have been revoked at another daemon
        person = await self._person(request, way, page)
        if page.stranger is not None:
            form = await _form(request, self._services, STRANGERS_OCTETS)
            stranger = Stranger(
                request, self._services, self.sessions, self._authenticator, self._provider, way, person, request_id,
                params, form,
            )  # fmt: skip
            return await page.stranger(stranger)
        form = Form()
        if person is not None and request.method == "POST":
            form = await _form(request, self._services, MAX_OCTETS)
            person = await self._person(request, way, page)  # the form may have taken its time
        if person is None or page.handler is None:
            return _to_sign_in(request)
        try:
            return await page.handler(
                Visit(request, self._services, self._inside, person, way, params, request_id, form)
            )
        except KeyWithdrawn:
            return _to_sign_in(request)

    async def _person(self, request: web.BaseRequest, way: Footing, page: Page) -> Person | None:
        by_itself = page.live and "HX-Request" in request.headers
        return await self.sessions.person(request, request.cookies.get(way.cookie, ""), by_itself=by_itself)


async def _form(request: web.BaseRequest, services: Services, most: int) -> Form:
    """Read what came with a POST; other methods have nothing to say."""
    if request.method != "POST":
        return Form()
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if (kind and kind != MEDIA_TYPE) or "Content-Encoding" in request.headers:
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, f"A form comes as {MEDIA_TYPE}, without an encoding.")
    return read_form(await read_octets(request, most, services.settings.http.body_timeout_seconds))


def _to_sign_in(request: web.BaseRequest) -> Answer:
    """Ask who it is, and remember where they wanted to go; who sent something is told, and keeps what they wrote.

    A browser that comes from another site keeps the cookie back (`SameSite=Strict`); a page of ours that goes on to sign
    in gets it, and sends who is known to where they wanted to go.
    """
    in_part = "HX-Request" in request.headers
    if request.method not in SAFE_METHODS:
        return html(rendered("not_sent.html", part=in_part), 401)
    wanted = _wanted(request)
    path = SIGN_IN if wanted == HOME else f"{SIGN_IN}?next={quote(wanted, safe='')}"
    if in_part:
        return html("", 200, {"HX-Redirect": path})
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        return html(rendered("hop.html", path=path))
    return html("", 303, {"Location": path})


def _wanted(request: web.BaseRequest) -> str:
    """Find the page on which somebody is, or wants to be."""
    if "HX-Request" in request.headers:
        shown = request.headers.get("HX-Current-URL", "").partition("://")[2].partition("#")[0]
        return safe_path(shown[shown.find("/") :])
    return safe_path(request.rel_url.raw_path_qs)


def _failed(request: web.BaseRequest, problem: Problem, request_id: str) -> Answer:
    """Tell what went wrong; a form that came at a bad moment can be sent again by its browser."""
    page = rendered(
        "problem.html",
        problem=problem.document(request_id),
        part="HX-Request" in request.headers,
        again=request.method not in SAFE_METHODS and problem.code in FOR_A_WHILE,
    )
    return html(page, problem.code.status, problem.headers)
