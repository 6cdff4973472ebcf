"""The built-in secret store over HTTP, rewrapping, and which secret stores a tenant may name. No answer holds a value."""

from pydantic import TypeAdapter, ValidationError

from gateway.credentials.connections import Connection
from gateway.credentials.secret import Secret
from gateway.directory import changes, rewrapping
from gateway.directory.changes import Change
from gateway.directory.shapes import StoredSecret
from gateway.directory.snapshot import ROOT, Place, Snapshot
from gateway.http.call import Answer, Call, json_answer
from gateway.http.resources import NO_CONTENT, Document, actor, answer, check_version, page
from gateway.http.schema import RewrapQuery, SecretRequest
from gateway.http.values import ObjectName, write_cursor
from gateway.http.views import View
from gateway.message.times import time_text
from gateway.problems import Code, Fault, Problem, refusal

_NAME: TypeAdapter[str] = TypeAdapter(ObjectName)


class UnreadableView(View):
    """A sealed value that does not open. `field` is a profile's; a stored secret has but one."""

    kind: str
    tenant: str
    name: str
    field: str | None
    detail: str


class RewrapView(View):
    """How many objects with something sealed were looked at, and what of them was sealed anew or does not open."""

    checked: int
    profiles: int
    secrets: int
    webhooks: int
    unreadable: tuple[UnreadableView, ...]
    next_cursor: str | None


def view(snapshot: Snapshot, secret: StoredSecret) -> Document:
    """Show what is known of a secret but its value."""
    return {
        "name": secret.name,
        "version": secret.version,
        "created_at": time_text(secret.created_at),
        "updated_at": time_text(secret.updated_at),
        "used_by": sorted(snapshot.users_of(secret.tenant, secret.name)),
    }


def _find(call: Call, snapshot: Snapshot) -> StoredSecret:
    secret = snapshot.secrets.get((call.params["tenant"], call.params["name"]))
    if secret is None:
        raise Problem(Code.NOT_FOUND)
    return secret


async def locate(call: Call) -> None:
    """Find the secret of the path."""
    _find(call, call.snapshot)


async def listing(call: Call) -> Answer:
    """List a tenant's secrets."""
    snapshot = call.snapshot
    secrets = snapshot.secrets_of(call.params["tenant"])
    return page(call, secrets, lambda secret: secret.name, lambda secret: view(snapshot, secret))


async def show(call: Call) -> Answer:
    """Show one secret."""
    call.no_query()
    return answer(view(call.snapshot, _find(call, call.snapshot)))


async def save(call: Call) -> Answer:
    """Keep a secret, or its next version."""
    call.no_query()
    tenant, name = call.params["tenant"], call.params["name"]
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise refusal(
            [Fault("/name", "bad_value", "A name has letters, digits, dots, dashes and underscores.")]
        ) from None
    wanted = call.parsed(SecretRequest)
    directory = call.services.directory

    def check(snapshot: Snapshot) -> None:
        before = snapshot.secrets.get((tenant, name))
        check_version(call, None if before is None else view(snapshot, before))

    kept = await directory.put_secret(actor(call), tenant, name, Secret(wanted.value), check)
    return answer(view(directory.snapshot, kept), 201 if kept.version == 1 else 200)


async def delete(call: Call) -> Answer:
    """Delete a secret that nobody uses."""
    call.no_query()

    def work(snapshot: Snapshot) -> Change:
        secret = _find(call, snapshot)
        change = changes.delete_secret(snapshot, secret.tenant, secret.name)
        check_version(call, view(snapshot, secret))
        return change

    await call.services.directory.change(actor(call), work)
    return NO_CONTENT


async def rewrap(call: Call) -> Answer:
    """Seal anew, with the present master key, what older ones sealed: all tenants', so for `system` alone."""
    if call.caller.tenant != ROOT:
        raise Problem(Code.FORBIDDEN)
    query = call.query(RewrapQuery)
    after = rewrapping.FIRST if query.cursor is None else _place(query.cursor)
    done = await rewrapping.rewrap(call.services.directory, actor(call), after, query.limit)
    return json_answer(
        {
            "checked": done.checked,
            "profiles": done.profiles,
            "secrets": done.secrets,
            "webhooks": done.webhooks,
            "unreadable": [one._asdict() for one in done.unreadable],
            "next_cursor": None if done.last is None else write_cursor("/".join(done.last).encode()),
        }
    )


def _place(cursor: bytes) -> Place:
    try:
        kind, tenant, name = cursor.decode().split("/")
    except ValueError:
        raise refusal([Fault("/cursor", "bad_cursor", "The cursor is not one of this list.")]) from None
    return kind, tenant, name


async def connections(call: Call) -> Answer:
    """List the secret stores that the tenant may name, with what the operator offers there, and how they are."""
    tenant = call.params["tenant"]

    def shown(connection: Connection) -> Document:
        return {
            "name": connection.name,
            "kind": connection.settings.kind,
            "entries": connection.entries_for(tenant),
            "health": connection.health(),
        }

    usable = list(call.services.credentials.connections.usable_by(tenant))
    return page(call, usable, lambda connection: connection.name, shown)
