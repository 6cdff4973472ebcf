"""A directory on a real store, provisioned from texts as if they were files."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from gateway.credentials.sealed import Seal
from gateway.directory.directory import Directory, seal_place
from gateway.directory.rules import Policy
from gateway.settings import EgressRule, Fault, SettingsError
from gateway.smtp.egress import EgressPolicy
from gateway.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.credentials.secret import Secret
    from gateway.directory.shapes import Profile
    from gateway.directory.snapshot import Snapshot

EGRESS = EgressPolicy((25, 465, 587), (EgressRule(ip_network("127.0.0.1/32"), 1025),))
SEAL = Seal([b"k" * 32])
ACME = '[[tenants]]\nid = "acme"\n'


@dataclass
class Bench:
    """A directory, and the folder of its files."""

    folder: Path
    store: SqliteStore
    directory: Directory

    @property
    def snapshot(self) -> Snapshot:
        """The directory as it is."""
        return self.directory.snapshot

    async def provision(self, *texts: str) -> None:
        """Provision files 0.toml, 1.toml … with these texts."""
        files = []
        for number, text in enumerate(texts):
            files.append(self.folder / f"{number}.toml")
            files[-1].write_text(text, encoding="utf-8")
        await self.directory.provision(files, self.folder)

    async def refused(self, *texts: str) -> tuple[Fault, ...]:
        """Provision files that cannot be used: nothing changes; answers what is wrong with them."""
        before = await self.store.directory()
        with pytest.raises(SettingsError) as refusal:
            await self.provision(*texts)
        assert await self.store.directory() == before
        return refusal.value.faults

    async def codes(self, *texts: str) -> list[tuple[str, str]]:
        """Each fault's key and the code of the relation that does not hold."""
        return [(fault.key, fault.problem.partition(":")[0]) for fault in await self.refused(*texts)]


@asynccontextmanager
async def bench(folder: Path, seal: Seal = SEAL) -> AsyncIterator[Bench]:
    """Open the folder's store and read its directory."""
    async with SqliteStore(folder / "gateway.db") as store:
        directory = Directory(store, Policy(EGRESS, ("plain.example",)), seal)
        await directory.load()
        yield Bench(folder, store, directory)


def profile(name: str = "main", tenant: str = "acme", *lines: str, host: str | None = None) -> str:
    """A profile's table with more lines."""
    given = [
        f'tenant = "{tenant}"',
        f'name = "{name}"',
        f'host = "{host or name + ".example"}"',
        f'from = "{name}@acme.example"',
    ]
    return "\n".join(["[[profiles]]", *given, *lines, ""])


def signed_in(password: str = "hunter2", username: str = "app") -> str:
    """The line of a profile that signs in."""
    return f'auth = {{username = "{username}", credential = {{source = "plaintext", value = "{password}"}}}}'


def opened_password(directory: Directory, profile: Profile) -> Secret | None:
    """Open a profile's sealed password."""
    credential = profile.auth.credential
    if credential is None or credential.sealed is None:
        return None
    return directory.seal.open(credential.sealed, seal_place(profile))
