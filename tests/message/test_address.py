"""The address grammar and the text check: what they accept, what they refuse, and that they never guess."""

import base64
import time
import unicodedata

import aiosmtplib.email
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.message.address import AddressError, TextError, address_key, check_text, needs_smtputf8, parse_address

CANONICAL = [
    "ann@example.test",
    "a@b.c",
    "first.last+tag@mail.sub.example.co.uk",
    "!#$&'*+-/=^_`{|}~@example.test",
    "what?@example.test",
    "bang!path@example.test",
    "1@1.example",
    "a@3com.example",
    "a@x-y.z--a.example",
    "a@xn--bcher-kva.example",
    "jörg@example.test",
    "用户@xn--r8jz45g.example",
    "θσερ@example.test",
    "o’neil@example.test",
    "a" * 64 + "@example.test",
    "é" * 32 + "@example.test",
    "a@" + "b" * 63 + ".test",
    "a" * 64 + "@" + ("b" * 61 + ".") * 3 + "abc",
    "é@" + ("b" * 61 + ".") * 4 + "abc",
]

MAPPED = [
    ("Ann@Example.TEST", "Ann@example.test"),
    ("a@XN--BCHER-KVA.example", "a@xn--bcher-kva.example"),
    ("a@bücher.example", "a@xn--bcher-kva.example"),
    ("a@Bücher.Example", "a@xn--bcher-kva.example"),
    ("a@例え.example", "a@xn--r8jz45g.example"),
    ("a@straße.example", "a@xn--strae-oqa.example"),
    ("JörG@BüCHER.example", "JörG@xn--bcher-kva.example"),
]

CONFUSED = [  # accepted or reinterpreted by one mail library or another
    "a@evil.test)@good.test",
    "alice@good.test <bob@evil.test>",
    "alice@good.test<bob@evil.test>",
    '"x@evil.test"@good.test',
    '"x@evil.test "@good.test',
    '"a"@good.test',
    "<@r.test:a@good.test>",
    "@r.test:a@good.test",
    "a%e@good.test",
    "a%evil.test@good.test",
    "a@[127.0.0.1]",
    "a@[IPv6:::1]",
    "a@good.test。evil.test",
    "a@good.test．evil.test",
    "a@good.test｡evil.test",
    "<a@good.test>",
    "Ann <a@good.test>",
    "<>",
    "group: a@good.test;",
    "a(comment)@good.test",
    "a@good.test(comment)",
    "(a)b@good.test",
    "a@b@good.test",
    "a@good.test,b@evil.test",
    "a@good.test;b@evil.test",
    "a@good.test b@evil.test",
    "mailto:a@good.test",
    "=?utf-8?q?a=40evil.test=3e=20?=@good.test",
    "=?x@good.test",
    "a\\@b@good.test",
    "a＠evil.test@good.test",
    "a\uff05e@good.test",
    "u@x.test> AUTH=<a@y.test",
    "u@x.test AUTH=<>",
    "me XCLIENT ADDR=1.2.3.4",
    "a@good.test\r\nRCPT TO:<b@evil.test>",
    "a\r\nDATA\r\n@good.test",
]

MALFORMED = [
    "",
    "@",
    "a",
    "a@",
    "@example.test",
    "a@localhost",
    "a@example.test.",
    "a@.example.test",
    "a@example..test",
    ".a@example.test",
    "a.@example.test",
    "a..b@example.test",
    "a b@example.test",
    " a@example.test",
    "a@example.test ",
    "a@exam ple.test",
    "a@-example.test",
    "a@example-.test",
    "a@exam_ple.test",
    "a@exam%ple.test",
    "a@ab--cd.test",
    "a@xn--.test",
    "a@xn--zzzzzz.test",
    "a@xn--a.test",
    "a@xn--bcher-kvA-.test",
    "a@1.2.3.4",
    "a@example.123",
    "a@BÜCHER.example",  # Unicode capitals have no place in IDNA 2008
    "a@bu\u0308cher.example",  # not NFC
    "e\u0301@example.test",  # not NFC
    "a@x\u00ady.test",
    "a@x\u200dy.test",
    "a@x\u200cy.test",
    "a@x\u202ey.test",
    "a@\u2260.test",
    "a@\u2460.test",
    "a\u00adb@example.test",
    "a\u200db@example.test",
    "a\u200bb@example.test",
    "a\ufeffb@example.test",
    "a\u202eb@example.test",
    "a\u2066b@example.test",
    "a\u00a0b@example.test",
    "a\u3000b@example.test",
    "a\u0085b@example.test",
    "a\u009bb@example.test",
    "a\ud800b@example.test",
    "a@\udfff.test",
    "a" * 65 + "@example.test",
    "é" * 33 + "@example.test",
    "a@" + "b" * 64 + ".test",
    "a" * 64 + "@" + ("b" * 61 + ".") * 3 + "abcd",
    "é@" + ("b" * 61 + ".") * 4 + "abcd",
]

CONTROLS = [*map(chr, range(0x20)), "\x7f", "\x85", "\u2028", "\u2029"]

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
atoms = st.text(
    st.sampled_from("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$&'*+/=?^_`{|}~-"),
    min_size=1,
    max_size=20,
)
plausible = st.builds(
    "{}@{}.{}".format,
    st.lists(atoms, min_size=1, max_size=3).map(".".join),
    st.lists(labels, min_size=1, max_size=3).map(".".join),
    st.sampled_from(["test", "com", "COM", "x1", "xn--p1ai"]),
)


def accepted(text: str) -> str | None:
    """Return the canonical address, or None when the grammar refuses."""
    try:
        return parse_address(text)
    except AddressError:
        return None


@pytest.mark.parametrize("address", CANONICAL)
def test_canonical_address_comes_back_unchanged(address: str) -> None:
    """An address in canonical form is returned as it is."""
    assert parse_address(address) == address


@pytest.mark.parametrize(("given_", "canonical"), MAPPED)
def test_domain_becomes_lower_case_a_labels(given_: str, canonical: str) -> None:
    """Only the domain changes: to lower-case A-labels."""
    assert parse_address(given_) == canonical
    assert parse_address(canonical) == canonical


@pytest.mark.parametrize("text", CONFUSED + MALFORMED, ids=ascii)
def test_everything_else_is_refused(text: str) -> None:
    """What some parser might read as another address, or none, is refused with the stable code and no echo."""
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert caught.value.code == "bad_address"
    assert caught.value.detail == str(caught.value)
    assert len(text) < 4 or text not in caught.value.detail
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
@pytest.mark.parametrize("form", ["{}a@example.test", "a{}b@example.test", "a@exam{}ple.test", "a@example.test{}"])
def test_controls_are_refused_anywhere(form: str, control: str) -> None:
    """No control character or line separator passes at any place of an address."""
    assert accepted(form.format(control)) is None


@given(plausible)
@settings(max_examples=300)
def test_accepted_ascii_means_the_same_to_the_smtp_library(text: str) -> None:
    """The SMTP library's own address parser finds exactly the address that the grammar accepted."""
    address = accepted(text)
    if address is not None:
        assert aiosmtplib.email.parse_address(address) == address


@given(
    st.one_of(plausible, st.text(max_size=40), st.builds("{}@{}".format, st.text(max_size=20), st.text(max_size=20)))
)
@example("İ@İ.test")
@example("a@\u212aelvin.test")
@settings(max_examples=500)
def test_result_is_canonical_whatever_the_input(text: str) -> None:
    """Every result is its own canonical form, within the limits, with an ASCII domain and an NFC local part."""
    address = accepted(text)
    if address is None:
        return
    local, _, domain = address.rpartition("@")
    assert parse_address(address) == address
    assert len(address.encode()) <= 254
    assert len(local.encode()) <= 64
    assert domain.isascii()
    assert domain == domain.lower()
    assert domain.count(".") >= 1
    assert local == text.rpartition("@")[0]
    assert unicodedata.is_normalized("NFC", local)
    assert not any(c in address for c in ' <>()[]:;,"\\%\r\n')


@pytest.mark.parametrize("filler", ["(", ",", "<", '"', "a", "a.", "[", "@", "=?", "é", "a@", "xn--"])
def test_a_megabyte_is_refused_at_once(filler: str) -> None:
    """A hostile megabyte costs no more than looking at its length."""
    text = filler * (2**20 // len(filler))
    started = time.perf_counter()
    for form in (text, f"{text}@example.test", f"a@{text}.test"):
        assert accepted(form) is None
    assert time.perf_counter() - started < 0.05


def test_key_ignores_ascii_case_only() -> None:
    """Two addresses have one key exactly when they differ in nothing but ASCII case."""
    assert address_key("Ann@example.test") == address_key("aNN@example.test")
    assert address_key("JörG@example.test") == address_key("jörg@example.test")
    assert address_key("JÖRG@example.test") != address_key("jörg@example.test")
    assert address_key("\u212a@example.test") != address_key("k@example.test")


def test_only_local_parts_need_smtputf8() -> None:
    """SMTPUTF8 is needed for a non-ASCII local part, not for an international domain."""
    assert needs_smtputf8(parse_address("jörg@example.test"))
    assert not needs_smtputf8(parse_address("ann@bücher.example"))


@pytest.mark.parametrize("control", [*CONTROLS, chr(0xD800), chr(0xDFFF)], ids=ascii)
@pytest.mark.parametrize("form", ["{}", "a{}", "{}b", "a{}b", "a\r{}\nb"])
def test_text_with_a_line_break_of_any_kind_is_refused(form: str, control: str) -> None:
    """Text for headers holds no control character, line separator or lone surrogate."""
    with pytest.raises(TextError) as caught:
        check_text(form.format(control))
    assert caught.value.code == "control_character"


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_encoded_words_hide_no_control(control: str) -> None:
    """A control character inside an encoded word is found in either encoding."""
    octets = control.encode()
    quoted = "".join(f"={octet:02X}" for octet in octets)
    for word in (
        f"=?utf-8?q?a{quoted}b?=",
        f"=?UTF-8?Q?{quoted.lower()}?=",
        f"x =?utf-8?B?{base64.b64encode(octets).decode()}?= y",
    ):
        with pytest.raises(TextError):
            check_text(word)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello",
        "Größe",
        "  spaced  ",
        "=?utf-8?q?literal?=",
        "=?utf-8?b?w4U=?=",
        "=?x?b?!?=",
        "=?",
        "עברית \u202b",
        "👩\u200d💻",
    ],
)
def test_ordinary_text_passes(text: str) -> None:
    """Any other text is fine, odd blanks and harmless encoded words included."""
    check_text(text)


@pytest.mark.parametrize("filler", ["=?", "=?a?q?", "=?a", "?=", "=?a?b?YQ=="])
def test_text_check_is_linear(filler: str) -> None:
    """Half-open encoded words by the thousand are no work."""
    started = time.perf_counter()
    check_text(filler * 50_000)
    assert time.perf_counter() - started < 0.5
