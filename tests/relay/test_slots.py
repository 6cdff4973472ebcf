"""Slots: so many at once, one or more for each, in turn, and the last quarter for those who hold few."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.relay.slots import Slots


async def taken(slots: Slots, owner: str, number: int, stack: AsyncExitStack) -> int:
    """Take as many as are to be had without waiting; how many that were."""
    for count in range(number):
        try:
            async with asyncio.timeout(0.01):
                await stack.enter_async_context(slots.one(owner))
        except TimeoutError:
            return count
    return number


@pytest.mark.parametrize(("total", "most"), [(64, 48), (8, 6), (4, 3), (3, 2), (2, 1), (1, 1)])
async def test_nobody_has_them_all(total: int, most: int) -> None:
    """One owner gets three quarters, the next one finds some free; of a single one there is no quarter to keep."""
    async with AsyncExitStack() as stack:
        slots = Slots(total)
        assert await taken(slots, "hog", total, stack) == most
        assert await taken(slots, "other", 1, stack) == min(1, total - most)


async def test_all_are_used_by_several() -> None:
    """What several owners want together is bounded by the total alone."""
    async with AsyncExitStack() as stack:
        slots = Slots(8)
        numbers = [await taken(slots, owner, 2, stack) for owner in ("a", "b", "c", "d")]
        assert numbers == [2, 2, 2, 2]
        assert await taken(slots, "e", 1, stack) == 0


async def test_who_waits_is_served_when_one_is_free() -> None:
    """In the order of asking; whoever gave up waiting gets none, and loses none for others."""
    slots, served = Slots(1), []

    async def use(name: str) -> None:
        async with slots.one(name):
            served.append(name)

    async with slots.one("first"):
        tasks = [asyncio.ensure_future(use(name)) for name in ("b", "gone", "c")]
        await asyncio.sleep(0)
        tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert served == ["b", "c"]


async def test_owners_take_turns() -> None:
    """Whoever has many waiting is served once before the others are, and not until its last."""
    slots, served = Slots(1), []

    async def use(name: str, owner: str) -> None:
        async with slots.one(owner):
            served.append(name)

    async with slots.one("first"):
        named = [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c")]
        tasks = [asyncio.ensure_future(use(*one)) for one in named]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)

    assert served == ["a1", "b1", "c1", "a2", "a3"]


async def test_a_hog_that_waits_stands_in_nobodys_way() -> None:
    """Those who hold few are served past it."""
    async with AsyncExitStack() as stack:
        slots = Slots(4)
        assert await taken(slots, "hog", 3, stack) == 3
        waiting = asyncio.ensure_future(stack.enter_async_context(slots.one("hog")))
        await asyncio.sleep(0)
        assert await taken(slots, "other", 1, stack) == 1
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def wish(slots: Slots, owner: str, number: int) -> asyncio.Task[None]:
    """Ask for more than is to be had now, and wait in the background."""
    asking = asyncio.ensure_future(slots.take(owner, number))
    await asyncio.sleep(0)
    assert not asking.done()
    return asking


async def test_who_wants_more_than_is_free_is_passed() -> None:
    """By those for whom there is enough; it is served when there is enough for it."""
    slots = Slots(8)
    await slots.take("first", 3)
    much = await wish(slots, "much", 6)
    await slots.take("little")
    assert not much.done()
    slots.give("first", 3)
    await much


async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    """Nothing is kept for it."""
    slots = Slots(8)
    await slots.take("first", 3)
    much = await wish(slots, "much", 6)
    much.cancel()
    await asyncio.gather(much, return_exceptions=True)
    slots.give("first", 3)

    assert (slots._waiting, slots._free) == ({}, 8)


async def test_who_wants_more_than_there_is_gets_all() -> None:
    """It waits until everything is free, and gives no more back than it got."""
    slots = Slots(8)
    await slots.take("first")
    greedy = await wish(slots, "greedy", 1000)
    slots.give("first")
    await greedy
    slots.give("greedy", 1000)
    async with AsyncExitStack() as stack:
        assert await taken(slots, "other", 8, stack) == 6


async def test_what_is_taken_at_once_counts_for_the_last_quarter() -> None:
    """Who holds a quarter may have no more than leaves another."""
    slots = Slots(8)
    await slots.take("hog", 4)
    third = await wish(slots, "hog", 3)
    await slots.take("other", 2)
    slots.give("hog", 4)
    await third
