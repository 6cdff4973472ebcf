"""HTML from templates: everything that is shown is escaped, and a name that nobody gave is an error.

The engine is the one that renders tenants' templates, here with templates of our own. What a page may do in the
browser is decided by `POLICY` alone: scripts and styles come from us, nothing is inline, nothing is loaded from
elsewhere, nobody frames us. Text of tenants, relays and senders is text, whatever it holds.
"""

import gzip
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any, Final

import minijinja
from multidict import CIMultiDict

from gateway.http.call import Answer
from gateway.ui.assets import asset
from gateway.ui.words import FILTERS

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # none at all would hide from us where a form comes from
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Vary": "Accept-Encoding",
    **SAFE_HEADERS,
}
NOTHING: Final[Mapping[str, str]] = {}
WORTH_PACKING: Final = 1400  # octets: less fits into one packet as it is

_TEMPLATES: Final = files("gateway.ui") / "templates"


def _load(name: str) -> str | None:
    found = _TEMPLATES.joinpath(*name.split("/"))
    return found.read_text() if found.is_file() else None


def _engine() -> minijinja.Environment:
    filters: dict[str, Callable[..., Any]] = dict(FILTERS)
    return minijinja.Environment(
        loader=_load,
        filters=filters,
        globals={"asset": asset},
        auto_escape_callback=lambda _name: "html",
        undefined_behavior="strict",
        debug=False,  # its errors would show the values that the page was given
        trim_blocks=True,
        lstrip_blocks=True,
    )


_ENGINE: Final = _engine()


def rendered(template: str, **context: object) -> str:
    """Fill a template."""
    return _ENGINE.render_template(template, **context)


def html(text: str, status: int = 200, headers: Mapping[str, str] = NOTHING, *, packed: bool = False) -> Answer:
    """Answer a page, `packed` if the browser takes it so."""
    body = text.encode()
    extra = dict(headers)
    if packed and len(body) > WORTH_PACKING:
        body = gzip.compress(body, compresslevel=5, mtime=0)
        extra["Content-Encoding"] = "gzip"
    return Answer(status, body, {**HEADERS, **extra})


def with_cookies(answer: Answer, *cookies: str) -> Answer:
    """Add Set-Cookie headers' values to an answer."""
    headers = CIMultiDict(answer.headers)
    headers.extend([("Set-Cookie", cookie) for cookie in cookies])
    return replace(answer, headers=headers)
