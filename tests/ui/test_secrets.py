"""A tenant's secrets on their pages: kept, replaced, deleted when nobody uses them, and never shown."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.credentials.credentials import stored_place
from gateway.directory.changes import OPERATOR, Change
from gateway.ui.subjects.secrets import _row
from tests.ui.scoped import become
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from tests.ui.gateway import Gateway
    from tests.ui.visitor import Shown, Visitor

PAGES = "/ui/tenants/acme/secrets"
NEW = "/ui/tenants/acme/new-secret"
RELAY = f"{PAGES}/relay-a"
HOSTILE = '"><script>alert(1)</script>'
PEM = "-----BEGIN PRIVATE KEY-----\nc3VycHJpc2U=\n-----END PRIVATE KEY-----\n"


def kept(gateway: Gateway, name: str = "relay-a") -> str:
    """What is kept, opened."""
    snapshot, seal = gateway.running.directory.snapshot, gateway.running.directory.seal
    secret = snapshot.secrets["acme", name]
    return seal.open(secret.sealed, stored_place("acme", name, secret.version)).reveal()


async def keep(visitor: Visitor, value: str = "correct horse", name: str = "relay-a") -> Shown:
    return await visitor.send(await visitor.get(NEW), __name=name, __value=value)


async def use(gateway: Gateway) -> None:
    """Have the tenant's profile use the secret."""
    directory = gateway.running.directory
    alerts = directory.snapshot.profiles["acme", "alerts"]
    auth = alerts.auth.model_validate({"username": "a", "credential": {"source": "stored", "key": "relay-a"}})
    using = alerts.model_copy(update={"auth": auth, "name": "using", "security": "starttls"})
    await directory.change(OPERATOR, lambda _snapshot: Change([using]))


async def test_a_secret_is_kept_and_replaced(gateway: Gateway) -> None:
    """In one line as it was typed, then in several; no page has it."""
    async with visiting(gateway, "acme") as visitor:
        page = await keep(visitor, " correct horse ")
        assert "The secret relay-a is kept." in page.text
        assert kept(gateway) == " correct horse "
        await visitor.get(RELAY)
        again = await visitor.send(await visitor.get(RELAY), __lines=PEM)
        assert "Version 2 is kept." in again.text
        assert kept(gateway) == PEM
        for shown in (page, again, await visitor.get(PAGES), await visitor.get(f"{RELAY}/delete")):
            assert "correct horse" not in shown.source
            assert "c3VycHJpc2U" not in shown.source


@pytest.mark.parametrize(
    ("written", "status", "told"),
    [
        ({"/name": "a b", "/value": "hunter2"}, 422, "A name has letters"),
        ({"/name": "", "/value": "hunter2"}, 422, "A name is needed."),
        ({"/name": "relay-a", "/value": "hunter2"}, 409, "This name is taken."),
        ({"/name": "other"}, 422, "A secret is needed."),
        ({"/name": "other", "/value": "hunter2", "/lines": "hunter2"}, 422, "one of the two stays empty"),
        ({"/name": HOSTILE, "/value": "hunter2"}, 422, "A name has letters"),
    ],
)
async def test_what_is_wrong_is_told(gateway: Gateway, written: dict[str, str], status: int, told: str) -> None:
    """Beside its field, with the name, and without the secret."""
    async with visiting(gateway, "acme") as visitor:
        await keep(visitor)
        page = await visitor.post(NEW, written)
        assert (page.status, told in page.text, page.source.count('class="fault"')) == (status, True, 1)
        assert page.form().fields["/name"] == written["/name"]
        assert "hunter2" not in page.source
        assert ("write it again" in page.text) is ("/value" in written)
        assert HOSTILE not in page.source
    assert [name for _, name in gateway.running.directory.snapshot.secrets] == ["relay-a"]
    assert kept(gateway) == "correct horse"


async def test_of_two_who_make_it_at_once_one_is_told(gateway: Gateway) -> None:
    """The name is taken: nothing of the other's is overwritten."""
    written = {"/name": "relay-b", "/value": "hunter2"}
    async with visiting(gateway, "acme") as one, visiting(gateway, "system") as other:
        pages = await asyncio.gather(*(visitor.post(NEW, written) for visitor in (one, other, one, other)))
        assert sorted(page.status for page in pages) == [200, 409, 409, 409]
        assert sum("This name is taken." in page.text for page in pages) == 3
    assert gateway.running.directory.snapshot.secrets["acme", "relay-b"].version == 1


async def test_a_new_version_has_something(gateway: Gateway) -> None:
    """An empty field is no secret."""
    async with visiting(gateway, "acme") as visitor:
        await keep(visitor)
        page = await visitor.send(await visitor.get(RELAY))
        assert (page.status, "A secret is needed." in page.text) == (422, True)
        assert "write it again" not in page.text
        assert (await visitor.post(f"{PAGES}/none", {"/value": "hunter2"})).status == 404


async def test_of_two_who_replace_it_the_second_is_told(gateway: Gateway) -> None:
    """Nothing is kept of theirs until they have seen what is so now, and write it again."""
    async with visiting(gateway, "acme") as visitor:
        await keep(visitor)
        old = await visitor.get(RELAY)
        await visitor.send(await visitor.get(RELAY), __value="first")
        refused = await visitor.send(old, __value="second")
        assert (refused.status, "second" in refused.source) == (412, False)
        assert "Somebody changed this meanwhile" in refused.text
        assert "Version 2" in refused.text
        assert kept(gateway) == "first"
        assert "Version 3 is kept." in (await visitor.send(refused, __value="second")).text
    assert kept(gateway) == "second"


async def test_a_form_that_names_no_version_replaces_none(gateway: Gateway) -> None:
    """Who sends it cannot have seen what is there."""
    async with visiting(gateway, "acme") as visitor:
        await keep(visitor)
        assert (await visitor.post(RELAY, {"/value": "hunter2"})).status == 412
    assert kept(gateway) == "correct horse"


async def test_what_was_replaced_meanwhile_is_not_deleted(gateway: Gateway) -> None:
    """The question was about the version before."""
    async with visiting(gateway, "acme") as visitor:
        await keep(visitor)
        old = await visitor.get(f"{RELAY}/delete")
        await visitor.send(await visitor.get(RELAY), __value="second")
        assert "has changed since it was read" in (await visitor.send(old)).text
    assert kept(gateway) == "second"


async def test_a_secret_in_use_stays(gateway: Gateway) -> None:
    """The page names who uses it, and has no button; nobody is talked into it either."""
    async with visiting(gateway, "acme") as visitor:
        await keep(visitor)
        await use(gateway)
        listed = await visitor.get(PAGES)
        assert "/ui/tenants/acme/profiles/using" in listed.links
        asked = await visitor.get(f"{RELAY}/delete")
        assert "It cannot be deleted as long as profiles use it: using." in asked.text
        assert "danger primary" not in asked.source
        refused = await visitor.post(f"{RELAY}/delete")
        assert (refused.path, "The secret is in use." in refused.text) == (PAGES, True)
    assert kept(gateway) == "correct horse"


def test_a_profile_called_new_is_led_to() -> None:
    """And not to the form for new ones."""
    [(_, way)] = _row("acme", {"name": "relay-a", "used_by": ["new"]})["users"]
    assert way == "/ui/tenants/acme/profiles/new/edit"


async def test_a_secret_nobody_uses_is_deleted(gateway: Gateway) -> None:
    """After a question."""
    async with visiting(gateway, "acme") as visitor:
        await keep(visitor)
        page = await visitor.send(await visitor.get(f"{RELAY}/delete"))
        assert "The secret relay-a is deleted." in page.text
    assert not gateway.running.directory.snapshot.secrets


async def test_who_may_only_handle_secrets_handles_them(gateway: Gateway) -> None:
    """They are led there, see who uses a secret without a way to it, and keep a new one and a new version."""
    async with visiting(gateway, "acme") as visitor:
        await keep(visitor)
        await use(gateway)
        await become(visitor, "acme", "secrets")
        assert PAGES in (await visitor.get("/ui/")).links
        listed, shown = await visitor.get(PAGES), await visitor.get(RELAY)
        for page in (listed, shown):
            assert (page.status, "using" in page.text) == (200, True)
            assert not [link for link in page.links if "/profiles" in link or link == "/ui/tenants"]
        assert "The secret relay-b is kept." in (await keep(visitor, name="relay-b")).text
        assert "Version 2 is kept." in (await visitor.send(shown, __value="hunter2")).text
    assert kept(gateway) == "hunter2"


@pytest.mark.parametrize(("scope", "tenant", "status"), [("secrets", "system", 404), ("send", "acme", 403)])
async def test_a_form_for_secrets_is_shown_to_nobody_else(
    gateway: Gateway, scope: str, tenant: str, status: int
) -> None:
    """Neither for a tenant out of reach, nor without the scope."""
    async with visiting(gateway, "acme") as visitor:
        await become(visitor, "acme", scope)
        assert (await visitor.get(f"/ui/tenants/{tenant}/new-secret")).status == status


async def test_secrets_are_for_who_may_keep_them(gateway: Gateway) -> None:
    """Others are refused, and see no way there."""
    async with visiting(gateway, "acme") as visitor:
        await keep(visitor)
        await become(visitor, "acme", "read", "profiles")
        assert PAGES not in (await visitor.get("/ui/tenants/acme/settings")).links
        for page in (
            await visitor.get(PAGES),
            await visitor.get(RELAY),
            await visitor.post(NEW, {"/name": "x", "/value": "y"}),
        ):
            assert (page.status, "relay-a" in page.text) == (403, False)
