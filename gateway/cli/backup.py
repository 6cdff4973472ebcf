"""`backup` and `restore`: a copy of the whole database, and back.

    backup FILE
    restore FILE       on SQLite
    restore            on PostgreSQL, after its own restore

A backup is made by the running daemon. Restoring opens the database itself, because no daemon may work on it meanwhile.
A database that was restored keeps its mail until `queue resume`.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import click

from gateway.cli import calls
from gateway.cli.calls import Daemon
from gateway.cli.fields import Document
from gateway.cli.remote import path, remote
from gateway.message.times import time_text
from gateway.settings import Settings, SqliteUrl, load

BESIDES: Final = (
    "keep apart from it: the master key, without which what is sealed in it is lost, and the settings with the files that"
    " they name"
)
NEXT: Final = (
    "next: start the daemon, which sends nothing yet; look at `queue list` and `doctor`; then `queue resume`.\n"
    "what was sent after the backup was made is sent again: cancel what must not be"
)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="replace the file that is there")
@remote
def backup(daemon: Daemon, /, file: Path, as_json: bool, force: bool) -> None:
    """Fetch a consistent copy of the database into FILE; for administrators of `system`."""
    if file.exists() and not force:
        raise click.ClickException(f"there is a file {file}: --force replaces it")
    with _part_of(file) as part:
        answer = daemon.download(path("backup"), part)
        if answer.status >= 400:
            calls.settled(answer, as_json)
    size = file.stat().st_size
    click.echo(json.dumps({"file": str(file), "bytes": size}) if as_json else f"{file}: {_size(size)}\n{BESIDES}")


@contextmanager
def _part_of(file: Path) -> Iterator[BinaryIO]:
    """Give a file to write that has its name only once it is whole; otherwise there is none."""
    part = file.with_name(f"{file.name}.part")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as written:
            yield written
            written.flush()
            os.fsync(written.fileno())
        part.rename(file)
    except OSError as error:
        raise click.ClickException(f"{error.filename or part}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--force", is_flag=True, help="replace the database that is there; the old one is kept beside")
@click.option("--json", "as_json", is_flag=True, help="print what was restored, or why it was not, as JSON")
@click.pass_obj
def restore(config: Path | None, /, file: Path | None, force: bool, as_json: bool) -> None:
    """Put a backup in the place of the settings' database, or mark one as restored that its server has restored.

    Stop the daemon first. The one that is started afterwards sends nothing until `queue resume`.
    """
    from gateway.store.protocol import StoreError

    settings = load(config, os.environ)
    try:
        told = _restored(settings, file, force=force)
    except StoreError as error:
        click.echo(json.dumps({"error": str(error)}) if as_json else str(error), err=not as_json)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(told))
        return
    for name, value in told.items():
        if value is not None:
            click.echo(f"{name.replace('_', ' ')}: {_size(value) if name == 'bytes' else value}")
    click.echo(NEXT)


def _restored(settings: Settings, file: Path | None, *, force: bool) -> Document:
    url = settings.store.url
    if isinstance(url, SqliteUrl):
        if file is None:
            raise click.UsageError("name the FILE: the settings' database is SQLite")
        from gateway.store.sqlite.restoring import restore

        done = restore(url.path, file, force=force)
        return {
            "database": str(url.path),
            "as_of": time_text(done.copied_at),
            "bytes": done.size,
            "schema": done.schema,
            "unfinished": done.unfinished,
            "kept": None if done.kept is None else str(done.kept),
        }
    if file is not None:
        raise click.UsageError("restore PostgreSQL by its own means, then run `restore` without a FILE")
    from gateway.app import postgresql_server

    server = postgresql_server(settings, os.environ)
    from gateway.store.postgresql.restoring import mark_restored  # with the driver, which not everybody needs

    return {"database": str(url), "unfinished": asyncio.run(mark_restored(server))}


def _size(count: int) -> str:
    return f"{count / 1_000_000:.1f} MB"
