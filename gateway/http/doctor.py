"""How the daemon is, on one page for the operator: what needs a person, and how all the rest stands.

What needs a person is decided here, for the pages too, from documents of the API; so all who tell it agree.

Profiles are those that were in use since the daemon began, and those that are paused; only what is not in order of them
is told one by one, the first two hundred by name. Of relays the first two hundred are told, those before all others that
somebody's mail does not reach; of what needs a person likewise. No secret's source and no relay is asked.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from gateway import __version__
from gateway.credentials.cache import State
from gateway.credentials.reference import Source
from gateway.directory.shapes import Profile
from gateway.directory.snapshot import ROOT, Snapshot
from gateway.http.call import Answer, Call, RelayLook, json_answer
from gateway.http.credentials import CredentialStandingView, in_order, standing
from gateway.http.directory_views import PauseView
from gateway.http.queue import pause_view
from gateway.http.resources import Document
from gateway.http.values import ShownTime, show_time
from gateway.http.views import View
from gateway.message.times import time_text
from gateway.observe import metrics
from gateway.problems import Code, Problem
from gateway.store.protocol import StoreUnavailable
from gateway.store.rows import DaemonRow, Flow, FlowDepth, StoreHealth

MOST: Final = 200
DAY: Final = 86_400_000  # ms
SOON: Final = 14 * DAY
BACKUP_DAYS: Final = 7
PATIENCE: Final = 900  # seconds for which a relay may be away before somebody should know
LOW: Final = 2  # times the room below which nothing is accepted

NeedKind = Literal[
    "not_ready", "paused", "disk", "restart", "backup", "certificate", "connection", "parked", "away", "no_profile",
    "uncertain", "credential", "webhook", "tenant_disabled", "profile_paused", "held",
]  # fmt: skip


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


class NeedView(View):
    """What needs a person; or, if it is a `remark`, what somebody wanted so or may want to know.

    `need` is what it is, `reason` why. `name` is a connection's, a credential's field, a webhook's host, a relay's address,
    or the settings that wait. `waiting` is how much mail does, `age_seconds` that of the oldest of it, or a credential's.
    `at` is since when sending is paused, when a certificate or a secret ends, or when the last backup was made. What has
    nothing to do with it is null.
    """

    need: NeedKind
    remark: bool
    tenant: str | None
    profile: str | None
    name: str | None
    reason: str | None
    source: Source | None
    waiting: int | None
    age_seconds: int | None
    at: ShownTime | None


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
    known = _known(call, told, _lines(call, states, depths or ()), profiles)
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


# What needs a person.


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of how things are, in the API's own documents; of what somebody may not know there is nothing.

    `now` is in milliseconds, `webhooks` are those that the gateway disabled, each with its tenant, and `disabled` tenants.
    """

    now: int
    reasons: Iterable[str] = ()
    paused: Document | None = None
    store: Document | None = None
    restart_needed: Sequence[str] = ()
    certificates: Iterable[Document] = ()
    connections: Iterable[Document] = ()
    lines: Sequence[Document] = ()
    credentials: Iterable[Document] = ()
    webhooks: Iterable[tuple[str, Document]] = ()
    disabled: Container[str] = frozenset()


def needs(known: Known) -> list[Document]:
    """Tell what needs a person: first what concerns everybody, or may be the cause of the rest; remarks come last."""
    found = [
        *(_need("not_ready", reason=reason) for reason in known.reasons),
        *_of_pause(known.paused),
        *_of_store(known),
        *_of_restart(known.restart_needed),
        *_of_certificates(known),
        *_of_connections(known.connections),
        *_of_queue(known),
        *_of_credentials(known),
        *_of_webhooks(known.webhooks),
    ]
    return sorted(found, key=lambda need: need["remark"])


def _need(need: NeedKind, *, remark: bool = False, **more: object) -> Document:
    return {**dict.fromkeys(NeedView.model_fields), "need": need, "remark": remark, **more}


def _of_pause(paused: Document | None) -> Iterator[Document]:
    if paused is not None:  # which is what a person wanted, or the database is a copy
        wanted = paused["reason"] in (None, "operator")
        yield _need("paused", remark=wanted, reason=paused["reason"], at=paused["since"])


def _of_store(known: Known) -> Iterator[Document]:
    if known.store is None:
        return
    free, floor, backup = (known.store[name] for name in ("free_bytes", "floor_bytes", "last_backup_at"))
    if "storage_full" not in known.reasons and free is not None and floor and free < LOW * floor:
        yield _need("disk")
    if not known.store["engine"].startswith("SQLite"):
        return  # whose server is backed up by other means
    if backup is None or backup < time_text(known.now - BACKUP_DAYS * DAY):
        yield _need("backup", remark=backup is None, at=backup)


def _of_restart(settings: Sequence[str]) -> Iterator[Document]:
    if settings:
        yield _need("restart", name=", ".join(settings))


def _of_certificates(known: Known) -> Iterator[Document]:
    for one in known.certificates:
        if one["ends_at"] < time_text(known.now + SOON):
            yield _need("certificate", name=f"{one['host']}:{one['port']}", at=one["ends_at"])


def _of_connections(connections: Iterable[Document]) -> Iterator[Document]:
    for one in connections:
        if one["health"] not in ("ok", "unused"):
            yield _need("connection", name=one["name"], reason=one["health"])


def _of_queue(known: Known) -> Iterator[Document]:
    for line in known.lines:
        if line["tenant"] is not None and (need := _of_line(line, known)) is not None:
            yield need
    if uncertain := sum(line["uncertain"] for line in known.lines):
        yield _need("uncertain", waiting=uncertain)


def _of_line(line: Document, known: Known) -> Document | None:
    """Tell of one profile's part of the queue; what all mail waits for is told once."""
    waiting, tenant = line["ready"] + line["deferred"], line["tenant"]
    state, _, reason = line["state"].partition(":")
    about = {"tenant": tenant, "profile": line["profile"], "waiting": waiting, "age_seconds": line["oldest_seconds"]}
    stopped = bool(waiting) and known.paused is None
    match state:
        case "held" if line["profile"] is None:
            disabled = tenant in known.disabled
            kind: NeedKind = "tenant_disabled" if disabled else "no_profile"
            return _need(kind, remark=disabled, **about) if waiting else None
        case "parked":
            return _need("parked", reason=reason, **about)
        case "open" if (line["oldest_seconds"] or 0) >= PATIENCE:
            return _need("away", **about)
        case "paused" if stopped:
            return _need("profile_paused", remark=True, **about)
        case "held" if stopped:  # by the tenant that it is inherited from
            return _need("held", remark=True, **about)
        case _:
            return None


def _of_credentials(known: Known) -> Iterator[Document]:
    parked = {
        (line["tenant"], line["profile"])
        for line in known.lines
        if line["state"].startswith(("parked:secret", "parked:client_certificate", "parked:dkim"))
    }
    for one in known.credentials:
        missing = one["state"] == State.NEGATIVE
        if missing and (one["tenant"], one["profile"]) in parked:
            continue  # which its parking tells
        yield _need(
            "credential", tenant=one["tenant"], profile=one["profile"], name=one["field"], source=one["source"],
            reason=one["state"] if missing else one["warning"] or one["state"], age_seconds=one["age_seconds"],
            at=one["expires_at"],
        )  # fmt: skip


def _of_webhooks(webhooks: Iterable[tuple[str, Document]]) -> Iterator[Document]:
    for tenant, one in webhooks:  # the rest of its address may be a secret
        yield _need("webhook", tenant=tenant, name=urlsplit(one["url"]).hostname, reason=one["disabled_reason"])


# What the operator knows of it.


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


def _lines(call: Call, states: Mapping[tuple[str, str], str], depths: Iterable[FlowDepth]) -> list[Document]:
    """Tell what waits by profile, and which profiles stand still, as the queue does; also while all sending is paused."""
    counts: defaultdict[tuple[str, str | None], Counter[str]] = defaultdict(Counter)
    oldest: dict[tuple[str, str | None], int] = {}
    standing_still = [place for place, state in states.items() if state != "active"]
    for depth in depths:
        profile = _carrier(call.snapshot, depth.flow)
        place = (depth.flow.tenant, None) if profile is None else (profile.tenant, profile.name)
        ready = depth.waiting - depth.deferred - depth.resting
        counts[place].update({"ready": ready, "deferred": depth.deferred, "uncertain": depth.resting})
        oldest[place] = min(depth.oldest_at, oldest.get(place, depth.oldest_at))
    return [
        {
            "tenant": tenant,
            "profile": name,
            "state": "held" if name is None else states.get((tenant, name), "active"),
            **{kind: counts[tenant, name][kind] for kind in ("ready", "deferred", "uncertain")},
            "oldest_seconds": max(0, call.now - oldest[tenant, name]) // 1000 if (tenant, name) in oldest else None,
        }
        for tenant, name in dict.fromkeys([*standing_still, *counts])
    ]


def _carrier(snapshot: Snapshot, flow: Flow) -> Profile | None:
    """Find the profile that the mail goes by, as those who send it do: that of a disabled tenant by none."""
    tenant = snapshot.tenant(flow.tenant)
    if tenant is None or not tenant.enabled:
        return None
    return snapshot.route(flow.tenant, flow.profile or None).profile
