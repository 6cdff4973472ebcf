"""`webhooks`: whom a tenant wants to be told what happens to its mail and its profiles.

    webhooks list --tenant T
    webhooks show | rm | test ID --tenant T
    webhooks set [ID] --tenant T [--endpoint URL] [--event E …] [--secret-file FILE] [--enabled | --disabled]

`set` without an ID makes a webhook; of the one with that ID it changes what is told. A secret comes from a file or from
standard input (`-`), never from the command line, which others can see; without one it is made, and shown this once.
`test` exits with 1 if the endpoint does not take the test.
"""

import sys
from typing import Any, Final, get_args

import click

from gateway.cli import calls
from gateway.cli.calls import Daemon
from gateway.cli.fields import Field, Kind, document, options
from gateway.cli.remote import given_query, of_tenant, paged, path, remote
from gateway.directory.kinds import EventType

FIELDS: Final = (
    Field("--event", "events", Kind.MANY, "what it is told; may be repeated", get_args(EventType)),
    Field("--secret-file", "secret", Kind.FILE, "whsec_ and 24 to 64 octets in Base64; - is standard input"),
    Field("--enabled/--disabled", "enabled", Kind.FLAG, "enabling it again also clears why it was disabled"),
)


@click.group()
def webhooks() -> None:
    """Whom a tenant wants to be told what happens."""


@webhooks.command("list")
@of_tenant
@paged
@remote
def list_webhooks(daemon: Daemon, /, tenant: str, as_json: bool, **query: Any) -> None:
    """List a tenant's webhooks."""
    answer = daemon.call("GET", path("tenants", tenant, "webhooks"), query=given_query(query))
    calls.show_items(answer, as_json, _line)


def _line(webhook: dict[str, Any]) -> str:
    state = "enabled" if webhook["enabled"] else f"disabled ({webhook['disabled_reason'] or 'by a person'})"
    return f"{webhook['id']} {state} {webhook['url']}: {', '.join(webhook['events'])}"


@webhooks.command("show")
@click.argument("webhook_id", metavar="ID")
@of_tenant
@remote
def show_webhook(daemon: Daemon, /, webhook_id: str, tenant: str, as_json: bool) -> None:
    """Show one webhook, without its secret."""
    calls.show_fields(daemon.call("GET", path("tenants", tenant, "webhooks", webhook_id)), as_json)


@webhooks.command("set")
@click.argument("webhook_id", metavar="[ID]", required=False)
@of_tenant
@click.option("--endpoint", metavar="URL", help="https://host/path")
@options(FIELDS)
@remote
def set_webhook(
    daemon: Daemon, /, webhook_id: str | None, tenant: str, as_json: bool, endpoint: str | None, **given: Any
) -> None:
    """Make a webhook, or change one."""
    body = document(FIELDS, given, {} if endpoint is None else {"url": endpoint})
    if "secret" in body:
        body["secret"] = body["secret"].strip()
    if webhook_id is not None:
        answer = daemon.call("PATCH", path("tenants", tenant, "webhooks", webhook_id), body)
        calls.show(answer, as_json, "webhook {id} is set")
        return
    answer = daemon.call("POST", path("tenants", tenant, "webhooks"), body)
    made = answer.status == 201 and isinstance(answer.body["secret"], str)
    calls.show(answer, as_json, "webhook {id} is made; its secret: {secret}" if made else "webhook {id} is made")


@webhooks.command("rm")
@click.argument("webhook_id", metavar="ID")
@of_tenant
@remote
def remove_webhook(daemon: Daemon, /, webhook_id: str, tenant: str, as_json: bool) -> None:
    """Delete a webhook, and what it was still to be told."""
    calls.show(daemon.call("DELETE", path("tenants", tenant, "webhooks", webhook_id)), as_json, "deleted")


@webhooks.command("test")
@click.argument("webhook_id", metavar="ID")
@of_tenant
@remote
def test_webhook(daemon: Daemon, /, webhook_id: str, tenant: str, as_json: bool) -> None:
    """Send a test event at once, and say what came of it."""
    answer = daemon.call("POST", path("tenants", tenant, "webhooks", webhook_id, "test"))
    told = answer.body
    if not calls.settled(answer, as_json):
        status = "" if told["status"] is None else f" (status {told['status']})"
        words = "the endpoint took it" if told["ok"] else told["error"]
        click.echo(f"{words}{status}, {told['milliseconds']} ms", err=not told["ok"])
    if not told["ok"]:
        sys.exit(1)
