"""What is asked of the TLS of whoever the daemon connects to.

Some of them are tenants' own, and a handshake happens on the event loop: so it is bounded what they may have us do.
"""

import ssl
from pathlib import Path
from typing import Any, Final, Self

CIPHERS: Final = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
"""Python's own without DHE, whose primes are the other's to choose: one of 10,000 bits holds the loop for 0.7 s."""
MOST_HANDSHAKE: Final = 32 * 1024
"""Octets that the other may send until its handshake is over; OpenSSL would take 100 KiB of certificates alone.

Usual chains have 3 to 8 KB; the names of all usual authorities, by which some ask for a client certificate, 15 KB. Of
certificates made to take long (RSA of 3072 bits with an exponent as long, 7 ms each) there is room for 23.
"""
NO_PASSPHRASE: Final = ""  # without one OpenSSL would ask for it at the daemon's terminal


class _Bounded(ssl.SSLObject):
    """TLS as event loops do it, over buffers in memory, which ends a handshake that becomes too long."""

    _incoming: ssl.MemoryBIO
    _room = MOST_HANDSHAKE

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, *args: Any, **more: Any) -> Self:
        """Keep what is read from; `SSLContext.wrap_bio` makes its objects by this."""
        made: Self = super()._create(incoming, *args, **more)  # type: ignore[misc]
        made._incoming = incoming
        return made

    def do_handshake(self) -> None:
        """Go on with the handshake; ssl.SSLError, before anything more is looked at, if too much came in."""
        waiting = self._incoming.pending
        if waiting > self._room:
            error = ssl.SSLError(ssl.SSL_ERROR_SSL, f"handshake of more than {MOST_HANDSHAKE} octets")
            error.reason = "HANDSHAKE_TOO_LONG"
            raise error
        try:
            super().do_handshake()
        finally:
            self._room -= waiting - self._incoming.pending


def client_context(*, cafile: Path | None = None) -> ssl.SSLContext:
    """Make TLS settings for connecting to servers that prove their names: by these authorities (PEM), or the machine's.

    Raises OSError, of which ssl.SSLError is one, if they cannot be read.
    """
    context = ssl.create_default_context(cafile=cafile)
    context.set_ciphers(CIPHERS)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.sslobject_class = _Bounded
    return context
