"""Where master keys are read from, and which of those places have to be private."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

import pytest

from gateway.credentials.master_key import load_seal
from gateway.credentials.sealed import SealError
from gateway.settings import SecretSource

if TYPE_CHECKING:
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
