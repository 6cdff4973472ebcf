"""The directory: one immutable snapshot to read, and changes that are whole or not at all.

A change is worked out on the present snapshot, checked against every rule, and committed with its audit on the
condition that the store's revision is still the one it was worked out on; otherwise it is worked out again. Then the
snapshot is swapped and those who depend on it are told. A change that cannot be audited does not happen.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TypeVar

from gateway.credentials.credentials import Stored, stored_place
from gateway.credentials.reference import Credential
from gateway.credentials.sealed import Seal, SealError
from gateway.credentials.secret import Secret
from gateway.directory import changes, rules
from gateway.directory.auditing import happenings
from gateway.directory.changes import OPERATOR, Actor, Change
from gateway.directory.denials import Denials
from gateway.directory.entries import REVOKED, Item, changed, entry, gone, key_of, place, snapshot_of
from gateway.directory.keys import new_key
from gateway.directory.provision import Declaration, read_files, settle_keys
from gateway.directory.rules import RuleFault
from gateway.directory.shapes import Key as KeyShape
from gateway.directory.shapes import Profile, StoredSecret, Template, Tenant
from gateway.directory.snapshot import API, PROVISION, ROOT, Key, Place, Snapshot
from gateway.message.template import Rendered
from gateway.message.template.allowance import Allowance
from gateway.observe import facts
from gateway.problems import BY_CODE, Code, Problem, refusal
from gateway.settings import Fault as SettingsFault
from gateway.settings import SettingsError
from gateway.store.protocol import RevisionConflict, Store
from gateway.store.rows import Entry, Happening

ATTEMPTS = 5
AT_ONCE = 200  # tenants whose mail is forgotten together
Work = Callable[[Snapshot], Change]
T = TypeVar("T")


class Directory:
    """Who may send, and how."""

    def __init__(self, store: Store, policy: rules.Policy, seal: Seal) -> None:
        """Work on an open store."""
        self.snapshot = Snapshot()
        self.policy = policy
        self.on_change: list[Callable[[], None]] = []
        self.unfinished: Callable[[str], int] = lambda _tenant: 0
        self.forget: Callable[[str], Awaitable[None]] = _nothing
        self.denials = Denials(store)
        self.allowance = Allowance()
        self._store = store
        self.seal = seal
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read everything, or what became of it since."""
        news = await self._store.directory_since(self.snapshot.revision)
        if news.whole:
            self._swap(snapshot_of(news.revision, news.put))
        elif news.revision != self.snapshot.revision:
            self._swap(changed(self.snapshot, news.revision, news.put, news.drop))

    async def learn(self, revision: int) -> None:
        """Read what other daemons changed, if the directory is at this revision by now."""
        if revision > self.snapshot.revision:
            async with self._changing:
                if revision > self.snapshot.revision:  # a change of our own may just have been committed
                    await self.load()

    def _swap(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        for tell in self.on_change:
            tell()

    # Changing.

    async def change(
        self, actor: Actor, work: Work, *, dry_run: bool = False, policy: rules.Policy | None = None
    ) -> Change:
        """Work a change out and commit it; answers it as committed. Raises the problem that keeps it from being done.

        What is only worked out may be judged by another policy.
        """

        async def attempt() -> tuple[Snapshot, Change]:
            before, judging = self.snapshot, policy or self.policy
            change = changes.complete(before, self._sealed(work(before)))
            put = [entry(item, self._origin(item, change)) for item in change.put]
            drop = [gone(where) for where in change.drop]
            after = changed(before, before.revision + 1, put, drop)
            if faults := await self._faults(actor, after, change, judging):
                raise broken(faults)
            if actor.tenant != ROOT:  # what the operator's people do needs no leave of the operator
                rules.check_quota(before, after, change.put, judging.quota_bytes)
            if not dry_run and (put or drop):
                await self._commit(after, put, drop, happenings(before, change, actor))
            return before, change

        before, change = await self._committed(actor, attempt)
        if not dry_run:
            await self._forget(before, change)
        return change

    async def _faults(self, actor: Actor, after: Snapshot, change: Change, judging: rules.Policy) -> list[RuleFault]:
        """Find what would not hold; to look at templates takes so long that others are served meanwhile."""
        if not any(isinstance(item, Template) for item in change.put):
            return rules.faults(after, change.put, change.drop, judging)

        def find() -> tuple[list[RuleFault], float]:
            began = time.thread_time()
            return rules.faults(after, change.put, change.drop, judging), time.thread_time() - began

        owner = self.snapshot.organisation(actor.tenant)
        if owner != ROOT:
            self.allowance.ask(owner)
        found, took = await asyncio.to_thread(find)
        if owner != ROOT:
            self.allowance.charge(owner, took)
        return found

    def render(self, template: Template, data: Mapping[str, object]) -> Rendered:
        """Fill a template within what its organisation's may take. Raises `TemplateError`, or `AllowanceSpent`."""
        owner = self.snapshot.organisation(template.tenant)
        return self.allowance.render(owner, template.subject, template.text, template.html, data)

    async def _committed(self, actor: Actor, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try, and while another daemon's change was first, try again on what became of the directory."""
        async with self._changing:
            for _ in range(ATTEMPTS):
                self._check_actor(actor)
                try:
                    return await attempt()
                except RevisionConflict:
                    await self.load()
            raise RevisionConflict

    async def _forget(self, before: Snapshot, change: Change) -> None:
        """Let nobody inherit a name's mail: that of a tenant that went, or whose end was cut short before a new one came."""
        gone = [tenant for kind, tenant, _ in change.drop if kind == "tenant"]
        made = [item.id for item in change.put if isinstance(item, Tenant) and item.id not in before.tenants]
        names = list(dict.fromkeys([*gone, *made] if before.revision else gone))  # at first there was nobody
        for start in range(0, len(names), AT_ONCE):
            await asyncio.gather(*map(self.forget, names[start : start + AT_ONCE]))

    def _check_actor(self, actor: Actor) -> None:
        """While a request waited its key may have been revoked, and its tenant moved out of reach."""
        if not actor.stands(self.snapshot):
            raise Problem(Code.UNAUTHORIZED)
        if actor.about and not self.snapshot.within(actor.about, actor.tenant):
            raise Problem(Code.NOT_FOUND)

    async def _commit(
        self, after: Snapshot, put: Sequence[Entry], drop: Sequence[Entry], happened: Iterable[Happening]
    ) -> None:
        await self._store.change_directory(self.snapshot.revision, put, drop, list(happened), _now())
        self._swap(after)

    def _origin(self, item: Item, change: Change) -> str:
        """An object keeps the origin that it was made with, unless it is taken over."""
        where = place(item)
        if where in change.owned or self.snapshot.find(where) is None:
            return change.origin
        return self.snapshot.origins.get(where, API)

    # Provisioning.

    async def provision(self, files: Sequence[Path], base: Path) -> None:
        """Make the provisioned objects what the files say; SettingsError, and nothing changed, if they cannot be."""
        declaration = read_files(files)
        self._check_provision(declaration)
        keys = settle_keys(declaration.keys, base, _now())
        items = [*declaration.items, *(self._known_key(key) for key in keys)]
        try:
            await self.change(OPERATOR, lambda snapshot: self._provisioned(snapshot, items))
        except Broken as error:
            raise SettingsError(tuple(declaration.fault(fault) for fault in error.faults)) from None
        except changes.Misplaced as error:
            raise SettingsError((_misplaced(declaration, error),)) from None
        for key in keys:
            if key.id in self.snapshot.revoked:
                facts.provisioned_key_revoked(key.file or "")

    def _check_provision(self, declaration: Declaration) -> None:
        """Find every fault before a key file is made."""
        try:
            change = self._provisioned(self.snapshot, declaration.items, but=("key",))
        except changes.Misplaced as error:
            raise SettingsError((_misplaced(declaration, error),)) from None
        put = [entry(item, PROVISION) for item in change.put]
        after = changed(self.snapshot, self.snapshot.revision, put, map(gone, change.drop))
        faults = rules.faults(after, change.put, change.drop, self.policy)
        faults += declaration.keys_of_nobody(after.tenants)
        if faults:
            raise SettingsError(tuple(declaration.fault(fault) for fault in faults))

    def _provisioned(self, snapshot: Snapshot, items: Sequence[Item], but: Sequence[str] = ()) -> Change:
        """Make the provisioned part of the directory what the files say; what is gone from them is dropped."""
        wanted = {place(item): self.with_kept_secrets(snapshot, item) for item in items}
        put = [item for where, item in wanted.items() if not _stands(snapshot, where, item)]
        drop = [
            where
            for where, origin in snapshot.origins.items()
            if origin == PROVISION and where not in wanted and where[0] not in but
        ]
        drop = changes.cleared_out(snapshot, drop, self.unfinished)
        others = changes.overtaken(snapshot, put, {*wanted, *drop})
        return Change([*put, *map(changes.cleared, others)], drop, PROVISION, frozenset(wanted))

    def _known_key(self, key: KeyShape) -> KeyShape:
        known = self.snapshot.keys.get(key.id)
        return key if known is None else key.model_copy(update={"created_at": known.created_at})

    # Secrets.

    def _sealed(self, change: Change) -> Change:
        """Seal the passwords that came in."""
        change.put = [sealed(item, self.seal) if isinstance(item, Profile) else item for item in change.put]
        return change

    def with_kept_secrets(self, snapshot: Snapshot, item: Item) -> Item:
        """Give an object of a file with the secrets as they are kept, where they are the same."""
        known = snapshot.find(place(item)) if isinstance(item, Profile) else None
        if not isinstance(item, Profile) or not isinstance(known, Profile):
            return item
        before = dict(known.credentials())
        for slot, credential in list(item.credentials()):
            stored = before.get(slot)
            if stored is not None and self._holds(known, slot, stored, credential):
                item = item.with_credential(slot, stored)
        return item

    def _holds(self, known: Profile, slot: changes.Slot, stored: Credential, given: Credential) -> bool:
        if stored.sealed is None or given.value is None:
            return False
        try:
            return self.seal.open(stored.sealed, seal_place(known, slot)) == Secret(given.value)
        except SealError:  # its master key is gone; the file has the password
            return False

    async def put_secret(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        value: Secret,
        check: Callable[[Snapshot], object] = lambda _snapshot: None,
    ) -> StoredSecret:
        """Keep a secret in the built-in store under its next version, unless `check` raises."""
        made: list[StoredSecret] = []

        def work(snapshot: Snapshot) -> Change:
            check(snapshot)
            before = snapshot.secrets.get((tenant, name))
            version, now = (1 if before is None else before.version + 1), _now()
            made[:] = [
                StoredSecret(
                    tenant=tenant, name=name, version=version,
                    sealed=self.seal.close(value, stored_place(tenant, name, version)),
                    created_at=now if before is None else before.created_at, updated_at=now,
                )
            ]  # fmt: skip
            return Change([made[0]])

        await self.change(actor, work)
        return made[0]

    def stored(self, tenant: str, name: str) -> Stored | None:
        """Find a secret of the built-in store."""
        secret = self.snapshot.secrets.get((tenant, name))
        return None if secret is None else Stored(secret.sealed, secret.version)

    async def reseal(
        self, actor: Actor, work: Callable[[Snapshot], Sequence[Item]], happened: Sequence[Happening]
    ) -> Sequence[Item]:
        """Put the same objects with their secrets sealed anew; answers those that were put.

        No rule is asked, because nothing else differs: what the operator has stopped allowing keeps its secret too.
        """

        async def attempt() -> Sequence[Item]:
            items = work(self.snapshot)
            if items:
                put = [entry(item, self.snapshot.origins.get(place(item), API)) for item in items]
                await self._commit(changed(self.snapshot, self.snapshot.revision + 1, put, []), put, [], happened)
            return items

        return await self._committed(actor, attempt)

    def denied(self, owner: str, host: str, place: Sequence[str], credential: Credential) -> None:
        """A secret was refused at its use by the operator's policy; `place` is where a plaintext one is sealed for."""
        _, _, name, slot = (*place, "", "", "", "")[:4]
        self.denials.tell(rules.denial(owner, name, host, slot, credential, self.policy), Actor("gateway", owner))

    # Keys.

    async def create_key(
        self,
        actor: Actor,
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
        await self.change(actor, lambda _snapshot: Change([shape]))
        return self.snapshot.keys[text.id], text.text()

    async def revoke_key(self, actor: Actor, tenant: str, key_id: str) -> None:
        """Revoke a key for good; of a provisioned one a mark stays, so that its file cannot bring it back."""
        where = ("key", tenant, key_id)

        async def attempt() -> None:
            before = self.snapshot
            key = before.key(key_id)
            if key is None or key.tenant != tenant:
                raise Problem(Code.NOT_FOUND)
            put, drop = [], [gone(where)]
            if before.provisioned(where):
                put, drop = [Entry(REVOKED, tenant, key_id, "{}", API)], []
            after = changed(before, before.revision + 1, put, drop)
            await self._commit(after, put, drop, happenings(before, Change(drop=[where]), actor))

        await self._committed(actor, attempt)


class Broken(Problem):
    """A change after which relations would not hold; knows them all."""

    def __init__(self, problem: Problem, faults: Sequence[RuleFault]) -> None:
        super().__init__(problem.code, problem.detail, errors=problem.errors)
        self.faults = tuple(faults)


def broken(faults: Sequence[RuleFault]) -> Broken:
    """Make the problem that tells these faults; what is wrong with the request goes before what stands in its way."""
    wrong = [fault for fault in faults if _status(fault) == Code.INVALID.status]
    if wrong:
        return Broken(refusal(fault.told() for fault in wrong), faults)
    return Broken(Problem(BY_CODE[faults[0].code], faults[0].detail), faults)


def _status(fault: RuleFault) -> int:
    return BY_CODE.get(fault.code, Code.INVALID).status


def _misplaced(declaration: Declaration, error: changes.Misplaced) -> SettingsFault:
    kind, tenant, name = error.where
    return declaration.fault(RuleFault(kind, tenant, name, error.code.code, error.detail))


def _stands(snapshot: Snapshot, where: Place, item: Item) -> bool:
    if not snapshot.provisioned(where):
        return False
    if isinstance(item, KeyShape):
        return snapshot.keys.get(item.id) == key_of(item)
    return snapshot.find(where) == item


def sealed(profile: Profile, seal: Seal) -> Profile:
    """Give a profile with the passwords sealed that came in."""
    for slot, credential in list(profile.credentials()):
        if credential.value is not None:
            kept = seal.close(Secret(credential.value), seal_place(profile, slot))
            profile = profile.with_credential(slot, Credential(source="plaintext", sealed=kept))
    return profile


def seal_place(profile: Profile, slot: changes.Slot = ("auth", "credential")) -> tuple[str, str, str, str]:
    """Where a profile's secret belongs."""
    return "profile", profile.tenant, profile.name, ".".join(slot)


async def _nothing(_tenant: str) -> None:
    """Nobody has sent anything."""


def _now() -> int:
    return time.time_ns() // 1_000_000
