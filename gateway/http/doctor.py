"""How the daemon is, on one page for the operator: what is not as it should be, and what soon will not.

Profiles are those that were in use since the daemon began, and those that are paused; only what is not in order of them
is told one by one, the first two hundred by name. No secret's source and no relay is asked.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

from gateway import __version__
from gateway.directory.shapes import Profile
from gateway.directory.snapshot import ROOT
from gateway.http.call import Answer, Call, json_answer
from gateway.http.credentials import standing
from gateway.http.resources import Document
from gateway.http.values import ShownTime, show_time, time_text
from gateway.http.views import View
from gateway.observe import metrics
from gateway.problems import Code, Problem
from gateway.store.protocol import StoreUnavailable
from gateway.store.rows import DaemonRow

MOST: Final = 200
IN_ORDER: Final = frozenset({"fresh", "unused"})


class ConnectionStandingView(View):
    """A secret store; `health` is `unused`, `ok`, or why nobody asks it at the moment."""

    name: str
    kind: str
    health: str


class CredentialStandingView(View):
    """A credential as it stands, without asking its source; `field` is such as `auth.credential`."""

    field: str
    source: str
    state: str
    version: str | None
    age_seconds: int | None
    expires_at: ShownTime | None
    warning: str | None


class ProfileStandingView(View):
    """A profile that is not in order, and why."""

    tenant: str
    name: str
    state: str
    credentials: tuple[CredentialStandingView, ...]


class CertificateStandingView(View):
    """When the certificate ends that a relay showed last."""

    host: str
    port: int
    ends_at: ShownTime


class DaemonStandingView(View):
    """A daemon that works on the same database; `here` is the one that answers, `lanes` the profiles it carries."""

    host: str | None
    began_at: ShownTime | None
    lanes: int
    retiring: bool
    here: bool


class DoctorView(View):
    """How the daemon is. `states` counts profiles; certificates are those that end first.

    `daemons` are all that share the database, itself included; none on SQLite, or while the database is away.
    """

    version: str
    store: str
    ready: bool
    reasons: tuple[str, ...]
    daemons: tuple[DaemonStandingView, ...]
    connections: tuple[ConnectionStandingView, ...]
    states: dict[str, int]
    profiles: tuple[ProfileStandingView, ...]
    certificates: tuple[CertificateStandingView, ...]


async def show(call: Call) -> Answer:
    """Show how the daemon is. It is about all tenants, so for `system` alone."""
    call.no_query()
    if call.caller.tenant != ROOT:
        raise Problem(Code.FORBIDDEN)
    reasons, states = call.services.reasons(), _states(call)
    connections = call.services.credentials.connections.usable_by(ROOT)
    return json_answer(
        {
            "version": __version__,
            "store": call.services.store.engine,
            "ready": not reasons,
            "reasons": reasons,
            "daemons": [_daemon(one) for one in await _daemons(call)],
            "connections": [
                {"name": one.name, "kind": one.settings.kind, "health": one.health()}
                for one in sorted(connections, key=lambda one: one.name)
            ],
            "states": dict(Counter(states.values())),
            "profiles": list(_not_in_order(call, states))[:MOST],
            "certificates": [
                {"host": host, "port": port, "ends_at": time_text(round(ends * 1000))}
                for (host, port), ends in metrics.CERTIFICATES.soonest()
            ],
        }
    )


async def _daemons(call: Call) -> list[DaemonRow]:
    roster = call.services.store.roster
    if roster is not None:
        with suppress(StoreUnavailable):  # which the reasons tell
            return await roster.daemons()
    return []


def _daemon(one: DaemonRow) -> Document:
    return {**one._asdict(), "began_at": show_time(one.began_at)}


def _states(call: Call) -> dict[tuple[str, str], str]:
    states = {place: state for place, state in call.services.states().items() if place in call.snapshot.profiles}
    return {**states, **dict.fromkeys(call.snapshot.paused, "paused")}


def _not_in_order(call: Call, states: Mapping[tuple[str, str], str]) -> Iterator[Document]:
    for place, state in sorted(states.items()):
        credentials = _standing(call, call.snapshot.profiles.get(place))
        if state != "active" or any(one["state"] not in IN_ORDER or one["warning"] for one in credentials):
            yield {"tenant": place[0], "name": place[1], "state": state, "credentials": credentials}


def _standing(call: Call, profile: Profile | None) -> list[Document]:
    if profile is None:
        return []
    return [standing(call.services.credentials, profile, slot) for slot, _ in profile.credentials()]
