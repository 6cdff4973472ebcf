"""A tenant's API keys on their pages: made, shown once, copied, revoked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.directory.changes import OPERATOR
from tests.ui.asking import opened
from tests.ui.scoped import become, key_on
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from gateway.directory.snapshot import Key
    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway
    from tests.ui.visitor import Shown, Visitor

PAGES = "/ui/tenants/acme/keys"
NEW = "/ui/tenants/acme/new-key"
HOSTILE = '"><script>alert(1)</script>'


def found(gateway: Gateway, name: str) -> Key:
    [key] = [key for key in gateway.running.directory.snapshot.keys_of("acme") if key.name == name]
    return key


async def make(visitor: Visitor, *scopes: str, **fields: Any) -> Shown:
    """Make a key."""
    named = [(f"/{name}", value) for name, value in fields.items()]
    return await visitor.post(NEW, [*named, *(("/scopes", scope) for scope in scopes)])


async def test_a_key_is_shown_once(gateway: Gateway) -> None:
    """In the answer to the form itself, which nobody keeps; it works, and no page has it again."""
    async with visiting(gateway, "acme") as visitor:
        page = await make(visitor, "read", name="desk", expires_at="2999-12-31", cidrs="127.0.0.0/8\n::1/128")
        key = key_on(page)
        assert (page.path, page.headers["Cache-Control"]) == (NEW, "no-store")
        assert "It will not be shown again" in page.text
        made = found(gateway, "desk")
        assert (made.scopes, [str(one) for one in made.cidrs]) == (frozenset({"read"}), ["127.0.0.0/8", "::1/128"])
        listed = await visitor.get(PAGES)
        assert f"desk {made.id}" in listed.text
        assert "2999-12-31 23:59:59" in listed.text
        assert key.split("_", 2)[2] not in listed.source
        assert key.split("_", 2)[2] not in (await visitor.get(f"{PAGES}/{made.id}/revoke")).source
    async with visiting(gateway) as other:
        assert (await other.post("/ui/sign-in", {"key": key})).path == "/ui/"


async def test_faults_stand_beside_their_fields(gateway: Gateway) -> None:
    """All of them, with what was chosen and written."""
    async with visiting(gateway, "acme") as visitor:
        page = await make(visitor, "admin", name="x" * 201, mode="test", expires_at="1999-01-01x", cidrs="10.0.0.1/8")
        assert (page.status, page.source.count('class="fault"')) == (422, 4)
        assert page.source.count('value="admin" checked') == 1
        fields = page.form().fields
        assert (fields["/mode"], fields["/expires_at"], fields["/cidrs"]) == ("test", "1999-01-01x", "10.0.0.1/8")


async def test_a_key_has_a_scope(gateway: Gateway) -> None:
    """One with none is refused."""
    async with visiting(gateway, "acme") as visitor:
        page = await make(visitor, name="none")
        assert (page.status, "A key has at least one scope." in page.text) == (422, True)


async def test_nobody_offers_more_than_they_have(gateway: Gateway) -> None:
    """A key of some networks offers those; wider ones are refused in words."""
    async with visiting(gateway, "acme") as visitor:
        page = await make(visitor, "admin", name="near", cidrs="127.0.0.0/8")
        await visitor.post("/ui/sign-in", {"key": key_on(page)})
        asked = await visitor.get(NEW)
        assert asked.form().fields["/cidrs"] == "127.0.0.0/8"
        page = await visitor.send(asked, __cidrs="")
        assert (page.status, "wider networks than its own" in page.text) == (403, True)


async def test_nobody_makes_a_key_that_lasts_longer(gateway: Gateway) -> None:
    """A key that ends offers its own last day, of which it gives no more than it has itself; without one it is refused."""
    ends = 32_503_679_999_000 - 3_600_000  # 2999-12-31T22:59:59Z
    _, text = await gateway.running.directory.create_key(OPERATOR, "acme", "guest", ["admin"], expires_at=ends)
    async with visiting(gateway) as visitor:
        await visitor.post("/ui/sign-in", {"key": text})
        asked = await visitor.get(NEW)
        assert asked.form().fields["/expires_at"] == "2999-12-31"
        await make(visitor, "send", name="desk", expires_at="2999-12-31")
        assert found(gateway, "desk").expires_at == ends
        await make(visitor, "send", name="today", expires_at="2998-01-01")
        assert (found(gateway, "today").expires_at or ends) < ends
        refused = await visitor.send(asked, __expires_at="")
        assert (refused.status, "lasts longer than itself" in refused.text) == (403, True)
        assert refused.source.count('class="fault"') == 1


async def test_a_key_is_revoked(gateway: Gateway) -> None:
    """After a question that says what stops."""
    async with visiting(gateway, "acme") as visitor:
        await make(visitor, "send", name="desk")
        path = f"{PAGES}/{found(gateway, 'desk').id}/revoke"
        asked = await visitor.get(path)
        assert "Programs that use it stop at once" in asked.text
        page = await visitor.send(asked)
        assert (page.path, "The key desk is revoked." in page.text) == (PAGES, True)
        assert (await visitor.get(path)).status == 404
    assert len(gateway.running.directory.snapshot.keys_of("acme")) == 1


async def test_revoking_the_own_key_signs_out(gateway: Gateway) -> None:
    """The page says so before."""
    async with visiting(gateway, "acme") as visitor:
        assert "you are signed in with it" in (await visitor.get(PAGES)).text
        asked = await visitor.get(f"{PAGES}/{found(gateway, 'admin').id}/revoke")
        assert "you are signed out" in asked.text
        assert (await visitor.send(asked)).path.startswith("/ui/sign-in")


async def test_an_expired_key_is_marked(gateway: Gateway) -> None:
    """By a word; it is listed until somebody revokes it."""
    await gateway.running.directory.create_key(OPERATOR, "acme", "old", ["send"], expires_at=1)
    async with visiting(gateway, "acme") as visitor:
        await make(visitor, "send", name="new", expires_at="2999-12-31")
        listed = await visitor.get(PAGES)
        assert listed.source.count('<span class="mark bad">expired</span>') == 1


@pytest.mark.parametrize("tenant", ["acme-emea", "acme"])
async def test_keys_are_for_administrators_of_the_tenant(gateway: Gateway, tenant: str) -> None:
    """Who is none is refused; who is one of a tenant below has no such page. Neither is told a name."""
    async with visiting(gateway, tenant) as visitor:
        if tenant == "acme":
            await become(visitor, "acme", "read", "secrets", "profiles", name="little")
            assert PAGES not in (await visitor.get("/ui/tenants/acme/settings")).links
        path = f"{PAGES}/{found(gateway, 'admin').id}/revoke"
        for page in (await visitor.get(PAGES), await visitor.get(path), await visitor.post(path)):
            assert (page.status, "send, read" in page.text) == (403 if tenant == "acme" else 404, False)
    assert found(gateway, "admin")


async def test_a_hostile_name_is_text(gateway: Gateway) -> None:
    """On every page that has it."""
    async with visiting(gateway, "acme") as visitor:
        made = await make(visitor, "send", name=HOSTILE)
        path = f"{PAGES}/{found(gateway, HOSTILE).id}/revoke"
        pages = [made, await visitor.get(PAGES), await visitor.get(path), await visitor.post(path)]
        assert [page.shows_as_text(HOSTILE) for page in pages] == [True] * 4


async def test_a_key_is_made_copied_and_revoked(gateway: Gateway, browser: Browser) -> None:
    """By somebody in a browser, from the list to the list."""
    seen = await opened(gateway, browser, PAGES)
    page = seen.page
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("link", name="New key").click()
    await page.get_by_label("Name").fill("desk")
    await page.get_by_label("profiles", exact=True).check()
    await page.get_by_label("Last day").fill("2999-12-31")
    await seen.axe()
    await page.get_by_role("button", name="Make the key").click()
    await page.get_by_role("button", name="Copy").click()
    await page.get_by_text("It is copied.").wait_for()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == await page.get_by_role("textbox", name="Key").inner_text()
    assert copied.startswith(f"ngw_{found(gateway, 'desk').id}_")
    assert found(gateway, "desk").scopes == {"send", "read", "profiles"}
    await seen.axe()
    await page.get_by_role("link", name="To the keys").click()
    await seen.axe()
    await page.get_by_role("link", name="Revoke … desk").click()
    await page.get_by_role("button", name="Revoke desk").click()
    await page.get_by_text("The key desk is revoked.").wait_for()
