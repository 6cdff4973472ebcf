"""The server's clock, as a daemon tells it between one answer and the next."""

from __future__ import annotations

import time

from gateway.store.clock import SET_BACK, ServerClock, wall_clock

SERVER = 5_000_000  # ms, at the count 100.0


class Counter:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.count = 100.0

    def __call__(self) -> float:
        return self.count


def told(counter: Counter, at: int = SERVER, *, trip: float = 0.0) -> ServerClock:
    """Make a clock that was told the time by an answer that took so long."""
    clock = ServerClock(counter)
    asked = counter.count
    counter.count += trip
    clock.told(asked, at)
    return clock


def test_clock_that_was_told_nothing_is_the_machines() -> None:
    """Before the first answer the machine's own time has to do."""
    assert abs(ServerClock()() - wall_clock()) < 60_000
    assert abs(wall_clock() - time.time() * 1000) < 60_000


def test_clock_goes_on_from_what_it_was_told() -> None:
    """The time is the server's and what has passed since, wherever the machine's clock stands."""
    clock = told(counter := Counter())
    assert clock() == SERVER
    counter.count += 1.5
    assert clock() == SERVER + 1_500


def test_answer_was_true_half_way() -> None:
    """An answer that took half a second was given a quarter of a second ago."""
    assert told(Counter(), trip=0.5)() == SERVER + 250


def test_clock_follows_the_server() -> None:
    """A server whose clock was put forward is followed at once."""
    clock = told(counter := Counter())
    clock.told(counter.count, SERVER + 60_000)
    assert clock() == SERVER + 60_000


def test_clock_does_not_go_back_a_little() -> None:
    """While the server's clock is behind what was told already the time stands; then it goes on."""
    clock = told(counter := Counter())
    assert clock() == SERVER
    clock.told(counter.count, SERVER - SET_BACK)
    assert clock() == SERVER
    counter.count += 1.0
    assert clock() == SERVER
    counter.count += 2.0
    assert clock() == SERVER + 1_000


def test_clock_goes_back_far_with_the_server() -> None:
    """A server whose clock was set back by more than trips account for is followed at once, and from there on."""
    clock = told(counter := Counter())
    assert clock() == SERVER
    clock.told(counter.count, SERVER - SET_BACK - 1)
    assert clock() == SERVER - SET_BACK - 1
    counter.count += 1.0
    assert clock() == SERVER - SET_BACK + 999


def test_slow_answer_does_not_move_it() -> None:
    """An answer that took long may be true for any time in between, so it is worse than what is known."""
    clock = told(counter := Counter())
    asked = counter.count
    counter.count += 10.0
    clock.told(asked, SERVER + 9_999)
    assert clock() == SERVER + 10_000


def test_first_answer_counts_however_slow() -> None:
    """A slow answer is better than none."""
    assert told(Counter(), trip=10.0)() == SERVER + 5_000
