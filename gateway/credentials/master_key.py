"""Where the master keys are: a file, a systemd credential, or the environment."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gateway.credentials.sealed import Seal, SealError, make_key_file, read_key
from gateway.settings import SecretSource


class KeyMissing(SealError):
    """There is nothing where a master key should be."""


class KeyHidden(SealError):
    """This user may not look where a master key should be."""


def load_seal(sources: Sequence[SecretSource], environ: Mapping[str, str], *, may_make: bool) -> Seal:
    """Read the ring of master keys; a missing first file is made if nothing was ever sealed (`may_make`).

    Raises `SealError`, which names the place and nothing of what is there.
    """
    keys: list[bytes] = []
    for index, source in enumerate(sources):
        try:
            keys.append(_key(source, environ))
        except KeyMissing:
            if index > 0 or source.file is None or not may_make:
                raise
            keys.append(make_key_file(source.file))
    return Seal(keys)


def faults(sources: Sequence[SecretSource], environ: Mapping[str, str]) -> Iterator[SealError]:
    """Give what keeps any daemon from using these sources, as far as can be seen from where this runs.

    A variable or a credential may be there for the daemon alone, and a first file that is missing is made for a new
    database, so these are no faults.
    """
    for index, source in enumerate(sources):
        try:
            _key(source, environ)
        except KeyHidden:
            continue
        except KeyMissing as error:
            if index > 0 and source.file is not None:
                yield error
        except SealError as error:
            yield error


def _key(source: SecretSource, environ: Mapping[str, str]) -> bytes:
    place, text = _found(source, environ)
    try:
        return read_key(text)
    except SealError as error:
        raise SealError(f"{place} holds none: {error}") from None


def _found(source: SecretSource, environ: Mapping[str, str]) -> tuple[str, str | bytes]:
    """Give the name of a source's place, and what is there."""
    if source.env is not None:
        text = environ.get(source.env)
        if text is None:
            raise KeyMissing(f"the environment has no {source.env}")
        return source.env, text
    path = source.file or _of_systemd(source, environ)
    return str(path), _read(path, private=source.credential is None)


def _of_systemd(source: SecretSource, environ: Mapping[str, str]) -> Path:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder is None or source.credential is None:
        raise KeyMissing(f"no CREDENTIALS_DIRECTORY, so no credential {source.credential}")
    return Path(folder) / source.credential


def _read(path: Path, *, private: bool) -> bytes:
    """Read a file. Who may read a credential is systemd's business, and its access list would look like a group's rights."""
    try:
        with path.open("rb") as file:
            if private and os.fstat(file.fileno()).st_mode & 0o077:
                raise SealError(f"{path} is readable by others; its mode must be 0600 or stricter")
            return file.read()
    except FileNotFoundError:
        raise KeyMissing(f"{path} does not exist; without it the secrets in the database cannot be opened") from None
    except PermissionError:
        raise KeyHidden(f"{path} may not be read by this user") from None
    except OSError as error:
        raise SealError(f"{path} cannot be read: {error.strerror}") from None
