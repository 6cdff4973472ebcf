"""`queue`: what waits, by profile, and pausing all of it.

    queue [list]
    queue pause | resume

Pausing keeps all mail of all tenants until it is resumed; it takes an administrator of `system`.
"""

from typing import Any

import click

from gateway.cli import calls
from gateway.cli.calls import Daemon
from gateway.cli.fields import Document
from gateway.cli.remote import given_query, paged, path, remote


class _Listing(click.Group):
    """A group that lists unless it is told otherwise."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Name the command that is meant where none is named."""
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Listing)
def queue() -> None:
    """What waits, by profile, and why; alone it lists."""


@queue.command("list")
@paged
@remote
def list_queue(daemon: Daemon, /, as_json: bool, **query: Any) -> None:
    """Show what waits, by profile, and why."""
    answer = daemon.call("GET", path("queue"), query=given_query(query))
    if answer.status < 400 and answer.body["paused"] and not as_json:
        click.echo(paused(answer.body["paused"]))
    calls.show_items(answer, as_json, _line)


def paused(pause: Document | None) -> str:
    """Tell whether all sending is paused, since when and why, and what ends it."""
    if pause is None:
        return "sending is not paused"
    why = {
        "operator": "an operator wanted it so",
        "restored": "the database was restored: what was sent since the backup would be sent again",
        "cloned": "the database is a copy: what the original has sent since would be sent again",
        None: "by the operator",
    }.get(pause["reason"], pause["reason"])
    return f"all sending is paused since {pause['since'][:19]}Z ({why}); `queue resume` lets it go on"


def _line(line: Document) -> str:
    name = f"{line['tenant'] or '(outside your reach)'}/{line['profile'] or '-'}"
    age = "" if line["oldest_seconds"] is None else f", the oldest for {line['oldest_seconds']} s"
    uncertain = f", {line['uncertain']} uncertain" if line["uncertain"] else ""
    return f"{name} {line['state']}: {line['ready']} ready, {line['deferred']} deferred{uncertain}{age}"


@queue.command("pause")
@remote
def pause(daemon: Daemon, /, as_json: bool) -> None:
    """Stop all sending; mail is accepted and kept."""
    answer = daemon.call("POST", path("queue", "pause"))
    if not calls.settled(answer, as_json):
        click.echo(paused(answer.body["paused"]))


@queue.command("resume")
@remote
def resume(daemon: Daemon, /, as_json: bool) -> None:
    """Let sending go on; a profile that was paused by itself stays so."""
    if not calls.settled(daemon.call("POST", path("queue", "resume")), as_json):
        click.echo("sending goes on")
