"""Which lanes this daemon has: all of them where it is alone, its share of them where several daemons share a store.

The daemons that live divide the lanes among themselves by rendezvous hashing: each asks, for a lane, whose hash with it
is the highest, and all come to the same answer as long as they see the same daemons. What they see may differ for a
moment, so the answer only says who may *take* the lane. Having it is a row of the store that one daemon has at a time,
and only who has it opens connections and sends: a wrong answer delays mail, and never makes two of one limit.

A daemon has its lanes for as long as it beats. One that cannot reach the store gives them up by itself, a `tenure` after
its last beat and before the others take them over, and hangs up on their relays.

An answer of the store may be lost, or what was asked be done late. So what this daemon has and what the rows say is
compared, now and then and whenever lanes move: what only the rows know of is given up, what they know nothing of is lost.

Words between daemons ("this flow has mail") are hints. Whoever missed one finds the mail by looking, now and then. Nobody
finds what was cancelled or lent that way, so where there is much to say these are said all the same.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Annotated, Any, Final, Protocol

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from gateway.observe import facts
from gateway.store.clock import elapsed
from gateway.store.protocol import Roster, StoreUnavailable
from gateway.store.rows import Flow, Place, Pulse

MOST_WORDS: Final = 24  # flows told in one message: the store carries no more of the longest names
MOST_MESSAGES: Final = 10  # at a time; whoever has mail of more flows to tell of says: look

_Due = Annotated[int, Field(ge=0, le=1 << 53)]
_Word = str | tuple[str, str, _Due] | tuple[str, str, _Due, str, str]  # cancelled; flow, due; and the lane to carry it
_WORDS: Final = TypeAdapter[tuple[int, list[_Word]]](tuple[int, list[_Word]])


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is done, in seconds. Whatever hurries, a `breath` passes between two turns, and two looks."""

    beat: float = 1.0
    breath: float = 0.05
    patience: float = 5.0  # with one turn: beating, leaving and taking
    tenure: float = 25.0  # of the 30 after which others take over
    lag: float = 2.0  # after a beat, while it is believed that nobody's rights have changed
    look: float = 10.0  # and compare
    gather: float = 0.01  # words to others, …
    talk: float = 0.05  # … who hear of us so often at most: whoever is at a lane finds what else comes by itself
    asked: float = 1.0  # between looks that words ask for: anybody who may connect to the database may send them


class Lanes(Protocol):
    """What has the lanes, as the holding sees it."""

    def taken(self, lanes: Mapping[Place, float | None]) -> None:
        """They are ours now. With each, how far its rate was spent, in seconds from now; None: nobody knows."""

    def leave(self, lane: Place) -> None:
        """Somebody else shall have it: begin nothing more."""

    def left(self, lane: Place) -> float | None:
        """Is all of it over, and every connection closed? Then how far its rate is spent, in seconds from now."""

    def lost(self, lanes: Collection[Place]) -> None:
        """They may be others' by now: hang up."""

    def exists(self, lane: Place) -> bool:
        """Is there such a profile?"""

    def heard(self, flow: Flow, due_at: int, lane: Place | None) -> None:
        """A flow has mail, which its own lane shall carry, or this one."""

    def revoked(self, notification_id: str) -> None:
        """A notification was cancelled that may be in our hands."""

    def states(self) -> dict[Place, str]:
        """How each lane of ours stands."""

    def let_go_on(self, lane: Place) -> None:
        """A person says that it may go on."""

    async def look(self) -> None:
        """Find the mail that there is."""


class Holding:
    """All lanes, and nobody else there."""

    def holds(self, _lane: Place) -> bool:
        """Is it ours?"""
        return True

    def want(self, lane: Place) -> None:
        """There is mail for it: take it, if it is for us to take."""

    def tell(self, flow: Flow, due_at: int, lane: Place | None = None) -> None:
        """Tell whoever has the lane that a flow has mail; `lane`: one that stands in for the flow's own."""

    def revoke(self, notification_id: str) -> None:
        """Tell whoever has claimed a notification that it was cancelled."""

    def stands(self, _lane: Place) -> bool:
        """Is it in the hands of another daemon, and in order there?"""
        return False

    def elsewhere(self) -> Mapping[Place, str]:
        """How lanes of others stand, as far as they are not in order."""
        return {}

    async def resume(self, lanes: Lanes, lane: Place) -> None:
        """A person lets a lane go on, whoever has it."""
        lanes.let_go_on(lane)

    def retire(self) -> None:
        """Leave every lane to others, each as soon as what is at work there has ended."""

    def lags(self) -> bool:
        """May others have changed something of which we have not heard for too long?"""
        return False

    async def catch_up(self) -> None:
        """Hear of it. Raises `StoreUnavailable`."""

    async def run(self, lanes: Lanes) -> None:
        """Nothing is to be done."""

    async def end(self, lanes: Lanes) -> None:
        """Nothing is to be given up."""


class SharedHolding(Holding):
    """The lanes that the store's roster says are ours.

    `learn` is told the directory's revision with each beat, and reads what is new.
    """

    def __init__(
        self,
        roster: Roster,
        learn: Callable[[int], Coroutine[Any, Any, None]],
        clock: Callable[[], int],
        pace: Pace = Pace(),
    ) -> None:
        """Begin with none; `clock` is the store's."""
        self._roster = roster
        self._learn = learn
        self._clock = clock
        self._pace = pace
        self._held: set[Place] = set()
        self._leaving: set[Place] = set()  # of those that are held
        self._strays: set[Place] = set()  # ours by the rows alone
        self._wanted: set[Place] = set()
        self._for_us: dict[Place, bool] = {}  # what the pulse says of those that were asked for
        self._states: dict[Place, str] = {}
        self._resumes: dict[Place, int] | None = None
        self._words: dict[Flow, int] = {}
        self._lent: dict[tuple[Flow, Place], int] = {}
        self._revoked: deque[str] = deque()
        self._news = asyncio.Event()  # there are words
        self._hurry = asyncio.Event()  # do not wait for the next beat
        self._look = asyncio.Event()
        self._asked_at = -pace.asked  # when the last look begins that words asked for
        self._retiring = False
        self._pulse: Pulse | None = None
        self.alive: tuple[int, ...] = ()  # among whom the lanes are divided
        self._reborn = False
        self._beat_at = -pace.tenure
        self._compare_at = 0.0
        self._beating = asyncio.Lock()
        self._turning = asyncio.Lock()
        self._tenure: asyncio.TimerHandle | None = None

    # Questions.

    def holds(self, lane: Place) -> bool:
        """Is it ours, and not on its way to another?"""
        return lane in self._held and lane not in self._leaving

    def stands(self, lane: Place) -> bool:
        """Is it in the hands of another daemon, and in order there?"""
        return lane not in self._held and not self._is_for_us(lane) and lane not in self.elsewhere()

    def elsewhere(self) -> Mapping[Place, str]:
        """How lanes of others stand, as far as they are not in order."""
        return {} if self._pulse is None else self._pulse.others

    def _is_for_us(self, lane: Place) -> bool:
        if self._pulse is None or self._retiring:
            return False
        known = self._for_us.get(lane)
        if known is None:
            known = self._for_us[lane] = chosen(self._pulse.alive, lane) == self._pulse.me
        return known

    # Wishes.

    def want(self, lane: Place) -> None:
        """There is mail for it: take it, if it is for us to take."""
        if lane not in self._held and lane not in self._wanted and self._is_for_us(lane):
            self._wanted.add(lane)
            self._hurry.set()

    def tell(self, flow: Flow, due_at: int, lane: Place | None = None) -> None:
        """Tell whoever has the lane that a flow has mail; `lane`: one that stands in for the flow's own."""
        if lane is None:
            self._words[flow] = min(due_at, self._words.get(flow, due_at))
        else:
            self._lent[flow, lane] = min(due_at, self._lent.get((flow, lane), due_at))
        self._news.set()

    def revoke(self, notification_id: str) -> None:
        """Tell whoever has claimed a notification that it was cancelled."""
        self._revoked.append(notification_id)
        self._news.set()

    async def resume(self, lanes: Lanes, lane: Place) -> None:
        """A person lets a lane go on, whoever has it."""
        if lane in self._held:
            lanes.let_go_on(lane)
        else:
            await self._roster.resume(lane)

    def lags(self) -> bool:
        """May others have changed something of which we have not heard for too long?"""
        return elapsed() - self._beat_at > self._pace.lag

    def retire(self) -> None:
        """Leave every lane to others, each as soon as what is at work there has ended."""
        self._retiring = True
        self._hurry.set()

    async def catch_up(self) -> None:
        """Hear of it. Raises `StoreUnavailable`."""
        try:
            async with asyncio.timeout(self._pace.lag), self._beating:
                if self.lags():
                    await self._beat()
        except TimeoutError as error:
            raise StoreUnavailable("the server does not answer") from error

    # Life.

    async def run(self, lanes: Lanes) -> None:
        """Beat, and do what the pulse asks for, until cancelled."""
        self._roster.listen(lambda words: self._heard(lanes, words))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell_forever())
            tasks.create_task(self._look_forever(lanes))
            while True:
                self._hurry.clear()
                try:
                    async with asyncio.timeout(self._pace.patience):
                        await self._turn(lanes)
                except (StoreUnavailable, TimeoutError) as error:
                    self._compare_at = 0.0
                    facts.beat_missed(error)
                await asyncio.sleep(self._pace.breath)
                await _first(self._hurry, self._pace.beat - self._pace.breath)

    async def end(self, lanes: Lanes) -> None:
        """Give up every lane, now that nothing is at work any more."""
        self._retiring = True
        try:
            async with asyncio.timeout(self._pace.patience), self._turning:
                self._leaving |= self._held
                await self._leave(lanes)
        except (StoreUnavailable, TimeoutError) as error:  # the others will find out by themselves
            facts.beat_missed(error)

    async def _beat(self) -> Pulse:
        began = elapsed()
        pulse = await self._roster.beat(retiring=self._retiring)
        if self._pulse is None or (pulse.me, pulse.alive) != (self._pulse.me, self._pulse.alive):
            self._for_us.clear()
        self._pulse = pulse
        if pulse.reborn:
            self._reborn = True
            self._hurry.set()  # to hang up, whoever it was that found out
        await self._learn(pulse.revision)
        self._beat_at = began
        return pulse

    async def _turn(self, lanes: Lanes) -> None:
        async with self._turning:
            if self._reborn:
                self._lose(lanes)
            async with self._beating:
                pulse = await self._beat()
            if self._reborn:
                self._lose(lanes)
            self._hold_until(self._beat_at + self._pace.tenure, lanes)
            if pulse.alive != self.alive:
                self._divide_anew(lanes, pulse.alive)
            self._let_go_on(lanes, pulse)
            if elapsed() >= self._compare_at:
                await self._compare(lanes)
            await self._leave(lanes)
            await self._take(lanes)
            await self._tell_states(lanes)

    def _hold_until(self, when: float, lanes: Lanes) -> None:
        """Lose the lanes by then, whatever else hangs, unless the next beat comes before."""
        if self._tenure is not None:
            self._tenure.cancel()
        self._tenure = asyncio.get_running_loop().call_later(when - elapsed(), self._lose, lanes)

    def _lose(self, lanes: Lanes) -> None:
        self._reborn = False
        self._lose_some(lanes, set(self._held))

    def _lose_some(self, lanes: Lanes, gone: set[Place]) -> None:
        self._drop(gone)
        self._compare_at = 0.0
        self._look.set()
        if gone:
            lanes.lost(gone)

    def _drop(self, lanes: Collection[Place]) -> None:
        self._held.difference_update(lanes)
        self._leaving.difference_update(lanes)
        for lane in lanes:
            self._states.pop(lane, None)
        facts.lanes(len(self._held))

    def _divide_anew(self, lanes: Lanes, alive: tuple[int, ...]) -> None:
        """Somebody came or went."""
        self.alive = alive
        facts.daemons(len(alive))
        self._compare_at = 0.0
        self._wanted = {lane for lane in self._wanted if self._is_for_us(lane)}
        self._look.set()  # for what is to be wanted now
        self._begin_to_leave(lanes, [lane for lane in self._held - self._leaving if not self._is_for_us(lane)])

    def _begin_to_leave(self, lanes: Lanes, some: Collection[Place]) -> None:
        self._leaving.update(some)
        for lane in some:
            lanes.leave(lane)

    def _let_go_on(self, lanes: Lanes, pulse: Pulse) -> None:
        """Heed what persons said to other daemons of our lanes."""
        known = pulse.resumes if self._resumes is None else self._resumes
        for lane, times in pulse.resumes.items():
            if times > known.get(lane, 0) and lane in self._held:
                lanes.let_go_on(lane)
        self._resumes = pulse.resumes

    async def _compare(self, lanes: Lanes) -> None:
        """Let the rows, us and the directory say the same, whatever became of what was asked before."""
        rows = set(await self._roster.held())
        self._compare_at = elapsed() + self._pace.look
        self._strays = rows - self._held
        if gone := self._held - rows:
            self._lose_some(lanes, gone)
        self._begin_to_leave(lanes, [lane for lane in self._held - self._leaving if not lanes.exists(lane)])

    async def _leave(self, lanes: Lanes) -> None:
        now = self._clock()
        over = {lane: spent for lane in self._leaving if (spent := lanes.left(lane)) is not None}
        strays = {lane for lane in self._strays if not self._is_for_us(lane) and lanes.left(lane) is not None}
        if not (over or strays):
            return
        words = [(lane, now + round(spent * 1000)) for lane, spent in over.items()]
        await self._roster.leave([*words, *((lane, None) for lane in strays)])
        self._strays -= strays
        self._drop(over)
        again = (lane for lane in over if self._is_for_us(lane) and lanes.exists(lane))
        self._wanted.update(again)  # it is ours again, and there may be mail

    async def _take(self, lanes: Lanes) -> None:
        wanted = {lane for lane in self._wanted if lane not in self._held and self._is_for_us(lane)}
        if not wanted:
            return
        taken = await self._roster.take(sorted(wanted))  # whoever has others of them will leave them, or die
        if not taken:
            return
        self._held |= taken.keys()
        self._wanted -= taken.keys()
        self._strays -= taken.keys()
        now = self._clock()
        lanes.taken({lane: None if spent is None else (spent - now) / 1000 for lane, spent in taken.items()})
        facts.lanes(len(self._held))
        self._look.set()

    async def _tell_states(self, lanes: Lanes) -> None:
        known = lanes.states()  # without those that have had no mail since their profile was changed
        states = {lane: known.get(lane, "active") for lane in self._held - self._leaving}
        changed = [(lane, state) for lane, state in states.items() if state != self._states.get(lane, "active")]
        if changed:
            await self._roster.tell(changed)
        self._states = states

    # Words.

    def _heard(self, lanes: Lanes, words: str | None) -> None:
        """Heed what another daemon says; None: something may have been missed."""
        if words is None:
            self._look.set()
            return
        try:
            sender, told = _WORDS.validate_json(words, strict=True)
        except ValidationError:  # anybody who may connect to the database may send words
            return
        if self._pulse is not None and sender == self._pulse.me:
            return
        if not told:
            self._look_as_asked()
        for word in told:
            if isinstance(word, str):
                lanes.revoked(word)
            else:
                tenant, profile, due_at, *lane = word
                lanes.heard(Flow(tenant, profile), due_at, (lane[0], lane[1]) if lane else None)

    def _look_as_asked(self) -> None:
        now = elapsed()
        if self._asked_at <= now:  # else it is still to come
            self._asked_at = max(now, self._asked_at + self._pace.asked)
            asyncio.get_running_loop().call_later(self._asked_at - now, self._look.set)

    async def _tell_forever(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(self._pace.gather)
            self._news.clear()
            messages = self._gathered()
            if self._revoked or self._lent:
                self._news.set()
            if self._pulse is None or len(self._pulse.alive) < 2:
                continue
            try:
                for told in messages:
                    async with asyncio.timeout(self._pace.patience):
                        await self._roster.notify(to_json([self._pulse.me, told]).decode())
                await asyncio.sleep(self._pace.talk)
            except (StoreUnavailable, TimeoutError) as error:
                facts.beat_missed(error)
                await asyncio.sleep(self._pace.beat)

    def _gathered(self) -> list[list[object]]:
        """Take what is to be said now, in messages; what was cancelled or lent and does not fit in remains."""
        most = MOST_WORDS * MOST_MESSAGES
        told: list[object] = [self._revoked.popleft() for _ in range(min(most, len(self._revoked)))]
        for word in list(islice(self._lent, most - len(told))):
            flow, lane = word
            told.append([*flow, self._lent.pop(word), *lane])
        words, self._words = self._words, {}
        look = len(words) > most
        if not look:
            told += [[*flow, due_at] for flow, due_at in words.items()]
        messages = [told[first : first + MOST_WORDS] for first in range(0, len(told), MOST_WORDS)]
        return [*messages, []] if look else messages

    async def _look_forever(self, lanes: Lanes) -> None:
        """Look for mail when there is reason to, and now and then without."""
        while True:
            await _first(self._look, self._pace.look)
            self._look.clear()
            try:
                await lanes.look()
                await asyncio.sleep(self._pace.breath)
            except StoreUnavailable:
                self._look.set()
                await asyncio.sleep(self._pace.beat)


async def _first(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, or for so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def chosen(daemons: Iterable[int], lane: Place) -> int | None:
    """Find whose lane it is among these daemons (rendezvous hashing): when one goes only its own lanes move."""
    name = "/".join(lane).encode()
    return max(daemons, key=lambda one: blake2b(b"%d/%b" % (one, name), digest_size=8).digest(), default=None)
