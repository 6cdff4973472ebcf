"""The cache of secrets: fresh, ahead of time, stale, missing, forced; and what keeps a source from being overrun."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.credentials.cache import (
    CONCURRENT,
    DENIAL_PATIENCE,
    FORCED_EVERY,
    OVERLAP,
    Cache,
    Held,
    Line,
    Terms,
)
from gateway.credentials.provider import PASSWORD, CredentialError, Fetched, Kind, Why
from gateway.credentials.secret import Secret

TERMS = Terms(fresh=100.0, stale=1000.0)


@dataclass
class Source:
    """A source that answers what it is told to, and counts; its clock stands until it is moved."""

    now: float = 0.0
    answer: str | CredentialError = "one"
    fetched: int = 0
    slept: list[float] = field(default_factory=list)
    gate: asyncio.Event | None = None
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        """Make the cache that asks it."""
        self.cache = Cache(lambda: self.now, dice=lambda: 0.5, sleep=self.sleep)
        self.line = Line(lambda: self.now)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def fetch(self) -> Fetched:
        self.fetched += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.at_once -= 1
        if isinstance(self.answer, CredentialError):
            raise self.answer
        return Fetched({PASSWORD: Secret(self.answer)}, f"v{self.fetched}")

    async def get(self, key: str = "a", *, why: Why = Why.USE, terms: Terms = TERMS) -> Held:
        return await self.cache.get(key, self.line, terms, self.fetch, why=why)

    async def settle(self) -> None:
        """Let what was begun in the background end."""
        for _ in range(5):
            await asyncio.sleep(0)


def value(held: Held) -> str:
    return held.fetched.fields[PASSWORD].reveal()


async def test_a_fresh_secret_is_not_fetched_again() -> None:
    """Ten thousand uses, one fetch."""
    source = Source()
    for _ in range(10_000):
        assert value(await source.get()) == "one"
    assert source.fetched == 1


async def test_those_who_ask_together_share_one_fetch() -> None:
    """And its outcome."""
    source = Source(gate=asyncio.Event())
    asking = [asyncio.ensure_future(source.get()) for _ in range(50)]
    await source.settle()
    assert source.gate is not None
    source.gate.set()
    assert ({value(held) for held in await asyncio.gather(*asking)}, source.fetched) == ({"one"}, 1)


async def test_those_who_ask_together_share_one_failure() -> None:
    """Nobody asks again at once."""
    source = Source(answer=CredentialError(Kind.NOT_FOUND, "not there"))
    failures = await asyncio.gather(*(source.get() for _ in range(20)), return_exceptions=True)
    assert ({type(one) for one in failures}, source.fetched) == ({CredentialError}, 1)


async def test_a_secret_in_use_is_refreshed_ahead_of_time() -> None:
    """Whoever asks near the end of its freshness waits for nothing."""
    source = Source()
    await source.get()
    source.now, source.answer = 81.0, "two"
    assert value(await source.get()) == "one"
    await source.settle()
    assert (value(await source.get()), source.fetched) == ("two", 2)


async def test_a_secret_is_fetched_anew_when_it_is_not_fresh_any_more() -> None:
    """Nobody used it meanwhile, so nobody refreshed it."""
    source = Source()
    await source.get()
    source.now, source.answer = 101.0, "two"
    assert value(await source.get()) == "two"


async def test_what_the_source_vouches_for_ends_freshness_earlier() -> None:
    """Two thirds of a lease."""
    source = Source()

    async def leased() -> Fetched:
        source.fetched += 1
        return Fetched({PASSWORD: Secret("x")}, "", lasts=30.0)

    await source.cache.get("k", source.line, TERMS, leased)
    source.now = 21.0
    await source.cache.get("k", source.line, TERMS, leased)
    assert source.fetched == 2


@pytest.mark.parametrize("kind", [Kind.UNREACHABLE, Kind.THROTTLED, Kind.MALFORMED, Kind.ROTATING])
async def test_a_source_that_is_away_is_outlived(kind: Kind) -> None:
    """The last value is served, and marked, as long as the terms say; then not."""
    source = Source()
    await source.get()
    source.now, source.answer = 101.0, CredentialError(kind, "away")
    held = await source.get()
    source.now = 999.0
    still = await source.get()
    source.now = 1001.0

    assert [(value(one), one.stale) for one in (held, still)] == [("one", True)] * 2
    with pytest.raises(CredentialError):
        await source.get()


@pytest.mark.parametrize("kind", [Kind.DENIED, Kind.NOT_FOUND])
async def test_a_source_that_says_no_is_heard_soon(kind: Kind) -> None:
    """A typo stops nothing at once; a revocation bites after a quarter of an hour."""
    source = Source()
    await source.get()
    source.now, source.answer = 101.0, CredentialError(kind, "no")
    assert (await source.get()).stale
    source.now = 101.0 + DENIAL_PATIENCE
    assert (await source.get()).stale
    source.now += 61.0
    with pytest.raises(CredentialError) as refused:
        await source.get()
    assert refused.value.kind is kind


async def test_a_missing_secret_is_not_asked_for_all_the_time() -> None:
    """Once in half a minute; then it may be there."""
    source = Source(answer=CredentialError(Kind.NOT_FOUND, "not there"))
    for now in (0.0, 10.0, 29.0):
        source.now = now
        with pytest.raises(CredentialError):
            await source.get()
    assert source.fetched == 1
    source.now, source.answer = 31.0, "one"
    assert value(await source.get()) == "one"


async def test_a_refused_value_is_fetched_anew_but_not_all_the_time() -> None:
    """A relay that says no to everything makes nobody overrun the source; a person always may."""
    source = Source()
    await source.get()
    source.now, source.answer = 10.0, "two"
    assert value(await source.get(why=Why.REFUSED)) == "two"
    source.answer = "three"
    assert value(await source.get(why=Why.REFUSED)) == "two"
    assert value(await source.get(why=Why.PERSON)) == "three"
    source.now, source.answer = source.now + FORCED_EVERY, "four"
    assert value(await source.get(why=Why.REFUSED)) == "four"


async def test_forcing_asks_past_what_is_known_to_be_missing() -> None:
    """A person who has just made the secret need not wait."""
    source = Source(answer=CredentialError(Kind.NOT_FOUND, "not there"))
    with pytest.raises(CredentialError):
        await source.get()
    source.answer = "one"
    assert value(await source.get(why=Why.REFUSED)) == "one"


async def test_the_value_before_is_kept_for_a_while() -> None:
    """Ten minutes in which the relay may still know the old one; an equal value is no change."""
    source = Source()
    await source.get()
    source.now = 101.0
    assert (await source.get()).previous is None
    source.now, source.answer = 202.0, "two"
    previous = (await source.get()).previous
    source.now += OVERLAP

    assert previous is not None
    assert previous.fields[PASSWORD].reveal() == "one"
    assert (await source.get()).previous is None


async def test_an_unreachable_source_is_left_alone() -> None:
    """After three failures nobody asks for a second, then two, …; one answer opens it again."""
    source = Source(answer=CredentialError(Kind.UNREACHABLE, "away"))
    for key in "abc":
        with pytest.raises(CredentialError):
            await source.get(key)
    with pytest.raises(CredentialError) as closed:
        await source.get("d")
    assert (source.fetched, closed.value.retry_after) == (3, 1.0)
    source.now, source.answer = 1.1, "one"
    assert value(await source.get("d")) == "one"
    assert value(await source.get("e")) == "one"


async def test_what_is_wrong_with_one_secret_closes_nothing() -> None:
    """Ten missing ones, and the eleventh is fetched."""
    source = Source(answer=CredentialError(Kind.NOT_FOUND, "not there"))
    for number in range(10):
        with pytest.raises(CredentialError):
            await source.get(str(number))
    source.answer = "one"
    assert value(await source.get("x")) == "one"


@pytest.mark.parametrize(("told", "wait"), [(7.0, 7.0), (None, 10.0)])
async def test_a_source_that_asks_for_a_pause_gets_it(told: float | None, wait: float) -> None:
    """For all of its secrets, as long as it said."""
    source = Source(answer=CredentialError(Kind.THROTTLED, "slowly", told))
    with pytest.raises(CredentialError):
        await source.get("a")
    source.now, source.answer = wait - 0.1, "one"
    with pytest.raises(CredentialError):
        await source.get("b")
    source.now = wait + 0.1
    assert value(await source.get("b")) == "one"


async def test_a_thousand_secrets_are_no_stampede() -> None:
    """Eight at once, spread over time."""
    source = Source()
    await asyncio.gather(*(source.get(str(number)) for number in range(1000)))
    assert (source.fetched, source.most_at_once <= CONCURRENT) == (1000, True)
    assert max(source.slept) == pytest.approx(999 / 20.0, rel=0.01)


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused goes first."""
    monkeypatch.setattr("gateway.credentials.cache.MOST", 2)
    source = Source()
    for key in "abac":
        await source.get(key)
    before = source.fetched
    await source.get("a")
    assert source.fetched == before
    await source.get("b")
    assert source.fetched == before + 1


async def test_staleness_is_told_once_each_way() -> None:
    """When it begins and when it is over, however often the secret is used."""
    source = Source()
    told: list[bool] = []
    source.cache.on_stale = lambda _source, stale: told.append(stale)
    await source.get()
    source.now, source.answer = 101.0, CredentialError(Kind.MALFORMED, "odd")
    for _ in range(5):
        await source.get()
    source.now, source.answer = 500.0, "two"
    await source.get()
    await source.get()

    assert told == [True, False]
