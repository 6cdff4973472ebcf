"""`test`: send a test message by a profile and watch each phase of it.

    test PROFILE --tenant TENANT --to ADDRESS [--subject S] [--message M]
    test [PROFILE] --tenant TENANT --to ADDRESS --file FILE

With a file the profile is tested as it stands there, and not saved. The tenant may stand before the profile instead.
Exits with 0 if the relay took the message, else with 1. With `--json` the API's answer is printed when the test is over.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import click

from gateway.cli import calls
from gateway.cli.calls import Answer, Daemon
from gateway.cli.fields import FILE, Document, load
from gateway.cli.remote import given_query, path, remote

SECONDS: Final = 150.0  # a test is given two minutes, and then takes leave of its relay
EVENTS: Final = "text/event-stream"
USAGE: Final = "write `test PROFILE --tenant TENANT`"
UNSAVED: Final = {"name": "unsaved"}
"""What a profile in a file is called that has no name there: the API wants one."""

Show = Callable[[Document], None]


@click.command()
@click.argument("names", nargs=-1, metavar="[PROFILE]")
@click.option("--tenant", help="the tenant's id")
@click.option("--to", required=True, help="the one address that the message goes to")
@click.option("--subject")
@click.option("--message")
@FILE
@remote
def test(
    daemon: Daemon, /, names: tuple[str, ...], tenant: str | None, as_json: bool, file: Path | None, **message: str
) -> None:
    """Send a test message by a profile, and tell how each phase goes."""
    owner, profile = _named(names, tenant, unsaved=file is not None)
    body: Document = given_query(message)
    if file is None:
        resource = path("tenants", owner, "profiles", profile or "", "test")
    else:
        resource = path("tenants", owner, "profiles", "test")
        body["profile"] = {**UNSAVED, **load(file), **({"name": profile} if profile else {})}
    answer = _asked(daemon, resource, body, None if as_json else _show_phase)
    if not calls.settled(answer, as_json):
        _show_end(answer.body, profile)
    if not answer.body["ok"]:
        sys.exit(1)


def _named(names: tuple[str, ...], tenant: str | None, *, unsaved: bool) -> tuple[str, str | None]:
    """Tell tenant and profile apart; a profile in a file needs no name."""
    if tenant is not None and len(names) == 2:
        if names[0] != tenant:
            raise click.UsageError(f"two tenants are named, {names[0]} and {tenant}; {USAGE}")
        names = names[1:]
    match names if tenant is None else (tenant, *names):
        case owner, profile:
            return owner, profile
        case (owner,) if unsaved:
            return owner, None
        case (_,):
            missing = "its tenant is not named" if tenant is None else "no profile is named, and no --file"
            raise click.UsageError(f"{missing}; {USAGE}")
        case ():
            raise click.UsageError(f"neither profile nor tenant is named; {USAGE}")
        case _:
            raise click.UsageError(f"too many names; {USAGE}")


# What is seen.


def _show_phase(step: Document) -> None:
    mark = click.style("ok    ", fg="green") if step["ok"] else click.style("FAILED", fg="red")
    took = f"{step['milliseconds']:>6} ms  {step['detail']}" if "milliseconds" in step else ""
    click.echo(f"{step['phase']:<9}  {mark}  {took}".rstrip())


def _show_end(told: Document, profile: str | None) -> None:
    error = told["error"]
    if error is None:
        click.secho(f"{profile or 'the profile'} works: the relay took the message", fg="green")
        return
    # Of an inherited profile there is but the code.
    words = f"{error['phase']}: {error['detail']} ({error['code']})" if "detail" in error else error["code"]
    click.secho(words, fg="red", err=True)
    if "hint" in error:
        click.echo(error["hint"], err=True)


# What is asked.


def _asked(daemon: Daemon, resource: str, body: Document, show: Show | None) -> Answer:
    """Ask for a test; `show` sees each phase as it happens. A daemon that cannot be reached ends the command."""
    try:
        return asyncio.run(_ask(daemon, resource, body, show))
    except calls.UNREACHED as error:
        raise daemon.unreachable(error) from None


async def _ask(daemon: Daemon, resource: str, body: Document, show: Show | None) -> Answer:
    headers = {"Accept": "application/json" if show is None else EVENTS}
    if daemon.key:
        headers["Authorization"] = f"Bearer {daemon.key}"
    connector = aiohttp.UnixConnector(str(daemon.socket)) if daemon.socket else None
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.post(daemon.url + resource, json=body, headers=headers, allow_redirects=False) as response,
    ):
        if show is not None and response.content_type == EVENTS:
            return await _followed(response.content, show)
        return await daemon.read(response)


async def _followed(lines: aiohttp.StreamReader, show: Show) -> Answer:
    """Read events up to the last, which is the answer, or the problem that ended the test."""
    name = ""
    async for line in lines:
        word, _, rest = line.decode().rstrip("\n").partition(": ")
        if word == "event":
            name = rest
        elif word == "data":
            told: Any = json.loads(rest)
            if name != "phase":
                return Answer(told.get("status", 200), told, rest)
            show(told)
    raise aiohttp.ClientPayloadError
