"""The composer: what it writes, read back by an independent parser, and what it refuses to write."""

import email
import email.policy
import re
from dataclasses import replace
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.message.address import Mailbox
from gateway.message.compose import Attachment, Draft, MessageError, check_wire, compose, safe_filename

PLAIN = Draft(
    message_id="<0190f3c2.1@example.test>",
    date=1_767_225_600.75,
    sender=Mailbox("noreply@example.test", "Example"),
    to=(Mailbox("ann@example.test"),),
    cc=(),
    reply_to=(),
    subject="Hello",
    text="Hi\n",
    html=None,
)
BREAKS = [*map(chr, range(0x20)), "\x7f", "\x85", "\u2028", "\u2029", "\ud800"]
END_OF_DATA = [
    "\r\n.\r\n", "\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", "\r.\r\n", "\r.\n", "\n.\r",
    "\r\r\n.\r\r\n", "\n\n.\n\n", "\r\n\0.\r\n", "\r\n.\0\r\n", "\r\n..\r\n", "\x85.\x85", "\u2028.\u2028",
]  # fmt: skip

printable = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029")
words = st.text(st.one_of(st.sampled_from(" =?_\"\\,.@<>():;'aZ09é"), printable), max_size=40)
long_text = st.text(st.one_of(st.sampled_from("ab c  é漢😀=?"), printable), max_size=400)
# One encoded word long: some versions of the parser show a blank between two of them in a phrase.
names = words.map(lambda text: re.sub(r"\s+", " ", text).encode()[:39].decode(errors="ignore").strip())
bodies = st.text(st.one_of(st.sampled_from("\r\n. aé\0-=_"), st.characters(exclude_categories=["Cs"])), max_size=300)
mailboxes = st.builds(
    Mailbox, st.sampled_from(["a@b.test", "x" * 64 + "@" + "y" * 60 + ".test", "!#$'*@b.test"]), names
)
addressees = st.lists(mailboxes, max_size=12).map(tuple)
attachments = st.builds(
    Attachment,
    filename=words,
    content_type=st.sampled_from(["application/pdf", "image/png", "text/csv"]),
    content=st.binary(max_size=200),
    inline=st.booleans(),
    content_id=st.sampled_from([None, "logo", "<logo@example.test>"]),
)
drafts = st.builds(
    Draft,
    message_id=st.just(PLAIN.message_id),
    date=st.floats(0, 4e9),
    sender=mailboxes,
    to=addressees,
    cc=addressees,
    reply_to=addressees,
    subject=long_text,
    text=st.none() | bodies,
    html=st.none() | bodies,
    attachments=st.lists(attachments, max_size=3).map(tuple),
    headers=st.lists(st.tuples(st.sampled_from(["X-One", "X-" + "Two" * 20]), long_text), max_size=3).map(tuple),
)


def parsed(message: bytes) -> EmailMessage:
    """Return what an independent parser makes of the bytes."""
    return BytesParser(policy=email.policy.default).parsebytes(message)


def field_names(message: bytes) -> list[bytes]:
    """Return the names in the header block, in order."""
    head = message.partition(b"\r\n\r\n")[0]
    return [line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] not in (b" ", b"\t")]


def unix(text: str) -> str:
    """Return text with every kind of line end as LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def shown(field: Any) -> list[tuple[str, str]]:
    """Return names and addresses of a parsed address field, none of an absent one."""
    return [(each.display_name, each.addr_spec) for each in field.addresses] if field else []


def body(message: EmailMessage, kind: str) -> str:
    """Return the decoded text of the body of that subtype."""
    part = message.get_body((kind,))
    assert part is not None
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return octets.decode()


def filename(part: Any) -> str:
    """Return the file name as sent; get_filename would take "<" and ">" off its ends."""
    return str(part["Content-Disposition"].params["filename"])


def test_plain_message_to_the_letter() -> None:
    """An ASCII text is sent as it is, under the fixed sequence of header fields."""
    draft = replace(
        PLAIN,
        cc=(Mailbox("bob@example.test", "Doe, Bob"),),
        reply_to=(Mailbox("help@example.test"),),
        headers=(("X-Order", "42"),),
    )
    assert compose(draft).decode().split("\r\n") == [
        "Date: Thu, 01 Jan 2026 00:00:00 +0000",
        "From: Example <noreply@example.test>",
        "To: ann@example.test",
        'Cc: "Doe, Bob" <bob@example.test>',
        "Reply-To: help@example.test",
        "Subject: Hello",
        "Message-ID: <0190f3c2.1@example.test>",
        "MIME-Version: 1.0",
        "Auto-Submitted: auto-generated",
        "X-Order: 42",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 7bit",
        "",
        "Hi",
        "",
    ]


@given(drafts)
@settings(max_examples=200, deadline=None)
def test_draft_comes_back_from_an_independent_parser(draft: Draft) -> None:
    """Every field, body and attachment of a draft is found again, unchanged, in what was composed."""
    wire = compose(draft)
    message = parsed(wire)
    assert message["From"].addresses[0].addr_spec == draft.sender.address
    for field, given_ in (("From", (draft.sender,)), ("To", draft.to), ("Cc", draft.cc), ("Reply-To", draft.reply_to)):
        assert shown(message[field]) == [(each.name, each.address) for each in given_]
    raw = email.message_from_bytes(wire, policy=email.policy.compat32)
    assert str(make_header(decode_header(raw["Subject"].replace("\r\n", "")))) == draft.subject
    assert [str(make_header(decode_header(value.replace("\r\n", "")))) for value in raw.get_all("X-One", [])] == [
        value for name, value in draft.headers if name == "X-One"
    ]
    for kind, content in (("plain", draft.text), ("html", draft.html)):
        if content is not None:
            assert unix(body(message, kind)).removesuffix("\n") == unix(content).removesuffix("\n")
    found = [part for part in message.walk() if part.get_content_disposition()]
    expected = sorted((safe_filename(each.filename), each.content) for each in draft.attachments)
    assert sorted((filename(part), part.get_payload(decode=True)) for part in found) == expected
    assert not any(part.defects for part in message.walk())


@given(drafts)
@settings(max_examples=200, deadline=None)
def test_every_message_is_fit_for_the_wire(draft: Draft) -> None:
    """Only CRLF ends a line, no line is too long, the header is ASCII and folds where it can."""
    wire = compose(draft)
    assert wire == compose(draft)
    assert wire.isascii()
    assert b"\0" not in wire
    assert wire.endswith(b"\r\n")
    lines = wire[:-2].split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line for line in lines)
    assert max(map(len, lines)) <= 998
    for line in lines[: lines.index(b"")]:
        assert line.strip()
        if b"=?utf-8?b?" in line:
            assert len(line) <= 76 or line.startswith(b"X-Two")
            assert all(len(word) <= 75 for word in line.split())


@pytest.mark.parametrize("position", range(1, 6))
@given(text=st.text(st.sampled_from(["a", "é", "漢", "😀", " "]), max_size=120))
@settings(max_examples=60, deadline=None)
def test_each_encoded_word_stands_alone(text: str, position: int) -> None:
    """No character is split between two encoded words: each decodes on its own (RFC 2047 §5)."""
    subject = "é" * position + text
    wire = compose(replace(PLAIN, subject=subject))
    found = re.findall(rb"=\?utf-8\?[bq]\?[A-Za-z0-9+/=]*\?=", wire)
    assert found
    assert "".join(decode_header(word.decode())[0][0].decode() for word in found) == subject


@pytest.mark.parametrize(
    "subject",
    [
        "",
        " ",
        "=?utf-8?q?Hello?=",
        "=?UTF-8?B?SGk=?= and more",
        "  two  inside and around  ",
        "a  b",
        "w" * 77,
        "w" * 2000,
        "https://example.test/" + "x" * 300,
        "short words " * 40 + "end",
        "gap" + " " * 200 + "gap",
        "Größe " * 50,
        "😀" * 100,
        "é" * 39 + "x",
        'tab-free; colons: fine, and "quotes" \\ too',
        "From me",
        ".",
    ],
    ids=lambda subject: ascii(subject[:20]),
)
def test_subject_round_trips(subject: str) -> None:
    """A subject comes back exactly, whatever it looks like, and every line of it is short."""
    wire = compose(replace(PLAIN, subject=subject, headers=(("X-Same", subject),)))
    message = parsed(wire)
    assert message["Subject"] == subject
    assert message["X-Same"] == subject
    field = re.search(rb"^Subject:.*\r\n(?:[ \t].*\r\n)*", wire, re.MULTILINE)
    assert field is not None
    assert max(map(len, field[0].split(b"\r\n"))) <= 78


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Ann", b"Ann <a@b.test>"),
        ("Ann Example", b"Ann Example <a@b.test>"),
        ("Example, Ann", b'"Example, Ann" <a@b.test>'),
        ("Ann Q. Example", b'"Ann Q. Example" <a@b.test>'),
        ('Ann "Q" \\', b'"Ann \\"Q\\" \\\\" <a@b.test>'),
        ("evil@evil.test> <x", b'"evil@evil.test> <x" <a@b.test>'),
        ("Änne", b"=?utf-8?b?w4RubmU=?= <a@b.test>"),
        ("=?utf-8?q?x?=", b"=?utf-8?b?PT91dGYtOD9xP3g/PQ==?= <a@b.test>"),
    ],
)
def test_display_name_is_written_in_the_simplest_safe_form(name: str, written: bytes) -> None:
    """A name is atoms, else quoted, else encoded."""
    wire = compose(replace(PLAIN, to=(Mailbox("a@b.test", name),)))
    assert b"\r\nTo: " + written + b"\r\n" in wire
    assert shown(parsed(wire)["To"]) == [(name, "a@b.test")]


@pytest.mark.parametrize("name", ["a  b", " a", "a ", "é  é", "n" * 300, "long name " * 30])
def test_odd_display_name_is_encoded(name: str) -> None:
    """Blanks that a parser would squeeze, and names that fill lines, travel inside encoded words."""
    wire = compose(replace(PLAIN, to=(Mailbox("a@b.test", name),)))
    raw = email.message_from_bytes(wire, policy=email.policy.compat32)["To"]
    assert str(make_header(decode_header(raw.replace("\r\n", "").removesuffix(" <a@b.test>")))) == name
    assert max(map(len, wire.split(b"\r\n"))) <= 78


def test_a_hundred_recipients_fold() -> None:
    """A long list is folded between addresses, and nobody is lost."""
    everyone = tuple(Mailbox(f"user{number}@example.test", f"User Nr. {number}") for number in range(100))
    wire = compose(replace(PLAIN, to=everyone))
    assert max(map(len, wire.split(b"\r\n"))) <= 78
    assert shown(parsed(wire)["To"]) == [(each.name, each.address) for each in everyone]


def test_only_blind_recipients() -> None:
    """Without To and Cc the message names no recipient; with Cc alone it needs no To."""
    assert b"\r\nTo: undisclosed-recipients:;\r\n" in compose(replace(PLAIN, to=()))
    assert b"To" not in field_names(compose(replace(PLAIN, to=(), cc=PLAIN.to)))


@pytest.mark.parametrize("seconds", [0, 951_782_400, 1_709_164_799.999, 4_102_444_800])
def test_date_is_utc(seconds: float) -> None:
    """The date is the given second in UTC, leap days included."""
    assert parsedate_to_datetime(parsed(compose(replace(PLAIN, date=seconds)))["Date"]).timestamp() == int(seconds)


@pytest.mark.parametrize("character", BREAKS, ids=ascii)
def test_no_text_field_breaks_a_header_line(character: str) -> None:
    """A control character, line separator or lone surrogate in any header text raises instead of travelling."""
    text = f"a{character}Bcc: evil@evil.test"
    box = Mailbox("a@b.test", text)
    for draft in (
        replace(PLAIN, subject=text),
        replace(PLAIN, sender=box),
        replace(PLAIN, to=(box,)),
        replace(PLAIN, cc=(box,)),
        replace(PLAIN, reply_to=(box,)),
        replace(PLAIN, headers=(("X-A", text),)),
        replace(PLAIN, headers=(("References", text),)),
        replace(PLAIN, headers=((f"X-A{character}", "b"),)),
        replace(PLAIN, to=(Mailbox(f"a{character}@b.test"),)),
        replace(PLAIN, message_id=f"<a{character}@b.test>"),
        replace(PLAIN, attachments=(Attachment("a", f"text/plain{character}", b""),)),
        replace(PLAIN, attachments=(Attachment("a", "text/plain", b"", content_id=f"a{character}b"),)),
    ):
        for smtputf8 in (False, True):
            with pytest.raises(ValueError, match=r"^[A-Z][^\x00-\x1f]*\.$"):
                compose(draft, smtputf8=smtputf8)


@pytest.mark.parametrize("character", BREAKS, ids=ascii)
def test_file_name_breaks_no_header_line(character: str) -> None:
    """A control character in a file name is dropped, and with it the header it wanted to start."""
    wire = compose(replace(PLAIN, attachments=(Attachment(f"a{character}Bcc: b", "text/plain", b"x"),)))
    (part,) = parsed(wire).iter_attachments()
    assert filename(part) == "aBcc: b"
    assert part.keys() == ["Content-Type", "Content-Transfer-Encoding", "Content-Disposition"]


@pytest.mark.parametrize(
    "name",
    [
        "", "X A", "X-A:", "X-A\r\nBcc", "X-A\n", "X-Ä", "X_A", "1-A", "-", "Bcc", "bcc", "FROM", "To", "cc", "Subject",
        "Date", "Sender", "Reply-To", "Return-Path", "Received", "Resent-To", "DKIM-Signature", "MIME-Version",
        "Message-Id", "Content-Type", "content-x", "Auto-Submitted", "X" * 77,
    ],
)  # fmt: skip
def test_header_name_is_refused(name: str) -> None:
    """A malformed name, or one that is not the caller's to set, raises."""
    with pytest.raises(MessageError):
        compose(replace(PLAIN, headers=((name, "x"),)))


def test_structured_header_is_folded_and_never_encoded() -> None:
    """References keep every id, folded at spaces; a value that would need encoding is refused."""
    ids = " ".join(f"<{number:040}@example.test>" for number in range(20))
    wire = compose(
        replace(PLAIN, headers=(("References", ids), ("List-Unsubscribe", "<https://example.test/" + "u" * 300 + ">")))
    )
    assert parsed(wire)["References"] == ids
    assert b"=?" not in wire
    with pytest.raises(MessageError):
        compose(replace(PLAIN, headers=(("References", "<é@example.test>"),)))
    with pytest.raises(MessageError):
        compose(replace(PLAIN, headers=(("List-Unsubscribe", "<https://example.test/" + "u" * 1000 + ">"),)))


def test_long_token_in_a_custom_header_stays_readable() -> None:
    """A machine-readable value is not encoded while a line can hold it."""
    assert b"\r\nX-Token: " + b"t" * 800 + b"\r\n" in compose(replace(PLAIN, headers=(("X-Token", "t" * 800),)))
    assert parsed(compose(replace(PLAIN, headers=(("X-Token", "t" * 1800),))))["X-Token"] == "t" * 1800


@pytest.mark.parametrize("variant", END_OF_DATA, ids=ascii)
@pytest.mark.parametrize("field", ["text", "html"])
def test_no_variant_of_end_of_data_survives(variant: str, field: str) -> None:
    """However a body spells the end of a message, only whole CRLFs go out and the text stays in one piece."""
    text = f"before{variant}MAIL FROM:<evil@evil.test>\r\nafter"
    wire = compose(replace(PLAIN, text=text) if field == "text" else replace(PLAIN, text=None, html=text))
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    assert b"\0" not in wire
    assert unix(body(parsed(wire), "plain" if field == "text" else "html")).removesuffix("\n") == unix(text)


@pytest.mark.parametrize("text", [".", "..", "\n.\n", "\r.\r", "a\n.", ".\n\n.", "...\n"])
def test_dots_are_left_to_the_transaction(text: str) -> None:
    """Lines that start with a dot are not stuffed here."""
    content = compose(replace(PLAIN, text=text)).partition(b"\r\n\r\n")[2].decode()
    assert unix(content).removesuffix("\n") == unix(text).removesuffix("\n")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("ascii", "7bit"),
        ("x" * 998, "7bit"),
        ("x" * 999, "base64"),
        ("x" * 998 + "\n" + "y" * 998, "7bit"),
        ("x\n" + "y" * 999 + "\nz", "base64"),
        ("é", "base64"),
        ("nul\0", "base64"),
        ("", "7bit"),
    ],
    ids=lambda value: ascii(value[:8]),
)
def test_transfer_encoding_is_the_plainest_that_is_safe(text: str, encoding: str) -> None:
    """7bit for short ASCII lines, base64 for all else; the text is the same."""
    message = parsed(compose(replace(PLAIN, text=text)))
    assert message["Content-Transfer-Encoding"] == encoding
    assert unix(body(message, "plain")).removesuffix("\n") == text


@pytest.mark.parametrize("size", [0, 1, 56, 57, 58, 114, 57 * 64 - 1, 57 * 64, 57 * 64 + 1, 57 * 130 + 5])
def test_attachment_octets_survive(size: int) -> None:
    """An attachment of any size comes back octet for octet, in lines of 76."""
    content = bytes(number % 251 for number in range(size))
    wire = compose(replace(PLAIN, attachments=(Attachment("a.bin", "application/octet-stream", content),)))
    (part,) = parsed(wire).iter_attachments()
    assert part.get_payload(decode=True) == content
    assert max(map(len, wire.split(b"\r\n"))) <= 78


def structure(message: Any) -> object:
    """Return the tree of a message: multiparts as (subtype, parts), leaves as their type."""
    if message.is_multipart():
        return message.get_content_subtype(), [structure(part) for part in message.iter_parts()]
    return message.get_content_type()


LOGO = Attachment("logo.png", "image/png", b"\x89PNG", inline=True, content_id="logo@example.test")
REPORT = Attachment("report.pdf", "application/pdf", b"%PDF")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "text/plain"),
        ({"text": None}, "text/plain"),
        ({"text": None, "html": "<p>"}, "text/html"),
        ({"html": "<p>"}, ("alternative", ["text/plain", "text/html"])),
        (
            {"html": "<p>", "attachments": (LOGO,)},
            ("alternative", ["text/plain", ("related", ["text/html", "image/png"])]),
        ),
        ({"text": None, "html": "<p>", "attachments": (LOGO,)}, ("related", ["text/html", "image/png"])),
        ({"attachments": (REPORT,)}, ("mixed", ["text/plain", "application/pdf"])),
        ({"attachments": (LOGO,)}, ("mixed", ["text/plain", "image/png"])),
        (
            {"html": "<p>", "attachments": (REPORT, LOGO)},
            ("mixed", [("alternative", ["text/plain", ("related", ["text/html", "image/png"])]), "application/pdf"]),
        ),
    ],
)
def test_structure_has_no_level_too_many(changes: dict[str, Any], expected: object) -> None:
    """Inline parts stand beside the HTML, other files around the whole, and no multipart has a single part."""
    assert structure(parsed(compose(replace(PLAIN, **changes)))) == expected


def test_inline_part_is_found_by_its_content_id() -> None:
    """An inline image carries its Content-ID in brackets and its disposition."""
    wire = compose(replace(PLAIN, html='<img src="cid:logo@example.test">', attachments=(LOGO,)))
    (image,) = [part for part in parsed(wire).walk() if part.get_content_type() == "image/png"]
    assert image["Content-ID"] == "<logo@example.test>"
    assert image.get_content_disposition() == "inline"


@pytest.mark.parametrize(
    ("given_", "written"),
    [
        ("Text/CSV; charset=utf-8", "text/csv"),
        ("message/rfc822", "application/octet-stream"),
        ("multipart/mixed; boundary=x", "application/octet-stream"),
        ("application/vnd.oasis.opendocument.text", "application/vnd.oasis.opendocument.text"),
    ],
)
def test_attachment_type_is_bare(given_: str, written: str) -> None:
    """A type loses its parameters; what base64 may not carry becomes opaque octets."""
    wire = compose(replace(PLAIN, attachments=(Attachment("a", given_, b"x"),)))
    assert f"\r\nContent-Type: {written}\r\n".encode() in wire


@pytest.mark.parametrize(
    "given_", ["", "text", "text/", "/plain", "text/plain/x", "te xt/plain", "text/pläin", 'text/"x"']
)
def test_attachment_type_is_checked(given_: str) -> None:
    """A content type that is no token/token raises."""
    with pytest.raises(MessageError):
        compose(replace(PLAIN, attachments=(Attachment("a", given_, b"x"),)))


def test_boundary_avoids_the_content() -> None:
    """A body that foresaw the boundary gets another one; the same message always gets the same."""
    plain = replace(PLAIN, html="<p>", text="x")
    boundary = parsed(compose(plain)).get_boundary()
    hostile = replace(plain, text=f"x\n--{boundary}--\n--{boundary}\nContent-Type: text/html\n\n<b>")
    wire = compose(hostile)
    assert structure(parsed(wire)) == ("alternative", ["text/plain", "text/html"])
    assert unix(body(parsed(wire), "plain")) == hostile.text
    assert wire == compose(hostile)


FILENAMES = [
    ("report.pdf", "report.pdf"),
    ("Größe 10%.pdf", "Größe 10%.pdf"),
    ("../../etc/passwd", "passwd"),
    ("..\\..\\boot.ini", "boot.ini"),
    ("C:\\x", "x"),
    ("C:\\Users\\ann\\report.pdf", "report.pdf"),
    ("/", "attachment"),
    ("", "attachment"),
    (".", "attachment"),
    ("..", "attachment"),
    ("...", "attachment"),
    ("dir/", "attachment"),
    (".bashrc", "bashrc"),
    (". .profile", "profile"),
    ("a.txt. . ", "a.txt"),
    ("a\u202egnp.exe", "agnp.exe"),
    ("a\u2066b\u200b\ufeffc.txt", "abc.txt"),
    ("a\x00\r\nb.txt", "ab.txt"),
    ("cafe\u0301.txt", "café.txt"),
    ("می\u200cخواهم.txt", "می\u200cخواهم.txt"),
    ("CON", "_CON"),
    ("con.txt", "_con.txt"),
    ("Lpt1.tar.gz", "_Lpt1.tar.gz"),
    ("COM¹.txt", "_COM¹.txt"),
    ("nul .txt", "_nul .txt"),
    ("console.txt", "console.txt"),
    ('quo"te.txt', 'quo"te.txt'),
    ("=?utf-8?q?x?=.txt", "=?utf-8?q?x?=.txt"),
    ("semi;colon='*.txt", "semi;colon='*.txt"),
    ("x" * 300 + ".pdf", "x" * 146 + ".pdf"),
    ("é" * 150 + ".pdf", "é" * 73 + ".pdf"),
    ("x" * 300, "x" * 150),
    ("x." + "y" * 300, "x." + "y" * 148),
]


@pytest.mark.parametrize(("given_", "safe"), FILENAMES, ids=lambda name: ascii(name[:20]))
def test_file_name_is_made_safe(given_: str, safe: str) -> None:
    """A file name keeps what is harmless, loses what is not, and reaches the recipient as that."""
    assert safe_filename(given_) == safe
    wire = compose(replace(PLAIN, attachments=(Attachment(given_, "application/pdf", b"x"),)))
    (part,) = parsed(wire).iter_attachments()
    assert filename(part) == safe
    assert part.get_content_disposition() == "attachment"


@given(st.text(st.one_of(st.sampled_from('./\\ :"con\u202e\u0301é~'), st.characters()), max_size=200))
@example("x" * 148 + " .")
@example("a." + "\u0301" * 80)
@settings(max_examples=500)
def test_safe_file_name_is_safe_whatever_was_given(name: str) -> None:
    """Any result is short, visible, one path component, and its own safe form."""
    safe = safe_filename(name)
    assert safe
    assert len(safe.encode()) <= 150
    assert not set(safe) & {"/", "\\", "\0", "\r", "\n", "\u202e"}
    assert safe[0] not in ". "
    assert safe[-1] not in ". "
    assert safe_filename(safe) == safe


UTF8_BOX = Mailbox("jörg@example.test", "Jörg")


def test_utf8_address_is_raw_where_allowed() -> None:
    """With SMTPUTF8 an address is written as it is, while names and subjects stay encoded."""
    wire = compose(replace(PLAIN, to=(UTF8_BOX, Mailbox("bob@example.test")), subject="Grüße"), smtputf8=True)
    assert "\r\nTo: =?utf-8?b?SsO2cmc=?= <jörg@example.test>, bob@example.test\r\n".encode() in wire
    message = email.message_from_string(wire.decode(), policy=email.policy.default)
    assert shown(message["To"]) == [("Jörg", "jörg@example.test"), ("", "bob@example.test")]
    assert message["Subject"] == "Grüße"


def test_utf8_address_is_an_empty_group_elsewhere() -> None:
    """Without SMTPUTF8 such an address is shown as the name of an empty group, and the others stay reachable."""
    draft = replace(PLAIN, sender=UTF8_BOX, to=(Mailbox("jörg@example.test"), Mailbox("bob@example.test")))
    wire = compose(draft)
    assert wire.isascii()
    message = parsed(wire)
    assert shown(message["To"]) == [("", "bob@example.test")]
    assert [group.display_name for group in message["To"].groups] == ["jörg@example.test", None]
    assert message["From"].groups[0].display_name == "Jörg <jörg@example.test>"


@pytest.mark.parametrize(
    "address", ["a@b.test>, <c@d.test", "a b@c.test", "a@b.test,c@d.test", '"a"@b.test', "a@b.test (x)"]
)
def test_address_that_no_one_parsed_is_refused(address: str) -> None:
    """A mailbox whose address did not come from the grammar cannot become two."""
    with pytest.raises(MessageError):
        compose(replace(PLAIN, to=(Mailbox(address),)))


@pytest.mark.parametrize("changes", [{"text": "\ud800"}, {"html": "\udfff"}])
def test_body_without_a_utf8_form_is_refused(changes: dict[str, Any]) -> None:
    """A lone surrogate in a body raises instead of being replaced."""
    with pytest.raises(MessageError):
        compose(replace(PLAIN, **changes))


GOOD_WIRE = b"From: a@b.test\r\nSubject: x\r\n y\r\n\r\nbody\r\n"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\r\n",
        b"From: a@b.test\r\nSubject: x\r\n",
        GOOD_WIRE[:-2],
        GOOD_WIRE[:-1],
        GOOD_WIRE + b"\r",
        GOOD_WIRE + b"\n",
        GOOD_WIRE + b"\n.\n\r\n",
        GOOD_WIRE + b"\r.\r\r\n",
        GOOD_WIRE + b"\r\r\n",
        GOOD_WIRE + b"\n\r\r\n",
        GOOD_WIRE + b"a\rb\nc\r\n",
        GOOD_WIRE + b"\0\r\n",
        GOOD_WIRE + b"x" * 999 + b"\r\n",
        GOOD_WIRE.replace(b"Subject", b"subject"),
        GOOD_WIRE.replace(b"Subject:", b"Subject"),
        GOOD_WIRE.replace(b"Subject:", b"Subject :"),
        GOOD_WIRE.replace(b"\r\n y", b"\r\ny"),
        GOOD_WIRE.replace(b"\r\n y", b"\r\nBcc: y"),
        GOOD_WIRE.replace(b"\r\n y", b"\r\n\r\n y").replace(b"Subject", b"X"),
        b" " + GOOD_WIRE,
        b"\r\n" + GOOD_WIRE,
        b"Subject: x\r\nFrom: a@b.test\r\n\r\nbody\r\n",
        GOOD_WIRE.replace(b"Subject: x", "Subject: é".encode()),
    ],
    ids=lambda message: ascii(message[-24:]),
)
def test_last_check_refuses(message: bytes) -> None:
    """Bytes that could be read as anything but the headers asked for and one body raise."""
    check_wire(GOOD_WIRE, [b"From", b"Subject"])
    with pytest.raises(MessageError):
        check_wire(message, [b"From", b"Subject"])


def test_last_check_knows_utf8_headers_and_long_lines() -> None:
    """UTF-8 in the header passes where it was promised, and 998 octets are not too many."""
    check_wire(GOOD_WIRE.replace(b"Subject: x", "Subject: é".encode()), [b"From", b"Subject"], smtputf8=True)
    check_wire(GOOD_WIRE + (b"x" * 998 + b"\r\n") * 3 + b"\r\n" * 2000, [b"From", b"Subject"])


@given(st.binary(max_size=60).map(lambda noise: noise.translate(bytes.maketrans(b"abcdef", b"\r\n\r\n\r\n"))))
@settings(max_examples=500)
def test_last_check_agrees_with_its_definition(noise: bytes) -> None:
    """The fast check of line ends says what counting pairs says."""
    message = GOOD_WIRE + noise + b"\r\n"
    pairs = message.count(b"\r\n")
    fit = b"\0" not in message and message.count(b"\r") == message.count(b"\n") == pairs
    if fit:
        check_wire(message, [b"From", b"Subject"])
    else:
        with pytest.raises(MessageError):
            check_wire(message, [b"From", b"Subject"])
