"""The name that a daemon has among those that share a store, and that nobody else has at the same time.

It is kept in a file which is locked for as long as the daemon lives. So a daemon that starts again is known to be the
one before, and to be the only one: what that one held is free at once.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.store.protocol import StoreBusy

_NAME = re.compile(rb"[0-9a-f]{32}")


@contextmanager
def held_name(path: Path) -> Iterator[str]:
    """Lock the file and give the name in it, a new one if it has none. Raises `StoreBusy` if a daemon has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreBusy(f"another daemon holds {path}") from error
        name = os.read(file, 64)
        if not _NAME.fullmatch(name):
            name = secrets.token_hex(16).encode()
            os.ftruncate(file, 0)
            os.pwrite(file, name, 0)
            os.fsync(file)
        yield name.decode()
    finally:
        os.close(file)
