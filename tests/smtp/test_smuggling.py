"""A message that pretends to end, and goes on with another's envelope: no relay, strict or lenient, sees two.

The end-of-data variants of SEC Consult's "SMTP Smuggling" (2023) and their kin, in every text that a caller can give,
composed and sent as always. The sinks differ in what ends a message for them; their ledgers have to be the same.

Who promises what: `compose` leaves no CR or LF but in pairs, and no NUL; the engine doubles the dot that follows such a
pair and adds nothing else, so bytes that `compose` never makes are sent as they are, and end once for a strict relay.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.message.address import Mailbox
from gateway.message.compose import Attachment, Draft, compose
from gateway.smtp.outcome import Relayed
from gateway.smtp.session import Method, Security
from gateway.smtp.transaction import BLOCK, Engine, Envelope, Reports, stuffed
from tests.peers.lenient_sink import LenientSink
from tests.peers.postfix import PostfixRelay, free_port, postfix_available
from tests.peers.requirements import require
from tests.peers.smtp_server import Features, ScriptedRelay
from tests.smtp.talking import ANN, BOB, examples, opener, relay_at, session

VARIANTS = {
    "LF.LF": "\n.\n", "LF.CRLF": "\n.\r\n", "CRLF.LF": "\r\n.\n", "CR.CR": "\r.\r", "CRLF.CR": "\r\n.\r",
    "CR.CRLF": "\r.\r\n", "CR.LF": "\r.\n", "LF.CR": "\n.\r", "CRLF.CRLF": "\r\n.\r\n", "CRLF-NUL.CRLF": "\r\n\0.\r\n",
    "CRLF.NUL-CRLF": "\r\n.\0\r\n", "CRLF..CRLF": "\r\n..\r\n", "CRCRLF.CRCRLF": "\r\r\n.\r\r\n",
    "LFLF.LFLF": "\n\n.\n\n", "NEL.NEL": "\x85.\x85", "LS.LS": "\u2028.\u2028", "CRLF.SP-CRLF": "\r\n. \r\n",
    "VT.FF": "\x0b.\x0c", "CRLF.CRLF.CRLF": "\r\n.\r\n.\r\n",
}  # fmt: skip
SMUGGLED = "MAIL FROM:<evil@example.test>{0}RCPT TO:<victim@example.test>{0}DATA{0}Subject: smuggled{0}{0}hello"
PLACES = ("subject", "text", "html", "name", "header", "attachment", "filename")
SENDER = "from@example.test"
PLAIN = Draft(
    message_id="<0190f3c2.1@example.test>", date=1_767_225_600, sender=Mailbox(SENDER), to=(Mailbox(ANN),), cc=(),
    reply_to=(), subject="Hello", text="Hi\n", html=None,
)  # fmt: skip
HOSTILE = "\r\n.\0 a\x85\u2028"


def sinks() -> dict[str, LenientSink]:
    """A strict one and the lenient ones."""
    return {
        "strict": LenientSink(),
        "bare LF": LenientSink(b"\n.\n", b"\r\n.\n"),
        "LF.CRLF": LenientSink(b"\n.\r\n"),
        "bare CR": LenientSink(b"\r.\r", b"\r\n.\r", b"\r.\r\n"),
        "everything": LenientSink(
            b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\r.\n", b"\n.\r"
        ),
        "blind for NUL": LenientSink(b"\n.\n", b"\r.\r", nul_blind=True),
    }


@pytest.fixture
async def relays() -> AsyncIterator[dict[str, LenientSink]]:
    """All of them, listening."""
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(sink) for name, sink in sinks().items()}


def hiding(place: str, text: str) -> Draft:
    """A message with this text in one place."""
    match place:
        case "subject":
            return replace(PLAIN, subject=text)
        case "text":
            return replace(PLAIN, text=text)
        case "html":
            return replace(PLAIN, html=text)
        case "name":
            return replace(PLAIN, to=(Mailbox(ANN, text),))
        case "header":
            return replace(PLAIN, headers=(("X-Order", text),))
        case "attachment":
            return replace(PLAIN, attachments=(Attachment("a.txt", "text/plain", text.encode(), inline=False),))
        case _:
            return replace(PLAIN, attachments=(Attachment(text, "text/plain", b"hello", inline=False),))


async def sent(relay: LenientSink | ScriptedRelay, message: bytes) -> None:
    """Send it, and a second one behind it on the same session."""
    engine = await opener().open(relay_at(relay.port))
    assert isinstance(engine, Engine)
    for envelope in (Envelope(SENDER, (ANN, BOB), message), Envelope(SENDER, (BOB,), b"Subject: last\r\n\r\nbye\r\n")):
        transaction = await engine.transact(envelope)
        assert [type(outcome) for outcome in transaction.outcomes] == [Relayed] * len(envelope.recipients)
    assert engine.usable
    engine.abort()


EXPECTED = ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "MAIL", "RCPT", "DATA"]


@pytest.mark.parametrize("line_end", ["\r\n", "\n", "\r"], ids=["crlf", "lf", "cr"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
async def test_one_message_stays_one(variant: str, place: str, line_end: str, relays: dict[str, LenientSink]) -> None:
    """Refused before it is sent, or one message in every ledger, the same in all, and no command out of its body."""
    text = f"before{variant}{SMUGGLED.format(line_end)}{variant}QUIT{line_end}after"
    try:
        message = compose(hiding(place, text))
    except ValueError:
        assert place in {"subject", "name", "header"}
        return
    for relay in relays.values():
        await sent(relay, message)

    ledgers = [relay.messages for relay in relays.values()]
    assert ledgers == [ledgers[0]] * len(ledgers)
    assert [(one.mail_from, one.rcpt_tos) for one in ledgers[0]] == [(SENDER, (ANN, BOB)), (SENDER, (BOB,))]
    for relay in relays.values():
        assert [command[:4] for command in relay.commands] == EXPECTED


@pytest.mark.parametrize("offset", range(-6, 7))
@pytest.mark.parametrize("variant", ["\r\n.\r\n", "\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r"], ids=repr)
async def test_a_dot_at_the_border_of_a_block(variant: str, offset: int, relays: dict[str, LenientSink]) -> None:
    """A body leaves in blocks of 64 KiB: the dot is doubled wherever the border falls."""
    hidden = f"{variant}{SMUGGLED.format(chr(10))}{variant}"
    probe = len(stuffed(compose(replace(PLAIN, text="x" * 500 + hidden))).partition(b"MAIL FROM:<evil")[0])
    lines = "y" * 62 + "\n"  # 64 octets on the wire
    short = BLOCK + offset - probe
    text = lines * (short // 64) + "x" * (500 + short % 64) + hidden + "z\n" * 40_000
    message = compose(replace(PLAIN, text=text))
    assert stuffed(message).index(b"MAIL FROM:<evil") == BLOCK + offset
    for relay in relays.values():
        await sent(relay, message)

    ledgers = [relay.messages for relay in relays.values()]
    assert ledgers == [ledgers[0]] * len(ledgers)
    assert [one.rcpt_tos for one in ledgers[0]] == [(ANN, BOB), (BOB,)]


async def test_the_sinks_are_as_lenient_as_they_say(relays: dict[str, LenientSink]) -> None:
    """Bytes that `compose` never makes do smuggle where the sink lets them, so the tests above could fail."""
    seen = {}
    for name, relay in relays.items():
        for ending in (b"\n.\n", b"\r.\r"):
            envelope = Envelope(SENDER, (ANN,), b"Subject: x\r\n\r\nbefore" + ending + SMUGGLED.format("\n").encode())
            engine = await opener().open(relay_at(relay.port))
            assert isinstance(engine, Engine)
            await engine.transact(envelope)
            engine.abort()
        seen[name] = sum("evil" in command for command in relay.commands)

    assert seen == {"strict": 0, "bare LF": 1, "LF.CRLF": 0, "bare CR": 1, "everything": 2, "blind for NUL": 2}


# Any text, and any bytes.

TEXTS = st.text(st.sampled_from(HOSTILE), max_size=24)
PIECES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"\0", b"a", b"\r\n.", b"\n.\n"]), max_size=14)
ENDINGS = [*sinks()["everything"].endings]
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(TEXTS, TEXTS, TEXTS, TEXTS)
@example("\r\n.\r\n", "\n.\n", "\r\n\0.\r\n", "\r.\r")
@settings(slow, max_examples=examples(300))
def test_composed_text_ends_once_for_everybody(text: str, html: str, content: str, filename: str) -> None:
    """On the wire the first end of data, by whatever ending, is the last bytes, NULs dropped or not."""
    attachment = Attachment(filename, "text/plain", content.encode(), inline=False)
    wire = b"\r\n" + stuffed(compose(replace(PLAIN, text=text, html=html, attachments=(attachment,))))

    assert b"\0" not in wire
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    for ending in ENDINGS:
        at = wire.find(ending)
        assert at < 0 or at >= len(wire) - len(b"\r\n.\r\n")


@given(PIECES.map(b"".join))
@example(b"")
@example(b".")
@example(b"\r")
@example(b"x\r\n.")
@example(b"x\r\n.\r")
@settings(slow, max_examples=examples(500))
def test_any_bytes_end_once_for_a_strict_relay(message: bytes) -> None:
    """CRLF.CRLF stands at the end and nowhere else, and what is received is what was meant."""
    wire = b"\r\n" + stuffed(message)

    assert wire.find(b"\r\n.\r\n") == len(wire) - 5
    received = wire[:-3].replace(b"\r\n.", b"\r\n")[2:]
    assert received == (message if message.endswith(b"\r\n") else message + b"\r\n")


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("features", [Features(), Features(pipelining=False)], ids=["pipelined", "lock-step"])
async def test_hostile_bytes_reach_a_strict_relay_as_one_message(variant: str, features: Features) -> None:
    """Even what `compose` would not make is one message, with the same bytes, for a relay that keeps to the standard."""
    message = f"Subject: x\r\n\r\nbefore{variant}{SMUGGLED.format(variant)}{variant}".encode()
    async with ScriptedRelay(features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(Envelope(SENDER, (ANN,), message))

        assert [type(outcome) for outcome in transaction.outcomes] == [Relayed]
        assert engine.usable
        assert [one.data for one in relay.messages] == [message if message.endswith(b"\r\n") else message + b"\r\n"]
        assert relay.sessions[0].verbs == ["EHLO", "MAIL", "RCPT", "DATA"]


async def test_an_envelope_id_is_one_parameter() -> None:
    """What comes back in a delivery report is written in xtext: no blank, no line end, no second parameter."""
    hostile = Reports("HDRS", "a b\r\nRCPT TO:<evil@example.test>\r\n+=\0", ("FAILURE",))
    async with ScriptedRelay(features=Features(dsn=True)) as relay, session(relay) as engine:
        await engine.transact(Envelope(SENDER, (ANN,), b"Subject: x\r\n\r\n", reports=hostile))

        assert relay.sessions[0].verbs == ["EHLO", "MAIL", "RCPT", "DATA"]
        assert relay.violations == []
        assert "evil" not in "".join(relay.messages[0].rcpt_tos)


# A real one.


@pytest.fixture(scope="module")
def postfix() -> Iterator[PostfixRelay]:
    """A Postfix that takes bare line feeds for line ends, as it did for decades."""
    require("postfix as root", postfix_available())
    with PostfixRelay(free_port(), users={"app": "s3cret"}, settings={"smtpd_forbid_bare_newline": "no"}) as relay:
        yield relay


async def test_a_lenient_postfix_sees_one_message_each(postfix: PostfixRelay) -> None:
    """Every variant in text, HTML and attachment: as many messages behind Postfix as were sent, all to Ann."""
    everywhere = [
        replace(
            hiding(place, f"{variant}{SMUGGLED.format(variant)}{variant}"), message_id=f"<{n}.{place}@example.test>"
        )
        for n, variant in enumerate(VARIANTS.values())
        for place in ("text", "html", "attachment")
    ]
    async with ScriptedRelay(port=postfix.sink_port) as sink:
        target = relay_at(postfix.port, Security.STARTTLS, ca=postfix.ca_pem, password="s3cret", method=Method.AUTO)
        engine = await opener().open(target)
        assert isinstance(engine, Engine), engine
        for draft in everywhere:
            (outcome,) = (await engine.transact(Envelope(SENDER, (ANN,), compose(draft)))).outcomes
            assert isinstance(outcome, Relayed)
        engine.abort()
        await sink.wait_messages(len(everywhere), timeout=60)

    assert {(one.mail_from, one.rcpt_tos) for one in sink.messages} == {(SENDER, (ANN,))}
    assert sorted(one.message_id or "" for one in sink.messages) == sorted(draft.message_id for draft in everywhere)
