"""The connection test over HTTP: of a saved profile, own or inherited, and of one that is not saved yet.

A test answers 200 whether it is green or red, as JSON when it is over or as events while it goes on. It is given two
minutes. Profiles that are disabled or paused are tested like others, so that somebody can look before they are used;
an inherited one only if the child's mail could go by it now. What a child is answered, and what its log says, has
neither times nor words: the relay is its owner's.

A profile that is not saved meets all the rules of saving but those on whether its name is free, whether there is room
for it, and whether egress permits where it leads: that is for the phase `resolve` to say, as of a saved one. Its password
is sealed for the place it would have and kept nowhere. Where saving would drop a secret the test is refused, because it
would be green or red for another reason than the saved profile.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from itertools import count
from typing import Any, Final, cast

from pydantic import ConfigDict, RootModel

from gateway.directory import changes
from gateway.directory.changes import Change
from gateway.directory.presets import filled
from gateway.directory.shapes import Profile
from gateway.directory.snapshot import ROOT, Snapshot
from gateway.http.admission import Tested
from gateway.http.call import Answer, Call, json_answer
from gateway.http.directory_views import EXAMPLE, ProfileBody
from gateway.http.faults import read, whole
from gateway.http.profiles import NEW, find, read_profile, view
from gateway.http.resources import Document, actor, document, writable
from gateway.http.schema import TrialRequest
from gateway.http.stream import Tell, streamed, wants_events
from gateway.http.views import View
from gateway.message.notification import compact
from gateway.problems import Code, Fault, Problem, refusal
from gateway.settings import EgressRule
from gateway.smtp.egress import EgressPolicy
from gateway.smtp.hints import Advice
from gateway.smtp.outcome import Phase
from gateway.smtp.probe import Report, Step, Trial, next_phase
from gateway.smtp.session import Security
from gateway.store.rows import Happening

LONGEST_SECONDS: Final = 120.0
ANYWHERE: Final = EgressPolicy((), tuple(EgressRule(ip_network(one), None) for one in ("0.0.0.0/0", "::/0")))


class UnsavedTrialRequest(TrialRequest):
    """A profile to test as it would be saved, and the message."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"profile": EXAMPLE, "to": "ann@example.test"}]})

    profile: ProfileBody


class PhaseView(View):
    """One phase of a test as it went."""

    phase: Phase
    ok: bool
    milliseconds: int
    detail: str


class FailureView(View):
    """Why a test is red: the phase, a stable code, what happened, and what to do about it."""

    phase: Phase
    code: str
    detail: str
    hint: str


class TrialView(View):
    """How a test went, up to the first phase that failed."""

    ok: bool
    phases: tuple[PhaseView, ...]
    error: FailureView | None


class InheritedPhaseView(View):
    """One phase of a test by an inherited profile."""

    phase: Phase
    ok: bool


class InheritedFailureView(View):
    """Why a test by an inherited profile is red."""

    code: str


class InheritedTrialView(View):
    """How a test by an inherited profile went."""

    ok: bool
    phases: tuple[InheritedPhaseView, ...]
    error: InheritedFailureView | None


class AnyTrialView(RootModel[TrialView | InheritedTrialView]):
    """How a test went."""


# What is tested.


async def saved(call: Call) -> Answer:
    """Test a profile of the tenant's list."""
    call.no_query()
    trial = call.parsed(TrialRequest).trial
    tenant, name = call.params["tenant"], call.params["name"]
    found = find(call.snapshot, tenant, name)
    _check_tenant(call, own=isinstance(found, Profile))
    if isinstance(found, Profile):
        return await _answered(_Test(call, found, trial, name))
    usable = call.snapshot.route(tenant, name).profile
    if usable is None or call.snapshot.is_paused(usable.tenant, usable.name):
        raise Problem(Code.NO_PROFILE)
    return await _answered(_Test(call, usable, trial, name, inherited=True))


async def unsaved(call: Call) -> Answer:
    """Test a profile that comes with the request."""
    call.no_query()
    given = document(call)
    rest = {name: value for name, value in given.items() if name != "profile"}
    reading = read(TrialRequest, json.dumps(rest).encode())
    _check_tenant(call, own=True)
    try:
        profile = await _as_saved(call, given.get("profile"))
    except Problem as problem:
        raise _below(problem, reading.faults) from None
    trial = whole(reading).trial
    told = ("saved", False), ("host", profile.host), ("port", profile.port)
    return await _answered(_Test(call, profile, trial, given["profile"]["name"], told=told))


def _check_tenant(call: Call, *, own: bool) -> None:
    """Nobody sends by a test what those above have stopped; they themselves may look before they allow it again."""
    if call.snapshot.all_paused is not None and call.caller.tenant != ROOT:
        raise Problem(Code.NO_PROFILE, "All sending is paused.")
    tenant = call.snapshot.tenants[call.params["tenant"]]
    if actor(call).above(call.snapshot, tenant.id):
        return
    if not tenant.enabled:
        raise Problem(Code.TENANT_DISABLED)
    if own and not tenant.own_profiles:
        raise Problem(Code.LOCKED_BY_PARENT)


async def _as_saved(call: Call, given: object) -> Profile:
    """Make a profile of a document and give it as saving would leave it, sealed. Raises what keeps it from being saved.

    Where it leads is not judged here.
    """
    if given is None:
        raise refusal([Fault("", "required", "This field is required.")])
    if not isinstance(given, dict):
        raise refusal([Fault("", "bad_value", "A JSON object is expected.")])
    tenant, directory, who = call.params["tenant"], call.services.directory, actor(call)
    policy = replace(directory.policy, egress=ANYWHERE, quota_bytes=0)

    def work(snapshot: Snapshot) -> Change:
        before = snapshot.profiles.get((tenant, str(given.get("name"))))
        seen = {"tenant": tenant, **NEW} if before is None else view(snapshot, before)
        fields, faults = writable(given, seen, ("tenant", *NEW))
        fields.pop("warnings", None)
        profile, supplied = read_profile(policy, tenant, filled(fields), before, faults)
        # On an empty snapshot, because a test takes no name, and changes nothing that is the operator's.
        put = changes.save_profile(Snapshot(), who, before, profile, supplied).put
        kept = cast("Profile", put[0]) if put else profile
        _check_secrets(profile, kept)
        name = _free_name(snapshot, tenant) if before is None else before.name
        return Change([kept.model_copy(update={"is_default": False, "name": name})])

    change = await directory.change(who, work, dry_run=True, policy=policy)
    return cast("Profile", change.put[0])


def _free_name(snapshot: Snapshot, tenant: str) -> str:
    """Name a profile in the making as no other is named; always alike, so that nothing is remembered of each test."""
    taken = {profile.name for profile in snapshot.own_profiles(tenant)}
    taken |= {link.profile for link in snapshot.links_to(tenant)}
    return next(name for number in count() if (name := f"unsaved-{number}") not in taken)


def _below(problem: Problem, others: Sequence[Fault]) -> Problem:
    """Tell the same of the body in which the profile is a member, with the faults of the other members."""
    faults = [replace(fault, pointer=f"/profile{fault.pointer}") for fault in problem.errors]
    if others and problem.code is not Code.FORBIDDEN:
        return refusal([*faults, *others])
    return Problem(problem.code, problem.detail, errors=faults)


def _check_secrets(profile: Profile, kept: Profile) -> None:
    """Raise what keeps a secret from being used that saving would drop."""
    left = dict(kept.credentials())
    dropped = [(slot, one) for slot, one in profile.credentials() if left[slot].dropped and not one.dropped]
    if any(credential.source != "plaintext" for _, credential in dropped):
        raise Problem(Code.FORBIDDEN, "A secret that a profile refers to is tested by who handles secrets.")
    if dropped:
        detail = "The password has to be given anew, because it would go elsewhere than the saved one."
        raise refusal(Fault(f"/{part}/{name}", "required", detail) for (part, name), _ in dropped)


# Testing.


@dataclass(slots=True)
class _Test:
    """One test: by which profile, under which name and as what it is told of; `told` goes to the log besides."""

    call: Call
    profile: Profile
    trial: Trial
    name: str
    inherited: bool = False
    told: tuple[tuple[str, object], ...] = ()
    steps: list[Step] = field(default_factory=list)

    async def run(self, tell: Tell) -> Document:
        """Test, and say how it went; `tell` hears of each phase at once. It is in the log before anybody is answered."""

        def heard(step: Step) -> None:
            self.steps.append(step)
            tell("phase", self._step(step))

        try:
            report = await self._report(heard)
        except BaseException:
            self._log("broken_off")  # written whether or not anybody waits
            raise
        await self._log(None if report.advice is None else report.advice.code)
        return self._result(report)

    async def _report(self, heard: Callable[[Step], None]) -> Report:
        began = time.monotonic()
        limit = asyncio.timeout(LONGEST_SECONDS)
        try:
            async with limit:
                return await self.call.services.test(self.profile, self.trial, heard)
        except TimeoutError:
            if not limit.expired():
                raise
        passed = sum(step.milliseconds for step in self.steps)
        phase = next_phase(self.steps, Security(self.profile.security))
        advice = _timed_out(phase)
        heard(
            Step(phase, ok=False, milliseconds=round((time.monotonic() - began) * 1000) - passed, detail=advice.detail)
        )
        return Report(tuple(self.steps), phase, advice)

    def _log(self, code: str | None) -> "asyncio.Future[None]":
        """Write to the tenant's log who tested what, and how it ended; to whom the message went is nobody's there."""
        who, tenant = actor(self.call), self.call.params["tenant"]
        fields = [*self.told, ("ok", code is None), *([] if code is None else [("error.code", code)])]
        changed = compact([{"field": name, "after": value} for name, value in fields])
        row = Happening(tenant, who.name, who.tenant, "profile.test", self.name, changed)
        return self.call.services.store.log([row], self.call.now)

    def _step(self, step: Step) -> Document:
        told: dict[str, Any] = {"phase": str(step.phase), "ok": step.ok}
        return told if self.inherited else {**told, "milliseconds": step.milliseconds, "detail": step.detail}

    def _result(self, report: Report) -> Document:
        error: Document | None = None
        if report.advice is not None:
            error = {"code": report.advice.code}
            if not self.inherited:
                error = {"phase": str(report.failed), **report.advice._asdict()}
        return {"ok": report.ok, "phases": [self._step(step) for step in report.steps], "error": error}


def _timed_out(phase: Phase) -> Advice:
    hint = "The relay answers too slowly to be of use: test again later, or ask its administrator."
    if phase is Phase.CONTENT:
        hint = "The relay had the message: look into the mailbox before you test again."
    return Advice("timed_out", f"The test was not over after {LONGEST_SECONDS:g} seconds.", hint)


async def _answered(test: _Test) -> Answer:
    """Run a test within the tenant's limits, and answer it in the way that was asked for."""
    call = test.call
    with call.services.admission.testing(Tested.CONNECTION, call.params["tenant"], call.now):
        if wants_events(call):
            return await streamed(call, test.run)
        return json_answer(await test.run(lambda _name, _document: None))
