"""What the composer writes, read back by other people's software: the same words, names and octets, nothing else.

Readers: Python's `email`; GMime, the library of many mail programs, by way of notmuch; mblaze, a set of small programs
with a parser of its own; and Dovecot, whose IMAP server takes messages apart for others.
"""

from __future__ import annotations

import base64
import email
import email.policy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.header import decode_header, make_header
from email.message import EmailMessage
from itertools import product, takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from gateway.message.address import Mailbox
from gateway.message.compose import Attachment, Draft, compose, safe_filename
from tests.peers.dovecot import DovecotImap, dovecot_available
from tests.peers.requirements import require

SIMPLE = Draft(
    message_id="<0190f3c2.7@example.test>",
    date=1_767_225_600,
    sender=Mailbox("noreply@example.test", "Example"),
    to=(Mailbox("ann@example.test"),),
    cc=(),
    reply_to=(),
    subject="Hello",
    text="Hi\n",
    html=None,
)
LOGO = Attachment("logo.png", "image/png", b"\x89PNG\r\n\x1a\n\0", inline=True, content_id="logo@example.test")
ICON = Attachment("icon.svg", "image/svg+xml", b"<svg/>\n", inline=True, content_id="icon@example.test")
REPORT = Attachment("report.pdf", "application/pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\r\n\r.\n")
HTML = '<p>Hi <img src="cid:logo@example.test"> <img src="cid:icon@example.test">\n'
UMLAUTS = "Grüße aus Köln — 漢字, עברית, 😀 "
BOUNDARY = re.compile(r'boundary="([^"]+)"')


def like_a_boundary() -> Draft:
    """A text that holds the very boundary that its message would get, and headers behind it."""
    draft = replace(SIMPLE, html="<p>")
    found = BOUNDARY.search(compose(draft).decode())
    assert found is not None
    line = f"--{found[1]}"
    return replace(draft, text=f"{line}\nContent-Type: text/html\n\n<b>evil</b>\n{line}--\n\n--\n--=_\n")


def with_files(*names: str, content_type: str = "application/octet-stream") -> Draft:
    """A message with a file for each name, each with other octets."""
    files = [Attachment(name, content_type, f"{number}\r\n".encode() * 40) for number, name in enumerate(names)]
    return replace(SIMPLE, attachments=tuple(files))


SHAPES = {
    "text": SIMPLE,
    "html": replace(SIMPLE, text=None, html=HTML),
    "text and html": replace(SIMPLE, html=HTML),
    "neither": replace(SIMPLE, text=None),
    "empty text": replace(SIMPLE, text=""),
    "empty text and html": replace(SIMPLE, text="", html=""),
    "only line ends": replace(SIMPLE, text="\n\r\n\n"),
    "inline images": replace(SIMPLE, html=HTML, attachments=(LOGO, ICON)),
    "inline image and no text": replace(SIMPLE, text=None, html=HTML, attachments=(LOGO,)),
    "inline image and no html": replace(SIMPLE, attachments=(LOGO,)),
    "everything": replace(SIMPLE, text=UMLAUTS, html=HTML + UMLAUTS, attachments=(LOGO, REPORT, ICON)),
    "files of many types": replace(
        SIMPLE,
        attachments=(
            REPORT,
            Attachment("table.csv", "text/csv", b"a;b\nc\rd\r\n\r\n"),
            Attachment("page.html", "text/html", "<p>ä".encode("latin-1")),
            Attachment("data.json", "application/json", b"{}"),
            Attachment("invitation.ics", "text/calendar", b"BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n"),
            Attachment("forwarded.eml", "message/rfc822", b"Subject: within\r\n\r\ntext\r\n"),
            Attachment("empty.bin", "application/octet-stream", b""),
            Attachment("noise.bin", "application/x-noise", bytes(range(256)) * 60),
        ),
    ),
    "file names in other scripts": with_files("Größe 10%.pdf", "漢字" * 20 + ".json", "עברית.txt", "😀.png"),
    "long file names": with_files("x" * 146 + ".csv", "ä" * 73 + ".csv", "word " * 28 + "end.txt"),
    "file names with quotes": with_files('"quoted".txt', 'a "b" c.txt'),
    "quoted file names": with_files("a;b=c,d.txt", "it's (one) <two> [three].txt", "100%25 é'*.txt"),
    "file names like encoded words": with_files("=?utf-8?q?x?=.txt", "utf-8''x.txt"),
    "non-ASCII everywhere": replace(
        SIMPLE,
        sender=Mailbox("noreply@example.test", "Jürgen Müller, Büro"),
        to=(Mailbox("ann@example.test", "漢字 " * 12 + "!"), Mailbox("bob@example.test", 'Böb "B" \\')),
        cc=(Mailbox("cyd@example.test", "😀"),),
        reply_to=(Mailbox("help@example.test", "Hilfe für Änne"),),
        subject=UMLAUTS * 8 + ".",
        text=UMLAUTS * 40,
        html=f"<p>{UMLAUTS * 40}",
        attachments=(Attachment("Überblick.txt", "text/plain", UMLAUTS.encode()),),
        headers=(("X-Order", "Größe"),),
    ),
    "names to be quoted": replace(
        SIMPLE,
        sender=Mailbox("noreply@example.test", "Example, Inc."),
        to=(Mailbox("ann@example.test", 'Ann "Q" (x) \\'), Mailbox("bob@example.test", "a@b.test <c@d.test>")),
        cc=tuple(Mailbox(f"user{number}@example.test", f"User Nr. {number}") for number in range(40)),
    ),
    "a subject like an encoded word": replace(SIMPLE, subject="=?utf-8?q?Hello?= and ?= =?x"),
    "a subject of three octets a character": replace(SIMPLE, subject="a" + "漢" * 60 + "é" + "字" * 40),
    "a subject of long words": replace(SIMPLE, subject="https://example.test/" + "x" * 300 + " " + "y" * 200),
    "lines of 998 characters": replace(SIMPLE, text=("x" * 998 + "\n") * 3, html=("y" * 998 + "\n") * 3),
    "lines of 1000 characters": replace(SIMPLE, text=("x" * 1000 + "\n") * 3, html="y" * 3000),
    "dots": replace(SIMPLE, text=".\n..\n...\n.a\n\n.\n", html=".\n"),
    "ends in a dot": replace(SIMPLE, text="a\n."),
    "trailing blanks": replace(SIMPLE, text="a \nb\t\n  \n\n c  d\te \t\n", html=" \n"),
    "all kinds of line ends": replace(SIMPLE, text="a\rb\nc\r\nd\r\r\ne\n\rf\r", html="\r\r\n\n<p>\r"),
    "control characters": replace(SIMPLE, text="bell\x07 feed\f escape\x1b[0m delete\x7f\n", html="\x0b"),
    "a NUL": replace(SIMPLE, text="a\0b\n"),
    "like a boundary": like_a_boundary(),
    "like headers": replace(SIMPLE, text="From: evil@evil.test\nSubject: evil\n\nFrom me to you\n>From me\n"),
    "a long text": replace(SIMPLE, text="".join(f"{number} is a number.\n" for number in range(20_000))),
}


@dataclass(frozen=True)
class File:
    """An attachment, as the reader of a message has it."""

    name: str
    content_type: str
    octets: bytes


@dataclass(frozen=True)
class Seen:
    """What the reader of a message has: headers as text, bodies by subtype with LF at ends of lines, and files."""

    headers: dict[str, str]
    bodies: dict[str, str]
    files: tuple[File, ...]


Reader = Callable[[bytes, Path], Seen]
HEADERS = ("Subject", "From", "To", "Cc", "Reply-To")


def meant(draft: Draft) -> Seen:
    """What a reader has to see."""
    boxes = {"From": (draft.sender,), "To": draft.to, "Cc": draft.cc, "Reply-To": draft.reply_to}
    headers = {"Subject": draft.subject} | {
        name: ", ".join(f"{each.name} <{each.address}>" if each.name else each.address for each in given)
        for name, given in boxes.items()
    }
    bodies = {"html": draft.html} if draft.html is not None else {}
    if draft.text is not None or draft.html is None:
        bodies["plain"] = draft.text or ""
    beside_html = [each for each in draft.attachments if each.inline and draft.html is not None]
    return Seen(
        {name: bare(value) for name, value in headers.items()},
        {subtype: text_of(content.encode()) for subtype, content in bodies.items()},
        tuple(
            File(safe_filename(each.filename), each.content_type.replace("message/rfc822", "application/octet-stream"),
                 each.content)
            for each in [*beside_html, *(each for each in draft.attachments if each not in beside_html)]
        ),
    )  # fmt: skip


def bare(header: str) -> str:
    """A header without the quoting of its names, which readers show as they like, and blanks squeezed."""
    return re.sub(r"\s+", " ", re.sub(r'["\\]', "", header)).strip()


def text_of(octets: bytes) -> str:
    """A text with LF at the end of each line but the last."""
    return octets.decode().replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")


def seen(headers: dict[str, str], parts: Iterator[tuple[str, str | None, bytes]]) -> Seen:
    """Sort leaves, each a type, a file name or none, and octets, into bodies and files."""
    bodies, files = {}, []
    for content_type, name, octets in parts:
        if name is None:
            main, _, subtype = content_type.partition("/")
            assert main == "text"
            assert subtype not in bodies
            bodies[subtype] = text_of(octets)
        else:
            files.append(File(name, content_type, octets))
    return Seen({name: bare(headers.get(name) or "") for name in HEADERS}, bodies, tuple(files))


# Python.


def by_python(wire: bytes, _: Path) -> Seen:
    """The standard library's parser, in its strict new form."""
    message = email.message_from_bytes(wire, EmailMessage, policy=email.policy.default)
    leaves = [part for part in message.walk() if not part.is_multipart()]
    assert not [part.defects for part in message.walk() if part.defects]
    # Its own reading of a name in several encoded words has a blank between them.
    old = email.message_from_bytes(wire)
    headers = {name: str(make_header(decode_header(value.replace("\r\n", "")))) for name, value in old.items()}
    return seen(headers, map(_leaf, leaves))


def _leaf(part: Any) -> tuple[str, str | None, bytes]:
    disposition = part["Content-Disposition"]
    # Its get_filename would take "<" and ">" off a name's ends.
    name = str(disposition.params["filename"]) if disposition else None
    return part.get_content_type(), name, part.get_payload(decode=True)


# GMime.


def by_gmime(wire: bytes, home: Path) -> Seen:
    """GMime, asked by way of notmuch, which indexes a Maildir first."""
    require("notmuch", shutil.which("notmuch"))
    for name in ("cur", "new", "tmp"):
        (home / "mail" / name).mkdir(parents=True)
    (home / "mail/cur/1:2,S").write_bytes(wire)
    (home / "config").write_text(f"[database]\npath={home}/mail\n[user]\nname=x\nprimary_email=x@example.test\n")
    notmuch = ("notmuch", f"--config={home}/config")
    _output(home, *notmuch, "new", "--quiet")
    # What is shown of files is in whatever charset they are.
    shown = json.loads(_output(home, *notmuch, "show", "--format=json", "*").decode(errors="replace"))[0][0][0]

    def leaves(parts: list[Any]) -> Iterator[tuple[str, str | None, bytes]]:
        for part in parts:
            if part["content-type"].startswith("multipart/"):
                yield from leaves(part["content"])
            else:
                octets = _output(home, *notmuch, "show", "--format=raw", f"--part={part['id']}", "*")
                yield part["content-type"], part.get("filename"), octets

    return seen(shown["headers"], leaves(shown["body"]))


def _output(home: Path, *command: str | Path) -> bytes:
    """Run a program that knows nothing of whoever runs the tests."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, env=environment, cwd=home, check=True, capture_output=True).stdout


# mblaze.

_MBLAZE_PART = re.compile(r' +(\d+): (\S+) size=\d+(?: name="(.*)")?')


def by_mblaze(wire: bytes, home: Path) -> Seen:
    """Mblaze: mhdr for the headers, mshow for the parts."""
    require("mblaze", shutil.which("mshow"))
    message = home / "message"
    message.write_bytes(wire)
    lines = _output(home, "mhdr", "-d", message).decode().splitlines()
    headers = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    _, *parts = _output(home, "mshow", "-t", message).decode().splitlines()

    def leaves() -> Iterator[tuple[str, str | None, bytes]]:
        for part in parts:
            found = _MBLAZE_PART.fullmatch(part)
            assert found is not None
            if not found[2].startswith("multipart/"):
                yield found[2], found[3], _output(home, "mshow", "-O", message, found[1])

    return seen(headers, leaves())


# Dovecot.

_TOKEN = re.compile(rb' *(?:([()])|"((?:[^"\\]|\\.)*)"|\{(\d+)\}\r\n|([^ ()"{]+))', re.DOTALL)


def by_dovecot(wire: bytes, _: Path) -> Seen:
    """Dovecot's IMAP server: the ENVELOPE, and the sections that it names in BODYSTRUCTURE."""
    require("dovecot (tests/peers/fetch.sh)", dovecot_available())
    with DovecotImap([wire]) as imap:
        imap.select()
        subject, sender, _sender, reply_to, to, cc = _fetched(imap, "ENVELOPE")[1:7]
        boxes = {"From": sender, "To": to, "Cc": cc, "Reply-To": None if reply_to == sender else reply_to}
        headers = {name: ", ".join(map(_mailbox, given or [])) for name, given in boxes.items()}
        parts = [
            (content_type, name, _decoded(_fetched(imap, f"BODY.PEEK[{section}]"), encoding))
            for section, content_type, name, encoding in _sections(_fetched(imap, "BODYSTRUCTURE"))
        ]
    return seen(headers | {"Subject": _words(subject)}, iter(parts))


def _fetched(imap: DovecotImap, item: str) -> Any:
    """One item of the only message, as lists, octets, and None for NIL (RFC 3501 §4)."""
    status, answer = imap.fetch("1", f"({item})")
    assert status == "OK"
    data = b"".join(each if isinstance(each, bytes) else b"\r\n".join(each) for each in answer if each is not None)
    (_, (_name, value)) = _listed(data)
    return value


def _listed(data: bytes) -> list[Any]:
    stack: list[list[Any]] = [[]]
    at = 0
    while found := _TOKEN.match(data, at):
        at = found.end()
        paren, quoted, literal, atom = found.groups()
        if paren == b"(":
            stack.append([])
        elif paren == b")":
            done = stack.pop()
            stack[-1].append(done)
        elif literal is not None:
            stack[-1].append(data[at : at + int(literal)])
            at += int(literal)
        elif quoted is not None:
            stack[-1].append(re.sub(rb"\\(.)", rb"\1", quoted))
        else:
            stack[-1].append(None if atom == b"NIL" else atom)
    assert at == len(data)
    (listed,) = stack
    return listed


def _sections(structure: list[Any], above: str = "") -> Iterator[tuple[str, str, str | None, bytes]]:
    """Number the leaves of a BODYSTRUCTURE, and say of each its type, its file name and its encoding."""
    if isinstance(structure[0], list):
        for number, part in enumerate(takewhile(lambda each: isinstance(each, list), structure), start=1):
            yield from _sections(part, f"{above}{number}.")
        return
    main, subtype, _, _, _, encoding = structure[:6]
    disposition = structure[9 if main == b"text" else 8]
    name = None
    if disposition is not None:
        key, value = disposition[1][:2]
        name = value.decode() if key == b"filename" else unquote(value.decode().removeprefix("utf-8''"))
    yield above.removesuffix(".") or "1", f"{main.decode()}/{subtype.decode()}", name, encoding


def _mailbox(listed: list[Any]) -> str:
    name, _, local, domain = listed
    address = f"{local.decode()}@{domain.decode()}"
    return f"{_words(name)} <{address}>" if name else address


def _words(text: bytes | None) -> str:
    return str(make_header(decode_header((text or b"").decode())))


def _decoded(octets: bytes | None, encoding: bytes) -> bytes:
    return base64.b64decode(octets or b"") if encoding == b"base64" else octets or b""


READERS: tuple[Reader, ...] = (by_python, by_gmime, by_mblaze, by_dovecot)
BEYOND = {(by_mblaze, "file names with quotes")}  # it ends a quoted string at the first quote, quoted or not


@pytest.mark.parametrize(("reader", "shape"), [pair for pair in product(READERS, SHAPES) if pair not in BEYOND])
def test_every_shape_is_read_as_it_was_meant(reader: Reader, shape: str, tmp_path: Path) -> None:
    """Whoever reads a message finds its headers, bodies and files as the draft has them."""
    assert reader(compose(SHAPES[shape]), tmp_path) == meant(SHAPES[shape])
