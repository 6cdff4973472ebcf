"""What operators and developers open: liveness, readiness, the API's description, and the mail catcher's pages.

None of it needs a key. The catcher's pages are there only if a catcher is, which is for development; a caught message
is untrusted, so it is shown as plain text in a sandbox.
"""

import html
from typing import Final

from gateway.http.call import Answer, Call, CaughtMail, json_answer
from gateway.http.values import show_time
from gateway.http.views import View
from gateway.problems import RETRY_AFTER, Code, Problem

PAGE_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
RAW_HEADERS: Final = {
    **PAGE_HEADERS,
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui; margin: 2rem; max-width: 70rem }}
td, th {{ text-align: left; padding: .2rem 1rem .2rem 0 }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


class HealthView(View):
    """`ok`, or why not."""

    status: str
    reasons: tuple[str, ...]


class CaughtView(View):
    """A caught message; its raw form is at `href`."""

    number: int
    received_at: str
    sender: str
    recipients: tuple[str, ...]
    size: int
    href: str


class CaughtList(View):
    """What was caught, newest first."""

    items: tuple[CaughtView, ...]
    next_cursor: None


def health(reasons: list[str]) -> dict[str, object]:
    """Say that all is well, or why not, as every listener does."""
    return {"status": "unavailable" if reasons else "ok", "reasons": reasons}


async def livez(_call: Call) -> Answer:
    """Say that the event loop turns."""
    return json_answer(health([]))


async def readyz(call: Call) -> Answer:
    """Say whether mail can be accepted, or why not."""
    reasons = call.services.reasons()
    if reasons:
        return json_answer(health(reasons), 503, Retry_After=str(RETRY_AFTER))
    return json_answer(health([]))


async def docs(_call: Call) -> Answer:
    """Show where the API's description is."""
    body = '<p>The API is described by <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1).</p>'
    return _page("Notification gateway", body)


async def catcher(call: Call) -> Answer:
    """List what was caught: JSON, or a page for browsers."""
    caught = _messages(call)
    if _prefers_html(call.headers.get("Accept", "")):
        return _page("Caught mail", _table(caught))
    return json_answer({"items": [_document(mail) for mail in caught], "next_cursor": None})


async def caught(call: Call) -> Answer:
    """Show one caught message as it came."""
    number = call.params["number"]
    for mail in _messages(call):
        if str(mail.number) == number:
            return Answer(200, mail.data, RAW_HEADERS)
    raise Problem(Code.NOT_FOUND)


def _messages(call: Call) -> list[CaughtMail]:
    if call.services.catcher is None:
        raise Problem(Code.NOT_FOUND)
    return list(call.services.catcher.messages())


def _document(mail: CaughtMail) -> dict[str, object]:
    return {
        "number": mail.number,
        "received_at": show_time(mail.received_at),
        "sender": mail.sender,
        "recipients": list(mail.recipients),
        "size": len(mail.data),
        "href": f"/catcher/{mail.number}",
    }


def _table(mails: list[CaughtMail]) -> str:
    rows = "".join(
        f'<tr><td><a href="/catcher/{mail.number}">{mail.number}</a><td>{show_time(mail.received_at)}'
        f"<td>{html.escape(mail.sender)}<td>{html.escape(', '.join(mail.recipients))}<td>{len(mail.data)}</tr>"
        for mail in mails
    )
    if not mails:
        return "<p>Nothing yet.</p>"
    return f"<table><tr><th>#<th>received<th>from<th>to<th>octets</tr>{rows}</table>"


def _page(title: str, body: str) -> Answer:
    return Answer(200, PAGE.format(title=html.escape(title), body=body).encode(), PAGE_HEADERS)


def _prefers_html(accept: str) -> bool:
    """Does a browser ask? Whoever takes JSON as gladly gets JSON."""
    return "text/html" in accept and "application/json" not in accept
