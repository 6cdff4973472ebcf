"""How the daemon is, on one page: what is in order is counted, and only the rest is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import __version__
from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.directory.shapes import Pause
from gateway.observe import facts
from tests.http.world import profile, running

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

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
    assert told.json["store"].startswith("SQLite 3.")
    assert told.json["states"] == {"active": 2, "parked:auth_failed": 1, "paused": 1}
    named = [(one["tenant"], one["name"], one["state"]) for one in told.json["profiles"]]
    assert named == [("acme", "desk", "active"), ("acme", "lent", "paused"), ("globex", "main", "parked:auth_failed")]
    [credential] = told.json["profiles"][0]["credentials"]
    assert (credential["field"], credential["source"], credential["state"]) == ("auth.credential", "stored", "negative")
    assert "canary" not in told.text


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
    monkeypatch.setattr(facts, "CERTIFICATES", type(facts.CERTIFICATES)("test_"))
    facts.certificate("relay.example", 587, 1_800_000_000.0)
    async with running(tmp_path) as world:
        told = (await world.call("GET", "/v1/doctor", "system")).json
    assert told["certificates"] == [{"host": "relay.example", "port": 587, "ends_at": "2027-01-15T08:00:00.000Z"}]
