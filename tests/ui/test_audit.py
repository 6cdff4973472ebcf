"""A tenant's audit log on its page: who changed what, in order, and whether the log is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ui.subjects.audit import SHOWN
from tests.ui.scoped import become
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from tests.ui.gateway import Gateway
    from tests.ui.visitor import Shown, Visitor

PAGE = "/ui/tenants/acme/audit"
BELOW = "/ui/tenants/labs/audit"
HOSTILE = '"><script>alert(1)</script>'


async def set_up(visitor: Visitor) -> None:
    """Make a tenant below acme."""
    assert "is there" in (await visitor.send(await visitor.get("/ui/new-tenant"), __id="labs", __parent="acme")).text


async def change(visitor: Visitor, **fields: str) -> None:
    """Change its settings."""
    path = "/ui/tenants/labs/settings"
    assert "The settings are saved." in (await visitor.send(await visitor.get(path), **fields)).text


def found(gateway: Gateway, name: str) -> str:
    """The id of the key of this name."""
    [key] = [key.id for key in gateway.running.directory.snapshot.keys_of("acme") if key.name == name]
    return key


def rows(page: Shown) -> list[str]:
    """The words of each row."""
    return [part.partition("</tr>")[0] for part in page.source.partition("<tbody>")[2].split("<tr>")[1:]]


async def test_who_changed_what(gateway: Gateway) -> None:
    """The newest first: the key's name, what it did to what, and the values before and after."""
    async with visiting(gateway, "acme") as visitor:
        await set_up(visitor)
        await change(visitor, __fallback="none", __limits__per_minute="60")
        await change(visitor, __fallback="inherit", __limits__per_minute="")
        page = await visitor.get(BELOW)
        newest, before = rows(page)[:2]
        assert "admin <code" in newest
        assert "tenant.update" in newest
        assert "labs</td>" in newest
        assert "fallback: none → became inherit" in page.text
        assert "limits.per_minute: 60 → became –" in page.text
        assert "fallback: inherit → became none" in page.text
        assert "limits.per_minute: 60</li>" in before
        log = await gateway.running.store.audit("labs", before=None, limit=1)
        assert f"<code>{log[0].hash.hex()}</code>" in newest


async def test_a_time_is_told_as_one(gateway: Gateway) -> None:
    """Not in milliseconds."""
    async with visiting(gateway, "acme") as visitor:
        made = [("/name", "k"), ("/scopes", "send"), ("/scopes", "read"), ("/expires_at", "2999-12-31")]
        await visitor.post("/ui/tenants/acme/new-key", made)
        text = (await visitor.get(PAGE)).text
        assert "expires_at: 2999-12-31 23:59:59" in text
        assert "scopes: send, read" in text


async def test_pages_of_the_log(gateway: Gateway) -> None:
    """Each row is on one page, the older ones behind a link."""
    async with visiting(gateway, "acme") as visitor:
        for number in range(SHOWN):
            await visitor.post("/ui/tenants/acme/new-secret", {"/name": f"s{number}", "/value": "x"})
        first = await visitor.get(PAGE)
        [older] = [link for link in first.links if "cursor=" in link]
        second = await visitor.get(older)
        assert len(rows(first)) == SHOWN
        log = await gateway.running.store.audit("acme", before=None, limit=1_000)
        told = [row.partition('<summary title="')[2].partition('"')[0] for row in (*rows(first), *rows(second))]
        assert told == [row.hash.hex() for row in log]
        assert not [link for link in second.links if "cursor=" in link]


async def test_the_log_is_verified(gateway: Gateway) -> None:
    """In place, or on the page; a log that was tampered with is told with its row."""
    path = f"{PAGE}/verify"
    async with visiting(gateway, "acme") as visitor:
        part = await visitor.get(path, HX_Request="true")
        count = len(await gateway.running.store.audit("acme", before=None, limit=1_000))
        assert f"each of its {count} rows follows" in part.text
        assert "<table" not in part.source
        whole = await visitor.get(path)
        assert "The log is whole" in whole.text
        assert rows(whole)


async def test_hostile_names_are_text(gateway: Gateway) -> None:
    """The name of the key that acted is one of a tenant's own words."""
    async with visiting(gateway, "acme") as visitor:
        await become(visitor, "acme", "admin", name=HOSTILE)
        await set_up(visitor)
        page = await visitor.get(BELOW)
        assert page.shows_as_text(HOSTILE)


async def test_who_stands_above_is_not_named(gateway: Gateway) -> None:
    """A child's administrator reads that an ancestor acted, and neither which key nor what it is called."""
    async with visiting(gateway, "acme") as visitor:
        await become(visitor, "acme", "admin", name="zebrafinch")
        await visitor.post("/ui/tenants/acme-emea/new-secret", {"/name": "relay-a", "/value": "x"})
        key = found(gateway, "zebrafinch")
    async with visiting(gateway, "acme-emea") as visitor:
        page = await visitor.get("/ui/tenants/acme-emea/audit")
        [row] = [row for row in rows(page) if "secret.create" in row]
        assert "ancestor" in row
        assert "zebrafinch" not in page.source
        assert key not in page.source


async def test_the_log_is_for_administrators(gateway: Gateway) -> None:
    """Others are refused, and see no way there."""
    async with visiting(gateway, "acme") as visitor:
        await become(visitor, "acme", "read", "profiles", "secrets")
        assert PAGE not in (await visitor.get("/ui/tenants/acme/settings")).links
        for page in (await visitor.get(PAGE), await visitor.get(f"{PAGE}/verify")):
            assert page.status == 403
