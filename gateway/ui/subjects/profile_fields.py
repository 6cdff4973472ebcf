"""A profile's fields: how a form shows them, and how a form becomes the document that the API takes.

A credential is several fields below its member (`/auth/credential/source`, …); only those that its source has are read.
A password that is there is never shown, and stays if none is written. Whoever may not handle secrets gives a reference
back as it was read; one that was taken away stays so until somebody who may changes it, or says that it is given again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.directory.shapes import DEFAULT_PORTS
from gateway.problems import Code, Fault, Problem
from gateway.ui.forms import ON, Document, Faults, Field, Form, Kind, as_written, document, placed, put, values

PLAINTEXT: Final = "plaintext"
PASSWORD: Final = "/auth/credential"  # noqa: S105 - the name of a field
SLOTS: Final = (PASSWORD, "/tls/client_certificate", "/dkim/key")
"""Where a profile may have a credential."""
CONNECTED: Final = ("connection", "key", "entry", "property", "username_property", "version")
MEMBERS: Final[Mapping[str, Sequence[str]]] = {
    "stored": ("key",),
    "vault": CONNECTED,
    "azure_key_vault": CONNECTED,
    "cyberark": CONNECTED,
    "conjur": CONNECTED,
    "file": ("key",),
    "env": ("key",),
}
"""What a reference to each source says."""
LONGEST_NUMBER: Final = 19  # digits
NUMBERED: Final = frozenset({"vault", "conjur"})  # sources whose versions are numbers

KEY_FILES: Final = frozenset({"certificate", "service_account"})  # ways to a token whose secret has several lines

NAME: Final = Field("/name")
FIELDS: Final = (
    Field("/enabled", Kind.SWITCH),
    Field("/is_default", Kind.SWITCH),
    Field("/preset"),
    Field("/host"),
    Field("/port", Kind.NUMBER),
    Field("/security"),
    Field("/connector"),
    Field("/auth/method"),
    Field("/auth/username"),
    Field("/auth/domain"),
    Field("/auth/oauth/provider"),
    Field("/auth/oauth/grant"),
    Field("/auth/oauth/directory"),
    Field("/auth/oauth/client_id"),
    Field("/auth/oauth/mailbox"),
    Field("/from", Kind.MAILBOX),
    Field("/reply_to", Kind.MAILBOXES),
    Field("/return_path"),
    Field("/force_sender", Kind.SWITCH),
    Field("/allowed_senders", Kind.LINES),
    Field("/to", Kind.MAILBOXES),
    Field("/read_receipt_to"),
    Field("/request_read_receipt", Kind.SWITCH),
    Field("/dsn/return"),
    Field("/footnote/enabled", Kind.SWITCH),
    Field("/footnote/text"),
    Field("/footnote/html"),
    Field("/tls/verify", Kind.SWITCH),
    Field("/tls/allow_auth_unverified", Kind.SWITCH),
    Field("/tls/min_version"),
    Field("/tls/ca_certificates"),
    Field("/dkim/domain"),
    Field("/dkim/selector"),
    Field("/limits/connections", Kind.NUMBER),
    Field("/limits/per_minute", Kind.NUMBER),
    Field("/limits/messages_per_connection", Kind.NUMBER),
    Field("/limits/recipients", Kind.NUMBER),
    Field("/limits/bytes", Kind.NUMBER),
)
CHOSEN: Final = ("/dsn/notify", "/failover")
"""Lists that are chosen from: each of their values is a field of this name."""
MOST_CHOSEN: Final = 20  # that are shown again: the page grows with their square
REFERENCE: Final = tuple(Field(f"{slot}/{member}") for slot in SLOTS for member in ("source", *CONNECTED))
GIVEN_AGAIN: Final = tuple(Field(f"{slot}/give", Kind.SWITCH) for slot in SLOTS)
SHOWN: Final = (NAME, *FIELDS, *REFERENCE, *GIVEN_AGAIN)
WRITTEN_ONCE: Final = tuple(f"{slot}/{member}" for slot in SLOTS for member in ("value", "again", "text"))
POINTERS: Final = (
    NAME.pointer, *(field.pointer for field in FIELDS), *CHOSEN, *(field.pointer for field in REFERENCE), *WRITTEN_ONCE,
)  # fmt: skip

USUAL: Final[Document] = {
    "enabled": True,
    "auth": {"method": "auto"},
    "footnote": {"enabled": True},
    "tls": {"verify": True, "min_version": "1.2"},
}
"""What a new profile begins with; what is left empty is the preset's to say, or the API's."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How a slot of the saved profile stands: its `source`, whether its value was taken away, and what it refers to."""

    source: str = ""
    dropped: bool = False
    reference: str = ""


def shown_values(shown: Document) -> dict[str, object]:
    """Give every field what a profile's document says."""
    whole = {"footnote": {"enabled": True}, **shown}
    known: dict[str, object] = values(SHOWN, whole)
    dsn = shown.get("dsn") or {}
    return {**known, "/dsn/notify": list(dsn.get("notify", ())), "/failover": list(shown.get("failover", ()))}


def written_values(form: Form) -> dict[str, object]:
    """Give every field what somebody wrote, but passwords."""
    known: dict[str, object] = as_written(SHOWN, form)
    return {**known, **{name: _chosen(form, name)[:MOST_CHOSEN] for name in CHOSEN}}


def _chosen(form: Form, name: str) -> list[str]:
    """What was chosen from a list, each once."""
    return list(dict.fromkeys(one for one in form.all(name) if one))


def kept(shown: Document) -> dict[str, Kept]:
    """Tell how each slot of a saved profile stands."""
    return {slot: _kept(_of(shown, slot)) for slot in SLOTS}


def _kept(credential: Document | None) -> Kept:
    if credential is None:
        return Kept()
    words = [str(credential[name]) for name in CONNECTED if credential.get(name) is not None]
    return Kept(credential["source"], credential.get("set") is False, ", ".join(words))


def _of(shown: Document, slot: str) -> Document | None:
    part, name = slot.split("/")[1:]
    found: Document | None = (shown.get(part) or {}).get(name)
    return found


def read(form: Form, shown: Document, *, handles_secrets: bool) -> Document:
    """Make the document that a form describes, for a profile that is `shown` so far; a new one shows nothing."""
    made = document(FIELDS, form)
    _keep_texts(made, shown)
    for name in CHOSEN:
        if chosen := _chosen(form, name):
            put(made, name.split("/")[1:], chosen)
    if made.get("footnote", {}).keys() <= {"enabled"}:
        made.pop("footnote", None)
    for slot in SLOTS:
        if (credential := _credential(form, slot, _of(shown, slot), handles_secrets=handles_secrets)) is not None:
            put(made, slot.split("/")[1:], credential)
    return made


def _keep_texts(made: Document, shown: Document) -> None:
    """Give a text back to the letter that a browser only changed at its ends: else a password goes with it."""
    texts = [field for field in FIELDS if field.kind is Kind.TEXT]
    before, after = values(texts, shown), values(texts, made)
    for field in texts:
        text = str(before[field.pointer])
        if text and text.replace("\r\n", "\n").strip() == after[field.pointer]:
            put(made, field.steps, text)


def _credential(form: Form, slot: str, before: Document | None, *, handles_secrets: bool) -> Document | None:
    source = form.get(f"{slot}/source")
    if not source:
        return None
    same = before if before is not None and before["source"] == source else None
    if source != PLAINTEXT and (same is None or (handles_secrets and not _stays_away(form, slot, same))):
        return {"source": source, **dict(_members(form, slot, source, same))}
    if source == PLAINTEXT and (value := form.get(f"{slot}/value") or form.get(f"{slot}/text")):
        return {"source": source, "value": value}
    return same or {"source": source}


def _stays_away(form: Form, slot: str, before: Document) -> bool:
    """Was a reference taken away, and not given again? Any Save would send its secret to where somebody has led it."""
    if before.get("set") is not False or form.get(f"{slot}/give") == ON:
        return False
    shown = [name for name in MEMBERS.get(before["source"], ()) if f"{slot}/{name}" in form]
    return all(_letters(form.get(f"{slot}/{name}")) == _letters(before.get(name)) for name in shown)


def _letters(value: object) -> str:
    """Give what a browser leaves of a text that nobody changes: line breaks, the ends and NUL it does not keep."""
    return "" if value is None else "".join(one for one in str(value) if one.isprintable() and one not in " \ufffd")


def _members(form: Form, slot: str, source: str, before: Document | None) -> Iterator[tuple[str, object]]:
    """Read what a reference says; what is as it was keeps its kind, number or text."""
    for name in MEMBERS.get(source, ()):
        text = form.get(f"{slot}/{name}").strip()
        known = (before or {}).get(name)
        if text and str(known) == text:
            yield name, known
        elif text:
            yield (
                name,
                int(text)
                if name == "version" and source in NUMBERED and text.isdecimal() and len(text) < LONGEST_NUMBER
                else text,
            )


def wrote_secret(form: Form) -> bool:
    """Did somebody write a password or a key?"""
    return any(form.get(f"{slot}/{member}") for slot in SLOTS for member in ("value", "text"))


def mismatch(form: Form) -> Problem | None:
    """Make the refusal of a password that was not written twice alike."""
    if form.get(f"{PASSWORD}/source") != PLAINTEXT or form.get(f"{PASSWORD}/text"):
        return None
    if form.get(f"{PASSWORD}/value") == form.get(f"{PASSWORD}/again"):
        return None
    return Problem(Code.INVALID, errors=[Fault(f"{PASSWORD}/again", "conflict", "The two are not the same.")])


def faults_beside(problem: Problem, form: Form, *, handles_secrets: bool) -> Faults:
    """Put each fault beside a field that is shown; what is about a member as a whole stands at its first one."""
    if problem.code is Code.NAME_TAKEN and not problem.errors:
        problem = Problem(problem.code, errors=[Fault("/name", problem.code.code, "This name is taken.")])
    moved = [
        Fault(_field(fault.pointer, form, handles_secrets=handles_secrets), fault.code, fault.detail)
        for fault in problem.errors
    ]
    return placed(Problem(problem.code, problem.detail, errors=moved), POINTERS)


def _field(pointer: str, form: Form, *, handles_secrets: bool) -> str:
    slot = next((slot for slot in SLOTS if pointer == slot or pointer.startswith(f"{slot}/")), None)
    if slot is None:
        return {"/auth/oauth": "/auth/oauth/provider", "/dkim": "/dkim/domain"}.get(pointer, pointer)
    first, *others = _seen(form, slot, handles_secrets=handles_secrets)
    member = pointer.removeprefix(slot).removeprefix("/")
    return f"{slot}/{member if member in others else first}"


def _seen(form: Form, slot: str, *, handles_secrets: bool) -> Sequence[str]:
    """Name the fields that people see of a slot, first the one for what is wrong with all of it."""
    source = form.get(f"{slot}/source")
    if source == PLAINTEXT:
        if slot != PASSWORD:
            return ("value", "source")
        return ("text", "source") if form.get("/auth/oauth/grant") in KEY_FILES else ("value", "again", "source")
    if not handles_secrets or source not in MEMBERS:
        return ("source",)
    here = [name for name in MEMBERS[source] if slot == PASSWORD or name != "username_property"]
    return ("key", "source", *here)


def dropped(before: Document, after: Document) -> list[str]:
    """Name the slots whose value a change has taken away."""
    stood, stands = kept(before), kept(after)
    return [slot for slot in SLOTS if stands[slot].dropped and not stood[slot].dropped]


def filled_by(preset: Mapping[str, Any]) -> dict[str, object]:
    """Give the fields that a preset fills visibly; a port that its security has anyway is left to the security."""
    known: dict[str, object] = {f"/{name}": str(preset[name]) for name in ("host", "security") if name in preset}
    if "port" in preset:
        known["/port"] = "" if preset["port"] == DEFAULT_PORTS.get(preset["security"]) else str(preset["port"])
    return known
