"""Relays that do not speak SMTP, or speak out of turn: memory and time stay bounded, and the session ends."""

from __future__ import annotations

import tracemalloc

import pytest

from gateway.smtp.outcome import Refused, Relayed, Unknown, Untaken
from gateway.smtp.reply import MAX_LINE, Reply, ReplyError, ReplyParser, clean
from tests.peers.smtp_server import Action, Close, Endless, Features, Raw, Rule, ScriptedRelay, Split
from tests.peers.smtp_server import Reply as Say
from tests.smtp.talking import kinds, letter, message_ids, reply_code, session

HOSTILE: list[tuple[str, Action]] = [
    ("a line of 1 MiB", Endless(1)),
    ("a line of 1 MiB that ends", Raw(b"250 " + b"x" * 2**20 + b"\r\n")),
    ("a reply without end", Endless.continuation(1)),
    ("NULs", Raw(b"\0" * 100 + b"\r\n")),
    ("not UTF-8 where the code stands", Raw(b"\xff\xfe\xfd ok\r\n")),
    ("another code within the reply", Raw(b"250-one\r\n550 two\r\n")),
    ("a code of two digits", Raw(b"25 ok\r\n")),
    ("a code of four digits", Raw(b"2500 ok\r\n")),
    ("a preliminary reply", Raw(b"150 wait\r\n")),
    ("a code out of range", Raw(b"666 ok\r\n")),
    ("an empty line", Raw(b"\r\n")),
    ("another protocol", Raw(b"HTTP/1.1 400 Bad Request\r\n")),
]
BOTH = pytest.mark.parametrize("features", [Features(), Features(pipelining=False)], ids=["pipelined", "lock-step"])


@BOTH
@pytest.mark.parametrize("action", [action for _, action in HOSTILE], ids=[name for name, _ in HOSTILE])
@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "final"])
async def test_no_smtp(step: str, action: Action, features: Features) -> None:
    """Before the dot certainly not accepted, after it unknown; the connection is closed either way."""
    script = [Rule(step, action)]  # type: ignore[arg-type]
    async with ScriptedRelay(script, features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1))

        assert kinds(transaction) == [Unknown if step == "final" else Untaken]
        assert not engine.usable
        await relay.wait(lambda: relay.sessions[0].closed)
        assert step == "final" or relay.messages == []


@pytest.mark.parametrize("action", [Endless(100), Endless.continuation(100)], ids=["line", "continuation"])
async def test_memory_stays_bounded(action: Action) -> None:
    """A relay that would send 100 MiB is cut off early, and costs next to nothing."""
    async with ScriptedRelay({"mail": action}) as relay, session(relay) as engine:
        tracemalloc.start()
        try:
            await engine.transact(letter(1))
            await relay.wait(lambda: relay.sessions[0].closed)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert peak < 8 * 2**20
        assert relay.sessions[0].streamed < 50 * 2**20


@BOTH
@pytest.mark.parametrize("extra", [b"250 2.0.0 Ok\r\n", b"354 go\r\n", b"550 5.1.1 no\r\n"], ids=["250", "354", "550"])
async def test_two_final_replies_in_one_segment(extra: bytes, features: Features) -> None:
    """The first is the answer; the second was asked for by nobody, and ends the session."""
    script = [Rule("final", Say("250 2.0.0 Ok", extra))]
    async with ScriptedRelay(script, features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1))

        assert kinds(transaction) == [Relayed]
        assert not engine.usable


@pytest.mark.parametrize("junk", [b"junk\r\n", b"\0\r\n", b"25"], ids=["junk", "nul", "half a reply"])
async def test_a_final_reply_counts_whatever_is_behind_it(junk: bytes) -> None:
    """An acceptance with garbage in the same segment is an acceptance."""
    async with ScriptedRelay([Rule("final", Say("250 2.0.0 Ok", junk))]) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1))

        assert kinds(transaction) == [Relayed]
        assert message_ids(relay) == ["1"]


async def test_an_unsolicited_reply_between_two_messages() -> None:
    """It is answer to nothing, so nobody takes it for one: the next message is untaken."""
    script = [Rule("final", Split((b"250 ok\r\n", b"250 and another\r\n")))]
    async with ScriptedRelay(script) as relay, session(relay) as engine:
        await engine.transact(letter(1))
        await relay.wait(lambda: len(relay.messages) == 1)
        second = await engine.transact(letter(2))

        assert kinds(second) != [Relayed] or message_ids(relay) == ["1", "2"]
        assert not engine.usable


@BOTH
@pytest.mark.parametrize("step", ["mail", "rcpt"])
async def test_a_reply_too_many_never_makes_a_success(step: str, features: Features) -> None:
    """One reply more than commands shifts the rest; the missing 354 gives it away before a body is sent."""
    script = [Rule(step, Say("250 ok", b"250 spurious\r\n"))]  # type: ignore[arg-type]
    async with ScriptedRelay(script, features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1))

        assert kinds(transaction) == [Untaken]
        assert not engine.usable
        await relay.wait(lambda: relay.sessions[0].closed)
        assert relay.messages == []


async def test_a_reply_before_its_command() -> None:
    """An acceptance that comes with the 354 is no acceptance: the body was not even sent."""
    script = [Rule("data", Say("354 go", b"250 2.0.0 Ok: queued\r\n"))]
    async with ScriptedRelay(script) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1))

        assert kinds(transaction) == [Untaken]
        assert relay.messages == []


async def test_half_a_reply_and_the_end() -> None:
    """A final reply that breaks off says nothing."""
    async with ScriptedRelay([Rule("final", Raw(b"250 2.0.0 Ok: que", Close()))]) as relay, session(relay) as engine:
        assert kinds(await engine.transact(letter(1))) == [Unknown]


async def test_a_reply_in_single_bytes() -> None:
    """Slowness is no offence."""
    script = [Rule("final", Split.every(1, "250-2.0.0 one\n250 2.0.0 two"))]
    async with ScriptedRelay(script) as relay, session(relay) as engine:
        (outcome,) = (await engine.transact(letter(1))).outcomes

        assert outcome == Relayed(Reply(250, "2.0.0", "one two"))
        assert engine.usable


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"550 5.1.1 \x1b[31mred\x07", "[31mred"),
        (b"550 5.1.1 a\rb", "a b"),
        (b"550 5.1.1 \xff\xfe", "\ufffd\ufffd"),
        (b"550 5.1.1 a\xe2\x80\xaeb", "a b"),
        (b"550 5.1.1 a\0b", "a b"),
        (b"550 5.1.1 " + b"x" * 999, "x" * 200),
        ("550 5.1.1 Empfänger unbekannt".encode(), "Empfänger unbekannt"),
    ],
)
async def test_texts_are_made_harmless(line: bytes, text: str) -> None:
    """Nothing in a kept text can act on a terminal, a log or a page, and it is short."""
    async with ScriptedRelay([Rule("rcpt", Raw(line + b"\r\n"))]) as relay, session(relay) as engine:
        (outcome,) = (await engine.transact(letter(1))).outcomes

        assert isinstance(outcome, Refused)
        assert outcome.reply == Reply(550, "5.1.1", text)


@pytest.mark.parametrize(
    ("wire", "reply"),
    [
        (b"250 2.1.0 Ok\r\n", Reply(250, "2.1.0", "Ok")),
        (b"250\r\n", Reply(250, None, "")),
        (b"250 Ok\n", Reply(250, None, "Ok")),
        (b"550 5.7.1\r\n", Reply(550, "5.7.1", "")),
        (b"550 4.7.1 greylisted\r\n", Reply(550, None, "greylisted")),
        (b"550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three\r\n", Reply(550, "5.7.1", "one two three")),
        (b"550-5.7.1\r\n550 5.7.1 blocked\r\n", Reply(550, "5.7.1", "blocked")),
        (b"550-5.7.1  one\r\n550 5.7.1 two\r\n", Reply(550, "5.7.1", "one two")),
        (b"550-one\r\n550-\r\n550 two\r\n", Reply(550, None, "one two")),
        (b"550 5.1000.1 x\r\n", Reply(550, None, "5.1000.1 x")),
        ("550 5.\u0663.1 x\r\n".encode(), Reply(550, None, "5.\u0663.1 x")),
    ],
)
def test_replies_are_read(wire: bytes, reply: Reply) -> None:
    """Code, enhanced code where its class agrees, and one text of all lines."""
    assert list(ReplyParser().feed(wire)) == [reply]


def test_the_longest_line() -> None:
    """A line at the limit is read; one octet more is not, whether or not its end has come."""
    line = b"250 " + b"x" * (MAX_LINE - 5)

    assert [reply.code for reply in ReplyParser().feed(line + b"\r\n")] == [250]
    for late in (line + b"xx\r\n", line + b"xx"):
        with pytest.raises(ReplyError):
            list(ReplyParser().feed(late))


async def test_421_out_of_turn_is_told() -> None:
    """A relay that closes while nobody asked leaves its reason, and the message untaken."""
    async with (
        ScriptedRelay([Rule("data", Say("354 go", b"421 4.3.2 shutting down\r\n"))]) as relay,
        session(relay) as engine,
    ):
        (outcome,) = (await engine.transact(letter(1))).outcomes

        assert isinstance(outcome, Untaken)
        assert "421 4.3.2 shutting down" in outcome.detail
        assert reply_code(outcome) is None


def test_a_clean_text_stays() -> None:
    """What is printable is not touched."""
    assert clean("Ok: queued as 4F2A") == "Ok: queued as 4F2A"
