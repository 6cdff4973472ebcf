"""Every route of the OpenAPI document for everybody who might ask: who gets in, and what the others are told.

    system ─┬─ acme ─── acme-emea ─── acme-north
            └─ globex

All requests are about acme-emea and what is its own. The matrix is made from the document, so that a route which is in
no example below fails rather than goes unasked.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from gateway.catcher import Catcher
from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.directory.shapes import Pause, Template, Tenant, Webhook
from gateway.http.openapi import specification
from gateway.http.routes import ROUTES
from tests.http.world import Answered, Json, World, notification, profile, running

OWN = "acme-emea"
CHILD = "acme-north"
SECRET = "words-of-emea"
SCOPES = frozenset({"send", "read", "profiles", "secrets", "admin"})
KINDS = ("own", "parent", "operator", "child", "stranger", "wrong scope", "revoked", "none")
OUTSIDE = ("child", "stranger")
NO_KEY = ("revoked", "none")
HOLDERS = {"parent": "acme:admin", "operator": "system:admin", "child": f"{CHILD}:admin", "stranger": "globex:admin"}


@dataclass(frozen=True)
class Operation:
    """What the document says about one route."""

    method: str
    path: str
    name: str
    scopes: frozenset[str]
    status: int

    @property
    def public(self) -> bool:
        return not self.scopes


def operations() -> list[Operation]:
    """Read the document; scopes are in the last sentence of a description."""
    found = []
    for path, methods in specification(ROUTES)["paths"].items():
        for method, told in methods.items():
            _, _, sentence = told.get("description", "").rpartition("Scope: ")
            scopes = frozenset(re.findall(r"`(\w+)`", sentence)) if told["security"] else frozenset()
            assert scopes <= SCOPES
            assert bool(scopes) == bool(told["security"]), "nobody could tell which scope the route takes"
            status = min(int(status) for status in told["responses"])
            found.append(Operation(method.upper(), path, told["operationId"], scopes, status))
    return found


@dataclass(frozen=True)
class Example:
    """A request that succeeds for whoever may make it.

    `ours`: it names something of acme-emea. What names nothing of anybody's is answered to all who hold the scope.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    body: Json | None = None
    ours: bool = True


NOTIFICATION = notification(tenant=OWN)
TENANT = {"tenant": OWN}
PROFILE = {**TENANT, "name": "desk"}
TEMPLATE = {**TENANT, "name": "welcome"}
STORED = {**TENANT, "name": "relay"}
HOOKED = {**TENANT, "id": "a1b2c3d4"}
HOOK = {"url": "https://hook.emea.example/path", "events": ["notification.failed"]}
POSTED = {"id": "{notification}"}
WORDING = {"subject": "Hello", "text": "Hello {{ name }}"}
DESK = {"host": "relay.emea.example", "from": "desk@emea.example"}

ALERTS = {"status": "firing", "alerts": [{"status": "firing", "labels": {"alertname": SECRET}}]}

EXAMPLES = {
    "notification.post": Example(body=NOTIFICATION),
    "notification.batch": Example(body={"notifications": [NOTIFICATION]}, ours=False),
    "notification.list": Example(query=f"?tenant={OWN}"),
    "notification.show": Example(POSTED),
    "notification.cancel": Example(POSTED),
    "notification.retry": Example(POSTED),
    "receiver.alertmanager": Example(query=f"?tenant={OWN}&to=ann@example.test", body=ALERTS),
    "receiver.grafana": Example(query=f"?tenant={OWN}&to=ann@example.test", body=ALERTS),
    "tenant.list": Example(ours=False),
    "tenant.create": Example(body={"id": "new", "parent": OWN}),
    "tenant.show": Example(TENANT),
    "tenant.replace": Example(TENANT, body={"name": "EMEA"}),
    "tenant.patch": Example(TENANT, body={"name": "EMEA"}),
    "tenant.delete": Example(TENANT),
    "preferences.show": Example(TENANT),
    "preferences.replace": Example(TENANT, body={"cc": ["ops@emea.example"], "rules": [{"cc": True}]}),
    "audit.list": Example(TENANT),
    "audit.verify": Example(TENANT),
    "apply": Example(body={"templates": [{**TEMPLATE, **WORDING}]}),
    "profile.list": Example(TENANT),
    "profile.create": Example(TENANT, body={"name": "new", **DESK}),
    "profile.push": Example(TENANT, body={"children": [CHILD], "profiles": ["desk"], "default": "desk"}),
    "profile.show": Example(PROFILE),
    "profile.replace": Example(PROFILE, body=DESK),
    "profile.patch": Example(PROFILE, body={"enabled": False}),
    "profile.delete": Example(PROFILE),
    "profile.test": Example(PROFILE, body={"to": "ann@example.test"}),
    "profile.test_unsaved": Example(TENANT, body={"profile": {"name": "new", **DESK}, "to": "ann@example.test"}),
    "profile.pause": Example(PROFILE),
    "profile.resume": Example(PROFILE),
    "connector.list": Example(TENANT),
    "preset.list": Example(ours=False),
    "webhook.list": Example(TENANT),
    "webhook.create": Example(TENANT, body=HOOK),
    "webhook.show": Example(HOOKED),
    "webhook.replace": Example(HOOKED, body=HOOK),
    "webhook.patch": Example(HOOKED, body={"enabled": False}),
    "webhook.delete": Example(HOOKED),
    "webhook.test": Example(HOOKED),
    "queue.list": Example(ours=False),
    "traffic.show": Example(ours=False),
    "credential.list": Example(ours=False),
    "queue.pause": Example(ours=False),
    "queue.resume": Example(ours=False),
    "backup": Example(ours=False),
    "sign_in_link.create": Example(ours=False),
    "template.list": Example(TENANT),
    "template.show": Example(TEMPLATE),
    "template.replace": Example(TEMPLATE, body=WORDING),
    "template.delete": Example(TEMPLATE),
    "template.render": Example(TEMPLATE, body={"data": {"name": "Ann"}}),
    "secret.list": Example(TENANT),
    "secret.show": Example(STORED),
    "secret.replace": Example(STORED, body={"value": "hunter3"}),
    "secret.delete": Example(STORED),
    "secret.rewrap": Example(ours=False),
    "secret_connection.list": Example(TENANT),
    "credential.check": Example(PROFILE),
    "credential.refresh": Example(PROFILE),
    "tenant.resolution": Example(TENANT),
    "key.list": Example(TENANT),
    "key.create": Example(TENANT, body={"name": "app", "scopes": ["send"]}),
    "key.show": Example({**TENANT, "id": "{key}"}),
    "key.revoke": Example({**TENANT, "id": "{key}"}),
    "doctor": Example(ours=False),
    "livez": Example(),
    "readyz": Example(),
    "openapi": Example(),
    "catcher.list": Example(),
    "catcher.show": Example({"number": "1"}),
}
REFUSED = {
    # Nobody deletes the tenant that their own key belongs to, and those above find that it has a child.
    ("tenant.delete", "own"): (403, "locked_by_parent"),
    ("tenant.delete", "parent"): (409, "tenant_in_use"),
    ("tenant.delete", "operator"): (409, "tenant_in_use"),
    # The master keys are the operator's.
    **{("secret.rewrap", kind): (403, "forbidden") for kind in ("own", "parent", *OUTSIDE)},
    # The daemon is the operator's, and so is what is everybody's.
    **{
        (name, kind): (403, "forbidden")
        for name in ("doctor", "queue.pause", "queue.resume", "backup")
        for kind in ("own", "parent", *OUTSIDE)
    },
}
# What each scope is promised to admit to, written by hand, so that a route with another one is noticed. `admin` admits
# to everything; under its own name is what nothing else admits to, and under no name what is open to everybody.
ADMITS = {
    "send": {
        "POST /v1/notifications", "POST /v1/notifications/batch", "POST /v1/notifications/{id}/cancel",
        "POST /v1/notifications/{id}/retry", "GET /v1/notifications", "GET /v1/notifications/{id}",
        "POST /v1/receivers/alertmanager", "POST /v1/receivers/grafana",
    },
    # Every GET but those of secrets, keys and the audit log, and what shows the whole daemon.
    "read": {
        "GET /v1/notifications", "GET /v1/notifications/{id}", "GET /v1/tenants", "GET /v1/tenants/{tenant}",
        "GET /v1/tenants/{tenant}/preferences", "GET /v1/tenants/{tenant}/resolution",
        "GET /v1/tenants/{tenant}/profiles", "GET /v1/tenants/{tenant}/profiles/{name}",
        "GET /v1/tenants/{tenant}/connectors", "GET /v1/tenants/{tenant}/secret-connections", "GET /v1/presets",
        "GET /v1/tenants/{tenant}/templates", "GET /v1/tenants/{tenant}/templates/{name}",
        "POST /v1/tenants/{tenant}/templates/{name}/render", "GET /v1/tenants/{tenant}/webhooks",
        "GET /v1/tenants/{tenant}/webhooks/{id}", "GET /v1/queue", "GET /v1/traffic",
    },
    "profiles": {
        "POST /v1/tenants/{tenant}/profiles", "PUT /v1/tenants/{tenant}/profiles/{name}",
        "PATCH /v1/tenants/{tenant}/profiles/{name}", "DELETE /v1/tenants/{tenant}/profiles/{name}",
        "POST /v1/tenants/{tenant}/profiles/push", "POST /v1/tenants/{tenant}/profiles/test",
        "POST /v1/tenants/{tenant}/profiles/{name}/test", "POST /v1/tenants/{tenant}/profiles/{name}/pause",
        "POST /v1/tenants/{tenant}/profiles/{name}/resume", "PUT /v1/tenants/{tenant}/preferences",
        "PUT /v1/tenants/{tenant}/templates/{name}", "DELETE /v1/tenants/{tenant}/templates/{name}",
        "POST /v1/tenants/{tenant}/templates/{name}/render",
    },
    "secrets": {
        "GET /v1/tenants/{tenant}/secrets", "GET /v1/tenants/{tenant}/secrets/{name}",
        "PUT /v1/tenants/{tenant}/secrets/{name}", "DELETE /v1/tenants/{tenant}/secrets/{name}",
        "POST /v1/tenants/{tenant}/profiles/{name}/credential/check",
        "POST /v1/tenants/{tenant}/profiles/{name}/credential/refresh",
        "GET /v1/tenants/{tenant}/secret-connections", "GET /v1/credentials",
    },
    "admin": {
        "POST /v1/tenants", "PUT /v1/tenants/{tenant}", "PATCH /v1/tenants/{tenant}", "DELETE /v1/tenants/{tenant}",
        "GET /v1/tenants/{tenant}/keys", "GET /v1/tenants/{tenant}/keys/{id}", "POST /v1/tenants/{tenant}/keys",
        "DELETE /v1/tenants/{tenant}/keys/{id}", "POST /v1/tenants/{tenant}/webhooks",
        "PUT /v1/tenants/{tenant}/webhooks/{id}", "PATCH /v1/tenants/{tenant}/webhooks/{id}",
        "DELETE /v1/tenants/{tenant}/webhooks/{id}", "POST /v1/tenants/{tenant}/webhooks/{id}/test",
        "GET /v1/tenants/{tenant}/audit", "GET /v1/tenants/{tenant}/audit/verify", "POST /v1/apply",
        "POST /v1/queue/pause", "POST /v1/queue/resume", "POST /v1/secrets/rewrap", "POST /v1/sign-in-links",
        "GET /v1/doctor", "GET /v1/backup",
    },
    "": {"GET /livez", "GET /readyz", "GET /openapi.json", "GET /catcher", "GET /catcher/{number}"},
}  # fmt: skip
OPERATIONS = operations()
PROTECTED = [operation for operation in OPERATIONS if not operation.public]
CHANGES = [one for one in PROTECTED if one.method != "GET" and EXAMPLES.get(one.name, Example()).ours]
CASES = [(operation, kind) for operation in OPERATIONS for kind in KINDS]


@pytest.fixture
async def family(tmp_path: Path) -> AsyncIterator[World]:
    """The world, what acme-emea has in it, and a caught message."""
    catcher = Catcher()
    peer = Session(asyncio.get_running_loop())
    await catcher.handle_DATA(SMTP(catcher), peer, Envelope())
    async with running(tmp_path, catcher=catcher) as world:
        await world.put(
            Tenant(id=CHILD, parent=OWN),
            profile(OWN, "desk", footnote={"text": SECRET}),
            Pause(tenant=OWN, profile="desk"),
            Template(tenant=OWN, name="welcome", subject="Hello", text=SECRET),
            Webhook(
                tenant=OWN,
                id=HOOKED["id"],
                url=f"https://127.0.0.1/{SECRET}",
                events=("notification.failed",),
                created_at=0,
                sealed=world.directory.seal.close(Secret(f"whsec_{'YQ' * 20}"), ("webhook", OWN, HOOKED["id"])),
            ),
        )
        await world.directory.put_secret(OPERATOR, OWN, "relay", Secret(SECRET))
        yield world


async def ask(world: World, operation: Operation, holder: str | None) -> Answered:
    """Make the route's example request as the holder of this key."""
    example = EXAMPLES[operation.name]
    path = operation.path
    for name, value in example.values.items():
        path = path.replace(f"{{{name}}}", value)
    if "{notification}" in path:
        # With scope `send` alone a key knows only what it posted itself.
        poster = holder if holder is not None and holder.startswith(f"{OWN}:send") else f"{OWN}:send"
        id_ = await world.posted(poster, text=SECRET)
        path = path.replace("{notification}", id_)
    if "{key}" in path:
        path = path.replace("{key}", _id(await world.key_for(f"{OWN}:read,spare")))
    assert "{" not in path, "the example leaves part of the path open"
    options: dict[str, Any] = {} if example.body is None else {"json": example.body}
    return await world.call(operation.method, path + example.query, holder, **options)


def _id(key: str) -> str:
    return key.split("_")[1]


def holding(scopes: frozenset[str]) -> str:
    """Name acme-emea's key with these scopes; `send` comes first."""
    return f"{OWN}:{','.join(sorted(scopes, reverse=True))}"


async def key_of(world: World, operation: Operation, kind: str) -> str | None:
    """Make the key of one kind of caller; of those who must not get in, with all scopes that do not matter."""
    match kind:
        case "none":
            return None
        case "own":
            return holding(operation.scopes or frozenset({"read"}))
        case "wrong scope":
            return holding(SCOPES - operation.scopes - {"admin"})
        case "revoked":
            name = f"{OWN}:admin,revoked"
            await world.directory.revoke_key(OPERATOR, OWN, _id(await world.key_for(name)))
            return name
        case _:
            return HOLDERS[kind]


def expected(operation: Operation, kind: str) -> tuple[int, str | None]:
    """Tell status and problem of an answer."""
    if operation.public:
        return operation.status, None
    if kind in NO_KEY:
        return 401, "unauthorized"
    if kind == "wrong scope":
        return 403, "forbidden"
    if kind in OUTSIDE and EXAMPLES[operation.name].ours:
        return 404, "not_found"
    return REFUSED.get((operation.name, kind), (operation.status, None))


@pytest.mark.parametrize(("operation", "kind"), CASES, ids=[f"{one.name}-{kind}" for one, kind in CASES])
async def test_who_gets_in(family: World, operation: Operation, kind: str) -> None:
    """A route answers those who may ask, and tells the others no more than they may know."""
    holder = await key_of(family, operation, kind)
    answered = await ask(family, operation, holder)
    code = answered.code if answered.text else None
    assert (answered.status, code) == expected(operation, kind), answered.text
    if kind in (*OUTSIDE, *NO_KEY):
        assert SECRET not in answered.text
    if kind in OUTSIDE and not EXAMPLES[operation.name].ours:
        # What is told here is theirs: nothing of acme-emea, and in a batch that its item is of nobody.
        assert not re.search(rf'"(id|tenant)":\s*"{OWN}"', answered.text)
        assert [result["status"] for result in answered.json.get("results", ())] in ([], [404])


@pytest.mark.parametrize("kind", [*OUTSIDE, *NO_KEY, "wrong scope"])
@pytest.mark.parametrize("operation", CHANGES, ids=lambda one: one.name)
async def test_who_does_not_get_in_changes_nothing(family: World, operation: Operation, kind: str) -> None:
    """A change that is refused for who asks leaves directory and mail as they were."""
    holder = await key_of(family, operation, kind)
    if holder is not None:
        await family.key_for(holder)
    await family.key_for(f"{OWN}:read,spare")
    await family.key_for(f"{OWN}:send")
    before = await family.store.directory(), family.outbox.queued[OWN]
    await ask(family, operation, holder)
    posted = "{notification}" in EXAMPLES[operation.name].values.values()
    assert (await family.store.directory(), family.outbox.queued[OWN] - posted) == before


@pytest.mark.parametrize(
    ("operation", "scope"),
    [(one, scope) for one in PROTECTED if len(one.scopes) > 1 for scope in sorted(one.scopes)],
    ids=lambda one: getattr(one, "name", one),
)
async def test_any_of_several_scopes(family: World, operation: Operation, scope: str) -> None:
    """Where the document names several scopes, each of them alone will do."""
    assert (await ask(family, operation, holding(frozenset({scope})))).status == operation.status


def test_scopes_admit_to_what_was_promised() -> None:
    """Each to exactly the routes that it is meant for."""
    told: dict[str, set[str]] = {}
    for one in OPERATIONS:
        for scope in one.scopes or {""}:
            told.setdefault(scope, set()).add(f"{one.method} {one.path}")
    assert told == ADMITS


def test_every_route_has_an_example() -> None:
    """The table of examples and the document name the same routes."""
    assert EXAMPLES.keys() == {operation.name for operation in OPERATIONS}


def test_every_combination_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """The matrix has each route of the document once for each kind of caller."""
    assert len({(operation.name, kind) for operation, kind in CASES}) == len(ROUTES) * len(KINDS) == len(CASES)
    with capsys.disabled():  # and on standard error: that of xdist's workers is seen
        print(
            f"\nmatrix: {len(ROUTES)} routes x {len(KINDS)} kinds of caller = {len(CASES)} combinations",
            file=sys.stderr,
        )
