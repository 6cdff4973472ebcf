"""What follows from an outcome, as properties of pure functions."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.message.notification import OnAmbiguous, Role
from gateway.outbox.states import FINAL, Recipient, State
from gateway.outbox.verdict import (
    AMBIGUOUS_RETRIES,
    AMBIGUOUS_WAIT,
    Circumstances,
    Halve,
    Park,
    Schedule,
    Trip,
    beyond_the_message,
    burns_no_attempt,
    consequence,
    hinted_seconds,
    is_greylisting,
    judge,
)
from gateway.smtp.outcome import (
    Fault,
    Phase,
    RecipientOutcome,
    Refused,
    Rejected,
    Relayed,
    Trouble,
    Unknown,
    Untaken,
)
from gateway.smtp.reply import Reply, reply
from gateway.smtp.transaction import LEASE_LOST

EXAMPLES = 300 * (50 if os.environ.get("GATEWAY_PROOF") == "1" else 1)
NOW = 1_700_000_000_000
TEN_MINUTES = 600_000
many = settings(max_examples=EXAMPLES, deadline=None)

ENHANCED = st.none() | st.builds("{}.{}.{}".format, st.sampled_from("245"), st.integers(0, 7), st.integers(0, 139))
WORDS = st.sampled_from(
    ["", "Ok", "greylisted", "Greylisting in action", "gray-listed", "Please try again later", "try again in 5 minutes",
     "wait 90 seconds", "temporarily deferred", "mailbox full", "300s", "come back in 99999 min"]
)  # fmt: skip
ANSWERS = st.builds(lambda code, enhanced, words: reply(code, " ".join(filter(None, (enhanced, words)))),
                    st.integers(200, 599), ENHANCED, WORDS)  # fmt: skip
NO = ANSWERS.filter(lambda said: said.code >= 400)
OUTCOMES: st.SearchStrategy[RecipientOutcome] = st.one_of(
    st.builds(Relayed, ANSWERS.filter(lambda said: said.positive)),
    st.builds(Refused, st.sampled_from([Phase.SENDER, Phase.RECIPIENT, Phase.CONTENT]), NO),
    st.builds(Untaken, WORDS, st.none() | ANSWERS),
    st.builds(Unknown, WORDS),
    st.builds(Rejected, NO),
)
ATTEMPTED = st.builds(
    Recipient,
    st.just("ann@example.test"),
    st.sampled_from(Role),
    st.sampled_from([State.QUEUED, State.DEFERRED, State.UNCERTAIN]),
    st.integers(0, 50),
    st.just(NOW),
    st.none() | ANSWERS,
    st.integers(0, 5),
    st.integers(0, 20),
)
SCHEDULES = st.builds(
    Schedule, st.lists(st.integers(1, 86_400), min_size=1, max_size=9).map(tuple), st.integers(1, 86_400)
)
DICE = st.floats(0, 1, exclude_max=True)
GIVEN = st.builds(
    lambda schedule, on_ambiguous, thrown, taken: Circumstances(NOW, schedule, on_ambiguous, lambda: thrown, taken),
    SCHEDULES, st.sampled_from(OnAmbiguous), DICE, st.booleans(),
)  # fmt: skip


def again_at_once(outcome: RecipientOutcome, given: Circumstances) -> bool:
    """Is it "too many recipients" next to somebody who got through?"""
    match outcome:
        case Refused(Phase.RECIPIENT, Reply(452, None | "4.5.3" | "4.5.0") | Reply(552, None | "5.5.3")):
            return given.siblings_taken
        case _:
            return False


# judge.


@given(ATTEMPTED, OUTCOMES, GIVEN)
@many
def test_a_final_state_is_never_due(recipient: Recipient, outcome: RecipientOutcome, given_: Circumstances) -> None:
    """Relayed and failed have no next attempt."""
    after = judge(recipient, outcome, given_).recipient

    assert after.state not in FINAL or after.next_attempt_at is None


@given(ATTEMPTED, OUTCOMES, GIVEN)
@many
def test_what_is_not_final_is_due_in_bounded_time(
    recipient: Recipient, outcome: RecipientOutcome, given_: Circumstances
) -> None:
    """Deferred is due later than now and within the longest pause; only uncertain may rest without a time."""
    after = judge(recipient, outcome, given_).recipient
    longest = max(*given_.schedule.retry_seconds, given_.schedule.greylist_seconds, 1, 1) * 1200

    if again_at_once(outcome, given_):
        assert after == replace(recipient, next_attempt_at=NOW)
    elif after.state is State.DEFERRED:
        assert after.next_attempt_at is not None
        assert NOW < after.next_attempt_at <= NOW + longest
    elif after.state is State.UNCERTAIN:
        assert after.next_attempt_at in (None, NOW + AMBIGUOUS_WAIT)
    else:
        assert after.state in FINAL


@given(ATTEMPTED, OUTCOMES, GIVEN)
@many
def test_attempts_are_burned_by_answers_only(
    recipient: Recipient, outcome: RecipientOutcome, given_: Circumstances
) -> None:
    """They never decrease; a conversation cut short, our own refusal, and "too many recipients" cost none."""
    after = judge(recipient, outcome, given_).recipient

    free = isinstance(outcome, Untaken | Rejected) or again_at_once(outcome, given_)
    assert after.attempts == recipient.attempts + (not free)


@given(ATTEMPTED, OUTCOMES, GIVEN)
@many
def test_relayed_is_what_the_relay_took(recipient: Recipient, outcome: RecipientOutcome, given_: Circumstances) -> None:
    """And nothing else, and always."""
    judged = judge(recipient, outcome, given_)

    assert (judged.recipient.state is State.RELAYED) is isinstance(outcome, Relayed)
    assert (judged.event == "relayed") is isinstance(outcome, Relayed)


@given(ATTEMPTED, NO, st.sampled_from([Phase.SENDER, Phase.RECIPIENT, Phase.CONTENT]), GIVEN)
@many
def test_only_the_first_digit_decides_about_failing(
    recipient: Recipient, said: Reply, phase: Phase, given_: Circumstances
) -> None:
    """5yz fails and 4yz waits, whatever the enhanced code and the words; "too many recipients" is the one exception."""
    outcome = Refused(phase, said)
    after = judge(recipient, outcome, given_).recipient

    if not again_at_once(outcome, given_):
        assert after.state is (State.DEFERRED if said.code < 500 else State.FAILED)
        assert after.reply == said


@given(ATTEMPTED, GIVEN, st.integers(1, 8))
@many
def test_an_unknown_outcome_is_tried_again_twice_at_most(
    recipient: Recipient, given_: Circumstances, times: int
) -> None:
    """`retry` sends again at least ten minutes later, twice; then, and with `hold`, it rests; with `fail` it ends."""
    copy, retries = replace(recipient, unanswered=0), 0
    for _ in range(times):
        judged = judge(copy, Unknown("no answer"), given_)
        copy = judged.recipient
        match given_.on_ambiguous:
            case OnAmbiguous.FAIL:
                assert (copy.state, judged.event) == (State.FAILED, "outcome_unknown")
            case OnAmbiguous.HOLD:
                assert (copy.state, copy.next_attempt_at, judged.event) == (State.UNCERTAIN, None, "uncertain")
            case OnAmbiguous.RETRY:
                assert copy.state is State.UNCERTAIN
                if copy.next_attempt_at is not None:
                    assert copy.next_attempt_at - NOW >= TEN_MINUTES
                    retries += 1
    assert retries == (min(times, AMBIGUOUS_RETRIES) if given_.on_ambiguous is OnAmbiguous.RETRY else 0)


@given(SCHEDULES, DICE, st.integers(1, 60))
@many
def test_a_message_that_is_always_cut_off_slows_down(schedule: Schedule, thrown: float, times: int) -> None:
    """Two quick tries, then the schedule; an answer starts the count anew; no attempt is burned."""
    given_ = Circumstances(NOW, schedule, OnAmbiguous.RETRY, lambda: thrown)
    copy = Recipient("ann@example.test", Role.TO, next_attempt_at=NOW)
    for number in range(1, times + 1):
        copy = judge(copy, Untaken("cut"), given_).recipient
        assert copy.next_attempt_at is not None
        wait = copy.next_attempt_at - NOW
        if number <= 2:
            assert wait == 1_000
        else:
            step = schedule.retry_seconds[min(number - 3, len(schedule.retry_seconds) - 1)]
            assert 800 * step - 1 <= wait <= 1200 * step + 1
    assert (copy.attempts, copy.cuts) == (0, times)
    assert judge(copy, Refused(Phase.CONTENT, Reply(451, None, "")), given_).recipient.cuts == 0


def test_too_many_recipients_alone_is_no_reason_to_hurry() -> None:
    """Without a recipient that got through, 452 waits like any 4yz and 552 fails: at once would be for ever."""
    given_ = Circumstances(NOW, Schedule((30,), 300), OnAmbiguous.RETRY, lambda: 0.5, siblings_taken=False)
    copy = Recipient("ann@example.test", Role.TO, next_attempt_at=NOW)

    put_off = judge(copy, Refused(Phase.RECIPIENT, Reply(452, "4.5.3", "too many")), given_).recipient
    failed = judge(copy, Refused(Phase.RECIPIENT, Reply(552, None, "too many")), given_).recipient
    assert (put_off.state, put_off.next_attempt_at, failed.state) == (State.DEFERRED, NOW + 30_000, State.FAILED)


# Schedules.


@given(SCHEDULES, DICE, st.integers(0, 30), st.none() | ANSWERS)
@many
def test_jitter_is_at_most_a_fifth(schedule: Schedule, thrown: float, attempts: int, said: Reply | None) -> None:
    """The pause belongs to the number of attempts, the last repeats, and the dice move it by 20 % at most."""
    wait = schedule.delay(attempts, said, lambda: thrown)

    step = schedule.retry_seconds[min(max(attempts, 1), len(schedule.retry_seconds)) - 1]
    if said is not None and is_greylisting(said):
        step = schedule.greylist_seconds if attempts <= 1 else max(step, schedule.greylist_seconds)
        assert wait >= schedule.greylist_seconds * 1000
    assert 800 * step - 1 <= wait <= 1200 * step + 1


@pytest.mark.parametrize(
    ("said", "greylisted"),
    [
        (Reply(450, "4.7.1", "x"), True), (Reply(451, "4.7.1", "x"), True), (Reply(451, "4.7.0", "Greylisted"), True),
        (Reply(450, None, "gray listing"), True), (Reply(450, None, "please try again later"), True),
        (Reply(450, "4.2.0", "Try again in 300 seconds"), True), (Reply(451, None, "temporarily deferred"), True),
        (Reply(451, "4.3.0", "greylisted, try again later"), False), (Reply(450, "4.3.0", "greylisted"), False),
        (Reply(452, "4.7.1", "greylisted"), False), (Reply(421, "4.7.1", "greylisted"), False),
        (Reply(550, None, "greylisted"), False), (Reply(450, "4.2.0", "mailbox busy"), False),
        (Reply(451, "4.7.5", "x"), False),
    ],
)  # fmt: skip
def test_what_greylisting_is(said: Reply, greylisted: bool) -> None:
    """450 or 451 with 4.7.1, or in such words; never with 4.3.0."""
    assert is_greylisting(said) is greylisted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("try again in 5 minutes", 300), ("wait 90 seconds", 90), ("retry after 30 s", 30), ("300s", 300),
        ("10 min", 600), ("2 MINUTES please", 120), ("1 sec", 1), ("61 minutes", 3_600), ("99999 seconds", 3_600),
        ("try again later", None), ("error 4711", None), ("5 messages", None), ("3 servers", None), ("", None),
    ],
)  # fmt: skip
def test_hints(text: str, seconds: int | None) -> None:
    """Seconds and minutes are understood, an hour is the most."""
    assert hinted_seconds(Reply(421, "4.3.2", text)) == seconds


@given(st.none() | ANSWERS | st.builds(Reply, st.just(421), st.none(), st.text(max_size=200)))
@many
def test_a_hint_is_bounded(said: Reply | None) -> None:
    """Nothing that a relay writes keeps us away for more than an hour."""
    seconds = hinted_seconds(said)

    assert seconds is None or 0 <= seconds <= 3_600


# What concerns more than the message.


@pytest.mark.parametrize("trouble", Trouble)
def test_every_fault_has_a_consequence(trouble: Trouble) -> None:
    """None is forgotten, a parked profile says why in the fault's own word, and is looked at again some day."""
    told = consequence(Fault(Phase.CONNECT, trouble, ""))

    if isinstance(told, Park):
        assert told.reason == trouble.value
        assert told.seconds
        assert all(seconds >= 600 for seconds in told.seconds)


@given(st.lists(OUTCOMES, max_size=5))
@many
def test_success_and_refused_recipients_concern_nobody_else(outcomes: list[RecipientOutcome]) -> None:
    """A profile is touched only by its sender being refused, by a relay that hangs up, by "too many connections" or 530."""
    harmless = [
        outcome
        for outcome in outcomes
        if not isinstance(outcome, Untaken)
        and not (
            isinstance(outcome, Refused) and (outcome.reply.code in (432, 530) or outcome.reply.enhanced == "4.3.2")
        )
        and not (isinstance(outcome, Refused) and outcome.phase is Phase.SENDER)
    ]

    assert beyond_the_message(harmless) is None
    assert not burns_no_attempt(harmless)


@pytest.mark.parametrize(
    ("outcome", "follows"),
    [
        (Refused(Phase.SENDER, Reply(530, "5.7.0", "")), Park("auth_config", (900.0, 3_600.0, 21_600.0))),
        (Refused(Phase.CONTENT, Reply(530, None, "")), Park("auth_config", (900.0, 3_600.0, 21_600.0))),
        (Refused(Phase.SENDER, Reply(451, None, "")), Trip(after=5, pause=False)),
        (Refused(Phase.SENDER, Reply(550, None, "")), None),
        (Refused(Phase.CONTENT, Reply(432, "4.3.2", "")), Halve(600.0)),
        (Refused(Phase.RECIPIENT, Reply(421, "4.3.2", "")), Halve(600.0)),
        (Refused(Phase.CONTENT, Reply(451, None, "")), None),
        (Untaken("relay closes", Reply(421, None, "")), Trip(after=5, pause=False)),
        (Untaken("connection lost"), Trip(after=5, pause=False)),
        (Untaken(LEASE_LOST), None),
        (Unknown("timed out"), None),
    ],
)
def test_what_concerns_the_profile(outcome: RecipientOutcome, follows: object) -> None:
    """Each answer that does, wherever it stands among others."""
    other = Refused(Phase.RECIPIENT, Reply(550, "5.1.1", ""))

    assert beyond_the_message([outcome]) == follows
    assert beyond_the_message([other, outcome, other]) == follows
    assert burns_no_attempt([other, outcome]) is (isinstance(follows, Park))


@pytest.mark.parametrize(
    ("others", "blames"),
    [
        ([], True), ([530, 530], True), ([250], False), ([530, 250], False), ([550], False), ([450], False),
    ],
)  # fmt: skip
def test_sign_in_first_said_at_rcpt(others: list[int], blames: bool) -> None:
    """If it is said of every recipient it is the profile that was refused; if not, those of whom it was said."""
    asked = Refused(Phase.RECIPIENT, Reply(530, "5.7.0", ""))
    more = [
        Relayed(Reply(code, None, "")) if code < 300 else Refused(Phase.RECIPIENT, Reply(code, None, ""))
        for code in others
    ]

    for outcomes in ([asked, *more], [*more, asked]):
        assert isinstance(beyond_the_message(outcomes), Park) is blames
        assert burns_no_attempt(outcomes) is blames
