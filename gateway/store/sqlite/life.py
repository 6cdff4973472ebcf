"""The life that a database has here, written down beside it, so that a copy of it shows.

A database that was copied by any means holds mail that another daemon has sent by now. So each life has an id, which
stands in the database and, with the machine and the file that it belongs to, in a file of its own. A new life begins
with every start and every end, and now and then in between: what was copied before is of an older one. Only what was
copied and put back within one life, without another start or end, cannot be told apart.

A new id is announced beside the old one before it is committed, so that a crash in between looks like neither.
"""

import hashlib
import hmac
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

MACHINE_ID: Final = Path("/etc/machine-id")
LONGEST: Final = 4096  # bytes of the file


class Life:
    """The file with the ids that the database of this place may have."""

    def __init__(self, database: Path, machine_id: Path = MACHINE_ID) -> None:
        """Name the database; nothing is read or written yet."""
        self._database = database
        self._path = Path(f"{database}.life")
        self._machine_id = machine_id

    def knows(self, id_: str) -> bool:
        """Did the database with this id live here last, in this very file, on this machine?"""
        try:
            with self._path.open("rb") as file:
                told = json.loads(file.read(LONGEST))
            return told["place"] == self._place() and id_ in told["ids"]
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def write(self, *ids: str) -> None:
        """Let the database have any of these ids; on stable storage when it returns. OSError if it cannot be written."""
        made = Path(f"{self._path}.new")
        made.unlink(missing_ok=True)
        file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, json.dumps({"place": self._place(), "ids": ids}).encode())
            os.fsync(file)
        finally:
            os.close(file)
        made.rename(self._path)
        sync_folder(self._path.parent)

    def _place(self) -> str:
        """Name machine and file by what tells nothing of either: machine-id(5) wants its id kept to itself."""
        machine = b""
        with suppress(OSError):
            machine = self._machine_id.read_bytes().strip()
        return hmac.new(machine, b"notification-gateway %d" % self._database.stat().st_ino, hashlib.sha256).hexdigest()


def sync_folder(folder: Path) -> None:
    """Have what became of names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
