"""How a session ends: 421, silence, cancellation; and that nothing is sent on it afterwards."""

from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import suppress

import pytest

from gateway.smtp import transaction as engine_of
from gateway.smtp.outcome import Refused, Relayed, Unknown, Untaken
from gateway.smtp.transaction import Engine, Timeouts
from tests.peers.smtp_server import AcceptThen, Close, Features, Hold, Reply, Rule, ScriptedRelay, Silence
from tests.peers.stream_peer import StreamPeer
from tests.smtp.talking import kinds, letter, message_ids, opener, relay_at, reply_code, session

LOCK_STEP = Features(pipelining=False)
BOTH = pytest.mark.parametrize("features", [Features(), LOCK_STEP], ids=["pipelined", "lock-step"])
LONG = b"".join(b"%06d %s\r\n" % (n, b"x" * 66) for n in range(70_000))  # 5 MiB and more


# The end of a session.


@BOTH
@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "final"])
async def test_421_ends_the_session_wherever_it_comes(step: str, features: Features) -> None:
    """Nothing is sent after it, whether or not the relay closes; only to the final dot it is an answer."""
    script = [Rule(step, Reply("421 4.3.2 bye"))]  # type: ignore[arg-type]
    async with ScriptedRelay(script, features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1))

        assert kinds(transaction) == [Refused if step == "final" else Untaken]
        assert reply_code(transaction.outcomes[0]) == 421
        assert not engine.usable
        await relay.wait(lambda: relay.sessions[0].closed)
        assert kinds(await engine.transact(letter(2))) == [Untaken]
        assert relay.messages == []


async def test_421_to_the_message_ahead_leaves_the_one_before_relayed() -> None:
    """The first was accepted before the relay closed; the second, which rode ahead, is untaken with that 421."""
    async with (
        ScriptedRelay([Rule("mail", Reply("421 4.3.2 bye", then=Close()), nth=2)]) as relay,
        session(relay) as engine,
    ):
        second = letter(2)
        first = await engine.transact(letter(1), follow=lambda: second)
        after = await engine.transact(second)

        assert kinds(first) == [Relayed]
        assert (kinds(after), reply_code(after.outcomes[0])) == ([Untaken], 421)
        assert message_ids(relay) == ["1"]


async def test_a_session_closed_while_idle_is_not_used() -> None:
    """The relay's goodbye between two messages makes the engine unusable; the next message is untaken, not unknown."""
    async with ScriptedRelay([Rule("final", Reply("250 ok", then=Close()))]) as relay, session(relay) as engine:
        first = await engine.transact(letter(1))
        second = await engine.transact(letter(2))

        assert [kinds(first), kinds(second)] == [[Relayed], [Untaken]]
        assert not engine.usable


# Time and cancellation.


@BOTH
async def test_no_final_reply_in_time_is_unknown(features: Features) -> None:
    """The dot left and nobody answered, whether or not the message was accepted."""
    timeouts = Timeouts(command=10, block=10, final=0.05)
    script = [Rule("final", AcceptThen(Silence()))]
    async with ScriptedRelay(script, features=features) as relay, session(relay, timeouts) as engine:
        transaction = await engine.transact(letter(1))

        assert transaction.outcomes == (Unknown("timed out"),)
        assert not engine.usable
        assert message_ids(relay) == ["1"]


@BOTH
@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
async def test_no_reply_in_time_before_the_dot_is_untaken(step: str, features: Features) -> None:
    """Silence before the body means certainly not accepted."""
    timeouts = Timeouts(command=0.05, block=10, final=10)
    script = [Rule(step, Silence())]  # type: ignore[arg-type]
    async with ScriptedRelay(script, features=features) as relay, session(relay, timeouts) as engine:
        assert (await engine.transact(letter(1))).outcomes == (Untaken("timed out"),)
        assert not engine.usable


class AllAtOnce(StreamPeer):
    """Answers an envelope once all of it is here and a pause is over; then the message."""

    pause = 1.0  # seconds

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 relay.test\r\n")
        await reader.readline()
        writer.write(b"250-relay.test\r\n250 PIPELINING\r\n")
        count = 1
        while not (await reader.readline()).startswith(b"DATA"):
            count += 1
        await asyncio.sleep(self.pause)
        writer.write(b"250 ok\r\n" * (count - 1) + b"354 go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(b"250 ok\r\n")
        await reader.read()


@pytest.mark.parametrize(("count", "outcome"), [(48, Relayed), (1, Untaken)])
async def test_a_group_has_its_time(count: int, outcome: type) -> None:
    """A relay that works off many recipients before it answers any has longer than for a few."""
    timeouts = Timeouts(command=0.5, block=10, final=10)
    async with AllAtOnce() as relay:
        engine = await opener(timeouts).open(relay_at(relay.port))
        assert isinstance(engine, Engine)
        transaction = await engine.transact(letter(1, *(f"u{n}@example.test" for n in range(count))))
        engine.abort()

    assert set(kinds(transaction)) == {outcome}


def test_the_time_of_a_group_has_an_end() -> None:
    """A minute, 5 s more for each recipient, and no more than five minutes."""
    assert [Timeouts().group(count) for count in (1, 12, 48, 50, 1_000)] == [65, 120, 300, 300, 300]


async def test_a_body_that_does_not_leave_in_time_is_untaken() -> None:
    """A relay that stops reading a long body is left before the dot."""
    timeouts = Timeouts(command=10, block=0.05, final=10)
    script = [Rule("data", Reply("354 go", then=Silence(reading=False)))]
    async with ScriptedRelay(script) as relay, session(relay, timeouts) as engine:
        transaction = await engine.transact(letter(1, body=LONG * 4))

        assert transaction.outcomes == (Untaken("timed out"),)
        assert not engine.usable


async def test_a_long_message_has_no_copy_while_its_answer_is_waited_for() -> None:
    """Ten minutes may pass until then: what has left is in memory once, where the message came from."""
    answer = asyncio.Event()
    rule, message = Rule("final", Hold(answer)), letter(1, body=LONG)
    async with ScriptedRelay([rule]) as relay, session(relay) as engine:
        tracemalloc.start()
        try:
            sending = asyncio.ensure_future(engine.transact(message))
            await relay.wait(lambda: rule.hits)
            ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, engine_of.__file__)])
        finally:
            tracemalloc.stop()
        answer.set()
        transaction = await sending

    assert kinds(transaction) == [Relayed]
    assert sum(trace.size for trace in ours.traces) < len(LONG) // 10


@BOTH
@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "final"])
async def test_a_cancelled_message_poisons_the_session(step: str, features: Features) -> None:
    """Replies that come late meet nobody: the engine is dead, and the next message is untaken."""
    event = asyncio.Event()
    script = [Rule(step, Hold(event))]  # type: ignore[arg-type]
    async with ScriptedRelay(script, features=features) as relay, session(relay) as engine:
        sending = asyncio.ensure_future(engine.transact(letter(1)))
        await relay.wait(lambda: relay.rules[0].hits == 1)
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        event.set()

        assert sending.cancelled()
        assert not engine.usable
        assert kinds(await engine.transact(letter(2))) == [Untaken]
        await relay.wait(lambda: relay.sessions[0].closed)
        assert "2" not in message_ids(relay)


async def test_an_error_of_the_caller_poisons_the_session() -> None:
    """If a callback fails in the midst of a transaction the error is the caller's, and the session is dead."""

    def fence() -> bool:
        raise LookupError

    async with ScriptedRelay() as relay, session(relay) as engine:
        with pytest.raises(LookupError):
            await engine.transact(letter(1), fence=fence)

        assert not engine.usable
        await relay.wait(lambda: relay.sessions[0].closed)
        assert relay.messages == []
