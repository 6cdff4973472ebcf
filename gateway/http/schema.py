"""The request bodies and queries of notifications, keys, tests and resolution: what may be sent, field by field.

Every field is optional to the validator where a rule between fields decides whether it is needed; those rules are
`contradictions`, so that all faults of a body are told together. The models are the source of the OpenAPI document.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, JsonValue, StringConstraints

from gateway.http.faults import Shape
from gateway.http.values import (
    MAX_WORD,
    STRUCTURED_HEADERS,
    Address,
    Addresses,
    BareAddresses,
    Base64,
    Category,
    ContentId,
    Cursor,
    Filename,
    HeaderName,
    HeaderValue,
    IdempotencyKey,
    Line,
    MediaType,
    Network,
    ObjectName,
    Subject,
    TenantId,
    Time,
)
from gateway.message.notification import OnAmbiguous, Severity
from gateway.outbox.states import Status
from gateway.problems import Fault
from gateway.smtp.probe import Trial

MAX_RECIPIENTS: Final = 100
MAX_BATCH: Final = 500
MAX_MESSAGE: Final = 10_000  # characters of a connection test's text
USUAL_TRIAL: Final = Trial("")
MIN_TTL: Final = 60
MAX_TTL: Final = 5 * 86_400

Scope = Literal["send", "read", "profiles", "secrets", "admin"]
Mode = Literal["live", "test"]
Limit = Annotated[int, Field(ge=1, le=200)]


class AttachmentBody(Shape):
    """A file by value. An inline one is shown by the HTML that names its `content_id`."""

    filename: Filename
    content_type: MediaType = "application/octet-stream"
    content: Base64
    inline: bool = False
    content_id: ContentId | None = None


class NotificationRequest(Shape):
    """A notification to send: subject with text and/or html, or a template with its data."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["subject", "text"]}, {"required": ["subject", "html"]}, {"required": ["template"]}],
            "examples": [
                {
                    "category": "account.password_recovery",
                    "to": ["ann@example.test"],
                    "subject": "Your new password",
                    "text": "Follow the link to set a new password.",
                }
            ],
        }
    )

    tenant: TenantId | None = None
    category: Category = "general"
    severity: Severity = Severity.INFO
    to: Addresses = ()
    cc: Addresses = ()
    bcc: Addresses = ()
    reply_to: Addresses = ()
    sender: Address | None = Field(None, alias="from")
    subject: Subject | None = None
    text: str | None = None
    html: str | None = None
    template: ObjectName | None = None
    data: dict[str, JsonValue] | None = None
    attachments: Annotated[tuple[AttachmentBody, ...], Field(max_length=100)] = ()
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=20)] = Field(default_factory=dict)
    profile: ObjectName | None = None
    priority: Literal["high", "normal", "low"] = "normal"
    send_at: Time | None = None
    ttl_seconds: Annotated[int, Field(ge=MIN_TTL, le=MAX_TTL)] | None = None
    read_receipt: bool = False
    on_ambiguous: OnAmbiguous = OnAmbiguous.RETRY
    metadata: Annotated[
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=256)],
            Annotated[str, StringConstraints(max_length=256)],
        ],
        Field(max_length=20),
    ] = Field(default_factory=dict)

    def contradictions(self, broken: frozenset[str]) -> Iterable[Fault]:
        """Give the faults between fields."""
        faults = list(self._wording(broken))
        if len(self.to) + len(self.cc) + len(self.bcc) > MAX_RECIPIENTS:
            faults.append(Fault("/to", "too_many", f"to, cc and bcc hold at most {MAX_RECIPIENTS} addresses together."))
        if self.data and not _is_json(self.data):
            faults.append(Fault("/data", "bad_value", "A number is out of range, or none."))
        if self.attachments:
            faults += _attachment_faults(self.attachments)
        if self.headers:
            faults += _header_faults(self.headers)
        return faults

    def _wording(self, broken: frozenset[str]) -> Iterator[Fault]:
        """A template brings subject and bodies; without one they are the request's."""
        if self.template is not None or "template" in broken:
            for name, value in (("subject", self.subject), ("text", self.text), ("html", self.html)):
                if value is not None:
                    yield Fault(f"/{name}", "conflict", "A template brings its own subject, text and html.")
            return
        if self.subject is None and "subject" not in broken:
            yield Fault("/subject", "required", "A subject is required, unless there is a template.")
        if self.text is None and self.html is None and broken.isdisjoint(("text", "html")):
            yield Fault("/text", "required", "text or html is required, unless there is a template.")
        if self.data is not None:
            yield Fault("/data", "conflict", "data is for a template, and there is none.")


def _is_json(data: dict[str, JsonValue]) -> bool:
    """The parser takes NaN and Infinity, which no other parser would take from us."""
    try:
        json.dumps(data, allow_nan=False)
    except ValueError:
        return False
    return True


def _attachment_faults(attachments: tuple[AttachmentBody, ...]) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, attachment in enumerate(attachments):
        place = f"/attachments/{index}/content_id"
        if attachment.content_id is None:
            if attachment.inline:
                yield Fault(place, "required", "An inline attachment needs a content_id.")
            continue
        bare = attachment.content_id.removeprefix("<").removesuffix(">")
        if bare in seen:
            yield Fault(place, "repeated", "Another attachment has this content_id.")
        seen.add(bare)


def _header_faults(headers: dict[str, str]) -> Iterator[Fault]:
    spellings = Counter(name.lower() for name in headers)
    for name, value in headers.items():
        lowered = name.lower()
        if spellings[lowered] > 1:
            yield Fault(f"/headers/{name}", "repeated", "The header is given in several spellings.")
        if lowered in STRUCTURED_HEADERS and (not value.isascii() or not value.strip() or _unfoldable(value)):
            detail = f"This header's value is ASCII, not blank, without words of more than {MAX_WORD} characters."
            yield Fault(f"/headers/{name}", "bad_header", detail)


def _unfoldable(value: str) -> bool:
    return len(value) > MAX_WORD and max(map(len, value.split(" "))) > MAX_WORD


class BatchItem(NotificationRequest):
    """A notification of a batch; `idempotency_key` stands for the header of a single one."""

    idempotency_key: IdempotencyKey | None = None


class BatchRequest(Shape):
    """Notifications that are accepted in one commit. Each has its own result; one that is refused stops no other."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"notifications": [{"to": ["ann@example.test"], "subject": "Hello", "text": "Hello Ann"}]}]
        }
    )

    notifications: Annotated[tuple[BatchItem, ...], Field(max_length=MAX_BATCH)]


class BatchEnvelope(Shape):
    """A batch whose items are not looked at yet: each of them is judged alone."""

    notifications: Annotated[list[JsonValue], Field(max_length=MAX_BATCH)]


class ListQuery(Shape):
    """Which notifications to list, newest first. Times are of acceptance; `until` is exclusive."""

    tenant: TenantId | None = None
    status: Status | None = None
    category: Category | None = None
    since: Time | None = None
    until: Time | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


class ReceiverQuery(Shape):
    """What a sender of alerts cannot say in its body; `severity` instead of what the alerts say."""

    tenant: TenantId | None = None
    to: BareAddresses = ()
    cc: BareAddresses = ()
    bcc: BareAddresses = ()
    profile: ObjectName | None = None
    category: Category | None = None
    severity: Severity | None = None
    template: ObjectName | None = None
    priority: Literal["high", "normal", "low"] = "normal"
    ttl_seconds: Annotated[int, Field(ge=MIN_TTL, le=MAX_TTL)] | None = None


class ViewQuery(Shape):
    """What to show besides the envelope."""

    include: Literal["content"] | None = None


class ResolutionQuery(Shape):
    """The notification to explain resolution for."""

    profile: ObjectName | None = None
    category: Category = "general"
    severity: Severity = Severity.INFO


class PageQuery(Shape):
    """Which part of a list."""

    limit: Limit = 50
    cursor: Cursor | None = None


class TenantQuery(PageQuery):
    """Which tenants: those directly below `parent`, and those whose id or name has `search` in it, in any case."""

    parent: TenantId | None = None
    search: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None


class QueueQuery(PageQuery):
    """Which part of what waits: all in reach, or that of one tenant's profiles, idle ones included."""

    tenant: TenantId | None = None


class PushRequest(Shape):
    """Profiles to lend to children; `default`, one of them, becomes each child's default."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"children": ["acme-emea"], "profiles": ["main"]}]})

    children: Annotated[tuple[str, ...], Field(max_length=1000, json_schema_extra={"minItems": 1})]
    profiles: Annotated[tuple[str, ...], Field(max_length=100, json_schema_extra={"minItems": 1})]
    default: str | None = None


class SecretRequest(Shape):
    """A secret to keep."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"value": "correct horse battery staple"}]})

    value: Annotated[str, StringConstraints(min_length=1, max_length=65_536)] = Field(repr=False)


class RewrapQuery(Shape):
    """Which part of everything that is sealed, in objects."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    cursor: Cursor | None = None


class RenderRequest(Shape):
    """What to fill a template with."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": {"name": "Ann"}}]})

    data: dict[str, JsonValue] = Field(default_factory=dict)


class TrialRequest(Shape):
    """The message of a connection test, and the one address that it goes to."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "ann@example.test"}]})

    to: Address
    subject: Subject = USUAL_TRIAL.subject
    message: Annotated[str, StringConstraints(max_length=MAX_MESSAGE)] = USUAL_TRIAL.message

    @property
    def trial(self) -> Trial:
        """What is sent."""
        return Trial(self.to.address, self.subject, self.message)


class ApplyQuery(Shape):
    """How to apply: only look, delete what is gone from the same `set` of files, and that set's name, if it has one."""

    dry_run: bool = False
    prune: bool = False
    set: ObjectName | None = None


class KeyRequest(Shape):
    """A key to make. `test` keys accept and record, and never send; they hold only `send` and `read`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "app", "scopes": ["send", "read"]}]})

    name: Line = ""
    scopes: Annotated[tuple[Scope, ...], Field(max_length=5, json_schema_extra={"minItems": 1})]
    expires_at: Time | None = None
    cidrs: Annotated[tuple[Network, ...], Field(max_length=50)] = ()
    mode: Mode = "live"

    def contradictions(self, broken: frozenset[str]) -> Iterable[Fault]:
        """Give the faults between fields."""
        if not self.scopes and "scopes" not in broken:
            yield Fault("/scopes", "required", "A key has at least one scope.")
        if (
            self.mode == "test"
            and broken.isdisjoint(("mode", "scopes"))
            and not {"send", "read"}.issuperset(self.scopes)
        ):
            yield Fault("/scopes", "conflict", "A test key holds only send and read.")
