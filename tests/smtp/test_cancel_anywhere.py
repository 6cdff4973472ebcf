"""Cancelled, aborted, cut or late at any moment: what we say of a message never contradicts what the relay has of it.

Random conversations over real sockets with a relay that keeps a ledger, each disturbed once at a random turn of the
event loop or a random byte. `relayed` is always in the ledger, `refused` and `untaken` never are, and `unknown` is said
only if the final dot left. Then the same for a whole dispatcher with its outbox.

500 points; `GATEWAY_PROOF=1` makes 10,000 of them, and `GATEWAY_SEED` others. The name of a point stands in the message
of its failure, and `plan(name)` makes it anew. (Where the store's thread takes part, turns differ a little each time.)
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest

from gateway.message.notification import OnAmbiguous
from gateway.outbox.outbox import LEASE
from gateway.outbox.states import Recipient, State
from gateway.smtp.outcome import Fault, RecipientOutcome, Refused, Relayed, Transaction, Unknown, Untaken
from gateway.smtp.transaction import Engine, Envelope, stuffed
from gateway.store.clock import wall_clock
from gateway.store.rows import Stage
from tests.peers.cutting_proxy import CuttingProxy
from tests.peers.smtp_server import (
    AcceptThen,
    Action,
    Close,
    Features,
    Later,
    Raw,
    Reply,
    Reset,
    Rule,
    ScriptedRelay,
    Split,
    Step,
)
from tests.relay.world import World, profile, world
from tests.smtp.talking import PATIENT, letter, opener, relay_at

PROOF = "GATEWAY_PROOF" in os.environ
SEED = os.environ.get("GATEWAY_SEED", "7")
ENGINE_POINTS, DISPATCHER_POINTS = (9_000, 1_000) if PROOF else (450, 50)
BATCH = 500
HOUR = 3_600.0
TOTALS: defaultdict[str, Counter[str]] = defaultdict(Counter)

Kind = Literal["none", "cancel", "abort", "fence", "reset", "cut", "late"]
KINDS: tuple[Kind, ...] = (
    "none",
    "cancel",
    "cancel",
    "cancel",
    "abort",
    "abort",
    "fence",
    "reset",
    "cut",
    "cut",
    "late",
)


# The loop.


class TurningLoop(asyncio.SelectorEventLoop):
    """Counts its turns, does what is due before one of them, and has a clock that can be put forward."""

    def __init__(self) -> None:
        self._turns, self._forward = 0, 0.0
        self._due: defaultdict[int, list[Callable[[], object]]] = defaultdict(list)
        super().__init__()

    def after(self, turns: int, act: Callable[[], object]) -> None:
        """Do this so many turns from now."""
        self._due[self._turns + turns].append(act)

    def forget(self) -> None:
        """Let nothing more happen."""
        self._due.clear()

    def put_forward(self, seconds: float) -> None:
        """Make every timer due that is due within these seconds."""
        self._forward += seconds

    def time(self) -> float:
        return super().time() + self._forward

    def _run_once(self) -> None:
        self._turns += 1
        for act in self._due.pop(self._turns, ()):
            act()
        super()._run_once()  # type: ignore[misc]


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run on a loop that counts."""
    with asyncio.Runner(loop_factory=TurningLoop) as runner:
        runner.run(work)


def turning() -> TurningLoop:
    """The loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TurningLoop)
    return loop


# What is to happen.


@dataclass(frozen=True)
class Plan:
    """One point: the messages by their recipients, what the relay does, and the disturbance."""

    name: str
    pipelining: bool
    messages: tuple[tuple[str, ...], ...]
    long: tuple[bool, ...]
    follows: tuple[bool, ...]
    strict: tuple[bool, ...]
    script: tuple[Rule, ...]
    kind: Kind
    turn: int
    cut: tuple[Literal["to_server", "to_client"], int, Literal["fin", "rst"]]


TEXTS: dict[Step, str] = {
    "mail": "250 2.1.0 Ok", "rcpt": "250 2.1.5 Ok", "data": "354 go on", "final": "250-2.0.0 Ok:\n250 2.0.0 queued",
    "rset": "250 2.0.0 Ok",
}  # fmt: skip
REFUSALS = ("450 4.2.0 later", "451 4.7.1 greylisted", "550 5.1.1 unknown", "552 5.3.4 too much", "421 4.3.2 bye")


def torn(dice: random.Random, text: str) -> Split:
    """A reply, cut at random bytes."""
    payload = Reply(text).payload
    places = sorted({0, len(payload), *(dice.randrange(len(payload)) for _ in range(dice.randint(1, 6)))})
    return Split(tuple(payload[a:b] for a, b in pairwise(places)))


def scripted(dice: random.Random, addresses: list[str]) -> Rule:
    """Something that the relay does."""
    step = dice.choice(tuple(TEXTS))
    end: Action = dice.choice([Close(), Reset()])
    occurrence = dice.choice([None, 1, 2, 3])
    match dice.randrange(8):
        case 0 | 1:
            return Rule(step, Later(dice.randint(1, 12)), occurrence)
        case 2 | 3:
            return Rule(step, Later(dice.randint(0, 8), torn(dice, TEXTS[step])), occurrence)
        case 4:
            return Rule("rcpt", Reply(dice.choice(REFUSALS)), match=f"<{dice.choice(addresses)}>")
        case 5:
            return Rule(step, Reply(dice.choice(REFUSALS)), dice.randint(1, 4))
        case 6:
            half = Reply(TEXTS[step]).payload[: dice.randint(0, 9)]
            return Rule(step, Later(dice.randint(0, 8), Raw(half, end) if half else end), dice.randint(1, 4))
        case _:
            return Rule("final", AcceptThen(Later(dice.randint(0, 8), end)), dice.randint(1, 3))


def plan(name: str) -> Plan:
    """The point of this name."""
    dice = random.Random(name)
    sizes = [dice.randint(1, 4) for _ in range(dice.randint(1, 5))]
    messages = tuple(tuple(f"r{n}-{k}@example.test" for k in range(size)) for n, size in enumerate(sizes))
    addresses = [address for message in messages for address in message]
    each = range(len(messages))
    pipelining = dice.random() < 0.6
    script = tuple(scripted(dice, addresses) for _ in range(dice.randint(0, 3)))
    span = 3 * sum(3 if pipelining else 2 * size + 5 for size in sizes) + 15 * len(script)  # turns, about
    return Plan(
        name,
        pipelining,
        messages,
        tuple(dice.random() < 0.1 for _ in each),
        tuple(dice.random() < 0.6 for _ in each),
        tuple(dice.random() < 0.2 for _ in each),
        script,
        dice.choice(KINDS),
        dice.randint(1, span),
        (dice.choice(["to_server", "to_client"]), dice.randint(0, 120 + 180 * len(sizes)), dice.choice(["fin", "rst"])),
    )


# One conversation.


class Tap:
    """A transport that remembers what was written; everything else is the true one's."""

    def __init__(self, transport: asyncio.Transport, written: bytearray) -> None:
        self._transport, self._written = transport, written

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._written += data
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@dataclass
class Conversation:
    """The messages of a plan, sent one after the other, over as many sessions as it takes."""

    plan: Plan
    port: int
    written: bytearray = field(default_factory=bytearray)
    said: list[tuple[Envelope, Transaction | None]] = field(default_factory=list)
    engine: Engine | None = None
    sending: asyncio.Task[Transaction] | None = None
    begun: bool = False
    leased: bool = True

    async def hold(self) -> None:
        """Send them all; one that was cancelled is not sent again."""
        planned = self.plan
        letters = [
            letter(f"m{n}", *recipients, body=b"line\r\n.dot\r\n" * (9_000 if planned.long[n] else 1))
            for n, recipients in enumerate(planned.messages)
        ]
        for n, envelope in enumerate(letters):
            if self.engine is None or not self.engine.usable or self.engine.ahead not in (None, envelope):
                if self.engine is not None:
                    self.engine.abort()
                opened = await opener(PATIENT).open(relay_at(self.port))
                if isinstance(opened, Fault):
                    continue
                self.engine = opened
                opened._transport = Tap(opened._transport, self.written)  # type: ignore[assignment]
            upcoming = letters[n + 1] if n + 1 < len(letters) and planned.follows[n] else None
            self.sending = asyncio.ensure_future(self.send(self.engine, envelope, upcoming, strict=planned.strict[n]))
            self.begun = False
            try:
                self.said.append((envelope, await self.sending))
            except asyncio.CancelledError:
                assert not self.begun or not self.engine.usable
                self.said.append((envelope, None))
        if self.engine is not None:
            self.engine.abort()

    async def send(self, engine: Engine, envelope: Envelope, upcoming: Envelope | None, *, strict: bool) -> Transaction:
        """Send one."""
        self.begun = True
        before_dot = self.dot if strict else None
        return await engine.transact(
            envelope, fence=lambda: self.leased, before_dot=before_dot, follow=partial(same, upcoming)
        )

    async def dot(self) -> bool:
        """Commit that the dot is about to leave."""
        await asyncio.sleep(0)
        return self.leased

    def disturb(self, relay: ScriptedRelay) -> None:
        """Do what the plan says, now."""
        match self.plan.kind:
            case "cancel" | "abort" if self.sending is None or self.sending.done():  # between two messages
                turning().after(1, partial(self.disturb, relay))
            case "cancel" if self.sending is not None:
                self.sending.cancel()
            case "abort" if self.engine is not None:
                self.engine.abort()
            case "fence":
                self.leased = False
            case "reset":
                relay.cut()
            case "late":
                turning().put_forward(HOUR)
            case _:
                pass


def same(envelope: Envelope | None) -> Envelope | None:
    """The envelope itself."""
    return envelope


async def engine_point(planned: Plan, seen: Counter[str]) -> None:
    """Lead one conversation, disturb it, and hold every outcome against the ledger."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(
            ScriptedRelay(planned.script, features=Features(pipelining=planned.pipelining))
        )
        port = relay.port
        if planned.kind == "cut":
            proxy = await stack.enter_async_context(CuttingProxy(relay.host, relay.port))
            direction, after, how = planned.cut
            proxy.cut(direction, after, how, times=1)
            port = proxy.port
        conversation = Conversation(planned, port)
        turning().after(planned.turn, partial(conversation.disturb, relay))
        await conversation.hold()
        turning().forget()
        await relay.wait(lambda: all(one.closed for one in relay.sessions))
    ledger = Counter((one.message_id, address) for one in relay.messages for address in one.rcpt_tos)
    assert not ledger or max(ledger.values()) == 1
    for envelope, transaction in conversation.said:
        number = envelope.message[12 : envelope.message.index(b"\r")].decode()
        for caught in relay.messages:
            if caught.message_id == number:
                assert caught.data == envelope.message
                assert set(caught.rcpt_tos) <= set(envelope.recipients)
        seen["cancelled"] += transaction is None
        for recipient, outcome in zip(envelope.recipients, transaction.outcomes if transaction else (), strict=False):
            judge(outcome, (number, recipient) in ledger, stuffed(envelope.message) in conversation.written)
            seen[type(outcome).__name__] += 1
    seen["points"] += 1
    seen[planned.kind] += 1


def judge(outcome: RecipientOutcome, taken: bool, dotted: bool) -> None:
    """Our word against the ledger's."""
    match outcome:
        case Relayed():
            assert taken, "false relayed"
        case Refused() | Untaken():
            assert not taken, "false failed"
        case Unknown():
            assert dotted, "unknown, though the dot is still here"
        case _:
            raise AssertionError(outcome)


@pytest.mark.parametrize("batch", range(0, ENGINE_POINTS, BATCH))
def test_a_session_disturbed_anywhere(batch: int, capsys: pytest.CaptureFixture[str]) -> None:
    """No false relayed, no false failed, no idle unknown; and no message meets what is left of another."""
    seen = Counter[str]()

    async def points() -> None:
        for number in range(batch, min(batch + BATCH, ENGINE_POINTS)):
            planned = plan(f"{SEED}/engine/{number}")
            try:
                await engine_point(planned, seen)
            except Exception as error:
                raise AssertionError(f"point {planned.name}: {error!r}: {planned}") from error

    run(points())
    told("engine", seen, capsys)
    assert seen.keys() >= {"Relayed", "Refused", "Untaken", "Unknown", "cancelled"}


def told(what: str, seen: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Show the figures so far, also of a test that is well."""
    TOTALS[what].update(seen)
    if PROOF:
        with capsys.disabled():
            print(f"\n{what}, seed {SEED}: {dict(sorted(TOTALS[what].items()))}")


# A whole dispatcher.

TROUBLES: tuple[Literal["none", "cancel", "drain", "reset", "worker"], ...] = (
    "none", "cancel", "cancel", "drain", "drain", "reset", "worker",
)  # fmt: skip


async def disturb(at: World, relay: ScriptedRelay, trouble: str, dice: random.Random) -> None:
    """Do it, and wait until nobody works any more."""
    dispatcher = at.dispatcher
    match trouble:
        case "cancel":
            assert dispatcher._tasks is not None
            running = dispatcher._tasks._parent_task  # type: ignore[attr-defined]
            running.cancel()
            await asyncio.wait([running])
            await dispatcher.drain(0.0)  # idle sessions
        case "drain":
            await dispatcher.drain(0.0)
        case "reset":
            relay.cut()
            await dispatcher.drain(5.0)
        case "worker" if dispatcher._workers:
            dice.choice([*dispatcher._workers.values()]).hang_up()
            await dispatcher.drain(5.0)
        case _:
            await dispatcher.drain(5.0)


async def dispatcher_point(name: str, folder: Path, seen: Counter[str]) -> None:
    """Post, disturb, look at what the outbox says; then let another dispatcher end it, and look again."""
    dice = random.Random(name)
    sizes = [dice.randint(1, 4) for _ in range(dice.randint(1, 5))]
    modes = [dice.choice([OnAmbiguous.RETRY, OnAmbiguous.FAIL]) for _ in sizes]
    messages = [[f"r{n}-{k}@example.test" for k in range(size)] for n, size in enumerate(sizes)]
    script = [
        scripted(dice, [address for message in messages for address in message]) for _ in range(dice.randint(0, 2))
    ]
    features, trouble, turn = (
        Features(pipelining=dice.random() < 0.6),
        dice.choice(TROUBLES),
        int(10 ** dice.uniform(2.0, 3.8)),
    )
    async with ScriptedRelay(script, features=features) as relay:
        ours = profile(relay.port, limits={"connections": dice.randint(1, 2)})
        due = asyncio.Event()
        async with world(folder, ours) as at:
            turning().after(turn, due.set)
            ids = [
                await at.post("acme", *message, on_ambiguous=mode)
                for message, mode in zip(messages, modes, strict=True)
            ]
            while not due.is_set():
                await asyncio.sleep(0)
            await disturb(at, relay, trouble, dice)
            await relay.wait(lambda: all(one.closed for one in relay.sessions))
            copies = Counter(address for one in relay.messages for address in one.rcpt_tos)
            for notification_id in ids:
                row = await at.store.get(notification_id)
                assert row is not None
                for recipient in await at.recipients(notification_id):
                    owned = row.stage is Stage.LEASED
                    seen[settled(recipient, owned=owned, taken=copies[recipient.address] > 0)] += 1
        relay.forget()
        async with world(folder, ours) as at:
            at.outbox.clock = lambda: wall_clock() + LEASE + 1
            await at.outbox.recount()
            await at.outbox.start()
            for notification_id in ids:
                await at.outbox.sweep()
                while not all(
                    one.final or not soon(one, at.outbox.clock()) for one in await at.recipients(notification_id)
                ):
                    await asyncio.sleep(0)
            copies = Counter(address for one in relay.messages for address in one.rcpt_tos)
            for notification_id, mode in zip(ids, modes, strict=True):
                for recipient in await at.recipients(notification_id):
                    word = settled(recipient, owned=False, taken=copies[recipient.address] > 0)
                    seen[f"{word} in the end"] += 1
                    if mode is OnAmbiguous.FAIL:
                        assert copies[recipient.address] <= 1, "sent twice, and must not be"
                    seen["copies too many"] += max(copies[recipient.address] - 1, 0)
    seen["points"] += 1
    seen[trouble] += 1


def soon(recipient: Recipient, now: int) -> bool:
    """Is it due, or in somebody's hands?"""
    return recipient.next_attempt_at is not None and recipient.next_attempt_at <= now


def settled(recipient: Recipient, *, owned: bool, taken: bool) -> str:
    """The outbox's word on a recipient against the ledger's; what it is."""
    match recipient.state:
        case State.RELAYED:
            assert taken, "false relayed"
        case State.FAILED if recipient.unanswered:
            return "unknown"
        case State.FAILED | State.DEFERRED:
            assert not taken, "false failed"
        case State.QUEUED if owned:
            return "no word yet"
        case State.QUEUED:
            assert not taken, "given back as untouched, and taken"
        case _:
            assert recipient.state is State.UNCERTAIN
    return recipient.state.value


@pytest.mark.parametrize("batch", range(0, DISPATCHER_POINTS, BATCH))
def test_a_dispatcher_disturbed_anywhere(batch: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the outbox holds of a recipient is true whenever it stops; what must not go twice does not."""
    seen = Counter[str]()

    async def points() -> None:
        for number in range(batch, min(batch + BATCH, DISPATCHER_POINTS)):
            name = f"{SEED}/dispatcher/{number}"
            folder = tmp_path / str(number)
            folder.mkdir()
            try:
                async with asyncio.timeout(30):
                    await dispatcher_point(name, folder, seen)
            except Exception as error:
                raise AssertionError(f"point {name}: {error!r}") from error

    run(points())
    told("dispatcher", seen, capsys)
    assert seen.keys() >= {"relayed", "no word yet"}
