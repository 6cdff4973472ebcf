"""The slope's estimate finds a leak, and its interval is as wide as it says."""

from __future__ import annotations

import random
from math import inf

import pytest

from tests.soak.slope import HOUR, Slope, slope

EVERY = 10.0
MINUTES_100 = 600
MINUTES_20 = 120


def memory(samples: int, leak: float, seed: int, *, inertia: float = 0.9, noise: float = 0.15) -> Slope:
    """Fit what a daemon of 100 MiB holds: a leak (MiB/h), and ups and downs that last for a while."""
    dice = random.Random(seed)
    seconds = [EVERY * number for number in range(samples)]
    values, wave = [], 0.0
    for at in seconds:
        wave = inertia * wave + dice.gauss(0, noise)
        values.append(100 + leak * at / HOUR + wave)
    return slope(seconds, values)


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_of_five_mebibytes_an_hour_is_found(seed: int) -> None:
    """In a hundred minutes it is told from anything up to one."""
    assert memory(MINUTES_100, 5.0, seed).least > 1.0


def test_an_exact_line_has_its_slope() -> None:
    """Without noise there is no error."""
    assert memory(MINUTES_20, 5.0, 0, noise=0.0).per_hour == pytest.approx(5.0)
    assert memory(MINUTES_20, 5.0, 0, noise=0.0).error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("samples", [MINUTES_20, MINUTES_100])
@pytest.mark.parametrize("inertia", [0.0, 0.9, 0.97])
def test_the_interval_holds_the_truth_as_often_as_it_says(samples: int, inertia: float) -> None:
    """Of 400 series without a leak about 95 % have zero in their interval, however slow the ups and downs are."""
    held = [memory(samples, 0.0, seed, inertia=inertia) for seed in range(400)]

    assert sum(one.least <= 0.0 <= one.most for one in held) >= 0.93 * len(held)


@pytest.mark.parametrize("samples", [MINUTES_20, MINUTES_100])
def test_a_walk_at_random_is_hardly_taken_for_a_leak(samples: int) -> None:
    """What never returns to where it was looks like growth; the interval is wide enough four times in five."""
    held = [memory(samples, 0.0, seed, inertia=1.0) for seed in range(400)]

    assert sum(one.least <= 0.0 <= one.most for one in held) >= 0.8 * len(held)


def test_two_looks_are_no_series() -> None:
    """Nothing is told of them."""
    assert slope([0.0, 10.0], [1.0, 2.0]).error == inf
