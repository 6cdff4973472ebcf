"""What is asked of the TLS of whoever the daemon connects to."""

import ssl
from pathlib import Path
from typing import Final

CIPHERS: Final = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
"""Python's own without DHE, whose primes are the other's to choose: one of 10,000 bits holds the loop for 0.7 s."""
NO_PASSPHRASE: Final = ""  # without one OpenSSL would ask for it at the daemon's terminal


def client_context(*, cafile: Path | None = None, cadata: str | None = None) -> ssl.SSLContext:
    """Make TLS settings for connecting to servers that prove their names: by these authorities (PEM), or the machine's.

    Raises OSError, of which ssl.SSLError is one, and for `cadata` TypeError or ValueError, if they cannot be read.
    """
    context = ssl.create_default_context(cafile=cafile, cadata=cadata)
    context.set_ciphers(CIPHERS)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
