"""What needs a person now, as sentences, each with the page where it is mended.

What that is `http.needs` decides: of all tenants for the operator, for others by what the API told them. What concerns
all mail comes first, then the worst. Asks nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.http.needs import Known, NeedKind
from gateway.http.needs import needs as decided
from gateway.message.times import time_text
from gateway.ui.forms import Document
from gateway.ui.standing import PARKED, why
from gateway.ui.subjects.profile_form import own_path
from gateway.ui.visit import place
from gateway.ui.words import age, day_and_time, size, words

Look = Literal["bad", "wait", "quiet"]
_ORDER: Final[Mapping[Look, int]] = {"bad": 0, "wait": 1, "quiet": 2}
_OF_ALL: Final = ("not_ready", "paused")

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
    found = _known(heard) if heard.doctor is None else heard.doctor["needs"]
    told = [(one["need"] not in _OF_ALL, _SENTENCES[one["need"]](one, heard)) for one in found]
    return [need for _, need in sorted(told, key=lambda one: (one[0], _ORDER[one[1].look]))]


def _known(heard: Heard) -> list[Document]:
    return decided(
        Known(
            now=heard.now,
            reasons=heard.reasons,
            paused=heard.paused,
            connections=heard.connections,
            lines=heard.lines,
            credentials=heard.credentials,
            webhooks=heard.webhooks,
            disabled=heard.disabled,
        )
    )


# What concerns all mail.


def _not_ready(one: Document, _heard: Heard) -> Need:
    reason = one["reason"]
    return Need("bad", "not ready", _REASONS.get(reason, f"The daemon is not ready: {words(reason)}."))


def _paused(one: Document, heard: Heard) -> Need:
    since, because = day_and_time(one["at"]), _PAUSES.get(one["reason"] or "operator", "")
    text = f"All sending is paused since {since} UTC; mail is accepted and kept.{because}"
    return Need("wait", "paused", text, resume=heard.may_resume)


# Of the queue.


def _parked(one: Document, _heard: Heard) -> Need:
    told = why(f"{PARKED}{one['reason']}")
    return _of_profile("bad", "parked", f"{_name(one)} is parked. {'' if told is None else told.wrong}", one)


def _away(one: Document, _heard: Heard) -> Need:
    return _of_profile("wait", "away", f"The relay of {_name(one)} does not answer.", one)


def _profile_paused(one: Document, _heard: Heard) -> Need:
    return _of_profile("wait", "paused", f"{_name(one)} is paused.", one)


def _held(one: Document, _heard: Heard) -> Need:
    return _of_profile("wait", "held", f"{_name(one)} is held by the tenant that it is inherited from.", one)


def _of_profile(look: Look, word: str, text: str, one: Document) -> Need:
    return Need(look, word, f"{text} {_waits(one)}", own_path(one["tenant"], one["profile"]), f"Open {_name(one)}")


def _tenant_disabled(one: Document, _heard: Heard) -> Need:
    tenant = one["tenant"]
    text, way = f"{tenant} is disabled. {_waits(one)}", place("tenants", tenant, "settings")
    return Need("wait", "held", text, way, f"Open {tenant}'s settings")


def _no_profile(one: Document, _heard: Heard) -> Need:
    tenant = one["tenant"]
    text, way = f"{tenant} has no profile that may send this. {_waits(one)}", place("tenants", tenant, "profiles")
    return Need("bad", "held", text, way, f"Open {tenant}'s profiles")


def _uncertain(one: Document, _heard: Heard) -> Need:
    text = f"Nobody knows whether {_mails(one['waiting'])} arrived: look, then send again or cancel."
    return Need("wait", "uncertain", text, place("notifications", status="held"), "Show them")


def _name(one: Document) -> str:
    return f"{one['tenant']}/{one['profile']}"


def _waits(one: Document) -> str:
    waiting = one["waiting"]
    if not waiting:
        return "No mail waits for it."
    verb = "waits" if waiting == 1 else "wait"
    return f"{_mails(waiting).capitalize()} {verb}, the oldest for {age(one['age_seconds'])}."


def _mails(count: int) -> str:
    return "one notification" if count == 1 else f"{count:,} notifications"


# Of what mail needs.


def _credential(one: Document, heard: Heard) -> Need:
    look, text = _of_credential(one)
    way = own_path(one["tenant"], one["profile"]) if heard.may_read else ""
    return Need(look, "credential", f"{_name(one)}: {text}", way, f"Open {_name(one)}")


def _of_credential(one: Document) -> tuple[Look, str]:
    what, until = f"the credential {one['name']}", day_and_time(one["at"])
    match one["reason"]:
        case "negative":
            return "bad", f"{what} cannot be had from its source ({one['source']})."
        case "secret_expired":
            return "bad", f"{what} ended at {until} UTC."
        case "secret_expires":
            return "wait", f"{what} ends at {until} UTC."
        case _:
            return "wait", f"{what} is {age(one['age_seconds'])} old; its source ({one['source']}) gives no newer one."


def _connection(one: Document, _heard: Heard) -> Need:
    return Need("wait", "secrets", f"The secret connection {one['name']} is not in order: {words(one['reason'])}.")


def _webhook(one: Document, _heard: Heard) -> Need:
    tenant, because = one["tenant"], _DISABLED.get(one["reason"], words(one["reason"]))
    text = f"{tenant}: the webhook to {one['name']} is told nothing any more, because {because}."
    return Need("wait", "webhook", text, place("tenants", tenant, "webhooks"), f"Open {tenant}'s webhooks")


def _certificate(one: Document, heard: Heard) -> Need:
    over = one["at"] < time_text(heard.now)
    text = f"The certificate of {one['name']} {'ended' if over else 'ends'} at {day_and_time(one['at'])} UTC."
    return Need("bad" if over else "wait", "certificate", text)


# Of the daemon.


def _disk(_one: Document, heard: Heard) -> Need:
    store: Document = {} if heard.doctor is None else heard.doctor["store"]
    free, floor = size(store.get("free_bytes")), size(store.get("floor_bytes"))
    return Need("wait", "disk", f"The disk has {free} left; below {floor} nothing new is accepted.")


def _restart(one: Document, _heard: Heard) -> Need:
    return Need("quiet", "restart", f"Changed settings wait for a restart: {one['name']}.")


def _backup(one: Document, _heard: Heard) -> Need:
    if one["at"] is None:
        return Need("quiet", "backup", "No backup was made yet; the command “backup” makes one.")
    return Need("quiet", "backup", f"The last backup is from {day_and_time(one['at'])} UTC.")


_SENTENCES: Final[Mapping[NeedKind, Callable[[Document, Heard], Need]]] = {
    "not_ready": _not_ready,
    "paused": _paused,
    "disk": _disk,
    "restart": _restart,
    "backup": _backup,
    "certificate": _certificate,
    "connection": _connection,
    "parked": _parked,
    "away": _away,
    "no_profile": _no_profile,
    "uncertain": _uncertain,
    "credential": _credential,
    "webhook": _webhook,
    "tenant_disabled": _tenant_disabled,
    "profile_paused": _profile_paused,
    "held": _held,
}
