"""Transactions on an open session: what goes over the wire, in which order, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gateway.smtp.outcome import Phase, Refused, Rejected, Relayed, Untaken
from gateway.smtp.transaction import LEASE_LOST, Envelope, stuffed
from tests.peers.smtp_server import Close, Features, Hold, Reply, Rule, ScriptedRelay
from tests.smtp.talking import ANN, BOB, CYD, kinds, letter, message_ids, reply_code, session

LOCK_STEP = Features(pipelining=False)
BOTH = pytest.mark.parametrize("features", [Features(), LOCK_STEP], ids=["pipelined", "lock-step"])
LONG = b"".join(b"%06d %s\r\n" % (n, b"x" * 66) for n in range(70_000))  # 5 MiB and more


# Recipients.


@BOTH
async def test_one_of_three_recipients_is_refused(features: Features) -> None:
    """The others get the message, and each outcome stands at its recipient's place."""
    async with (
        ScriptedRelay([Rule("rcpt", Reply("550 5.1.1 unknown"), match=BOB)], features=features) as relay,
        session(relay) as engine,
    ):
        transaction = await engine.transact(letter(1, ANN, BOB, CYD))

        assert kinds(transaction) == [Relayed, Refused, Relayed]
        assert relay.messages[0].rcpt_tos == (ANN, CYD)
        assert engine.usable
        assert relay.violations == []


@pytest.mark.parametrize("lenient", [True, False], ids=["354-lone-dot", "554"])
async def test_all_recipients_are_refused_while_data_travels(lenient: bool) -> None:
    """A relay that says 354 all the same gets a lone dot, any other none; the next message begins with RSET."""
    script = [Rule("rcpt", Reply("550 5.1.1 unknown"), match=BOB)]
    if lenient:
        script.append(Rule("data", Reply("354 go on"), once=True))
    async with ScriptedRelay(script) as relay, session(relay) as engine:
        refused = await engine.transact(letter(1, BOB))
        sent = await engine.transact(letter(2, ANN))

        assert [reply_code(outcome) for outcome in refused.outcomes] == [550]
        assert kinds(sent) == [Relayed]
        assert message_ids(relay) == ["2"]
        assert relay.sessions[0].verbs[4:] == ["."] * lenient + ["RSET", "MAIL", "RCPT", "DATA"]


async def test_a_body_for_those_already_given_up_is_never_begun() -> None:
    """A relay that accepts one, dismisses us, and still says 354 gets no empty message for that one: we hang up."""
    script = [Rule("mail", Reply("450 4.3.0 later")), Rule("rcpt", Reply("250 ok")), Rule("data", Reply("354 go on"))]
    async with ScriptedRelay(script) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1))

        assert kinds(transaction) == [Refused]
        assert not engine.usable
        await relay.wait(lambda: relay.sessions[0].closed)
        assert relay.messages == []
        assert "." not in relay.sessions[0].commands


async def test_replies_out_of_step_blame_nobody() -> None:
    """One reply too many shifts a refusal to the wrong recipient; as soon as that shows, nobody was refused."""
    script = [
        Rule("mail", Reply("250 ok\r\n250 ok again")),
        Rule("rcpt", Reply("550 5.1.1 no such user"), match=f"<{ANN}>"),
    ]
    async with ScriptedRelay(script) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1, ANN, BOB))

        assert kinds(transaction) == [Untaken, Untaken]
        assert not engine.usable
        assert relay.messages == []


@BOTH
async def test_the_sender_is_refused(features: Features) -> None:
    """Everyone has the relay's word on MAIL, and no body was sent."""
    async with ScriptedRelay({"mail": Reply("550 5.7.1 no")}, features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1, ANN, BOB))

        assert transaction.outcomes == (transaction.outcomes[0],) * 2
        assert isinstance(transaction.outcomes[0], Refused)
        assert (transaction.outcomes[0].phase, transaction.outcomes[0].reply.code) == (Phase.SENDER, 550)
        assert engine.usable
        assert relay.violations == []


@BOTH
async def test_a_refusal_stands_though_the_relay_hangs_up(features: Features) -> None:
    """What was said before the link broke is an answer; only the rest is untaken."""
    script = [Rule("rcpt", Reply("550 5.1.1 unknown"), match=ANN), Rule("rcpt", Close(), match=BOB)]
    async with ScriptedRelay(script, features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1, ANN, BOB, CYD))

        assert kinds(transaction) == [Refused, Untaken, Untaken]


async def test_a_refused_sender_stands_though_the_relay_hangs_up() -> None:
    """A relay that says 554 to MAIL and closes has refused; the commands behind it change nothing."""
    async with ScriptedRelay({"mail": Reply("554 5.7.1 no", then=Close())}) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1, ANN, BOB))

        assert [reply_code(outcome) for outcome in transaction.outcomes] == [554, 554]


@BOTH
@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
async def test_rset_after_half_a_transaction(step: str, features: Features) -> None:
    """A transaction that ended half-way is reset before the next begins."""
    script = [Rule(step, Reply("451 4.3.0 later"), once=True)]  # type: ignore[arg-type]
    async with ScriptedRelay(script, features=features) as relay, session(relay) as engine:
        await engine.transact(letter(1))
        transaction = await engine.transact(letter(2))

        assert kinds(transaction) == [Relayed]
        assert relay.sessions[0].verbs.count("RSET") == 1
        assert relay.violations == []


@BOTH
async def test_rset_refused_ends_the_session(features: Features) -> None:
    """Without a clean slate nothing is sent: the message is untaken, the engine unusable."""
    script = [Rule("mail", Reply("451 4.3.0 later"), once=True), Rule("rset", Reply("500 5.5.1 no"))]
    async with ScriptedRelay(script, features=features) as relay, session(relay) as engine:
        await engine.transact(letter(1))
        transaction = await engine.transact(letter(2))

        assert kinds(transaction) == [Untaken]
        assert not engine.usable
        assert relay.messages == []


# One behind the other.


async def test_the_next_envelope_rides_behind_the_body() -> None:
    """While the first final reply is held back, the relay already has the next envelope, and breaks no rule for it."""
    event = asyncio.Event()
    async with ScriptedRelay() as relay, session(relay) as engine:
        held = relay.on("final", Hold(event), once=True)
        first, second = letter(1), letter(2, BOB)
        sending = asyncio.ensure_future(engine.transact(first, follow=lambda: second))
        await relay.wait(lambda: held.hits == 1)
        assert not sending.done()
        event.set()
        assert kinds(await sending) == [Relayed]
        assert engine.ahead is second
        await relay.wait(lambda: relay.sessions[0].verbs.count("DATA") == 2)
        assert message_ids(relay) == ["1"]
        assert kinds(await engine.transact(second)) == [Relayed]

        assert relay.sessions[0].verbs == ["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA"]
        assert message_ids(relay) == ["1", "2"]
        assert engine.ahead is None
        assert relay.violations == []


async def test_nothing_rides_behind_in_lock_step() -> None:
    """A relay without PIPELINING is not even asked for: `follow` is not called."""
    called = 0

    def follow() -> Envelope:
        nonlocal called
        called += 1
        return letter(2)

    async with ScriptedRelay(features=LOCK_STEP) as relay, session(relay) as engine:
        await engine.transact(letter(1), follow=follow)

        assert (called, engine.ahead) == (0, None)


async def test_another_message_than_the_one_ahead_ends_the_session() -> None:
    """The envelope that already travelled must be the next; any other is untaken."""
    async with ScriptedRelay() as relay, session(relay) as engine:
        ahead = letter(2)
        await engine.transact(letter(1), follow=lambda: ahead)
        transaction = await engine.transact(letter(3))

        assert kinds(transaction) == [Untaken]
        assert not engine.usable
        await relay.wait(lambda: relay.sessions[0].closed)
        assert message_ids(relay) == ["1"]


async def test_a_message_ahead_may_be_refused_and_the_one_after_it_goes_on() -> None:
    """The refusal of an envelope that rode ahead is its own; the session is reset and goes on."""
    script = [Rule("rcpt", Reply("550 5.1.1 unknown"), match=BOB)]
    async with ScriptedRelay(script) as relay, session(relay) as engine:
        second = letter(2, BOB)
        await engine.transact(letter(1), follow=lambda: second)
        refused = await engine.transact(second)
        third = await engine.transact(letter(3))

        assert [kinds(refused), kinds(third)] == [[Refused], [Relayed]]
        assert message_ids(relay) == ["1", "3"]
        assert relay.violations == []


async def test_an_unfit_message_does_not_ride_behind() -> None:
    """What the relay cannot take stays here, and is rejected in its turn."""
    async with ScriptedRelay(features=Features(smtputf8=False)) as relay, session(relay) as engine:
        unfit = replace(letter(2, "jörg@example.test"), smtputf8=True)
        await engine.transact(letter(1), follow=lambda: unfit)

        assert engine.ahead is None
        assert kinds(await engine.transact(unfit)) == [Rejected]
        assert kinds(await engine.transact(letter(3))) == [Relayed]
        assert relay.sessions[0].verbs == ["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA"]


async def test_quit_only_where_nothing_is_ahead() -> None:
    """A session with an envelope under way is dropped without QUIT; another one takes its leave."""
    async with ScriptedRelay() as relay:
        async with session(relay) as engine:
            await engine.transact(letter(1), follow=lambda: letter(2))
            await engine.quit()
        async with session(relay) as engine:
            await engine.transact(letter(3))
            await engine.quit()
        await relay.wait(lambda: all(one.closed for one in relay.sessions))

        assert [one.verbs[-1] for one in relay.sessions] == ["DATA", "QUIT"]


# The lease.


@BOTH
async def test_the_fence_before_the_body(features: Features) -> None:
    """A lost lease means no octet of the body: untaken, and the session is closed, not used for the next message."""
    async with ScriptedRelay(features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1), fence=lambda: False)
        after = await engine.transact(letter(2))

        assert transaction.outcomes == (Untaken(LEASE_LOST),)
        assert not engine.usable
        assert kinds(after) == [Untaken]
        await relay.wait(lambda: relay.sessions[0].closed)
        assert relay.messages == []
        assert relay.sessions[0].leftover == b""


@BOTH
async def test_the_fence_before_the_dot_of_a_long_body(features: Features) -> None:
    """A lease lost while a long body travelled means no final dot."""
    answers = iter([True, False])
    async with ScriptedRelay(features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1, body=LONG), fence=lambda: next(answers))

        assert transaction.outcomes == (Untaken(LEASE_LOST),)
        assert not engine.usable
        await relay.wait(lambda: relay.sessions[0].closed)
        assert relay.messages == []


def _dot(relay: ScriptedRelay, answer: bool, seen: list[int], follows: list[str]) -> Callable[[], Awaitable[bool]]:
    async def dot() -> bool:
        seen.append(len(relay.messages))
        follows.append("dot")
        return answer

    return dot


@BOTH
async def test_before_the_dot_somebody_is_asked(features: Features) -> None:
    """The body is out and the dot is not; nothing rides behind, and `follow` is not even called."""
    seen: list[int] = []
    order: list[str] = []

    def follow() -> Envelope:
        order.append("follow")
        return letter(2)

    async with ScriptedRelay(features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1), before_dot=_dot(relay, True, seen, order), follow=follow)

        assert kinds(transaction) == [Relayed]
        assert (seen, order, engine.ahead) == ([0], ["dot"], None)
        assert relay.messages[0].data == letter(1).message
        assert relay.violations == []


async def test_before_the_dot_the_whole_body_is_with_the_relay() -> None:
    """All of the body but the dot arrives while the answer is pending, and nothing is accepted yet."""
    body = stuffed(letter(1, body=b".dots\r\n").message)[:-3]
    async with ScriptedRelay() as relay, session(relay) as engine:
        event, asked = asyncio.Event(), asyncio.Event()

        async def dot() -> bool:
            asked.set()
            await event.wait()
            return False

        sending = asyncio.ensure_future(engine.transact(letter(1, body=b".dots\r\n"), before_dot=dot))
        await asked.wait()
        assert relay.messages == []
        event.set()
        assert kinds(await sending) == [Untaken]
        await relay.wait(lambda: relay.sessions[0].closed)
        assert body.startswith(relay.sessions[0].leftover)
        assert relay.messages == []


@BOTH
async def test_before_the_dot_no_means_that_we_hang_up(features: Features) -> None:
    """A dot that must not leave does not: untaken, closed, nothing accepted."""
    async with ScriptedRelay(features=features) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1), before_dot=_dot(relay, False, [], []))

        assert transaction.outcomes == (Untaken(LEASE_LOST),)
        assert not engine.usable
        await relay.wait(lambda: relay.sessions[0].closed)
        assert relay.messages == []


# Bodies.


@BOTH
async def test_a_long_body_to_a_slow_reader(features: Features) -> None:
    """5 MiB arrive whole though the relay does not read them at first."""
    event = asyncio.Event()
    async with ScriptedRelay(features=features) as relay, session(relay) as engine:
        held = relay.on("data", Reply("354 go", then=Hold(event, Reply(""))))
        sending = asyncio.ensure_future(engine.transact(letter(1, body=LONG)))
        await relay.wait(lambda: held.hits == 1)
        event.set()

        assert kinds(await sending) == [Relayed]
        assert relay.messages[0].data == letter(1, body=LONG).message


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (b"", b"\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b"..", b"...\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r\n.", b"a\r\n..\r\n.\r\n"),
        (b"\r\n.\r\n.\r\n", b"\r\n..\r\n..\r\n.\r\n"),
        (b"a.b\r\n", b"a.b\r\n.\r\n"),
        (b" .\r\n", b" .\r\n.\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
    ],
)
def test_dot_stuffing(message: bytes, sent: bytes) -> None:
    """A dot that begins a line is doubled, no other is, and the end of data stands on a line of its own."""
    assert stuffed(message) == sent


@BOTH
async def test_dots_arrive_as_they_were_meant(features: Features) -> None:
    """Lines of dots survive the wire."""
    body = b".\r\n..\r\n.a\r\n \r\n.\r\n"
    async with ScriptedRelay(features=features) as relay, session(relay) as engine:
        await engine.transact(letter(1, body=body))

        assert relay.messages[0].data.endswith(b"\r\n\r\n" + body)
        assert relay.violations == []


# What the relay offers.


async def test_a_message_over_the_size_limit_is_not_begun() -> None:
    """SIZE says what is too large: rejected with 552 5.3.4, without a command."""
    async with ScriptedRelay(features=Features(size=1000)) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1, ANN, BOB, body=b"x" * 998 + b"\r\n"))

        assert kinds(transaction) == [Rejected, Rejected]
        assert reply_code(transaction.outcomes[0]) == 552
        assert relay.sessions[0].verbs == ["EHLO"]
        assert kinds(await engine.transact(letter(2))) == [Relayed]


@pytest.mark.parametrize(("size", "parameters"), [(None, {}), (0, {"SIZE": "67"}), (10_000, {"SIZE": "67"})])
async def test_the_size_is_declared_where_it_is_offered(size: int | None, parameters: dict[str, str]) -> None:
    """SIZE=n goes with MAIL to a relay that offers SIZE, with or without a limit."""
    async with ScriptedRelay(features=Features(size=size)) as relay:
        if size == 0:
            relay.on("mail", Reply("250 ok"))
            relay.on("final", Reply("250 ok"))
        async with session(relay) as engine:
            envelope = letter(1, body=b"x" * 17 + b"\r\n")
            transaction = await engine.transact(envelope)

            assert kinds(transaction) == [Relayed]
            expected = {name: str(len(envelope.message)) for name in parameters}
            assert relay.messages[0].mail_parameters == expected


@BOTH
async def test_a_non_ascii_mailbox_needs_smtputf8(features: Features) -> None:
    """Offered, it is asked for; not offered, the message is rejected with 553 5.6.7 before MAIL."""
    envelope = replace(letter(1, "jörg@example.test"), smtputf8=True)
    async with ScriptedRelay(features=features) as relay, session(relay) as engine:
        assert kinds(await engine.transact(envelope)) == [Relayed]
        assert "SMTPUTF8" in relay.messages[0].mail_parameters
        assert relay.messages[0].rcpt_tos == ("jörg@example.test",)
        assert relay.violations == []
    async with ScriptedRelay(features=replace(features, smtputf8=False)) as relay, session(relay) as engine:
        assert reply_code((await engine.transact(envelope)).outcomes[0]) == 553
        assert relay.sessions[0].verbs == ["EHLO"]
