"""What stands still stands alone: keys and secrets that nobody foresaw, and the flows of lanes that stand.

And where flows are when the directory changes, and when other daemons speak of them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from gateway.credentials.secret import Secret
from gateway.directory.changes import OPERATOR
from gateway.directory.shapes import Tenant
from gateway.outbox.states import State
from gateway.relay import routes as routing
from gateway.relay.holding import Holding
from gateway.relay.routes import MINDED, MOST_MINDED, Feeding, Routes
from gateway.store.clock import wall_clock
from gateway.store.rows import Flow
from tests.peers.smtp_server import ScriptedRelay
from tests.relay.world import profile, sealed, world
from tests.smtp.test_dkim import wordless

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from gateway.store.rows import Place
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


def routes(at: World, holding: Holding | None = None) -> Routes:
    """Routes of the test's own, in which nothing moves by itself."""
    return Routes(at.directory, lambda _feeding: None, holding)


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


# When the directory changes.


def sharing(count: int) -> tuple[list[Tenant], list[Flow]]:
    """So many tenants, which have no profile of their own, and their flows."""
    names = [f"t{number:02}" for number in range(count)]
    return [Tenant(id=name) for name in names], [Flow(name, "") for name in names]


async def test_many_flows_are_routed_anew_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So nobody waits for all of them; the lane that they leave carries none of them from the first moment on."""
    monkeypatch.setattr(routing, "AT_ONCE", 10)
    tenants, flows = sharing(25)
    async with world(tmp_path, profile(25, "system"), *tenants) as at:
        of, due = routes(at), wall_clock()
        for flow in flows:
            of.ready(flow, due)
        before = lane_of(of, flows[0])
        await at.put(profile(26, "system"))
        gone = of.renew()
        after = lane_of(of, flows[0])
        carried = [of.carries(before, flow) for flow in flows]
        moved = [len(after.lane.flows)]
        more = []
        for _ in range(2):
            more.append(of.settle_some())
            moved.append(len(after.lane.flows))

        assert gone == [before]
        assert carried == [False] * 25
        assert (moved, more) == ([10, 20, 25], [True, False])
        assert after.lane.due_flows(due) == dict.fromkeys(flows, due)


async def test_all_mail_goes_after_a_change_however_many_have_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared profile had no password, and then it needs none: nothing else has to happen."""
    monkeypatch.setattr(routing, "AT_ONCE", 3)
    tenants, flows = sharing(20)
    missing = {"username": "app", "credential": {"source": "stored", "key": "relay-a"}}
    async with ScriptedRelay() as relay, world(tmp_path, profile(relay.port, "system", auth=missing), *tenants) as at:
        for flow in flows:
            await at.post(flow.tenant)
        await at.until(("system", "main"), "parked:secret_missing")
        await at.carried()
        await at.put(profile(relay.port, "system"))
        await relay.wait_messages(20)


async def test_who_gets_a_profile_of_its_own_leaves_the_others_their_turn(tmp_path: Path) -> None:
    """One of four tenants leaves a shared lane; of the others the one is next that was next before."""
    tenants, flows = sharing(4)
    async with world(tmp_path, profile(25, "system"), *tenants) as at:
        of, due = routes(at), wall_clock()
        for flow in flows:
            of.ready(flow, due)
        shared = lane_of(of, flows[0])
        first = shared.lane.wishes(due, scarce=True)
        of.ready(flows[0], due)
        await at.put(profile(26, flows[1].tenant))
        of.renew()
        rest = [shared.lane.wishes(due, scarce=True) for _ in range(3)]

        assert [first, *rest] == [[(flows[number], 1)] for number in (0, 2, 3, 0)]
        assert lane_of(of, flows[1]).lane.due_flows(due) == {flows[1]: due}


async def test_mail_without_a_profile_waits_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes that do not concern it leave it waiting, however many flows wait so."""
    monkeypatch.setattr(routing, "AT_ONCE", 3)
    tenants, flows = sharing(10)
    async with world(tmp_path, *tenants) as at:
        of, due = routes(at), wall_clock()
        for flow in flows:
            of.ready(flow, due)
        await at.put(profile(25, "zoo"))
        of.renew()
        await at.put(profile(25, "system"))
        of.renew()
        while of.settle_some():
            pass

        assert lane_of(of, flows[0]).lane.due_flows(due) == dict.fromkeys(flows, due)


# Where other daemons have lanes.


class Shared(Holding):
    """Only some lanes are ours, and what is told is kept."""

    def __init__(self, *mine: Place) -> None:
        self.mine = set(mine)
        self.told: list[tuple[Flow, int, Place | None]] = []

    def holds(self, lane: Place) -> bool:
        """Is it one of ours?"""
        return lane in self.mine

    def tell(self, flow: Flow, due_at: int, lane: Place | None = None) -> None:
        """Keep whose mail is told of."""
        self.told.append((flow, due_at, lane))


async def test_mail_of_lanes_elsewhere_is_told_of_once(tmp_path: Path) -> None:
    """Whoever has the lane knows of it by then: changes of the directory are no reason to tell it again."""
    async with world(tmp_path, profile(25)) as at:
        holding, due = Shared(), wall_clock()
        of = routes(at, holding)
        of.ready(OWN, due)
        for port in (26, 27):
            await at.put(profile(port))
            of.renew()

        assert holding.told == [(OWN, due, None)]


async def test_mail_that_goes_to_a_lane_elsewhere_is_told_of(tmp_path: Path) -> None:
    """It waited here, and by a change of the directory it is for another daemon to carry."""
    async with world(tmp_path, profile(25), profile(25, name="backup", is_default=False)) as at:
        holding, due = Shared(PLACE), wall_clock()
        of = routes(at, holding)
        of.ready(OWN, due)
        before = list(holding.told)
        await at.put(profile(25, is_default=False), profile(25, name="backup"))
        of.renew()

        assert (before, holding.told) == ([], [(OWN, due, None)])


@pytest.mark.parametrize("flow", [OWN, Flow("acme", "new")], ids=["for another's lane", "for nobody's"])
async def test_a_word_of_who_knew_the_directory_first_is_heeded(tmp_path: Path, flow: Flow) -> None:
    """By what we know the mail is not for us, and a moment later it is."""
    async with world(tmp_path, profile(25)) as at:
        of, due = routes(at, Shared(("acme", "new"))), wall_clock()
        of.heard(flow, due, None, NOW)
        await at.put(profile(25, is_default=False), profile(25, name="new"))
        of.renew()

        assert lane_of(of, flow).lane.place == ("acme", "new")
        assert lane_of(of, flow).lane.due_flows(due) == {flow: due}


async def test_what_was_lent_to_a_lane_that_is_taken_now_is_carried(tmp_path: Path) -> None:
    """It was free when it was told of, and by looking nobody finds it."""
    async with world(tmp_path, profile(25, failover=["backup"]), profile(25, name="backup", is_default=False)) as at:
        of, due = at.dispatcher._routes, wall_clock()
        backup = lane_of(of, OTHER)
        backup.lane.elsewhere = True
        at.dispatcher.heard(OWN, due, backup.lane.place)
        none = backup.lane.next_due()
        at.dispatcher.taken({backup.lane.place: None})

        assert (none, backup.lane.next_due(), backup.borrowed) == (None, due, True)


async def test_words_of_strangers_are_not_kept(tmp_path: Path) -> None:
    """Of flows without number only so many are kept in mind, and those for a moment."""
    async with world(tmp_path, profile(25)) as at:
        of = routes(at)
        for moment in (1, 2, 3):
            for number in range(2 * MOST_MINDED):
                of.heard(Flow(f"x{moment}-{number}", ""), 0, None, moment * 2 * MINDED)
        many = len(of._minded) + len(of._minded_before)
        for moment in (4, 5):
            of.heard(Flow("x", ""), 0, None, moment * 2 * MINDED)
            of.renew()

        assert many == 2 * MOST_MINDED
        assert of._minded == of._minded_before == {(Flow("x", ""), None): 0}
        assert of._unrouted == {}
