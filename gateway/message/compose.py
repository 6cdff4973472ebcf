"""Drafts become the bytes that a relay is handed: RFC 5322 with MIME, built by hand.

Owns: the wire form of headers (RFC 2047 words, folding, quoting), of bodies and attachments, and the last check
on the finished bytes (`check_wire`). Pure: the same draft gives the same bytes, so a retry sends what was sent.

Promises, for every draft that does not raise:

- CRLF line ends only, no NUL, lines of at most 998 octets (header lines 76 wherever a fold is possible), CRLF at
  the end; dots are not stuffed, that is the transaction's affair;
- the header block holds exactly the fields asked for, in a fixed order; there is never a Bcc;
- transfer encodings are 7bit and base64, so 8BITMIME is never needed; the header block is ASCII unless the
  caller has SMTPUTF8 (RFC 6531), and then only addresses are not;
- subject, names, file names and X- values come back literally from a conforming parser, "=?...?=" included.

Structure: alternative(text, related(html, inline parts)), wrapped in mixed when other attachments are there;
levels with a single part are left out. A text in 7bit that is the whole message gains a final line end.

Never decides who gets the mail, and never asks whether a sender may use an address. `email.message` does all this
too, forty times slower; the tests compare every result with its parser.
"""

import binascii
import hashlib
import re
import struct
import time
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote

from gateway.message.address import Mailbox, check_text

_WIDTH: Final = 76  # RFC 2047 §2 for lines with encoded words; RFC 5322 would allow 78
_MAX_LINE: Final = 998  # RFC 5322 §2.1.1, without CRLF
_EMPTY_WORD: Final = len(" =?utf-8?b??=")
_MAX_FILENAME: Final = 150  # octets
_MAX_EXTENSION: Final = 32  # octets, dot included; a longer one is no extension
_BLOCK: Final = 64
_LINES: Final = tuple(struct.Struct("76s" * count) for count in range(_BLOCK + 1))

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_WORDS: Final = re.compile(r" +[^ ]+")
_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ \-]*")
_QUOTED_PAIRS: Final = re.compile(r'(["\\])')
_UNSAFE_IN_ADDRESS: Final = re.compile(r'[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff()<>,:;"\\\[\]]')
_MESSAGE_ID: Final = re.compile(r"<[!-;=?-~]{1,250}>")
_TYPE_NAME: Final = r"[A-Za-z0-9!#$&^_.+\-]{1,127}"  # RFC 6838 §4.2
_MEDIA_TYPE: Final = re.compile(rf"{_TYPE_NAME}/{_TYPE_NAME}")
_CUSTOM_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9\-]{0,75}")
_HARMLESS: Final = bytes(set(range(256)) - set(b"\0\r\n"))
_LONE_CR: Final = re.compile(rb"\r[^\n]")
_FIELD_START: Final = re.compile(rb"\r\n([^ \t\r\n][^:\r\n]*:?)")

# What the composer writes itself, and what belongs to relays and signers. The API has a short list of what it
# lets through; this is the floor below it.
_RESERVED: Final = frozenset({
    "auto-submitted", "bcc", "cc", "date", "dkim-signature", "from", "message-id", "mime-version", "received",
    "reply-to", "return-path", "sender", "subject", "to",
})  # fmt: skip
_RESERVED_PREFIXES: Final = ("content-", "resent-", "arc-")
# Structured fields: their syntax has no place for encoded words, so they are ASCII or nothing (RFC 2047 §5).
_STRUCTURED: Final = frozenset({
    "disposition-notification-to", "in-reply-to", "list-unsubscribe", "list-unsubscribe-post", "references",
})  # fmt: skip

_JOINERS: Final = "\u200c\u200d"  # Persian and Indic scripts and emoji need them, and they hide nothing
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3]) *", re.IGNORECASE)


class MessageError(ValueError):
    """A draft that has no correct wire form, or bytes that must not be sent; never quotes content."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file carried by value. `content_type` is type/subtype; `content_id` comes with or without its brackets."""

    filename: str
    content_type: str
    content: bytes
    inline: bool = False
    content_id: str | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """All that a message says. Addresses are canonical; `date` is in seconds since the epoch.

    `message_id` has its angle brackets. Blind copies are no part of a message, so there is no field for them.
    """

    message_id: str
    date: float
    sender: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    reply_to: tuple[Mailbox, ...]
    subject: str
    text: str | None
    html: str | None
    attachments: tuple[Attachment, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    receipt_to: str | None = None  # where the reader's program may report that it was read (RFC 8098)


class _Part(NamedTuple):
    """A MIME entity: its Content-* fields as (name, value with leading space), and its body."""

    fields: tuple[tuple[str, str], ...]
    body: bytes


def compose(draft: Draft, *, smtputf8: bool = False) -> bytes:
    """Return the message as RFC 5322 bytes with CRLF, not dot-stuffed.

    With `smtputf8` addresses are written as they are (RFC 6532); without it, one with a non-ASCII local part is
    shown as an empty group named after it (RFC 6857 §3.1.8), which nobody can reply to. Raises `MessageError`,
    or `TextError` for control characters in a name, subject or header value; both are `ValueError`.
    """
    if not _MESSAGE_ID.fullmatch(draft.message_id):
        raise MessageError("The Message-ID is not printable ASCII in angle brackets.")
    content = _content(draft)
    fields = [*_fields(draft, smtputf8=smtputf8), *content.fields]
    head = "".join([f"{name}:{value}\r\n" for name, value in fields])
    message = b"%b\r\n%b" % (head.encode(), content.body)
    if not message.endswith(b"\r\n"):
        message += b"\r\n"
    check_wire(message, [name.encode() for name, _ in fields], smtputf8=smtputf8)
    return message


def check_wire(message: bytes, header_names: Sequence[bytes], *, smtputf8: bool = False) -> None:
    """Refuse bytes that a relay could read as something else than one message with exactly these headers.

    Checks: no NUL; CR and LF only as pairs, one at the end; no line above 998 octets; the header block consists
    of `header_names`, spelt so and in this order; and is ASCII unless `smtputf8`. Raises `MessageError`.
    """
    # As many CR as LF in turns, and no CR before anything but LF: two fast passes that leave only pairs.
    breaks = message.translate(None, _HARMLESS)
    if breaks != b"\r\n" * (len(breaks) // 2) or _LONE_CR.search(message):
        raise MessageError("The message holds a NUL or a bare CR or LF.")
    if not message.endswith(b"\r\n") or _has_long_line(message):
        raise MessageError("The message has a line of more than 998 octets, or an open last line.")
    end = 0 if message.startswith(b"\r\n") else max(message.find(b"\r\n\r\n"), 0)  # 0: no header block at all
    head = b"\r\n" + message[:end]
    if _FIELD_START.findall(head) != [name + b":" for name in header_names]:
        raise MessageError("The header block is not the one asked for.")
    if not smtputf8 and not head.isascii():
        raise MessageError("The header block is not ASCII, and the relay was not promised UTF-8.")


def safe_filename(name: str) -> str:
    """Return a file name that is safe to save under: a basename in NFC of at most 150 octets, never empty.

    Drops any path (either slash), control, bidi and invisible characters, leading dots, trailing dots and
    spaces; puts "_" before names that Windows takes for devices; shortens before the extension. Idempotent.
    """
    kept = "".join(c for c in name if c in _JOINERS or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"})
    base = unicodedata.normalize("NFC", kept).replace("\\", "/").rpartition("/")[2]
    base = base.strip().lstrip(". ").rstrip(". ")
    if _DEVICE.fullmatch(base.partition(".")[0]):
        base = f"_{base}"
    if len(base.encode()) > _MAX_FILENAME:
        base = _shortened(base)
    return base or "attachment"


def _shortened(base: str) -> str:
    stem, dot, extension = base.rpartition(".")
    suffix = (dot + extension).encode()
    if not stem or len(suffix) > _MAX_EXTENSION:
        stem, suffix = base, b""
    kept = stem.encode()[: _MAX_FILENAME - len(suffix)].decode(errors="ignore")
    return (kept + suffix.decode()).rstrip(". ")


def _has_long_line(data: bytes) -> bool:
    """Tell whether a line exceeds 998 octets, CRLF not counted, by hopping from window to window."""
    position, end = 0, len(data)
    while end - position > _MAX_LINE:
        found = data.rfind(b"\n", position, position + _MAX_LINE + 2)
        if found < 0:
            return True
        position = found + 1
    return False


def _fields(draft: Draft, *, smtputf8: bool) -> list[tuple[str, str]]:
    """Return the message's own fields in order, each value with its leading space and its folds."""
    fields = [("Date", _date(int(draft.date))), ("From", _mailboxes("From", (draft.sender,), smtputf8=smtputf8))]
    if draft.to:
        fields.append(("To", _mailboxes("To", draft.to, smtputf8=smtputf8)))
    elif not draft.cc:  # all recipients are blind; spam filters dislike a message without any destination field
        fields.append(("To", " undisclosed-recipients:;"))
    if draft.cc:
        fields.append(("Cc", _mailboxes("Cc", draft.cc, smtputf8=smtputf8)))
    if draft.reply_to:
        fields.append(("Reply-To", _mailboxes("Reply-To", draft.reply_to, smtputf8=smtputf8)))
    check_text(draft.subject)
    fields += (
        ("Subject", _unstructured("Subject", draft.subject, longest_word=_WIDTH)),
        ("Message-ID", f" {draft.message_id}"),
        ("MIME-Version", " 1.0"),
        ("Auto-Submitted", " auto-generated"),  # RFC 3834 §5: keeps vacation responders silent
    )
    if draft.receipt_to is not None:
        name = "Disposition-Notification-To"
        fields.append((name, _mailboxes(name, (Mailbox(draft.receipt_to),), smtputf8=smtputf8)))
    fields += [(name, _custom(name, value)) for name, value in draft.headers]
    return fields


@lru_cache(maxsize=128)
def _date(seconds: int) -> str:
    """Return an RFC 5322 §3.3 date in UTC; strftime would speak the daemon's language."""
    at = time.gmtime(seconds)
    day = f" {_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon]} {at.tm_year:04}"
    return f"{day} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} +0000"


def _custom(name: str, value: str) -> str:
    lowered = name.lower()
    if not _CUSTOM_NAME.fullmatch(name) or lowered in _RESERVED or lowered.startswith(_RESERVED_PREFIXES):
        raise MessageError("A custom header has a name that is malformed or reserved.")
    check_text(value)
    if lowered not in _STRUCTURED:
        # An X- value is read by machines: a long ASCII token stays as it is while a line can hold it.
        return _unstructured(name, value, longest_word=_MAX_LINE)
    if not value.isascii():
        raise MessageError("A structured header holds ASCII only.")
    return _folded(len(name) + 1, _WORDS.findall(f" {value}"))


def _unstructured(name: str, text: str, *, longest_word: int) -> str:
    """Return free text for a header: ASCII folded at spaces, everything else as encoded words.

    Encoded as well: what looks like an encoded word, blanks at either end (parsers strip them), and words so
    long that their line would exceed `longest_word` columns.
    """
    column = len(name) + 1
    if text.isascii() and "=?" not in text and not text.startswith(" ") and not text.endswith(" "):
        if column + 1 + len(text) <= _WIDTH:
            return f" {text}"
        words = _WORDS.findall(f" {text}")
        if column + len(words[0]) <= longest_word and len(max(words, key=len)) <= longest_word:
            return _folded(column, words)
    return _folded(column, _encoded_words(text, column))


def _folded(column: int, pieces: Iterable[str]) -> str:
    """Join pieces, each with its leading space, and fold before those that would pass column 76.

    Never folds before the first: a field whose first line is empty confuses some parsers.
    """
    parts: list[str] = []
    for piece in pieces:
        column += len(piece)
        if column > _WIDTH and parts:
            parts.append("\r\n")
            column = len(piece)
        parts.append(piece)
    return "".join(parts)


def _encoded_words(text: str, column: int) -> list[str]:
    """Return RFC 2047 words that no character straddles, the first of them sized to start at `column`.

    Only the last is padded: GMime 3.2.13 and others join base64 words before they decode them, and stop at
    the first padding. Where characters and groups of three octets do not end together, a word in Q stands between.
    """
    data = text.encode()
    room = max(_octets_in_word(column), 6)  # at least one character, however long the field's name
    words, start = [], 0
    while start < len(data):
        end = start + room
        if end < len(data):
            end = next((at for at in range(end, start, -3) if data[at] & 0xC0 != 0x80), start)
        if end == start:
            end = start + max(room * 4 // 9, 4)
            while data[end] & 0xC0 == 0x80:
                end -= 1
            words.append(f" =?utf-8?q?={data[start:end].hex('=').upper()}?=")
        else:
            encoded = binascii.b2a_base64(data[start:end], newline=False).decode()
            words.append(f" =?utf-8?b?{encoded}?=")
        start, room = end, _octets_in_word(0)
    return words


def _octets_in_word(column: int) -> int:
    return (_WIDTH - column - _EMPTY_WORD) // 4 * 3


def _mailboxes(name: str, mailboxes: tuple[Mailbox, ...], *, smtputf8: bool) -> str:
    pieces: list[str] = []
    for mailbox in mailboxes:
        if pieces:
            pieces[-1] += ","
        pieces += _mailbox(mailbox, 0 if pieces else len(name) + 1, smtputf8=smtputf8)
    return _folded(len(name) + 1, pieces)


def _mailbox(mailbox: Mailbox, column: int, *, smtputf8: bool) -> list[str]:
    name, address = mailbox.name, mailbox.address
    if _UNSAFE_IN_ADDRESS.search(address):
        raise MessageError("An address is not in its canonical form.")
    if name:
        check_text(name)
    if not smtputf8 and not address.isascii():
        return [*_encoded_words(f"{name} <{address}>" if name else address, column), " :;"]
    if not name:
        return [f" {address}"]
    return [*_phrase(name, column), f" <{address}>"]


def _phrase(name: str, column: int) -> list[str]:
    """Return a display name as atoms, else as a quoted string, else as encoded words (RFC 5322 §3.2.5).

    Encoded as well: what looks like an encoded word (parsers decode it even inside quotes), blanks that parsers
    would squeeze, and names too long for a line.
    """
    if name.isascii() and len(name) <= _WIDTH - column - 4 and "=?" not in name:
        if " " in name and (name.startswith(" ") or name.endswith(" ") or "  " in name):
            return _encoded_words(name, column)
        if _ATOMS.fullmatch(name):
            return [f" {name}"]
        return [' "' + _QUOTED_PAIRS.sub(r"\\\1", name) + '"']
    return _encoded_words(name, column)


def _content(draft: Draft) -> _Part:
    related: list[_Part] = []
    mixed: list[_Part] = []
    for attachment in draft.attachments:
        beside_html = attachment.inline and attachment.content_id and draft.html is not None
        (related if beside_html else mixed).append(_attachment(attachment))
    bodies = []
    if draft.text is not None or draft.html is None:
        bodies.append(_text("plain", draft.text or ""))
    if draft.html is not None:
        html = _text("html", draft.html)
        bodies.append(_multipart("related", [html, *related], draft.message_id) if related else html)
    body = bodies[0] if len(bodies) == 1 else _multipart("alternative", bodies, draft.message_id)
    return _multipart("mixed", [body, *mixed], draft.message_id) if mixed else body


def _text(subtype: str, text: str) -> _Part:
    try:
        body = text.encode()
    except UnicodeEncodeError:
        raise MessageError("A body holds a lone surrogate, which has no UTF-8 form.") from None
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    body = body.replace(b"\n", b"\r\n")
    content_type = ("Content-Type", f" text/{subtype}; charset=utf-8")
    if body.isascii() and b"\0" not in body and not _has_long_line(body):
        return _Part((content_type, ("Content-Transfer-Encoding", " 7bit")), body)
    return _Part((content_type, ("Content-Transfer-Encoding", " base64")), _base64(body))


def _base64(data: bytes) -> bytes:
    """Return lines of 76; cut by struct in blocks, several times as fast as slice by slice."""
    encoded = binascii.b2a_base64(data, newline=False)
    whole, rest = divmod(len(encoded), 76)
    lines: list[bytes] = []
    for first in range(0, whole, _BLOCK):
        lines += _LINES[min(_BLOCK, whole - first)].unpack_from(encoded, first * 76)
    if rest:
        lines.append(encoded[-rest:])
    return b"\r\n".join(lines)


def _attachment(attachment: Attachment) -> _Part:
    disposition = "inline" if attachment.inline else "attachment"
    fields = [
        ("Content-Type", f" {_media_type(attachment.content_type)}"),
        ("Content-Transfer-Encoding", " base64"),
        ("Content-Disposition", f" {disposition};\r\n {_filename(safe_filename(attachment.filename))}"),
    ]
    if attachment.content_id:
        content_id = f"<{attachment.content_id.removeprefix('<').removesuffix('>')}>"
        if not _MESSAGE_ID.fullmatch(content_id):
            raise MessageError("A Content-ID is not printable ASCII.")
        fields.append(("Content-ID", f" {content_id}"))
    return _Part(tuple(fields), _base64(attachment.content))


def _media_type(given: str) -> str:
    """Return type/subtype without parameters: the octets are opaque to us, and so is their charset."""
    bare = given.partition(";")[0].strip(" ").lower()
    if not _MEDIA_TYPE.fullmatch(bare):
        raise MessageError("An attachment's content type is not type/subtype.")
    if bare.startswith(("multipart/", "message/")):  # may not be base64 (RFC 2045 §6.4), and we must not parse it
        return "application/octet-stream"
    return bare


def _filename(name: str) -> str:
    """Return the filename parameter on one line: quoted ASCII, else RFC 2231 without continuations.

    The name's 150 octets keep the line below 500; continuations are what mail programs get wrong most.
    """
    if name.isascii() and "=?" not in name:
        return 'filename="' + _QUOTED_PAIRS.sub(r"\\\1", name) + '"'
    return f"filename*=utf-8''{quote(name, safe='')}"


def _multipart(subtype: str, parts: list[_Part], message_id: str) -> _Part:
    boundary = _boundary(subtype, parts, message_id)
    chunks: list[bytes] = []
    for part in parts:
        head = "".join([f"{name}:{value}\r\n" for name, value in part.fields])
        chunks += (f"--{boundary}\r\n{head}\r\n".encode(), part.body, b"\r\n")
    chunks.append(f"--{boundary}--\r\n".encode())
    kind = ' type="text/html";' if subtype == "related" else ""  # RFC 2387 §3.1
    return _Part((("Content-Type", f' multipart/{subtype};{kind}\r\n boundary="{boundary}"'),), b"".join(chunks))


def _boundary(subtype: str, parts: list[_Part], message_id: str) -> str:
    """Return a boundary that occurs in no part, the same for the same message.

    "=_" cannot occur in base64 (RFC 2045 §6.7 recommends it for this reason); a 7bit body might hold anything.
    """
    seed = hashlib.sha256(message_id.encode()).hexdigest()[:24]
    boundary, extra = f"=_{subtype}_{seed}", 0
    while any(boundary.encode() in part.body for part in parts):
        extra += 1
        boundary = f"=_{subtype}{extra}_{seed}"
    return boundary
