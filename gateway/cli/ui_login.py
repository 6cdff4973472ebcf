"""`ui-login`: a link that signs in to the pages once, as whoever runs the command.

The link alone goes to standard output, so that it can be handed on: `xdg-open "$(notification-gateway ui-login)"`.
"""

import click

from gateway.cli import calls
from gateway.cli.calls import Daemon
from gateway.cli.remote import path, remote


@click.command("ui-login")
@remote
def ui_login(daemon: Daemon, /, as_json: bool) -> None:
    """Print a link that signs in to the pages once."""
    answer = daemon.call("POST", path("sign-in-links"))
    calls.show(answer, as_json, "{url}")
    if not as_json:
        click.echo(f"good once, until {answer.body['expires_at'][:19]}Z; whoever has it signs in as you", err=True)
