"""What an owner's templates may take: slow ones are refused for a while, and nobody else's are."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.message.template import Rendered, TemplateError
from gateway.message.template import allowance as module
from gateway.message.template.allowance import FREE, SAVED, SHARE, Allowance, AllowanceSpent


@dataclass
class Clocks:
    """The time of day, and what the thread has used, which each rendering takes more of."""

    now: float = 1_000.0
    each: float = 1.0
    _used: float = 0.0

    def used(self) -> float:
        """Tell the thread's time, a rendering later every time."""
        self._used += self.each
        return self._used


def allowance(clocks: Clocks) -> Allowance:
    """An allowance by these clocks."""
    return Allowance(lambda: clocks.now, clocks.used)


def render(by: Allowance, owner: str = "acme", text: str = "Hello {{ name }}") -> Rendered:
    """Fill a template of an owner's."""
    return by.render(owner, "s", text, None, {"name": "Ann"})


def test_what_people_write_takes_nothing() -> None:
    """However many of them, at once."""
    by = allowance(Clocks(each=FREE))
    assert {render(by).text for _ in range(10_000)} == {"Hello Ann"}


def use_up(by: Allowance) -> tuple[int, float]:
    """Render until that is refused: how often it was done, and how long it is refused."""
    for done in range(100):
        try:
            render(by)
        except AllowanceSpent as spent:
            return done, spent.wait
    raise AssertionError


def test_slow_ones_have_an_end() -> None:
    """What was saved up is used, by one rendering too many at most; then it is told when the next may come."""
    done, wait = use_up(allowance(Clocks(each=1.0 + FREE)))
    assert SAVED <= done <= SAVED + 1
    assert wait == pytest.approx((done - SAVED) / SHARE)


def test_time_pays_back() -> None:
    """After the wait that was told the next one is rendered; after a long rest as many as at first, and no more."""
    clocks = Clocks(each=1.0 + FREE)
    by = allowance(clocks)
    first, wait = use_up(by)
    clocks.now += wait
    second, _ = use_up(by)
    clocks.now += 1_000_000
    third, _ = use_up(by)
    assert (second, third) == (1, first)


def test_owners_are_apart() -> None:
    """Who has used up theirs takes nothing from others."""
    by = allowance(Clocks(each=60.0))
    render(by)
    with pytest.raises(AllowanceSpent):
        render(by)
    assert render(by, "globex").text == "Hello Ann"


def test_one_that_cannot_be_filled_counts_too() -> None:
    """It takes as long as one that can."""
    by = allowance(Clocks(each=60.0))
    with pytest.raises(TemplateError):
        render(by, text="{{ nobody }}")
    with pytest.raises(AllowanceSpent):
        render(by)


def test_so_many_owners_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose last slow rendering is the longest ago is forgotten first."""
    monkeypatch.setattr(module, "MOST_KNOWN", 2)
    by = allowance(Clocks(each=60.0))
    for owner in ("one", "two", "three"):
        render(by, owner)
    with pytest.raises(AllowanceSpent):
        render(by, "two")
    assert render(by, "one").text == "Hello Ann"
