"""Secrets at rest: AES-256-GCM under a master key, bound to the place they belong to.

A sealed value carries the id of the key that sealed it. Its associated data names that key, the tenant, the object
and the field, so a ciphertext that is moved to another row does not open. Several keys open; the first seals.
"""

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.credentials.secret import Secret

KEY_OCTETS: Final = 32
NONCE_OCTETS: Final = 12


class SealError(Exception):
    """A master key is missing or malformed, or a value does not open."""


class Seal:
    """The ring of master keys."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Take the keys, 32 octets each; the first seals."""
        if not keys or any(len(key) != KEY_OCTETS for key in keys):
            raise SealError("a master key is 32 octets, written in base64")
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._sealing = _key_id(keys[0])

    def close(self, secret: Secret, place: Sequence[str]) -> str:
        """Seal a secret for one place: tenant, object, field …"""
        nonce = os.urandom(NONCE_OCTETS)
        sealed = self._ciphers[self._sealing].encrypt(nonce, secret.reveal().encode(), _bound(self._sealing, place))
        return f"{self._sealing}:{base64.b64encode(nonce + sealed).decode()}"

    def is_current(self, sealed: str) -> bool:
        """Was this sealed by the key that seals now?"""
        return sealed.partition(":")[0] == self._sealing

    def open(self, sealed: str, place: Sequence[str]) -> Secret:
        """Open what was sealed for this place. Raises `SealError`."""
        key_id, _, encoded = sealed.partition(":")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise SealError("sealed with a master key that is not configured")
        try:
            data = base64.b64decode(encoded, validate=True)
            return Secret(cipher.decrypt(data[:NONCE_OCTETS], data[NONCE_OCTETS:], _bound(key_id, place)).decode())
        except (ValueError, InvalidTag):  # no Base64, too short, or not what was sealed
            raise SealError("the sealed value was changed, or belongs elsewhere") from None


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"notification-gateway master key id" + key).hexdigest()[:8]


def _bound(key_id: str, place: Sequence[str]) -> bytes:
    """Write the place without ambiguity: each part with its length."""
    return b"".join(f"{len(part)}:{part}".encode() for part in (key_id, *place))


def read_key(text: str | bytes) -> bytes:
    """Decode a master key as it stands in a file, whatever stands there. Raises `SealError`, which quotes nothing of it."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:  # binascii's own, and that of text beyond ASCII
        raise SealError("a master key is 32 octets, written in base64") from None
    if len(key) != KEY_OCTETS:
        raise SealError("a master key is 32 octets, written in base64")
    return key


def make_key_file(path: Path) -> bytes:
    """Make a new master key, readable by its owner only."""
    key = os.urandom(KEY_OCTETS)
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(base64.b64encode(key).decode() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key
