"""`profiles` and `push`: how a tenant's mail leaves, and what it lends to its children.

    profiles list --tenant T
    profiles show | rm | pause | resume NAME --tenant T
    profiles set NAME --tenant T [--file FILE] [options]
    profiles presets
    push --tenant T --child C... --profile P... [--default P]

`profiles set` changes what is told and makes a profile that is not there; options win over the file. An empty value
takes a field away. A password comes from a file or from standard input: a command line is everybody's to read. One that
a change takes away, because it would go elsewhere, is warned of.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import click

from gateway.cli import calls
from gateway.cli.calls import Answer, Daemon
from gateway.cli.fields import FILE, Document, Field, Kind, document, load, options, put, read
from gateway.cli.remote import given_query, of_tenant, paged, path, remote, save

FIELDS: Final = (
    Field("--preset", "preset", help="a relay service, whose usual values fill what is left open; see presets"),
    Field("--host", "host", help="the relay"),
    Field("--port", "port", Kind.NUMBER, "587, 465 or 25 by security, unless told"),
    Field("--security", "security", help="starttls, implicit_tls or none"),
    Field("--from", "from.address", help="the sender's address"),
    Field("--from-name", "from.name", help="the sender's name"),
    Field("--username", "auth.username", Kind.OPTIONAL, "who signs in"),
    Field("--auth-method", "auth.method", help="how to sign in"),
    Field("--domain", "auth.domain", Kind.OPTIONAL, "the NTLM domain"),
    Field("--default/--no-default", "is_default", Kind.FLAG, "is it used where none is named?"),
    Field("--enabled/--disabled", "enabled", Kind.FLAG, "is it used at all?"),
    Field("--force-sender/--no-force-sender", "force_sender", Kind.FLAG, "must everything be sent as --from?"),
    Field("--allowed-sender", "allowed_senders", Kind.MANY, "an address, or *@domain, that may send; may be repeated"),
    Field("--reply-to", "reply_to", Kind.MANY, "where answers go; may be repeated"),
    Field("--return-path", "return_path", Kind.OPTIONAL, "where bounces go"),
    Field("--to", "to", Kind.MANY, "a recipient of what names none; may be repeated"),
    Field("--read-receipt-to", "read_receipt_to", Kind.OPTIONAL, "where read receipts go"),
    Field("--request-read-receipt/--no-request-read-receipt", "request_read_receipt", Kind.FLAG, "ask for receipts?"),
    Field("--footnote-text", "footnote.text", Kind.OPTIONAL, "appended to texts"),
    Field("--footnote-html", "footnote.html", Kind.OPTIONAL, "appended to HTML"),
    Field("--verify/--no-verify", "tls.verify", Kind.FLAG, "must the relay's certificate be good?"),
    Field("--ca-file", "tls.ca_certificates", Kind.FILE, "PEM certificates of those who sign the relay's"),
    Field("--per-minute", "limits.per_minute", Kind.LIMIT, "messages a minute; 0 is unlimited"),
    Field("--connections", "limits.connections", Kind.NUMBER, "connections at once"),
    Field("--failover", "failover", Kind.MANY, "a profile to use while this relay is away; may be repeated"),
)
CREDENTIALS: Final = (("auth", "credential"), ("tls", "client_certificate"), ("dkim", "key"))
REFERENCE: Final = ("value", "set", "connection", "key", "property", "username_property", "version", "entry")


@click.group()
def profiles() -> None:
    """How a tenant's mail leaves."""


@profiles.command("list")
@of_tenant
@paged
@remote
def list_profiles(daemon: Daemon, /, tenant: str, as_json: bool, **query: Any) -> None:
    """List a tenant's profiles, own and inherited."""
    answer = daemon.call("GET", path("tenants", tenant, "profiles"), query=given_query(query))
    calls.show_items(answer, as_json, _line)


def _line(profile: Document) -> str:
    marks = [
        word
        for word, holds in (
            ("inherited", profile["inherited"]),
            ("default", profile["is_default"]),
            ("disabled", not profile.get("enabled", True)),
            ("paused", profile.get("paused", False)),
        )
        if holds
    ]
    relay = () if profile["inherited"] else (_relay(profile),)
    return " ".join((profile["name"], *relay, *marks))


def _relay(profile: Document) -> str:
    return f"{profile['host']}:{profile['port']} {profile['security']}"


@profiles.command("show")
@click.argument("name")
@of_tenant
@remote
def show_profile(daemon: Daemon, /, name: str, tenant: str, as_json: bool) -> None:
    """Show one profile."""
    calls.show_fields(daemon.call("GET", path("tenants", tenant, "profiles", name)), as_json)


@profiles.command("set")
@click.argument("name")
@of_tenant
@options(FIELDS)
@click.option("--password-file", type=click.File(encoding="utf-8"), help="the password; - is standard input")
@FILE
@remote
def set_profile(
    daemon: Daemon, /, name: str, tenant: str, as_json: bool, file: Path | None, password_file: IO[str] | None,
    **given: Any,
) -> None:  # fmt: skip
    """Change a profile, or make it. What has no option here goes by --file; all fields are at /docs of the daemon."""
    resource = path("tenants", tenant, "profiles", name)
    changes = document(FIELDS, given, load(file) if file else {})
    if password_file is not None:
        value = read(password_file).removesuffix("\n")
        put(changes, "auth.credential", {"source": "plaintext", "value": value})
    _replace_credentials(changes)
    _complete_sender(daemon, resource, changes)
    answer = save(daemon, resource, path("tenants", tenant, "profiles"), changes, {"name": name})
    _tell(answer, as_json, f"profile {tenant}/{name} is set")


def _tell(answer: Answer, as_json: bool, done: str) -> None:
    if not calls.settled(answer, as_json):
        click.echo(done)
        for warning in answer.body.get("warnings", ()):
            click.echo(f"warning: {warning['pointer']}: {warning['detail']} ({warning['code']})", err=True)
    for lost in _dropped(answer.body):
        click.echo(f"warning: {lost}", err=True)


def _dropped(profile: Document) -> Iterator[str]:
    """Tell of secrets that are gone; of those the answer says no more than that, so they are told with `--json`, too."""
    for part, name in CREDENTIALS:
        credential = profile.get(part, {}).get(name, {})
        if credential.get("set") is not False:
            continue
        if credential["source"] == "plaintext":
            why = "its password was dropped, since it would go elsewhere now: give it again with --password-file"
        else:
            why = "its reference was dropped: give it again with --file, by a key with the scope secrets"
        yield f"/{part}/{name}: {why}"


@profiles.command("rm")
@click.argument("name")
@of_tenant
@remote
def remove_profile(daemon: Daemon, /, name: str, tenant: str, as_json: bool) -> None:
    """Delete a profile, or give an inherited one back."""
    calls.show(daemon.call("DELETE", path("tenants", tenant, "profiles", name)), as_json, "deleted")


def _act(action: str, done: str, summary: str) -> None:
    @profiles.command(action, help=summary)
    @click.argument("name")
    @of_tenant
    @remote
    def command(daemon: Daemon, /, name: str, tenant: str, as_json: bool) -> None:
        answer = daemon.call("POST", path("tenants", tenant, "profiles", name, action))
        _tell(answer, as_json, f"profile {tenant}/{name} {done}")


_act("pause", "is paused", "Stop a profile; its mail is held.")
_act("resume", "goes on", "Let a profile go on that was paused or stood still.")


@profiles.command("presets")
@remote
def list_presets(daemon: Daemon, /, as_json: bool) -> None:
    """List what is known of much used relays."""
    answer = daemon.call("GET", path("presets"))
    calls.show_items(answer, as_json, lambda one: f"{one['name']} {_relay(one) if 'host' in one else '-'}")


@click.command()
@of_tenant
@click.option("--child", "children", multiple=True, required=True, help="a direct child; may be repeated")
@click.option("--profile", "profiles", multiple=True, required=True, help="a profile to lend; may be repeated")
@click.option("--default", help="the one of them that becomes each child's default")
@remote
def push(daemon: Daemon, /, tenant: str, as_json: bool, default: str | None, **given: tuple[str, ...]) -> None:
    """Lend profiles to direct children: all of them to all, or none."""
    body = {**{name: list(value) for name, value in given.items()}, **({"default": default} if default else {})}
    answer = daemon.call("POST", path("tenants", tenant, "profiles", "push"), body)
    if calls.settled(answer, as_json):
        return
    for link in answer.body["links"]:
        click.echo(f"{link['child']} inherits {link['profile']}{' as its default' if link['is_default'] else ''}")


# What a merge patch cannot say by itself.


def _replace_credentials(changes: Document) -> None:
    """A credential is replaced as a whole: nothing of the one before stays in it."""
    for part, name in CREDENTIALS:
        credential = changes[part].get(name) if isinstance(changes.get(part), dict) else None
        if isinstance(credential, dict) and "source" in credential and "set" not in credential:
            changes[part][name] = {**dict.fromkeys(REFERENCE), **credential}


def _complete_sender(daemon: Daemon, resource: str, changes: Document) -> None:
    """A name alone is of no use where the address stands bare: it takes the address with it."""
    sender = changes.get("from")
    if not isinstance(sender, dict) or "address" in sender:
        return
    present = daemon.call("GET", resource)
    known = present.body.get("from") if present.status < 400 else None
    if isinstance(known, str):
        sender["address"] = known
