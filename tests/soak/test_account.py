"""The account tells what is lost, what went twice without a reason, and what nobody was promised."""

from __future__ import annotations

import time

from tests.peers.smtp_server import Caught
from tests.soak.account import Account
from tests.soak.load import Ledger, Promise
from tests.soak.place import Relayed


def caught(notification: str, *recipients: str) -> Caught:
    """A message that a relay took just now."""
    return Caught("", recipients, b"", f"<{notification}@x.test>", 0, False, {}, None, time.time())


def promised(**recipients: str) -> Ledger:
    """What callers were promised: a recipient by notification."""
    return Ledger(promised={id_: Promise((address,)) for id_, address in recipients.items()})


def test_what_a_relay_took_is_relayed() -> None:
    """By notification and recipient; copies for others do not count."""
    relayed = Relayed()
    relayed.took(caught("one", "ann@x.test", "operations@x.test"))
    settled = Account.of(promised(one="ann@x.test"), relayed)

    assert (dict(settled.fates), settled.lost, settled.copies, settled.unasked) == ({"relayed": 1}, (), 0, ())


def test_what_nobody_took_is_lost() -> None:
    """Also if the relay has the notification for somebody else."""
    relayed = Relayed()
    relayed.took(caught("one", "bob@x.test"))

    assert Account.of(promised(one="ann@x.test"), relayed).lost == ("one",)


def test_other_fates_are_known() -> None:
    """Refused, cancelled, simulated, and expired where the profile leads nowhere."""
    ledger = promised(refused="r@x.test", cancelled="c@x.test")
    ledger.cancelled.add("cancelled")
    ledger.promised["simulated"] = Promise(("s@x.test",), simulated=True)
    ledger.promised["stuck"] = Promise(("e@x.test",), stuck=True)
    settled = Account.of(ledger, Relayed(refused={"r@x.test"}))

    assert set(settled.fates) == {"refused", "cancelled", "simulated", "expired"}
    assert settled.lost == ()


def test_a_second_copy_needs_a_reason() -> None:
    """A fault that may have swallowed the first answer is one; it is counted in any case."""
    relayed = Relayed()
    for _ in range(2):
        relayed.took(caught("one", "ann@x.test"))
    ledger = promised(one="ann@x.test")

    assert Account.of(ledger, relayed).unexplained == ("one",)
    relayed.cut()
    settled = Account.of(ledger, relayed)
    assert (settled.unexplained, settled.copies) == ((), 1)


def test_mail_of_nobody_is_told() -> None:
    """What a caller that went away had sent is no surprise; what a test key sent must not have left."""
    relayed = Relayed()
    for id_, address in (("stranger", "x@x.test"), ("gone", "g@x.test"), ("simulated", "s@x.test")):
        relayed.took(caught(id_, address))
    ledger = Ledger(promised={"simulated": Promise(("s@x.test",), simulated=True)}, abandoned={"g@x.test"})

    assert set(Account.of(ledger, relayed).unasked) == {"stranger", "simulated"}
