"""A lane by itself: whose turn it is, how much is claimed for whom, and whether it may go."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

from gateway.message.notification import OnAmbiguous, Role
from gateway.outbox.delivery import Delivery, Lease, encode_envelope
from gateway.outbox.states import Recipient, State, encode
from gateway.relay.lane import HELPING, MOST_SERVED, SMALLEST_HELPING, Lane
from gateway.relay.limits import Breaker
from gateway.store.rows import LIGHT, Flow, LeasedRow
from tests.outbox.building import NOW, notification
from tests.relay.world import profile

NUMBERS = count(1)


def lane(**limits: Any) -> Lane:
    """A lane with nothing to send."""
    return Lane(profile(2525, limits=limits), Breaker())


def delivery(tenant: str = "acme", *, strict: bool = False) -> Delivery:
    """Claimed mail of a tenant; strict mail commits before its final dot."""
    made = notification(tenant=tenant, on_ambiguous=OnAmbiguous.FAIL if strict else OnAmbiguous.RETRY)
    recipients = encode([Recipient("ann@example.test", Role.TO, State.QUEUED, next_attempt_at=NOW)])
    row = LeasedRow(
        next(NUMBERS), made.id, Flow(tenant, ""), "general", 1, NOW, made.expires_at, NOW, recipients,
        encode_envelope(made), None, 1, False, "queued",
    )  # fmt: skip
    return Delivery(row, Lease(1, NOW, NOW + 120_000, 1))


def fill(to: Lane, tenant: str, number: int) -> None:
    """Let a claim bring so much mail of a tenant."""
    to.claimed(Flow(tenant, ""), [delivery(tenant) for _ in range(number)])


def turns(of: Lane, number: int) -> str:
    """The initials of those whose mail goes next."""
    taken = [of.take(pipelined=False) for _ in range(number)]
    return "".join("-" if one is None else one.row.flow.tenant[0] for one in taken)


def test_tenants_take_turns_whatever_each_has_waiting() -> None:
    """A hundred messages of one tenant never stand before another's first."""
    of = lane()
    fill(of, "acme", 100)
    fill(of, "busy", 3)
    fill(of, "calm", 1)

    assert turns(of, 8) == "abcababa"


def test_one_tenants_mail_keeps_its_order() -> None:
    """What was claimed first goes first."""
    of = lane()
    mail = [delivery() for _ in range(3)]
    of.claimed(Flow("acme", ""), mail)

    assert [of.take(pipelined=False) for _ in range(4)] == [*mail, None]


def test_ready_counts_what_is_claimed_and_not_taken() -> None:
    """The number that workers are hired by is right after claims and takes."""
    of = lane()
    fill(of, "acme", 2)
    fill(of, "busy", 1)
    of.take(pipelined=False)

    assert of.ready == 2


def test_a_strict_delivery_is_never_given_to_ride_behind_another() -> None:
    """It waits for a transaction of its own, and its tenant does not lose the turn."""
    of = lane()
    strict = delivery(strict=True)
    of.claimed(Flow("acme", ""), [strict])
    fill(of, "busy", 1)

    assert of.take(pipelined=True) is None
    assert of.ready == 2
    assert of.take(pipelined=False) is strict
    assert of.take(pipelined=True) is not None


def heavy(tenant: str = "acme") -> Delivery:
    """Claimed mail whose content stayed in the store."""
    return Delivery(delivery(tenant).row._replace(size=LIGHT + 1), Lease(1, NOW, NOW + 120_000, 1))


def test_a_heavy_message_waits_until_it_is_fetched() -> None:
    """With what its tenant has behind it, while others go; then it is the next."""
    of, large, behind = lane(), heavy(), delivery()
    of.claimed(Flow("acme", ""), [large, behind])
    fill(of, "busy", 2)
    before = of.ready, of.in_hand, of.heavy is large
    others = turns(of, 1)
    fetched = of.fetched(large)
    after = of.ready, of.in_hand, of.heavy
    order = [of.take(pipelined=True) for _ in range(2)]

    assert (before, others, fetched, after) == ((2, 4, True), "b", True, (2, 3, None))
    assert (order[0] is large, turns(of, 2)) == (True, "a-")


def test_one_heavy_message_is_fetched_at_a_time() -> None:
    """The next one when that goes, of whichever tenant."""
    of, first, second = lane(), heavy(), heavy("busy")
    of.claimed(Flow("acme", ""), [first])
    of.claimed(Flow("busy", ""), [second])
    of.fetched(first)
    while_one_is_there = of.heavy
    of.take(pipelined=False)

    assert while_one_is_there is None
    assert of.heavy is second


def test_a_heavy_message_behind_light_ones_is_fetched_when_it_comes_to_it() -> None:
    """Not before: it would be in memory for nothing."""
    of, large = lane(), heavy()
    of.claimed(Flow("acme", ""), [delivery(), large])
    before = of.ready, of.heavy
    of.take(pipelined=False)

    assert before == (2, None)
    assert (of.ready, of.heavy is large) == (0, True)


def test_a_heavy_message_that_was_given_up_is_not_the_lanes_any_more() -> None:
    """Whoever fetched it is told so."""
    of, large = lane(), heavy()
    of.claimed(Flow("acme", ""), [large])
    given_up = of.empty()

    assert (given_up, of.fetched(large), of.in_hand) == ([large], False, 0)


def test_a_tenant_without_mail_is_forgotten() -> None:
    """Whoever has nothing left leaves no trace, and is served when there is something again."""
    of = lane()
    for number in range(5):
        fill(of, f"t{number}", 1)
    turns(of, 5)
    left = (dict(of._claimed), list(of._turns), of.take(pipelined=False))
    fill(of, "acme", 1)

    assert (left, turns(of, 1)) == (({}, [], None), "a")


def test_what_falls_due_later_outlives_what_is_claimed() -> None:
    """When a tenant's claimed mail is gone its next time is still known."""
    of = lane()
    fill(of, "acme", 1)
    of.note(Flow("acme", ""), NOW + 5)
    turns(of, 2)

    assert of.next_due() == NOW + 5


def test_a_helping_is_shared_by_the_hungry() -> None:
    """The lane's helping is divided equally among those who have mail that is due."""
    of = lane()
    flows = [Flow(f"t{number}", "") for number in range(4)]
    for flow in flows:
        of.note(flow, NOW)

    assert of.wishes(NOW) == [(flow, HELPING // 4) for flow in flows]


def test_a_helping_has_a_least_size() -> None:
    """However many are hungry, a claim is worth its transaction."""
    of = lane()
    for number in range(HELPING):
        of.note(Flow(f"t{number}", ""), NOW)

    assert {limit for _, limit in of.wishes(NOW)} == {SMALLEST_HELPING}


def test_more_tenants_than_can_be_helped_are_helped_in_turn() -> None:
    """Each has its first message sent before anybody's helping is gone twice; little is claimed at any moment."""
    of, tenants, most = lane(), [f"t{number:03}" for number in range(5 * MOST_SERVED)], 0
    left = dict.fromkeys(tenants, 3 * SMALLEST_HELPING)
    for tenant in tenants:
        of.note(Flow(tenant, ""), NOW)
    sent: list[str] = []
    while any(left.values()) or of.ready:
        for flow, limit in of.wishes(NOW):
            brought = min(limit, left[flow.tenant])
            left[flow.tenant] -= brought
            fill(of, flow.tenant, brought)
            if left[flow.tenant]:
                of.note(flow, NOW)
        most = max(most, of.ready)
        taken = of.take(pipelined=False)
        assert taken is not None
        sent.append(taken.row.flow.tenant)

    assert Counter(sent) == dict.fromkeys(tenants, 3 * SMALLEST_HELPING)
    assert set(sent[: (len(tenants) + MOST_SERVED) * SMALLEST_HELPING]) == set(tenants)
    assert most <= HELPING


def test_one_at_a_time_where_memory_is_scarce() -> None:
    """The next message is claimed when the one before is taken, of whoever is next."""
    of = lane()
    flows = [Flow("acme", ""), Flow("busy", "")]
    for flow in flows:
        of.note(flow, NOW)
    first = of.wishes(NOW, scarce=True)
    fill(of, "acme", 1)
    while_there_is_one = of.wishes(NOW, scarce=True)
    of.take(pipelined=False)

    assert (first, while_there_is_one, of.wishes(NOW, scarce=True)) == ([(flows[0], 1)], [], [(flows[1], 1)])


def test_a_tenants_flows_take_turns_with_other_tenants() -> None:
    """One claim of each tenant at a time, however many profiles it names."""
    of = lane()
    flows = [Flow("acme", ""), Flow("acme", "main"), Flow("busy", "")]
    for flow in flows:
        of.note(flow, NOW)
    claims = [[flow for flow, _ in of.wishes(NOW)] for _ in range(3)]

    assert claims == [[flows[0], flows[2]], [flows[1]], []]


def test_mail_for_later_is_remembered_once() -> None:
    """However often a flow is claimed from before that, nothing piles up."""
    of = lane()
    for number in range(10_000):
        of.note(Flow("acme", ""), NOW + 1_000_000)
        of.note(Flow("acme", ""), NOW + number)
        of.wishes(NOW + number)

    assert len(of._later) <= 2 * HELPING


def test_a_slow_lane_claims_little() -> None:
    """What cannot leave within ten seconds stays in the outbox, where people can still cancel it."""
    of = lane(per_minute=60)
    of.note(Flow("acme", ""), NOW)

    assert of.wishes(NOW) == [(Flow("acme", ""), 10)]


def test_the_slowest_lane_claims_one() -> None:
    """A rate below one helping still moves."""
    of = lane(per_minute=1)
    of.note(Flow("acme", ""), NOW)

    assert of.wishes(NOW) == [(Flow("acme", ""), 1)]


def test_a_plate_is_refilled_when_half_is_eaten() -> None:
    """More than half: nothing; half: up to a helping."""
    of = lane()
    of.note(Flow("acme", ""), NOW)
    fill(of, "acme", HELPING // 2 + 1)
    before = of.wishes(NOW)
    of.take(pipelined=False)

    assert (before, of.wishes(NOW)) == ([], [(Flow("acme", ""), HELPING // 2)])


def test_a_flow_that_is_being_claimed_is_not_wished_for_again() -> None:
    """A second claim beside the first would bring nothing."""
    of = lane()
    of.note(Flow("acme", ""), NOW)
    of.wishes(NOW)

    assert of.wishes(NOW) == []


def test_mail_that_falls_due_later_is_not_wished_for() -> None:
    """Before its time nothing is claimed."""
    of = lane()
    of.note(Flow("acme", ""), NOW + 1)

    assert (of.wishes(NOW), of.wishes(NOW + 1)) == ([], [(Flow("acme", ""), HELPING)])


def test_the_earliest_note_counts() -> None:
    """Later mail of a flow does not put its earlier mail off."""
    of = lane()
    of.note(Flow("acme", ""), NOW)
    of.note(Flow("acme", ""), NOW + 1_000)

    assert of.next_due() == NOW


def test_forgetting_flows_gives_all_of_them_up() -> None:
    """Every flow comes with its time, and the lane knows none any more."""
    of = lane()
    noted = {Flow("acme", ""): NOW, Flow("acme", "main"): NOW + 1, Flow("busy", ""): NOW + 2}
    for flow, due_at in noted.items():
        of.note(flow, due_at)

    assert of.forget_flows() == noted
    assert of.next_due() is None


def test_a_forgotten_flow_leaves_the_others_their_turn() -> None:
    """Its mail is due, and it is claimed from no more; those of the same tenant and of others are, in their order."""
    of = lane()
    noted = [Flow("acme", "main"), Flow("busy", ""), Flow("acme", ""), Flow("calm", "")]
    for flow in noted:
        of.note(flow, NOW)
    fill(of, "zoo", 1)
    none = of.wishes(NOW, scarce=True)  # it has seen that they are due
    times = [of.forget(Flow("acme", "main")), of.forget(Flow("busy", "")), of.forget(Flow("busy", ""))]

    assert (none, times) == ([], [NOW, NOW, None])
    assert [flow for flow, _ in of.wishes(NOW)] == [Flow("acme", ""), Flow("calm", "")]
    assert of.next_due() is None


def test_emptying_gives_all_claimed_mail_up() -> None:
    """What is given up is given up once."""
    of = lane()
    fill(of, "acme", 2)
    fill(of, "busy", 1)

    assert len(of.empty()) == 3
    assert (of.ready, of.empty(), of.take(pipelined=False)) == (0, [], None)


def test_one_session_while_the_breaker_is_half_open() -> None:
    """One message is to prove that the relay is back."""
    of = lane(connections=8)
    before = of.connections(0.0)
    of.breaker.trip(0.0, after=1)

    assert (before, of.connections(31.0)) == (8, 1)


def test_one_session_while_a_parked_profile_is_looked_at() -> None:
    """One login is to prove that what was wrong is put right."""
    of = lane(connections=8)
    of.stand("auth_failed", (900.0,), 0.0)

    assert of.connections(901.0) == 1


def test_half_the_sessions_after_the_relay_had_too_many() -> None:
    """Half of them, at least one, until the time is over."""
    of, single = lane(connections=5), lane(connections=1)
    of.halved_until = single.halved_until = 600.0

    assert (of.connections(599.0), of.connections(600.0), single.connections(0.0)) == (2, 5, 1)


def test_the_longer_wait_counts() -> None:
    """A lane goes when both its standstill and its breaker let it."""
    of = lane()
    of.breaker.trip(0.0, after=1)
    breaker = of.wait(0.0)
    of.stand("tls_verify", (600.0,), 0.0)

    assert (breaker, of.wait(0.0), of.wait(590.0), of.wait(600.0)) == (30.0, 600.0, 10.0, 0.0)


def test_a_paused_lane_waits_for_a_person() -> None:
    """No time ends a pause."""
    of = lane()
    of.paused = True

    assert (of.wait(1e9), of.state(0.0)) == (None, "paused")


def test_the_state_says_why_a_lane_stands() -> None:
    """Active, open, parked and why; parked outranks open."""
    of = lane()
    states = [of.state(0.0)]
    of.breaker.trip(0.0, after=1)
    states.append(of.state(0.0))
    of.stand("auth_failed", (900.0,), 0.0)
    states.append(of.state(0.0))

    assert states == ["active", "open", "parked:auth_failed"]


def test_the_same_trouble_again_is_waited_for_longer() -> None:
    """Each look that finds it again takes the next step; a second report of the same look does not."""
    of, waits = lane(), []
    for now in (0.0, 0.0, 900.0):
        of.stand("auth_failed", (900.0, 3_600.0), now)
        waits.append(of.wait(now))

    assert waits == [900.0, 900.0, 3_600.0]


def test_another_trouble_begins_anew() -> None:
    """Another reason has its own steps, from the first."""
    of = lane()
    of.stand("auth_failed", (900.0, 3_600.0), 0.0)
    of.stand("tls_verify", (600.0,), 900.0)

    assert (of.wait(900.0), of.state(900.0)) == (600.0, "parked:tls_verify")


def test_an_answer_lets_all_go_again() -> None:
    """A session that was opened after the trouble proves that it is over."""
    of = lane()
    of.breaker.trip(0.0, after=1)
    of.stand("auth_failed", (900.0,), 0.0)

    assert of.answered(born=901.0) == "auth_failed"
    assert (of.wait(0.0), of.state(0.0), of.connections(0.0)) == (0.0, "active", 4)


def test_an_older_session_proves_nothing_about_a_standstill() -> None:
    """It signed in before the password was changed: the profile stays parked."""
    of = lane()
    of.stand("auth_failed", (900.0,), 10.0)

    assert of.answered(born=5.0) is None
    assert of.state(10.0) == "parked:auth_failed"
