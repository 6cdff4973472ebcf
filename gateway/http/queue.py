"""What waits, by profile: how much, since when, and why it does not go; and pausing all of it.

Everybody learns that all sending is paused; why is told to the operator alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.directory import changes
from gateway.directory.directory import Work
from gateway.directory.shapes import Pause, Profile
from gateway.directory.snapshot import ROOT, Snapshot
from gateway.http.call import Answer, Call, json_answer
from gateway.http.resources import Document, actor, page_of
from gateway.http.schema import QueueQuery
from gateway.message.times import time_text
from gateway.problems import Code, Problem
from gateway.store.rows import Flow, FlowDepth

UNKNOWN = "unknown"
PAUSED = "paused"
HELD = "held"


@dataclass(slots=True)
class Line:
    """One profile's part of the queue; without a name it is mail that no profile of the reach will carry."""

    tenant: str | None
    profile: str | None
    state: str
    waiting: int = 0
    deferred: int = 0
    uncertain: int = 0
    oldest_at: int | None = None

    def add(self, depth: FlowDepth) -> None:
        """Count a flow's mail."""
        self.waiting += depth.waiting
        self.deferred += depth.deferred
        self.uncertain += depth.resting
        self.oldest_at = min(depth.oldest_at, self.oldest_at or depth.oldest_at)

    def view(self, now: int) -> Document:
        """Show it; ages in seconds."""
        age = None if self.oldest_at is None else max(0, now - self.oldest_at) // 1000
        return {
            "tenant": self.tenant,
            "profile": self.profile,
            "state": self.state,
            "ready": self.waiting - self.deferred - self.uncertain,
            "deferred": self.deferred,
            "uncertain": self.uncertain,
            "oldest_seconds": age,
        }


async def listing(call: Call) -> Answer:
    """List the profiles that mail of the reach waits for, and those of the reach that stand still; or all of one tenant's."""
    query, snapshot, root = call.query(QueueQuery), call.snapshot, call.caller.tenant
    if query.tenant is not None:
        call.within_reach(query.tenant)
    states = {**call.services.states(), **dict.fromkeys(snapshot.paused, PAUSED)}
    depths = [one for one in await call.services.store.depths() if snapshot.within(one.flow.tenant, root)]
    lines = by_profile(snapshot, root, states, depths)
    if query.tenant is not None:
        lines += _idle(snapshot, query.tenant, lines)
    if snapshot.all_paused is not None:
        for line in lines:
            line.state = line.state if line.state in (HELD, UNKNOWN) else PAUSED
    now = call.now
    paused = pause_view(snapshot.all_paused, root)
    wanted = [line for line in lines if query.tenant in (None, line.tenant)]
    return page_of(query, wanted, _name, lambda line: line.view(now), paused=paused)


def by_profile(
    snapshot: Snapshot, root: str, states: Mapping[tuple[str, str], str], depths: Iterable[FlowDepth]
) -> list[Line]:
    """Sort what waits by the profile that it waits for, as `root` sees it, beside the profiles that stand still."""
    lines: dict[tuple[str | None, str | None], Line] = {}
    for place, state in states.items():
        if state != "active" and snapshot.within(place[0], root):
            lines[place] = Line(*place, state)
    for depth in depths:
        _line(lines, snapshot, depth, root, states).add(depth)
    return list(lines.values())


def _idle(snapshot: Snapshot, tenant: str, lines: Iterable[Line]) -> list[Line]:
    """Give a tenant's profiles in use that nothing waits for."""
    told = {line.profile for line in lines if line.tenant == tenant}
    return [
        Line(tenant, one.name, "active")
        for one in snapshot.own_profiles(tenant)
        if one.enabled and one.name not in told
    ]


def _name(line: Line) -> str:
    return f"{line.tenant}/{line.profile}"


def pause_view(pause: Pause | None, root: str) -> Document | None:
    """Show the pause of all sending to callers whose reach begins at `root`; null if there is none."""
    if pause is None:
        return None
    return {"since": time_text(pause.since), "reason": pause.reason if root == ROOT else None}


async def pause(call: Call) -> Answer:
    """Stop all sending until it is resumed; mail is accepted and kept."""
    now = call.now
    return await _changed(call, lambda snapshot: changes.pause_all(snapshot, now))


async def resume(call: Call) -> Answer:
    """Let sending go on."""
    return await _changed(call, changes.resume_all)


async def _changed(call: Call, work: Work) -> Answer:
    """Change it for all tenants, so for `system` alone."""
    call.no_query()
    if call.caller.tenant != ROOT:
        raise Problem(Code.FORBIDDEN)
    directory = call.services.directory
    await directory.change(actor(call), work)
    return json_answer({"paused": pause_view(directory.snapshot.all_paused, ROOT)})


def _carrier(snapshot: Snapshot, flow: Flow) -> Profile | None:
    """Find the profile that the mail goes by, as those who send it do: that of a disabled tenant by none."""
    tenant = snapshot.tenant(flow.tenant)
    if tenant is None or not tenant.enabled:
        return None
    return snapshot.route(flow.tenant, flow.profile or None).profile


def _line(
    lines: dict[tuple[str | None, str | None], Line],
    snapshot: Snapshot,
    depth: FlowDepth,
    root: str,
    states: Mapping[tuple[str, str], str],
) -> Line:
    profile = _carrier(snapshot, depth.flow)
    if profile is None:
        return lines.setdefault((depth.flow.tenant, None), Line(depth.flow.tenant, None, HELD))
    place = (profile.tenant, profile.name)
    if snapshot.within(profile.tenant, root):
        return lines.setdefault(place, Line(*place, states.get(place, "active")))
    here = (depth.flow.tenant, profile.name)
    if (*place, depth.flow.tenant) in snapshot.links:  # how the owner's profile stands is the owner's affair
        return lines.setdefault(here, Line(*here, HELD if snapshot.is_paused(*place) else "active"))
    return lines.setdefault((None, None), Line(None, None, UNKNOWN))
