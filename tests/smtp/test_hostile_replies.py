"""Relays that do not speak SMTP, or speak out of turn: memory and time stay bounded, and the session ends."""

from __future__ import annotations

import asyncio
import base64
import tracemalloc

import pytest

from gateway.smtp.outcome import Fault, Phase, Refused, Relayed, Trouble, Unknown, Untaken
from gateway.smtp.reply import MAX_LINE, MAX_LINES, READ, Reply, ReplyError, ReplyParser, clean
from gateway.smtp.session import Method, Security
from gateway.smtp.transaction import Engine, Timeouts
from tests.peers import listening_sink as listening
from tests.peers.smtp_server import (
    Action,
    Close,
    Endless,
    Features,
    IssuedTls,
    Raw,
    Rule,
    ScriptedRelay,
    Silence,
    Split,
    issue_tls,
)
from tests.peers.smtp_server import Reply as Say
from tests.smtp.talking import HASTY, PATIENT, kinds, letter, message_ids, opener, relay_at, reply_code, session

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


def test_of_long_replies_little_is_kept() -> None:
    """Whatever was said at length, and never twice, is out of memory once it is over; nor does it pile up until then."""
    parser = ReplyParser()
    tracemalloc.start()
    try:
        for number in range(8):
            line = b"450-%d \xf0\x9f\x98\x80" % number + b"x" * 7_900 + b"\r\n"
            list(parser.feed(line * (MAX_LINES - 1) + b"450 end\r\n"))
        list(parser.feed(line * (MAX_LINES - 1)))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 2**20


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


def test_a_text_is_looked_at_from_its_beginning() -> None:
    """What stands behind so much rubbish is not searched for."""
    assert clean("\x01" * (READ - 2) + "ok") == "ok"
    assert clean("\x01" * READ + "ok") == ""


# Opening a session.

CANARY = "canary-Vw3-never-quoted"
STEPS = ["connect", "ehlo", "starttls", "auth"]
MORE: list[tuple[str, Action]] = [
    ("a line of 1 MiB of code", Endless(1, b"250-")),
    ("NULs in a reply", Raw(b"250 ok\0ok\r\n")),
    ("a reply that is not UTF-8", Raw(b"250 \xff\xfe\xc3(\r\n")),
    ("199", Raw(b"199 wait\r\n")),
    ("999", Raw(b"999 no\r\n")),
    ("a code with a sign", Raw(b"+25 ok\r\n")),
    ("a code with an underscore", Raw(b"2_5 ok\r\n")),
    ("421", Raw(b"421 4.3.2 bye\r\n", Close())),
    ("354", Raw(b"354 go on\r\n")),
    ("half a reply and the end", Raw(b"250-one\r\n250", Close())),
    ("a bare line feed", Raw(b"\n")),
    ("carriage returns", Raw(b"250-one\r250 two\r\n250 three\r\n")),
]


@pytest.fixture(scope="module")
def tls() -> IssuedTls:
    """One certificate for the module."""
    return issue_tls()


async def came(relay: ScriptedRelay, ca: str, timeouts: Timeouts = PATIENT) -> Engine | Fault:
    """What an opening over STARTTLS with a password comes to; a fault has closed the connection and quotes nothing."""
    target = relay_at(relay.port, Security.STARTTLS, ca=ca, password=CANARY, method=Method.PLAIN)
    async with asyncio.timeout(20):
        opened = await opener(timeouts).open(target)
    if isinstance(opened, Engine):
        opened.abort()
    await relay.wait(lambda: relay.sessions[0].closed)
    assert CANARY not in repr(opened)
    return opened


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("action", [a for _, a in HOSTILE + MORE], ids=[name for name, _ in HOSTILE + MORE])
async def test_an_opening_that_is_no_smtp(step: str, action: Action, tls: IssuedTls) -> None:
    """Always a value, and the connection is closed; only what is an answer after all opens a session."""
    async with ScriptedRelay({step: action}, tls=tls.context, users={"app": CANARY}) as relay:
        opened = await came(relay, tls.ca_pem)

        assert isinstance(opened, Fault)
        assert step != "auth" or (opened.phase, opened.reply and opened.reply.text) in {
            (Phase.AUTH, None),
            (Phase.AUTH, ""),
        }
        assert step == "auth" or relay.sessions[0].logins == []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "action", [Silence(), Raw(b"250-one\r\n"), Raw(b"25"), Raw(b"250-one\r\n250")],
    ids=["silence", "no last line", "half a code", "half a line"],
)  # fmt: skip
async def test_an_opening_reply_that_never_ends(step: str, action: Action, tls: IssuedTls) -> None:
    """Our patience ends first."""
    async with ScriptedRelay({step: action}, tls=tls.context, users={"app": CANARY}) as relay:
        opened = await came(relay, tls.ca_pem, HASTY)

        assert isinstance(opened, Fault)
        assert opened.trouble in {Trouble.UNREACHABLE, Trouble.TLS_FAILED, Trouble.AUTH_DROPPED}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("action", [Endless(100), Endless.continuation(100)], ids=["line", "continuation"])
async def test_memory_stays_bounded_while_opening(step: str, action: Action, tls: IssuedTls) -> None:
    """A relay that would send 100 MiB is cut off early, and costs next to nothing."""
    async with ScriptedRelay({step: action}, tls=tls.context, users={"app": CANARY}) as relay:
        tracemalloc.start()
        try:
            opened = await came(relay, tls.ca_pem)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert isinstance(opened, Fault)
        assert peak < 8 * 2**20
        assert relay.sessions[0].streamed < 50 * 2**20


@pytest.mark.parametrize("step", STEPS)
async def test_an_opening_in_single_bytes(step: str, tls: IssuedTls) -> None:
    """Slowness is no offence here either."""
    texts = {
        "connect": "220-hello\n220 relay.test",
        "ehlo": "250-relay.test\n250-STARTTLS\n250 AUTH PLAIN",
        "starttls": "220-well\n220 go",
        "auth": "235-2.7.0 so\n235 2.7.0 be it",
    }
    script = [Rule(step, Split.every(1, texts[step]), nth=1)]  # type: ignore[arg-type]
    async with ScriptedRelay(script, tls=tls.context, users={"app": CANARY}) as relay:
        assert isinstance(await came(relay, tls.ca_pem), Engine)


@pytest.mark.parametrize("most", [True, False], ids=["128 lines", "129 lines"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("cut", [5, 10_000], ids=["in pieces", "at once"])
async def test_an_opening_reply_of_many_lines(cut: int, step: str, most: bool, tls: IssuedTls) -> None:
    """As on a session that stands 128 lines before the last are a reply and more are none, however they are cut."""
    code = {"connect": 220, "ehlo": 250, "starttls": 220, "auth": 235}[step]
    lines = ["relay.test", "STARTTLS", "AUTH PLAIN", *[""] * (MAX_LINES - 3 if most else MAX_LINES - 2)]
    said = "\n".join([f"{code}-{line}" for line in lines] + [f"{code} ok"])
    script = [Rule(step, Split.every(cut, said), nth=1)]  # type: ignore[arg-type]
    async with ScriptedRelay(script, tls=tls.context, users={"app": CANARY}) as relay:
        opened = await came(relay, tls.ca_pem)

        assert isinstance(opened, Engine) is most
        assert most or (isinstance(opened, Fault) and opened.trouble is Trouble.PROTOCOL)


@pytest.mark.parametrize(
    ("offer", "size"),
    [
        ("SIZE 99999999999999999999", 99999999999999999999),
        ("SIZE 0", 0), ("SIZE", 0), ("SIZE -5", 0), ("SIZE 1 2", 0), ("SIZE 1e9", 0), ("SIZE=5", None), ("SIZER 5", None),
        ("SIZE " + "9" * 5000, 0), ("SIZE \u00b2", 0),
    ],
    ids=lambda value: str(value)[:26],
)  # fmt: skip
async def test_an_absurd_size(offer: str, size: int | None) -> None:
    """What is no number is no limit, and ends no opening."""
    async with ScriptedRelay([Rule("ehlo", Say(f"250-relay.test\n250 {offer}"))]) as relay, session(relay) as engine:
        assert engine.capabilities.size == size


@pytest.mark.parametrize(
    ("offers", "opens"),
    [
        ("250-AUTH PLAIN " + " ".join(f"X{n}" for n in range(1000)), True),
        ("250-AUTH PLAIN\n" + "\n".join(f"250-X{n}" for n in range(100)), True),
        ("250-AUTH PLAIN " + " ".join(f"X{n}" for n in range(5000)), False),
        ("250-AUTH PLAIN\n" + "\n".join(f"250-X{n}" for n in range(1000)), False),
        ("250-AUTH PLAIN\n" + "\n".join(f"250-X{n} and so on" for n in range(5000)), False),
        ("250-AUTH=PLAIN\n250-AUTH\n250-\n250--", True),
        ("250-AUTH\tPLAIN", False),
    ],
    ids=[
        "1000 mechanisms", "100 keywords", "5000 mechanisms", "1000 keywords", "5000 long keywords", "old and empty",
        "a tab",
    ],
)  # fmt: skip
async def test_an_absurd_ehlo(offers: str, opens: bool) -> None:
    """A long list is read up to 32 KiB and 128 lines; beyond that it is no answer."""
    async with ScriptedRelay(
        [Rule("ehlo", Say(f"250-relay.test\n{offers}\n250 HELP"))], users={"app": CANARY}
    ) as relay:
        opened = await opener().open(relay_at(relay.port, password=CANARY, method=Method.PLAIN))
        if isinstance(opened, Engine):
            opened.abort()
        await relay.wait(lambda: relay.sessions[0].closed)

        assert isinstance(opened, Engine) is opens


CHALLENGES = {
    "empty": b"", "no base64": b"!!!", "not UTF-8": b"\xff\xfe", "half": b"A", "8-bit": base64.b64encode(b"\xff\0\xfe"),
    "NULs": base64.b64encode(bytes(30)), "long": base64.b64encode(b"x" * 6000), "no fields": base64.b64encode(b"rsi"),
    "empty fields": base64.b64encode(b"r=,s=,i="), "odd fields": base64.b64encode(b"=,=,=,r,s=\xc3\xa4,i=x"),
    "an error": base64.b64encode(b"e=other-error"), "another nonce": base64.b64encode(b"r=abc,s=QUJD,i=4096"),
    "an NTLM challenge cut off": base64.b64encode(b"NTLMSSP\0\2\0\0\0\xff\xff"),
}  # fmt: skip
MECHANISMS = [
    Method.PLAIN, Method.LOGIN, Method.CRAM_MD5, Method.SCRAM_SHA_256, Method.NTLM, Method.XOAUTH2, Method.OAUTHBEARER,
]  # fmt: skip


@pytest.mark.parametrize("method", MECHANISMS)
@pytest.mark.parametrize("challenge", CHALLENGES.values(), ids=CHALLENGES)
async def test_a_challenge_that_makes_no_sense(challenge: bytes, method: Method) -> None:
    """Again and again: the exchange ends in a fault of the AUTH phase, without a word of the relay's."""
    moves: list[listening.Move] = [
        listening.Say(b"220 hi\r\n"),
        listening.Hear(),
        listening.Say(b"250-relay.test\r\n250 AUTH %s\r\n" % " ".join(map(str.upper, MECHANISMS)).encode()),
    ]
    again = listening.Say(b"334 " + challenge + b"\r\n")
    for _ in range(6):
        moves += [listening.Hear(), again]
    async with listening.ListeningSink(*moves, listening.Leave()) as sink:
        async with asyncio.timeout(20):
            opened = await opener().open(relay_at(sink.port, password=CANARY, method=method))
        await sink.wait_closed()

        assert isinstance(opened, Fault)
        assert opened.phase is Phase.AUTH
        assert opened.reply is None or opened.reply.text == ""
        assert len(sink.heard[0].lines) <= 6


async def test_an_acceptance_to_the_first_word_of_login() -> None:
    """A 235 before the password was asked for is the relay's own affair: it was never told one."""
    async with ScriptedRelay({"challenge": Raw(b"235 2.7.0 fine\r\n")}, users={"app": CANARY}) as relay:
        opened = await opener().open(relay_at(relay.port, password=CANARY, method=Method.LOGIN))

        assert isinstance(opened, Engine)
        opened.abort()
        assert relay.sessions[0].logins == []
        assert relay.sessions[0].verbs == ["EHLO", "AUTH"]


# Sessions that stand: what the first table leaves out.


@BOTH
@pytest.mark.parametrize("action", [a for _, a in MORE], ids=[name for name, _ in MORE])
@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "final"])
async def test_an_answer_in_the_wrong_place(step: str, action: Action, features: Features) -> None:
    """Never a success that the ledger does not know of, and never a refusal of what it holds."""
    async with ScriptedRelay([Rule(step, action)], features=features) as relay, session(relay) as engine:  # type: ignore[arg-type]
        (outcome,) = (await engine.transact(letter(1))).outcomes
        engine.abort()
        await relay.wait(lambda: relay.sessions[0].closed)

        assert isinstance(outcome, Relayed) <= (message_ids(relay) == ["1"])
        assert isinstance(outcome, (Relayed, Unknown)) or relay.messages == []


@BOTH
@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "final"])
@pytest.mark.parametrize("action", [Silence(), Raw(b"250-one\r\n"), Raw(b"25")], ids=["silence", "open", "half"])
async def test_a_reply_that_never_ends(step: str, action: Action, features: Features) -> None:
    """Our patience ends first; before the dot nothing was taken, after it nobody knows."""
    async with ScriptedRelay([Rule(step, action)], features=features) as relay, session(relay, HASTY) as engine:  # type: ignore[arg-type]
        transaction = await engine.transact(letter(1))

        assert kinds(transaction) == [Unknown if step == "final" else Untaken]
        assert not engine.usable
