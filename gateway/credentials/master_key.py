"""Where the master keys are: a file, a systemd credential, or the environment."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.credentials.sealed import Seal, SealError, make_key_file, read_key
from gateway.settings import SecretSource


def load_seal(sources: Sequence[SecretSource], environ: Mapping[str, str], *, may_make: bool) -> Seal:
    """Read the ring of master keys; a missing first file is made if nothing was ever sealed (`may_make`)."""
    keys: list[bytes] = []
    for index, source in enumerate(sources):
        path = _path(source, environ)
        if path is None:
            text = environ.get(source.env or "")
            if text is None:
                raise SealError(f"the environment has no {source.env}")
            keys.append(read_key(text))
        elif path.exists():
            keys.append(_read(path, private=source.credential is None))
        elif index == 0 and may_make and source.file is not None:
            keys.append(make_key_file(path))
        else:
            raise SealError(f"{path} does not exist; without it the secrets in the database cannot be opened")
    return Seal(keys)


def _path(source: SecretSource, environ: Mapping[str, str]) -> Path | None:
    if source.file is not None:
        return source.file
    if source.credential is not None:
        folder = environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise SealError(f"no CREDENTIALS_DIRECTORY, so no credential {source.credential}")
        return Path(folder) / source.credential
    return None


def _read(path: Path, *, private: bool) -> bytes:
    """Read a key. Who may read a credential is systemd's business, and its access list would look like a group's rights."""
    with path.open() as file:
        if private and os.fstat(file.fileno()).st_mode & 0o077:
            raise SealError(f"{path} is readable by others; its mode must be 0600 or stricter")
        return read_key(file.read())
