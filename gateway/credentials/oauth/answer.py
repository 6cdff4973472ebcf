"""What a token endpoint's answer means (RFC 6749 §5): a token that can be used, or one word for what is wrong.

A token reaches a SASL exchange and an error a person, so nothing of an answer is taken over unchecked: of a token, the
letters of RFC 6750 §2.1; of an error, codes that are in a table of ours, or Microsoft's numbers.
"""

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.credentials.provider import PASSWORD, CredentialError, Fetched, Kind, read_retry_after
from gateway.credentials.providers.rest import Answer, read_object
from gateway.credentials.secret import Secret

Meanings = Mapping[str, tuple[Kind, str]]

TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")

STANDARD: Final[Meanings] = {
    "invalid_client": (Kind.DENIED, "the provider does not know the client, or its secret is wrong"),
    "invalid_grant": (Kind.DENIED, "the grant is not valid, or not any more"),
    "unauthorized_client": (Kind.DENIED, "the client may not use this grant"),
    "unsupported_grant_type": (Kind.DENIED, "the provider does not offer this grant"),
    "invalid_scope": (Kind.DENIED, "the scope is not known, or not granted to the client"),
    "invalid_request": (Kind.MALFORMED, "the provider misses something in the request"),
    "access_denied": (Kind.DENIED, "access was denied"),
    "temporarily_unavailable": (Kind.UNREACHABLE, "the provider is not available at the moment"),
    "server_error": (Kind.UNREACHABLE, "the provider has trouble of its own"),
    "slow_down": (Kind.THROTTLED, "the provider asks us to slow down"),
}
"""The errors of RFC 6749 §5.2, and of its neighbours those that are seen."""

_SECONDS: Final = re.compile(r"[0-9]{1,10}")


def members(answer: Answer) -> dict[str, object]:
    """Give the members of an answer with status 200. Raises `CredentialError`."""
    found = read_object(answer.body)
    if found is None:
        raise CredentialError(Kind.MALFORMED, "the token endpoint's answer is no JSON object")
    return found


def issued(found: Mapping[str, object], *, dated: bool = False) -> Fetched:
    """Give the token of an answer (§5.1). Raises `CredentialError`.

    With `dated`, `expires_on` (seconds since 1970) does as well as `expires_in`: machines' endpoints say that.
    """
    token, kind = found.get("access_token"), found.get("token_type")
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise CredentialError(Kind.MALFORMED, "the token endpoint's answer has no token, or one with other characters")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise CredentialError(Kind.MALFORMED, "the token is not of the type Bearer")
    lasts = _number(found.get("expires_in"))
    if lasts is None and dated and (until := _number(found.get("expires_on"))) is not None:
        lasts = until - time.time()
    if lasts is None:
        raise CredentialError(Kind.MALFORMED, "the token endpoint does not say how long the token lasts")
    if lasts <= 0:
        raise CredentialError(Kind.MALFORMED, "the token endpoint's token has expired already")
    return Fetched({PASSWORD: Secret(token)}, "", lasts)


def _number(value: object) -> float | None:
    if isinstance(value, str) and _SECONDS.fullmatch(value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e10 and math.isfinite(value):
        return float(value)
    return None


def refusal(answer: Answer, codes: Sequence[str], meanings: Meanings) -> CredentialError:
    """Say what another status than 200 means; of the codes that came along, the first that is known is told."""
    said = f"the token endpoint answered with status {answer.status}"
    if answer.status == 429:
        return CredentialError(Kind.THROTTLED, said, read_retry_after(answer.headers.get("retry-after", "")))
    if answer.status >= 500 or answer.status == 408:
        return CredentialError(Kind.UNREACHABLE, said)
    if 300 <= answer.status < 400:
        return CredentialError(Kind.MALFORMED, "the token endpoint sends us elsewhere, where we do not go")
    for code in codes:
        if code in meanings:
            kind, detail = meanings[code]
            return CredentialError(kind, f"{detail} ({code})")
    if answer.status in {400, 401, 403} and read_object(answer.body) is not None:
        return CredentialError(Kind.DENIED, f"the sign-in is refused, with status {answer.status}")
    return CredentialError(Kind.MALFORMED, said)


def error_of(answer: Answer) -> str:
    """Give the `error` of an answer (§5.2); empty if there is none. It is the server's text until a table knows it."""
    error = (read_object(answer.body) or {}).get("error")
    return error if isinstance(error, str) else ""
