"""Random lives of a directory on its store: after every step it is what a model of dictionaries says, and nothing else.

Some steps are taken two at a time, by one directory or by two on the same store: the outcome is that of one after the
other. `GATEWAY_PROOF=1` runs twenty times as many lives, each time others.
"""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.directory import changes
from gateway.directory.changes import Actor, Change
from gateway.directory.directory import Directory, Work
from gateway.directory.rules import Policy
from gateway.directory.shapes import Profile, Tenant
from gateway.directory.snapshot import Snapshot
from gateway.problems import Code, Problem
from gateway.store.sqlite import SqliteStore
from tests.directory.model import (
    ROOT,
    CreateProfile,
    CreateTenant,
    DeleteProfile,
    DeleteTenant,
    EditProfile,
    EditTenant,
    Mark,
    Model,
    Pause,
    Push,
    Step,
)
from tests.directory.provisioning import EGRESS, SEAL

T = TypeVar("T")
PROOF = bool(os.environ.get("GATEWAY_PROOF"))
LIVES = 80
STEPS = 40
IDS = tuple(f"t{number}" for number in range(12))
NAMES = ("a", "b", "c")
HOSTS = ("a.example", "b.example", "c.example", "d.example")
TABLES = sorted({one.name for one in fields(Snapshot)} - {"revision", "_routes"})
# A tree to begin with: two branches, one of which is as deep as may be, and something to lend.
TREE = {"t0": ROOT, "t1": "t0", "t2": "t0", "t3": "t1", "t4": "t3", "t5": "t4", "t6": "t5", "t7": ROOT, "t8": "t6"}
OWNERS = ((ROOT, "a"), (ROOT, "b"), ("t0", "b"), ("t0", "c"), ("t1", "a"))
BEGINNING: tuple[Step, ...] = (
    *(CreateTenant(tenant, parent, ROOT) for tenant, parent in TREE.items()),
    *(CreateProfile(tenant, name, f"{name}.example", None, name == "b") for tenant, name in OWNERS),
    Push(ROOT, ("t0", "t7"), ("a",), None),
)


# Steps: most of them are about what is there, some about what is not.


def tenants(model: Model) -> st.SearchStrategy[str]:
    return st.sampled_from([*sorted(model.tenants), *sorted(model.tenants), *IDS])


def actors(tenant: str) -> st.SearchStrategy[str]:
    """The operator, or somebody of the tenant's own."""
    return st.sampled_from([ROOT, ROOT, ROOT, tenant])


@st.composite
def tree_steps(draw: st.DrawFn, model: Model) -> Step:
    tenant, other = draw(tenants(model)), draw(tenants(model))
    match draw(st.sampled_from(["create", "move", "delete", "edit", "edit"])):
        case "create":
            return CreateTenant(draw(st.sampled_from(IDS)), other, draw(st.sampled_from([ROOT, ROOT, other, tenant])))
        case "move":
            return EditTenant(tenant, "parent", other, draw(actors(tenant)))
        case "delete":
            return DeleteTenant(tenant, draw(actors(tenant)), draw(st.sampled_from([0, 0, 0, 1])))
        case _:
            name, values = draw(
                st.sampled_from(
                    [
                        ("enabled", (True, False)),
                        ("share_default", (True, False)),
                        ("own_profiles", (True, False)),
                        ("fallback", ("inherit", "none")),
                    ]
                )
            )
            return EditTenant(tenant, name, draw(st.sampled_from(values)), draw(actors(tenant)))


@st.composite
def profile_steps(draw: st.DrawFn, model: Model) -> Step:
    usernames = st.sampled_from([None, "app"])
    if draw(st.booleans()) or not model.profiles:
        hosts = st.sampled_from(HOSTS)
        names = st.sampled_from(NAMES)
        return CreateProfile(draw(tenants(model)), draw(names), draw(hosts), draw(usernames), draw(st.booleans()))
    linked = sorted({link[:2] for link in model.links})
    tenant, name = draw(st.sampled_from([*sorted(model.profiles), *linked, (ROOT, "c")]))
    match draw(st.sampled_from(["host", "username", "enabled", "is_default", "delete", "pause"])):
        case "host":
            return EditProfile(tenant, name, "host", draw(st.sampled_from(HOSTS)))
        case "username":
            return EditProfile(tenant, name, "username", draw(usernames))
        case "delete":
            return DeleteProfile(tenant, name)
        case "pause":
            return Pause(tenant, name, draw(st.booleans()))
        case flag:
            return EditProfile(tenant, name, flag, draw(st.booleans()))


@st.composite
def pushes(draw: st.DrawFn, model: Model) -> Step:
    able = [tenant for tenant in sorted(model.tenants) if model.own(tenant) and model.children(tenant)]
    owner = draw(st.sampled_from([*able * 4, draw(tenants(model))]))
    children = [*(model.children(owner) or [ROOT]) * 4, draw(tenants(model))]
    names = [*(model.own(owner) or NAMES) * 4, draw(st.sampled_from(NAMES))]
    pushed = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))
    return Push(
        owner,
        tuple(draw(st.lists(st.sampled_from(children), min_size=1, max_size=3, unique=True))),
        pushed,
        draw(st.sampled_from([None, None, *pushed, *pushed, "c"])),
    )


@st.composite
def link_steps(draw: st.DrawFn, model: Model) -> Step:
    links = sorted((child, profile) for _, profile, child in model.links)
    child, name = draw(st.sampled_from([*links * 4, ("t0", "c")]))
    match draw(st.sampled_from(["mark", "mark", "unlink", "pause"])):
        case "mark":
            return Mark(child, name, draw(st.booleans()))
        case "unlink":
            return DeleteProfile(child, name)
        case _:
            return Pause(child, name, on=True)


def steps(model: Model) -> st.SearchStrategy[Step]:
    return st.one_of(tree_steps(model), profile_steps(model), pushes(model), link_steps(model))


# What a step is to the directory.


def actor(tenant: str) -> Actor:
    return Actor(f"key:{tenant}", tenant, frozenset({"admin"}))


def found(one: T | None) -> T:
    """Give what is there, as the HTTP layer does."""
    if one is None:
        raise Problem(Code.NOT_FOUND)
    return one


def auth(username: str | None) -> dict[str, str]:
    """Tell accounts of one host apart without any password."""
    return {"method": "none"} if username is None else {"method": "none", "username": username}


def changed(before: Profile, name: str, value: Any) -> Profile:
    document = before.model_dump(mode="json", by_alias=True, exclude_none=True)
    change = {"auth": auth(value)} if name == "username" else {name: value}
    return Profile.model_validate({**document, **change})


def work_of(step: Step) -> tuple[Actor, Work]:
    """Say who works out what."""
    match step:
        case CreateTenant():
            who = actor(step.actor)
            made = Tenant(id=step.id, parent=step.parent)
            return who, lambda snapshot: changes.create_tenant(snapshot, who, made)
        case EditTenant():
            return actor(step.actor), lambda snapshot: _edit_tenant(snapshot, step)
        case DeleteTenant():
            who = actor(step.actor)
            return who, lambda snapshot: changes.delete_tenant(
                snapshot, who, found(snapshot.tenant(step.id)), step.unfinished
            )
        case CreateProfile():
            profile = Profile.model_validate(
                {
                    "tenant": step.tenant,
                    "name": step.name,
                    "host": step.host,
                    "auth": auth(step.username),
                    "is_default": step.is_default,
                    "from": "a@b.example",
                }
            )
            return actor(ROOT), lambda snapshot: changes.save_profile(snapshot, actor(ROOT), None, profile, ())
        case EditProfile():
            return actor(ROOT), lambda snapshot: _edit_profile(snapshot, step)
        case Push():
            return actor(ROOT), lambda snapshot: changes.push(
                snapshot, step.owner, step.children, step.profiles, step.default
            )
        case Mark():
            return actor(ROOT), lambda snapshot: changes.mark_inherited(
                snapshot, found(snapshot.inherited(step.child, step.name)), is_default=step.is_default
            )
        case DeleteProfile():
            return actor(ROOT), lambda snapshot: _delete_profile(snapshot, step)
        case Pause():
            return actor(ROOT), lambda snapshot: _pause(snapshot, step)


def _edit_tenant(snapshot: Snapshot, step: EditTenant) -> Change:
    before = found(snapshot.tenant(step.id))
    after = before.model_copy(update={step.field: step.value})
    return changes.save_tenant(snapshot, actor(step.actor), before, after)


def _edit_profile(snapshot: Snapshot, step: EditProfile) -> Change:
    before = found(snapshot.profiles.get((step.tenant, step.name)))
    return changes.save_profile(snapshot, actor(ROOT), before, changed(before, step.field, step.value), ())


def _delete_profile(snapshot: Snapshot, step: DeleteProfile) -> Change:
    own = snapshot.profiles.get((step.tenant, step.name))
    if own is not None:
        return changes.delete_profile(snapshot, own)
    return changes.unlink(snapshot, found(snapshot.inherited(step.tenant, step.name)))


def _pause(snapshot: Snapshot, step: Pause) -> Change:
    own = snapshot.profiles.get((step.tenant, step.name))
    if own is None:
        found(snapshot.inherited(step.tenant, step.name))
        raise Problem(Code.NOT_OWNER)
    return changes.pause(own) if step.on else changes.resume(snapshot, own)


# What is compared.


def as_model(snapshot: Snapshot) -> Model:
    """Say a snapshot in the model's words."""
    names = ("parent", "enabled", "fallback", "share_default", "own_profiles")
    return Model(
        {id_: {name: getattr(tenant, name) for name in names} for id_, tenant in snapshot.tenants.items()},
        {
            place: {
                "host": one.host,
                "username": one.auth.username,
                "is_default": one.is_default,
                "enabled": one.enabled,
            }
            for place, one in snapshot.profiles.items()
        },
        {place: link.is_default for place, link in snapshot.links.items()},
        set(snapshot.paused),
    )


def index(table: Mapping[str, Any]) -> dict[str, set[Any]]:
    """Give an index without what it says about nothing."""
    return {key: set(members) for key, members in table.items() if members}


class DirectoryMachine(RuleBasedStateMachine):
    """The steps."""

    @initialize()
    def begin(self) -> None:
        """Start on an empty file, with a tree."""
        self.runner = asyncio.Runner()
        memory = Path("/dev/shm")  # nothing here has to survive a power cut
        self.folder = Path(mkdtemp(prefix="directory-", dir=memory if os.access(memory, os.W_OK) else None))
        self.model = Model()
        self.run(self._open())
        for step in BEGINNING:
            self.one(step)

    async def _open(self) -> None:
        self.store = await SqliteStore(self.folder / "gateway.db").__aenter__()
        self.directory = Directory(self.store, Policy(EGRESS), SEAL)
        self.other = Directory(self.store, Policy(EGRESS), SEAL)
        await self.directory.load()

    def teardown(self) -> None:
        """Close the file."""
        if hasattr(self, "store"):
            self.run(self.store.__aexit__())
            self.runner.close()
            shutil.rmtree(self.folder)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to the end."""
        return self.runner.run(coroutine)

    async def change(self, directory: Directory, step: Step) -> str | None:
        """Take a step; answers the code with which it was refused."""
        who, work = work_of(step)
        try:
            await directory.change(who, work)
        except Problem as problem:
            return problem.code.code
        return None

    async def kept(self) -> tuple[object, ...]:
        """Everything that a change could change in the store."""
        return await self.store.directory(), [await self.store.audit_length(one) for one in (ROOT, *IDS)]

    def one(self, step: Step) -> None:
        """Take one step: it is refused as the model says, and then changes nothing, or it is done."""
        before = self.run(self.kept())
        refused = self.run(self.change(self.directory, step))
        may_be = self.model.take(step)
        assert (refused in may_be) if may_be else refused is None, (step, refused, may_be)
        assert refused is None or self.run(self.kept()) == before, step

    @rule(data=st.data())
    def tree(self, data: st.DataObject) -> None:
        """Make, move, change or delete a tenant."""
        self.one(data.draw(tree_steps(self.model)))

    @rule(data=st.data())
    def profile(self, data: st.DataObject) -> None:
        """Make, change, pause or delete a profile."""
        self.one(data.draw(profile_steps(self.model)))

    @rule(data=st.data())
    def push(self, data: st.DataObject) -> None:
        """Lend profiles to children."""
        self.one(data.draw(pushes(self.model)))

    @precondition(lambda self: self.model.links)
    @rule(data=st.data())
    def inherit(self, data: st.DataObject) -> None:
        """Make an inherited profile the default, or no longer; take it away; try to pause it."""
        self.one(data.draw(link_steps(self.model)))

    @rule(data=st.data(), apart=st.booleans())
    def two(self, data: st.DataObject, *, apart: bool) -> None:
        """Take two steps at once, perhaps from two directories on one store: it is as if one came after the other."""
        first = data.draw(steps(self.model))
        second = data.draw(
            st.just(first) | steps(self.model)
        )  # the same twice is what two are most likely to fight over

        async def both() -> list[str | None]:
            other = self.other if apart else self.directory
            await other.load()
            refused = await asyncio.gather(self.change(self.directory, first), self.change(other, second))
            await self.directory.load()
            return refused

        refused = self.run(both())
        now = as_model(self.directory.snapshot)
        for order in ((0, 1), (1, 0)):
            model = self.model.copy()
            may_be = {index: model.take((first, second)[index]) for index in order}
            fits = all(refused[at] in codes if codes else refused[at] is None for at, codes in may_be.items())
            if fits and model == now:
                self.model = model
                return
        raise AssertionError((first, second, refused))

    @invariant()
    def is_as_the_model_says(self) -> None:
        """Tenants, profiles, links and pauses are the model's, and mail leaves as the model says."""
        if not hasattr(self, "store"):
            return
        snapshot = self.directory.snapshot
        assert as_model(snapshot) == self.model
        for tenant in self.model.tenants:
            for name in (None, *NAMES):
                profile = snapshot.route(tenant, name).profile
                place = None if profile is None else (profile.tenant, profile.name)
                assert place == self.model.route(tenant, name), (tenant, name)

    @invariant()
    def holds(self) -> None:
        """One default a list, one profile a name, one link a child; and the tree is one."""
        if not hasattr(self, "store"):
            return
        snapshot = self.directory.snapshot
        for tenant in snapshot.tenants:
            listed = [*snapshot.own_profiles(tenant), *snapshot.links_to(tenant)]
            assert sum(one.is_default for one in listed) <= 1
            names = Counter(one.name if isinstance(one, Profile) else one.profile for one in listed)
            assert not names or max(names.values()) == 1
            assert snapshot.ancestry(tenant)[-1] == ROOT
            assert len(snapshot.ancestry(tenant)) <= 8
        for owner, profile, child in snapshot.links:
            assert (owner, profile) in snapshot.profiles
            assert snapshot.tenants[child].parent == owner

    @invariant()
    def is_what_the_store_keeps(self) -> None:
        """A directory that is read anew is the same, and nobody's audit log is broken."""
        if hasattr(self, "store"):
            self.run(self._read_anew())

    async def _read_anew(self) -> None:
        fresh = Directory(self.store, Policy(EGRESS), SEAL)
        await fresh.load()
        assert fresh.snapshot.revision == self.directory.snapshot.revision
        for name in TABLES:
            read, worked_out = getattr(fresh.snapshot, name), getattr(self.directory.snapshot, name)
            if name.startswith("_"):
                read, worked_out = index(read), index(worked_out)
            assert read == worked_out, name
        for tenant in (ROOT, *IDS):
            assert await self.store.audit_broken(tenant) is None


TestDirectoryMachine = DirectoryMachine.TestCase
TestDirectoryMachine.settings = settings(
    max_examples=LIVES * (20 if PROOF else 1),
    stateful_step_count=STEPS,
    derandomize=not PROOF,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
