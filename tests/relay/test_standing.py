"""What stands still stands alone: keys and secrets that nobody foresaw, and the flows of lanes that stand."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.outbox.states import State
from gateway.relay.routes import Feeding, Routes
from gateway.store.clock import wall_clock
from gateway.store.rows import Flow
from tests.peers.smtp_server import ScriptedRelay
from tests.relay.world import profile, sealed, world
from tests.smtp.test_dkim import wordless

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from tests.relay.world import World

PLACE = ("acme", "main")
OWN, OTHER = Flow("acme", ""), Flow("acme", "backup")
NOW = 0.0  # on the lanes' clock
PARK = ("auth_failed", (900.0,), NOW)


async def test_a_key_that_openssl_refuses_without_a_word(tmp_path: Path) -> None:
    """Its profile is parked and the mail waits unblamed; the mail of another tenant goes on."""
    dkim = {"domain": "acme.example", "selector": "s", "key": sealed(wordless(), "dkim.key")}
    async with (
        ScriptedRelay() as relay,
        world(tmp_path, profile(relay.port, dkim=dkim), profile(relay.port, "zoo")) as at,
    ):
        mails = [await at.post("acme") for _ in range(3)]
        await at.until(PLACE, "parked:dkim_key")
        await at.post("zoo")
        [caught] = await relay.wait_messages(1)
        states = {(one.state, one.attempts) for mail in mails for one in await at.recipients(mail)}

    assert caught.mail_from == "noreply@zoo.example"
    assert states == {(State.QUEUED, 0)}


@pytest.fixture
def circle(tmp_path: Path) -> Path:
    """A directory of local secrets in which `a` and `b` are links to each other."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "a").symlink_to("b")
    (secrets / "b").symlink_to("a")
    return secrets


async def test_a_secret_that_leads_in_a_circle(tmp_path: Path, circle: Path) -> None:
    """That profile stands while another tenant's goes on, and goes as well once there is a file."""
    lent = {"username": "app", "credential": {"source": "file", "key": "a"}}
    async with (
        ScriptedRelay(users={"app": "right"}) as relay,
        world(tmp_path, profile(relay.port, auth=lent), profile(relay.port, "zoo"), secrets=circle) as at,
    ):
        mail = await at.post("acme")
        state = await at.until_it_stands(PLACE)
        await at.post("zoo")
        [caught] = await relay.wait_messages(1)
        [recipient] = await at.recipients(mail)
        (circle / "a").unlink()
        (circle / "a").write_text("right\n")
        await at.dispatcher.resume(PLACE)
        await relay.wait_messages(2)

    assert state == "parked:secret_denied"
    assert caught.mail_from == "noreply@zoo.example"
    assert (recipient.state, recipient.attempts) == (State.QUEUED, 0)


async def test_a_circle_that_is_met_when_new_secrets_are_looked_for(tmp_path: Path, circle: Path) -> None:
    """The password that was missing is there, and then the DKIM key leads nowhere: another tenant's mail goes on."""
    auth = {"username": "app", "credential": {"source": "stored", "key": "later"}}
    dkim = {"domain": "acme.example", "selector": "s", "key": {"source": "file", "key": "a"}}
    async with (
        ScriptedRelay(users={"app": "right"}) as relay,
        world(tmp_path, profile(relay.port, auth=auth, dkim=dkim), profile(relay.port, "zoo"), secrets=circle) as at,
    ):
        await at.post("acme")
        await at.until(PLACE, "parked:secret_missing")
        await at.directory.put_secret(OPERATOR, "acme", "later", Secret("right"))
        for number in range(1, 4):
            await at.post("zoo")
            await relay.wait_messages(number)

    assert {caught.mail_from for caught in relay.messages} == {"noreply@zoo.example"}


# Flows of lanes that stand.


def routes(at: World) -> Routes:
    """Routes of the test's own, in which nothing moves by itself."""
    return Routes(at.directory, lambda _feeding: None)


def lane_of(of: Routes, flow: Flow) -> Feeding:
    """The lane of a flow, which has one."""
    feeding = of.of(flow)
    assert feeding is not None
    return feeding


@pytest.mark.parametrize("flows", [(OWN, OTHER), (OTHER, OWN)], ids=["own first", "deputy first"])
async def test_a_flow_in_two_lanes_keeps_its_earlier_time(tmp_path: Path, flows: tuple[Flow, Flow]) -> None:
    """Lent as due now, and noted in its own lane for later since: a change of the directory puts it off no more."""
    async with world(tmp_path, profile(25, failover=["backup"]), profile(25, name="backup", is_default=False)) as at:
        of, due = routes(at), wall_clock()
        for flow in flows:
            lane_of(of, flow)  # in this order they are opened
        main, backup = lane_of(of, OWN), lane_of(of, OTHER)
        main.lane.stand(*PARK)
        of.ready(OWN, due)
        of.lend(main, NOW, due)
        of.ready(OWN, due + 900_000)
        times = (main.lane.next_due(), backup.lane.next_due())
        of.renew()

        assert times == (due + 900_000, due)
        assert (main.lane.next_due(), backup.lane.next_due()) == (due, None)


async def test_what_was_lent_is_returned_each_time(tmp_path: Path) -> None:
    """The lane that carried it gives it back and keeps its own, and so it does when it is lent again."""
    async with world(tmp_path, profile(25, failover=["backup"]), profile(25, name="backup", is_default=False)) as at:
        of, due = routes(at), wall_clock()
        main, backup = lane_of(of, OWN), lane_of(of, OTHER)
        main.lane.stand(*PARK)
        for _ in range(2):
            of.ready(OWN, due)
            of.ready(OTHER, due)
            of.lend(main, NOW, due)
            lent = backup.lane.due_flows(due)
            for flow, at_time in lent.items():
                backup.lane.note(flow, at_time)
            of.return_lent(backup)

            assert set(lent) == {OWN, OTHER}
            assert (main.lane.due_flows(due), backup.lane.due_flows(due)) == ({OWN: due}, {OTHER: due})


def calls(work: Callable[[], object]) -> int:
    """How many functions are called in doing this work."""
    counted = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted


async def test_a_lane_that_borrowed_nothing_is_not_searched(tmp_path: Path) -> None:
    """However many flows a standing lane has, giving back nothing takes the same few steps, and the flows stay."""
    many = 1_000
    async with world(tmp_path, profile(25), profile(25, "zoo", name="backup", is_default=False)) as at:
        of, due = routes(at), wall_clock()
        main, few = lane_of(of, OWN), lane_of(of, Flow("zoo", "backup"))
        for number in range(many):
            main.lane.note(Flow(f"tenant-{number}", ""), due)
        for feeding in (main, few):
            feeding.lane.stand(*PARK)
        steps = [calls(lambda feeding=feeding: of.return_lent(feeding)) for feeding in (few, main)]  # type: ignore[misc]

        assert steps[0] == steps[1]
        assert len(main.lane.forget_flows()) == many
