"""The connection test of a profile: one message to exactly one address, by the very code that sends.

The guard against lock-out holds for it too, and what it learns of an account counts for everybody.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.credentials.provider import Why
from gateway.directory.shapes import Profile
from gateway.message.address import Mailbox, needs_smtputf8
from gateway.message.compose import Draft
from gateway.message.notification import new_id
from gateway.observe import facts
from gateway.relay.render import enclosed, with_footnote
from gateway.relay.sign_in import Opened, SignIns
from gateway.smtp import hints
from gateway.smtp.outcome import Fault, Phase, Refused, Rejected
from gateway.smtp.probe import Report, Step, Stopwatch, Trial, look, next_phase
from gateway.smtp.session import Relay
from gateway.smtp.transaction import Envelope, Timeouts

IMPATIENT: Final = Timeouts(command=20.0, block=30.0, final=60.0)
"""A person waits: a relay that takes longer is told to be slow, though mail would wait for it."""


@dataclass(frozen=True, slots=True)
class Tester:
    """Tests profiles. The secret is fetched anew, because a person asks."""

    sign_ins: SignIns

    async def test(self, profile: Profile, trial: Trial, tell: Callable[[Step], None]) -> Report:
        """Send the message and say how each phase went; `tell` hears of each as it happens."""
        watch = Stopwatch(tell)
        relays = await self.sign_ins.relays(profile, why=Why.TEST)
        if isinstance(relays, Fault):
            return watch.failed(relays.phase, hints.of_fault(relays, None, profile.preset))
        watch(Phase.SECRET, _source(profile))
        envelope = await self._envelope(profile, trial)
        if isinstance(envelope, Fault):
            return watch.failed(envelope.phase, hints.of_fault(envelope, None, profile.preset))
        if isinstance(envelope, Rejected):
            return watch.failed(Phase.CONTENT, hints.of_rejected(envelope.reply))
        opened = await self.sign_ins.open(profile, relays, watch, IMPATIENT)
        if isinstance(opened, Fault):
            return watch.failed(opened.phase, await self._explained(opened, relays[0], profile))
        return await _sent(opened, envelope, watch)

    async def _envelope(self, profile: Profile, trial: Trial) -> Envelope | Rejected | Fault:
        now = time.time_ns() // 1_000_000
        number = new_id(now)
        text, _ = with_footnote(trial.message, None, profile.footnote)
        draft = Draft(
            message_id=f"<{number}@{profile.sender.address.rpartition('@')[2]}>",
            date=now // 1000,
            sender=profile.sender,
            to=(Mailbox(trial.to),),
            cc=(),
            reply_to=profile.reply_to,
            subject=trial.subject,
            text=text,
            html=None,
            attachments=(),
            headers=(),
            receipt_to=None,
        )
        envelope = enclosed(draft, profile, (trial.to,), number, utf8=needs_smtputf8(trial.to))
        return envelope if isinstance(envelope, Rejected) else await self.sign_ins.signed(profile, envelope)

    async def _explained(self, fault: Fault, relay: Relay, profile: Profile) -> hints.Advice:
        try:
            seen = await look(self.sign_ins.opener, relay, fault)
        except Exception as error:  # noqa: BLE001 - what nobody foresaw in a second look must not cost what the first one told
            facts.opening_failed((profile.tenant, profile.name), error)
            seen = None
        return hints.of_fault(fault, relay, profile.preset, seen)


async def _sent(opened: Opened, envelope: Envelope, watch: Stopwatch) -> Report:
    """Run the transaction and take leave."""
    engine = opened.engine
    try:
        transaction = await engine.transact(envelope)
    finally:
        await engine.quit()
    outcome = transaction.outcomes[0]
    advice = hints.of_outcome(outcome)
    if advice is None:
        return watch.passed()
    phase = outcome.phase if isinstance(outcome, Refused) else next_phase(watch.steps, opened.relay.security)
    return watch.failed(phase, advice)


def _source(profile: Profile) -> str:
    """Where the secret came from, in words that its owner knows."""
    credential = profile.auth.credential
    if credential is None:
        return "none needed" if profile.auth.oauth is None else f"token of {profile.auth.oauth.provider}"
    where = credential.source if credential.connection is None else f"{credential.source} {credential.connection}"
    return where if profile.auth.oauth is None else f"{where}, token of {profile.auth.oauth.provider}"
