"""`ui-login` before a real daemon: a link that signs in once, and nothing else on standard output."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener

if TYPE_CHECKING:
    from email.message import Message

    from tests.cli.conftest import Shell

LINK = re.compile(r"http://127\.0\.0\.1:\d+/ui/sign-in/link\?token=([A-Za-z0-9_-]{43})\n")


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def take(url: str, token: str) -> tuple[int, Message]:
    """Press the link's button."""
    request = Request(url.partition("?")[0], urlencode({"token": token}).encode(), method="POST")
    try:
        with build_opener(_Stay).open(request, timeout=10) as answer:
            return answer.status, answer.headers
    except HTTPError as refused:
        with refused:
            return refused.code, refused.headers


def test_the_link_signs_in_once(shell: Shell) -> None:
    """It alone is printed; how long it is good goes to standard error."""
    result = shell.run("ui-login")
    assert result.exit_code == 0, result.output
    link = LINK.fullmatch(result.stdout)
    assert link is not None
    assert re.fullmatch(r"good once, until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ; whoever has it .*\n", result.stderr)
    url = result.stdout.strip()
    status, headers = take(url, link[1])
    assert (status, headers["Location"]) == (303, "/ui/")
    assert "SameSite=Strict" in headers["Set-Cookie"]
    assert take(url, link[1])[0] == 410


def test_as_json(shell: Shell) -> None:
    """The API's answer, as everywhere."""
    assert sorted(shell.told("ui-login")) == ["expires_at", "url"]
    assert shell.run("ui-login", "--json").stderr == ""


def test_the_audit_has_it(shell: Shell) -> None:
    """Who asked for a link is told, without the link."""
    token = LINK.fullmatch(shell.good("ui-login"))
    assert token is not None
    told = shell.good("audit", "list", "--tenant", "system")
    assert "socket sign_in_link.create" in told
    assert token[1] not in told
