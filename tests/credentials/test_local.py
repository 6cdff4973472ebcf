"""Secrets of this machine: which files and variables tenants may name, and what is read of them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from gateway.credentials.local import LocalSecrets
from gateway.credentials.provider import PASSWORD, CredentialError, Fetched, Kind

if TYPE_CHECKING:
    from pathlib import Path

ALLOW = {"acme": ("smtp", "relay-a"), "*": ("common",), "zoo": ("",)}


def text(fetched: Fetched) -> str:
    return fetched.fields[PASSWORD].reveal()


@pytest.mark.parametrize(
    ("tenant", "source", "key", "allowed"),
    [
        ("acme", "file", "smtp/relay", True),
        ("acme", "file", "smtp", True),
        ("acme", "file", "smtpx", False),
        ("acme", "file", "relay-a", True),
        ("acme", "file", "relay-ab", False),
        ("acme", "file", "common/x", True),
        ("acme", "file", "smtp/../zoo", False),
        ("acme", "file", "/etc/passwd", False),
        ("acme", "file", "smtp//x", False),
        ("acme", "file", "smtp/\0", False),
        ("system", "file", "../x", False),
        ("system", "file", "anything", True),
        ("zoo", "file", "anything", True),
        ("other", "file", "smtp", False),
        ("zoo", "env", "SMTP_A", True),
        ("zoo", "env", "HOME", False),
        ("system", "env", "HOME", False),
        ("acme", "env", "SMTP_A", False),
    ],
)
def test_who_may_name_what(tmp_path: Path, tenant: str, source: str, key: str, *, allowed: bool) -> None:
    """Whole segments; no way out; variables by the operator's patterns only."""
    assert LocalSecrets(tmp_path, ("SMTP_*",), ALLOW).permits(tenant, source, key) is allowed


async def test_one_line_break_at_the_end_is_no_part_of_it(tmp_path: Path) -> None:
    """Editors add one; blanks and a second one belong to the secret."""
    local = LocalSecrets(tmp_path)
    for written, read in (("pw\n", "pw"), ("pw\r\n", "pw"), (" pw \n\n", " pw \n"), ("pw", "pw")):
        (tmp_path / "a").write_bytes(written.encode())
        assert text(await local.read_file("a")) == read


async def test_a_mount_that_is_swapped_is_another_version(tmp_path: Path) -> None:
    """As Kubernetes does it: a link to a folder that is replaced."""
    local = LocalSecrets(tmp_path)
    for name, password in (("one", "old"), ("two", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pw").write_text(password)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "pw").symlink_to("..data/pw")
    before = await local.read_file("pw")
    (tmp_path / "..tmp").symlink_to("two")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    after = await local.read_file("pw")

    assert (text(before), text(after), before.version != after.version) == ("old", "new", True)


@pytest.mark.parametrize(
    ("content", "kind"), [(b"", Kind.MALFORMED), (b"\xff", Kind.MALFORMED), (b"x" * 70_000, Kind.MALFORMED)]
)
async def test_what_is_no_secret(tmp_path: Path, content: bytes, kind: Kind) -> None:
    """Empty, not UTF-8, too long."""
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CredentialError) as refused:
        await LocalSecrets(tmp_path).read_file("a")
    assert refused.value.kind is kind


async def test_a_link_leads_nowhere_else(tmp_path: Path) -> None:
    """A file outside the directory is not read, however it is reached."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").write_text("x")
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(CredentialError) as refused:
        await LocalSecrets(tmp_path / "inside").read_file("link")
    assert refused.value.kind is Kind.POLICY


async def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    """Missing is missing; a folder is no secret."""
    local = LocalSecrets(tmp_path)
    (tmp_path / "folder").mkdir()
    for key in ("nothing", "folder"):
        with pytest.raises(CredentialError):
            await local.read_file(key)


async def test_a_fifo_is_no_secret(tmp_path: Path) -> None:
    """Nor is it waited for that somebody writes into it."""
    os.mkfifo(tmp_path / "a")
    waited = threading.Event()

    def write() -> None:
        waited.set()
        (tmp_path / "a").write_text("pw")

    writer = threading.Timer(5.0, write)  # ends a wait that would have no end
    writer.daemon = True
    writer.start()
    with pytest.raises(CredentialError) as refused:
        await LocalSecrets(tmp_path).read_file("a")
    writer.cancel()
    assert (refused.value.kind, waited.is_set()) == (Kind.MALFORMED, False)


def test_a_variable(tmp_path: Path) -> None:
    """As it was at the start, whole."""
    local = LocalSecrets(tmp_path, ("SMTP_*",), {}, {"SMTP_A": "pw\n"})
    assert text(local.read_variable("SMTP_A")) == "pw\n"
    with pytest.raises(CredentialError):
        local.read_variable("SMTP_B")
