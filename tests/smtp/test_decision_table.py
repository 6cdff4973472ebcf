"""The decision table, row by row: what the relay does, whose state changes, what follows, and is an attempt burned?

Every row runs against a real relay that does what the row says; the two rows about fetching a secret begin at the
fault, because they end before a socket is opened. The id of a case begins with its row's number.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable

import pytest

from gateway.message.notification import OnAmbiguous, Role
from gateway.outbox.states import Recipient
from gateway.outbox.verdict import (
    SLOW_PROBES,
    TEN_MINUTES,
    Circumstances,
    Consequence,
    Judgement,
    Park,
    Rest,
    Schedule,
    Trip,
    beyond_the_message,
    burns_no_attempt,
    consequence,
    judge,
)
from gateway.smtp.outcome import Fault, Phase, Relayed, Transaction, Trouble
from gateway.smtp.transaction import Timeouts
from tests.peers.smtp_server import (
    Action,
    Close,
    Features,
    IssuedTls,
    Reply,
    Reset,
    ScriptedRelay,
    Silence,
    issue_tls,
)
from tests.smtp.decision_rows import AGAIN, CUT, MESSAGE, PROFILE, Profile, Row
from tests.smtp.talking import ANN, BOB, CYD, HASTY, letter, opener, relay_at, session

NOW = 1_000_000_000_000
SCHEDULE = Schedule((30, 60, 3_600), 300)


@pytest.fixture(scope="module")
def tls() -> IssuedTls:
    """One certificate for the module."""
    return issue_tls()


@pytest.mark.parametrize("row", PROFILE, ids=lambda row: row.id)
async def test_the_profile_is_in_trouble(row: Profile, tls: IssuedTls) -> None:
    """A fault of this phase and kind, its consequence for the profile, and no word about any message on the wire."""
    async with ScriptedRelay(
        row.script, tls=tls.context if row.offers_tls else None, users={"app": "right"} if row.users else None
    ) as relay:
        opened = await opener().open(relay_at(relay.port, row.security, password=row.password))

        assert isinstance(opened, Fault), row.meaning
        assert (opened.phase, opened.trouble) == (row.phase, row.trouble), row.meaning
        assert consequence(opened) == row.follows, row.meaning
        assert "MAIL" not in relay.sessions[0].verbs
        assert relay.messages == []


async def test_row01_connect_refused() -> None:
    """Row 1: nobody listens, so the breaker counts one."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        opened = await opener().open(relay_at(bound.getsockname()[1]))

    assert isinstance(opened, Fault)
    assert (opened.phase, opened.trouble) == (Phase.CONNECT, Trouble.UNREACHABLE)
    assert consequence(opened) == Trip()


async def test_row01_connect_silent() -> None:
    """Row 1: a relay that never greets is as good as unreachable."""
    async with ScriptedRelay({"connect": Silence()}) as relay:
        opened = await opener(HASTY).open(relay_at(relay.port))

        assert isinstance(opened, Fault)
        assert (opened.trouble, opened.detail) == (Trouble.UNREACHABLE, "the relay did not answer in time")
        assert consequence(opened) == Trip()


async def test_row02_connect_name_unknown() -> None:
    """Row 2: a name that cannot exist opens the breaker at once, for ten minutes."""
    opened = await opener().open(relay_at(25, host="a..b"))

    assert isinstance(opened, Fault)
    assert (opened.phase, opened.trouble) == (Phase.RESOLVE, Trouble.NAME_UNKNOWN)
    assert consequence(opened) == Trip(after=1, seconds=600.0)


async def test_row05_ehlo_refused_and_nothing_needed() -> None:
    """Row 5: where neither TLS nor AUTH is needed, HELO does."""
    async with ScriptedRelay({"ehlo": Reply("502 5.5.1 what?")}) as relay, session(relay) as engine:
        transaction = await engine.transact(letter(1))

        assert isinstance(transaction.outcomes[0], Relayed)
        assert relay.sessions[0].verbs == ["EHLO", "HELO", "MAIL", "RCPT", "DATA"]
        assert relay.violations == []


@pytest.mark.parametrize(
    ("trouble", "follows"),
    [
        pytest.param(
            Trouble.SECRET_UNAVAILABLE, Rest(TEN_MINUTES, "secret_unavailable"), id="row18-secret-unavailable"
        ),
        pytest.param(Trouble.SECRET_DENIED, Park("secret_denied", SLOW_PROBES), id="row19-secret-denied"),
        pytest.param(Trouble.SECRET_MISSING, Park("secret_missing", SLOW_PROBES), id="row19-secret-missing"),
    ],
)
def test_the_secret_cannot_be_had(trouble: Trouble, follows: Consequence) -> None:
    """Rows 18 and 19: a provider that is down is waited for; one that says no parks the profile."""
    assert consequence(Fault(Phase.SECRET, trouble, "")) == follows


def weigh(transaction: Transaction) -> list[Judgement]:
    """Judge every recipient of a first attempt."""
    given = Circumstances(
        NOW, SCHEDULE, OnAmbiguous.RETRY, lambda: 0.5,
        siblings_taken=any(isinstance(outcome, Relayed) for outcome in transaction.outcomes),
    )  # fmt: skip
    start = Recipient(ANN, Role.TO, next_attempt_at=NOW)
    return [judge(start, outcome, given) for outcome in transaction.outcomes]


def check(row: Row, transaction: Transaction) -> None:
    """Compare every recipient's fate, and the profile's."""
    assert beyond_the_message(transaction.outcomes) == row.beyond, row.meaning
    assert burns_no_attempt(transaction.outcomes) is row.released, row.meaning
    if row.released:
        return
    for judged, fate in zip(weigh(transaction), row.fates, strict=True):
        copy = judged.recipient
        assert (copy.state, copy.attempts) == (fate.state, fate.attempts), row.meaning
        assert fate.says in judged.detail
        if fate.due is None:
            assert copy.next_attempt_at is None
        else:
            assert copy.next_attempt_at is not None
            assert fate.due[0] <= copy.next_attempt_at - NOW <= fate.due[1], row.meaning


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "lock-step"])
@pytest.mark.parametrize("row", MESSAGE, ids=lambda row: row.id)
async def test_the_message_is_answered(row: Row, pipelining: bool) -> None:
    """The fate of every recipient, burned attempts included; the profile's part; and is the session still good?"""
    async with (
        ScriptedRelay(row.script, features=Features(pipelining=pipelining)) as relay,
        session(relay, row.timeouts) as engine,
    ):
        transaction = await engine.transact(letter(1, *(ANN, BOB, CYD)[: len(row.fates)]))

        check(row, transaction)
        assert engine.usable is row.usable, row.meaning
        assert len(relay.messages) == row.taken, row.meaning
        assert relay.violations == []


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "lock-step"])
@pytest.mark.parametrize("then", [Silence(reading=False), Close(), Reset()], ids=["not-read", "closed", "reset"])
async def test_row36_body(then: Action, pipelining: bool) -> None:
    """Row 36: a relay that leaves, or stops reading, before the dot has certainly not accepted; no attempt is burned."""
    async with (
        ScriptedRelay({"data": Reply("354 go", then=then)}, features=Features(pipelining=pipelining)) as relay,
        session(relay, Timeouts(command=10, block=0.2, final=10)) as engine,
    ):
        transaction = await engine.transact(letter(1, body=b"x" * 70 + b"\r\n" + b"y" * 2**24 + b"\r\n"))

        check(Row("row36", "the body cannot leave", [], [CUT], AGAIN), transaction)
        assert not engine.usable


# Nobody is forgotten.


def test_every_row_is_here() -> None:
    """Rows 1 to 42 all have a case."""
    named = [row.id for row in PROFILE] + [row.id for row in MESSAGE]
    functions: list[Callable[..., Awaitable[None]]] = [
        test_row01_connect_refused, test_row02_connect_name_unknown, test_row05_ehlo_refused_and_nothing_needed,
        test_row36_body,
    ]  # fmt: skip
    named += [function.__name__ for function in functions] + ["row18-secret-unavailable", "row19-secret-denied"]
    rows = {int(found[1]) for name in named if (found := re.search(r"row(\d\d)", name))}

    assert rows == set(range(1, 43))
