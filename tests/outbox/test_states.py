"""A notification's status follows from its recipients; recipients survive the store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import combinations_with_replacement, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.message.notification import Role
from gateway.outbox.states import FINAL, RETRYABLE, Recipient, State, Status, decode, encode, status_of
from gateway.smtp.reply import Reply, clean

EXAMPLES = 300 * (50 if os.environ.get("GATEWAY_PROOF") == "1" else 1)
KINDS = [
    Recipient("a@b.test", Role.TO, State.QUEUED, 0, 5),
    Recipient("a@b.test", Role.TO, State.DEFERRED, 1, 5),
    Recipient("a@b.test", Role.TO, State.UNCERTAIN, 1, 5),
    Recipient("a@b.test", Role.TO, State.UNCERTAIN, 1, None),
    Recipient("a@b.test", Role.TO, State.RELAYED, 1, None),
    Recipient("a@b.test", Role.TO, State.FAILED, 1, None),
    Recipient("a@b.test", Role.TO, State.EXPIRED, 1, None),
    Recipient("a@b.test", Role.TO, State.CANCELLED, 1, None),
]


def ruled(everyone: Sequence[Recipient], sending: bool, scheduled: bool, held: bool) -> Status:
    """The ordered list of rules, read aloud: the first that matches."""
    states = [recipient.state for recipient in everyone]
    waiting = [recipient for recipient in everyone if recipient.next_attempt_at is not None]
    rules = [
        (all(state is State.CANCELLED for state in states), Status.CANCELLED),
        (State.UNCERTAIN in states and not waiting, Status.HELD),
        (sending, Status.SENDING),
        (held and bool(waiting), Status.HELD),
        (any(one.state is State.DEFERRED for one in everyone), Status.DEFERRED),
        (any(one.state is State.UNCERTAIN for one in waiting), Status.DEFERRED),
        (State.QUEUED in states, Status.SCHEDULED if scheduled else Status.QUEUED),
        (all(state is State.RELAYED for state in states), Status.RELAYED),
        (State.RELAYED in states, Status.PARTIALLY_RELAYED),
        (all(state is State.EXPIRED for state in states), Status.EXPIRED),
        (True, Status.FAILED),
    ]
    return next(status for matches, status in rules if matches)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_status_is_the_first_rule_that_matches(size: int) -> None:
    """For every multiset of up to four recipients, in flight or not, scheduled or not, held or not."""
    for everyone in combinations_with_replacement(KINDS, size):
        for sending, scheduled, held in product([False, True], repeat=3):
            status = status_of(everyone, sending=sending, scheduled=scheduled, held=held)
            assert status is ruled(everyone, sending, scheduled, held), (everyone, sending, scheduled, held)


def test_the_order_of_recipients_does_not_matter() -> None:
    """A status is of all, whoever comes first."""
    for everyone in product(KINDS, repeat=3):
        statuses = {
            status_of(order, sending=False, scheduled=False, held=False)
            for order in (everyone, everyone[::-1], everyone[1:] + everyone[:1])
        }
        assert len(statuses) == 1


def test_a_rest_that_nobody_decided_does_not_hide_what_is_queued() -> None:
    """One copy that waits for a person, and one that goes out by itself: queued, not deferred."""
    resting, queued = KINDS[3], KINDS[0]

    assert status_of([resting, queued], sending=False, scheduled=False, held=False) is Status.QUEUED
    assert status_of([resting], sending=False, scheduled=False, held=False) is Status.HELD


def test_final_due_and_retryable_fit_together() -> None:
    """A final copy is never due; nothing leads out of relayed and cancelled, not even a person."""
    for one in KINDS:
        assert one.final is (one.state in FINAL)
        assert one.due is (one.next_attempt_at is not None)
    assert RETRYABLE.isdisjoint({State.RELAYED, State.CANCELLED, State.QUEUED})
    assert set(State) == FINAL | RETRYABLE | {State.QUEUED}


# The store.

TIMES = st.none() | st.integers(0, 2**53)
REPLIES = st.builds(
    Reply,
    st.integers(200, 599),
    st.none() | st.from_regex(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True),
    st.text(max_size=60).map(clean),
)
ADDRESSES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).map(lambda local: f"{local}@example.test")
COPIES = st.builds(
    Recipient, ADDRESSES, st.sampled_from(Role), st.sampled_from(State), st.integers(0, 999), TIMES,
    st.none() | REPLIES, st.integers(0, 3), st.integers(0, 99),
)  # fmt: skip
NEW = st.builds(Recipient, ADDRESSES, st.sampled_from(Role), next_attempt_at=TIMES)


@given(st.lists(COPIES | NEW, max_size=5))
@settings(max_examples=EXAMPLES, deadline=None)
def test_recipients_survive_the_store(recipients: list[Recipient]) -> None:
    """What is read is what was written, whatever the text; and it is text that a database takes."""
    stored = encode(recipients)

    assert decode(stored) == recipients
    assert "\n" not in stored
    stored.encode()


@given(NEW)
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_new_recipient_is_stored_short(recipient: Recipient) -> None:
    """Trailing defaults are left out: address, role and time are all there is."""
    assert encode([recipient]).count(",") - recipient.address.count(",") == 2
