"""`doctor`: how a running daemon is, on one page. Exits with 1 if anything needs a person, remarks aside."""

import sys
from collections.abc import Iterable

import click

from gateway import __version__
from gateway.cli import calls
from gateway.cli.calls import Daemon
from gateway.cli.fields import Document
from gateway.cli.queue import paused
from gateway.cli.remote import path, remote


@click.command()
@remote
def doctor(daemon: Daemon, /, as_json: bool) -> None:
    """Show how the daemon is, and what needs a person; for administrators of `system`."""
    answer = daemon.call("GET", path("doctor"))
    if not calls.settled(answer, as_json):
        show(answer.body)
    if needs_a_person(answer.body):
        sys.exit(1)


def show(told: Document) -> None:
    """Print what the daemon told."""
    versions = f"daemon {told['version']} (command line {__version__}) on {told['store']['engine']}"
    click.echo(f"{versions}: {', '.join(told['reasons']) or 'ready'}")
    if told["paused"]:
        click.echo(paused(told["paused"]))
    if told["restart_needed"]:
        click.echo(f"a restart is needed for {', '.join(told['restart_needed'])}")
    click.echo(f"store: {_store(told['store'])}")
    if told["outbox"]:
        click.echo(f"outbox: {_outbox(told['outbox'])}")
    for one in told["daemons"]:
        click.echo(f"daemon {_daemon(one)}")
    for one in told["connections"]:
        click.echo(
            f"connection {one['name']} ({one['kind']}): {one['health']}{_ago('answered', one['answered_seconds'])}"
        )
    for one in told["relays"]:
        states = ", ".join(f"{count} {state}" for state, count in sorted(one["states"].items()))
        click.echo(f"relay {one['host']}:{one['port']}: {states}{_ago('proven', one['proven_seconds'])}")
    states = ", ".join(f"{count} {state}" for state, count in sorted(told["states"].items()))
    click.echo(f"profiles: {states or 'none was in use yet'}")
    for profile in told["profiles"]:
        click.echo(f"  {profile['tenant']}/{profile['name']} {profile['state']}")
        for one in profile["credentials"]:
            click.echo(f"    {_credential(one)}")
    for one in told["certificates"]:
        click.echo(f"certificate of {one['host']}:{one['port']} ends {one['ends_at'][:10]}")
    _show_needs(told["needs"])


def _store(one: Document) -> str:
    free = one["free_bytes"], one["floor_bytes"]
    parts = (
        ("schema {}", one["schema_version"]),
        ("{:.1f} MB", _megabytes(one["bytes"])),
        ("its log {:.1f} MB", _megabytes(one["log_bytes"])),
        (f"{{:.0f}} MB free, of which {_megabytes(free[1]) or 0:.0f} stay so", _megabytes(free[0])),
        ("backed up {}", (one["last_backup_at"] or "")[:19] or None),
    )
    return ", ".join(form.format(value) for form, value in parts if value is not None)


def _megabytes(count: int | None) -> float | None:
    return None if count is None else count / 1_000_000


def _outbox(one: Document) -> str:
    oldest = "" if one["oldest_seconds"] is None else f", the oldest for {one['oldest_seconds']} s"
    overdue = "" if one["overdue_seconds"] is None else f", due for {one['overdue_seconds']} s"
    return f"{one['unfinished']} unfinished, {one['deferred']} deferred{oldest}{overdue}"


def _ago(what: str, seconds: int | None) -> str:
    return "" if seconds is None else f", {what} {seconds} s ago"


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


def _show_needs(needs: Iterable[Document]) -> None:
    for one in needs:
        click.echo(f"{'remark' if one['remark'] else 'needs a person'}: {_need(one)}")


def _need(one: Document) -> str:
    """Write what it is about, and why, as far as there is something to say."""
    place = "/".join(filter(None, (one["tenant"], one["profile"])))
    about = " ".join(filter(None, (one["need"], place, one["name"])))
    seconds = one["age_seconds"]
    if one["waiting"] is None:
        since = "" if seconds is None else f"{seconds} s old"
    else:
        since = f"{one['waiting']} wait" + ("" if seconds is None else f", the oldest for {seconds} s")
    at = "" if one["at"] is None else f"{one['at'][:19]}Z"
    why = ", ".join(filter(None, (one["reason"], one["source"], since, at)))
    return f"{about}: {why}" if why else about


def needs_a_person(told: Document) -> bool:
    """Is there anything but remarks?"""
    return not all(one["remark"] for one in told["needs"])
