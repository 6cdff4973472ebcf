"""One page of the table: its path, and what answers; and what is there for somebody who is not known yet."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from gateway.http.authentication import Authenticator
from gateway.http.call import Answer, Services
from gateway.ui.forms import Form
from gateway.ui.oidc.provider import Provider
from gateway.ui.origin import Footing
from gateway.ui.rendering import html, rendered
from gateway.ui.sessions import Person, Sessions
from gateway.ui.visit import Visit, takes_packed


@dataclass(frozen=True, slots=True)
class Stranger:
    """A request for a page that needs nobody to be known; `person` is who is signed in all the same.

    `provider` signs people in, if the settings name one.
    """

    request: web.BaseRequest
    services: Services
    sessions: Sessions
    authenticator: Authenticator
    provider: Provider | None
    footing: Footing
    person: Person | None
    request_id: str
    params: Mapping[str, str]
    form: Form

    def page(self, template: str, context: Mapping[str, object], *, status: int = 200) -> Answer:
        """Show a page."""
        return html(rendered(template, **context), status, packed=takes_packed(self.request))

    def go(self, path: str, cookie: str = "") -> Answer:
        """Send the browser to another page, with a Set-Cookie header's value."""
        return html("", 303, {"Location": path, **({"Set-Cookie": cookie} if cookie else {})})


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One method of one path; `live`: the page asks for parts of it by itself, which does not keep a session alive.

    Either `handler` answers, for somebody who is signed in, or `stranger`, for everybody.
    """

    method: str
    path: str
    handler: Callable[[Visit], Awaitable[Answer]] | None = None
    live: bool = False
    stranger: Callable[[Stranger], Awaitable[Answer]] | None = None
