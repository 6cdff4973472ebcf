"""`secrets`: a tenant's own secrets in the built-in store, written and never read.

    secrets list --tenant T
    secrets show | rm NAME --tenant T
    secrets set NAME --tenant T --value-file FILE
    secrets check | refresh PROFILE --tenant T
    secrets rewrap

A value comes from a file or from standard input (`-`), never from the command line, which others can see.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import IO, Any

import click

from gateway.cli import calls
from gateway.cli.calls import Answer, Daemon
from gateway.cli.fields import read
from gateway.cli.remote import given_query, of_tenant, paged, path, remote


@click.group()
def secrets() -> None:
    """A tenant's own secrets, written and never read."""


@secrets.command("list")
@of_tenant
@paged
@remote
def list_secrets(daemon: Daemon, /, tenant: str, as_json: bool, **query: Any) -> None:
    """List a tenant's secrets, without their values."""
    answer = daemon.call("GET", path("tenants", tenant, "secrets"), query=given_query(query))
    calls.show_items(
        answer, as_json, lambda one: f"{one['name']} version {one['version']}: {', '.join(one['used_by']) or 'unused'}"
    )


@secrets.command("show")
@click.argument("name")
@of_tenant
@remote
def show_secret(daemon: Daemon, /, name: str, tenant: str, as_json: bool) -> None:
    """Show what is known of a secret but its value."""
    calls.show_fields(daemon.call("GET", path("tenants", tenant, "secrets", name)), as_json)


@secrets.command("set")
@click.argument("name")
@click.option("--value-file", required=True, type=click.File(encoding="utf-8"), help="the value; - is standard input")
@of_tenant
@remote
def set_secret(daemon: Daemon, /, name: str, tenant: str, value_file: IO[str], as_json: bool) -> None:
    """Keep a secret, or its next version."""
    value = read(value_file).removesuffix("\n")
    answer = daemon.call("PUT", path("tenants", tenant, "secrets", name), {"value": value})
    calls.show(answer, as_json, "{name} is kept as version {version}")


@secrets.command("rm")
@click.argument("name")
@of_tenant
@remote
def remove_secret(daemon: Daemon, /, name: str, tenant: str, as_json: bool) -> None:
    """Delete a secret that no profile refers to."""
    calls.show(daemon.call("DELETE", path("tenants", tenant, "secrets", name)), as_json, "deleted")


def _on_credential(name: str, summary: str) -> None:
    @secrets.command(name, help=summary)
    @click.argument("profile")
    @of_tenant
    @remote
    def command(daemon: Daemon, /, profile: str, tenant: str, as_json: bool) -> None:
        answer = daemon.call("POST", path("tenants", tenant, "profiles", profile, "credential", name))
        calls.settled(answer, as_json)
        if not as_json:
            click.echo(_verdict(answer), err=not answer.body["ok"])
        if not answer.body["ok"]:
            sys.exit(1)


def _verdict(answer: Answer) -> str:
    told = answer.body
    if not told["ok"]:
        return f"{told['source']}: {told['error']['kind']}: {told['error']['detail']}"
    stale = ", stale: its source does not answer" if told.get("stale") else ""
    version = f", version {told['version']}" if told.get("version") else ""
    return f"{told['source'] or 'nothing is needed'}{version}{stale}"


_on_credential("check", "Say whether a profile's credential can be fetched.")
_on_credential("refresh", "Fetch a profile's credential anew, and let the profile go on.")


@secrets.command("rewrap")
@click.option("--limit", type=int, help="how many profiles, stored secrets and webhooks to look at in one call")
@remote
def rewrap(daemon: Daemon, /, as_json: bool, limit: int | None) -> None:
    """Seal with the present master key what older ones sealed, of all tenants.

    Needs an administrator of `system`. May be broken off and run again at any time. Exits with 1 if anything cannot be
    opened; all else is sealed anew nevertheless. With --json one answer a line.
    """
    done: Counter[str] = Counter()
    cursor = None
    while True:
        query = given_query({"limit": limit, "cursor": cursor})
        answer = daemon.call("POST", path("secrets", "rewrap"), query=query)
        calls.settled(answer, as_json)
        told, cursor = answer.body, answer.body["next_cursor"]
        done.update({name: told[name] for name in ("checked", "profiles", "secrets", "webhooks")})
        done["unreadable"] += len(told["unreadable"])
        if not as_json:
            _tell_rewrapped(told["unreadable"], done, over=cursor is None)
        if cursor is None:
            break
    if done["unreadable"]:
        sys.exit(1)


def _tell_rewrapped(unreadable: Iterable[Mapping[str, Any]], done: Counter[str], *, over: bool) -> None:
    for one in unreadable:
        field = f" {one['field']}" if one["field"] else ""
        click.echo(f"{one['kind']} {one['tenant']}/{one['name']}{field}: {one['detail']}", err=True)
    counts = (
        f"sealed anew: profiles {done['profiles']}, stored secrets {done['secrets']}, webhooks {done['webhooks']};"
        f" looked at {done['checked']}"
    )
    if not over:
        click.echo(f"{counts} so far", err=True)
        return
    nothing = done["profiles"] == done["secrets"] == done["webhooks"] == done["unreadable"] == 0
    click.echo(f"nothing to do: looked at {done['checked']}" if nothing else counts)
    if done["unreadable"]:
        click.echo(f"{done['unreadable']} cannot be opened: keep the older master keys", err=True)
