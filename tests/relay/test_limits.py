"""Rates, breakers and standstills, on a clock of the test's own."""

from __future__ import annotations

from gateway.relay.limits import Breaker, Rate, Standstill


def test_an_unlimited_rate_never_waits() -> None:
    """None is no limit."""
    rate = Rate(None)
    rate.spend(0.0)

    assert rate.wait(0.0) == 0.0


def test_a_rate_holds_over_a_minute() -> None:
    """Whoever goes whenever it is allowed goes `per_minute` times a minute, after a short burst."""
    rate, now, gone = Rate(60), 0.0, []
    while now < 120.0:
        if (wait := rate.wait(now)) == 0.0:
            rate.spend(now)
            gone.append(now)
        else:
            now += wait

    assert 120 <= len(gone) <= 120 + 11
    assert sum(60.0 <= at < 120.0 for at in gone) in (60, 61)


def test_a_breaker_pauses_opens_and_opens_longer() -> None:
    """Two faults pause for a moment, the third opens for 30 s, and each failed look again doubles that up to 600 s."""
    breaker, now, rests = Breaker(), 0.0, []
    for _ in range(9):
        opened = breaker.trip(now, after=3)
        rests.append((opened, breaker.wait(now)))
        now = breaker.open_until

    assert rests == [
        (False, 1.0), (False, 2.0), (True, 30.0), (True, 60.0), (True, 120.0), (True, 240.0), (True, 480.0),
        (True, 600.0), (True, 600.0),
    ]  # fmt: skip


def test_faults_under_way_while_the_breaker_is_open_do_not_count() -> None:
    """Four sessions that fail together are one fault."""
    breaker = Breaker()
    for _ in range(4):
        breaker.trip(0.0, after=3)

    assert breaker.wait(0.0) == 1.0


def test_a_fault_of_a_message_pauses_nobody() -> None:
    """Before it opens, a breaker that counts messages keeps nobody away."""
    breaker = Breaker()
    waits = []
    for _ in range(5):
        breaker.trip(0.0, after=5, pause=False)
        waits.append(breaker.wait(0.0))

    assert waits == [0.0, 0.0, 0.0, 0.0, 30.0]


def test_an_answer_closes_the_breaker() -> None:
    """After a reset the next fault is a first one again."""
    breaker = Breaker()
    breaker.trip(0.0, after=1)
    breaker.reset()

    assert (breaker.half_open, breaker.wait(0.0)) == (False, 0.0)
    assert breaker.trip(0.0, after=3) is False


def test_a_breaker_knows_since_when_its_relay_is_away() -> None:
    """However often it is tried meanwhile; and anew after it answered."""
    breaker = Breaker()
    for now in (5.0, 50.0, 500.0):
        breaker.trip(now)
    assert breaker.since == 5.0

    breaker.reset()
    breaker.trip(900.0)
    assert breaker.since == 900.0


def test_a_standstill_lasts_longer_each_time() -> None:
    """The steps are taken in order, and the last repeats."""
    standstill, times = Standstill("auth_failed", (900.0, 3600.0, 21600.0)), []
    for _ in range(4):
        standstill.begin(0.0)
        times.append(standstill.until)

    assert times == [900.0, 3600.0, 21600.0, 21600.0]


def test_a_rate_that_was_not_used_saves_no_more_than_its_burst() -> None:
    """After an hour of rest ten seconds' worth go at once, then one each interval."""
    rate, burst = Rate(60), 0
    while rate.wait(3_600.0) == 0.0:
        rate.spend(3_600.0)
        burst += 1

    assert (burst, rate.wait(3_600.0), rate.wait(3_601.0)) == (10, 1.0, 0.0)


def test_a_slow_rate_has_no_burst() -> None:
    """One in ten seconds, or fewer, go one by one."""
    rate = Rate(2)
    rate.spend(100.0)

    assert rate.wait(100.0) == 30.0


def test_a_breaker_that_was_opened_is_half_open_until_an_answer() -> None:
    """When its rest is over it still stands half open; one fault then opens it, however many it takes to begin with."""
    breaker = Breaker()
    breaker.trip(0.0, after=1)
    over = (breaker.wait(30.0), breaker.half_open)

    assert over == (0.0, True)
    assert breaker.trip(30.0, after=5, pause=False) is True
    assert breaker.wait(30.0) == 60.0


def test_a_relay_that_says_how_long_is_heeded() -> None:
    """Its wish counts where it is longer than ours."""
    wishes, waits = (600.0, 1.0), []
    for wish in wishes:
        breaker = Breaker()
        breaker.trip(0.0, after=1, seconds=wish)
        waits.append(breaker.wait(0.0))

    assert waits == [600.0, 30.0]


def test_a_standstill_knows_since_when() -> None:
    """Since it was last found, not since it was found first."""
    standstill = Standstill("auth_failed", (900.0,))
    standstill.begin(10.0)
    standstill.begin(910.0)

    assert (standstill.since, standstill.until) == (910.0, 1_810.0)
