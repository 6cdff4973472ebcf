"""Calls to a running daemon: over its Unix socket, or to a URL with an API key."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import aiohttp
import click

from gateway.problems import MEDIA_TYPE
from gateway.settings import admin_socket

SECONDS = 60
LONGEST_SILENCE: Final = 3600.0  # seconds in which a large database is copied before anything is sent
PIECE: Final = 1 << 18  # bytes
KINDS: Final = {2: "application/json", 4: MEDIA_TYPE, 5: MEDIA_TYPE}
"""What the API answers, by class of status."""
COPY: Final = "application/vnd.sqlite3"
UNREACHED: Final = (aiohttp.ClientError, TimeoutError)
"""What it means that a daemon cannot be reached; other errors of input and output are this command's own."""
START: Final = "`systemctl start notification-gateway` starts it, or `notification-gateway serve`"


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
        return cls("http://daemon", admin_socket(config, environ), key if key_file else None)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, object] | None = None,
    ) -> Answer:
        """Make one call; a daemon that cannot be reached ends the command."""
        return self._over(self._call(method, path, body, dict(headers or {}), query))

    def _over(self, call: Coroutine[object, object, Answer]) -> Answer:
        try:
            return asyncio.run(call)
        except UNREACHED as error:
            raise self.unreachable(error) from None

    def unreachable(self, error: Exception) -> click.ClickException:
        """Say that nobody answers, why, and what to do about it."""
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if self.socket and isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            why = f"it does not run, or by other settings (-c); {START}"
        elif self.socket and isinstance(cause, PermissionError):
            why = "it is not this user's to ask; run this as root, or give --url and --key-file"
        else:
            why = (cause.strerror if isinstance(cause, OSError) else None) or str(error) or type(error).__name__
        return click.ClickException(f"no daemon answers at {self.socket or self.url}: {why}")

    async def _call(
        self, method: str, path: str, body: object, headers: dict[str, str], query: Mapping[str, object] | None
    ) -> Answer:
        params = {name: str(value) for name, value in (query or {}).items()}
        async with (
            self._session(aiohttp.ClientTimeout(total=SECONDS)) as session,
            session.request(
                method, self.url + path, json=body, headers=headers, params=params, allow_redirects=False
            ) as response,
        ):
            return await self.read(response)

    def download(self, path: str, into: BinaryIO) -> Answer:
        """Fetch something large, however long that takes; the answer is a problem, or empty once all is written."""
        return self._over(self._download(path, into))

    async def _download(self, path: str, into: BinaryIO) -> Answer:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SECONDS, sock_read=LONGEST_SILENCE)
        async with self._session(timeout) as session, session.get(self.url + path, allow_redirects=False) as response:
            if response.status >= 400:
                return await self.read(response)
            if response.content_type != COPY:
                raise self._stranger(response)
            async for piece in response.content.iter_chunked(PIECE):
                into.write(piece)
            return Answer(response.status, None, "")

    async def read(self, response: aiohttp.ClientResponse) -> Answer:
        """Read an answer; one that the API does not give ends the command."""
        with suppress(ValueError):
            raw = await response.text()
            if response.status == 204 and not raw:
                return Answer(response.status, None, raw)
            if response.content_type == KINDS.get(response.status // 100):
                return Answer(response.status, json.loads(raw), raw)
        raise self._stranger(response)

    def _stranger(self, response: aiohttp.ClientResponse) -> click.ClickException:
        """Say that something else answers: at a wrong address, or a proxy that stands between."""
        where = self.socket or self.url
        return click.ClickException(f"{where} is no notification gateway (it answered {response.status})")

    def _session(self, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        connector = aiohttp.UnixConnector(str(self.socket)) if self.socket else None
        return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers)


def show(answer: Answer, as_json: bool, form: str) -> None:
    """Print an answer by a form of its members, or as it is; a problem ends the command."""
    if not settled(answer, as_json):
        click.echo(form.format_map(answer.body or {}))


def settled(answer: Answer, as_json: bool, find: Callable[[str], str] = str) -> bool:
    """Print what takes no form; was that all?

    That is JSON if it was asked for, and a problem, which goes to standard error and exits with 1. `find` says where
    the person finds what a pointer of the problem points to.
    """
    if as_json:
        click.echo(answer.raw)
    elif answer.status >= 400:
        _complain(answer, find)
    if answer.status >= 400:
        sys.exit(1)
    return as_json


def _complain(answer: Answer, find: Callable[[str], str]) -> None:
    problem = answer.body if isinstance(answer.body, dict) else {}
    click.echo(f"{problem.get('code', answer.status)}: {problem.get('detail', '')}", err=True)
    for fault in problem.get("errors", ()):
        click.echo(f"  {find(fault['pointer']) or '/'}: {fault['detail']} ({fault['code']})", err=True)


def show_items(answer: Answer, as_json: bool, line: Callable[[Any], str]) -> None:
    """Print a list, one line an item."""
    if settled(answer, as_json):
        return
    for item in answer.body["items"]:
        click.echo(line(item))
    if answer.body.get("next_cursor"):
        click.echo(f"more: --cursor {answer.body['next_cursor']}", err=True)


def show_fields(answer: Answer, as_json: bool) -> None:
    """Print a resource, one line a field."""
    if settled(answer, as_json):
        return
    for name, value in _leaves(answer.body):
        click.echo(f"{name}: {written(value)}")


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def written(value: Any) -> str:
    """Write a value for people: rules and addresses as `name=value` pairs, lists with spaces between their parts."""
    if value is None or value in ([], {}):
        return "-"
    match value:
        case str():
            return value
        case list():
            return " ".join(map(written, value))
        case dict():
            # A member that is merely true is its name, and one that is false is nothing.
            pairs = ((name, one) for name, one in value.items() if one is not False)
            return ",".join(name if one is True else f"{name}={written(one)}" for name, one in pairs)
        case _:
            return json.dumps(value)


def differences(fields: Iterable[Mapping[str, Any]]) -> str:
    """Write which fields a change concerns, with their values where those are told: `host, port 25 → 587`."""
    return ", ".join(
        f"{field['field']} {written(field.get('before'))} → {written(field.get('after'))}"
        if field.keys() & {"before", "after"}
        else field["field"]
        for field in fields
    )


def show_notification(answer: Answer, as_json: bool) -> None:
    """Print one notification with its recipients and history."""
    if settled(answer, as_json):
        return
    told = answer.body
    click.echo(f"{told['id']} {told['status']} (tenant {told['tenant']}, profile {told.get('profile') or '-'})")
    click.echo(f"  Message-ID {told['message_id']}")
    for recipient in told["recipients"]:
        reply = recipient.get("reply") or {}
        words = " ".join(str(reply[name]) for name in ("code", "enhanced", "text") if reply.get(name))
        click.echo(f"  {recipient['role']:3} {recipient['address']} {recipient['state']} {words}".rstrip())
    for event in told["events"]:
        click.echo(f"  {event['at']} {event['event']} {event['detail'] or ''}".rstrip())


def show_resolution(answer: Answer, as_json: bool) -> None:
    """Print how a tenant's mail leaves."""
    if settled(answer, as_json):
        return
    told = answer.body
    click.echo(f"profile {told['profile'] or '-'} of {told['owner'] or '-'} (via {told['via'] or 'nothing'})")
    click.echo(f"cc {', '.join(told['cc']) or '-'}; bcc {', '.join(told['bcc']) or '-'}")
    for step in told["chain"]:
        click.echo(f"  {step['tenant'] or '(outside your reach)'}: {step['profile'] or '-'} {step['verdict']}")
