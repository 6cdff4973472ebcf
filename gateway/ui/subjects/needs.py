"""What needs a person now, as sentences, each with the page where it is mended.

What concerns all mail comes first, then the worst. Knows only what the API told the person who looks, and asks nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from gateway.message.times import time_text
from gateway.ui.forms import Document
from gateway.ui.standing import why
from gateway.ui.visit import place
from gateway.ui.words import age, day_and_time, size, words

DAY: Final = 86_400_000  # ms
SOON: Final = 14 * DAY
BACKUP_DAYS: Final = 7
PATIENCE: Final = 900  # seconds for which a relay may be away before somebody should know
LOW: Final = 2  # times the room below which nothing is accepted

Look = Literal["bad", "wait", "quiet"]
_ORDER: Final[Mapping[Look, int]] = {"bad": 0, "wait": 1, "quiet": 2}

_REASONS: Final[Mapping[str, str]] = {
    "store_away": "The database server cannot be reached, so nothing is accepted.",
    "store_broken": "A write to the database failed, and the daemon is about to end.",
    "storage_full": "The disk is nearly full, so nothing new is accepted.",
    "directory_unreadable": "A newer version wrote what this one cannot read, so it sends nothing.",
}
_PAUSES: Final[Mapping[str, str]] = {
    "operator": "",
    "restored": " The database was restored: what was sent since the backup was made would be sent again.",
    "cloned": " The database is a copy: what the original has sent since would be sent again.",
}
_DISABLED: Final[Mapping[str, str]] = {
    "gone": "its endpoint said that it is gone",
    "failing": "its endpoint took nothing for three days",
    "overflow": "too much was waiting for it",
}


@dataclass(frozen=True, slots=True)
class Need:
    """One sentence, under a word; `way` is the page where it is mended, `link` what the way to it is called."""

    look: Look
    word: str
    text: str
    way: str = ""
    link: str = ""
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """What the API told: without the scope for it there is nothing. `disabled` are tenants; `now` is in milliseconds."""

    now: int
    reasons: Sequence[str]
    paused: Document | None
    lines: Sequence[Document]
    credentials: Sequence[Document]
    connections: Sequence[Document]
    webhooks: Sequence[tuple[str, Document]]
    doctor: Document | None
    disabled: frozenset[str]
    may_read: bool
    may_resume: bool


def needs(heard: Heard) -> list[Need]:
    """Tell what needs a person."""
    found = [*_queue(heard), *_credentials(heard), *_connections(heard.connections), *_webhooks(heard.webhooks)]
    if heard.doctor is not None:
        found += _operator(heard.doctor, heard.now)
    return [*_daemon(heard), *sorted(found, key=lambda need: _ORDER[need.look])]


def _daemon(heard: Heard) -> Iterator[Need]:
    for reason in heard.reasons:
        yield Need("bad", "not ready", _REASONS.get(reason, f"The daemon is not ready: {words(reason)}."))
    if heard.paused is not None:
        since, because = day_and_time(heard.paused["since"]), _PAUSES.get(heard.paused["reason"] or "operator", "")
        text = f"All sending is paused since {since} UTC; mail is accepted and kept.{because}"
        yield Need("wait", "paused", text, resume=heard.may_resume)


def _queue(heard: Heard) -> Iterator[Need]:
    for line in heard.lines:
        if (need := _line(line, heard)) is not None:
            yield need
    if uncertain := sum(line["uncertain"] for line in heard.lines):
        text = f"Nobody knows whether {_mails(uncertain)} arrived: look, then send again or cancel."
        yield Need("wait", "uncertain", text, place("notifications", status="held"), "Show them")


def _line(line: Document, heard: Heard) -> Need | None:
    """Tell of one profile's part of the queue; what all mail waits for is told once."""
    tenant, profile = line["tenant"], line["profile"]
    waiting = line["ready"] + line["deferred"]
    if tenant is None or line["state"] == "active":
        return None
    if profile is None:
        return None if not waiting else _homeless(tenant, waiting, line, heard)
    name, way = f"{tenant}/{profile}", place("tenants", tenant, "profiles", profile)
    link = f"Open {name}"
    match line["state"].partition(":")[0]:
        case "parked" if (told := why(line["state"])) is not None:
            return Need("bad", "parked", f"{name} is parked. {told.wrong} {_waits(waiting, line)}", way, link)
        case "open" if (line["oldest_seconds"] or 0) >= PATIENCE:
            return Need("wait", "away", f"The relay of {name} does not answer. {_waits(waiting, line)}", way, link)
        case "paused" if waiting and heard.paused is None:
            return Need("wait", "paused", f"{name} is paused. {_waits(waiting, line)}", way, link)
        case "held" if waiting and heard.paused is None:
            text = f"{name} is held by the tenant that it is inherited from. {_waits(waiting, line)}"
            return Need("wait", "held", text, way, link)
        case _:
            return None


def _homeless(tenant: str, waiting: int, line: Document, heard: Heard) -> Need:
    if tenant in heard.disabled:
        text = f"{tenant} is disabled. {_waits(waiting, line)}"
        return Need("wait", "held", text, place("tenants", tenant, "settings"), f"Open {tenant}'s settings")
    text = f"{tenant} has no profile that may send this. {_waits(waiting, line)}"
    return Need("bad", "held", text, place("tenants", tenant, "profiles"), f"Open {tenant}'s profiles")


def _waits(waiting: int, line: Document) -> str:
    if not waiting:
        return "No mail waits for it."
    verb = "waits" if waiting == 1 else "wait"
    return f"{_mails(waiting).capitalize()} {verb}, the oldest for {age(line['oldest_seconds'])}."


def _mails(count: int) -> str:
    return "one notification" if count == 1 else f"{count:,} notifications"


def _credentials(heard: Heard) -> Iterator[Need]:
    parked = {
        (line["tenant"], line["profile"])
        for line in heard.lines
        if line["state"].startswith(("parked:secret", "parked:client_certificate", "parked:dkim"))
    }
    for one in heard.credentials:
        if one["state"] == "negative" and (one["tenant"], one["profile"]) in parked:
            continue  # which its parking tells
        name = f"{one['tenant']}/{one['profile']}"
        way = place("tenants", one["tenant"], "profiles", one["profile"]) if heard.may_read else ""
        look, text = _credential(one)
        yield Need(look, "credential", f"{name}: {text}", way, f"Open {name}")


def _credential(one: Document) -> tuple[Look, str]:
    what, until = f"the credential {one['field']}", day_and_time(one["expires_at"])
    match one["state"], one["warning"]:
        case "negative", _:
            return "bad", f"{what} cannot be had from its source ({one['source']})."
        case _, "secret_expired":
            return "bad", f"{what} ended at {until} UTC."
        case _, "secret_expires":
            return "wait", f"{what} ends at {until} UTC."
        case _:
            return "wait", f"{what} is {age(one['age_seconds'])} old; its source ({one['source']}) gives no newer one."


def _connections(connections: Iterable[Document]) -> Iterator[Need]:
    for one in connections:
        if one["health"] not in ("ok", "unused"):
            yield Need(
                "wait", "secrets", f"The secret connection {one['name']} is not in order: {words(one['health'])}."
            )


def _webhooks(webhooks: Iterable[tuple[str, Document]]) -> Iterator[Need]:
    for tenant, one in webhooks:
        because = _DISABLED.get(one["disabled_reason"], words(one["disabled_reason"]))
        text = f"{tenant}: the webhook to {urlsplit(one['url']).hostname} is told nothing any more, because {because}."
        yield Need("wait", "webhook", text, place("tenants", tenant, "webhooks"), f"Open {tenant}'s webhooks")


def _operator(doctor: Document, now: int) -> Iterator[Need]:
    """Tell what is for the operator alone."""
    for one in doctor["certificates"]:
        if one["ends_at"] < time_text(now):
            yield Need("bad", "certificate", f"The certificate of {one['host']}:{one['port']} ended{_on(one)}.")
        elif one["ends_at"] < time_text(now + SOON):
            yield Need("wait", "certificate", f"The certificate of {one['host']}:{one['port']} ends{_on(one)}.")
    yield from _store(doctor["store"], "storage_full" in doctor["reasons"], now)
    if changed := doctor["restart_needed"]:
        yield Need("quiet", "restart", f"Changed settings wait for a restart: {', '.join(changed)}.")


def _on(certificate: Document) -> str:
    return f" at {day_and_time(certificate['ends_at'])} UTC"


def _store(store: Document, full: bool, now: int) -> Iterator[Need]:  # noqa: FBT001 - one word of its doctor
    free, floor, backup = store["free_bytes"], store["floor_bytes"], store["last_backup_at"]
    if not full and free is not None and floor and free < LOW * floor:
        yield Need("wait", "disk", f"The disk has {size(free)} left; below {size(floor)} nothing new is accepted.")
    if not store["engine"].startswith("SQLite"):
        return  # whose server is backed up by other means
    if backup is None:
        yield Need("quiet", "backup", "No backup was made yet; the command “backup” makes one.")
    elif backup < time_text(now - BACKUP_DAYS * DAY):
        yield Need("quiet", "backup", f"The last backup is from {day_and_time(backup)} UTC.")
