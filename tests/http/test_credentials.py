"""Which credentials need a person: of the profiles in reach that are in use, without their values or anybody's else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.http.admission import TESTS_PER_MINUTE
from tests.http.world import profile, running

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.http.world import Answered

STATES = {
    ("acme", "well"): "active",
    ("acme", "gone"): "active",
    ("acme-emea", "gone"): "parked:secret_missing",
    ("globex", "gone"): "active",
    ("acme", "deleted"): "active",
}


def stored(key: str) -> dict[str, object]:
    """How a profile signs in by a stored secret."""
    return {"username": "app", "credential": {"source": "stored", "key": key}}


async def test_credentials_that_are_not_in_order(tmp_path: Path) -> None:
    """They are told with whose they are; what is in order, idle or outside the reach is not, and no value is."""
    async with running(tmp_path, states=lambda: STATES) as world:
        await world.directory.put_secret(OPERATOR, "acme", "here", Secret("canary-7f3"))
        await world.put(
            profile("acme", "well", auth=stored("here")),
            profile("acme", "gone", auth=stored("lost")),
            profile("acme", "idle", auth=stored("lost")),
            profile("acme-emea", "gone", auth=stored("lost")),
            profile("globex", "gone", auth=stored("lost")),
        )
        told = {
            who: await world.call("GET", "/v1/credentials", f"{who}:secrets")
            for who in ("system", "acme", "acme-emea", "globex")
        }

    places = {
        who: [f"{one['tenant']}/{one['profile']}" for one in answered.json["items"]] for who, answered in told.items()
    }
    assert places == {
        "system": ["acme-emea/gone", "acme/gone", "globex/gone"],
        "acme": ["acme-emea/gone", "acme/gone"],
        "acme-emea": ["acme-emea/gone"],
        "globex": ["globex/gone"],
    }
    assert told["acme-emea"].json["items"] == [
        {
            "tenant": "acme-emea", "profile": "gone", "field": "auth.credential", "source": "stored", "state": "negative",
            "version": None, "age_seconds": None, "expires_at": None, "warning": None,
        }
    ]  # fmt: skip
    assert "canary" not in told["system"].text


@pytest.mark.parametrize(
    ("step", "what", "others"),
    [
        ("credential/check", "credential checks", ("credential/refresh", "test")),
        ("credential/refresh", "credential refreshes", ("credential/check", "test")),
        ("test", "connection tests", ("credential/check", "credential/refresh")),
    ],
)
async def test_so_many_a_minute(tmp_path: Path, step: str, what: str, others: Sequence[str]) -> None:
    """Because the store is everybody's. Another tenant has its own, and so has each other step."""
    async with running(tmp_path) as world:
        await world.directory.put_secret(OPERATOR, "acme", "here", Secret("canary-7f3"))
        await world.put(profile("acme", "well", auth=stored("here")))

        async def take(step: str, place: str = "acme/profiles/well") -> Answered:
            body = {"json": {"to": "ann@example.test"}} if step == "test" else {}
            key = f"{place.partition('/')[0]}:secrets,profiles"
            return await world.call("POST", f"/v1/tenants/{place}/{step}", key, **body)

        told = [await take(step) for _ in range(TESTS_PER_MINUTE + 1)]
        rest = [await take(step, "system/profiles/main"), *[await take(other) for other in others]]

    assert [one.status for one in told] == [200] * TESTS_PER_MINUTE + [429]
    assert (told[-1].code, int(told[-1].headers["Retry-After"]) > 0) == ("rate_limited", True)
    assert told[-1].json["detail"] == f"A tenant has at most {TESTS_PER_MINUTE} {what} a minute."
    assert [one.status for one in rest] == [200, 200, 200]


@pytest.mark.parametrize("key", ["here", "lost"])
async def test_who_has_fetched_a_credential_anew_is_on_record(tmp_path: Path, key: str) -> None:
    """Whether or not it could be had: a profile that stood still goes on by it. A check leaves no trace."""
    async with running(tmp_path) as world:
        await world.directory.put_secret(OPERATOR, "acme", "here", Secret("canary-7f3"))
        await world.put(profile("acme", "well", auth=stored(key)))
        for step in ("check", "refresh"):
            await world.call("POST", f"/v1/tenants/acme/profiles/well/credential/{step}", "acme:secrets")
        log = (await world.call("GET", "/v1/tenants/acme/audit", "acme:admin")).json["items"]
    rows = [(row["actor"][:4], row["action"], row["object"], row["changes"]) for row in log if "cred" in row["action"]]
    assert rows == [("key:", "credential.refresh", "well", [])]


async def test_it_takes_the_scope_for_secrets(tmp_path: Path) -> None:
    """Whoever may read what is sent is not told how its secrets stand."""
    async with running(tmp_path) as world:
        assert (await world.call("GET", "/v1/credentials", "acme:read,send")).status == 403
