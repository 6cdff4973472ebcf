"""API keys and resolution over HTTP: who may do what in a tenant, and which profile its mail would leave by.

Nobody makes a key that could do more than their own: no scope, network or mode beyond it, nor for longer. Its tenant
cannot be wider, because the path's tenant is within the caller's reach. When a key was last used is this daemon's own
knowledge, and is forgotten at a restart.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from pydantic import Field

from gateway.directory.snapshot import Key, Resolution
from gateway.http.call import Answer, Call, json_answer
from gateway.http.resources import actor, page
from gateway.http.schema import KeyRequest, Mode, ResolutionQuery, Scope
from gateway.http.values import ShownTime, show_time
from gateway.http.views import View
from gateway.problems import Code, Fault, Problem, refusal
from gateway.settings import Network


class KeyView(View):
    """A key, without its secret."""

    id: str
    tenant: str
    name: str
    scopes: tuple[Scope, ...]
    mode: Mode
    cidrs: tuple[str, ...]
    created_at: ShownTime
    expires_at: ShownTime | None
    last_used_at: ShownTime | None
    provisioned: bool


class NewKeyView(KeyView):
    """A key that was just made; `key` is shown this once."""

    key: str = Field(examples=["ngw_abcdefgh_…"])


class KeyList(View):
    """A tenant's keys."""

    items: tuple[KeyView, ...]
    next_cursor: str | None


class StepView(View):
    """One tenant that resolution looked at. What lies outside the caller's reach is one step without names."""

    tenant: str | None
    profile: str | None
    verdict: str


class ResolutionView(View):
    """The profile that would be used, the copies that would be made, and why."""

    profile: str | None
    owner: str | None
    via: str | None
    cc: tuple[str, ...]
    bcc: tuple[str, ...]
    chain: tuple[StepView, ...]


async def listing(call: Call) -> Answer:
    """List the tenant's keys, by id."""
    keys = call.snapshot.keys_of(call.params["tenant"])
    return page(call, keys, lambda key: key.id, lambda key: _document(call, key))


def _document(call: Call, key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "mode": key.mode,
        "cidrs": [str(network) for network in key.cidrs],
        "created_at": show_time(key.created_at),
        "expires_at": show_time(key.expires_at),
        "last_used_at": show_time(call.services.last_used.get(key.id)),
        "provisioned": call.snapshot.provisioned(("key", key.tenant, key.id)),
    }


async def create(call: Call) -> Answer:
    """Make a key; its text is in this answer and nowhere else."""
    call.no_query()
    wanted = call.parsed(KeyRequest)
    if wanted.expires_at is not None and wanted.expires_at <= call.now:
        raise refusal([Fault("/expires_at", "bad_value", "The key would be expired at once.")])
    _not_wider(call, wanted)
    tenant = call.params["tenant"]
    key, text = await call.services.directory.create_key(
        actor(call),
        tenant,
        wanted.name,
        wanted.scopes,
        expires_at=wanted.expires_at,
        cidrs=wanted.cidrs,
        mode=wanted.mode,
    )
    where = f"/v1/tenants/{tenant}/keys/{key.id}"
    return json_answer({**_document(call, key), "key": text}, 201, Location=where)


def _not_wider(call: Call, wanted: KeyRequest) -> None:
    caller = call.caller
    if not all(caller.may(scope) for scope in wanted.scopes) or (caller.simulated and wanted.mode == "live"):
        raise Problem(Code.FORBIDDEN, "A key makes no key with wider scopes or mode than its own.")
    own = None if caller.name else call.snapshot.key(caller.key_id)
    if own is not None and own.cidrs and not _all_within(wanted.cidrs, own.cidrs):
        raise Problem(Code.FORBIDDEN, "A key makes no key with wider networks than its own.")
    if own is not None and _outlives(wanted.expires_at, own.expires_at):
        detail = "A key makes no key that lasts longer than itself."
        raise Problem(Code.FORBIDDEN, detail, errors=[Fault("/expires_at", Code.FORBIDDEN.code, detail)])


def _all_within(networks: Sequence[Network], allowed: Sequence[Network]) -> bool:
    """Is each network part of an allowed one? No network at all means every address, which is wider than any list."""
    return bool(networks) and all(any(_part_of(one, other) for other in allowed) for one in networks)


def _outlives(wanted: int | None, own: int | None) -> bool:
    """Would a key still be good when its maker's is over? One without an end outlives all that have one."""
    return own is not None and (wanted is None or wanted > own)


def _part_of(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.subnet_of(other)
    return isinstance(other, IPv6Network) and one.subnet_of(other)


async def locate(call: Call) -> None:
    """Find the key of the path."""
    key = call.snapshot.key(call.params["id"])
    if key is None or key.tenant != call.params["tenant"]:
        raise Problem(Code.NOT_FOUND)


async def show(call: Call) -> Answer:
    """Show one key, without its secret."""
    call.no_query()
    return json_answer(_document(call, call.snapshot.keys[call.params["id"]]))


async def revoke(call: Call) -> Answer:
    """Revoke a key for good."""
    call.no_query()
    await call.services.directory.revoke_key(actor(call), call.params["tenant"], call.params["id"])
    return Answer(204, b"", {"Cache-Control": "no-store"})


async def resolution(call: Call) -> Answer:
    """Explain which profile and copies a notification would get."""
    query = call.query(ResolutionQuery)
    found = call.snapshot.resolve(call.params["tenant"], query.profile, query.category, query.severity)
    seen = found.visible(call.caller.tenant)
    return json_answer(
        {
            "profile": found.profile.name if seen and found.profile is not None else None,
            "owner": found.owner if seen else None,
            "via": found.via,
            "cc": found.cc,
            "bcc": found.bcc,
            "chain": _chain(call, found),
        }
    )


def _chain(call: Call, found: Resolution) -> list[dict[str, str | None]]:
    """Tell the steps within reach; those beyond are one step that says only how it ended."""
    steps: list[dict[str, str | None]] = []
    for step in found.chain:
        if not call.snapshot.within(step.tenant, call.caller.tenant):
            steps.append({"tenant": None, "profile": None, "verdict": found.chain[-1].verdict})
            break
        steps.append({"tenant": step.tenant, "profile": step.profile, "verdict": step.verdict})
    return steps
