"""A user name that shall come along with the secret: only from where a secret has fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.credentials.local import LocalSecrets
from gateway.directory.changes import OPERATOR, Change
from gateway.directory.directory import Broken
from gateway.directory.entries import entry
from gateway.directory.rules import Policy, profile_faults
from gateway.directory.shapes import Profile, Tenant
from gateway.directory.snapshot import API
from gateway.smtp.egress import EgressPolicy
from tests.directory.provisioning import bench

if TYPE_CHECKING:
    from pathlib import Path

POLICY = Policy(EgressPolicy((587,)), local=LocalSecrets(env=("SMTP_*",), allow={"acme": ("",)}))
NO_USER = ("/auth/credential/username_property", "conflict")


def profile(source: str, **auth: Any) -> Profile:
    """Make a profile of acme whose user name stands in a field of its secret."""
    credential = {"source": source, "key": "SMTP_A", "username_property": "user"}
    document = {"tenant": "acme", "name": "main", "host": "h.example", "from": "a@acme.example"}
    return Profile.model_validate({**document, "auth": {"credential": credential, **auth}})


@pytest.mark.parametrize("source", ["stored", "file", "env"])
def test_a_secret_of_one_text_has_no_user_name(source: str) -> None:
    """It is told where it stands, and that a user name is still to be given; with one it is told all the same."""
    told = [[(fault.pointer, fault.code) for fault in profile_faults(one, POLICY)] for one in (
        profile(source), profile(source, username="app"),
    )]  # fmt: skip
    assert told == [[("/auth/username", "required"), NO_USER], [NO_USER]]


async def test_what_was_saved_with_one_is_still_there(tmp_path: Path) -> None:
    """It is read, and told when it is saved anew."""
    stored = profile("stored")
    async with bench(tmp_path) as b:
        await b.store.change_directory(0, [entry(item, API) for item in (Tenant(id="acme"), stored)], [])
        await b.directory.load()
        with pytest.raises(Broken) as refused:
            await b.directory.change(OPERATOR, lambda _snapshot: Change([stored]))

    assert (b.snapshot.profiles["acme", "main"], b.snapshot.unreadable) == (stored, False)
    assert NO_USER in [(fault.pointer, fault.code) for fault in refused.value.faults]
