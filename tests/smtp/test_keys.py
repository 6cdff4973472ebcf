"""Hostile keys and certificates: those that a profile's owner gives, and those that a relay shows.

What they could do to everybody's mail is keep the event loop busy. So a client key that takes long is refused before
anything is dialled, and so are authorities, whatever OpenSSL would make of them; what a relay shows is bounded, and a
certificate that cannot be read keeps no mail back.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import ssl
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from gateway.credentials.secret import Secret
from gateway.credentials.tls import MOST_HANDSHAKE, client_context
from gateway.smtp import certificate
from gateway.smtp import tls as profiles_tls
from gateway.smtp.outcome import Phase, Trouble
from gateway.smtp.session import Security
from gateway.smtp.tls import MOST_AUTHORITIES, Contexts, TlsPolicy, authorities
from gateway.smtp.transaction import Engine
from tests.peers.smtp_server import IssuedTls, ScriptedRelay, issue_tls
from tests.smtp.talking import fault, opener, relay_at
from tests.smtp.test_attacks import loaded
from tests.smtp.test_dkim import der, made, wordless

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = rsa.RSAPublicKey | dsa.DSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
BEGIN, END = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2099, 1, 1, tzinfo=dt.UTC)


class Issuer(NamedTuple):
    """Somebody who certifies."""

    name: str
    key: ec.EllipticCurvePrivateKey


def certified(name: str, key: PublicKey, by: Issuer, *, authority: bool = False, filling: int = 0) -> x509.Certificate:
    """A certificate of a key, with so many octets more in it."""
    subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, by.name))
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), BEGIN, END)
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    filled = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999"), bytes(filling))
    return builder.add_extension(filled, critical=False).sign(by.key, SHA256())


def issuer(name: str) -> Issuer:
    """Somebody with a key of their own."""
    return Issuer(name, ec.generate_private_key(ec.SECP256R1()))


@cache
def key_of(kind: str) -> PrivateKey:
    """A key of this kind, made once."""
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


def written(
    key: PrivateKey, form: PrivateFormat = PrivateFormat.PKCS8, encryption: KeySerializationEncryption | None = None
) -> str:
    """A private key as text."""
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode()


def shown(*chain: x509.Certificate) -> str:
    """Certificates as text."""
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in chain)


class Asking(NamedTuple):
    """A relay's TLS that lets nobody in without a certificate of this root's, and what the relay's own is proven by."""

    tls: IssuedTls
    root: Issuer


@pytest.fixture(scope="module")
def asking() -> Asking:
    """One for the module."""
    root, tls = issuer("root"), issue_tls()
    itself = certified(root.name, root.key.public_key(), root, authority=True)
    tls.context.load_verify_locations(cadata=shown(itself))
    tls.context.verify_mode = ssl.CERT_REQUIRED
    return Asking(tls, root)


async def client_of(asking: Asking, text: str, security: Security = Security.IMPLICIT_TLS) -> str | None:
    """Whose certificate a relay sees when this text is given for it."""
    policy = TlsPolicy(ca_certificates=asking.tls.ca_pem, client_certificate=Secret(text))
    async with ScriptedRelay(tls=asking.tls.context, implicit_tls=security is Security.IMPLICIT_TLS) as relay:
        engine = await opener().open(relay_at(relay.port, security, tls=policy))
        assert isinstance(engine, Engine), engine
        await engine.quit()
        [handshake] = relay.handshakes
    return handshake.client


# Client certificates that are shown.


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.IMPLICIT_TLS])
@pytest.mark.parametrize("kind", ["rsa2048", "rsa4096", "p256", "ed25519"])
async def test_a_client_certificate_is_shown(kind: str, security: Security, asking: Asking) -> None:
    """RSA up to 4096 bits and elliptic curves: the relay sees whose certificate it is."""
    key = key_of(kind)
    text = written(key) + shown(certified("acme", key.public_key(), asking.root))

    assert await client_of(asking, text, security) == "acme"


FORMS: dict[str, Callable[[str, str], str]] = {
    "certificate first": lambda key, chain: chain + key,
    "line ends of another system": lambda key, chain: (key + chain).replace("\n", "\r\n"),
    "words around": lambda key, chain: f"for the relay\n{key}and\n{chain}so long\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
async def test_a_client_certificate_however_it_is_written(kind: str, form: str, asking: Asking) -> None:
    """Key and certificate come in any order, the key also as PKCS #1 or SEC 1, and other lines do no harm."""
    key = key_of(kind)
    chain = shown(certified("acme", key.public_key(), asking.root))

    assert await client_of(asking, FORMS[form](written(key, PrivateFormat.TraditionalOpenSSL), chain)) == "acme"


async def test_the_whole_chain_is_shown(asking: Asking) -> None:
    """A relay that knows only the root believes a certificate of one between, since both are shown."""
    between, key = issuer("between"), key_of("p256")
    chain = (
        certified("acme", key.public_key(), between),
        certified(between.name, between.key.public_key(), asking.root, authority=True),
    )

    assert await client_of(asking, written(key) + shown(*chain)) == "acme"


# Client certificates that are not.


def without_passphrase(key: PrivateKey, iterations: int = 1_000) -> str:
    """A key that the empty passphrase opens, after as much work as its maker liked (RFC 8018 §6.2)."""
    salt, vector = bytes(16), bytes(range(16))
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    plain += bytes([16 - len(plain) % 16]) * (16 - len(plain) % 16)
    sealing = Cipher(AES(hashlib.pbkdf2_hmac("sha256", b"", salt, iterations, 32)), CBC(vector)).encryptor()
    count = der(0x02, iterations.to_bytes(iterations.bit_length() // 8 + 1))
    hmac = der(0x30, der(0x06, bytes.fromhex("2a864886f70d0209")) + der(0x05, b""))
    derivation = der(0x06, bytes.fromhex("2a864886f70d01050c")) + der(0x30, der(0x04, salt) + count + hmac)
    cipher = der(0x06, bytes.fromhex("60864801650304012a")) + der(0x04, vector)
    scheme = der(0x06, bytes.fromhex("2a864886f70d01050d")) + der(0x30, der(0x30, derivation) + der(0x30, cipher))
    octets = der(0x30, der(0x30, scheme) + der(0x04, sealing.update(plain) + sealing.finalize()))
    lines = base64.encodebytes(octets).decode()
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{lines}-----END ENCRYPTED PRIVATE KEY-----\n"


def long_rsa() -> str:
    """4104 bits with a certificate that goes with it; that its numbers are no primes nobody would see."""
    text = made(2**2052 - 1, 2**2052 - 1)
    key = load_pem_private_key(text.encode(), None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return text + shown(certified("acme", key.public_key(), issuer("root")))


def of_ours(version: bytes = b"\x02") -> str:
    """A certificate of our key, which may say to be of another version of X.509 (2 is the third)."""
    octets = certified("acme", key_of("p256").public_key(), issuer("root")).public_bytes(Encoding.DER)
    octets = octets.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + version, 1)
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(octets).decode()}-----END CERTIFICATE-----\n"


BAD: dict[str, tuple[Callable[[], str], str]] = {
    "nothing": (str, "no PEM"),
    "another text": (lambda: "hunter2", "no PEM"),
    "a key alone": (lambda: written(key_of("p256")), "no PEM"),
    "a certificate alone": (of_ours, "no PEM"),
    "another's key": (lambda: written(key_of("ed25519")) + of_ours(), "no PEM"),
    "a garbled certificate": (lambda: written(key_of("p256")) + of_ours().replace("\nMII", "\nXII"), "no PEM"),
    "an unknown version": (lambda: written(key_of("p256")) + of_ours(b"\x07"), "no PEM"),
    "a key refused without a word": (lambda: wordless() + of_ours(), "no PEM"),
    "a passphrase": (lambda: written(key_of("p256"), encryption=BestAvailableEncryption(b"x")) + of_ours(), "no PEM"),
    "an empty passphrase": (lambda: without_passphrase(key_of("p256")) + of_ours(), "no PEM"),
    "a long key": (long_rsa, "more than 4096 bits"),
}


@pytest.mark.parametrize("which", BAD)
async def test_a_client_certificate_that_is_not_shown(which: str) -> None:
    """Refused before anything is dialled; the fault says why, and nothing of what was given."""
    make, words = BAD[which]
    text, tls = make(), issue_tls()
    policy = TlsPolicy(ca_certificates=tls.ca_pem, client_certificate=Secret(text))
    async with ScriptedRelay(tls=tls.context, implicit_tls=True) as relay:
        told = await fault(relay_at(relay.port, Security.IMPLICIT_TLS, tls=policy))

        assert (told.phase, told.trouble) == (Phase.TLS, Trouble.CERTIFICATE_UNREADABLE)
        assert words in told.detail
        assert relay.sessions == []
    assert not [
        line for line in text.splitlines() if len(line) > 5 and not line.startswith("--") and line in repr(told)
    ]


def test_what_an_empty_passphrase_opens(tmp_path: Path) -> None:
    """OpenSSL itself would take the key above: it is not refused because it is broken."""
    file = tmp_path / "pair.pem"
    file.write_text(without_passphrase(key_of("p256")) + of_ours())
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(file, password="")


# Authorities that a profile trusts.


def long_key(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    """An RSA key; that its number has other factors than two primes nobody would see."""
    return rsa.RSAPublicNumbers(exponent, 2**bits - 1).public_key()


def dsa_key() -> dsa.DSAPublicKey:
    """A DSA key, which nobody could sign by."""
    parameters = dsa.DSAParameterNumbers(2**2048 - 1, 2**256 - 1, 2)
    return dsa.DSAPublicNumbers(4, parameters).public_key()


def authority_of(key: PublicKey) -> str:
    """The certificate of an authority with this key, as text."""
    return shown(certified("authority", key, issuer("root"), authority=True))


TRUSTED: dict[str, Callable[[], str]] = {
    "as many as a system has": lambda: authority_of(key_of("p256").public_key()) * MOST_AUTHORITIES,
    "elliptic curves": lambda: authority_of(key_of("ed25519").public_key()) + authority_of(key_of("p256").public_key()),
    "a long RSA key": lambda: authority_of(long_key(8192, 2**32 - 1)),
}


@pytest.mark.parametrize("which", TRUSTED)
def test_authorities_that_are_trusted(which: str) -> None:
    """They are given on without what stands around them."""
    text = TRUSTED[which]()

    assert authorities(f"ours:\n{text}so long\n").decode() == text


UNTRUSTED: dict[str, tuple[Callable[[], str], str]] = {
    "another text": (lambda: "hunter2", "are no certificates"),
    "a garbled one": (lambda: of_ours().replace("\nMII", "\nXII"), "are no certificates"),
    "too many": (lambda: authority_of(key_of("p256").public_key()) * (MOST_AUTHORITIES + 1), "are more than 200"),
    "a long exponent": (lambda: authority_of(long_key(3072, 2**3072 - 3)), "no usual key"),
    "a very long RSA key": (lambda: authority_of(long_key(8200)), "no usual key"),
    "DSA": (lambda: authority_of(dsa_key()), "no usual key"),
    "a bad one among good ones": (
        lambda: of_ours() + authority_of(long_key(3072, 2**33 + 1)) + of_ours(), "no usual key",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", UNTRUSTED)
async def test_authorities_that_are_not_trusted(which: str) -> None:
    """Refused before anything is dialled, though they were saved once; the fault says why."""
    make, words = UNTRUSTED[which]
    async with ScriptedRelay(tls=issue_tls().context, implicit_tls=True) as relay:
        told = await fault(relay_at(relay.port, Security.IMPLICIT_TLS, ca=make()))

        assert (told.phase, told.trouble) == (Phase.TLS, Trouble.TLS_UNVERIFIED)
        assert words in told.detail
        assert relay.sessions == []


# TLS settings that are kept ready.


@cache
def trusting(number: int) -> TlsPolicy:
    """A policy of its own for each number."""
    return TlsPolicy(ca_certificates=f"{number}\n{of_ours()}")


async def test_tls_settings_are_made_once() -> None:
    """However many sessions are opened at once: they share one context, and so do later ones."""
    contexts = Contexts()
    made = await asyncio.gather(*(contexts.of(trusting(1)) for _ in range(9)))

    assert {id(one) for one in (*made, await contexts.of(trusting(1)))} == {id(made[0])}


async def test_tls_settings_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more than there is room for, and others than those go first that are in use."""
    monkeypatch.setattr(profiles_tls, "CONTEXTS", 2)
    contexts = Contexts()
    first = await contexts.of(trusting(1))
    await contexts.of(trusting(2))
    again = await contexts.of(trusting(1))
    await contexts.of(trusting(3))

    assert await contexts.of(trusting(1)) is first is again
    assert len(contexts) == 2


async def test_the_loop_goes_on_while_certificates_are_read() -> None:
    """Reading as many as a profile may trust is nothing that holds everybody else for as long as it takes."""
    root, key = issuer("root"), key_of("p256").public_key()
    text = shown(*(certified(f"authority {number}", key, root) for number in range(MOST_AUTHORITIES)))
    contexts, shares = Contexts(), []
    for number in range(5):  # the best of five: others are at work on this machine
        making = asyncio.ensure_future(contexts.of(TlsPolicy(ca_certificates=f"{number}\n{text}")))
        began = last = time.perf_counter()
        longest = 0.0
        while not making.done():
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        shares.append(longest / (last - began))

    assert min(shares) < 0.5


# Certificates that relays show.


def showing(octets: int) -> IssuedTls:
    """A relay's TLS that shows one certificate more than it has to, of so many octets and somewhat more."""
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    filler = shown(certified("filler", key_of("p256").public_key(), issuer("root"), filling=octets))
    chain, private = own.cert_chain_pems[0].bytes().decode() + filler, own.private_key_pem.bytes().decode()
    return IssuedTls(loaded(chain, private), authority.cert_pem.bytes().decode(), chain, private)


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.IMPLICIT_TLS])
@pytest.mark.parametrize("octets", [20_000, MOST_HANDSHAKE])
async def test_a_relay_shows_a_chain_and_no_novel(octets: int, security: Security) -> None:
    """More than any relay has to say until TLS stands ends the handshake, which a long chain does not."""
    tls = showing(octets)
    async with ScriptedRelay(tls=tls.context, implicit_tls=security is Security.IMPLICIT_TLS) as relay:
        came = await opener().open(relay_at(relay.port, security, ca=tls.ca_pem))

        if isinstance(came, Engine):
            came.abort()
        else:
            assert (came.phase, came.trouble) == (Phase.TLS, Trouble.TLS_FAILED)
            assert "TOO_LONG" in came.detail
        assert isinstance(came, Engine) is (octets < MOST_HANDSHAKE)


def taken(server: ssl.SSLContext, piece: int) -> int:
    """How many octets of a server's handshake are taken in pieces of this size before there is a fault."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming = ssl.MemoryBIO()
    client = client_context().wrap_bio(incoming, to_server, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server.wrap_bio(to_server, to_client, server_side=True).do_handshake()
    octets = 0
    while said := to_client.read(piece):
        incoming.write(said)
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            octets += len(said)
        except ssl.SSLError:
            break
    return octets


@pytest.mark.parametrize("piece", [1_000, 10_000, 1_000_000])
def test_a_handshake_ends_however_it_is_cut(piece: int) -> None:
    """What came in is counted from its beginning."""
    assert taken(showing(60_000).context, piece) == MOST_HANDSHAKE // piece * piece


@pytest.mark.parametrize("policy", [TlsPolicy(), TlsPolicy(verify=False), TlsPolicy(min_version="1.3")])
def test_no_relay_begins_anew(policy: TlsPolicy) -> None:
    """There is one handshake in a session: with TLS 1.2 the relay could else have us do as many as it likes."""
    assert profiles_tls.tls_context(policy).options & ssl.OP_NO_RENEGOTIATION


def odd() -> bytes:
    """A certificate whose issuer is called by a string of bits, where a name has letters (RFC 5280 §4.1.2.4)."""
    octets = certified("relay", key_of("p256").public_key(), issuer("root")).public_bytes(Encoding.DER)
    assert octets.count(b"\x0c\x04root") == 1
    return octets.replace(b"\x0c\x04root", b"\x03\x04\0oot")


def test_a_certificate_with_an_odd_name_is_read_as_far_as_it_goes() -> None:
    """It has its times, no names, and somebody signed it."""
    octets = odd()

    assert (certificate.begins(octets), certificate.ends(octets)) == (BEGIN, END)
    assert (certificate.names(octets), certificate.issuer(octets)) == ([], "somebody")


def test_what_is_no_certificate_says_nothing() -> None:
    """Neither times nor names; and nothing is raised."""
    octets = b"hunter2"

    assert (certificate.begins(octets), certificate.ends(octets)) == (None, None)
    assert (certificate.names(octets), certificate.issuer(octets)) == ([], "somebody")
