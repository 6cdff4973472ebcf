"""The command line: starts the daemon, checks its settings, and talks to a running one over HTTP.

Never opens the database, `store` and `restore` aside. Locally it uses the daemon's Unix socket, remotely `--url` and an API key.
`-c FILE` may stand before or after the subcommand; `--json` prints exactly the API's answer.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 78 faulty settings.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from gateway import __version__
from gateway.cli import calls, profiles, secrets, templates, tenants, webhooks
from gateway.cli.apply import apply
from gateway.cli.backup import backup, restore
from gateway.cli.calls import Daemon
from gateway.cli.doctor import doctor
from gateway.cli.queue import queue
from gateway.cli.remote import given_query, of_tenant, paged, path, remote, settings_path
from gateway.cli.store import store
from gateway.cli.test import test
from gateway.cli.ui_login import ui_login
from gateway.credentials.provider import CredentialError
from gateway.outbox.states import Status
from gateway.settings import SettingsError, counted

EXIT_FAILED = 1
EXIT_CONFIG = 78


class _Main(click.Group):
    """A group whose `-c` may also stand behind the subcommand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Bring `-c FILE` to the front."""
        front: list[str] = []
        rest: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                rest += [word, *words]
            elif word in ("-c", "--config"):
                front += [word, *([value] if (value := next(words, None)) is not None else [])]
            elif word.startswith("--config="):
                front.append(word)
            else:
                rest.append(word)
        return super().parse_args(ctx, [*front, *rest])


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("-c", "--config", type=click.Path(path_type=Path), help="the settings file")
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """Notification gateway: HTTP in, durable outbox, SMTP out."""
    ctx.obj = settings_path(config)


def main() -> None:
    """Run the command line; faulty settings exit with 78, and a secret of the daemon's own that is not there with 1."""
    try:
        cli(prog_name="notification-gateway")
    except SettingsError as error:
        for fault in error.faults:
            click.echo(str(fault), err=True)
        click.echo(counted(error.faults), err=True)
        sys.exit(EXIT_CONFIG)
    except CredentialError as error:
        click.echo(f"{error}; a systemd credential is there for the unit alone (see the README, Installing)", err=True)
        sys.exit(EXIT_FAILED)


@cli.command()
@click.pass_obj
def serve(config: Path | None) -> None:
    """Run the daemon in the foreground."""
    from gateway import lifecycle
    from gateway.cli.demo import demonstrate
    from gateway.cli.loop import run

    sys.exit(run(lifecycle.serve(config, os.environ, when_ready=demonstrate)))


@cli.command()
@click.option("--probe", is_flag=True, help="also resolve every secret and open every relay")
@click.option("--json", "as_json", is_flag=True, help="print the faults as JSON")
@click.pass_obj
def check(config: Path | None, /, probe: bool, as_json: bool) -> None:
    """Validate the settings and provisioning files; tells all faults at once."""
    from gateway.cli.check import check as run_check

    sys.exit(asyncio.run(run_check(config, probe=probe, as_json=as_json)))


@cli.command()
@click.option("--tenant")
@click.option("--to", multiple=True, help="a recipient; may be repeated")
@click.option("--cc", multiple=True)
@click.option("--bcc", multiple=True)
@click.option("--subject", required=True)
@click.option("--text", help="the message; - reads standard input", default="-")
@click.option("--category", default="general")
@click.option("--severity", default="info")
@click.option("--profile")
@click.option("--idempotency-key")
@remote
def send(daemon: Daemon, /, as_json: bool, **given: Any) -> None:
    """Post one notification."""
    key = given.pop("idempotency_key")
    text = _standard_input() if given["text"] == "-" else given["text"]
    body = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}
    headers = {"Idempotency-Key": key} if key else {}
    answer = daemon.call("POST", path("notifications"), {**body, "text": text}, headers)
    calls.show(answer, as_json, "{id} {status}, expires {expires_at}")


def _standard_input() -> str:
    if sys.stdin is None:
        raise click.UsageError("standard input is closed: give --text")
    try:
        return sys.stdin.buffer.read().decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise click.UsageError("standard input is not UTF-8") from None


@cli.command()
@click.argument("tenant")
@click.option("--profile")
@click.option("--category", default="general")
@click.option("--severity", default="info")
@remote
def resolve(daemon: Daemon, /, tenant: str, as_json: bool, **query: Any) -> None:
    """Explain which profile and copies a tenant's notification would get, and why."""
    answer = daemon.call("GET", path("tenants", tenant, "resolution"), query=given_query(query))
    calls.show_resolution(answer, as_json)


@cli.group()
def notifications() -> None:
    """What was accepted, and what became of it."""


@notifications.command("list")
@click.option("--tenant")
@click.option(
    "--status", type=click.Choice([one.value for one in Status]), help="held has what rests until a person decides, too"
)
@click.option("--category")
@paged
@remote
def list_notifications(daemon: Daemon, /, as_json: bool, **query: Any) -> None:
    """List notifications, newest first."""
    answer = daemon.call("GET", path("notifications"), query=given_query(query))
    calls.show_items(answer, as_json, "{id} {tenant} {status} {category} {accepted_at}".format_map)


def _on_notification(name: str, method: str, action: tuple[str, ...], summary: str) -> None:
    @notifications.command(name, help=summary)
    @click.argument("notification_id")
    @remote
    def command(daemon: Daemon, /, notification_id: str, as_json: bool) -> None:
        answer = daemon.call(method, path("notifications", notification_id, *action))
        calls.show_notification(answer, as_json)


_on_notification("show", "GET", (), "Show one notification with its history.")
_on_notification("cancel", "POST", ("cancel",), "Cancel what has not been sent.")
_on_notification("retry", "POST", ("retry",), "Make what failed, expired or waits due now.")


@cli.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@of_tenant
@click.option("--scope", "scopes", multiple=True, required=True, help="send, read, profiles, secrets, admin")
@click.option("--name", default="")
@click.option("--expires-at", help="RFC 3339")
@click.option("--cidr", "cidrs", multiple=True)
@click.option("--mode", type=click.Choice(["live", "test"]), default="live")
@remote
def create_key(daemon: Daemon, /, tenant: str, as_json: bool, **given: Any) -> None:
    """Make a key; it is shown this once."""
    body = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}
    answer = daemon.call("POST", path("tenants", tenant, "keys"), body)
    calls.show(answer, as_json, "{key}")


@keys.command("list")
@of_tenant
@paged
@remote
def list_keys(daemon: Daemon, /, tenant: str, as_json: bool, **query: Any) -> None:
    """List a tenant's keys."""
    answer = daemon.call("GET", path("tenants", tenant, "keys"), query=given_query(query))
    calls.show_items(answer, as_json, lambda key: f"{key['id']} {key['name']} {','.join(key['scopes'])}")


@keys.command("rm")
@click.argument("key_id")
@of_tenant
@remote
def revoke_key(daemon: Daemon, /, key_id: str, tenant: str, as_json: bool) -> None:
    """Revoke a key for good."""
    answer = daemon.call("DELETE", path("tenants", tenant, "keys", key_id))
    calls.show(answer, as_json, "revoked")


for _command in (
    tenants.tenants,
    profiles.profiles,
    profiles.push,
    tenants.preferences,
    templates.templates,
    secrets.secrets,
    webhooks.webhooks,
    tenants.audit,
    apply,
    test,
    doctor,
    queue,
    ui_login,
    backup,
    restore,
    store,
):
    cli.add_command(_command)
