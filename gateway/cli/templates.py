"""`templates`: messages with places for a notification's `data`.

    templates list --tenant T
    templates show | rm NAME --tenant T
    templates set NAME --tenant T --subject S [--text-file FILE] [--html-file FILE]
    templates render NAME --tenant T [--data JSON | --data-file FILE]

`set` replaces the whole template: what is not told is not in it.
"""

import json
from pathlib import Path
from typing import Any, Final

import click

from gateway.cli import calls
from gateway.cli.calls import Daemon
from gateway.cli.fields import Field, Kind, document, load, options
from gateway.cli.remote import given_query, of_tenant, paged, path, remote

FIELDS: Final = (
    Field("--subject", "subject", help="the subject"),
    Field("--text-file", "text", Kind.FILE, "the text"),
    Field("--html-file", "html", Kind.FILE, "the HTML"),
)


@click.group()
def templates() -> None:
    """Messages with places for data."""


@templates.command("list")
@of_tenant
@paged
@remote
def list_templates(daemon: Daemon, /, tenant: str, as_json: bool, **query: Any) -> None:
    """List a tenant's templates."""
    answer = daemon.call("GET", path("tenants", tenant, "templates"), query=given_query(query))
    calls.show_items(answer, as_json, "{name}: {subject}".format_map)


@templates.command("show")
@click.argument("name")
@of_tenant
@remote
def show_template(daemon: Daemon, /, name: str, tenant: str, as_json: bool) -> None:
    """Show one template."""
    calls.show_fields(daemon.call("GET", path("tenants", tenant, "templates", name)), as_json)


@templates.command("set")
@click.argument("name")
@of_tenant
@options(FIELDS)
@remote
def set_template(daemon: Daemon, /, name: str, tenant: str, as_json: bool, **given: Any) -> None:
    """Make or replace a template."""
    answer = daemon.call("PUT", path("tenants", tenant, "templates", name), document(FIELDS, given))
    calls.show(answer, as_json, "template {name} is set")


@templates.command("rm")
@click.argument("name")
@of_tenant
@remote
def remove_template(daemon: Daemon, /, name: str, tenant: str, as_json: bool) -> None:
    """Delete a template."""
    calls.show(daemon.call("DELETE", path("tenants", tenant, "templates", name)), as_json, "deleted")


@templates.command("render")
@click.argument("name")
@of_tenant
@click.option("--data", help="a JSON object")
@click.option("--data-file", type=click.Path(path_type=Path), help="TOML or JSON")
@remote
def render_template(
    daemon: Daemon, /, name: str, tenant: str, as_json: bool, data: str | None, data_file: Path | None
) -> None:
    """Show what a template makes of data."""
    body = {"data": _data(data, data_file)}
    calls.show_fields(daemon.call("POST", path("tenants", tenant, "templates", name, "render"), body), as_json)


def _data(data: str | None, data_file: Path | None) -> Any:
    if data is not None and data_file is not None:
        raise click.UsageError("--data and --data-file exclude each other")
    if data_file is not None:
        return load(data_file)
    try:
        return json.loads(data) if data is not None else {}
    except ValueError as error:
        raise click.UsageError(f"--data is not JSON: {error}") from None
