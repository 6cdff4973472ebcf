"""The overview: what needs a person stands there with the way to mend it, what went is drawn, and it stays fresh."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

from gateway.directory.changes import GATEWAY, disable_webhook, pause_all
from gateway.directory.snapshot import Snapshot
from gateway.http.needs import Known, NeedKind
from gateway.http.needs import needs as found
from gateway.ui.rendering import rendered
from gateway.ui.subjects.needs import _SENTENCES, Heard, Need, needs
from gateway.ui.subjects.overview import Chart, _row
from tests.http.world import ahead
from tests.process.cluster import until
from tests.ui import gateway as gateways
from tests.ui.asking import asked, opened
from tests.ui.browser import PATIENCE
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.ui.browser import Browser
    from tests.ui.gateway import Gateway
    from tests.ui.visitor import Visitor

HOSTILE = '"><script>alert(1)</script>'
NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z
NOTHING = Heard(
    now=NOW, reasons=(), paused=None, lines=(), credentials=(), connections=(), webhooks=(), doctor=None,
    disabled=frozenset(), may_read=True, may_resume=False,
)  # fmt: skip
STORE = {
    "engine": "SQLite 3", "free_bytes": 10_240, "floor_bytes": 8_192, "last_backup_at": "2027-01-07T08:00:00.000Z",
}  # fmt: skip
LINE = {"tenant": "acme", "profile": "alerts", "state": "active", "ready": 0, "deferred": 0, "uncertain": 0}


async def post(gateway: Gateway, tenant: str, **more: object) -> str:
    """Post a notification."""
    mail = {"tenant": tenant, "to": ["ann@example.test"], "subject": "Hello", "text": "Hello", **more}
    id_: str = (await asked(gateway, "POST", "notifications", mail))["id"]
    return id_


async def profile(gateway: Gateway, tenant: str, name: str, **more: object) -> None:
    """Make a profile."""
    body = {"name": name, "from": "a@acme.example.test", "security": "none", **more}
    await asked(gateway, "POST", f"tenants/{tenant}/profiles", body)


async def parked(gateway: Gateway, tenant: str = "acme") -> None:
    """Have mail wait for a profile that wants TLS of a relay that has none."""
    catcher = gateway.running.settings.mail_catcher.listen
    assert catcher is not None
    await profile(gateway, tenant, "broken", host="localhost", port=catcher.port, security="starttls")
    await post(gateway, tenant, profile="broken")

    async def so() -> bool:
        return gateway.running.dispatcher.all_states().get((tenant, "broken")) == "parked:tls_required"

    await until(so, PATIENCE)


async def relayed(gateway: Gateway, count: int) -> None:
    """Wait until so many recipients were relayed."""

    async def so_many() -> bool:
        minutes = (await asked(gateway, "GET", "traffic"))["minutes"]
        return bool(sum(minute["relayed"] for minute in minutes) == count)

    await until(so_many, PATIENCE)


@asynccontextmanager
async def with_key(gateway: Gateway, tenant: str, *scopes: str, name: str = "little") -> AsyncIterator[Visitor]:
    """Visit with a key of these scopes."""
    made = await asked(gateway, "POST", f"tenants/{tenant}/keys", {"name": name, "scopes": scopes})
    async with visiting(gateway) as visitor:
        await visitor.post("/ui/sign-in", {"key": made["key"]})
        yield visitor


# What is told, of what was heard.


def said(**heard: Any) -> list[tuple[str, str]]:
    """The words and sentences that are told of these."""
    fields = {name: getattr(NOTHING, name) for name in Heard.__slots__}
    return [(need.word, need.text) for need in needs(Heard(**{**fields, **heard}))]


def operator(**known: Any) -> list[tuple[str, str]]:
    """What is told of a doctor that knows this."""
    return said(doctor={"store": known.get("store"), "needs": found(Known(now=NOW, **known))})


def test_nothing_needs_anybody() -> None:
    """Where everything is in order there is nothing to tell."""
    assert said(lines=[{**LINE, "ready": 5, "oldest_seconds": 3}], connections=[{"name": "v", "health": "ok"}]) == []
    assert operator() == []


def test_what_concerns_all_mail_comes_first() -> None:
    """Then what is worst."""
    told = said(
        reasons=["storage_full"],
        paused={"since": "2027-01-15T07:00:00.000Z", "reason": "restored"},
        connections=[{"name": "vault", "health": "login_denied"}],
        lines=[
            {**LINE, "state": "open", "ready": 1, "oldest_seconds": 3600},
            {**LINE, "state": "parked:auth_failed", "ready": 1, "deferred": 2, "oldest_seconds": 90},
        ],
    )
    assert told == [
        ("not ready", "The disk is nearly full, so nothing new is accepted."),
        (
            "paused",
            (
                "All sending is paused since 2027-01-15 07:00:00 UTC; mail is accepted and kept. The database was "
                "restored: what was sent since the backup was made would be sent again."
            ),
        ),
        (
            "parked",
            (
                "acme/alerts is parked. The relay refuses user name and password. 3 notifications wait, the oldest for "
                "1 min 30 s."
            ),
        ),
        ("secrets", "The secret connection vault is not in order: login denied."),
        ("away", "The relay of acme/alerts does not answer. One notification waits, the oldest for 1 h."),
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"state": "parked:new_reason"}, "acme/alerts is parked. Something is wrong that this page has no words for."),
        ({"state": "paused"}, "acme/alerts is paused."),
        ({"state": "held"}, "acme/alerts is held by the tenant that it is inherited from."),
        ({"state": "held", "profile": None}, "acme has no profile that may send this."),
        ({"state": "held", "profile": None, "tenant": "off"}, "off is disabled."),
    ],
)
def test_mail_that_waits(line: dict[str, object], told: str) -> None:
    """Why it waits, how much of it, and how long."""
    one = {**LINE, **line, "ready": 2, "oldest_seconds": 1}
    [(_, text)] = said(lines=[one], disabled=frozenset({"off"}))
    assert text == f"{told} 2 notifications wait, the oldest for 1 s."


def test_mail_of_which_nobody_knows() -> None:
    """Of all profiles together."""
    lines = [{**LINE, "uncertain": count, "oldest_seconds": 1} for count in (1, 2)]
    told = "Nobody knows whether 3 notifications arrived: look, then send again or cancel."
    assert said(lines=lines) == [("uncertain", told)]


@pytest.mark.parametrize(
    ("credential", "told"),
    [
        ({"state": "negative"}, "acme/alerts: the credential auth.credential cannot be had from its source (vault)."),
        (
            {"state": "stale"},
            "acme/alerts: the credential auth.credential is 1 h old; its source (vault) gives no newer one.",
        ),
        (
            {"warning": "secret_expires"},
            "acme/alerts: the credential auth.credential ends at 2027-01-20 08:00:00 UTC.",
        ),
        (
            {"warning": "secret_expired"},
            "acme/alerts: the credential auth.credential ended at 2027-01-20 08:00:00 UTC.",
        ),
    ],
)
def test_credentials(credential: dict[str, object], told: str) -> None:
    """Why a credential needs somebody."""
    one = {
        "tenant": "acme", "profile": "alerts", "field": "auth.credential", "source": "vault", "state": "fresh",
        "age_seconds": 3600, "expires_at": "2027-01-20T08:00:00.000Z", "warning": None, **credential,
    }  # fmt: skip
    assert said(credentials=[one]) == [("credential", told)]


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (
            {"certificates": [{"host": "h", "port": 25, "ends_at": "2027-01-28T08:00:00.000Z"}]},
            ("certificate", "The certificate of h:25 ends at 2027-01-28 08:00:00 UTC."),
        ),
        (
            {"certificates": [{"host": "h", "port": 25, "ends_at": "2027-01-14T08:00:00.000Z"}]},
            ("certificate", "The certificate of h:25 ended at 2027-01-14 08:00:00 UTC."),
        ),
        (
            {"store": {**STORE, "last_backup_at": "2027-01-14T08:00:00.000Z"}},
            ("disk", "The disk has 10.0 KiB left; below 8.0 KiB nothing new is accepted."),
        ),
        (
            {"store": {**STORE, "floor_bytes": 0}},
            ("backup", "The last backup is from 2027-01-07 08:00:00 UTC."),
        ),
        (
            {"store": {**STORE, "floor_bytes": 0, "last_backup_at": None}},
            ("backup", "No backup was made yet; the command “backup” makes one."),
        ),
        (
            {"restart_needed": ["http.listen", "store"]},
            ("restart", "Changed settings wait for a restart: http.listen, store."),
        ),
    ],
)
def test_what_the_operator_is_told(known: dict[str, object], told: tuple[str, str]) -> None:
    """What `doctor` says needs a person, in the page's words."""
    assert operator(**known) == [told]


def test_a_profile_called_new_is_opened() -> None:
    """Its page stands beside the form for new ones, from wherever one comes."""
    line = {**LINE, "profile": "new", "state": "paused", "ready": 2, "oldest_seconds": 1}
    credential = {
        "tenant": "acme", "profile": "new", "field": "auth.credential", "source": "vault", "state": "negative",
        "age_seconds": None, "expires_at": None, "warning": None,
    }  # fmt: skip
    heard = replace(NOTHING, lines=[line], credentials=[credential])
    ways = [need.way for need in needs(heard)]
    assert [*ways, _row(line, heard)["way"]] == ["/ui/tenants/acme/profiles/new/edit"] * 3


def test_there_are_words_for_all_that_can_need_a_person() -> None:
    """No word of `doctor` is unknown to the page."""
    assert set(_SENTENCES) == set(get_args(NeedKind))


# The page.


async def test_a_parked_profile_and_the_way_to_mend_it(gateway: Gateway) -> None:
    """It says why and how much waits, and its link leads to the profile; among what waits it stands first."""
    await post(gateway, "acme", profile="alerts", send_at=ahead(hours=1).isoformat())
    await parked(gateway)
    for tenant in ("system", "acme"):
        async with visiting(gateway, tenant) as visitor:
            page = await visitor.get("/ui/")
            assert "acme/broken is parked. TLS cannot be had" in page.text
            assert "One notification waits, the oldest for" in page.text
            assert "/ui/tenants/acme/profiles/broken" in page.links
            table = page.text[page.text.index("What waits") :]
            assert 0 < table.index("acme/broken") < table.index("acme/alerts")
            assert (await visitor.get("/ui/tenants/acme/profiles/broken")).status == 200


async def test_a_child_learns_nothing_of_its_parents_relays(gateway: Gateway) -> None:
    """Neither that the parent's profile is parked, nor why, nor where its relay is, nor how the daemon's disk is."""
    await parked(gateway)
    await asked(gateway, "POST", "tenants/acme/profiles/push", {"children": ["acme-emea"], "profiles": ["broken"]})
    await post(gateway, "acme-emea", profile="broken")
    async with visiting(gateway, "acme-emea") as visitor:
        page = await visitor.get("/ui/")
    assert "acme-emea/broken" in page.text
    for word in ("parked", "TLS", "localhost", "127.0.0.1", "SQLite", "backup", "acme/broken", "Resume"):
        assert word not in page.text, word


async def test_all_sending_is_paused_and_goes_on(gateway: Gateway) -> None:
    """Everybody learns that it is; the operator alone sees why, and resumes it here."""
    directory = gateway.running.directory
    await directory.change(GATEWAY, lambda snapshot: pause_all(snapshot, NOW, "restored"))
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get("/ui/")
        assert "All sending is paused since 2027-01-15 08:00:00 UTC" in page.text
        assert "restored" not in page.text
        assert [form.action for form in page.forms if "resume" in form.action] == []
        assert (await visitor.post("/ui/queue/resume")).status == 403
    async with visiting(gateway, "system") as visitor:
        page = await visitor.get("/ui/")
        assert "The database was restored" in page.text
        after = await visitor.send(page, action="/ui/queue/resume")
        assert (after.path, "Sending goes on." in after.text) == ("/ui/", True)
        assert "All sending is paused" not in after.text
    assert directory.snapshot.all_paused is None


async def test_what_a_disabled_tenant_has_waiting(gateway: Gateway) -> None:
    """It is held, and the way leads to where the tenant is enabled."""
    await asked(gateway, "POST", "tenants", {"id": "labs", "parent": "acme", "fallback": "none"})
    await profile(gateway, "labs", "own", host="localhost", port=25, is_default=True)
    await asked(gateway, "POST", "tenants/labs/profiles/own/pause")
    await post(gateway, "labs")
    await asked(gateway, "PATCH", "tenants/labs", {"enabled": False})
    async with visiting(gateway, "acme") as visitor:
        page = await visitor.get("/ui/")
    assert "labs is disabled. One notification waits" in page.text
    assert "/ui/tenants/labs/settings" in page.links


async def test_a_webhook_that_failed(gateway: Gateway) -> None:
    """Its tenant and those above are told that it is told nothing any more; a neighbour is not."""
    hook = {"url": "https://hooks.example.test/secret-path", "events": ["profile.parked"]}
    made = await asked(gateway, "POST", "tenants/acme-emea/webhooks", hook)

    def disable(snapshot: Snapshot) -> Any:
        return disable_webhook(snapshot, ("acme-emea", made["id"]), "failing")

    await gateway.running.directory.change(GATEWAY, disable)
    sentence = (
        "acme-emea: the webhook to hooks.example.test is told nothing any more, because its endpoint took nothing"
    )
    for tenant in ("system", "acme", "acme-emea"):
        async with visiting(gateway, tenant) as visitor:
            page = await visitor.get("/ui/")
            assert sentence in page.text, tenant
            assert "secret-path" not in page.source
            assert "/ui/tenants/acme-emea/webhooks" in page.links
    async with with_key(gateway, "acme-emea", "read") as visitor:
        page = await visitor.get("/ui/")
        assert (page.status, "webhook" in page.text) == (200, False)
    key = await asked(gateway, "POST", "tenants/acme-apac/keys", {"name": "admin", "scopes": ["admin"]})
    async with visiting(gateway) as visitor:
        await visitor.post("/ui/sign-in", {"key": key["key"]})
        page = await visitor.get("/ui/")
        assert (page.status, "webhook" in page.text) == (200, False)


@pytest.mark.parametrize("scope", ["send", "read", "profiles", "secrets"])
async def test_whoever_may_little_sees_what_they_may(gateway: Gateway, scope: str) -> None:
    """No scope alone is too little for the page: what is not shown is said, and what is wrong is told to who may read."""
    await parked(gateway)
    async with with_key(gateway, "acme", scope) as visitor:
        page = await visitor.get("/ui/")
    may_read = scope == "read"
    assert page.status == 200
    assert ("parked" in page.text, "Relayed" in page.text, "What waits" in page.text) == (may_read,) * 3
    assert ("What you do not see here" in page.text) is not may_read
    assert ("/ui/notifications" in page.links) or scope not in ("send", "read")
    assert "Daemon and store" not in page.text


async def test_names_are_text(gateway: Gateway) -> None:
    """Markup in the name of a key, which is whom the page greets, is shown as it was written."""
    async with with_key(gateway, "acme", "read", name=HOSTILE) as visitor:
        page = await visitor.get("/ui/")
    assert page.shows_as_text(HOSTILE)


async def test_the_page_asks_for_its_part_alone(gateway: Gateway) -> None:
    """What it asks by itself has no frame around it."""
    async with visiting(gateway, "system") as visitor:
        part = await visitor.get("/ui/", HX_Request="true")
    assert ("h1" in part.elements, "h2" in part.elements, "html" in part.elements) == (False, True, False)


async def test_secret_connections_are_told_to_who_may_name_them(tmp_path: Path) -> None:
    """How each stands that the operator lends the tenant, and of no other."""
    (tmp_path / "token").write_text("t")
    extra = "".join(
        f"""
[connections.{name}]
kind = "vault"
url = "https://127.0.0.1:1"
auth = {{method = "token", token = {{file = "token"}}}}
{allow}
"""
        for name, allow in (("lent", 'allow = {acme = ["acme/"]}'), ("kept", 'allow = {system = [""]}'))
    )
    async with gateways.running(tmp_path, extra) as gateway:
        texts = {}
        for tenant in ("system", "acme", "acme-emea"):
            async with visiting(gateway, tenant) as visitor:
                texts[tenant] = (await visitor.get("/ui/")).text
    assert "kept vault unused" in texts["system"]
    assert ("lent vault unused" in texts["acme"], "kept" in texts["acme"]) == (True, False)
    assert "Secret connections" not in texts["acme-emea"]


def test_all_that_there_can_be() -> None:
    """A page on which everything is: more than there is room for, several daemons, a store that tells all of itself."""
    doctor = {
        "version": "1.2.3",
        "store": {
            "engine": "PostgreSQL 18", "bytes": 2_097_152, "free_bytes": 1_048_576,
            "last_backup_at": "2027-01-08T08:00:00.000Z",
        },
        "outbox": {"unfinished": 7},
        "daemons": [
            {"host": "one", "lanes": 3, "retiring": False, "here": True, "began_at": "2027-01-08T08:00:00.000Z"},
            {"host": None, "lanes": 0, "retiring": True, "here": False, "began_at": None},
        ],
    }  # fmt: skip
    page = rendered(
        "overview/now.html",
        needs=[Need("bad", "parked", HOSTILE, "/ui/tenants", HOSTILE), Need("wait", "paused", "All.", resume=True)],
        more_needs=3,
        charts=[Chart("relayed", "Relayed", "by the relay", 5, 2, 4, "M0 48v-1h3v1z")],
        rows=[
            {**LINE, "uncertain": 4, "oldest_seconds": None, "kind": "open", "why": HOSTILE, "name": HOSTILE, "way": ""}
        ],
        more_rows=9,
        uncertain=True,
        connections=[
            {"name": HOSTILE, "kind": "vault", "health": "login_denied", "look": "bad", "answered_seconds": 61}
        ],
        doctor=doctor,
        relays=[{"host": HOSTILE, "port": 25, "told": [{"word": "open", "look": "wait", "count": 2}], "proven": "now"}],
        more_relays=1,
        as_of="today",
        may={"read": True, "send": True},
    )
    assert "<script" not in page
    for told in (
        "And 3 more", "5</strong>", "And 9 profiles more", "Uncertain", "login denied", "answered 1 min 1 s ago", "2 open",
        "And 1 more", "PostgreSQL 18, 2.0 MiB, 1.0 MiB free", "2027-01-08 08:00:00 UTC", "This daemon", ", of this daemon",
        "on an unknown host, 0 profiles, retiring", "Resume sending",
    ):  # fmt: skip
        assert told in page, told


# In a browser.


async def test_what_happens_shows_without_another_page(gateway: Gateway, browser: Browser) -> None:
    """Mail that was relayed moves the chart, a profile that is parked comes up; focus stays, and its link leads there."""
    seen = await opened(gateway, browser, "/ui/", "system")
    await seen.page.evaluate("window.same = true")
    assert await seen.page.locator("#sum-relayed").inner_text() == "0"
    await seen.tab_to("Tenants")
    for _ in range(3):
        await post(gateway, "acme")
    await relayed(gateway, 3)
    await parked(gateway)
    link = seen.page.get_by_role("link", name="Open acme/broken")
    await link.wait_for()
    await seen.page.locator("#sum-relayed", has_text=re.compile("^3$")).wait_for()
    assert await seen.page.get_by_role("img", name=re.compile("^Relayed in the last hour: 3,")).count() == 1
    assert await seen.page.locator(".chart.relayed .bars").get_attribute("d") != ""
    assert await seen.page.evaluate("[window.same, document.activeElement.textContent]") == [True, "Tenants"]
    await link.focus()
    async with seen.page.expect_response(lambda answer: answer.url.endswith("/ui/")):
        await seen.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert await seen.page.evaluate("document.activeElement.textContent") == "Open acme/broken"
    await link.click()
    await seen.page.wait_for_url("**/ui/tenants/acme/profiles/broken*")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
async def test_it_shuts_nobody_out(
    gateway: Gateway, browser: Browser, width: int, scheme: Literal["light", "dark"]
) -> None:
    """With something of everything on it; with little on it, it is seen with all other pages."""
    await post(gateway, "acme")
    await parked(gateway)
    await asked(gateway, "POST", "queue/pause")
    await post(gateway, "acme", profile="broken")
    seen = await opened(gateway, browser, "/ui/", "system", width=width, scheme=scheme)
    await seen.page.get_by_role("button", name="Resume sending").wait_for()
    await seen.no_sideways_scroll()
    await seen.axe()
