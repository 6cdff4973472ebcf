"""The table of a tenant's SMTP profiles: how each stands, what one may do with it, and what nobody below the owner sees."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from gateway.smtp.outcome import Trouble
from gateway.ui.standing import why
from tests.process.cluster import until
from tests.ui.asking import asked, opened
from tests.ui.profiles import HOSTILE, JINJA, TABLE, made
from tests.ui.scoped import become
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway

CHILDS = "/ui/tenants/acme-emea/profiles"


def catcher(gateway: Gateway) -> int:
    """The port of the relay that takes everything."""
    return gateway.running.directory.snapshot.profiles["system", "main"].port


async def waiting(gateway: Gateway, state: str) -> None:
    """Wait until a profile of acme is in this state."""

    async def stands() -> bool:
        return any(one["state"] == state for one in (await asked(gateway, "GET", "queue?tenant=acme"))["items"])

    await until(stands, 10)


# The table.


async def test_the_table_tells_what_a_profile_is(gateway: Gateway) -> None:
    """Relay, sign-in, sender, recipients, whose it is, and how it stands."""
    await made(gateway, auth={"username": "app", "credential": {"source": "stored", "key": "none"}}, security="starttls",
               to=["ops@acme.example"], is_default=True)  # fmt: skip
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(TABLE)
    told = page.text.partition(" main ")[2]
    assert told.startswith("127.0.0.9 9 STARTTLS Acme app noreply@acme.example ops@acme.example default active")
    assert "1 warning The tenant has no stored secret of this name yet." in told


async def test_a_tenant_without_profiles_is_told_what_happens(gateway: Gateway) -> None:
    """Mail leaves by what is above, and a first profile is a button away."""
    async with visiting(gateway, "system") as visitor:
        page = await visitor.get("/ui/tenants/acme-apac/profiles")
    assert "leaves by main of system: no profile here is the default." in page.text
    assert "has no profile" in page.text
    assert "/ui/tenants/acme-apac/profiles/new" in page.links


@pytest.mark.parametrize(
    ("key", "tenant", "change", "told"),
    [
        ("acme", "acme", {}, "leaves by a default from above: no profile here is the default."),
        ("system", "acme", {}, "leaves by main of system: no profile here is the default."),
        (
            "acme",
            "acme",
            {"fallback": "none"},
            "is refused: no profile here is the default, and it uses none from above.",
        ),
        ("acme", "acme-emea", {}, "leaves by alerts, this tenant's default, which it inherits from above."),
        ("acme-emea", "acme-emea", {}, "leaves by alerts, this tenant's default, which it inherits from above."),
        ("system", "system", {}, "leaves by main, this tenant's default."),
    ],
)
async def test_by_what_mail_leaves(gateway: Gateway, key: str, tenant: str, change: Any, told: str) -> None:
    """One sentence, as far as the person may know."""
    if change:
        await asked(gateway, "POST", "tenants", {"id": "acme-own", "parent": "acme", **change})
        tenant = "acme-own"
    async with visiting(gateway, key) as visitor:
        page = await visitor.get(f"/ui/tenants/{tenant}/profiles")
    assert f"Mail that names no profile {told}" in page.text


async def test_nothing_of_an_inherited_profile_is_told(gateway: Gateway) -> None:
    """No page of the child has anything of it but its name and mark, whoever looks."""
    secrets = ("127.0.0.77", "4321", "parentuser", "parentnote", "parent.example", "noreply@", "corp-key")
    await made(gateway, "lent", host=secrets[0], port=4321, to=["ops@parent.example"], footnote={"text": "parentnote"},
               auth={"username": "parentuser", "credential": {"source": "stored", "key": "corp-key"}},
               security="starttls", **{"from": "noreply@parent.example"})  # fmt: skip
    await asked(gateway, "POST", "tenants/acme/profiles/push", {"children": ["acme-emea"], "profiles": ["lent"]})
    await asked(gateway, "POST", "notifications",
                {"tenant": "acme-emea", "profile": "lent", "to": ["a@b.example"], "subject": "s", "text": "t"})  # fmt: skip
    for key in ("acme-emea", "acme", "system"):
        async with visiting(gateway, key) as visitor:
            for path in ("", "/lent", "/lent/delete", "/new"):
                page = await visitor.get(CHILDS + path)
                assert page.status == 200
                assert not [one for one in secrets if one in page.source], (key, path)
            for step in ("pause", "resume"):
                refused = await visitor.post(f"{CHILDS}/lent/{step}")
                assert "Only the owner of the profile may do this." in refused.text
            for step in ("check", ""):
                assert (await visitor.post(f"{CHILDS}/lent/{step}".rstrip("/"), {"/host": "x"})).status == 403


async def test_who_only_reads_gets_no_buttons(gateway: Gateway) -> None:
    """Neither on the table nor in the form; and what is sent all the same is refused."""
    await made(gateway)
    async with visiting(gateway, "acme") as visitor:
        await become(visitor, "acme", "read")
        page = await visitor.get(TABLE)
        form = await visitor.get(f"{TABLE}/main")
        assert [one.action for one in (*page.forms, *form.forms)] == ["/ui/sign-out", "/ui/sign-out", ""]
        assert not [link for link in (*page.links, *form.links) if link.endswith(("/new", "/delete", "/test", "/push"))]
        assert "scope profiles" in form.text
        assert form.forms[-1].buttons == []
        refused = await visitor.post(f"{TABLE}/main/pause")
        assert "The API key does not permit this." in refused.text
        assert (await visitor.send(form, __host="127.0.0.10")).status == 403


async def test_a_tenant_may_be_kept_from_having_any(gateway: Gateway) -> None:
    """Then it is told so, and nothing leads to a new one."""
    await asked(gateway, "POST", "tenants", {"id": "acme-own", "parent": "acme", "own_profiles": False})
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get("/ui/tenants/acme-own/profiles")
    assert "none are made" in page.text
    assert "/ui/tenants/acme-own/profiles/new" not in page.links


# What one does there.


async def test_the_default_mark_moves(gateway: Gateway) -> None:
    """With one button; and the inherited one gives it back from its own page."""
    await made(gateway, is_default=True)
    await made(gateway, "second", host="127.0.0.10")
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(TABLE)
        told = await visitor.send(page, action=f"{TABLE}/second/default")
        assert "The profile second is the default now." in told.text
        marked = {
            one["name"]: one["is_default"] for one in (await asked(gateway, "GET", "tenants/acme/profiles"))["items"]
        }
        assert marked == {"alerts": False, "main": False, "second": True}


async def test_an_inherited_one_loses_the_mark(gateway: Gateway) -> None:
    """That much is the child's to say."""
    await made(gateway, "lent")
    push = {"children": ["acme-apac"], "profiles": ["lent"], "default": "lent"}
    await asked(gateway, "POST", "tenants/acme/profiles/push", push)
    path = "/ui/tenants/acme-apac/profiles/lent"
    async with visiting(gateway, "acme") as visitor:
        told = await visitor.send(await visitor.get(path), action=f"{path}/default")
        assert "The profile lent is no longer the default." in told.text
        assert (await asked(gateway, "GET", "tenants/acme-apac/profiles/lent"))["is_default"] is False


async def test_a_profile_is_paused_and_goes_on(gateway: Gateway) -> None:
    """Its mail waits meanwhile, which the table counts."""
    await made(gateway)
    async with visiting(gateway, "acme") as visitor:
        told = await visitor.send(await visitor.get(TABLE), action=f"{TABLE}/main/pause")
        assert "The profile main is paused" in told.text
        mail = {"tenant": "acme", "profile": "main", "to": ["a@b.example"], "subject": "s", "text": "t"}
        await asked(gateway, "POST", "notifications", mail)
        page = await visitor.get(TABLE)
        assert "paused 1 waiting Somebody paused it." in page.text
        gone_on = await visitor.send(page, action=f"{TABLE}/main/resume")
        assert "The profile main goes on." in gone_on.text
        assert (await asked(gateway, "GET", "tenants/acme/profiles/main"))["paused"] is False


async def test_a_parked_profile_says_why_and_goes_on(gateway: Gateway) -> None:
    """In words, with what to do; resuming it tries again at once."""
    await made(
        gateway, auth={"username": "app", "credential": {"source": "stored", "key": "later"}}, security="starttls"
    )
    mail = {"tenant": "acme", "profile": "main", "to": ["a@b.example"], "subject": "s", "text": "t"}
    await asked(gateway, "POST", "notifications", mail)
    await waiting(gateway, "parked:secret_missing")
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(TABLE)
        assert "parked: secret missing 1 waiting The profile's password or key is missing. Give it again." in page.text
        told = await visitor.send(page, action=f"{TABLE}/main/resume")
        assert "The profile main goes on." in told.text


async def test_that_all_sending_is_paused_is_told_once(gateway: Gateway) -> None:
    """Not beside each profile, which nobody has paused."""
    await made(gateway)
    await asked(gateway, "POST", "queue/pause")
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(TABLE)
    assert "All sending is paused" in page.text
    assert "Somebody paused it." not in page.text
    assert f"{TABLE}/main/resume" not in [form.action for form in page.forms]


async def test_many_profiles_stand_on_several_pages(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on one of them."""
    monkeypatch.setattr("gateway.ui.subjects.profiles.SHOWN", 2)
    for number in range(3):
        await made(gateway, f"p{number}", port=number + 1, host=f"127.0.1.{number + 1}")
    found: list[str] = []
    path: str | None = TABLE
    async with visiting(gateway, "acme") as visitor:
        while path is not None:
            page = await visitor.get(path)
            found += [link.rpartition("/")[2] for link in page.links if re.fullmatch(rf"{TABLE}/(alerts|p\d)", link)]
            path = next((link for link in page.links if "cursor=" in link), None)
    assert found == ["alerts", "p0", "p1", "p2"]


@pytest.mark.parametrize("trouble", Trouble)
def test_every_reason_has_words(trouble: Trouble) -> None:
    """Whatever a profile is parked for, a person learns what is wrong and what to do."""
    told = why(f"parked:{trouble}")
    assert told is not None
    assert told.wrong.endswith(".")
    assert told.mend.endswith(".")
    assert told != why("parked:something_new")


# Deleting.


async def test_a_profile_is_deleted(gateway: Gateway) -> None:
    """What will happen is said before: its mail, the default, its password."""
    await made(gateway, is_default=True)
    await asked(gateway, "POST", "tenants/acme/profiles/main/pause")
    mail = {"tenant": "acme", "profile": "main", "to": ["a@b.example"], "subject": "s", "text": "t"}
    await asked(gateway, "POST", "notifications", mail)
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(f"{TABLE}/main/delete")
        assert "It is this tenant's default." in page.text
        assert "1 notification waits for it." in page.text
        told = await visitor.send(page)
        assert "The profile main is deleted." in told.text
        assert ("acme", "main") not in gateway.running.directory.snapshot.profiles


async def test_a_profile_that_children_have_is_not_deleted(gateway: Gateway) -> None:
    """Which children, and where it is taken back; there is no button, and sending it all the same is refused."""
    await made(gateway, "lent")
    await asked(gateway, "POST", "tenants/acme/profiles/push", {"children": ["acme-apac"], "profiles": ["lent"]})
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(f"{TABLE}/lent/delete")
        assert "It cannot be deleted yet: it is pushed to acme-apac." in page.text
        assert f"{TABLE}/push" in page.links
        assert page.form().buttons == []
        assert "linked to acme-apac" in (await visitor.send(page)).text


async def test_of_an_inherited_profile_the_link_goes(gateway: Gateway) -> None:
    """The child cannot send by it any more, and its owner has it still."""
    await made(gateway, "lent")
    await asked(gateway, "POST", "tenants/acme/profiles/push", {"children": ["acme-emea"], "profiles": ["lent"]})
    async with visiting(gateway, "acme-emea") as visitor:
        page = await visitor.get(f"{CHILDS}/lent/delete")
        assert "the profile itself stays with its owner" in page.text
        await visitor.send(page)
    snapshot = gateway.running.directory.snapshot
    assert (snapshot.inherited("acme-emea", "lent"), ("acme", "lent") in snapshot.profiles) == (None, True)


async def test_what_the_operators_files_say_stays(gateway: Gateway) -> None:
    """It is told, and there is no button for it."""
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(f"{TABLE}/alerts/delete")
        assert "stands in the operator's files" in page.text
        assert page.form().buttons == []
        assert f"{TABLE}/alerts/delete" not in (await visitor.get(TABLE)).links


async def test_texts_are_text(gateway: Gateway) -> None:
    """Markup in a sender's or recipient's name, or a user name, is shown as it was written."""
    sender: Any = {"from": {"name": HOSTILE, "address": "a@b.example"}}
    await made(gateway, auth={"username": HOSTILE, "credential": {"source": "stored", "key": "k"}}, security="starttls",
               to=[{"name": JINJA, "address": "a@b.example"}],
               **sender)  # fmt: skip
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get(TABLE)
        assert page.shows_as_text(HOSTILE)
        assert JINJA in page.text
        assert page.elements.count("script") == 2


# In a browser.


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
async def test_the_table_shuts_nobody_out(gateway: Gateway, browser: Browser, width: int, scheme: Any) -> None:
    """Profiles in several states, an inherited one, and the page that asks before deleting."""
    await made(gateway, is_default=True, to=["ops@acme.example"], security="starttls",
               auth={"username": "app@acme.example", "credential": {"source": "stored", "key": "none"}})  # fmt: skip
    await made(gateway, "off", host="a-rather-long-name-of-a-host.acme.example", port=catcher(gateway), enabled=False)
    seen = await opened(gateway, browser, "/ui/", "system", width=width, scheme=scheme)
    for path in (TABLE, f"{CHILDS}/alerts", f"{TABLE}/main/delete"):
        await seen.goto(path)
        await seen.no_sideways_scroll()
        await seen.axe()
