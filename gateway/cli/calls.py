"""Calls to a running daemon: over its Unix socket, or to a URL with an API key."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click

from gateway.settings import load

SECONDS = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon said."""

    status: int
    body: Any
    raw: str


@dataclass(frozen=True, slots=True)
class Daemon:
    """How to reach a daemon."""

    url: str
    socket: Path | None
    key: str | None

    @classmethod
    def locate(
        cls, config: Path | None, environ: Mapping[str, str], url: str | None, key_file: Path | None
    ) -> "Daemon":
        """Choose the socket of the settings file, or the URL with a key from a file or the environment."""
        key = key_file.read_text().strip() if key_file else environ.get("NOTIFICATION_GATEWAY_KEY")
        if url:
            return cls(url.rstrip("/"), None, key)
        return cls("http://daemon", load(config, environ).admin.socket, key if key_file else None)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, object] | None = None,
    ) -> Answer:
        """Make one call; a daemon that cannot be reached ends the command."""
        try:
            return asyncio.run(self._call(method, path, body, dict(headers or {}), query))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            where = self.socket or self.url
            raise click.ClickException(f"no daemon answers at {where}: {type(error).__name__}") from None

    async def _call(
        self, method: str, path: str, body: object, headers: dict[str, str], query: Mapping[str, object] | None
    ) -> Answer:
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connector = aiohttp.UnixConnector(str(self.socket)) if self.socket else None
        params = {name: str(value) for name, value in (query or {}).items()}
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, self.url + path, json=body, headers=headers, params=params) as response,
        ):
            raw = await response.text()
            return Answer(response.status, json.loads(raw) if raw else None, raw)


def show(answer: Answer, as_json: bool, form: str) -> None:
    """Print an answer by a form of its members, or as it is; a problem goes to standard error and exits with 1."""
    if as_json:
        click.echo(answer.raw)
    elif answer.status < 400:
        click.echo(form.format_map(answer.body or {}))
    if answer.status >= 400:
        if not as_json:
            _complain(answer)
        sys.exit(1)


def _complain(answer: Answer) -> None:
    problem = answer.body if isinstance(answer.body, dict) else {}
    click.echo(f"{problem.get('code', answer.status)}: {problem.get('detail', '')}", err=True)
    for fault in problem.get("errors", ()):
        click.echo(f"  {fault['pointer'] or '/'}: {fault['detail']} ({fault['code']})", err=True)


def show_items(answer: Answer, as_json: bool, form: str) -> None:
    """Print a list, one line an item."""
    if as_json or answer.status >= 400:
        show(answer, as_json, "")
        return
    for item in answer.body["items"]:
        click.echo(form.format_map({**item, "scopes": ",".join(item.get("scopes", ()))}))
    if answer.body.get("next_cursor"):
        click.echo(f"more: --cursor {answer.body['next_cursor']}", err=True)


def show_notification(answer: Answer, as_json: bool) -> None:
    """Print one notification with its recipients and history."""
    if as_json or answer.status >= 400:
        show(answer, as_json, "")
        return
    told = answer.body
    click.echo(f"{told['id']} {told['status']} (tenant {told['tenant']}, profile {told.get('profile') or '-'})")
    for recipient in told["recipients"]:
        reply = recipient.get("reply") or {}
        words = " ".join(str(reply[name]) for name in ("code", "enhanced", "text") if reply.get(name))
        click.echo(f"  {recipient['role']:3} {recipient['address']} {recipient['state']} {words}".rstrip())
    for event in told["events"]:
        click.echo(f"  {event['at']} {event['event']} {event['detail'] or ''}".rstrip())


def show_resolution(answer: Answer, as_json: bool) -> None:
    """Print how a tenant's mail leaves."""
    if as_json or answer.status >= 400:
        show(answer, as_json, "")
        return
    told = answer.body
    click.echo(f"profile {told['profile'] or '-'} of {told['owner'] or '-'} (via {told['via'] or 'nothing'})")
    click.echo(f"cc {', '.join(told['cc']) or '-'}; bcc {', '.join(told['bcc']) or '-'}")
    for step in told["chain"]:
        click.echo(f"  {step['tenant'] or '(outside your reach)'}: {step['profile'] or '-'} {step['verdict']}")
