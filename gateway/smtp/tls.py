"""What is asked of the TLS of whoever we connect to, and what is shown to a relay.

Certificates and keys of profiles are tenants' own: they are looked at before OpenSSL reads them, because what it does
with them happens on the event loop. Nothing of them is written to a disk.
"""

import asyncio
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.dsa import DSAPublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.credentials.secret import Secret
from gateway.credentials.tls import client_context
from gateway.smtp.aside import Aside

UNUSUAL: Final = "certificates of which one has no usual key: RSA of 8192 bits at most, or an elliptic curve"
NO_PAIR: Final = "the client certificate is no PEM of a certificate and its bare key"
MOST_BITS: Final = 4096  # of an RSA key: signing happens on the loop, and with 32768 it takes ten seconds
MOST_AUTHORITIES: Final = 200  # a system has some 150; reading so many takes 40 ms, and they take 1 MiB
MOST_AUTHORITY_BITS: Final = 8192  # of an RSA key: checking takes a millisecond, with 16384 and a long exponent six
MOST_EXPONENT_BITS: Final = 32  # nobody has more; with one as long as a key of 3072 bits checking takes 7 ms
CONTEXTS: Final = 64  # TLS settings that are kept ready: reading the system's certificates takes 10 ms

_aside: Final = Aside("tls")


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What is asked of the relay's certificate and protocol, and what is shown to it (PEM, certificate and key)."""

    verify: bool = True
    allow_auth_unverified: bool = False
    ca_certificates: str | None = None
    min_version: str = "1.2"
    client_certificate: Secret | None = None


class ClientCertificateError(Exception):
    """A client certificate cannot be shown; the text is ours."""


class AuthoritiesError(Exception):
    """Certificates are not such as a profile may trust; the text is ours, and says what they are."""


class Contexts:
    """TLS settings of profiles: those used last are kept ready, others are made in a thread."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ready: dict[TlsPolicy, ssl.SSLContext] = {}
        self._making = asyncio.Lock()

    async def of(self, policy: TlsPolicy) -> ssl.SSLContext:
        """Give the settings of a profile; raises like `tls_context`."""
        if policy in self._ready:
            return self._used(policy, self._ready[policy])
        async with self._making:  # many want the same when a daemon starts
            if (context := self._ready.get(policy)) is None:
                context = await _aside(tls_context, policy)
            return self._used(policy, context)

    def _used(self, policy: TlsPolicy, context: ssl.SSLContext) -> ssl.SSLContext:
        """Keep it as the one used last; the oldest goes."""
        self._ready.pop(policy, None)
        self._ready[policy] = context
        if len(self._ready) > CONTEXTS:
            del self._ready[next(iter(self._ready))]
        return context

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._ready)


def tls_context(policy: TlsPolicy) -> ssl.SSLContext:
    """Make the TLS settings of a profile; without `verify` neither chain nor name is checked.

    Raises `AuthoritiesError` or `ClientCertificateError`.
    """
    if policy.ca_certificates is None:
        context = client_context()
    else:
        with _in_memory(authorities(policy.ca_certificates)) as file:  # given as text nothing else runs meanwhile
            context = client_context(cafile=file)
    if policy.min_version == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if not policy.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if policy.client_certificate is not None:
        _show(context, policy.client_certificate)
    return context


@contextmanager
def _in_memory(octets: bytes) -> Iterator[Path]:
    """Name a file that is on no disk."""
    with os.fdopen(os.memfd_create("certificates"), "wb") as file:
        file.write(octets)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


# Whom a profile trusts.


def authorities(pem: str) -> bytes:
    """Write certificates that a profile trusts anew (PEM), if they are neither many nor such as take long to check by.

    OpenSSL makes a chain of a hundred of them if a relay's certificate leads there. Raises `AuthoritiesError`.
    """
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):
        raise AuthoritiesError("no certificates in PEM form") from None
    if len(found) > MOST_AUTHORITIES:
        raise AuthoritiesError(f"more than {MOST_AUTHORITIES} certificates")
    if not all(map(_quick, found)):
        raise AuthoritiesError(UNUSUAL)
    return b"".join(one.public_bytes(Encoding.PEM) for one in found)


def _quick(certificate: x509.Certificate) -> bool:
    """Does it take no more than a millisecond or two to check a signature by this key?"""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    if isinstance(key, RSAPublicKey):
        return key.key_size <= MOST_AUTHORITY_BITS and key.public_numbers().e.bit_length() <= MOST_EXPONENT_BITS
    return not isinstance(key, DSAPublicKey)


# What is shown.


def _show(context: ssl.SSLContext, pem: Secret) -> None:
    """Load certificate and key by a file in memory, since the library takes nothing but paths."""
    with _in_memory(_judged(pem)) as file:
        try:
            context.load_cert_chain(file, password="")
        except ssl.SSLError:
            raise ClientCertificateError(NO_PAIR) from None


def _judged(pem: Secret) -> bytes:
    """Write key and certificates anew, so that OpenSSL reads what was looked at here, and nothing besides.

    It would try an empty passphrase on an encrypted key, which may take as long as the key's maker liked.
    """
    text = pem.reveal().encode()
    try:
        key = load_pem_private_key(text, password=None, unsafe_skip_rsa_key_validation=True)
        chain = x509.load_pem_x509_certificates(text)
        if isinstance(key, RSAPrivateKey) and key.key_size > MOST_BITS:
            raise ClientCertificateError(f"the client certificate's RSA key has more than {MOST_BITS} bits")
        parts = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
        return b"".join([*parts, *(one.public_bytes(Encoding.PEM) for one in chain)])
    except (TypeError, ValueError, UnsupportedAlgorithm, InternalError, x509.InvalidVersion):
        raise ClientCertificateError(NO_PAIR) from None
