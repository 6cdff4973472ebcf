"""The catalogue of API errors: every code a caller can meet, its HTTP status and its one public sentence.

Owns the wire form of an error (RFC 9457, `application/problem+json`) and `Problem`, the exception that carries one
from wherever it is found to the HTTP layer. Codes are promises: a caller may branch on them, so one that was ever
answered is never renamed and never changes its status.

A problem has one code for the whole answer and, where a body or a query was at fault, one `Fault` for each thing that
is wrong with it. A fault's code is of the catalogue too when that fault alone would decide the answer.

Promises: no sentence here, and no detail that is added elsewhere, repeats anything of the request but the place at
which it is wrong. Imports nothing of the gateway, so that every layer can refuse in the same words.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:notification-gateway:problem:"
MAX_FAULTS: Final = 200  # told at once; beyond that an answer would outgrow the request that earned it
RETRY_AFTER: Final = 5  # seconds, where nothing better is known


class Code(Enum):
    """A problem's stable code, its HTTP status and its title."""

    BAD_REQUEST = "bad_request", 400, "The request is not valid HTTP."
    BAD_JSON = "bad_json", 400, "The body is not valid JSON."
    UNAUTHORIZED = "unauthorized", 401, "A valid API key is required."
    FORBIDDEN = "forbidden", 403, "The API key does not permit this."
    LOCKED_BY_PARENT = "locked_by_parent", 403, "Only an administrator of a parent tenant may change this."
    NOT_OWNER = "not_owner", 403, "Only the owner of the profile may do this."
    NOT_FOUND = "not_found", 404, "There is no such resource."
    METHOD_NOT_ALLOWED = "method_not_allowed", 405, "The resource does not support this method."
    REQUEST_TIMEOUT = "request_timeout", 408, "The request did not arrive in time."
    NO_PROFILE = "no_profile", 409, "The tenant has no usable profile for this notification."
    TENANT_DISABLED = "tenant_disabled", 409, "The tenant is disabled."
    TENANT_IN_USE = "tenant_in_use", 409, "The tenant has children, links or unfinished mail."
    CONTENT_GONE = "content_gone", 409, "The content was erased, so the notification cannot be sent again."
    ALREADY_FINAL = "already_final", 409, "The notification is final."
    IN_FLIGHT = "in_flight", 409, "The notification is being sent at this moment."
    PROVISIONED = "provisioned", 409, "The object is defined in the operator's files and cannot be changed here."
    DUPLICATE_PROFILE = "duplicate_profile", 409, "The tenant has a profile with the same host and username."
    PROFILE_IN_USE = "profile_in_use", 409, "The profile is linked to children."
    ALREADY_INHERITED = "already_inherited", 409, "The child inherits this profile already."
    NAME_TAKEN = "name_taken", 409, "The name is taken."
    QUOTA_EXCEEDED = "quota_exceeded", 409, "The organisation keeps as much as the operator allows."
    BACKUP_RUNNING = "backup_running", 409, "A backup is being made, or fetched, at the moment."
    BACKUP_BY_SERVER = "backup_by_server", 409, "The database is backed up by its own server's means."
    SECRET_IN_USE = "secret_in_use", 409, "The secret is in use."
    PRECONDITION_FAILED = "precondition_failed", 412, "The resource has changed since it was read."
    PAYLOAD_TOO_LARGE = "payload_too_large", 413, "The body is too large."
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type", 415, "The body must be application/json, without an encoding."
    INVALID = "invalid", 422, "The request has faults."
    NO_RECIPIENT = "no_recipient", 422, "The notification has no recipient, and its profile names none."
    SENDER_FORCED = "sender_forced", 422, "The profile sets the sender; the request must not."
    SENDER_NOT_ALLOWED = "sender_not_allowed", 422, "The profile does not allow this sender."
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch", 422, "The idempotency key was used for another request."
    PLAINTEXT_AUTH = "plaintext_auth", 422, "A password does not travel without TLS."
    AUTH_UNVERIFIED = "auth_unverified", 422, "A password does not travel over unverified TLS."
    EGRESS_REFUSED = "egress_refused", 422, "The operator's policy does not permit this address."
    NOT_OWNED = "not_owned", 422, "The pushing tenant owns no such profile."
    NOT_A_CHILD = "not_a_child", 422, "A profile is pushed to direct children only."
    INVALID_DEFAULT = "invalid_default", 422, "The pushed default must be among the pushed profiles."
    SECRET_NOT_ALLOWED = "secret_not_allowed", 422, "The tenant may not use this secret."
    RATE_LIMITED = "rate_limited", 429, "Too many requests."
    QUEUE_FULL = "queue_full", 429, "The tenant's queue is full."
    INTERNAL = "internal", 500, "The gateway failed to answer."
    UNAVAILABLE = "unavailable", 503, "The gateway cannot answer at the moment."
    STORAGE_FULL = "storage_full", 503, "The gateway has no room to store the notification."

    def __init__(self, code: str, status: int, title: str) -> None:
        self.code = code
        self.status = status
        self.title = title

    @property
    def type(self) -> str:
        """The URI that names this kind of problem (RFC 9457 §3.1.1)."""
        return TYPE_PREFIX + self.code


BY_CODE: Final[Mapping[str, Code]] = {code.code: code for code in Code}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: a JSON pointer (RFC 6901) to it, a code for machines, a sentence for people."""

    pointer: str
    code: str
    detail: str


class Problem(Exception):
    """An answer that refuses: thrown where the reason is found, written by the HTTP layer."""

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        errors: Iterable[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code.code)
        self.code = code
        self.detail = detail or code.title
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        if code.status in (429, 503):
            self.headers.setdefault("Retry-After", str(RETRY_AFTER))

    def document(self, request_id: str) -> dict[str, object]:
        """Give the members of the problem document."""
        members: dict[str, object] = {
            "type": self.code.type,
            "title": self.code.title,
            "status": self.code.status,
            "detail": self.detail,
            "code": self.code.code,
            "request_id": request_id,
        }
        if self.errors:
            members["errors"] = [
                {"pointer": fault.pointer, "code": fault.code, "detail": fault.detail}
                for fault in self.errors[:MAX_FAULTS]
            ]
        return members

    def body(self, request_id: str) -> bytes:
        """Write the problem document as JSON."""
        return json.dumps(self.document(request_id)).encode()


def refusal(faults: Iterable[Fault]) -> Problem:
    """Make the one problem that tells all these faults.

    Its code is `invalid`, unless they are all of one kind that has a code of its own in the catalogue.
    """
    told = tuple(faults)
    codes = {fault.code for fault in told}
    code = BY_CODE.get(codes.pop(), Code.INVALID) if len(codes) == 1 else Code.INVALID
    return Problem(code, told[0].detail if len(told) == 1 else "", errors=told)
