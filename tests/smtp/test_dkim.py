"""DKIM signatures, judged by other people's verifiers after a relay has taken the message.

Verifiers: opendkim for both kinds of key, Mail::DKIM (the one of SpamAssassin) and dkimpy for RSA. The first two look the
public key up in a name server on loopback.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from dkim.util import parse_tag_value
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.credentials.secret import Secret
from gateway.message.compose import compose
from gateway.smtp.dkim import DkimError, PrivateKey, signed
from gateway.smtp.outcome import Relayed
from gateway.smtp.session import Security
from gateway.smtp.transaction import Engine, Envelope
from tests.message.test_read_back import SHAPES, SIMPLE
from tests.peers.dns_server import NameServer
from tests.peers.postfix import PostfixRelay, postfix_available
from tests.peers.requirements import require
from tests.peers.smtp_server import ScriptedRelay
from tests.smtp.talking import ANN, kinds, opener, relay_at, session

DOMAIN, SELECTOR = "example.test", "key.one"
RECORD = f"{SELECTOR}._domainkey.{DOMAIN}"
TOOLS = f"{os.environ['PATH']}:/usr/sbin"
HEAD = b"From: a@example.test\r\nSubject: hi\r\n\r\n"


@cache
def key_of(kind: str) -> PrivateKey:
    """A key of this kind, made once."""
    bits = kind.removeprefix("rsa")
    return ed25519.Ed25519PrivateKey.generate() if bits == kind else rsa.generate_private_key(65537, int(bits))


def pem(
    key: PrivateKey | ec.EllipticCurvePrivateKey,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> str:
    """A private key as text."""
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode()


def record(key: PrivateKey) -> str:
    """What the domain's owner publishes (RFC 6376 §3.6.1, RFC 8463 §4)."""
    if isinstance(key, rsa.RSAPrivateKey):
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"v=DKIM1; k=ed25519; p={base64.b64encode(public).decode()}"


async def sign(message: bytes, kind: str = "rsa2048") -> bytes:
    """Sign as the domain."""
    return await signed(message, DOMAIN, SELECTOR, Secret(pem(key_of(kind))))


# Verifiers: whether the message's signature holds for this public key.

Verifier = Callable[[bytes, str, Path], Awaitable[bool]]


async def by_opendkim(message: bytes, public: str, home: Path) -> bool:
    """The milter's own test mode, its resolver pointed at our name server."""
    require("opendkim", shutil.which("opendkim", path=TOOLS))
    async with NameServer({RECORD: public}) as names:
        (home / "resolver.conf").write_text(
            'server:\n chroot: ""\n username: ""\n do-not-query-localhost: no\n local-zone: "test." nodefault\n'
            f'forward-zone:\n name: "."\n forward-addr: {names.host}@{names.port}\n'
        )
        (home / "opendkim.conf").write_text(f"Mode v\nSyslog no\nResolverConfiguration {home}/resolver.conf\n")
        said = await _output(message, {}, "opendkim", "-x", str(home / "opendkim.conf"), "-t", "-")
    assert RECORD in names.asked
    return said.rstrip().endswith("succeeded")


async def by_mail_dkim(message: bytes, public: str, _: Path) -> bool:
    """Perl's Mail::DKIM, whose resolver takes its server from the environment."""
    require("libmail-dkim-perl", shutil.which("dkimproxy-verify"))
    async with NameServer({RECORD: public}) as names:
        resolver = {"RES_NAMESERVERS": names.host, "RES_OPTIONS": f"port:{names.port}"}
        said = await _output(message, resolver, "dkimproxy-verify")
    assert RECORD in names.asked
    return "verify result: pass\n" in said


async def by_dkimpy(message: bytes, public: str, _: Path) -> bool:
    """The library that canonicalises for us; its verifier is its own."""
    return verified(message, public)


def verified(message: bytes, public: str) -> bool:
    """Ask dkimpy, with DNS played by a function, as it offers."""
    published = {f"{RECORD}.".encode(): public.encode()}
    return bool(dkim.verify(message, dnsfunc=lambda name, timeout: published.get(name)))


async def _output(given_: bytes, environment: dict[str, str], *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": TOOLS, "LC_ALL": "C.UTF-8"} | environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(given_)
    return said.decode()


VERIFIERS: tuple[tuple[Verifier, str], ...] = (
    (by_opendkim, "rsa2048"),
    (by_opendkim, "ed25519"),
    (by_mail_dkim, "rsa2048"),
    (by_dkimpy, "rsa2048"),
)
EVERY = pytest.mark.parametrize(("verifier", "kind"), VERIFIERS)


# Messages that a relay took.


@pytest.mark.parametrize(("verifier", "kind", "shape"), [(*each, shape) for each, shape in product(VERIFIERS, SHAPES)])
async def test_a_signature_holds_after_the_relay(verifier: Verifier, kind: str, shape: str, tmp_path: Path) -> None:
    """Whatever a message is made of, what a relay was handed under its dots verifies."""
    message = await sign(compose(SHAPES[shape]), kind)
    async with ScriptedRelay() as relay, session(relay) as engine:
        transaction = await engine.transact(Envelope("from@example.test", (ANN,), message))

        assert kinds(transaction) == [Relayed]
        assert relay.violations == []
    assert await verifier(relay.messages[0].data, record(key_of(kind)), tmp_path)


async def test_signatures_hold_behind_a_postfix() -> None:
    """A relay of the real world adds its trace and speaks SMTP anew; what its next hop is handed verifies."""
    require("postfix as root", postfix_available())
    async with ScriptedRelay() as sink:
        with PostfixRelay(sink.port) as relay:
            target = relay_at(relay.port, Security.STARTTLS, host="localhost", ca=relay.ca_pem, password="s3cret")
            engine = await opener().open(target)
            assert isinstance(engine, Engine), engine
            for draft in SHAPES.values():
                message = await sign(compose(draft))
                transaction = await engine.transact(Envelope("from@example.test", (ANN,), message))
                assert kinds(transaction) == [Relayed]
            engine.abort()
            await sink.wait_messages(len(SHAPES), timeout=60)
    assert all(caught.data.startswith(b"Received: ") for caught in sink.messages)
    public = record(key_of("rsa2048"))
    assert all(verified(caught.data, public) for caught in sink.messages)


@pytest.mark.parametrize("verifier", [by_opendkim, by_mail_dkim, by_dkimpy])
@pytest.mark.parametrize("kind", ["rsa1024", "rsa4096"])
async def test_keys_of_all_sizes_that_verifiers_have_to_take(kind: str, verifier: Verifier, tmp_path: Path) -> None:
    """RSA from 1024 to 4096 bits (RFC 8301 §3.2); the longest record comes by TCP."""
    assert await verifier(await sign(compose(SIMPLE), kind), record(key_of(kind)), tmp_path)


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the body": lambda message: message.replace(b"\r\n\r\nHi", b"\r\n\r\nHh"),
    "a bit of the subject": lambda message: message.replace(b"Subject: H", b"Subject: I"),
    "a bit of the sender": lambda message: message.replace(b"noreply@", b"noreplx@"),
    "a line more": lambda message: message + b"more\r\n",
    "a second sender": lambda message: message.replace(b"\r\nFrom:", b"\r\nFrom: evil@evil.test\r\nFrom:"),
    "a second subject in front": lambda message: b"Subject: evil\r\n" + message,
    "a second subject behind": lambda message: message.replace(b"\r\n\r\nHi", b"\r\nSubject: evil\r\n\r\nHi"),
    "another type in front": lambda message: b"Content-Type: text/html\r\n" + message,
    "another recipient": lambda message: message.replace(b"To: ann@", b"To: bob@"),
    "no date": lambda message: message.replace(b"\r\nDate: ", b"\r\nX-Date: "),
    "another time": lambda message: message.replace(b"t=1", b"t=0"),
}


@EVERY
@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forgery_is_found(verifier: Verifier, kind: str, forgery: str, tmp_path: Path) -> None:
    """What anybody changes or adds on the way breaks the signature."""
    message = await sign(compose(SIMPLE), kind)
    forged = FORGERIES[forgery](message)
    assert forged != message
    assert not await verifier(forged, record(key_of(kind)), tmp_path)


HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "folds elsewhere": lambda message: message.replace(b"From: Example ", b"from:\r\n\tExample  "),
    "trace in front": lambda message: b"Received: from a by b; Thu, 01 Jan 2026 00:00:00 +0000\r\n" + message,
    "blanks at ends of lines": lambda message: message.replace(b"Hi\r\n", b"Hi \t\r\n"),
    "empty lines at the end": lambda message: message + b"\r\n\r\n",
}


@EVERY
@pytest.mark.parametrize("change", HARMLESS)
async def test_a_relay_may_touch_blanks_and_add_its_trace(
    verifier: Verifier, kind: str, change: str, tmp_path: Path
) -> None:
    """What relays do without touching the content leaves the signature whole."""
    message = await sign(compose(SIMPLE), kind)
    changed = HARMLESS[change](message)
    assert changed != message
    assert await verifier(changed, record(key_of(kind)), tmp_path)


# Bodies.

lines = st.sampled_from([b"", b"a", b" ", b"\t \t", b"a \t b ", b".", b" a", b"x" * 998, b" " * 300 + b"x"])
runs = st.tuples(lines, st.integers(1, 3) | st.sampled_from([33_000, 66_000])).map(
    lambda run: (run[0] + b"\r\n") * min(run[1], 100_000 // (len(run[0]) + 2))
)


@given(st.lists(runs, max_size=6).map(b"".join))
@example(b"a\tb\t\r\n")
@settings(max_examples=30, deadline=None)
def test_a_body_is_canonicalised_as_a_whole(body: bytes) -> None:
    """Blanks and empty lines count as the whole body has them, wherever it is cut into blocks."""
    message = asyncio.run(sign(HEAD + body))
    assert verified(message, record(key_of("rsa2048")))


async def test_the_loop_turns_while_a_great_message_is_signed(tmp_path: Path) -> None:
    """Signing 25 MiB leaves the loop to others, and the signature holds."""
    body = b"".join(b"%07d%s\r\n" % (number, b"x" * 69) for number in range(336_000))
    signing = asyncio.ensure_future(sign(HEAD + body))
    turns = 0
    while not signing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100
    assert await by_opendkim(signing.result(), record(key_of("rsa2048")), tmp_path)


# The field.


def tags(message: bytes) -> dict[bytes, bytes]:
    """The tags of the signature, which stands in front."""
    name, _, value = message.partition(b":")
    assert name == b"DKIM-Signature"
    return dict(parse_tag_value(value[: value.index(b"\r\nDate:")].replace(b"\r\n", b"")))


async def test_the_message_follows_its_signature_unchanged() -> None:
    """A field is put in front, its lines short and folded, and nothing else is touched."""
    message = compose(SHAPES["everything"])
    field = (await sign(message)).removesuffix(message)
    first, *others, end = field.split(b"\r\n")
    assert first.startswith(b"DKIM-Signature: ")
    assert all(line[:1] == b" " and line[1:2].strip() for line in others)
    assert max(map(len, [first, *others])) <= 78
    assert end == b""


@pytest.mark.parametrize(("kind", "algorithm"), [("rsa2048", b"rsa-sha256"), ("ed25519", b"ed25519-sha256")])
async def test_the_tags_say_what_was_done(kind: str, algorithm: bytes) -> None:
    """The algorithm is the key's, both parts are relaxed, and the length of the body is not said."""
    said = tags(await sign(compose(SIMPLE), kind))
    assert {tag: said[tag] for tag in (b"v", b"a", b"c", b"d", b"s")} == {
        b"v": b"1", b"a": algorithm, b"c": b"relaxed/relaxed", b"d": b"example.test", b"s": b"key.one",
    }  # fmt: skip
    assert set(said) == {b"v", b"a", b"c", b"d", b"s", b"t", b"h", b"bh", b"b"}
    assert said[b"t"].isdigit()


async def test_every_field_that_people_see_is_signed_once_more_than_it_occurs() -> None:
    """h= names what the message has of the fields to sign, twice each, and nothing that it has not."""
    headers = (
        ("List-Unsubscribe", "<https://example.test/u>"),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ("In-Reply-To", "<a@b.test>"),
        ("References", "<a@b.test>"),
        ("X-Order", "7"),
    )
    draft = replace(SIMPLE, cc=SIMPLE.to, reply_to=SIMPLE.to, headers=headers)
    named = [name.strip().decode() for name in tags(await sign(compose(draft)))[b"h"].split(b":")]
    assert sorted(named) == sorted(2 * [
        "from", "to", "cc", "reply-to", "subject", "date", "message-id", "in-reply-to", "references", "mime-version",
        "content-type", "content-transfer-encoding", "auto-submitted", "list-unsubscribe", "list-unsubscribe-post",
    ])  # fmt: skip
    assert b"cc" not in tags(await sign(compose(SIMPLE)))[b"h"]


async def test_a_field_that_occurs_twice_is_signed_twice(tmp_path: Path) -> None:
    """Of several fields of one name the last counts first (RFC 6376 §5.4.2), and all are signed."""
    message = await sign(b"From: a@example.test\r\nReferences: <one@b>\r\nReferences: <two@b>\r\n\r\nx\r\n")
    public = record(key_of("rsa2048"))
    assert await by_opendkim(message, public, tmp_path)
    assert await by_mail_dkim(message, public, tmp_path)
    assert not await by_opendkim(message.replace(b"<one@b>", b"<eno@b>"), public, tmp_path)


# Keys.


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
async def test_a_key_comes_in_either_form_of_pem(form: PrivateFormat) -> None:
    """PKCS #8 or PKCS #1, with the line ends of any system."""
    key = key_of("rsa2048")
    for text in (pem(key, form), pem(key, form).replace("\n", "\r\n")):
        message = await signed(compose(SIMPLE), DOMAIN, SELECTOR, Secret(text))
        assert verified(message, record(key))


def made(p: int, q: int) -> str:
    """A key of these two numbers, which had better be primes."""
    public = rsa.RSAPublicNumbers(65537, p * q)
    crt = (0x10001, 0x10001, 0x10001)
    return pem(rsa.RSAPrivateNumbers(p, q, 0x10001, *crt, public).private_key(unsafe_skip_rsa_key_validation=True))


def immense() -> str:
    """A good key but for the private exponent, which is longer than any that fits; written as PKCS #1 (RFC 8017)."""
    key = key_of("rsa1024")
    assert isinstance(key, rsa.RSAPrivateKey)
    good = key.private_numbers()
    numbers = (0, good.public_numbers.n, 65537, 2**9000, good.p, good.q, good.dmp1, good.dmq1, good.iqmp)
    integers = [der(0x02, number.to_bytes(number.bit_length() // 8 + 1)) for number in numbers]
    lines = base64.encodebytes(der(0x30, b"".join(integers))).decode()
    return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}-----END RSA PRIVATE KEY-----\n"


def der(tag: int, octets: bytes) -> bytes:
    """A value in DER (X.690)."""
    size = len(octets)
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, size] if size < 0x80 else [tag, 0x80 | len(length), *length]) + octets


def wordless() -> str:
    """A key that OpenSSL refuses without saying why: of X448, and as long as one of X25519 (RFC 8410)."""
    algorithm = der(0x30, der(0x06, b"\x2b\x65\x6f"))
    octets = der(0x30, der(0x02, b"\0") + algorithm + der(0x04, der(0x04, bytes(range(32)))))
    return f"-----BEGIN PRIVATE KEY-----\n{base64.encodebytes(octets).decode()}-----END PRIVATE KEY-----\n"


BAD_KEYS: dict[str, tuple[Callable[[], str], str]] = {
    "nothing": (str, "not a private key in PEM"),
    "another text": (lambda: "hunter2", "not a private key in PEM"),
    "cut short": (lambda: pem(key_of("rsa2048"))[:800], "not a private key in PEM"),
    "garbled": (lambda: pem(key_of("rsa2048")).replace("\nMII", "\nXII"), "not a private key in PEM"),
    "public": (
        lambda: key_of("rsa2048").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "not a private key in PEM",
    ),
    "with a passphrase": (
        lambda: pem(key_of("rsa2048"), encryption=BestAvailableEncryption(b"x")),
        "has a passphrase",
    ),
    "refused without a word": (wordless, "not a private key in PEM"),
    "elliptic": (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "neither RSA nor Ed25519"),
    "too short": (lambda: made(2**384 - 1, 2**384 - 1), "has 768 bits"),
    "too long": (lambda: made(2**2052 - 1, 2**2052 - 1), "has 4104 bits"),
    "far too long": (lambda: made(2**20000 - 1, 2**20000 - 1), "has 40000 bits"),
    "of no primes": (lambda: made(2**1024 - 1, 2**1024 - 1), "do not fit together"),
    "of a number too great": (immense, "do not fit together"),
    "of even numbers": (lambda: made(2**1024 - 2, 2**1024 - 2), "do not fit together"),
}


@pytest.mark.parametrize("which", BAD_KEYS)
async def test_a_key_that_cannot_sign_is_refused_without_being_told(which: str) -> None:
    """The profile's owner learns what is wrong; nothing of the key stands in the error, nor where a log looks."""
    make, words = BAD_KEYS[which]
    text = make()
    with pytest.raises(DkimError, match=words) as caught:
        await signed(compose(SIMPLE), DOMAIN, SELECTOR, Secret(text))
    trace = caught.value.__traceback__
    assert trace is not None
    told = "".join(traceback.TracebackException(DkimError, caught.value, trace.tb_next, capture_locals=True).format())
    assert not [line for line in text.splitlines() if len(line) > 5 and not line.startswith("--") and line in told]


@pytest.mark.parametrize("name", ["", "a b", "a;l=0", "a\r\nBcc: x", "ä.test", "a..b", ".a", "a.", "-a", "a" * 64])
async def test_a_domain_or_selector_that_is_no_name_is_refused(name: str) -> None:
    """Nothing but names in DNS gets into the field."""
    key = Secret(pem(key_of("ed25519")))
    with pytest.raises(DkimError, match="domain is not"):
        await signed(compose(SIMPLE), name, SELECTOR, key)
    with pytest.raises(DkimError, match="selector is not"):
        await signed(compose(SIMPLE), DOMAIN, name, key)


async def test_a_message_without_a_sender_is_not_signed() -> None:
    """RFC 6376 §5.4: From is always signed."""
    with pytest.raises(DkimError, match="no From"):
        await sign(b"To: ann@example.test\r\n\r\nFrom: a@example.test\r\n")
