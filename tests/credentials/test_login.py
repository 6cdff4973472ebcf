"""The pause after a sign-in that failed at a secret store; the clock stands until it is moved."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry

from gateway.credentials.login import LONGEST, REFUSED, Logins
from gateway.credentials.provider import CredentialError, Kind, NoIdentity
from gateway.observe.metrics import REGISTRY

AWAY = CredentialError(Kind.UNREACHABLE, "away")
DENIED = CredentialError(Kind.DENIED, "no")


@dataclass
class Clock:
    """Stands until it is moved."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pauses(logins: Logins, clock: Clock, error: CredentialError, count: int) -> list[float]:
    """How long the pauses are after so many failures, each as soon as the pause before is over."""
    told = []
    for _ in range(count):
        logins.failed(error)
        trouble = logins.trouble()
        assert trouble is not None
        assert trouble.retry_after is not None
        told.append(trouble.retry_after)
        clock.now += trouble.retry_after
        assert logins.trouble() is None
    return told


def test_a_pause_doubles(clock: Clock) -> None:
    """From a second to five minutes, and no longer."""
    logins = Logins(clock, dice=lambda: 0.5)
    assert pauses(logins, clock, AWAY, 11) == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, LONGEST, LONGEST])


def test_a_refusal_costs_a_minute_at_once(clock: Clock) -> None:
    """Stores lock accounts after a few of them."""
    logins = Logins(clock, dice=lambda: 0.5)
    assert pauses(logins, clock, DENIED, 5) == pytest.approx([REFUSED, 120, 240, LONGEST, LONGEST])


def test_a_thousand_failures_are_counted(clock: Clock) -> None:
    """No number grows beyond what it can hold."""
    assert pauses(Logins(clock, dice=lambda: 0.5), clock, AWAY, 1100)[-1] == pytest.approx(LONGEST)


@pytest.mark.parametrize(("dice", "pause"), [(0.0, 0.9), (1.0, 1.1)])
def test_a_pause_is_not_everybodys_at_once(clock: Clock, dice: float, pause: float) -> None:
    """Daemons that lost the same store come back at different times."""
    assert pauses(Logins(clock, dice=lambda: dice), clock, AWAY, 1) == pytest.approx([pause])


def test_a_pause_that_the_store_asks_for_is_kept(clock: Clock) -> None:
    """Unless ours is longer."""
    logins = Logins(clock, dice=lambda: 0.5)
    assert pauses(logins, clock, CredentialError(Kind.THROTTLED, "slowly", 30.0), 1) == [30.0]


@pytest.mark.parametrize(("errors", "pause"), [([AWAY] * 8, 1.0), ([AWAY, DENIED, AWAY], REFUSED)])
def test_sign_ins_that_fail_together_are_one_failure(clock: Clock, errors: list[CredentialError], pause: float) -> None:
    """Of their pauses the longest is kept; the next failure is the second."""
    logins = Logins(clock, dice=lambda: 0.5)
    begun = logins.counted
    for error in errors:
        logins.failed(error, begun)
    trouble = logins.trouble()
    clock.now += pause

    assert trouble is not None
    assert trouble.retry_after == pytest.approx(pause)
    assert pauses(logins, clock, AWAY, 1) == pytest.approx([2.0])


def test_a_sign_in_ends_the_row(clock: Clock) -> None:
    """The next failure is a first one again."""
    logins = Logins(clock, dice=lambda: 0.5)
    pauses(logins, clock, AWAY, 3)
    logins.succeeded()
    assert logins.trouble() is None
    assert pauses(logins, clock, AWAY, 1) == pytest.approx([1.0])


def test_a_persons_word_is_for_one_attempt(clock: Clock) -> None:
    """If that fails too, the pause goes on growing."""
    logins = Logins(clock, dice=lambda: 0.5)
    logins.failed(AWAY)
    logins.forgive()
    assert logins.trouble() is None
    assert pauses(logins, clock, AWAY, 1) == pytest.approx([2.0])


def test_the_words_of_many_persons_are_one_attempt_a_minute(clock: Clock) -> None:
    """Whoever says it how often: an account that the store locks is locked for everybody."""
    logins = Logins(clock, dice=lambda: 0.5)
    told = []
    for clock.now in (0.0, 1.0, 2.0, REFUSED, REFUSED + 1.0):
        logins.failed(DENIED)
        logins.forgive()
        told.append(logins.trouble() is None)
    assert told == [True, False, False, True, False]


def test_a_word_that_nobody_needs_is_not_used_up(clock: Clock) -> None:
    """It is for a pause, and there is none."""
    logins = Logins(clock)
    logins.forgive()
    logins.failed(DENIED)
    logins.forgive()
    assert logins.trouble() is None


def test_what_is_told_meanwhile_is_what_was_wrong(clock: Clock) -> None:
    """Its kind and its sentence."""
    logins = Logins(clock)
    logins.failed(DENIED)
    trouble = logins.trouble()
    assert trouble is not None
    assert (trouble.kind, trouble.detail) == (DENIED.kind, DENIED.detail)


def test_a_token_ends(clock: Clock) -> None:
    """What is left of it is told, down to nothing; of one without an end there is nothing to tell."""
    logins = Logins(clock)
    assert logins.token_left() is None
    logins.succeeded(100.0)
    told = []
    for clock.now in (0.0, 60.0, 200.0):
        told.append(logins.token_left())
    logins.succeeded(None)
    assert (told, logins.token_left()) == ([100.0, 40.0, 0.0], None)


def counted(registry: CollectorRegistry, result: str) -> float:
    labels = {"connection": "counted", "result": result}
    return registry.get_sample_value("notification_gateway_secret_logins_total", labels) or 0.0


def test_sign_ins_are_counted_by_result(clock: Clock) -> None:
    """Those that were let in, and those that were not by the kind of failure."""
    logins = Logins(clock, "counted")
    logins.succeeded(1.0)
    logins.failed(DENIED)
    logins.failed(AWAY)
    logins.failed(AWAY)
    logins.failed(NoIdentity("/nowhere does not exist"))
    told = [counted(REGISTRY, one) for one in ("ok", "denied", "unreachable", "no_identity")]
    assert told == [1.0, 1.0, 2.0, 1.0]
