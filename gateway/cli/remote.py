"""What all commands share that talk to a running daemon: its options, paths of resources, parts of lists."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from gateway.cli.calls import Answer, Daemon
from gateway.settings import default_path

Command = Callable[..., Any]

NO_NAMES: Final = ("", ".", "..")
"""In a path they would mean another resource than the one that was asked for."""


def settings_path(config: Path | None) -> Path | None:
    """Where the settings are; a file that nobody named and that does not exist means: all defaults."""
    path = config or default_path(os.environ)
    named = config is not None or bool(os.environ.get("NOTIFICATION_GATEWAY_CONFIG"))
    return path if named or _may_exist(path) else None


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # whoever needs to read it will say why that cannot be
        return True


def remote(command: Command) -> Command:
    """Give a command the options of all that talk to a daemon, and the daemon as its first argument."""

    def located(config: Path | None, /, url: str | None, key_file: Path | None, **given: Any) -> Any:
        try:
            return command(Daemon.locate(config, os.environ, url, key_file), **given)
        except BrokenPipeError:  # nobody reads any more: that ends a command quietly
            raise
        except OSError as error:
            raise click.ClickException(str(error)) from None

    wrapped: Command = functools.wraps(command)(located)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="print exactly the API's answer"),
        click.option(
            "--url", envvar="NOTIFICATION_GATEWAY_URL", callback=_web_address, help="a daemon elsewhere; needs a key"
        ),
        click.option(
            "--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="a file with the API key"
        ),
        click.pass_obj,
    ):
        wrapped = option(wrapped)
    return wrapped


def _web_address(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    if url and not url.startswith(("http://", "https://")):
        raise click.BadParameter("write http:// or https:// before it")
    return url


def paged(command: Command) -> Command:
    """Give a command the options of all that list something."""
    for option in (
        click.option("--limit", type=int, default=50, show_default=True, help="how many at once"),
        click.option("--cursor", help="where the part before ended"),
    ):
        command = option(command)
    return command


def of_tenant(command: Command) -> Command:
    """Give a command the tenant that it is about."""
    return click.option("--tenant", required=True, help="the tenant's id")(command)


def path(*parts: str) -> str:
    """Name a resource of the API; what the person wrote stays one part of the path."""
    for part in parts:
        if part in NO_NAMES:
            raise click.UsageError(f"{part!r} is no name of anything")
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def given_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the parts of a query that were not given."""
    return {name: value for name, value in query.items() if value is not None}


def save(daemon: Daemon, resource: str, collection: str, changes: dict[str, Any], identity: dict[str, Any]) -> Answer:
    """Change what is there, or make it; answers what the call said that counts."""
    answer = daemon.call("PATCH", resource, changes)
    if answer.status == 404:
        answer = daemon.call("POST", collection, {**_without_nothing(changes), **identity})
    return answer


def _without_nothing(changes: dict[str, Any]) -> dict[str, Any]:
    """Make a document of a merge patch: where that takes a member away, there is none."""
    return {
        name: _without_nothing(value) if isinstance(value, dict) else value
        for name, value in changes.items()
        if value is not None
    }
