"""The development mail catcher: an SMTP server on this machine that takes everything and delivers nothing.

Keeps the last messages in memory. Never part of a production set-up: it is off unless `[mail_catcher] listen` is set.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as PeerSession

KEPT: Final = 200
MAX_OCTETS: Final = 50 << 20


@dataclass(frozen=True, slots=True)
class CaughtMail:
    """One message as it came over the wire; `received_at` in milliseconds."""

    number: int
    received_at: int
    sender: str
    recipients: tuple[str, ...]
    data: bytes


class Catcher:
    """Takes mail on one address."""

    def __init__(self) -> None:
        """Begin with nothing caught."""
        self.port = 0
        self._caught: deque[CaughtMail] = deque(maxlen=KEPT)
        self._count = 0
        self._server: asyncio.Server | None = None

    def messages(self) -> Sequence[CaughtMail]:
        """What was caught, newest first."""
        return tuple(reversed(self._caught))

    async def start(self, host: str, port: int) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, loop=loop, enable_SMTPUTF8=True, data_size_limit=MAX_OCTETS, ident="mail catcher"),
            host,
            port,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def handle_DATA(self, _server: SMTP, _session: PeerSession, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep a message."""
        self._count += 1
        data = envelope.content if isinstance(envelope.content, bytes) else (envelope.content or "").encode()
        self._caught.append(
            CaughtMail(
                self._count, time.time_ns() // 1_000_000, envelope.mail_from or "", tuple(envelope.rcpt_tos), data
            )
        )
        return f"250 2.0.0 caught as {self._count}"
