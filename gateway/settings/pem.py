"""PEM files that settings name, judged as OpenSSL judges them where they are used; what is over is no fault.

A key that is encrypted is refused: nobody is there to give a passphrase, and the library would wait for one at the
terminal. Nothing of a file is kept, or told.
"""

import ssl
from pathlib import Path
from typing import Annotated, Final, NoReturn

from pydantic import AfterValidator, ValidationInfo

from gateway.settings.faults import refuse
from gateway.settings.kinds import ExistingFile

_ANOTHER: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
"""How OpenSSL calls a key that belongs to another certificate, of the same kind or of another."""


def _with_certificates(path: Path) -> Path:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except PermissionError:
        _refuse_unreadable()
    except OSError:  # of which ssl.SSLError is one
        refuse("names a file in which no certificate can be read", "give certificates in PEM")
    return path


CertificateFile = Annotated[ExistingFile, AfterValidator(_with_certificates)]


def key_of(certificate: str) -> AfterValidator:
    """Make what judges the file of a private key by the certificate, which stands before it in the table under that name."""

    def judged(path: Path, info: ValidationInfo) -> Path:
        if (chain := info.data.get(certificate)) is not None:  # else it is missing or refused itself
            _judge(chain, path, certificate)
        return path

    return AfterValidator(judged)


def _judge(chain: Path, key: Path, certificate: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, _refuse_passphrase)
    except PermissionError:
        _refuse_unreadable()
    except OSError as error:
        reason = getattr(error, "reason", None)
        if reason in _ANOTHER:
            refuse(
                f"names a key that does not belong to {certificate}", f"give the key that {certificate} was made for"
            )
        if reason is not None:
            refuse(f"cannot be used with {certificate} ({reason})", "give another key, and a certificate for it")
        refuse(f"names a file in which the key of {certificate} cannot be read", "give the bare key in PEM")


def _refuse_unreadable() -> NoReturn:
    refuse(
        "names a file that this user may not read", "let the daemon's user read it, and look as that user, or as root"
    )


def _refuse_passphrase() -> NoReturn:
    refuse("names a key that is encrypted", "give the bare key, in a file that only the daemon's user may read")
