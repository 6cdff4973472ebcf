"""The one grammar for e-mail addresses, and for text that ends up in a header.

Owns: what an address is (`parse_address`), when two are the same (`address_key`), which need SMTPUTF8
(`needs_smtputf8`), and which characters no display name, subject or header value may hold (`check_text`).

An accepted address is an addr-spec (RFC 5321 §4.1.2, RFC 5322 §3.4.1) of this narrow form:

- local part: dot-atom of at most 64 octets, ASCII atext or other printable characters in NFC (RFC 6531 §3.3);
- domain: at least two labels, IDNA 2008 (RFC 5891), returned as lower-case A-labels; the last is not a number;
- at most 254 octets in all (RFC 5321 §4.5.3.1.3, errata 1690).

Legal elsewhere, refused here, because some parser along the way gives them another meaning: quoted local
parts, comments, groups, routes, literals, a final dot; `%` (old relays route `a%e@g` on to `e`); `=?` in the
local part (libraries decode it as an encoded word and see another address). `!` stays: it is ordinary atext.

Never maps one character to another, except ASCII capitals in a domain: an address that would have to be
normalised is refused, so what was checked is what is sent. Never echoes input: errors carry a code and a
fixed sentence. Time is linear in the input and the input is bounded before anything but its length is read.
"""

import binascii
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import idna

_MAX_ADDRESS: Final = 254
_MAX_LOCAL: Final = 64

_ATEXT: Final = r"A-Za-z0-9!#$&'*+/=?^_`{|}~\-"  # RFC 5322 §3.2.3, without "%"
_LABEL: Final = r"(?!..--)[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?"

# Matches nearly every address that arrives, and only canonical ones. Labels with "--" in third place (A-labels
# and reserved ones) are left to the IDNA library. No two repeats can match the same text, so there is nothing to
# backtrack into (possessive repeats, which would say so, misbehave before Python 3.11.5).
_CANONICAL: Final = re.compile(
    rf"(?=[^@]{{1,{_MAX_LOCAL}}}@)(?![^@]*=\?)"
    rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*"
    rf"@(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}"
)
_LOCAL: Final = re.compile(rf"[{_ATEXT}\u0080-\U0010ffff]+(?:\.[{_ATEXT}\u0080-\U0010ffff]+)*")

# CR and LF end a header; the others are taken for a line end by one library or another (str.splitlines knows
# ten), or cut a C string short. Lone surrogates cannot be encoded at all.
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_ENCODED_WORD: Final = re.compile(r"=\?[^?]*\?([bq])\?([^?]*)\?=", re.IGNORECASE)
_Q_OCTET: Final = re.compile(rb"=([0-9a-f]{2})", re.IGNORECASE)


class AddressError(ValueError):
    """An address that the grammar refuses; `detail` says why without repeating any of it."""

    code: Final = "bad_address"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class TextError(ValueError):
    """Text that cannot go into a header field; `detail` says why without repeating any of it."""

    code: Final = "control_character"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A canonical address, as `parse_address` returns it, with the name shown next to it."""

    address: str
    name: str = ""


def parse_address(text: str) -> str:
    """Return the canonical form of an address: local part as given, domain as lower-case A-labels.

    Raises `AddressError` for everything outside the grammar above. Idempotent.
    """
    if len(text) <= _MAX_ADDRESS and _CANONICAL.fullmatch(text):
        return text
    return _canonicalise(text)


def address_key(address: str) -> str:
    """Return what two addresses share exactly when they are equal ignoring ASCII case."""
    if address.isascii():
        return address.lower()
    return address.encode().lower().decode()  # bytes.lower knows ASCII only, str.lower would fold more


def needs_smtputf8(address: str) -> bool:
    """Tell whether a canonical address can travel only under SMTPUTF8 (RFC 6531): its local part is not ASCII."""
    return not address.isascii()


def check_text(text: str) -> None:
    """Refuse text that could end a header line: C0, DEL, U+0085, U+2028, U+2029, lone surrogates.

    Also refuses such characters hidden in an RFC 2047 encoded word: the composer would keep the word literal,
    but nobody writes one by accident. Raises `TextError`.
    """
    if _FORBIDDEN.search(text):
        raise TextError("Control characters, line separators and lone surrogates are not allowed.")
    if "=?" in text and any(_hides_control(*match) for match in _ENCODED_WORD.findall(text)):
        raise TextError("An encoded word in the text hides a control character.")


def _hides_control(encoding: str, payload: str) -> bool:
    raw = payload.encode()
    if encoding in "bB":
        try:
            raw = binascii.a2b_base64(raw)
        except binascii.Error:
            return False
    else:
        raw = _Q_OCTET.sub(lambda match: bytes.fromhex(match[1].decode()), raw)
    try:
        return _FORBIDDEN.search(raw.decode()) is not None
    except UnicodeDecodeError:  # whatever charset it claims, latin-1 shows its control octets
        return _FORBIDDEN.search(raw.decode("latin-1")) is not None


def _canonicalise(text: str) -> str:
    """Decide what the fast pattern left open: capitals, IDNs, non-ASCII local parts, and why not."""
    if len(text) > _MAX_ADDRESS:  # an A-label is never shorter than its U-label
        raise AddressError("An address has at most 254 octets.")
    # str.isprintable is false for controls, format characters (bidi, zero width, soft hyphen), every space
    # but U+0020, surrogates, private use and unassigned characters, whose NFC is not settled yet.
    if not text.isprintable():
        raise AddressError("An address holds no spaces, control, invisible or unassigned characters.")
    local, at, domain = text.rpartition("@")
    if not at:
        raise AddressError("An address is written local-part@domain, without a name or brackets.")
    _check_local(local)
    address = f"{local}@{_canonical_domain(domain)}"
    if len(address.encode()) > _MAX_ADDRESS:
        raise AddressError("An address has at most 254 octets.")
    return address


def _check_local(local: str) -> None:
    if not _LOCAL.fullmatch(local):
        raise AddressError(
            "The local part is dot-separated letters, digits and !#$&'*+/=?^_`{|}~-; no quotes, comments, "
            "brackets, spaces, percent signs or double dots."
        )
    if "=?" in local:
        raise AddressError("The local part looks like an encoded word.")
    if len(local.encode()) > _MAX_LOCAL:
        raise AddressError("The local part has at most 64 octets.")
    if local.isascii():
        return
    if not unicodedata.is_normalized("NFC", local):
        raise AddressError("The local part is not in Unicode normalisation form C.")
    # A relay that folds compatibility characters must not find an "@" or a quote that was not there.
    if not _LOCAL.fullmatch(unicodedata.normalize("NFKC", local)):
        raise AddressError("The local part holds a look-alike of a character that is not allowed.")


@lru_cache(maxsize=1024)
def _canonical_domain(domain: str) -> str:
    try:
        # strict: only U+002E separates labels. Never UTS 46, which would map full-width dots and drop characters.
        name = idna.encode(address_key(domain), strict=True).decode("ascii")
        # A-label input is taken at its word only if it is the one spelling of its U-label (RFC 5891 §5.4).
        genuine = idna.encode(idna.decode(name, strict=True), strict=True).decode("ascii") == name
    except UnicodeError:  # the library's own errors quote the input
        genuine = False
    if not genuine:
        raise AddressError("The domain is not a valid host name (letters, digits, hyphens; IDNA 2008).")
    labels = name.split(".")
    if len(labels) < 2 or not labels[-1]:
        raise AddressError("The domain has at least two labels and no final dot.")
    if labels[-1].isdigit():
        raise AddressError("The last label of the domain is not a number.")
    return name
