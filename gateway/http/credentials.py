"""Whether a profile's credentials can be had: asked for as sending asks, or fetched anew by a person's word.

No answer holds a value. An inherited profile's credentials are its owner's alone. A tenant has so many of each a
minute: the store is everybody's, and so is the daemon's account there.
"""

from typing import Any, Final

from gateway.credentials.cache import State
from gateway.credentials.credentials import Credentials
from gateway.credentials.provider import CredentialError, Kind, Why
from gateway.credentials.reference import Source
from gateway.directory.changes import Slot
from gateway.directory.directory import seal_place
from gateway.directory.shapes import Profile
from gateway.http.admission import Tested
from gateway.http.call import Answer, Call, json_answer
from gateway.http.profiles import own
from gateway.http.resources import Document, actor, page
from gateway.http.values import ShownTime, show_time
from gateway.http.views import View
from gateway.store.rows import Happening

IN_ORDER: Final = frozenset({State.FRESH, State.UNUSED})


class CredentialFaultView(View):
    """Why a credential cannot be had."""

    kind: Kind
    detail: str


class CredentialView(View):
    """One credential of a profile, as it stands after it was asked for; `age_seconds` is since it was fetched.

    `field` is such as `auth.credential`. `warning` is what a person should look at before it stops mail.
    """

    field: str
    ok: bool
    source: Source
    state: State
    version: str | None
    age_seconds: int | None
    expires_at: ShownTime | None
    warning: str | None
    error: CredentialFaultView | None


class CredentialStandingView(View):
    """A credential as it stands, without asking its source; `field` is such as `auth.credential`."""

    field: str
    source: Source
    state: State
    version: str | None
    age_seconds: int | None
    expires_at: ShownTime | None
    warning: str | None


class ProfileCredentialView(CredentialStandingView):
    """… and whose it is."""

    tenant: str
    profile: str


class CredentialList(View):
    """Credentials that are not in order, by profile."""

    items: tuple[ProfileCredentialView, ...]
    next_cursor: str | None


class CredentialVerdict(View):
    """Can all of a profile's credentials be had? In short of the first that cannot, or of the first; and of each."""

    ok: bool
    source: Source | None
    version: str | None = None
    stale: bool = False
    error: CredentialFaultView | None = None
    credentials: tuple[CredentialView, ...]


async def check(call: Call) -> Answer:
    """Say whether a profile's credentials can be had."""
    call.no_query()
    profile = own(call.snapshot, call)
    with call.services.admission.testing(Tested.CREDENTIAL, profile.tenant, call.now):
        return await _verdict(call, profile, why=Why.USE)


async def refresh(call: Call) -> Answer:
    """Fetch a profile's credentials anew, and let the profile go on; who did is in the log before."""
    call.no_query()
    profile = own(call.snapshot, call)
    with call.services.admission.testing(Tested.REFRESH, profile.tenant, call.now):
        verdict = await _verdict(call, profile, why=Why.PERSON)
    who = actor(call)
    row = Happening(profile.tenant, who.name, who.tenant, "credential.refresh", profile.name, "[]")
    await call.services.store.log([row], call.now)
    await call.services.resume((profile.tenant, profile.name))
    return verdict


async def _verdict(call: Call, profile: Profile, *, why: Why) -> Answer:
    told = [await _asked(call, profile, slot, why=why) for slot, _ in profile.credentials()]
    if not told:
        return json_answer({"ok": True, "source": None, "credentials": []})
    first = next((one for one in told if not one["ok"]), told[0])
    short = {name: first[name] for name in ("ok", "source", "version", "error")}
    return json_answer({**short, "stale": first["state"] == "stale", "credentials": told})


async def _asked(call: Call, profile: Profile, slot: Slot, *, why: Why) -> Document:
    """Ask for a credential, and tell how it stands then."""
    credentials, credential = call.services.credentials, dict(profile.credentials())[slot]
    told: dict[str, Any] = {"ok": True, "error": None}
    try:
        found = await credentials.find(profile.tenant, profile.host, seal_place(profile, slot), credential, why=why)
    except CredentialError as error:
        told = {"ok": False, "error": {"kind": error.kind, "detail": error.detail}, "state": State.NEGATIVE}
    else:
        told |= {"version": found.version or None, **({"state": State.STALE} if found.stale else {})}
    return {**standing(credentials, profile, slot), **told}


async def listing(call: Call) -> Answer:
    """List the credentials that are not in order, of the reach's profiles that are in use."""
    snapshot, root = call.snapshot, call.caller.tenant
    used = [place for place in call.services.states() if snapshot.within(place[0], root)]
    profiles = [profile for place in used if (profile := snapshot.profiles.get(place)) is not None]
    items = [
        {"tenant": profile.tenant, "profile": profile.name, **told}
        for profile in profiles
        for slot, _ in profile.credentials()
        if not in_order(told := standing(call.services.credentials, profile, slot))
    ]
    return page(call, items, lambda one: f"{one['tenant']}/{one['profile']}/{one['field']}", lambda one: one)


def in_order(told: Document) -> bool:
    """Is there nothing about a credential, as `standing` tells it, that a person should look at?"""
    return told["state"] in IN_ORDER and told["warning"] is None


def standing(credentials: Credentials, profile: Profile, slot: Slot) -> Document:
    """Tell how a credential of a profile stands; its source is not asked."""
    credential = dict(profile.credentials())[slot]
    known = credentials.known(profile.tenant, profile.host, credential)
    return {
        "field": ".".join(slot),
        "source": credential.source,
        "state": known.state,
        "version": known.version or None,
        "age_seconds": None if known.age is None else round(known.age),
        "expires_at": show_time(None if known.expires_at is None else round(known.expires_at * 1000)),
        "warning": known.warning,
    }
