"""The connection test: the steps of a delivery, timed and told one at a time, and why the first failed that did."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.smtp.hints import Advice, Look
from gateway.smtp.outcome import Fault, Phase, Trouble
from gateway.smtp.session import Opener, Relay, Security
from gateway.smtp.transaction import Engine, Timeouts

GLANCE = Timeouts(command=5.0, quit=1.0)
LOOKS = frozenset({Trouble.TLS_UNVERIFIED, Trouble.TLS_FAILED, Trouble.UNREACHABLE, Trouble.PROTOCOL})


@dataclass(frozen=True, slots=True)
class Trial:
    """What a test sends, and to whom."""

    to: str
    subject: str = "TEST MESSAGE!"
    message: str = "ATTENTION: THIS IS A TEST MESSAGE!"


@dataclass(frozen=True, slots=True)
class Step:
    """One phase as it went."""

    phase: Phase
    ok: bool
    milliseconds: int
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """All phases up to the first that failed, and what is to be said of that one."""

    steps: tuple[Step, ...]
    failed: Phase | None = None
    advice: Advice | None = None

    @property
    def ok(self) -> bool:
        """Did the message reach the relay?"""
        return self.advice is None


_AFTER_CONNECT: Final = {
    Security.STARTTLS: (Phase.GREETING, Phase.TLS),
    Security.IMPLICIT_TLS: (Phase.TLS, Phase.GREETING),
    Security.NONE: (Phase.GREETING,),
}


def next_phase(steps: Sequence[Step], security: Security) -> Phase:
    """Which phase comes after the last of these."""
    opening = (Phase.SECRET, Phase.RESOLVE, Phase.CONNECT, *_AFTER_CONNECT[security])
    phases = (*opening, Phase.AUTH, Phase.SENDER, Phase.RECIPIENT, Phase.CONTENT)
    return phases[min(phases.index(steps[-1].phase) + 1, len(phases) - 1)] if steps else phases[0]


@dataclass(slots=True)
class Stopwatch:
    """Writes phases down as they pass; `tell` hears of each at once. It is the `Watch` of a delivery.

    A phase stands there once: what is gone through again for a second password is time of the sign-in.
    """

    tell: Callable[[Step], None]
    steps: list[Step] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def __call__(self, phase: Phase, what: object) -> None:
        """A phase is passed."""
        if all(step.phase is not phase for step in self.steps):
            self._note(phase, ok=True, detail=str(what))

    def failed(self, phase: Phase, advice: Advice) -> Report:
        """A phase failed, which ends the test."""
        self._note(phase, ok=False, detail=advice.detail)
        return Report(tuple(self.steps), phase, advice)

    def passed(self) -> Report:
        """All went well."""
        return Report(tuple(self.steps))

    def _note(self, phase: Phase, *, ok: bool, detail: str) -> None:
        now = time.monotonic()
        step = Step(phase, ok, round((now - self._since) * 1000), detail)
        self._since = now
        self.steps.append(step)
        self.tell(step)


async def look(opener: Opener, relay: Relay, fault: Fault) -> Look | None:
    """Connect once more, trusting anything and signing in nowhere, to see what stands at that port instead."""
    if fault.trouble not in LOOKS or fault.phase in (Phase.RESOLVE, Phase.CONNECT):
        return None
    careless = replace(relay, login=None, tls=replace(relay.tls, verify=False, client_certificate=None))
    for security in _worth_trying(relay.security, fault.trouble):
        opened = await replace(opener, timeouts=GLANCE).open(replace(careless, security=security))
        if isinstance(opened, Engine):
            seen = Look(security, opened.capabilities.starttls, opened.certificate)
            await opened.quit()
            return seen
    return None


def _worth_trying(security: Security, trouble: Trouble) -> tuple[Security, ...]:
    if trouble is Trouble.TLS_UNVERIFIED:
        return (security,)
    return (Security.NONE,) if security is Security.IMPLICIT_TLS else (Security.IMPLICIT_TLS,)
