"""Secrets on this machine: files of the operator's directory, and variables of the daemon's environment.

Both are the operator's: tenants name them only as far as `[local_secrets] allow` goes. A file is read when its inode,
time or size changed; a mounted Kubernetes secret is a link that is swapped, so it is followed, within the directory.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from gateway.credentials.provider import PASSWORD, CredentialError, Fetched, Kind
from gateway.credentials.secret import Secret

ANYBODY: Final = "*"
OPERATORS: Final = "system"
MAX_OCTETS: Final = 65_536
FILE_SECONDS: Final = 10.0  # between two looks at a file


@dataclass(frozen=True, slots=True)
class LocalSecrets:
    """Which files and variables there are, and who may use them: beginnings of names by tenant (`*`: any)."""

    directory: Path = Path("secrets")
    env: tuple[str, ...] = ()
    allow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def permits(self, tenant: str, source: str, key: str) -> bool:
        """May profiles of the tenant name this file or variable?"""
        if source == "env" and not any(fnmatchcase(key, pattern) for pattern in self.env):
            return False
        if source == "file" and not all(_is_name(part) for part in key.split("/")):
            return False
        return tenant == OPERATORS or begins(key, (*self.allow.get(tenant, ()), *self.allow.get(ANYBODY, ())))

    async def read_file(self, key: str) -> Fetched:
        """Read a file; one line break at its end is not part of the secret."""
        path = self.directory / key
        try:
            resolved = path.resolve(strict=True)
            if not resolved.is_relative_to(self.directory.resolve(strict=True)):
                raise CredentialError(Kind.POLICY, "the file leads out of the directory of local secrets")
            return _read(resolved)
        except FileNotFoundError:
            raise CredentialError(Kind.NOT_FOUND, "there is no such file in the directory of local secrets") from None
        except OSError as error:
            raise CredentialError(Kind.DENIED, f"the file cannot be read: {error.strerror}") from None
        except RuntimeError:  # what links that lead in a circle are, before Python 3.13
            raise CredentialError(Kind.DENIED, "the file cannot be read: its links lead in a circle") from None

    def read_variable(self, key: str) -> Fetched:
        """Read a variable, which stays what it was when the daemon started."""
        text = self.environ.get(key)
        if text is None:
            raise CredentialError(Kind.NOT_FOUND, "the daemon's environment has no such variable")
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise CredentialError(Kind.MALFORMED, "the variable is not UTF-8")
        return Fetched({PASSWORD: Secret(text)}, "")


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and "\0" not in part and not part.startswith("/")


def lent_to(owner: str, allowed: Iterable[str]) -> bool:
    """May this tenant's profiles use what the operator lends to these tenants (`*`: any)? `system` may use everything."""
    return owner == OPERATORS or any(one in (owner, ANYBODY) for one in allowed)


def begins(key: str, prefixes: Iterable[str]) -> bool:
    """Whole segments: `smtp/a` is no beginning of `smtp/ab`."""
    for prefix in prefixes:  # noqa: SIM110 - a generator costs a fifth of what a use of a cached secret does
        if not prefix or key == prefix or key.startswith(prefix.rstrip("/") + "/"):
            return True
    return False


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else opening a FIFO waits until somebody writes into it


def _read(path: Path) -> Fetched:
    with open(path, "rb", opener=_opener) as file:
        told = os.fstat(file.fileno())
        if not stat.S_ISREG(told.st_mode):
            raise CredentialError(Kind.MALFORMED, "this is no regular file")
        data = file.read(MAX_OCTETS + 1)
    if len(data) > MAX_OCTETS:
        raise CredentialError(Kind.MALFORMED, f"the file has more than {MAX_OCTETS} octets")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise CredentialError(Kind.MALFORMED, "the file is not UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise CredentialError(Kind.MALFORMED, "the file is empty")
    return Fetched({PASSWORD: Secret(text)}, f"{told.st_ino:x}-{told.st_mtime_ns:x}-{told.st_size:x}")
