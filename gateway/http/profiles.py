"""SMTP profiles over HTTP: a tenant's own, those that were pushed to it, pushing, pausing and presets.

The path decides the view: under a child an inherited profile is its name, its default mark, and that it is inherited,
whoever looks. No answer holds a secret.
"""

import json
from collections.abc import Iterable
from typing import Final

from pydantic import ValidationError

from gateway.credentials.local import lent_to
from gateway.directory import changes
from gateway.directory.changes import Change, Slot
from gateway.directory.presets import PRESETS, filled
from gateway.directory.rules import Policy, profile_faults, warnings
from gateway.directory.shapes import SLOTS, Link, Profile
from gateway.directory.snapshot import Snapshot
from gateway.http.call import Answer, Call, json_answer
from gateway.http.resources import (
    NO_CONTENT,
    Document,
    actor,
    answer,
    check_version,
    document,
    page,
    validated,
    wanted,
    writable,
)
from gateway.http.schema import PushRequest
from gateway.problems import Code, Fault, Problem, refusal
from gateway.store.rows import Happening

READ_ONLY: Final = ("tenant", "name", "inherited", "provisioned", "paused", "warnings")
INHERITED: Final = ("name", "inherited")
ACTIVE: Final = "active"  # the state of a profile that nothing keeps from sending
NEW: Final = {"inherited": False, "provisioned": False, "paused": False}


# Views.


def view(snapshot: Snapshot, profile: Profile) -> Document:
    """Show a profile to those who look under its owner."""
    shown: Document = profile.model_dump(mode="json", by_alias=True, exclude_none=True)
    for (part, name), credential in profile.credentials():
        shown[part][name] = _reference(credential.model_dump(mode="json", exclude_none=True))
    shown["inherited"] = False
    shown["provisioned"] = snapshot.provisioned(("profile", profile.tenant, profile.name))
    shown["paused"] = (profile.tenant, profile.name) in snapshot.paused
    shown["warnings"] = [
        {"pointer": fault.pointer, "code": fault.code, "detail": fault.detail} for fault in warnings(snapshot, profile)
    ]
    return shown


def _reference(credential: Document) -> Document:
    sealed, dropped = credential.pop("sealed", None), credential.pop("dropped", False)
    credential.pop("value", None)
    if credential["source"] == "plaintext" or dropped:
        credential["set"] = sealed is not None
    return credential


def inherited_view(link: Link) -> Document:
    """Show a profile to those who look under a child that inherits it."""
    return {"name": link.profile, "is_default": link.is_default, "inherited": True}


def _view(snapshot: Snapshot, one: Profile | Link) -> Document:
    return view(snapshot, one) if isinstance(one, Profile) else inherited_view(one)


def find(snapshot: Snapshot, tenant: str, name: str) -> Profile | Link:
    """Find what a tenant's list has under this name. Raises `not_found`."""
    found = snapshot.profiles.get((tenant, name)) or snapshot.inherited(tenant, name)
    if found is None:
        raise Problem(Code.NOT_FOUND)
    return found


async def locate(call: Call) -> None:
    """Find the profile of the path."""
    find(call.snapshot, call.params["tenant"], call.params["name"])


async def listing(call: Call) -> Answer:
    """List a tenant's profiles, own and inherited."""
    tenant, snapshot = call.params["tenant"], call.snapshot
    items: list[Profile | Link] = [*snapshot.own_profiles(tenant), *snapshot.links_to(tenant)]
    return page(call, items, _name, lambda one: _view(snapshot, one))


def _name(one: Profile | Link) -> str:
    return one.profile if isinstance(one, Link) else one.name


async def show(call: Call) -> Answer:
    """Show one profile."""
    call.no_query()
    return answer(_view(call.snapshot, find(call.snapshot, call.params["tenant"], call.params["name"])))


# Saving.


async def create(call: Call) -> Answer:
    """Make a profile."""
    call.no_query()
    tenant = call.params["tenant"]
    given, faults = writable(document(call), {"tenant": tenant, **NEW}, ("tenant", *NEW))
    given.pop("warnings", None)
    profile, supplied = read_profile(call.services.directory.policy, tenant, filled(given), None, faults)

    def work(snapshot: Snapshot) -> Change:
        return changes.save_profile(snapshot, actor(call), None, profile, supplied)

    directory = call.services.directory
    await directory.change(actor(call), work)
    made = directory.snapshot.profiles[tenant, profile.name]
    return answer(view(directory.snapshot, made), 201, Location=f"/v1/tenants/{tenant}/profiles/{profile.name}")


async def save(call: Call) -> Answer:
    """Replace or patch a profile; of an inherited one only the default mark."""
    call.no_query()
    tenant, name = call.params["tenant"], call.params["name"]
    directory = call.services.directory

    def work(snapshot: Snapshot) -> Change:
        before = find(snapshot, tenant, name)
        seen = _view(snapshot, before)
        if isinstance(before, Link):
            change = changes.mark_inherited(snapshot, before, is_default=_mark(wanted(call, seen), seen))
        else:
            given, faults = writable(wanted(call, _open(call, seen)), seen, READ_ONLY)
            after, supplied = read_profile(directory.policy, tenant, _completed(call, given, name), before, faults)
            change = changes.save_profile(snapshot, actor(call), before, after, supplied)
        check_version(call, seen)
        return change

    await directory.change(actor(call), work)
    return answer(_view(directory.snapshot, find(directory.snapshot, tenant, name)))


def _open(call: Call, seen: Document) -> Document:
    """Show a profile so that a patch of it means what it says.

    A credential that is given anew replaces the old one whole, and a name is added to a bare address.
    """
    if call.method != "PATCH":
        return seen
    patch = document(call)
    opened = dict(seen)
    for part, slot in SLOTS:
        given = patch[part].get(slot) if isinstance(patch.get(part), dict) else None
        if not isinstance(given, dict) or not isinstance(seen.get(part), dict):
            continue
        if "source" in given:
            opened[part] = {name: value for name, value in seen[part].items() if name != slot}
        elif "value" in given and isinstance(seen[part].get(slot), dict):
            opened[part] = {**seen[part], slot: {"source": seen[part][slot]["source"]}}
    if isinstance(patch.get("from"), dict) and isinstance(seen["from"], str):
        opened["from"] = {"address": seen["from"]}
    return opened


def _completed(call: Call, given: Document, name: str) -> Document:
    """Fill in what the preset knows: of a patch only if it names one, or nothing that it fills could be taken away."""
    whole = {**given, "name": name}
    patched = call.method == "PATCH" and "preset" not in document(call)
    return whole if patched else filled(whole)


def _mark(given: Document, seen: Document) -> bool:
    rest, faults = writable(given, seen, INHERITED)
    mark = rest.pop("is_default", False)
    if rest or faults:
        raise Problem(Code.NOT_OWNER)
    if not isinstance(mark, bool):
        raise refusal([Fault("/is_default", "bad_value", "Input should be a valid boolean.")])
    return mark


def read_profile(
    policy: Policy, tenant: str, given: Document, before: Profile | None, faults: Iterable[Fault] = ()
) -> tuple[Profile, frozenset[Slot]]:
    """Make a profile of a document. Raises the problem that tells everything wrong with it.

    Answers also where the document gave a password anew.
    """
    whole, supplied, found = _with_kept(given, before)
    whole["tenant"] = tenant
    profile, more, broken = validated(Profile, whole)
    found = [*faults, *found, *more]
    if profile is not None:
        found += profile_faults(profile, policy)
    else:
        found += [fault for fault in _of_the_rest(policy, whole, broken) if fault.pointer.split("/")[1] not in broken]
    if profile is None or found:
        raise refusal(found)
    return profile, supplied


def _of_the_rest(policy: Policy, whole: Document, broken: frozenset[str]) -> list[Fault]:
    """What is wrong between the fields that have no faults of their own."""
    rest: Document = {"name": "x", "host": "x.example", "from": "x@x.example"}
    rest |= {name: value for name, value in whole.items() if name not in broken}
    try:
        profile = Profile.model_validate_json(json.dumps(rest), strict=True)
    except ValidationError:
        return []
    return list(profile_faults(profile, policy))


def _with_kept(given: Document, before: Profile | None) -> tuple[Document, frozenset[Slot], list[Fault]]:
    """Put the kept secrets where a document says that they stay; answers also which are given anew."""
    whole = dict(given)
    stored = dict(before.credentials()) if before is not None else {}
    supplied: set[Slot] = set()
    faults: list[Fault] = []
    for part, name in SLOTS:
        credential = whole[part].get(name) if isinstance(whole.get(part), dict) else None
        if not isinstance(credential, dict):
            continue
        if not credential.keys().isdisjoint(("sealed", "dropped")):
            faults.append(Fault(f"/{part}/{name}", "unknown_field", "There is no such field."))
        elif credential.get("value") is not None and credential.get("source") == "plaintext":
            supplied.add((part, name))
            continue
        elif "set" in credential:
            known = stored.get((part, name))
            if known is None or credential != _reference(known.model_dump(mode="json", exclude_none=True)):
                faults.append(Fault(f"/{part}/{name}", "required", "A value is required; there is none to keep."))
            else:
                kept = known.model_dump(mode="json", exclude_none=True)
                whole[part] = {**whole[part], name: kept}
                continue
        else:
            continue
        whole[part] = {other: value for other, value in whole[part].items() if other != name}
    return whole, frozenset(supplied), faults


# Deleting, pushing, pausing.


async def delete(call: Call) -> Answer:
    """Delete a profile, or the link to an inherited one."""
    call.no_query()
    tenant, name = call.params["tenant"], call.params["name"]

    def work(snapshot: Snapshot) -> Change:
        found = find(snapshot, tenant, name)
        change = changes.unlink(snapshot, found) if isinstance(found, Link) else changes.delete_profile(snapshot, found)
        check_version(call, _view(snapshot, found))
        return change

    await call.services.directory.change(actor(call), work)
    return NO_CONTENT


async def push(call: Call) -> Answer:
    """Lend profiles to direct children."""
    call.no_query()
    asked = call.parsed(PushRequest)
    owner = call.params["tenant"]

    def work(snapshot: Snapshot) -> Change:
        return changes.push(snapshot, owner, asked.children, asked.profiles, asked.default)

    change = await call.services.directory.change(actor(call), work)
    made = [
        one for one in change.put if isinstance(one, Link) and one.tenant == owner and one.profile in asked.profiles
    ]
    return json_answer(
        {
            "links": [
                {"child": link.child, "profile": link.profile, "is_default": link.is_default}
                for link in made
                if link.child in asked.children
            ]
        }
    )


def own(snapshot: Snapshot, call: Call) -> Profile:
    """Find the profile of the path; of an inherited one only its owner may go on."""
    found = find(snapshot, call.params["tenant"], call.params["name"])
    if isinstance(found, Link):
        raise Problem(Code.NOT_OWNER)
    return found


async def pause(call: Call) -> Answer:
    """Stop a profile; its mail is held until it is resumed."""
    call.no_query()
    directory = call.services.directory
    await directory.change(actor(call), lambda snapshot: changes.pause(own(snapshot, call)))
    return answer(view(directory.snapshot, own(directory.snapshot, call)))


async def resume(call: Call) -> Answer:
    """Let a profile go on, whatever it stood still for."""
    call.no_query()
    directory = call.services.directory
    profile = own(call.snapshot, call)
    change = await directory.change(actor(call), lambda snapshot: changes.resume(snapshot, own(snapshot, call)))
    place = (profile.tenant, profile.name)
    if not change.drop and call.services.states().get(place, ACTIVE) != ACTIVE:
        await _tell_resumed(call, profile)
    await call.services.resume(place)
    return answer(view(directory.snapshot, own(directory.snapshot, call)))


async def _tell_resumed(call: Call, profile: Profile) -> None:
    """Write to the log that a person lets a profile go on that stood still by itself; of a pause the directory does."""
    who = actor(call)
    row = Happening(profile.tenant, who.name, who.tenant, "resume", profile.name, "[]")
    await call.services.store.log([row], call.now)


async def presets(call: Call) -> Answer:
    """List what presets fill in, in the order in which they are offered."""
    items: list[Document] = [{"name": name, **fields} for name, fields in PRESETS.items()]
    places = {name: f"{place:03}" for place, name in enumerate(PRESETS)}
    return page(call, items, lambda one: places[one["name"]], lambda one: one)


async def connectors(call: Call) -> Answer:
    """List the proxies that the tenant may name."""
    tenant = call.params["tenant"]
    allowed = call.services.directory.policy.connectors
    names = [name for name, tenants in allowed.items() if lent_to(tenant, tenants)]
    return page(call, names, str, lambda name: {"name": name})
