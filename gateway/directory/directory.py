"""The directory: one immutable snapshot to read, and changes that are whole or not at all.

A change is worked out on the present snapshot, checked against every rule, and committed on the condition that the
store's revision is still the one it was worked out on; otherwise it is worked out again. Then the snapshot is swapped
and those who depend on it are told.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from gateway.credentials.reference import Credential
from gateway.credentials.sealed import Seal, SealError
from gateway.credentials.secret import Secret
from gateway.directory import rules
from gateway.directory.entries import API, PROVISION, Item, entry, snapshot_of
from gateway.directory.keys import new_key
from gateway.directory.provision import Declaration, read_files, settle_keys
from gateway.directory.shapes import Key as KeyShape
from gateway.directory.shapes import Profile
from gateway.directory.snapshot import Key, Snapshot
from gateway.observe import facts
from gateway.problems import Code, Problem
from gateway.settings import SettingsError
from gateway.store.protocol import RevisionConflict, Store
from gateway.store.rows import Entry

ATTEMPTS = 5


class Directory:
    """Who may send, and how."""

    def __init__(self, store: Store, policy: rules.Policy, seal: Seal) -> None:
        """Work on an open store."""
        self.snapshot = Snapshot()
        self.on_change: list[Callable[[], None]] = []
        self._store = store
        self._policy = policy
        self._seal = seal
        self._entries: list[Entry] = []

    async def load(self) -> None:
        """Read everything."""
        revision, self._entries = await self._store.directory()
        self._swap(snapshot_of(revision, self._entries))

    def _swap(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        for tell in self.on_change:
            tell()

    async def _commit(self, put: Iterable[Entry], drop: Iterable[Entry]) -> None:
        """Write a change that was worked out on the present snapshot; RevisionConflict if it is stale."""
        put, drop = list(put), list(drop)
        revision = await self._store.change_directory(self.snapshot.revision, put, drop)
        self._entries = _changed(self._entries, put, drop)
        self._swap(snapshot_of(revision, self._entries))

    # Provisioning.

    async def provision(self, files: Sequence[Path], base: Path) -> None:
        """Make the provisioned objects what the files say; SettingsError, and nothing changed, if they cannot be."""
        declaration = read_files(files)
        wanted = self._declared(declaration, [])
        faults = [*rules.faults(wanted, self._policy), *declaration.keys_of_nobody(wanted.tenants)]
        if faults:
            raise SettingsError(tuple(declaration.fault(fault) for fault in faults))
        keys = settle_keys(declaration.keys, base, _now())
        for _ in range(ATTEMPTS):
            put = self._wanted(declaration, keys)
            gone = [stored for stored in self._entries if stored.origin == PROVISION and stored[:3] not in _places(put)]
            changed = [stored for stored in put if stored not in self._entries]
            try:
                if changed or gone:
                    await self._commit(changed, gone)
            except RevisionConflict:
                await self.load()
            else:
                self._tell_revoked(keys)
                return
        raise RevisionConflict

    def _tell_revoked(self, keys: list[KeyShape]) -> None:
        for key in keys:
            if key.id in self.snapshot.revoked:
                facts.provisioned_key_revoked(key.file or "")

    def _declared(self, declaration: Declaration, keys: list[KeyShape]) -> Snapshot:
        """What the directory would be: made objects as they are, provisioned ones as declared."""
        wanted = [entry(item, PROVISION) for item in (*declaration.items, *keys)]
        made = [stored for stored in self._entries if stored.origin != PROVISION and stored[:3] not in _places(wanted)]
        return snapshot_of(self.snapshot.revision, [*made, *wanted])

    def _wanted(self, declaration: Declaration, keys: list[KeyShape]) -> list[Entry]:
        known = {stored[:3]: stored for stored in self._entries}
        wanted = [entry(self._sealed(item, known), PROVISION) for item in declaration.items]
        for key in keys:
            stored = known.get(("key", key.tenant, key.id))
            made = key.created_at if stored is None else KeyShape.model_validate_json(stored.body).created_at
            wanted.append(entry(key.model_copy(update={"created_at": made}), PROVISION))
        return wanted

    def _sealed(self, item: Item, known: dict[tuple[str, str, str], Entry]) -> Item:
        """Seal a plaintext password; one that did not change keeps its seal, so that nothing changes."""
        if not isinstance(item, Profile) or item.auth.credential is None or item.auth.credential.value is None:
            return item
        where = ("profile", item.tenant, item.name)
        secret = Secret(item.auth.credential.value)
        credential = self._same_seal(where, secret, known) or Credential(
            source="plaintext", sealed=self._seal.close(secret, seal_place(item))
        )
        return item.model_copy(update={"auth": item.auth.model_copy(update={"credential": credential})})

    def _same_seal(
        self, where: tuple[str, str, str], secret: Secret, known: dict[tuple[str, str, str], Entry]
    ) -> Credential | None:
        if where not in known:
            return None
        before = Profile.model_validate_json(known[where].body)
        credential = before.auth.credential
        if credential is None or credential.sealed is None:
            return None
        try:
            same = self._seal.open(credential.sealed, seal_place(before)) == secret
        except SealError:  # its master key is gone; the file has the password
            return None
        return credential if same else None

    # Keys.

    async def create_key(
        self,
        tenant: str,
        name: str,
        scopes: Iterable[str],
        *,
        expires_at: int | None = None,
        cidrs: Iterable[IPv4Network | IPv6Network] = (),
        mode: str = "live",
    ) -> tuple[Key, str]:
        """Make a key; answers its record and, this once, its text."""
        text = new_key()
        shape = KeyShape.model_validate(
            {
                "tenant": tenant,
                "id": text.id,
                "name": name,
                "scopes": tuple(scopes),
                "sha256_hex": text.sha256.hex(),
                "created_at": _now(),
                "expires_at": expires_at,
                "cidrs": tuple(map(str, cidrs)),
                "mode": mode,
            }
        )
        await self._change(lambda: ([entry(shape, API)], []))
        key = self.snapshot.key(text.id)
        if key is None:
            raise Problem(Code.INTERNAL)
        return key, text.text()

    async def revoke_key(self, tenant: str, key_id: str) -> None:
        """Revoke a key for good; of a provisioned one a mark stays, so that its file cannot bring it back."""

        def work() -> tuple[list[Entry], list[Entry]]:
            key = self.snapshot.key(key_id)
            if key is None or key.tenant != tenant:
                raise Problem(Code.NOT_FOUND)
            if key.provisioned:
                return [Entry("revoked", tenant, key_id, "{}", API)], []
            return [], [Entry("key", tenant, key_id, "", API)]

        await self._change(work)

    async def _change(self, work: Callable[[], tuple[list[Entry], list[Entry]]]) -> None:
        for _ in range(ATTEMPTS):
            put, drop = work()
            try:
                await self._commit(put, drop)
            except RevisionConflict:
                await self.load()
            else:
                return
        raise RevisionConflict

    def password(self, profile: Profile) -> Secret | None:
        """Open the profile's sealed password."""
        credential = profile.auth.credential
        if credential is None or credential.sealed is None:
            return None
        return self._seal.open(credential.sealed, seal_place(profile))


def seal_place(profile: Profile) -> tuple[str, str, str, str]:
    """Where a profile's password belongs."""
    return "profile", profile.tenant, profile.name, "auth.credential"


def _places(entries: Iterable[Entry]) -> set[tuple[str, str, str]]:
    return {stored[:3] for stored in entries}


def _changed(entries: list[Entry], put: list[Entry], drop: list[Entry]) -> list[Entry]:
    moved = _places(put) | _places(drop)
    return [*(stored for stored in entries if stored[:3] not in moved), *put]


def _now() -> int:
    return time.time_ns() // 1_000_000
