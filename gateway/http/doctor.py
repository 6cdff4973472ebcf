"""How the daemon is, on one page for the operator: what needs a person, and how all the rest stands.

Profiles are those that were in use since the daemon began, and those that are paused; only what is not in order of them
is told one by one, the first two hundred by name. Of relays the first two hundred are told, those before all others that
somebody's mail does not reach; of what needs a person likewise. No secret's source and no relay is asked.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from gateway import __version__
from gateway.directory.shapes import Profile
from gateway.directory.snapshot import ROOT
from gateway.http.call import Answer, Call, RelayLook, json_answer
from gateway.http.credentials import CredentialStandingView, in_order, standing
from gateway.http.directory_views import PauseView
from gateway.http.needs import Known, NeedView, needs
from gateway.http.queue import by_profile, pause_view
from gateway.http.resources import Document
from gateway.http.values import ShownTime, show_time
from gateway.http.views import View
from gateway.message.times import time_text
from gateway.observe import metrics
from gateway.problems import Code, Problem
from gateway.store.protocol import StoreUnavailable
from gateway.store.rows import DaemonRow, FlowDepth, StoreHealth

MOST: Final = 200


class StoreStandingView(View):
    """How the database is: bytes of it, of its log, and free on its disk; below `floor` nothing is accepted.

    Null where only the database's server knows. `last_backup_at` is as of when the last backup is that was fetched whole.
    """

    engine: str
    schema_version: int | None
    bytes: int | None
    log_bytes: int | None
    free_bytes: int | None
    floor_bytes: int | None
    last_backup_at: ShownTime | None


class OutboxStandingView(View):
    """What is not final: how much, of that put off, since when the oldest is here, and the longest due waits to go."""

    unfinished: int
    deferred: int
    oldest_seconds: int | None
    overdue_seconds: int | None


class ConnectionStandingView(View):
    """A secret store; `health` is `unused`, `ok`, why nobody asks it at the moment, or `login_denied` and the like."""

    name: str
    kind: str
    health: str
    answered_seconds: int | None


class RelayStandingView(View):
    """A relay, and how many profiles that use it stand how. `proven_seconds` ago it let us in, or took a message."""

    host: str
    port: int
    states: dict[str, int]
    proven_seconds: int | None


class ProfileStandingView(View):
    """A profile that is not in order, and why."""

    tenant: str
    name: str
    state: str
    credentials: tuple[CredentialStandingView, ...]


class CertificateStandingView(View):
    """When the certificate ends that a relay showed last."""

    host: str
    port: int
    ends_at: ShownTime


class DaemonStandingView(View):
    """A daemon that works on the same database; `here` is the one that answers, `lanes` the profiles it carries."""

    host: str | None
    began_at: ShownTime | None
    lanes: int
    retiring: bool
    here: bool


class DoctorView(View):
    """How the daemon is. `needs` says what needs a person, remarks last; without any but remarks all is in order.

    `states` counts profiles; certificates are those that end first.

    `daemons` are all that share the database, itself included; none on SQLite, or while the database is away. Then
    `outbox` is null, too. `paused` is null unless all sending is; `restart_needed` names settings that wait for one.
    `relays` are those of the profiles that this daemon carries the mail of.
    """

    version: str
    store: StoreStandingView
    ready: bool
    reasons: tuple[str, ...]
    paused: PauseView | None
    restart_needed: tuple[str, ...]
    outbox: OutboxStandingView | None
    daemons: tuple[DaemonStandingView, ...]
    connections: tuple[ConnectionStandingView, ...]
    relays: tuple[RelayStandingView, ...]
    states: dict[str, int]
    profiles: tuple[ProfileStandingView, ...]
    certificates: tuple[CertificateStandingView, ...]
    needs: tuple[NeedView, ...]


async def show(call: Call) -> Answer:
    """Show how the daemon is. It is about all tenants, so for `system` alone."""
    call.no_query()
    if call.caller.tenant != ROOT:
        raise Problem(Code.FORBIDDEN)
    reasons, states, depths = call.services.reasons(), _states(call), await _depths(call)
    profiles = list(_not_in_order(call, states))
    told: Document = {
        "version": __version__,
        "store": await _store(call),
        "ready": not reasons,
        "reasons": reasons,
        "paused": pause_view(call.snapshot.all_paused, ROOT),
        "restart_needed": list(call.services.restart_needed),
        "outbox": await _outbox(call, depths),
        "daemons": [_daemon(one) for one in await _daemons(call)],
        "connections": _connections(call),
        "relays": _relays(call.services.relays()),
        "states": dict(Counter(states.values())),
        "profiles": profiles[:MOST],
        "certificates": [
            {"host": host, "port": port, "ends_at": time_text(round(ends * 1000))}
            for (host, port), ends in metrics.CERTIFICATES.soonest()
        ],
    }
    lines = [line.view(call.now) for line in by_profile(call.snapshot, ROOT, states, depths or ())]
    known = _known(call, told, lines, profiles)
    return json_answer({**told, "needs": needs(known)[:MOST]})


async def _store(call: Call) -> Document:
    store = call.services.store
    health: StoreHealth | None = None
    with suppress(StoreUnavailable):  # which the reasons tell
        health = await store.health()
    schema, size, log, free, floor, backed_up_at = health or (None,) * len(StoreHealth._fields)
    return {
        "engine": store.engine,
        "schema_version": schema,
        "bytes": size,
        "log_bytes": log,
        "free_bytes": free,
        "floor_bytes": floor,
        "last_backup_at": show_time(backed_up_at),
    }


async def _depths(call: Call) -> list[FlowDepth] | None:
    try:
        return await call.services.store.depths()
    except StoreUnavailable:  # which the reasons tell
        return None


async def _outbox(call: Call, depths: Sequence[FlowDepth] | None) -> Document | None:
    store, now = call.services.store, call.now
    if depths is None:
        return None
    try:
        backlog = await store.backlog()
    except StoreUnavailable:
        return None
    oldest_at = min((depth.oldest_at for depth in depths), default=None)
    due_at = min((flow.next_due_at for flow in backlog if flow.next_due_at <= now), default=None)
    return {
        "unfinished": sum(depth.waiting for depth in depths),
        "deferred": sum(depth.deferred for depth in depths),
        "oldest_seconds": None if oldest_at is None else max(0, now - oldest_at) // 1000,
        "overdue_seconds": None if due_at is None else (now - due_at) // 1000,
    }


def _connections(call: Call) -> list[Document]:
    return [
        {
            "name": one.name,
            "kind": one.settings.kind,
            "health": one.health(),
            "answered_seconds": _whole(one.answered_seconds),
        }
        for one in sorted(call.services.credentials.connections.usable_by(ROOT), key=lambda one: one.name)
    ]


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _relays(looks: Iterable[RelayLook]) -> list[Document]:
    """Tell each relay once, however many profiles use it."""
    states: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    proven: dict[tuple[str, int], float] = {}
    for host, port, state, seconds in looks:
        states[host, port][state] += 1
        if seconds is not None:
            proven[host, port] = min(seconds, proven.get((host, port), seconds))
    ordered = sorted(states, key=lambda relay: (states[relay].keys() <= {"active", "paused"}, relay))
    return [
        {
            "host": host,
            "port": port,
            "states": dict(states[host, port]),
            "proven_seconds": _whole(proven.get((host, port))),
        }
        for host, port in ordered[:MOST]
    ]


async def _daemons(call: Call) -> list[DaemonRow]:
    roster = call.services.store.roster
    if roster is not None:
        with suppress(StoreUnavailable):  # which the reasons tell
            return await roster.daemons()
    return []


def _daemon(one: DaemonRow) -> Document:
    return {**one._asdict(), "began_at": show_time(one.began_at)}


def _states(call: Call) -> dict[tuple[str, str], str]:
    states = {place: state for place, state in call.services.states().items() if place in call.snapshot.profiles}
    return {**states, **dict.fromkeys(call.snapshot.paused, "paused")}


def _not_in_order(call: Call, states: Mapping[tuple[str, str], str]) -> Iterator[Document]:
    for place, state in sorted(states.items()):
        credentials = _standing(call, call.snapshot.profiles.get(place))
        if state != "active" or not all(map(in_order, credentials)):
            yield {"tenant": place[0], "name": place[1], "state": state, "credentials": credentials}


def _standing(call: Call, profile: Profile | None) -> list[Document]:
    if profile is None:
        return []
    return [standing(call.services.credentials, profile, slot) for slot, _ in profile.credentials()]


# What is known to find out what needs a person.


def _known(call: Call, told: Document, lines: Sequence[Document], profiles: Iterable[Document]) -> Known:
    """Put together what `needs` has to know, of all tenants."""
    snapshot = call.snapshot
    homeless = {line["tenant"] for line in lines if line["profile"] is None}
    return Known(
        now=call.now,
        reasons=told["reasons"],
        paused=told["paused"],
        store=told["store"],
        restart_needed=told["restart_needed"],
        certificates=told["certificates"],
        connections=told["connections"],
        lines=lines,
        credentials=[
            {"tenant": profile["tenant"], "profile": profile["name"], **one}
            for profile in profiles
            for one in profile["credentials"]
            if not in_order(one)
        ],
        webhooks=[
            (webhook.tenant, {"url": webhook.url, "disabled_reason": webhook.disabled_reason})
            for webhook in snapshot.webhooks.values()
            if webhook.disabled_reason is not None
        ],
        disabled={one for one in homeless if (tenant := snapshot.tenant(one)) is not None and not tenant.enabled},
    )
