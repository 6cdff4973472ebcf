"""The link is cut after every single byte, in both directions: what we say agrees with what the relay has.

One session of two messages, once with the second envelope behind the first body and once in lock-step, is led through
a proxy that breaks it at each position in turn, with FIN and with RST; at a sample of positions it goes silent.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from gateway.smtp.outcome import Fault, Refused, Relayed, Transaction, Unknown, Untaken
from gateway.smtp.transaction import Engine, Envelope, Timeouts
from tests.peers.cutting_proxy import CuttingProxy, Direction, How
from tests.peers.smtp_server import Features, ScriptedRelay
from tests.smtp.talking import ANN, BOB, HASTY, PATIENT, letter, message_ids, opener, relay_at

STALL_EVERY = 11


async def dialogue(port: int, run: int, timeouts: Timeouts) -> Iterator[tuple[str, Transaction]]:
    """One session with two messages, and a third to see whether the engine still thinks that it can."""
    engine = await opener(timeouts).open(relay_at(port))
    if isinstance(engine, Fault):
        return iter(())
    first, second, third = letter(f"{run}a", ANN, BOB), letter(f"{run}b"), letter(f"{run}c")
    came = [
        (f"{run}a", await engine.transact(first, follow=lambda: second)),
        (f"{run}b", await engine.transact(second)),
        (f"{run}c", await engine.transact(third)),
    ]
    assert not engine.usable
    return iter(came)


def agrees(transaction: Transaction, taken: bool) -> bool:
    """Relayed only what is in the ledger, Untaken and Refused only what is not."""
    match transaction.outcomes[0]:
        case Relayed():
            return taken
        case Untaken() | Refused():
            return not taken
        case Unknown():
            return True
        case _:
            return False


async def total(relay: ScriptedRelay, proxy: CuttingProxy, direction: Direction) -> int:
    """How many bytes an uncut dialogue of two messages takes."""
    engine = await opener().open(relay_at(proxy.port))
    assert isinstance(engine, Engine)
    first, second = letter("0000a", ANN, BOB), letter("0000b")

    def follow() -> Envelope:
        return second

    for envelope, behind in ((first, follow), (second, lambda: None)):
        assert isinstance((await engine.transact(envelope, follow=behind)).outcomes[0], Relayed)
    engine.abort()
    await proxy.wait(lambda: proxy.passages[0].closed)
    return int(getattr(proxy.passages[0], direction))


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "lock-step"])
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
@pytest.mark.parametrize("how", ["fin", "rst", "stall"])
async def test_cut_after_every_byte(how: How, direction: Direction, pipelining: bool) -> None:
    """Wherever the link breaks, no message is called relayed that is not, and none is sent again that was taken."""
    positions, seen = 0, Counter[str]()
    async with (
        ScriptedRelay(features=Features(pipelining=pipelining)) as relay,
        CuttingProxy(relay.host, relay.port) as proxy,
    ):
        end = await total(relay, proxy, direction)
        for after in range(0, end, STALL_EVERY if how == "stall" else 1):
            proxy.cut(direction, after, how)
            came = await dialogue(proxy.port, after + 1000, HASTY if how == "stall" else PATIENT)
            if how == "stall":
                await proxy.drop()
            await proxy.wait(lambda: proxy.passages[-1].closed)
            await relay.wait(lambda: len(relay.sessions) == len(proxy.passages) and relay.sessions[-1].closed)
            taken = message_ids(relay)
            for number, transaction in came:
                assert agrees(transaction, number in taken), (after, number, transaction)
                assert taken.count(number) <= 1
                seen[type(transaction.outcomes[0]).__name__] += 1
            positions += 1
        assert relay.violations == []
    assert seen.keys() == {"Relayed", "Untaken", "Unknown"}
    print(f"{how} {direction} {'pipelined' if pipelining else 'lock-step'}: {positions} positions, {dict(seen)}")
