"""Whatever the relay says, in whatever pieces, and whenever it hangs up: our word about a message is true.

`GATEWAY_PROOF=1` looks fifty times as long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.smtp.outcome import Rejected, Relayed, Transaction, Unknown
from gateway.smtp.reply import Reply as Said
from gateway.smtp.reply import ReplyError, ReplyParser
from gateway.smtp.transaction import Envelope, Timeouts, nothing, stuffed
from tests.peers.smtp_server import (
    AcceptThen,
    Action,
    Close,
    Features,
    Raw,
    Reply,
    Reset,
    Rule,
    ScriptedRelay,
    Split,
)
from tests.smtp.talking import ANN, BOB, CYD, examples, letter, message_ids, session

BRISK = Timeouts(command=1, block=1, final=1, quit=0.1)
CODES = (200, 220, 250, 251, 252, 299, 334, 354, 421, 432, 450, 451, 452, 499, 500, 503, 530, 550, 552, 554, 599)
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


# Replies.

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30)
LINES = st.tuples(st.sampled_from(CODES), st.lists(TEXTS, min_size=1, max_size=4))
CONVERSATIONS = st.lists(LINES, min_size=1, max_size=5)
NOISE = st.sampled_from(
    [b"", b"garbage\r\n", b"250\0ok\r\n", b"2", b"999 no\r\n", b"250-a\r\n550 b\r\n", b"\r\n", b"\n"]
)


def on_the_wire(conversation: Sequence[tuple[int, list[str]]]) -> bytes:
    """These replies as a relay writes them."""
    lines = [
        f"{code}{' ' if number == len(texts) else '-'}{line}\r\n"
        for code, texts in conversation
        for number, line in enumerate(texts, 1)
    ]
    return "".join(lines).encode()


def heard(pieces: Sequence[bytes]) -> tuple[list[Said], str | None]:
    """What the parser gives for these segments, and what it complains of."""
    parser, replies = ReplyParser(), list[Said]()
    for piece in pieces:
        try:
            for reply in parser.feed(piece):
                replies.append(reply)
        except ReplyError as error:
            return replies, str(error)
    return replies, None


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut data at these places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


@given(CONVERSATIONS, NOISE, st.lists(st.integers(0, 999), max_size=20))
@settings(slow, max_examples=examples(300))
def test_replies_are_the_same_however_they_are_cut(
    conversation: list[tuple[int, list[str]]], noise: bytes, cuts: list[int]
) -> None:
    """Segments decide nothing, not even where what follows is no SMTP."""
    data = on_the_wire(conversation) + noise

    whole = heard([data])
    assert heard(split(data, cuts)) == whole
    assert heard([data[at : at + 1] for at in range(len(data))]) == whole
    assert [reply.code for reply in whole[0]][: len(conversation)] == [code for code, _ in conversation]


@given(st.lists(st.binary(max_size=60) | st.just(b"250-" + b"x" * 9000) | NOISE, max_size=12))
@settings(slow, max_examples=examples(300))
def test_the_parser_raises_nothing_else(pieces: list[bytes]) -> None:
    """Any bytes are replies or a ReplyError, and every text that comes out is harmless and short."""
    replies, _ = heard(pieces)

    for reply in replies:
        assert 200 <= reply.code <= 599
        assert len(reply.text) <= 200
        assert not reply.text or reply.text.isprintable()


# Dots.


@given(st.lists(st.sampled_from([b".", b"..", b"a", b"", b".a", b" .", b"\xff"]), max_size=8).map(b"\r\n".join))
@settings(slow, max_examples=examples(300))
def test_stuffing_is_undone_by_unstuffing(message: bytes) -> None:
    """What RFC 5321 §4.5.2 lets the receiver remove is exactly what we added; the end of data comes once, at the end."""
    sent = stuffed(message)

    assert sent.endswith(b"\r\n.\r\n")
    assert (b"\r\n" + sent).find(b"\r\n.\r\n") == len(sent) - 3
    received = (b"\r\n" + sent[:-3]).replace(b"\r\n.", b"\r\n")[2:]
    assert received == (message if message.endswith(b"\r\n") else message + b"\r\n")


# Conversations.

ENDS = st.sampled_from([Close(), Reset()])
REPLIES = st.builds(
    lambda code, extra, then: Reply(f"{code} said", extra, then),
    st.sampled_from(CODES),
    st.sampled_from([b""] * 6 + [b"250 spurious\r\n", b"354 spurious\r\n", b"421 bye\r\n", b"junk\r\n"]),
    st.none() | st.none() | ENDS,
)
SPLITS = st.builds(
    lambda code, size: Split.every(size, f"{code}-one\n{code} two"), st.sampled_from(CODES), st.integers(1, 9)
)
ACTIONS: st.SearchStrategy[Action] = st.one_of(REPLIES, REPLIES, SPLITS, ENDS, st.just(Raw(b"\0\xff\r\n")))
ACCEPTED: st.SearchStrategy[Action] = st.builds(
    AcceptThen, st.one_of(ENDS, st.just(Raw(b"junk\r\n")), st.just(Raw(b"354 what\r\n")), st.just(Raw(b"25", Close())))
)
OCCURRENCE = st.none() | st.integers(1, 6)
RULES = st.one_of(
    st.builds(Rule, st.sampled_from(["mail", "rcpt", "data", "final", "rset"]), ACTIONS, OCCURRENCE),
    st.builds(Rule, st.just("final"), ACCEPTED, OCCURRENCE),
)
EVERYONE = (ANN, BOB, CYD)
MESSAGES = st.lists(st.integers(1, 3), min_size=1, max_size=5)


def identity(envelope: Envelope | None) -> Envelope | None:
    """The envelope itself."""
    return envelope


def truthful(relay: ScriptedRelay, envelope: Envelope, number: str, transaction: Transaction) -> None:
    """Hold every outcome against the relay's ledger."""
    for recipient, outcome in zip(envelope.recipients, transaction.outcomes, strict=True):
        taken = any(
            recipient in caught.rcpt_tos for caught in relay.messages if caught.message_id == f"<{number}@example.test>"
        )
        assert isinstance(outcome, Unknown) or isinstance(outcome, Relayed) is taken, (number, recipient, outcome)


async def converse(
    relay: ScriptedRelay, counts: list[int], follows: list[bool]
) -> list[tuple[str, Envelope, Transaction]]:
    """Send messages over one session for as long as it is usable, some of them behind their predecessor's body."""
    letters = [letter(f"m{n}", *EVERYONE[:count]) for n, count in enumerate(counts)]
    came = []
    async with session(relay, BRISK) as engine:
        for n, envelope in enumerate(letters):
            if not engine.usable:
                break
            upcoming = letters[n + 1] if n + 1 < len(letters) and follows[n] else None
            transaction = await engine.transact(envelope, follow=partial(identity, upcoming))
            came.append((f"m{n}", envelope, transaction))
        engine.abort()
    return came


@given(st.lists(RULES, max_size=6), MESSAGES, st.lists(st.booleans(), min_size=5, max_size=5), st.booleans())
@settings(slow, max_examples=examples(250))
def test_our_word_is_true(script: list[Rule], counts: list[int], follows: list[bool], pipelining: bool) -> None:
    """Relayed is in the ledger; Untaken and Refused are not; Unknown may be either: for every recipient."""

    async def example() -> None:
        rules = [replace(rule, hits=0, _seen=type(rule._seen)()) for rule in script]
        async with ScriptedRelay(rules, features=Features(pipelining=pipelining)) as relay:
            came = await converse(relay, counts, follows)
            await relay.wait(lambda: all(one.closed for one in relay.sessions))
            for number, envelope, transaction in came:
                truthful(relay, envelope, number, transaction)
            ids = message_ids(relay)
            assert len(ids) == len(set(ids))

    asyncio.run(example())


@given(st.integers(1, 60), st.booleans(), st.booleans(), st.integers(1, 3))
@settings(slow, max_examples=examples(120))
def test_a_cancelled_message_touches_no_other(turns: int, pipelining: bool, follow: bool, recipients: int) -> None:
    """Cancelled after any number of turns of the loop, a session is dead, and the next messages on a fresh one are well."""

    async def example() -> None:
        async with ScriptedRelay(features=Features(pipelining=pipelining)) as relay:
            first, second = letter("a", *EVERYONE[:recipients]), letter("b")
            async with session(relay, BRISK) as engine:
                task = asyncio.ensure_future(engine.transact(first, follow=(lambda: second) if follow else nothing))
                for _ in range(turns):
                    await asyncio.sleep(0)
                finished = task.done()
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                assert finished or not engine.usable
                if finished:
                    assert message_ids(relay) == ["a"]
            async with session(relay, BRISK) as fresh:
                for number in ("b", "c"):
                    came = await fresh.transact(letter(number))
                    assert isinstance(came.outcomes[0], Relayed)
            assert message_ids(relay)[-2:] == ["b", "c"]
            assert relay.violations == []

    asyncio.run(example())


@given(MESSAGES, st.integers(0, 4), st.booleans())
@settings(slow, max_examples=examples(40))
def test_an_unfit_message_disturbs_nobody(counts: list[int], unfit: int, pipelining: bool) -> None:
    """A message that the relay cannot take is rejected by us wherever it stands, and all the others arrive."""

    async def example() -> None:
        features = Features(pipelining=pipelining, smtputf8=False)
        async with ScriptedRelay(features=features) as relay, session(relay, BRISK) as engine:
            letters = [
                replace(letter(f"m{n}", *EVERYONE[:count]), smtputf8=n == unfit) for n, count in enumerate(counts)
            ]
            for n, envelope in enumerate(letters):
                behind = letters[n + 1] if n + 1 < len(letters) else None
                came = await engine.transact(envelope, follow=partial(identity, behind))
                assert {type(outcome) for outcome in came.outcomes} == {Rejected if n == unfit else Relayed}
            assert message_ids(relay) == [f"m{n}" for n in range(len(counts)) if n != unfit]
            assert relay.violations == []

    asyncio.run(example())
