"""A message as it came over the wire, as people read it: its header fields decoded, its text, its HTML, its attachments.

Whatever came can be read: what is malformed is shown as well as it goes, and of what is large the beginning. Nothing is
made safe here. Text is for whoever escapes it, and HTML for a frame in which it can do nothing.
"""

import base64
import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote

READ_OCTETS: Final = 1 << 20
HEAD_OCTETS: Final = 16_384  # of which a list shows the subject
MOST_BOUNDARIES: Final = 30  # the parser holds every line against each boundary that is open
MOST_FIELDS: Final = 300
MOST_ATTACHMENTS: Final = 100
MOST_PARAMETERS: Final = 4_000  # characters of a field of which the parser reads any: its time grows with their square
NO_CHARSETS: Final = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined"})
PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

_CID: Final = re.compile(r"cid:([^\"'\s)>]+)", re.IGNORECASE)
_FOLD: Final = re.compile(r"\r?\n[ \t]*|[\x00-\x1f\x7f]")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")


class Part(Message):
    """A message, or a part of one, that also gives parameters which the email package fails at: their charset is hostile."""

    def get_param(self, param: str, failobj: Any = None, header: str = "content-type", unquote: bool = True) -> Any:  # noqa: FBT001, FBT002
        """Give a parameter as text, whichever way it was written; `failobj` if there is none that can be read."""
        if len(str(self.get(header, ""))) > MOST_PARAMETERS:
            return failobj
        try:
            value = super().get_param(param, failobj, header, unquote)
        except (TypeError, ValueError):  # pieces (RFC 2231 §3) that cannot be brought into an order
            return failobj
        if not isinstance(value, tuple):
            return value
        charset, _, text = value
        return _from_charset(text.encode("raw_unicode_escape"), charset or "utf-8")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part that is neither the text nor the HTML."""

    name: str
    media_type: str
    octets: int


@dataclass(frozen=True, slots=True)
class Mail:
    """What is in a message; `text` and `html` are None if there is none, `cut`: of a large one only the beginning is read."""

    fields: tuple[tuple[str, str], ...]
    text: str | None
    html: str | None
    attachments: tuple[Attachment, ...]
    cut: bool
    odd: bool = False  # too oddly built to be taken apart

    def field(self, name: str) -> str:
        """The first header field of a name, or nothing."""
        return next((value for one, value in self.fields if one.lower() == name), "")


def read_mail(data: bytes) -> Mail:
    """Take a message apart."""
    cut = len(data) > READ_OCTETS
    beginning = data[:READ_OCTETS]
    try:
        if beginning.lower().count(b"boundary") > MOST_BOUNDARIES:
            raise RecursionError
        message = message_from_bytes(beginning, Part)
        parts = [part for part in message.walk() if not part.is_multipart()]
    except RecursionError:
        return Mail(read_fields(data), None, None, (), cut, odd=True)
    text = next((part for part in parts if _is_body(part, "text/plain")), None)
    html = next((part for part in parts if _is_body(part, "text/html")), None)
    rest = [part for part in parts if part is not text and part is not html]
    return Mail(
        tuple(_fields(message)),
        None if text is None else _text(text),
        None if html is None else _with_pictures(_text(html), rest),
        tuple(_attachment(part) for part in rest[:MOST_ATTACHMENTS]),
        cut,
    )


def read_fields(data: bytes) -> tuple[tuple[str, str], ...]:
    """Read the header fields alone, for what shows many messages."""
    head = data[:HEAD_OCTETS]
    end = _HEAD_END.search(head)
    return tuple(_fields(message_from_bytes(head[: end.start()] if end else head, Part)))


def subject(data: bytes) -> str:
    """Tell what a message is about."""
    return next((value for name, value in read_fields(data) if name.lower() == "subject"), "")


def as_text(data: bytes) -> str:
    """Show octets as text; those that are no UTF-8 get a mark in their place."""
    return data.decode("utf-8", "replace")


def _fields(message: Part) -> Iterator[tuple[str, str]]:
    for name, value in islice(message.raw_items(), MOST_FIELDS):
        yield as_text(_octets(name)), _decoded(str(value))


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _decoded(value: str) -> str:
    """Undo a header field's folding and its encoded words (RFC 2047)."""
    flat = _FOLD.sub(" ", as_text(_octets(value))).strip()
    try:
        words = decode_header(flat)
    except (HeaderParseError, ValueError):
        return flat
    return "".join(
        word if isinstance(word, str) else _from_charset(word, charset or "utf-8") for word, charset in words
    )


def _from_charset(octets: bytes, charset: str) -> str:
    try:
        text = octets.decode("utf-8" if codecs.lookup(charset).name in NO_CHARSETS else charset, "replace")
    except (LookupError, ValueError):  # a charset that nobody knows, or a codec that is none for text
        return as_text(octets)
    return text.encode("utf-8", "replace").decode()  # without halves of characters, which UTF-7 has


def _is_body(part: Part, media_type: str) -> bool:
    return part.get_content_type() == media_type and part.get_content_disposition() != "attachment"


def _payload(part: Part) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _text(part: Part) -> str:
    charset = part.get_content_charset("utf-8")
    return _from_charset(_payload(part), charset).replace("\r\n", "\n")


def _attachment(part: Part) -> Attachment:
    return Attachment(_decoded(part.get_filename("")), part.get_content_type(), len(_payload(part)))


def _with_pictures(html: str, parts: list[Part]) -> str:
    """Put each picture that came along in the first place that names it (RFC 2392)."""
    pictures = {
        str(part["Content-ID"]).strip().strip("<>"): part
        for part in parts
        if part["Content-ID"] and part.get_content_type() in PICTURES
    }

    def found(place: re.Match[str]) -> str:
        part = pictures.pop(unquote(place[1]), None)
        if part is None:
            return place[0]
        return f"data:{part.get_content_type()};base64,{base64.b64encode(_payload(part)).decode()}"

    return _CID.sub(found, html)
