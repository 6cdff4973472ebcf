"""Whom an id token names: nobody, unless its signature, issuer, audience, times and nonce are all right.

The algorithm is one of `ALGORITHMS`, whatever the token or the provider say, and each goes with keys of one kind only:
`none` is not among them, nor is any that takes the client's secret for a key (RFC 8725 §3.1).

Pure: keys and token are given. Nothing that the provider wrote is in an error.
"""

import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import jwt

from gateway.ui.oidc.provider import OidcError, Reason

Keys = Sequence[Mapping[str, Any]]

ALGORITHMS: Final[Mapping[str, tuple[str, frozenset[str]]]] = {
    "RS256": ("RSA", frozenset()),
    "PS256": ("RSA", frozenset()),
    "ES256": ("EC", frozenset({"P-256"})),
    "EdDSA": ("OKP", frozenset({"Ed25519", "Ed448"})),
}
"""What signs, the kind of key that it takes, and on which curves."""

LEEWAY_SECONDS: Final = 60  # by which two clocks may differ
LONGEST_TOKEN: Final = 65_536
LONGEST_MODULUS: Final = 1_366  # of base64: 8192 bits; to check a longer one takes seconds
LONGEST_SUBJECT: Final = 255
REQUIRED: Final = ("iss", "sub", "aud", "exp", "iat")


class Head(NamedTuple):
    """What a token says of its signature."""

    algorithm: str
    key_id: str | None


def head(token: str) -> Head:
    """Read by what the token is signed. Raises `OidcError`."""
    if len(token) > LONGEST_TOKEN:
        raise OidcError(Reason.TOKEN, "the id token is too long")
    try:
        told = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise OidcError(Reason.TOKEN, "the id token is no signed JWT") from None
    algorithm, key_id = str(told.get("alg")), told.get("kid")
    if algorithm not in ALGORITHMS:
        raise OidcError(Reason.TOKEN, f"the id token is signed by none of {', '.join(ALGORITHMS)}")
    return Head(algorithm, key_id if isinstance(key_id, str) else None)


def key_for(told: Head, keys: Keys) -> Mapping[str, Any] | None:
    """Find the key by which the token claims to be signed; a token that names none needs a provider with one alone."""
    fitting = [key for key in keys if _fits(key, told.algorithm)]
    if told.key_id is not None:
        return next((key for key in fitting if key.get("kid") == told.key_id), None)
    return fitting[0] if len(fitting) == 1 else None


def _fits(key: Mapping[str, Any], algorithm: str) -> bool:
    kind, curves = ALGORITHMS[algorithm]
    return (
        key.get("kty") == kind
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (not curves or key.get("crv") in curves)
        and len(str(key.get("n", ""))) <= LONGEST_MODULUS
    )


def claims(
    token: str, told: Head, key: Mapping[str, Any], *, issuer: str, client_id: str, nonce: str
) -> dict[str, Any]:
    """Give the token's claims, all of them checked (Core §3.1.3.7). Raises `OidcError`."""
    try:
        found: dict[str, Any] = jwt.decode(
            token,
            jwt.PyJWK(dict(key), told.algorithm),
            algorithms=[told.algorithm],
            audience=client_id,
            issuer=issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": list(REQUIRED), "enforce_minimum_key_length": True},
        )
    except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        detail = _SAID.get(type(error), "the id token cannot be read")
        raise OidcError(Reason.TOKEN, detail) from None
    audience = found["aud"]
    if found.get("azp", None if isinstance(audience, list) and len(audience) > 1 else client_id) != client_id:
        raise OidcError(Reason.TOKEN, "the id token was issued to another client")
    given = found.get("nonce")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode("utf-8", "replace"), nonce.encode()):
        raise OidcError(Reason.TOKEN, "the id token belongs to another sign-in")
    subject = found["sub"]
    if not (0 < len(subject) <= LONGEST_SUBJECT and subject.isascii() and subject.isprintable()):
        raise OidcError(Reason.TOKEN, "the id token's subject is no identifier")
    return found


_SAID: Final[Mapping[type[BaseException], str]] = {
    jwt.InvalidSignatureError: "the id token's signature is wrong",
    jwt.InvalidAlgorithmError: "the id token's algorithm is not its key's",
    jwt.InvalidIssuerError: "the id token is another issuer's",
    jwt.InvalidAudienceError: "the id token is for another client",
    jwt.ExpiredSignatureError: "the id token has expired",
    jwt.ImmatureSignatureError: "the id token is not valid yet: look at both clocks",
    jwt.MissingRequiredClaimError: "the id token lacks a claim that it must have",
    jwt.InvalidKeyError: "the provider's key is malformed, or too weak",
}
