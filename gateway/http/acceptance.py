"""From a request that was read to a notification that can be committed, or to what is wrong with it.

Owns the decisions of acceptance: which tenant, who gets it (`to`, request copies, preferred copies, each address
once), until when, under which Message-ID, and what the answer says. Looks only at the directory's snapshot. Faults
that the directory finds (nobody to send to, a sender that is not allowed) are told together with those of the body.

Order: a tenant outside the reach is `not_found` whatever else is wrong; then all faults; then a disabled tenant and
a missing profile; then what admission says; and at last whether the template can be filled (`fill`), which is so much
work that it is done for nothing that would be refused anyway.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.directory import rules
from gateway.directory.shapes import Profile, Template, Tenant
from gateway.directory.snapshot import Resolution, Snapshot
from gateway.http.call import Call
from gateway.http.faults import Reading
from gateway.http.schema import NotificationRequest
from gateway.message.address import Mailbox, address_key
from gateway.message.compose import Attachment
from gateway.message.notification import Content, Notification, Priority, Role, compact, href, new_id
from gateway.message.template import Rendered, TemplateError
from gateway.message.times import time_text
from gateway.outbox.outbox import Submission
from gateway.problems import Code, Fault, Problem, refusal
from gateway.store.rows import Idempotency

TEMPLATE_FAILED: Final = "template_failed"  # the fault's code
DAY: Final = 86_400_000
MAX_AHEAD: Final = 366 * DAY
KEEP_KEYS: Final = 3 * DAY  # idempotency keys are kept so long, or a day longer than the notification lives
PRIORITIES: Final = {"high": Priority.HIGH, "normal": Priority.NORMAL, "low": Priority.LOW}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A notification that may be committed as far as the directory goes, its template apart; for whom it is counted."""

    tenant: Tenant
    resolution: Resolution
    submission: Submission

    @property
    def href(self) -> str:
        """Where it will be found."""
        return href(self.submission.notification.id)


@dataclass(frozen=True, slots=True)
class Promise:
    """An idempotency key and the octets it stands for; `fault` if the key cannot be one."""

    key: str
    octets: bytes
    fault: Fault | None = None

    def sha256(self, *, simulated: bool) -> bytes:
        """Tell requests apart; what a test key sent never stands for what a live key sends."""
        return hashlib.sha256(b"test\0" + self.octets if simulated else self.octets).digest()


@dataclass(frozen=True, slots=True)
class _Addressees:
    """Who gets the message, and whom its header names."""

    envelope: tuple[tuple[str, Role], ...]
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]


def candidate(call: Call, reading: Reading[NotificationRequest], promise: Promise | None = None) -> Candidate:
    """Decide about one request. Raises the one problem that tells what keeps it from being accepted."""
    faults = list(reading.faults)
    if promise is not None and promise.fault is not None:
        faults.append(promise.fault)
    request = reading.value
    if request is None:
        raise refusal(faults)
    tenant_id = request.tenant or call.caller.tenant
    if "tenant" not in reading.broken:
        call.within_reach(tenant_id)
    tenant = call.snapshot.tenant(tenant_id)
    resolution = call.snapshot.resolve(tenant_id, request.profile, request.category, request.severity)
    now = call.now
    if request.send_at is not None and request.send_at > now + MAX_AHEAD:
        faults.append(Fault("/send_at", "bad_value", "send_at is at most a year ahead."))
    if reading.broken.isdisjoint(("tenant", "profile")):
        faults += _directory_faults(call, request, resolution, reading.broken)
    if faults:
        raise refusal(faults)
    if tenant is None or not tenant.enabled:
        raise Problem(Code.TENANT_DISABLED)
    if resolution.profile is None:
        raise Problem(Code.NO_PROFILE)
    notification = _notification(call, request, resolution, resolution.profile, now)
    submission = _submission(call, notification, resolution, promise)
    return Candidate(tenant, resolution, replace(submission, per_minute=tenant.limits.per_minute))


def _directory_faults(
    call: Call, request: NotificationRequest, resolution: Resolution, broken: frozenset[str]
) -> Iterator[Fault]:
    profile = resolution.profile
    if (
        request.template is not None
        and broken.isdisjoint(("template", "data"))
        and (resolution.tenant, request.template) not in call.snapshot.templates
    ):
        yield Fault("/template", "unknown_template", "The tenant has no such template.")
    if (
        not (request.to or request.cc or request.bcc)
        and broken.isdisjoint(("to", "cc", "bcc"))
        and not _default_to(call, profile)
    ):
        yield Fault("/to", Code.NO_RECIPIENT.code, Code.NO_RECIPIENT.title)
    if profile is None:
        return
    if profile.force_sender:
        for name, given in (("from", request.sender), ("reply_to", request.reply_to)):
            if given:
                yield Fault(f"/{name}", Code.SENDER_FORCED.code, Code.SENDER_FORCED.title)
    elif request.sender is not None and not rules.sender_allowed(profile, request.sender.address):
        yield Fault("/from", Code.SENDER_NOT_ALLOWED.code, Code.SENDER_NOT_ALLOWED.title)


def fill(call: Call, chosen: Candidate) -> None:
    """Fill the template once before it is accepted, so that what is missing is told to who can give it.

    Raises `invalid` if it cannot be filled, `rate_limited` if the organisation's templates took too long lately.
    """
    content = chosen.submission.notification.content
    if content.template is not None:
        filled(call, call.snapshot.templates[chosen.tenant.id, content.template], content.data or {})


def filled(call: Call, template: Template, data: Mapping[str, object]) -> Rendered:
    """Fill a template. Raises `invalid` if it cannot be filled, `rate_limited` as `fill` does."""
    try:
        return call.services.directory.render(template, data)
    except TemplateError as error:
        raise refusal([Fault("/data", TEMPLATE_FAILED, str(error))]) from None


def _default_to(call: Call, profile: Profile | None) -> tuple[Mailbox, ...]:
    """Whom the profile names; of a profile outside the caller's reach nothing is told, so nothing is used."""
    if profile is None or not profile.to or not call.snapshot.within(profile.tenant, call.caller.tenant):
        return ()
    return profile.to


def _notification(
    call: Call, request: NotificationRequest, resolution: Resolution, profile: Profile, now: int
) -> Notification:
    id_ = new_id(now)
    send_at = request.send_at if request.send_at is not None and request.send_at > now else None
    ttl = request.ttl_seconds or call.services.settings.relay.default_ttl_seconds
    addressees = _addressees(request, resolution, _default_to(call, profile))
    return Notification(
        id=id_,
        tenant=resolution.tenant,
        profile=request.profile,
        key_id=call.caller.key_id,
        category=request.category,
        severity=request.severity,
        priority=PRIORITIES[request.priority],
        on_ambiguous=request.on_ambiguous,
        message_id=f"<{id_}@{_domain(call, request, resolution, profile)}>",
        accepted_at=now,
        send_at=send_at,
        expires_at=(send_at or now) + ttl * 1000,
        simulated=call.caller.simulated,
        metadata=request.metadata,
        recipients=addressees.envelope,
        content=_content(request, addressees),
        traceparent=call.traceparent,
    )


def _domain(call: Call, request: NotificationRequest, resolution: Resolution, profile: Profile) -> str:
    """Give the Message-ID its domain: that of the From address, unless the profile is another tenant's.

    Who posts it may know that profile; but the tenant that it is for reads it, too.
    """
    if request.sender is None and profile.tenant != resolution.tenant:
        return call.services.settings.relay.ehlo_name
    return (request.sender or profile.sender).address.rpartition("@")[2]


def _addressees(request: NotificationRequest, resolution: Resolution, default_to: tuple[Mailbox, ...]) -> _Addressees:
    nobody_named = not (request.to or request.cc or request.bcc)
    seen: set[str] = set()
    to = _unseen(default_to if nobody_named else request.to, seen)
    cc = _unseen((*request.cc, *map(Mailbox, resolution.cc)), seen)
    bcc = _unseen((*request.bcc, *map(Mailbox, resolution.bcc)), seen)
    envelope = [(mailbox.address, Role.TO) for mailbox in to]
    envelope += [(mailbox.address, Role.CC) for mailbox in cc]
    envelope += [(mailbox.address, Role.BCC) for mailbox in bcc]
    return _Addressees(tuple(envelope), tuple(to), tuple(cc))


def _unseen(mailboxes: Iterable[Mailbox], seen: set[str]) -> list[Mailbox]:
    """Keep those that were not seen yet, and see them."""
    kept = []
    for mailbox in mailboxes:
        key = address_key(mailbox.address)
        if key not in seen:
            seen.add(key)
            kept.append(mailbox)
    return kept


def _content(request: NotificationRequest, addressees: _Addressees) -> Content:
    return Content(
        sender=request.sender,
        to=addressees.to,
        cc=addressees.cc,
        reply_to=request.reply_to,
        subject=request.subject or "",
        text=request.text,
        html=request.html,
        attachments=tuple(
            Attachment(file.filename, file.content_type, file.content, file.inline, file.content_id)
            for file in request.attachments
        ),
        headers=tuple(request.headers.items()),
        template=request.template,
        data=request.data,
        read_receipt=request.read_receipt,
    )


def _submission(call: Call, notification: Notification, resolution: Resolution, promise: Promise | None) -> Submission:
    answer = compact(
        {
            "id": notification.id,
            "status": "queued" if notification.send_at is None else "scheduled",
            "tenant": notification.tenant,
            "profile": visible_profile(resolution, call.caller.tenant),
            "accepted_at": time_text(notification.accepted_at),
            "expires_at": time_text(notification.expires_at),
            "href": href(notification.id),
        }
    )
    if promise is None:
        return Submission(notification, answer)
    forget_at = max(notification.accepted_at + KEEP_KEYS, notification.expires_at + DAY)
    sha256 = promise.sha256(simulated=notification.simulated)
    return Submission(notification, answer, Idempotency(promise.key, sha256, forget_at))


def visible_profile(resolution: Resolution, root: str) -> str | None:
    """Give the profile's name if a caller whose reach begins at `root` may know it."""
    profile = resolution.profile
    return profile.name if profile is not None and resolution.visible(root) else None


def replayed(answer: str, snapshot: Snapshot, root: str, named: str | None) -> dict[str, object]:
    """Give the first answer again, without a profile's name that its caller might know and this one may not.

    A caller whose reach begins at `root` may know the name that it gave itself (`named`), and whatever is so called in
    its reach, or was pushed to the tenant that sends.
    """
    document: dict[str, Any] = json.loads(answer)
    tenant, name = document["tenant"], document["profile"]
    known = (
        name == named
        or snapshot.inherited(tenant, name) is not None
        or any((at, name) in snapshot.profiles and snapshot.within(at, root) for at in snapshot.ancestry(tenant))
    )
    document["profile"] = name if known else None
    return document


def canonical(item: object) -> bytes:
    """Write a batch item so that the same item always gives the same octets."""
    return json.dumps(item, sort_keys=True, separators=(",", ":")).encode()
