"""Replies of a relay: bytes in, values out (RFC 5321 §4.2, RFC 2034).

A relay may lie: every line is bounded, its text is stripped of what could act on a terminal, a log or a page, and
is cut. Nothing here touches a socket.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

MAX_LINE: Final = 8 * 1024  # octets; RFC 5321 §4.5.3.1.5 allows 512, real relays exceed that with long texts
MAX_LINES: Final = 128
MAX_TEXT: Final = 200  # characters kept
READ: Final = 512  # characters of a text that are looked at for those, and may be remembered
FAMILIAR: Final = 128  # octets of a line that is worth remembering

_ENHANCED: Final = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:[ \t]+|$)")
_GREYLIST: Final = re.compile(r"gr[ae]y.?list|try again (?:later|in)|temporarily deferred", re.IGNORECASE)
_UNPRINTABLE: Final = re.compile(
    r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]+|[\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+"
)


class ReplyError(Exception):
    """The relay sent something that is no SMTP reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: the three-digit code, the enhanced status code if any, and the text, cut and cleaned."""

    code: int
    enhanced: str | None
    text: str

    @property
    def positive(self) -> bool:
        """Is it 2yz?"""
        return 200 <= self.code < 300

    @property
    def transient(self) -> bool:
        """Is it 4yz?"""
        return 400 <= self.code < 500

    def __str__(self) -> str:
        """The reply on one line."""
        return " ".join(filter(None, (str(self.code), self.enhanced, self.text)))


def reply(code: int, text: str) -> Reply:
    """Make a reply of a code and its raw text; an enhanced code counts only if its class agrees (RFC 2034 §4)."""
    return _reply(code, text[:READ])


@lru_cache(1024)  # a relay says the same few things over and over
def _reply(code: int, text: str) -> Reply:
    enhanced = None
    if (found := _ENHANCED.match(text)) is not None:
        text = text[found.end() :]
        if found[1][0] == str(code)[0]:
            enhanced = found[1]
    return Reply(code, enhanced, clean(text))


def clean(text: str) -> str:
    """Make foreign text harmless: one line, nothing but printable characters, at most 200 of them."""
    text = text[:READ]
    if text.isascii() and text.isprintable():
        return text[:MAX_TEXT]
    return _UNPRINTABLE.sub(" ", text).strip()[:MAX_TEXT]


def is_greylisting(reply: Reply) -> bool:
    """Does the relay ask a stranger to come back later (450/451 with 4.7.1, or in so many words)?"""
    if reply.code not in (450, 451) or reply.enhanced == "4.3.0":
        return False
    return reply.enhanced == "4.7.1" or _GREYLIST.search(reply.text) is not None


class ReplyParser:
    """Cuts a byte stream into replies."""

    __slots__ = ("_buffer", "_code", "_texts")

    def __init__(self) -> None:
        """Start with nothing read."""
        self._buffer = bytearray()
        self._code = 0
        self._texts: list[str] = []

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Take bytes, give the replies that they complete; ReplyError on anything that cannot be one.

        What comes before the fault is given before it is raised: how the bytes were cut into segments decides nothing.
        """
        self._buffer += data
        start = 0
        while (end := self._buffer.find(b"\n", start)) >= 0:
            if end - start > MAX_LINE:
                raise ReplyError("reply line too long")
            if (whole := self._line(bytes(self._buffer[start:end]).rstrip(b"\r"))) is not None:
                yield whole
            start = end + 1
        del self._buffer[:start]
        if len(self._buffer) > MAX_LINE:
            raise ReplyError("reply line too long")

    def _line(self, line: bytes) -> Reply | None:
        """Take one line; the reply, if it is its last."""
        if not self._texts and line[3:4] == b" " and len(line) <= FAMILIAR:
            return _familiar(line)
        code, last, text = _parts(line)
        if self._texts and code != self._code:
            raise ReplyError("reply code changed within a reply")
        if not last:
            self._code = code
            self._texts.append(text)
            if len(self._texts) > MAX_LINES:
                raise ReplyError("endless reply")
            return None
        if self._texts:
            text = _joined([*self._texts, text])
            self._texts = []
        return reply(code, text)


@lru_cache(1024)  # a relay says the same few things over and over
def _familiar(line: bytes) -> Reply:
    code, _, text = _parts(line)
    return reply(code, text)


def _parts(line: bytes) -> tuple[int, bool, str]:
    """Take a line apart: its code, whether it is the last of its reply, and the beginning of its text."""
    digits, separator = line[:3], line[3:4]
    if len(digits) != 3 or not digits.isdigit() or not b"2" <= digits[:1] <= b"5" or separator not in b" -":
        raise ReplyError("not an SMTP reply")
    return int(digits), separator != b"-", line[4:].decode("utf-8", "replace")[:READ]


def _joined(lines: list[str]) -> str:
    """One text of a multi-line reply: the enhanced code that every line repeats stands once."""
    first = _ENHANCED.match(lines[0])
    code = first[1] if first else ""
    return " ".join(filter(None, [code, *(line.removeprefix(code).strip() for line in lines)]))
