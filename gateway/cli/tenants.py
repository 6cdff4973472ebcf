"""`tenants`, `preferences` and `audit`: the tree, whom each tenant copies, and who changed what.

    tenants list [--parent ID] [--search WORD] | show ID | set ID [options] | rm ID
    preferences show --tenant T
    preferences set --tenant T [--cc A]... [--bcc A]... [--rule "category=security.*,min_severity=warning,cc,bcc"]...
    audit list --tenant T | verify --tenant T

`tenants set` changes what is told and makes a tenant that is not there. `preferences set` replaces everything: what is
not told is empty. `audit verify` exits with 1 if the log is not whole.
"""

import sys
from pathlib import Path
from typing import Any, Final

import click

from gateway.cli import calls
from gateway.cli.calls import Daemon
from gateway.cli.fields import FILE, Document, Field, Kind, document, load, options
from gateway.cli.remote import given_query, of_tenant, paged, path, remote, save

FIELDS: Final = (
    Field("--name", "name", Kind.OPTIONAL, "for people"),
    Field("--parent", "parent", help="the tenant above; system, unless told"),
    Field("--enabled/--disabled", "enabled", Kind.FLAG, "may it send?"),
    Field("--fallback", "fallback", help="inherit or none: without a default of its own, whose is used?"),
    Field("--share-default/--no-share-default", "share_default", Kind.FLAG, "may those below use its default?"),
    Field("--own-profiles/--no-own-profiles", "own_profiles", Kind.FLAG, "may it make profiles?"),
    Field("--per-minute", "limits.per_minute", Kind.LIMIT, "notifications a minute; 0 is unlimited"),
    Field("--queued", "limits.queued", Kind.LIMIT, "unfinished notifications; 0 is unlimited"),
)
PREFERENCES: Final = (
    Field("--cc", "cc", Kind.MANY, "an address that gets open copies"),
    Field("--bcc", "bcc", Kind.MANY, "an address that gets blind copies"),
)
NO_PREFERENCES: Final[Document] = {"cc": [], "bcc": [], "rules": []}


@click.group()
def tenants() -> None:
    """The organisations, and what each may."""


@tenants.command("list")
@click.option("--parent", help="only those directly below this one")
@click.option("--search", help="only those whose id or name this is a part of")
@paged
@remote
def list_tenants(daemon: Daemon, /, as_json: bool, **query: Any) -> None:
    """List the tenants in reach."""
    answer = daemon.call("GET", path("tenants"), query=given_query(query))
    calls.show_items(answer, as_json, _line)


def _line(tenant: Document) -> str:
    marks = [] if tenant["enabled"] else ["disabled"]
    return " ".join(filter(None, (tenant["id"], f"(below {tenant['parent'] or '-'})", tenant["name"], *marks)))


@tenants.command("show")
@click.argument("tenant")
@remote
def show_tenant(daemon: Daemon, /, tenant: str, as_json: bool) -> None:
    """Show one tenant."""
    calls.show_fields(daemon.call("GET", path("tenants", tenant)), as_json)


@tenants.command("set")
@click.argument("tenant")
@options(FIELDS)
@remote
def set_tenant(daemon: Daemon, /, tenant: str, as_json: bool, **given: Any) -> None:
    """Change a tenant, or make it."""
    answer = save(daemon, path("tenants", tenant), path("tenants"), document(FIELDS, given), {"id": tenant})
    calls.show(answer, as_json, "tenant {id} is set")


@tenants.command("rm")
@click.argument("tenant")
@remote
def remove_tenant(daemon: Daemon, /, tenant: str, as_json: bool) -> None:
    """Delete a tenant that nothing depends on."""
    calls.show(daemon.call("DELETE", path("tenants", tenant)), as_json, "deleted")


@click.group()
def preferences() -> None:
    """Whom a tenant copies, and on what."""


@preferences.command("show")
@of_tenant
@remote
def show_preferences(daemon: Daemon, /, tenant: str, as_json: bool) -> None:
    """Show whom a tenant copies."""
    _show_preferences(daemon.call("GET", path("tenants", tenant, "preferences")), as_json)


@preferences.command("set")
@of_tenant
@options(PREFERENCES)
@click.option("--rule", "rules", multiple=True, help="category=PATTERN,min_severity=WORD,cc,bcc: who is copied on what")
@FILE
@remote
def set_preferences(
    daemon: Daemon, /, tenant: str, as_json: bool, file: Path | None, rules: tuple[str, ...], **given: Any
) -> None:
    """Replace whom a tenant copies; what is not told is empty."""
    body = document(PREFERENCES, given, {**NO_PREFERENCES, **(load(file) if file else {})})
    body = {name: [] if value is None else value for name, value in body.items()}
    if rules:
        body["rules"] = [_rule(words) for words in rules]
    _show_preferences(daemon.call("PUT", path("tenants", tenant, "preferences"), body), as_json)


def _rule(words: str) -> Document:
    """Read a rule; a word without a value is a mark that is set."""
    pairs = (word.strip().partition("=") for word in words.split(","))
    return {name: value if equals else True for name, equals, value in pairs}


def _show_preferences(answer: calls.Answer, as_json: bool) -> None:
    if calls.settled(answer, as_json):
        return
    for role in ("cc", "bcc"):
        click.echo(f"{role}: {calls.written(answer.body[role])}")
    for rule in answer.body["rules"]:
        click.echo(f"rule: {calls.written(rule)}")


@click.group()
def audit() -> None:
    """Who changed what."""


@audit.command("list")
@of_tenant
@paged
@remote
def list_audit(daemon: Daemon, /, tenant: str, as_json: bool, **query: Any) -> None:
    """List a tenant's audit log, newest first."""
    answer = daemon.call("GET", path("tenants", tenant, "audit"), query=given_query(query))
    calls.show_items(answer, as_json, _row)


def _row(row: Document) -> str:
    told = f"{row['number']} {row['at']} {row['actor']} {row['action']} {row['object']}".rstrip()
    return f"{told}: {calls.differences(row['changes'])}" if row["changes"] else told


@audit.command("verify")
@of_tenant
@remote
def verify_audit(daemon: Daemon, /, tenant: str, as_json: bool) -> None:
    """Check that a tenant's audit log is whole."""
    answer = daemon.call("GET", path("tenants", tenant, "audit", "verify"))
    calls.settled(answer, as_json)
    whole = answer.body["ok"]
    if not as_json:
        row = f"row {answer.body['broken_at']} does not follow from the one before"
        click.echo(f"whole, {answer.body['rows']} rows" if whole else row, err=not whole)
    if not whole:
        sys.exit(1)
