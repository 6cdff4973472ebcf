"""How a line is written, and where it goes: to standard error, or to the systemd journal by its own protocol.

What an operator reads never comes to harm by what stands in it: control characters, ends of lines and marks that turn the
direction of writing are escaped, so that nobody who gets a word into a line can write one.
"""

import json
import os
import re
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

IDENTIFIER: Final = "notification-gateway"
PATIENCE: Final = 0.05  # seconds that a full journal is waited for …
LEFT_ALONE: Final = 1.0  # … and how long it is not asked then
STDERR: Final = 2
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_COLOURS: Final = {"debug": 2, "info": 32, "warning": 33, "error": 31, "critical": 31}
_PLAIN: Final = re.compile(r"[^\s\"'=\\\x00-\x1f]+")
_DANGEROUS: Final = re.compile(
    r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]|[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)
_FIELD: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")

Event = Mapping[str, object]


def json_line(event: Event) -> str:
    """Write one JSON object; what is not ASCII is escaped, so that nothing in it acts."""
    return json.dumps(event, separators=(", ", ": "))


def journal_line(event: Event) -> str:
    """Write a line with its priority where systemd looks for it (sd-daemon(3))."""
    return f"<{_priority(event)}>{_words(event)}"


def text_line(*, colours: bool) -> Callable[[Event], str]:
    """Write a line for a person; an exception stands below it, set in."""

    def line(event: Event) -> str:
        level = str(event["level"])
        shown = f"\x1b[{_COLOURS[level]}m{level:<7}\x1b[0m" if colours else f"{level:<7}"
        below = [str(event[name]) for name in ("exception", "stack") if name in event]
        set_in = "".join(f"\n    {_escaped(row)}" for text in below for row in text.split("\n") if row.strip())
        return f"{event['timestamp']} {shown} {_words(event, without=('exception', 'stack'))}{set_in}"

    return line


def _priority(event: Event) -> int:
    return _PRIORITIES[str(event["level"])]


def _words(event: Event, without: tuple[str, ...] = ()) -> str:
    """Write the event and its fields as `event key=value …`."""
    left_out = ("timestamp", "level", "event", *without)
    fields = (f"{_escaped(key)}={_word(value)}" for key, value in event.items() if key not in left_out)
    return " ".join((_escaped(str(event["event"])), *fields))


def _word(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return _escaped(value)
    return _escaped(json.dumps(value, ensure_ascii=False))


def _escaped(text: str) -> str:
    return _DANGEROUS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Stream:
    """Standard error; every line by one system call if it fits, and never two lines at once."""

    def __init__(self, line: Callable[[Event], str]) -> None:
        """Write lines in this form; nothing at all if the process was started without a standard error."""
        self._line = line
        self._lock = threading.Lock()
        self._there = sys.__stderr__ is not None  # else the number may be another file's by now
        self._torn = False
        self._space = select.poll()
        self._space.register(STDERR, select.POLLOUT)

    def msg(self, event: Event) -> None:
        """Write a line; it is lost if nobody reads, or there is no space. Of a long one it may be the end alone."""
        line = f"{self._line(event)}\n".encode(errors="backslashreplace")
        with self._lock:
            whole = rest = memoryview(b"\n" + line if self._torn else line)
            with suppress(OSError):
                while self._there and rest and self._space.poll(0):  # then a pipe takes so much without a wait
                    rest = rest[os.write(STDERR, rest[: select.PIPE_BUF]) :]
            if len(rest) < len(whole):
                self._torn = len(rest) > 0

    debug = info = warning = error = critical = msg


class Journal:
    """The systemd journal: every field by its own name, so that it can be asked for (systemd.journal-fields(7))."""

    def __init__(self, path: Path, otherwise: Stream) -> None:
        """Write to the journal that listens there; what it does not take goes `otherwise`."""
        self._path = str(path)
        self._otherwise = otherwise
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE)
        self._full_until = 0.0

    @staticmethod
    def connected() -> bool:
        """Is standard error connected to the journal (systemd.exec(5), JOURNAL_STREAM)?"""
        try:
            found = os.fstat(STDERR)
        except OSError:
            return False
        return stat.S_ISSOCK(found.st_mode) and os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"

    def msg(self, event: Event) -> None:
        """Write a line."""
        if time.monotonic() < self._full_until:
            self._otherwise.msg(event)
            return
        datagram = b"".join(_field(name, value) for name, value in _fields(event))
        try:
            self._socket.sendto(datagram, self._path)
        except OSError as error:
            if isinstance(error, TimeoutError):
                self._full_until = time.monotonic() + LEFT_ALONE
            self._otherwise.msg(event)

    debug = info = warning = error = critical = msg


Sink = Stream | Journal
"""What structlog hands a line to, under the name of its level."""


def _fields(event: Event) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", _words(event)
    yield "PRIORITY", str(_priority(event))
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    for key, value in event.items():
        name = "NOTIFICATION_ID" if key == "id" else key.upper()
        if key not in ("level", "timestamp") and name not in ("MESSAGE", "PRIORITY") and _FIELD.fullmatch(name):
            yield name, value if isinstance(value, str) else json.dumps(value)


def _field(name: str, value: str) -> bytes:
    """Write a field so that no end of line in it ends it (systemd's "Native Journal Protocol")."""
    octets = value.encode(errors="backslashreplace")
    return b"%s\n%s%s\n" % (name.encode(), len(octets).to_bytes(8, "little"), octets)
