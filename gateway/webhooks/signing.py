"""What stands in a webhook's headers, as Standard Webhooks has it (https://www.standardwebhooks.com), signature v1."""

import base64
import hashlib
import hmac
from collections.abc import Iterable

from gateway.credentials.secret import Secret
from gateway.directory.kinds import signing_key


def signature(secret: Secret, id_: str, at: int, body: bytes) -> str:
    """Sign what is sent under this id at this time (seconds)."""
    signed = b"%s.%d.%s" % (id_.encode(), at, body)
    digest = hmac.digest(signing_key(secret.reveal()), signed, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def headers(secrets: Iterable[Secret], id_: str, at: int, body: bytes) -> dict[str, str]:
    """Make the three headers; several secrets sign while one takes the place of another."""
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(signature(secret, id_, at, body) for secret in secrets),
    }
