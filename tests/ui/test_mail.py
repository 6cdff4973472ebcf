"""Messages as they come over the wire, read as well as it goes."""

from __future__ import annotations

import base64
import random
from email.message import EmailMessage
from email.policy import SMTP
from encodings.aliases import aliases
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ui.mail import (
    HEAD_OCTETS,
    MOST_ATTACHMENTS,
    MOST_FIELDS,
    MOST_PARAMETERS,
    READ_OCTETS,
    Attachment,
    read_mail,
    subject,
)

DOT = b"\x89PNG dot"
TRAPS = [
    "idna",
    "Idna",
    "undefined",
    "punycode",
    "unicode_escape",
    "raw-unicode-escape",
    "UTF-7",
    "hex",
    "x\0y",
    "é",
    "",
]


def whole() -> EmailMessage:
    """A message with everything that people look for."""
    message = EmailMessage(policy=SMTP)
    message["Subject"] = "Grüße aus Köln, " + "und noch ein Wort " * 6
    message["From"] = "Änne <ann@example.test>"
    message.set_content("Schöne Grüße\n")
    message.add_alternative('<img src="cid:dot%40here"><img src=cid:dot@here><img src="cid:other">', subtype="html")
    message.get_payload()[1].add_related(DOT, "image", "png", cid="<dot@here>")  # type: ignore[union-attr]
    message.add_attachment(b"x" * 5000, maintype="application", subtype="pdf", filename="Rechnung ü.pdf")
    return message


def test_whole() -> None:
    """Fields lose their folding and encoding; text, HTML and attachments are told apart."""
    mail = read_mail(whole().as_bytes())
    assert mail.field("subject") == ("Grüße aus Köln, " + "und noch ein Wort " * 6).strip()
    assert mail.field("from") == "Änne <ann@example.test>"
    assert mail.text == "Schöne Grüße\n"
    assert mail.attachments == (
        Attachment("", "image/png", len(DOT)),
        Attachment("Rechnung ü.pdf", "application/pdf", 5000),
    )
    assert (mail.cut, mail.odd) == (False, False)


def test_pictures() -> None:
    """A picture that came along stands where it is named first, so that it cannot be multiplied; others stay names."""
    html = read_mail(whole().as_bytes()).html
    assert html is not None
    assert '<img src="data:image/png;base64,iVBORyBkb3Q="><img src=cid:dot@here><img src="cid:other">' in html


def test_only_pictures() -> None:
    """What says that it is something else is not put into the HTML."""
    message = EmailMessage(policy=SMTP)
    message.set_content('<img src="cid:a">', subtype="html")
    message.add_related(b"<svg/>", "image", "svg+xml", cid="<a>")
    assert read_mail(message.as_bytes()).html == '<img src="cid:a">\n'


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"no header at all", ""),
        (b"Subject: x\r\n\r\nH\xfcllo \xff", "H\N{REPLACEMENT CHARACTER}llo \N{REPLACEMENT CHARACTER}"),
        (b"Content-Type: text/plain; charset=klingon\r\n\r\nHello", "Hello"),
        (b"Content-Type: text/plain; charset=hex\r\n\r\nHello", "Hello"),
        (b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\nH\xfcllo", "Hüllo"),
        (b"Content-Transfer-Encoding: base64\r\n\r\nSGVsbG8", "Hello"),
        (b"Content-Transfer-Encoding: quoted-printable\r\n\r\nH=C3=BCllo", "Hüllo"),
        (b"Content-Type: multipart/mixed\r\n\r\nno boundary", None),
    ],
)
def test_wrong_bodies(data: bytes, text: str | None) -> None:
    """What does not fit its charset or its encoding is shown as well as it goes."""
    shown = read_mail(data).text
    assert shown is None if text is None else shown is not None and shown.startswith(text)


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (b"=?utf-8?b?R3LDvMOfZQ==?=", "Grüße"),
        (b"=?iso-8859-1?q?Gr=FC=DFe?=\r\n =?utf-8?q?_you?=", "Grüße you"),
        (b"=?utf-8?b?broken", "=?utf-8?b?broken"),
        (b"=?utf-8?b?AAAAA?=", "=?utf-8?b?AAAAA?="),
        (b"=?klingon?q?Hello?=", "Hello"),
        (b"Gr\xc3\xbc\xc3\x9fe", "Grüße"),
        (b"Gr\xfc", "Gr\N{REPLACEMENT CHARACTER}"),
        (b"one\r\n two\tthree\x00", "one two three"),
    ],
)
def test_fields(field: bytes, shown: str) -> None:
    """Encoded words, octets and control characters become a line of text."""
    data = b"Subject: " + field + b"\r\n\r\nHello"
    assert (subject(data), read_mail(data).field("subject")) == (shown, shown)


def test_large() -> None:
    """Of a large message the beginning is read; of a large head a list reads the beginning."""
    mail = read_mail(b"Subject: big\r\n\r\n" + b"line\r\n" * 1_000_000)
    assert mail.cut
    assert mail.text is not None
    assert len(mail.text) < READ_OCTETS
    assert subject(b"X: " + b"x" * HEAD_OCTETS + b"\r\nSubject: late\r\n\r\n") == ""


def test_many() -> None:
    """Neither fields nor attachments make a page without end."""
    parts = b"--b\r\nContent-Type: a/b\r\n\r\n\r\n" * (MOST_ATTACHMENTS + 50)
    fields = b"X: y\r\n" * (MOST_FIELDS + 50)
    mail = read_mail(b"Content-Type: multipart/mixed; boundary=b\r\n" + fields + b"\r\n" + parts)
    assert (len(mail.attachments), len(mail.fields)) == (MOST_ATTACHMENTS, MOST_FIELDS)


@pytest.mark.parametrize(
    "nest",
    [
        b"".join(b"Content-Type: multipart/mixed; Boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(300)),
        b"Content-Type: message/rfc822\r\n\r\n" * 3000,
    ],
)
def test_nested_without_end(nest: bytes) -> None:
    """What is built to overflow, or to take very long, is told to be odd, with its fields."""
    mail = read_mail(b"Subject: nest\r\n" + nest + b"\n" * 500_000)
    assert (mail.odd, mail.text, mail.field("subject")) == (True, None, "nest")


def test_damaged() -> None:
    """No message that was damaged on the way, wherever it was, is more than badly readable."""
    dice = random.Random(5)
    for _ in range(100):
        data = bytearray(whole().as_bytes()[:3000])
        for _ in range(dice.randrange(1, 30)):
            at = dice.randrange(len(data))
            data[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(4))
        mail = read_mail(bytes(data))
        assert all(isinstance(value, str) for field in mail.fields for value in field)
        subject(bytes(data))


@pytest.mark.parametrize("charset", [*TRAPS, "nobody-knows"])
def test_charsets_that_are_traps(charset: str) -> None:
    """A codec that takes for ever, or makes half characters, is not used; the text is shown as well as it goes."""
    head = f"Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    body = base64.encodebytes(b"\\ud800 hello " * 20_000)
    mail = read_mail(head.encode() + body)
    assert mail.text is not None
    assert "hello" in mail.text


CODECS = sorted({*aliases, *aliases.values()})
CHARSETS = st.one_of(st.sampled_from(TRAPS), st.sampled_from(CODECS), st.text(max_size=10))
OCTETS = st.one_of(st.sampled_from([b"\xff", b"\0", b"a\\ud800", b"+2AA-", b"xn--a-"]), st.binary(max_size=30))
PLACES = [
    "Content-Type: a/b\r\nContent-Disposition: attachment; filename*={charset}''{percent}\r\n\r\nx",
    "Content-Type: a/b\r\nContent-Disposition: attachment; filename*0*={charset}''{percent}; filename*1*=x\r\n\r\nx",
    "Content-Type: a/b\r\nContent-Disposition: attachment; filename==?{charset}?b?{base64}?=\r\n\r\nx",
    "Content-Type: a/b; name*={charset}'en'{percent}\r\n\r\nx",
    "Content-Type: text/plain; charset*={charset}''{percent}\r\n\r\nx",
    "Content-Type: multipart/mixed; boundary*={charset}''{percent}\r\n\r\n--x\r\n\r\nx",
    "Content-Type: text/html; charset={charset}\r\nContent-Transfer-Encoding: base64\r\n\r\n{base64}",
    "Subject: =?{charset}?b?{base64}?=\r\n\r\nx",
]


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=150, deadline=None)
@given(charset=CHARSETS, octets=OCTETS)
def test_any_charset_anywhere(place: str, charset: str, octets: bytes) -> None:
    """Whatever charset is named, and whatever it does not fit: the mail is read, and its text can be put into a page."""
    encoded = {"percent": quote_from_bytes(octets), "base64": base64.b64encode(octets).decode()}
    data = place.format(charset=charset, **encoded).encode("utf-8", "replace")

    mail = read_mail(data)
    shown = [mail.text or "", mail.html or "", subject(data), *(one.name for one in mail.attachments)]
    "".join([*shown, *(part for field in mail.fields for part in field)]).encode()


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ("*=utf-8''Gr%C3%BC%C3%9Fe", "Grüße"),
        ("*=iso-8859-1'de'Gr%FC%DFe", "Grüße"),
        ("*0*=iso-8859-1''Gr%FC; filename*1*=%DFe", "Grüße"),
        ("*=plain", "plain"),
        ("*=klingon''a", "a"),
        ("*=idna''a", "a"),
        ("*=undefined''%ff", "\N{REPLACEMENT CHARACTER}"),
        ("*=punycode''%ff-b", "\N{REPLACEMENT CHARACTER}-b"),
        ("*=utf-8''a%00b", "a b"),
        ("*=x%00y''a", "a"),
        ("*=a; filename*0*=utf-8''b", ""),
        (f"*{'1' * 5_000}*=utf-8''b", ""),
        (f"=a; x={'b' * MOST_PARAMETERS}", ""),
    ],
)
def test_names_of_attachments(parameter: str, name: str) -> None:
    """Decoded as they were written (RFC 2231), or as well as it goes; none where nothing can be made of it."""
    head = f"Content-Type: a/b\r\nContent-Disposition: attachment; filename{parameter}\r\n\r\nx"
    [attachment] = read_mail(head.encode()).attachments
    assert attachment.name == name


def test_half_a_character_in_a_name() -> None:
    """A file name that no text can hold is shown without what it lacks."""
    head = b"Content-Type: application/pdf\r\nContent-Disposition: attachment; filename*=unicode_escape''a%5Cud800.pdf\r\n\r\nx"
    [attachment] = read_mail(head).attachments
    assert attachment.name.encode()
