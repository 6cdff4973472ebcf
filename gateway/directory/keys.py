"""API keys: their text, and what of it is kept.

`ngw_<id>_<secret>`: the id is public and finds the record; the secret is 32 random bytes, so its plain SHA-256 is
beyond guessing and a slow hash would only slow every request down.
"""

import base64
import hashlib
import re
import secrets
from typing import Final, NamedTuple

FORM: Final = re.compile(r"ngw_([a-z0-9]{8,32})_([A-Za-z0-9_-]{32,128})")


class KeyText(NamedTuple):
    """A key taken apart."""

    id: str
    secret: str

    @property
    def sha256(self) -> bytes:
        """What is kept of the secret."""
        return hashlib.sha256(self.secret.encode()).digest()

    def text(self) -> str:
        """The key as its holder sends it."""
        return f"ngw_{self.id}_{self.secret}"


def new_key() -> KeyText:
    """Make a key of 256 random bits."""
    return KeyText(
        base64.b32encode(secrets.token_bytes(10)).decode().lower(),
        base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("="),
    )


def parse_key(text: str) -> KeyText | None:
    """Take a key apart; None if it has not the form of one."""
    found = FORM.fullmatch(text)
    return KeyText(found[1], found[2]) if found else None
