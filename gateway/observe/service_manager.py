"""Tell systemd how we are (sd_notify(3)): one datagram a message, and nothing at all when nobody asked."""

import os
import socket
import time
from contextlib import suppress


def notify(**state: str) -> None:
    """Send assignments such as `READY="1"`; a message that is lost, or cannot be sent, is the service manager's affair."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(f"{name}={value}" for name, value in state.items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(message.encode(), address)


def reloading() -> None:
    """A reload begins; `notify(READY="1")` ends it."""
    notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))


def watchdog_seconds() -> float | None:
    """How often to say WATCHDOG=1: three times in what the service manager allows; None if it does not watch us."""
    if os.environ.get("WATCHDOG_PID") not in (None, str(os.getpid())):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 3_000_000 if microseconds.isdigit() else None
