"""How the daemon is, on one page: what needs a person; what is in order is counted, and only the rest is named."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, get_args

import pytest

from gateway import __version__
from gateway.credentials.secret import Secret
from gateway.directory.changes import GATEWAY, OPERATOR, disable_webhook
from gateway.directory.shapes import Pause, Tenant
from gateway.http.doctor import MOST
from gateway.http.needs import DAY, Known, NeedKind, NeedView, needs
from gateway.http.values import parse_time
from gateway.message.times import time_text
from gateway.observe import facts, metrics
from gateway.smtp.outcome import Unknown
from gateway.store.clock import wall_clock
from gateway.store.postgresql import PostgresqlStore
from gateway.store.postgresql.server import Server
from gateway.store.sqlite.file import SCHEMA
from tests.http.world import ahead, profile, running
from tests.manual.test_readme import rows, words
from tests.peers.losing_proxy import LosingProxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.peers.postgresql import Postgresql

HOUR = 3_600_000
NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z
LINE = {"tenant": "acme", "profile": "main", "state": "active", "ready": 0, "deferred": 0, "uncertain": 0}
STORE = {
    "engine": "SQLite 3", "free_bytes": 10_000, "floor_bytes": 1_000, "last_backup_at": "2027-01-14T08:00:00.000Z",
}  # fmt: skip
STATES = {("acme", "main"): "active", ("acme", "desk"): "active", ("globex", "main"): "parked:auth_failed"}


def stored(key: str) -> dict[str, object]:
    """How a profile signs in by a stored secret."""
    return {"username": "app", "credential": {"source": "stored", "key": key}}


async def test_what_is_not_in_order_is_named(tmp_path: Path) -> None:
    """A profile that stands still, one that is paused, and one whose secret is not there; no secret is told."""
    async with running(tmp_path, states=lambda: STATES) as world:
        await world.directory.put_secret(OPERATOR, "acme", "here", Secret("canary-7f3"))
        await world.put(
            profile("acme", "main", auth=stored("here")),
            profile("acme", "desk", auth=stored("gone")),
            profile("globex", "main"),
            Pause(tenant="acme", profile="lent"),
        )
        told = await world.call("GET", "/v1/doctor", "system")

    assert (told.json["version"], told.json["ready"], told.json["reasons"]) == (__version__, True, [])
    assert told.json["store"]["engine"].startswith("SQLite 3.")
    assert told.json["daemons"] == []
    assert told.json["states"] == {"active": 2, "parked:auth_failed": 1, "paused": 1}
    named = [(one["tenant"], one["name"], one["state"]) for one in told.json["profiles"]]
    assert named == [("acme", "desk", "active"), ("acme", "lent", "paused"), ("globex", "main", "parked:auth_failed")]
    [credential] = told.json["profiles"][0]["credentials"]
    assert (credential["field"], credential["source"], credential["state"]) == ("auth.credential", "stored", "negative")
    assert "canary" not in told.text


async def test_store_and_outbox(tmp_path: Path) -> None:
    """How large the database is and how much room there is; what is not final, and since when it could have gone."""
    async with running(tmp_path) as world:
        await world.posted("acme", profile="own")
        await world.posted("acme", send_at=ahead(hours=1).isoformat())
        world.offset = 90_000
        told = (await world.call("GET", "/v1/doctor", "system")).json
        size = (tmp_path / "gateway.db").stat().st_size

    store = told["store"]
    assert (store["schema_version"], store["bytes"], store["floor_bytes"]) == (SCHEMA, size, 0)
    assert (store["log_bytes"] > 0, store["free_bytes"] > 0, store["last_backup_at"]) == (True, True, None)
    assert (told["outbox"].pop("oldest_seconds") - 90 < 5, told["outbox"].pop("overdue_seconds") - 90 < 5) == (
        True,
        True,
    )
    assert told["outbox"] == {"unfinished": 2, "deferred": 0}


async def test_each_relay_is_told_once(tmp_path: Path) -> None:
    """However many profiles use it: how they stand, and when one of them last proved it. What is not in order comes first."""
    looks = [
        ("a.example", 25, "active", 8.0),
        ("b.example", 587, "open", None),
        ("a.example", 25, "paused", 3.5),
        *((f"z{number:03}.example", 25, "active", None) for number in range(MOST)),
    ]
    async with running(tmp_path, relays=lambda: looks) as world:
        told = (await world.call("GET", "/v1/doctor", "system")).json["relays"]

    assert len(told) == MOST
    assert told[:2] == [
        {"host": "b.example", "port": 587, "states": {"open": 1}, "proven_seconds": None},
        {"host": "a.example", "port": 25, "states": {"active": 1, "paused": 1}, "proven_seconds": 3},
    ]


async def test_what_waits_for_a_person(tmp_path: Path) -> None:
    """That all sending is paused, since when and why; and which settings need a restart."""
    async with running(tmp_path, restart_needed=["http.listen"]) as world:
        await world.put(Pause(tenant="system", since=1_800_000_000_000, reason="restored"))
        told = (await world.call("GET", "/v1/doctor", "system")).json

    assert told["paused"] == {"since": "2027-01-15T08:00:00.000Z", "reason": "restored"}
    assert told["restart_needed"] == ["http.listen"]


async def test_daemons_that_share_the_database(tmp_path: Path, postgresql: Postgresql, schema: str) -> None:
    """All that live are named, the longest first, with the lanes they have; nobody who is gone is."""
    here, other, gone = (
        PostgresqlStore(Server(postgresql.url, schema=schema), name) for name in ("here", "other", "gone")
    )
    async with running(tmp_path, on=here) as world:
        async with other, gone:
            await other.roster.take([("acme", "own"), ("acme", "lent")])
            await other.roster.beat(retiring=True)
            await other.server.fetch("UPDATE daemon SET host = NULL, began_at = NULL WHERE id = $1", other.roster.me)
            await other.server.fetch("UPDATE daemon SET lease_until = 0 WHERE id = $1", gone.roster.me)
            told = (await world.call("GET", "/v1/doctor", "system")).json["daemons"]
        alone = (await world.call("GET", "/v1/doctor", "system")).json["daemons"]

    before = {"host": None, "began_at": None, "lanes": 2, "retiring": True, "here": False}
    began = parse_time(alone[0].pop("began_at"))
    assert alone == [{"host": socket.gethostname(), "lanes": 0, "retiring": False, "here": True}]
    assert abs(began - wall_clock()) < HOUR
    assert told == [before, {**alone[0], "began_at": time_text(began)}]


async def test_daemons_are_not_known_while_the_database_is_away(
    tmp_path: Path, postgresql: Postgresql, schema: str
) -> None:
    """The page is shown all the same."""
    async with (
        LosingProxy(postgresql.url) as proxy,
        running(tmp_path, on=PostgresqlStore(Server(proxy.url, schema=schema), patience=0.1)) as world,
    ):
        await world.key_for("system")
        await proxy.leave()
        told = await world.call("GET", "/v1/doctor", "system")
        await proxy.come()

    assert (told.status, told.json["daemons"]) == (200, [])


async def test_why_it_is_not_ready(tmp_path: Path) -> None:
    """In the words of `/readyz`."""
    async with running(tmp_path, reasons=lambda: ["storage_full"]) as world:
        told = (await world.call("GET", "/v1/doctor", "system")).json
    assert (told["ready"], told["reasons"]) == (False, ["storage_full"])


async def test_a_profile_that_is_gone_is_not_told(tmp_path: Path) -> None:
    """Its lane may outlive it."""
    async with running(tmp_path, states=lambda: {("acme", "gone"): "open"}) as world:
        assert (await world.call("GET", "/v1/doctor", "system")).json["states"] == {}


async def test_certificates_that_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the relay that showed them."""
    monkeypatch.setattr(metrics, "CERTIFICATES", type(metrics.CERTIFICATES)("test_"))
    facts.certificate("relay.example", 587, 1_800_000_000.0)
    async with running(tmp_path) as world:
        told = (await world.call("GET", "/v1/doctor", "system")).json
    assert told["certificates"] == [{"host": "relay.example", "port": 587, "ends_at": "2027-01-15T08:00:00.000Z"}]


# What needs a person.


def told(need: dict[str, Any]) -> dict[str, Any]:
    """What is said of a need, without what has nothing to do with it."""
    assert need.keys() == NeedView.model_fields.keys()
    return {name: value for name, value in need.items() if value is not None}


def kinds(**known: Any) -> list[str]:
    """What needs a person if this is known; of a remark with that word before it."""
    found = needs(Known(now=NOW, **known))
    return [f"remark {one['need']}" if one["remark"] else one["need"] for one in found]


async def test_what_needs_a_person(tmp_path: Path) -> None:
    """Whatever is the matter, wherever that shows; what somebody wanted so, or may want to know, is a remark, and last."""
    states = {("acme", "desk"): "active", ("acme", "own"): "parked:auth_failed"}
    async with running(tmp_path, states=lambda: states, restart_needed=["http.listen", "store"]) as world:
        hook = {"url": "https://hooks.example/secret", "events": ["profile.parked"]}
        made = (await world.call("POST", "/v1/tenants/acme/webhooks", "acme:admin", json=hook)).json
        await world.directory.change(GATEWAY, lambda snapshot: disable_webhook(snapshot, ("acme", made["id"]), "gone"))
        await world.put(profile("acme", "desk", auth=stored("gone")))
        await world.posted("acme", profile="own", on_ambiguous="hold")
        await world.settle("acme", *[Unknown("no reply to the final dot")] * 2, profile="own")
        for tenant, fields in (("acme", {"profile": "own"}), ("globex", {}), ("acme-emea", {})):
            await world.posted(tenant, **fields)
        await world.put(Tenant(id="globex", fallback="none"), Tenant(id="acme-emea", parent="acme", enabled=False))
        world.offset = 90_000
        found = (await world.call("GET", "/v1/doctor", "system")).json["needs"]

    waits = [one.pop("age_seconds") for one in found if one["age_seconds"] is not None]
    assert [told({**one, "age_seconds": None}) for one in found] == [
        {"need": "restart", "remark": False, "name": "http.listen, store"},
        {"need": "parked", "remark": False, "tenant": "acme", "profile": "own", "reason": "auth_failed", "waiting": 1},
        {"need": "no_profile", "remark": False, "tenant": "globex", "waiting": 1},
        {"need": "uncertain", "remark": False, "waiting": 1},
        {
            "need": "credential", "remark": False, "tenant": "acme", "profile": "desk", "name": "auth.credential",
            "reason": "negative", "source": "stored",
        },
        {"need": "webhook", "remark": False, "tenant": "acme", "name": "hooks.example", "reason": "gone"},
        {"need": "backup", "remark": True},
        {"need": "tenant_disabled", "remark": True, "tenant": "acme-emea", "waiting": 1},
    ]  # fmt: skip
    assert len(waits) == 3
    assert all(90 <= seconds < 120 for seconds in waits)


async def test_a_pause_of_all_hides_nothing(tmp_path: Path) -> None:
    """What is parked is parked also while nothing is sent; that a person wanted so is a remark."""
    async with running(tmp_path, states=lambda: {("acme", "own"): "parked:auth_failed"}) as world:
        await world.put(Pause(tenant="system", since=NOW, reason="operator"))
        found = (await world.call("GET", "/v1/doctor", "system")).json["needs"]
    assert [(one["need"], one["remark"]) for one in found] == [("parked", False), ("paused", True), ("backup", True)]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ({"ready": 5, "oldest_seconds": 9999}, None),
        ({"state": "parked:new_reason", "oldest_seconds": None}, "parked"),
        ({"state": "paused", "oldest_seconds": None}, None),
        ({"state": "paused", "ready": 1, "oldest_seconds": 1}, "remark profile_paused"),
        ({"state": "held", "ready": 1, "oldest_seconds": 1}, "remark held"),
        ({"state": "held", "profile": None, "ready": 1, "oldest_seconds": 1}, "no_profile"),
        (
            {"state": "held", "profile": None, "tenant": "off", "ready": 1, "oldest_seconds": 1},
            "remark tenant_disabled",
        ),
        ({"state": "open", "ready": 1, "oldest_seconds": 899}, None),
        ({"state": "open", "ready": 1, "oldest_seconds": 900}, "away"),
        ({"uncertain": 1, "oldest_seconds": 1}, "uncertain"),
        ({"tenant": None, "profile": None, "state": "unknown", "ready": 1, "oldest_seconds": 9999}, None),
    ],
)
def test_which_mail_needs_somebody(line: dict[str, object], kind: str | None) -> None:
    """What waits for a person does, what goes on by itself does only when that takes long."""
    assert kinds(lines=[{**LINE, **line}], disabled={"off"}) == ([] if kind is None else [kind])


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        ({"reasons": ["store_away"]}, ["not_ready"]),
        ({"paused": {"since": "2027-01-15T07:00:00.000Z", "reason": "operator"}}, ["remark paused"]),
        ({"paused": {"since": "2027-01-15T07:00:00.000Z", "reason": None}}, ["remark paused"]),
        ({"paused": {"since": "2027-01-15T07:00:00.000Z", "reason": "restored"}}, ["paused"]),
        ({"certificates": [{"host": "h", "port": 25, "ends_at": "2027-01-29T07:59:59.000Z"}]}, ["certificate"]),
        ({"certificates": [{"host": "h", "port": 25, "ends_at": "2027-01-29T08:00:01.000Z"}]}, []),
        ({"connections": [{"name": "a", "health": "ok"}, {"name": "b", "health": "unused"}]}, []),
        ({"connections": [{"name": "a", "health": "login_denied"}]}, ["connection"]),
        ({"store": STORE}, []),
        ({"store": {**STORE, "free_bytes": 1_999}}, ["disk"]),
        ({"store": {**STORE, "free_bytes": 900}, "reasons": ["storage_full"]}, ["not_ready"]),
        ({"store": {**STORE, "free_bytes": None, "floor_bytes": None}}, []),
        ({"store": {**STORE, "last_backup_at": None}}, ["remark backup"]),
        ({"store": {**STORE, "last_backup_at": "2027-01-08T07:59:59.000Z"}}, ["backup"]),
        ({"store": {**STORE, "last_backup_at": "2027-01-08T08:00:01.000Z"}}, []),
        ({"store": {**STORE, "last_backup_at": None, "engine": "PostgreSQL 17"}}, []),
        ({"restart_needed": ["http.listen"]}, ["restart"]),
    ],
)
def test_what_else_needs_somebody(known: dict[str, Any], kind: list[str]) -> None:
    """Certificates for fourteen days before their end, a disk that fills up, backups older than a week."""
    assert DAY == 86_400_000
    assert kinds(**known) == kind


def test_what_is_parked_for_its_credential_is_told_once() -> None:
    """Its parking says so already."""
    one = {
        "tenant": "acme", "profile": "main", "field": "auth.credential", "source": "stored", "state": "negative",
        "age_seconds": None, "expires_at": None, "warning": None,
    }  # fmt: skip
    line = {**LINE, "state": "parked:secret_missing", "oldest_seconds": None}
    assert kinds(credentials=[one], lines=[line]) == ["parked"]


def test_all_that_can_need_a_person_is_in_the_manual() -> None:
    """Each word of `needs` is explained."""
    assert {kind for row in rows("What needs a person") for kind in words(row[0])} == set(get_args(NeedKind))
