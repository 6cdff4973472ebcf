"""`store`: where everything is kept.

    store migrate-from sqlite:////path/gateway.db

moves an installation from there to the PostgreSQL database that the settings name. It opens both itself, because no
daemon may work on either meanwhile. It may be killed at any time: run again, it goes on where it was. While it is not
done a daemon starts on the SQLite database only, or on neither.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gateway.settings import Settings, SqliteUrl, load
from gateway.settings.values import parse_store

if TYPE_CHECKING:
    from gateway.store.moving import Moved

TOLD_EVERY: Final = 2.0  # seconds


@click.group()
def store() -> None:
    """Where everything is kept."""


def _file(_context: click.Context, _parameter: click.Parameter, written: str) -> Path:
    try:
        url = parse_store(written)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if not isinstance(url, SqliteUrl):
        raise click.BadParameter("is no SQLite database: write sqlite:////path/gateway.db")
    return url.path


@store.command("migrate-from")
@click.argument("source", metavar="SQLITE-URL", callback=_file)
@click.option("--json", "as_json", is_flag=True, help="print what was moved, or why it was not, as JSON")
@click.pass_obj
def migrate_from(config: Path | None, /, source: Path, as_json: bool) -> None:
    """Move everything from an SQLite database to the PostgreSQL database of the settings.

    Stop the daemon first. When it is done, none starts on the SQLite database any more. The settings need the
    [master_key] that the installation had.
    """
    from gateway.store.protocol import StoreError, StoreUnavailable

    settings = load(config, os.environ)
    try:
        moved = asyncio.run(_move(source, settings))
    except StoreError as error:
        remedy = "; run it again, and it goes on where it was" if isinstance(error, StoreUnavailable) else ""
        click.echo(json.dumps({"error": f"{error}{remedy}"}) if as_json else f"{error}{remedy}", err=not as_json)
        sys.exit(1)
    _tell(moved, source, as_json=as_json)


async def _move(source: Path, settings: Settings) -> "Moved":
    from gateway.app import postgresql_server

    server = postgresql_server(settings, os.environ)
    from gateway.store.moving import move  # with the driver, which not everybody needs

    return await move(source, server, str(settings.store.url), _Progress())


class _Progress:
    """Says how far it is, now and then."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def resumed(self, rows: int, of: int) -> None:
        click.echo(f"resumed after {rows} of {of} rows", err=True)

    def began_anew(self) -> None:
        click.echo("begun anew: a daemon worked on the SQLite database since the last run", err=True)

    def copied(self, part: str, rows: int, of: int) -> None:
        if rows == of or time.monotonic() - self._told_at >= TOLD_EVERY:
            self._told_at = time.monotonic()
            click.echo(f"copied {rows} of {of} {part}", err=True)

    def compares(self) -> None:
        click.echo("comparing both sides row by row", err=True)


def _tell(moved: "Moved", source: Path, *, as_json: bool) -> None:
    if as_json:
        counts = {name.replace(" ", "_"): count for name, count in moved.counts.items()}
        click.echo(json.dumps({**counts, "resumed_after": moved.resumed_after, "already": moved.already}))
        return
    if moved.already:
        click.echo("nothing to do: everything was moved before")
        return
    for name, count in moved.counts.items():
        click.echo(f"{name}: {count}")
    click.echo(f"moved: both sides are the same, and no daemon starts on {source} any more")
    click.echo("[master_key] has to be the same as before, or what it sealed cannot be opened")
