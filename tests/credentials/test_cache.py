"""The cache of secrets: fresh, ahead of time, stale, missing, forced; and what keeps a source from being overrun."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field
from weakref import ref

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.credentials.cache import (
    CONCURRENT,
    DENIAL_PATIENCE,
    FORCED_EVERY,
    LONGEST_BREAK,
    OVERLAP,
    Cache,
    Held,
    Known,
    Line,
    State,
    Terms,
    Warned,
)
from gateway.credentials.provider import PASSWORD, CredentialError, Fetched, Kind, Why
from gateway.credentials.secret import Secret
from gateway.observe.metrics import Everything, SecretLook

TERMS = Terms(fresh=100.0, stale=1000.0)
TOKENS = Terms(fresh=10_000.0, stale=None)
EPOCH = 1_800_000_000.0
DAY = 86_400.0


@dataclass
class Source:
    """A source that answers what it is told to, and counts; its clock stands until it is moved."""

    now: float = 0.0
    answer: str | CredentialError = "one"
    lasts: float | None = None
    expires_at: float | None = None
    fetched: int = 0
    slept: list[float] = field(default_factory=list)
    gate: asyncio.Event | None = None
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        """Make the cache that asks it."""
        self.cache = Cache(lambda: self.now, dice=lambda: 0.5, sleep=self.sleep, wall=lambda: EPOCH + self.now)
        self.line = Line(lambda: self.now, "corp")

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
        return Fetched({PASSWORD: Secret(self.answer)}, f"v{self.fetched}", self.lasts, self.expires_at)

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


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.POLICY])
async def test_a_token_is_served_until_its_last_second_and_not_in_it(kind: Kind) -> None:
    """Terms without staleness end when the source's word does, whatever keeps a newer token away."""
    source = Source(lasts=90.0)
    await source.get(terms=TOKENS)
    source.now, source.answer = 61.0, CredentialError(kind, "away")
    held = await source.get(terms=TOKENS)
    source.now = 89.9
    still = await source.get(terms=TOKENS)
    source.now = 90.0

    assert [(value(one), one.stale) for one in (held, still)] == [("one", True)] * 2
    with pytest.raises(CredentialError):
        await source.get(terms=TOKENS)


async def test_a_token_is_refreshed_ahead_of_two_thirds_of_its_life() -> None:
    """Nobody waits for the next one while the present one is good."""
    source = Source(lasts=90.0)
    await source.get(terms=TOKENS)
    source.now, source.answer = 47.0, "two"
    assert (value(await source.get(terms=TOKENS)), source.fetched) == ("one", 1)
    source.now = 49.0
    assert value(await source.get(terms=TOKENS)) == "one"
    await source.settle()
    assert (value(await source.get(terms=TOKENS)), source.fetched) == ("two", 2)


async def test_a_token_without_a_word_on_its_life_is_served_while_it_is_fresh() -> None:
    """Nobody vouches for it any longer."""
    source = Source()
    await source.get(terms=TOKENS)
    source.now, source.answer = 9_999.0, CredentialError(Kind.UNREACHABLE, "away")
    assert value(await source.get(terms=TOKENS)) == "one"
    source.now = 10_001.0
    with pytest.raises(CredentialError):
        await source.get(terms=TOKENS)


async def test_a_token_that_took_long_to_come_has_lived_meanwhile() -> None:
    """Its life began no later than it was asked for."""
    source = Source(lasts=90.0, gate=asyncio.Event())
    asking = asyncio.ensure_future(source.get(terms=TOKENS))
    await source.settle()
    assert source.gate is not None
    source.now = 80.0
    source.gate.set()
    await asking
    source.answer = CredentialError(Kind.UNREACHABLE, "away")
    assert (await source.get(terms=TOKENS)).stale
    source.now = 90.0
    with pytest.raises(CredentialError):
        await source.get(terms=TOKENS)


async def test_the_token_before_ends_when_its_own_life_does() -> None:
    """A relay is not offered a token that is known to be dead."""
    source = Source(lasts=90.0)
    await source.get(terms=TOKENS)
    source.now, source.answer = 61.0, "two"
    assert (await source.get(terms=TOKENS)).previous is not None
    source.now = 90.0
    assert (await source.get(terms=TOKENS)).previous is None


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


@pytest.mark.parametrize("kind", [Kind.DENIED, Kind.NOT_FOUND])
async def test_what_was_revoked_does_not_come_back_with_an_outage(kind: Kind) -> None:
    """The quarter of an hour goes on while the source cannot be reached, and is over then for as long as it cannot."""
    source, terms = Source(), Terms(fresh=100.0, stale=DAY)
    await source.get(terms=terms)
    source.now, source.answer = 101.0, CredentialError(kind, "no")
    await source.get(terms=terms)
    source.now, source.answer = 101.0 + DENIAL_PATIENCE, CredentialError(Kind.UNREACHABLE, "away")
    assert (await source.get(terms=terms)).stale
    source.now += 1.0
    with pytest.raises(CredentialError):
        await source.get(terms=terms)
    assert source.cache.known("a", terms).state is State.NEGATIVE


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


@dataclass
class Account(Source):
    """A source whose secrets have several fields."""

    fields: dict[str, str] = field(default_factory=lambda: {PASSWORD: "portal", "smtp": "one", "looked_at": "Monday"})

    async def fetch(self) -> Fetched:
        return Fetched({name: Secret(text) for name, text in self.fields.items()}, "")

    async def use(self, *fields: str, why: Why = Why.USE) -> Held:
        return await self.cache.get("a", self.line, TERMS, self.fetch, why=why, fields=fields)


@pytest.mark.parametrize("used", [("smtp", PASSWORD), (PASSWORD, "smtp")])
async def test_a_secret_is_another_when_a_used_field_is(used: tuple[str, ...]) -> None:
    """Whichever it is, and whoever asks then: the value before is kept, and the rotation told."""
    source = Account()
    told: list[str] = []
    source.cache.on_changed = told.append
    for name in used:
        await source.use(name)
    source.now, source.fields["smtp"] = 101.0, "two"
    previous = (await source.use(PASSWORD)).previous

    assert previous is not None
    assert (previous.fields["smtp"].reveal(), told) == ("one", ["corp"])


async def test_a_secret_is_no_other_by_what_nobody_uses() -> None:
    """Nor does that push the value before out."""
    source = Account()
    await source.use("smtp")
    source.now, source.fields["smtp"] = 101.0, "two"
    await source.use("smtp")
    source.now, source.fields["looked_at"] = 202.0, "Tuesday"
    previous = (await source.use("smtp")).previous

    assert previous is not None
    assert previous.fields["smtp"].reveal() == "one"


async def test_no_names_are_kept_that_the_secret_does_not_have() -> None:
    """Who may have a secret may ask for a thousand fields of it, and have them asked for again."""
    source = Account()
    for number in range(1000):
        await source.use("smtp", f"number-{number}")
    [entry] = source.cache._entries.values()
    assert entry.fields == {"smtp"}
    del source.fields["smtp"]
    source.now = 101.0
    await source.use(PASSWORD)
    assert entry.fields == {PASSWORD}


async def test_what_fetching_anew_brought_is_told_by_what_was_refused() -> None:
    """Another field of the same secret is no help to whom this one was refused."""
    source = Account()
    told: list[tuple[str, str]] = []
    source.cache.on_refused = lambda *given: told.append(given)
    for name in ("smtp", PASSWORD):
        await source.use(name)
    source.fields["smtp"] = "two"
    await source.use(PASSWORD, why=Why.REFUSED)
    source.now, source.fields["smtp"] = FORCED_EVERY, "three"
    await source.use("smtp", why=Why.REFUSED)

    assert told == [("corp", "unchanged"), ("corp", "changed")]


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


async def test_a_thousand_failures_in_a_row_are_counted() -> None:
    """The pause stays at its longest, however long the outage; then one answer opens the way again."""
    source = Source(answer=CredentialError(Kind.UNREACHABLE, "away"))
    for _ in range(1100):
        source.now = source.line.closed_until
        with pytest.raises(CredentialError):
            await source.get()
    assert source.line.closed_until - source.now == LONGEST_BREAK
    source.now, source.answer = source.line.closed_until, "one"
    assert value(await source.get()) == "one"


async def together(source: Source, count: int) -> None:
    """Ask for so many secrets, whose requests are all on their way before one is answered."""
    source.gate = asyncio.Event()
    asking = [asyncio.ensure_future(source.get(f"{source.fetched}-{number}")) for number in range(count)]
    await source.settle()
    source.gate.set()
    await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.parametrize(
    ("kind", "pauses"), [(Kind.THROTTLED, [10.0, 20.0, 40.0]), (Kind.UNREACHABLE, [1.0, 2.0, 4.0])]
)
async def test_those_who_fail_together_make_no_pause_grow(kind: Kind, pauses: list[float]) -> None:
    """Eight requests at once say what one says; only those after the pause say that it was too short."""
    source = Source(answer=CredentialError(kind, "not now"))
    told = []
    for _ in pauses:
        await together(source, CONCURRENT)
        told.append(source.line.closed_until - source.now)
        source.now = source.line.closed_until
    assert (told, source.fetched) == (pauses, 3 * CONCURRENT)


async def test_those_who_wait_for_a_slot_are_sent_away_too() -> None:
    """Of five hundred only those ask that were on their way before the source said when to come back.

    The others take no turn that somebody would have to wait for afterwards.
    """
    source = Source(answer=CredentialError(Kind.THROTTLED, "slowly", 60.0))
    await together(source, 500)
    assert (source.fetched, source.line.closed_until, len(source.slept)) == (CONCURRENT, 60.0, CONCURRENT - 1)


async def test_those_who_wait_for_their_turn_are_sent_away_too() -> None:
    """Whoever is kept back, because there are only so many requests a second, looks again before it asks."""
    source = Source(answer=CredentialError(Kind.THROTTLED, "slowly"), gate=asyncio.Event())
    turn = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        await turn.wait()

    source.cache = Cache(lambda: source.now, sleep=sleep)
    waiting = [asyncio.ensure_future(source.get(key)) for key in "abc"]
    await source.settle()
    assert source.gate is not None
    source.gate.set()
    await source.settle()
    turn.set()
    refused = await asyncio.gather(*waiting, return_exceptions=True)
    assert (source.fetched, [type(one) for one in refused]) == (1, [CredentialError] * 3)


async def test_an_earlier_request_does_not_end_a_pause() -> None:
    """The source answers what it had begun with, and still wants to be left alone."""
    source, gate = Source(), asyncio.Event()

    async def slow() -> Fetched:
        await gate.wait()
        return await source.fetch()

    early = asyncio.ensure_future(source.cache.get("early", source.line, TERMS, slow))
    await source.settle()
    source.answer = CredentialError(Kind.THROTTLED, "slowly", 60.0)
    with pytest.raises(CredentialError):
        await source.get()
    source.answer = "one"
    gate.set()
    assert value(await early) == "one"
    with pytest.raises(CredentialError):
        await source.get()
    source.now = 60.0
    assert value(await source.get()) == "one"


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


# What operators see.


def look(source: Source) -> SecretLook:
    (only,) = source.cache.looks()
    return only


async def test_uses_are_counted_by_what_the_cache_had() -> None:
    """Fetched, fresh, fresh and fetched ahead, served on, and known not to be had."""
    source = Source()
    for source.now in (0.0, 1.0, 2.0, 81.0):
        await source.get()
    await source.settle()
    source.now, source.answer = 1000.0, CredentialError(Kind.NOT_FOUND, "not there")
    await source.get()
    await source.get()
    for _ in range(3):
        with pytest.raises(CredentialError):
            await source.get("missing")
    assert look(source).uses == {"miss": 2, "hit": 2, "ahead": 1, "stale": 2, "negative": 2}


async def test_what_stands_in_the_cache_is_told() -> None:
    """How many secrets, how old the oldest, how many are stale or on their way, and whether the source is left alone."""
    source = Source()
    await source.get("a")
    source.now = 60.0
    await source.get("b")
    source.now, source.answer = 120.0, CredentialError(Kind.UNREACHABLE, "away")
    for _ in range(3):
        await source.get("a")
    before = look(source)
    source.gate = asyncio.Event()
    source.now = 130.0
    waiting = asyncio.ensure_future(source.get("c"))
    await source.settle()
    during = look(source)
    source.answer = "one"
    source.gate.set()
    await waiting
    await source.get("a")
    after = look(source)

    assert (before.cached, before.oldest, before.stale, before.in_flight, before.closed) == (2, 120.0, 1, 0, True)
    assert (during.in_flight, during.closed) == (1, False)
    assert (after.cached, after.oldest, after.stale, after.closed) == (3, 70.0, 0, False)


async def test_what_is_too_old_to_be_served_is_not_stale() -> None:
    """It is not served at all."""
    source = Source()
    await source.get()
    source.now, source.answer = 101.0, CredentialError(Kind.UNREACHABLE, "away")
    await source.get()
    source.now = 1001.0
    with pytest.raises(CredentialError):
        await source.get()
    assert look(source).stale == 0


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("two", "changed"), ("one", "unchanged"), (CredentialError(Kind.UNREACHABLE, "away"), "failed")],
)
async def test_what_fetching_a_refused_secret_anew_brought(answer: str | CredentialError, outcome: str) -> None:
    """Told once for each time that it is fetched for that reason, and not when it is too early for that."""
    source = Source()
    told: list[tuple[str, str]] = []
    source.cache.on_refused = lambda name, outcome: told.append((name, outcome))
    await source.get()
    source.answer = answer
    await source.get(why=Why.REFUSED)
    await source.get(why=Why.REFUSED)
    await source.get(why=Why.PERSON)
    assert told == [("corp", outcome)]


async def test_a_rotation_is_told() -> None:
    """When another value comes; the same one again is none, whatever its version, nor is the next token."""
    source = Source()
    told: list[str] = []
    source.cache.on_changed = told.append
    for source.now, source.answer in ((0.0, "one"), (101.0, "one"), (202.0, "two"), (303.0, "two")):
        await source.get()
        source.lasts = 90.0
        await source.get("token", terms=TOKENS)
        source.lasts = None
    assert told == ["corp"]


async def test_attempts_are_told_with_their_result_and_time() -> None:
    """In seconds at the source; what waited for its turn does not count."""
    source = Source(gate=asyncio.Event())
    told: list[tuple[str, str, float]] = []
    source.cache.on_fetch = lambda *given: told.append(given)
    for answer in ("one", CredentialError(Kind.DENIED, "no")):
        source.answer = answer
        asking = asyncio.ensure_future(source.get(why=Why.PERSON))
        await source.settle()
        source.now += 3.0
        assert source.gate is not None
        source.gate.set()
        await asking
        source.gate = asyncio.Event()
    assert told == [("corp", "ok", 3.0), ("corp", "denied", 3.0)]


async def test_an_end_that_is_near_is_told_once() -> None:
    """By the secret nearest to its end, with a line in the log for each end."""
    source = Source()
    told: list[tuple[str, float]] = []
    source.cache.on_expiring = lambda name, seconds: told.append((name, seconds))
    for key, source.expires_at in (("never", None), ("late", EPOCH + 90 * DAY), ("soon", EPOCH + 2 * DAY)):
        await source.get(key)
    source.now = 101.0
    await source.get("soon")
    source.expires_at = EPOCH + 3 * DAY
    source.now = 202.0
    await source.get("soon")
    source.expires_at = EPOCH + 90 * DAY
    await source.get("late")

    assert told == [("corp", 2 * DAY), ("corp", 3 * DAY - 202.0)]
    assert look(source).expiry == 3 * DAY - 202.0


async def test_sources_of_one_name_are_told_as_one() -> None:
    """Otherwise Prometheus would refuse all that is told."""
    source = Source()
    await source.get("a")
    other = Line(lambda: source.now, "corp")
    await source.cache.get("b", other, TERMS, source.fetch)
    await source.get("b")
    assert (look(source).cached, look(source).uses["miss"], look(source).uses["hit"]) == (2, 2, 1)


async def test_uses_outlive_the_way_to_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters do not fall, though whoever made the way has forgotten it; the way itself is forgotten too."""
    monkeypatch.setattr("gateway.credentials.cache.MOST", 1)
    source = Source()
    way = Line(lambda: source.now, "corp")
    kept = ref(way)
    await source.cache.get("b", way, TERMS, source.fetch)
    del way
    await source.settle()
    await source.get("a")
    gc.collect()
    assert (kept(), look(source).uses["miss"]) == (None, 2)


async def test_what_is_scraped() -> None:
    """Each state and gauge under its name, with the connection and nothing else for a label."""
    source = Source(expires_at=EPOCH + 30 * DAY)
    source.line.logins.succeeded(50.0)
    await source.get()
    source.now = 10.0
    await source.get()
    told = generate_latest(Everything(source.cache.looks)).decode()
    samples = {
        (one.name.removeprefix("notification_gateway_"), one.labels.pop("state", "")): one.value
        for family in text_string_to_metric_families(told)
        for one in family.samples
        if one.labels == {"connection": "corp"} | ({"state": one.labels["state"]} if "state" in one.labels else {})
    }
    assert (
        samples.items()
        >= {
            ("secret_uses_total", "hit"): 1.0,
            ("secret_uses_total", "miss"): 1.0,
            ("secret_uses_total", "negative"): 0.0,
            ("secrets_cached", ""): 1.0,
            ("secrets_stale", ""): 0.0,
            ("secret_fetches_in_flight", ""): 0.0,
            ("secret_breaker_open", ""): 0.0,
            ("secret_oldest_seconds", ""): 10.0,
            ("secret_expiry_seconds", ""): 30 * DAY - 10.0,
            ("secret_token_seconds", ""): 40.0,
        }.items()
    )


async def test_how_a_secret_stands_is_known_without_asking() -> None:
    """Never asked for, fresh, served on, gone, and not to be had: with its age and the last error, and no fetch."""
    source = Source()
    told = [source.cache.known("a", TERMS)]
    await source.get()
    source.now = 10.0
    told.append(source.cache.known("a", TERMS))
    source.now, source.answer = 200.0, CredentialError(Kind.MALFORMED, "odd")
    await source.get()
    told.append(source.cache.known("a", TERMS))
    source.now = 1001.0
    told.append(source.cache.known("a", TERMS))
    with pytest.raises(CredentialError):
        await source.get("b")
    fetched = source.fetched
    told.append(source.cache.known("b", TERMS))

    assert told == [
        Known(State.UNUSED),
        Known(State.FRESH, "v1", 10.0),
        Known(State.STALE, "v1", 200.0, Kind.MALFORMED),
        Known(State.NEGATIVE, "v1", 1001.0, Kind.MALFORMED),
        Known(State.NEGATIVE, error=Kind.MALFORMED),
    ]
    assert source.fetched == fetched


@pytest.mark.parametrize(
    ("left", "warning"),
    [(None, None), (15 * DAY, None), (13 * DAY, Warned.EXPIRES_SOON), (0.0, Warned.EXPIRED), (-DAY, Warned.EXPIRED)],
)
async def test_whose_end_is_near_is_known(left: float | None, warning: Warned | None) -> None:
    """Two weeks ahead, as its source tells the end; it is served all the same."""
    source = Source(expires_at=None if left is None else EPOCH + left)
    await source.get()
    known = source.cache.known("a", TERMS)
    assert (known.state, known.warning, known.expires_at) == (State.FRESH, warning, source.expires_at)
