"""What came of mail in the last hour: counted as it happens, by minute and tenant, told to whoever's reach it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.directory.shapes import Tenant
from gateway.outbox.traffic import APART, KEPT, MINUTE, Traffic
from tests.http.world import deferred, failed, relayed, running

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = (0, 0, 0)


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        """Begin at the beginning of a minute."""
        self.now = 1_000_000 * MINUTE

    def __call__(self) -> int:
        """Tell the time."""
        return self.now


def counted(traffic: Traffic, *sees: str) -> tuple[int, int, int]:
    """Sum the hour: relayed, failed, deferred; of these tenants, or of all."""
    minutes = traffic.minutes((lambda tenant: tenant in sees) if sees else None)
    return sum(one.relayed for one in minutes), sum(one.failed for one in minutes), sum(one.deferred for one in minutes)


def test_a_minute_goes_after_an_hour() -> None:
    """Sixty minutes are told, oldest first; what is older than that is not there any more."""
    clock = Clock()
    traffic = Traffic(clock)
    for minute in range(KEPT + 1):
        clock.now = (1_000_000 + minute) * MINUTE + 59_999
        traffic.count("relayed", minute + 1, "acme")
    minutes = traffic.minutes()
    assert [one.relayed for one in minutes] == list(range(2, KEPT + 2))
    assert [minutes[0].at, minutes[-1].at] == [1_000_001 * MINUTE, 1_000_060 * MINUTE]
    clock.now += (KEPT - 1) * MINUTE
    assert [one.relayed for one in traffic.minutes()] == [KEPT + 1, *[0] * (KEPT - 1)]


def test_what_a_recipient_comes_to() -> None:
    """Out of time and of unknown fate counts as failed; what is no end and no delay counts as nothing."""
    traffic = Traffic(Clock())
    for event in (
        "relayed",
        "failed",
        "expired",
        "outcome_unknown",
        "deferred",
        "cancelled",
        "lease_lost",
        "uncertain",
    ):
        traffic.count(event, 1, "acme")
    assert counted(traffic) == (1, 3, 1)


def test_a_clock_that_was_set_back() -> None:
    """Minutes that are not over yet by the new time are no part of the hour, and new ones count."""
    clock = Clock()
    traffic = Traffic(clock)
    traffic.count("relayed", 1, "acme")
    clock.now -= 24 * KEPT * MINUTE
    traffic.count("relayed", 2, "acme")
    assert counted(traffic) == (2, 0, 0)
    clock.now += 24 * KEPT * MINUTE
    assert counted(traffic) == (0, 0, 0)


def test_more_tenants_than_are_told_apart() -> None:
    """Of a minute's tenants beyond so many only the sum of all is known; in the next minute they are told apart again."""
    clock = Clock()
    traffic = Traffic(clock)
    for number in range(APART + 1):
        traffic.count("relayed", 1, f"t{number}")
    traffic.count("relayed", 1, "t0")
    assert (counted(traffic, "t0"), counted(traffic, f"t{APART - 1}")) == ((2, 0, 0), (1, 0, 0))
    assert (counted(traffic, f"t{APART}"), counted(traffic)) == (NOTHING, (APART + 2, 0, 0))
    clock.now += MINUTE
    traffic.count("relayed", 1, f"t{APART}")
    assert counted(traffic, f"t{APART}") == (1, 0, 0)


async def test_the_reach_decides_what_is_seen(tmp_path: Path) -> None:
    """A tenant sees its own and its children's mail, not its parent's nor its neighbour's; `system` sees all."""
    async with running(tmp_path) as world:
        await world.posted("acme", profile="own", to=["a@x.example", "b@x.example", "c@x.example"], cc=[])
        await world.settle("acme", relayed(), deferred(), failed(), relayed(), profile="own")
        await world.posted("acme-emea", profile="lent")
        await world.settle("acme-emea", relayed(), profile="lent")
        told = {
            who: (await world.call("GET", "/v1/traffic", who)).json for who in ("system", "acme", "acme-emea", "globex")
        }

    assert {len(one["minutes"]) for one in told.values()} == {KEPT}
    sums = {
        who: tuple(sum(minute[kind] for minute in one["minutes"]) for kind in ("relayed", "failed", "deferred"))
        for who, one in told.items()
    }
    assert sums == {"system": (3, 1, 1), "acme": (3, 1, 1), "acme-emea": (1, 0, 0), "globex": NOTHING}
    assert told["acme"]["minutes"][0]["at"] < told["acme"]["minutes"][-1]["at"]


async def test_who_gets_a_name_next_sees_nothing_of_who_had_it(tmp_path: Path) -> None:
    """What a tenant did that was deleted is not told to another of the same id; `system` still sees it in the sum."""
    async with running(tmp_path) as world:
        await world.posted("globex")
        await world.settle("globex", relayed())
        before = (await world.call("GET", "/v1/traffic", "globex")).json["minutes"]
        assert (await world.call("DELETE", "/v1/tenants/globex", "system")).status == 204
        await world.put(Tenant(id="globex", parent="acme"))
        after, all_ = [(await world.call("GET", "/v1/traffic", who)).json["minutes"] for who in ("acme", "system")]

    assert [sum(one["relayed"] for one in minutes) for minutes in (before, after, all_)] == [1, 0, 1]


async def test_it_takes_the_scope_to_read(tmp_path: Path) -> None:
    """Whoever may only send is not told, and there is nothing to ask for."""
    async with running(tmp_path) as world:
        sender = await world.call("GET", "/v1/traffic", "acme:send")
        asked = await world.call("GET", "/v1/traffic?minutes=5")
    assert (sender.status, asked.status) == (403, 422)
