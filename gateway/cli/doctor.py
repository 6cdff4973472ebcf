"""`doctor`: how a running daemon is, on one page. Exits with 1 if anything needs a person."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Final

import click

from gateway import __version__
from gateway.cli import calls
from gateway.cli.calls import Daemon
from gateway.cli.fields import Document
from gateway.cli.remote import path, remote

SOON: Final = timedelta(days=14)


@click.command()
@remote
def doctor(daemon: Daemon, /, as_json: bool) -> None:
    """Show how the daemon is, and what is not in order; for administrators of `system`."""
    answer = daemon.call("GET", path("doctor"))
    if not calls.settled(answer, as_json):
        show(answer.body)
    if needs_a_person(answer.body):
        sys.exit(1)


def show(told: Document) -> None:
    """Print what the daemon told."""
    versions = f"daemon {told['version']} (command line {__version__}) on {told['store']}"
    click.echo(f"{versions}: {', '.join(told['reasons']) or 'ready'}")
    for one in told["daemons"]:
        click.echo(f"daemon {_daemon(one)}")
    for one in told["connections"]:
        click.echo(f"connection {one['name']} ({one['kind']}): {one['health']}")
    states = ", ".join(f"{count} {state}" for state, count in sorted(told["states"].items()))
    click.echo(f"profiles: {states or 'none was in use yet'}")
    for profile in told["profiles"]:
        click.echo(f"  {profile['tenant']}/{profile['name']} {profile['state']}")
        for one in profile["credentials"]:
            click.echo(f"    {_credential(one)}")
    for one in told["certificates"]:
        click.echo(f"certificate of {one['host']}:{one['port']} ends {one['ends_at'][:10]}")


def _daemon(one: Document) -> str:
    began = f", since {one['began_at'][:19]}Z" if one["began_at"] else ""
    here = " (this one)" if one["here"] else ""
    lanes = "lane" if one["lanes"] == 1 else "lanes"
    retiring = ", retiring" if one["retiring"] else ""
    return f"on {one['host'] or 'an unknown host'}{here}{began}: {one['lanes']} {lanes}{retiring}"


def _credential(one: Document) -> str:
    version = f", version {one['version']}" if one["version"] else ""
    age = "" if one["age_seconds"] is None else f", fetched {one['age_seconds']} s ago"
    warning = f", {one['warning']} ({one['expires_at']})" if one["warning"] else ""
    return f"{one['field']} from {one['source']}: {one['state']}{version}{age}{warning}"


def needs_a_person(told: Document) -> bool:
    """Is there anything but what somebody wanted so?"""
    sources = any(one["health"] not in ("ok", "unused") for one in told["connections"])
    profiles = any(
        profile["state"] not in ("active", "paused")
        or any(one["state"] in ("stale", "negative") or one["warning"] for one in profile["credentials"])
        for profile in told["profiles"]
    )
    soon = (datetime.now(UTC) + SOON).isoformat()
    certificates = any(one["ends_at"] < soon for one in told["certificates"])
    return not told["ready"] or sources or profiles or certificates
