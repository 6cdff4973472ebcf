"""The command line: starts the daemon, checks its settings, and talks to a running one over HTTP.

Never opens the database. Locally it uses the daemon's Unix socket, remotely `--url` and an API key. `-c FILE` may
stand before or after the subcommand; `--json` prints exactly the API's answer.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 78 faulty settings.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from gateway import __version__
from gateway.cli import calls
from gateway.settings import SettingsError, default_path

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
    ctx.obj = config or default_path(os.environ)


def main() -> None:
    """Run the command line; faulty settings exit with 78."""
    try:
        cli(prog_name="notification-gateway")
    except SettingsError as error:
        for fault in error.faults:
            click.echo(str(fault), err=True)
        click.echo(f"{len(error.faults)} faults", err=True)
        sys.exit(EXIT_CONFIG)


def settings_path(config: Path) -> Path | None:
    """Where the settings are; a default file that does not exist means: all defaults."""
    explicit = config != default_path({}) or "NOTIFICATION_GATEWAY_CONFIG" in os.environ
    return config if explicit or config.exists() else None


@cli.command()
@click.pass_obj
def serve(config: Path) -> None:
    """Run the daemon in the foreground."""
    from gateway import app
    from gateway.cli.demo import demonstrate
    from gateway.cli.loop import run

    sys.exit(run(app.serve(settings_path(config), os.environ, when_ready=demonstrate)))


@cli.command()
@click.option("--probe", is_flag=True, help="also resolve every secret and open every relay")
@click.option("--json", "as_json", is_flag=True, help="print the faults as JSON")
@click.pass_obj
def check(config: Path, /, probe: bool, as_json: bool) -> None:
    """Validate the settings and provisioning files; tells all faults at once."""
    from gateway.cli.check import check as run_check

    sys.exit(asyncio.run(run_check(settings_path(config), probe=probe, as_json=as_json)))


def remote(command: Any) -> Any:
    """Give a command the options of all that talk to a daemon."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="print exactly the API's answer"),
        click.option("--url", envvar="NOTIFICATION_GATEWAY_URL", help="a daemon elsewhere; needs a key"),
        click.option("--key-file", type=click.Path(path_type=Path), help="a file with the API key"),
    ):
        command = option(command)
    return command


def _daemon(config: Path, /, url: str | None, key_file: Path | None) -> calls.Daemon:
    return calls.Daemon.locate(settings_path(config), os.environ, url, key_file)


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
@click.pass_obj
def send(config: Path, /, as_json: bool, url: str | None, key_file: Path | None, **given: Any) -> None:
    """Post one notification."""
    key = given.pop("idempotency_key")
    text = sys.stdin.read() if given["text"] == "-" else given["text"]
    body = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}
    headers = {"Idempotency-Key": key} if key else {}
    answer = _daemon(config, url, key_file).call("POST", "/v1/notifications", {**body, "text": text}, headers)
    calls.show(answer, as_json, "{id} {status}, expires {expires_at}")


@cli.command()
@click.argument("tenant")
@click.option("--profile")
@click.option("--category", default="general")
@click.option("--severity", default="info")
@remote
@click.pass_obj
def resolve(config: Path, /, tenant: str, as_json: bool, url: str | None, key_file: Path | None, **query: Any) -> None:
    """Explain which profile and copies a tenant's notification would get, and why."""
    path = f"/v1/tenants/{tenant}/resolution"
    answer = _daemon(config, url, key_file).call("GET", path, query={k: v for k, v in query.items() if v})
    calls.show_resolution(answer, as_json)


@cli.group()
def notifications() -> None:
    """What was accepted, and what became of it."""


@notifications.command("list")
@click.option("--tenant")
@click.option("--status")
@click.option("--category")
@click.option("--limit", type=int, default=50)
@click.option("--cursor")
@remote
@click.pass_obj
def list_notifications(config: Path, /, as_json: bool, url: str | None, key_file: Path | None, **query: Any) -> None:
    """List notifications, newest first."""
    answer = _daemon(config, url, key_file).call(
        "GET", "/v1/notifications", query={name: value for name, value in query.items() if value}
    )
    calls.show_items(answer, as_json, "{id} {tenant} {status} {category} {accepted_at}")


def _on_notification(name: str, method: str, suffix: str, summary: str) -> None:
    @notifications.command(name, help=summary)
    @click.argument("notification_id")
    @remote
    @click.pass_obj
    def command(config: Path, /, notification_id: str, as_json: bool, url: str | None, key_file: Path | None) -> None:
        answer = _daemon(config, url, key_file).call(method, f"/v1/notifications/{notification_id}{suffix}")
        calls.show_notification(answer, as_json)


_on_notification("show", "GET", "", "Show one notification with its history.")
_on_notification("cancel", "POST", "/cancel", "Cancel what has not been sent.")
_on_notification("retry", "POST", "/retry", "Make what failed, expired or waits due now.")


@cli.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.option("--tenant", required=True)
@click.option("--scope", "scopes", multiple=True, required=True, help="send, read, profiles, secrets, admin")
@click.option("--name", default="")
@click.option("--expires-at", help="RFC 3339")
@click.option("--cidr", "cidrs", multiple=True)
@click.option("--mode", type=click.Choice(["live", "test"]), default="live")
@remote
@click.pass_obj
def create_key(
    config: Path, /, tenant: str, as_json: bool, url: str | None, key_file: Path | None, **given: Any
) -> None:
    """Make a key; it is shown this once."""
    body = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}
    answer = _daemon(config, url, key_file).call("POST", f"/v1/tenants/{tenant}/keys", body)
    calls.show(answer, as_json, "{key}")


@keys.command("list")
@click.option("--tenant", required=True)
@remote
@click.pass_obj
def list_keys(config: Path, /, tenant: str, as_json: bool, url: str | None, key_file: Path | None) -> None:
    """List a tenant's keys."""
    answer = _daemon(config, url, key_file).call("GET", f"/v1/tenants/{tenant}/keys")
    calls.show_items(answer, as_json, "{id} {name} {scopes}")


@keys.command("rm")
@click.argument("key_id")
@click.option("--tenant", required=True)
@remote
@click.pass_obj
def revoke_key(
    config: Path, /, key_id: str, tenant: str, as_json: bool, url: str | None, key_file: Path | None
) -> None:
    """Revoke a key for good."""
    answer = _daemon(config, url, key_file).call("DELETE", f"/v1/tenants/{tenant}/keys/{key_id}")
    calls.show(answer, as_json, "revoked")
