"""What a relay's certificate says, for people and for watching; nothing here decides whether to trust it."""

from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.smtp.reply import clean

MOST_NAMES: Final = 10
UNREADABLE: Final = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises where OpenSSL read on: that keeps no mail back."""


def ends(der: bytes) -> datetime | None:
    """When it ends; None if it cannot be read."""
    try:
        return x509.load_der_x509_certificate(der).not_valid_after_utc
    except UNREADABLE:
        return None


def begins(der: bytes) -> datetime | None:
    """When it begins; None if it cannot be read."""
    try:
        return x509.load_der_x509_certificate(der).not_valid_before_utc
    except UNREADABLE:
        return None


def names(der: bytes) -> list[str]:
    """Which hosts and addresses it is for (RFC 5280 §4.2.1.6), the first of them."""
    try:
        extensions = x509.load_der_x509_certificate(der).extensions
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return []
    said = [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]
    return [clean(name) for name in said[:MOST_NAMES]]


def issuer(der: bytes) -> str:
    """Who signed it."""
    try:
        signer = x509.load_der_x509_certificate(der).issuer
    except UNREADABLE:
        return "somebody"
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for one in signer.get_attributes_for_oid(kind):
            return clean(str(one.value))
    return "somebody without a name"
