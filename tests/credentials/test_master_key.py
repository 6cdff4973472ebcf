"""Where master keys are read from, and which of those places have to be private."""

from __future__ import annotations

import base64
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from gateway.credentials.master_key import faults, load_seal
from gateway.credentials.sealed import SealError
from gateway.credentials.secret import Secret
from gateway.settings import SecretSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY: Final = base64.b64encode(bytes(range(32))).decode()


def put(folder: Path, mode: int) -> Path:
    """Put a key into a file of this mode."""
    path = folder / "master-key"
    path.write_text(KEY)
    path.chmod(mode)
    return path


def test_a_credential_may_show_an_access_list(tmp_path: Path) -> None:
    """The service is let in by systemd through an ACL, whose mask looks like a right of the group."""
    put(tmp_path, 0o440)
    source = SecretSource(credential="master-key")
    load_seal([source], {"CREDENTIALS_DIRECTORY": str(tmp_path)}, may_make=False)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """A key in a file of our own is the owner's alone."""
    source = SecretSource(file=put(tmp_path, 0o440))
    with pytest.raises(SealError, match="readable by others"):
        load_seal([source], {}, may_make=False)


def test_a_missing_credential_is_not_made(tmp_path: Path) -> None:
    """A key that systemd did not pass is no reason to make another, even for an empty database."""
    with pytest.raises(SealError, match="does not exist"):
        load_seal([SecretSource(credential="master-key")], {"CREDENTIALS_DIRECTORY": str(tmp_path)}, may_make=True)
    assert list(tmp_path.iterdir()) == []


OCTETS: Final = bytes(range(0xE0, 0x100))  # a key as `head -c 32 /dev/urandom` gives it, and no UTF-8
NO_KEYS: Final = {
    "raw octets": OCTETS,
    "Latin-1": "ü".encode("latin-1") * 44,
    "UTF-8": "ü".encode() * 44,
    "too short": base64.b64encode(OCTETS[:31]),
    "too long": base64.b64encode(OCTETS + b"x"),
    "hexadecimal": OCTETS.hex().encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("octets", NO_KEYS.values(), ids=NO_KEYS.keys())
def test_a_file_that_holds_no_key_is_named(tmp_path: Path, octets: bytes) -> None:
    """Whatever is in it, the error names the file and what would be right, and quotes nothing."""
    path = put(tmp_path, 0o600)
    path.write_bytes(octets)
    with pytest.raises(SealError) as refused:
        load_seal([SecretSource(file=path)], {}, may_make=False)
    assert str(refused.value) == f"{path} holds none: a master key is 32 octets, written in base64"


@pytest.mark.parametrize("text", [OCTETS.decode("utf-8", "surrogateescape"), "ü" * 44, ""], ids=["octets", "ü", "none"])
def test_a_variable_that_holds_no_key_is_named(text: str) -> None:
    """Also octets, which the environment has as halves of characters."""
    with pytest.raises(SealError) as refused:
        load_seal([SecretSource(env="KEY")], {"KEY": text}, may_make=False)
    assert str(refused.value) == "KEY holds none: a master key is 32 octets, written in base64"


def test_a_folder_is_no_key(tmp_path: Path) -> None:
    """What can be opened, and not read as a file, is told like anything else that is wrong with a key."""
    with pytest.raises(SealError, match="cannot be read: Is a directory"):
        load_seal([SecretSource(file=tmp_path)], {}, may_make=True)


def test_a_missing_first_file_is_made_for_an_empty_database(tmp_path: Path) -> None:
    """Its owner alone may read it, and it is the same key at the next start."""
    source = SecretSource(file=tmp_path / "var" / "master-key")
    sealed = load_seal([source], {}, may_make=True).close(Secret("x"), ("place",))

    assert stat.S_IMODE((tmp_path / "var" / "master-key").stat().st_mode) == 0o600
    assert load_seal([source], {}, may_make=False).open(sealed, ("place",)) == Secret("x")


@contextmanager
def powerless() -> Iterator[None]:
    """Be nobody for a moment, if we are root, whom no mode keeps from reading."""
    us = os.geteuid()
    if us == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(us)


def test_a_file_that_may_not_be_read_is_no_key_and_none_that_is_wrong(tmp_path: Path) -> None:
    """A daemon that may not read it cannot start; whoever else may not is told nothing about it."""
    source = SecretSource(file=put(tmp_path, 0o000))
    with powerless():
        told = list(faults([source], {}))
        with pytest.raises(SealError, match="may not be read by this user"):
            load_seal([source], {}, may_make=True)
    assert told == []


def test_what_can_be_told_without_the_database(tmp_path: Path) -> None:
    """Keys that are wrong, open to others, or missing behind the first; not what may be there for the daemon alone."""
    wrong, open_to_all, missing = tmp_path / "wrong", put(tmp_path, 0o644), tmp_path / "missing"
    wrong.write_bytes(OCTETS)
    wrong.chmod(0o600)
    files = [SecretSource(file=path) for path in (missing, wrong, open_to_all, missing)]
    elsewhere = [SecretSource(env="KEY"), SecretSource(credential="master-key")]

    assert [str(error) for error in faults([*files, *elsewhere], {})] == [
        f"{wrong} holds none: a master key is 32 octets, written in base64",
        f"{open_to_all} is readable by others; its mode must be 0600 or stricter",
        f"{missing} does not exist; without it the secrets in the database cannot be opened",
    ]
