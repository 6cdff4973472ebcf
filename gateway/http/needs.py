"""What needs a person: decided here for all who tell it, `doctor` and the pages, from documents of the API. Asks nothing."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from gateway.credentials.cache import State
from gateway.credentials.reference import Source
from gateway.http.resources import Document
from gateway.http.values import ShownTime
from gateway.http.views import View
from gateway.message.times import time_text

DAY: Final = 86_400_000  # ms
SOON: Final = 14 * DAY
BACKUP_DAYS: Final = 7
PATIENCE: Final = 900  # seconds for which a relay may be away before somebody should know
LOW: Final = 2  # times the room below which nothing is accepted

NeedKind = Literal[
    "not_ready", "paused", "disk", "restart", "backup", "certificate", "connection", "parked", "away", "no_profile",
    "uncertain", "credential", "webhook", "tenant_disabled", "profile_paused", "held",
]  # fmt: skip


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
