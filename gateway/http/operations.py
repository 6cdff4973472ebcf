"""What operators and developers open: liveness, readiness, and what the mail catcher took.

None of it needs a key. Caught mail is there only if a catcher is, which is for development; a caught message is untrusted,
so it is given as plain text in a sandbox.
"""

from typing import Final

from gateway.http.call import Answer, Call, CaughtMail, json_answer
from gateway.http.values import show_time
from gateway.http.views import View
from gateway.problems import RETRY_AFTER, Code, Problem

PAGE: Final = "/ui/catcher"
RAW_HEADERS: Final = {
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


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


async def catcher(call: Call) -> Answer:
    """List what was caught; a browser is sent to the page that shows it."""
    caught = _messages(call)
    if _prefers_html(call.headers.get("Accept", "")):
        return Answer(303, b"", {"Location": PAGE, "Cache-Control": "no-store"})
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


def _prefers_html(accept: str) -> bool:
    """Does a browser ask? Whoever takes JSON as gladly gets JSON."""
    return "text/html" in accept and "application/json" not in accept
