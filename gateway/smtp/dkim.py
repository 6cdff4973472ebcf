"""Signing messages with DKIM (RFC 6376): the message as it is, with a DKIM-Signature in front.

Owns: which fields are signed, how the signature field is written, and which keys are taken. The algorithm is that
of the key: rsa-sha256, or ed25519-sha256 (RFC 8463).

Promises:

- Both header and body are canonicalised "relaxed", so a relay may fold and squeeze blanks; the body is signed whole.
- Every field below that the message has is signed, and named once more than it occurs, so that a second one that
  is added on the way breaks the signature (§8.15).
- Nothing here holds the event loop up, whatever the size of the message. All runs in a thread, the body block by
  block; the operation with the key is done by `cryptography`, which lets other threads run meanwhile.

Canonicalisation is dkimpy's. Its signer is not used: an RSA signature there is arithmetic in Python that holds the
interpreter for 8 ms, a body of 25 MiB holds it for 300 ms at a time, and Ed25519 needs one library more.
"""

import base64
import hashlib
import io
import re
import textwrap
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.credentials.secret import Secret
from gateway.smtp.aside import Aside

_SIGNED: Final = (
    b"from", b"to", b"cc", b"reply-to", b"subject", b"date", b"message-id", b"in-reply-to", b"references",
    b"mime-version", b"content-type", b"content-transfer-encoding", b"auto-submitted", b"list-unsubscribe",
    b"list-unsubscribe-post",
)  # fmt: skip
_FEWEST_BITS: Final = 1024  # RFC 8301 §3.2: what verifiers take, and what they have to
_MOST_BITS: Final = 4096
_WIDTH: Final = 76
_BLOCK: Final = 64 * 1024
_KEYS: Final = 128  # that are kept parsed: to read and try a key takes longer than to sign

# With "_", which names in DNS have and hosts have not.
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_\-]{0,61}[A-Za-z0-9])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_FIELD_END: Final = re.compile(rb"\r\n(?![ \t])")
_BLANKS: Final = re.compile(rb"[ \t]+")
_LAST_LINE: Final = b".\r\n"

_aside: Final = Aside("dkim")
PrivateKey = RSAPrivateKey | Ed25519PrivateKey


class DkimError(ValueError):
    """A key, domain or selector that cannot sign, or a message without From; told to the profile's owner."""


async def signed(message: bytes, domain: str, selector: str, key: Secret) -> bytes:
    """Return the message with a signature of `domain` in front; who verifies it asks for `selector._domainkey.domain`.

    The message is as a composer leaves it: CRLF throughout and at the end, dots not stuffed. `key` is the private key
    in PEM, without a passphrase: Ed25519, or RSA of 1024 to 4096 bits. Raises `DkimError`.
    """
    return await _aside(_signed, message, domain, selector, key, int(time.time()))


def _signed(message: bytes, domain: str, selector: str, key: Secret, at: int) -> bytes:
    from dkim.canonicalization import CanonicalizationPolicy  # type: ignore[import-untyped]

    if not _NAME.fullmatch(domain):
        raise DkimError("the DKIM domain is not a domain name in ASCII")
    if not _NAME.fullmatch(selector):
        raise DkimError("the DKIM selector is not a domain name in ASCII")
    private_key = _parsed(key)
    relaxed = CanonicalizationPolicy.from_c_value(b"relaxed/relaxed")

    head_end = message.find(b"\r\n\r\n")
    fields = _chosen(message[:head_end])
    names = [name.decode() for name, _ in fields]
    if "from" not in names:
        raise DkimError("the message has no From field")

    algorithm = "rsa-sha256" if isinstance(private_key, RSAPrivateKey) else "ed25519-sha256"
    listed = ": ".join([*names, *dict.fromkeys(names)])
    body_hash = base64.b64encode(_body_hash(message, head_end + 4, relaxed.canonicalize_body)).decode()
    tags = f"v=1; a={algorithm}; c=relaxed/relaxed; d={domain}; s={selector}; t={at}; h={listed}; bh={body_hash};"
    # The tag b= comes last, on lines of its own: its value is empty while it is computed (§3.7).
    unsigned = b" %b\r\n b=" % _wrapped(tags)

    *canonical, (name, value) = relaxed.canonicalize_headers([*fields, (b"DKIM-Signature", unsigned)])
    data = b"".join([b"%b:%b" % field for field in canonical]) + b"%b:%b" % (name, value.rstrip())
    signature = base64.b64encode(_signature(private_key, data)).decode()
    lines = [signature[at : at + 72] for at in range(0, len(signature), 72)]
    return b"".join([b"DKIM-Signature:", unsigned, "\r\n ".join(lines).encode(), b"\r\n", message])


def _chosen(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the fields to sign, as (name in lower case, value with its folds); of several the last first (§5.4.2)."""
    fields = [field.partition(b":") for field in reversed(_FIELD_END.split(head))]
    return [(name, value) for name in _SIGNED for found, _, value in fields if found.lower() == name]


def _wrapped(tags: str) -> bytes:
    """Fold between tags, and between the names in h=, where blanks may stand (§3.2, §3.5)."""
    field_name = " " * len("DKIM-Signature:")
    lines = textwrap.wrap(tags, _WIDTH - 1, initial_indent=field_name, break_long_words=False, break_on_hyphens=False)
    return "\r\n ".join(lines).lstrip().encode()


def _body_hash(message: bytes, start: int, relaxed: Callable[[bytes], bytes]) -> bytes:
    """Hash the body from `start`; empty lines at its end do not count (§3.4.4)."""
    digest, empty_lines = hashlib.sha256(), 0
    body = io.BytesIO(message)
    body.seek(start)
    while lines := body.readlines(_BLOCK):
        block = b"".join(lines)
        if b" " in block or b"\t" in block:
            # Squeezed before: dkimpy's time is quadratic in the length of a run of blanks. The last line keeps it
            # from dropping empty lines that may not be the last of all.
            block = relaxed(_BLANKS.sub(b" ", block) + _LAST_LINE).removesuffix(_LAST_LINE)
        text = block.rstrip(b"\r\n")
        if text:
            digest.update(b"\r\n" * empty_lines)
            digest.update(text + b"\r\n")
            empty_lines = -1
        empty_lines += (len(block) - len(text)) // 2
    return digest.digest()


def _signature(key: PrivateKey, data: bytes) -> bytes:
    if isinstance(key, RSAPrivateKey):
        return key.sign(data, PKCS1v15(), SHA256())
    return key.sign(hashlib.sha256(data).digest())  # RFC 8463 §3: what is signed is the hash


@lru_cache(maxsize=_KEYS)
def _parsed(key: Secret) -> PrivateKey:
    """Read a key; the text of what went wrong in there is not passed on, for it may quote the key.

    OpenSSL's check of an RSA key is passed over: it holds the interpreter for 40 ms, 300 ms with 4096 bits, and minutes
    with a key that somebody made as long as he could.
    """
    try:
        parsed = load_pem_private_key(key.reveal().encode(), password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise DkimError("the DKIM key has a passphrase") from None
    except UnsupportedAlgorithm:
        raise DkimError("the DKIM key is neither RSA nor Ed25519") from None
    except (ValueError, InternalError):  # the latter where OpenSSL says no and the library has no word for it
        raise DkimError("the DKIM key is not a private key in PEM") from None
    if isinstance(parsed, Ed25519PrivateKey):
        return parsed
    if not isinstance(parsed, RSAPrivateKey):
        raise DkimError("the DKIM key is neither RSA nor Ed25519")
    if not _FEWEST_BITS <= parsed.key_size <= _MOST_BITS:
        raise DkimError(f"the DKIM key has {parsed.key_size} bits, and RSA needs {_FEWEST_BITS} to {_MOST_BITS}")
    try:
        key_of_numbers = parsed.private_numbers().private_key(unsafe_skip_rsa_key_validation=True)  # their ranges only
        parsed.public_key().verify(_signature(key_of_numbers, b""), b"", PKCS1v15(), SHA256())
    except (ValueError, InternalError, InvalidSignature):
        raise DkimError("the numbers of the DKIM key do not fit together") from None
    return parsed
