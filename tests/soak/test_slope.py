"""The slope's estimate finds a leak, and its interval is as wide as it says."""

from __future__ import annotations

import random
from math import inf

import pytest

from tests.soak.slope import HOUR, grows, slope

Series = tuple[list[float], list[float]]

EVERY = 10.0
LEAK = 1.0
MINUTES_100 = 600
MINUTES_20 = 120


def memory(samples: int, leak: float, seed: int, *, inertia: float = 0.2, noise: float = 1.3) -> Series:
    """What a daemon of 100 MiB holds: a leak (MiB/h), and ups and downs as they were measured."""
    dice = random.Random(seed)
    seconds = [EVERY * number for number in range(samples)]
    values, wave = [], 0.0
    for at in seconds:
        wave = inertia * wave + dice.gauss(0, noise)
        values.append(100 + leak * at / HOUR + wave)
    return seconds, values


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("samples", "leak"), [(MINUTES_100, 5.0), (MINUTES_20, 25.0)])
def test_a_leak_is_found(samples: int, leak: float, seed: int) -> None:
    """One of 5 MiB an hour in a hundred minutes, in twenty a larger one."""
    assert grows(*memory(samples, leak, seed), LEAK)


@pytest.mark.parametrize("samples", [MINUTES_100, MINUTES_20])
def test_what_stays_is_hardly_taken_for_a_leak(samples: int) -> None:
    """Ups and downs never, and a step of 4 MiB, through which a line would rise, in one of twenty cases."""
    taken = lines = steps = 0
    for seed in range(200):
        seconds, values = memory(samples, 0.0, seed)
        stepped = [value + 4.0 * (number > samples // 3) for number, value in enumerate(values)]
        taken += grows(seconds, values, LEAK)
        lines += slope(seconds, stepped).least > LEAK
        steps += grows(seconds, stepped, LEAK)

    assert taken <= 1
    assert lines > 190
    assert steps <= 10


def test_an_exact_line_has_its_slope() -> None:
    """Without noise there is no error."""
    fitted = slope(*memory(MINUTES_20, 5.0, 0, noise=0.0))

    assert fitted.per_hour == pytest.approx(5.0)
    assert fitted.error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("samples", [MINUTES_20, MINUTES_100])
@pytest.mark.parametrize("inertia", [0.0, 0.9, 0.97])
def test_the_interval_holds_the_truth_as_often_as_it_says(samples: int, inertia: float) -> None:
    """Of 400 series without a leak about 95 % have zero in their interval, however slow the ups and downs are."""
    held = [slope(*memory(samples, 0.0, seed, inertia=inertia)) for seed in range(400)]

    assert sum(one.least <= 0.0 <= one.most for one in held) >= 0.93 * len(held)


@pytest.mark.parametrize("samples", [MINUTES_20, MINUTES_100])
def test_a_walk_at_random_is_hardly_taken_for_a_leak(samples: int) -> None:
    """What never returns to where it was looks like growth; the interval is wide enough four times in five."""
    held = [slope(*memory(samples, 0.0, seed, inertia=1.0)) for seed in range(400)]

    assert sum(one.least <= 0.0 <= one.most for one in held) >= 0.8 * len(held)


def test_two_looks_are_no_series() -> None:
    """Nothing is told of them."""
    assert slope([0.0, 10.0], [1.0, 2.0]).error == inf
