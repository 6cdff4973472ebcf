"""What is asked of the TLS of whoever we connect to, and what is shown to a relay.

Certificates and keys of profiles are tenants' own: they are looked at before OpenSSL reads them, because what it does
with them happens on the event loop. Nothing of them is written to a disk.
"""

import os
import ssl
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.credentials.secret import Secret
from gateway.credentials.tls import client_context

NO_PAIR: Final = "the client certificate is no PEM of a certificate and its bare key"
MOST_BITS: Final = 4096  # of an RSA key: signing happens on the loop, and with 32768 it takes ten seconds
CONTEXTS: Final = 256  # TLS settings that are kept ready: reading the system's certificates takes 10 ms


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


@lru_cache(CONTEXTS)
def tls_context(policy: TlsPolicy) -> ssl.SSLContext:
    """Make the TLS settings of a profile; without `verify` neither chain nor name is checked."""
    context = client_context(cadata=policy.ca_certificates)
    if policy.min_version == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if not policy.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if policy.client_certificate is not None:
        _show(context, policy.client_certificate)
    return context


def _show(context: ssl.SSLContext, pem: Secret) -> None:
    """Load certificate and key by a file in memory, since the library takes nothing but paths."""
    with os.fdopen(os.memfd_create("client-certificate"), "wb") as file:
        file.write(_judged(pem))
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")
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
