"""What routes of several subjects say alike: scopes, headers, problems."""

from typing import Final

from gateway.problems import Code

SEND: Final = frozenset({"send"})
LOOK: Final = frozenset({"send", "read"})
READ: Final = frozenset({"read"})
ADMIN: Final = frozenset({"admin"})
PROFILES: Final = frozenset({"profiles"})
SECRET: Final = frozenset({"secrets"})
LIMITS: Final = (Code.RATE_LIMITED, Code.QUEUE_FULL)
STORE: Final = (Code.STORAGE_FULL, Code.UNAVAILABLE)
CHANGE: Final = (Code.PRECONDITION_FAILED, Code.PROVISIONED, *STORE)
SAVE: Final = (Code.QUOTA_EXCEEDED, *CHANGE)
VERSION: Final = {"ETag": "The version of what the caller sees."}
IF_MATCH: Final = {"If-Match": "The version that the caller means; another one is refused."}
IF_NEW: Final = {**IF_MATCH, "If-None-Match": "`*`: it is made, and refused if it is there already."}
SAVE_PROFILE: Final = (
    Code.LOCKED_BY_PARENT, Code.NAME_TAKEN, Code.DUPLICATE_PROFILE, Code.PLAINTEXT_AUTH, Code.AUTH_UNVERIFIED,
    Code.EGRESS_REFUSED, Code.SECRET_NOT_ALLOWED, *SAVE,
)  # fmt: skip
ACCEPTED: Final = {"Location": "The notification.", "Idempotency-Replayed": "`true` if this repeats an answer."}
ACCEPTANCE: Final = (
    Code.NOT_FOUND, Code.NO_PROFILE, Code.TENANT_DISABLED, Code.NO_RECIPIENT, Code.IDEMPOTENCY_MISMATCH, *LIMITS, *STORE,
)  # fmt: skip
PATCH_NOTE: Final = "A JSON merge patch (RFC 7396) on what GET answers."
